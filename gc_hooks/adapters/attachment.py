"""The keywords that every adapter returns, and the functions that make them."""

from __future__ import annotations

import numbers
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypedDict

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.snapshot import Snapshot
from gc_hooks.isolation.undoing import run_all, undone_by

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
    clear: Callable[[], object] | None = None,
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
    changed in place. ``owners`` are put back beside ``state``, and so is what all these functions refer to. ``clear``
    sets the buffers to zero, where they are not the arrays that ``grads`` returns. ``unjudged`` names what looks like a
    parameter and is not among ``params``. The other keywords are those of `gc_hooks.adapters`.
    """
    if frozen and backward is None:
        raise InvalidProblem(
            "frozen=True needs backward=, or a gradient function: the buffers belong to other masks. Try "
            "backward=lambda: ..., with a forward pass and then the backward pass."
        )
    touched = (*owners, *(state if isinstance(state, tuple) else (state,)))
    functions = tuple(filter(callable, (loss, backward, grads, params, within)))

    def current() -> Mapping[str, Any]:
        found: Mapping[str, Any] = params()
        if not found:
            raise InvalidProblem(f"There are no parameters: {lacking}")
        return found

    def value(*arguments: Any) -> Any:
        with within(*arguments):
            return scaled(loss(*arguments[:takes]), loss_factor)

    def held() -> Mapping[str, Any]:
        try:
            return grads() if grads is not None else {}
        except Exception:  # before the first backward pass there may be none
            return {}

    def zero_buffers() -> None:
        names = flatten(params() if callable(params) else params)
        set_to_zero(leaf for name, leaf in held().items() if name in names)  # others may be carried from step to step

    def gradient(*arguments: Any) -> dict[str, Any]:
        assert backward is not None
        with within(*arguments):
            if grads is None:
                return _copied(_alone(evaluation, backward, *arguments[:takes]))
            # A backward pass that adds to its buffers relies on a loop that sets them to zero before it.
            held_any = _any_in(held())
            if held_any:
                (clear or zero_buffers)()
            backward(*arguments[:takes])
            leaves = _copied(grads())
            if held_any and not _any_in(leaves):
                raise InvalidProblem(
                    "The gradient buffers were set to zero before backward(), and are still zero after it. This "
                    "usually means that it makes new arrays. Try grads=lambda: ..., a function that reads them where "
                    "backward leaves them."
                )
            return leaves

    checked: Attachment = {
        "loss": Evaluation(loss, touched, value, functions, frozen=frozen, takes=takes),
        "params": LazyMapping(current, unjudged) if callable(params) else params,
        "grads": grads,
        "in_place": in_place,
    }
    if backward is not None:
        evaluation = Evaluation(backward, touched, gradient, functions, takes=takes, buffers=grads and held)
        checked["grads"] = evaluation
    elif grads is not None:
        checked["grads"] = LazyMapping(grads)
    return checked


def set_to_zero(leaves: Iterable[Any]) -> None:
    """Set the arrays among gradient buffers to zero."""
    for leaf in leaves:
        if isinstance(leaf, Uncertain):
            leaf = leaf.value
        if isinstance(leaf, np.ndarray) and leaf.flags.writeable:
            leaf[...] = 0


def set_attribute_to_zero(owner: object, name: str) -> None:
    """Set a gradient to zero that is an attribute: a number is replaced, an array is filled."""
    value = getattr(owner, name, None)
    if isinstance(value, numbers.Number):
        setattr(owner, name, type(value)(0))  # type: ignore[call-arg]
    set_to_zero(flatten(value).values())


def _alone(evaluation: Evaluation, backward: Callable[..., object], *arguments: Any) -> object:
    """Call a gradient function that may return buffers to which it adds: return what it adds to zeros."""
    if evaluation.filled is None:
        held = {id(node.thing) for node, _ in evaluation.places or Snapshot(*evaluation.state).places}
        with undone_by(evaluation.snapshot().put_back):
            leaves = flatten(backward(*arguments))
            filled = [leaf for leaf in leaves.values() if isinstance(leaf, np.ndarray) and id(leaf) in held]
            values = list(map(np.array, filled))
        if not filled:  # it returns new arrays each time
            evaluation.filled = []
            return leaves
        for array in filled:
            array[...] = 0
        again = backward(*arguments)
        if any(map(np.any, values)) and not any(map(np.any, filled)):  # it computes nothing, and reads buffers
            evaluation.filled = []
            for array, value in zip(filled, values, strict=True):
                array[...] = value
        else:
            evaluation.filled = filled
        return again
    for array in evaluation.filled:
        array[...] = 0
    return backward(*arguments)


def _any_in(leaves: Mapping[str, Any]) -> bool:
    """Return whether a gradient holds anything but zeros."""
    return any(np.any(getattr(leaf, "value", leaf)) for leaf in leaves.values() if leaf is not None)


def _copied(gradients: Any) -> dict[str, Any]:
    """Return the gradients by name; the arrays are copies, because the buffers are put back."""
    leaves = flatten(gradients)
    return {name: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf for name, leaf in leaves.items()}


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
    old = [(setattr, owner, name, getattr(owner, name)) for owner, name, _ in settings]
    with undone_by(partial(run_all, old)):
        for setting in settings:
            setattr(*setting)
        yield
