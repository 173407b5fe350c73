"""What is no slope by design: left out of what is judged, and held fixed where slopes are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gc_hooks.adapters.pytorch.functions import function_classes, has_setup_context, here_alone, place_of
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.undoing import run_all
from gc_hooks.report.diagnosis import joined

if TYPE_CHECKING:
    from torch.nn import Module

MISSING = object()


@dataclass(frozen=True)
class Design:
    """The Functions, the modules and the parameters whose gradient is not the slope of the loss on purpose."""

    functions: tuple[Any, ...] = ()
    modules: tuple[Any, ...] = ()
    parameters: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()  # of all of them

    @property
    def holds(self) -> bool:
        """Return whether results of something are held fixed."""
        return bool(self.functions or self.modules)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was left out."""
        return (f"By design, not judged: {joined(self.names)}.",) if self.names else ()

    def has(self, function: Any) -> bool:
        """Return whether a Function is one of them."""
        return issubclass(function, self.functions)

    def including(self, functions: tuple[Any, ...]) -> Design:
        """Return the same with more Functions, which the user has not named."""
        return Design((*self.functions, *functions), self.modules, self.parameters, self.names)


NOTHING = Design()


def design_of(model: Module, named: Any) -> Design:
    """Return what ``by_design=`` names: one thing, or several in a list, tuple or set."""
    import torch

    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    found: dict[str, list[Any]] = {"functions": [], "modules": [], "parameters": [], "names": []}
    for one in named if isinstance(named, (list, tuple, set, frozenset)) else (named,):
        kind = "functions"
        if isinstance(one, type) and issubclass(one, torch.autograd.Function):
            name = one.__name__
        elif isinstance(one, torch.nn.Module):
            kind, name = "modules", next((n for n, m in modules.items() if m is one), type(one).__name__)
        elif isinstance(one, str) and one in parameters:
            kind, name = "parameters", one
        elif isinstance(one, str) and one in modules:
            kind, name, one = "modules", one, modules[one]
        else:
            raise InvalidProblem(
                f"by_design={one!r} is no torch.autograd.Function, and no module or parameter of the model. Try the "
                f"class, or a name such as {next(iter(parameters))!r}."
            )
        found[kind].append(one)
        found["names"].append(name)
    return Design(
        tuple(found["functions"]), tuple(found["modules"]), frozenset(found["parameters"]), tuple(found["names"])
    )


class Held:
    """The results of what is by design, kept in the first pass and handed out again in each later one.

    Nothing goes back through them. The loss is then a function whose slopes the rest of the module has to have.
    """

    def __init__(self, design: Design) -> None:
        self._design = design
        self._kept: list[Any] = []
        self._is_recording = True
        self._next = 0
        self._replaced: list[tuple[Any, str, Any]] = []
        self._handles: list[Any] = []

    def put(self) -> None:
        """Begin a pass: put stand-ins into the classes, and hooks into the modules."""
        self._next, self._is_recording = 0, not self._kept
        for cls in filter(self._design.has, function_classes()):
            way_back = "backward" if cls.vjp is _function().vjp else "vjp"
            stand_ins: dict[str, Callable[..., Any]] = {"forward": self._hold, way_back: _nothing}
            if has_setup_context(cls):
                stand_ins["setup_context"] = _nothing_to_keep
            for name, stand_in in stand_ins.items():
                self._replaced.append((cls, name, vars(cls).get(name, MISSING)))
                setattr(cls, name, staticmethod(here_alone(getattr(cls, name), stand_in)))
        for module in self._design.modules:
            self._handles.append(module.register_forward_hook(lambda module, args, result: self._one(lambda: result)))

    def take_away(self) -> None:
        """End a pass, and put back what was there before."""
        run_all([*((_restore, *one) for one in self._replaced), *((handle.remove,) for handle in self._handles)])
        self._replaced.clear()
        self._handles.clear()

    def _hold(self, own: Callable[..., Any], *args: Any) -> Any:
        return self._one(lambda: own(*args))

    def _one(self, compute: Callable[[], Any]) -> Any:
        """Return the next result; the one of the first pass, where it is known."""
        number, self._next = self._next, self._next + 1
        if self._is_recording:
            self._kept.append(_detached(compute()))
        if number >= len(self._kept):
            raise InvalidProblem(
                "What is by design was run more often than at first. Try to leave it out of by_design."
            )
        return _detached(self._kept[number])


def _function() -> Any:
    import torch

    return torch.autograd.Function


def _nothing(own: Callable[..., Any], ctx: Any, *upstream: Any) -> Any:
    return (None,) * len(ctx.needs_input_grad)


def _nothing_to_keep(own: Callable[..., Any], ctx: Any, inputs: Any, output: Any) -> None:
    pass


def _restore(cls: Any, name: str, own: Any) -> None:
    if own is not MISSING:
        setattr(cls, name, own)
    elif name in vars(cls):
        delattr(cls, name)


def _detached(value: Any) -> Any:
    """Return a copy without a graph, also inside of lists, tuples and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_detached, value))
    if type(value) is dict:
        return {key: _detached(item) for key, item in value.items()}
    return value


def straight_note(function: Any) -> str:
    """Say that a Function was taken for a straight-through estimator."""
    name, place = function.__name__, place_of(function.backward)
    return (
        f"{name}.backward ({place}) hands the gradient straight through, where the derivative of forward is zero: a "
        f"straight-through estimator. It was not judged, and all else was. If it is meant, try by_design={name}."
    )
