"""What has been measured so far: entries and directions of each parameter, and directions through all of them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import norm
from gc_hooks.problem import Problem
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.estimate import Estimate
from gc_hooks.slopes.probes import Direction, Entry, Probe

SIGNS = 4.5


def typical_slope(probe: Direction, grad_norms: Mapping[str, float]) -> float:
    """Size of a slope along such directions by backprop's account; 0 where that is not finite.

    Examples
    --------
    >>> typical_slope(Direction({"v": np.ones(2), "w": np.ones(2)}), {"v": 3.0, "w": 4.0})
    5.0
    """
    norms = (probe.weights.get(name, 1.0) * grad_norms[name] for name in probe.vector if name in grad_norms)
    size = math.hypot(*norms)
    return size if math.isfinite(size) else 0.0


def given_gradient_error(problem: Problem, probe: Probe) -> float:
    """How far backprop's slope along a probe can be off, by the error bars that were handed in with the gradient.

    The signs of a random direction are independent of the errors: by Hoeffding's inequality their sum leaves
    ``SIGNS`` times its root of squares once in 10,000 directions.
    """
    if isinstance(probe, Entry):
        return float(problem.grad_errors[probe.name].flat[probe.index]) if probe.name in problem.grad_errors else 0.0
    known = [name for name in probe.vector if name in problem.grad_errors]
    parts = [np.abs(probe.vector[name]) * problem.grad_errors[name] for name in known]
    return min(SIGNS * math.hypot(*map(norm, parts)), sum(float(np.sum(part)) for part in parts))


@dataclass(frozen=True)
class Rounding:
    """What the rounding of float64 does to slopes that are exact but for it (those by complex step).

    Attributes
    ----------
    relative : float
        In units of the slope's own size.
    floors : mapping of str to float
        For each parameter, how far rounding moves its whole gradient, as a norm, where terms cancel in it.
    """

    relative: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DirectionalMeasurement:
    """One direction, measured.

    Attributes
    ----------
    probe : Direction
    backprop : float
        Backprop's slope along it.
    slope, error : float
        Over all terms, with its error bar; and with that of the gradient, where one was handed in.
    share : float
        What the penalty contributes, where it was handed in apart; else zero.
    status : Status
    typical : float
        The size of slopes along such directions by backprop's account: a single one may be small by chance.
    """

    probe: Direction
    backprop: float
    slope: float
    error: float
    share: float
    status: Status
    typical: float

    @property
    def residual(self) -> float:
        """Backprop's slope minus the measured one."""
        return self.backprop - self.slope

    def bar(self, rounding: Rounding) -> float:
        """How far the measured slope can be off, with the rounding of what cancels in it."""
        floors = (self.probe.weights.get(name, 1.0) * rounding.floors.get(name, 0.0) for name in self.probe.vector)
        return max(self.error, rounding.relative * self.typical, math.hypot(*floors) if rounding.floors else 0.0)


class MeasuredEntries(NamedTuple):
    """Entries in C order: their positions, backprop's gradient, the slopes, their error bars, the penalty's part."""

    indices: Array
    grad: Array
    slopes: Array
    errors: Array
    shares: Array

    @property
    def away(self) -> Array:
        """How far backprop is from the measured slopes."""
        away: Array = np.abs(self.grad - self.slopes)
        return away


NO_ENTRIES = MeasuredEntries(np.empty(0, dtype=np.intp), *(np.empty(0) for _ in range(4)))


@dataclass
class ParameterMeasurements:
    """The slopes of one parameter.

    Attributes
    ----------
    size : int
        Number of entries.
    indices : array of int
        The entries that were measured, as positions in C order.
    slopes, errors, shares : array of float
        What was measured there: the sum over the terms, its error bar (with the gradient's, where one was handed in),
        and the penalty's part.
    directions : list of Reading
    statuses : Counter of Status
    """

    size: int
    indices: array[int] = field(default_factory=lambda: array("q"))
    slopes: array[float] = field(default_factory=lambda: array("d"))
    errors: array[float] = field(default_factory=lambda: array("d"))
    shares: array[float] = field(default_factory=lambda: array("d"))
    directions: list[DirectionalMeasurement] = field(default_factory=list)
    statuses: Counter[Status] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Whether every entry was measured."""
        return len(self.indices) >= self.size

    def add_entry(self, index: int, slope: float, error: float, share: float, status: Status) -> None:
        """Write down one entry."""
        self.indices.append(index)
        self.slopes.append(slope)
        self.errors.append(error)
        self.shares.append(share)
        self.statuses[status] += 1

    def entries(self, grad: Array) -> MeasuredEntries:
        """The measured entries in C order, beside backprop's gradient: the same however they were measured."""
        if not self.indices:
            return NO_ENTRIES
        order = np.argsort(self.indices, kind="stable")
        indices, slopes, errors, shares = (
            np.asarray(column)[order] for column in (self.indices, self.slopes, self.errors, self.shares)
        )
        return MeasuredEntries(indices, grad.reshape(-1)[indices], slopes, errors, shares)


@dataclass
class Measurements:
    """All that has been measured.

    Attributes
    ----------
    parameters : dict of str to Measured
        For each parameter that has a gradient.
    joint : list of Reading
        Directions through all parameters at once.
    rounding : Rounding
        As measured in this check; none for other methods than complex step.
    """

    parameters: dict[str, ParameterMeasurements]
    joint: list[DirectionalMeasurement] = field(default_factory=list)
    rounding: Rounding = Rounding()

    @classmethod
    def empty(cls, problem: Problem, rounding: Rounding = Rounding()) -> Measurements:
        """Nothing yet."""
        return cls({name: ParameterMeasurements(problem.point[name].size) for name in problem.grads}, rounding=rounding)

    def add(self, problem: Problem, probe: Probe, estimates: list[Estimate]) -> None:
        """Write down one probe: an estimate for each term."""
        total = sum(estimates[1:], start=estimates[0])
        share = sum(estimate.value for estimate in estimates[1:])
        error = total.error + given_gradient_error(problem, probe)
        if isinstance(probe, Entry):
            self.parameters[probe.name].add_entry(probe.index, total.value, error, share, total.status)
            return
        backprop, typical = probe.slope(problem.grads), typical_slope(probe, problem.grad_norms)
        measurement = DirectionalMeasurement(probe, backprop, total.value, error, share, total.status, typical)
        if probe.name is None:
            self.joint.append(measurement)
        else:
            self.parameters[probe.name].directions.append(measurement)
            self.parameters[probe.name].statuses[total.status] += 1

    def merge(self, others: Iterable[Measurements]) -> None:
        """Take over what others have measured."""
        for other in others:
            self.joint.extend(other.joint)
            for name, measured in other.parameters.items():
                mine = self.parameters[name]
                mine.indices.extend(measured.indices)
                mine.slopes.extend(measured.slopes)
                mine.errors.extend(measured.errors)
                mine.shares.extend(measured.shares)
                mine.directions.extend(measured.directions)
                mine.statuses.update(measured.statuses)
