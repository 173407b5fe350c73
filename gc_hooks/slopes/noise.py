"""How noisy a loss is: below this, a difference of two values says nothing of a slope."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import norm
from gc_hooks.slopes.estimate import EPS, LineLike

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
        In units of the loss; at least 0.3 units of its last place. NaN where the loss does not change at all or is not
        finite, so that nothing is known of its noise.

    Notes
    -----
    Costs eight evaluations; where all of them are equal, as they are in a loss that computes in float32 on the way,
    eight more, and some to find out how far it jumps. Level k of the table has variance ``(2k)! / (k!)^2`` times that
    of the noise [1]_.

    .. [1] J. Moré, S. Wild, "Estimating computational noise", SIAM Journal on Scientific Computing 33 (2011).
    """
    values, jump = _sample(line, SPACING * precision), 0.0
    if len(set(values)) == 1:
        jump = _first_jump(line, SPACING * precision)
        values = _sample(line, SPACING * float(np.finfo(np.float32).eps))
    if (len(set(values)) == 1 and not jump) or not np.all(np.isfinite(values)):
        return math.nan
    rounding = 0.3 * max(EPS * abs(line.value), _unit(values), jump)
    return max(_difference_table(np.array(values)), _quantum(values), rounding)


def _quantum(values: list[float]) -> float:
    """The smallest change, where some neighbours do not differ: the loss moves in jumps of at least this size."""
    distinct = sorted(set(values))
    if len(distinct) == len(values):
        return 0.0
    return min((after - before for before, after in pairwise(distinct)), default=0.0)


def _first_jump(line: LineLike, step: float) -> float:
    """How far a loss that does not change at first has jumped when it does: no less than the unit in which it was
    rounded, which no table of differences sees where the slope happens to be a multiple of it."""
    while step < 1:
        step *= 4
        jump = abs(float(line(step)) - line.value)
        if jump > 0:
            return jump
    return 0.0


def _unit(values: list[float]) -> float:
    """The largest power of two of which all values are multiples: where a loss ends with a rounding to float32 and its
    slope happens to be a multiple of that unit, no table of differences sees the rounding.

    Examples
    --------
    >>> _unit([3.0, 2.5]), _unit([0.1, 0.2]) < 1e-16
    (0.5, True)
    """
    denominator = max(value.as_integer_ratio()[1] for value in values)
    return math.ldexp(1.0, 1 - denominator.bit_length())


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
