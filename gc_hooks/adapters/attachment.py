"""The keywords that every adapter returns, and the functions that make them."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypedDict

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation

Read = Callable[[], Mapping[str, Any]]
LONGEST = 60  # characters of a value that a message quotes, half a line; of a longer one it names the type


class Attachment(TypedDict):
    """The keywords of ``hook.on_step(step, **attachment)`` and of ``check_gradients(**attachment)``."""

    loss: Loss
    params: Any
    grads: Any  # the buffers, or a function that computes them and takes what the loss takes
    in_place: bool  # the loss takes nothing: it reads the arrays in params themselves


class Options(TypedDict, total=False):
    """The keywords that most adapters take, see `gc_hooks.adapters`."""

    state: Any
    loss_factor: float
    frozen: bool


class LazyMapping(Mapping[str, Any]):
    """A mapping that is read anew at every access, so that an attachment may be made once, before the loop."""

    def __init__(self, read: Read, unjudged: Callable[[], Iterable[str]] = tuple) -> None:
        self._read = read
        self._unjudged = unjudged

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Return the names of arrays that look like parameters of the model and are not in this mapping."""
        return tuple(self._unjudged())

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def items(self) -> ItemsView[str, Any]:
        """Return names and values of one reading; `Mapping` itself would read once for every item."""
        return self._read().items()


def attach(
    params: Any,
    grads: Read | None,
    *,
    loss: Loss,
    takes: int = 0,
    within: Callable[..., AbstractContextManager[None]] = nullcontext,
    in_place: bool = True,
    backward: Callable[..., object] | None = None,
    owners: Sequence[Any] = (),
    unjudged: Callable[[], Iterable[str]] = tuple,
    state: Any = (),
    loss_factor: float = 1.0,
    frozen: bool = False,
    lacking: str = "the lists and dictionaries are empty. This usually means a model that was not built yet. Try to "
    "print what was handed in, right before the check.",
) -> Attachment:
    """Return the keywords for a loss, and a backward pass after which ``grads`` returns the gradients by name.

    Without ``grads`` the backward pass itself returns them.
    ``params`` are the parameters, or a function that returns them by name and is called at every check; ``lacking``
    ends the message for a trainer without any. ``takes`` is 1 for a loss and a backward pass that take the parameters.
    Otherwise these are set in the trainer by ``within``, a context around each call that takes them, or they are
    changed in place. ``owners`` are put back beside ``state``. ``unjudged`` names what looks like a parameter and is
    not among ``params``. The other keywords are those of `gc_hooks.adapters`.
    """
    if frozen and backward is None:
        raise InvalidProblem(
            "frozen=True needs backward=, or a gradient function: the buffers belong to other masks. Try "
            "backward=lambda: ..., with a forward pass and then the backward pass."
        )
    touched = (*owners, *(state if isinstance(state, tuple) else (state,)))

    def current() -> Mapping[str, Any]:
        found: Mapping[str, Any] = params()
        if not found:
            raise InvalidProblem(f"There are no parameters: {lacking}")
        return found

    def value(*arguments: Any) -> Any:
        with within(*arguments):
            return scaled(loss(*arguments[:takes]), loss_factor)

    def gradient(*arguments: Any) -> dict[str, Any]:
        assert backward is not None
        with within(*arguments):
            leaves = backward(*arguments[:takes])
            if grads is not None:
                leaves = grads()
            leaves = flatten(leaves)
            for name, leaf in leaves.items():
                if isinstance(leaf, np.ndarray):
                    leaves[name] = np.array(leaf)  # a copy, before the buffers are put back
            return leaves

    checked: Attachment = {
        "loss": Evaluation(loss, touched, value, frozen=frozen, takes=takes),
        "params": LazyMapping(current, unjudged) if callable(params) else params,
        "grads": grads,
        "in_place": in_place,
    }
    if backward is not None:
        checked["grads"] = Evaluation(backward, touched, gradient, takes=takes)
    elif grads is not None:
        checked["grads"] = LazyMapping(grads)
    return checked


def scaled(value: Any, factor: float = 1.0) -> Any:
    """Return the loss times a factor; what is not a number is returned as it is, and the check refuses it."""
    if not isinstance(value, (np.ndarray, np.generic)):
        value = getattr(value, "data", value)  # the loss may be a node of an autograd engine
    is_number = isinstance(value, (np.ndarray, np.generic, int, float, complex))
    return value * factor if is_number and factor != 1.0 else value


def shown(thing: object) -> str:
    """Return a short text for a value in a message."""
    text = repr(thing)
    return text if len(text) <= LONGEST and " at 0x" not in text else f"a {type(thing).__name__}"


def ask(source: Any) -> Any:
    """Return what a function returns now, or the thing itself; an iterator, which runs only once, as a list."""
    found = source() if callable(source) else source
    if isinstance(found, Iterator):
        found = list(found)
    return found


@contextmanager
def swapped(settings: Sequence[tuple[object, str, Any]]) -> Iterator[None]:
    """Set attributes, given as (owner, name, value), and put back the same old objects afterwards."""
    old = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for setting in settings:
            setattr(*setting)
        yield
    finally:
        for setting in old:
            setattr(*setting)


def noted(leaf: Any, note: str) -> Uncertain:
    """Return a gradient with a note for the report."""
    if isinstance(leaf, Uncertain):
        return Uncertain(leaf.value, leaf.error, f"{leaf.note} {note}".strip())
    return Uncertain(leaf, note=note)
