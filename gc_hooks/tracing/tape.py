"""Record what a loss does to its parameters, and go through it backwards: reverse mode in its simplest form.

Every operation adds a `Step` to a `Tape`. A step knows the steps whose values it was made from, and how to pull a
gradient back to them. Steps stand in the order in which they were made, so that one pass from the end to the beginning
has the whole gradient of a step before it is pulled further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.numerics import EPS, LARGEST_OF_FLOAT32

Pull = Callable[[Any], "Sequence[Any]"]
"""From the gradient of a step's value to those of its parents' values."""

POOL, RUN = 2**15, 2**13
"""Random numbers that are drawn once, and how many of them are read at a time: 64 kB, which stay in a cache."""

HOP = 5_021
"""How far apart runs begin that follow each other: not near a part of the pool, so that they do not soon come again."""


@dataclass(slots=True, eq=False)
class Step:
    """One operation: where it stands on the tape, what it was made from, and how its gradient is pulled back."""

    position: int
    parents: tuple[Step, ...] = ()
    pull: Pull | None = None
    # The same with numbers that are known only as far as `lost` says; returns None where all of them are known.
    blurred: Callable[[Any], Sequence[Any] | None] | None = None
    changes: bool = False  # whether the pull changes the gradient that it gets
    # For a step that has taken items out of its parent: their key, and the parent's shape. Only these entries of the
    # parent's gradient are touched.
    key: Any = None
    shape: tuple[int, ...] | None = None
    depends: bool = True  # whether its value depends on a parameter
    # How much of its value cannot be told any more from the sums that it has entered; worked out where it is asked for.
    losses: list[Callable[[], Any]] = field(default_factory=list)

    @property
    def lost(self) -> Any:
        """Return how much of its value the sums leave open in which it stands; 0 where it stands in none."""
        return reduce(np.maximum, [loss() for loss in self.losses], 0.0)


@dataclass
class Tape:
    """The operations of one evaluation of a loss.

    With a ``rounding`` every number that enters an operation is changed by a random relative amount up to it. What that
    does to the gradient is what rounding in this precision does to a backward pass, entry by entry: terms that cancel
    show how much of them is left. This is Monte Carlo arithmetic [1]_.

    A backward pass also computes derivatives from results: of ``s = 1 / (1 + exp(-x))`` it takes ``s (1 - s)``, where
    the sum has lost digits of the exponential that the reference still has. So in the derivatives a number is changed
    by as much as the sums leave open in which it stands (`Step.lost`).

    An ``opposite`` tape changes the numbers of an evaluation the other way than its twin with the same generator does.
    Of two numbers that are equal as far as rounding can tell, each is the larger one in one of the twins.

    .. [1] D. S. Parker, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002
       (1997).
    """

    precision: float  # the largest machine epsilon that was met: of parameters, of casts and of buffers
    backprop_precision: float = 0.0  # that of the gradient's arithmetic, in which equal numbers may differ
    rounding: float = 0.0
    generator: Generator = field(default_factory=np.random.default_rng)
    opposite: bool = False
    steps: list[Step] = field(default_factory=list)
    distances: list[Array] = field(default_factory=list)  # of the numbers that were compared
    before: list[Array] = field(default_factory=list)  # the same without rounding
    offset: int = 0  # where in the pool of random numbers the next run begins
    at_kink: bool = False  # whether two numbers that were compared are equal, as far as their precision can tell

    def __post_init__(self) -> None:
        if self.rounding:
            self.offset = int(self.generator.integers(POOL - RUN))

    def add(
        self, parents: Sequence[Step] = (), pull: Pull | None = None, *, depends: bool = True, changes: bool = False
    ) -> Step:
        """Add a step, and return it."""
        step = Step(len(self.steps), tuple(parents), pull, None, changes, depends=depends)
        self.steps.append(step)
        return step

    def add_items(self, parent: Step, shape: tuple[int, ...], key: Any) -> Step:
        """Add a step that takes items out of an array of some shape."""
        step = Step(len(self.steps), (parent,), None, None, False, key, shape, parent.depends)
        self.steps.append(step)
        return step

    def rounded(self, value: Any) -> Any:
        """Return a value as one more rounding would change it; the value itself where nothing is to be rounded."""
        if not self.rounding or not isinstance(value, (np.ndarray, np.floating)) or value.dtype.kind not in "fc":
            return value
        return self._times(value, _factors(1.0, -self.rounding if self.opposite else self.rounding))

    def in_range(self, value: Any, power: float = 1.0) -> Any:
        """Return a value as backprop's arithmetic has it, of which some power is needed: infinite beyond its range."""
        if not self.rounding or self.backprop_precision <= EPS or not isinstance(value, (np.ndarray, np.floating)):
            return value
        largest = LARGEST_OF_FLOAT32 ** (1 / power)
        if not np.max(np.abs(value), initial=0.0) > largest:
            return value
        return np.where(np.abs(value) > largest, np.sign(value) * np.inf, value)

    def blurred(self, value: Any, step: Step) -> Any:
        """Return the value of a step as a backward pass may find it that computes it from later results."""
        if not step.losses:
            return value
        lost = np.broadcast_to(step.lost, np.shape(value))
        return value + self._times(np.where(np.isfinite(lost), lost, 0.0), _factors(0.0, 1.0))

    def gradients(self, end: Step, seed: Array, starts: Sequence[Step]) -> list[_Sum | None]:
        """Return the gradients of the value at the end with respect to the values at some starts; None for zero.

        ``seed`` is the gradient of the value at the end with respect to itself.
        """
        if self.opposite:  # on the way back, twins have nothing to do with each other
            self.offset = (self.offset + POOL // 2) % (POOL - RUN)
        found: dict[int, _Sum | None] = dict.fromkeys((start.position for start in starts), None)
        collected = {end.position: _Sum(seed, np.zeros(seed.shape))}
        for step in reversed(self.steps[: end.position + 1]):
            total = collected.pop(step.position, None)
            if total is None:
                continue
            if step.position in found:
                found[step.position] = total
                continue
            if step.shape is not None:
                parent = step.parents[0]
                if parent.depends:
                    if parent.position not in collected:
                        noise = np.zeros(step.shape) if self.rounding else 0.0
                        collected[parent.position] = _Sum(np.zeros(step.shape), noise)
                    collected[parent.position].add_at(step.key, total.value, self._noise(total.value, total.noise))
                continue
            if step.pull is None:
                continue
            parts = step.pull(total.owned() if step.changes else total.value)
            noises: Sequence[Any] = parts
            if self.rounding:
                noises = step.pull(total.noise)
                blurred = step.blurred(total.value) if step.blurred is not None else None
                if blurred is not None:
                    noises = [
                        np.hypot(np.abs(n), np.abs(b - part)) for n, b, part in zip(noises, blurred, parts, strict=True)
                    ]
            for parent, part, noise in zip(step.parents, parts, noises, strict=True):
                if not parent.depends:
                    continue
                if not (step.changes and self.rounding):  # a write rounds nothing
                    noise = self._noise(part, noise)
                if parent.position in collected:
                    collected[parent.position].add(part, noise)
                else:
                    collected[parent.position] = _Sum(part, noise, is_own=step.changes)
        return list(found.values())

    def _noise(self, part: Any, noise: Any) -> Any:
        """Return the noise of a part of a gradient: what came with it, and its own rounding, at random.

        The signs are drawn anew for each part: what two ways through the tape would cancel, another order of the same
        operations leaves.
        """
        if not self.rounding:
            return 0.0
        if isinstance(part, tuple):
            return tuple(map(self._noise, part, noise))
        flat, before = np.asarray(part).reshape(-1), np.broadcast_to(noise, np.shape(part)).reshape(-1)
        found = np.empty(flat.shape)
        for place in self._runs(found):
            came, own = np.abs(before[place]), self.rounding * np.abs(flat[place])
            # The root of the sum of their squares, at most 8 % too large, at a fifth of the price of np.hypot.
            np.add(np.maximum(came, own), 0.41 * np.minimum(came, own), found[place])
            found[place] *= self._read(_signs(), place)
        return found.reshape(np.shape(part))

    def _times(self, array: Any, factors: Array) -> Any:
        """Return an array with each entry times a random factor."""
        flat = np.asarray(array).reshape(-1)
        product = np.empty(flat.shape, np.result_type(flat, factors))
        if flat.size <= RUN:
            np.multiply(flat, self._read(factors, slice(0, flat.size)), product)
            return product.reshape(np.shape(array))
        for place in self._runs(product):
            np.multiply(flat[place], self._read(factors, place), product[place])
        return product.reshape(np.shape(array))

    def _runs(self, flat: Array) -> Iterator[slice]:
        """Yield runs of entries that are worked on at a time."""
        for start in range(0, flat.size, RUN):
            yield slice(start, min(start + RUN, flat.size))

    def _read(self, factors: Array, place: slice) -> Array:
        """Return random factors for a run of entries."""
        self.offset = (self.offset + HOP) % (POOL - RUN)
        return factors[self.offset : self.offset + place.stop - place.start]


@cache
def _factors(middle: float, width: float) -> Array:
    """Return the pool of factors, uniform around a middle."""
    return middle + width * np.random.default_rng(0).uniform(-1.0, 1.0, POOL)


@cache
def _signs() -> Array:
    """Return the pool of random signs, with sizes around 1: two noises of one size are not to cancel half of the time.

    Their squares and their logarithms are those of 1 in the mean, so that noise neither grows nor shrinks on its way.
    """
    drawn = _factors(0.0, 1.0)
    return np.sign(drawn) * (0.75 + 0.5 * np.abs(drawn))


@dataclass(slots=True)
class _Sum:
    """A gradient that is being added up, and its noise; the arrays are changed in place once they are its own."""

    value: Any
    noise: Any
    is_own: bool = True

    def owned(self) -> Any:
        """Return the value as an array that may be changed."""
        if not self.is_own and isinstance(self.value, np.ndarray):
            self.value, self.is_own = self.value.copy(), True
        return self.value

    def total(self) -> Any:
        """Return the value with its noise."""
        if isinstance(self.noise, np.ndarray):
            return _sum(self.noise, self.value, True)
        return self.value + self.noise if self.noise else self.value

    def add(self, part: Any, noise: Any) -> None:
        if isinstance(self.value, tuple):  # of an operation with several results
            self.value = tuple(mine + theirs for mine, theirs in zip(self.value, part, strict=True))
            if isinstance(noise, tuple):
                self.noise = tuple(mine + theirs for mine, theirs in zip(self.noise, noise, strict=True))
            return
        self.noise = _sum(self.noise, noise, isinstance(self.noise, np.ndarray))  # which belongs to nobody else
        self.value, self.is_own = _sum(self.value, part, self.is_own and isinstance(self.value, np.ndarray)), True

    def add_at(self, key: Any, part: Array, noise: Any) -> None:
        """Add to the entries under a key."""
        self.value = _sum_at(self.owned(), key, part)
        self.is_own = True
        if np.any(noise):
            of_all = self.noise if np.shape(self.noise) == self.value.shape else self.noise + np.zeros(self.value.shape)
            self.noise = _sum_at(of_all, key, noise)


def _sum(total: Any, part: Any, is_own: bool) -> Any:
    """Return a sum, in the array of the total where that may be changed and can hold it."""
    if is_own and np.can_cast(np.result_type(part), total.dtype):
        total += part
        return total
    return total + part


def _sum_at(total: Array, key: Any, part: Any) -> Array:
    """Return an array with something added under a key; the array itself where it can hold it."""
    if np.iscomplexobj(part) and not np.iscomplexobj(total):
        total = total.astype(complex)
    if is_basic(key):
        total[key] += part
    else:
        np.add.at(total, key, part)
    return total


def is_basic(key: Any) -> bool:
    """Return whether a key selects each entry at most once without a search: numbers, slices, ``...`` and None."""
    keys = key if isinstance(key, tuple) else (key,)
    return all(isinstance(one, (int, np.integer, slice, type(None), type(...))) for one in keys)
