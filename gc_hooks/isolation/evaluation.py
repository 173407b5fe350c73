"""Call a user's function so that it leaves no trace in the objects that it is known to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gc_hooks._typing import Loss
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.snapshot import preserve


@dataclass(eq=False)
class Evaluation:
    """A loss or a gradient function that puts back what each call changes."""

    source: Loss  # the user's own function: its signature is checked, and causes are traced to it
    state: tuple[Any, ...]  # the objects that are put back
    call: Callable[..., Any]  # an adapter's function, which is called in its place
    # Every call has to begin from the same state, as for dropout with fixed masks. Without it, a loss that does not
    # repeat itself when nothing is put back is refused.
    frozen: bool = False
    takes: int = 0  # number of arguments

    def __post_init__(self) -> None:
        if not callable(self.source):
            raise InvalidProblem(
                f"A loss or gradient function must be a callable, got {self.source!r}. This usually means that its "
                "value was handed in. Try a lambda: loss=lambda: model.loss(inputs, targets)."
            )

    def __call__(self, *arguments: object) -> Any:
        with preserve(*self.state):
            return self.call(*arguments)
