"""Look closer where it is not clear: more directions, other ways to measure, and then the wrong entries."""

from __future__ import annotations

from gc_hooks.numerics import ENOUGH_TO_ACCUSE, FEW, STAGES
from gc_hooks.problem import BudgetSpent
from gc_hooks.report import notes
from gc_hooks.report.comparison import Basis, Comparison, Reason
from gc_hooks.report.verdict import Status, Tolerance, Verdict
from gc_hooks.slopes.probes import Entry, Probe, direction_within, random_direction
from gc_hooks.verdicts.localize import find_wrong_entries
from gc_hooks.verdicts.recheck import recheck, settle_kink
from gc_hooks.verdicts.session import Session


def is_clear(comparison: Comparison, tolerance: Tolerance) -> bool:
    """Return whether no further direction is needed to judge a parameter."""
    if comparison.basis not in (Basis.BOUNDED, Basis.ESTIMATED):
        return True
    if comparison.is_accused:
        return comparison.directions >= ENOUGH_TO_ACCUSE
    if comparison.verdict is not Verdict.GOOD:
        return False
    enough = comparison.directions >= ENOUGH_TO_ACCUSE
    if enough and comparison.difference + comparison.error <= tolerance.good:
        return True
    left_its_error = comparison.at_least > 0 or (comparison.suspect and comparison.basis is Basis.BOUNDED)
    return not left_its_error


def escalate(session: Session, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Look again at every parameter that is not clearly good.

    Costs nothing for one that is. A parameter that a joint direction bounds too weakly gets directions of its own; one
    whose residual leaves its error four, and sixteen where four cannot tell. One that is still accused is measured in
    other ways (`recheck`), and then its wrong entries are located.
    """
    tolerance = session.tolerance
    try:
        if _bounded_too_weakly(comparisons, tolerance):
            if not any(comparison.suspect for comparison in comparisons.values()):
                # Two directions bound eight times as tightly as one: often enough where one bounds too weakly.
                names = list(session.measurements.parameters)
                session.measure([random_direction(session.problem, session.generator, names)])
                comparisons = session.compare_all()
            if _bounded_too_weakly(comparisons, tolerance):
                session.sharpen()
    except BudgetSpent:
        return {name: _unfinished(session, comparison) for name, comparison in comparisons.items()}
    return {name: _look_closer(session, comparison) for name, comparison in comparisons.items()}


def _bounded_too_weakly(comparisons: dict[str, Comparison], tolerance: Tolerance) -> bool:
    for comparison in comparisons.values():
        if comparison.basis is Basis.BOUNDED and not is_clear(comparison, tolerance):
            return True
    return False


def _look_closer(session: Session, comparison: Comparison) -> Comparison:
    """Return a clear comparison of one parameter, or the clearest that the budget allows."""
    if comparison.basis is Basis.NOTHING or session.problem[comparison.name].issue:
        return comparison
    try:
        for directions in STAGES:
            if is_clear(comparison, session.tolerance):
                break
            session.measure(_more_probes(session, comparison, directions))
            comparison = session.compare(comparison.name)
        if comparison.verdict is not Verdict.GOOD:
            session.doubt_the_loss()
        if comparison.is_accused:
            comparison = recheck(session, comparison)
        elif comparison.status is Status.KINK and comparison.verdict is Verdict.INCONCLUSIVE:
            comparison = settle_kink(session, comparison)
        if comparison.is_accused:
            comparison = find_wrong_entries(session, comparison)
        return comparison
    except BudgetSpent:
        return _unfinished(session, comparison)


def _more_probes(session: Session, comparison: Comparison, directions: int) -> list[Probe]:
    """Return directions up to a number of them; for a small parameter every entry."""
    parameter = session.problem[comparison.name]
    if parameter.value.size <= FEW:
        return [Entry(parameter.name, index, parameter.scale) for index in range(parameter.value.size)]
    return [direction_within(parameter, session.generator) for _ in range(comparison.directions, directions)]


def _unfinished(session: Session, comparison: Comparison) -> Comparison:
    """Call a comparison INCONCLUSIVE because the budget was spent before it was certain."""
    if comparison.verdict is Verdict.GOOD:
        return comparison
    note = notes.not_certain(session.problem.meter.budget)
    return comparison.noted(note, Verdict.INCONCLUSIVE, Reason.BUDGET)
