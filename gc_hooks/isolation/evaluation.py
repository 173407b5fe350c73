"""Call a user's function so that it leaves no trace in the objects that it is known to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import IOBase
from typing import Any

from gc_hooks._typing import Array, Loss
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.object_graph import changeable, is_open, references
from gc_hooks.isolation.reach import reachable_generators
from gc_hooks.isolation.snapshot import Place, Snapshot
from gc_hooks.isolation.undoing import call_and_undo
from gc_hooks.report.diagnosis import listed


@dataclass(eq=False)
class Evaluation:
    """A loss or a gradient function that puts back what each call changes."""

    source: Loss  # the user's own function: its signature is checked, and causes are traced to it
    owners: tuple[Any, ...]  # objects that are put back, with all that can be reached from them
    call: Callable[..., Any]  # an adapter's function, which is called in its place
    # What these refer to is put back too: the loss, the backward pass, and what reads parameters and gradients.
    functions: tuple[Any, ...] = ()
    # Every call has to begin from the same state, as for dropout with fixed masks. Without it, a loss that does not
    # repeat itself when nothing is put back is refused.
    frozen: bool = False
    takes: int = 0  # number of arguments
    # Of a backward pass: the gradients by name that the training has computed, before any is computed here.
    buffers: Callable[[], Mapping[str, Any]] | None = None
    # While a check lasts: what is put back, and the buffers that a gradient function returns.
    places: list[Place] | None = field(default=None, init=False)
    filled: list[Array] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not callable(self.source):
            raise InvalidProblem(
                f"A loss or gradient function must be a callable, got {self.source!r}. This usually means that its "
                "value was handed in. Try a lambda: loss=lambda: model.loss(inputs, targets)."
            )

    @property
    def state(self) -> tuple[Any, ...]:
        """Return the objects that are put back; a function is asked anew what it refers to, and from what it draws."""
        return (*self.owners, *changeable(*self.functions), *reachable_generators(*self.functions))

    def snapshot(self) -> Snapshot:
        """Return what may change as it is now."""
        return Snapshot(*self.state) if self.places is None else Snapshot.at(self.places)

    def __call__(self, *arguments: object) -> Any:
        return call_and_undo(self.snapshot().put_back, self.call, *arguments)


@contextmanager
def found_once(*functions: object) -> Iterator[tuple[str, ...]]:
    """Look once for what the evaluations among some functions may change, and not again at each call in the block.

    Yield a note on the iterators that the functions name: what these give in a check cannot be put back.
    """
    # Each call puts back what it changes, so that the same objects are found where they were.
    evaluations = [function for function in functions if isinstance(function, Evaluation)]
    found: dict[tuple[int, int], list[Place]] = {}  # a loss and its gradient may change the same
    try:
        for evaluation in evaluations:
            key = id(evaluation.owners), id(evaluation.functions)
            if key not in found:
                found[key] = Snapshot(*evaluation.state).places
            evaluation.places = found[key]
        yield _on_iterators(functions)
    finally:
        for evaluation in evaluations:
            evaluation.places = evaluation.filled = None


def _on_iterators(functions: Iterable[object]) -> tuple[str, ...]:
    names: list[str] = []
    named: list[object] = []
    for function in functions:
        named += function.functions if isinstance(function, Evaluation) else [function]
    for node in references(*named):
        if isinstance(node.thing, Iterator) and not isinstance(node.thing, IOBase) and not is_open(type(node.thing)):
            names.append(node.name)
    if not names:
        return ()
    return (
        f"The loss or the gradient refers to the iterator {listed(names)}: what it gave during this check is lost to "
        "the training. Try to take one batch before the check, and to use it in every evaluation.",
    )
