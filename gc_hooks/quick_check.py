"""The cheapest look at a gradient that was right a moment ago."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gc_hooks.arrays.large import uniforms
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.slopes.estimate import EPS, Estimate, noise_bar
from gc_hooks.slopes.instrument import ASSUMED_ROUNDING, Instrument, assumed_rounding, complex_slope, plain_slope
from gc_hooks.slopes.measurements import Measurements, typical_slope
from gc_hooks.slopes.methods import complex_step
from gc_hooks.slopes.probes import Direction, Line, judged, random_direction
from gc_hooks.verdicts.session import Session
from gc_hooks.verdicts.summary import write_report

STEP, NEAR = 2.0**-20, 1e-5
"""A central difference at this step has to confirm complex step within such a share of the slopes that are typical."""


def quick_check(problem: Problem, tolerance: Tolerance, *, seed: int, step: int) -> CheckReport | None:
    """One direction through all parameters: complex step along it, and a real step to either side that confirms it.

    Parameters
    ----------
    problem : Problem
        Of one term, which computes in float64.
    tolerance, seed, step
        As for `gc_hooks.check_gradients`.

    Returns
    -------
    CheckReport or None
        None where a parameter is not plainly good, or complex step not plainly right: that is for the whole pipeline
        to tell.

    Notes
    -----
    Costs a complex evaluation of the loss and two real ones. The bar is the one that is assumed for complex step until
    its rounding is measured.
    """
    names = judged(problem)
    if problem.issues or not names or not math.isfinite(problem.value):
        return None
    generator = np.random.default_rng(seed)
    direction = random_direction(problem, generator, names, uniforms)
    try:
        slope = _confirmed_slope(problem, direction)
    except BudgetSpent:
        return None
    if slope is None:
        return None
    tools = [Instrument(complex_step, "complex_step", rounding=ASSUMED_ROUNDING)]
    session = Session(problem, tools, Measurements.empty(problem, assumed_rounding(tools)), tolerance, generator)
    session.measurements.add(problem, direction, [slope])
    comparisons = session.compare_all()
    if any(c.suspect or c.verdict is not Verdict.GOOD for c in comparisons.values()):
        return None
    return write_report(session, comparisons, (), step=step, seed=seed)


def _confirmed_slope(problem: Problem, direction: Direction) -> Estimate | None:
    """The slope by complex step, unless a central difference is somewhere else, or too vague to tell."""
    slope = complex_slope(problem, 0, direction)
    if isinstance(slope, str):
        return None
    line, step = Line(problem, direction), STEP * direction.scale
    near = NEAR * max(abs(slope.value), typical_slope(direction, problem.grad_norms))
    confirmed = abs(plain_slope(line, step) - slope.value) <= near and noise_bar(EPS * abs(line.value), step) <= near
    return replace(slope, error=ASSUMED_ROUNDING * abs(slope.value)) if confirmed else None
