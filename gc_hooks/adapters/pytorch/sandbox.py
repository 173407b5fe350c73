"""Running a PyTorch closure at other parameters and in another precision, and leaving no trace of it in the module."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.adapters.pytorch.forward_recorder import ForwardRecorder
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.rng import global_random_state_kept

ROUND = 8
"""So many numbers are not all in float32 by chance."""


RANDOM = (
    "The loss is random: it gave {!r} and then, with other random numbers, {!r} for the same parameters. This usually "
    "means noise or a mask that is drawn inside of loss= or of the module (torch.randn_like). Try to draw it once, "
    "outside of loss=, or to switch it off for the check. In float64 other numbers are drawn, so the slopes are "
    "measured in the module's own precision, and the bars are wide."
)


class Sandbox:
    """A module on which a closure is evaluated as a function of the parameters.

    Parameters
    ----------
    model : torch.nn.Module
    witness : Witness
        Stands at the module's entrance.
    closure : callable
        ``closure()`` runs the module and returns its loss.
    dropout_off : bool
        Every dropout rate is zero, in training mode; else the masks are the same at each evaluation.
    """

    def __init__(self, model: Any, witness: ForwardRecorder, closure: Callable[[], Any], dropout_off: bool) -> None:
        self._model, self._witness, self._closure, self._dropout_off = model, witness, closure, dropout_off
        self._trained = trained_parameters(model)

    def loss(self, values: Params, double: bool = True) -> float:
        """The loss at these parameters, in float64 or in the module's own precision."""
        with self._set(values, double):
            return float(self._scalar().item())

    def gradient(self, values: Params, double: bool = True) -> dict[str, Array]:
        """What the module's backward pass says at these parameters."""
        with self._set(values, double):
            return self._backward()

    def trouble_in_double(self, values: Params) -> str:
        """Why slopes cannot be measured in float64, and what to try; empty when they can."""
        try:
            double = self.loss(values)
            self.gradient(values)
        except Exception as error:
            return _told(f"{type(error).__name__}: {error}")
        own = self.loss(values, double=False)
        rounding = max(eps_of(parameter) for parameter in self._trained.values())
        alike = functools.partial(np.isclose, rtol=rounding**0.5, atol=rounding**0.5 * 1e-3, equal_nan=True)
        if alike(double, own):
            return ""
        first, second = (self._loss_after(draws, values) for draws in (0, 1))
        if not alike(first, second):
            return RANDOM.format(first, second)
        return _told(f"the loss is {double:.6g} there and {own:.6g} in its own precision")

    def _loss_after(self, draws: int, values: Params) -> float:
        """The loss in its own precision, dropout off, from other random states the more was drawn before."""
        import torch

        with self._set(values, double=False):
            _turn_dropout_off(self._model)
            for device in {"cpu", *(_home(parameter) for parameter in self._trained.values())}:
                torch.rand(draws, device=device)
            return float(self._scalar().item())

    def fresh_passes(self) -> list[dict[str, Array]]:
        """Two backward passes as the training makes them, the second from where the first has left the module.

        Masks are drawn from the random states that the training's own forward passes began with.
        """
        with self._set({}, double=False, as_trained=True):
            passes = []
            for _ in range(2):
                self._witness.begin_replay()
                passes.append(self._backward())
                self._witness.settle()
            return passes

    def _scalar(self) -> Any:
        import torch

        loss = self._closure()
        if any(parameter.grad is not None for parameter in self._trained.values()):
            raise InvalidProblem("loss= calls backward() itself. Try a closure that returns the loss and no more.")
        if not isinstance(loss, torch.Tensor):
            raise InvalidProblem(
                f"loss= returned {loss!r} of type {type(loss).__name__}. Try to return the tensor itself, without "
                ".item() or .detach()."
            )
        if loss.numel() != 1:
            raise InvalidProblem(
                f"loss= returned a tensor of shape {tuple(loss.shape)}, not one number. Try loss.mean(), the way in "
                "which it is taken before backward()."
            )
        return loss.reshape(())

    def _backward(self) -> dict[str, Array]:
        import torch

        loss, parameters = self._scalar(), list(self._trained.values())
        if not loss.requires_grad:
            raise InvalidProblem("loss= returned a tensor without a graph. Try to leave out .detach() and no_grad().")
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {name: as_gradient(g, p) for (name, p), g in zip(self._trained.items(), grads, strict=True)}

    @contextmanager
    def _set(self, values: Params, double: bool, as_trained: bool = False) -> Iterator[None]:
        """The module with other parameters and copies of its state, until the context ends, however it ends."""
        import torch

        devices = {p.device.index for p in self._model.parameters() if p.device.type == "cuda"}
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of contiguous weights and the like: it was said in the training
            stack.enter_context(global_random_state_kept())
            stack.enter_context(torch.random.fork_rng(sorted(devices)))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_attributes_kept(self._model, double))
            stack.enter_context(_parameters_kept(self._model, self._trained, values, double))
            if self._dropout_off and not as_trained:
                _turn_dropout_off(self._model)
            stack.enter_context(self._witness.on_stage(_doubled if double else _same))
            if double:
                stack.enter_context(_default_dtype(torch.float64))
                stack.enter_context(_doubling())
            yield


def _told(trouble: str) -> str:
    return f"The module cannot be run in float64 ({trouble}), so the bars are wide."


def trained_parameters(model: Any) -> dict[str, Any]:
    """The parameters that have a gradient, by name: tied ones once, under their first name, frozen ones not at all."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}


def as_array(tensor: Any) -> Array:
    """A tensor as an array; half precision, which NumPy knows only in part, in float32."""
    import torch

    dense = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    array: Array = (dense.float() if dense.dtype in (torch.float16, torch.bfloat16) else dense).cpu().numpy()
    return array


def as_gradient(gradient: Any, parameter: Any) -> Array:
    """A copy of a gradient as an array, zero where the loss does not depend on the parameter.

    A backward that computes in float32 inside of a float64 pass is as precise as that; a few numbers may be round by
    themselves.
    """
    if gradient is None:
        return np.zeros(parameter.shape, as_array(parameter).dtype)
    array = as_array(gradient).copy()
    with np.errstate(all="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.count_nonzero(array) >= ROUND and np.array_equal(narrow, array) else array


def eps_of(parameter: Any) -> float:
    """Machine epsilon of a parameter's own precision."""
    import torch

    return float(torch.finfo(parameter.dtype).eps)


@contextmanager
def _parameters_kept(model: Any, trained: Mapping[str, Any], values: Params, double: bool) -> Iterator[None]:
    """Other data in the same parameters, whose own memory is not touched, and no gradient in them."""
    import torch

    names = {id(parameter): name for name, parameter in trained.items()}
    saved = [(parameter, parameter.data, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, data, _ in saved:
            value = values.get(names.get(id(parameter), ""))
            fresh = data if value is None else torch.as_tensor(value, device=_home(data)).reshape(data.shape)
            parameter.grad = None
            parameter.data = _copy_in_precision(fresh, data, double)
        yield
    finally:
        for parameter, data, grad in saved:
            parameter.grad = None
            parameter.data = data
            parameter.grad = grad


def _copy_in_precision(fresh: Any, data: Any, double: bool) -> Any:
    import torch

    moved = fresh.to(data.device, torch.float64 if double and data.is_floating_point() else data.dtype)
    return moved.clone() if moved is fresh else moved


def _home(data: Any) -> Any:
    """Where a float64 array may be put first: some devices do not know the type."""
    return data.device if data.device.type == "cuda" else "cpu"


@contextmanager
def _attributes_kept(model: Any, double: bool) -> Iterator[None]:
    """Copies of what the sub-modules hold (buffers, hidden states, counters), and afterwards the originals again."""
    saved = [(vars(module), dict(vars(module))) for module in model.modules()]
    copies: dict[int, Any] = {}
    try:
        for state, originals in saved:
            state.update({key: _copied(v, double, copies) for key, v in originals.items() if "hooks" not in key})
        yield
    finally:
        for state, originals in saved:
            for key in state.keys() - originals.keys():
                del state[key]
            state.update(originals)


def _copied(value: Any, double: bool, copies: dict[int, Any]) -> Any:
    """Tensors that are no parameters, also in lists and dicts, copied once each."""
    import torch

    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        if id(value) not in copies:
            copies[id(value)] = _copy_in_precision(value.detach(), value, double)
        return copies[id(value)]
    if isinstance(value, (dict, list)):
        twin = copy.copy(value)
        for key, item in list(twin.items() if isinstance(twin, dict) else enumerate(twin)):
            twin[key] = _copied(item, double, copies)
        return twin
    return copy.copy(value) if isinstance(value, (set, np.ndarray, np.random.Generator)) else value


def _turn_dropout_off(model: Any) -> None:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (torch.nn.RNNBase, torch.nn.MultiheadAttention)):
            module.dropout = 0.0


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _same(value: Any) -> Any:
    return value


def _doubled(value: Any) -> Any:
    """float64 for every narrower tensor and type, also in lists, tuples and dicts."""
    import torch

    if isinstance(value, torch.Tensor):  # not asked for its type, which the mode has changed already
        return value.double() if value.is_floating_point() else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in (torch.float32, torch.float16, torch.bfloat16) else value
    if type(value) in (list, tuple):
        return type(value)(_doubled(item) for item in value)
    return {key: _doubled(item) for key, item in value.items()} if type(value) is dict else value


def _doubling() -> Any:
    """A mode in which every call of torch computes in float64, whatever it is given and told."""
    return _doubling_mode()()


@functools.cache
def _doubling_mode() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    casts = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}

    def in_double(mode: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = torch.Tensor.double if function in casts else function
        return called(*_doubled(tuple(args)), **_doubled(kwargs or {}))

    return type("DoublingMode", (TorchFunctionMode,), {"__torch_function__": in_double})
