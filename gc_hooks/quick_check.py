"""The cheapest look at a gradient that was right a moment ago."""

from __future__ import annotations

import math

import numpy as np

from gc_hooks.arrays.large import uniforms
from gc_hooks.numerics import ASSUMED_ROUNDING, EPS, QUICK_CHECK_NEAR, QUICK_CHECK_STEP
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import ComplexStepRefused, Instrument, complex_slope
from gc_hooks.slopes.measurements import Measurements, typical_slope
from gc_hooks.slopes.methods import Estimate, central_difference, complex_step, noise_error
from gc_hooks.slopes.probes import Direction, Line, random_direction
from gc_hooks.verdicts.session import Session
from gc_hooks.verdicts.summary import write_report


def quick_check(problem: Problem, tolerance: Tolerance, *, seed: int, step: int) -> CheckReport | None:
    """Measure one direction through all parameters by complex step, and confirm it by a central difference.

    For a problem of one term that computes in float64. Returns None where a parameter is not plainly good, or complex
    step not plainly right: the whole pipeline has to tell. Costs a complex evaluation of the loss and two real ones.
    """
    names = [parameter.name for parameter in problem.judged]
    if not names or not math.isfinite(problem.value) or any(parameter.issue for parameter in problem.parameters):
        return None
    generator = np.random.default_rng(seed)
    direction = random_direction(problem, generator, names, uniforms)
    try:
        slope = _confirmed_slope(problem, direction)
    except (BudgetSpent, ComplexStepRefused):
        return None
    if slope is None:
        return None
    slopes = Slopes(problem, (Instrument(complex_step, rounding=ASSUMED_ROUNDING),))
    measurements = Measurements.empty(problem, slopes.assumed_rounding)
    measurements.add(problem, direction, slope)
    session = Session(slopes, measurements, tolerance, generator)
    comparisons = session.compare_all()
    for comparison in comparisons.values():
        if comparison.suspect or comparison.verdict is not Verdict.GOOD:
            return None
    return write_report(session, comparisons, (), step=step, seed=seed)


def _confirmed_slope(problem: Problem, direction: Direction) -> Estimate | None:
    """Return the slope by complex step, or None where a central difference is elsewhere or too imprecise to tell."""
    exact = complex_slope(problem, 0, direction)
    line, step = Line(problem, direction), QUICK_CHECK_STEP * direction.scale
    near = QUICK_CHECK_NEAR * max(abs(exact.value), typical_slope(problem, direction))
    if noise_error(EPS * abs(line.value), step) > near:
        return None
    if not abs(central_difference(line, step) - exact.value) <= near:
        return None
    return Estimate(exact.value, ASSUMED_ROUNDING * abs(exact.value), exact.step, exact.evaluations)
