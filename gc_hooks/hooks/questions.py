"""The three questions that a hook asks of a trainer, answered in one report.

1. Are the gradients in the optimiser's buffers those of a fresh backward pass, on the same batch with the same masks?
2. Does backward give the same gradient twice?
3. Is the gradient the slope of the loss, penalty included? Is it so with dropout on, too (`gc_hooks.hooks.masks`)?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Batch, Loss, Params, RandomState
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.arrays.large import copies_in_double
from gc_hooks.arrays.norms import in_double, norm, relative_difference, same_bits
from gc_hooks.arrays.tree import flatten
from gc_hooks.check import CheckOptions, check_gradients
from gc_hooks.hooks.held import Draws, find_draws
from gc_hooks.hooks.identities import broken_identities
from gc_hooks.hooks.masks import with_masks
from gc_hooks.isolation.evaluation import Evaluation, found_once
from gc_hooks.layer_view import LayerView
from gc_hooks.layerwise import check_layer_views, layers_at_fault
from gc_hooks.numerics import EPS
from gc_hooks.problem import Meter, Problem, put_back
from gc_hooks.problem.validate import build_problem, revisit, takes_nothing
from gc_hooks.quick_check import Glance
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import Code, Diagnosis, listed, plural
from gc_hooks.report.verdict import Verdict
from gc_hooks.training import TrainState

PENALTY_CODES: dict[str, str] = {Code.SIGN: Code.L2_SIGN, Code.SCALED: Code.L2_FACTOR}
"""Codes of a diagnosis for a gradient, and for the penalty's part of one."""

L2_CODES: set[str] = {Code.L2_MISSING, Code.L2_FACTOR, Code.L2_SIGN, Code.L2_ON_BIAS}

SUM_ROUNDINGS = 4.0
"""Error of the penalty's part of a gradient, in roundings of the whole gradient: the part is what is left when the
data's gradient, from a pass of its own, is taken off. Four: each of the two gradients is a sum that was rounded."""

ROUNDINGS = 1e3
"""Roundings by which two passes over the same numbers may differ. A sum of n terms in another order differs by about
sqrt(n), at most n roundings; 1e3 are 1e-4 in float32, and the buffers of real bugs are off by 1e-2 and more."""

REMAINDER = 10
"""Roundings of the whole gradient that may be left where a parameter's own gradient is zero, such as that of a bias in
front of batch norm: a pass that adds up in another order leaves another remainder."""

MOST_SHOWN = 3
"""Arrays of which the first entry that is not finite is shown: all of them would be a page."""

BETWEEN_LAYERS: set[str] = {Code.WRONG_BELOW, Code.OTHER_LOSS, Code.UNEXPLAINED}
BETWEEN_LAYERS |= {Code.DROPOUT_SCALE, Code.ORDER_MATTERS, Code.SAMPLES_MIXED}
BETWEEN_LAYERS |= {Code.PATH_LOST, Code.PATH_SCALED, Code.ACTIVATION_DERIVATIVE, Code.NOT_TRANSPOSED, Code.OTHER_INPUT}
"""Codes of bugs that a check of the layers one by one can locate."""


# --- question 3: is the gradient the slope of the loss? ---------------------------------------------------------------


def check_slopes(
    state: TrainState, batch: Batch, random_state: RandomState | None, options: CheckOptions
) -> CheckReport:
    """Check the gradient function against measured slopes, on a fixed batch in float64; the penalty is measured apart.

    Without a random state dropout's rate is zero; with one, its masks are those that are drawn from there.
    """
    data = _in_double(batch[0]), _in_double(batch[1])
    objective = state.objective.detached(in_double(state.params), data, random_state)
    has_penalty = objective.penalty(state.params) != 0

    def gradient(params: Params) -> Params:
        # In the precision of the training the batch is asked as the training has it.
        in_training = any(array.dtype != np.float64 for array in params.values())
        return objective.gradient(params, batch if in_training else data, random_state)

    report = check_gradients(
        lambda params: objective.data_loss(params, data, random_state),
        state.params,
        gradient,
        penalty=objective.penalty if has_penalty else None,
        **vars(replace(options, constants=_constants(state, batch))),
    )
    if has_penalty:
        report = _with_penalty(report, state, data, random_state, options)
    return _explained(report, state, data, random_state)


def check_slopes_and_masks(state: TrainState, batch: Batch, options: CheckOptions) -> CheckReport:
    """Check the gradient function with dropout off, and then whether it is right with dropout on, too."""
    report = check_slopes(state, batch, None, options)
    random_state = state.random_state
    if random_state is None:  # a trainer without dropout
        return report
    data, point = (_in_double(batch[0]), _in_double(batch[1])), copies_in_double(state.params)
    objective = state.objective.detached(point, data, random_state)

    def loss(params: Params) -> Any:
        return objective.data_loss(params, data, random_state) + objective.penalty(params)

    def build(meter: Meter) -> Problem:
        return build_problem(
            loss, point, lambda params: objective.gradient(params, data, random_state), meter=meter, is_known=True
        )

    whole = partial(check_slopes, state, batch, random_state)
    return with_masks(report, options, lambda: float(loss(point)), build, whole=whole)


def glance_at_slopes(
    state: TrainState, batch: Batch, random_state: RandomState | None, options: CheckOptions, glance: Glance
) -> CheckReport | None:
    """Return the report of the gradient function at the lowest cost, where it is as right or as wrong as it was.

    Data part and penalty are measured together, and whether loss and gradient repeat themselves is not asked again.
    None where all of it has to be asked.
    """
    data, point = (_in_double(batch[0]), _in_double(batch[1])), copies_in_double(state.params)
    objective = state.objective.detached(point, data, random_state)
    problem = revisit(
        lambda params: objective.data_loss(params, data, random_state) + objective.penalty(params),
        point,
        lambda params: objective.gradient(params, data, random_state),
        lambda params: objective.value_and_gradient(params, data, random_state),
        Meter(options.max_evaluations, options.max_seconds),
    )
    report = glance.look(problem, options.tolerance, seed=options.seed, step=options.step)
    return None if report is None else _circumstances(report, state, data, random_state)


def _in_double(array: Array) -> Array:
    """Return inputs or targets in float64; labels stay integers."""
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _constants(state: TrainState, batch: Batch) -> dict[str, float]:
    """Return the factors by which a wrong gradient may be off, with their names."""
    constants: dict[str, float] = {}
    if len(batch[0]) > 1:
        constants["check batch size"] = len(batch[0])
    if state.batch is not None and len(state.batch[0]) > 1:
        constants["training batch size"] = len(state.batch[0])
    return constants | state.objective.constants


def _explained(report: CheckReport, state: TrainState, batch: Batch, random_state: RandomState | None) -> CheckReport:
    """Add where the bug is if the gradient is wrong, and how the slopes were measured."""
    report = _circumstances(report, state, batch, random_state)
    # A gradient that changes from call to call breaks every identity: nothing would be learnt.
    if report.verdict < Verdict.DOUBLE_CHECK or _named(report, (Code.NOT_REPEATABLE,)):
        return report
    params = in_double(state.params)
    diagnoses = [*report.diagnoses, *broken_identities(state.objective, params, batch)]
    if not BETWEEN_LAYERS.isdisjoint(diagnosis.code for diagnosis in diagnoses):
        views: list[LayerView] = list(state.objective.layer_views(params, batch, random_state))
        # First, because a layer with its file and line says more than a pattern.
        diagnoses = [*layers_at_fault(check_layer_views(views, seed=report.seed), views), *diagnoses]
    return replace(report, diagnoses=tuple(diagnoses))


def _circumstances(
    report: CheckReport, state: TrainState, batch: Batch, random_state: RandomState | None
) -> CheckReport:
    """Add how the slopes were measured, and what is to be said of the model."""
    dropout = "off" if random_state is None else "on, with fixed masks"
    answer = f"Slopes on {plural(len(batch[0]), 'sample')} in float64, dropout {dropout}."
    return replace(report, asked=(answer,)).noted(*state.objective.notes, *state.remarks)


def _named(report: CheckReport, codes: Collection[str] | None = None) -> set[str]:
    """Return the parameters that the diagnoses name, or those with some codes."""
    names: set[str] = set()
    for diagnosis in report.diagnoses:
        if codes is None or diagnosis.code in codes:
            names.update(diagnosis.parameters)
    return names


# --- the penalty, as a part of question 3 -----------------------------------------------------------------------------


def _with_penalty(
    report: CheckReport, state: TrainState, batch: Batch, random_state: RandomState | None, options: CheckOptions
) -> CheckReport:
    """Compare what backprop adds to the data's gradient with the slope of the penalty alone.

    A parameter whose penalty part is certainly wrong gets that part's difference where it is the larger one. Costs two
    backward passes and as many evaluations of the penalty as the options make it.
    """
    # A penalty is often so small that a wrong one is within the error of the slope of data and penalty together.
    params = in_double(state.params)
    total = state.objective.gradient(params, batch, random_state)
    data = state.objective.data_gradient(params, batch, random_state)
    added = {name: gradient - data[name] for name, gradient in total.items() if name in data}
    alone = check_gradients(state.objective.penalty, params, added, **vars(replace(options, pictures=False)))
    parameters, wrong = dict(report.parameters), set()
    for name in added:
        part = alone.parameters[name]
        size = part.backprop_norm + part.measured_norm
        if not (math.isfinite(part.difference) and size > 0):
            continue
        rounding = SUM_ROUNDINGS * EPS * norm(total[name]) / size
        error = part.error + rounding
        if options.tolerance.judge(part.difference, error, part.at_least - rounding) <= Verdict.INCONCLUSIVE:
            continue
        note = f"the penalty's part is off by {part.difference:.1e}"
        if part.backprop_norm == 0:
            note = "the penalty's part is missing from the gradient"
        elif part.measured_norm == 0:
            note = "the penalty's part is in the gradient and not in the loss"
        parameters[name] = _worse(parameters[name], part.difference, error, note)
        wrong.add(name)
    found = _of_penalty(alone, wrong - _named(report))
    return replace(report, parameters=parameters, diagnoses=(*report.diagnoses, *found))


def _of_penalty(alone: CheckReport, wrong: set[str]) -> Iterator[Diagnosis]:
    """Yield what the check of the penalty alone says of some parameters, in the words for a penalty."""
    with_factor = _named(alone, PENALTY_CODES)
    for diagnosis in alone.diagnoses:
        names = tuple(name for name in diagnosis.parameters if name in wrong)
        if names and diagnosis.code in PENALTY_CODES:
            code, message = PENALTY_CODES[diagnosis.code], f"Of the penalty's part: {diagnosis.message}"
            yield replace(diagnosis, code=code, parameters=names, message=message)
        elif names and diagnosis.code in L2_CODES and with_factor.isdisjoint(names):
            yield replace(diagnosis, parameters=names)


def _worse(comparison: Comparison, difference: float, error: float, note: str) -> Comparison:
    """Return the comparison of a parameter that is wrong by another question; the larger difference counts."""
    if difference > comparison.difference or not math.isfinite(comparison.difference):
        at_least = difference - error
        comparison = replace(comparison, difference=difference, error=error, at_least=at_least, worst=(), wrong=0)
    return comparison.noted(note, Verdict.WORRY, Reason.HOOK)


# --- questions 1 and 2: do the buffers equal a fresh backward pass, and does it repeat itself? ------------------------


def with_buffers(report: CheckReport, state: TrainState, previous: Params | None, passes: int = 2) -> CheckReport:
    """Add the comparison of the buffers with fresh backward passes to the answer to question 3.

    ``previous`` are the buffers one step earlier, if they are known. With one pass question 2 is left out, which is
    enough for a periodic check after a good one.
    """
    batch, random_state = state.batch, state.random_state
    assert batch is not None
    fresh = [state.objective.gradient(state.params, batch, random_state) for _ in range(passes)]
    loss = report.loss
    if not are_finite(state.grads):  # the batch of the training may be another than that of the check
        data = _in_double(batch[0]), _in_double(batch[1])
        loss = float(state.objective.data_loss(in_double(state.params), data, random_state))
    return compare_buffers(report, state.grads, fresh, previous, loss)


def are_finite(arrays: Params) -> bool:
    """Return whether no array holds NaN or infinity."""
    return all(bool(np.all(np.isfinite(array))) for array in arrays.values())


def not_finite(report: CheckReport, live: Params, loss: float, advice: str = "") -> CheckReport:
    """Add what buffers that hold NaN or infinity mean: a finding, unless the loss in float64 is not finite either.

    ``advice`` is added to the usual one.
    """
    if not math.isfinite(report.loss):  # that is what is told
        return report
    known, evidence, parameters = _named(report, (Code.NOT_FINITE,)), [], dict(report.parameters)
    names = [name for name in parameters if name in live and not np.all(np.isfinite(live[name]))]
    names = [name for name in names if name not in known]
    for name in names:
        comparison, places = parameters[name], np.argwhere(~np.isfinite(live[name]))
        note = f"{len(places)} of {live[name].size} entries of the optimiser's buffer are not finite"
        if math.isfinite(loss):
            comparison = replace(comparison, difference=math.nan, error=math.nan, worst=(), wrong=0)
            parameters[name] = comparison.noted(note, Verdict.WORRY, Reason.HOOK)
        elif comparison.verdict is Verdict.GOOD:
            note += ", and the loss on this batch is not either"
            parameters[name] = comparison.noted(note, Verdict.INCONCLUSIVE, Reason.LOSS_NOT_FINITE)
        evidence.append(f"{name}{places[0].tolist()} is {live[name][tuple(places[0])]}")
    report = replace(report, parameters=parameters)
    if not (names and math.isfinite(loss)):
        return report
    found = Diagnosis(
        Code.NOT_FINITE,
        tuple(names),
        f"The optimiser's buffers hold NaN or infinity for {listed(names)}, while the loss in float64 is finite.",
        f"{listed(evidence, MOST_SHOWN)}.",
        "This usually means that backward overflows, or divides by what is rounded to zero, in the precision of the "
        "training. Try to look at what is special at these entries, and to write exp, log and divisions so that they "
        f"stay finite. {advice}".rstrip(),
    )
    return replace(report, diagnoses=(*report.diagnoses, found))


def compare_buffers(
    report: CheckReport, live: Params, passes: Sequence[Params], previous: Params | None, loss: float | None = None
) -> CheckReport:
    """Add the comparison of the buffers with one or two fresh backward passes that have been made.

    ``loss`` is that of the buffers' batch, where it is another one than the report's.
    """
    fresh, *again = passes
    broken = {name for name, array in live.items() if not np.all(np.isfinite(array))}  # they are equal to nothing
    if broken:
        report = not_finite(report, live, report.loss if loss is None else loss)
    unsteady = differ(fresh, again[0]) if again else {}
    differing = {name: d for name, d in differ(live, fresh).items() if name not in unsteady and name not in broken}
    parameters, diagnoses = dict(report.parameters), list(report.diagnoses)
    for name, d in (unsteady | differing).items():
        note = f"the optimiser's buffer is off a fresh backward pass by {d:.1e}"
        if name in unsteady:
            note = f"not repeatable: off by {d:.1e}"
        parameters[name] = _worse(parameters[name], d, ROUNDINGS * EPS, note)
    named = _named(report)
    unexplained = {name: d for name, d in unsteady.items() if name not in named}
    if unexplained:  # question 3 asks the gradient twice as well
        diagnoses.append(
            Diagnosis(
                Code.NOT_REPEATABLE,
                tuple(unexplained),
                f"Two backward passes over the same batch, masks and parameters differ for {', '.join(unexplained)}.",
                f"The largest difference is {max(unexplained.values()):.1e}.",
                "This usually means a buffer that is added to, or a cache that the pass before left behind. Try to "
                "make every pass begin with fresh ones.",
            )
        )
    difference, asked = report.difference, report.asked
    if differing:
        diagnoses.append(_what_buffers_hold(live, fresh, previous, differing))
        buffers = np.concatenate([np.ravel(live[name]) for name in fresh])
        difference = max(difference, relative_difference(buffers, np.concatenate([*map(np.ravel, fresh.values())])))
    elif not (unsteady or broken):
        asked += (f"The optimiser's buffers equal a fresh backward pass{', run twice' if again else ''}.",)
    gradients = report.gradients + len(passes)
    report = replace(report, difference=difference, asked=asked, gradients=gradients)
    return replace(report, parameters=parameters, diagnoses=tuple(diagnoses))


def without_buffers(report: CheckReport, fresh: Params, note: str, advice: str) -> CheckReport:
    """Add the finding that no buffer holds a gradient, although a fresh backward pass gives one that is not zero."""
    missing = {name: norm(array) for name, array in fresh.items() if np.any(array)}
    parameters = dict(report.parameters)
    for name in missing.keys() & parameters.keys():
        nothing = replace(parameters[name], difference=math.nan, error=math.nan, worst=(), wrong=0)
        parameters[name] = nothing.noted(note, Verdict.WORRY, Reason.HOOK)
    message = f"There is no gradient for {listed(missing)}: {note}"
    evidence = f"A fresh backward pass gives one, of norm {math.hypot(*missing.values()):.2g}."
    found = Diagnosis(Code.MISSING_GRADIENT, tuple(missing), message, evidence, advice)
    return replace(report, parameters=parameters, diagnoses=(*report.diagnoses, found))


def differ(first: Params, second: Params) -> dict[str, float]:
    """Return the classic ratio for each parameter whose gradients differ by more than rounding.

    A gradient that is missing on one side is left out: question 3 finds it.
    """
    unlike = [name for name, array in first.items() if not same_bits(array, second.get(name, array))]
    found: dict[str, float] = {}
    if not unlike:  # the common case, without a norm
        return found
    remainder = REMAINDER * math.hypot(*map(norm, first.values()))
    if not math.isfinite(remainder):
        remainder = 0.0
    for name in unlike:
        eps = float(np.finfo(first[name].dtype).eps)
        difference = relative_difference(first[name], second[name])
        # Not "difference > ... and ...": NaN has to count as a difference.
        if not (difference <= ROUNDINGS * eps or norm(first[name] - second[name]) <= eps * remainder):
            found[name] = difference
    return found


def _what_buffers_hold(
    live: Params, fresh: Params, previous: Params | None, differing: Mapping[str, float]
) -> Diagnosis:
    """Return what the buffers hold in place of this batch's gradient, as far as that is known."""
    code, seen = Code.BUFFERS_DIFFER, "are not what a fresh backward pass on the same batch gives"
    advice = (
        "This usually means gradients that accumulate from step to step, or that something (clipping, scaling, a "
        "second backward pass) changed them before the optimiser. Try to compare them right after backward."
    )
    if previous is not None:
        buffers, accumulated = {}, {}
        for name in differing:
            buffers[name], accumulated[name] = live[name], fresh[name] + previous[name]
        if not differ(buffers, accumulated):
            code, seen = Code.ACCUMULATED, "hold this step's gradient plus that of the step before"
            advice = (
                "Gradients accumulate: try to set the buffers to zero at each step, or to write = where it says +=."
            )
        elif not differ(buffers, previous):
            code, seen = Code.STALE, "still hold the gradient of the step before"
            advice = "They are stale: try to write the new gradient before the optimiser runs."
    message = f"The optimiser's buffers {seen}, for {', '.join(differing)}."
    evidence = f"The largest difference is {max(differing.values()):.1e}."
    return Diagnosis(code, tuple(differing), message, evidence, advice)


# --- a loop of the user's ---------------------------------------------------------------------------------------------


class OwnStep(NamedTuple):
    """What one call of `GradCheckHook.on_step` handed in."""

    step: int
    loss: Loss
    params: Any
    grads: Any
    in_place: bool
    before_loss: Callable[[], object] | None
    penalty: Loss | None = None


def own_step(*handed_in: Any) -> OwnStep:
    """Return what a call handed in; a loss that takes nothing reads the user's own arrays."""
    own = OwnStep(*handed_in)
    return own._replace(in_place=own.in_place or takes_nothing(own.loss))


def check_own_loop(own: OwnStep, options: CheckOptions, draws: Draws | None = None) -> CheckReport:
    """Ask question 3 in a loop of the user's, and say which of the others could not be asked."""
    if draws is None:
        with reset(own) as (loss, grads):
            report = check_gradients(
                loss, own.params, grads, in_place=own.in_place, penalty=own.penalty, **vars(options)
            )
        return _of_own_loop(own, report)
    report = check_own_loop(_with_held(own, draws, draws.before), options)
    if report.verdict > Verdict.INCONCLUSIVE and draws.more:
        # A backward pass that begins with two forward passes goes back through the second one.
        second = check_own_loop(_with_held(own, draws, draws.after), options)
        report = second if second.ok else report
    return draws.told(report)


def _with_held(own: OwnStep, draws: Draws, states: dict[str, Any]) -> OwnStep:
    return own._replace(loss=draws.held(own.loss, states), grads=draws.held(own.grads, draws.before))


def find_own_draws(own: OwnStep) -> Draws | None:
    """Return what loss and gradient of one step draw, where that can be held fixed."""
    return find_draws(own.loss, own.grads, () if own.in_place else (own.params,))


def glance_at_own_loop(own: OwnStep, options: CheckOptions, glance: Glance) -> CheckReport | None:
    """Return the report at the lowest cost, where all is as right or as wrong as it was; None where it may not be.

    Costs three evaluations of the loss, and two of the gradient where that is a function, which has to repeat itself.
    """
    with found_once(own.loss, own.grads), reset(own) as (loss, grads):
        meter = Meter(options.max_evaluations, options.max_seconds)
        settings: dict[str, Any] = {"in_place": own.in_place, "penalty": own.penalty, "meter": meter, "is_known": True}
        problem = build_problem(loss, own.params, grads, **settings)
        try:
            report = glance.look(problem, options.tolerance, seed=options.seed, step=options.step)
        finally:  # also after Ctrl-C
            put_back(problem.live or {}, problem.home or {})
    return None if report is None else _of_own_loop(own, report)


def _of_own_loop(own: OwnStep, report: CheckReport) -> CheckReport:
    unasked = "does backward repeat itself, is it right in float64? The gradient was handed in as buffers."
    if callable(own.grads):
        unasked = "do the optimiser's buffers equal a fresh backward pass? The gradient is a function."
    return replace(report, unasked=(unasked,))


def live_buffers(own: OwnStep) -> dict[str, Array]:
    """Return copies of the gradients that the training has computed, where an adapter got a backward pass beside them.

    None of them with fixed masks: the training had others.
    """
    grads: Any = own.grads
    found: dict[str, Array] = {}
    if not isinstance(grads, Evaluation) or grads.buffers is None or getattr(own.loss, "frozen", False):
        return found
    for name, leaf in flatten(grads.buffers()).items():
        array = np.array(leaf.value if isinstance(leaf, Uncertain) else leaf)
        if array.dtype.kind in "fiub":
            found[name] = array if array.dtype.kind == "f" else array.astype(np.float64)
    return found


def with_live_buffers(
    own: OwnStep, report: CheckReport, live: Params, previous: Params | None, accumulates: bool
) -> CheckReport:
    """Add the comparison of the buffers with one fresh backward pass, in a loop of the user's.

    The loss may be that of another batch than the buffers, or they may be clipped: that they differ is a note. Only
    where they hold the sum of two steps it is a finding; where a check before this one ``accumulates``, they still do.
    """
    report = not_finite(report, live, report.loss)
    if not any(map(np.any, live.values())) or not are_finite(live):
        return report
    with reset(own) as (_, grads):
        fresh = flatten(grads() if own.in_place else grads(own.params))
    fresh = {name: np.asarray(array, dtype=live[name].dtype) for name, array in fresh.items() if name in live}
    fresh = {name: array for name, array in fresh.items() if array.shape == live[name].shape}
    report = replace(report, gradients=report.gradients + 1, unasked=())
    differing = differ({name: live[name] for name in fresh}, fresh)
    if not differing:
        return replace(report, asked=(*report.asked, "The buffers equal a fresh backward pass."))
    if previous is not None:
        previous = {**live, **previous}
    found = _what_buffers_hold(live, fresh, previous, differing)
    if accumulates and found.code != Code.ACCUMULATED:
        found = replace(found, code=Code.ACCUMULATED)
    if found.code != Code.ACCUMULATED:
        return report.noted(
            f"The buffers are not what a fresh backward pass gives: {max(differing.values()):.1e} apart. This usually "
            "means that the loss is of another batch, or that they were clipped. Try to compare them right after "
            "backward, on the same batch."
        )
    parameters = dict(report.parameters)
    for name in differing.keys() & parameters.keys():
        note = f"the optimiser's buffer is off a fresh backward pass by {differing[name]:.1e}"
        parameters[name] = _worse(parameters[name], differing[name], ROUNDINGS * EPS, note)
    difference = max(report.difference, *differing.values())
    return replace(report, parameters=parameters, difference=difference, diagnoses=(*report.diagnoses, found))


@contextmanager
def reset(own: OwnStep) -> Iterator[tuple[Loss, Any]]:
    """Yield loss and gradient; ``before_loss`` puts back before each call what the model carries from call to call.

    After the last call it is called once more: the training goes on from where it was.
    """
    loss, grads, before_loss = own.loss, own.grads, own.before_loss
    if before_loss is None:
        yield loss, grads
        return
    try:
        yield _after(before_loss, loss), _after(before_loss, grads) if callable(grads) else grads
    finally:
        before_loss()


def _after(before: Callable[[], object], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function, updated=())
    def reset_and_call(*arguments: object) -> Any:
        before()
        return function(*arguments)

    return reset_and_call
