"""Where to look: every probe is a straight line through parameter space, and a depth chooses the probes of a check."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, zip_longest
from typing import Any, TypeAlias

import numpy as np

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.arrays.large import LARGE, Normals, inner, normals, shifted_within
from gc_hooks.numerics import MANY, SMALL
from gc_hooks.problem import Parameter, Problem


@dataclass(frozen=True)
class Entry:
    """A line along one entry of one parameter: the vector v is 1 there and 0 elsewhere."""

    name: str  # the parameter
    index: int  # position in the parameter, read in C order
    scale: float  # the unit in which steps along this line are chosen

    def changes(self, point: Params, t: complex) -> dict[str, Array]:
        """Return the parameter at ``point + t v``."""
        array = point[self.name].astype(np.result_type(point[self.name], type(t)), order="C")
        array.reshape(-1)[self.index] += t
        return {self.name: array}

    def realised(self, point: Params, t: float) -> float:
        """Return the step that floating-point arithmetic really makes."""
        start = point[self.name].reshape(-1)[self.index]
        return float(np.float64(start + start.dtype.type(t)) - np.float64(start))

    def slope(self, grads: Params) -> float:
        """Return backprop's slope along this line, ``<v, g>``."""
        return float(grads[self.name].reshape(-1)[self.index])


@dataclass(frozen=True)
class Direction:
    """A line along a vector through one or more parameters."""

    vector: Mapping[str, Array | Normals]  # the vector v, for the parameters that the line changes
    # The unit in which steps along this line are chosen; 1 where the vector carries the parameters' own scales.
    scale: float = 1.0
    name: str | None = None  # the parameter that is judged by it; None where it goes through several
    # How far a direction through several parameters goes along each.
    weights: Mapping[str, float] = field(default_factory=dict)

    def changes(self, point: Params, t: complex) -> dict[str, Array]:
        """Return the parameters at ``point + t v``; with an imaginary t the real part stays the point, to the bit."""
        changed = {}
        for name, v in self.vector.items():
            array = point[name]
            if isinstance(v, Normals):
                changed[name] = shifted_within(array, t, v)
            elif not isinstance(t, complex):
                changed[name] = (array + t * v).astype(array.dtype, copy=False)
            else:
                shifted = np.empty(array.shape, dtype=np.complex128)
                shifted.real = array + t.real * v if t.real else array
                np.multiply(v, t.imag, out=shifted.imag)
                changed[name] = shifted
        return changed

    def realised(self, point: Params, t: float) -> float:
        return t  # the rounding of single entries averages out

    def slope(self, grads: Params) -> float:
        total = 0.0
        for name, v in self.vector.items():
            total += inner(v, grads[name]) if isinstance(v, Normals) else float(np.vdot(v, grads[name]))
        return total


Probe: TypeAlias = Entry | Direction
Draw: TypeAlias = Callable[[Generator, tuple[int, ...], float], "Array | Normals"]
Depth: TypeAlias = Callable[[Problem, Generator], "Iterable[Probe]"]
"""``(problem, generator) -> probes``: the lines along which a check measures."""


@dataclass(frozen=True, eq=False)
class Line:
    """One term of the loss along a probe, ``phi(t) = loss(params + t v)``: what a method measures."""

    problem: Problem
    probe: Probe
    term: int = 0

    @property
    def value(self) -> float:
        return self.problem.values[self.term]

    def __call__(self, t: complex) -> Any:
        """Return ``phi(t)``, real or complex as ``t`` is: one evaluation of the loss."""
        return self.problem.evaluate(self.term, self.probe.changes(self.problem.point, t))

    def realised(self, t: float) -> float:
        return self.probe.realised(self.problem.point, t)


def automatic(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Measure small parameters entry by entry, large ones along a direction each, very many along one through all."""
    if len(problem.judged) > MANY:
        return joint(problem, generator)
    small: list[Parameter] = []
    large: list[Parameter] = []
    for parameter in problem.judged:
        (small if parameter.value.size <= SMALL else large).append(parameter)
    # The large ones first, in one look each: a budget that ends early has then seen something of every parameter.
    return chain(_directions(large, generator), _entries_in_turns(small, generator))


def entries(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Measure every entry of every parameter that has a gradient: the classic difference is then exact.

    Parameters take turns and entries come in random order, so that a check that is cut short by its budget has measured
    something of each. Costs as many slopes as there are entries: one evaluation each with complex step, about six with
    central differences.
    """
    return _entries_in_turns(problem.judged, generator)


def per_parameter(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Measure a random direction in each parameter: its difference is estimated, with bounds that hold with 99 %.

    Costs one slope for each parameter whatever its size; more directions where a residual leaves its error or the
    bound is too wide.
    """
    return _directions(problem.judged, generator)


def joint(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Measure one random direction through all parameters at once: each parameter's difference is bounded from above.

    Costs one slope whatever the network. Where it leaves its error, or bounds a parameter too weakly, the check
    continues as `per_parameter`.
    """
    names = [parameter.name for parameter in problem.judged]
    return iter([random_direction(problem, generator, names)] if names else [])


def _entries_in_turns(parameters: Sequence[Parameter], generator: Generator) -> Iterator[Probe]:
    turns = []
    for parameter in parameters:
        order = map(int, generator.permutation(parameter.value.size))
        turns.append(map(partial(Entry, parameter.name, scale=parameter.scale), order))
    return filter(None, chain.from_iterable(zip_longest(*turns)))


def _directions(parameters: Iterable[Parameter], generator: Generator) -> Iterator[Probe]:
    for parameter in parameters:
        yield direction_within(parameter, generator)


def direction_within(parameter: Parameter, generator: Generator) -> Direction:
    """Return a direction with normal entries in one parameter."""
    return Direction({parameter.name: _normals(generator, parameter.value.shape)}, parameter.scale, parameter.name)


def random_direction(
    problem: Problem,
    generator: Generator,
    names: Iterable[str] | None = None,
    draw: Draw | None = None,
    weights: Mapping[str, float] | None = None,
) -> Direction:
    """Return a direction with normal entries through several parameters, by default all, weighted by `joint_weights`.

    Entries of +1 and -1 would miss two equal or two exchanged errors one time in two: their residuals cancel. Normal
    entries cancel with probability zero.
    """
    if weights is None:
        weights = joint_weights(problem)
    vector = {}
    for name in problem.point if names is None else names:
        vector[name] = (draw or _normals)(generator, problem.by_name[name].value.shape, weights[name])
    return Direction(vector, weights=weights)


def _normals(generator: Generator, shape: tuple[int, ...], factor: float = 1.0) -> Array | Normals:
    if math.prod(shape) >= LARGE:
        return normals(generator, shape, factor)
    return np.asarray(factor * generator.standard_normal(shape))


def joint_weights(problem: Problem) -> dict[str, float]:
    """Return how far a direction through all parameters goes along each: its scale, balanced by its gradient.

    The balance gives a parameter with a small gradient a longer way, so that others do not drown it; by a factor of
    eight at most, because a longer way meets more kinks.
    """
    contributions = {p.name: p.scale * p.gradient_norm for p in problem.parameters if p.gradient is not None}
    usable = [size for size in contributions.values() if math.isfinite(size) and size > 0]
    typical = math.hypot(*usable) / math.sqrt(len(usable)) if usable else 1.0
    weights = {}
    for parameter in problem.parameters:
        contribution = contributions.get(parameter.name, typical)
        balance = 1.0
        if math.isfinite(contribution) and contribution > 0:
            balance = min(max(typical / contribution, 0.125), 8.0)
        weights[parameter.name] = parameter.scale * balance
    return weights
