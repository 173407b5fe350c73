"""`GradCheckHook`: attach it to a training loop, ours or anybody's, and the gradient is checked while it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Batch, Loss, Params, Schedule
from gc_hooks.check import CheckOptions
from gc_hooks.errors import InvalidProblem, NondeterministicLoss
from gc_hooks.hooks.base import FULL, CheckPlan, HookBase
from gc_hooks.hooks.options import HookOptions, require_choice
from gc_hooks.hooks.placement import Kept, is_misplacement, keep, misplaced
from gc_hooks.hooks.questions import (
    OwnStep,
    check_own_loop,
    check_slopes,
    check_slopes_and_masks,
    find_own_draws,
    glance_at_own_loop,
    glance_at_slopes,
    live_buffers,
    own_step,
    with_buffers,
    with_live_buffers,
)
from gc_hooks.hooks.recorder import warn
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import Code
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.slopes.methods import Estimate, Method
from gc_hooks.training import Callback, TrainState


class GradCheckHook(HookBase, Callback):
    """Check the gradient of a training run: at initialisation, one step later, and again after N iterations.

    Parameters
    ----------
    after : int or None
        N. Checks are made at the hook's calls 0, 1 and N: a gradient buffer that is never set to zero looks right at
        step 0 and doubled at step 1. When the training ends before N, the hook checks at the end and says so.
    every : int, optional
        Also check once in ``every`` calls. After a good check this is a glance along one direction through all
        parameters, cheap enough for every hundred steps; where not everything is plainly good, it is a whole check.
    schedule : callable, optional
        Replaces both: ``schedule(calls) -> bool`` gets the number of calls that the hook has had before.
    log_dir : str or path, optional
        Write the checks for TensorBoard into ``<log_dir>/gradcheck``.
    writer : SummaryWriter, optional
        Write them through your own tensorboardX or torch writer instead.
    reporters : list of Reporter, optional
        Replaces the console; ``log_dir`` or ``writer`` add TensorBoard to either.
    dropout : {"off", "frozen"}
        Set dropout's rate to zero while the slopes are measured, and then ask with one slope whether the gradient is
        right with fixed masks, too; or measure everything with fixed masks.
    method, tolerance, max_evaluations, max_seconds
        As for `check_gradients`, for each check.
    on_fail : {"warn", "raise", "stop"} or callable
        What to do about DOUBLE_CHECK and WORRY: warn (once for each bug), raise `GradientMismatch`, end the training
        cleanly (elsewhere: set ``should_stop``), or call with the report.
    batch_size : int
        Samples of the check batch: the first ones of the first batch, at every check.
    seed : int
        Of the hook's own generator; it draws from no other.

    Attributes
    ----------
    reports : list of CheckReport
        Of all checks so far. Pictures stay in memory with eight that are good, eight that are not, and the last.
    share, calls : float, int
        The hook's share of the time since its first call, and the number of steps so far.
    should_stop : bool
        Set by ``on_fail="stop"``: a loop of your own looks at it after each step.

    Raises
    ------
    InvalidProblem
        An argument cannot be used. After that, whatever goes wrong in a check is one `GradCheckWarning` and an
        INCONCLUSIVE report; only Ctrl-C and what ``on_fail`` raises leave the hook. Where warnings are errors, it
        prints its own. A mistake in what is handed in is told once, and the end of the run says if nothing was checked.

    Notes
    -----
    Parameters, gradients, optimiser and random states are what they would be without the hook, to the bit; in a loop of
    your own as far as `check_gradients` puts them back. A call that is not due costs less than a microsecond. A whole
    check costs what `check_gradients` costs; in a trainer with dropout five to ten evaluations and two gradients more,
    and without it one evaluation. A glance costs three evaluations of the loss, one of them complex where
    complex step works, and two gradients (none with live buffers). In place and wherever else complex step does not
    work it takes central differences: up to 13 evaluations where kinks (ReLU) are near or one direction bounds some
    parameter too weakly, and up to five more at the first time. With ``method=`` all checks are whole.

    A bug is told once. While due checks find the same parameters wrong, by a difference of about the same size, they
    are one line ("WORRY as at step 100, now 5.6e-01: layer CappedLogits, other_loss"), without a table and a warning.
    Each costs a glance, and four to eight slopes along directions in the wrong parameters (of four evaluations each
    where complex step does not work); the diagnoses are carried over. ``report.as_at`` is the step at which the
    bug was told. It is told in full again when other parameters are wrong, when the difference has changed by a
    factor of ten, and by the check at the end.

    Environment variables override the arguments, and the hook says so once: ``GC_HOOKS=off`` (nothing is checked),
    ``GC_HOOKS_AT=0,1,500`` (replaces the schedule), ``GC_HOOKS_LOG_DIR=runs/mine`` (replaces ``log_dir`` and
    ``writer``). One that cannot be understood is a warning, and is ignored.

    A hook that is used with a trainer of another model starts over with call 0 and a new check batch. A copy of a hook
    goes on by itself; what it logs goes to a folder of its own.

    Examples
    --------
    >>> hook = GradCheckHook(after=2, reporters=[])
    >>> w = np.array([1.0, 2.0])
    >>> for step in range(4):
    ...     hook.on_step(step, loss=lambda w: np.sum(w**2), params=w, grads=2 * w)
    ...     w = w - 0.1 * 2 * w
    >>> [(report.step, report.verdict.name) for report in hook.reports]
    [(0, 'GOOD'), (1, 'GOOD'), (2, 'GOOD')]
    """

    def __init__(
        self,
        *misplaced: object,
        after: int | None = 1000,
        every: int | None = None,
        schedule: Schedule | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        writer: object = None,
        reporters: Sequence[Any] | None = None,
        dropout: str = "off",
        method: Method | Callable[..., Estimate] | None = None,
        tolerance: Tolerance = Tolerance(),
        on_fail: str | Callable[[CheckReport], object] = "warn",
        batch_size: int = 32,
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        if misplaced:
            raise InvalidProblem(_where_it_belongs(misplaced[0]))
        require_choice("dropout", dropout, ("off", "frozen"))
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InvalidProblem(f"batch_size={batch_size!r}: the check batch needs at least one sample. Try 32.")
        options = HookOptions(
            after=after,
            every=every,
            schedule=schedule,
            log_dir=log_dir,
            writer=writer,
            reporters=reporters,
            method=method,
            tolerance=tolerance,
            on_fail=on_fail,
            max_evaluations=max_evaluations,
            max_seconds=max_seconds,
            seed=seed,
        )
        super().__init__(options)
        self._masks = np.random.default_rng([seed, 1]).bit_generator.state if dropout == "frozen" else None
        self._batch_size = batch_size
        self._batch: Batch | None = None  # the check batch: the same at every check, so that checks compare
        self._buffers: tuple[int, dict[str, Array]] = -1, {}  # gradients, and the call that saw them
        self._trained: Params | None = None  # of our own trainer
        self._kept: Kept | None = None  # of the call before, in a loop of the user's own
        self._draws = False  # whether the loss of a loop of the user's has drawn random numbers

    def _current_params(self) -> Any:
        return self._trained if self._latest is None else OwnStep(*self._latest).params

    # --- our own trainer ----------------------------------------------------------------------------------------------

    def on_train_begin(self, state: TrainState) -> None:
        """Start over where this is another model than before."""
        if self._trained is not None and self._trained is not state.params:
            self.calls, self._batch, self._buffers = 0, None, (-1, {})
            self._recorder.drift.forget()
            self._forget()
            self._recorder.say("gradient check: another model, which is checked from its own first step on.")
        self._trained, self._latest = state.params, None

    def on_gradients(self, state: TrainState) -> None:
        """Check the gradient, if a check is due, between backward and the optimiser."""
        self._trained = state.params
        plan = self._due(state.step)
        if plan is None:
            return
        if self._batch is None and state.batch is not None:
            inputs, targets = state.batch
            self._batch = inputs[: self._batch_size].copy(), targets[: self._batch_size].copy()
        with self._recorder.record(state.step) as check:
            check.protect(state.params, state, known=plan.quick)
            report = self._slopes_report(state, plan, check.seed)
            call, buffers = self._buffers
            previous = buffers if call == self.calls - 1 else None
            was_good = plan.quick and self._known is None
            report = with_buffers(report, state, previous, passes=1 if was_good else 2)
            check.report = self._compared(report)
            # The next check compares with these gradients: a buffer that accumulates is the sum of two steps'.
            self._buffers = -1, {}
            if self._may_be_due():
                self._buffers = self.calls, {name: array.copy() for name, array in state.grads.items()}
        self._act_on(check.report, state.stop)

    def on_train_end(self, state: TrainState) -> None:
        """Check at the end when the training was too short for the check after N, and sum up."""
        if not state.interrupted and self._is_early_end():
            with self._recorder.record(state.step) as check:
                check.protect(state.params, state)
                report = self._slopes_report(state, FULL, check.seed)
                unasked = "do the optimiser's buffers equal a fresh backward pass? The last update has been made."
                check.report = replace(report, unasked=(unasked,)).noted(self._early_end_note)
            self._act_on(check.report, state.stop)
        self._sum_up()

    def _slopes_report(self, state: TrainState, plan: CheckPlan, seed: int) -> CheckReport:
        assert self._batch is not None
        options = self._options_for(plan, state.step, seed)
        question = state, self._batch, self._masks, options
        whole = partial(check_slopes, *question)
        if self._masks is None:
            whole = partial(check_slopes_and_masks, state, self._batch, options)
        return self._answer(plan, partial(glance_at_slopes, *question), whole)

    # --- anybody's loop -----------------------------------------------------------------------------------------------

    def on_step(
        self,
        step: int,
        *,
        loss: Loss,
        params: object,
        grads: object,
        in_place: bool = False,
        before_loss: Callable[[], object] | None = None,
        penalty: Loss | None = None,
    ) -> None:
        """Check the gradient, if a check is due: call it at each step, after backward and before the update.

        Parameters
        ----------
        step : int
            The number that is logged.
        loss, params, grads, in_place
            As for `check_gradients`. Gradients are the live buffers where there is no dropout, or a function that
            computes them (and that writes into no buffer that the update will use). With dropout on, loss and function
            have to draw the same masks, each by a forward pass of its own: the random generators are put back before
            each evaluation. With dropout off nothing is known of the masks.
        before_loss : callable, optional
            Called before every evaluation, and once after the last: put back what your model carries from call to call.
        penalty : callable, optional
            As for `check_gradients`: a regularisation term of its own, which ``loss`` then leaves out.
        """
        # A plain tuple, because this runs at every step of a training.
        self._latest = (step, loss, params, grads, in_place, before_loss, penalty)
        plan = self._due(step)
        if plan is not None:
            self._check_step(own_step(*self._latest), plan)

    def close(self) -> None:
        """Check at the end when the loop was too short for the check after N; then close what this hook opened."""
        latest, self._latest = self._latest, None
        try:
            if latest is not None:
                last = own_step(*latest)
                if self._is_early_end() and callable(last.grads):
                    self._check_step(last, FULL, self._early_end_note)
                elif self._is_early_end():
                    warn(
                        f"{self._ended}, before the check after {self._after}, and could not be checked at its end: "
                        "after an update, gradient buffers no longer belong to the parameters. Try a smaller after=, "
                        "or hand in the gradient as a function."
                    )
                self._sum_up()
        finally:
            super().close()

    def _check_step(self, own: OwnStep, plan: CheckPlan, *notes: str) -> None:
        with self._recorder.record(own.step) as check:
            has_moved = self._recorder.drift.since_attempt(own.params) > 0
            check.protect(own.params, own)
            options = self._options_for(plan, own.step, check.seed)
            question = own, options
            live = {} if notes else live_buffers(own)  # after the last update they belong to no parameters
            report = self._answer(plan, partial(glance_at_own_loop, *question), partial(self._check_own, *question))
            if live:
                call, buffers = self._buffers
                # Without an update between two calls, a sum of two batches is meant to be one.
                previous = buffers if call == self.calls - 1 and has_moved else None
                known = self._known.diagnoses if self._known is not None else ()
                accumulates = any(diagnosis.code == Code.ACCUMULATED for diagnosis in known)
                report = with_live_buffers(own, report, live, previous, accumulates)
                self._buffers = (self.calls, live) if self._may_be_due() else (-1, {})
            check.report = report.noted(*notes) if notes else self._placed(own, report)
        self._act_on(check.report)

    def _placed(self, own: OwnStep, report: CheckReport) -> CheckReport:
        """Return the report of a check, with what its gradient is in truth where that is another than the loss's."""
        kept, self._kept = self._kept, None
        found = None
        if report.verdict > Verdict.INCONCLUSIVE and kept is not None and kept.call == self.calls - 1:
            found = misplaced(own, report, kept)
        if self._may_be_due() and not callable(own.grads):  # a function is asked at these very parameters
            self._kept = keep(self.calls, own, report)
        known = self._known
        if known is not None and found is None and is_misplacement(known) and set(report.failing) == set(known.failing):
            found = known.diagnoses[0]  # it needs the call before, which may not have been kept
        if found is None:
            return self._compared(report)
        report = replace(report, diagnoses=(found,), as_at=None)
        if known is not None and found.code == known.diagnoses[0].code:
            return replace(report, as_at=known.step)
        self._known = report
        return report

    def _check_own(self, own: OwnStep, options: CheckOptions) -> CheckReport:
        """Make a whole check; of a loss that draws random numbers with these held fixed, where that is possible."""
        if not self._draws:
            try:
                return check_own_loop(own, options)
            except NondeterministicLoss:
                if find_own_draws(own) is None:
                    raise
                self._draws = True  # the next check need not find out why the loss is another one at each call
        return check_own_loop(own, options, find_own_draws(own))


def _where_it_belongs(thing: object) -> str:
    """Return what to do with an argument that was handed in without a name."""
    kind = type(thing).__name__
    seen = f"GradCheckHook takes no {kind}: all of its arguments have names, and it gets the model where it is trained."
    is_module = any(base.__module__ == "torch.nn.modules.module" for base in type(thing).__mro__)
    if is_module:
        return f"{seen} Try gc_hooks.adapters.TorchGradCheckHook(model), the hook for PyTorch."
    return (
        f"{seen} Try hook = GradCheckHook(after=500), and then nn.Trainer(..., callbacks=[hook]), or in a loop of your "
        "own hook.on_step(step, loss=loss, params=params, grads=grads)."
    )
