"""What every adapter returns, and what goes into it: parameters and gradients that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation

Attachment = dict[str, Any]
"""The keywords of `gc_hooks.check_gradients` and of the hook's ``on_step``."""

Read = Callable[[], Mapping[str, Any]]
Put = Callable[..., AbstractContextManager[None]]


class LazyMapping(Mapping[str, Any]):
    """A dictionary that is read anew each time that it is looked at.

    An attachment may so be made once, before the loop, and says at every check what is true then.
    """

    def __init__(self, read: Read, lacking: str = "") -> None:
        self._read, self._lacking = read, lacking

    def read(self) -> Mapping[str, Any]:
        """What is true now.

        Raises
        ------
        InvalidProblem
            There is nothing, and what is lacking can be told.
        """
        found = self._read()
        if not found and self._lacking:
            raise InvalidProblem(f"There are no parameters: {self._lacking}")
        return found

    def __getitem__(self, name: str) -> Any:
        return self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def items(self) -> Any:  # which Mapping would make of one reading for every item
        """Names and values of one reading."""
        return self.read().items()


def attach(
    params: Read,
    grads: Read,
    *,
    loss: Loss,
    within: Put = nullcontext,
    in_place: bool = True,
    backward: Callable[[], object] | None = None,
    state: Any = (),
    loss_factor: float = 1.0,
    frozen: bool = False,
    lacking: str = "the lists and dictionaries are empty. This usually means a model that was not built yet. Try to "
    "print what was handed in, right before the check.",
) -> Attachment:
    """The keywords for a loss that reads the trainer's own parameters.

    Parameters
    ----------
    params, grads : callable
        Each returns names and what stands there now.
    loss, backward, state, loss_factor, frozen
        As in `gc_hooks.adapters`.
    within : callable, optional
        A context manager in which loss and backward are called. It gets the parameters, unless these are changed in
        place, and gives them to the trainer.
    in_place : bool
        Whether the parameters are arrays that the trainer reads.
    lacking : str
        What is said where there are no parameters.
    """
    refuse_frozen_buffers(frozen, backward)
    touched = as_state(state)

    def value(*arguments: Any) -> Any:
        with within(*arguments):
            return scaled(loss(), loss_factor)

    def gradient(*arguments: Any) -> dict[str, Any]:
        assert backward is not None
        with within(*arguments):
            backward()
            return copied(grads())

    return {
        "loss": Evaluation(loss, touched, value, frozen=frozen),
        "params": LazyMapping(params, lacking),
        "grads": LazyMapping(grads) if backward is None else Evaluation(backward, touched, gradient),
        "in_place": in_place,
    }


def refuse_frozen_buffers(frozen: bool, gradient: object) -> None:
    """Gradients that were computed before belong to other masks.

    Raises
    ------
    InvalidProblem
    """
    if frozen and not callable(gradient):
        raise InvalidProblem(
            "frozen=True needs backward=, or a gradient function: gradients that were computed before belong to other "
            "masks. Try backward=lambda: ..., with a forward pass and then the backward pass."
        )


def as_state(state: Any) -> tuple[Any, ...]:
    """One object, or several in a tuple, as a tuple."""
    return state if isinstance(state, tuple) else (state,)


def scaled(value: Any, factor: float = 1.0) -> Any:
    """The loss as a number times a factor; what is no number is left to the message at the door."""
    if hasattr(value, "data") and not isinstance(value, (np.ndarray, np.generic)):
        value = value.data
    is_number = isinstance(value, (np.ndarray, np.generic, int, float, complex))
    return value * factor if is_number and factor != 1.0 else value


def copied(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The gradients, safe from what is done to their buffers."""
    return {name: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf for name, leaf in flatten(leaves).items()}


def shown(thing: Any) -> str:
    """A short name for anything in a message."""
    text = repr(thing)
    return text if len(text) <= 60 else f"a {type(thing).__name__}"


def ask(source: Any) -> Any:
    """What a function returns now, or the thing itself."""
    return source() if callable(source) else source


@contextmanager
def swapped(places: Sequence[tuple[Any, str]], values: Sequence[Any]) -> Iterator[None]:
    """Other objects in some attributes, and the very same old ones again afterwards."""
    old = [getattr(owner, name) for owner, name in places]
    try:
        for (owner, name), value in zip(places, values, strict=True):
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name), value in zip(places, old, strict=True):
            setattr(owner, name, value)


def noted(leaf: Any, note: str) -> Any:
    """A gradient with something to be said of it."""
    if isinstance(leaf, Uncertain):
        return Uncertain(leaf.value, leaf.error, f"{leaf.note} {note}".strip())
    return Uncertain(leaf, note=note)
