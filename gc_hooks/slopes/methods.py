"""How to measure: a method takes a line and returns the slope at its start, how far it can be off, and a status."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from numpy.exceptions import ComplexWarning

from gc_hooks.errors import InvalidProblem
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.estimate import EPS, SAFETY, Curve, Estimate, LineLike, Method, noise_bar

FINEST_TOP, COARSEST_TOP = 2.0**-10, 2.0**-4
RATIO, RUNGS = 8.0, 9
COARSEST_JUMP = 2.0**-20
ROUGH, ROUGH_SAFETY = 1e-11, 1.4


def first_step(noise: float, value: float) -> float:
    """Where a ladder of steps begins, in units of the scale: about the fifth root of the relative noise, from which
    one extrapolation (an error of fourth order) is best.

    Examples
    --------
    >>> first_step(2e-16, 1.0), round(first_step(1e-7, 1.0), 4)
    (0.0009765625, 0.0398)
    """
    relative = noise / abs(value) if value else 0.0
    return min(max(relative**0.2, FINEST_TOP), COARSEST_TOP) if math.isfinite(relative) else FINEST_TOP


def is_rough(noise: float, value: float) -> bool:
    """Whether a loss is far noisier than its own rounding in float64: it computes in float32 on the way, and its errors
    are not as independent from point to point.

    Examples
    --------
    >>> is_rough(1e-16, 1.0), is_rough(1e-7, 1.0)
    (False, True)
    """
    return noise > ROUGH * abs(value)


@dataclass(frozen=True)
class _Rung:
    """One step size: the central slope, its extrapolations, and the jump between the one-sided slopes."""

    step: float
    slopes: tuple[float, ...]
    asymmetry: float
    values: tuple[float, float]


@dataclass(frozen=True)
class _Choice:
    """A rung and its best order of extrapolation, with the part of the bar that is not noise.

    ``growth`` is by how much the noise is larger at that step than at the point.
    """

    rest: float
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
        self.spent = 0
        self.rungs: list[_Rung] = []
        self.choices: list[_Choice] = []

    @property
    def best(self) -> _Choice | None:
        """The choice with the smallest bar so far."""
        return min(self.choices, key=self._bar, default=None)

    def worth_another(self) -> bool:
        """Whether a smaller step can still be better: until its noise alone exceeds the best bar so far."""
        if self.spent >= 2 * RUNGS:
            return False
        return self.best is None or self._noise_bar(self.step) < self._bar(self.best)

    def descend(self) -> None:
        """Measure the next rung; one that meets a value that is not finite is passed over."""
        above, below = float(self.line(self.step)), float(self.line(-self.step))
        self.spent += 2
        if math.isfinite(above) and math.isfinite(below):
            self._add(above, below)
        self.step /= RATIO

    def _add(self, above: float, below: float) -> None:
        right, left = self.line.realised(self.step), -self.line.realised(-self.step)
        if right <= 0 or left <= 0:  # the step is lost in rounding
            return
        here = self.line.value
        slopes = [(above - below) / (right + left)]
        for order, coarse in enumerate(self.rungs[-1].slopes[:2] if self.rungs else ()):
            gain = RATIO ** (2 * order + 2)
            slopes.append((gain * slopes[order] - coarse) / (gain - 1))
        asymmetry = (above - here) / right - (here - below) / left
        self.rungs.append(_Rung(self.step, tuple(slopes), asymmetry, (above, below)))
        self._choose()

    def _choose(self) -> None:
        """The best order of extrapolation that this rung and the one above allow."""
        if len(self.rungs) < 2:
            return
        coarse, fine = self.rungs[-2:]
        jump = abs(RATIO * fine.asymmetry - coarse.asymmetry) / (RATIO - 1)
        truncation, slope = min((self._truncation(order), slope) for order, slope in enumerate(fine.slopes))
        rest, growth = truncation + jump / 2, self._growth(fine.values)
        self.choices.append(_Choice(rest, slope, fine.step, jump, abs(fine.asymmetry), growth))

    def _growth(self, values: tuple[float, float]) -> float:
        """Noise at a step against noise at the point: residuals that vanish at the point, as they do in a network that
        is fitted well, and make a squared error of 1e-10 there, are larger a step away, and so is their rounding."""
        here = abs(self.line.value)
        return math.sqrt(max(1.0, *(abs(value) / here for value in values))) if here > 0 else 1.0

    def _truncation(self, order: int) -> float:
        """What extrapolation changed last, the larger of both ways, and no less than the rungs above let expect."""
        coarse, fine = self.rungs[-2:]
        if order == 0:
            change = abs(fine.slopes[0] - coarse.slopes[0])
        else:
            change = max(abs(fine.slopes[order] - s) for s in (fine.slopes[order - 1], coarse.slopes[order - 1]))
        if len(self.rungs) > 2:
            before = abs(coarse.slopes[0] - self.rungs[-3].slopes[0])
            change = max(change, before / RATIO ** (2 * order + 2))
        return change

    def _bar(self, choice: _Choice) -> float:
        return self._noise_of(choice) + choice.rest

    def _noise_of(self, choice: _Choice) -> float:
        return self._noise_bar(choice.step) * choice.growth

    def _noise_bar(self, step: float) -> float:
        return noise_bar(1.1 * max(self.noise, self._quantum()), step)

    def _quantum(self) -> float:
        """The smallest change seen in a loss that did not change at all at another step: it moves in jumps.

        Jumps much larger than float32's would have shown in the measured noise. They are kinks beside ground that is
        really flat: a unit that is not active here.
        """
        here = self.line.value
        if not any(rung.values == (here, here) for rung in self.rungs):
            return 0.0
        values = sorted({value for rung in self.rungs for value in rung.values})
        jump = min((b - a for a, b in pairwise(values)), default=0.0)
        return jump if jump <= COARSEST_JUMP * abs(here) else 0.0

    def estimate(self) -> Estimate:
        """The slope with the smallest bar, and what stood in its way."""
        if self.best is None:
            return Estimate(math.nan, math.inf, self.step, self.spent, Status.NONFINITE)
        self.noise = max([self.noise, *self._hidden_noise(self.best)])
        best = min(self.choices, key=self._bar)
        bar = max([self._bar(best), *self._contradictions(best)])
        return Estimate(best.slope, bar, best.step, self.spent, self._status(best, bar))

    def _status(self, best: _Choice, bar: float) -> Status:
        noise = self._noise_of(best)
        if best.jump > max(bar, 2 * noise, 0.5 * best.asymmetry, 1e-5 * abs(best.slope)):
            return Status.KINK
        if noise > 0.5 * bar and bar > 1e-2 * abs(best.slope) > 0:
            return Status.NOISY
        return Status.OK

    def _hidden_noise(self, best: _Choice) -> Iterator[float]:
        """What is far too rough for the noise that is known, at steps where everything ought to be smoother.

        In a loss of two terms, one in float32 and one in float64, only the second one's noise shows in neighbours.
        """
        for choice in self.choices:
            if choice.step < best.step and choice.rest > max(4 * self._noise_of(choice), self._bar(best)):
                yield choice.rest * choice.step

    def _contradictions(self, best: _Choice) -> Iterator[float]:
        """How far away the slopes of other rungs reach whose bars do not even touch the best one.

        Steps that are lost on the term in float32 see the slope of the other term alone, and see it sharply.
        """
        for choice in self.choices:
            away = abs(choice.slope - best.slope)
            if away > self._bar(choice) + self._bar(best):
                yield away + self._bar(choice)


__all__ = [
    "Curve",
    "Estimate",
    "LineLike",
    "Method",
    "Status",
    "central",
    "complex_casts_refused",
    "complex_step",
    "fixed_step",
]


def complex_step(line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
    """The imaginary part of the loss a tiny imaginary step away: no cancellation, no kink crossed, one evaluation.

    Parameters
    ----------
    line : line
        Has to be analytic in NumPy's sense: no ``abs``, ``norm``, ``var``, casts or buffers of floats on the way.
        `check_gradients` uses this method only after it agreed with central differences along random directions.
    scale : float
        The unit of length of the parameters on the line.
    noise : float, optional
        Noise of the loss, in units of the loss; by default the rounding of its value.

    Returns
    -------
    Estimate
        With an error bar for rounding only, on the safe side; `check_gradients` replaces it by what it has measured of
        the rounding of slopes.

    Raises
    ------
    TypeError, ComplexWarning
        The loss refuses complex numbers.

    Notes
    -----
    ``phi'(0) = Im phi(ih) / h + O(h^2)`` [1]_. Here h = 2^-100 of the scale, so that the second term vanishes.

    .. [1] W. Squire, G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40
       (1998).

    Examples
    --------
    >>> import numpy as np
    >>> complex_step(Curve(np.exp)).value
    1.0
    """
    step = scale * 2.0**-100
    value = complex(line(complex(0.0, step)))
    slope = value.imag / step
    if not (math.isfinite(slope) and math.isfinite(value.real)):
        return Estimate(slope, math.inf, step, 1, Status.NONFINITE)
    rounding = 4 * EPS * abs(slope) + _noise_or_rounding(line, noise) / scale
    return Estimate(slope, SAFETY * rounding, step, 1)


def fixed_step(step: float = 1e-7) -> Method:
    """The textbook's formula to the letter, ``(J(theta + h) - J(theta - h)) / 2h``, for teaching and comparison.

    Parameters
    ----------
    step : float
        h, the same for every entry whatever its size.

    Returns
    -------
    Method
        Two evaluations a slope. Its error bar is the rounding of the two losses divided by 2h, plus half the
        difference between the slopes to the right and to the left (a bound on what a kink or curvature can do).

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


@dataclass(frozen=True)
class _FixedStep:
    """A class and not a function inside a function, so that it can be sent to another process."""

    step: float

    def __call__(self, line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
        step = self.step
        above, below = line(step), line(-step)
        value = (above - below) / (2 * step)
        if not math.isfinite(value):
            return Estimate(value, math.inf, step, 2, Status.NONFINITE)
        asymmetry = abs((above - line.value) - (line.value - below)) / step
        rounding = noise_bar(_noise_or_rounding(line, noise), step)
        status = Status.NOISY if rounding > abs(value) else Status.OK
        return Estimate(value, rounding + asymmetry / 2, step, 2, status)

    def __repr__(self) -> str:
        return f"fixed_step({self.step:g})"


def central(line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
    """Central differences with a step adapted to the loss, extrapolated, and an error bar that was measured.

    Parameters
    ----------
    line : line
        Any loss, smooth at its start or not.
    scale : float
        The unit of length of the parameters on the line; the first step is 2^-10 of it (more where the loss is noisy,
        see `gc_hooks.slopes.methods.first_step`), each further one an eighth.
    noise : float, optional
        Standard deviation of the loss's noise (see `measure_noise`); by default the rounding of its value.

    Returns
    -------
    Estimate
        The bar is the sum of what the noise does to this step, what extrapolation still changes, and half the jump
        between the one-sided slopes, each with its safety.

    Notes
    -----
    Costs two evaluations a rung: 6 to 8 as a rule, at most 18. Richardson's extrapolation in Ridders' tableau [1]_,
    the step and order with the smallest bar; rungs are added until noise alone exceeds the best bar so far.

    .. [1] C. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4 (1982).

    Examples
    --------
    >>> import numpy as np
    >>> estimate = central(Curve(np.exp))
    >>> bool(abs(estimate.value - 1.0) < estimate.error < 1e-9)
    True
    """
    ladder = Ladder(line, scale, _noise_or_rounding(line, noise))
    while ladder.worth_another():
        ladder.descend()
    return ladder.estimate()


def _noise_or_rounding(line: LineLike, noise: float | None) -> float:
    return EPS * abs(line.value) if noise is None else noise


@contextmanager
def complex_casts_refused() -> Iterator[None]:
    """Make NumPy raise where it drops an imaginary part; in the main thread only, since warning filters are shared."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", ComplexWarning)
        yield
