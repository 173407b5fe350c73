"""Arrays of millions of entries: what a check needs of them, without one more copy of each.

A check does not copy an array of more than `LARGE` entries: it reads the array where it is, and draws a random
direction through it anew, block by block, whenever it moves along that direction. An array of float32 is copied to
float64 all the same, which is two times its own size: a check takes six to eight times as much as the array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator, Params

LARGE = 2**22
"""Entries; 32 MB in float64. From here on one more copy costs more than drawing the numbers again. Half or double moves
memory and time by a factor of two at that size and changes no verdict."""
BLOCK = 2**16
"""Entries drawn at a time: 512 kB, which stays in a second-level cache."""
SAMPLE = 2**20
"""Entries of which a norm is estimated: a relative error of 0.1 %."""


@dataclass(frozen=True)
class Normals:
    """Normal numbers in the shape of a large array, drawn again from the same seed whenever they are read."""

    seed: int
    shape: tuple[int, ...]
    factor: float = 1.0  # multiplies each number

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield slices in C order, and the numbers there."""
        generator, size = np.random.default_rng(self.seed), math.prod(self.shape)
        for start in range(0, size, BLOCK):
            place = slice(start, min(start + BLOCK, size))
            yield place, self.factor * generator.standard_normal(place.stop - start)

    def __neg__(self) -> Normals:
        return replace(self, factor=-self.factor)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return all numbers at once."""
        return np.concatenate([numbers for _, numbers in self.blocks()]).reshape(self.shape).astype(dtype or np.float64)


def normals(generator: Generator, shape: tuple[int, ...], factor: float = 1.0) -> Array | Normals:
    """Return normal numbers: an array, or for a large one a way to draw it."""
    if math.prod(shape) < LARGE:
        return np.asarray(factor * generator.standard_normal(shape))
    return Normals(int(generator.integers(2**63)), shape, factor)


def uniforms(generator: Generator, shape: tuple[int, ...], factor: float = 1.0) -> Array | Normals:
    """Return uniform numbers of variance one, at a fifth of the price of normal ones; for a large array normal ones.

    A section through the middle of a cube is at most the square root of two times its face [1]_. So an error hides
    along a direction of uniform numbers at most 2.4 % more often than along one of normal numbers.

    .. [1] K. Ball, "Cube slicing in R^n", Proceedings of the AMS 97 (1986).
    """
    if math.prod(shape) >= LARGE:
        return normals(generator, shape, factor)
    numbers = generator.random(shape, dtype=np.float32).astype(np.float64)
    numbers -= 0.5
    numbers *= factor * math.sqrt(12)
    return numbers


def shifted_within(array: Array, t: complex, v: Normals) -> Array:
    """Return ``array + t v`` with one copy."""
    moved: Array = np.array(array, dtype=np.result_type(array, type(t)), order="C")
    flat = moved.reshape(-1)
    for place, numbers in v.blocks():
        flat[place] += t * numbers
    return moved


def inner(v: Array | Normals, array: Array) -> float:
    """Return the inner product ``<v, array>``."""
    if not isinstance(v, Normals):
        return float(np.vdot(v, array))
    flat = array.reshape(-1)
    return math.fsum(float(np.vdot(numbers, flat[place])) for place, numbers in v.blocks())


def jittered(array: Array, size: float, generator: Generator) -> Array:
    """Return a copy of a large array with every entry moved by a normal number times ``size`` times the entry."""
    moved: Array = np.array(array, order="C")
    for place, numbers in Normals(int(generator.integers(2**63)), array.shape, size).blocks():
        moved.reshape(-1)[place] *= 1 + numbers
    moved.flags.writeable = False
    return moved


def scrambled(array: Array, generator: Generator) -> Array:
    """Return the entries in another order (of a large array within blocks), with random signs."""
    moved: Array = np.array(array, order="C")
    flat, block = moved.reshape(-1), BLOCK if array.size >= LARGE else max(array.size, 1)
    for start in range(0, flat.size, block):
        part = generator.permuted(flat[start : start + block])
        flat[start : start + block] = part * generator.choice((-1.0, 1.0), part.shape)
    return moved


def view_or_copy(array: Array) -> Array:
    """Return a float64 copy, or of a large array a view that cannot be written to."""
    if array.size < LARGE or array.dtype != np.float64:
        return np.array(array, dtype=np.float64)
    view = array.view()
    view.flags.writeable = False
    return view


def copies_in_double(arrays: Params) -> dict[str, Array]:
    """Return such a copy or view of each array."""
    return {name: view_or_copy(array) for name, array in arrays.items()}


def sampled(array: Array) -> Array:
    """Return the array, or of a large one about a million entries, scaled so that their norm estimates that of all."""
    if array.size < LARGE:
        return array
    sample = array.reshape(-1)[:: array.size // SAMPLE | 1].astype(np.float64)
    return np.asarray(sample * math.sqrt(array.size / sample.size))
