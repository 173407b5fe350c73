"""Losses: value stands directly beside gradient.

Both take the model's raw outputs, logits for the classifiers, because only from them can a loss be computed without
overflow and without losing the digits of a tiny value. N samples, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import log_softmax, sigmoid, softmax, softplus


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
    """``-mean over samples of sum_j t_j log softmax(z)_j``.

    Outputs are logits z (N, C). Targets are integer labels (N,), or rows of probabilities t (N, C), one-hot or soft.

    Raises
    ------
    InvalidProblem
        When the labels are not integers, lie outside [0, C), or the rows are not C probabilities each.

    Examples
    --------
    >>> loss = SoftmaxCrossEntropy()
    >>> print(loss.value(np.zeros((1, 4)), np.array([2])) == np.log(4))
    True
    """

    def value(self, outputs: Array, targets: Array) -> Any:
        """``mean over samples of -sum_j t_j log p_j``."""
        t = self._rows(outputs, targets)
        return -np.mean(np.sum(t * log_softmax(outputs), axis=1))

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """``(p_j sum_i t_i - t_j) / N``, the textbook's ``(p - t) / N`` for rows that sum to one.

        Written as ``p_j (sum_i t_i - t_j) - t_j (1 - p_j)``, which keeps its digits where p is near t.
        """
        t = self._rows(outputs, targets)
        p, complement = softmax(outputs)
        slopes: Array = (p * (t.sum(axis=1, keepdims=True) - t) - t * complement) / len(outputs)
        return slopes

    def predict_proba(self, outputs: Array) -> Array:
        """``softmax(z)``, (N, C)."""
        return softmax(outputs)[0]

    def predict(self, outputs: Array) -> Array:
        """Label (N,) of the largest logit."""
        labels: Array = np.argmax(outputs, axis=1)
        return labels

    def accuracy(self, outputs: Array, targets: Array) -> float:
        """Share of samples whose largest logit is that of the label (of the most probable class, for rows)."""
        labels = np.argmax(self._rows(outputs, targets), axis=1)
        return float(np.mean(self.predict(outputs) == labels))

    def _rows(self, outputs: Array, targets: Array) -> Array:
        """Targets as rows of probabilities, (N, C), in the precision of the outputs."""
        targets = np.asarray(targets)
        if outputs.ndim != 2 or not (targets.shape == outputs.shape or targets.shape == outputs.shape[:1]):
            raise InvalidProblem(
                f"SoftmaxCrossEntropy got outputs of shape {outputs.shape} and targets of shape {targets.shape}. "
                "It needs one row of logits per sample, and labels (samples,) or rows (samples, classes). "
                "Try targets.ravel() for a column of labels, or a last layer as wide as there are classes."
            )
        dtype = outputs.real.dtype
        return _one_hot(targets, outputs.shape[1], dtype) if targets.ndim == 1 else _probabilities(targets, dtype)


def _one_hot(labels: Array, classes: int, dtype: np.dtype[Any]) -> Array:
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
            "or one output for each class."
        )
    rows = np.zeros((len(labels), classes), dtype)
    rows[np.arange(len(labels)), labels.astype(np.intp)] = 1
    return rows


def _probabilities(rows: Array, dtype: np.dtype[Any]) -> Array:
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
            f"MeanSquaredError has no probabilities for the outputs of shape {outputs.shape}. It fits numbers, not "
            "classes. Try predict, or train with SoftmaxCrossEntropy or BinaryCrossEntropy."
        )

    def predict(self, outputs: Array) -> Array:
        """The outputs themselves."""
        return outputs

    def _like(self, outputs: Array, targets: Array) -> Array:
        targets = np.asarray(targets)
        if targets.shape != outputs.shape and not (_is_column(outputs) and targets.shape == outputs.shape[:1]):
            raise InvalidProblem(
                f"MeanSquaredError got outputs of shape {outputs.shape} and targets of shape {targets.shape}. "
                "Subtracting them would broadcast into something else. Try a last layer as wide as the targets."
            )
        return targets.reshape(outputs.shape).astype(outputs.real.dtype)
