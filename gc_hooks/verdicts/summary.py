"""All parameters in one figure, for the summary line and the chart."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gc_hooks.arrays.norms import norm
from gc_hooks.problem import Problem
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.slopes.measurements import Measurements
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
    """Everything that a check has found, in one document."""
    difference, error = overall(session.problem, session.measurements, comparisons)
    meter = session.problem.meter
    return CheckReport(
        parameters=comparisons,
        diagnoses=diagnoses,
        difference=difference,
        error=error,
        loss=session.problem.value,
        step=step,
        method=" + ".join(dict.fromkeys(tool.name for tool in session.instruments)),
        seed=seed,
        evaluations=meter.evaluations,
        complex_evaluations=meter.complex_evaluations,
        gradients=meter.gradients,
        seconds=meter.seconds,
        penalty_share=penalty_share(comparisons) if len(session.problem.terms) > 1 else math.nan,
        bands=session.tolerance.bands,
        pictures=plot_data.parameters if plot_data else {},
        curve=plot_data.curve if plot_data else None,
        notes=(*session.problem.notes, *_notes(session)),
    )


def _notes(session: Session) -> Iterator[str]:
    """What was noticed while measuring."""
    yield from dict.fromkeys(note for tool in session.instruments for note in tool.notes)
    if False in session.heeded:
        yield _unheeded(session.problem)
    if refusals := session.problem.meter.refusals:
        yield (
            f"The loss raised {refusals[0]} at {len(refusals)} of the points at which it was asked, taken to "
            "be outside of its domain."
        )


def _unheeded(problem: Problem) -> str:
    seen = f"The loss was {problem.value:.6g} to the last bit wherever every parameter was changed."
    if problem.live is not None:
        return (
            f"{seen} It probably reads other arrays than those that were handed in: copies, or older ones. Try params= "
            "with the very arrays that the loss reads."
        )
    return (
        f"{seen} It probably reads other arrays than those it is given, or a function that should set them does not. "
        "Try loss=lambda p: ... that uses p, or in_place=True where it reads the arrays that were handed in."
    )


def overall(problem: Problem, measurements: Measurements, comparisons: dict[str, Comparison]) -> tuple[float, float]:
    """The classic ratio over all parameters, and its error bar; NaN where nothing was compared."""
    parts = [c for c in comparisons.values() if math.isfinite(c.difference) and math.isfinite(c.backprop_norm)]
    if not parts:
        return math.nan, math.nan
    size = sum(math.hypot(*(getattr(part, side) for part in parts)) for side in ("backprop_norm", "measured_norm"))
    if all(measurements.parameters[part.name].complete for part in parts):
        difference = _exact_ratio(problem, measurements, [part.name for part in parts])
    else:
        difference = _combined([part.difference for part in parts], parts, size)
    return difference, _combined([part.error for part in parts], parts, size)


def _combined(ratios: list[float], parts: list[Comparison], size: float) -> float:
    """Ratios of parts as the ratio of the whole: norms add in squares."""
    if size == 0:
        return max(ratios)
    norms = (r * (part.backprop_norm + part.measured_norm) for r, part in zip(ratios, parts, strict=True))
    return min(1.0, math.hypot(*norms) / size)


def _exact_ratio(problem: Problem, measurements: Measurements, names: list[str]) -> float:
    """The textbook's formula over all entries, in the textbook's order of operations."""
    entries = [measurements.parameters[name].entries(problem.grads[name]) for name in names]
    grad, slopes = np.concatenate([e.grad for e in entries]), np.concatenate([e.slopes for e in entries])
    size = norm(grad) + norm(slopes)
    return norm(grad - slopes) / size if size > 0 else 0.0


def penalty_share(comparisons: dict[str, Comparison]) -> float:
    """What the penalty contributes to the whole slope, as a ratio of norms."""
    parts = [c for c in comparisons.values() if math.isfinite(c.measured_norm)]
    whole = math.hypot(*(c.measured_norm for c in parts))
    return math.hypot(*(c.penalty_share * c.measured_norm for c in parts)) / whole if whole > 0 else math.nan
