"""Bound ``||g - n||``, the norm of the error of a gradient, from a few random directions.

Along a direction v with standard normal entries, the residual ``<v, g - n>`` is normal with standard deviation ``||g -
n||``, whatever the shape of the error: dense, in one entry, in two that are equal or exchanged. So the root mean square
of K residuals divided by the norm is chi_K / sqrt(K), a chi variable with K degrees of freedom, and its quantiles bound
the norm from both sides:

    P(chi_K / sqrt(K) < LOWEST[K]) = 1 %     so  ||g - n|| < rms / LOWEST[K]   with 99 %
    P(chi_K / sqrt(K) > HIGHEST[K]) = 1 %    so  ||g - n|| > rms / HIGHEST[K]  with 99 %
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from gc_hooks.arrays.norms import root_mean_square
from gc_hooks.numerics import CERTAINTY
from gc_hooks.slopes.measurements import DirectionalMeasurement, Rounding

LOWEST = {1: 0.01253, 2: 0.1003, 3: 0.1957, 4: 0.2725, 6: 0.3812, 8: 0.4537, 16: 0.6028}
"""1 % quantiles of chi_K / sqrt(K): ``scipy.stats.chi.ppf(0.01, K) / sqrt(K)``."""
HIGHEST = {1: 2.576, 2: 2.146, 3: 1.945, 4: 1.822, 6: 1.674, 8: 1.585, 16: 1.414}
"""99 % quantiles of chi_K / sqrt(K)."""


@cache
def upper_factor(directions: int) -> float:
    """Return the factor f so that with 99 % the norm is at most f times the root mean square of the residuals.

    Examples
    --------
    >>> round(upper_factor(1)), round(upper_factor(2)), round(upper_factor(4), 1)
    (80, 10, 3.7)
    """
    return 1 / LOWEST[_tabulated(directions)]


@cache
def lower_factor(directions: int) -> float:
    """Return the factor f so that with 99 % the norm is at least f times the root mean square of the residuals."""
    return 1 / HIGHEST[_tabulated(directions)]


@cache
def escape_factor(directions: int) -> float:
    """Return how many errors of measurement large ``||g - n||`` must be to leave one along a direction with 99 %.

    All K residuals stay inside with probability ``p^K``, where p is that of one; so p = 0.01^(1/K), and the factor is
    the inverse of the normal quantile at (1 + p) / 2.

    Examples
    --------
    >>> [round(escape_factor(k), 1) for k in (1, 2, 3, 4)]
    [79.8, 8.0, 3.7, 2.5]
    """
    inside = (1 - CERTAINTY) ** (1 / directions)
    return 1 / NormalDist().inv_cdf((1 + inside) / 2)


def _tabulated(directions: int) -> int:
    """Return the largest tabulated number of directions: fewer than there are is on the safe side."""
    return max(count for count in LOWEST if count <= directions)


class Interval(NamedTuple):
    """Where ``||g - n||`` lies, and the sizes of both sides."""

    estimate: float  # ``||g - n||``
    at_most: float
    at_least: float
    backprop_norm: float  # ``||g||`` and ``||n||``
    measured_norm: float
    error: float  # how far the measurement alone can be off
    escape: float  # the smallest ``||g - n||`` that leaves the errors of measurement with 99 % probability
    penalty: float  # norm of the penalty's part of n


def bound_by_directions(
    measurements: Sequence[DirectionalMeasurement],
    backprop_norm: float,
    weight: float,
    rounding: Rounding,
    backprop_rounding: float,
) -> Interval:
    """Bound ``||g - n||`` with 99 % from residuals along directions.

    ``weight`` is how far a direction through several parameters goes along this one, and ``backprop_rounding`` what
    rounding does to backprop's side, as a norm.
    """
    errors = np.array([one.total_error(rounding) for one in measurements]) + backprop_rounding * weight
    residuals = np.array([abs(one.residual) for one in measurements])
    # The directions that bound most tightly together: one that met a kink says less than the others without it. The
    # choice depends on the errors alone, never on the residuals, so that the quantiles hold.
    order = np.argsort(errors, kind="stable")
    counts = range(1, len(measurements) + 1)
    tightest = min(counts, key=lambda count: root_mean_square(errors[order[:count]]) * upper_factor(count))
    errors, residuals = errors[order[:tightest]], residuals[order[:tightest]]
    widest = float(errors[-1])
    return Interval(
        estimate=root_mean_square(residuals) / weight,
        at_most=root_mean_square(residuals + errors) * upper_factor(tightest) / weight,
        at_least=root_mean_square(np.maximum(residuals - errors, 0.0)) * lower_factor(tightest) / weight,
        backprop_norm=backprop_norm,
        measured_norm=root_mean_square(np.array([one.slope for one in measurements])) / weight,
        error=widest / weight,
        escape=2 * widest * escape_factor(tightest) / weight,
        penalty=root_mean_square(np.array([one.penalty for one in measurements])) / weight,
    )
