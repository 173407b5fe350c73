"""Find a layer's parameters and gradients: by their names, by what backward returns, by what moves the outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.layer_view import INPUT
from gc_hooks.layerwise.conventions import BELOW, gradient_name, is_gradient_word, is_parameter_word
from gc_hooks.layerwise.pairs import (
    Group,
    Names,
    Pair,
    Read,
    Source,
    attributes,
    find_pairs,
    find_sources,
    first_place,
    leaves,
)
from gc_hooks.layerwise.places import Place, inner_arrays, inner_nodes
from gc_hooks.layerwise.twin import Twin, explained


@dataclass
class Findings:
    """What a layer has."""

    parameters: dict[str, Group] = field(default_factory=dict)
    gradients: dict[str, Read] = field(default_factory=dict)
    below: Read | None = None
    unjudged: dict[str, Group] = field(default_factory=dict)
    state: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)  # after a backward, of the layer and of all inside of it
    updates: dict[Place, tuple[int, ...]] = field(default_factory=dict)  # what else backward set, with its shape

    def add(self, group: Group, read: Read | None) -> None:
        """Add a parameter, under a name that no other one has."""
        name = group.name
        if name in {INPUT, *self.parameters}:
            name = group.places[0].name
        self.parameters[name] = group
        if read is not None:
            self.gradients[name] = read


def discover(twin: Twin, names: Names, upstream: Array) -> Findings:
    """Run a layer forward and backward, and return what it has; what its first pass makes is there afterwards."""
    findings = Findings()
    with twin.rewound():
        twin.forward()
        before = {place: array.copy() for place, array in inner_arrays(twin.layer)}
        with explained(f"Its {twin.passes[1]}() got an upstream gradient of shape {upstream.shape} and"):
            returned = twin.backward(upstream)
        findings.attributes.update(*[attributes(node.thing, names) for node in inner_nodes(twin.layer)])
        pairs = sorted(find_pairs(twin.layer, names), key=lambda pair: pair.read is None)  # a gradient elsewhere is one
        after = inner_arrays(twin.layer)
        updates = {place: array.shape for place, array in after if not _is_same(array, before.get(place))}
        ids = {id(leaf.value) for leaf in leaves(returned, Place())}
        unpaired = {place for place, array in after if id(array) in ids or place.is_under(is_gradient_word)}
        position = _position_of_below(returned, twin.inputs)
        sources = list(find_sources(twin.layer, returned, position, after, updates, names))
    if any(first_place(twin.layer, pair.group.places) is None for pair in pairs):
        twin.build()
    if _moves(twin, _groups(twin.layer, set().union(*[pair.buffers for pair in pairs]))):
        # What moves the outputs is no gradient: a weight of the gate g may be called gW.
        pairs = [pair for pair in pairs if not _moves(twin, _groups(twin.layer, pair.buffers))]
    buffers = unpaired.union(*[pair.buffers for pair in pairs])
    groups = _groups(twin.layer, {place for place, _ in inner_arrays(twin.layer)} - buffers)
    left = _add_pairs(findings, twin, names, pairs, groups)
    for source in sources:
        left = _add_from(findings, left, source)
    findings.unjudged.update({group.name: group for group in left})
    findings.below = _below(twin.inputs.shape, returned[position], position, updates, buffers)
    known = buffers.union(*[group.places for group in (*findings.parameters.values(), *findings.unjudged.values())])
    findings.updates = {place: shape for place, shape in updates.items() if place not in known}
    for place in buffers:  # a backward that adds to its buffers begins with zeros
        with suppress(LookupError, AttributeError, TypeError, ValueError):
            buffer = place.read(twin.layer)
            if isinstance(buffer, np.ndarray):
                buffer[...] = 0
    return findings


def _add_pairs(
    findings: Findings, twin: Twin, names: Names, pairs: Sequence[Pair], groups: Sequence[Group]
) -> list[Group]:
    """Add the parameters that have a gradient beside them; return what else moves the outputs."""
    moved = _moved_by_forward(twin, groups)
    by_place = {place: group for group in groups for place in group.places}
    taken: list[Any] = []
    for pair in pairs:
        place = first_place(twin.layer, pair.group.places)
        if place is None:
            if not pair.is_reachable:
                findings.unjudged[pair.group.name] = pair.group
            continue  # backward alone makes it: it is no parameter
        group = by_place.get(place) or Group([place], place.read(twin.layer))
        # An attribute beside another one of that name may be a cache with its gradient, such as x and dx.
        is_given = pair.is_declared and pair.read is not None
        is_wanted = is_given or (id(group) not in moved and _moves(twin, [group]))
        if is_wanted and not group.goes_by(names.skip) and not _overlaps(place.read(twin.layer), taken):
            findings.add(group, pair.read)
            taken.append(place.read(twin.layer))
    left = [group for group in groups if not group.goes_by(names.skip)]
    left = [group for group in left if not _overlaps(group.places[0].read(twin.layer), taken)]
    # What changes in a forward pass by itself, and has no gradient, is state.
    state = [group for group in left if id(group) in moved]
    findings.state = [group.name for group in _movers(twin, state)]
    return _movers(twin, [group for group in left if id(group) not in moved])


def _add_from(findings: Findings, left: list[Group], source: Source) -> list[Group]:
    """Add the parameters whose gradients are in a source, by name or in its order; return the rest."""
    keys: dict[int, str] = {}
    for group in left:
        last = [str(place.steps[-1][1]) for place in group.places]
        made = [name for name in map(partial(gradient_name, others=list(source.values)), last) if name is not None]
        likely = [group.name, *last, *made] if source.in_order else made
        for key in filter(source.values.__contains__, likely):
            if np.size(source.values[key]) == np.size(group.value):
                keys.setdefault(id(group), key)
    if source.in_order and not keys:
        keys = _in_order(left, source.values)
    for group in left:
        if id(group) in keys:
            findings.add(group, source.read(keys[id(group)]))
    return [group for group in left if id(group) not in keys]


def _in_order(groups: list[Group], values: Mapping[str, Any]) -> dict[int, str]:
    """Return which value belongs to which array where no name tells: by size, or in the order of a container."""
    sizes, others = [np.size(group.value) for group in groups], {key: np.size(value) for key, value in values.items()}
    if sorted(sizes) != sorted(others.values()):
        return {}
    if len(set(sizes)) == len(sizes):
        return {id(group): key for group in groups for key, size in others.items() if size == np.size(group.value)}
    for group in groups:
        if not any(place.is_under(is_parameter_word) for place in group.places):
            return {}
    return {id(group): key for group, key in zip(groups, values, strict=True)}


def _position_of_below(returned: tuple[Any, ...], inputs: Array) -> int:
    """Return which of the values that backward returns is the gradient for its inputs: as a rule the first."""
    alike = [
        position
        for position, value in enumerate(returned)
        if isinstance(value, np.ndarray) and value.shape == inputs.shape
    ]
    return alike[0] if alike else 0


def _below(
    shape: tuple[int, ...],
    returned: Any,
    position: int,
    updates: Mapping[Place, tuple[int, ...]],
    buffers: Collection[Place],
) -> Read | None:
    """Return how the gradient for the inputs is read: returned, or left in an attribute; None where there is none."""
    if returned is not None:
        return lambda layer, returned: returned[position]
    known = [place for place in updates if place.name in BELOW]
    alike = [place for place in updates if updates[place] == shape and place not in buffers]
    if not known and len(alike) != 1:
        return None
    return lambda layer, returned: (known or alike)[0].read(layer)


def _groups(layer: Any, places: Collection[Place]) -> list[Group]:
    """Return the arrays of floats that stand at some places, each with all of these at which it does."""
    groups: dict[int, Group] = {}
    for place, array in inner_arrays(layer):
        if array.dtype.kind == "f" and array.size and place in places:
            groups.setdefault(id(array), Group([], array.copy())).places.append(place)
    return list(groups.values())


def _moved_by_forward(twin: Twin, groups: Iterable[Group]) -> set[int]:
    """Return the ids of what is another one at all its places after a forward pass."""
    with twin.rewound():
        twin.forward()
        now = dict(inner_arrays(twin.layer))
        moved = set()
        for group in groups:
            if not any(_is_same(group.value, now.get(place)) for place in group.places):
                moved.add(id(group))
        return moved


def _movers(twin: Twin, groups: list[Group]) -> list[Group]:
    """Return the arrays that the outputs depend on."""
    return [group for group in groups if _moves(twin, [group])] if _moves(twin, groups) else []


def _moves(twin: Twin, groups: Iterable[Group]) -> bool:
    """Return whether the outputs are others where some arrays are."""
    values: dict[Place, Any] = {}
    for group in groups:
        values.update(group.elsewhere())
    return bool(values) and twin.responds(values)


def _overlaps(thing: Any, others: Iterable[Any]) -> bool:
    """Return whether an array shares memory with another one."""
    return isinstance(thing, np.ndarray) and any(np.may_share_memory(thing, other) for other in others)


def _is_same(array: Array, other: Array | None) -> bool:
    return other is not None and np.array_equal(array, other, equal_nan=array.dtype.kind == "f")
