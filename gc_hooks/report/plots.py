"""What a check keeps for the eye: measured entries and directions, the weights, and the error against the step size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Array

SIDE = 64
"""Of a larger parameter the worst entry in each of 64 x 64 cells is kept."""

BINS = 24
MOST_WEIGHTS = 100_000

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class StepCurve:
    """How far plain central differences are from the slope, for steps from large to small: truncation on one side,
    rounding on the other, and backprop's distance beside them.

    Attributes
    ----------
    along : str
        The parameter that holds the direction; empty for one through all parameters.
    steps : tuple of float
        In units of the parameters' scale.
    errors : tuple of float
        Relative to the measured slope.
    backprop : float
        How far backprop's slope is from the measured one, relative to it.
    error : float
        The error bar of the measured slope, relative to it.
    noise : float
        Rounding alone makes a relative error of ``noise / step``.
    chosen : float
        The step that the check's method chose; NaN for complex step, which has none to choose.
    """

    along: str
    steps: tuple[float, ...]
    errors: tuple[float, ...]
    backprop: float
    error: float
    noise: float
    chosen: float = math.nan


@dataclass(frozen=True)
class ParameterPlot:
    """One parameter for the eye; rounded, and no more than a page needs.

    Attributes
    ----------
    entries : tuple of (position, backprop, away, error)
        Position in C order; ``away`` is backprop's entry minus the measured one.
    directions : tuple of (backprop, away, error)
        The same for slopes along random directions within the parameter.
    weights : tuple of int
        Histogram of the parameter's entries, in 24 bins of the same width.
    low, high : float
        Where the histogram begins and ends.
    curve : StepCurve or None
        Of a parameter that fails.
    """

    entries: Rows = ()
    directions: Rows = ()
    weights: tuple[int, ...] = ()
    low: float = math.nan
    high: float = math.nan
    curve: StepCurve | None = None


def rounded(value: float, digits: int) -> float:
    """A number with so many significant digits, that costs no more room than it is worth.

    Examples
    --------
    >>> rounded(1 / 3, 4)
    0.3333
    """
    return float(f"{value:.{digits}g}")


def legible(rows: Iterable[tuple[float, float, float]]) -> Rows:
    """Backprop, away and error bar of slopes, rounded.

    Examples
    --------
    >>> legible([(2 / 3, 1 / 3, 1 / 3)])
    ((0.6666667, 0.333333, 0.333),)
    """
    return tuple((rounded(b, 7), rounded(away, 6), rounded(error, 3)) for b, away, error in rows)


def worst_of_cells(positions: Array, away: Array, shape: tuple[int, ...], side: int = SIDE) -> Array:
    """Which measured entries to keep: all, or the one that is farthest away in each cell of a grid.

    Parameters
    ----------
    positions, away : ndarray, shape (n,)
        In C order.
    shape : tuple of int
        Of the parameter, which is looked at as a matrix: the first axis, and all others.

    Examples
    --------
    >>> worst_of_cells(np.arange(8), np.array([0, 5, 1, 0, 2, 0, 3, 9.0]), (2, 4), side=2).tolist()
    [1, 2, 4, 7]
    """
    if len(positions) <= side * side:
        return np.arange(len(positions))
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape) // rows
    down, right = np.divmod(positions, columns)
    cells = (down * min(side, rows) // rows) * side + right * min(side, columns) // columns
    order = np.lexsort((-np.nan_to_num(away, nan=math.inf), cells))
    first_of_cell = np.flatnonzero(np.diff(cells[order], prepend=-1))
    return np.sort(order[first_of_cell])


def histogram(array: Array) -> tuple[tuple[int, ...], float, float]:
    """Counts of the finite entries in bins of the same width, where the first begins and where the last ends; every
    so-manieth entry of an array with more than 100,000.

    Examples
    --------
    >>> counts, low, high = histogram(np.array([0.0, 1.0, np.nan]))
    >>> counts[0], counts[-1], low, high
    (1, 1, 0.0, 1.0)
    """
    flat = array.reshape(-1)
    sample = flat[:: max(1, -(-flat.size // MOST_WEIGHTS))]
    finite = sample[np.isfinite(sample)]
    if not finite.size:
        return (), math.nan, math.nan
    low, high = float(finite.min()), float(finite.max())
    if not high - low > 1e-12 * max(abs(low), abs(high)):  # all the same: one bin cannot be cut
        return (int(finite.size),), low, high
    counts, _ = np.histogram(finite, bins=BINS, range=(low, high))
    return tuple(int(count) for count in counts), rounded(low, 6), rounded(high, 6)
