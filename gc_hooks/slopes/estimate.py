"""What is measured and what comes of it: a line through the loss, and a slope with its error bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gc_hooks.report.verdict import Status

EPS = float(np.finfo(np.float64).eps)
SAFETY = 4.0
"""By how much an error bar exceeds the standard deviation that it is made of."""


def noise_bar(noise: float, step: float) -> float:
    """What the noise of two evaluations does to a central difference between them, on the safe side."""
    return SAFETY * noise / (math.sqrt(2) * step)


class LineLike(Protocol):
    """What a method needs of a line."""

    @property
    def value(self) -> float:
        """``phi(0)``."""

    def __call__(self, t: complex) -> Any:
        """``phi(t)``."""

    def realised(self, t: float) -> float:
        """The step that floating-point arithmetic really makes."""


@dataclass(frozen=True)
class Curve:
    """A function of one variable as a line, for trying a method out.

    Examples
    --------
    >>> Curve(lambda x: x**2, 3.0)(0.5)
    12.25
    """

    function: Callable[[Any], Any]
    start: float = 0.0

    @property
    def value(self) -> float:
        """``phi(0)``."""
        return float(self.function(self.start))

    def __call__(self, t: complex) -> Any:
        """``phi(t)``."""
        return self.function(self.start + t)

    def realised(self, t: float) -> float:
        """The step that floating-point arithmetic really makes."""
        return (self.start + t) - self.start


@dataclass(frozen=True)
class Estimate:
    """A slope and what is known of it.

    Attributes
    ----------
    value : float
        The slope ``phi'(0)``.
    error : float
        Its error bar: a bound, safety included.
    step : float
        The step that was used.
    evaluations : int
        Evaluations of the loss that it cost.
    status : Status
        ``KINK``: the slopes to the left and to the right differ. ``NOISY``: the loss is too noisy for a slope.
        ``NONFINITE``: the loss is not finite near the point.
    """

    value: float
    error: float
    step: float
    evaluations: int
    status: Status = Status.OK

    def __add__(self, other: Estimate) -> Estimate:
        """The slope of a sum of two terms."""
        worse = self.status if self.status is not Status.OK else other.status
        spent = self.evaluations + other.evaluations
        return Estimate(self.value + other.value, self.error + other.error, self.step, spent, worse)


Method = Callable[..., Estimate]
"""``(line, *, scale, noise) -> Estimate``."""
