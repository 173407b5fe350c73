"""Putting back what an evaluation has touched: arrays, containers, attributes and random generators, to the bit."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import is_
from types import BuiltinMethodType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.isolation.rng import GLOBAL_GENERATORS, is_random, random_state, set_random_state

OPAQUE = {"tensorboard", "tensorboardX", "torch", "rich", "gc_hooks.hooks.hook", "gc_hooks.hooks.recorder"}
"""What has threads, files or devices beside the standard library is left alone, and so is a hook in a model's list."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype, type, ModuleType)
MISSING = object()


@contextmanager
def preserve(*objects: Any) -> Iterator[None]:
    """Put back, to the bit, whatever changes in some objects, and in all that can be reached from them.

    Parameters
    ----------
    *objects : any
        Models, layers, lists of them, caches, generators, bound methods. Restored are the contents of arrays in place,
        and which array stands where; lists, dicts, sets, deques, attributes and slots; random generators
        (``Generator``, ``RandomState``, ``random.Random``) and, always, the global random states of NumPy and Python.
        Objects that refer to each other, or that are reached twice, are met once.

    Notes
    -----
    It restores also after an exception or Ctrl-C. It costs a copy of every array and container that is reached: time
    and memory in proportion to the size of the objects, so hand in the model and not the data set. What it cannot see
    stays as it is: iterators and generator functions that have advanced, files, attributes of classes, variables inside
    functions, the shape of an array that was resized in place, and objects of the standard library, of torch and of
    TensorBoard.

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
    """One way in which an object can change: how to read it (as a copy), how to put it back, whether it is as it was.

    ``step`` is how a path goes on to what stands inside; empty where nothing does.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    same: Callable[[Any, Any], bool]
    step: str = ""


class Kept(NamedTuple):
    """One aspect of one object, as it was."""

    path: str
    target: Any
    aspect: Aspect
    saved: Any


class Change(NamedTuple):
    """What is no longer as it was: its name, what changed, how it was, and under which key, where it is one of many."""

    path: str
    target: Any
    kept: Kept
    key: Any = None


class Snapshot:
    """What some objects, all that can be reached from them, and the global random states hold now.

    Parameters
    ----------
    *objects : any
    named : iterable of tuple of str and any
        Further objects, with the names by which changes in them are told.

    Attributes
    ----------
    iterators : list of str
        Where iterators stand, which cannot be put back.
    """

    def __init__(self, *objects: Any, named: Iterable[tuple[str, Any]] = ()) -> None:
        self.iterators: list[str] = []
        self._kept: list[Kept] = []
        self._met: dict[int, Any] = {}
        waiting = deque((*GLOBAL_GENERATORS.items(), *named))
        waiting.extend((type(thing).__name__, thing) for thing in objects)
        while waiting:
            path, target = waiting.popleft()
            if not isinstance(target, PLAIN) and id(target) not in self._met:
                self._met[id(target)] = target  # kept alive, so that its id stays its own
                waiting.extend(self._keep(path, target))

    def put_back(self) -> None:
        """Put everything back."""
        for kept in self._kept:
            kept.aspect.write(kept.target, kept.saved)

    def changes(self) -> list[Change]:
        """What is no longer as it was, by name: an attribute, an item, the contents of an array, a generator."""
        return [change for kept in self._kept for change in _changes(kept)]

    def _keep(self, path: str, target: Any) -> Iterator[tuple[str, Any]]:
        """Write down one object, and find what can be reached from it."""
        if isinstance(target, Iterator) and not is_open(target):
            self.iterators.append(path)
            return
        for aspect in _aspects(target):
            saved = aspect.read(target)
            self._kept.append(Kept(path, target, aspect, saved))
            if aspect.step:
                yield from ((path + aspect.step.format(key), inner) for key, inner in _items(saved))
        yield from ((f"{path}{step}", inner) for step, inner in _beyond(target))


def _items(saved: Any) -> Iterable[tuple[Any, Any]]:
    return saved.items() if isinstance(saved, dict) else enumerate(saved)


def _beyond(target: Any) -> Iterator[tuple[str, Any]]:
    """What can be reached through an object that cannot change itself."""
    if isinstance(target, (tuple, frozenset)):
        yield from ((f"[{position}]", inner) for position, inner in enumerate(target))
    elif isinstance(target, (MethodType, BuiltinMethodType)):
        yield "", target.__self__
    elif isinstance(target, partial):
        yield from (("", inner) for inner in (target.func, *target.args, *target.keywords.values()))
    elif isinstance(target, np.ndarray) and target.dtype.hasobject:
        yield from ((f"[{position}]", inner) for position, inner in enumerate(target.flat))


def _changes(kept: Kept) -> Iterator[Change]:
    now = kept.aspect.read(kept.target)
    if kept.aspect.same(kept.saved, now):
        return
    if kept.aspect.step != ".{}" and kept.aspect is not DICT:
        yield Change(kept.path, kept.target, kept)
        return
    for key in {**kept.saved, **now}:
        before, after = kept.saved.get(key, MISSING), now.get(key, MISSING)
        if not _alike(before, after):
            yield Change(kept.path + kept.aspect.step.format(key), before if after is MISSING else after, kept, key)


def undo(change: Change) -> None:
    """Put one change back, and nothing else."""
    aspect, target, saved = change.kept.aspect, change.kept.target, change.kept.saved
    if change.key is not None:
        others = {key: value for key, value in aspect.read(target).items() if key != change.key}
        saved = others | ({change.key: saved[change.key]} if change.key in saved else {})
    aspect.write(target, saved)


# --- the aspects ------------------------------------------------------------------------------------------------------


def _alike(before: Any, now: Any) -> bool:
    """Whether it makes no difference that one stands where the other stood."""
    if before is now:
        return True
    if isinstance(before, np.ndarray) and isinstance(now, np.ndarray):
        return _same_array(before, now)
    return type(before) is type(now) and isinstance(before, PLAIN) and bool(before == now or before != before)


def _all_alike(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(_alike, before, now))


def _items_alike(before: dict[Any, Any], now: dict[Any, Any]) -> bool:
    return before.keys() == now.keys() and all(_alike(before[key], now[key]) for key in before)


def _same_array(before: Array, now: Array) -> bool:
    if before.shape != now.shape or before.dtype != now.dtype:
        return False
    return all(map(_alike, before.flat, now.flat)) if before.dtype.hasobject else before.tobytes() == now.tobytes()


def _same_state(before: Any, now: Any) -> bool:
    """Whether two states of a generator, nested as they are, are equal."""
    if isinstance(before, dict):
        return all(_same_state(before[key], now[key]) for key in before)
    return bool(np.array_equal(before, now)) if isinstance(before, np.ndarray) else bool(before == now)


def _write_array(target: Array, saved: Array) -> None:
    if target.flags.writeable and target.shape == saved.shape:
        np.copyto(target.view(np.ndarray), saved)


def _write_sequence(target: Any, saved: Any) -> None:
    if len(target) != len(saved) or not all(map(is_, target, saved)):
        target.clear()
        target.extend(saved)


def _write_set(target: set[Any], saved: set[Any]) -> None:
    if target != saved:
        target.clear()
        target.update(saved)


def _write_dict(target: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Empty it and fill it again, in its old order; one that has not changed is at no time seen empty."""
    if list(target) != list(saved) or not all(target[key] is saved[key] for key in saved):
        target.clear()
        target.update(saved)


def _slots(target: Any) -> dict[str, MemberDescriptorType]:
    kinds = [kind for kind in type(target).__mro__ if "__slots__" in vars(kind)]
    return {n: slot for kind in kinds for n, slot in vars(kind).items() if isinstance(slot, MemberDescriptorType)}


def _read_slots(target: Any) -> dict[str, Any]:
    return {name: getattr(target, name) for name in _slots(target) if hasattr(target, name)}


def _write_slots(target: Any, saved: dict[str, Any]) -> None:
    for name, slot in _slots(target).items():
        if name in saved:
            slot.__set__(target, saved[name])
        elif hasattr(target, name):
            slot.__delete__(target)


ARRAY = Aspect(lambda array: np.array(array.view(np.ndarray)), _write_array, _same_array)
RANDOM = Aspect(random_state, set_random_state, _same_state)
DICT = Aspect(dict, _write_dict, _items_alike, "[{!r}]")
SEQUENCE = Aspect(list, _write_sequence, _all_alike, "[{}]")
SET = Aspect(set, _write_set, lambda before, now: before == now, "[{}]")
BYTES = Aspect(bytes, lambda target, saved: target.__setitem__(slice(None), saved), lambda before, now: before == now)
ATTRIBUTES = Aspect(
    lambda target: dict(vars(target)), lambda target, saved: _write_dict(vars(target), saved), _items_alike, ".{}"
)
SLOTS = Aspect(_read_slots, _write_slots, _items_alike, ".{}")
CONTENTS = (
    (np.ndarray, ARRAY),
    (dict, DICT),
    ((list, deque), SEQUENCE),
    (set, SET),
    (bytearray, BYTES),
)


def _aspects(target: Any) -> Iterator[Aspect]:
    if is_random(target):
        yield RANDOM
        return
    yield from (aspect for kind, aspect in CONTENTS if isinstance(target, kind))
    if is_open(target):
        if hasattr(target, "__dict__"):
            yield ATTRIBUTES
        if _slots(target):
            yield SLOTS


def is_open(target: Any) -> bool:
    """Whether it is an object of somebody's own class, whose attributes are state."""
    return opens(type(target))


def opens(kind: type) -> bool:
    """The same of a class."""
    package = kind.__module__.partition(".")[0]
    foreign = package in sys.stdlib_module_names and package != "__main__"
    return not (foreign or {package, kind.__module__} & OPAQUE) or issubclass(kind, SimpleNamespace)
