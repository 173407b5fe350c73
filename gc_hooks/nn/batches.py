"""The batches of a data set, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Batch, Generator
from gc_hooks.errors import InvalidProblem


class Batches:
    """Mini-batches of a data set, in an order of its own for each epoch.

    Parameters
    ----------
    inputs : array_like, (N, ...)
    targets : array_like, (N, ...)
    batch_size : int
        At least 1. Where it does not divide N, the last batch of an epoch is smaller.
    shuffle : bool
        Draw a new order of the samples for each epoch.
    seed : int or numpy.random.Generator
        Of the orders. A generator is drawn from as it is: one number of draws for each epoch, whatever is left out.

    Attributes
    ----------
    generator : numpy.random.Generator
        To go on later where an epoch was broken off, keep its state from before that epoch, and the number of batches
        that were used.

    Raises
    ------
    InvalidProblem
        When the data are empty or of different lengths, or the batch size is below 1.

    Examples
    --------
    >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, shuffle=False)
    >>> len(batches), [inputs.tolist() for inputs, targets in batches]
    (3, [[0, 1], [2, 3], [4]])
    >>> [inputs.tolist() for inputs, targets in batches.epoch(skip=2)]
    [[4]]
    """

    def __init__(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int | Generator = 0,
    ) -> None:
        self.inputs, self.targets = checked_data("training", inputs, targets)
        check_counts("Batches", batch_size=batch_size)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        return self.epoch()

    def epoch(self, skip: int = 0) -> Iterator[Batch]:
        """The batches of the next epoch without the first few; the order is drawn as if they were there."""
        samples = len(self.inputs)
        order = self.generator.permutation(samples) if self.shuffle else np.arange(samples)
        return self._in_order(order[skip * self.batch_size :])

    def _in_order(self, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self.inputs[rows], self.targets[rows]


def checked_data(purpose: str, inputs: ArrayLike, targets: ArrayLike) -> Batch:
    """Inputs and targets as arrays with as many rows.

    Raises
    ------
    InvalidProblem
        They are empty or of different lengths.
    """
    data = np.asarray(inputs), np.asarray(targets)
    lengths = [len(array) if array.ndim else 0 for array in data]
    if lengths[0] != lengths[1] or not lengths[0]:
        raise InvalidProblem(
            f"The {purpose} data are inputs of shape {data[0].shape} and targets of shape {data[1].shape}: "
            f"{lengths[0]} and {lengths[1]} samples. Rows are samples, as many of one as of the other and at least "
            "one: one of the two may be transposed, or a split left nothing over. Try inputs.T, or look at the split."
        )
    return data


def check_counts(caller: str, **counts: int) -> None:
    """Refuse a count below 1.

    Raises
    ------
    InvalidProblem
    """
    for name, number in counts.items():
        if number < 1:
            raise InvalidProblem(
                f"{caller} got {name}={number}. Nothing would be trained; a division of the number of samples may have "
                "been rounded to zero. Give at least 1."
            )
