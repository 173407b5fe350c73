"""The cheapest look at a gradient that was right a moment ago."""

from __future__ import annotations

import math

import numpy as np

from gc_hooks.calibrate import Instrument, one_step
from gc_hooks.case import Case
from gc_hooks.comparison import Comparison
from gc_hooks.estimate import EPS
from gc_hooks.evidence import Evidence, typical_slope
from gc_hooks.large import uniforms
from gc_hooks.methods import central
from gc_hooks.probes import Line, judged, random_direction
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report import CheckReport
from gc_hooks.summary import write_report
from gc_hooks.verdict import Tolerance, Verdict

STEP = 2.0**-18
"""Smaller ones drown in noise, larger ones meet kinks."""
DIRECTIONS = 2
"""Two bound eight times as tightly as one, which is enough as a rule."""


def glance(problem: Problem, tolerance: Tolerance, *, seed: int, step: int) -> CheckReport | None:
    """One direction through all parameters, or two, along which the slope is measured at a single step.

    Parameters
    ----------
    problem : Problem
        Of one term, which computes in float64.
    tolerance, seed, step
        As for `gc_hooks.check_gradients`.

    Returns
    -------
    CheckReport or None
        None where a parameter is not plainly good: that is for the whole pipeline to tell.

    Notes
    -----
    Costs two evaluations of the loss a direction. The bar is an assumption and not a measurement, and may be too small:
    then the residual leaves it, and the pipeline decides. A residual inside of it is an agreement all the same.
    """
    names = judged(problem)
    if problem.flaws or not names or not math.isfinite(problem.value):
        return None
    generator = np.random.default_rng(seed)
    case = Case(problem, [Instrument(central, "central")], Evidence.empty(problem), tolerance, generator)
    try:
        comparisons = _all_good(case, names)
    except BudgetSpent:
        return None
    return write_report(case, comparisons, (), step=step, seed=seed) if comparisons else None


def _all_good(case: Case, names: list[str]) -> dict[str, Comparison]:
    """The parameters, where all are plainly good; else nothing."""
    problem = case.problem
    for _ in range(DIRECTIONS):
        direction = random_direction(problem, case.generator, names, uniforms)
        typical = typical_slope(direction, problem.grad_norms)
        slope = one_step(Line(problem, direction), STEP * direction.scale, typical, EPS)
        case.evidence.add(problem, direction, [slope])
        comparisons = case.compare_all()
        if any(comparison.suspect for comparison in comparisons.values()):
            break
        if all(comparison.verdict is Verdict.GOOD for comparison in comparisons.values()):
            return comparisons
    return {}
