"""Losses and penalties, which are added to the loss: the value stands beside its gradient. N samples, C classes.

The two losses for classes take logits, the raw outputs of the model, because only from these can they be computed
without overflow and without losing the digits of a tiny value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.nn.functions import log_softmax, magnitude, sigmoid, softmax, softplus
from gc_hooks.nn.ranges import FRACTION, NOT_NEGATIVE, POSITIVE


class LossFunction(ABC):
    """Base class: a mean over samples of how far outputs are from targets. It refuses what does not fit."""

    @abstractmethod
    def value(self, outputs: Array, targets: Array) -> Any:
        """Return the loss: one number in the precision of the outputs, complex when they are."""

    @abstractmethod
    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Return the derivative of `value` with respect to the outputs, in their shape."""

    @abstractmethod
    def predict_proba(self, outputs: Array) -> Array:
        """Return the class probabilities that the outputs stand for."""

    @abstractmethod
    def predict(self, outputs: Array) -> Array:
        """Return what the outputs say about each sample, in the terms of the targets."""

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Return figures beside the loss that say how good the outputs are. By default there are none."""
        return {}

    def _misfit(self, outputs: Array, targets: Array, hint: str) -> InvalidProblem:
        shapes = f"outputs of shape {outputs.shape} and targets of shape {targets.shape}"
        return InvalidProblem(f"{self!r} got {shapes}. {hint}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SoftmaxCrossEntropy(LossFunction):
    """``-mean over samples of sum_j t_j log softmax(z)_j``; for sequences, the mean over all steps.

    Outputs are logits z (N, C), or (N, T, C) for sequences. Targets are integer labels (N,) or (N, T), or rows of
    probabilities t in the shape of the logits, one-hot or soft.

    Parameters
    ----------
    weights : array_like, (C,), optional
        How much each class counts. With labels the mean is weighted too: divided by the sum of the labels' weights.
    smoothing : float
        Fraction s of a target that is spread over all classes: ``t <- (1 - s) t + s / C``. Szegedy et al., "Rethinking
        the inception architecture for computer vision" (2016), section 7.
    ignore : int, optional
        A label that marks what does not count, such as the steps after the end of a sequence (see `mask_labels`). A
        batch in which nothing counts has a loss of zero.

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
        hint = "It is the fraction of each target that is spread over all classes. Try 0.1."
        FRACTION.check("SoftmaxCrossEntropy", hint, smoothing=smoothing)
        self.weights: Array | None = None
        if weights is not None:
            self.weights = w = np.asarray(weights, np.float64)
            require(
                w.ndim == 1 and (np.isfinite(w) & (w >= 0)).all() and w.any(),
                f"SoftmaxCrossEntropy got weights={w.tolist()}. A negative one would reward mistakes, and with zeros "
                "alone nothing counts. Give one number per class, such as len(labels) / np.bincount(labels).",
            )
        self.smoothing = float(smoothing)
        self.ignore = ignore

    def value(self, outputs: Array, targets: Array) -> Any:
        """Compute ``-sum over rows of sum_j q_j log p_j / total``; by default q is t, and the total is N."""
        z, counts, q, total = self._rows(outputs, targets)
        if not len(q):
            return z.dtype.type(0)
        # The mean first: a sum over many rows is too large for half precision.
        return -np.mean(np.sum(q * log_softmax(z[counts]), axis=1)) * z.real.dtype.type(len(q) / total)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Compute ``(p_j sum_i q_i - q_j) / total``, the textbook's ``(p - t) / N`` for rows that sum to one.

        From ``log p_i = z_i - log(sum_k exp(z_k))``, whose derivative with respect to z_j is ``[i = j] - p_j``.
        """
        z, counts, q, total = self._rows(outputs, targets)
        p, complement = softmax(z[counts])
        slopes = np.zeros_like(z)  # rows that do not count have no gradient
        # p_j (sum_i q_i - q_j) - q_j (1 - p_j) is the same number, and keeps its digits where p is near t.
        slopes[counts] = (p * (q.sum(axis=1, keepdims=True) - q) - q * complement) / total
        return slopes.reshape(outputs.shape)

    def predict_proba(self, outputs: Array) -> Array:
        """Return ``softmax(z)``, in the shape of the logits."""
        return softmax(outputs.reshape(-1, outputs.shape[-1]))[0].reshape(outputs.shape)

    def predict(self, outputs: Array) -> Array:
        """Return the label (N,), or (N, T), of the largest logit."""
        return np.asarray(np.argmax(outputs, axis=-1))

    def accuracy(self, outputs: Array, targets: Array) -> float:
        """Return the fraction of counting rows whose largest logit is the target's largest; NaN where no row counts."""
        z, counts, t, _ = self._rows(outputs, targets, plain=True)
        right = self.predict(z[counts]) == np.argmax(t, axis=1)
        return float(np.mean(right)) if right.size else float("nan")

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return {"accuracy": self.accuracy(outputs, targets)}

    def _rows(self, outputs: Array, targets: Array, *, plain: bool = False) -> tuple[Array, Array, Array, float]:
        """Return the logits as rows (N T, C), which of them count (N T,), the factors q of those (R, C), and the total.

        ``q = w ((1 - s) t + s / C)``; with `plain` it is t. The total, by which the sum over rows is divided, is the
        sum of the labels' weights, or the number of rows; both as in PyTorch.
        """
        targets = np.asarray(targets)
        if outputs.ndim < 2 or targets.shape not in (outputs.shape, outputs.shape[:-1]):
            hint = "It needs a row of logits, and a label or a row of probabilities, per sample (or step). Try "
            hint += "targets.ravel() for a column of labels, or a last layer as wide as there are classes."
            raise self._misfit(outputs, targets, hint)
        classes, dtype = outputs.shape[-1], outputs.real.dtype
        if self.weights is not None and len(self.weights) != classes and not plain:
            raise InvalidProblem(
                f"SoftmaxCrossEntropy has {len(self.weights)} class weights, and the logits have {classes} columns. "
                f"A class may be missing in the counted labels. Try numpy.bincount(labels, minlength={classes})."
            )
        z = outputs.reshape(-1, classes)
        counts = np.ones(len(z), bool)
        labels = targets.ndim < outputs.ndim
        if labels:
            targets = targets.reshape(-1)
            if self.ignore is not None:
                counts = targets != self.ignore
            t = _one_hot(targets[counts], classes, dtype)
        else:
            t = _checked_probabilities(targets.reshape(-1, classes)[counts], dtype)
        q, total = t, float(len(t))
        if self.smoothing and not plain:
            q = (1 - self.smoothing) * t + self.smoothing / classes
        if self.weights is not None and not plain:
            if labels:
                total = float(np.sum(t @ self.weights))
            q = q * self.weights.astype(dtype)
        return z, counts, q, total or 1.0  # where nothing has a weight, zero divided by one

    def __repr__(self) -> str:
        weights = None if self.weights is None else self.weights.tolist()
        options = {"weights": weights, "smoothing": self.smoothing or None, "ignore": self.ignore}
        return f"{type(self).__name__}({', '.join(f'{name}={x}' for name, x in options.items() if x is not None)})"


def _one_hot(labels: Array, classes: int, dtype: np.dtype[Any]) -> Array:
    """Return labels (R,) as rows (R, C) with a one at the label."""
    if labels.dtype.kind not in "iub":
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got labels of type {labels.dtype}. Labels must be integers, because they index the "
            f"{classes} columns of logits. Try labels.astype(int), or MeanSquaredError if the targets are quantities."
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got {wrong.size} label(s) outside 0 to {classes - 1}, such as {wrong[0]}. They may "
            "count from 1. Try labels - 1, an output per class, or ignore= for a label that means none."
        )
    rows = np.zeros((len(labels), classes), dtype)
    rows[np.arange(len(labels)), labels.astype(np.intp)] = 1
    return rows


def _checked_probabilities(rows: Array, dtype: np.dtype[Any]) -> Array:
    """Return rows (R, C), each of which sums to one, in this precision."""
    # The gradient is exact for any sums, so 1e-2 may be as wide as what half precision rounds.
    sums = rows.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(sums - 1) < 1e-2) | (rows < 0).any(axis=1))
    if wrong.size:
        raise InvalidProblem(
            f"SoftmaxCrossEntropy got {wrong.size} target row(s) that are not probabilities: row {wrong[0]} sums to "
            f"{sums[wrong[0]]:.6g}, its smallest entry is {rows[wrong[0]].min():.6g}. They are probably counts or "
            "logits. Try dividing each row by its sum, or integer labels."
        )
    return rows.astype(dtype)


def mask_labels(labels: ArrayLike, lengths: ArrayLike, ignore: int) -> Array:
    """Return the labels (N, T) of padded sequences with `ignore` after the end of each.

    The lengths (N,) are the numbers of steps that count, 0 to T. `SoftmaxCrossEntropy` takes the same `ignore`.

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
            "The lengths, one per sample, may be those before the cut. Try numpy.minimum(lengths, labels.shape[1])."
        )
    steps = np.arange(labels.shape[1])
    return np.where(steps < lengths[:, np.newaxis], labels, ignore)


class BinaryCrossEntropy(LossFunction):
    """``mean over samples of -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))``.

    Outputs are logits z, (N, 1) or (N,): no sigmoid layer in front. Targets t in [0, 1] are (N,) or (N, 1).
    """

    def value(self, outputs: Array, targets: Array) -> Any:
        """Compute ``mean of t softplus(-z) + (1 - t) softplus(z)``, because ``-log sigmoid(z) = softplus(-z)``."""
        z, t = self._columns(outputs, targets)
        return np.mean(t * softplus(-z) + (1 - t) * softplus(z))

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Compute ``(sigmoid(z) - t) / N``, because sigmoid is the derivative of softplus."""
        z, t = self._columns(outputs, targets)
        # sigmoid(z) - t = (1 - t) sigmoid(z) - t sigmoid(-z), which keeps its digits where sigmoid(z) is near t.
        slopes = np.asarray(((1 - t) * sigmoid(z) - t * sigmoid(-z)) / len(z))
        return slopes.reshape(outputs.shape)

    def predict_proba(self, outputs: Array) -> Array:
        """Return the probability (N,) of class 1."""
        return sigmoid(outputs.reshape(-1))

    def predict(self, outputs: Array) -> Array:
        """Return the label (N,), 0 or 1."""
        return (outputs.reshape(-1) > 0).astype(np.intp)

    def accuracy(self, outputs: Array, targets: Array) -> float:
        """Return the fraction of samples whose logit is on the target's side of zero."""
        z, t = self._columns(outputs, targets)
        return float(np.mean((z > 0) == (t > 0.5)))

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return {"accuracy": self.accuracy(outputs, targets)}

    def _columns(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        """Return logits and targets, both (N,): a column minus a row would silently be a matrix."""
        targets = np.asarray(targets)
        if not (_is_column(outputs) and _is_column(targets) and len(outputs) == len(targets)):
            raise self._misfit(outputs, targets, "Give one logit and one target a sample. Try Dense(..., 1) last.")
        wrong = targets[~((targets >= 0) & (targets <= 1))]  # so that NaN is wrong, too
        if wrong.size:
            raise InvalidProblem(
                f"BinaryCrossEntropy got {wrong.size} target(s) outside [0, 1], such as {wrong[0]}. The classes may "
                "be -1 and 1, or 1 and 2. Try (targets == targets.max()).astype(int)."
            )
        return outputs.reshape(-1), targets.reshape(-1).astype(outputs.real.dtype)


def _is_column(array: Array) -> bool:
    return array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)


class MeanSquaredError(LossFunction):
    """``mean over all entries of (y - t)^2``: over samples and columns, without a factor 1/2.

    Outputs y are (N, K); targets t have the same shape, or (N,) for a single column.
    """

    def value(self, outputs: Array, targets: Array) -> Any:
        """Compute ``sum of (y - t)^2 / number of entries``."""
        difference = self._difference(outputs, targets)
        return np.mean(difference * difference)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Compute ``2 (y - t) / number of entries``."""
        return np.asarray(2 * self._difference(outputs, targets) / outputs.size)

    def predict_proba(self, outputs: Array) -> Array:
        """Raise `InvalidProblem`, because a regression has no probabilities."""
        raise InvalidProblem(
            f"{type(self).__name__} has no probabilities: it fits numbers, not classes. Try predict, or a loss for "
            "classes, SoftmaxCrossEntropy or BinaryCrossEntropy."
        )

    def predict(self, outputs: Array) -> Array:
        """Return the outputs themselves."""
        return outputs

    def _difference(self, outputs: Array, targets: Array) -> Array:
        """Return ``y - t`` in the shape and the precision of the outputs."""
        targets = np.asarray(targets)
        if targets.shape != outputs.shape and not (_is_column(outputs) and targets.shape == outputs.shape[:1]):
            raise self._misfit(outputs, targets, "They would broadcast. Try a last layer as wide as the targets.")
        return np.asarray(outputs - targets.reshape(outputs.shape).astype(outputs.real.dtype))


class Huber(MeanSquaredError):
    """``mean over all entries of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)``, with ``d = y - t``.

    Huber, "Robust estimation of a location parameter" (1964). Outputs and targets as for `MeanSquaredError`.

    Parameters
    ----------
    delta : float
        Where the parabola continues as a straight line; positive.

    Examples
    --------
    >>> print(Huber().value(np.array([[0.5], [3.0]]), np.zeros((2, 1))))  # (0.125 + 2.5) / 2
    1.3125
    """

    def __init__(self, delta: float = 1.0) -> None:
        POSITIVE.check("Huber", "From there on the loss grows in a line. Try 1, or MeanSquaredError.", delta=delta)
        self.delta = float(delta)

    def value(self, outputs: Array, targets: Array) -> Any:
        """Compute the mean of ``d^2 / 2`` near the target and of ``delta (|d| - delta / 2)`` far from it."""
        size = magnitude(self._difference(outputs, targets))
        return np.mean(np.where(size.real <= self.delta, size * size / 2, self.delta * (size - self.delta / 2)))

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Compute ``d / number of entries``, with d cut off at -delta and delta, the slopes of the two lines."""
        return np.asarray(np.clip(self._difference(outputs, targets), -self.delta, self.delta) / outputs.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.delta:g})"


class Masked(LossFunction):
    """Another loss over those entries alone whose target is a number: NaN marks what is not known, or padding.

    The loss is one that looks at each entry by itself: `MeanSquaredError`, `Huber`, `BinaryCrossEntropy`; for labels
    see ``ignore`` of `SoftmaxCrossEntropy`. Outputs have any shape, such as (N, T) or (N, T, 1) for sequences; targets
    have the same, or lack the last column. A batch without any known target has a loss of zero.

    Examples
    --------
    >>> loss = Masked(MeanSquaredError())
    >>> print(loss.value(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 0.0, np.nan]])))  # (0 + 4) / 2
    2.0
    """

    def __init__(self, loss: LossFunction) -> None:
        require(
            not isinstance(loss, SoftmaxCrossEntropy),
            f"Masked got {loss!r}, whose outputs only make sense together. Try SoftmaxCrossEntropy(ignore=-1), and the "
            "label -1 for what does not count.",
        )
        self.loss = loss

    def value(self, outputs: Array, targets: Array) -> Any:
        t, known = self._known(outputs, targets)
        return self.loss.value(outputs[known], t[known]) if known.any() else outputs.dtype.type(0)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """Compute the loss's gradient where the target is known, and zero elsewhere."""
        t, known = self._known(outputs, targets)
        slopes = np.zeros_like(outputs)
        if known.any():
            slopes[known] = self.loss.gradient(outputs[known], t[known])
        return slopes

    def predict_proba(self, outputs: Array) -> Array:
        return self.loss.predict_proba(outputs)

    def predict(self, outputs: Array) -> Array:
        return self.loss.predict(outputs)

    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Return the loss's figures over the known entries; NaN where there are none."""
        t, known = self._known(outputs, targets)
        if known.any():
            return self.loss.metrics(outputs[known], t[known])
        return dict.fromkeys(self.loss.metrics(np.zeros(1), np.zeros(1)), float("nan"))

    def _known(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        """Return the targets in the shape of the outputs, and which of them are known."""
        targets = np.asarray(targets)
        if targets.shape not in (outputs.shape, outputs.shape[:-1]) or targets.size != outputs.size:
            raise self._misfit(outputs, targets, "Each output needs a target, or NaN. Try another last layer.")
        t = targets.reshape(outputs.shape)
        return t, ~np.isnan(t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loss!r})"


class Penalty(Protocol):
    """A function of the parameters and its gradient."""

    def value(self, params: Params) -> Any:
        """Return the penalty: one number, complex when the parameters are."""

    def gradient(self, params: Params) -> dict[str, Array]:
        """Return its gradient, for those parameters that it depends on."""


@dataclass(frozen=True)
class L2:
    """``strength / 2 * sum of W^2`` over the weights, never the biases.

    Weights are the parameters whose name ends in "W" or, for a recurrent layer, in "U". Where a course writes
    lambda / (2 m) * sum of W^2, with m the size of the training *set*, it is ``strength = lambda / m``; for
    lambda / m * sum of W^2 it is ``strength = 2 * lambda / m``.

    Parameters
    ----------
    strength : float
        Factor of W in the gradient; zero or more, or `InvalidProblem` is raised.

    Examples
    --------
    >>> params = {"dense1.W": np.array([[1.0, 2.0]]), "dense1.b": np.array([3.0])}
    >>> print(L2(0.1).value(params), L2(0.1).gradient(params))
    0.25 {'dense1.W': array([[0.1, 0.2]])}
    """

    strength: float

    def __post_init__(self) -> None:
        NOT_NEGATIVE.check("L2", "A negative penalty rewards large weights. Try L2(1e-4).", strength=self.strength)

    def value(self, params: Params) -> Any:
        """Compute ``strength / 2 * sum of W^2``."""
        # W * W and never the square of an absolute value, so that a complex step passes through.
        total = np.sum([np.sum(W * W) for W in weights_of(params).values()])
        return total.dtype.type(self.strength / 2) * total

    def gradient(self, params: Params) -> dict[str, Array]:
        """Compute ``strength * W`` for each weight: the 2 of ``d(W^2)/dW = 2 W`` cancels the half in front."""
        return {name: float(self.strength) * W for name, W in weights_of(params).items()}


def weights_of(params: Params) -> dict[str, Array]:
    """Return the parameters that are weights and not biases, recognised by their names."""
    return {name: array for name, array in params.items() if name.rpartition(".")[2] in ("W", "U")}
