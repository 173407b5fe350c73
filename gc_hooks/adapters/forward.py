"""Ask a forward pass what it does to a model: which arrays it writes, and on which the loss depends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Loss
from gc_hooks.adapters.aliasing import place
from gc_hooks.adapters.attachment import scaled
from gc_hooks.isolation.object_graph import ATTRIBUTE, CALLS, MOST_ITEMS, Node, all_ways, changeable, read_slots, walk
from gc_hooks.isolation.reach import reachable_generators
from gc_hooks.isolation.snapshot import preserve
from gc_hooks.problem import as_number

NUDGE, PUSH = 2.0**-10, 2.0**-6
"""How far an array is moved to see whether a forward pass writes it anew, and whether the loss depends on it: far
enough for half precision, and near enough for a loss that is defined only around its parameters."""


class Place(NamedTuple):
    """An array, or a number of an object, and where it stands."""

    holder: Node  # an object, a dictionary, a list or a tuple
    key: Any  # the attribute, the key or the position
    value: Any

    @property
    def id(self) -> tuple[int, Any]:
        """Return what tells this place from others."""
        return id(self.holder.thing), self.key

    @property
    def keys(self) -> list[Any]:
        """Return the positions, keys and names on the way to it."""
        return [*self.holder.keys, self.key]

    @property
    def name(self) -> str:
        """Return the way to it as the name of a parameter."""
        return ".".join(map(str, self.keys))

    @property
    def owner(self) -> tuple[Node | None, str]:
        """Return the object in which it stands, perhaps inside of containers, and the name of the attribute."""
        node, key = self.holder, self.key
        while node.parent is not None and is_container(node.thing):
            node, key = node.parent, node.key
        return (None, "") if is_container(node.thing) else (node, str(key))


def is_container(thing: object) -> bool:
    """Return whether a thing holds others without being an object of the user's."""
    return isinstance(thing, (dict, list, tuple))


def is_floats(thing: object) -> bool:
    """Return whether a thing is an array of real numbers with at least one entry."""
    return isinstance(thing, np.ndarray) and thing.dtype.kind == "f" and thing.size > 0


def members(thing: Any) -> dict[Any, Any]:
    """Return the items of a container, or the attributes that stand in an object itself.

    >>> members([1.0]), members({"W": 2.0})
    ({0: 1.0}, {'W': 2.0})
    """
    if isinstance(thing, dict):
        return dict(thing)
    if isinstance(thing, (list, tuple)):
        return dict(enumerate(thing))
    return {**getattr(thing, "__dict__", {}), **read_slots(thing)}


def look_into(node: Node) -> bool:
    """Return whether a walk over a model goes on: a method or a class may lead to another model."""
    return not isinstance(node.thing, (*CALLS, type))


class ForwardPass:
    """What one forward pass does, found by an evaluation of the loss after which the model is put back."""

    def __init__(self, loss: Loss, model: Any, state: Any = ()) -> None:
        self._loss, self._model = loss, model
        self._owners = (model, *(state if isinstance(state, tuple) else (state,)))
        # By place, with the holder, which is kept alive so that no other gets its id.
        self._written: dict[tuple[int, Any], tuple[Any, bool]] = {}
        self._has_looked = False

    @property
    def _touched(self) -> tuple[Any, ...]:
        """Return what a call of the loss may change."""
        return (*self._owners, *changeable(self._loss), *reachable_generators(self._loss))

    def places(self) -> Iterator[Place]:
        """Yield where arrays, and numbers in objects, stand in the model."""
        roots = [Node(self._model)]
        for node in walk(roots, all_ways, enter=look_into, plain_arrays=False, longest=MOST_ITEMS):
            if not look_into(node) or isinstance(node.thing, np.ndarray):
                continue
            for key, value in members(node.thing).items():
                is_number = isinstance(value, (float, np.floating)) and not is_container(node.thing)
                if is_floats(value) or is_number:
                    yield Place(node, key, value)

    def writes(self, holder: object, key: Any) -> bool:
        """Return whether a forward pass writes what stands in a place, or puts something else there."""
        one = id(holder), key
        if not self._has_looked:
            self._has_looked = True
            # A loss may not take moved data, such as labels in an array of floats. One that raises with equal copies
            # raises in the check too, which says what is wrong with it.
            if not self._look(NUDGE):
                self._look(0.0)
        return self._written.setdefault(one, (holder, False))[1]

    def moving(self, arrays: Iterable[Any]) -> list[bool]:
        """Return for each array whether a forward pass writes it, in every place where it stands in the model."""
        wanted = [place(array) for array in arrays]
        found: dict[object, list[bool]] = {}
        for one in self.places() if wanted else ():
            if place(one.value) in wanted:
                found.setdefault(place(one.value), []).append(self.writes(one.holder.thing, one.key))
        return [all(found.get(where, [False])) for where in wanted]

    def needs(self, arrays: Sequence[Array]) -> list[bool]:
        """Return for each array whether the loss depends on it: by halves, since almost always none of them counts."""
        if not arrays:
            return []
        try:
            with np.errstate(all="ignore"), preserve(*self._touched):
                base = as_number(scaled(self._loss()))
        except Exception:  # the check calls the loss too, and says what is wrong with it
            return [False] * len(arrays)
        if not isinstance(base, (int, float)) or base != base:
            return [False] * len(arrays)

        def search(some: Sequence[Array]) -> list[bool]:
            if not some or not self._changes(base, some):
                return [False] * len(some)
            if len(some) == 1:
                return [True]
            middle = len(some) // 2
            return search(some[:middle]) + search(some[middle:])

        return search(arrays)

    def _changes(self, base: float, arrays: Sequence[Array]) -> bool:
        """Return whether the loss is another one when some arrays are moved."""
        with np.errstate(all="ignore"), preserve(*self._touched):
            for array in arrays:
                if array.flags.writeable:
                    array += PUSH * (np.abs(array) + 1)
            try:
                return bool(as_number(scaled(self._loss())) != base)
            except Exception:  # what cannot be computed with another value depends on it
                return True

    def _look(self, nudge: float) -> bool:
        """Run the loss with a copy in each place, slightly moved, and look which of them it has left there.

        Returns whether the loss could be computed.
        """
        self._written = {}
        with np.errstate(all="ignore"), preserve(*self._touched):
            found = list(self.places())
            copies: dict[int, Any] = {}  # one array that stands in several places has one copy
            for one in found:
                if isinstance(one.holder.thing, tuple):  # cannot be exchanged; a cache that is one is replaced whole
                    continue
                if id(one.value) not in copies:
                    moved = one.value + nudge * (np.abs(one.value) + 1)
                    copies[id(one.value)] = moved.astype(one.value.dtype) if is_floats(one.value) else moved
                _put(one, copies[id(one.value)])
            before = {key: np.array(copy) for key, copy in copies.items()}
            lengths = {id(one.holder.thing): len(members(one.holder.thing)) for one in found}
            try:
                self._loss()
            except Exception:
                return False
            for one in found:
                stands = _stands(one.holder)
                if isinstance(one.holder.thing, list):  # one that grows is a cache, or a history
                    stands = stands and len(one.holder.thing) == lengths[id(one.holder.thing)]
                if stands and not isinstance(one.holder.thing, tuple):
                    copy = copies[id(one.value)]
                    stands = members(one.holder.thing).get(one.key) is copy
                    stands = stands and np.array(copy).tobytes() == before[id(one.value)].tobytes()
                self._written[one.id] = one.holder.thing, not stands
        return True


def _put(one: Place, value: Any) -> None:
    thing = one.holder.thing
    if isinstance(thing, (dict, list)):
        thing[one.key] = value
    elif one.key in getattr(thing, "__dict__", {}):
        vars(thing)[one.key] = value
    else:
        object.__setattr__(thing, one.key, value)


def _stands(node: Node) -> bool:
    """Return whether a thing is still reached in the way in which it was found."""
    if node.parent is None:
        return True
    above = node.parent.thing
    if is_container(above) or node.step == ATTRIBUTE:
        return members(above).get(node.key) is node.thing and _stands(node.parent)
    return _stands(node.parent)
