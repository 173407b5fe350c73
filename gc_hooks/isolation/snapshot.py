"""Copy what some objects contain, and put it back to the bit: arrays, containers, attributes and random generators."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import eq, is_
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.isolation.object_graph import (
    ATTRIBUTE,
    KEY,
    PLAIN,
    VARIABLE,
    ClassVariables,
    Node,
    Variables,
    Way,
    all_ways,
    is_open,
    read_slots,
    slots,
    walk,
)
from gc_hooks.isolation.rng import GLOBAL_GENERATORS, is_generator, once_per_class, random_state, set_random_state

MISSING = object()


@contextmanager
def preserve(*objects: object) -> Iterator[None]:
    """Put back, to the bit, whatever changes in some objects, and in all that can be reached from them.

    Parameters
    ----------
    *objects : any
        Models, layers, lists of them, caches, generators, bound methods. The table of `gc_hooks.isolation` says what is
        put back, also after an exception or Ctrl-C. NumPy's and Python's global random states are in any case.

    Notes
    -----
    It costs a copy of every array and container that is reached: hand in the model and not the data set.

    Examples
    --------
    >>> class Recurrent:
    ...     def __init__(self):
    ...         self.h, self.seen, self.rng = np.zeros(2), [], np.random.default_rng(0)
    ...
    ...     def forward(self, x):
    ...         self.h = np.tanh(x + self.h + self.rng.normal(size=2))
    ...         self.seen.append(x)
    ...         return float(self.h.sum())
    >>> net = Recurrent()
    >>> with preserve(net):
    ...     inside = net.forward(1.0)
    >>> net.h, net.seen
    (array([0., 0.]), [])
    >>> net.forward(1.0) == inside
    True
    """
    snapshot = Snapshot(*objects)
    try:
        yield
    finally:
        snapshot.put_back()


class Aspect(NamedTuple):
    """One way in which an object can change: how to copy it, to put a copy back, and to compare two copies."""

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    same: Callable[[Any, Any], bool] = eq
    step: str = ""  # how a name goes on to one key or attribute, where each of them is compared and put back alone


class Saved(NamedTuple):
    """One aspect of one object, with a copy of what it was."""

    node: Node
    aspect: Aspect
    copy: Any


Place = tuple[Node, Aspect]


class Change(NamedTuple):
    """Something that is not as it was."""

    name: str  # the way to it, such as "net.cache['z1']"
    target: Any  # what stands there now, or what stood there if it is gone
    saved: Saved
    key: Any = None  # the key or attribute that changed, where the aspect has a step


class Snapshot:
    """A copy of what some objects, all that can be reached from them, and the global random states contain now.

    Further objects go by the names of their nodes. Arrays of more than ``largest`` bytes are left out.
    """

    def __init__(self, *objects: object, named: Iterable[Node] = (), largest: float = math.inf) -> None:
        self.iterators: list[str] = []  # names of those that were met: they cannot be put back
        self._saved: list[Saved] = []
        roots = [Node(generator, key=name) for name, generator in GLOBAL_GENERATORS.items()]
        for node in walk([*roots, *named, *map(Node, objects)], _ways):
            aspects = _aspects(type(node.thing))
            if isinstance(node.thing, np.ndarray) and node.thing.nbytes > largest:
                continue
            if not aspects and isinstance(node.thing, Iterator):
                self.iterators.append(node.name)
            for aspect in aspects:
                self._saved.append(Saved(node, aspect, aspect.read(node.thing)))

    @property
    def places(self) -> list[Place]:
        """Return where the copies were taken."""
        return [(saved.node, saved.aspect) for saved in self._saved]

    @classmethod
    def at(cls, places: Iterable[Place]) -> Snapshot:
        """Return a snapshot of what certain places contain now, without the walk that found them."""
        snapshot = cls.__new__(cls)
        snapshot.iterators = []
        snapshot._saved = [Saved(node, aspect, aspect.read(node.thing)) for node, aspect in places]
        return snapshot

    def put_back(self) -> None:
        """Put everything back."""
        for node, aspect, copy in self._saved:
            aspect.write(node.thing, copy)

    def changes(self) -> list[Change]:
        """Return what is not as it was: attributes, items, contents of arrays, states of generators."""
        changes = []
        for saved in self._saved:
            node, aspect, before = saved
            now = aspect.read(node.thing)
            if aspect.step:
                for key in {**before, **now}:
                    old, new = before.get(key, MISSING), now.get(key, MISSING)
                    if not _is_alike(old, new):
                        target = old if new is MISSING else new
                        name = aspect.step.format(key)
                        if aspect.step != VARIABLE:  # which begins a new name
                            name = node.name + name
                        changes.append(Change(name, target, saved, key))
            elif not aspect.same(before, now):
                changes.append(Change(node.name, node.thing, saved))
        return changes


def undo(*changes: Change) -> None:
    """Put some changes back, and nothing else."""
    for change in changes:
        node, aspect, copy = change.saved
        if change.key is not None:
            before, copy = copy, aspect.read(node.thing)
            copy.pop(change.key, None)
            if change.key in before:
                copy[change.key] = before[change.key]
        aspect.write(node.thing, copy)


@once_per_class
def _ways(kind: type) -> tuple[Way, ...] | None:
    # Not into functions: what their variables refer to may be a data set, and nobody has handed it in.
    return None if issubclass(kind, FunctionType) else all_ways(kind)


def _is_alike(before: object, now: object, depth: int = 4) -> bool:
    """Return whether it makes no difference that one stands where the other stood."""
    if before is now:
        return True
    if isinstance(before, np.ndarray) and isinstance(now, np.ndarray):
        return _is_same_array(before, now)
    if depth and type(before) is type(now) and isinstance(before, (list, tuple, dict)):  # a cache that is made anew
        assert isinstance(now, (list, tuple, dict))
        pairs = zip(before, now, strict=False)
        if isinstance(before, dict) and isinstance(now, dict):
            pairs = zip([*before, *before.values()], [*now, *now.values()], strict=False)
        return len(before) == len(now) and all(_is_alike(old, new, depth - 1) for old, new in pairs)
    # NaN is not equal to itself.
    return type(before) is type(now) and isinstance(before, PLAIN) and bool(before == now or before != before)


def _is_same_array(before: Array, now: Array) -> bool:
    if before.shape != now.shape or before.dtype != now.dtype:
        return False
    if before.dtype.hasobject:
        return all(map(_is_alike, before.flat, now.flat))
    return before.tobytes() == now.tobytes()


def _is_same_state(before: object, now: Any) -> bool:
    """Compare two states of a generator: tuples, arrays, tensors, or dictionaries of them."""
    if isinstance(before, dict):
        return all(_is_same_state(before[key], now[key]) for key in before)
    return bool(np.asarray(before == now).all())


def _write_array(target: Array, copy: Array) -> None:
    if target.flags.writeable and target.shape == copy.shape:
        np.copyto(target.view(np.ndarray), copy)


def _write_container(target: Any, copy: Any) -> None:
    """Empty a container and fill it again, with its keys in the old order."""
    same = len(target) == len(copy)
    if isinstance(target, set):
        same = target == copy
    elif isinstance(target, dict):
        same = same and list(target) == list(copy) and all(map(is_, target.values(), copy.values()))
    else:
        same = same and all(map(is_, target, copy))
    if not same:  # another thread that looks at what has not changed never sees it empty
        target.clear()
        fill = target.update if isinstance(target, (dict, set)) else target.extend
        fill(copy)


def _write_slots(target: object, copy: dict[str, Any]) -> None:
    filled = read_slots(target)
    for name, slot in slots(type(target)).items():
        if name in copy:
            slot.__set__(target, copy[name])
        elif name in filled:
            slot.__delete__(target)


RANDOM = Aspect(random_state, set_random_state, _is_same_state)
ATTRIBUTES = Aspect(
    lambda target: dict(vars(target)), lambda target, copy: _write_container(vars(target), copy), step=ATTRIBUTE
)
SLOTS = Aspect(read_slots, _write_slots, step=ATTRIBUTE)
CONTENTS = (
    (Variables, Aspect(Variables.read, Variables.write, step=VARIABLE)),
    (ClassVariables, Aspect(ClassVariables.read, ClassVariables.write, step=ATTRIBUTE)),
    (np.ndarray, Aspect(lambda array: np.array(array.view(np.ndarray)), _write_array, _is_same_array)),
    (dict, Aspect(dict, _write_container, step=KEY)),
    (
        (list, deque),
        Aspect(list, _write_container, lambda old, new: len(old) == len(new) and all(map(_is_alike, old, new))),
    ),
    (set, Aspect(set, _write_container)),
    (bytearray, Aspect(bytes, lambda target, copy: target.__setitem__(slice(None), copy))),
)


@once_per_class
def _aspects(kind: type) -> tuple[Aspect, ...]:
    """Return the ways in which objects of a class can change."""
    if is_generator(kind):
        return (RANDOM,)
    aspects = [aspect for kinds, aspect in CONTENTS if issubclass(kind, kinds)]
    if is_open(kind) and kind.__dictoffset__:
        aspects.append(ATTRIBUTES)
    if is_open(kind) and slots(kind):
        aspects.append(SLOTS)
    return tuple(aspects)
