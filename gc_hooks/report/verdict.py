"""The four verdicts, the bands that separate them, and how a measurement went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from gc_hooks.errors import InvalidProblem
from gc_hooks.numerics import CERTAIN_IN_HALF, CERTAIN_IN_SINGLE, HALF_FROM, SINGLE_FROM


class Verdict(IntEnum):
    """What a check says, from good to bad."""

    GOOD = 0
    INCONCLUSIVE = 1
    DOUBLE_CHECK = 2
    WORRY = 3

    def __str__(self) -> str:
        return self.name


class Precision(str, Enum):
    """The arithmetic in which a verdict holds: the coarser one of backprop's and of the loss's."""

    DOUBLE = "float64"
    SINGLE = "float32"
    HALF = "half precision"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def of(cls, eps: float) -> Precision:
        """Return the precision with this machine epsilon.

        >>> Precision.of(2.2e-16), Precision.of(1.2e-7)
        (<Precision.DOUBLE: 'float64'>, <Precision.SINGLE: 'float32'>)
        """
        if eps < SINGLE_FROM:
            return cls.DOUBLE
        return cls.SINGLE if eps < HALF_FROM else cls.HALF


@dataclass(frozen=True)
class Tolerance:
    """The bands of the difference ``||g - n|| / (||g|| + ||n||)``; the classic ones by default.

    Attributes
    ----------
    good : float
        Backprop is wrong if the difference is certainly above this band.
    certain : float
        GOOD needs the difference plus its error to stay below this band. The default is that of float64: it widens to
        1e-2 where the gradient or the loss computes in float32, and to 3e-2 in half precision. Any other value is kept.
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

    @classmethod
    def for_solver(cls, rtol: float) -> Tolerance:
        """Return the bands for a loss or a gradient that a solver computes with a relative tolerance.

        What an integrator, or an iteration that stops early, leaves of a gradient is its tolerance times a factor that
        depends on the equations. A difference of ten times the tolerance is taken for that, and everything larger is a
        mistake; so an error in the gradient of twenty times the tolerance is not seen.

        Raises
        ------
        InvalidProblem
            The tolerance is not between 0 and 1e-4: with more, a gradient that is wrong by some percent looks right.

        Examples
        --------
        >>> Tolerance.for_solver(2.0**-20).good == 10 * 2.0**-20
        True
        """
        if not 0 < rtol <= 1e-4:
            raise InvalidProblem(
                f"Tolerance.for_solver({rtol!r}): the solver's relative tolerance has to be between 0 and 1e-4. This "
                "usually means an absolute tolerance in its place, or a solver that is too inexact to check a "
                "gradient. Try 1e-6, in the solver too."
            )
        good, certain = max(10 * rtol, cls.good), max(100 * rtol, cls.certain)
        return cls(good, certain, max(certain, cls.worry))

    @property
    def bands(self) -> tuple[float, float, float]:
        """Return all three bands, as a report states them."""
        return self.good, self.certain, self.worry

    def certain_in(self, precision: Precision) -> float:
        """Return the band below which a difference and its error have to stay for GOOD in a precision.

        >>> Tolerance().certain_in(Precision.SINGLE), Tolerance(certain=1e-6).certain_in(Precision.SINGLE)
        (0.01, 1e-06)
        """
        if precision is Precision.DOUBLE or self.certain != Tolerance.certain:
            return self.certain
        return CERTAIN_IN_SINGLE if precision is Precision.SINGLE else CERTAIN_IN_HALF

    def judge(
        self,
        difference: float,
        error: float,
        at_least: float | None = None,
        precision: Precision = Precision.DOUBLE,
    ) -> Verdict:
        """Return the verdict on a difference with its error; INCONCLUSIVE where it cannot be told, as with NaN.

        The difference is at most ``difference + error``, and at least ``at_least``, by default ``difference - error``.
        What is certainly wrong is so in every precision; what is certainly good depends on it.

        >>> Tolerance().judge(3e-9, 1e-10), Tolerance().judge(0.3, 1e-9), Tolerance().judge(float("nan"), 0.0)
        (<Verdict.GOOD: 0>, <Verdict.WORRY: 3>, <Verdict.INCONCLUSIVE: 1>)
        """
        if at_least is None:
            at_least = difference - error
        if at_least > self.good:
            return Verdict.WORRY if difference >= self.worry else Verdict.DOUBLE_CHECK
        return Verdict.GOOD if difference + error <= self.certain_in(precision) else Verdict.INCONCLUSIVE


class Status(str, Enum):
    """How the measurement of a slope went."""

    OK = "ok"
    KINK = "kink"  # the slopes to the left and to the right differ
    NOISY = "noisy"  # the loss is too noisy for a slope
    NONFINITE = "nonfinite"  # the loss is not finite near the point
