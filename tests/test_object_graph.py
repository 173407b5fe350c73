"""Every random generator that a function can reach is put back, wherever it stands."""

from __future__ import annotations

import collections
import functools
import itertools
import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gc_hooks import GradCheckHook, adapters, check_gradients
from gc_hooks.isolation.object_graph import MOST, generators_kept, referred

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


def fresh():
    return np.random.default_rng(3)


def in_closure():
    rng = fresh()
    return lambda: rng.random()


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
    "adapter": adapters.parallel([np.ones(1)], [np.ones(1)], loss=in_closure())["loss"],
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_generator_is_put_back_wherever_it_stands(function):
    """What it draws next is what it would have drawn; without the keeping it is not."""
    with generators_kept(function) as notes:
        first = [function() for _ in range(3)]
    assert [function() for _ in range(3)] == first
    assert function() != first[0]
    assert notes == ()


def test_a_generator_that_was_replaced_stands_where_it_stood():
    """A loss that begins with a new generator each time repeats itself; the training goes on with the old one."""
    model, held = Model(fresh()), {"rng": fresh()}

    def loss():
        model.rng = held["rng"] = fresh()
        return model.rng.random()

    before = model.rng, held["rng"]
    with generators_kept(loss):
        loss()
        assert model.rng is not before[0]
    assert (model.rng, held["rng"]) == before


class Mute(random.Random):
    def getstate(self):
        raise NotImplementedError


def test_what_cannot_be_put_back_is_told():
    """A generator without a state, and more objects than are looked at; the check is made all the same."""
    mute, many = Mute(1), [[Model()] for _ in range(900)]
    crowd = {number: [[[Model()]] for _ in range(20)] for number in range(MOST // 20)}
    with generators_kept(lambda: (mute, many)) as notes:
        assert [note.partition(" does not")[0] for note in notes] == ["The random generator mute (Mute)"]
    with generators_kept(lambda: crowd) as notes:
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

    with generators_kept(loss, np.sum, None) as notes:
        first = rng.random()
    assert rng.random() == first
    assert notes == ()
    later = 1


def test_libraries_are_not_walked_through():
    """A function of NumPy's or of Python's leads to nothing, nor does the module that the code names."""
    assert list(referred(lambda: (np.linalg.norm, itertools.chain, sys.modules, collections.Counter))) == []


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
    with generators_kept(lambda: generator):
        first = torch.rand(1, generator=generator).item()
    assert torch.rand(1, generator=generator).item() == first
