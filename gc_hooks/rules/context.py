"""All that a rule sees of a check: failing parameters, gradients, measured slopes, and whether a repair would pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import inner
from gc_hooks.arrays.norms import norm
from gc_hooks.problem import BudgetSpent, Parameter
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes.measurements import DirectionalMeasurement, ParameterMeasurements
from gc_hooks.slopes.probes import direction_within
from gc_hooks.verdicts.compare import compare_parameter, whole_norm
from gc_hooks.verdicts.session import Session

REDUCTION = 10.0
"""Where the errors are too wide for any gradient to be GOOD (a loss that computes in float32), a repair counts if it
reduces the difference at least by this factor. A smaller one names repairs that explain half of a bug."""


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
        """Return the parameters whose gradient is not zero."""
        return [name for name in self.usable if self.gradient_norm(name) > 0]

    @property
    def failing(self) -> list[str]:
        """Return the parameters whose gradient can be used and disagrees with the measured slopes."""
        return [name for name in self.usable if self.comparisons[name].is_accused and not self._parameter(name).issue]

    @property
    def unexplained(self) -> list[str]:
        """Return the failing parameters for which no earlier rule has found a bug."""
        return [name for name in self.failing if name not in self.explained]

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
        """Return the penalty's part of each slope; zeros where no penalty was handed in separately."""
        return self._with_directions(name, self._measured(name).penalties, lambda direction: direction.penalty)

    def slopes_of(self, array: Array, name: str) -> Array:
        """Return the slopes that would have been measured if the array were the true gradient of a parameter."""
        entries = array.reshape(-1)[np.array(self._measured(name).indices, dtype=np.intp)]
        return self._with_directions(name, entries, lambda direction: inner(direction.probe.vector[name], array))

    def errors(self, name: str) -> Array:
        """Return the error of each slope; never zero, so that slopes can be weighted by them."""
        measured, rounding = self._measured(name), self.session.measurements.rounding
        # Rounding moves the gradient by a known norm; spread evenly, each entry gets this much of it.
        floor = rounding.floors.get(name, 0.0) / math.sqrt(max(measured.size, 1))
        entries = np.maximum(np.array(measured.errors), floor)
        errors = self._with_directions(name, entries, lambda direction: direction.total_error(rounding))
        # The error of an exact slope may be 0, which cannot weigh: 45 roundings of the largest slope stand for it.
        largest = float(np.max(np.abs(self.slopes(name)), initial=0.0))
        return np.asarray(np.maximum(errors, 1e-14 * largest + 1e-300))

    def measured_gradient(self, name: str) -> Array | None:
        """Return the slopes in the shape of the parameter; None where not every entry was measured."""
        measured, gradient = self._measured(name), self.gradient(name)
        if not measured.complete:
            return None
        return measured.entries(gradient).slopes.reshape(gradient.shape)

    def wrong_entries(self, name: str) -> tuple[Array, Array]:
        """Return the positions in C order of the measured entries that are wrong, and the slopes measured there."""
        entries = self._measured(name).entries(self.gradient(name))
        wrong = entries.are_wrong(self.session.tolerance.good)
        return entries.indices[wrong], entries.slopes[wrong]

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

    def fit(self, name: str, target: Array, *arrays: Array) -> Array:
        """Return the coefficients with which a sum of arrays has the slopes ``target``, by weighted least squares."""
        errors = self.errors(name)
        columns = [self.slopes_of(array, name) / errors for array in arrays]
        return np.asarray(np.linalg.lstsq(np.stack(columns, axis=1), target / errors, rcond=None)[0])

    def compare_repaired(self, name: str, gradient: Array) -> Comparison:
        """Return the comparison of another gradient for this parameter with the same slopes; nothing is measured."""
        session, measured = self.session, self._measured(name)
        directions = [replace(d, backprop=d.probe.slope({name: gradient})) for d in measured.directions]
        alone = {name: replace(measured, directions=directions)}
        measurements = replace(session.measurements, parameters=alone, joint=[])
        parameter = replace(self._parameter(name), gradient=gradient, issue=None)
        return compare_parameter(session.problem, parameter, measurements, session.tolerance, self._total_norm)

    @cached_property
    def _total_norm(self) -> float:
        return whole_norm(self.session.problem, self.session.measurements)

    def try_repair(self, name: str, gradient: Array) -> Comparison | None:
        """Return the comparison of a repaired gradient if it passes, else None."""
        if gradient.shape != self.gradient(name).shape or not np.all(np.isfinite(gradient)):
            return None
        comparison = self.compare_repaired(name, gradient)
        # Nothing remains but rounding, where the parameter has no influence on the loss.
        negligible = self.session.tolerance.good * self.gradient_norm(name)
        is_zero = not np.any(self.slopes(name)) and norm(gradient) <= negligible
        # The slopes are too inexact for GOOD, but what was wrong is gone.
        at_most = comparison.difference + comparison.error
        undecided = comparison.verdict is Verdict.INCONCLUSIVE and comparison.at_least == 0
        reduced = undecided and REDUCTION * at_most <= self.comparison(name).difference
        return comparison if comparison.verdict is Verdict.GOOD or is_zero or reduced else None

    def is_right_outside(self, name: str, wrong: Array) -> bool:
        """Measure one slope along a random direction outside of a mask, and return whether the gradient agrees."""
        session = self.session
        probe = direction_within(self._parameter(name), session.generator)
        outside = np.where(wrong, 0.0, np.asarray(probe.vector[name]))
        try:
            residual, error = session.slopes.quick_residual(replace(probe, vector={name: outside}))
        except BudgetSpent:
            return False
        return abs(residual) <= 2 * error + session.tolerance.good * self.gradient_norm(name)

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
