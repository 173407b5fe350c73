"""Layers of images: convolution, pooling, flattening. Images are (N, H, W, C), channels last."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import column_sums
from gc_hooks.nn.layers import Context, Initializer, Layer, he


@dataclass(frozen=True)
class Windows:
    """Windows of one size at even distances; what is left over at the far edges is not looked at.

    Attributes
    ----------
    size, stride, padding : tuple of int
        Each (rows, columns). Zeros are put around the image.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)

    def count(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many windows stand in the rows and columns of images of this shape: ``(H + 2 p - k) // s + 1``."""
        rows, columns = (
            (side + 2 * p - k) // s + 1
            for side, k, s, p in zip(shape[1:3], self.size, self.stride, self.padding, strict=True)
        )
        return rows, columns

    def padded(self, images: Array) -> Array:
        """The images (N, H + 2 p, W + 2 p, C) with zeros around them."""
        rows, columns = self.padding
        if not rows and not columns:
            return images
        samples, height, width, channels = images.shape
        frame = np.zeros((samples, height + 2 * rows, width + 2 * columns, channels), images.dtype)
        frame[:, rows : rows + height, columns : columns + width] = images
        return frame

    def unfolded(self, images: Array) -> Array:
        """A row for each window, with all that it sees: (N OH OW, kh kw C)."""
        seen = sliding_window_view(self.padded(images), self.size, axis=(1, 2))
        seen = seen[:, :: self.stride[0], :: self.stride[1]]  # (N, OH, OW, C, kh, kw)
        rows: Array = seen.transpose(0, 1, 2, 4, 5, 3).reshape(-1, self.size[0] * self.size[1] * images.shape[3])
        return rows

    def offsets(self, images: Array) -> Iterator[Array]:
        """For each place inside of a window, row by row, what all windows see there: views (N, OH, OW, C)."""
        (rows, columns), (down, right) = self.count(images.shape), self.stride
        for i, j in np.ndindex(self.size):
            yield images[:, i : i + down * rows : down, j : j + right * columns : right]

    def folded(self, shares: Iterable[Array], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """The contrary of `unfolded`: what belongs to each place inside of a window, added up where windows overlap.

        Parameters
        ----------
        shares : iterable of ndarray, (N, OH, OW, C)
            One for each place, row by row.
        shape, dtype
            Of the images, (N, H, W, C).
        """
        rows, columns = self.padding
        samples, height, width, channels = shape
        frame = np.zeros((samples, height + 2 * rows, width + 2 * columns, channels), dtype)
        unpadded = Windows(self.size, self.stride)
        for view, share in zip(unpadded.offsets(frame), shares, strict=True):
            view += share
        return frame[:, rows : rows + height, columns : columns + width]

    def check(self, images: Array, who: str, channels: int | None = None) -> None:
        """Refuse what is no batch of images with room for a window.

        Raises
        ------
        InvalidProblem
        """
        if images.ndim != 4 or (channels is not None and images.shape[3] != channels):
            raise InvalidProblem(
                f"{who} got inputs of shape {images.shape} where (samples, height, width, {channels or 'channels'}) is "
                "needed. Channels come last: the data may be flat, without an axis for a single channel, or have the "
                "channels first. Try inputs.reshape(len(inputs), height, width, -1), or inputs.transpose(0, 2, 3, 1)."
            )
        if min(self.count(images.shape)) < 1:
            raise InvalidProblem(
                f"{who} got images of {images.shape[1]}x{images.shape[2]}, and its windows of "
                f"{self.size[0]}x{self.size[1]} find no room. Strides and poolings before it have made them too small. "
                "Try fewer of those, smaller windows, or a padding."
            )


def pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    """One number for both directions, or (rows, columns).

    Raises
    ------
    InvalidProblem
        It is neither, or below the least.

    Examples
    --------
    >>> pair("stride", 2, 1), pair("stride", (1, 2), 1)
    ((2, 2), (1, 2))
    """
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(number, (int, np.integer)) and number >= least for number in both):
        raise InvalidProblem(
            f"{name}={value!r} is neither a whole number of at least {least} nor a pair of them. "
            f"A pair is (rows, columns). Try {name}={max(least, 1)}."
        )
    return int(both[0]), int(both[1])


class Conv2D(Layer):
    """``y[n, i, j, f] = b[f] + sum over (u, v, c) of x[n, s i + u - p, s j + v - p, c] W[u, v, c, f]``.

    A cross-correlation, as everybody's convolutions are: W is not turned around. Dumoulin and Visin, "A guide to
    convolution arithmetic for deep learning" (2016). Forward and both gradients are products of matrices, with a row
    for each window.

    Parameters
    ----------
    inputs, outputs : int
        Number of channels C that come in and F that go out.
    size : int or (int, int)
        Rows and columns of a window.
    stride : int or (int, int)
        Distance of the windows.
    padding : int or (int, int)
        Rows and columns of zeros on each side.
    init : callable
        As for `Dense`, with fans ``kh kw C`` and F: `he` (default) or `glorot`.

    Raises
    ------
    InvalidProblem
        A number is too small; in `forward`, when the inputs are not (N, H, W, C) or smaller than a window.

    Examples
    --------
    >>> layer = Conv2D(1, 8, 3, padding=1)
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> params["W"].shape, layer.forward(params, np.ones((5, 10, 10, 1)), Context())[0].shape
    ((3, 3, 1, 8), (5, 10, 10, 8))
    """

    kind = "conv"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        init: Initializer = he,
    ) -> None:
        if inputs < 1 or outputs < 1:
            raise InvalidProblem(
                f"Conv2D({inputs}, {outputs}) has a side without channels. The first two arguments are the numbers of "
                "channels that come in and go out. Give two numbers that are at least 1, such as Conv2D(1, 8)."
            )
        self.inputs, self.outputs, self.initializer = inputs, outputs, init
        self.windows = Windows(pair("size", size, 1), pair("stride", stride, 1), pair("padding", padding, 0))

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """W (kh, kw, C, F) from the initializer, drawn in float64 whatever the dtype, and b (F,) of zeros."""
        rows, columns = self.windows.size
        weights = self.initializer(generator, rows * columns * self.inputs, self.outputs)
        shape = rows, columns, self.inputs, self.outputs
        return {"W": weights.reshape(shape).astype(dtype), "b": np.zeros(self.outputs, dtype)}

    def forward(
        self, params: Params, inputs: Array, context: Context
    ) -> tuple[Array, tuple[Array, tuple[int, ...], tuple[int, ...]]]:
        """``Y = X W + b`` with the windows as the rows of X; the cache is X and the shapes before and after."""
        self.windows.check(inputs, repr(self), self.inputs)
        seen, W, b = self.windows.unfolded(inputs), params["W"].reshape(-1, self.outputs), params["b"]
        shape = len(inputs), *self.windows.count(inputs.shape), self.outputs
        outputs = np.matmul(seen, W, dtype=np.result_type(seen, W, b))  # (N OH OW, kh kw C)(kh kw C, F)
        outputs += b
        return outputs.reshape(shape), (seen, inputs.shape, shape)

    def backward(
        self, params: Params, cache: tuple[Array, tuple[int, ...], tuple[int, ...]], upstream: Array
    ) -> tuple[Array, dict[str, Array]]:
        """``dW = X^T dY``, ``db = sum of dY``, and ``dX = dY W^T``, added up where windows overlap."""
        seen, below, above = cache
        W, deltas = params["W"], upstream.reshape(-1, self.outputs)
        grads = {"W": (seen.T @ deltas).reshape(W.shape), "b": column_sums(deltas)}
        places = W.reshape(-1, self.inputs, self.outputs)  # one by one: all at once would be kh kw times the images
        shares = ((deltas @ place.T).reshape(*above[:3], self.inputs) for place in places)
        return self.windows.folded(shares, below, np.result_type(deltas, W)), grads

    def __repr__(self) -> str:
        size, stride, padding = self.windows.size, self.windows.stride, self.windows.padding
        return f"{type(self).__name__}({self.inputs}, {self.outputs}, {size}, stride={stride}, padding={padding})"


class Pooling(Layer):
    """Base class: windows over each channel.

    Parameters
    ----------
    size : int or (int, int)
        Rows and columns of a window.
    stride : int or (int, int), optional
        Distance of the windows, which may overlap; by default they stand side by side. What is left over at the far
        edges is not looked at.

    Raises
    ------
    InvalidProblem
        A number is below 1; in `forward`, when the inputs are not (N, H, W, C) or smaller than a window.
    """

    def __init__(self, size: int | tuple[int, int] = 2, *, stride: int | tuple[int, int] | None = None) -> None:
        both = pair("size", size, 1)
        self.windows = Windows(both, both if stride is None else pair("stride", stride, 1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.windows.size}, stride={self.windows.stride})"


class MaxPool2D(Pooling):
    """The largest number of each window; the arguments are those of `Pooling`.

    Of several that are equally large the first one, row by row, gets the gradient. A NaN stays NaN.

    Examples
    --------
    >>> MaxPool2D(3, stride=2).forward({}, np.ones((5, 9, 9, 4)), Context())[0].shape
    (5, 4, 4, 4)
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Array, Array]]:
        """``y = max over the window``; the cache is x and y."""
        self.windows.check(inputs, repr(self))
        largest = functools.reduce(_larger, self.windows.offsets(inputs))
        return largest, (inputs, largest)

    def backward(self, params: Params, cache: tuple[Array, Array], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = sum of dy over the windows whose largest number x is``."""
        inputs, largest = cache
        shares = (upstream * first for first in self._first(inputs, largest))
        return self.windows.folded(shares, inputs.shape, upstream.dtype), {}

    def _first(self, inputs: Array, largest: Array) -> Iterator[Array]:
        """For each place inside of a window, where it is the first to hold the largest number."""
        free = np.ones(largest.shape, bool)
        for seen in self.windows.offsets(inputs):
            first = free & (seen == largest)
            yield first
            free &= ~first


def _larger(one: Array, other: Array) -> Array:
    """By the real part, the first of two that are equal, and NaN whatever it is beside."""
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
        """``y = mean over the window``; the cache is the shape of the inputs."""
        self.windows.check(inputs, repr(self))
        total = sum(self.windows.offsets(inputs))
        return np.asarray(total / float(np.prod(self.windows.size))), inputs.shape

    def backward(self, params: Params, cache: tuple[int, ...], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = sum of dy / (kh kw) over the windows that see x``."""
        places = int(np.prod(self.windows.size))
        shares = np.broadcast_to(upstream / float(places), (places, *upstream.shape))
        return self.windows.folded(shares, cache, upstream.dtype), {}


class Flatten(Layer):
    """Each sample's numbers in one row: (N, ...) to (N, D).

    Examples
    --------
    >>> Flatten().forward({}, np.ones((5, 4, 4, 3)), Context())[0].shape
    (5, 48)
    """

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[int, ...]]:
        """``y = x`` in another shape; the cache is the one before."""
        return inputs.reshape(len(inputs), int(np.prod(inputs.shape[1:]))), inputs.shape

    def backward(self, params: Params, cache: tuple[int, ...], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = dy`` in the shape before."""
        return upstream.reshape(cache), {}
