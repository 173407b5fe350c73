"""Gradients beside their parameters: which attributes belong together, and how what stands in them is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.tree import is_container
from gc_hooks.isolation.object_graph import ATTRIBUTE, ITEM, KEY, all_ways
from gc_hooks.layerwise.conventions import gradient_name, is_gradient_word, is_parameter_word
from gc_hooks.layerwise.places import Place, class_arrays, inner_arrays, inner_nodes, place_of
from gc_hooks.layerwise.twin import ask

Read = Callable[[Any, tuple[Any, ...]], Any]
"""``read(layer, returned)`` gives a gradient after backward, from the layer or from what backward has returned."""


@dataclass(frozen=True)
class Names:
    """What the user said: the attributes with parameters, those with their gradients, and what is left out."""

    params: tuple[str, ...] = ()
    grads: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def pairs(self, own: Sequence[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Return which of an object's attributes hold parameters, each with those that hold their gradients."""
        params = tuple(name for name in self.params or own if name in own)
        grads = tuple(name for name in self.grads if name in own)
        if self.params and grads:
            alike = len(params) == len(grads)
            return [((p,), (g,)) for p, g in zip(params, grads, strict=True)] if alike else [(params, grads)]
        found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        for name in params:
            gradient = gradient_name(name, [other for other in grads or own if other != name])
            if gradient is not None:
                found.append(((name,), (gradient,)))
            elif grads and is_parameter_word(name):
                found.append(((name,), grads))
        return found


class Leaf(NamedTuple):
    """Something in a container: its keys there, joined by dots, and its place."""

    key: str
    place: Place
    value: Any


@dataclass(eq=False)
class Group:
    """An array or a number that a layer has before its first pass, with every place at which it stands."""

    places: list[Place]
    value: Any

    @property
    def name(self) -> str:
        """Return the simplest of its names: the key in a dict of parameters, an attribute, or ``params[0]``."""
        names = []
        for place in self.places:
            name = place.name
            if len(place.steps) > 1 and place.steps[-1][0] == KEY and is_parameter_word(str(place.steps[-2][1])):
                name = Place(place.steps[:-2]).then(ATTRIBUTE, place.steps[-1][1]).name
            names.append(("[" in name, name.count("."), name))
        return min(names)[-1]

    def filled(self, value: Any) -> dict[Place, Any]:
        """Return a value for each of its places."""
        return dict.fromkeys(self.places, value)

    def elsewhere(self) -> dict[Place, Any]:
        """Return another value of the same size for each of its places."""
        value = np.asarray(self.value, dtype=np.float64)
        size = float(np.sqrt(np.mean(value**2))) or 1.0
        return self.filled(value + size * np.random.default_rng(0).standard_normal(value.shape))

    def goes_by(self, names: Sequence[str]) -> bool:
        """Return whether one of some names is its own."""
        own = {self.name, *[place.name for place in self.places], *[str(place.steps[-1][1]) for place in self.places]}
        return not own.isdisjoint(names)


class Pair(NamedTuple):
    """A parameter after a pass, and how its gradient is read."""

    group: Group
    is_reachable: bool  # the layer has it, and does not just hand out a copy
    is_declared: bool  # the user has named it, or it stands in a container of the layer itself
    read: Read | None = None
    buffers: tuple[Place, ...] = ()  # where the gradient stands


class Source(NamedTuple):
    """Gradients that stand apart from their parameters, by their keys."""

    values: dict[str, Any]
    read: Callable[[str], Read]
    in_order: bool  # of the parameters, where no name tells


def find_pairs(layer: Any, names: Names) -> Iterator[Pair]:
    """Yield the parameters that have gradients beside them after a backward, those of the layer itself first."""
    places: defaultdict[int, list[Place]] = defaultdict(list)
    for place, array in inner_arrays(layer):
        places[id(array)].append(place)
    for node in inner_nodes(layer):
        owner, here = node.thing, place_of(node)
        for params, grads in names.pairs(attributes(owner, names)):
            found = [leaf for leaf in _leaves_of(owner, here, params) if is_numeric(leaf.value)]
            gradients = {leaf.key: leaf.value for leaf in _leaves_of(owner, here, grads)}
            keys = _matched([leaf.key for leaf in found], list(gradients))
            if not keys or not any(map(is_numeric, gradients.values())):
                continue
            for leaf in found:
                key = keys.get(leaf.key)
                stands = places[id(leaf.value)] or [leaf.place]
                is_declared = not here.steps and (bool(names.params) or leaf.key not in params)
                pair = Pair(Group(stands, leaf.value), first_place(layer, stands) is not None, is_declared)
                if key is not None:
                    read, buffers = partial(_read_leaf, here, grads, key), places[id(gradients[key])]
                    pair = pair._replace(read=read, buffers=tuple(buffers))
                yield pair


def find_sources(
    layer: Any,
    returned: tuple[Any, ...],
    position: int,
    after: Iterable[tuple[Place, Array]],
    updates: Collection[Place],
    names: Names,
) -> Iterator[Source]:
    """Yield what backward returns beside the gradient for the inputs, a layer's gradients, and all that it has set."""
    yield Source(own_gradients(returned, position), partial(partial, _read_returned, position), True)
    for word in filter(is_gradient_word, attributes(layer, names)):
        values = {leaf.key: leaf.value for leaf in _leaves_of(layer, Place(), [word]) if is_numeric(leaf.value)}
        yield Source(values, partial(partial, _read_leaf, Place(), (word,)), True)
    set_by_backward = {str(place.steps[-1][1]): (place, array) for place, array in after if place in updates}
    places = {key: place for key, (place, _) in set_by_backward.items()}
    values = {key: array for key, (_, array) in set_by_backward.items()}
    yield Source(values, lambda key: lambda layer, returned: places[key].read(layer), False)


def _matched(names: list[str], others: list[str]) -> dict[str, str]:
    """Return which gradient is whose: by the same name, by one made of it, or by position."""
    made = {name: name if name in others else gradient_name(name, others) for name in names}
    found = {name: other for name, other in made.items() if other is not None}
    if not found and len(names) == len(others):
        found = dict(zip(names, others, strict=True))
    return found


def attributes(owner: Any, names: Names) -> list[str]:
    """Return the names of an object's attributes, of methods that hand out parameters, and the keys of a dict."""
    found: list[str] = []
    ways = all_ways(type(owner)) or ()
    for part in chain.from_iterable(way(owner) for way in ways):
        if part[0] in (ATTRIBUTE, KEY):
            found += [name for name, _ in part[1] if isinstance(name, str)]
    if ways and not isinstance(owner, (Mapping, list, tuple, np.ndarray)):
        # Methods and properties that hand out parameters, and arrays of the class.
        of_class = [name for name in dir(type(owner)) if is_parameter_word(name) or is_gradient_word(name)]
        found += [*of_class, *[name for name, _ in class_arrays(owner)]]
        found += [name for name in (*names.params, *names.grads) if hasattr(owner, name)]
    return list(dict.fromkeys(found))


def _leaves_of(owner: Any, here: Place, names: Iterable[str]) -> Iterator[Leaf]:
    """Yield what stands in some attributes of an object; an array that is an attribute goes by the attribute's name."""
    is_dict = isinstance(owner, Mapping)
    for name in names:
        with suppress(Exception):  # a method that needs arguments hands out nothing
            value = ask(owner[name] if is_dict else getattr(owner, name))
            for leaf in list(leaves(value, here.then(KEY if is_dict else ATTRIBUTE, name))):
                yield leaf._replace(key=leaf.key or name)


def leaves(tree: Any, place: Place, key: str = "") -> Iterator[Leaf]:
    if not is_container(type(tree)):
        yield Leaf(key, place, tree)
        return
    step, items = (KEY, tree.items()) if isinstance(tree, Mapping) else (ITEM, enumerate(tree))
    for word, branch in items:
        yield from leaves(branch, place.then(step, word), f"{key}.{word}" if key else str(word))


def _read_leaf(here: Place, names: tuple[str, ...], key: str, layer: Any, returned: tuple[Any, ...]) -> Any:
    return next((leaf.value for leaf in _leaves_of(here.read(layer), here, names) if leaf.key == key), None)


def _read_returned(position: int, key: str, layer: Any, returned: tuple[Any, ...]) -> Any:
    return own_gradients(returned, position).get(key)


def own_gradients(returned: tuple[Any, ...], position: int) -> dict[str, Any]:
    """Return what backward returns beside the gradient for its inputs."""
    others: Any = [*returned[:position], *returned[position + 1 :]]
    if len(others) == 1 and is_container(type(others[0])):
        (others,) = others
    return {leaf.key: leaf.value for leaf in leaves(others, Place()) if is_numeric(leaf.value)}


def is_numeric(thing: Any) -> bool:
    """Return whether a thing may be a parameter or a gradient: an array of numbers, or a float."""
    if isinstance(thing, np.ndarray):
        return thing.dtype.kind in "fiu" and thing.size > 0
    return isinstance(thing, (float, np.floating))


def first_place(layer: Any, places: Iterable[Place]) -> Place | None:
    """Return the first of some places of a parameter at which there is one now."""
    for place in places:
        with suppress(LookupError, AttributeError, TypeError):
            if is_numeric(place.read(layer)):
                return place
    return None
