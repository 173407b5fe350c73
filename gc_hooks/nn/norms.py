"""Layers that normalise: batch norm over samples (and pixels), layer norm over features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import column_sums
from gc_hooks.nn.layers import Context, Layer


class Moments(NamedTuple):
    """Mean and variance (the mean square, not the unbiased estimate), and how many numbers they are of."""

    mean: Array
    variance: Array
    size: int


class Normalised(NamedTuple):
    """What batch norm's backward needs: ``z = (x - mean) / deviation``, and the moments where they were x's own."""

    values: Array
    deviation: Array
    moments: Moments | None


class _Norm(Layer):
    """What both have in common: ``y = gamma z + beta`` for each of the features, which stand last."""

    def __init__(self, features: int, *, epsilon: float = 1e-5) -> None:
        if features < 1 or not epsilon > 0:
            raise InvalidProblem(
                f"{type(self).__name__} got features={features}, epsilon={epsilon}. The first is the length of the "
                "last axis (units, or channels of images), at least 1; without the second, a feature that never "
                "changes divides zero by zero. Try 1e-5 for it."
            )
        self.features, self.epsilon = features, float(epsilon)

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """gamma (D,) of ones and beta (D,) of zeros."""
        return {"gamma": np.ones(self.features, dtype), "beta": np.zeros(self.features, dtype)}

    def _check(self, inputs: Array) -> None:
        if inputs.ndim >= 2 and inputs.shape[-1] == self.features:
            return
        raise InvalidProblem(
            f"{self!r} got inputs of shape {inputs.shape} where the last of at least two axes should have "
            f"{self.features}. Features, or the channels of images, come last: the layer before may have another "
            "width, or channels first. Try another argument here, or inputs.transpose(0, 2, 3, 1)."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.features})"


class LayerNorm(_Norm):
    """``y = gamma (x - mean) / sqrt(variance + epsilon) + beta``, with the moments of each sample over its features.

    Ba, Kiros and Hinton, "Layer normalization" (2016). Features are the last axis; there may be others before it.

    Parameters
    ----------
    features : int
        Length D of the last axis.
    epsilon : float
        Keeps the root away from zero.

    Raises
    ------
    InvalidProblem
        A number is out of its range; in `forward`, when the last axis has another length.

    Examples
    --------
    >>> layer = LayerNorm(2)
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> layer.forward(params, np.array([[1.0, 3.0], [30.0, 10.0]]), Context())[0].round(3)
    array([[-1.,  1.],
           [ 1., -1.]])
    """

    kind = "layernorm"

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        """``y = gamma z + beta``; the cache is z and the deviations."""
        self._check(inputs)
        centred = inputs - _mean(inputs)
        deviation = np.sqrt(_mean(centred * centred) + self.epsilon)  # squares: a complex step passes through
        z = centred / deviation
        return params["gamma"] * z + params["beta"], (z, deviation)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dgamma = sum of dy z``, ``dbeta = sum of dy``, ``dx = (dz - mean(dz) - z mean(dz z)) / deviation``.

        With ``dz = gamma dy``. Both moments depend on x, which gives the two means, each over a sample's features.
        """
        (z, deviation), dz = cache, params["gamma"] * upstream
        grads = {"gamma": column_sums(upstream * z), "beta": column_sums(upstream)}
        return (dz - _mean(dz) - z * _mean(dz * z)) / deviation, grads


class BatchNorm(_Norm):
    """``y = gamma (x - mean) / sqrt(variance + epsilon) + beta``, with the moments of each feature over the batch.

    Ioffe and Szegedy, "Batch normalization" (2015), algorithms 1 and 2. Features are the last axis: (N, D), or images
    (N, H, W, C), whose moments are over the pixels too. In training mode the moments are the batch's, and the loss is a
    function of them; in evaluation mode they are running averages. Those are the layer's state, "batchnorm1.mean" and
    "batchnorm1.variance" in `Sequential.state`: forward never moves them, so that a check leaves no trace, and the
    trainer's step does, through `Sequential.observe`.

    Parameters
    ----------
    features : int
        Length D of the last axis.
    epsilon : float
        Keeps the root away from zero.
    momentum : float
        Share of the newest batch in the running averages, in (0, 1].

    Raises
    ------
    InvalidProblem
        A number is out of its range; in `forward`, when the last axis has another length.

    Notes
    -----
    A bias in front of it has no gradient: the mean takes it off again. A batch of one sample without pixels becomes
    beta, and nothing below gets a gradient.

    Examples
    --------
    >>> layer = BatchNorm(2)
    >>> params = {**layer.init(np.random.default_rng(0), np.float64), **layer.init_state(np.float64)}
    >>> inputs = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> outputs, cache = layer.forward(params, inputs, Context(training=True))
    >>> np.round(outputs, 3), layer.observed(params, cache)["mean"]
    (array([[-1., -1.],
           [ 1.,  1.]]), array([0.2, 2. ]))
    """

    kind = "batchnorm"

    def __init__(self, features: int, *, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(features, epsilon=epsilon)
        if not 0 < momentum <= 1:
            raise InvalidProblem(
                f"BatchNorm got momentum={momentum}, outside (0, 1]. It is the share of the newest batch in the "
                "running averages, and not what is kept of them. Try 0.1."
            )
        self.momentum = float(momentum)

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """Running mean (D,) of zeros and variance (D,) of ones."""
        return {"mean": np.zeros(self.features, dtype), "variance": np.ones(self.features, dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Normalised]:
        """``y = gamma z + beta``; the cache is z, the deviations and, in training mode, the batch's moments."""
        self._check(inputs)
        found = _moments(inputs) if context.training else Moments(params["mean"], params["variance"], 0)
        deviation = np.sqrt(found.variance + self.epsilon)
        cache = Normalised((inputs - found.mean) / deviation, deviation, found if context.training else None)
        return params["gamma"] * cache.values + params["beta"], cache

    def backward(self, params: Params, cache: Normalised, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dgamma = sum of dy z``, ``dbeta = sum of dy``, ``dx = gamma / deviation (dy - mean(dy) - z mean(dy z))``.

        The unnumbered equations of section 3 of the paper, with the sums over the batch written as means: both moments
        depend on x. In evaluation mode they do not, and ``dx = gamma / deviation dy``.
        """
        grads = {"gamma": column_sums(upstream * cache.values), "beta": column_sums(upstream)}
        slope = params["gamma"] / cache.deviation
        if cache.moments is None:
            return slope * upstream, grads
        size = float(max(cache.moments.size, 1))
        return slope * (upstream - grads["beta"] / size - cache.values * (grads["gamma"] / size)), grads

    def observed(self, params: Params, cache: Any) -> dict[str, Array]:
        """``running <- (1 - momentum) running + momentum batch``, with the unbiased variance ``n / (n - 1) var``."""
        if cache.moments is None:
            return {}
        mean, variance, size = cache.moments
        unbiased = variance * (size / max(size - 1, 1))
        latest = {"mean": mean, "variance": unbiased}
        return {name: params[name] + self.momentum * (batch - params[name]) for name, batch in latest.items()}


def _moments(x: Array) -> Moments:
    """Of each column, over samples and pixels."""
    size = x.size // x.shape[-1]
    mean = column_sums(x) / float(max(size, 1))
    centred = x - mean
    return Moments(mean, column_sums(centred * centred) / float(max(size, 1)), size)


def _mean(x: Array) -> Array:
    """Of each sample, over its features."""
    mean: Array = x.mean(axis=-1, keepdims=True)
    return mean
