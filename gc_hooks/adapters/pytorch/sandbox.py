"""Run a PyTorch closure at other parameters and in another precision, and leave no trace of it in the module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.adapters.pytorch.design import NOTHING, Design, Held
from gc_hooks.adapters.pytorch.forward_recorder import ForwardRecorder
from gc_hooks.adapters.pytorch.functions import StandIns
from gc_hooks.adapters.pytorch.operators import Operators
from gc_hooks.adapters.pytorch.tensors import (
    as_gradient,
    eps_of,
    float64_mode,
    in_float64,
    leave_mode,
    trained_parameters,
)
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.object_graph import Node, all_ways, of_object, pairs_of, placing
from gc_hooks.isolation.snapshot import Snapshot
from gc_hooks.isolation.undoing import call_and_undo, run_all

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

T = TypeVar("T")

NOT_IN_FLOAT64 = (
    "The module cannot be run in float64 ({}). The slopes are measured in its own precision, with larger errors."
)
RANDOM = (
    "The loss is random: it gave {!r} and then, with other random numbers, {!r} for the same parameters. This usually "
    "means noise or a mask that is drawn inside of loss= or of the module (torch.randn_like). Try to draw it once, "
    "outside of loss=. In float64 other numbers are drawn: the slopes are measured in the module's own precision."
)


REENTRANT = "CheckpointFunctionBackward"
"""The node of torch.utils.checkpoint with use_reentrant=True, which refuses torch.autograd.grad."""


class Sandbox:
    """Evaluates a closure of the training, which returns the loss, as a function of its module's parameters.

    With ``dropout_off`` every dropout rate is zero, in training mode; otherwise the masks are fixed.
    """

    def __init__(
        self,
        model: Module,
        recorder: ForwardRecorder,
        closure: Callable[[], Tensor],
        dropout_off: bool,
        design: Design = NOTHING,
    ) -> None:
        import torch

        if not callable(closure):
            raise InvalidProblem(
                f"loss must be a function, got {closure!r}. This usually means the loss of this step itself. Try "
                "loss=lambda: criterion(model(x), y)."
            )
        self._model, self._recorder, self._closure, self._dropout_off = model, recorder, closure, dropout_off
        self.design = design
        self._first: dict[str, Any] = {}  # what the first pass in float64 has shown, and where
        self._first_at: Params = {}
        self._is_reentrant: bool | None = None  # whether the closure uses checkpoints that know backward() alone
        self._eps_of_loss = 0.0  # of its dtype, when it was last evaluated
        hooks = chain.from_iterable(module._forward_pre_hooks.values() for module in model.modules())
        self._older_norms = [hook for hook in hooks if type(hook).__name__ == "SpectralNorm"]
        self.padding = list(padding_rows(model))
        self._held_fixed = _held_fixed(design)
        self._trained = trained_parameters(model, design.parameters)
        self._parameters = set(map(id, model.parameters()))
        # Taken once: after each evaluation everything is as it is now.
        self._held = Snapshot(model, opened=(torch.nn.Module,))
        self._places = list(_places_of_tensors(self._held.nodes, self._parameters))

    def with_dropout(self) -> Sandbox:
        """Return one that keeps dropout on, with fixed masks."""
        return self._with(False, self.design)

    def with_more_by_design(self, functions: tuple[Any, ...]) -> Sandbox:
        """Return one in which more Functions are by design."""
        return self._with(self._dropout_off, self.design.including(functions))

    def _with(self, dropout_off: bool, design: Design) -> Sandbox:
        other = copy(self)
        other._dropout_off, other.design, other._held_fixed = dropout_off, design, _held_fixed(design)
        other._first = {}
        return other

    def loss(self, params: Params, double: bool = True) -> float:
        """Return the loss at these parameters, computed in float64 or in the module's own precision.

        What is by design keeps the results of the first call.
        """
        known: float | None = self._first_found("loss", params, double)
        if known is not None:
            return known
        return self._inside(self._value, params, double, self._dropout_off, self._fixed(double))

    def gradient(self, params: Params, double: bool = True) -> dict[str, Array]:
        """Return what the module's backward pass gives at these parameters."""
        known: dict[str, Array] | None = self._first_found("gradient", params, double)
        if known is not None:
            return known
        return self._inside(self._backward, params, double, self._dropout_off)

    def _first_found(self, what: str, params: Params, double: bool) -> Any:
        """Return what the first pass in float64 has found at the same parameters, once; None afterwards."""
        known = self._first.pop(what, None) if double else None
        is_there = all(np.array_equal(params[name], array) for name, array in self._first_at.items())
        return known if is_there else None

    def gradient_of_the_rest(self, params: Params, double: bool = True) -> dict[str, Array]:
        """Return what the backward pass gives where nothing goes back through what is by design."""
        return self._inside(self._backward, params, double, self._dropout_off, self._fixed(double))

    def _fixed(self, double: bool) -> list[Any]:
        return [self._held_fixed[double]] if self._held_fixed else []

    def reference(
        self, params: Params, modes: Sequence[Any] = (), of_the_rest: bool = False
    ) -> tuple[float, dict[str, Array]]:
        """Return the loss, and its gradient with every hand-written Function derived from its forward, in float64.

        What is by design does what it always does, or, ``of_the_rest``, nothing goes back through it. The ``modes`` of
        torch are on meanwhile.
        """
        functions = StandIns(list(self._trained.values()), except_for=self.design.functions)

        def run() -> tuple[float, dict[str, Array]]:
            loss, found = self._loss_and_gradients()
            gradients = {}
            for (name, parameter), one, more in zip(self._trained.items(), found, functions.more, strict=True):
                total = one if more is None else more if one is None else one + more
                gradients[name] = np.asarray(as_gradient(total, parameter), np.float64)
            return loss, gradients

        try:
            fixed = self._fixed(True) if of_the_rest else []
            return self._inside(run, params, True, self._dropout_off, [functions, *fixed], modes)
        except Exception:
            if functions.refusal is not None:  # which torch, or the closure, may have swallowed or wrapped
                raise functions.refusal from None
            raise

    def operators(self, params: Params, constants: Mapping[str, float]) -> Operators:
        """Return how each hand-written backward compares with its reference, in the module's own backward pass."""
        operators = Operators(constants)
        functions = StandIns(observe=operators.observe, except_for=self.design.functions)
        with suppress(Exception):  # what was seen before stands
            self._inside(self._backward, params, True, self._dropout_off, [functions])
        return operators

    def fresh_passes(self, count: int) -> list[dict[str, Array]]:
        """Return the gradients of one or two backward passes with the training's own masks.

        The module is put back only after both: they show what the first pass changes.
        """

        def passes() -> list[dict[str, Array]]:
            found = []
            for _ in range(count):
                with self._recorder.replay():
                    found.append(self._backward())
            return found

        return self._inside(passes, {}, False, False)  # at the module's own parameters

    def why_not_in_float64(self, params: Params) -> str:
        """Return why slopes cannot be measured in float64, and what to try; empty when they can.

        A kernel for float32 alone may raise, or return wrong numbers: the losses in both precisions have to agree.
        Those of a loss that draws do not either: torch draws other numbers in float64.
        """
        import torch

        try:
            double = self.loss(params)
            gradient = self.gradient(params)
        except Exception as error:
            return NOT_IN_FLOAT64.format(f"{type(error).__name__}: {error}")
        own = self.loss(params, double=False)
        # Half of the digits: rounding in a long sum takes fewer, and a wrong kernel or other random numbers take more.
        tolerance = max(*map(eps_of, self._trained.values()), self._recorder.coarsest, self._eps_of_loss) ** 0.5
        close = partial(np.isclose, rtol=tolerance, atol=1e-3 * tolerance, equal_nan=True)
        if close(double, own):
            self._first, self._first_at = {"loss": double, "gradient": gradient}, dict(params)
            return ""

        def after_drawing(count: int) -> float:
            for device in {"cpu", *map(_float64_device, self._trained.values())}:
                torch.rand(count, device=device)
            return self._value()

        # One number that is drawn before changes all random numbers after it.
        losses = [self._inside(partial(after_drawing, count), params, False, True) for count in (0, 1)]
        if not close(*losses):
            return RANDOM.format(*losses)
        return NOT_IN_FLOAT64.format(f"the loss is {double:.6g} there and {own:.6g} in its own precision")

    def _inside(
        self,
        run: Callable[[], T],
        params: Params,
        double: bool,
        dropout_off: bool,
        stand_ins: Sequence[StandIns | Held] = (),
        modes: Sequence[Any] = (),
    ) -> T:
        """Return what a function returns with parameters set in the module, which works on copies of its state.

        Put back are the parameters' memory and gradients, all that the module holds, random states and torch's
        settings. With ``double`` torch computes in float64; autocast leaves float64 tensors as they are.
        """
        import torch

        mode = float64_mode()()
        filters: Any = warnings.filters
        steps: list[Sequence[Any]] = [
            *((leave_mode, other) for other in reversed(modes)),
            *((one.take_away,) for one in reversed(stand_ins)),
            (leave_mode, mode),  # first: in it a parameter gets float64
            *((_restore_parameter, p, p.data, p.grad) for p in self._model.parameters()),
            (torch.set_default_dtype, torch.get_default_dtype()),
            (torch.set_grad_enabled, torch.is_grad_enabled()),
            (self._held.put_back,),
            *((setattr, norm, "n_power_iterations", norm.n_power_iterations) for norm in self._older_norms),
            (self._recorder.go_on,),
            (filters.__setitem__, slice(None), list(filters)),
        ]

        def set_up_and_run() -> T:
            # Such as for weights that are not contiguous: the training has shown them. Not with catch_warnings, after
            # which Python shows every warning of the training again.
            filters.insert(0, ("ignore", None, Warning, None, 0))
            self._recorder.pause()
            torch.set_grad_enabled(True)  # an optimiser calls its hooks without
            self._put_copies(double, dropout_off)
            self._set_parameters(params, double)
            if params:
                self._fix_constants()
            if double:
                # A hand-written autograd.Function gets its inputs without the mode: they are converted at the entrance.
                self._model.register_forward_pre_hook(
                    lambda module, args, kwargs: (in_float64(args), in_float64(kwargs)), with_kwargs=True
                )
                torch.set_default_dtype(torch.float64)
                mode.__enter__()
            for one in stand_ins:
                one.put()
            for other in modes:
                other.__enter__()
            return run()

        return call_and_undo(partial(run_all, steps), set_up_and_run)

    def _put_copies(self, double: bool, dropout_off: bool) -> None:
        """Put copies in the place of the tensors that the module holds, and turn its dropout off."""
        import torch

        copies: dict[int, Tensor] = {}
        for put, held in self._places:
            put(self._copied(held, double, copies))
        for module in self._model.modules() if dropout_off else ():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.p = 0.0
            elif isinstance(module, (torch.nn.RNNBase, torch.nn.MultiheadAttention)):
                module.dropout = 0.0

    def _fix_constants(self) -> None:
        """Fix what torch takes for constants in backward: rows of padding, and the vectors of spectral norm."""
        import torch

        for module, row in self.padding:
            module.register_forward_hook(partial(_with_fixed_padding, row))
        for module in self._model.modules():
            if isinstance(module, torch.nn.utils.parametrizations._SpectralNorm):
                module.eval()  # in training each pass makes an iteration
        for norm in self._older_norms:
            norm.n_power_iterations = 0

    def _copied(self, value: Any, double: bool, copies: dict[int, Tensor]) -> Any:
        """Return a copy of a tensor that is not a parameter, one copy for each tensor, also inside of tuples."""
        import torch

        if isinstance(value, torch.Tensor) and id(value) not in self._parameters:
            if id(value) not in copies:
                copies[id(value)] = _in_precision(value.detach(), value, double)
            return copies[id(value)]
        if isinstance(value, (tuple, frozenset)):
            own: Any = tuple if isinstance(value, tuple) else frozenset
            return own.__new__(type(value), [self._copied(item, double, copies) for item in value])
        return value

    def _set_parameters(self, params: Params, double: bool) -> None:
        """Let the parameters refer to other memory, with other values where they are given, and have no gradient."""
        import torch

        names = {id(parameter): name for name, parameter in self._trained.items()}
        for parameter in self._model.parameters():
            data = parameter.data
            values, new = params.get(names.get(id(parameter), "")), data
            if values is not None:
                new = torch.as_tensor(values, device=_float64_device(data)).reshape(data.shape)
            parameter.grad = None  # so that a closure that calls backward() is seen
            parameter.data = _in_precision(new, data, double)

    def _value(self) -> float:
        import torch

        loss = self._run_closure()
        self._eps_of_loss = float(torch.finfo(loss.dtype).eps) if loss.is_floating_point() else 0.0
        return float(loss.item())

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
        _, grads = self._loss_and_gradients()
        return dict(zip(self._trained, map(as_gradient, grads, self._trained.values()), strict=True))

    def _loss_and_gradients(self) -> tuple[float, Sequence[Tensor | None]]:
        import torch

        loss = self._run_closure()
        if not loss.requires_grad and self._held_fixed:
            return float(loss), [None] * len(self._trained)
        if not loss.requires_grad:
            raise InvalidProblem("loss= returned a tensor without a graph. Try to leave out .detach() and no_grad().")
        parameters = list(self._trained.values())
        if self._is_reentrant is None:
            self._is_reentrant = any(type(node).__name__ == REENTRANT for node in nodes_of(loss))
        if self._is_reentrant:
            return float(loss.detach()), _as_training_does(loss, parameters)
        # Not loss.backward(), which would write into .grad.
        return float(loss.detach()), torch.autograd.grad(loss, parameters, allow_unused=True)


def _held_fixed(design: Design) -> dict[bool, Held]:
    """Return what holds the results of what is by design fixed: in float64, and in the module's own precision."""
    return {double: Held(design) for double in (False, True)} if design.holds else {}


def nodes_of(loss: Tensor) -> Iterator[Any]:
    """Yield every node of the graph that a loss stands at the end of."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [before for before, _ in node.next_functions]


def _as_training_does(loss: Tensor, parameters: list[Parameter]) -> list[Tensor | None]:
    """Return the gradients by loss.backward(), and leave what the closure's own leaves hold as it was."""
    import torch

    with torch._C.DisableTorchFunction():  # a mode would hand over a converted copy of a leaf
        own = set(map(id, parameters))
        leaves = [node.variable for node in nodes_of(loss) if hasattr(node, "variable")]
        others = [(leaf, leaf.grad) for leaf in leaves if id(leaf) not in own]
    if any(getattr(leaf, "_post_accumulate_grad_hooks", None) for leaf in (*leaves, *parameters)):
        raise InvalidProblem(
            "The module has checkpoints with use_reentrant=True, and hooks that change its parameters in backward. "
            "Try use_reentrant=False."
        )

    def backward() -> list[Tensor | None]:
        _set_grads((leaf, None) for leaf, _ in others)  # else it would be added to in place
        loss.backward()
        return [parameter.grad for parameter in parameters]

    none = [(parameter, None) for parameter in parameters]
    return call_and_undo(partial(_set_grads, [*none, *others]), backward)


def _set_grads(pairs: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    import torch

    with torch._C.DisableTorchFunction():
        for tensor, grad in pairs:
            tensor.grad = grad


def padding_rows(model: Module) -> Iterator[tuple[Module, Tensor]]:
    """Yield each embedding with a row for padding, and a copy of that row: torch gives it no gradient, by design."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            yield module, module.weight.detach()[module.padding_idx].clone()


def _with_fixed_padding(row: Tensor, module: Any, args: Any, result: Tensor) -> Tensor:
    """Return the result of an embedding, with the row of padding as it was when the check began."""
    is_padding = (args[0] == module.padding_idx).unsqueeze(-1)
    return result.where(~is_padding, row.to(result.dtype))


def _restore_parameter(parameter: Parameter, data: Tensor, grad: Tensor | None) -> None:
    parameter.grad = None  # torch refuses data of another type than that of the gradient
    parameter.data = data
    parameter.grad = grad


def _places_of_tensors(nodes: Iterable[Node], others: set[int]) -> Iterator[tuple[Callable[[Any], None], Any]]:
    """Yield where in some objects tensors stand, other than some, or tuples of them; sets are yielded as a whole."""
    import torch

    for node in nodes:
        owner = node.thing
        if isinstance(owner, set) and _holds_tensor(tuple(owner), others):
            yield partial(_fill_set, owner), tuple(owner)
        ways = all_ways(type(owner)) or ((of_object,) if isinstance(owner, torch.nn.Module) else ())
        for part in chain.from_iterable(way(owner) for way in ways if not isinstance(owner, type)):
            for key, held in pairs_of(part, ways=lambda kind: ()):  # tensors are nothing plain here
                put = placing(owner, key, part[2]) if _holds_tensor(held, others) else None
                if put is not None:
                    yield put, held


def _fill_set(target: set[Any], items: tuple[Any, ...]) -> None:
    target.clear()
    target.update(items)


def _holds_tensor(value: Any, others: set[int]) -> bool:
    import torch

    if isinstance(value, (tuple, frozenset)):
        return any(_holds_tensor(item, others) for item in value)
    return isinstance(value, torch.Tensor) and id(value) not in others


def _in_precision(new: Tensor, old: Tensor, double: bool) -> Tensor:
    """Return a copy of one tensor on the device and with the dtype of another, or in float64."""
    import torch

    dtype = torch.float64 if double and old.is_floating_point() else old.dtype
    return new.to(old.device, dtype, copy=True)


def _float64_device(tensor: Tensor) -> Any:
    """Return where a float64 array may be put first: not every device has the type."""
    return tensor.device if tensor.device.type == "cuda" else "cpu"
