"""Activations: functions of each number by itself, y = f(x), without parameters, and softmax over each row.

By the chain rule ``dx = dy f'(x)``, with dy the derivative of the loss with respect to y. Each `forward` computes the
formula of its class, and remembers what makes f' cheap: often y itself. A complex x is the point plus a complex step,
so branches look at its real part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.nn.functions import normal_cdf, normal_pdf, sigmoid, softplus
from gc_hooks.nn.layers import Context, Layer
from gc_hooks.nn.ranges import POSITIVE


class ReLU(Layer):
    """``x`` where x > 0, else 0; the slope at exactly 0 is taken as 0. A NaN stays NaN."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        passed = ~(inputs.real <= 0)  # not x > 0, which would stop a NaN
        if np.iscomplexobj(inputs):  # np.maximum compares complex numbers in another way; np.where is 10 times as slow
            return np.where(passed, inputs, 0), passed
        return np.maximum(inputs, 0), passed

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy where x > 0, else 0``."""
        return upstream * cache, {}


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """``x`` where x > 0, else ``slope * x``; the slope at exactly 0 is that of the negative side."""

    slope: float = 0.01

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        positive = inputs.real > 0
        return np.where(positive, inputs, float(self.slope) * inputs), positive

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy where x > 0, else slope * dy``."""
        return np.where(cache, upstream, float(self.slope) * upstream), {}


@dataclass(frozen=True)
class ELU(Layer):
    """``x`` where x > 0, else ``alpha (exp(x) - 1)``; the slope at exactly 0 is that of the negative side.

    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear units" (2016),
    equation 15.

    Parameters
    ----------
    alpha : float
        Minus the limit on the far left; positive.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        POSITIVE.check("ELU", "It is minus the limit on the far left. Try 1.0, or the layer ReLU.", alpha=self.alpha)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        positive = inputs.real > 0
        bent = np.where(positive, 0, inputs)  # exp of a large positive x would overflow
        return np.where(positive, inputs, float(self.alpha) * np.expm1(bent)), (positive, np.exp(bent))

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy where x > 0, else dy alpha exp(x)``."""
        positive, exponential = cache
        return upstream * np.where(positive, 1, float(self.alpha) * exponential), {}


class Sigmoid(Layer):
    """``1 / (1 + exp(-x))``, without overflow."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        outputs = sigmoid(inputs)
        return outputs, outputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy y (1 - y)``, because ``y' = exp(-x) / (1 + exp(-x))^2 = y (1 - y)``."""
        return upstream * cache * (1 - cache), {}


class Tanh(Layer):
    """``tanh(x)``."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        outputs = np.tanh(inputs)
        return outputs, outputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy (1 - y^2)``."""
        return upstream * (1 - cache * cache), {}


class Softplus(Layer):
    """``log(1 + exp(x))``, without overflow: a smooth ReLU."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        return softplus(inputs), inputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy sigmoid(x)``, because ``y' = exp(x) / (1 + exp(x))``."""
        return upstream * sigmoid(cache), {}


class GELU(Layer):
    """``x Phi(x)``, with Phi the distribution function of a standard normal variable.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016).

    Examples
    --------
    >>> GELU().forward({}, np.array([[-1.0, 0.0, 1.0]]), Context())[0].round(4)
    array([[-0.1587,  0.    ,  0.8413]])
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        cdf = normal_cdf(inputs)
        return inputs * cdf, (inputs, cdf)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy (Phi(x) + x phi(x))``, the product rule with ``Phi' = phi``, the density."""
        x, cdf = cache
        return upstream * (cdf + x * normal_pdf(x)), {}


# The two constants of TanhGELU: Hendrycks and Gimpel's fit, and twice the density of the normal variable at 0.
CUBIC, ROOT = 0.044715, math.sqrt(2 / math.pi)


class TanhGELU(Layer):
    """``x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``, which differs from `GELU` by less than 5e-4.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016), section 2.
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        t = np.tanh(ROOT * inputs * (1 + CUBIC * inputs * inputs))
        return inputs * (1 + t) / 2, (inputs, t)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy ((1 + t) + x (1 - t^2) a'(x)) / 2``, with a(x) the argument of the tanh."""
        x, t = cache
        slope = ROOT * (1 + 3 * CUBIC * x * x)  # a'(x), from a(x) = ROOT (x + CUBIC x^3)
        return upstream * ((1 + t) + x * (1 - t * t) * slope) / 2, {}


class Softmax(Layer):
    """``y_j = exp(x_j) / sum_k exp(x_k)`` over the last axis.

    It is not needed as the last layer: `SoftmaxCrossEntropy` takes the numbers before it, and is more precise.

    Examples
    --------
    >>> Softmax().forward({}, np.array([[1000.0, 1000.0]]), Context())[0]
    array([[0.5, 0.5]])
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        # Subtracting a row's largest number changes nothing, and keeps the exponentials from overflowing.
        exponentials = np.exp(inputs - inputs.real.max(axis=-1, keepdims=True))
        outputs = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return outputs, outputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx_k = y_k (dy_k - sum over j of dy_j y_j)``: every output depends on every input of its row.

        From ``dx_k = sum over j of dy_j (dy_j/dx_k)``, where the derivative is ``y_k (1 - y_k)`` for j = k and
        ``-y_j y_k`` for the others.
        """
        return cache * (upstream - (upstream * cache).sum(axis=-1, keepdims=True)), {}
