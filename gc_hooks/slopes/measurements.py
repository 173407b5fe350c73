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
from gc_hooks.arrays.norms import norm, root_mean_square
from gc_hooks.numerics import SIGNS
from gc_hooks.problem import Problem
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.methods import Estimate
from gc_hooks.slopes.probes import Direction, Entry, Probe


def typical_slope(problem: Problem, probe: Direction) -> float:
    """Return the size of slopes along such directions by backprop's account; 0 where that is not finite.

    Along a vector with normal entries of size w in a parameter with gradient g, the slope has standard deviation
    ``w ||g||``; a single one may be small by chance.
    """
    size = 0.0
    for name in probe.vector:
        if name in problem.grads:
            size = math.hypot(size, probe.weights.get(name, 1.0) * problem.by_name[name].gradient_norm)
    return size if math.isfinite(size) else 0.0


def given_gradient_error(problem: Problem, probe: Probe) -> float:
    """Return how far backprop's slope along a probe can be off, by the errors that were handed in with the gradient.

    The signs of a random direction are independent of the errors, so that `SIGNS` times the root of the sum of squares
    bounds their sum, as the sum of their sizes does.
    """
    if isinstance(probe, Entry):
        errors = problem.gradient_errors.get(probe.name)
        return 0.0 if errors is None else float(errors.flat[probe.index])
    root, total = 0.0, 0.0
    for name, vector in probe.vector.items():
        errors = problem.gradient_errors.get(name)
        if errors is not None:
            part = np.abs(vector) * errors
            root = math.hypot(root, norm(part))
            total += float(np.sum(part))
    return min(SIGNS * root, total)


@dataclass(frozen=True)
class Rounding:
    """The rounding of float64 in slopes by an exact method (complex step)."""

    relative: float = 0.0  # in units of the slope's own size
    # For each parameter, how far rounding moves its whole gradient, as a norm, where terms cancel in it.
    floors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DirectionalMeasurement:
    """The slope along one direction."""

    probe: Direction
    backprop: float  # backprop's slope along it
    # The measured slope over all terms, and how far it can be off; with the error of the gradient, where one was handed
    # in.
    slope: float
    error: float
    penalty: float  # the penalty's part of the slope, where it was handed in separately; else zero
    status: Status
    typical: float  # as `typical_slope` returns it

    @property
    def residual(self) -> float:
        """Return backprop's slope minus the measured one."""
        return self.backprop - self.slope

    def total_error(self, rounding: Rounding) -> float:
        """Return how far the measured slope can be off, with the rounding of what cancels in it."""
        error = max(self.error, rounding.relative * self.typical)
        if rounding.floors:
            floor = 0.0
            for name in self.probe.vector:
                floor = math.hypot(floor, self.probe.weights.get(name, 1.0) * rounding.floors.get(name, 0.0))
            error = max(error, floor)
        return error


class MeasuredEntries(NamedTuple):
    """Measured entries in C order: positions, backprop's gradient, slopes, their errors, and the penalty's part.

    ``residuals`` is how far backprop is from the slopes.
    """

    indices: Array
    grad: Array
    slopes: Array
    errors: Array
    penalties: Array
    residuals: Array

    def are_wrong(self, good: float) -> Array:
        """Return which entries are certainly wrong: beyond their error, by more than the good band."""
        return np.asarray(self.residuals > self.errors + good * (np.abs(self.grad) + np.abs(self.slopes)))

    def total_errors(self, rounding: Rounding, floor: float) -> Array:
        """Return how far each slope can be off, with the rounding of what cancels in it.

        ``floor`` is what rounding does to each slope where terms cancel. What is typical is judged for the data's part
        and for the penalty's part on their own, because these two may cancel each other.
        """
        data = self.slopes - self.penalties
        typical = math.hypot(root_mean_square(data), root_mean_square(self.penalties))
        errors: Array = np.maximum(self.errors, max(floor, rounding.relative * typical))
        return errors


@dataclass
class ParameterMeasurements:
    """The slopes of one parameter."""

    size: int  # number of entries of the parameter
    # The entries that were measured, as positions in C order, in the order in which they were measured.
    indices: array[int] = field(default_factory=lambda: array("q"))
    # Their slopes over all terms, how far these can be off (with the error of the gradient, where one was handed in),
    # and the penalty's part.
    slopes: array[float] = field(default_factory=lambda: array("d"))
    errors: array[float] = field(default_factory=lambda: array("d"))
    penalties: array[float] = field(default_factory=lambda: array("d"))
    directions: list[DirectionalMeasurement] = field(default_factory=list)
    statuses: Counter[Status] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Return whether every entry was measured."""
        return len(self.indices) >= self.size

    def entries(self, grad: Array) -> MeasuredEntries:
        """Return the measured entries in C order, however they were measured, beside backprop's gradient."""
        order = np.argsort(np.asarray(self.indices), kind="stable")
        indices = np.asarray(self.indices, dtype=np.intp)[order]
        slopes, errors, penalties = np.array([self.slopes, self.errors, self.penalties], dtype=np.float64)[:, order]
        chosen = grad.reshape(-1)[indices]
        return MeasuredEntries(indices, chosen, slopes, errors, penalties, np.abs(chosen - slopes))


@dataclass
class Measurements:
    """Everything that has been measured."""

    parameters: dict[str, ParameterMeasurements]  # for each parameter that has a gradient
    joint: list[DirectionalMeasurement] = field(default_factory=list)  # directions through all parameters at once
    rounding: Rounding = Rounding()  # as measured in this check; zero for methods that are not exact

    @classmethod
    def empty(cls, problem: Problem, rounding: Rounding = Rounding()) -> Measurements:
        """Return measurements of a problem of which nothing has been measured yet."""
        return cls({name: ParameterMeasurements(grad.size) for name, grad in problem.grads.items()}, rounding=rounding)

    def add(self, problem: Problem, probe: Probe, total: Estimate, penalty: float = 0.0) -> None:
        """Add the slope along one probe: the estimate over all terms, and the penalty's part of it."""
        error = total.error + given_gradient_error(problem, probe)
        if isinstance(probe, Entry):
            measured = self.parameters[probe.name]
            measured.indices.append(probe.index)
            measured.slopes.append(total.value)
            measured.errors.append(error)
            measured.penalties.append(penalty)
            measured.statuses[total.status] += 1
            return
        backprop, typical = probe.slope(problem.grads), typical_slope(problem, probe)
        measurement = DirectionalMeasurement(probe, backprop, total.value, error, penalty, total.status, typical)
        if probe.name is None:
            self.joint.append(measurement)
        else:
            self.parameters[probe.name].directions.append(measurement)
            self.parameters[probe.name].statuses[total.status] += 1

    def merge(self, others: Iterable[Measurements]) -> None:
        """Add what was measured elsewhere."""
        for other in others:
            self.joint.extend(other.joint)
            for name, theirs in other.parameters.items():
                mine = self.parameters[name]
                mine.indices.extend(theirs.indices)
                mine.slopes.extend(theirs.slopes)
                mine.errors.extend(theirs.errors)
                mine.penalties.extend(theirs.penalties)
                mine.directions.extend(theirs.directions)
                mine.statuses.update(theirs.statuses)
