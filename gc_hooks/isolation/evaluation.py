"""A function of the user's whose evaluation leaves no trace in the objects that it is known to touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gc_hooks._typing import Loss
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.snapshot import preserve


class Evaluation:
    """Calls a function, and puts back what that has changed.

    Parameters
    ----------
    source : callable
        The user's own function, to which causes are traced.
    state : tuple
        What `preserve` gets around every call.
    call : callable, optional
        What is called in its place.
    frozen : bool
        That every call begins from the same state is wanted, and not only tidy: dropout with fixed masks.
    takes : int
        How many arguments the source is called with.
    """

    def __init__(
        self,
        source: Loss,
        state: tuple[Any, ...] = (),
        call: Loss | None = None,
        *,
        frozen: bool = False,
        takes: int = 0,
    ) -> None:
        if not callable(source):
            raise InvalidProblem(
                f"{source!r} is no function. The slope of a number cannot be measured: it has to be computed again at "
                "other parameters. Try a lambda: loss=lambda: model.loss(inputs, targets)."
            )
        self.source = source
        self.state = state
        self.frozen = frozen
        self.takes = takes
        self.call: Callable[..., Any] = call or source

    def __call__(self, *arguments: Any) -> Any:
        with preserve(*self.state):
            return self.call(*arguments)


def bare(function: Loss) -> Loss:
    """The function without the putting back, unless that is wanted."""
    return function.call if isinstance(function, Evaluation) and not function.frozen else function


def called_with(function: Loss, arguments: tuple[Any, ...]) -> tuple[Loss, tuple[Any, ...]]:
    """The user's own function, and as many arguments as it will be called with."""
    return (function.source, (None,) * function.takes) if isinstance(function, Evaluation) else (function, arguments)


def state_of(function: Loss) -> tuple[Any, ...]:
    """What an evaluation is known to touch."""
    return function.state if isinstance(function, Evaluation) else ()
