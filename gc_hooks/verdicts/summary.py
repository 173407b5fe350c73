"""Write the report of a check: all parameters in one figure, and what was noticed."""

from __future__ import annotations

import math

import numpy as np

from gc_hooks.numerics import SINGLE_FROM
from gc_hooks.report import CheckReport, notes
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.verdict import Precision
from gc_hooks.verdicts.plot_data import PlotData
from gc_hooks.verdicts.session import Session


def write_report(
    session: Session,
    comparisons: dict[str, Comparison],
    diagnoses: tuple[Diagnosis, ...],
    *,
    step: int,
    seed: int,
    plot_data: PlotData | None = None,
) -> CheckReport:
    """Return everything that a check has found as one document."""
    problem, meter = session.slopes.problem, session.slopes.problem.meter
    difference, error = overall_difference(comparisons)
    noted = list(problem.notes)
    for tool in session.slopes.instruments:
        noted.extend(note for note in tool.notes if note not in noted)
    cause = _coarsest(session)
    if cause:
        precision = Precision.of(max(problem.precision, session.measurements.precision))
        noted.append(notes.in_precision(precision, cause, comparisons.values()))
    if session.loss_responds is False:
        noted.append(notes.loss_never_changes(problem.value, problem.live is not None))
    if meter.refusals:
        noted.append(notes.outside_domain(meter.refusals[0], len(meter.refusals)))
    report = CheckReport(
        parameters=comparisons,
        diagnoses=diagnoses,
        difference=difference,
        error=error,
        loss=problem.value,
        seconds=meter.seconds,
        evaluations=meter.evaluations,
        complex_evaluations=meter.complex_evaluations,
        gradients=meter.gradients,
        step=step,
        seed=seed,
        method=session.method,
        penalty_share=penalty_share(comparisons) if len(problem.terms) > 1 else math.nan,
        bands=session.tolerance.bands,
        pictures=plot_data.parameters if plot_data else {},
        curve=plot_data.curve if plot_data else None,
        notes=tuple(noted),
        unjudged=problem.unjudged,
    )
    return report.noted(notes.nothing_tested(report.untested)) if report.untested else report


def _coarsest(session: Session) -> notes.Coarse | None:
    """Return what computes in a lower precision than float64, the one first without which the others do not matter."""
    problem = session.slopes.problem
    if any(np.finfo(parameter.value.dtype).eps > SINGLE_FROM for parameter in problem.parameters):
        return notes.Coarse.PARAMETERS
    of_loss = session.measurements if session.reference is None else session.reference
    if of_loss.precision > SINGLE_FROM:
        return notes.Coarse.LOSS
    if problem.precision > SINGLE_FROM:
        return notes.Coarse.BUFFERS if problem.backprop is None else notes.Coarse.GRADIENT
    return None


def overall_difference(comparisons: dict[str, Comparison]) -> tuple[float, float]:
    """Return the classic ratio over all parameters, and its error; NaN where nothing was compared."""
    parts = []
    for comparison in comparisons.values():
        if math.isfinite(comparison.difference) and math.isfinite(comparison.backprop_norm):
            parts.append(comparison)
    if not parts:
        return math.nan, math.nan
    backprop_norm = math.hypot(*(part.backprop_norm for part in parts))
    size = backprop_norm + math.hypot(*(part.measured_norm for part in parts))
    if size == 0:
        return max(part.difference for part in parts), max(part.error for part in parts)
    difference, error = 0.0, 0.0
    for part in parts:  # norms add in squares
        part_size = part.backprop_norm + part.measured_norm
        difference = math.hypot(difference, part.difference * part_size)
        error = math.hypot(error, part.error * part_size)
    return min(1.0, difference / size), min(1.0, error / size)


def penalty_share(comparisons: dict[str, Comparison]) -> float:
    """Return what the penalty contributes to the whole slope, as a ratio of norms; NaN where no slope is known."""
    whole, part = 0.0, 0.0
    for comparison in comparisons.values():
        if math.isfinite(comparison.measured_norm):
            whole = math.hypot(whole, comparison.measured_norm)
            part = math.hypot(part, comparison.penalty_share * comparison.measured_norm)
    return part / whole if whole > 0 else math.nan
