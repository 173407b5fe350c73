"""Targets of a classifier: labels or rows of probabilities, which of them count, and how much."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem


class Wanted(NamedTuple):
    """What a softmax is to give, row by row: N samples, or N T steps of sequences, of which R count.

    Attributes
    ----------
    kept : ndarray of bool, (N T,)
        The rows that count.
    rows : ndarray, (R, C)
        Factors q of ``-log p``: probabilities, smoothed and weighted.
    total : float
        What the sum over rows is divided by.
    """

    kept: Array
    rows: Array
    total: float


def wanted(
    targets: Array, classes: int, dtype: np.dtype[Any], weights: Array | None, smoothing: float, ignore: int | None
) -> Wanted:
    """``q = w ((1 - s) t + s / C)``; the total is the sum of the labels' weights, of rows their number.

    Both as in PyTorch. Where no row counts, or none has a weight, the total is 1: a loss of zero.
    """
    labels = targets.ndim == 1
    kept = targets != ignore if labels and ignore is not None else np.ones(len(targets), bool)
    t = (one_hot if labels else probabilities)(targets[kept], classes, dtype)
    total = float(len(t))
    q = (1 - smoothing) * t + smoothing / classes if smoothing else t
    if weights is not None:
        total = float(np.sum(t @ weights)) if labels else total
        q = q * weights.astype(dtype)
    return Wanted(kept, q, total or 1.0)


def one_hot(labels: Array, classes: int, dtype: np.dtype[Any]) -> Array:
    """Labels (R,) as rows (R, C) with a one at the label.

    Raises
    ------
    InvalidProblem
        They are no integers, or lie outside [0, C).
    """
    if labels.dtype.kind not in "iub":
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got labels of type {labels.dtype}. Labels index the {classes} columns of logits, so "
            "they must be integers; numbers to be met are a regression's. Try labels.astype(int), or MeanSquaredError."
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got {wrong.size} label(s) outside 0 to {classes - 1}, such as {wrong[0]}. The last "
            f"layer has {classes} outputs: labels that count from 1, or a layer that is too narrow. Try labels - 1, "
            "one output for each class, or ignore= for a label that means none."
        )
    rows = np.zeros((len(labels), classes), dtype)
    rows[np.arange(len(labels)), labels.astype(np.intp)] = 1
    return rows


def probabilities(rows: Array, classes: int, dtype: np.dtype[Any]) -> Array:
    """Rows (R, C), each of which sums to one.

    Raises
    ------
    InvalidProblem
        One does not, or has a negative entry.
    """
    # The gradient is exact whatever the sums are, so they are checked only as closely as half precision can meet.
    sums = rows.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(sums - 1) < 1e-2) | (rows < 0).any(axis=1))
    if wrong.size:
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got {wrong.size} target row(s) that are not probabilities: row {wrong[0]} sums to "
            f"{sums[wrong[0]]:.6g}, its smallest entry is {rows[wrong[0]].min():.6g}. They are probably counts or "
            "logits. Try dividing each row by its sum, or integer labels."
        )
    return rows.astype(dtype)


def checked_weights(weights: ArrayLike | None) -> Array | None:
    """Class weights (C,) as numbers.

    Raises
    ------
    InvalidProblem
        They are no row of numbers that are zero or more and not all zero.
    """
    if weights is None:
        return None
    array = np.asarray(weights, np.float64)
    if array.ndim != 1 or not (np.isfinite(array) & (array >= 0)).all() or not array.any():
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got weights={array.tolist()}. They say how much each class counts; a negative one "
            "would reward mistakes, and with zeros alone nothing counts. Give one number per class, such as "
            "len(labels) / np.bincount(labels)."
        )
    return array


def mask_labels(labels: ArrayLike, lengths: ArrayLike, ignore: int) -> Array:
    """Labels of padded sequences, with `ignore` after the end of each.

    Parameters
    ----------
    labels : array_like of int, (N, T)
    lengths : array_like of int, (N,)
        How many steps of each sequence count, 0 to T.
    ignore : int
        What `SoftmaxCrossEntropy` was told to ignore; no label.

    Returns
    -------
    ndarray of int, (N, T)

    Raises
    ------
    InvalidProblem
        The shapes do not fit, or a length lies outside 0 to T.

    Examples
    --------
    >>> mask_labels([[5, 6, 0], [7, 0, 0]], lengths=[2, 1], ignore=-1)
    array([[ 5,  6, -1],
           [ 7, -1, -1]])
    """
    labels, lengths = np.asarray(labels), np.asarray(lengths)
    if labels.ndim != 2 or lengths.shape != labels.shape[:1] or ((lengths < 0) | (lengths > labels.shape[1])).any():
        raise InvalidProblem(
            f"mask_labels got labels of shape {labels.shape} and lengths of shape {lengths.shape}, {lengths.tolist()}. "
            "It needs (samples, steps) and for each sample a number of steps: the lengths may be those before the "
            "sequences were cut. Try numpy.minimum(lengths, labels.shape[1])."
        )
    steps = np.arange(labels.shape[1])
    return np.where(steps < lengths[:, np.newaxis], labels, ignore)
