"""The four verdicts, the bands that separate them, and how a measurement went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from gc_hooks.errors import InvalidProblem


class Verdict(IntEnum):
    """What a check says, from good to bad."""

    GOOD = 0
    INCONCLUSIVE = 1
    DOUBLE_CHECK = 2
    WORRY = 3

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Tolerance:
    """The bands of the difference ``||g - n|| / (||g|| + ||n||)``; the classic ones by default.

    Attributes
    ----------
    good : float
        Backprop is wrong if the difference is certainly above this band.
    certain : float
        GOOD needs the difference plus its error to stay below this band.
    worry : float
        From this band on, a wrong gradient is WORRY instead of DOUBLE_CHECK.

    Raises
    ------
    InvalidProblem
        The bands do not keep the order 0 < good <= certain <= worry < 1.
    """

    good: float = 1e-7
    certain: float = 1e-5
    worry: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.good <= self.certain <= self.worry < 1:
            raise InvalidProblem(f"{self}: the bands are ratios, with 0 < good <= certain <= worry < 1.")

    @property
    def bands(self) -> tuple[float, float, float]:
        """Return all three bands, as a report states them."""
        return self.good, self.certain, self.worry

    def judge(self, difference: float, error: float, at_least: float | None = None) -> Verdict:
        """Return the verdict on a difference with its error; INCONCLUSIVE where it cannot be told, as with NaN.

        The difference is at most ``difference + error``, and at least ``at_least``, by default ``difference - error``.

        >>> Tolerance().judge(3e-9, 1e-10), Tolerance().judge(0.3, 1e-9), Tolerance().judge(float("nan"), 0.0)
        (<Verdict.GOOD: 0>, <Verdict.WORRY: 3>, <Verdict.INCONCLUSIVE: 1>)
        """
        if at_least is None:
            at_least = difference - error
        if at_least > self.good:
            return Verdict.WORRY if difference >= self.worry else Verdict.DOUBLE_CHECK
        return Verdict.GOOD if difference + error <= self.certain else Verdict.INCONCLUSIVE


class Status(str, Enum):
    """How the measurement of a slope went."""

    OK = "ok"
    KINK = "kink"  # the slopes to the left and to the right differ
    NOISY = "noisy"  # the loss is too noisy for a slope
    NONFINITE = "nonfinite"  # the loss is not finite near the point
