"""How noisy a loss is: below this, a difference of two values says nothing of a slope."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.estimate import EPS, LineLike
from gc_hooks.matching import norm

POINTS, SPACING = 9, 256.0


def measure_noise(line: LineLike, *, precision: float = EPS) -> float:
    """Standard deviation of a loss's noise, from a table of differences between neighbouring values.

    Parameters
    ----------
    line : line
        Along a direction through all parameters, in units of their scales.
    precision : float
        Machine epsilon of the arithmetic in the loss, as far as it is known; sets the spacing of the points.

    Returns
    -------
    float
        In units of the loss; at least 0.3 eps of its value. NaN where the loss does not change at all or is not
        finite, so that nothing is known of its noise.

    Notes
    -----
    Costs eight evaluations; eight more where all of them are equal, as they are in a loss that computes in float32 on
    the way. Level k of the table has variance ``(2k)! / (k!)^2`` times that of the noise [1]_.

    .. [1] J. Moré, S. Wild, "Estimating computational noise", SIAM Journal on Scientific Computing 33 (2011).
    """
    values = _sample(line, SPACING * precision)
    if len(set(values)) == 1:
        values = _sample(line, SPACING * float(np.finfo(np.float32).eps))
    if len(set(values)) == 1 or not np.all(np.isfinite(values)):
        return math.nan
    return max(_difference_table(np.array(values)), _quantum(values), 0.3 * EPS * abs(line.value))


def _quantum(values: list[float]) -> float:
    """The smallest change, where some neighbours do not differ: the loss moves in jumps of at least this size."""
    distinct = sorted(set(values))
    if len(distinct) == len(values):
        return 0.0
    return min(after - before for before, after in pairwise(distinct))


def _sample(line: LineLike, spacing: float) -> list[float]:
    half = POINTS // 2
    return [line.value if k == 0 else float(line(k * spacing)) for k in range(-half, half + 1)]


def _difference_table(values: Array) -> float:
    """The largest of three levels: high enough for the function to have vanished, low enough to average."""
    levels = []
    for k in range(4, 7):
        differences = np.diff(values, n=k)
        levels.append(norm(differences) / math.sqrt(differences.size * math.comb(2 * k, k)))
    return max(levels)
