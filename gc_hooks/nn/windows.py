"""Windows that move over images: where they stand, what they see, and adding back into what they saw.

Images are (N, H, W, C), channels last: an image's features stand where a dense layer's do, and the numbers of a row of
a window lie next to each other in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem


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
