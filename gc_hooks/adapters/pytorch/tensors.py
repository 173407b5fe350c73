"""PyTorch's parameters and gradients as NumPy arrays, and a mode in which torch computes in float64 throughout."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Array

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

SURELY_NARROW = 8
"""Number of values from which a float64 gradient of float32 numbers alone is taken for float32. One such value is
nothing special (0, 1, 0.5); eight by chance have a probability of 2**-232. 4 or 16 would do as well."""


def trained_parameters(model: Module, except_for: Collection[str] = ()) -> dict[str, Parameter]:
    """Return the parameters that have a gradient: tied ones once, under their first name, frozen ones not at all."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    return {name: parameter for name, parameter in trained.items() if name not in except_for}


def complex_parameters(model: Module, except_for: Collection[str] = ()) -> list[str]:
    """Return the parameters that are trained and hold complex numbers: they are not judged."""
    complex_ones = [name for name, p in model.named_parameters() if p.requires_grad and p.is_complex()]
    return [name for name in complex_ones if name not in except_for]


def eps_of(parameter: Parameter) -> float:
    """Return the machine epsilon of a parameter's own precision."""
    import torch

    return float(torch.finfo(parameter.dtype).eps)


def as_array(tensor: Tensor) -> Array:
    """Return a tensor as an array; half precision, which NumPy knows only in part, becomes float32."""
    import torch

    dense = tensor.detach()
    if dense.layout is not torch.strided:
        dense = dense.to_dense()
    if dense.dtype in (torch.float16, torch.bfloat16):
        dense = dense.float()
    array: Array = dense.cpu().numpy()
    return array


def as_gradient(gradient: Tensor | None, parameter: Parameter) -> Array:
    """Return a copy of a gradient as an array, zero where the loss does not depend on the parameter.

    A backward pass may compute in float32 inside of a float64 one. Its gradient is returned in float32, so that it is
    judged with the precision that it has.
    """
    if gradient is None:
        return np.zeros(parameter.shape, as_array(parameter).dtype)
    array = as_array(gradient).copy()  # the array would share the gradient's memory
    with np.errstate(all="ignore"):
        narrow = array.astype(np.float32)
    if np.count_nonzero(array) >= SURELY_NARROW and np.array_equal(narrow, array):
        return narrow
    return array


def in_float64(value: Any) -> Any:
    """Return float64 for every narrower tensor and dtype, also inside of lists, tuples and dicts."""
    import torch

    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    if isinstance(value, torch.dtype) and value in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float64
    if type(value) in (list, tuple):
        return type(value)(map(in_float64, value))
    if type(value) is dict:
        return {key: in_float64(item) for key, item in value.items()}
    return value


@functools.cache  # one class, and not a new one for each evaluation
def float64_mode() -> Any:
    """Return the class of a context in which every function of torch computes in float64, whatever it is given."""
    import torch
    from torch.overrides import TorchFunctionMode

    casts = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}

    class Float64Mode(TorchFunctionMode):  # type: ignore[misc]  # mypy does not follow imports of torch, see setup.cfg
        is_left = False  # torch may put a mode back that a Ctrl-C has come in the middle of: it does nothing then

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if self.is_left:
                return function(*args, **(kwargs or {}))
            if function in casts:  # tensor.float() and the like
                function = torch.Tensor.double
            return function(*in_float64(tuple(args)), **in_float64(kwargs or {}))

    return Float64Mode


def leave_mode(mode: Any) -> None:
    """Leave a mode of torch's functions, if it is the one that is on."""
    from torch.overrides import _get_current_function_mode

    mode.is_left = True
    if _get_current_function_mode() is mode:
        mode.__exit__(None, None, None)
