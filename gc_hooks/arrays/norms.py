"""Norms that neither overflow nor vanish, and whether two arrays are the same."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from gc_hooks._typing import Array, Params

BLOCK = 2**13
"""Entries that are worked on at a time: 64 kB, which stay in a cache. A new array of millions costs a pass more."""


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


def is_vector(array: Array) -> bool:
    """Return whether an array has at most one axis that is longer than one: a vector, a row, a column or a number.

    Examples
    --------
    >>> is_vector(np.zeros(3)), is_vector(np.zeros((1, 3))), is_vector(np.zeros((3, 1))), is_vector(np.zeros((3, 2)))
    (True, True, True, False)
    """
    return array.size == max(array.shape, default=1)


def without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    """Return a shape without its axes of length one, which hold no more entries and say nothing of their order.

    >>> without_ones((1, 3)), without_ones(()), without_ones((2, 1, 3))
    ((3,), (), (2, 3))
    """
    return tuple(length for length in shape if length != 1)


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
    unit = largest(array)
    if not 0 < unit < math.inf:
        return unit
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(array / unit) * unit)


def distance(first: Array, second: Array) -> float:
    """Return the norm of the difference of two arrays of one shape, block by block: no array of their size is made.

    Examples
    --------
    >>> distance(np.array([3.0, 4.0]), np.zeros(2))
    5.0
    """
    one, other, total = first.reshape(-1), second.reshape(-1), 0.0
    for start in range(0, one.size, BLOCK):
        apart = one[start : start + BLOCK] - other[start : start + BLOCK]
        total = math.hypot(total, norm(apart))
    return total


def largest(array: Array) -> float:
    """Return the largest absolute value; 0 for an empty array, and NaN where an entry is."""
    return max(float(np.max(array, initial=0.0)), -float(np.min(array, initial=0.0)))


def finite_norm(array: Array) -> float:
    """Return the Euclidean norm over the finite entries."""
    return norm(array[np.isfinite(array)])


def root_mean_square(array: Array) -> float:
    """Return the root mean square, 0 for an empty array."""
    if not array.size:
        return 0.0
    return norm(np.asarray(array, dtype=np.float64)) / math.sqrt(array.size)
