"""The hook for PyTorch: checks the gradients in ``.grad``, above all those of hand-written ``autograd.Function``s."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.adapters.pytorch.design import design_of, straight_note
from gc_hooks.adapters.pytorch.forward_recorder import ForwardRecorder
from gc_hooks.adapters.pytorch.reference import FunctionTracer
from gc_hooks.adapters.pytorch.sandbox import Sandbox
from gc_hooks.adapters.pytorch.tensors import as_array, as_gradient, complex_parameters, eps_of, trained_parameters
from gc_hooks.arrays.norms import in_double
from gc_hooks.check import CheckOptions, check
from gc_hooks.errors import InvalidProblem, MissingDependency
from gc_hooks.hooks.base import FULL, CheckPlan, HookBase
from gc_hooks.hooks.masks import with_masks
from gc_hooks.hooks.options import HookOptions, require_choice
from gc_hooks.hooks.questions import are_finite, compare_buffers, differ, not_finite, without_buffers
from gc_hooks.problem import Meter, Problem
from gc_hooks.problem.validate import build_problem
from gc_hooks.quick_check import Glance
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import Code
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes.methods import Method, central, reference

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer

TOO_COARSE = 1e-3
"""Machine epsilon of a parameter above which its .grad is not compared: bfloat16 has 8e-3, float16 just below 1e-3."""
PADDING = "The row of padding_idx in an embedding is held fixed: torch gives it no gradient, by design."
WHERE_TO_CALL = "on_step belongs after backward() and scaler.unscale_(optimizer), and before gradients are clipped."
SCALER = "A GradScaler skips such a step by itself."
BESIDE_OPERATORS: set[str] = {
    Code.MISSING_GRADIENT,
    Code.WRONG_SHAPE,
    Code.NOT_NUMERIC,
    Code.NOT_REPEATABLE,
    Code.NOT_FINITE,
    Code.GRADIENT_LOST,
}
"""What is told of parameters where a Function is named. The rest is what its mistake looks like from there."""
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
        Set every dropout rate to zero while the slopes are measured, in training mode, and then ask with one slope
        whether the gradient is right with fixed masks, too; or measure everything with fixed masks.
    by_design : Function, module, name, or several
        What is no slope of the loss on purpose: a class of `torch.autograd.Function`, a module or the name of one
        (straight-through estimators, ``detach``), the name of a parameter. It is not judged, and the report says so.
    **options
        As for `gc_hooks.GradCheckHook`, like the attributes: after, every, schedule, log_dir, writer (torch's own will
        do), reporters, method, tolerance, on_fail, max_evaluations, max_seconds, seed.

    Raises
    ------
    MissingDependency
        PyTorch is not installed: ``pip install gc_hooks[torch]``.
    InvalidProblem
        An argument cannot be used. Later errors end the training only where ``on_fail`` asks for it.

    Notes
    -----
    A check answers two questions. Does the module's backward compute the slope of the closure's loss? Both are taken
    in float64 where the module can be run in it, with dropout off. And does ``.grad`` equal a fresh backward pass with
    the same masks? It does not where ``zero_grad`` is missing. This can be answered where the closure runs the module
    on just what the training has run it on since the last step.

    The forward of every hand-written `torch.autograd.Function`, run under torch's own autograd, is the reference; one
    measured slope confirms it. Where it cannot be used, slopes are measured, and the report says why. While a pass of a
    check runs, stand-ins take the place of forward and backward in the classes of your Functions, for its thread alone.

    The training is what it would be without the hook: parameters, gradients, optimiser, buffers and random states
    (torch's, NumPy's, Python's). Frozen parameters are left out; tied ones appear once, under their first name.

    With a reference a check costs about six evaluations of the loss, two gradients, one reference and two passes for
    ``.grad``; where something is wrong up to seven evaluations more, two references, and one more pass to name the
    Function. By slopes it costs 50 to 450 evaluations, and thousands where something is wrong. A periodic check
    (``every``) after a good one costs three to five evaluations and three passes. A bug that is known is one line. A
    call without a check costs less than a microsecond, the forward pass before a possible check about 30 more.

    Of DistributedDataParallel and ScriptModules hand in the module inside. With a GradScaler, `attach` the hook to the
    optimiser, or call it after ``scaler.unscale_``.

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

    def __init__(self, model: Module, *, dropout: str = "off", by_design: Any = (), **options: Any) -> None:
        _require_trainable(model)
        require_choice("dropout", dropout, ("off", "frozen"))
        self._design = design_of(model, by_design)
        self._straight: tuple[Any, ...] = ()  # Functions that were taken for straight-through estimators
        super().__init__(HookOptions(**options))
        # A module does not take complex numbers: this is for slopes, where there is no reference.
        method = self._check_options.method
        self._by_reference = method is None or Method.of(method).is_traced
        if self._by_reference:
            self._check_options = replace(self._check_options, method=central)
        self._glance.takes_complex = False
        self._model = model
        self._dropout_off = dropout == "off"
        self._in_float64 = False  # whether the last whole check ran the module in it
        self._was_traced = False  # whether it had a reference
        self._previous: tuple[int, dict[str, Array]] = -1, {}
        self._forward_recorder = ForwardRecorder(self._may_be_due)
        self._handles: list[Any] = []
        if not self._environment.off:
            self._forward_recorder.attach(model)

    def on_step(self, step: int, *, loss: Callable[[], Tensor]) -> None:
        """Count one step of the training; call it after ``backward()`` and before ``optimizer.step()``.

        Parameters
        ----------
        step : int
            The number that is logged.
        loss : callable
            ``loss()`` runs the module on the batch of this step and returns the loss, a tensor with one element.
        """
        self._latest = step, loss
        plan = self._due(step)
        if plan is not None:
            self._check(step, loss, plan)
        self._forward_recorder.begin_step()

    def attach(self, optimizer: Optimizer, *, loss: Callable[[], Tensor]) -> None:
        """Have the optimiser call `on_step` with this ``loss`` at the beginning of each step, until `close`."""
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self.on_step(self.calls, loss=loss)))

    def close(self) -> None:
        """Check at the end when the training was too short for the check after N; let go of module and optimiser."""
        latest, self._latest = self._latest, None
        try:
            if latest is not None:
                step, loss = latest
                if self._is_early_end():
                    self._check(step, loss, FULL, at_end=True)
                self._sum_up()
        finally:
            self._forward_recorder.detach()
            for handle in self._handles:
                handle.remove()
            super().close()

    def _judged(self) -> dict[str, Parameter]:
        return trained_parameters(self._model, self._design.parameters)

    def _current_params(self) -> dict[str, Array]:
        return {name: as_array(parameter) for name, parameter in self._judged().items()}

    def _check(self, step: int, loss: Callable[[], Tensor], plan: CheckPlan, at_end: bool = False) -> None:
        """Make one check, and act on its report; at the end of the training ``.grad`` cannot be compared."""
        with self._recorder.record(step) as check:
            check.protect(self._current_params(), (self._model, loss))
            sandbox = Sandbox(self._model, self._forward_recorder, loss, self._dropout_off, self._design)
            question = sandbox, self._options_for(plan, step, check.seed)
            report = self._answer(plan, partial(self._glance_at, *question), partial(self._check_slopes, *question))
            if at_end:
                check.report = _not_compared(report, "The last update has been made.").noted(self._early_end_note)
            else:
                was_good = plan.quick and self._known is None
                check.report = self._compared(self._compare_grads(report, sandbox, passes=1 if was_good else 2))
        self._act_on(check.report)

    def _glance_at(self, sandbox: Sandbox, options: CheckOptions, glance: Glance) -> CheckReport | None:
        """Return the report at the lowest cost, where the module was run in float64 and all is as it was.

        What is by design has no slope to be looked at. Beside a reference, a look at what is known to be wrong would
        cost more than a whole check.
        """
        if (
            self._design.holds
            or self._straight
            or not self._in_float64
            or (self._was_traced and self._known is not None)
        ):
            return None
        point, meter = in_double(self._current_params()), Meter(options.max_evaluations, options.max_seconds)
        problem = build_problem(sandbox.loss, point, sandbox.gradient, meter=meter, is_known=True)
        report = glance.look(problem, options.tolerance, seed=options.seed, step=options.step)
        return None if report is None else replace(report, asked=(self._asked("float64"),))

    def _check_slopes(self, sandbox: Sandbox, options: CheckOptions) -> CheckReport:
        """Compare the module's own backward with measured slopes, in float64 where the module can be run in it."""
        params = self._current_params()
        point = in_double(params)
        trouble = sandbox.why_not_in_float64(point)
        size = self._forward_recorder.batch_size
        options = replace(options, constants={"batch size": size} if size > 1 else {})
        self._in_float64 = not trouble
        precision = "float64"
        if trouble:
            point, precision = params, "the module's own precision"
        if self._straight:
            sandbox = sandbox.with_more_by_design(self._straight)
        report, sandbox = self._whole(sandbox, point, trouble, options)
        self._was_traced = report.method == reference.__name__
        report = replace(
            report,
            asked=(self._asked(precision),),
            unjudged=(*report.unjudged, *complex_parameters(self._model, self._design.parameters)),
        ).noted(*filter(None, [trouble]), *self._design.notes, *(PADDING for _ in sandbox.padding[:1]))
        if not self._dropout_off:
            return report
        held, of_the_rest = sandbox.with_dropout(), sandbox.design.holds
        return with_masks(
            report,
            options,
            partial(held.loss, point, double=not trouble),
            lambda meter: build_problem(**_problem(held, point, not trouble, of_the_rest), meter=meter, is_known=True),
            central,
        )

    def _whole(
        self, sandbox: Sandbox, point: dict[str, Array], trouble: str, options: CheckOptions
    ) -> tuple[CheckReport, Sandbox]:
        """Compare with the reference, or with slopes; say which Function is wrong, or which is straight-through."""
        by_reference, holds = self._by_reference and not trouble, sandbox.design.holds
        tracers: list[FunctionTracer] = []

        def trace_with(problem: Problem) -> FunctionTracer:
            tracers.append(FunctionTracer(sandbox, problem))
            return tracers[-1]

        problem = _problem(sandbox, point, not trouble, holds and not by_reference)
        report = check(**problem, options=options, trace_with=trace_with if by_reference else None, is_protected=True)
        if holds and by_reference and report.method != reference.__name__:  # slopes are those of the rest alone
            again = check(**_problem(sandbox, point, True, True), options=options, is_protected=True)
            report = again.noted(*(note for note in report.notes if note not in again.notes))
        if trouble or report.verdict <= Verdict.INCONCLUSIVE:
            return self._with_straight_ones(report), sandbox
        operators = tracers[-1].operators if tracers else None
        if operators is None:
            operators = sandbox.operators(point, options.constants or {})
            named = operators.diagnoses(report.failing, options.tolerance)
            beside = [one for one in report.diagnoses if not named or one.code in BESIDE_OPERATORS]
            report = replace(report, diagnoses=(*named, *beside))
        straight = operators.straight_through(options.tolerance) if by_reference else ()
        if straight:
            self._straight += straight
            return self._whole(sandbox.with_more_by_design(straight), point, trouble, options)
        return self._with_straight_ones(report), sandbox

    def _with_straight_ones(self, report: CheckReport) -> CheckReport:
        """Return the report with the Functions that were taken for straight-through estimators, which nobody named."""
        names = tuple(f"{function.__name__}.backward" for function in self._straight)
        return replace(report, unjudged=(*report.unjudged, *names)).noted(*map(straight_note, self._straight))

    def _asked(self, precision: str) -> str:
        dropout = "off" if self._dropout_off else "on, with fixed masks"
        return f"Slopes in {precision}, dropout {dropout}."

    def _compare_grads(self, report: CheckReport, sandbox: Sandbox, passes: int) -> CheckReport:
        """Compare ``.grad`` with one or two fresh backward passes, where that can be done."""
        trained = self._judged()
        live = {name: as_gradient(parameter.grad, parameter) for name, parameter in trained.items()}
        # The gradients one step before, if they were looked at, tell accumulated gradients from stale ones.
        (call, grads), self._previous = self._previous, (self.calls, live)
        if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in trained.values()):
            return _not_compared(report, "A hook (register_post_accumulate_grad_hook) works on it in backward.")
        if all(parameter.grad is None for parameter in trained.values()):
            # Backward was forgotten, unless its turn has not come: LBFGS calls it inside of optimizer.step().
            if self._forward_recorder.passes:
                (anew,) = sandbox.fresh_passes(1)
                if any(map(np.any, anew.values())):
                    return without_buffers(report, anew, NO_GRAD, NO_GRAD_ADVICE)
            return _not_compared(report, "There is no .grad: was backward() called, and zero_grad() not yet?")
        if not are_finite(live):
            report = not_finite(report, live, report.loss, SCALER)
        if max(map(eps_of, trained.values())) > TOO_COARSE:
            return _not_compared(report, "They are in half precision.")
        fresh = sandbox.fresh_passes(passes)
        if self._forward_recorder.mismatch:
            return _not_compared(report, self._forward_recorder.mismatch)
        if passes > 1 and differ(*fresh):
            return _not_compared(report, "The module carries a state from pass to pass that changes its gradient.")
        report = compare_buffers(report, live, fresh, grads if call == self.calls - 1 else None)
        if "buffers_differ" in [diagnosis.code for diagnosis in report.diagnoses]:
            report = report.noted(WHERE_TO_CALL)
        return report


def _problem(sandbox: Sandbox, point: dict[str, Array], double: bool, of_the_rest: bool) -> dict[str, Any]:
    """Return what `check` takes, for a module that is run in float64 or in its own precision.

    With ``of_the_rest`` nothing goes back through what is by design, just as nothing of it is in a slope.
    """
    backward = sandbox.gradient_of_the_rest if of_the_rest else sandbox.gradient
    if double:
        return {"loss": sandbox.loss, "params": point, "grads": backward}
    own = deepcopy(point)
    loss, gradient = partial(sandbox.loss, own, double=False), partial(backward, own, double=False)
    return {"loss": loss, "params": own, "grads": gradient, "in_place": True}


def _not_compared(report: CheckReport, reason: str) -> CheckReport:
    return replace(report, unasked=(f"does .grad equal a fresh backward pass? {reason}",))


def _require_trainable(model: Any) -> None:
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
            f"TorchGradCheckHook needs a torch.nn.Module, got {model!r} of type {type(model).__name__}. Try "
            "TorchGradCheckHook(model), and loss= at on_step."
        )
    for name, parameter in model.named_parameters():
        if torch.utils._python_dispatch.is_traceable_wrapper_subclass(parameter.data):
            raise InvalidProblem(
                f"{name} is a {type(parameter.data).__name__}, which cannot be read as an array (fully_shard). Try "
                "the hook on the module before it is sharded, in a run on one device."
            )
    if not trained_parameters(model):
        raise InvalidProblem(
            f"{type(model).__name__} has no parameter that is trained. Try requires_grad_(True) before the hook."
        )
