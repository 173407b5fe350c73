"""Write the report of a Jacobian's check: a comparison for each block, and what was noticed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.derivatives.judgement import Judgement
from gc_hooks.derivatives.point import Point
from gc_hooks.derivatives.rows import Entry
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Basis, Comparison, EntryComparison, Reason
from gc_hooks.report.diagnosis import Diagnosis, agree, plural
from gc_hooks.report.verdict import Precision, Tolerance, Verdict
from gc_hooks.verdicts.bounds import upper_factor

LISTED = 5
"""Wrong entries that a report lists for each block."""


def written(
    point: Point,
    tolerance: Tolerance,
    seed: int,
    compared: dict[str, Comparison],
    diagnoses: tuple[Diagnosis, ...],
    *noted: str,
    **more: Any,
) -> CheckReport:
    """Return a report with what the check has cost."""
    meter = point.problem.meter
    return CheckReport(
        parameters=compared,
        diagnoses=diagnoses,
        evaluations=meter.evaluations,
        complex_evaluations=meter.complex_evaluations,
        seconds=meter.seconds,
        seed=seed,
        bands=tolerance.bands,
        notes=noted,
        **more,
    )


def report_of(judgement: Judgement, seed: int) -> CheckReport:
    """Return everything that was found at a point as one document."""
    gauge, judged = judgement.gauge, judgement.judged
    noted = [*judgement.noted, *([gauge.refusal] if gauge.refusal else [])]
    difference, error = math.nan, math.nan
    if judged is not None:
        noted += _said(judgement)
        shares = judged.sizes / (float(np.linalg.norm(judged.sizes)) or 1.0)
        difference = float(np.linalg.norm(shares * judged.difference))
        error = float(np.linalg.norm(shares * judged.error))
    if judgement.precision is not Precision.DOUBLE:
        noted.append(
            f"The verdicts hold in {judgement.precision}, in which the function or the {judgement.what} computes. Try "
            "float64 for a sharper one."
        )
    compared = {comparison.name: comparison for comparison in _comparisons(judgement)}
    diagnoses = tuple(judgement.diagnoses)
    figures = {"difference": difference, "error": error, "method": gauge.method}
    return written(judgement.point, judgement.tolerance, seed, compared, diagnoses, *noted, **figures)


def _said(judgement: Judgement) -> Iterator[str]:
    """Say what GOOD would have seen, and which outputs could not be judged."""
    judged = judgement.judged
    assert judged is not None
    unclear = np.flatnonzero(judged.verdicts == Verdict.INCONCLUSIVE)
    if len(unclear):
        why = "too noisy or not smooth enough there"
        advice = "Try float64, or a tighter tolerance of the solver inside of the function"
        if np.any(judgement.kinks[unclear]):
            why = "at a kink, where each side has its own slope"
            advice = f"Try to hand in the {judgement.what} as a function"
            advice = "Try another point" if judgement.point.is_function else advice
        rows = judgement.names.rows(unclear)
        yield f"{rows[:1].upper()}{rows[1:]} could not be judged: {why}. {advice}."
    hidden = np.flatnonzero(judged.vanishing & (judged.sizes > 0) & (judged.verdicts == Verdict.GOOD))
    if len(hidden):
        rows = judgement.names.rows(hidden)
        yield f"{rows[:1].upper()}{rows[1:]} {agree(hidden, 'has', 'have')} no slope beside the others; not tested."
    sensitivity = _sensitivity(judgement)
    if math.isfinite(sensitivity):
        along = plural(len(judgement.alongs), "random direction")
        yield f"The outputs were measured along {along}: an error above {sensitivity:.0e} of a row would show."


def _sensitivity(judgement: Judgement) -> float:
    """Return the smallest relative error of a good row that would have been seen with 99 %."""
    judged = judgement.judged
    assert judged is not None
    good = (judged.verdicts == Verdict.GOOD) & ~judged.vanishing
    if not np.any(good):
        return math.inf
    error = float(np.max(judged.error[good] + judged.difference[good]))
    return 2 * upper_factor(len(judgement.alongs)) * (judgement.tolerance.good + error)


def _comparisons(judgement: Judgement) -> Iterator[Comparison]:
    """Yield a comparison for each pair of an output and a parameter."""
    outputs, inputs = judgement.point.outputs, judgement.point.inputs
    wrong = _wrong_rows(judgement)
    for output, rows in outputs.slices():
        for name, columns in inputs.slices():
            full_name = f"{output}/{name}" if len(outputs.shapes) > 1 else name
            shape = (*outputs.shapes[output], *inputs.shapes[name])
            found = Comparison(full_name, shape, precision=judgement.precision)
            if judgement.judged is None:
                yield found.noted("not measured: the budget was spent before", None, Reason.BUDGET)
                continue
            found = _block(judgement, found, wrong[name], rows, columns)
            if name in judgement.accused_by:
                found = found.noted(judgement.accused_by[name], Verdict.WORRY)
            yield found


def _wrong_rows(judgement: Judgement) -> dict[str, set[int]]:
    """Return which rows are wrong in which parameter; one that was found in none may be wrong in each."""
    inputs, located = judgement.point.inputs, judgement.located
    found: dict[str, set[int]] = {name: set() for name in inputs.shapes}
    for entry in located.entries:
        found[inputs.place(entry.column)[0]].add(entry.row)
    for name, rows in judgement.in_parameter.items():
        found[name].update(map(int, rows))
    if judgement.judged is None:
        return found
    left = set(map(int, judgement.judged.wrong)).difference(*found.values())
    # Rows in which entries were not looked for are like those in which they were.
    alike = [name for name, rows in found.items() if rows and not len(located.unexplained)]
    for name in alike or found:
        found[name] |= left
    return found


def _block(judgement: Judgement, found: Comparison, wrong: set[int], rows: slice, columns: slice) -> Comparison:
    """Return the comparison of the rows of one output and the columns of one parameter."""
    judged, located = judgement.judged, judgement.located
    assert judged is not None
    entries = [
        e for e in located.entries if rows.start <= e.row < rows.stop and columns.start <= e.column < columns.stop
    ]
    accused = set(map(int, judged.wrong))
    mine = [row for row in range(rows.start, rows.stop) if row in wrong]
    others = [row for row in range(rows.start, rows.stop) if row not in accused]
    verdict = Verdict(int(max([*judged.verdicts[mine], *judged.verdicts[others]], default=Verdict.GOOD)))
    looked_at = mine or others
    ratios, errors = judged.difference[looked_at], judged.error[looked_at]
    if located.columns is not None:
        ratios, errors, norms = _ratios(judgement, looked_at, columns, bool(mine))
        found = replace(found, backprop_norm=norms[0], measured_norm=norms[1])
    worst_row = int(np.argmax(np.nan_to_num(ratios, nan=np.inf))) if len(ratios) else -1
    difference = float(ratios[worst_row]) if len(ratios) else 0.0
    error = float(errors[worst_row]) if len(ratios) else 0.0
    basis = Basis.EXACT if located.columns is not None else Basis.ESTIMATED if mine else Basis.BOUNDED
    largest = sorted(entries, key=lambda entry: -abs(entry.given - entry.measured))[:LISTED]
    return replace(
        found,
        difference=difference,
        error=error,
        at_least=max(0.0, difference - error) if mine else 0.0,
        verdict=verdict,
        sensitivity=_sensitivity(judgement),
        basis=basis,
        measured=found.size if basis is Basis.EXACT else len(entries),
        directions=len(judgement.alongs),
        wrong=len(entries),
        worst=tuple(_entry(judgement, entry) for entry in largest),
        note=f"wrong in {judgement.names.rows(mine)}" if mine else "",
    )


def _ratios(
    judgement: Judgement, rows: Sequence[int], columns: slice, is_wrong: bool
) -> tuple[Array, Array, tuple[float, float]]:
    """Return the difference and the error of each row within a block that was written out, and the norms of it."""
    judged, measured = judgement.judged, judgement.located.columns
    assert judged is not None
    assert measured is not None
    measured = measured[rows][:, columns]
    given = judgement.gauge.linear.columns(range(columns.start, columns.stop))[rows]
    weights = judgement.weights[columns]
    differences = np.linalg.norm((given - measured) * weights, axis=1)
    sizes = np.linalg.norm(given * weights, axis=1) + np.linalg.norm(measured * weights, axis=1)
    if not is_wrong:  # what rounding leaves of an entry that is zero is no difference
        sizes = judged.sizes[rows]
    ratios = np.divide(differences, sizes, out=np.zeros_like(differences), where=sizes > 0)
    return np.minimum(ratios, 1.0), judged.error[rows], (float(np.linalg.norm(given)), float(np.linalg.norm(measured)))


def _entry(judgement: Judgement, entry: Entry) -> EntryComparison:
    index = (*judgement.point.outputs.place(entry.row)[1], *judgement.point.inputs.place(entry.column)[1])
    return EntryComparison(index, entry.given, entry.measured, entry.error)
