"""Look closer where it is not clear: more directions, other ways to measure, and then the wrong entries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
    """Look again at every parameter that is not clearly good, the worst first.

    Costs nothing for one that is. Where a joint direction leaves its error, the parameters that make it do so are told
    apart; one that it bounds too weakly gets directions of its own, four where a residual leaves its error, and sixteen
    where four cannot tell. One that is still accused is measured in other ways (`recheck`). Only when each is judged
    are the wrong entries located, so that a budget that ends earlier cuts the search short and no verdict.
    """
    comparisons = _told_apart(session, comparisons)
    for look in (_judge, _open):
        for comparison in sorted(comparisons.values(), key=_looks, reverse=True):
            comparisons[comparison.name] = look(session, comparison)
    return comparisons


def _looks(comparison: Comparison) -> tuple[Verdict, float, float]:
    """Return how bad a parameter looks."""
    return comparison.verdict, comparison.at_least, float(np.nan_to_num(comparison.difference))


def _told_apart(session: Session, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Bound parameters more tightly by joint directions, without those that make a joint direction leave its error."""
    if not _bounded_too_weakly(comparisons, session.tolerance):
        return comparisons
    names = list(session.measurements.parameters)
    try:
        if not comparisons[names[0]].suspect:
            # Two directions bound eight times as tightly as one: often enough where one bounds too weakly.
            session.measure([random_direction(session.problem, session.generator, names)])
            comparisons = session.compare_all()
            if not _bounded_too_weakly(comparisons, session.tolerance):
                return comparisons
        session.sharpen()
        while names and comparisons[names[0]].suspect:
            wrong = _suspects(session, names)
            if not wrong:
                break
            names = [name for name in names if name not in wrong]
            if names:
                session.bound_anew(names)
                anew = session.compare_all()
                comparisons = comparisons | {name: anew[name] for name in names}
    except BudgetSpent:
        pass  # whoever is not clear yet is told so where it is judged
    return comparisons


def _suspects(session: Session, names: list[str]) -> list[str]:
    """Return the parameters that make a joint direction leave its error, by halving groups: 2 log2(n) slopes each."""
    if not session.leaves_error(names):
        return []
    if len(names) == 1:
        return names
    middle = len(names) // 2
    return [*_suspects(session, names[:middle]), *_suspects(session, names[middle:])]


def _bounded_too_weakly(comparisons: dict[str, Comparison], tolerance: Tolerance) -> bool:
    for comparison in comparisons.values():
        if comparison.basis is Basis.BOUNDED and not is_clear(comparison, tolerance):
            return True
    return False


def _judge(session: Session, comparison: Comparison) -> Comparison:
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
            return recheck(session, comparison)
        if comparison.status is Status.KINK and comparison.verdict is Verdict.INCONCLUSIVE:
            return settle_kink(session, comparison)
        return comparison
    except BudgetSpent:
        return unfinished(session, comparison)


def _open(session: Session, comparison: Comparison) -> Comparison:
    """Locate the wrong entries of an accused parameter; the verdict stands where the budget ends before."""
    if not comparison.is_accused or session.problem[comparison.name].issue:
        return comparison
    try:
        return find_wrong_entries(session, comparison)
    except BudgetSpent:
        found = session.compare(comparison.name)
        return replace(comparison, wrong=found.wrong, measured=found.measured, worst=found.worst)


def _more_probes(session: Session, comparison: Comparison, directions: int) -> list[Probe]:
    """Return directions up to a number of them; for a small parameter every entry."""
    parameter = session.problem[comparison.name]
    if parameter.value.size <= FEW:
        return [Entry(parameter.name, index, parameter.scale) for index in range(parameter.value.size)]
    return [direction_within(parameter, session.generator) for _ in range(comparison.directions, directions)]


def unfinished(session: Session, comparison: Comparison) -> Comparison:
    """Call a comparison INCONCLUSIVE because the budget was spent before it was certain."""
    if comparison.verdict is Verdict.GOOD:
        return comparison
    note = notes.not_certain(session.problem.meter.budget)
    return comparison.noted(note, Verdict.INCONCLUSIVE, Reason.BUDGET)
