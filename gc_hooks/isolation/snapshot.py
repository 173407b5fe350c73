"""Copy what some objects contain, and put it back to the bit: arrays, containers, attributes and random generators."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
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
    of_object,
    own_container,
    plain_view,
    read_slots,
    slots,
    walk,
)
from gc_hooks.isolation.rng import global_generators, is_generator, once_per_class, random_state, set_random_state
from gc_hooks.isolation.undoing import run_all, undone_by

MISSING = object()


def preserve(*objects: object) -> AbstractContextManager[None]:
    """Put back, to the bit, whatever changes in some objects, and in all that can be reached from them.

    Parameters
    ----------
    *objects : any
        Models, layers, lists of them, caches, generators, bound methods. The table of `gc_hooks.isolation` says what is
        put back, also after an exception or Ctrl-C. The global random states are in any case.

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
    return undone_by(Snapshot(*objects).put_back)


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

    Further objects go by the names of their nodes. ``opened`` are classes of libraries whose attributes are looked at.
    Arrays of more than ``largest`` bytes are left out.
    """

    def __init__(
        self,
        *objects: object,
        named: Iterable[Node] = (),
        opened: tuple[type, ...] = (),
        largest: float = math.inf,
    ) -> None:
        self.iterators: list[str] = []  # names of those that were met: they cannot be put back
        self.nodes: list[Node] = []
        self._saved: list[Saved] = []
        roots = [Node(generator, key=name) for name, generator in global_generators().items()]
        for node in walk([*roots, *named, *map(Node, objects)], partial(_ways, opened)):
            self.nodes.append(node)
            aspects = _aspects(type(node.thing), opened)
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
        snapshot.iterators, snapshot.nodes = [], []
        snapshot._saved = [Saved(node, aspect, aspect.read(node.thing)) for node, aspect in places]
        return snapshot

    def put_back(self) -> None:
        """Put everything back: also what comes after an object that refuses, or after a Ctrl-C."""
        # In reverse, because the global generators, which come first, take longest.
        run_all((aspect.write, node.thing, copy) for node, aspect, copy in reversed(self._saved))

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
def _ways(opened: tuple[type, ...], kind: type) -> tuple[Way, ...] | None:
    # Not into functions: what their variables refer to may be a data set, and nobody has handed it in.
    if issubclass(kind, FunctionType):
        return None
    return (of_object,) if issubclass(kind, opened) and not is_open(kind) else all_ways(kind)


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


def _is_same_sequence(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(_is_alike, before, now))


def _is_same_state(before: object, now: Any) -> bool:
    """Compare two states of a generator: tuples, arrays, tensors, or dictionaries of them."""
    if isinstance(before, dict):
        return all(_is_same_state(before[key], now[key]) for key in before)
    if isinstance(before, tuple):
        return len(before) == len(now) and all(map(_is_same_state, before, now))
    return bool(np.asarray(before == now).all())


def _write_array(target: Array, copy: Array) -> None:
    if target.flags.writeable and target.shape == copy.shape:
        np.copyto(plain_view(target), copy)


def _attributes(target: object) -> dict[str, Any]:
    attributes: dict[str, Any] = object.__getattribute__(target, "__dict__")
    return attributes


# Another thread that looks at what has not changed never sees it empty, and a Ctrl-C comes through between two steps.


def _read_dict(target: Any) -> dict[Any, Any]:
    return dict(own_container(type(target)).items(target))


def _write_dict(target: Any, copy: dict[Any, Any]) -> None:
    own = own_container(type(target))
    if not own.__len__(target) and not copy:  # of ten dictionaries in a module of torch, eight are empty
        return
    if not _holds(own.values(target), copy.values()) or not _holds(own.__iter__(target), copy):
        for key in [key for key in own.__iter__(target) if key not in copy]:
            own.__delitem__(target, key)
        _fill(own, target, copy)
        if not _holds(own.__iter__(target), copy):  # the keys stand in another order
            own.clear(target)
            _fill(own, target, copy)


def _fill(own: Any, target: Any, copy: dict[Any, Any]) -> None:
    if own is OrderedDict:  # whose update would call the user's methods
        for key, value in copy.items():
            own.__setitem__(target, key, value)
    else:
        own.update(target, copy)


def _holds(stored: Iterable[Any], copy: Iterable[Any]) -> bool:
    """Return whether two collections hold the same objects in the same order."""
    stored, copy = list(stored), list(copy)
    return len(stored) == len(copy) and all(map(is_, stored, copy))


def _read_sequence(target: Any) -> list[Any]:
    return list(own_container(type(target)).__iter__(target))


def _write_list(target: list[Any], copy: list[Any]) -> None:
    if not _holds(list.__iter__(target), copy):
        list.__setitem__(target, slice(None), copy)


def _write_deque(target: deque[Any], copy: list[Any]) -> None:
    if not _holds(deque.__iter__(target), copy):
        deque.clear(target)
        deque.extend(target, copy)


def _write_set(target: set[Any], copy: set[Any]) -> None:
    if set(map(id, set.__iter__(target))) != set(map(id, copy)):
        set.clear(target)
        set.update(target, copy)


def _write_slots(target: object, copy: dict[str, Any]) -> None:
    filled = read_slots(target)
    for name, slot in slots(type(target)).items():
        if name in copy:
            slot.__set__(target, copy[name])
        elif name in filled:
            slot.__delete__(target)


RANDOM = Aspect(random_state, set_random_state, _is_same_state)
ATTRIBUTES = Aspect(
    lambda target: dict(_attributes(target)),
    lambda target, copy: _write_dict(_attributes(target), copy),
    step=ATTRIBUTE,
)
SLOTS = Aspect(read_slots, _write_slots, step=ATTRIBUTE)
CONTENTS = (
    (Variables, Aspect(Variables.read, Variables.write, step=VARIABLE)),
    (ClassVariables, Aspect(ClassVariables.read, ClassVariables.write, step=ATTRIBUTE)),
    (np.ndarray, Aspect(lambda array: np.array(plain_view(array)), _write_array, _is_same_array)),
    (dict, Aspect(_read_dict, _write_dict, step=KEY)),
    (list, Aspect(_read_sequence, _write_list, _is_same_sequence)),
    (deque, Aspect(_read_sequence, _write_deque, _is_same_sequence)),
    (set, Aspect(lambda target: set(set.__iter__(target)), _write_set)),
    (bytearray, Aspect(bytes, lambda target, copy: bytearray.__setitem__(target, slice(None), copy))),
)


@once_per_class
def _aspects(kind: type, opened: tuple[type, ...]) -> tuple[Aspect, ...]:
    """Return the ways in which objects of a class can change."""
    if is_generator(kind):
        return (RANDOM,)
    aspects = [aspect for kinds, aspect in CONTENTS if issubclass(kind, kinds)]
    if (is_open(kind) or issubclass(kind, opened)) and kind.__dictoffset__:
        aspects.append(ATTRIBUTES)
    if is_open(kind) and slots(kind):
        aspects.append(SLOTS)
    return tuple(aspects)
