"""All that a rule sees of a check: failing parameters, gradients, measured slopes, and whether a repair would pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import inner
from gc_hooks.arrays.norms import is_vector, norm
from gc_hooks.problem import Parameter
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes.instrument import beside
from gc_hooks.slopes.measurements import DirectionalMeasurement, ParameterMeasurements
from gc_hooks.tracing.slips import Slip, find_slip
from gc_hooks.verdicts.compare import compare_parameter, whole_norm
from gc_hooks.verdicts.session import Session

REDUCTION = 10.0
"""A repair counts if it reduces the difference at least by this factor: it may be GOOD, or within the errors where they
are too wide for that (a loss that computes in float32). With a smaller factor a fit of one free number is a repair."""


BIAS, WEIGHT = r"b([\d_]|$)|.*bias|beta|offset|intercept", r"w|theta|kernel|coef"
"""How the names of biases and of weights begin. What has neither is a bias if it stands beside a matrix."""

NOTHING = 1e-13
"""Part of the largest gradient that is rounding: of a bias in front of a normalisation nothing else is left."""
FAR = 0.3
"""How far parameters are moved, in units of their scales, to see whether backprop moves with them."""

MOST_ROWS = 4096
"""Slopes that a fit uses, evenly spread: a repair is tried on all of them afterwards."""


def is_several(slopes: Array) -> bool:
    """Return whether at least two slopes are not zero."""
    return bool(np.count_nonzero(slopes[:MOST_ROWS]) > 1 or np.count_nonzero(slopes) > 1)


def layer_of(name: str, by_kind: bool = False) -> str:
    """Return the layer of a parameter: what stands before the last dot, or the number in its name.

    In a list of all weights, ``W.0``, it is the position; with ``by_kind`` also where the lists themselves stand in a
    list, ``[Ws, bs]``, and not ``[(W, b), ...]``.

    >>> layer_of("W1"), layer_of("b1"), layer_of("dense1.W"), layer_of("embedding")
    ('1', '1', 'dense1', 'embedding')
    >>> layer_of("W.0"), layer_of("net.b.1"), layer_of("1.0"), layer_of("1.0", by_kind=True)
    ('0', 'net.1', '1', '0')
    """
    stem, _, last = name.rpartition(".")
    parent, dot, kind = stem.rpartition(".")
    if stem and last.isdecimal() and (by_kind or not kind.isdecimal()):
        return f"{parent}{dot}{last}"
    return stem or next(iter(re.findall(r"\d+", last)), last)


@dataclass(frozen=True)
class RuleContext:
    """A finished check as a rule may look at it: rules call these methods, and read nothing else of the check.

    A slope is that of an entry or of a random direction. All arrays of slopes have the same order: the entries as they
    were measured, then the directions.
    """

    session: Session
    comparisons: Mapping[str, Comparison]
    constants: Mapping[str, float]  # numbers that the user's problem knows: the batch size, a keep probability
    explained: set[str] = field(default_factory=set)  # the parameters for which an earlier rule has found a bug

    # Which parameters there are, in the order in which the user gave them.

    @property
    def names(self) -> list[str]:
        """Return all parameters."""
        return list(self.comparisons)

    @property
    def usable(self) -> list[str]:
        """Return the parameters that have a gradient of the right shape."""
        return list(self.session.problem.grads)

    @property
    def nonzero(self) -> list[str]:
        """Return the parameters whose gradient is not zero, as far as rounding tells."""
        whole = max(map(self.gradient_norm, self.usable), default=0.0)
        return [name for name in self.usable if self.gradient_norm(name) > NOTHING * whole]

    @property
    def failing(self) -> list[str]:
        """Return the parameters whose gradient can be used and disagrees with the measured slopes."""
        return [name for name in self.usable if self.comparisons[name].is_accused and not self._parameter(name).issue]

    @property
    def unexplained(self) -> list[str]:
        """Return the failing parameters for which no earlier rule has found a bug."""
        return [name for name in self.failing if name not in self.explained]

    def is_bias(self, name: str) -> bool:
        """Return whether a parameter is a bias: a vector with the name of one, or beside a matrix of its layer."""
        if not is_vector(self.value(name)):
            return False
        last = name.rpartition(".")[2]
        if re.match(BIAS, last, re.IGNORECASE):
            return True
        matrices = [other for other in self.names if self.value(other).ndim > 1 and not is_vector(self.value(other))]
        return not re.match(WEIGHT, last, re.IGNORECASE) and any(
            self._layer_of(other) == self._layer_of(name) for other in matrices
        )

    @property
    def layers(self) -> dict[str, list[str]]:
        """Return the parameters that have a gradient by their layers, in the order in which they were handed in."""
        concerned = {*self.failing, *self.nonzero}
        layers: dict[str, list[str]] = {}
        for name in self.names:
            if name in concerned:
                layers.setdefault(self._layer_of(name), []).append(name)
        return layers

    def _layer_of(self, name: str) -> str:
        return layer_of(name, self._lists_are_kinds)

    @cached_property
    def _lists_are_kinds(self) -> bool:
        """Return whether lists in a list hold the weights of all layers, or the biases of all layers: ``[Ws, bs]``."""
        kinds: dict[str, set[bool]] = {}
        for name in self.names:
            stem, _, last = name.rpartition(".")
            if last.isdecimal() and stem.rpartition(".")[2].isdecimal():
                kinds.setdefault(stem, set()).add(is_vector(self.value(name)))
        return {frozenset(kind) for kind in kinds.values()} == {frozenset([False]), frozenset([True])}

    # What the check found for one parameter.

    def comparison(self, name: str) -> Comparison:
        """Return the difference, its error and the verdict."""
        return self.comparisons[name]

    def is_wrong(self, name: str) -> bool:
        """Return whether the verdict is DOUBLE_CHECK or WORRY."""
        return self.comparisons[name].verdict > Verdict.INCONCLUSIVE

    def is_right(self, name: str) -> bool:
        """Return whether the gradient was compared with slopes that are not zero, and is GOOD."""
        comparison = self.comparisons[name]
        return comparison.verdict is Verdict.GOOD and comparison.reason is not Reason.NO_GRADIENT

    def is_partly_right(self, name: str) -> bool:
        """Return whether an entry is right that is not zero."""
        slopes, (wrong, _) = self.measured_gradient(name), self.wrong_entries(name)
        return slopes is not None and bool(np.any(np.delete(slopes.reshape(-1), wrong)))

    def issues(self, code: Code) -> dict[str, str]:
        """Return the parameters whose gradient has an issue that was known before any slope, and what it is."""
        found = {}
        for parameter in self.session.problem:
            if parameter.issue is not None and parameter.issue.code == code:
                found[parameter.name] = parameter.issue.text
        return found

    # What backprop says, and what was measured.

    def value(self, name: str) -> Array:
        """Return the parameter itself."""
        return self._parameter(name).value

    def gradient(self, name: str) -> Array:
        """Return backprop's gradient, in the shape of the parameter."""
        return self.session.problem.grads[name]

    def gradient_norm(self, name: str) -> float:
        """Return the norm of backprop's gradient."""
        return self._parameter(name).gradient_norm

    def slopes(self, name: str) -> Array:
        """Return the measured slopes."""
        return self._with_directions(name, self._measured(name).slopes, lambda direction: direction.slope)

    def penalty_slopes(self, name: str) -> Array:
        """Return the penalty's part of each slope; zeros, or nothing, where no penalty was handed in separately."""
        return self._with_directions(name, self._measured(name).penalties, lambda direction: direction.penalty)

    def slopes_of(self, array: Array, name: str) -> Array:
        """Return the slopes that would have been measured if the array were the true gradient of a parameter."""
        entries = self._measured(name).of_measured(array)
        return self._with_directions(name, entries, lambda direction: inner(direction.probe.vector[name], array))

    def errors(self, name: str, chosen: slice = slice(None)) -> Array:
        """Return the error of each slope, or of chosen ones; never zero, so that slopes can be weighted by them."""
        measured, rounding = self._measured(name), self.session.measurements.rounding
        # Rounding moves the gradient by a known norm; spread evenly, each entry gets this much of it.
        floor = rounding.floors.get(name, 0.0) / math.sqrt(max(measured.size, 1))
        slopes = np.abs(self.slopes(name)[chosen])
        if measured.is_traced:
            errors = np.maximum(measured.errors[chosen] + measured.relative * slopes, floor)
        else:
            entries = np.maximum(np.array(measured.errors), floor)
            errors = self._with_directions(name, entries, lambda direction: direction.total_error(rounding))[chosen]
        # The error of an exact slope may be 0, which cannot weigh: 45 roundings of the largest slope stand for it.
        largest = float(np.max(slopes, initial=0.0))
        return np.asarray(np.maximum(errors, 1e-14 * largest + 1e-300))

    def measured_gradient(self, name: str) -> Array | None:
        """Return the slopes in the shape of the parameter; None where not every entry was measured."""
        measured, gradient = self._measured(name), self.gradient(name)
        if not measured.complete:
            return None
        return np.asarray(measured.entries(gradient).slopes.reshape(gradient.shape))

    def wrong_entries(self, name: str) -> tuple[Array, Array]:
        """Return the positions in C order of the measured entries that are wrong, and the slopes measured there."""
        entries = self._measured(name).entries(self.gradient(name))
        wrong = entries.wrong(self.session.tolerance.good)
        return wrong if isinstance(entries.indices, range) else entries.indices[wrong], entries.slopes[wrong]

    def _parameter(self, name: str) -> Parameter:
        return self.session.problem[name]

    def _measured(self, name: str) -> ParameterMeasurements:
        return self.session.measurements.parameters[name]

    def _with_directions(
        self, name: str, entries: Sequence[float] | Array, figure: Callable[[DirectionalMeasurement], float]
    ) -> Array:
        """Return the figures of all measured entries, then those of the directions."""
        measured = self._measured(name)
        if measured.complete:  # directions would add nothing
            return np.asarray(entries, dtype=np.float64)  # long double has no solver
        return np.concatenate([entries, list(map(figure, measured.directions))], dtype=np.float64)

    # What another gradient would be worth.

    def fit(self, name: str, target: Array, *arrays: Array, less: Array | None = None) -> Array:
        """Return the coefficients with which a sum of arrays has the slopes ``target``, by weighted least squares.

        ``less`` are slopes that are taken off from the target. NaN where the weighted slopes are no numbers.
        """
        every = [self.slopes_of(array, name) for array in arrays]
        chosen = slice(None, None, max(1, len(target) // MOST_ROWS))
        if not all(np.any(one[chosen]) for one in every):  # they lie elsewhere
            chosen = slice(None)
        errors = self.errors(name, chosen)
        columns = np.stack([one[chosen] / errors for one in every], axis=1)
        wanted = target[chosen] if less is None else target[chosen] - less[chosen]
        wanted = wanted / errors
        if not (np.all(np.isfinite(columns)) and np.all(np.isfinite(wanted))):  # beyond the range of numbers
            return np.full(len(arrays), np.nan)
        return np.asarray(np.linalg.lstsq(columns, wanted, rcond=None)[0])

    def compare_repaired(self, name: str, gradient: Array) -> Comparison:
        """Return the comparison of another gradient for this parameter with the same slopes; nothing is measured."""
        session, measured = self.session, self._measured(name)
        directions = [replace(d, backprop=d.probe.slope({name: gradient})) for d in measured.directions]
        alone = {name: replace(measured, directions=directions)}
        measurements = replace(session.measurements, parameters=alone, joint=[])
        parameter = replace(self._parameter(name), gradient=gradient, issue=None)
        total_norm = self._total_norm
        return compare_parameter(session.problem, parameter, measurements, session.tolerance, total_norm, details=False)

    @cached_property
    def _total_norm(self) -> float:
        return whole_norm(self.session.problem, self.session.measurements)

    def try_repair(self, name: str, *arrays: Array, by: Callable[..., Array] = np.asarray) -> Comparison | None:
        """Return the comparison of a repaired gradient if it passes, else None.

        The gradient is what ``by`` makes of arrays, entry by entry: of a large parameter a sample is tried first.
        """
        if arrays[0].shape != self.gradient(name).shape or self._shows_in_a_sample(name, arrays, by):
            return None
        gradient = by(*arrays)
        if not np.all(np.isfinite(gradient)):
            return None
        comparison = self.compare_repaired(name, gradient)
        # Nothing remains but rounding, where the parameter has no influence on the loss.
        negligible = self.session.tolerance.good * self.gradient_norm(name)
        is_zero = norm(gradient) <= negligible and not np.any(self.slopes(name))
        # The slopes are too inexact for GOOD, but what was wrong is gone.
        before, at_most = self.comparison(name).difference, comparison.difference + comparison.error
        undecided = comparison.verdict is Verdict.INCONCLUSIVE and comparison.at_least == 0
        reduced = undecided and REDUCTION * at_most <= before
        passes = comparison.verdict is Verdict.GOOD and REDUCTION * comparison.difference <= before
        return comparison if passes or is_zero or reduced else None

    def _shows_in_a_sample(self, name: str, arrays: tuple[Array, ...], by: Callable[..., Array]) -> bool:
        """Return whether a sample of a large parameter shows that a repair does not fit.

        A sample that meets none of the entries that are wrong shows nothing.
        """
        measured, size = self._measured(name), arrays[0].size
        if not measured.complete or size <= MOST_ROWS:
            return False
        sample = slice(None, None, size // MOST_ROWS)
        slopes = measured.entries(self.gradient(name)).slopes[sample]
        now, repaired = self.gradient(name).flat[sample], by(*(array.flat[sample] for array in arrays))
        before, left = norm(now - slopes), norm(repaired - slopes)
        meets_what_is_wrong = REDUCTION * before > self.comparison(name).difference * (norm(now) + norm(slopes))
        return meets_what_is_wrong and left > before / 2

    def gradient_stands_still(self) -> bool:
        """Return whether backprop gives the same gradient beside the point, where the true one is another.

        Costs one evaluation, one that is traced, and one gradient.
        """
        session = self.session
        problem = session.problem
        if problem.backprop is None or session.reference is None:
            return False
        with suppress(Exception):  # a loss may not be defined there, or not traceable
            # Far enough that thresholds, and the signs of errors, come out otherwise.
            moved = problem.at(beside(problem, session.generator, FAR).point)
            true = session.reference.tracer.trace(moved).gradients
            if all(np.array_equal(true[name], session.reference.gradients[name]) for name in self.usable):
                return False
            return all(np.array_equal(moved.grads[name], self.gradient(name)) for name in self.usable)
        return False

    def find_slip(self, names: Sequence[str]) -> Slip | None:
        """Return the one mistake in a backward pass that explains the gradients of some parameters, if there is one."""
        session = self.session
        if session.reference is None or not session.reference.tracer.has_tape:
            return None
        backprop = {}
        for name in self.usable:
            measured = self.measured_gradient(name)
            if measured is None:
                return None
            backprop[name] = self.gradient(name) if name in names else measured

        def fits(gradients: Mapping[str, Array]) -> bool:
            for name in backprop:
                repaired = backprop[name] + (self.measured_gradient(name) - gradients[name])
                if name in names and self.try_repair(name, repaired) is None:
                    return False
                if name not in names and self.compare_repaired(name, repaired).verdict > Verdict.INCONCLUSIVE:
                    return False
            return True

        return find_slip(session.problem, session.reference, backprop, session.generator, fits)

    def gradient_without(self, slip: Slip, name: str) -> Array:
        """Return backprop's gradient as it would be without a mistake."""
        measured = self.measured_gradient(name)
        return self.gradient(name) + (0.0 if measured is None else measured - slip.gradients[name])

    def with_repair(
        self, diagnosis: Diagnosis, repair: Repair, attempt: Callable[[str], tuple[Array, str]], more: str = ""
    ) -> Diagnosis:
        """Return the diagnosis with the largest difference that remains with a repair: a gradient, and words for it."""
        residual, evidence = -1.0, ""
        for name in diagnosis.parameters:
            gradient, words = attempt(name)
            difference = self.compare_repaired(name, gradient).difference
            if difference > residual:
                residual, evidence = difference, f"With {words} the difference would be {difference:.1g}.{more}"
        return replace(diagnosis, evidence=evidence, repair=repair, residual=residual)
