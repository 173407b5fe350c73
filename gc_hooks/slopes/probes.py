"""Where to look: every probe is a straight line through parameter space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.arrays.large import Normals, inner, normals, shifted_within
from gc_hooks.problem import Problem


@dataclass(frozen=True)
class Entry:
    """A line along one entry of one parameter: ``v`` is 1 there and 0 elsewhere.

    Attributes
    ----------
    name : str
    index : int
        Position in the parameter read in C order.
    scale : float
        The unit in which steps along this line are chosen.
    """

    name: str
    index: int
    scale: float

    def changes(self, point: Params, t: complex) -> dict[str, Array]:
        """The parameters that ``point + t v`` changes."""
        array = point[self.name].astype(np.result_type(point[self.name], type(t)), order="C")
        array.reshape(-1)[self.index] += t
        return {self.name: array}

    def realised(self, point: Params, t: float) -> float:
        """The step that floating-point arithmetic really makes."""
        start = point[self.name].reshape(-1)[self.index]
        return float(np.float64(start + start.dtype.type(t)) - np.float64(start))

    def slope(self, grads: Params) -> float:
        """Backprop's slope along this line, ``<v, g>``."""
        return float(grads[self.name].reshape(-1)[self.index])


@dataclass(frozen=True)
class Direction:
    """A line along a vector through one or more parameters.

    Attributes
    ----------
    vector : dict of str to ndarray or Normals
        ``v``, for the parameters that the line changes.
    scale : float
        The unit in which steps along this line are chosen; 1 where the vector carries the parameters' own scales.
    name : str or None
        The parameter that is judged by it; None when it goes through several.
    weights : mapping of str to float
        How far a direction through several parameters goes along each.
    """

    vector: Mapping[str, Array | Normals]
    scale: float = 1.0
    name: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def changes(self, point: Params, t: complex) -> dict[str, Array]:
        """The parameters that ``point + t v`` changes."""
        return {name: _shifted(point[name], t, v) for name, v in self.vector.items()}

    def realised(self, point: Params, t: float) -> float:
        """The step: rounding of single entries averages out."""
        return t

    def slope(self, grads: Params) -> float:
        """Backprop's slope along this line, ``<v, g>``."""
        return float(sum(inner(v, grads[name]) for name, v in self.vector.items()))


def _shifted(array: Array, t: complex, v: Array | Normals) -> Array:
    """``array + t v``; along the imaginary axis the real part stays the array, to the bit."""
    if isinstance(v, Normals):
        return shifted_within(array, t, v)
    if not isinstance(t, complex):
        return (array + t * v).astype(array.dtype, copy=False)
    shifted = np.empty(array.shape, dtype=np.complex128)
    shifted.real = array + t.real * v if t.real else array
    np.multiply(v, t.imag, out=shifted.imag)
    return shifted


Probe = Entry | Direction
Draw = Callable[[Generator, tuple[int, ...], float], "Array | Normals"]
Depth = Callable[[Problem, Generator], "Iterable[Probe]"]


class Line:
    """The loss along a probe, ``phi(t) = loss(params + t v)``: what a method measures.

    Attributes
    ----------
    value : float
        ``phi(0)``.
    """

    def __init__(self, problem: Problem, probe: Probe, term: int = 0) -> None:
        self.problem = problem
        self.probe = probe
        self.term = term
        self.value = problem.values[term]

    def __call__(self, t: complex) -> Any:
        """``phi(t)``, real or complex as ``t`` is: one evaluation of the loss."""
        return self.problem.evaluate(self.term, self.probe.changes(self.problem.point, t))

    def realised(self, t: float) -> float:
        """The step that floating-point arithmetic really makes when ``t`` is asked for."""
        return self.probe.realised(self.problem.point, t)


SMALL = 16
"""Parameters of up to so many entries are measured entry by entry when nothing else is asked for."""
DIRECTIONS, MANY = 1, 500


def automatic(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Small parameters entry by entry, large ones along a random direction each; very many along one through all.

    The loss itself costs in proportion to their number: a direction for each would cost with its square.
    """
    if len(judged(problem)) > MANY:
        return joint(problem, generator)
    small = [name for name in judged(problem) if problem.point[name].size <= SMALL]
    large = [name for name in judged(problem) if problem.point[name].size > SMALL]
    return chain(_all_entries(problem, generator, small), _directions(problem, generator, large))


def entries(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Every entry of every parameter that has a gradient: the classic difference is exact.

    Parameters take turns and entries come in random order, so that a check that is cut short by its budget has seen
    something of each. Costs as many slopes as there are parameters: one evaluation each with complex step, about six
    with central differences.
    """
    return _all_entries(problem, generator, judged(problem))


def per_parameter(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """A random direction in each parameter: its difference is estimated, with bounds that hold with 99 %.

    Costs one slope for each parameter whatever its size; more directions where a residual leaves its error bar or the
    bound is too wide.
    """
    return _directions(problem, generator, judged(problem))


def joint(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """One random direction through all parameters at once: each parameter's difference is bounded from above.

    Costs one slope whatever the network. Where it leaves its error bar, or bounds a parameter too weakly, the check
    opens up into `per_parameter`.
    """
    names = judged(problem)
    return iter([random_direction(problem, generator, names)] if names else [])


def judged(problem: Problem) -> list[str]:
    """The parameters that there is something to measure for."""
    return [name for name in problem.grads if problem.point[name].size]


def _all_entries(problem: Problem, generator: Generator, names: list[str]) -> Iterator[Probe]:
    turns = [_shuffled_entries(problem, generator, name) for name in names]
    return (probe for probe in chain.from_iterable(zip_longest(*turns)) if probe is not None)


def _shuffled_entries(problem: Problem, generator: Generator, name: str) -> Iterator[Entry]:
    order = generator.permutation(problem.point[name].size)
    return (Entry(name, int(index), problem.scales[name]) for index in order)


def _directions(problem: Problem, generator: Generator, names: list[str], count: int = DIRECTIONS) -> Iterator[Probe]:
    return (direction_within(problem, generator, name) for _ in range(count) for name in names)


def direction_within(problem: Problem, generator: Generator, name: str) -> Direction:
    """A direction with normal entries in one parameter."""
    return Direction({name: normals(generator, problem.point[name].shape)}, problem.scales[name], name)


def random_direction(
    problem: Problem, generator: Generator, names: list[str] | None = None, draw: Draw = normals
) -> Direction:
    """A direction with normal entries through several parameters, each with its `joint_weights`.

    Signs instead of normal entries would lose two equal or exchanged errors one time in two.
    """
    weights = joint_weights(problem)
    chosen = list(problem.point) if names is None else names
    vector = {n: draw(generator, problem.point[n].shape, weights[n]) for n in chosen}
    return Direction(vector, weights=weights)


def joint_weights(problem: Problem) -> dict[str, float]:
    """How far a direction through all parameters goes along each: its scale, balanced so that parameters with a small
    gradient are not drowned, by a factor of eight at most (a longer way meets more kinks)."""
    shares = {name: problem.scales[name] * size for name, size in problem.grad_norms.items()}
    usable = [share for share in shares.values() if math.isfinite(share) and share > 0]
    typical = math.hypot(*usable) / math.sqrt(len(usable)) if usable else 1.0
    return {name: scale * _balance(typical, shares.get(name, typical)) for name, scale in problem.scales.items()}


def _balance(typical: float, share: float) -> float:
    return min(max(typical / share, 0.125), 8.0) if math.isfinite(share) and share > 0 else 1.0
