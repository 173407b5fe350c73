"""Measure how noisy a loss is: below its noise, a difference of two values says nothing of a slope."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from gc_hooks.arrays.norms import norm
from gc_hooks.numerics import EPS, LEAST_NOISE, NOISE_POINTS, NOISE_SPACING
from gc_hooks.slopes.methods import LineLike


def measure_noise(line: LineLike, *, precision: float = EPS) -> float:
    """Return the standard deviation of a loss's noise, from a table of differences between neighbouring values.

    The line goes through all parameters, in units of their scales; ``precision`` is the machine epsilon of the loss's
    arithmetic, as far as it is known. The result is NaN where the loss does not change at all or is not finite. Costs
    eight evaluations; where all of them are equal, as in a loss that computes in float32, eight more, and some to find
    out how far it jumps.

    R. Hamming's table of differences: a k-th difference of a smooth function is of the order of the spacing to the k-th
    power and vanishes, while noise of variance s^2, independent from value to value, gives it the variance
    ``s^2 sum_j binomial(k, j)^2 = s^2 (2k)! / (k!)^2`` [1]_. So a level's root mean square, divided by the root of that
    factor, is s.

    .. [1] J. Moré, S. Wild, "Estimating computational noise", SIAM Journal on Scientific Computing 33 (2011).
    """
    jump = 0.0
    values = _sample(line, NOISE_SPACING * precision)
    if len(set(values)) == 1:
        jump = _first_jump(line, NOISE_SPACING * precision)
        values = _sample(line, NOISE_SPACING * float(np.finfo(np.float32).eps))
    distinct = sorted(set(values))
    if (len(distinct) == 1 and not jump) or not np.all(np.isfinite(values)):
        return math.nan
    noise = LEAST_NOISE * max(EPS * abs(line.value), _unit(values), jump)
    if 1 < len(distinct) < len(values):  # some values are equal: the loss moves in jumps of at least the smallest one
        noise = max(noise, min(after - before for before, after in pairwise(distinct)))
    # Levels 4 to 6: high enough for the function to have vanished, low enough to average over several differences.
    for k in range(4, 7):
        differences = np.diff(np.array(values), n=k)
        noise = max(noise, norm(differences) / math.sqrt(differences.size * math.comb(2 * k, k)))
    return noise


def _sample(line: LineLike, spacing: float) -> list[float]:
    values = []
    for k in range(-(NOISE_POINTS // 2), NOISE_POINTS // 2 + 1):
        values.append(float(line(k * spacing)) if k else line.value)
    return values


def _first_jump(line: LineLike, step: float) -> float:
    """Return how far a loss jumps that does not change at first.

    That is at least the unit in which it was rounded, which no table of differences shows where the slope happens to
    be a multiple of it.
    """
    while step < 1:
        step *= 4
        jump = abs(float(line(step)) - line.value)
        if jump > 0:
            return jump
    return 0.0


def _unit(values: list[float]) -> float:
    """Return the largest power of two of which all values are multiples.

    Where a loss ends with a rounding to float32 and its slope happens to be a multiple of that unit, no table of
    differences shows the rounding.

    Examples
    --------
    >>> _unit([3.0, 2.5]), _unit([0.1, 0.2]) < 1e-16
    (0.5, True)
    """
    denominator = max(value.as_integer_ratio()[1] for value in values)
    return math.ldexp(1.0, 1 - denominator.bit_length())
