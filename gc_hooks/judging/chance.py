"""What a few random directions leave open.

Along a direction with normal entries, the residual ``<v, g - n>`` is normal with standard deviation ``||g - n||``,
whatever the shape of the error: dense, in one entry, in two that are equal or exchanged. So the root mean square of K
residuals, divided by the norm, is a chi variable divided by sqrt(K), and its quantiles bound the norm from both sides.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

CERTAINTY = 0.99
LOWEST = {1: 0.01253, 2: 0.1003, 3: 0.1957, 4: 0.2725, 6: 0.3812, 8: 0.4537, 16: 0.6028}
"""1 % quantiles of chi / sqrt(K)."""
HIGHEST = {1: 2.576, 2: 2.146, 3: 1.945, 4: 1.822, 6: 1.674, 8: 1.585, 16: 1.414}
"""99 % quantiles."""


@cache
def upper_factor(directions: int) -> float:
    """With 99 % probability the norm is at most this many times the root mean square of the residuals.

    Examples
    --------
    >>> round(upper_factor(1)), round(upper_factor(2)), round(upper_factor(4), 1)
    (80, 10, 3.7)
    """
    return 1 / LOWEST[_known(directions)]


@cache
def lower_factor(directions: int) -> float:
    """With 99 % probability the norm is at least this many times the root mean square of the residuals."""
    return 1 / HIGHEST[_known(directions)]


@cache
def escape_factor(directions: int) -> float:
    """An error of this many times the bar leaves it along at least one direction with 99 % probability.

    Examples
    --------
    >>> [round(escape_factor(k), 1) for k in (1, 2, 3, 4)]
    [79.8, 8.0, 3.7, 2.5]
    """
    inside = (1 - CERTAINTY) ** (1 / directions)
    return 1 / NormalDist().inv_cdf((1 + inside) / 2)


def _known(directions: int) -> int:
    """The largest tabulated number of directions: fewer than there are is on the safe side."""
    return max(k for k in LOWEST if k <= directions)
