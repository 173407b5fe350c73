"""How to measure: a method takes a line and returns the slope at its start, with its error and a status.

`complex_step`, `central` and `fixed_step` are here, and `Method`, the class for a method of your own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

from gc_hooks.errors import InvalidProblem
from gc_hooks.numerics import (
    COARSEST_JUMP,
    COARSEST_TOP,
    EPS,
    FINEST_TOP,
    KINK_SHARE,
    QUICK_STEPS,
    RATIO,
    ROUGH,
    ROUGH_SAFETY,
    RUNGS,
    SAFETY,
)
from gc_hooks.report.verdict import Status


class LineLike(Protocol):
    """What a method needs of a line."""

    @property
    def value(self) -> float:
        """Return ``phi(0)``."""

    def __call__(self, t: complex) -> Any:
        """Return ``phi(t)``."""

    def realised(self, t: float) -> float:
        """Return the step that floating-point arithmetic really makes."""


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
        return float(self.function(self.start))

    def __call__(self, t: complex) -> Any:
        return self.function(self.start + t)

    def realised(self, t: float) -> float:
        return (self.start + t) - self.start


@dataclass(frozen=True)
class Estimate:
    """A measured slope.

    Attributes
    ----------
    value : float
        The slope ``phi'(0)``.
    error : float
        How far ``value`` can be off: a bound, safety included.
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
        """Return the slope of a sum of two terms."""
        worse = self.status if self.status is not Status.OK else other.status
        evaluations = self.evaluations + other.evaluations
        return Estimate(self.value + other.value, self.error + other.error, self.step, evaluations, worse)


def noise_error(noise: float, step: float) -> float:
    """Return what noise of this standard deviation does to a central difference, with `SAFETY`.

    Two evaluations with independent noise s differ by sqrt(2) s, and the difference is divided by 2h.
    """
    return SAFETY * noise / (math.sqrt(2) * step)


def central_difference(line: LineLike, step: float) -> float:
    """Return ``(phi(h) - phi(-h)) / 2h`` at one step: two evaluations."""
    return (float(line(step)) - float(line(-step))) / (2 * step)


class Method(ABC):
    """A way to measure a slope. Subclass it, or hand in a plain function, which is wrapped with the default traits.

    Attributes
    ----------
    adapts_step : bool
        The step suits any line, so that random directions can be measured. Otherwise a check measures entry by entry.
    needs_noise : bool
        The noise of the loss is measured before (8 to 16 evaluations) and handed in as ``noise``.
    is_exact : bool
        Its only error is rounding. Otherwise an accusation is tried at other steps before it stands.
    sees_kinks : bool
        It reports `Status.KINK` where the slopes to both sides differ. Otherwise a check looks for one itself, at the
        cost of one slope more, before it accuses.
    is_traced : bool
        Not a way to measure: the whole gradient is traced from the loss, where that is possible.
    """

    adapts_step: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True
    is_exact: ClassVar[bool] = False
    sees_kinks: ClassVar[bool] = False
    is_traced: ClassVar[bool] = False
    __name__: str = "method"

    @abstractmethod
    def slope(self, line: LineLike, *, scale: float, noise: float | None) -> Estimate:
        """Measure the slope of a line at its start.

        Parameters
        ----------
        line : line
            ``line(t)`` is the loss at the step t, ``line.value`` at the start, ``line.realised(t)`` the step that is
            really made.
        scale : float
            The unit of length of the parameters on the line.
        noise : float or None
            Standard deviation of the loss's noise, in units of the loss; None where it was not measured.
        """

    def quick(self, line: LineLike, *, scale: float, noise: float | None) -> Estimate:
        """Measure a slope at less cost and with a larger error, to find out where to look.

        By default central differences at two steps: four evaluations. The error is their disagreement, and what the
        noise does at the larger step.
        """
        if not noise or not math.isfinite(noise):
            return self.slope(line, scale=scale, noise=noise)
        step = QUICK_STEPS[0] * scale
        slope = central_difference(line, step)
        finer = central_difference(line, QUICK_STEPS[1] * scale)
        return Estimate(slope, noise_error(noise, step) + abs(slope - finer), step, 4)

    def __call__(self, line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
        """Measure the slope of a line at its start, as `slope` does."""
        return self.slope(line, scale=scale, noise=noise)

    def __repr__(self) -> str:
        return self.__name__

    @staticmethod
    def of(function: Method | Callable[..., Estimate]) -> Method:
        """Return a method as it is, and a plain function wrapped in one with the default traits."""
        return function if isinstance(function, Method) else _FunctionMethod(function)


@dataclass(frozen=True, repr=False)
class _FunctionMethod(Method):
    """A function of the user's as a method."""

    function: Callable[..., Estimate]

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", getattr(self.function, "__name__", repr(self.function)))

    def slope(self, line: LineLike, *, scale: float, noise: float | None) -> Estimate:
        return self.function(line, scale=scale, noise=noise)


class _ComplexStep(Method):
    """The imaginary part of the loss a tiny imaginary step away: no cancellation, no kink crossed, one evaluation.

    ``complex_step(line, scale=1.0, noise=None)``; the line has to be analytic in NumPy's sense: no ``abs``, ``norm``,
    ``var``, casts or buffers of floats on the way. `check_gradients` uses this method only after it agreed with central
    differences along a random direction.

    Raises
    ------
    TypeError, ComplexWarning
        The loss refuses complex numbers.

    Notes
    -----
    Taylor's series at an imaginary step, ``phi(ih) = phi(0) + ih phi'(0) - h^2 phi''(0) / 2 - ...``, has the slope as
    its imaginary part: ``phi'(0) = Im phi(ih) / h + O(h^2)`` [1]_. Nothing is subtracted, so h may be 2^-100 of the
    scale, where the second term vanishes. The error covers rounding only; `check_gradients` replaces it by the rounding
    that it has measured.

    .. [1] W. Squire, G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40
       (1998).

    Examples
    --------
    >>> import numpy as np
    >>> complex_step(Curve(np.exp)).value
    1.0
    """

    needs_noise = False
    is_exact = True
    __name__ = "complex_step"

    def slope(self, line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
        step = scale * 2.0**-100
        value = complex(line(complex(0.0, step)))
        slope = value.imag / step
        if not (math.isfinite(slope) and math.isfinite(value.real)):
            return Estimate(slope, math.inf, step, 1, Status.NONFINITE)
        of_value = EPS * abs(value.real) if noise is None else noise  # the real part is the loss itself
        return Estimate(slope, SAFETY * (4 * EPS * abs(slope) + of_value / scale), step, 1)

    def quick(self, line: LineLike, *, scale: float, noise: float | None) -> Estimate:
        return self.slope(line, scale=scale, noise=noise)


class _Central(Method):
    """Central differences with a step adapted to the loss, extrapolated, and with an error that is measured.

    ``central(line, scale=1.0, noise=None)``; for any loss, smooth at its start or not. The first step is 2^-10 of the
    scale (more where the loss is noisy, see `first_step`), each further one an eighth.

    Notes
    -----
    Costs two evaluations a step: 6 to 8 as a rule, at most 18. The error is the sum of what the noise does to the
    chosen step, what extrapolation still changes, and half the jump between the one-sided slopes. Steps get smaller
    until noise alone exceeds the smallest error so far.

    Examples
    --------
    >>> import numpy as np
    >>> estimate = central(Curve(np.exp))
    >>> bool(abs(estimate.value - 1.0) < estimate.error < 1e-9)
    True
    """

    sees_kinks = True
    __name__ = "central"

    def slope(self, line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
        ladder = Ladder(line, scale, EPS * abs(line.value) if noise is None else noise)
        while ladder.worth_another():
            ladder.descend()
        return ladder.estimate()


class _Reference(_Central):
    """The gradient of the loss, traced from its own code by reverse mode: every entry at the price of a few gradients.

    A check compares backprop with it entry by entry, after one measured slope has confirmed it. Where it cannot be had,
    slopes are measured, and the report says why. Along a single line it is `central`.
    """

    is_traced = True
    __name__ = "reference"


complex_step: Method = _ComplexStep()
central: Method = _Central()
reference: Method = _Reference()


def fixed_step(step: float = 1e-7) -> Method:
    """Return the textbook's formula to the letter, ``(J(theta + h) - J(theta - h)) / 2h``, for teaching and comparison.

    Parameters
    ----------
    step : float
        h, the same for every entry whatever its size.

    Returns
    -------
    Method
        Two evaluations a slope. Its error is what the noise of the loss does to the difference, plus half of what the
        slopes to the right and to the left differ by (a bound on what a kink or curvature can do).

    Raises
    ------
    InvalidProblem
        The step is not a positive number.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(fixed_step(1e-3)(Curve(np.exp)).value), 9)
    1.000000167
    """
    if not (isinstance(step, (int, float)) and 0 < step < math.inf):
        raise InvalidProblem(f"fixed_step({step!r}): the step has to be a positive number. Try 1e-7, the textbooks'.")
    return _FixedStep(step)


@dataclass(frozen=True, repr=False)
class _FixedStep(Method):
    step: float
    adapts_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", f"fixed_step({self.step:g})")

    def slope(self, line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
        step = self.step
        above, below = float(line(step)), float(line(-step))
        value = (above - below) / (2 * step)
        if not math.isfinite(value):
            return Estimate(value, math.inf, step, 2, Status.NONFINITE)
        asymmetry = abs((above - line.value) - (line.value - below)) / step
        rounding = noise_error(EPS * abs(line.value) if noise is None else noise, step)
        status = Status.NOISY if rounding > abs(value) else Status.OK
        return Estimate(value, rounding + asymmetry / 2, step, 2, status)


# The ladder behind `central`
#
# A central difference at step h is phi'(0) + h^2 phi'''(0) / 6 + O(h^4), plus noise / (sqrt(2) h). A rung is one step.
# From two rungs at h and h/R, Richardson's extrapolation (R^2 s(h/R) - s(h)) / (R^2 - 1) removes the h^2 term, a third
# rung removes h^4 (Ridders' tableau: C. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in
# Engineering Software 4, 1982). The ladder goes down until noise grows faster than truncation falls.


def first_step(noise: float, value: float) -> float:
    """Return where a ladder begins, in units of the scale: about the fifth root of the relative noise.

    After one extrapolation the error is of the order h^4 + noise / h, which is smallest at h = noise^(1/5).

    Examples
    --------
    >>> first_step(2e-16, 1.0), round(first_step(1e-7, 1.0), 4)
    (0.0009765625, 0.0398)
    """
    relative = noise / abs(value) if value else 0.0
    if not math.isfinite(relative):
        return FINEST_TOP
    return float(min(max(relative**0.2, FINEST_TOP), COARSEST_TOP))


def is_rough(noise: float, value: float) -> bool:
    """Return whether a loss is far noisier than its rounding in float64: it computes in float32 somewhere.

    Examples
    --------
    >>> is_rough(1e-16, 1.0), is_rough(1e-7, 1.0)
    (False, True)
    """
    return noise > ROUGH * abs(value)


@dataclass(frozen=True)
class _Rung:
    """One step: the central slope and its extrapolations, and the jump between the one-sided slopes."""

    step: float
    slopes: tuple[float, ...]
    asymmetry: float
    values: tuple[float, float]


@dataclass(frozen=True)
class _Choice:
    """A rung with its best order of extrapolation.

    ``other_error`` is the part of its error that is not noise; ``growth`` is how much larger the noise is at that step
    than at the point.
    """

    other_error: float
    slope: float
    step: float
    jump: float
    asymmetry: float
    growth: float


class Ladder:
    """Central differences at smaller and smaller steps, and the best estimate that they allow."""

    def __init__(self, line: LineLike, scale: float, noise: float) -> None:
        self.line = line
        self.step = scale * first_step(noise, line.value)
        self.noise = noise * (ROUGH_SAFETY if is_rough(noise, line.value) else 1.0)
        self.evaluations = 0
        self.rungs: list[_Rung] = []
        self.choices: list[_Choice] = []

    @property
    def best(self) -> _Choice | None:
        """Return the choice with the smallest error so far."""
        return min(self.choices, key=self._error, default=None)

    def worth_another(self) -> bool:
        """Return whether a smaller step can still be better: its noise is below the smallest error so far."""
        if self.evaluations >= 2 * RUNGS:
            return False
        return self.best is None or self._noise_at(self.step) < self._error(self.best)

    def descend(self) -> None:
        """Measure the next rung; skip one that meets a value that is not finite."""
        above, below = float(self.line(self.step)), float(self.line(-self.step))
        self.evaluations += 2
        if math.isfinite(above) and math.isfinite(below):
            self._add(above, below)
        self.step /= RATIO

    def _add(self, above: float, below: float) -> None:
        right, left = self.line.realised(self.step), -self.line.realised(-self.step)
        if right <= 0 or left <= 0:  # the step is lost in rounding
            return
        here = self.line.value
        slopes = [(above - below) / (right + left)]
        if self.rungs:
            for order, coarse in enumerate(self.rungs[-1].slopes[:2]):
                gain = RATIO ** (2 * order + 2)
                slopes.append((gain * slopes[order] - coarse) / (gain - 1))
        asymmetry = (above - here) / right - (here - below) / left
        self.rungs.append(_Rung(self.step, tuple(slopes), asymmetry, (above, below)))
        if len(self.rungs) > 1:
            self._choose()

    def _choose(self) -> None:
        """Keep the best order of extrapolation that this rung and the one above allow."""
        coarse, fine = self.rungs[-2:]
        # Without a kink the asymmetry is h phi''(0) and falls with the step; what extrapolation leaves of it is a jump.
        jump = abs(RATIO * fine.asymmetry - coarse.asymmetry) / (RATIO - 1)
        truncation, slope = min((self._truncation(order), slope) for order, slope in enumerate(fine.slopes))
        # Residuals that vanish at the point, as in a network that is fitted well, are larger a step away, and so is
        # their rounding: a squared error of 1e-10 there has become 1e-6.
        here, growth = abs(self.line.value), 1.0
        if here > 0:
            growth = math.sqrt(max(1.0, abs(fine.values[0]) / here, abs(fine.values[1]) / here))
        self.choices.append(_Choice(truncation + jump / 2, slope, fine.step, jump, abs(fine.asymmetry), growth))

    def _truncation(self, order: int) -> float:
        """Return what extrapolation changed last, and at least what the rungs above let expect."""
        coarse, fine = self.rungs[-2:]
        if order == 0:
            change = abs(fine.slopes[0] - coarse.slopes[0])
        else:
            slope = fine.slopes[order]
            change = max(abs(slope - fine.slopes[order - 1]), abs(slope - coarse.slopes[order - 1]))
        if len(self.rungs) > 2:
            before = abs(coarse.slopes[0] - self.rungs[-3].slopes[0])
            change = max(change, before / RATIO ** (2 * order + 2))
        return change

    def _error(self, choice: _Choice) -> float:
        return self._noise_of(choice) + choice.other_error

    def _noise_of(self, choice: _Choice) -> float:
        return self._noise_at(choice.step) * choice.growth

    def _noise_at(self, step: float) -> float:
        # A tenth more: the noise was measured from nine values only.
        return noise_error(1.1 * max(self.noise, self._quantum()), step)

    def _quantum(self) -> float:
        """Return the smallest change of a loss that did not change at all at some step: it moves in jumps."""
        here = self.line.value
        if not any(rung.values == (here, here) for rung in self.rungs):
            return 0.0
        values: set[float] = set()
        for rung in self.rungs:
            values.update(rung.values)
        jumps = [after - before for before, after in pairwise(sorted(values))]
        jump = min(jumps, default=0.0)
        return jump if jump <= COARSEST_JUMP * abs(here) else 0.0

    def estimate(self) -> Estimate:
        """Return the slope with the smallest error."""
        if self.best is None:
            return Estimate(math.nan, math.inf, self.step, self.evaluations, Status.NONFINITE)
        self._add_hidden_noise(self.best)
        best = min(self.choices, key=self._error)
        error = max(self._error(best), self._contradiction(best))
        noise = self._noise_of(best)
        status = Status.OK
        # 1e-5 of the slope: smaller jumps change no verdict, and rounding makes them.
        if best.jump > max(error, 2 * noise, KINK_SHARE * best.asymmetry, 1e-5 * abs(best.slope)):
            status = Status.KINK
        elif noise > 0.5 * error and error > 1e-2 * abs(best.slope) > 0:  # noise leaves less than two digits
            status = Status.NOISY
        return Estimate(best.slope, error, best.step, self.evaluations, status)

    def _add_hidden_noise(self, best: _Choice) -> None:
        """Raise the noise to what smaller steps show, where everything ought to be smoother.

        In a loss of two terms, one in float32 and one in float64, only the second one's noise shows in neighbours.
        """
        hidden = [
            choice.other_error * choice.step
            for choice in self.choices
            if choice.step < best.step and choice.other_error > max(4 * self._noise_of(choice), self._error(best))
        ]
        self.noise = max([self.noise, *hidden])

    def _contradiction(self, best: _Choice) -> float:
        """Return how far the slopes of other rungs reach whose errors do not even touch the best one's; 0 if none does.

        Steps that are lost in the rounding of a term in float32 measure the slope of the other term alone.
        """
        farthest = 0.0
        for choice in self.choices:
            residual = abs(choice.slope - best.slope)
            if residual > self._error(choice) + self._error(best):
                farthest = max(farthest, residual + self._error(choice))
        return farthest
