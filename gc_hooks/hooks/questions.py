"""The three questions that a hook asks of a trainer, answered in one report.

Do the buffers that the optimiser is about to use equal a fresh backward pass on the same batch with the same masks?
Does backward give the same gradient twice? Does the gradient equal the slope of the loss, penalty and all?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Batch, Loss, Params, RandomState
from gc_hooks.arrays.large import copies_in_double
from gc_hooks.arrays.norms import in_double, norm, relative_difference, same_bits
from gc_hooks.check import check_gradients, check_problem
from gc_hooks.hooks.identities import broken_identities
from gc_hooks.layerwise import check_layer_views, layers_at_fault
from gc_hooks.problem import Meter
from gc_hooks.problem.validate import revisit
from gc_hooks.quick_check import quick_check
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Diagnosis, listed, plural
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.slopes.estimate import EPS
from gc_hooks.training import Objective, TrainState

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


BETWEEN = {"wrong_below", "other_loss", "unexplained", "dropout_scale", "order_matters", "samples_mixed"}
"""What a check of the layers one by one can tell more of."""
ROUNDINGS = 1e3
"""Two passes over the same numbers may differ by so many roundings (another order of summation) and be the same."""
REMAINDER = 10
"""Roundings of the whole gradient that may be left where a parameter's own is zero."""


def check_slopes(
    state: TrainState, batch: Batch, random_state: RandomState | None, options: Mapping[str, Any]
) -> CheckReport:
    """The third question, on a fixed batch in float64: gradient function against measured slopes.

    Data part and penalty are measured apart. With no random state dropout's rate is zero; else its masks are fixed.
    """
    doubled = _in_double(batch)
    objective = _detached(state, in_double(state.params), doubled, random_state)
    has_penalty = objective.penalty(state.params) != 0
    report = check_gradients(
        lambda params: objective.data_loss(params, doubled, random_state),
        state.params,
        lambda params: objective.gradient(params, doubled, random_state),
        penalty=objective.penalty if has_penalty else None,
        constants=_constants(state, batch),
        **options,
    )
    if has_penalty:
        report = with_penalty(report, state, doubled, random_state, options)
    return _told(report, state, batch, random_state)


def quick_check_slopes(
    state: TrainState, batch: Batch, random_state: RandomState | None, options: Mapping[str, Any]
) -> CheckReport:
    """The same at the lowest cost, for a periodic check after a good one: data part and penalty together, and loss and
    gradient are not asked once more whether they repeat themselves."""
    doubled, point = _in_double(batch), copies_in_double(state.params)
    objective = _detached(state, point, doubled, random_state)
    problem = revisit(
        lambda params: objective.data_loss(params, doubled, random_state) + objective.penalty(params),
        point,
        lambda params: objective.gradient(params, doubled, random_state),
        lambda params: _value_and_gradient(objective, params, doubled, random_state),
        Meter(options["max_evaluations"], options["max_seconds"]),
    )
    chosen = {key: options[key] for key in ("method", "probes", "tolerance", "seed", "step", "pictures")}
    report = (
        None if options["method"] else quick_check(problem, options["tolerance"], seed=options["seed"], step=state.step)
    )
    if report is None:
        report = check_problem(problem, constants=_constants(state, batch), **chosen)
    return _told(report, state, batch, random_state)


def _value_and_gradient(
    objective: Objective, params: Params, batch: Batch, random_state: RandomState | None
) -> tuple[Any, Params]:
    """The whole loss and its gradient, in one pass where the objective knows how."""
    both = getattr(objective, "value_and_gradient", None)
    if both is not None:
        pair: tuple[Any, Params] = both(params, batch, random_state)
        return pair
    value = objective.data_loss(params, batch, random_state) + objective.penalty(params)
    return value, objective.gradient(params, batch, random_state)


def _constants(state: TrainState, batch: Batch) -> dict[str, float]:
    """Numbers by which a gradient may be off."""
    sizes = {
        "check batch size": len(batch[0]),
        "training batch size": 0 if state.batch is None else len(state.batch[0]),
    }
    return {what: size for what, size in sizes.items() if size > 1} | getattr(state.objective, "constants", {})


def _told(report: CheckReport, state: TrainState, batch: Batch, random_state: RandomState | None) -> CheckReport:
    """The report with where it was asked, and the layers at fault where a delta goes wrong between them."""
    dropout = "off" if random_state is None else "on, with fixed masks"
    report = replace(report, asked=(f"Slopes on {plural(len(batch[0]), 'sample')} in float64, dropout {dropout}.",))
    report = report.noted(*getattr(state.objective, "notes", ()), *state.remarks)
    unsteady = any(diagnosis.code == "not_repeatable" for diagnosis in report.diagnoses)
    if report.verdict < Verdict.DOUBLE_CHECK or unsteady:  # what changes from call to call breaks every identity
        return report
    params = in_double(state.params)
    report = _with_diagnoses(report, broken_identities(state.objective, params, _in_double(batch)))
    unclear = any(diagnosis.code in BETWEEN for diagnosis in report.diagnoses)
    if not unclear or not hasattr(state.objective, "pieces"):
        return report
    pieces = list(state.objective.pieces(params, _in_double(batch), random_state))
    return _with_diagnoses(report, layers_at_fault(check_layer_views(pieces, seed=report.seed), pieces))


def _with_diagnoses(report: CheckReport, more: Iterable[Diagnosis]) -> CheckReport:
    return replace(report, diagnoses=(*report.diagnoses, *more))


def _detached(state: TrainState, params: Params, batch: Batch, random_state: RandomState | None) -> Objective:
    """The objective whose slope the gradient is: truncated back-propagation takes some states for constants."""
    detach = getattr(state.objective, "detached", None)
    detached: Objective = detach(params, batch, random_state) if detach else state.objective
    return detached


def _in_double(batch: Batch) -> Batch:
    inputs, targets = (a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a for a in batch)
    return inputs, targets


def with_buffers(report: CheckReport, state: TrainState, previous: Params | None, thrifty: bool = False) -> CheckReport:
    """The first two questions: the buffers against two fresh backward passes, or against one.

    Parameters
    ----------
    report : CheckReport
        The answer to the third.
    state : TrainState
        At `gc_hooks.training.Callback.on_gradients`.
    previous : dict of str to ndarray or None
        The buffers one step earlier, if they were looked at: they tell an accumulated gradient from a stale one.
    thrifty : bool
        One pass is enough: in a periodic check after a good one.
    """
    batch = state.batch
    assert batch is not None
    count = 1 if thrifty else 2
    passes = [state.objective.gradient(state.params, batch, state.random_state) for _ in range(count)]
    return compare_buffers(report, state.grads, passes, previous)


def compare_buffers(
    report: CheckReport, live: Params, passes: Sequence[Params], previous: Params | None
) -> CheckReport:
    """The same for buffers and fresh backward passes that are at hand."""
    fresh, *again = passes
    unsteady = _apart(fresh, again[0]) if again else {}
    differing = {name: d for name, d in _apart(live, fresh).items() if name not in unsteady}
    told = {name for diagnosis in report.diagnoses for name in diagnosis.parameters}
    untold = {name: difference for name, difference in unsteady.items() if name not in told}
    diagnoses = [_unsteady(untold)] if untold else []
    diagnoses += [_differing(live, fresh, previous, differing)] if differing else []
    parameters = dict(report.parameters)
    for name, difference in {**unsteady, **differing}.items():
        how = "the optimiser's buffer is off a fresh backward pass" if name in differing else "not repeatable: off"
        parameters[name] = worse(parameters[name], difference, ROUNDINGS * EPS, f"{how} by {difference:.1e}")
    twice = ", run twice" if again else ""
    asked = () if differing or unsteady else (f"The optimiser's buffers equal a fresh backward pass{twice}.",)
    return replace(
        report,
        parameters=parameters,
        difference=max(report.difference, _whole_difference(live, fresh)) if differing else report.difference,
        diagnoses=(*report.diagnoses, *diagnoses),
        asked=(*report.asked, *asked),
        gradients=report.gradients + len(passes),
    )


def without_buffers(report: CheckReport, fresh: Params, note: str, advice: str) -> CheckReport:
    """The same where no buffer holds a gradient, and a fresh backward pass gives one that is not zero."""
    missing = {name: norm(array) for name, array in fresh.items() if np.any(array)}
    parameters = {
        name: replace(c, difference=math.nan, error=math.nan, worst=(), wrong=0).noted(note, Verdict.WORRY)
        if name in missing
        else c
        for name, c in report.parameters.items()
    }
    message = f"There is no gradient for {listed(missing)}: {note}"
    measurements = f"A fresh backward pass gives one, of norm {math.hypot(*missing.values()):.2g}."
    found = Diagnosis("missing_gradient", tuple(missing), message, measurements, advice)
    return replace(report, parameters=parameters, diagnoses=(*report.diagnoses, found))


def check_own_loop(
    loss: Loss, params: Any, grads: Any, before: Callable[[], object] | None, options: Mapping[str, Any]
) -> CheckReport:
    """The third question in anybody's loop, and which of the others could not be asked there.

    What the model carries from call to call is put back before each call, and after the last one: the training goes
    on from where it was.
    """
    if before is None:
        report = check_gradients(loss, params, grads, **options)
    else:
        fresh_grads = _after(before, grads) if callable(grads) else grads
        try:
            report = check_gradients(_after(before, loss), params, fresh_grads, **options)
        finally:
            before()
    return replace(report, unasked=_unasked(grads))


def _after(before: Callable[[], object], function: Callable[..., Any]) -> Callable[..., Any]:
    def reset(*arguments: Any) -> Any:
        before()
        return function(*arguments)

    return reset


def _unasked(grads: Any) -> tuple[str, ...]:
    """What a loop of one's own does not let the hook see."""
    if callable(grads):
        return ("do the optimiser's buffers equal a fresh backward pass? The gradient is a function.",)
    return ("does backward repeat itself, is it right in float64? The gradient was handed in as buffers.",)


def _whole_difference(live: Params, fresh: Params) -> float:
    """The classic ratio over all parameters, between the buffers and a fresh backward pass."""
    sides = (np.concatenate([np.ravel(side[name]) for name in fresh]) for side in (live, fresh))
    return relative_difference(*sides)


def _apart(first: Params, second: Params) -> dict[str, float]:
    """The parameters whose gradients differ by more than rounding, with the classic ratio; a gradient that is missing
    on one side is another question's finding. Rounding is no smaller than the whole gradient's: where the true gradient
    is zero (a bias in front of batch norm), a pass that adds up in another order leaves another remainder."""
    unlike = {name: array for name, array in first.items() if not same_bits(array, second.get(name, array))}
    whole = math.hypot(*map(norm, first.values())) if unlike else 0.0
    remainder, apart = REMAINDER * whole if math.isfinite(whole) else 0.0, {}
    for name, array in unlike.items():
        other, eps = second[name], float(np.finfo(array.dtype).eps)
        difference = relative_difference(array, other)
        if not (difference <= ROUNDINGS * eps or norm(array - other) <= eps * remainder):
            apart[name] = difference
    return apart


def differ(first: Params, second: Params) -> bool:
    """Whether two backward passes differ by more than rounding."""
    return bool(_apart(first, second))


def _unsteady(apart: Mapping[str, float]) -> Diagnosis:
    return Diagnosis(
        "not_repeatable",
        tuple(apart),
        f"Two backward passes over the same batch, masks and parameters differ for {', '.join(apart)}.",
        f"The largest difference is {max(apart.values()):.1e}.",
        "This usually means a buffer that is added to, or a cache that the pass before left behind. Try to make every "
        "pass begin with fresh ones.",
    )


def _differing(live: Params, fresh: Params, previous: Params | None, apart: Mapping[str, float]) -> Diagnosis:
    """What the buffers hold in place of this batch's gradient, as far as it can be told."""
    names = ", ".join(apart)
    measurements = f"The largest difference is {max(apart.values()):.1e}."
    if previous is not None and _all_close(live, {n: fresh[n] + previous[n] for n in apart}):
        message = f"The optimiser's buffers hold this step's gradient plus the step's before, for {names}."
        advice = "Gradients accumulate: try to set the buffers to zero at each step, or to write = where it says +=."
        return Diagnosis("accumulated", tuple(apart), message, measurements, advice)
    if previous is not None and _all_close(live, {n: previous[n] for n in apart}):
        message = f"The optimiser's buffers still hold the gradient of the step before, for {names}."
        advice = "They are stale: try to write the new gradient before the optimiser runs."
        return Diagnosis("stale", tuple(apart), message, measurements, advice)
    message = f"The optimiser's buffers are not what a fresh backward pass on the same batch gives, for {names}."
    advice = (
        "This usually means gradients that accumulate from step to step, or that something (clipping, scaling, a "
        "second backward pass) changed them before the optimiser. Try to compare them right after backward."
    )
    return Diagnosis("buffers_differ", tuple(apart), message, measurements, advice)


def _all_close(live: Params, expected: Mapping[str, Array]) -> bool:
    return not _apart({name: live[name] for name in expected}, expected)
