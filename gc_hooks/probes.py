"""Where to look: every probe is a straight line through parameter space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator, Params
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
    vector : dict of str to ndarray
        ``v``, for the parameters that the line changes.
    scale : float
        The unit in which steps along this line are chosen; 1 where the vector carries the parameters' own scales.
    """

    vector: Params
    scale: float = 1.0

    def changes(self, point: Params, t: complex) -> dict[str, Array]:
        """The parameters that ``point + t v`` changes."""
        return {
            name: (point[name] + t * v).astype(np.result_type(point[name], type(t)), copy=False)
            for name, v in self.vector.items()
        }

    def realised(self, point: Params, t: float) -> float:
        """The step: rounding of single entries averages out."""
        return t

    def slope(self, grads: Params) -> float:
        """Backprop's slope along this line, ``<v, g>``."""
        return float(sum(np.vdot(v, grads[name]) for name, v in self.vector.items()))


Probe = Entry | Direction
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


def entries(problem: Problem, generator: Generator) -> Iterator[Probe]:
    """Every entry of every parameter that has a gradient: the classic difference is exact.

    Parameters take turns and entries come in random order, so that a check that is cut short by its budget has seen
    something of each. Costs as many slopes as there are parameters: one evaluation each with complex step, about six
    with central differences.
    """
    names = [name for name in problem.grads if problem.point[name].size]
    orders = [generator.permutation(problem.point[name].size) for name in names]
    turns = ([Entry(n, int(i), problem.scales[n]) for i in order] for n, order in zip(names, orders, strict=True))
    return (probe for probe in chain.from_iterable(zip_longest(*turns)) if probe is not None)


def random_direction(problem: Problem, generator: Generator, names: list[str] | None = None) -> Direction:
    """A direction with normal entries, each parameter weighted by its scale (by default through all of them).

    Signs instead of normal entries would lose two equal or exchanged errors one time in two.
    """
    chosen = problem.point if names is None else names
    return Direction(
        {name: problem.scales[name] * generator.standard_normal(problem.point[name].shape) for name in chosen}
    )
