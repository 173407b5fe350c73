"""The scalar functions that layers and losses share: stable for any argument, and analytic.

Analytic in NumPy's sense: a complex argument gives the right imaginary part, so that a loss built from them can be
measured by complex step. Branches therefore look at the real part, and no absolute value is taken.
"""

from __future__ import annotations

import numpy as np

from gc_hooks._typing import Array


def magnitude(z: Array) -> Array:
    """``|z|`` for real z and its analytic continuation for complex z: z or -z, whose real part is not negative."""
    return np.where(z.real < 0, -z, z) if np.iscomplexobj(z) else np.abs(z)


def sigmoid(z: Array) -> Array:
    """``1 / (1 + exp(-z))``, in whichever of its two forms keeps the exponential from overflowing.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    decay = np.exp(-magnitude(z))
    result: Array = np.where(z.real < 0, decay, 1) / (1 + decay)
    return result


def log1p(x: Array) -> Array:
    """``log(1 + x)`` to full precision for small x with a real part of zero or more, complex x too.

    NumPy's complex ``log1p`` adds the one first, so that its real part is lost below 1e-16.
    """
    if not np.iscomplexobj(x):
        return np.log1p(x)
    squared = x.real * (2 + x.real) + x.imag * x.imag  # |1 + x|^2 - 1
    result: Array = np.log1p(squared) / 2 + 1j * np.arctan2(x.imag, 1 + x.real)
    return result


def softplus(z: Array) -> Array:
    """``log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|))``, which never overflows.

    Both halves take the same branch at z = 0, so that the slope there is 1/2 along a complex step too.
    """
    return np.where(z.real < 0, 0, z) + log1p(np.exp(-magnitude(z)))


def log_softmax(logits: Array) -> Array:
    """Logarithm of `softmax`; with m the largest logit of the row, ``z_j - z_m - log1p(sum_{i != m} exp(z_i - z_m))``.

    Leaving the largest out of the sum keeps the relative precision of a tiny loss, which ``log(1 + tiny)`` loses.
    """
    shifted, exponentials, largest = _shifted(logits)
    return shifted - log1p(_others(exponentials, largest))


def softmax(logits: Array) -> tuple[Array, Array]:
    """Probabilities ``p`` (N, C) of each row of logits, and ``1 - p`` (N, C) without cancellation where p is near 1.

    >>> probabilities, complement = softmax(np.array([[100.0, 0.0]]))
    >>> print(complement)
    [[3.72007598e-44 1.00000000e+00]]
    """
    _, exponentials, largest = _shifted(logits)
    others = _others(exponentials, largest)
    probabilities = exponentials / (1 + others)
    complement = 1 - probabilities
    np.put_along_axis(complement, largest, others / (1 + others), axis=1)
    return probabilities, complement


def _shifted(logits: Array) -> tuple[Array, Array, Array]:
    largest = np.argmax(logits.real, axis=1)[:, np.newaxis]  # (N, 1)
    shifted = logits - np.take_along_axis(logits, largest, axis=1)
    return shifted, np.exp(shifted), largest


def _others(exponentials: Array, largest: Array) -> Array:
    """Sum (N, 1) of a row's exponentials but for that of its largest logit, which is 1."""
    others = exponentials.copy()
    np.put_along_axis(others, largest, 0, axis=1)
    total: Array = others.sum(axis=1, keepdims=True)
    return total


def column_sums(x: Array) -> Array:
    """Sum over all axes but the last, by a product of matrices: ten times as fast as NumPy's own where it is short.

    Examples
    --------
    >>> column_sums(np.ones((5, 4, 3)))
    array([20., 20., 20.])
    """
    rows = x.reshape(-1, x.shape[-1])
    sums: Array = np.ones(len(rows), x.dtype) @ rows
    return sums
