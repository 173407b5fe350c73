"""How far the weights have gone: from where a check first saw them, and from where one last did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.arrays.large import sampled
from gc_hooks.arrays.norms import norm
from gc_hooks.problem.validate import parameter_arrays


class DriftReading(NamedTuple):
    """How far the weights are from where the first check and from where the last one saw them, ``||w - w0|| / ||w0||``;
    and of each parameter its norm, and how far it is from where the first one did."""

    since_first: float
    since_last: float
    each: dict[str, tuple[float, float]]


class _Place(NamedTuple):
    """Where the weights were, in float64, and their norms."""

    weights: dict[str, Array]
    norms: dict[str, float]


class Drift:
    """Remembers where the weights were: at the first check, at the last, and at the last attempt at one."""

    def __init__(self) -> None:
        self._initial: _Place | None = None
        self._seen: _Place | None = None
        self._tried: dict[str, Array] | None = None

    def attempt(self, params: Any) -> bool:
        """A check is about to be made here; False when these are other parameters than those of the last one.

        Raises
        ------
        InvalidProblem
            There are no parameters, or they cannot be checked.
        """
        now = {name: sampled(array).astype(np.float64) for name, array in parameter_arrays(params).items()}
        same = self._tried is None or _shapes(self._tried) == _shapes(now)
        if not same:
            self.forget()
        self._tried = now
        return same

    def seen(self) -> DriftReading:
        """The check has been made: how far the weights are from where the first one and the last one saw them."""
        assert self._tried is not None
        now = _Place(self._tried, _norms(self._tried))
        last, self._seen = self._seen, now
        first = self._initial = self._initial or now
        gone = _distances(first.weights, now.weights)
        each = {name: (size, _share(gone[name], first.norms[name])) for name, size in now.norms.items()}
        since_last = math.inf if last is None else _apart(last, now.weights)
        return DriftReading(_share_of_all(gone, first.norms), since_last, each)

    def since_attempt(self, params: Any) -> float:
        """How far weights are from where a check was last tried: infinitely far where none was, or of others."""
        now = {name: sampled(array) for name, array in parameter_arrays(params).items()}
        same = self._tried is not None and _shapes(self._tried) == _shapes(now)
        return moved(self._tried, now) if self._tried is not None and same else math.inf

    def forget(self) -> None:
        """Begin anew, with other parameters."""
        self._initial = self._seen = self._tried = None


def moved(before: Params, now: Params) -> float:
    """``||w - w0|| / ||w0||`` over all parameters.

    Examples
    --------
    >>> moved({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
    0.1
    """
    return _apart(_Place(dict(before), _norms(before)), now)


def _apart(before: _Place, now: Params) -> float:
    return _share_of_all(_distances(before.weights, now), before.norms)


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
