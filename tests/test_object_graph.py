"""Every random generator that a function can reach is put back, wherever it stands."""

from __future__ import annotations

import collections
import contextvars
import functools
import itertools
import random
import sys
import threading
import time
import weakref
from types import MappingProxyType, ModuleType, SimpleNamespace

import numpy as np
import pytest

from gc_hooks import GradCheckHook, adapters, check_gradients
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.object_graph import Node, all_ways, references
from gc_hooks.isolation.object_graph import walk as walk_objects
from gc_hooks.isolation.reach import MOST
from gc_hooks.isolation.snapshot import preserve

HERE = np.random.default_rng(1)


def named_global():
    return HERE.random()


class Model:
    shared = np.random.default_rng(2)

    def __init__(self, rng=None, parts=()):
        self.rng, self.parts = rng, parts

    def own(self):
        return self.rng.random()

    def of_module(self):
        return HERE.random()

    def of_class(self):
        return type(self).shared.random()

    @property
    def drawn(self):
        return HERE.random()

    @staticmethod
    def without_self():
        return HERE.random()

    def __call__(self):
        return self.rng.random()


class Slotted:
    __slots__ = ("__weakref__", "rng", "unset")

    def __init__(self, rng):
        self.rng = rng


class Hidden:
    __slots__ = ("__rng",)

    def __init__(self, rng):
        self.__rng = rng

    def __call__(self):
        return self.__rng.random()


class Late:
    @functools.cached_property
    def drawn(self):
        return HERE.random()


class Heir(Model):
    """Whose generator stands in the class that it inherits from."""


class Table(dict):
    """A dictionary with attributes of its own."""


class Layers(list):
    """A list with attributes of its own."""


def with_rng(thing, rng):
    thing.rng = rng
    return thing


def array_of(*things):
    array = np.empty(len(things), dtype=object)
    array[:] = things
    return array


def fresh():
    return np.random.default_rng(3)


def in_closure():
    rng = fresh()
    return lambda: rng.random()


def in_closure_of_one_argument():
    rng = fresh()
    return lambda x: x + rng.random()


def in_array():
    array = array_of(None, Model(fresh()))
    return lambda: array[1].own()


def of_old_kinds():
    old, python = np.random.RandomState(1), random.Random(1)
    return lambda: (old.normal(), python.gauss(0, 1))


def in_module():
    module = ModuleType("mine")
    exec("import numpy as np\nrng = np.random.default_rng(4)\ndef draw():\n    return rng.random()", vars(module))
    return eval("lambda: mine.draw()", {"mine": module, "__name__": "mine"})


def behind(make):
    thing = make(fresh())
    return lambda: thing and next(walk(thing)).random()


def walk(thing):
    """The generators in a thing, found in another way than the package's."""
    if isinstance(thing, np.random.Generator):
        yield thing
        return
    for inner in thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else ():
        yield from walk(inner)
    for name in ("rng", "parts"):
        if getattr(thing, name, None) is not None:
            yield from walk(getattr(thing, name))


OTHER, NET = fresh(), Model()


class Meta(type):
    rng = np.random.default_rng(5)


class OfMeta(metaclass=Meta):
    pass


def function_with(rng):
    def draw():
        return draw.rng.random()

    draw.rng = rng
    return draw


def by_import(name, text):
    module = ModuleType(name)
    module.__package__, module.rng = name.partition(".")[0], fresh()
    sys.modules[name] = module
    return eval(text, {"__name__": name, "__package__": module.__package__})


def one_kind(rng):
    @functools.singledispatch
    def draw(thing):
        return rng.random()

    return lambda: draw(1)


def cached_once(rng):
    cached = functools.lru_cache(None)(lambda: rng)
    return lambda: cached().random()


def in_context(rng):
    variable = contextvars.ContextVar("rng")
    variable.set(rng)
    return lambda: variable.get().random()


def in_thread(rng):
    local = threading.local()
    local.rng = rng
    return lambda: local.rng.random()


def weakly(model):
    reference = weakref.ref(model)
    HELD_ALIVE.append(model)
    return lambda: reference().own()


def spawned(rng):
    return lambda: rng.spawn(1)[0].random()


def of_seeds(seeds):
    return lambda: np.random.default_rng(seeds.spawn(1)[0]).random()


def module_of(rng):
    module = ModuleType("mine")
    module.other = SimpleNamespace(rng=rng)
    return module


def in_module_of_its_own(module):
    return lambda: module.other.rng.random()


def one_by_one(rng):
    numbers = itertools.cycle([rng])
    return lambda: next(numbers).random()


HELD_ALIVE = []
FUNCTIONS = {
    "closure": in_closure(),
    "global": named_global,
    "default": lambda rng=OTHER: rng.random(),
    "default by keyword": lambda *, rng=OTHER: rng.random(),
    "bound method": Model(fresh()).own,
    "builtin bound method": fresh().random,
    "callable object": Model(fresh()),
    "global of a method": Model().of_module,
    "global of a property": lambda: NET.drawn,
    "global of a static method": lambda: NET.without_self(),
    "class attribute": Model().of_class,
    "partial": functools.partial(lambda rng: rng.random(), fresh()),
    "function inside": lambda: (lambda: HERE.random())(),
    "wrapped": functools.wraps(named_global)(lambda: named_global()),
    "module": in_module(),
    "old kinds": of_old_kinds(),
    "list of objects": behind(lambda rng: [1.0, Model(parts=[Model(), Model(rng)])]),
    "dictionary": behind(lambda rng: {"{a}": {"rng": (rng,)}}),
    "set": behind(lambda rng: {rng}),
    "slots": behind(Slotted),
    "namespace": behind(lambda rng: SimpleNamespace(rng=rng)),
    "circle": behind(lambda rng: [parts := [rng], parts.append(parts)][:1]),
    "long history beside it": behind(lambda rng: Model(rng, [0.5] * 100_000)),
    "private slot": Hidden(fresh()),
    "attribute of a dictionary": behind(lambda rng: with_rng(Table(a=1), rng)),
    "attribute of a list": behind(lambda rng: with_rng(Layers([1]), rng)),
    "array of objects": in_array(),
    "class that is inherited from": lambda: Heir.shared.random(),
    "cached property": lambda: Late().drawn,
    "vectorized function": functools.partial(np.vectorize(in_closure_of_one_argument()), [0.0]),
    "user dict": behind(lambda rng: [collections.UserDict(rng=rng).data]),
    "user dict as it is": (lambda held: lambda: held["r"].random())(collections.UserDict(r=fresh())),
    "chain map": (lambda held: lambda: held["r"].random())(collections.ChainMap({}, {"r": fresh()})),
    "proxy": (lambda held: lambda: held["r"].random())(MappingProxyType({"r": fresh()})),
    "key": (lambda held: lambda: next(iter(held)).random())({fresh(): 1}),
    "metaclass": lambda: OfMeta.rng.random(),
    "attribute of a function": function_with(fresh()),
    "import": by_import("mine_a", "lambda: __import__('mine_a').rng.random()"),
    "one kind": one_kind(fresh()),
    "cache": cached_once(fresh()),
    "context": in_context(fresh()),
    "thread": in_thread(fresh()),
    "weak reference": weakly(Model(fresh())),
    "spawn": spawned(fresh()),
    "seeds": of_seeds(np.random.SeedSequence(3)),
    "module of its own": in_module_of_its_own(module_of(fresh())),
    "module in an object": (lambda held: lambda: held.m.other.rng.random())(SimpleNamespace(m=module_of(fresh()))),
    "iterator": one_by_one(fresh()),
    "adapter": adapters.parallel([np.ones(1)], [np.ones(1)], loss=in_closure())[
        "loss"
    ].call,  # alone: the rest puts it back
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_generator_is_put_back_wherever_it_stands(function):
    """What it draws next is what it would have drawn; without the keeping it is not."""
    with find_generators(function).preserve() as notes:
        first = [function() for _ in range(3)]
    assert [function() for _ in range(3)] == first
    assert function() != first[0]
    assert notes == []


def test_a_generator_that_was_replaced_stands_where_it_stood():
    """A loss that begins with a new generator each time repeats itself; the training goes on with the old one."""
    model, held = Model(fresh()), {"rng": fresh()}

    def loss():
        model.rng = held["rng"] = fresh()
        return model.rng.random()

    before = model.rng, held["rng"]
    with find_generators(loss).preserve():
        loss()
        assert model.rng is not before[0]
    assert (model.rng, held["rng"]) == before


def test_a_generator_stands_again_in_a_list_a_slot_and_a_variable():
    """Also where it was not in a dictionary."""
    listed, slotted, variable = [fresh()], Slotted(fresh()), fresh()
    before = listed[0], slotted.rng, variable

    def loss():
        nonlocal variable
        listed[0], slotted.rng, variable = fresh(), fresh(), fresh()

    with find_generators(loss).preserve():
        loss()
    assert (listed[0], slotted.rng, variable) == before


def test_a_cache_that_was_empty_is_empty_again():
    """The generator that the check was the first to make is made anew by the training."""
    the_rng = functools.lru_cache(None)(fresh)
    with find_generators(lambda: the_rng().random()).preserve():
        drawn = the_rng().random()
    assert the_rng().random() == drawn


def test_a_generator_that_the_check_has_made_is_told():
    """It cannot be put back, because it was nowhere before; one that was there is not told."""

    class Late:
        rng = None

        def draw(self):
            self.rng = self.rng or fresh()
            return self.rng.random()

    for late, told in ((Late(), 1), (Model(fresh()), 0)):
        draw = late.draw if told else late.own
        report = check_gradients(lambda w, draw=draw: np.sum(w**2) + 0 * draw(), np.ones(2), 2 * np.ones(2))
        assert sum("was the first to use the random generator" in note for note in report.notes) == told


class Counts(list):
    """Counts the epochs."""

    asked = 0

    def __iter__(self):
        Counts.asked += 1
        return list.__iter__(self)

    def __len__(self):
        Counts.asked += 1
        return list.__len__(self)


class Loads(dict):
    """Loads what it is asked for."""

    def items(self):
        Counts.asked += 1
        return dict.items(self)

    keys = values = __iter__ = __getitem__ = items


class LoadsInOrder(collections.OrderedDict):
    items = keys = values = __iter__ = __setitem__ = clear = update = Loads.items


@pytest.mark.parametrize("make", [lambda: Counts([[1]]), lambda: Loads(a=[1]), LoadsInOrder], ids=lambda m: type(m()))
def test_the_user_s_containers_are_not_asked(make):
    """What is stored is looked at and put back without a call of their methods."""
    held, inner = make(), [1]
    base = next(base for base in (collections.OrderedDict, dict, list) if isinstance(held, base))
    if base is not list:
        base.__setitem__(held, "b", inner)
    Counts.asked, size = 0, base.__len__(held)
    with find_generators(lambda: held).preserve(), preserve(held):
        list.append(held, 2) if base is list else base.__setitem__(held, "c", 2)
    hook = GradCheckHook(schedule=lambda call: True, reporters=[])
    for step in range(2):
        hook.on_step(step, loss=lambda w: (held, np.sum(w * w))[1], params=np.ones(2), grads=2 * np.ones(2))
    assert Counts.asked == 0
    assert base.__len__(held) == size


@pytest.mark.parametrize("make", [lambda n: [0.5] * n, lambda n: dict.fromkeys(range(n), 0.5)])
def test_of_a_huge_container_only_a_part_is_visited(make):
    """A search costs the same for a thousand numbers and for a million."""
    held = make(1_000_000)
    began = time.process_time()
    for _ in range(20):
        find_generators(lambda: held)
    assert time.process_time() - began < 0.2  # all of a million numbers, once, would take 0.02 to 0.5


class Mute(random.Random):
    def getstate(self):
        raise NotImplementedError


def test_what_cannot_be_put_back_is_told():
    """A generator without a state, and more objects than are looked at; the check is made all the same."""
    mute, many = Mute(1), [[Model()] for _ in range(900)]
    crowd = {number: [[[Model()]] for _ in range(20)] for number in range(MOST // 20)}
    with find_generators(lambda: (mute, many)).preserve() as notes:
        assert [note.partition(" does not")[0] for note in notes] == ["The random generator mute (Mute)"]
    with find_generators(lambda: crowd).preserve() as notes:
        assert "More than 5,000 objects" in notes[0]
    report = check_gradients(lambda w: np.sum(w**2) + 0 * mute.random(), np.ones(2), 2 * np.ones(2))
    assert report.ok
    assert "mute (Mute) does not give its state" in report.notes[-1]


class Shy:
    __slots__ = ("rng",)

    def __getattr__(self, name):
        raise RuntimeError("planted")


def test_objects_that_do_not_want_to_be_looked_at_are_let_be():
    """What raises when it is asked for attributes, and a cell that is empty still, end nothing."""
    shy, rng = Shy(), fresh()

    def loss():
        return shy, rng.random(), later

    with find_generators(loss, np.sum, None).preserve() as notes:
        first = rng.random()
    assert rng.random() == first
    assert notes == []
    later = 1


class Dense:
    def __init__(self):
        self.params, self.grads = {"W": np.ones(1)}, {"W": np.ones(1)}
        self.rng = fresh()


class PrivatelySlotted:
    __slots__ = ("__layer",)

    def __init__(self, layer):
        self.__layer = layer


WHOLES = {
    "attribute": lambda layer: SimpleNamespace(layer=layer),
    "slot": Slotted,
    "private slot": PrivatelySlotted,
    "list": lambda layer: [layer],
    "tuple": lambda layer: (1, layer),
    "set": lambda layer: {layer},
    "deque": lambda layer: collections.deque([layer]),
    "dictionary": lambda layer: {"layer": layer},
    "array of objects": lambda layer: array_of(None, layer),
    "attribute of a list": lambda layer: with_rng(Layers([1]), layer),
    "attribute of a dictionary": lambda layer: with_rng(Table(), layer),
    "circle": lambda layer: [parts := [layer], parts.append(parts)][:1],
}


@pytest.mark.parametrize("make", WHOLES.values(), ids=WHOLES)
def test_what_one_visitor_sees_the_others_see(make):
    """A layer is found, copied and put back, and its generator is found, wherever the layer stands."""
    layer = Dense()
    thing = make(layer)
    assert [node.thing for node in find_generators(lambda: thing).nodes] == [layer.rng]
    with preserve(thing):
        layer.params["W"][:] = 2.0
        first = layer.rng.random()
    assert (layer.params["W"], layer.rng.random()) == (1.0, first)
    (name,) = adapters.layers(thing, loss=lambda: 0.0)["params"]
    assert name.endswith(".W")


def test_a_thing_goes_by_the_shortest_way_to_it():
    """As a user would write it; the object of a method has the name under which the method stands."""
    model = Model(parts=[{"a": Model()}, Slotted(np.ones(1))])
    model.draw = model.parts[0]["a"].own
    names = {id(node.thing): node.name for node in walk_objects([Node(model)], all_ways)}
    assert names[id(model.parts[1].rng)] == "Model.parts[1].rng"
    assert names[id(model.parts[0]["a"])] == "Model.draw"
    assert names[id(Model.shared)] == "Model.shared"
    (node,) = references(lambda: model)
    assert (node.name, node.keys) == ("model", ["model"])


def test_libraries_are_not_walked_through():
    """A function of NumPy's or of Python's leads to nothing, nor does the module that the code names."""
    assert references(lambda: (np.linalg.norm, itertools.chain, sys.modules, collections.Counter)) == []


class Net:
    """A linear model whose mask is drawn, also at rate 0: the loss is the same, and the generator goes on."""

    def __init__(self):
        self.rng = np.random.default_rng(9)
        self.w = self.rng.normal(size=3)

    def loss(self, x, y, rate):
        self.mask = (self.rng.random(x.shape) >= rate) / (1 - rate)
        self.rest = ((x * self.mask) @ self.w - y) / len(y)
        return 0.5 * len(y) * np.sum(self.rest**2)

    def gradient(self, x, y, rate):
        self.loss(x, y, rate)
        return (x * self.mask).T @ self.rest


def train(checked, keywords, steps=6):
    net, data = Net(), np.random.default_rng(0)
    x, y = data.normal(size=(8, 3)), data.normal(size=8)
    hook = GradCheckHook(after=3, every=2, reporters=[])
    for step in range(steps):
        grad = net.gradient(x, y, 0.3)
        if checked:
            hook.on_step(step, **keywords(net, x, y))
        net.w -= 0.1 * grad
    return net.w.tobytes(), net.rng.bit_generator.state, hook


@pytest.mark.parametrize(
    "keywords",
    [
        lambda net, x, y: {
            "loss": lambda: net.loss(x, y, 0.0),
            "params": net.w,
            "grads": lambda: net.gradient(x, y, 0.0),
            "in_place": True,
        },
        lambda net, x, y: {
            "loss": lambda: net.loss(x, y, 0.0),
            "params": net.w,
            "grads": lambda: net.gradient(x, y, 0.0),
            "in_place": True,
            "before_loss": net.rng.random,
        },
        lambda net, x, y: adapters.dicts(
            {"w": net.w}, lambda: {"w": net.gradient(x, y, 0.0)}, loss=lambda: net.loss(x, y, 0.0), in_place=True
        ),
    ],
    ids=["on_step", "before_loss", "adapter"],
)
def test_a_training_whose_loss_draws_goes_on_as_without_the_hook(keywords):
    """The masks of the steps after a check are those of a training without one, to the bit."""
    weights, state, hook = train(True, keywords)
    assert (weights, state) == train(False, keywords)[:2]
    assert hook.reports
    assert all(report.ok for report in hook.reports)


def test_a_single_check_puts_back_what_it_draws_from():
    """Also the global generators, and where the check ends with an error."""
    net, x, y = Net(), np.ones((2, 3)), np.ones(2)
    grad = net.gradient(x, y, 0.0)
    before = net.rng.bit_generator.state, np.random.get_state()[2], random.getstate()

    def loss():
        return net.loss(x, y, 0.0) + 0 * (np.random.random() + random.random())

    def breaks():
        raise ZeroDivisionError(loss())

    assert check_gradients(loss, net.w, grad, in_place=True).ok
    with pytest.raises(ZeroDivisionError):
        check_gradients(loss, net.w, breaks, in_place=True)
    assert (net.rng.bit_generator.state, np.random.get_state()[2], random.getstate()) == before


def test_a_generator_of_torch_is_put_back():
    """It has a state of its own kind."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    with find_generators(lambda: generator).preserve():
        first = torch.rand(1, generator=generator).item()
    assert torch.rand(1, generator=generator).item() == first
