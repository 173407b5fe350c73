"""Find the wrong entries of a parameter that failed."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import LARGE
from gc_hooks.numerics import ALL_UP_TO, DENSE, MOST_DIRECTIONS, MOST_ENTRIES, MOST_GROUPS, SAMPLE
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.slopes.probes import Direction, Entry, direction_within
from gc_hooks.verdicts.session import Session


def find_wrong_entries(session: Session, comparison: Comparison) -> Comparison:
    """Measure the entries that make a parameter's gradient wrong.

    A small parameter is measured entry by entry. In a large one, the ratio of two residuals gives a single wrong entry
    away. Otherwise some entries are sampled: if several of them are wrong, the error is everywhere, and the sample
    shows it. If few are, they are found by halving groups, the one with the largest residual first, in about log2(size)
    slopes each. Returns the comparison with the wrong entries, a new one where every entry was measured.
    """
    if comparison.basis is not Basis.ESTIMATED:
        return comparison
    search = _Search(session, comparison.name)
    size = comparison.size
    if size <= ALL_UP_TO:
        search.measure(np.arange(size))
    elif size >= LARGE:  # where to look costs more memory than there may be: a sample has to do
        search.measure(session.generator.choice(size, SAMPLE, replace=False))
    elif not search.find_single():
        search.measure(session.generator.choice(size, SAMPLE, replace=False))
        if session.compare(comparison.name).wrong >= DENSE:  # nothing to search, but the error's size is worth knowing
            more = range(comparison.directions, MOST_DIRECTIONS)
            session.measure([direction_within(search.parameter, session.generator) for _ in more])
        else:
            search.find_several()
    return session.compare(comparison.name)


@dataclass(order=True)
class _Group:
    """Some entries, and the residual along a normal direction that is confined to them."""

    priority: float
    residual: float = field(compare=False)
    error: float = field(compare=False)
    indices: Array = field(compare=False)


class _Search:
    """Group testing: a group whose residual stays within its error holds no wrong entry, as far as can be measured."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.parameter = session.problem[name]
        self.measured = session.measurements.parameters[name]
        self.groups: list[_Group] = []
        self.found = 0
        self.vector = np.empty(0)
        # The size of a slope along a direction: rounding is relative to it where terms cancel.
        self.typical = max((abs(measurement.slope) for measurement in self.measured.directions), default=0.0)

    def measure(self, indices: Array) -> None:
        """Measure entries that have not been measured yet."""
        known = set(self.measured.indices)
        name, scale = self.parameter.name, self.parameter.scale
        self.session.measure([Entry(name, int(index), scale) for index in indices if int(index) not in known])

    def find_single(self) -> bool:
        """Return whether one wrong entry explains everything, and measure it.

        With one wrong entry at position k of n, the residuals along v and along v times position / n have the ratio
        k / n.
        """
        generator, size = self.session.generator, self.parameter.value.size
        self.vector = generator.standard_normal(size)
        indices = generator.permutation(size)
        residual, error = self._residual(indices)
        weighted, _ = self._residual(indices, (np.arange(size) + 1.0) / size)
        guess = round(weighted / residual * size) - 1 if residual else -1
        if not 0 <= guess < size:
            return False
        index = int(indices[guess])
        left = residual - self._open(index) * float(self.vector[index])
        return self.found > 0 and abs(left) <= 2 * error + 1e-9 * abs(residual)

    def find_several(self) -> None:
        """Find wrong entries until none is left, or there are too many."""
        unseen = np.setdiff1d(np.arange(self.parameter.value.size), np.array(self.measured.indices, dtype=np.intp))
        everything = self.session.generator.permutation(unseen)
        self._push(everything, *self._residual(everything))
        for _ in range(MOST_GROUPS):
            if not self.groups or self.found >= MOST_ENTRIES:
                break
            self._halve(heapq.heappop(self.groups))

    def _halve(self, group: _Group) -> None:
        """Measure one half of a group; the other is the difference, or is measured too where that is too imprecise."""
        left, right = np.array_split(group.indices, 2)
        residual, error = self._residual(left)
        other, other_error = group.residual - residual, group.error + error
        is_empty = abs(other) <= other_error <= 1e-3 * abs(group.residual)
        if not is_empty and other_error > 0.1 * abs(other):
            other, other_error = self._residual(right)
        self._push(left, residual, error)
        self._push(right, other, other_error)

    def _push(self, indices: Array, residual: float, error: float) -> None:
        """Keep a group that holds a wrong entry; measure the entry of a group of one."""
        if abs(residual) <= error:
            return
        if len(indices) == 1:
            self._open(int(indices[0]))
        else:
            heapq.heappush(self.groups, _Group(-abs(residual), residual, error, indices))

    def _open(self, index: int) -> float:
        """Measure one entry, and return backprop's gradient minus the slope there."""
        self.measure(np.array([index]))
        position = self.measured.indices.index(index)
        residual = float(self.session.problem.grads[self.parameter.name].flat[index]) - self.measured.slopes[position]
        self.found += abs(residual) > self.measured.errors[position]
        return residual

    def _residual(self, indices: Array, weights: Array | float = 1.0) -> tuple[float, float]:
        """Return the residual and its error along the direction that is confined to some entries."""
        name = self.parameter.name
        vector = np.zeros(self.parameter.value.size)
        vector[indices] = self.vector[indices] * weights
        probe = Direction({name: vector.reshape(self.parameter.value.shape)}, self.parameter.scale, name)
        residual, error = self.session.slopes.quick_residual(probe)
        rounding = self.session.measurements.rounding
        return residual, max(error, rounding.relative * self.typical, rounding.floors.get(name, 0.0))
