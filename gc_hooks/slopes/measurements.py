"""What has been measured so far: entries and directions of each parameter, and directions through all of them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.arrays.norms import BLOCK, distance, norm, root_mean_square
from gc_hooks.numerics import ASSUMED_ROUNDING, EPS, SIGNS
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
    turns: bool = False  # whether these are moves to other sides of kinks, which do not grow with rounding


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


def _largest(residuals: Array, most: int) -> Array:
    """Return the places of the largest, the largest first; what is not finite is larger than all."""
    if most == 1:
        return np.array([np.argmax(residuals)])
    if not math.isfinite(np.sum(residuals)):
        residuals = np.nan_to_num(residuals, nan=math.inf, posinf=math.inf)
    places = np.arange(residuals.size)
    if residuals.size > most:
        places = np.flatnonzero(residuals >= np.partition(residuals, -most)[-most])
    return places[np.argsort(-residuals[places], kind="stable")][:most]


@dataclass(frozen=True)
class MeasuredEntries:
    """Measured entries in C order: positions, backprop's gradient, slopes, their errors, and the penalty's part."""

    indices: Any  # an array, or a range
    grad: Array
    slopes: Array
    own_errors: Array
    penalties: Array  # may be empty where there is no penalty
    relative: float = 0.0  # how far each slope can be off beside its own error, in units of its size

    @property
    def errors(self) -> Array:
        """Return how far each slope can be off."""
        return np.asarray(self.own_errors + self.relative * np.abs(self.slopes)) if self.relative else self.own_errors

    @property
    def residuals(self) -> Array:
        """Return how far backprop is from the slopes."""
        return np.asarray(np.abs(self.grad - self.slopes))

    @cached_property
    def residual(self) -> float:
        """Return the norm of that."""
        return distance(self.grad, self.slopes)

    def blocks(self) -> Iterator[tuple[int, MeasuredEntries]]:
        """Yield the same in blocks, each with where it begins."""
        for start in range(0, self.grad.size, BLOCK):
            part = slice(start, start + BLOCK)
            errors, penalties = self.own_errors[part], self.penalties[part]
            columns = self.indices[part], self.grad[part], self.slopes[part], errors, penalties
            yield start, MeasuredEntries(*columns, self.relative)

    def wrong(self, good: float) -> Array:
        """Return the places among these of entries that are certainly wrong: beyond their error, by more than the good
        band."""
        places = [np.zeros(0, np.intp)]
        for start, block in self.blocks():
            residuals, slopes = block.residuals, np.abs(block.slopes)
            if np.any(residuals > good * slopes):  # as few are
                band = block.own_errors + good * np.abs(block.grad) + (good + self.relative) * slopes
                places.append(start + np.flatnonzero(residuals > band))
        return np.concatenate(places)

    def worst(self, most: int) -> Array:
        """Return the places of the largest residuals that are not zero, the largest first."""
        if not self.grad.size:
            return np.zeros(0, np.intp)
        places = np.arange(self.grad.size)
        if places.size > BLOCK:  # they stand in those blocks of which the largest is largest
            heights = np.array([np.max(block.residuals) for _, block in self.blocks()])
            blocks = np.sort(_largest(heights, most))
            places = (BLOCK * blocks[:, np.newaxis] + np.arange(BLOCK)).ravel()
            places = places[places < self.grad.size]
        residuals = np.abs(self.grad[places] - self.slopes[places])
        return places[_largest(residuals, most)[: np.count_nonzero(residuals)]]

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
    # The entries that were measured, as positions in C order, in the order in which they were measured; all of them, as
    # a range, where a reference has given them.
    indices: Any = field(default_factory=lambda: array("q"))
    # Their slopes over all terms, how far these can be off (with the error of the gradient, where one was handed in),
    # and the penalty's part. A reference gives arrays of NumPy; without a penalty its part is empty.
    slopes: Any = field(default_factory=lambda: array("d"))
    errors: Any = field(default_factory=lambda: array("d"))
    penalties: Any = field(default_factory=lambda: array("d"))
    relative: float = 0.0  # how far each slope can be off beside that, in units of its size
    directions: list[DirectionalMeasurement] = field(default_factory=list)
    statuses: Counter[Status] = field(default_factory=Counter)

    @cached_property
    def traced_norm(self) -> float:
        """Return the norm of the slopes that a reference has given, which do not change any more."""
        return norm(self.slopes)

    @property
    def complete(self) -> bool:
        """Return whether every entry was measured."""
        return len(self.indices) >= self.size

    @property
    def is_traced(self) -> bool:
        """Return whether a reference has given all entries, in C order."""
        return isinstance(self.indices, range)

    def of_measured(self, array: Array) -> Array:
        """Return the entries of an array of the parameter's shape that were measured, in the order of the slopes."""
        flat = array.reshape(-1)
        return flat if self.is_traced else flat[np.array(self.indices, dtype=np.intp)]

    def entries(self, grad: Array) -> MeasuredEntries:
        """Return the measured entries in C order, however they were measured, beside backprop's gradient."""
        if self.is_traced:
            flat = grad.reshape(-1)
            return MeasuredEntries(self.indices, flat, self.slopes, self.errors, self.penalties, self.relative)
        order = np.argsort(np.asarray(self.indices), kind="stable")
        indices = np.asarray(self.indices, dtype=np.intp)[order]
        slopes, errors, penalties = np.array([self.slopes, self.errors, self.penalties], dtype=np.float64)[:, order]
        return MeasuredEntries(indices, grad.reshape(-1)[indices], slopes, errors, penalties)


@dataclass
class Measurements:
    """Everything that has been measured."""

    parameters: dict[str, ParameterMeasurements]  # for each parameter that has a gradient
    joint: list[DirectionalMeasurement] = field(default_factory=list)  # directions through all parameters at once
    rounding: Rounding = Rounding()  # as measured in this check; zero for methods that are not exact
    is_traced: bool = False  # whether every entry is known from a reference
    precision: float = EPS  # machine epsilon of the arithmetic in which slopes were measured, as far as it showed

    @classmethod
    def empty(cls, problem: Problem, rounding: Rounding = Rounding()) -> Measurements:
        """Return measurements of a problem of which nothing has been measured yet."""
        return cls({name: ParameterMeasurements(grad.size) for name, grad in problem.grads.items()}, rounding=rounding)

    @classmethod
    def of_all_entries(cls, problem: Problem, slopes: Params, penalties: Params, precision: float) -> Measurements:
        """Return measurements with every entry known up to rounding in a precision, and the penalty's part of each."""
        measurements = cls.empty(problem)
        measurements.is_traced, measurements.precision = True, max(precision, problem.precision, EPS)
        for name, measured in measurements.parameters.items():
            given_errors = problem.gradient_errors.get(name, np.zeros(()))
            measured.indices, measured.relative = range(measured.size), ASSUMED_ROUNDING
            measured.slopes = slopes[name].reshape(-1)
            measured.errors = np.broadcast_to(given_errors, slopes[name].shape).reshape(-1)
            measured.penalties = penalties.get(name, np.zeros(0)).reshape(-1)
        return measurements

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
            self.precision = max(self.precision, other.precision)
            self.joint.extend(other.joint)
            for name, theirs in other.parameters.items():
                mine = self.parameters[name]
                mine.indices.extend(theirs.indices)
                mine.slopes.extend(theirs.slopes)
                mine.errors.extend(theirs.errors)
                mine.penalties.extend(theirs.penalties)
                mine.directions.extend(theirs.directions)
                mine.statuses.update(theirs.statuses)
