"""PyTorch: the gradients in ``.grad``, of hand-written ``autograd.Function``s above all, against measured slopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss
from gc_hooks.adapters.pytorch.forward_recorder import ForwardRecorder
from gc_hooks.adapters.pytorch.sandbox import Sandbox, as_array, as_gradient, eps_of, trained_parameters
from gc_hooks.arrays.norms import in_double
from gc_hooks.check import check_gradients
from gc_hooks.errors import InvalidProblem, MissingDependency
from gc_hooks.hooks.base import HookBase, check_choice
from gc_hooks.hooks.questions import compare_buffers, differ, without_buffers
from gc_hooks.report import CheckReport
from gc_hooks.slopes.methods import central

TOO_COARSE = 1e-3
"""Machine epsilons above this (half precision) leave nothing to compare."""
CHANGED_SINCE = (
    "on_step belongs right after backward(): before gradients are clipped, and after scaler.unscale_(optimizer) where "
    "a GradScaler is used."
)
NO_GRAD = "no .grad: was backward() called before on_step?"
NO_GRAD_ADVICE = (
    "This usually means that loss.backward() is missing in the loop, or that zero_grad() comes between it and on_step. "
    "Try loss.backward(), then hook.on_step(...), then optimizer.step()."
)


class TorchGradCheckHook(HookBase):
    """Checks the gradient of a PyTorch training: of any `torch.nn.Module`, hand-written backward passes included.

    Parameters
    ----------
    model : torch.nn.Module
        What is trained. Everything with a state that the closure runs has to be inside of it.
    dropout : {"off", "frozen"}
        Force every dropout rate to zero while the slopes are measured, in training mode, or keep the masks fixed.
    **options
        As for `gc_hooks.GradCheckHook`: after, every, schedule, log_dir, writer (torch's own SummaryWriter will do),
        reporters, method, tolerance, on_fail, max_evaluations, max_seconds, seed.

    Attributes
    ----------
    reports, share, should_stop, calls
        As for `gc_hooks.GradCheckHook`.

    Raises
    ------
    MissingDependency
        There is no PyTorch: ``pip install gc_hooks[torch]``.
    InvalidProblem
        An argument cannot be used. After that nothing that goes wrong ends the training but what ``on_fail`` asks for.

    Notes
    -----
    Two questions are asked. Is the gradient that the module's backward computes the slope of the closure's loss? Both
    are taken in float64 where the module can be run in it, on the closure's batch, with dropout off. And does ``.grad``
    hold what a fresh backward pass gives, with the same masks (gradients that accumulate, for want of ``zero_grad``)?
    That is asked where the closure runs the module on just what the training has run it on since the last step.

    Parameters, gradients, optimiser, buffers and random states (torch's, NumPy's, Python's) are what they would be
    without the hook. Frozen parameters are left out, tied ones appear once, under their first name. A parameter that
    the loss does not depend on has the gradient zero.

    A check costs 50 to 70 evaluations of the loss in float64 where it is smooth, 60 to 450 where kinks lie on the way
    (ReLU), a periodic one (``every``) 8 to 22; and seven passes more. ``max_evaluations`` and ``max_seconds`` limit it.
    A call that is not due costs less than a microsecond, the forward pass before one that may be due some 30 more.

    Not for gradients that are no slopes by design (straight-through estimators, ``detach``, spectral norm's iteration),
    nor for DistributedDataParallel and ScriptModules: hand in the module inside. With a GradScaler, attach the hook to
    the optimiser, or call it after ``scaler.unscale_``.

    Examples
    --------
    ::

        hook = TorchGradCheckHook(model, after=500, log_dir="runs/mine")
        for step, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            hook.on_step(step, loss=lambda: criterion(model(x), y))
            optimizer.step()
        hook.close()
    """

    def __init__(self, model: Any, *, dropout: str = "off", **options: Any) -> None:
        _refuse_what_is_no_module(model)
        check_choice("dropout", dropout, ("off", "frozen"))
        super().__init__(**options)
        if self._options["method"] is None:
            self._options["method"] = central  # a module does not take complex numbers
        self._model = model
        self._dropout_off = dropout == "off"
        self._latest: tuple[int, Loss] | None = None
        self._previous: tuple[int, dict[str, Array]] = -1, {}
        self._witness = ForwardRecorder(self._may_be_due)
        self._handles = [] if self._off else [model.register_forward_pre_hook(self._witness, with_kwargs=True)]

    def on_step(self, step: int, *, loss: Callable[[], Any]) -> None:
        """One step of the training: call it after ``backward()`` and before ``optimizer.step()``.

        Parameters
        ----------
        step : int
            The number that is logged.
        loss : callable
            ``loss()`` runs the module and returns the loss as a tensor with one element; it calls no ``backward``.
            Best on the batch of this step: only then can ``.grad`` be compared with a fresh pass.
        """
        self._latest = step, loss
        if self._is_due(step):
            self._check(step, self._weights(), lambda seed: self._ask_all(step, loss, seed))
        self._witness.forget()

    def attach(self, optimizer: Any, *, loss: Callable[[], Any]) -> None:
        """Have the optimiser call `on_step` at the beginning of each of its steps, until `close`.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
        loss : callable
            As for `on_step`; names of the loop in it (``lambda: criterion(model(x), y)``) are looked up at every step.
        """

        def before_step(*_: Any) -> None:
            self.on_step(self.calls, loss=loss)

        self._handles.append(optimizer.register_step_pre_hook(before_step))

    def close(self) -> None:
        """Check at the end when the training was too short for the check after N; let go of module and optimiser."""
        latest, self._latest = self._latest, None
        try:
            if latest is not None and self._never_reached():
                self._options["probes"] = None
                step, loss = latest
                self._check(step, self._weights(), lambda seed: self._ask_at_end(step, loss, seed))
            if latest is not None:
                self._sum_up()
        finally:
            for handle in self._handles:
                handle.remove()
            super().close()

    def _break_off(self) -> None:
        self._latest = None

    def _weights(self) -> dict[str, Array]:
        return {name: as_array(parameter) for name, parameter in trained_parameters(self._model).items()}

    def _ask_all(self, step: int, loss: Loss, seed: int) -> CheckReport:
        stage = self._stage(loss)
        return self._with_grads(self._ask_slopes(stage, step, seed), stage)

    def _ask_at_end(self, step: int, loss: Loss, seed: int) -> CheckReport:
        report = _unasked(self._ask_slopes(self._stage(loss), step, seed), "The last update has been made.")
        return report.noted(self._ended_early())

    def _stage(self, loss: Loss) -> Sandbox:
        if not callable(loss):
            raise InvalidProblem(
                f"loss={loss!r} is no function. The loss has to be computed again at other parameters. Try "
                "loss=lambda: criterion(model(x), y)."
            )
        return Sandbox(self._model, self._witness, loss, self._dropout_off)

    def _ask_slopes(self, stage: Sandbox, step: int, seed: int) -> CheckReport:
        """The module's own backward against slopes, in float64 where it can be run in it."""
        point = in_double(self._weights())
        dropout = "off" if self._dropout_off else "on, with fixed masks"
        trouble = stage.trouble_in_double(point)
        options = {**self._options, "seed": seed, "step": step, "constants": _constants(self._witness)}
        if not trouble:
            report = check_gradients(stage.loss, point, stage.gradient, **options)
            return replace(report, asked=(f"Slopes in float64, dropout {dropout}.",))
        own = {name: array.copy() for name, array in self._weights().items()}
        report = check_gradients(
            lambda: stage.loss(own, double=False),
            own,
            lambda: stage.gradient(own, double=False),
            in_place=True,
            **options,
        )
        report = replace(report, asked=(f"Slopes in the module's own precision, dropout {dropout}.",))
        return report.noted(trouble)

    def _with_grads(self, report: CheckReport, stage: Sandbox) -> CheckReport:
        """Whether ``.grad`` holds what a fresh backward pass gives."""
        trained = trained_parameters(self._model)
        live = {name: as_gradient(parameter.grad, parameter) for name, parameter in trained.items()}
        (call, grads), self._previous = self._previous, (self.calls, live)
        if all(parameter.grad is None for parameter in trained.values()):
            return self._without_grads(report, stage)
        if max(map(eps_of, trained.values())) > TOO_COARSE:
            return _unasked(report, "They are in half precision.")
        passes = stage.fresh_passes()
        if self._witness.objection:
            return _unasked(report, self._witness.objection)
        if differ(*passes):
            return _unasked(report, "The module carries a state from pass to pass that changes its gradient.")
        report = compare_buffers(report, live, passes, grads if call == self.calls - 1 else None)
        changed = any(diagnosis.code == "buffers_differ" for diagnosis in report.diagnoses)
        return report.noted(CHANGED_SINCE) if changed else report

    def _without_grads(self, report: CheckReport, stage: Sandbox) -> CheckReport:
        """No ``.grad`` at all: backward was forgotten, unless its turn has not come (an optimiser with a closure)."""
        fresh = {} if self._witness.idle else stage.fresh_passes()[0]
        if not any(map(np.any, fresh.values())):
            return _unasked(report, "There is no .grad: was backward() called, and zero_grad() not yet?")
        return without_buffers(report, fresh, NO_GRAD, NO_GRAD_ADVICE)


def _unasked(report: CheckReport, reason: str) -> CheckReport:
    return replace(report, unasked=(f"does .grad equal a fresh backward pass? {reason}",))


def _constants(witness: ForwardRecorder) -> dict[str, float]:
    return {"batch size": witness.batch_size} if witness.batch_size > 1 else {}


def _refuse_what_is_no_module(model: Any) -> None:
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            f"TorchGradCheckHook needs PyTorch, which cannot be imported: {error}. Try pip install gc_hooks[torch]."
        ) from error
    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidProblem(
            "A ScriptModule keeps its state where it cannot be put back. Try the module that it was made from."
        )
    if not isinstance(model, torch.nn.Module):
        raise InvalidProblem(
            f"TorchGradCheckHook got {model!r} of type {type(model).__name__}, which is no torch.nn.Module. Try "
            "TorchGradCheckHook(model), and hand in the loss at on_step."
        )
    if not trained_parameters(model):
        raise InvalidProblem(
            f"{type(model).__name__} has no parameter that is trained: none has requires_grad. Try to attach the hook "
            "after they are made."
        )
