"""Where ``||g - n||`` lies, after every entry or after a few random directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import norm
from gc_hooks.slopes.measurements import DirectionalMeasurement, MeasuredEntries, Rounding

CERTAINTY = 0.99
LOWEST = {1: 0.01253, 2: 0.1003, 3: 0.1957, 4: 0.2725, 6: 0.3812, 8: 0.4537, 16: 0.6028}
"""1 % quantiles of chi / sqrt(K)."""
HIGHEST = {1: 2.576, 2: 2.146, 3: 1.945, 4: 1.822, 6: 1.674, 8: 1.585, 16: 1.414}
"""99 % quantiles."""


@cache
def upper_factor(directions: int) -> float:
    """With 99 % probability the norm is at most this many times the root mean square of the residuals.

    Examples
    --------
    >>> round(upper_factor(1)), round(upper_factor(2)), round(upper_factor(4), 1)
    (80, 10, 3.7)
    """
    return 1 / LOWEST[_known(directions)]


@cache
def lower_factor(directions: int) -> float:
    """With 99 % probability the norm is at least this many times the root mean square of the residuals."""
    return 1 / HIGHEST[_known(directions)]


@cache
def escape_factor(directions: int) -> float:
    """An error of this many times the bar leaves it along at least one direction with 99 % probability.

    Examples
    --------
    >>> [round(escape_factor(k), 1) for k in (1, 2, 3, 4)]
    [79.8, 8.0, 3.7, 2.5]
    """
    inside = (1 - CERTAINTY) ** (1 / directions)
    return 1 / NormalDist().inv_cdf((1 + inside) / 2)


def _known(directions: int) -> int:
    """The largest tabulated number of directions: fewer than there are is on the safe side."""
    return max(k for k in LOWEST if k <= directions)


class Interval(NamedTuple):
    """Where ``||g - n||`` lies: estimated, at most and at least; beside the sizes of both sides.

    ``bar`` is how far the measurement alone can be off, and ``escape`` the smallest norm of an error that would not
    have stayed inside the bars with 99 % probability.
    """

    estimate: float
    at_most: float
    at_least: float
    backprop_norm: float
    measured_norm: float
    bar: float
    escape: float
    share: float


def of_entries(entries: MeasuredEntries, rounding: Rounding, floor: float, backprops: float) -> Interval:
    """Every entry, or every measured one: the norm is known up to the bars.

    ``floor`` is what rounding does to each measured slope where terms cancel, and ``backprops`` what it does to
    backprop's side, as a norm.
    """
    bar = norm(entry_bars(entries, rounding, floor)) + backprops
    away = norm(entries.away)
    sizes = norm(entries.grad), norm(entries.slopes)
    return Interval(away, away + bar, max(0.0, away - bar), *sizes, bar, 2 * bar, norm(entries.shares))


def entry_bars(entries: MeasuredEntries, rounding: Rounding, floor: float) -> Array:
    """How far each measured slope can be off, with the rounding of what cancels in it."""
    typical = math.hypot(root_mean_square(entries.slopes - entries.shares), root_mean_square(entries.shares))
    bars: Array = np.maximum(entries.errors, max(floor, rounding.relative * typical))
    return bars


def of_directions(
    directional: list[DirectionalMeasurement], grad_norm: float, scale: float, rounding: Rounding, backprops: float
) -> Interval:
    """Directions: residuals are normal with the norm (times the way that a shared direction goes along the parameter)
    as standard deviation, so that it is known up to the quantiles of chi."""
    pairs = _sharpest(
        [(measurement.bar(rounding) + backprops * scale, abs(measurement.residual)) for measurement in directional]
    )
    bars, residuals = zip(*pairs, strict=True)
    count, widest = len(pairs), max(bars)
    return Interval(
        estimate=_mean_size(residuals) / scale,
        at_most=_mean_size([residual + bar for bar, residual in pairs]) * upper_factor(count) / scale,
        at_least=_mean_size([max(residual - bar, 0.0) for bar, residual in pairs]) * lower_factor(count) / scale,
        backprop_norm=grad_norm,
        measured_norm=_mean_size([measurement.slope for measurement in directional]) / scale,
        bar=widest / scale,
        escape=2 * widest * escape_factor(count) / scale,
        share=_mean_size([measurement.share for measurement in directional]) / scale,
    )


def _sharpest(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The bars and residuals that bound most tightly together: one that met a kink says less than the others without.

    They are chosen by their bars alone, never by their residuals.
    """
    if len(pairs) == 1:
        return pairs
    pairs = sorted(pairs, key=lambda pair: pair[0])
    bounds = [_mean_size([bar for bar, _ in pairs[:k]]) * upper_factor(k) for k in range(1, len(pairs) + 1)]
    return pairs[: bounds.index(min(bounds)) + 1]


def _mean_size(few: Sequence[float]) -> float:
    """Root mean square of a few numbers."""
    return math.hypot(*few) / math.sqrt(len(few))


def finite_norm(array: Array) -> float:
    """Euclidean norm over the finite entries."""
    return norm(array[np.isfinite(array)])


def root_mean_square(array: Array) -> float:
    """Root mean square, 0 for an empty array."""
    return norm(array) / math.sqrt(array.size) if array.size else 0.0
