"""Gradient clipping: what the optimiser gets in place of a gradient that is too large.

The trainer clips after ``on_gradients``, so that a check sees the gradient before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem

Clip: TypeAlias = Callable[[Params], Params]
"""New gradients for those given, which are only read."""


def clip_by_value(limit: float) -> Clip:
    """Bring every entry into [-limit, limit]. NaN stays NaN.

    Parameters
    ----------
    limit : float
        Positive.

    Raises
    ------
    InvalidProblem
        When the limit is not a positive number.

    Examples
    --------
    >>> clip_by_value(1)({"W": np.array([0.5, -3.0])})
    {'W': array([ 0.5, -1. ])}
    """
    limit = _checked("clip_by_value", limit)

    def clip(grads: Params) -> dict[str, Array]:
        return {name: np.clip(gradient, -limit, limit) for name, gradient in grads.items()}

    return clip


def clip_by_norm(limit: float) -> Clip:
    """Scale the whole gradient to the norm `limit` where it is longer: ``g * limit / ||g||``, its direction kept.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1, with the
    norm over all parameters together. A gradient that is not finite is handed on as it is.

    Parameters
    ----------
    limit : float
        Positive.

    Raises
    ------
    InvalidProblem
        When the limit is not a positive number.

    Examples
    --------
    >>> clip_by_norm(1)({"W": np.array([3.0]), "b": np.array([4.0])})
    {'W': array([0.6]), 'b': array([0.8])}
    """
    limit = _checked("clip_by_norm", limit)

    def clip(grads: Params) -> Params:
        norm = np.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in grads.values()))
        if not limit < norm < np.inf:
            return grads
        return {name: gradient * (limit / float(norm)) for name, gradient in grads.items()}

    return clip


def _checked(name: str, limit: float) -> float:
    if not 0 < limit < np.inf:
        raise InvalidProblem(
            f"{name} got the limit {limit}. Nothing would be left of the gradient. Give a positive number, such as 1."
        )
    return float(limit)
