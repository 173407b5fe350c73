"""Judge every output by its slopes, and find the entries of a Jacobian that are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.derivatives.gauge import Along, Gauge
from gc_hooks.numerics import ZERO, ZERO_WITHIN
from gc_hooks.report.verdict import Precision, Tolerance, Verdict
from gc_hooks.verdicts.bounds import upper_factor

MORE_DIRECTIONS, MOST_DIRECTIONS = 2, 8
"""Directions along which wrong rows are measured again. An entry alone in its row is found by three: the residuals
along them are a multiple of one column of the directions, which no other column fits. With eight, up to six are."""

WRITTEN_OUT, WRITTEN_OUT_BY_CENTRAL = 32, 6
"""Parameters up to which every column of a wrong Jacobian is measured; a column costs one complex evaluation, or about
eight real ones."""

FITTED = 1e-2
"""Relative to a row's residuals. Wrong entries explain a row if no more than this, and no more than its errors, is left
over."""

MOST_ROWS = 1000
"""Wrong rows in which entries are looked for: the first ones, where there are more."""


@dataclass(frozen=True, eq=False)
class Judged:
    """The verdict on every row, from all directions so far."""

    difference: Array
    error: Array
    verdicts: Array
    sizes: Array  # of the row, twice: of the Jacobian's and of the measured one together
    vanishing: Array  # whether it is zero, or so small beside the others that nothing can be said of it

    @property
    def wrong(self) -> Array:
        """Return the positions of the rows that are accused."""
        return np.flatnonzero(self.verdicts > Verdict.INCONCLUSIVE)


def judge(alongs: Sequence[Along], norms: Array, tolerance: Tolerance, precision: Precision) -> Judged:
    """Judge each row as ``Tolerance.judge`` judges a gradient; ``norms`` are those of the given rows, where known.

    A row that is zero on both sides is GOOD, within what rounding leaves of it. A kink accuses nothing.
    """
    residuals = np.stack([along.residuals for along in alongs])
    errors = np.stack([along.errors for along in alongs])
    both = np.stack([np.abs(along.given) + np.abs(along.slopes) for along in alongs])
    rms = math.sqrt(len(alongs))
    sizes = np.maximum(np.linalg.norm(both, axis=0) / rms, 2 * norms)
    whole = float(np.nanmax(sizes, initial=0.0, where=np.isfinite(sizes)))
    difference, error = np.linalg.norm(residuals, axis=0) / rms, np.linalg.norm(errors, axis=0) / rms
    # Of thousands of rows, one leaves its error along one direction by chance.
    beyond = np.sum(np.abs(residuals) > errors, axis=0) >= min(2, len(alongs))
    accused = beyond & (difference - error > tolerance.good * sizes) & (sizes > ZERO * whole)
    # What random directions may hide of a row, with 99 %.
    hidden = upper_factor(len(alongs)) * (difference + error)
    given = np.stack([along.given for along in alongs])
    is_zero = np.max(np.abs(given), axis=0) <= ZERO * whole
    vanishes = hidden <= ZERO_WITHIN * tolerance.certain_in(precision) / tolerance.certain * whole
    good = hidden <= tolerance.certain_in(precision) * sizes
    good |= vanishes & is_zero & ~accused
    kinks = np.any([along.kinks for along in alongs], axis=0)
    ratio = np.divide(difference, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    bar = np.divide(error, sizes, out=np.zeros_like(sizes), where=(sizes > 0) & np.isfinite(error))
    verdicts = np.where(good, Verdict.GOOD, Verdict.INCONCLUSIVE)
    verdicts = np.where(
        accused & ~kinks, np.where(ratio >= tolerance.worry, Verdict.WORRY, Verdict.DOUBLE_CHECK), verdicts
    )
    verdicts = np.where(accused & kinks, Verdict.INCONCLUSIVE, verdicts)
    slopes = np.stack([along.slopes for along in alongs])
    verdicts = np.where(~np.isfinite(slopes).all(axis=0), Verdict.INCONCLUSIVE, verdicts)
    only_given = ~np.isfinite(given).all(axis=0) & np.isfinite(slopes).all(axis=0)
    verdicts = np.where(only_given, Verdict.WORRY, verdicts)
    return Judged(np.minimum(ratio, 1.0), np.minimum(bar, 1.0), verdicts, sizes, is_zero)


@dataclass(frozen=True)
class Entry:
    """One entry of the Jacobian that is wrong."""

    row: int
    column: int
    given: float
    measured: float
    error: float

    @property
    def is_zero(self) -> bool:
        """Return whether it is measured as zero."""
        return abs(self.measured) <= max(self.error, 1e-9 * abs(self.given))


@dataclass(frozen=True, eq=False)
class Located:
    """What was found out about the wrong rows."""

    entries: tuple[Entry, ...]
    unexplained: Array  # the wrong rows whose wrong entries were not found
    columns: Array | None = None  # the measured Jacobian, where it was written out


def write_out(gauge: Gauge, weights: Array, judged: Judged, tolerance: Tolerance) -> Located:
    """Measure every column."""
    size = gauge.inputs.size
    entries, measured = [], np.zeros(gauge.linear.shape)
    for column in range(size):
        vector = np.zeros(size)
        vector[column] = weights[column]
        along = gauge.measure(vector)
        measured[:, column] = along.slopes / weights[column]
        wrong = (np.abs(along.residuals) - along.errors > tolerance.good * judged.sizes) & ~along.kinks
        for row in np.flatnonzero(wrong):
            values = [along.given[row], along.slopes[row], along.errors[row]] / weights[column]
            entries.append(Entry(int(row), column, *map(float, values)))
    found = {entry.row for entry in entries}
    unexplained = np.array([row for row in judged.wrong if row not in found], dtype=int)
    return Located(tuple(sorted(entries, key=lambda e: (e.row, e.column))), unexplained, measured)


def few_in_each_row(gauge: Gauge, alongs: Sequence[Along], rows: Array) -> Located:
    """Find the wrong entries of rows in which there are few, from residuals along random directions alone.

    The residuals of a row along directions ``V`` are ``V d`` with the row's error d. Where d has few entries that are
    not zero, they are found by orthogonal matching pursuit [1]_: the column of V that fits best, then the next one. It
    is believed only where two directions more than entries agree.

    .. [1] Y. Pati, R. Rezaiifar, P. Krishnaprasad, "Orthogonal matching pursuit", 27th Asilomar Conference (1993).
    """
    directions = np.stack([along.vector for along in alongs])
    lengths = np.linalg.norm(directions, axis=0)
    residuals = np.stack([along.residuals for along in alongs])
    errors = np.stack([along.errors for along in alongs])
    entries, unexplained = [], []
    for row in rows[:MOST_ROWS]:
        found = _pursue(directions, lengths, residuals[:, row], errors[:, row])
        if found is None:
            unexplained.append(row)
            continue
        for column, wrong_by, error in found:
            given = gauge.linear.entry(int(row), column)
            entries.append(Entry(int(row), column, given, given - wrong_by, error))
    return Located(tuple(entries), np.array(unexplained, dtype=int))


def _pursue(directions: Array, lengths: Array, residual: Array, errors: Array) -> list[tuple[int, float, float]] | None:
    """Return columns with what they are wrong by and its error; None where few columns do not explain the residual."""
    size = float(np.linalg.norm(residual))
    enough = float(np.linalg.norm(errors))
    if not math.isfinite(size) or enough > FITTED * size:
        return None
    left, columns = residual, []
    for _ in range(len(directions) - MORE_DIRECTIONS):
        columns.append(int(np.argmax(np.abs(directions.T @ left) / lengths)))
        part = directions[:, columns]
        wrong_by = np.linalg.lstsq(part, residual, rcond=None)[0]
        left = residual - part @ wrong_by
        if np.linalg.norm(left) <= max(2 * enough, 1e-9 * size):
            bars = enough / lengths[columns]
            return list(zip(columns, wrong_by.tolist(), bars.tolist(), strict=True))
    return None


def along_parameters(
    gauge: Gauge, rows: Array, weights: Array, judged: Judged, tolerance: Tolerance, generator: Generator
) -> dict[str, Array]:
    """Return which of some rows are wrong in which parameter, by one direction in each."""
    found = {}
    for name, place in gauge.inputs.slices():
        vector = np.zeros(gauge.inputs.size)
        vector[place] = weights[place] * generator.standard_normal(place.stop - place.start)
        along = gauge.measure(vector)
        beyond = np.abs(along.residuals) - along.errors > tolerance.good * judged.sizes
        found[name] = rows[beyond[rows]]
    return found
