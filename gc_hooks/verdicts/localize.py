"""Find the wrong entries of a parameter that failed."""

from __future__ import annotations

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import LARGE
from gc_hooks.numerics import ALL_UP_TO, DENSE, MOST_DIRECTIONS, SAMPLE
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.slopes.probes import Direction, Entry, direction_within
from gc_hooks.verdicts.session import Session


def find_wrong_entries(session: Session, comparison: Comparison) -> Comparison:
    """Measure entries that make a parameter's gradient wrong.

    A small parameter is measured entry by entry. In a large one, the ratio of two residuals gives a single wrong entry
    away; otherwise some entries are sampled, which show an error that is everywhere. Returns the comparison with the
    wrong entries, a new one where every entry was measured.
    """
    if comparison.basis is not Basis.ESTIMATED:
        return comparison
    name, size = comparison.name, comparison.size
    if size <= ALL_UP_TO:
        _measure(session, name, np.arange(size))
    elif size >= LARGE or not _find_single(session, name):  # in the largest, two vectors more would cost memory
        measure_sample(session, name)
        if session.compare(name).wrong >= DENSE:  # the error is everywhere: its size is worth knowing
            more = range(comparison.directions, MOST_DIRECTIONS)
            session.measure([direction_within(session.problem[name], session.generator) for _ in more])
    return session.compare(name)


def measure_sample(session: Session, name: str) -> None:
    """Measure some entries, chosen at random."""
    size = session.problem[name].value.size
    _measure(session, name, session.generator.choice(size, min(SAMPLE, size), replace=False))


def _measure(session: Session, name: str, indices: Array) -> None:
    """Measure entries that have not been measured yet."""
    known, scale = set(session.measurements.parameters[name].indices), session.problem[name].scale
    session.measure([Entry(name, int(index), scale) for index in indices if int(index) not in known])


def _find_single(session: Session, name: str) -> bool:
    """Return whether one wrong entry explains everything, and measure it.

    With one wrong entry at position k of n, the residuals along v and along v times position / n have the ratio k / n.
    """
    parameter = session.problem[name]
    shape, size = parameter.value.shape, parameter.value.size
    vector = session.generator.choice((-1.0, 1.0), size)  # no entry is too small to be told from the others
    weights = (session.generator.permutation(size) + 1.0) / size
    residual, error = session.slopes.quick_residual(Direction({name: vector.reshape(shape)}, parameter.scale, name))
    weighted = Direction({name: (vector * weights).reshape(shape)}, parameter.scale, name)
    ratio = session.slopes.quick_residual(weighted)[0] / residual if residual else 0.0
    index = int(np.argmin(np.abs(weights - ratio)))
    if abs(weights[index] - ratio) > 0.5 / size:
        return False
    _measure(session, name, np.array([index]))
    measured = session.measurements.parameters[name]
    position = measured.indices.index(index)
    found = float(session.problem.grads[name].flat[index]) - measured.slopes[position]
    rounding = session.measurements.rounding
    typical = max((abs(one.slope) for one in measured.directions), default=0.0)
    error = max(error, rounding.relative * typical, rounding.floors.get(name, 0.0))
    left = residual - found * float(vector[index])
    return bool(abs(found) > measured.errors[position]) and abs(left) <= 2 * error + 1e-9 * abs(residual)
