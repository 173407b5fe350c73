"""What stands before and after a recurrent layer: symbols to vectors, and one layer at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.layers import Context, Layer


class Embedding(Layer):
    """``Y = W[ids]``: a row of W for each symbol.

    Symbols are not numbers that a loss could have a slope for: the layer stands first, and checks leave its input out.

    Parameters
    ----------
    symbols : int
        How many there are, V: the ids are whole numbers from 0 to V - 1, in the type of the model's parameters.
    features : int
        Number of features D of each.

    Raises
    ------
    InvalidProblem
        A number is below 1; in `forward`, when an id is no whole number, lies outside [0, V), or the type is too coarse
        for V ids.

    Examples
    --------
    >>> layer = Embedding(4, 2)
    >>> ids = np.array([[0, 3, 3]])
    >>> outputs, cache = layer.forward({"W": np.arange(8.0).reshape(4, 2)}, ids, Context())
    >>> outputs
    array([[[0., 1.],
            [6., 7.],
            [6., 7.]]])
    >>> layer.backward({}, cache, np.ones_like(outputs))[1]["W"][:, 0]  # what is read twice gets both gradients
    array([1., 0., 0., 2.])
    """

    kind = "embedding"
    discrete = True

    def __init__(self, symbols: int, features: int) -> None:
        if symbols < 1 or features < 1:
            raise InvalidProblem(
                f"Embedding({symbols}, {features}) has no symbols or no features. The alphabet was probably counted in "
                "an empty text. Give two numbers that are at least 1."
            )
        self.symbols = symbols
        self.features = features

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """W (V, D) with normal entries of variance ``1 / D``: every row is about as long as one."""
        return {"W": generator.normal(0, np.sqrt(1 / self.features), (self.symbols, self.features)).astype(dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``Y = W[ids]``: (N, ...) to (N, ..., D); the cache is the ids."""
        ids = self._checked(inputs)
        return params["W"][ids], ids

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dW[v] = sum of dY over all places where v stands``; for the symbols themselves zeros."""
        gradient = np.zeros((self.symbols, self.features), upstream.dtype)
        np.add.at(gradient, cache.ravel(), upstream.reshape(-1, self.features))  # gradient[ids] += would keep the last
        return np.zeros(cache.shape, upstream.dtype), {"W": gradient}

    def _checked(self, inputs: Array) -> Array:
        numbers = inputs.real
        wrong = numbers[~((numbers >= 0) & (numbers < self.symbols) & (numbers == np.floor(numbers)))]
        if wrong.size:
            raise InvalidProblem(
                f"{self!r} got {wrong.size} input(s) that are no ids from 0 to {self.symbols - 1}, such as {wrong[0]}. "
                "Ids that count from 1, text with symbols that are not in the alphabet, or a layer in front. Try "
                "Embedding as the first layer, with one more symbol for what is unknown."
            )
        if numbers.dtype.kind == "f" and self.symbols > 2 / float(np.finfo(numbers.dtype).eps):
            raise InvalidProblem(
                f"{self!r} got its ids as {numbers.dtype}, in which not every number below {self.symbols} exists: "
                "neighbouring symbols would be taken for each other. Try a model with dtype=numpy.float32."
            )
        return numbers.astype(np.intp)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.symbols}, {self.features})"


class EachStep(Layer):
    """The same layer at every step: (N, T, ...) is handed to it as N T samples.

    Parameters
    ----------
    layer : Layer
        One that takes rows, such as `Dense`; its parameters are named as if it stood alone ("dense1.W").

    Raises
    ------
    InvalidProblem
        In `forward`, when the inputs have no steps.

    Examples
    --------
    >>> from gc_hooks.nn import Dense
    >>> layer = EachStep(Dense(3, 2))
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> layer.forward(params, np.ones((5, 7, 3)), Context())[0].shape
    (5, 7, 2)
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.kind = layer.kind or type(layer).__name__.lower()
        self.truncation = layer.truncation

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Those of the layer."""
        return self.layer.init(generator, dtype)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Any]:
        """(N, T, ...) to (N, T, ...)."""
        if inputs.ndim < 3:
            raise InvalidProblem(
                f"{self!r} got inputs of shape {inputs.shape} where (samples, steps, ...) is needed. A layer before "
                "may have kept the last step only. Try last_step=False there, or the layer without EachStep."
            )
        outputs, cache = self.layer.forward(params, _rows(inputs), context)
        return outputs.reshape(*inputs.shape[:2], *outputs.shape[1:]), cache

    def backward(self, params: Params, cache: Any, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """The layer's own, of N T samples."""
        below, grads = self.layer.backward(params, cache, _rows(upstream))
        return below.reshape(*upstream.shape[:2], *below.shape[1:]), grads

    def detached(self, params: Params, inputs: Array, context: Context) -> EachStep:
        """The same with the layer detached."""
        return EachStep(self.layer.detached(params, _rows(inputs), context))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer!r})"


def _rows(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])
