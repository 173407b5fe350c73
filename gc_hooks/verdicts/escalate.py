"""Making sure: more directions where it is not clear, second thoughts before an accusation, and then the culprits."""

from __future__ import annotations

import math

from gc_hooks.problem import BudgetSpent
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.verdict import Status, Verdict
from gc_hooks.slopes.probes import Entry, Probe, direction_within, random_direction
from gc_hooks.verdicts.localize import find_wrong_entries
from gc_hooks.verdicts.recheck import recheck, settle_kink
from gc_hooks.verdicts.session import Session

STAGES = (1, 2, 4, 16)
FEW = 64
"""A doubtful parameter of up to so many entries is measured entry by entry."""


def escalate(session: Session, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Look again at every parameter that is not clearly good.

    Costs nothing for one that is. One that a joint direction bounds too weakly gets directions of its own; one whose
    residual leaves its error bar four, and sixteen where these cannot tell; one that is still accused is thought over,
    and opened to find the wrong entries.
    """
    try:
        comparisons = _second_joint_direction(session, comparisons)
        if any(c.basis is Basis.BOUNDED and _unclear(session, c) for c in comparisons.values()):
            session.sharpen()
    except BudgetSpent:
        return {name: _unfinished(session, comparison) for name, comparison in comparisons.items()}
    return {name: _escalated(session, comparison) for name, comparison in comparisons.items()}


def _second_joint_direction(session: Session, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Two directions bound eight times as tightly as one: often enough where one only bounds too weakly."""
    if not any(c.basis is Basis.BOUNDED and _unclear(session, c) for c in comparisons.values()):
        return comparisons
    if any(comparison.suspect for comparison in comparisons.values()):
        return comparisons
    session.measure([random_direction(session.problem, session.generator, list(session.measurements.parameters))])
    return session.compare_all()


def _escalated(session: Session, comparison: Comparison) -> Comparison:
    if comparison.basis is Basis.NOTHING or comparison.name in session.problem.issues:
        return comparison
    try:
        comparison = _closer(session, comparison)
        if comparison.verdict is not Verdict.GOOD:
            session.doubt_the_loss()
        if _accused(comparison):
            comparison = recheck(session, comparison)
        elif comparison.status is Status.KINK and comparison.verdict is Verdict.INCONCLUSIVE:
            comparison = settle_kink(session, comparison)
        if _accused(comparison):
            comparison = find_wrong_entries(session, comparison)
        return comparison
    except BudgetSpent:
        return _unfinished(session, comparison)


def _closer(session: Session, comparison: Comparison) -> Comparison:
    """Measure more directions until it is clear, or there are sixteen."""
    for stage in STAGES:
        if not _unclear(session, comparison):
            break
        session.measure(_more(session, comparison, stage))
        comparison = session.compare(comparison.name)
    return comparison


def _unclear(session: Session, comparison: Comparison) -> bool:
    if comparison.basis not in (Basis.BOUNDED, Basis.ESTIMATED):
        return False
    if _accused(comparison):
        return comparison.directions < 4
    outside = comparison.at_least > 0 or (comparison.suspect and comparison.basis is Basis.BOUNDED)
    within_band = comparison.directions >= 4 and comparison.difference + comparison.error <= session.tolerance.good
    return (outside and not within_band) or comparison.verdict is not Verdict.GOOD


def _more(session: Session, comparison: Comparison, stage: int) -> list[Probe]:
    """Directions up to the stage's number; a small parameter is measured entry by entry instead."""
    name, scale = comparison.name, session.problem.scales[comparison.name]
    if comparison.size <= FEW:
        return [Entry(name, index, scale) for index in range(comparison.size)]
    return [direction_within(session.problem, session.generator, name) for _ in range(comparison.directions, stage)]


def _accused(comparison: Comparison) -> bool:
    """Whether it is the measured slopes that speak against a parameter."""
    return comparison.verdict > Verdict.INCONCLUSIVE and math.isfinite(comparison.difference)


def _unfinished(session: Session, comparison: Comparison) -> Comparison:
    """The budget ran out on the way to a verdict: what was seen is said, and called neither good nor wrong."""
    if comparison.verdict is Verdict.GOOD:
        return comparison
    return comparison.noted(f"{session.problem.meter.budget} was spent before it was certain", Verdict.INCONCLUSIVE)
