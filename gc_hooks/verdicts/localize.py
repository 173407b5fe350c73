"""Opening a parameter that failed: which of its entries are wrong?"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import LARGE
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.slopes.measurements import ParameterMeasurements
from gc_hooks.slopes.probes import Direction, Entry, direction_within
from gc_hooks.verdicts.compare import MOST_DIRECTIONS
from gc_hooks.verdicts.session import Session

SAMPLE = 10
ALL_UP_TO = 256
DENSE = 3
MOST_ENTRIES = 32
MOST_GROUPS = 400


def find_wrong_entries(session: Session, comparison: Comparison) -> Comparison:
    """Measure the entries that make a parameter's gradient wrong.

    A small parameter is measured whole. In a large one a single wrong entry is given away by the ratio of two
    residuals. Else some entries are sampled: several wrong ones among them mean an error all over, and the sample
    shows it. If they are few, they are found by halving groups, the one with the largest residual first, in about
    log2(size) slopes each.

    Returns
    -------
    Comparison
        The same verdict, with the wrong entries that were found; or a new one where every entry was measured.

    Raises
    ------
    BudgetSpent
    """
    if comparison.basis is not Basis.ESTIMATED:
        return comparison
    name = comparison.name
    if comparison.size <= ALL_UP_TO:
        session.measure(_entries(session, name, np.arange(comparison.size)))
        return session.compare(name)
    if comparison.size >= LARGE:  # where to look costs more memory than there may be: a sample has to do
        session.measure(_entries(session, name, session.generator.choice(comparison.size, SAMPLE, replace=False)))
        return session.compare(name)
    search = _Search(session, name)
    if search.single():
        return session.compare(name)
    session.measure(_entries(session, name, session.generator.choice(comparison.size, SAMPLE, replace=False)))
    if session.compare(name).wrong >= DENSE:  # an error all over: nothing to search, but its size is worth knowing
        more = range(comparison.directions, MOST_DIRECTIONS)
        session.measure(direction_within(session.problem, session.generator, name) for _ in more)
    else:
        search.run()
    return session.compare(name)


def _entries(session: Session, name: str, indices: Array) -> list[Entry]:
    known = set(session.measurements.parameters[name].indices)
    return [Entry(name, int(index), session.problem.scales[name]) for index in indices if int(index) not in known]


@dataclass(order=True)
class _Group:
    """Some entries, and the residual along a normal direction that is confined to them."""

    priority: float
    residual: float = field(compare=False)
    error: float = field(compare=False)
    indices: Array = field(compare=False)


class _Search:
    """Group testing: a group whose residual lies inside its bar holds no wrong entry (as far as can be seen)."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self.measured: ParameterMeasurements = session.measurements.parameters[name]
        self.vector = session.generator.standard_normal(self.measured.size)
        self.groups: list[_Group] = []
        self.found = 0

    def single(self) -> bool:
        """Whether one wrong entry explains it all: along v and along v times position, its residuals have its position
        as their ratio."""
        indices = self.session.generator.permutation(self.measured.size)
        residual, error = self._residual(indices)
        weighted, _ = self._residual(indices, (np.arange(len(indices)) + 1.0) / len(indices))
        guess = round(weighted / residual * len(indices)) - 1 if residual else -1
        if not 0 <= guess < len(indices):
            return False
        left = residual - self._open(int(indices[guess])) * float(self.vector[indices[guess]])
        return self.found > 0 and abs(left) <= 2 * error + 1e-9 * abs(residual)

    def run(self) -> None:
        """Find wrong entries until none is left, or they are too many to be worth it."""
        unseen = np.setdiff1d(np.arange(self.measured.size), np.array(self.measured.indices, dtype=np.intp))
        everything = self.session.generator.permutation(unseen)
        self._push(everything, *self._residual(everything))
        for _ in range(MOST_GROUPS):
            if not self.groups or self.found >= MOST_ENTRIES:
                break
            self._halve(heapq.heappop(self.groups))

    def _halve(self, group: _Group) -> None:
        """Measure one half; the other is what is left, or measured too where that is too vague."""
        left, right = np.array_split(group.indices, 2)
        residual, error = self._residual(left)
        rest, rest_error = group.residual - residual, group.error + error
        empty = abs(rest) <= rest_error <= 1e-3 * abs(group.residual)
        if not empty and rest_error > 0.1 * abs(rest):
            rest, rest_error = self._residual(right)
        for half, r, e in ((left, residual, error), (right, rest, rest_error)):
            self._push(half, r, e)

    def _push(self, indices: Array, residual: float, error: float) -> None:
        """Keep a group that holds a wrong entry; open it when it is down to one."""
        if abs(residual) <= error:
            return
        if len(indices) == 1:
            self._open(int(indices[0]))
        else:
            heapq.heappush(self.groups, _Group(-abs(residual), residual, error, indices))

    def _open(self, index: int) -> float:
        """Measure one entry, write it down, and return how far backprop is from it."""
        self.session.measure(_entries(self.session, self.name, np.array([index])))
        at = self.measured.indices.index(index)
        away = float(self.session.problem.grads[self.name].flat[index]) - self.measured.slopes[at]
        self.found += abs(away) > self.measured.errors[at]
        return away

    def _residual(self, indices: Array, weights: Array | float = 1.0) -> tuple[float, float]:
        """The residual along the direction confined to some entries."""
        vector = np.zeros(self.measured.size)
        vector[indices] = self.vector[indices] * weights
        shape = self.session.problem.point[self.name].shape
        probe = Direction({self.name: vector.reshape(shape)}, self.session.problem.scales[self.name], self.name)
        residual, error = self.session.quick_residual(probe)
        rounding = self.session.measurements.rounding
        return residual, max(error, rounding.relative * self._typical, rounding.floors.get(self.name, 0.0))

    @property
    def _typical(self) -> float:
        """Size of a slope along such a direction: what rounding is relative to when terms cancel."""
        slopes = [abs(measurement.slope) for measurement in self.measured.directions]
        return max(slopes, default=0.0)
