"""The penalty on its own: at a strength of 1e-6 a missing one is lost in the whole gradient, but not here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Batch, RandomState
from gc_hooks.callbacks import TrainState
from gc_hooks.check import check_gradients
from gc_hooks.diagnosis import Diagnosis
from gc_hooks.intake.matching import in_double
from gc_hooks.judging.comparison import Comparison
from gc_hooks.judging.verdict import Tolerance, Verdict
from gc_hooks.measuring.estimate import EPS
from gc_hooks.report import CheckReport

FACTORS = {"sign": "l2_sign", "scaled": "l2_factor"}
SUM_ROUNDINGS = 4.0
"""Taking the data's part off a sum leaves so many roundings of the sum."""


def with_penalty(
    report: CheckReport, state: TrainState, batch: Batch, random_state: RandomState | None, options: Mapping[str, Any]
) -> CheckReport:
    """What backprop adds to the data's gradient, against the slope of the penalty alone.

    A parameter whose penalty part is wrong gets that part's difference where it is the larger one. Costs two backward
    passes and as many evaluations of the penalty as the options make it.
    """
    params = in_double(state.params)
    whole = state.objective.gradient(params, batch, random_state)
    data = state.objective.data_gradient(params, batch, random_state)
    added = {name: gradient - data[name] for name, gradient in whole.items() if name in data}
    alone = check_gradients(state.objective.penalty, params, added, **{**options, "pictures": False})
    parameters = {
        name: _judged(comparison, alone.parameters[name], whole[name], options["tolerance"])
        if name in added
        else comparison
        for name, comparison in report.parameters.items()
    }
    named = {name for diagnosis in report.diagnoses for name in diagnosis.parameters}
    wrong = {n for n, c in parameters.items() if c is not report.parameters[n] and n not in named}
    return replace(report, parameters=parameters, diagnoses=(*report.diagnoses, *_diagnoses(alone, wrong)))


def _diagnoses(alone: CheckReport, wrong: set[str]) -> Iterator[Diagnosis]:
    """What the check of the penalty alone says, in the words for a penalty."""
    factors = {name for d in alone.diagnoses if d.code in FACTORS for name in d.parameters}
    for diagnosis in alone.diagnoses:
        about = tuple(name for name in diagnosis.parameters if name in wrong)
        if about and diagnosis.code in FACTORS:
            message = f"Of the penalty's part: {diagnosis.message}"
            yield replace(diagnosis, code=FACTORS[diagnosis.code], parameters=about, message=message)
        elif about and diagnosis.code.startswith("l2_") and not factors & set(about):
            yield replace(diagnosis, parameters=about)


def _judged(comparison: Comparison, part: Comparison, whole: Array, tolerance: Tolerance) -> Comparison:
    """The comparison, made worse by a penalty part that is wrong beyond the rounding of the sum it was taken from."""
    size = part.backprop_norm + part.measured_norm
    if not (math.isfinite(part.difference) and size > 0):
        return comparison
    rounding = SUM_ROUNDINGS * EPS * float(np.linalg.norm(whole)) / size
    if tolerance.judge(part.difference, part.error + rounding, part.at_least - rounding) <= Verdict.INCONCLUSIVE:
        return comparison
    return worse(comparison, part.difference, part.error + rounding, f"the penalty's part {_how_wrong(part)}")


def _how_wrong(part: Comparison) -> str:
    if part.backprop_norm == 0:
        return "is missing from the gradient"
    if part.measured_norm == 0:
        return "is in the gradient and not in the loss"
    return f"is off by {part.difference:.1e}"


def worse(comparison: Comparison, difference: float, error: float, note: str) -> Comparison:
    """A parameter that another question has found to be wrong; the larger difference is the one that counts."""
    if difference > comparison.difference or not math.isfinite(comparison.difference):
        comparison = replace(comparison, difference=difference, error=error, at_least=difference - error)
        comparison = replace(comparison, worst=(), wrong=0)
    return comparison.noted(note, Verdict.WORRY)
