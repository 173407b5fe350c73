"""Norms that neither overflow nor vanish, and whether two arrays are the same."""

from __future__ import annotations

import math

import numpy as np

from gc_hooks._typing import Array, Params


def relative_difference(first: Array, second: Array) -> float:
    """The classic ratio ``||a - b|| / (||a|| + ||b||)``; 0 for equal arrays, also where they are zero or NaN."""
    if same_bits(first, second):
        return 0.0
    with np.errstate(all="ignore"):
        size = norm(first) + norm(second)
        return norm(first - second) / size if np.isfinite(size) else float("inf")


def same_bits(first: Array, second: Array) -> bool:
    """Whether two arrays hold the same numbers, NaN included."""
    return np.array_equal(first, second) or np.array_equal(first, second, equal_nan=True)


def in_double(arrays: Params) -> dict[str, Array]:
    """Copies in float64: whatever is done to them, the training's own stay what they are."""
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def norm(array: Array) -> float:
    """Euclidean norm, also of entries whose squares are too large or too small to be written down.

    Examples
    --------
    >>> norm(np.array([3e-200, 4e-200]))
    5e-200
    """
    flat = array.ravel(order="K")
    square = float(np.vdot(flat, flat))  # which raises no floating-point error, whatever the caller wants of NumPy
    if 1e-200 < square < 1e200:
        return math.sqrt(square)
    largest = float(np.max(np.abs(array), initial=0.0))
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(array / largest) * largest) if 0 < largest < math.inf else largest


def root_mean_square(array: Array) -> float:
    """Root mean square, 0 for an empty array."""
    return norm(np.asarray(array, dtype=np.float64)) / math.sqrt(array.size) if array.size else 0.0
