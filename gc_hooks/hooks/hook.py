"""`GradCheckHook`: attach it to a training loop, ours or anybody's, and the gradient is checked while it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Batch, Loss, Params, Schedule
from gc_hooks.errors import InvalidProblem
from gc_hooks.hooks.base import HookBase, check_choice
from gc_hooks.hooks.questions import check_own_loop, check_slopes, quick_check_slopes, with_buffers
from gc_hooks.hooks.recorder import warn
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance
from gc_hooks.slopes.estimate import Method
from gc_hooks.training import Callback, TrainState


class _Step(NamedTuple):
    """What one call of `GradCheckHook.on_step` handed in."""

    step: int
    loss: Loss
    params: Any
    grads: Any
    in_place: bool
    before_loss: Callable[[], object] | None


class GradCheckHook(HookBase, Callback):
    """Checks the gradient of a training run: at initialisation, one step later, and again after N iterations.

    Parameters
    ----------
    after : int or None
        N. The checks are made at the hook's calls 0, 1 and N: a gradient buffer that is never set to zero looks right
        at step 0 and doubled at step 1. When the training ends before N, the hook checks at the end and says so.
    every : int, optional
        Also once in so many calls, along one direction through all parameters (`joint`): affordable every hundred
        steps, and opened up on suspicion.
    schedule : callable, optional
        Replaces both: ``schedule(calls) -> bool``, asked with the number of calls that the hook has had before, or
        `drift`, which also sees the weights.
    log_dir : str or path, optional
        Write the checks for TensorBoard into ``<log_dir>/gradcheck``.
    writer : SummaryWriter, optional
        Write them through your own tensorboardX or torch writer instead.
    reporters : sequence, optional
        Replaces the console; ``log_dir`` or ``writer`` add TensorBoard to either.
    dropout : {"off", "frozen"}
        Force dropout's rate to zero while the slopes are measured, or check dropout too, with its masks held fixed.
    method : callable, optional
        As for `check_gradients`.
    tolerance : Tolerance
        As for `check_gradients`.
    on_fail : {"warn", "raise", "stop"} or callable
        What to do about DOUBLE_CHECK and WORRY: warn, raise `GradientMismatch`, end the training cleanly (elsewhere:
        set ``should_stop``), or call with the report.
    batch_size : int
        Number of samples of the check batch, the first ones of the first batch; it stays the same at every check.
    max_evaluations, max_seconds : optional
        Limits of each check, as for `check_gradients`.
    seed : int
        Of the hook's own generator; no other is ever drawn from.

    Attributes
    ----------
    reports : list of CheckReport
        Of all checks so far; pictures stay in memory with eight that are good, eight that are not, and the last.
    share : float
        The hook's share of the time since its first call.
    should_stop : bool
        Set by ``on_fail="stop"``: a loop of your own looks at it after each step.
    calls : int

    Raises
    ------
    InvalidProblem
        An argument cannot be used; the message says what to try. After that, nothing that goes wrong in a check ends
        the training: it is one `GradCheckWarning` and an INCONCLUSIVE report. Only what ``on_fail`` asks for and Ctrl-C
        leave the hook.

    Notes
    -----
    Parameters, gradients, optimiser and random states are what they would be without the hook, to the bit; in a loop of
    your own as far as `check_gradients` puts them back. A call that is not due costs less than a microsecond. A check
    costs what `check_gradients` costs.

    Environment variables override the arguments, and the hook says so once: ``GC_HOOKS=off`` (nothing is checked),
    ``GC_HOOKS_AT=0,1,500`` (replaces the schedule), ``GC_HOOKS_LOG_DIR=runs/mine`` (replaces ``log_dir`` and
    ``writer``). One that cannot be understood is a warning, and ignored.

    A hook that is handed to a trainer of another model starts over with call 0 and a new check batch.

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
        *,
        after: int | None = 1000,
        every: int | None = None,
        schedule: Schedule | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        writer: Any = None,
        reporters: Sequence[Any] | None = None,
        dropout: str = "off",
        method: Method | None = None,
        tolerance: Tolerance = Tolerance(),
        on_fail: str | Callable[[CheckReport], object] = "warn",
        batch_size: int = 32,
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        check_choice("dropout", dropout, ("off", "frozen"))
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InvalidProblem(f"batch_size={batch_size!r}: the check batch needs at least one sample. Try 32.")
        super().__init__(
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
        self._masks = np.random.default_rng([seed, 1]).bit_generator.state if dropout == "frozen" else None
        self._batch_size = batch_size
        self._batch: Batch | None = None
        self._buffers: tuple[int, dict[str, Array] | None] = -1, None
        self._trained: Params | None = None
        self._latest: tuple[Any, ...] | None = None

    def _weights(self) -> Any:
        return self._trained if self._latest is None else _Step(*self._latest).params

    # --- our own trainer ----------------------------------------------------------------------------------------------

    def on_train_begin(self, state: TrainState) -> None:
        """Keep nothing of another model: neither its check batch and its buffers, nor how far its weights had gone."""
        if self._trained is not None and self._trained is not state.params:
            self._start_over()
            self._batch, self._buffers = None, (-1, None)
        self._trained, self._latest = state.params, None

    def on_gradients(self, state: TrainState) -> None:
        """Between backward and the optimiser: check the gradient, if a check is due."""
        self._trained = state.params
        if self._is_due(state.step):
            self._keep_batch(state)
            self._check(state.step, state.params, lambda seed: self._ask(state, seed), state.stop, self._quick_check)

    def on_train_end(self, state: TrainState) -> None:
        """Check at the end when the training was too short for the check after N, and sum up."""
        if not state.interrupted and self._never_reached():
            self._options["probes"] = None
            self._check(state.step, state.params, lambda seed: self._ask_at_end(state, seed), state.stop)
        self._sum_up()

    def _keep_batch(self, state: TrainState) -> None:
        """Keep the first samples of the first batch: checks at different steps compare."""
        if self._batch is None and state.batch is not None:
            inputs, targets = state.batch
            self._batch = inputs[: self._batch_size].copy(), targets[: self._batch_size].copy()

    def _ask(self, state: TrainState, seed: int) -> CheckReport:
        call, buffers = self._buffers
        previous = buffers if call == self.calls - 1 else None
        report = with_buffers(self._ask_slopes(state, seed), state, previous, self._quick_check)
        kept = {name: array.copy() for name, array in state.grads.items()} if self._may_be_due() else None
        self._buffers = self.calls, kept
        return report

    def _ask_at_end(self, state: TrainState, seed: int) -> CheckReport:
        unasked = "do the optimiser's buffers equal a fresh backward pass? The last update has been made."
        return replace(self._ask_slopes(state, seed), unasked=(unasked,)).noted(self._ended_early())

    def _ask_slopes(self, state: TrainState, seed: int) -> CheckReport:
        assert self._batch is not None
        ask = quick_check_slopes if self._quick_check else check_slopes
        return ask(state, self._batch, self._masks, {**self._options, "seed": seed, "step": state.step})

    # --- anybody's loop -----------------------------------------------------------------------------------------------

    def on_step(
        self,
        step: int,
        *,
        loss: Loss,
        params: Any,
        grads: Any,
        in_place: bool = False,
        before_loss: Callable[[], object] | None = None,
    ) -> None:
        """One step of a loop of your own: call it after backward and before the update.

        Parameters
        ----------
        step : int
            The number that is logged.
        loss, params, grads, in_place
            As for `check_gradients`. Gradients are the live buffers where there is no dropout, or a function that
            computes them with dropout off (and that writes into no buffer that the update will use).
        before_loss : callable, optional
            Called before every evaluation, and once after the last: put back here what your model carries from call
            to call.
        """
        # Told apart only when it is needed: this runs at every step of a training.
        self._latest = (step, loss, params, grads, in_place, before_loss)
        if self._is_due(step):
            self._check_step(_Step(*self._latest))

    def close(self) -> None:
        """Check at the end when the loop was too short for the check after N; then close what this hook opened."""
        latest, self._latest = self._latest, None
        try:
            if latest is not None and self._never_reached():
                self._check_at_end(_Step(*latest))
            if latest is not None:
                self._sum_up()
        finally:
            super().close()

    def _break_off(self) -> None:
        self._latest = None

    def _check_at_end(self, latest: _Step) -> None:
        if callable(latest.grads):
            self._options["probes"] = None
            self._check_step(latest, self._ended_early())
        else:
            warn(
                f"{self._ended}, before the check after {self._after}, and could not be "
                "checked at its end: after an update, gradient buffers no longer belong to the parameters. Try a "
                "smaller after=, or hand in the gradient as a function."
            )

    def _check_step(self, latest: _Step, *notes: str) -> None:
        self._check(latest.step, latest.params, lambda seed: self._ask_step(latest, seed, notes))

    def _ask_step(self, latest: _Step, seed: int, notes: tuple[str, ...]) -> CheckReport:
        report = check_own_loop(
            latest.loss,
            latest.params,
            latest.grads,
            latest.before_loss,
            {**self._options, "in_place": latest.in_place, "seed": seed, "step": latest.step},
        )
        return report.noted(*notes)
