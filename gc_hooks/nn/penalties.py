"""Penalties on the parameters, added to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem


class Penalty(Protocol):
    """A function of the parameters and its gradient."""

    def value(self, params: Params) -> Any:
        """The penalty, one number."""

    def gradient(self, params: Params) -> dict[str, Array]:
        """Its gradient, for those parameters that it depends on."""


@dataclass(frozen=True)
class L2:
    """``strength / 2 * sum of W^2`` over the weights: parameters whose name ends in "W" or, of a recurrent layer, in
    "U"; never the biases.

    Courses write it in two ways, with m the size of the training *set* (a batch's size would change the penalty with
    the batch):

    * cost + lambda / (2 m) * sum of W^2 is ``strength = lambda / m``;
    * cost + lambda / m * sum of W^2 is ``strength = 2 * lambda / m``.

    Parameters
    ----------
    strength : float
        Factor of W in the gradient; zero or more.

    Raises
    ------
    InvalidProblem
        When the strength is negative or not finite.

    Examples
    --------
    >>> params = {"dense1.W": np.array([[1.0, 2.0]]), "dense1.b": np.array([3.0])}
    >>> print(L2(0.1).value(params), L2(0.1).gradient(params))
    0.25 {'dense1.W': array([[0.1, 0.2]])}
    """

    strength: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < np.inf:
            raise InvalidProblem(
                f"L2 got strength={self.strength}. A negative penalty rewards large weights and the loss has no "
                "minimum. Give a number that is zero or more, such as L2(1e-4)."
            )

    def value(self, params: Params) -> Any:
        """``strength / 2 * sum of W^2``; W * W, never its absolute value, so that a complex step passes through."""
        total = np.sum([np.sum(W * W) for W in weights_of(params).values()])
        return total.dtype.type(self.strength / 2) * total

    def gradient(self, params: Params) -> dict[str, Array]:
        """``strength * W`` for each weight."""
        return {name: float(self.strength) * W for name, W in weights_of(params).items()}


def weights_of(params: Params) -> dict[str, Array]:
    """The parameters that are weights, by their name: not the biases."""
    return {name: array for name, array in params.items() if name.rpartition(".")[2] in ("W", "U")}
