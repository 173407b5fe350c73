"""Is the gradient also right with dropout on? One slope, with the masks held fixed, after a check with dropout off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gc_hooks.check import CheckOptions
from gc_hooks.numerics import ENOUGH_TO_ACCUSE
from gc_hooks.problem import BudgetSpent, Meter, Problem
from gc_hooks.quick_check import accused
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import Code, Diagnosis, agree, listed, of_gradients, sentence
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Method
from gc_hooks.slopes.probes import direction_within, random_direction
from gc_hooks.verdicts.recheck import recheck
from gc_hooks.verdicts.session import Session
from gc_hooks.verdicts.summary import write_report

MOST_JUDGED, ENOUGH_WRONG = 8, 2
"""Parameters that are judged one by one where a slope differs, and how many wrong ones are enough: a mask makes all
parameters below it wrong, and a check with dropout='frozen' shows them."""

RIGHT = "With dropout on and its masks held fixed, a slope agrees with the gradient."
QUESTION = "is the gradient right with dropout on?"
ADVICE = (
    "This usually means a mask that is drawn again in backward (a block that is run twice to save memory), or lacks "
    "its scale. Try to keep forward's mask. dropout='frozen' shows every entry."
)
OF_DROPOUT: set[str] = {Code.DROPOUT_SCALE, Code.LAYER, Code.NOT_REPEATABLE}
"""Codes of a check with dropout on that say more of a bug which is there with dropout on only. The others look for one
that is always there."""


def with_masks(
    report: CheckReport,
    options: CheckOptions,
    loss: Callable[[], float],
    build: Callable[[Meter], Problem],
    method: Method | None = None,
    whole: Callable[[CheckOptions], CheckReport] | None = None,
) -> CheckReport:
    """Add to the report of a check with dropout off whether the gradient is right with dropout on, too.

    ``loss`` returns the loss with the masks held fixed, and ``build`` the problem of the same loss, which has no values
    yet. Costs one evaluation where nothing is drawn. Else a slope along a random direction through all parameters is
    compared with backprop's: five to ten evaluations and two gradients. Where the difference leaves the error of that
    slope, the first parameters are judged one by one, or all of them in the ``whole`` check where that is given, and
    only what is accused there is wrong.
    """
    if report.verdict > Verdict.INCONCLUSIVE or not math.isfinite(report.loss):
        return report
    left = _left(options, report)
    meter = Meter(left.max_evaluations, left.max_seconds)
    found, why_not = None, ""
    try:
        value = _held_value(loss, report.loss, meter)
        if value == report.loss:  # nothing is drawn
            return _with_cost(report, meter)
        if math.isnan(value):
            why_not = "The loss draws from a random generator that cannot be put back, so that no mask can be held."
        else:
            found = _look(replace(build(meter), values=(value,)), left, method, closely=whole is None)
        if found is not None and whole is not None:
            found = whole(replace(_left(options, _with_cost(report, meter)), pictures=False))
            report = _with_cost(report, found)
    except BudgetSpent:
        why_not = f"{meter.budget} was spent before."
    except Exception as error:  # the check with dropout off stands
        why_not = f"{type(error).__name__} was raised there."
    report = _with_cost(report, meter)
    if found is not None and found.verdict > Verdict.INCONCLUSIVE:
        return _with_findings(report, found)
    if found is not None and not found.ok:
        why_not = "It cannot be told. Try dropout='frozen'."
    if why_not:
        return replace(report, unasked=(*report.unasked, f"{QUESTION} {why_not}"))
    return replace(report, asked=(*report.asked, RIGHT))


def _held_value(loss: Callable[[], float], without: float, meter: Meter) -> float:
    """Return the loss with the masks held fixed; NaN where it does not repeat itself. Costs two evaluations.

    One, where it is the loss without dropout.
    """
    values: list[float] = []
    for _ in range(2):
        if meter.exhausted:
            raise BudgetSpent
        meter.evaluations += 1
        values.append(float(loss()))
        if values[0] == without:
            return without
    return values[0] if values[0] == values[1] else math.nan


def _left(options: CheckOptions, report: CheckReport) -> CheckOptions:
    """Return the options with what a check has left of its budget."""
    evaluations, seconds = options.max_evaluations, options.max_seconds
    if evaluations is not None:
        evaluations = max(evaluations - report.evaluations, 0)
    if seconds is not None:
        seconds = max(seconds - report.seconds, 0.0)
    return replace(options, max_evaluations=evaluations, max_seconds=seconds)


def _with_cost(report: CheckReport, spent: Meter | CheckReport) -> CheckReport:
    return replace(
        report,
        evaluations=report.evaluations + spent.evaluations,
        complex_evaluations=report.complex_evaluations + spent.complex_evaluations,
        gradients=report.gradients + spent.gradients,
        seconds=report.seconds + spent.seconds,
    )


def _look(problem: Problem, options: CheckOptions, method: Method | None, closely: bool) -> CheckReport | None:
    """Return None where backprop agrees with a slope along one direction, and else a report of a closer look."""
    generator = np.random.default_rng(options.seed)
    along = random_direction(problem, generator, [parameter.name for parameter in problem.judged])
    slopes = Slopes.prepare(problem, method, generator, along)
    measurements = Measurements.empty(problem, slopes.assumed_rounding)
    if slopes.instruments:
        slopes.measure([along], measurements)
    if not measurements.joint:
        raise BudgetSpent
    session = Session(slopes, measurements, options.tolerance, generator)
    comparisons = session.compare_all()
    if not any(c.suspect or c.verdict > Verdict.INCONCLUSIVE for c in comparisons.values()):
        return None
    if closely:
        comparisons = _look_closely(session)
    return write_report(session, comparisons, (), step=options.step, seed=options.seed)


def _look_closely(session: Session) -> dict[str, Comparison]:
    """Judge the first parameters, which lie below the mask, until two are wrong; return those that were judged.

    Costs about 30 evaluations for one that is right, and 150 for one that is wrong. What was accused before the budget
    ends stands.
    """
    found: dict[str, Comparison] = {}
    wrong = 0
    try:
        session.sharpen()
        session.doubt_the_loss()
        for parameter in session.problem.judged[:MOST_JUDGED]:
            session.measure([direction_within(parameter, session.generator) for _ in range(ENOUGH_TO_ACCUSE)])
            comparison = session.compare(parameter.name)
            if parameter.issue:
                comparison = comparison.noted(parameter.issue.text, Verdict.WORRY, Reason.ISSUE)
            elif comparison.is_accused:
                comparison = recheck(session, comparison)
            found[parameter.name] = comparison
            wrong += comparison.verdict > Verdict.INCONCLUSIVE
            if wrong == ENOUGH_WRONG:
                break
    except BudgetSpent:
        if not wrong:
            raise
    return found


def _with_findings(report: CheckReport, found: CheckReport) -> CheckReport:
    """Return the report with what a whole check with dropout on accuses."""
    parameters, wrong = dict(report.parameters), accused(found)
    for name, comparison in wrong.items():
        parameters[name] = comparison.noted("with dropout on", reason=Reason.HOOK)
    evidence = []
    sizes = [comparison.difference for comparison in wrong.values() if math.isfinite(comparison.difference)]
    if sizes:
        evidence.append(f"The largest difference is {max(sizes):.1e}.")
    if len(found.parameters) < len(report.parameters):
        evidence.append(f"Looked at with dropout on: {listed(found.parameters)}, of {len(report.parameters)}.")
    diagnosis = Diagnosis(
        Code.DROPOUT_MASK,
        tuple(wrong),
        f"{sentence(of_gradients(wrong))} {agree(wrong, 'is', 'are')} wrong with dropout on, its masks held fixed, and "
        "right with dropout off.",
        " ".join(evidence),
        ADVICE,
    )
    more = [one for one in found.diagnoses if one.code in OF_DROPOUT]
    return replace(
        report,
        parameters=parameters,
        difference=max(report.difference, found.difference),
        error=found.error,
        diagnoses=(*report.diagnoses, diagnosis, *more),
    )
