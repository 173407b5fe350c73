"""The four verdicts, and the bands that separate them."""

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
    """The bands of the difference; the classic ones by default.

    Attributes
    ----------
    good : float
        A difference that is certainly above this one is there.
    certain : float
        Good needs the difference and its error bar together to stay below this.
    worry : float
        From here on a difference is WORRY instead of DOUBLE_CHECK.

    Raises
    ------
    InvalidProblem
        They are not in the order 0 < good <= certain <= worry < 1.
    """

    good: float = 1e-7
    certain: float = 1e-5
    worry: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.good <= self.certain <= self.worry < 1:
            raise InvalidProblem(
                f"{self}: the bands have to keep the order 0 < good <= certain <= worry < 1. A difference is a ratio "
                "between 0 (equal) and 1 (nothing in common)."
            )

    @property
    def bands(self) -> tuple[float, float, float]:
        """All three, the way a report states them."""
        return self.good, self.certain, self.worry

    def judge(self, difference: float, error: float, at_least: float | None = None) -> Verdict:
        """The verdict on a difference with its error bar; what cannot be told is INCONCLUSIVE, NaN too.

        Parameters
        ----------
        difference, error : float
            The difference is at most ``difference + error``.
        at_least : float, optional
            What it certainly is; by default ``difference - error``.

        Examples
        --------
        >>> Tolerance().judge(3e-9, 1e-10), Tolerance().judge(0.3, 1e-9), Tolerance().judge(float("nan"), 0.0)
        (<Verdict.GOOD: 0>, <Verdict.WORRY: 3>, <Verdict.INCONCLUSIVE: 1>)
        """
        if (difference - error if at_least is None else at_least) > self.good:
            return Verdict.WORRY if difference >= self.worry else Verdict.DOUBLE_CHECK
        return Verdict.GOOD if difference + error <= self.certain else Verdict.INCONCLUSIVE


class Status(str, Enum):
    """How a measurement went."""

    OK = "ok"
    KINK = "kink"
    NOISY = "noisy"
    NONFINITE = "nonfinite"
