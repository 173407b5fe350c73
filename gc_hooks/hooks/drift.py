"""How far the weights have moved: since the first check, and since the last one."""

from __future__ import annotations

import math
from dataclasses import replace

from gc_hooks._typing import Array, Params
from gc_hooks.arrays.large import sampled
from gc_hooks.arrays.norms import in_double, norm
from gc_hooks.problem.validate import parameter_arrays
from gc_hooks.report import CheckReport

NOTHING_NEW = 1e-6
"""Drift since the last check, in units of the weights' norm, up to which a report says that nothing new was seen: far
above the rounding of float64, and a training that still learns anything moves further in one step."""


class Drift:
    """Remember the weights of the first check, of the last one, and of the last attempt, which may have failed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin again, with other parameters."""
        self._first: Params | None = None
        self._last: Params | None = None
        self._attempted: Params | None = None
        self._note = ""

    def attempt(self, params: object) -> None:
        """Remember where a check is about to be made; begin again if these are other parameters than the last ones."""
        now = in_double(_weights(params))  # copies, which an update in place does not change
        if self._attempted is not None and _shapes(self._attempted) != _shapes(now):
            self.forget()
            self._note = "These are not the parameters of the last check: their movement counts from here."
        self._attempted = now

    def add_to(self, report: CheckReport) -> CheckReport:
        """Add to the report of the attempted check how far the weights have moved."""
        now, last, note = self._attempted, self._last, self._note
        assert now is not None
        first = self._first or now
        self._first, self._last, self._note = first, now, ""
        if last is not None and moved(last, now) <= NOTHING_NEW:
            note = "The weights are those of the last check: this check has nothing new to see."
        parameters = dict(report.parameters)
        for name in now.keys() & parameters.keys():
            distance = moved({name: first[name]}, now)
            parameters[name] = replace(parameters[name], weight_norm=norm(now[name]), moved=distance)
        return replace(report, parameters=parameters, moved=moved(first, now)).noted(*filter(None, [note]))

    def since_attempt(self, params: object) -> float:
        """Return how far weights are from those of the last attempt: infinitely far if there was none, or of others."""
        now = _weights(params)
        if self._attempted is None or _shapes(self._attempted) != _shapes(now):
            return math.inf
        return moved(self._attempted, now)


def _weights(params: object) -> dict[str, Array]:
    """Return the parameters by name; of a large array a sample, which has about the same norm."""
    return {name: sampled(array) for name, array in parameter_arrays(params).items()}


def _shapes(arrays: Params) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def moved(before: Params, now: Params) -> float:
    """Return ``||w - w0|| / ||w0||`` over the parameters of ``before``: infinity for a movement away from zero.

    >>> import numpy as np
    >>> moved({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])})
    0.1
    """
    distance = math.hypot(*[norm(now[name] - array) for name, array in before.items()])
    start = math.hypot(*map(norm, before.values()))
    if start > 0:
        return distance / start
    return 0.0 if distance == 0 else math.inf
