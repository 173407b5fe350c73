"""Norms that neither overflow nor vanish, and whether two arrays are the same."""

from __future__ import annotations

import math

import numpy as np

from gc_hooks._typing import Array, Params


def relative_difference(first: Array, second: Array) -> float:
    """Return the classic ratio ``||a - b|| / (||a|| + ||b||)``; 0 for equal arrays, also where they are zero or NaN."""
    if same_bits(first, second):
        return 0.0
    with np.errstate(all="ignore"):
        size = norm(first) + norm(second)
        return norm(first - second) / size if np.isfinite(size) else float("inf")


def same_bits(first: Array, second: Array) -> bool:
    """Return whether two arrays hold the same numbers, NaN included."""
    return np.array_equal(first, second) or np.array_equal(first, second, equal_nan=True)


def in_double(arrays: Params) -> dict[str, Array]:
    """Return copies in float64: whatever is done to them, the training's own arrays stay what they are."""
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def norm(array: Array) -> float:
    """Return the Euclidean norm, also of entries whose squares overflow or vanish.

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
    if not 0 < largest < math.inf:
        return largest
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(array / largest) * largest)


def finite_norm(array: Array) -> float:
    """Return the Euclidean norm over the finite entries."""
    return norm(array[np.isfinite(array)])


def root_mean_square(array: Array) -> float:
    """Return the root mean square, 0 for an empty array."""
    if not array.size:
        return 0.0
    return norm(np.asarray(array, dtype=np.float64)) / math.sqrt(array.size)
