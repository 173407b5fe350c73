"""Layers that normalise: layer norm over a sample's features, batch norm over samples (and pixels).

Both compute ``z = (x - mean) / deviation`` with ``deviation = sqrt(variance + epsilon)``, and ``y = gamma z + beta``.
Mean and deviation depend on every one of the n numbers x that they are taken over, so the chain rule has three terms:

    dx_i = dz_i / deviation - (sum_j dz_j) / (n deviation) - z_i (sum_j dz_j z_j) / (n deviation)

The first goes through x_i itself, the second through the mean, the third through the deviation, whose derivative with
respect to x_i is ``z_i / n``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import require
from gc_hooks.nn.functions import column_sums
from gc_hooks.nn.layers import Cache, Context, Layer
from gc_hooks.nn.ranges import COUNT, POSITIVE


class Normalisation(Layer):
    """Base class of both: ``y = gamma z + beta`` for each feature. Features are the last axis.

    Parameters
    ----------
    features : int
        Length D of the last axis.
    epsilon : float
        Added to the variance, so that a feature that never changes does not divide by zero.
    """

    def __init__(self, features: int, *, epsilon: float = 1e-5) -> None:
        name = type(self).__name__
        COUNT.check(name, "It is the length of the last axis: units, or channels of images.", features=features)
        POSITIVE.check(name, "A feature that never changes would divide zero by zero. Try 1e-5.", epsilon=epsilon)
        self.features, self.epsilon = features, float(epsilon)

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Return gamma (D,) of ones and beta (D,) of zeros."""
        return {"gamma": np.ones(self.features, dtype), "beta": np.zeros(self.features, dtype)}

    def _check(self, inputs: Array) -> None:
        if inputs.ndim < 2 or inputs.shape[-1] != self.features:
            hint = "The layer before may have another width, or channels come first. Try inputs.transpose(0, 2, 3, 1)."
            raise self._misfit(inputs, f"(samples, ..., {self.features})", hint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.features})"


class LayerNorm(Normalisation):
    """``y = gamma z + beta``, with mean and variance of each sample (and step, or pixel) over its features.

    Ba, Kiros and Hinton, "Layer normalization" (2016). The arguments are those of `Normalisation`.

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
        """Compute ``y = gamma z + beta``; the cache is z and the deviations."""
        self._check(inputs)
        centred = inputs - inputs.mean(axis=-1, keepdims=True)
        # A square and not np.var, which takes absolute values, so that a complex step passes through.
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self.epsilon)
        z = centred / deviation
        return params["gamma"] * z + params["beta"], (z, deviation)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dgamma = sum of dy z``, ``dbeta = sum of dy``, and dx as above, with ``dz = gamma dy``."""
        (z, deviation), dz = cache, params["gamma"] * upstream
        grads = {"gamma": column_sums(upstream * z), "beta": column_sums(upstream)}
        mean, along_z = dz.mean(axis=-1, keepdims=True), (dz * z).mean(axis=-1, keepdims=True)
        return (dz - mean - z * along_z) / deviation, grads


class Moments(NamedTuple):
    """Moments of each column."""

    mean: Array  # (D,)
    variance: Array  # (D,), the biased one
    size: int  # number n of values that they are taken over


class Normalised(NamedTuple):
    """The cache of batch norm."""

    values: Array  # z
    deviation: Array
    moments: Moments | None  # the batch's, in training mode


class BatchNorm(Normalisation):
    """``y = gamma z + beta``, with mean and variance of each feature over the batch.

    Ioffe and Szegedy, "Batch normalization" (2015), algorithms 1 and 2. Inputs are (N, D), or images (N, H, W, C), for
    which mean and variance are over the pixels too. In training mode they are the batch's, and the loss is a function
    of them; in evaluation mode they are running averages: "batchnorm1.mean" and "batchnorm1.variance" in
    `Sequential.state`. Forward never moves these, so that a check leaves no trace; `Sequential.observe` does.

    Parameters
    ----------
    features, epsilon
        As for `Normalisation`.
    momentum : float
        Weight of the newest batch in the running averages, in (0, 1].

    Notes
    -----
    A bias in front of this layer has no gradient, because subtracting the mean removes it; nor has anything below for a
    batch of one sample without pixels.

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
        require(
            0 < momentum <= 1,
            f"BatchNorm got momentum={momentum}, outside (0, 1]. It is the weight of the newest batch. Try 0.1.",
        )
        self.momentum = float(momentum)

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """Return the running mean (D,) of zeros and variance (D,) of ones."""
        return {"mean": np.zeros(self.features, dtype), "variance": np.ones(self.features, dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Normalised]:
        """Compute ``y = gamma z + beta``, with the moments of the batch or the running ones."""
        self._check(inputs)
        mean, variance, moments = params["mean"], params["variance"], None
        if context.training:
            size = inputs.size // self.features  # samples, times pixels
            mean = column_sums(inputs) / float(max(size, 1))
            centred = inputs - mean
            variance = column_sums(centred * centred) / float(max(size, 1))
            moments = Moments(mean, variance, size)
        deviation = np.sqrt(variance + self.epsilon)
        z = (inputs - mean) / deviation
        return params["gamma"] * z + params["beta"], Normalised(z, deviation, moments)

    def backward(self, params: Params, cache: Normalised, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dgamma``, ``dbeta`` as above, and ``dx = gamma / deviation (dy - dbeta / n - z dgamma / n)``."""
        grads = {"gamma": column_sums(upstream * cache.values), "beta": column_sums(upstream)}
        slope = params["gamma"] / cache.deviation
        if cache.moments is None:  # evaluation mode: mean and deviation are constants, and the first term is all
            return slope * upstream, grads
        size = float(max(cache.moments.size, 1))  # gamma is the same for all n numbers, so the two sums are at hand
        return slope * (upstream - grads["beta"] / size - cache.values * (grads["gamma"] / size)), grads

    def observed(self, params: Params, cache: Cache) -> dict[str, Array]:
        """Compute ``running <- (1 - momentum) running + momentum batch``."""
        if cache.moments is None:
            return {}
        mean, variance, size = cache.moments
        unbiased = variance * (size / max(size - 1, 1))  # the estimate for the data that the batch was drawn from
        return {
            "mean": params["mean"] + self.momentum * (mean - params["mean"]),
            "variance": params["variance"] + self.momentum * (unbiased - params["variance"]),
        }
