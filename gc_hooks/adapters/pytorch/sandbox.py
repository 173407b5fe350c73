"""Run a PyTorch closure at other parameters and in another precision, and leave no trace of it in the module."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.adapters.pytorch.forward_recorder import ForwardRecorder, save_random_states
from gc_hooks.adapters.pytorch.tensors import as_gradient, eps_of, float64_mode, in_float64, trained_parameters
from gc_hooks.errors import InvalidProblem

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

NOT_IN_FLOAT64 = (
    "The module cannot be run in float64 ({}). The slopes are measured in its own precision, with larger errors."
)
RANDOM = (
    "The loss is random: it gave {!r} and then, with other random numbers, {!r} for the same parameters. This usually "
    "means noise or a mask that is drawn inside of loss= or of the module (torch.randn_like). Try to draw it once, "
    "outside of loss=. In float64 other numbers are drawn: the slopes are measured in the module's own precision."
)


class Sandbox:
    """Evaluates a closure of the training, which returns the loss, as a function of its module's parameters.

    With ``dropout_off`` every dropout rate is zero, in training mode; otherwise the masks are fixed.
    """

    def __init__(
        self, model: Module, recorder: ForwardRecorder, closure: Callable[[], Tensor], dropout_off: bool
    ) -> None:
        if not callable(closure):
            raise InvalidProblem(
                f"loss must be a function, got {closure!r}. This usually means the loss of this step itself. Try "
                "loss=lambda: criterion(model(x), y)."
            )
        self._model, self._recorder, self._closure, self._dropout_off = model, recorder, closure, dropout_off
        self._trained = trained_parameters(model)

    def loss(self, params: Params, double: bool = True) -> float:
        """Return the loss at these parameters, computed in float64 or in the module's own precision."""
        with self._opened(params, double, self._dropout_off):
            return float(self._run_closure().item())

    def gradient(self, params: Params, double: bool = True) -> dict[str, Array]:
        """Return what the module's backward pass gives at these parameters."""
        with self._opened(params, double, self._dropout_off):
            return self._backward()

    def fresh_passes(self, count: int) -> list[dict[str, Array]]:
        """Return the gradients of one or two backward passes with the training's own masks.

        The module is put back only after both: they show what the first pass changes.
        """
        passes = []
        with self._opened({}, False, False):  # at the module's own parameters
            for _ in range(count):
                with self._recorder.replay():
                    passes.append(self._backward())
        return passes

    def why_not_in_float64(self, params: Params) -> str:
        """Return why slopes cannot be measured in float64, and what to try; empty when they can.

        A kernel for float32 alone may raise, or return wrong numbers: the losses in both precisions have to agree.
        Those of a loss that draws do not either: torch draws other numbers in float64.
        """
        import torch

        try:
            double = self.loss(params)
            self.gradient(params)
        except Exception as error:
            return NOT_IN_FLOAT64.format(f"{type(error).__name__}: {error}")
        own = self.loss(params, double=False)
        # Half of the digits: rounding in a long sum takes fewer, and a wrong kernel or other random numbers take more.
        tolerance = max(map(eps_of, self._trained.values())) ** 0.5
        close = partial(np.isclose, rtol=tolerance, atol=1e-3 * tolerance, equal_nan=True)
        if close(double, own):
            return ""
        losses = []
        for count in (0, 1):  # one number that is drawn before changes all random numbers after it
            with self._opened(params, False, True):
                for device in {"cpu", *map(_float64_device, self._trained.values())}:
                    torch.rand(count, device=device)
                losses.append(float(self._run_closure().item()))
        if not close(*losses):
            return RANDOM.format(*losses)
        return NOT_IN_FLOAT64.format(f"the loss is {double:.6g} there and {own:.6g} in its own precision")

    @contextmanager
    def _opened(self, params: Params, double: bool, dropout_off: bool) -> Iterator[None]:
        """Set parameters in the module and work on copies of its state, until the context ends, however it ends.

        Put back are the parameters' memory and gradients, all other attributes of the sub-modules, random states and
        torch's settings. With ``double`` torch computes in float64; autocast leaves float64 tensors as they are.
        """
        import torch

        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for weights that are not contiguous: the training has shown them
            stack.callback(save_random_states())
            stack.enter_context(torch.enable_grad())  # an optimiser calls its hooks without
            stack.enter_context(self._recorder.paused())
            self._copy_attributes(stack, double, dropout_off)
            self._set_parameters(stack, params, double)
            if double:
                # A hand-written autograd.Function gets its inputs without the mode: they are converted at the entrance.
                entrance = self._model.register_forward_pre_hook(
                    lambda module, args, kwargs: (in_float64(args), in_float64(kwargs)), with_kwargs=True
                )
                stack.callback(entrance.remove)
                stack.callback(torch.set_default_dtype, torch.get_default_dtype())
                torch.set_default_dtype(torch.float64)
                stack.enter_context(float64_mode()())
            yield

    def _copy_attributes(self, stack: ExitStack, double: bool, dropout_off: bool) -> None:
        """Give the sub-modules copies of their buffers, hidden states and counters, and turn their dropout off."""
        import torch

        copies: dict[int, Tensor] = {}
        for module in list(self._model.modules()):
            attributes = vars(module)
            originals = dict(attributes)
            stack.callback(_restore_attributes, attributes, originals)
            for name, value in originals.items():
                if "hooks" not in name:  # the handles of hooks refer to these very dictionaries
                    attributes[name] = _copied(value, double, copies)
            if dropout_off and isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.p = 0.0
            elif dropout_off and isinstance(module, (torch.nn.RNNBase, torch.nn.MultiheadAttention)):
                module.dropout = 0.0

    def _set_parameters(self, stack: ExitStack, params: Params, double: bool) -> None:
        """Let the parameters refer to other memory, with other values where they are given, and have no gradient."""
        import torch

        names = {id(parameter): name for name, parameter in self._trained.items()}
        for parameter in self._model.parameters():
            data = parameter.data
            stack.callback(_restore_parameter, parameter, data, parameter.grad)
            values, new = params.get(names.get(id(parameter), "")), data
            if values is not None:
                new = torch.as_tensor(values, device=_float64_device(data)).reshape(data.shape)
            parameter.grad = None  # so that a closure that calls backward() is seen
            parameter.data = _in_precision(new, data, double)

    def _run_closure(self) -> Tensor:
        import torch

        loss = self._closure()
        if any(parameter.grad is not None for parameter in self._trained.values()):
            raise InvalidProblem("loss= calls backward() itself. Try a closure that returns the loss and no more.")
        if not isinstance(loss, torch.Tensor):
            raise InvalidProblem(
                f"loss= returned {loss!r} of type {type(loss).__name__}. Try to return the tensor, without .item()."
            )
        if loss.numel() != 1:
            raise InvalidProblem(
                f"loss= returned a tensor of shape {tuple(loss.shape)}, not one number. Try loss.mean()."
            )
        return loss.reshape(())

    def _backward(self) -> dict[str, Array]:
        import torch

        loss = self._run_closure()
        if not loss.requires_grad:
            raise InvalidProblem("loss= returned a tensor without a graph. Try to leave out .detach() and no_grad().")
        # Not loss.backward(), which would write into .grad.
        grads = torch.autograd.grad(loss, list(self._trained.values()), allow_unused=True)
        return dict(zip(self._trained, map(as_gradient, grads, self._trained.values()), strict=True))


def _restore_attributes(attributes: dict[str, Any], originals: dict[str, Any]) -> None:
    for name in attributes.keys() - originals.keys():
        del attributes[name]
    attributes.update(originals)


def _restore_parameter(parameter: Parameter, data: Tensor, grad: Tensor | None) -> None:
    parameter.grad = None  # torch refuses data of another type than that of the gradient
    parameter.data = data
    parameter.grad = grad


def _copied(value: Any, double: bool, copies: dict[int, Tensor]) -> Any:
    """Return a copy of a tensor that is not a parameter, one copy for each tensor, also inside of dicts and lists."""
    import torch

    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        if id(value) not in copies:
            copies[id(value)] = _in_precision(value.detach(), value, double)
        return copies[id(value)]
    if isinstance(value, (dict, list)):
        twin = copy.copy(value)  # which keeps the class, such as OrderedDict
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            twin[key] = _copied(value[key], double, copies)
        return twin
    if isinstance(value, (set, np.ndarray, np.random.Generator)):
        return copy.copy(value)
    return value


def _in_precision(new: Tensor, old: Tensor, double: bool) -> Tensor:
    """Return a copy of one tensor on the device and with the dtype of another, or in float64."""
    import torch

    dtype = torch.float64 if double and old.is_floating_point() else old.dtype
    return new.to(old.device, dtype, copy=True)


def _float64_device(tensor: Tensor) -> Any:
    """Return where a float64 array may be put first: not every device has the type."""
    return tensor.device if tensor.device.type == "cuda" else "cpu"
