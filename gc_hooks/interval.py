"""Where ``||g - n||`` lies, after every entry or after a few random directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.chance import escape_factor, lower_factor, upper_factor
from gc_hooks.evidence import MeasuredEntries, Reading
from gc_hooks.matching import norm


@dataclass(frozen=True)
class Interval:
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


def of_entries(entries: MeasuredEntries, relative: float, rounding: float) -> Interval:
    """Every entry, or every measured one: the norm is known up to the bars."""
    floor = relative * math.hypot(root_mean_square(entries.slopes - entries.shares), root_mean_square(entries.shares))
    bar = norm(np.maximum(entries.errors, floor)) + rounding
    away = norm(entries.away)
    sizes = norm(entries.grad), norm(entries.slopes)
    return Interval(away, away + bar, max(0.0, away - bar), *sizes, bar, 2 * bar, norm(entries.shares))


def of_directions(
    readings: list[Reading], grad_norm: float, scale: float, relative: float, rounding: float
) -> Interval:
    """Directions: residuals are normal with the norm (times the way that a shared direction goes along the parameter)
    as standard deviation, so that it is known up to the quantiles of chi."""
    slopes, shares = (np.array([getattr(r, part) for r in readings]) for part in ("slope", "share"))
    bars = np.array([reading.bar(relative) for reading in readings]) + rounding * scale
    residuals = np.abs([reading.residual for reading in readings])
    chosen = _sharpest(bars)
    bars, residuals, count = bars[chosen], residuals[chosen], len(chosen)
    return Interval(
        estimate=root_mean_square(residuals) / scale,
        at_most=root_mean_square(residuals + bars) * upper_factor(count) / scale,
        at_least=root_mean_square(np.maximum(residuals - bars, 0.0)) * lower_factor(count) / scale,
        backprop_norm=grad_norm,
        measured_norm=root_mean_square(slopes) / scale,
        bar=float(np.max(bars)) / scale,
        escape=2 * float(np.max(bars)) * escape_factor(count) / scale,
        share=root_mean_square(shares) / scale,
    )


def _sharpest(bars: Array) -> Array:
    """The readings that bound most tightly together: one that met a kink says less than the others without it.

    They are chosen by their bars alone, never by their residuals.
    """
    order = np.argsort(bars, kind="stable")
    bounds = [root_mean_square(bars[order[:k]]) * upper_factor(k) for k in range(1, len(bars) + 1)]
    return order[: int(np.argmin(bounds)) + 1]


def finite_norm(array: Array) -> float:
    """Euclidean norm over the finite entries."""
    return norm(array[np.isfinite(array)])


def root_mean_square(array: Array) -> float:
    """Root mean square, 0 for an empty array."""
    return norm(array) / math.sqrt(array.size) if array.size else 0.0
