"""What a layer is, how weights are initialised, and the two layers of every network: Dense and Dropout.

A layer holds only its configuration. Parameters come in and caches go out, so that the same layer can be run with other
parameters, in another precision or along a complex step, without touching anything that a training run needs.

Rows are samples: N of them, with D inputs and H outputs each. Y is what `forward` returns, and dY (``upstream``) is the
derivative of the loss with respect to Y, in its shape. Every `backward` is the chain rule, ``dX[i] = sum over j of
dY[j] * (derivative of Y[j] with respect to X[i])``, and the same for each parameter in place of X.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.ranges import COUNT, FRACTION

Cache: TypeAlias = Any
"""What a layer's forward pass leaves for its backward pass; every layer has a type of its own for it."""

Initializer: TypeAlias = Callable[[Generator, int, int], Array]
"""A function of (generator, fan_in, fan_out) that returns weights of shape (fan_in, fan_out)."""


@dataclass(frozen=True)
class Context:
    """How a forward pass is to be run.

    Attributes
    ----------
    training : bool
        Training or evaluation mode.
    generator : numpy.random.Generator, optional
        Draws the dropout masks in training mode; without it dropout's rate is zero, as in a gradient check.
    """

    training: bool = False
    generator: Generator | None = None

    def again(self) -> Context:
        """Return an equal context with a copy of the generator, so that the same masks can be drawn twice."""
        return Context(self.training, copy.deepcopy(self.generator))


class Layer(ABC):
    """Base class: a differentiable function of its parameters and its inputs.

    All layers refuse with `InvalidProblem` numbers out of their range and, in `forward`, inputs of a wrong shape.
    """

    kind = ""
    """What the parameters are called by ("dense1.W"), also in subclasses; if empty, the class's name in lower case."""
    discrete = False
    """True when the inputs are symbols, for which there is no slope."""
    truncation: int | None = None
    """Number of steps over which a gradient flows back, for a recurrent layer that truncates it (see `detached`)."""

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Draw fresh parameters, by their short names: ``{"W": ..., "b": ...}``. By default there are none."""
        return {}

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """Return what the layer keeps beside its parameters, such as running statistics. By default nothing."""
        return {}

    @abstractmethod
    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Cache]:
        """Return the outputs, and what `backward` needs; `params` also contains the layer's state."""

    @abstractmethod
    def backward(self, params: Params, cache: Cache, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Return the gradient for the inputs and those for the parameters, given the gradient for the outputs."""

    def detached(self, params: Params, inputs: Array, context: Context) -> Layer:
        """Return the layer whose slope `backward` computes: what backward takes for a constant here, is one there."""
        return self

    def observed(self, params: Params, cache: Cache) -> dict[str, Array]:
        """Return the state after a training step with this cache; `forward` itself stays pure and changes none."""
        return {}

    def inside(self) -> Iterator[Layer]:
        """Yield the layers inside of this one. By default there are none."""
        return iter(())

    def places(self, params: Params, inputs: Array, context: Context) -> Iterator[PlacedLayer]:
        """Yield the layers inside of this one with the input that each of them gets."""
        return iter(())

    def _misfit(self, inputs: Array, needed: str, hint: str) -> InvalidProblem:
        return InvalidProblem(f"{self!r} got inputs of shape {inputs.shape} where {needed} is needed. {hint}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class PlacedLayer(NamedTuple):
    """A layer at its place in a network."""

    name: str  # position and class: "2.1 Dense" is the first layer inside of the second one
    path: str  # how the full names of its arrays begin, such as "residual1.dense1."
    layer: Layer
    params: dict[str, Array]  # parameters and state by their short names
    inputs: Array


# Initialisers. A layer must neither amplify nor damp what passes through it, or deep networks cannot learn.


def he(generator: Generator, fan_in: int, fan_out: int) -> Array:
    """Draw normal entries of variance ``2 / fan_in``, for layers that a ReLU follows.

    He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015), equation 10.
    """
    # Each output sums fan_in terms, so entries of variance 1 / fan_in would keep the variance; ReLU halves it.
    return generator.normal(0.0, np.sqrt(2 / fan_in), (fan_in, fan_out))


def glorot(generator: Generator, fan_in: int, fan_out: int) -> Array:
    """Draw uniform entries within ``sqrt(6 / (fan_in + fan_out))``, for layers that a tanh or sigmoid follows.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010), equation 16.
    """
    # The variance is limit^2 / 3 = 2 / (fan_in + fan_out): a compromise between forward and backward pass.
    limit = np.sqrt(6 / (fan_in + fan_out))
    return generator.uniform(-limit, limit, (fan_in, fan_out))


def orthogonal(generator: Generator, fan_in: int, fan_out: int) -> Array:
    """Draw orthonormal columns (rows, if there are fewer), for weights that a state passes through again and again.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks"
    (2014), section 4.

    Examples
    --------
    >>> U = orthogonal(np.random.default_rng(0), 3, 3)
    >>> bool(np.allclose(U.T @ U, np.eye(3)))
    True
    """
    normal = generator.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out)))
    columns, triangle = np.linalg.qr(normal)
    columns *= np.where(np.diag(triangle) < 0, -1, 1)  # else the signs are the linear algebra library's choice
    return columns if fan_in >= fan_out else columns.T


class Dense(Layer):
    """``Y = X W + b``.

    Parameters
    ----------
    inputs, outputs : int
        Number of features D that come in and H that go out.
    init : callable
        `he` (default), `glorot`, `orthogonal`, or any function of (generator, fan_in, fan_out) that returns W.

    Examples
    --------
    >>> layer = Dense(3, 2)
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> outputs, cache = layer.forward(params, np.ones((5, 3)), Context())
    >>> outputs.shape, params["b"]
    ((5, 2), array([0., 0.]))
    """

    kind = "dense"

    def __init__(self, inputs: int, outputs: int, *, init: Initializer = he) -> None:
        hint = "A layer without units passes nothing on; the number may come from an empty array. Try Dense(4, 8)."
        COUNT.check("Dense", hint, inputs=inputs, outputs=outputs)
        self.inputs, self.outputs, self.initializer = inputs, outputs, init

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Return W (D, H) from the initialiser, drawn in float64 in any case, and b (H,) of zeros."""
        weights = self.initializer(generator, self.inputs, self.outputs)
        return {"W": weights.astype(dtype), "b": np.zeros(self.outputs, dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """Compute ``Y = X W + b``; the cache is X."""
        if inputs.ndim != 2 or inputs.shape[1] != self.inputs:
            hint = "Rows are samples: the data may be transposed or not flat, or the layer before has another width. "
            hint += "Try inputs.reshape(len(inputs), -1), inputs[np.newaxis], or another argument of Dense."
            raise self._misfit(inputs, f"(samples, {self.inputs})", hint)
        return inputs @ params["W"] + params["b"], inputs  # (N, D)(D, H) + (H,)

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dX = dY W^T``, ``dW = X^T dY`` and ``db = sum over the rows of dY``.

        From ``Y[n, h] = sum over d of X[n, d] W[d, h] + b[h]``: every sample uses each weight, so dW sums over n.
        """
        grads = {"W": cache.T @ upstream, "b": upstream.sum(axis=0)}  # (D, N)(N, H) and (H,)
        return upstream @ params["W"].T, grads  # (N, H)(H, D)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inputs}, {self.outputs})"


@dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout: in training mode zero each unit with probability `rate` and divide the others by ``1 - rate``.

    Srivastava et al., "Dropout" (2014). Scaling keeps the expected output, so that in evaluation mode the layer is the
    identity. It is the identity, too, in training mode without a generator (see `Context`).

    Parameters
    ----------
    rate : float
        Probability of dropping a unit, in [0, 1).
    """

    rate: float

    def __post_init__(self) -> None:
        FRACTION.check("Dropout", "It is the probability of dropping a unit. Try Dropout(0.2).", rate=self.rate)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array | None]:
        """Compute ``y = x * mask``, with mask entries 0 or ``1 / (1 - rate)``; the cache is the mask, or None."""
        if not context.training or context.generator is None:
            return inputs, None
        # One draw in float64 whatever the inputs are, so that passes in two precisions get the same mask.
        survives = context.generator.random(inputs.shape) >= self.rate
        mask = survives.astype(inputs.real.dtype) / (1 - float(self.rate))
        return inputs * mask, mask

    def backward(self, params: Params, cache: Array | None, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = dy * mask``."""
        return (upstream if cache is None else upstream * cache), {}
