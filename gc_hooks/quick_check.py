"""The cheapest look at a gradient of which a check before has told everything: is it still right, or still as wrong?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gc_hooks.arrays.large import LARGE, uniforms
from gc_hooks.numerics import (
    CENTRAL_STEP,
    EPS,
    FINER_STEP,
    KNOWN_DIRECTIONS,
    KNOWN_MORE,
    KNOWN_MOST,
    QUICK_CHECK_DIRECTIONS,
    QUICK_CHECK_NEAR,
    QUICK_CHECK_ROUNDING,
    QUICK_CHECK_STEPS,
    TENFOLD,
)
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.problem.determinism import as_value
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import Code
from gc_hooks.report.verdict import Status, Tolerance, Verdict
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import Instrument
from gc_hooks.slopes.measurements import Measurements, typical_slope
from gc_hooks.slopes.methods import Curve, Estimate, central, central_difference, complex_step, noise_error
from gc_hooks.slopes.probes import Direction, Line, direction_within, random_direction
from gc_hooks.verdicts.session import Session
from gc_hooks.verdicts.summary import overall_difference, write_report

HELD: set[str] = {Code.ACCUMULATED, Code.STALE}
"""Codes of buffers that differ, where it is known what they hold."""

NOTHING = CheckReport({})


@dataclass
class Glance:
    """A look that costs a few evaluations, with what it has to know of the checks before."""

    before: CheckReport = NOTHING  # what the whole pipeline told last
    takes_complex: bool = True  # whether complex step is worth a try: it has not failed yet

    def look(self, problem: Problem, tolerance: Tolerance, *, seed: int, step: int) -> CheckReport | None:
        """Return a report where everything is as the check before found it; else None: the whole pipeline has to tell.

        Parameters that were right are measured along one direction through all of them, and have to be plainly good.
        Each that was wrong is measured along directions of its own, up to `KNOWN_MOST` of them at a look, and has to
        be wrong for certain, by a difference of the same size; the diagnoses are carried over. For a problem of one
        term that computes in float64.

        Three evaluations as a rule: a complex one, and two real ones that confirm it; or the loss at the point and a
        central difference. Where one direction leaves a bound too wide, up to two more are measured. Each direction in
        a wrong parameter costs one complex evaluation, or four real ones.
        """
        try:
            return self._look(problem, tolerance, seed, step)
        except BudgetSpent:
            return None

    def _look(self, problem: Problem, tolerance: Tolerance, seed: int, step: int) -> CheckReport | None:
        known = self._wrong(problem)
        if known is None or problem.precision > EPS:
            return None
        right = [parameter.name for parameter in problem.judged if parameter.name not in known]
        finite = [parameter.name for parameter in problem.judged if math.isfinite(parameter.gradient_norm)]
        wrong = [name for name in finite if name in known]
        generator = np.random.default_rng(seed)
        if len(wrong) > KNOWN_MOST:
            wrong = [str(name) for name in generator.permutation(wrong)[:KNOWN_MOST]]
        if not (right or wrong):
            return None
        first = random_direction(problem, generator, right or wrong, uniforms)
        ruler = self._ruler(problem, first)
        if ruler is None:
            return None
        problem = ruler.problem
        rounding = QUICK_CHECK_ROUNDING if ruler.is_exact else None
        slopes = Slopes(problem, (Instrument(complex_step if ruler.is_exact else central, rounding=rounding),))
        measurements = Measurements.empty(problem, slopes.assumed_rounding)
        session = Session(slopes, measurements, tolerance, generator)
        if right:
            measurements.add(problem, first, ruler.first)
        for _ in range(QUICK_CHECK_DIRECTIONS - 1 if right else 0):
            comparisons = session.compare_all()
            if all(comparisons[name].verdict is Verdict.GOOD or comparisons[name].suspect for name in right):
                break
            probe = random_direction(problem, generator, right, uniforms)
            slope = ruler.along(probe)
            if slope is None:
                return None
            measurements.add(problem, probe, slope)
        for count in (-(-KNOWN_DIRECTIONS // max(len(wrong), 1)), KNOWN_MORE):
            for name in wrong:
                for _ in range(count):
                    probe = direction_within(problem[name], generator)
                    slope = ruler.against(probe)
                    if slope is None:
                        return None
                    measurements.add(problem, probe, slope)
            comparisons = session.compare_all()
            if not _are_as_before(comparisons, known, wrong):
                return None
            report = write_report(session, comparisons, (), step=step, seed=seed)
            # A few directions may all be short by chance: more of them tell whether the difference is another one.
            if not differs_tenfold(report, self.before):
                self.takes_complex = ruler.is_exact
                return replace(report, diagnoses=self.before.diagnoses)
        return None

    def _wrong(self, problem: Problem) -> dict[str, Comparison] | None:
        """Return what is known to be wrong, or None where that cannot be looked at."""
        known = accused(self.before)
        if known and self.before.parameters.keys() != problem.by_name.keys():
            return None
        issues = {parameter.name for parameter in problem.parameters if parameter.issue}
        if issues != {name for name, comparison in known.items() if comparison.reason is Reason.ISSUE}:
            return None
        # What a question of the hook has found is not in the slope of the whole loss.
        if any(comparison.reason is Reason.HOOK for comparison in known.values()):
            return None
        return known

    def _ruler(self, problem: Problem, first: Direction) -> _Ruler | None:
        """Measure the first direction, and return how the others are measured."""
        exact = None
        is_large = any(parameter.value.size >= LARGE for parameter in problem.parameters)
        if self.takes_complex and problem.live is None and not is_large:
            exact, value = _complex_slope(problem, first)
            if exact is not None and not problem.values:  # the real part is the loss at the point
                problem = replace(problem, values=(value,))
        if not problem.values:
            problem = replace(problem, values=(as_value(problem.evaluate(0, {}), "loss"),))
        if not math.isfinite(problem.value):
            return None
        near = _near(problem, first)
        for step in QUICK_CHECK_STEPS if exact is not None else ():
            real = _central_slope(problem, first, step, 0.0)
            if exact is not None and real.error <= near and abs(exact.value - real.value) <= near:
                return _Ruler(problem, exact, True)
        return _Ruler(problem, _agreeing_slope(problem, first), False)


@dataclass(frozen=True)
class _Ruler:
    """How slopes are measured in one look."""

    problem: Problem
    first: Estimate  # along the first direction
    is_exact: bool  # complex step, confirmed along the first direction

    def along(self, probe: Direction) -> Estimate | None:
        """Return the slope along a further direction in which backprop was right."""
        return _complex_slope(self.problem, probe)[0] if self.is_exact else _agreeing_slope(self.problem, probe)

    def against(self, probe: Direction) -> Estimate | None:
        """Return the slope along a direction in which backprop is wrong; None where it is too imprecise to tell."""
        if self.is_exact:
            return _complex_slope(self.problem, probe)[0]
        # Backprop does not confirm it here. A noisy loss, and a kink within the steps, give two slopes.
        slope, finer = (_central_slope(self.problem, probe, *step) for step in (CENTRAL_STEP, FINER_STEP))
        difference = abs(slope.value - finer.value)
        if difference > _near(self.problem, probe):
            return None
        return replace(slope, error=slope.error + difference)


def _complex_slope(problem: Problem, probe: Direction) -> tuple[Estimate | None, float]:
    """Return the slope by complex step, None where there is none, and the loss at the point."""
    line, values = Line(problem, probe), [math.nan]

    def seen(t: complex) -> Any:
        values.append(line(t))
        return values[-1]

    try:
        estimate = complex_step.slope(Curve(seen), scale=probe.scale, noise=None)
    except BudgetSpent:
        raise
    except Exception:  # whatever a loss does with a complex number is a refusal
        return None, math.nan
    if estimate.status is not Status.OK:
        return None, math.nan
    return replace(estimate, error=QUICK_CHECK_ROUNDING * abs(estimate.value)), float(np.real(values[-1]))


def _central_slope(problem: Problem, probe: Direction, step: float, error: float) -> Estimate:
    """Return the central difference at one step, whose error is given in units of typical slopes."""
    line, step = Line(problem, probe), step * probe.scale
    noise = noise_error(2 * EPS * abs(line.value), step)
    return Estimate(central_difference(line, step), noise + error * typical_slope(problem, probe), step, 2)


def _agreeing_slope(problem: Problem, probe: Direction) -> Estimate:
    """Return the central difference at one step, or at a finer one if backprop does not agree at the first."""
    slope = _central_slope(problem, probe, *CENTRAL_STEP)
    if abs(slope.value - probe.slope(problem.grads)) > slope.error:
        slope = _central_slope(problem, probe, *FINER_STEP)
    return slope


def _near(problem: Problem, probe: Direction) -> float:
    """Return how near two slopes along a direction have to come to be the same."""
    return QUICK_CHECK_NEAR * max(abs(probe.slope(problem.grads)), typical_slope(problem, probe))


def _are_as_before(comparisons: dict[str, Comparison], known: dict[str, Comparison], measured: list[str]) -> bool:
    """Return whether the right ones are good and the wrong ones wrong, and give these the verdicts of before.

    What was wrong and was not measured now keeps its comparison.
    """
    for name, comparison in comparisons.items():
        before = known.get(name)
        if before is None:
            if comparison.suspect or comparison.verdict is not Verdict.GOOD:
                return False
        elif name in measured or not before.is_accused:
            if comparison.verdict <= Verdict.INCONCLUSIVE or comparison.reason is not before.reason:
                return False
            comparisons[name] = replace(comparison, verdict=before.verdict, suspect=False)
        else:
            comparisons[name] = before
    return True


def accused(report: CheckReport) -> dict[str, Comparison]:
    """Return the comparisons of the parameters that are wrong."""
    return {name: c for name, c in report.parameters.items() if c.verdict > Verdict.INCONCLUSIVE}


def finds_the_same(report: CheckReport, before: CheckReport) -> bool:
    """Return whether two checks accuse the same parameters of the same bugs, by differences of about the same size."""
    if report.verdict is not before.verdict or accused(report).keys() != accused(before).keys():
        return False
    return _bugs(report) == _bugs(before) and not differs_tenfold(report, before)


def _bugs(report: CheckReport) -> set[str]:
    """Return the codes; what wrong buffers hold can be told only where the step before was looked at."""
    return {Code.BUFFERS_DIFFER if one.code in HELD else one.code for one in report.diagnoses}


def differs_tenfold(report: CheckReport, before: CheckReport) -> bool:
    """Return whether the wrong parameters differ by another size than before; two unknown sizes are the same."""
    (now, _), (then, _) = map(overall_difference, (accused(report), accused(before)))
    if math.isnan(now) or math.isnan(then):
        return math.isnan(now) is not math.isnan(then)
    return max(now, then) > TENFOLD * min(now, then)
