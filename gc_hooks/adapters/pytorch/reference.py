"""The reference for a module: the forward bodies of its hand-written Functions, under torch's own autograd."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.adapters.pytorch.operators import Operators
from gc_hooks.arrays.norms import distance, norm
from gc_hooks.numerics import EPS, HAIR, SMOOTHLY
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.verdict import Tolerance
from gc_hooks.slopes.instrument import beside
from gc_hooks.tracing import NotTraceable, Reference, Tracer

if TYPE_CHECKING:
    from gc_hooks.adapters.pytorch.sandbox import Sandbox


class FunctionTracer(Tracer):
    """Find the gradient of a closure with every `torch.autograd.Function` derived from its forward."""

    takes_complex = False  # a module does not take complex numbers
    has_tape = False
    most_vague = 1e-6  # what no Function by hand computes is the same on both sides: the slope alone judges it

    def __init__(self, sandbox: Sandbox, problem: Problem) -> None:
        super().__init__(problem)
        self._sandbox = sandbox
        self.operators: Operators | None = None  # where they were looked at
        self._of_the_rest = sandbox.design.holds  # what is by design has no slope that could confirm it

    def trace(
        self,
        problem: Problem,
        rounding: float = 0.0,
        generator: Generator | None = None,
        plain: Reference | None = None,
        opposite: bool = False,
    ) -> Reference:
        """Return the gradient at the point of a problem; raise `NotTraceable` where a body cannot serve.

        Costs one forward and one backward pass. With a ``rounding`` each result of torch is changed by it. One more
        reference, a hair away, then tells whether the point stands on a kink: a smooth loss has nearly the same
        gradient there.
        """
        if problem.meter.exhausted:
            raise BudgetSpent
        problem.meter.evaluations += 1
        modes = []
        if rounding:
            seed = int((generator or np.random.default_rng(0)).integers(2**62))
            modes.append(rounding_mode()(-rounding if opposite else rounding, seed))
        try:
            value, gradients = self._sandbox.reference(problem.point, modes, self._of_the_rest)
        except NotTraceable:
            raise
        except Exception as error:  # whatever a module does with what it does not expect
            raise NotTraceable(f"it raised {type(error).__name__}: {str(error)[:100]}", "") from None
        for name, gradient in gradients.items():
            if not np.all(np.isfinite(gradient)):
                raise NotTraceable(f"its derivative for {name} is not finite", "")
        at_kink = plain is not None and rounding > 0 and self._is_at_kink(problem, plain)
        return Reference(self, gradients, {}, value, EPS, at_kink, [])

    def _is_at_kink(self, problem: Problem, plain: Reference) -> bool:
        away = self.trace(beside(problem, np.random.default_rng(0))).gradients
        return any(distance(away[name], one) > SMOOTHLY * HAIR * norm(one) for name, one in plain.gradients.items())

    def judged(self, reference: Reference) -> Reference:
        """Return the reference in which what is by design does what it always does: one more, where there is any."""
        if not self._of_the_rest:
            return reference
        self._of_the_rest = False
        return self.trace(self.problem)

    def named(
        self, parameters: Sequence[str], tolerance: Tolerance, constants: Mapping[str, float]
    ) -> tuple[Diagnosis, ...]:
        """Return a diagnosis for each hand-written Function that is wrong; costs two forward and backward passes."""
        self.operators = self._sandbox.operators(self.problem.point, constants)
        return self.operators.diagnoses(parameters, tolerance)

    def in_double(self, problem: Problem) -> Problem:
        """Return the problem itself: the module is run in float64."""
        return problem


@functools.cache  # one class, and not a new one for each evaluation
def rounding_mode() -> Any:
    """Return the class of a context in which every result of torch is a little off, as rounding makes it."""
    import torch
    from torch.overrides import TorchFunctionMode

    class RoundingMode(TorchFunctionMode):  # type: ignore[misc]  # mypy does not follow imports of torch
        is_left = False

        def __init__(self, rounding: float, seed: int) -> None:
            super().__init__()
            self._rounding, self._seed = rounding, seed
            self._drawn: dict[Any, Any] = {}

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            result = function(*args, **kwargs)
            if self.is_left or type(result) is not torch.Tensor or not result.is_floating_point():
                return result
            # What shares its memory with an argument is a view or was written in place: its numbers were moved before.
            shared = {_memory(value) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)}
            if result.layout is not torch.strided or _memory(result) in shared:
                return result
            return result * (1 + self._rounding * self._uniforms(result))

        def _uniforms(self, like: Any) -> Any:
            if like.device not in self._drawn:
                self._drawn[like.device] = torch.Generator(like.device)
                self._drawn[like.device].manual_seed(self._seed)
            generator = self._drawn[like.device]
            return 2 * torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator) - 1

    return RoundingMode


def _memory(tensor: Any) -> int:
    import torch

    return int(tensor.untyped_storage().data_ptr()) if tensor.layout is torch.strided else id(tensor)
