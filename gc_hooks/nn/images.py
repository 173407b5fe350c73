"""Layers for images: convolution, pooling and flattening. Images are (N, H, W, C), channels last.

A window covers kh x kw pixels. Backward passes add up what all windows give back to each pixel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import require
from gc_hooks.nn.functions import column_sums
from gc_hooks.nn.layers import Cache, Context, Initializer, Layer, he
from gc_hooks.nn.ranges import COUNT

Pair: TypeAlias = int | tuple[int, int]
"""Rows and columns, or one number for both."""


class Windowed(Layer):
    """Base class of the layers that look at images through windows; pixels left over at the far edges are in none."""

    def __init__(self, size: Pair, stride: Pair, padding: Pair = 0) -> None:
        self.size = _pair("size", size, 1)  # rows and columns of a window
        self.stride = _pair("stride", stride, 1)  # distance of the windows, in rows and columns
        self.padding = _pair("padding", padding, 0)  # rows and columns of zeros on each side of the image

    def _count(self, images: Array, channels: int | None = None) -> tuple[int, int]:
        """Return (OH, OW), the rows and columns of windows: ``(H + 2 p - k) // s + 1``; refuse what has none."""
        if images.ndim != 4 or (channels is not None and images.shape[3] != channels):
            hint = "The data may be flat, or have channels first. Try "
            hint += "inputs.reshape(len(inputs), height, width, -1), or inputs.transpose(0, 2, 3, 1)."
            raise self._misfit(images, f"(samples, height, width, {channels or 'channels'})", hint)
        rows = (images.shape[1] + 2 * self.padding[0] - self.size[0]) // self.stride[0] + 1
        columns = (images.shape[2] + 2 * self.padding[1] - self.size[1]) // self.stride[1] + 1
        if min(rows, columns) < 1:
            hint = "Strides and poolings before may have made them small. Try fewer of those, or a padding."
            raise self._misfit(images, f"room for a window of {self.size[0]}x{self.size[1]}", hint)
        return rows, columns

    def _offsets(self, padded: Array) -> Iterator[Array]:
        """Yield views (N, OH, OW, C) of padded images: for each position in a window, row by row, those pixels."""
        (rows, columns), (down, right) = self.size, self.stride
        for i, j in np.ndindex(self.size):
            # The last window begins at the latest at the row H - kh, and its row i is H - kh + i; so for columns.
            yield padded[:, i : padded.shape[1] - rows + i + 1 : down, j : padded.shape[2] - columns + j + 1 : right]

    def _folded(self, parts: Iterable[Array], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return images of this shape (N, H, W, C): the sum of what all windows give to each pixel.

        The parts (N, OH, OW, C) are what all windows give, for each position in a window, row by row.
        """
        (rows, columns), (samples, height, width, channels) = self.padding, shape
        padded = np.zeros((samples, height + 2 * rows, width + 2 * columns, channels), dtype)
        for view, part in zip(self._offsets(padded), parts, strict=True):
            view += part
        return padded[:, rows : rows + height, columns : columns + width]


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    """Return (rows, columns), given these or one number for both; each is at least the least."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    require(
        len(both) == 2 and all(isinstance(number, (int, np.integer)) and number >= least for number in both),
        f"{name}={value!r} is neither a whole number of at least {least} nor a pair (rows, columns) of them. "
        f"Try {name}={max(least, 1)}.",
    )
    return int(both[0]), int(both[1])


class Conv2D(Windowed):
    """``y[n, i, j, f] = b[f] + sum over (u, v, c) of x[n, s i + u - p, s j + v - p, c] W[u, v, c, f]``.

    It is a `Dense` layer that is applied to every window, and a cross-correlation, as in all libraries: W is not turned
    around. Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).

    Parameters
    ----------
    inputs, outputs : int
        Number of channels C that come in and F that go out.
    size, stride, padding : int or (int, int)
        In rows and columns of pixels: size of a window, distance between windows, zeros on each side.
    init : callable
        As for `Dense`, with fans ``kh kw C`` and F: `he` (default) or `glorot`.

    Examples
    --------
    >>> layer = Conv2D(1, 8, 3, padding=1)
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> params["W"].shape, layer.forward(params, np.ones((5, 10, 10, 1)), Context())[0].shape
    ((3, 3, 1, 8), (5, 10, 10, 8))
    """

    kind = "conv"

    def __init__(
        self, inputs: int, outputs: int, size: Pair = 3, *, stride: Pair = 1, padding: Pair = 0, init: Initializer = he
    ) -> None:
        hint = "These are numbers of channels, and a grey image has one. Try Conv2D(1, 8)."
        COUNT.check("Conv2D", hint, inputs=inputs, outputs=outputs)
        self.inputs, self.outputs, self.initializer = inputs, outputs, init
        super().__init__(size, stride, padding)

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Return W (kh, kw, C, F) from the initialiser, drawn in float64 in any case, and b (F,) of zeros."""
        shape = *self.size, self.inputs, self.outputs
        weights = self.initializer(generator, math.prod(shape[:3]), self.outputs)
        return {"W": weights.reshape(shape).astype(dtype), "b": np.zeros(self.outputs, dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Cache]:
        """Compute ``Y = X W + b`` with the windows as the rows of X; the cache is X and the shapes before and after."""
        shape = len(inputs), *self._count(inputs, self.inputs), self.outputs
        (rows, columns), (down, right) = self.padding, self.stride
        images = inputs
        if rows or columns:
            samples, height, width, channels = inputs.shape
            images = np.zeros((samples, height + 2 * rows, width + 2 * columns, channels), inputs.dtype)
            images[:, rows : rows + height, columns : columns + width] = inputs
        windows = sliding_window_view(images, self.size, axis=(1, 2))[:, ::down, ::right]  # (N, OH, OW, C, kh, kw)
        X = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, math.prod(self.size) * self.inputs)
        W, b = params["W"].reshape(-1, self.outputs), params["b"]
        outputs = np.matmul(X, W, dtype=np.result_type(X, W, b))  # (N OH OW, kh kw C)(kh kw C, F)
        outputs += b
        return outputs.reshape(shape), (X, inputs.shape, shape)

    def backward(self, params: Params, cache: Cache, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dW = X^T dY``, ``db = sum of dY``, and ``dX = dY W^T``, added up where windows overlap."""
        X, below, above = cache
        W, dY = params["W"], upstream.reshape(-1, self.outputs)
        grads = {"W": (X.T @ dY).reshape(W.shape), "b": column_sums(dY)}
        # One position in the window after the other: dX of all at once would be kh kw times as large as the images.
        positions = W.reshape(-1, self.inputs, self.outputs)
        parts = ((dY @ position.T).reshape(*above[:3], self.inputs) for position in positions)
        return self._folded(parts, below, np.result_type(dY, W)), grads

    def __repr__(self) -> str:
        text = f"{self.inputs}, {self.outputs}, {self.size}, stride={self.stride}, padding={self.padding}"
        return f"{type(self).__name__}({text})"


class Pooling(Windowed):
    """Base class: one number for each window of each channel.

    ``size`` is the rows and columns of a window, or one number for both, and ``stride`` the distance between windows,
    which may overlap; by default they stand side by side.
    """

    def __init__(self, size: Pair = 2, *, stride: Pair | None = None) -> None:
        super().__init__(size, size if stride is None else stride)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size}, stride={self.stride})"


class MaxPool2D(Pooling):
    """The largest number of each window; the arguments are those of `Pooling`.

    If several are equally large, the first one, row by row, gets the gradient. A NaN stays NaN.

    Examples
    --------
    >>> MaxPool2D(3, stride=2).forward({}, np.ones((5, 9, 9, 4)), Context())[0].shape
    (5, 4, 4, 4)
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        """Compute ``y = max over the window``; the cache is x and y."""
        self._count(inputs)
        largest = functools.reduce(_larger, self._offsets(inputs))
        return largest, (inputs, largest)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = sum of dy over the windows whose largest number is x``."""
        inputs, largest = cache
        parts, open_windows = [], np.ones(largest.shape, bool)  # those whose largest number has not been met yet
        for pixels in self._offsets(inputs):
            first = open_windows & (pixels == largest)
            parts.append(upstream * first)
            open_windows &= ~first
        return self._folded(parts, inputs.shape, upstream.dtype), {}


def _larger(one: Array, other: Array) -> Array:
    """Return the larger real part of two: the first if they are equal, and NaN if either is NaN."""
    if not np.iscomplexobj(one):
        return np.maximum(one, other)  # which compares complex numbers in another way
    return np.where((other.real > one.real) | np.isnan(other), other, one)


class AveragePool2D(Pooling):
    """The mean of each window; the arguments are those of `Pooling`.

    Examples
    --------
    >>> AveragePool2D(2).forward({}, np.arange(4.0).reshape(1, 2, 2, 1), Context())[0].ravel()
    array([1.5])
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[int, ...]]:
        """Compute ``y = mean over the window``; the cache is the shape of the inputs."""
        self._count(inputs)
        return np.asarray(sum(self._offsets(inputs)) / float(math.prod(self.size))), inputs.shape

    def backward(self, params: Params, cache: tuple[int, ...], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = sum of dy / (kh kw) over the windows that contain x``."""
        positions = math.prod(self.size)
        return self._folded([upstream / float(positions)] * positions, cache, upstream.dtype), {}


class Flatten(Layer):
    """Each sample's numbers in one row: (N, ...) to (N, D).

    Examples
    --------
    >>> Flatten().forward({}, np.ones((5, 4, 4, 3)), Context())[0].shape
    (5, 48)
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[int, ...]]:
        """Return ``y = x`` in another shape; the cache is the shape of x."""
        return inputs.reshape(len(inputs), math.prod(inputs.shape[1:])), inputs.shape

    def backward(self, params: Params, cache: tuple[int, ...], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Return ``dx = dy`` in the shape of x."""
        return upstream.reshape(cache), {}
