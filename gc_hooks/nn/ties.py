"""Tied weights: one array that stands under several names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem


@dataclass(frozen=True)
class Tie:
    """A layer's array that is another one, or its transpose."""

    alias: str
    name: str
    transposed: bool

    def seen(self, array: Array) -> Array:
        """The array as the layer sees it; the same turns that layer's gradient back."""
        return array.T if self.transposed else array


def spread(ties: Iterable[Tie], arrays: Params) -> dict[str, Array]:
    """All names that the layers ask for: the arrays and, beside them, their aliases.

    Examples
    --------
    >>> import numpy as np
    >>> {name: a.shape for name, a in spread([Tie("out.W", "in.W", True)], {"in.W": np.ones((2, 3))}).items()}
    {'in.W': (2, 3), 'out.W': (3, 2)}
    """
    return {**arrays, **{tie.alias: tie.seen(arrays[tie.name]) for tie in ties}}


def summed(ties: Iterable[Tie], grads: dict[str, Array]) -> dict[str, Array]:
    """The gradient of each array: by the chain rule, the sum over all places where it is used."""
    for tie in ties:
        if tie.alias in grads:
            share = tie.seen(grads.pop(tie.alias))
            grads[tie.name] = grads[tie.name] + share if tie.name in grads else share
    return grads


def checked_ties(tied: Mapping[str, str], params: Params) -> tuple[Tie, ...]:
    """Read ``{"dense2.W": "dense1.W.T"}``.

    Raises
    ------
    InvalidProblem
        There is no such parameter, it is tied itself, or the shapes differ.
    """
    ties = tuple(_tie(alias, target, params) for alias, target in tied.items())
    for tie in ties:
        if tie.name in tied:
            raise InvalidProblem(
                f"tied has {tie.alias!r} stand for {tie.name!r}, which stands for another itself. "
                f"A chain of ties has one array at its end. Try to tie both to {tied[tie.name]!r}."
            )
    return ties


def _tie(alias: str, target: str, params: Params) -> Tie:
    transposed = target not in params and target.endswith(".T")
    name = target.removesuffix(".T") if transposed else target
    strangers = [n for n in (alias, name) if n not in params]
    if strangers:
        raise InvalidProblem(
            f"tied names {strangers[0]!r}, and there is no such parameter. Names are a layer's kind and number and "
            f"its own name for the array. Try one of {', '.join(params)}; a name with .T stands for the transpose."
        )
    tie = Tie(alias, name, transposed)
    if tie.seen(params[name]).shape != params[alias].shape:
        raise InvalidProblem(
            f"tied has {alias!r} of shape {params[alias].shape} stand for {target!r} of shape "
            f"{tie.seen(params[name]).shape}. One array has one shape. Try {name + ('' if transposed else '.T')!r}, or "
            "layers whose widths agree."
        )
    return tie
