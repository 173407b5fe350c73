"""More activations: GELU in both forms, ELU, softplus, and softmax as a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import normal_cdf, normal_pdf, sigmoid, softplus
from gc_hooks.nn.layers import Context, Layer

CUBIC, ROOT = 0.044715, math.sqrt(2 / math.pi)


class GELU(Layer):
    """``x Phi(x)``, with Phi the distribution function of a standard normal variable.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016). Safe under complex step: see
    `gc_hooks.nn.functions.normal_cdf`.

    Examples
    --------
    >>> GELU().forward({}, np.array([[-1.0, 0.0, 1.0]]), Context())[0].round(4)
    array([[-0.1587,  0.    ,  0.8413]])
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        """``y = x Phi(x)``; the cache is x and Phi(x)."""
        below = normal_cdf(inputs)
        return inputs * below, (inputs, below)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy (Phi(x) + x phi(x))``, with phi the density."""
        x, below = cache
        return upstream * (below + x * normal_pdf(x)), {}


class TanhGELU(Layer):
    """``x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``, which is within 5e-4 of `GELU`.

    Hendrycks and Gimpel, "Gaussian error linear units" (2016), section 2.
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        """``y = x (1 + t) / 2`` with the tanh t; the cache is x and t."""
        t = np.tanh(ROOT * inputs * (1 + CUBIC * inputs * inputs))
        return inputs * (1 + t) / 2, (inputs, t)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy ((1 + t) + x (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2)) / 2``."""
        x, t = cache
        inner = ROOT * (1 + 3 * CUBIC * x * x)
        return upstream * ((1 + t) + x * (1 - t * t) * inner) / 2, {}


@dataclass(frozen=True)
class ELU(Layer):
    """``x`` where x > 0, else ``alpha (exp(x) - 1)``; the slope at exactly 0 is that of the negative side.

    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear units" (2016),
    equation 15.

    Parameters
    ----------
    alpha : float
        Minus the limit on the far left; positive.

    Raises
    ------
    InvalidProblem
        When alpha is not a positive number.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise InvalidProblem(
                f"ELU got alpha={self.alpha}. It is minus the limit on the far left; zero makes a ReLU of it and a "
                "negative one turns around. Give a positive number, such as 1.0, or use ReLU."
            )

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        """``y = x where x > 0, else alpha (exp(x) - 1)``; the cache is what passed, and exp(x)."""
        passed = inputs.real > 0
        bent = np.where(passed, 0, inputs)  # what passes must not overflow
        return np.where(passed, inputs, float(self.alpha) * np.expm1(bent)), (passed, np.exp(bent))

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy where x > 0, else dy alpha exp(x)``."""
        passed, exponential = cache
        return upstream * np.where(passed, 1, float(self.alpha) * exponential), {}


class Softplus(Layer):
    """``log(1 + exp(x))``, without overflow."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``y = log(1 + exp(x))``; the cache is x."""
        return softplus(inputs), inputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy / (1 + exp(-x))``."""
        return upstream * sigmoid(cache), {}


class Softmax(Layer):
    """``y_j = exp(x_j) / sum_k exp(x_k)`` over the last axis.

    As the last layer it is not needed: `SoftmaxCrossEntropy` takes the numbers before it, and is stabler for it.

    Examples
    --------
    >>> Softmax().forward({}, np.array([[1000.0, 1000.0]]), Context())[0]
    array([[0.5, 0.5]])
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``y = softmax(x)``, the same for x less its largest number; the cache is y."""
        exponentials = np.exp(inputs - inputs.real.max(axis=-1, keepdims=True))
        outputs = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return outputs, outputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = y (dy - sum over j of dy_j y_j)``: every output depends on every input of its row."""
        return cache * (upstream - (upstream * cache).sum(axis=-1, keepdims=True)), {}
