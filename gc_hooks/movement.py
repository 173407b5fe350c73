"""How far the weights have gone: from where a check first saw them, and from where one last did."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.door import parameter_arrays
from gc_hooks.large import sampled
from gc_hooks.matching import norm


class Movement:
    """Remembers where the weights were, in float64: at the first check, at the last, and at the last attempt at one."""

    def __init__(self) -> None:
        self._initial: dict[str, Array] = {}
        self._seen: dict[str, Array] = {}
        self._tried: dict[str, Array] = {}

    def attempt(self, params: Any) -> bool:
        """A check is about to be made here; False when these are other parameters than those of the last one.

        Raises
        ------
        InvalidProblem
            There are no parameters, or they cannot be checked.
        """
        now = {name: sampled(array).astype(np.float64) for name, array in parameter_arrays(params).items()}
        same = not self._tried or _shapes(self._tried) == _shapes(now)
        if not same:
            self.forget()
        self._tried = now
        return same

    def seen(self) -> tuple[float, float]:
        """The check has been made: how far the weights are from where the first one and the last one saw them."""
        now, last = self._tried, self._seen
        self._initial, self._seen = self._initial or now, now
        return moved(self._initial, now), moved(last, now) if last else math.inf

    def of_each(self) -> dict[str, tuple[float, float]]:
        """Of each parameter: its norm, and how far it is from where the first check saw it."""
        now, initial = self._seen, self._initial
        return {name: (norm(array), moved({name: initial[name]}, {name: array})) for name, array in now.items()}

    def since_attempt(self, params: Any) -> float:
        """How far weights are from where a check was last tried: infinitely far where none was, or of others."""
        now = {name: sampled(array) for name, array in parameter_arrays(params).items()}
        return moved(self._tried, now) if self._tried and _shapes(self._tried) == _shapes(now) else math.inf

    def forget(self) -> None:
        """Begin anew, with other parameters."""
        self._initial, self._seen, self._tried = {}, {}, {}


def moved(before: Params, now: Params) -> float:
    """``||w - w0|| / ||w0||`` over all parameters.

    Examples
    --------
    >>> moved({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
    0.1
    """
    distance = math.hypot(*(norm(now[name] - array) for name, array in before.items()))
    start = math.hypot(*map(norm, before.values()))
    return distance / start if start > 0 else (0.0 if distance == 0 else math.inf)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in params.items()}
