"""What a check keeps to be drawn: measured entries and directions, the weights, and the error against the step size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Array

SIDE = 64
"""Of a larger parameter the worst entry in each of 64 x 64 cells is kept: as many cells as a heat map can show, and at
most 170 kB of JSON. Half of it draws a single wrong column half as sharp; double makes a log four times as large."""

BINS = 24
"""Bins of a histogram of weights: enough to see two humps, in a chart that is 340 pixels wide."""

MOST_WEIGHTS = 100_000
"""A histogram of more entries than this is made from a sample: it looks the same, and takes 5 ms at most."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class StepCurve:
    """The error of plain central differences along one direction, for steps from large to small."""

    along: str  # the parameter that holds the direction; empty for a direction through all parameters
    steps: tuple[float, ...]  # in units of the parameters' scale
    # Distances from the measured slope, relative to it: truncation for large steps, rounding for small ones.
    errors: tuple[float, ...]
    backprop: float  # distance of backprop's slope from the measured one, relative to that
    error: float  # error of that distance, in the same unit
    noise: float  # rounding alone makes a relative error of noise / step
    chosen: float = math.nan  # the step that the check's method chose; NaN for complex step, which has none to choose


@dataclass(frozen=True)
class ParameterPlot:
    """What is drawn of one parameter; rounded, and no more than a page needs."""

    # (position in C order, backprop, backprop minus measured, error of that) for each entry that is drawn
    entries: Rows = ()
    directions: Rows = ()  # the last three for slopes along random directions within the parameter
    weights: tuple[int, ...] = ()  # histogram of the parameter's entries, in bins of the same width
    low: float = math.nan  # where the histogram begins
    high: float = math.nan  # and where it ends
    curve: StepCurve | None = None  # of a parameter that fails


def rounded(value: float, digits: int) -> float:
    """Return a number with this many significant digits, which takes less room in JSON."""
    return float(f"{value:.{digits}g}")


def legible(rows: Iterable[tuple[float, float, float]]) -> Rows:
    """Return backprop's slope, its distance from the measured one, and the error, rounded to 7, 6 and 3 digits."""
    return tuple((rounded(b, 7), rounded(away, 6), rounded(error, 3)) for b, away, error in rows)


def worst_of_cells(positions: Array, away: Array, shape: tuple[int, ...], side: int = SIDE) -> Array:
    """Return which measured entries to keep: all, or in each cell of a grid the one that is farthest away.

    ``positions`` in C order and ``away`` have one number for each entry. A parameter is drawn as a matrix: its first
    axis, and all others in one.

    >>> worst_of_cells(np.arange(8), np.array([0, 5, 1, 0, 2, 0, 3, 9.0]), (2, 4), side=2).tolist()
    [1, 2, 4, 7]
    """
    if len(positions) <= side * side:
        return np.arange(len(positions))
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape) // rows
    down, right = np.divmod(positions, columns)
    cells = (down * min(side, rows) // rows) * side + right * min(side, columns) // columns
    # Sorted by cell, and within a cell by distance: the first of each cell is its worst.
    order = np.lexsort((-np.nan_to_num(away, nan=math.inf), cells))
    first_of_cell = np.flatnonzero(np.diff(cells[order], prepend=-1))
    return np.sort(order[first_of_cell])


def histogram(array: Array) -> tuple[tuple[int, ...], float, float]:
    """Return the counts of the finite entries in bins of the same width, and where the first begins and the last ends.

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
    if not high - low > 1e-12 * max(abs(low), abs(high)):  # equal but for rounding: bins would have no width
        return (int(finite.size),), low, high
    counts, _ = np.histogram(finite, bins=BINS, range=(low, high))
    return tuple(counts.tolist()), rounded(low, 6), rounded(high, 6)
