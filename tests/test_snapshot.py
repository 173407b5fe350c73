"""What an evaluation touches is put back to the bit; and a loss that does not repeat itself is told why."""

from __future__ import annotations

import itertools
import random
import threading
from argparse import Namespace
from collections import ChainMap, OrderedDict, UserDict, defaultdict, deque
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import NondeterministicLoss, check_gradients
from gc_hooks.isolation.snapshot import Snapshot, preserve
from gc_hooks.isolation.undoing import run_all


class Model:
    """Holds whatever it is given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("__dict__", "__weakref__", "filled", "gone")


class Held(list):
    """A list with an attribute of its own."""


def changed(target):
    """What a second look finds changed, by name."""
    return {change.name for change in target.changes()}


def after(thing, touch):
    """Touch something inside ``preserve``, and be sure that it was touched."""
    seen = Snapshot(thing)
    with preserve(thing):
        touch(thing)
        assert seen.changes()
    assert not seen.changes()
    return thing


# arrays


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8, bool, complex, "U3", [("x", float), ("y", int)]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_restored_in_place(dtype, order):
    """Whatever they hold and however it lies in memory, the same array holds the same bits again."""
    array = np.zeros((3, 2), dtype=dtype, order=order)
    before = array.tobytes()

    def touch(a):
        a.view(np.ndarray)[1:] = np.ones(1, np.uint8).astype(dtype) if not a.dtype.names else (1.0, 1)

    after(array, touch)
    assert array.tobytes() == before


def test_the_payload_of_nan_and_the_sign_of_zero_are_bits_too():
    """Restored is what was there, not what is equal to it."""
    array = np.array([-0.0, np.nan, np.inf])
    array.view(np.uint64)[1] |= np.uint64(0xBEEF)
    before = array.tobytes()
    after(array, lambda a: a.fill(0.0))
    assert array.tobytes() == before


def test_views_and_transposes_are_restored_with_what_they_share():
    """Two names for the same memory are one memory."""
    base = np.arange(12.0).reshape(3, 4)
    model = Model(base=base, transposed=base.T, rows=base[::2], column=base[:, 1])
    after(model, lambda m: m.rows.fill(-1.0))
    assert np.array_equal(base, np.arange(12.0).reshape(3, 4))
    assert np.shares_memory(model.transposed, base)


def test_an_array_that_is_rebound_is_the_old_one_again():
    """Who holds the array elsewhere goes on holding the one of the model."""
    weights = np.ones(3)
    model = Model(W=weights)

    def update(m):
        m.W += 1
        m.W = m.W - 0.5

    after(model, update)
    assert model.W is weights
    assert np.array_equal(weights, np.ones(3))


def test_an_array_that_cannot_be_written_is_left_alone():
    """A read-only array that has been touched through its base comes back with its base."""
    base = np.ones(3)
    window = base[1:]
    window.flags.writeable = False
    after([window, base], lambda pair: pair[1].fill(2.0))
    assert np.array_equal(window, np.ones(2))


def test_arrays_of_objects_are_followed():
    """What stands in them, and what that holds."""
    inner = np.zeros(2)
    array = np.array([None, inner], dtype=object)
    array[0] = [1]

    def touch(a):
        inner.fill(1.0)
        a[0].append(2)
        a[1] = None

    after(array, touch)
    assert array[1] is inner
    assert array[0] == [1]
    assert np.array_equal(inner, np.zeros(2))


# containers and attributes


@pytest.mark.parametrize(
    ("container", "touch"),
    [
        ([1, [2]], lambda c: (c.append(3), c[1].clear())),
        ([1, 2], lambda c: c.reverse()),
        ({"a": 1, "b": {"c": 2}}, lambda c: (c.pop("a"), c["b"].update(d=3))),
        (OrderedDict(a=1, b=2), lambda c: c.move_to_end("a") or c.pop("b")),
        (defaultdict(list, a=[1]), lambda c: c["new"].append(c["a"].pop())),
        ({1, 2}, lambda c: c.add(3)),
        (deque([1, 2], maxlen=2), lambda c: c.append(3)),
        (bytearray(b"abc"), lambda c: c.extend(b"d")),
        (([1],), lambda c: c[0].append(2)),
        (SimpleNamespace(a=[1]), lambda c: c.a.append(2)),
        (Held([1]), lambda c: (c.append(2), setattr(c, "note", 1))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_are_restored_in_place(container, touch):
    """Every kind of container, and those inside it."""
    before = repr(container)
    after(container, touch)
    assert repr(container) == before


def test_attributes_that_come_go_or_change_are_restored():
    """Running statistics, caches and counters, in the order in which they stood."""
    model = Model(running_mean=np.zeros(2), cache=None, steps=3)

    def forward(m):
        del m.cache
        m.running_mean = 0.9 * m.running_mean + 1.0
        m.steps += 1
        m.hidden = np.ones(2)

    after(model, forward)
    assert list(vars(model)) == ["running_mean", "cache", "steps"]
    assert model.steps == 3


def test_slots_are_attributes_too():
    """Those that were filled are filled as before, those that were empty are empty."""
    slotted = Slotted()
    slotted.filled, slotted.extra = [1], 2

    def touch(s):
        s.filled = None
        s.gone = 3
        del s.extra

    after(slotted, touch)
    assert slotted.filled == [1]
    assert slotted.extra == 2
    assert not hasattr(slotted, "gone")


def test_cycles_and_shared_references_are_met_once():
    """A model that refers to itself, and two layers that share an array, stay what they are."""
    shared = np.zeros(2)
    model = Model(first=Model(W=shared), second=Model(W=shared))
    model.first.owner = model

    def touch(m):
        m.first.owner.second.W[:] = 5.0
        m.second = m.first

    after(model, touch)
    assert model.first.W is model.second.W is shared
    assert np.array_equal(shared, np.zeros(2))


def test_a_deep_chain_is_followed_to_its_end():
    """Nested blocks may be thousands deep: no recursion."""
    chain = innermost = []
    for _ in range(5000):
        chain = [chain]
    after(chain, lambda c: innermost.append(1))


# random generators


@pytest.mark.parametrize(
    ("generator", "draw"),
    [
        (np.random.default_rng(0), lambda g: g.normal()),
        (np.random.Generator(np.random.MT19937(3)), lambda g: g.normal()),
        (np.random.PCG64(3), lambda g: float(g.random_raw())),
        (np.random.RandomState(0), lambda g: g.randn()),
        (random.Random(0), lambda g: g.gauss(0, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_generators_are_put_back(generator, draw):
    """Inside an object, and behind a bound method; a half-used pair of normal numbers included."""
    draw(generator)
    model = Model(rng=generator)
    with preserve(model):
        expected = [draw(generator) for _ in range(3)]
    assert [draw(generator) for _ in range(3)] == expected


def test_the_global_random_states_are_put_back():
    """NumPy's and Python's, whatever is handed in."""
    with preserve():
        expected = np.random.rand(), random.random()
    assert (np.random.rand(), random.random()) == expected


def test_what_a_bound_method_belongs_to_is_preserved():
    """A loss that is a method brings its model along."""
    model = Model(seen=[])
    with preserve(model.seen.append):
        model.seen.append(1)
    assert model.seen == []


# always


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_restores_after_exceptions_and_interrupts(error):
    """Whatever ends the evaluation passes through, and everything is where it was."""
    model = Model(W=np.ones(2), seen=[])

    def forward(w):
        model.W[:] = 0.0
        model.seen.append(w)
        raise error

    with pytest.raises(error), preserve(model):
        forward(1)
    assert model.seen == []
    assert np.array_equal(model.W, np.ones(2))


def test_what_nobody_changed_is_not_written():
    """A dictionary that others look at meanwhile is at no time seen empty."""

    class Watched(dict):
        def clear(self):
            raise AssertionError

    with preserve(Model(table=Watched(a=1), items=[1], names={1})):
        pass


class Shared:
    """With state that all its objects share, as a default in the class is."""

    cache, W, rng = {}, np.ones(2), np.random.default_rng(4)

    def forward(self):
        self.cache["h"] = self.W.sum()
        self.W += 1
        return self.rng.random()


def test_what_stands_in_a_class_is_put_back():
    """Its contents, as far as the class is the user's; which object stands there is not."""
    net = Shared()
    with preserve(net):
        drawn = net.forward()
    assert (Shared.cache, Shared.W.tolist(), Shared.rng.random()) == ({}, [1.0, 1.0], drawn)


def test_a_generator_of_torch_is_put_back():
    """It is a generator as NumPy's are; everything else of torch's is left alone."""
    torch = pytest.importorskip("torch")
    model = Model(rng=torch.Generator().manual_seed(1), weight=torch.ones(1))
    seen = Snapshot(model)
    with preserve(model):
        first = torch.rand(1, generator=model.rng).item()
        model.weight += 1
        assert changed(seen) == {"Model.rng"}
    assert changed(seen) == set()
    assert torch.rand(1, generator=model.rng).item() == first
    assert model.weight.item() == 2


def test_an_object_that_raises_when_it_is_looked_into_is_let_be():
    """An empty slot is not asked for through __getattr__, and what stands beside it is put back."""

    class Shy:
        __slots__ = ("rng",)

        def __getattr__(self, name):
            raise RuntimeError("planted")

    model = Model(shy=Shy(), seen=[])
    after(model, lambda m: m.seen.append(1))


def test_what_has_threads_and_files_is_left_alone(tmp_path):
    """Objects of the standard library, of TensorBoard and of torch are not looked into."""
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        model = Model(file=file, counter=iter([1, 2]), kind=Model, module=np, W=np.ones(1))
        with preserve(model):
            next(model.counter)
        assert next(model.counter) == 2
        assert Snapshot(model).iterators == ["Model.file", "Model.counter"]


def test_a_change_is_told_by_its_name():
    """Attributes, items, contents and generators; what was only replaced by its equal is no change."""
    model = Model(W=np.ones(2), layers=[Model(h=1.0)], cache={}, rng=np.random.default_rng(0), same=np.ones(2), x=0.5)
    seen = Snapshot(model)
    model.W[:] = 2.0
    model.layers[0].h = 2.0
    model.cache["z"] = 1
    model.rng.random()
    model.same, model.x = np.ones(2), 1.0 / 2.0
    assert changed(seen) == {"Model.W", "Model.layers[0].h", "Model.cache['z']", "Model.rng"}
    seen.put_back()
    assert changed(seen) == set()


# why a loss gave two values


class Unsteady:
    """A model with every way not to repeat itself."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.h = np.zeros(3)
        self.running_var = 1.0
        self.training = False
        self.cache = None

    def dropout(self, w):
        self.cache = w * 1.0
        return np.sum(w * (self.rng.random(3) < 0.5) * self.rng.random())

    def hidden(self, w):
        self.cache = w * 2.0
        self.h = np.tanh(w + self.h)
        return self.h.sum()

    def in_place(self, w):
        self.h += w
        return self.h.sum()

    def batch_norm(self, w):
        self.running_var = 0.9 * self.running_var + 0.1 * np.var(w) + 0.01
        return np.sum(w) / self.running_var

    def flips(self, w):
        self.training = not self.training
        return np.sum(w) + self.training

    def several(self, w):
        self.first, self.second = [getattr(self, name, 0) + 1 for name in ("first", "second")]
        return self.first + self.second


NET = Unsteady()
BATCHES = iter(range(1000))


def globally(w):
    return np.sum(w) * np.random.rand()


def in_python(w):
    return np.sum(w) * random.random()


def a_batch(w):
    return np.sum(w) * next(BATCHES)


def through_a_global(w):
    return NET.dropout(w)


def augmented(w, rng=np.random.default_rng(1)):  # noqa: B008 - the mistake is the point
    return np.sum(w) + rng.normal()


def counting():
    total = 0.0

    def loss(w):
        nonlocal total
        total += 0.25
        return np.sum(w) + total

    return loss


def globally_counting(w):
    global COUNTED
    COUNTED += 1
    return np.sum(w) + COUNTED


def series(values):
    """A loss that goes on in a series that nobody can look into."""
    following = values.__next__
    return lambda w: np.sum(w) + following()


def switching():
    on = False

    def loss(w):
        nonlocal on
        on = not on
        return np.sum(w) + on

    return loss


class Callable:
    """A loss that is an object."""

    total = 0.0

    def __call__(self, w):
        self.total += 1.0
        return self.total


MASKS = np.random.default_rng(2)


class Masked:
    """Whose method draws from a generator of the module, or of the class."""

    shared = np.random.default_rng(3)

    def globally(self, w):
        return np.sum(w * MASKS.random(3))

    def by_class(self, w):
        return np.sum(w * type(self).shared.random(3))


MASKED, COUNTED = Masked(), 0


def in_a_list():
    rng = np.random.default_rng(5)
    layers = [lambda w: w * rng.random(3)]
    return lambda w: np.sum(layers[0](w))


def ending():
    left = [0.25, 0.5]
    return lambda w: np.sum(w) * left.pop()


def unfilled():
    def loss(w):
        return np.sum(w) * NET.rng.random() + (later if False else 0.0)

    if NET is None:
        later = 1.0
    return loss


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (ending(), "usually means dropout, a data augmentation"),
        (Callable(), r"changes Callable\.total, and"),
        (unfilled(), r"draws from NET\.rng"),
        (partial(Unsteady.dropout, NET), r"draws from Unsteady\.rng"),
        (MASKED.globally, r"draws from MASKS, and"),
        (lambda w: MASKED.globally(w), r"draws from MASKS, and"),
        (lambda w: MASKED.by_class(w), r"draws from Masked\.shared, and"),
        (in_a_list(), r"draws from rng, and"),
        (globally, "draws from NumPy's global random state.*dropout.*global seed.*default_rng"),
        (in_python, "draws from Python's global random state"),
        (Unsteady().dropout, r"draws from Unsteady\.rng, and repeats.*dropout or noise.*rate to zero"),
        (lambda w: NET.dropout(w), r"draws from NET\.rng"),
        (through_a_global, r"draws from NET\.rng"),
        (augmented, "draws from a default argument"),
        (Unsteady().hidden, r"changes Unsteady\.h, and the next.*hidden state that is carried.*before_loss="),
        (Unsteady().in_place, r"changes Unsteady\.h, and"),
        (Unsteady().batch_norm, r"updates Unsteady\.running_var, and.*running statistics of batch norm"),
        (Unsteady().flips, r"changes Unsteady\.training, and"),
        (Unsteady().several, r"changes Unsteady\.first and Unsteady\.second, and"),
        (a_batch, "refers to the iterator BATCHES.*next batch.*one batch before the check"),
        (counting(), r"changes total, and"),
        (switching(), r"changes on, and"),
        (globally_counting, r"changes COUNTED, and"),
        (series(itertools.count()), r"keeps drifting, to \S+ after 6 more calls.*accumulates"),
        (series(itertools.cycle([0, 1])), r"alternates between \S+ and \S+\. This usually means a flag"),
        (lambda w: random.SystemRandom().random(), "usually means dropout"),
    ],
)
def test_a_loss_that_does_not_repeat_itself_is_told_why(loss, said):
    """The two values, the cause by its name, and what to try; what only changes beside it is not blamed."""
    with pytest.raises(NondeterministicLoss, match=rf"gave \S+ and then \S+ for the same parameters.*{said}"):
        check_gradients(loss, np.array([1.0, 2.0, 3.0]), np.ones(3))


def test_looking_for_the_cause_leaves_no_trace():
    """The global random states are where they were, whatever was tried."""
    numpys, pythons = np.random.get_state()[1].tobytes(), random.getstate()
    with pytest.raises(NondeterministicLoss):
        check_gradients(globally, np.ones(3), np.ones(3))
    with pytest.raises(NondeterministicLoss):
        check_gradients(in_python, np.ones(3), np.ones(3))
    assert np.random.get_state()[1].tobytes() == numpys
    assert random.getstate() == pythons


# whatever comes in between


def test_what_comes_after_an_object_that_refuses_is_put_back():
    """Its error comes through at the end."""

    class Refuses(random.Random):
        def setstate(self, state):
            raise ValueError("planted")

    held = [{"a": 1}, Refuses(1), {"b": 2}]
    with pytest.raises(ValueError, match="planted"), preserve(held):
        held[0]["a"] = held[2]["b"] = 3
    assert [held[0], held[2]] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("interrupts", [0, 1, 3])
def test_ctrl_c_within_a_step_begins_it_again(interrupts):
    """Also a second one and a third; it comes through when all has been run."""
    done, left = [], [interrupts]

    def step(name):
        if name == "second" and left[0]:
            left[0] -= 1
            raise KeyboardInterrupt
        done.append(name)

    steps = [(step, name) for name in ("first", "second", "third")]
    with pytest.raises(KeyboardInterrupt) if interrupts else nullcontext():
        run_all(steps)
    assert done == ["first", "second", "third"]


@pytest.mark.parametrize("claimed", ["builtins", "json", "torch.nn", "mine"])
def test_a_class_may_claim_to_be_of_a_library(claimed):
    """As one that exec makes does: its objects are put back, those inside of it too."""
    namespace = {"__name__": claimed}
    exec("class Net:\n    cache = {}\n    def __init__(self):\n        self.h, self.inner = 0, []", namespace)
    net, inner = namespace["Net"](), namespace["Net"]()
    net.inner.append(inner)
    with preserve(net):
        net.h = inner.h = net.cache["x"] = 1
    assert (net.h, inner.h, net.cache) == (0, 0, {})


def test_what_stands_in_python_s_own_holders_is_put_back():
    """Of classes that do nothing but hold; a lock is let be."""
    held = [UserDict(a=[1]), ChainMap({"a": [1]}), Namespace(a=[1]), threading.Lock()]
    with preserve(held):
        held[0]["a"].append(2)
        held[1]["b"] = 2
        held[2].a = None
        held[3].acquire()
    assert (dict(held[0]), dict(held[1]), held[2].a, held[3].locked()) == ({"a": [1]}, {"a": [1]}, [1], True)
