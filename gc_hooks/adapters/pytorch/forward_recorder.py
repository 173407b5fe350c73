"""Record what a training runs a PyTorch module on, so that the same forward passes can be made again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gc_hooks.isolation.rng import save_global_random_state

if TYPE_CHECKING:
    from torch.nn import Module


PREPARE = "__prepare_scriptable__"
"""A method that torch.jit.script looks for in a module: it compiles what that returns."""


class ForwardRecorder:
    """A forward pre-hook that records, for each pass since the last step, its inputs and the random states before it.

    ``wanted()`` returns whether a check may come before the next step: else nothing is recorded. A copy of the module,
    or one that was saved and loaded, has a recorder that records nothing.
    """

    def __init__(self, wanted: Callable[[], bool] = bool) -> None:
        # Inputs and autocast of each pass, and what puts the random states back.
        self.passes: list[tuple[Any, Callable[[], None]]] = []
        self.batch_size = 0  # length of the first tensor among the inputs of the last pass while paused
        self._wanted, self._paused = wanted, False
        self._model: Module | None = None
        self._replayed: int | None = None  # passes so far, None outside of a replay
        self._alike, self._other_autocast = True, False
        self.coarsest = 0.0  # machine epsilon of the autocast in which a pass was made while paused

    def attach(self, model: Module) -> None:
        """Let a module call the recorder before each pass, from now on."""
        self._model = model
        _keep_out_of_graphs()
        model.register_forward_pre_hook(self, with_kwargs=True)
        vars(model)[PREPARE] = _StepsAside(model)

    def detach(self) -> None:
        """Let go of the module."""
        if self._model is not None:
            step_aside(self._model)
        self._model = None

    def begin_step(self) -> None:
        """Forget the passes of the last step, and come back where the module was compiled meanwhile."""
        self.passes.clear()
        if self._model is not None and PREPARE not in vars(self._model):
            self.attach(self._model)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return ForwardRecorder, ()

    def __call__(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record one forward pass of the training, or prepare one of a replay."""
        import torch

        if torch.compiler.is_compiling():  # in the graph there is nothing to record
            return
        if not self._paused:
            if torch.is_grad_enabled() and self._wanted():  # without a graph it is an evaluation, not training
                self.passes.append((((args, kwargs), _autocast_of(args, kwargs)), save_global_random_state()))
            return
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim]
        self.batch_size = next(map(len, tensors), 0)
        autocast = _autocast_of(args, kwargs)
        if autocast is not None:
            self.coarsest = max(self.coarsest, float(torch.finfo(autocast).eps))
        if self._replayed is not None:
            number, self._replayed = self._replayed, self._replayed + 1
            if number < len(self.passes):
                (inputs, trained_in), put_back = self.passes[number]
                self._alike = self._alike and _equal(inputs, (args, kwargs))
                if trained_in is not autocast:
                    self._other_autocast = True
                put_back()

    def pause(self) -> None:
        """Record nothing: the passes from here on are not the training's."""
        self._paused = True

    def go_on(self) -> None:
        """Record again."""
        self._paused, self._replayed = False, None

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Let each pass begin with the random states of the recorded one, and compare inputs and number of passes."""
        self._replayed, self._alike, self._other_autocast = 0, True, False
        yield
        self._alike = self._alike and self._replayed == len(self.passes)

    @property
    def mismatch(self) -> str:
        """Return why the last replay was not the training's own step; empty when it was."""
        if not self.passes:
            return "The module has not been run since the last step, or not as a whole."
        if self._other_autocast:
            return "The training runs the module in another autocast than loss=. Try torch.autocast in loss=, too."
        if not self._alike:
            return "loss= does not run the module on just what the training has run it on since the last step."
        return ""


def _keep_out_of_graphs() -> None:
    """Have torch.compile leave the graph where it meets a recorder, so that it records as ever.

    Only where the compiler is loaded already, which takes a second: a module that is compiled later is not recorded.
    """
    import torch

    if "torch._dynamo" in sys.modules and not hasattr(ForwardRecorder.__call__, "_torchdynamo_disable"):
        ForwardRecorder.__call__ = torch.compiler.disable(ForwardRecorder.__call__)  # type: ignore[method-assign]


class _StepsAside:
    """Returns a module whose recorder has gone: torch.jit.script cannot compile it. It comes back at the next step."""

    def __init__(self, model: Module) -> None:
        self._model = model

    def __call__(self) -> Any:
        step_aside(self._model)
        own = getattr(self._model, PREPARE, None)  # the method of the user's class, if it has one
        return self._model if own is None else own()


def step_aside(model: Module) -> None:
    """Take every recorder out of a module."""
    hooks = model._forward_pre_hooks
    for number in [number for number, hook in hooks.items() if isinstance(hook, ForwardRecorder)]:
        del hooks[number]
        model._forward_pre_hooks_with_kwargs.pop(number, None)
    vars(model).pop(PREPARE, None)


def _autocast_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the dtype of the autocast in which a module is called, None where it is called in none."""
    import torch

    kinds = {value.device.type for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)} or {"cpu"}
    on = [torch.get_autocast_dtype(kind) for kind in sorted(kinds) if torch.is_autocast_enabled(kind)]
    return on[0] if on else None


def _equal(first: Any, second: Any) -> bool:
    """Return whether two nested inputs hold the same numbers in the same containers."""
    import torch

    if first is second:
        return True
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        alike = (first.shape, first.dtype, first.device) == (second.shape, second.dtype, second.device)
        return alike and torch.equal(first, second)
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return isinstance(first, (int, float, str, bytes)) and first == second
