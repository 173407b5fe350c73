"""How far the weights have gone: from where a check first saw them, and from where one last did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.door import parameter_arrays
from gc_hooks.large import sampled
from gc_hooks.matching import norm


class Way(NamedTuple):
    """How far the weights are from where the first check and from where the last one saw them, ``||w - w0|| / ||w0||``;
    and of each parameter its norm, and how far it is from where the first one did."""

    since_first: float
    since_last: float
    each: dict[str, tuple[float, float]]


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

    def seen(self) -> Way:
        """The check has been made: how far the weights are from where the first one and the last one saw them."""
        now, last = self._tried, self._seen
        self._initial, self._seen = self._initial or now, now
        gone, start = _distances(self._initial, now), _norms(self._initial)
        each = {name: (size, _share(gone[name], start[name])) for name, size in _norms(now).items()}
        return Way(_share_of_all(gone, start), moved(last, now) if last else math.inf, each)

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
    return _share_of_all(_distances(before, now), _norms(before))


def _distances(before: Params, now: Params) -> dict[str, float]:
    return {name: norm(now[name] - array) for name, array in before.items()}


def _norms(params: Params) -> dict[str, float]:
    return {name: norm(array) for name, array in params.items()}


def _share_of_all(gone: Mapping[str, float], start: Mapping[str, float]) -> float:
    return _share(math.hypot(*gone.values()), math.hypot(*start.values()))


def _share(distance: float, start: float) -> float:
    return distance / start if start > 0 else (0.0 if distance == 0 else math.inf)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in params.items()}
