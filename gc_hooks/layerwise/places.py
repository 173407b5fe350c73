"""Where the arrays of an object stand: in attributes, slots, dicts, lists and tuples, at any depth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.isolation.object_graph import ATTRIBUTE, CALLS, SAME, VARIABLE, Node, all_ways, pairs_of, walk


class Place(NamedTuple):
    """The steps from an object to something inside of it."""

    steps: tuple[tuple[str, Any], ...] = ()

    def then(self, step: str, key: Any) -> Place:
        """Return the place one step further."""
        return Place((*self.steps, (step, key)))

    @property
    def name(self) -> str:
        """Return the place as a user would write it after the object's name and a dot: ``cell.params[0]``."""
        return "".join(step.format(key) for step, key in self.steps).lstrip(".")

    def is_under(self, condition: Callable[[str], bool]) -> bool:
        """Return whether one of the names on the way fulfils a condition."""
        return any(isinstance(key, str) and condition(key) for _, key in self.steps)

    def read(self, owner: Any) -> Any:
        """Return what stands there; raise LookupError or AttributeError where nothing does."""
        for step, key in self.steps:
            owner = getattr(owner, key) if step == ATTRIBUTE else owner[key]
        return owner

    def write(self, owner: Any, value: Any) -> None:
        """Put something there; a tuple is made anew."""
        holder = Place(self.steps[:-1])
        inside, (step, key) = holder.read(owner), self.steps[-1]
        if isinstance(inside, tuple):
            items = [*inside[:key], value, *inside[key + 1 :]]
            holder.write(owner, getattr(inside, "_make", tuple)(items))  # a named one stays one
        elif step == ATTRIBUTE:
            object.__setattr__(inside, key, value)  # also where the class forbids it, as a frozen dataclass does
        else:
            inside[key] = value


def inner_nodes(owner: object) -> Iterator[Node]:
    """Yield the nodes of an object and of all that it consists of; not what its functions and classes refer to."""
    return filter(_is_part, walk([Node(owner)], all_ways, enter=_is_part))


def inner_places(owner: object) -> Iterator[tuple[Place, Any]]:
    """Yield every place in an object with what stands there, the nearest first; one thing may stand at several."""
    for node in inner_nodes(owner):
        here = place_of(node)
        for way in all_ways(type(node.thing)) or ():
            for part in way(node.thing):
                step, _, _ = part
                if step not in (SAME, VARIABLE):
                    yield from [(here.then(step, key), item) for key, item in pairs_of(part)]
                elif step == VARIABLE:  # the class, whose arrays an object has until it gets its own
                    yield from [(here.then(ATTRIBUTE, name), array) for name, array in class_arrays(node.thing)]


def class_arrays(thing: object) -> list[tuple[str, Array]]:
    """Return the arrays that an object has from its class."""
    found = {}
    for base in reversed(type(thing).__mro__):
        found.update({name: item for name, item in vars(base).items() if isinstance(item, np.ndarray)})
    return [(name, array) for name, array in found.items() if getattr(thing, name, None) is array]


def inner_arrays(owner: object) -> list[tuple[Place, Array]]:
    """Return the places of an object's arrays."""
    return [(place, thing) for place, thing in inner_places(owner) if isinstance(thing, np.ndarray)]


def in_one_memory(owner: object) -> list[tuple[Array, list[Array]]]:
    """Return the arrays of an object that share memory with another one of it, each time with the array that owns it.

    >>> flat = np.zeros(3)
    >>> [len(arrays) for _, arrays in in_one_memory([flat, flat[1:], flat, np.zeros(2)])]
    [2]
    """
    found: defaultdict[int, dict[int, Array]] = defaultdict(dict)
    owners = {}
    for _, array in inner_arrays(owner):
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        owners[id(base)] = base
        found[id(base)][id(array)] = array
    return [(owners[key], list(arrays.values())) for key, arrays in found.items() if len(arrays) > 1]


def place_of(node: Node) -> Place:
    """Return the place of a node in the root of its walk."""
    return Place() if node.parent is None else place_of(node.parent).then(node.step, node.key)


def _is_part(node: Node) -> bool:
    return not isinstance(node.thing, (*CALLS, type))
