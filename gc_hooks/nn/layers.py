"""Layers: forward stands directly beside backward.

A layer holds only its configuration. Parameters come in and caches go out, so that the same layer can be run on other
parameters, in another precision or along a complex step, without touching anything that a training run needs.
Rows are samples: N of them, D inputs, H outputs.
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
from gc_hooks.nn.functions import sigmoid

Initializer: TypeAlias = Callable[[Generator, int, int], Array]


def he(generator: Generator, fan_in: int, fan_out: int) -> Array:
    """Normal entries of variance ``2 / fan_in``, for layers that a ReLU follows.

    He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015), equation 10.

    Returns
    -------
    ndarray, (fan_in, fan_out)
    """
    return generator.normal(0.0, np.sqrt(2 / fan_in), (fan_in, fan_out))


def glorot(generator: Generator, fan_in: int, fan_out: int) -> Array:
    """Uniform entries within ``sqrt(6 / (fan_in + fan_out))``, for layers that a tanh or sigmoid follows.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010), equation 16.

    Returns
    -------
    ndarray, (fan_in, fan_out)
    """
    limit = np.sqrt(6 / (fan_in + fan_out))
    return generator.uniform(-limit, limit, (fan_in, fan_out))


@dataclass(frozen=True)
class Context:
    """How a forward pass is to be run.

    Attributes
    ----------
    training : bool
        Training or evaluation mode.
    generator : numpy.random.Generator, optional
        Where training mode draws its dropout masks from. ``None`` forces dropout's rate to zero and stays in training
        mode, which is how a gradient check turns dropout off.
    """

    training: bool = False
    generator: Generator | None = None

    def again(self) -> Context:
        """The same with a copy of the generator, so that the same masks can be drawn twice."""
        return self if self.generator is None else Context(self.training, copy.deepcopy(self.generator))


class Place(NamedTuple):
    """A layer where it stands: ``2.1 Dense`` is the first one inside of the second."""

    name: str
    path: str
    """What its arrays' names begin with, such as "residual1.dense1."."""
    layer: Layer
    params: dict[str, Array]
    """Its own, and its state, by their short names."""
    inputs: Array


class Layer(ABC):
    """Base class: a differentiable function of its parameters and its inputs.

    Attributes
    ----------
    kind : str
        What the parameters are called by ("dense1.W"): the class's name in lower case, unless a class says otherwise.
        It is inherited where it was said, so that a dense layer with another backward is still a "dense".
    discrete : bool
        Whether the inputs are symbols, for which there is no slope.
    truncation : int or None
        Number of steps after which backward takes the state for a constant, where it does so (see `detached`).
    """

    kind = ""
    discrete = False
    truncation: int | None = None

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Fresh parameters by their short names, such as ``{"W": ..., "b": ...}``; none unless overridden."""
        return {}

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """What the layer keeps beside its parameters, such as running statistics; nothing unless overridden."""
        return {}

    @abstractmethod
    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Any]:
        """Outputs for the inputs, and a cache of what `backward` needs; beside the parameters stands the state."""

    @abstractmethod
    def backward(self, params: Params, cache: Any, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """From the loss's gradient for the outputs: that for the inputs, and those for the parameters."""

    def detached(self, params: Params, inputs: Array, context: Context) -> Layer:
        """The layer whose slope backward computes: what that takes for a constant is held at what it is here."""
        return self

    def observed(self, params: Params, cache: Any) -> dict[str, Array]:
        """The state after a training step with this cache; forward itself changes none, so that it stays pure."""
        return {}

    def inside(self) -> Iterator[Layer]:
        """The layers inside of this one; none unless overridden."""
        return iter(())

    def places(self, params: Params, inputs: Array, context: Context) -> Iterator[Place]:
        """The same, each with its input, when this one gets these."""
        return iter(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Dense(Layer):
    """``Y = X W + b``.

    Parameters
    ----------
    inputs, outputs : int
        Number of features D that come in and H that go out.
    init : callable
        `he` (default), `glorot`, or any function of (generator, fan_in, fan_out) that returns W.

    Raises
    ------
    InvalidProblem
        When a width is below 1; in `forward`, when the inputs are not (N, D).

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
        if inputs < 1 or outputs < 1:
            raise InvalidProblem(
                f"Dense({inputs}, {outputs}) has a side without units. "
                "A width was probably computed from an empty array. Give two numbers that are at least 1."
            )
        self.inputs = inputs
        self.outputs = outputs
        self.initializer = init

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """W (D, H) from the initializer, drawn in float64 whatever the dtype, and b (H,) of zeros."""
        weights = self.initializer(generator, self.inputs, self.outputs)
        return {"W": weights.astype(dtype), "b": np.zeros(self.outputs, dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``Y = X W + b``: (N, D) to (N, H)."""
        self._check(inputs)
        return inputs @ params["W"] + params["b"], inputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dX = dY W^T``, ``dW = X^T dY``, ``db = sum over the rows of dY``."""
        grads = {"W": cache.T @ upstream, "b": upstream.sum(axis=0)}  # (D, N)(N, H) and (H,)
        return upstream @ params["W"].T, grads  # (N, H)(H, D)

    def _check(self, inputs: Array) -> None:
        if inputs.ndim == 2 and inputs.shape[1] == self.inputs:
            return
        raise InvalidProblem(
            f"{self!r} got inputs of shape {inputs.shape} where (samples, {self.inputs}) is needed. "
            "Rows are samples, columns are features: the data may be transposed, not flattened or a single sample, or "
            "the layer before has another width. Try inputs.reshape(len(inputs), -1), inputs[np.newaxis], or another "
            "first argument of Dense."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inputs}, {self.outputs})"


class ReLU(Layer):
    """``max(x, 0)``; the slope at exactly 0 is taken as 0. A NaN stays NaN."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``y = x where x > 0, else 0``; the cache is the mask of what passed."""
        passed = ~(inputs.real <= 0)
        # np.where is ten times as slow as maximum, which compares complex numbers in another way.
        return np.where(passed, inputs, 0) if np.iscomplexobj(inputs) else np.maximum(inputs, 0), passed

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy where x > 0, else 0``."""
        return upstream * cache, {}


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """``x`` where x > 0, else ``slope * x``; the slope at exactly 0 is that of the negative side.

    Parameters
    ----------
    slope : float
        Slope of the negative side.
    """

    slope: float = 0.01

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``y = x where x > 0, else slope * x``; the cache is the mask of the positive side."""
        positive = inputs.real > 0
        return np.where(positive, inputs, float(self.slope) * inputs), positive

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy where x > 0, else slope * dy``."""
        return np.where(cache, upstream, float(self.slope) * upstream), {}


class Tanh(Layer):
    """``tanh(x)``."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``y = tanh(x)``; the cache is y."""
        outputs = np.tanh(inputs)
        return outputs, outputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy (1 - y^2)``."""
        return upstream * (1 - cache * cache), {}


class Sigmoid(Layer):
    """``1 / (1 + exp(-x))``, without overflow."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``y = sigmoid(x)``; the cache is y."""
        outputs = sigmoid(inputs)
        return outputs, outputs

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy y (1 - y)``."""
        return upstream * cache * (1 - cache), {}


@dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout: in training mode zero each unit with probability `rate` and divide the others by ``1 - rate``.

    Srivastava et al., "Dropout" (2014); scaling at training time leaves nothing to do in evaluation mode, where the
    layer is the identity. It is the identity, too, in training mode without a generator (see `Context`).

    Parameters
    ----------
    rate : float
        Probability of dropping a unit, in [0, 1).

    Raises
    ------
    InvalidProblem
        When the rate is outside [0, 1).
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InvalidProblem(
                f"Dropout got rate={self.rate}, outside [0, 1). The rate is the probability of dropping a unit, not a "
                "percentage; 1 would drop everything. Try Dropout(0.2), or 1 - keep_probability."
            )

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array | None]:
        """``y = x * mask``, mask entries 0 or ``1 / (1 - rate)``; the cache is the mask, None when nothing is dropped.

        One draw per mask, in float64 whatever the inputs are: passes in two precisions see the same masks.
        """
        if not context.training or context.generator is None:
            return inputs, None
        kept = context.generator.random(inputs.shape) >= self.rate
        mask = kept.astype(inputs.real.dtype) / (1 - float(self.rate))
        return inputs * mask, mask

    def backward(self, params: Params, cache: Array | None, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy * mask``."""
        return (upstream if cache is None else upstream * cache), {}
