"""More losses over numbers: `Huber`, which outliers cannot pull far, and `Masked`, for what is not known everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import magnitude
from gc_hooks.nn.losses import LossFunction, MeanSquaredError, SoftmaxCrossEntropy


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
