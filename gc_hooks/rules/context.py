"""What a rule may look at: the failing parameters, what was measured, and whether another gradient would pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import inner
from gc_hooks.arrays.norms import norm
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.slopes.measurements import Measurements, ParameterMeasurements
from gc_hooks.slopes.probes import direction_within
from gc_hooks.verdicts.compare import compare_parameter
from gc_hooks.verdicts.session import Session

SHORT = 10.0
"""A repair has to bring what was wrong down by so much."""


@dataclass(frozen=True)
class RuleContext(Mapping[str, Comparison]):
    """The comparisons by name, with the measurements behind them.

    Attributes
    ----------
    problem : Problem
    comparisons : dict of str to Comparison
    evidence : Evidence
    tolerance : Tolerance
    whole : float
        Norm of the whole gradient.
    constants : mapping of str to float
        Numbers that the user's problem knows: the batch size, a keep probability.
    case : Case or None
        For measuring once more.
    told : frozenset of str
        The parameters of which a rule has said something.
    """

    problem: Problem
    comparisons: Mapping[str, Comparison]
    measurements: Measurements
    tolerance: Tolerance
    whole: float
    constants: Mapping[str, float] = field(default_factory=dict)
    session: Session | None = None
    explained: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Comparison:
        return self.comparisons[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.comparisons)

    def __len__(self) -> int:
        return len(self.comparisons)

    @property
    def failing(self) -> list[str]:
        """The parameters whose measured slopes speak against them."""
        accused = (n for n, c in self.items() if c.verdict > Verdict.INCONCLUSIVE and math.isfinite(c.difference))
        return [name for name in accused if name not in self.problem.issues]

    @property
    def open(self) -> list[str]:
        """Those of them of which nothing has been said yet."""
        return [name for name in self.failing if name not in self.explained]

    def grad(self, name: str) -> Array:
        """Backprop's gradient."""
        return self.problem.grads[name]

    def slopes(self, name: str) -> Array:
        """The measured slopes: entries in the order in which they were measured, then directions."""
        return self._column(name, self._measured(name).slopes, "slope")

    def bars(self, name: str) -> Array:
        """Their error bars; never zero, so that they can weigh."""
        measured, rounding = self._measured(name), self.measurements.rounding
        floor = rounding.floors.get(name, 0.0) / math.sqrt(max(measured.size, 1))
        directions = [] if measured.complete else [measurement.bar(rounding) for measurement in measured.directions]
        bars = np.array([*(max(error, floor) for error in measured.errors), *directions])
        least: Array = np.maximum(bars, 1e-14 * float(np.max(np.abs(self.slopes(name)), initial=0.0)) + 1e-300)
        return least

    def shares(self, name: str) -> Array:
        """The penalty's part of each slope, where it was handed in apart; else zeros."""
        return self._column(name, self._measured(name).shares, "share")

    def seen_through(self, name: str, array: Array) -> Array:
        """What the same measurements would have made of another gradient."""
        measured = self._measured(name)
        entries = array.reshape(-1)[np.array(measured.indices, dtype=np.intp)]
        directional = [] if measured.complete else measured.directions
        directions = [inner(measurement.probe.vector[name], array) for measurement in directional]
        return np.array([*entries, *directions], dtype=np.float64)

    def fit(self, name: str, target: Array, *arrays: Array) -> Array:
        """Coefficients of arrays that make up what was measured, by least squares weighed with the bars.

        ``target`` has a number for each measurement, as `slopes` and `seen_through` give them.
        """
        bars = self.bars(name)
        columns = np.stack([self.seen_through(name, array) / bars for array in arrays], axis=1)
        coefficients: Array = np.linalg.lstsq(columns, target / bars, rcond=None)[0]
        return coefficients

    def judged(self, name: str, repaired: Array) -> Comparison:
        """What the check would say of another gradient for this parameter, on the same measurements."""
        measured = self._measured(name)
        directional = [replace(r, backprop=r.probe.slope({name: repaired})) for r in measured.directions]
        measurements = replace(
            self.measurements, parameters={name: replace(measured, directions=directional)}, joint=[]
        )
        problem = replace(self.problem, grads={name: repaired}, issues={})
        return compare_parameter(problem, name, measurements, self.tolerance, self.whole)

    def passes(self, name: str, repaired: Array) -> Comparison | None:
        """The comparison of a repaired gradient, if it would pass; or, where the bars are too wide for that, if it lies
        within them and they are short against what was wrong."""
        if repaired.shape != self.grad(name).shape or not np.all(np.isfinite(repaired)):
            return None
        comparison = self.judged(name, repaired)
        little = self.tolerance.good * self.problem.grad_norms[name]
        nothing_left = not np.any(self.slopes(name)) and norm(repaired) <= little  # but rounding
        passed = comparison.verdict is Verdict.GOOD or nothing_left or self._within_short_bars(comparison)
        return comparison if passed else None

    def _within_short_bars(self, comparison: Comparison) -> bool:
        left = comparison.difference + comparison.error
        vague = comparison.verdict is Verdict.INCONCLUSIVE and comparison.at_least == 0
        return vague and SHORT * left <= self[comparison.name].difference

    def right_outside(self, name: str, wrong: Array) -> bool:
        """Whether nothing is wrong outside of some entries, along a direction that leaves them out: one slope."""
        if self.session is None:
            return False
        probe = direction_within(self.problem, self.session.generator, name)
        rest = replace(probe, vector={name: np.where(wrong, 0.0, np.asarray(probe.vector[name]))})
        try:
            away, error = self.session.quick_residual(rest)
        except BudgetSpent:
            return False
        return abs(away) <= 2 * error + self.tolerance.good * self.problem.grad_norms[name]

    def _measured(self, name: str) -> ParameterMeasurements:
        return self.measurements.parameters[name]

    def _column(self, name: str, entries: object, field_name: str) -> Array:
        measured = self._measured(name)
        directions = (
            [] if measured.complete else [getattr(measurement, field_name) for measurement in measured.directions]
        )
        return np.array([*np.asarray(entries, dtype=np.float64), *directions])
