"""Losses: value stands directly beside gradient.

Both take the model's raw outputs, logits for the classifiers, because only from them can a loss be computed without
overflow and without losing the digits of a tiny value. N samples, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import log_softmax, magnitude, sigmoid, softmax, softplus


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


class LossFunction(ABC):
    """Base class: a mean over samples of how far outputs are from targets."""

    @abstractmethod
    def value(self, outputs: Array, targets: Array) -> Any:
        """The loss: one number in the precision of the outputs, complex when they are."""

    @abstractmethod
    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Derivative of `value` with respect to the outputs, in their shape."""

    @abstractmethod
    def predict_proba(self, outputs: Array) -> Array:
        """Class probabilities that the outputs stand for."""

    @abstractmethod
    def predict(self, outputs: Array) -> Array:
        """What the outputs say about each sample, in the terms of the targets."""

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Figures beside the loss that say how good the outputs are; none unless overridden."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Classifier(LossFunction):
    """Base class of the losses whose targets are classes."""

    @abstractmethod
    def accuracy(self, outputs: Array, targets: Array) -> float:
        """Share of samples, in [0, 1], whose predicted class is the target's."""

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """The accuracy."""
        return {"accuracy": self.accuracy(outputs, targets)}


class SoftmaxCrossEntropy(Classifier):
    """``-mean over samples of sum_j t_j log softmax(z)_j``; of sequences, the mean over all steps.

    Outputs are logits z (N, C), or (N, T, C) for sequences. Targets are integer labels (N,) or (N, T), or rows of
    probabilities t in the shape of the logits, one-hot or soft.

    Parameters
    ----------
    weights : array_like, (C,), optional
        How much each class counts. With labels the mean is weighted too: divided by the sum of the labels' weights.
    smoothing : float
        Share s of a target that is spread over all classes: ``t <- (1 - s) t + s / C``. Szegedy et al., "Rethinking the
        inception architecture for computer vision" (2016), section 7.
    ignore : int, optional
        A label that marks what does not count, such as the steps after the end of a sequence (see `mask_labels`). A
        batch in which nothing counts has a loss of zero.

    Raises
    ------
    InvalidProblem
        When the labels are not integers, lie outside [0, C), or the rows are not C probabilities each; when there is
        not one weight, zero or more, per class, or the smoothing is outside [0, 1).

    Examples
    --------
    >>> loss = SoftmaxCrossEntropy()
    >>> print(loss.value(np.zeros((1, 4)), np.array([2])) == np.log(4))
    True
    >>> SoftmaxCrossEntropy(ignore=-1).gradient(np.zeros((1, 2, 2)), np.array([[1, -1]]))
    array([[[ 0.5, -0.5],
            [ 0. ,  0. ]]])
    """

    def __init__(self, *, weights: ArrayLike | None = None, smoothing: float = 0.0, ignore: int | None = None) -> None:
        if not 0 <= smoothing < 1:
            raise InvalidProblem(
                f"SoftmaxCrossEntropy got smoothing={smoothing}, outside [0, 1). It is the share of each target that "
                "is spread over all classes; at 1 nothing of the target is left. Try 0.1."
            )
        self.weights = checked_weights(weights)
        self.smoothing = float(smoothing)
        self.ignore = ignore

    def value(self, outputs: Array, targets: Array) -> Any:
        """``-sum over rows of sum_j q_j log p_j / total``: q and the total are N rows of t and N, unless told else."""
        z, (kept, q, total) = self._rows(outputs, targets)
        if not len(q):
            return z.dtype.type(0)
        # The mean first: a sum over many rows is too large for half precision.
        return -np.mean(np.sum(q * log_softmax(z[kept]), axis=1)) * z.real.dtype.type(len(q) / total)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """``(p_j sum_i q_i - q_j) / total``, the textbook's ``(p - t) / N`` for rows that sum to one.

        Written as ``p_j (sum_i q_i - q_j) - q_j (1 - p_j)``, which keeps its digits where p is near t.
        """
        z, (kept, q, total) = self._rows(outputs, targets)
        p, complement = softmax(z[kept])
        slopes = np.zeros_like(z)
        slopes[kept] = (p * (q.sum(axis=1, keepdims=True) - q) - q * complement) / total
        return slopes.reshape(outputs.shape)

    def predict_proba(self, outputs: Array) -> Array:
        """``softmax(z)``, in the shape of the logits."""
        return softmax(_flat(outputs))[0].reshape(outputs.shape)

    def predict(self, outputs: Array) -> Array:
        """Label (N,), or (N, T), of the largest logit."""
        labels: Array = np.argmax(outputs, axis=-1)
        return labels

    def accuracy(self, outputs: Array, targets: Array) -> float:
        """Share of what counts whose largest logit is that of the label (of the most probable class, for rows); NaN
        where nothing counts."""
        z, (kept, rows, _) = self._rows(outputs, targets, plain=True)
        right = self.predict(z[kept]) == np.argmax(rows, axis=1)
        return float(np.mean(right)) if right.size else float("nan")

    def _rows(self, outputs: Array, targets: Array, *, plain: bool = False) -> tuple[Array, Wanted]:
        """Logits (N T, C), and what is wanted of them in their precision; plain is without weights and smoothing."""
        targets = np.asarray(targets)
        if outputs.ndim < 2 or targets.shape not in (outputs.shape, outputs.shape[:-1]):
            raise InvalidProblem(
                f"SoftmaxCrossEntropy got outputs of shape {outputs.shape} and targets of shape {targets.shape}. "
                "It needs one row of logits per sample (or step), and labels (samples,) or rows (samples, classes). "
                "Try targets.ravel() for a column of labels, or a last layer as wide as there are classes."
            )
        classes, dtype = outputs.shape[-1], outputs.real.dtype
        rows = _flat(targets) if targets.ndim == outputs.ndim else targets.reshape(-1)
        weights, smoothing = (None, 0.0) if plain else (self._weights_for(classes), self.smoothing)
        return _flat(outputs), wanted(rows, classes, dtype, weights, smoothing, self.ignore)

    def _weights_for(self, classes: int) -> Array | None:
        if self.weights is not None and len(self.weights) != classes:
            raise InvalidProblem(
                f"SoftmaxCrossEntropy has {len(self.weights)} class weights and the logits {classes} columns. Some "
                "class may not occur in the labels that the weights were counted from. Try numpy.bincount(labels, "
                f"minlength={classes})."
            )
        return self.weights

    def __repr__(self) -> str:
        weights = None if self.weights is None else self.weights.tolist()
        told = {"weights": weights, "smoothing": self.smoothing or None, "ignore": self.ignore}
        options = ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
        return f"{type(self).__name__}({options})"


def _flat(rows: Array) -> Array:
    return rows.reshape(-1, rows.shape[-1])


class BinaryCrossEntropy(Classifier):
    """``mean over samples of -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))``.

    Outputs are logits z, (N, 1) or (N,): no sigmoid layer in front. Targets t in [0, 1] are (N,) or (N, 1).

    Raises
    ------
    InvalidProblem
        When outputs or targets have another shape, or targets lie outside [0, 1].
    """

    def value(self, outputs: Array, targets: Array) -> Any:
        """``mean of t softplus(-z) + (1 - t) softplus(z)``, as ``-log sigmoid(z) = softplus(-z)``."""
        z, t = self._columns(outputs, targets)
        return np.mean(t * softplus(-z) + (1 - t) * softplus(z))

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """``(sigmoid(z) - t) / N``, written as ``((1 - t) sigmoid(z) - t sigmoid(-z)) / N`` to keep its digits."""
        z, t = self._columns(outputs, targets)
        slopes: Array = ((1 - t) * sigmoid(z) - t * sigmoid(-z)) / len(z)
        return slopes.reshape(outputs.shape)

    def predict_proba(self, outputs: Array) -> Array:
        """Probability (N,) of class 1."""
        return sigmoid(outputs.reshape(-1))

    def predict(self, outputs: Array) -> Array:
        """Label (N,), 0 or 1."""
        return (outputs.reshape(-1) > 0).astype(np.intp)

    def accuracy(self, outputs: Array, targets: Array) -> float:
        """Share of samples whose logit is on the target's side of zero."""
        z, t = self._columns(outputs, targets)
        return float(np.mean((z > 0) == (t > 0.5)))

    def _columns(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        """Logits and targets, both (N,): a column minus a row would silently be a matrix."""
        targets = np.asarray(targets)
        if not (_is_column(outputs) and _is_column(targets) and len(outputs) == len(targets)):
            raise InvalidProblem(
                f"BinaryCrossEntropy got outputs of shape {outputs.shape} and targets of shape {targets.shape}. It "
                "needs one logit and one target per sample. Try Dense(..., 1) as the last layer, or "
                "SoftmaxCrossEntropy for more than two classes."
            )
        _check_within_unit(targets)
        return outputs.reshape(-1), targets.reshape(-1).astype(outputs.real.dtype)


def _is_column(array: Array) -> bool:
    return array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)


def _check_within_unit(targets: Array) -> None:
    wrong = targets[~((targets >= 0) & (targets <= 1))]
    if wrong.size:
        raise InvalidProblem(
            f"BinaryCrossEntropy got {wrong.size} target(s) outside [0, 1], such as {wrong[0]}. Targets are the "
            "probability of class 1; classes may be named -1 and 1, or 1 and 2. Try (targets == positive).astype(int)."
        )


class MeanSquaredError(LossFunction):
    """``mean over all entries of (y - t)^2``: over samples and columns, without a factor 1/2.

    Outputs y are (N, K); targets t have the same shape, or (N,) for a single column.

    Raises
    ------
    InvalidProblem
        When the shapes do not fit.
    """

    def value(self, outputs: Array, targets: Array) -> Any:
        """``sum of (y - t)^2 / number of entries``."""
        difference = outputs - self._like(outputs, targets)
        return np.mean(difference * difference)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """``2 (y - t) / number of entries``."""
        slopes: Array = 2 * (outputs - self._like(outputs, targets)) / outputs.size
        return slopes

    def predict_proba(self, outputs: Array) -> Array:
        """Not for a regression.

        Raises
        ------
        InvalidProblem
            Always.
        """
        raise InvalidProblem(
            f"{type(self).__name__} has no probabilities for the outputs of shape {outputs.shape}. It fits numbers, "
            "not classes. Try predict, or train with SoftmaxCrossEntropy or BinaryCrossEntropy."
        )

    def predict(self, outputs: Array) -> Array:
        """The outputs themselves."""
        return outputs

    def _like(self, outputs: Array, targets: Array) -> Array:
        targets = np.asarray(targets)
        if targets.shape != outputs.shape and not (_is_column(outputs) and targets.shape == outputs.shape[:1]):
            raise InvalidProblem(
                f"{type(self).__name__} got outputs of shape {outputs.shape} and targets of shape {targets.shape}. "
                "Subtracting them would broadcast into something else. Try a last layer as wide as the targets."
            )
        return targets.reshape(outputs.shape).astype(outputs.real.dtype)


class Huber(MeanSquaredError):
    """``mean over all entries of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)``, with ``d = y - t``.

    Huber, "Robust estimation of a location parameter" (1964). Outputs and targets as for `MeanSquaredError`.

    Parameters
    ----------
    delta : float
        Where the parabola goes over into a line; positive.

    Raises
    ------
    InvalidProblem
        When delta is not a positive number, or the shapes do not fit.

    Examples
    --------
    >>> print(Huber().value(np.array([[0.5], [3.0]]), np.zeros((2, 1))))  # (0.125 + 2.5) / 2
    1.3125
    """

    def __init__(self, delta: float = 1.0) -> None:
        if not 0 < delta < np.inf:
            raise InvalidProblem(
                f"Huber got delta={delta}. It is the size of an error above which the loss grows in a line. Give a "
                "positive number, or MeanSquaredError for a parabola everywhere."
            )
        self.delta = float(delta)

    def value(self, outputs: Array, targets: Array) -> Any:
        """``d^2 / 2`` near the target, ``delta (|d| - delta / 2)`` far from it."""
        size = magnitude(outputs - self._like(outputs, targets))
        return np.mean(np.where(size.real <= self.delta, size * size / 2, self.delta * (size - self.delta / 2)))

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """``d within [-delta, delta], else delta with the sign of d; / number of entries``."""
        difference = outputs - self._like(outputs, targets)
        slopes: Array = np.clip(difference, -self.delta, self.delta) / outputs.size
        return slopes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.delta:g})"


class Masked(LossFunction):
    """Another loss over those entries alone whose target is a number: NaN marks what is not known, or padding.

    Outputs of any shape, such as (N, T) or (N, T, 1) for sequences, with targets in the same shape or without the last
    column. A batch without any known target has a loss of zero.

    Parameters
    ----------
    loss : LossFunction
        One that looks at each entry by itself: `MeanSquaredError`, `Huber`, `BinaryCrossEntropy`. (Of
        `SoftmaxCrossEntropy`, labels are masked by its ``ignore``.)

    Raises
    ------
    InvalidProblem
        When the loss is a softmax's, or the shapes do not fit.

    Examples
    --------
    >>> loss = Masked(MeanSquaredError())
    >>> print(loss.value(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 0.0, np.nan]])))  # (0 + 4) / 2
    2.0
    """

    def __init__(self, loss: LossFunction) -> None:
        if isinstance(loss, SoftmaxCrossEntropy):
            raise InvalidProblem(
                f"Masked got {loss!r}, whose classes only make sense together. A step is masked there by its label. "
                "Try SoftmaxCrossEntropy(ignore=-1), and -1 for the labels of what does not count."
            )
        self.loss = loss

    def value(self, outputs: Array, targets: Array) -> Any:
        """The loss of the known entries."""
        t, known = self._known(outputs, targets)
        return self.loss.value(outputs[known], t[known]) if known.any() else outputs.dtype.type(0)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """The loss's gradient where the target is known, and zero elsewhere."""
        t, known = self._known(outputs, targets)
        slopes = np.zeros_like(outputs)
        if known.any():
            slopes[known] = self.loss.gradient(outputs[known], t[known])
        return slopes

    def predict_proba(self, outputs: Array) -> Array:
        """Those of the loss, of every entry."""
        return self.loss.predict_proba(outputs)

    def predict(self, outputs: Array) -> Array:
        """What the loss predicts, for every entry."""
        return self.loss.predict(outputs)

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Those of the loss, over the known entries; NaN where there are none."""
        t, known = self._known(outputs, targets)
        if known.any():
            return self.loss.metrics(outputs[known], t[known])
        return dict.fromkeys(self.loss.metrics(np.zeros(1), np.zeros(1)), float("nan"))

    def _known(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        targets = np.asarray(targets)
        if targets.shape not in (outputs.shape, outputs.shape[:-1]) or targets.size != outputs.size:
            raise InvalidProblem(
                f"{self!r} got outputs of shape {outputs.shape} and targets of shape {targets.shape}. It needs a "
                "target, or NaN, for every output. Try a last layer as wide as the targets."
            )
        t = targets.reshape(outputs.shape)
        return t, ~np.isnan(t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loss!r})"
