"""Central differences at smaller and smaller steps, extrapolated; the machinery behind `gc_hooks.central`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from gc_hooks.estimate import SAFETY, Estimate, LineLike, Status

FINEST_TOP, COARSEST_TOP = 2.0**-10, 2.0**-4
RATIO, RUNGS = 8.0, 9


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


@dataclass(frozen=True)
class _Rung:
    """One step size: the central slope, its extrapolations, and the jump between the one-sided slopes."""

    step: float
    slopes: tuple[float, ...]
    asymmetry: float
    values: tuple[float, float]


@dataclass(frozen=True)
class _Choice:
    """A rung and an order of extrapolation, with the bar that they allow."""

    bar: float
    slope: float
    step: float
    jump: float
    asymmetry: float


class Ladder:
    """Central differences at smaller and smaller steps, and the best estimate that they allow."""

    def __init__(self, line: LineLike, scale: float, noise: float) -> None:
        self.line = line
        self.step = scale * first_step(noise, line.value)
        self.noise = noise
        self.spent = 0
        self.rungs: list[_Rung] = []
        self.best: _Choice | None = None

    def worth_another(self) -> bool:
        """Whether a smaller step can still be better: until its noise alone exceeds the best bar so far."""
        if self.spent >= 2 * RUNGS:
            return False
        return self.best is None or self._noise_bar(self.step) < self.best.bar

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
        self._keep_best()

    def _keep_best(self) -> None:
        if len(self.rungs) < 2:
            return
        coarse, fine = self.rungs[-2:]
        jump = abs(RATIO * fine.asymmetry - coarse.asymmetry) / (RATIO - 1)
        for order, slope in enumerate(fine.slopes):
            truncation = self._truncation(order)
            bar = self._noise_bar(fine.step) + truncation + jump / 2
            if self.best is None or bar < self.best.bar:
                self.best = _Choice(bar, slope, fine.step, jump, abs(fine.asymmetry))

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

    def _noise_bar(self, step: float) -> float:
        return SAFETY * 1.1 * max(self.noise, self._quantum()) / (math.sqrt(2) * step)

    def _quantum(self) -> float:
        """The smallest change seen in a loss that did not change at all at another step: it moves in jumps."""
        here = self.line.value
        if not any(rung.values == (here, here) for rung in self.rungs):
            return 0.0
        values = sorted({value for rung in self.rungs for value in rung.values})
        return min((b - a for a, b in pairwise(values)), default=0.0)

    def estimate(self) -> Estimate:
        """The slope with the smallest bar, and what stood in its way."""
        if self.best is None:
            return Estimate(math.nan, math.inf, self.step, self.spent, Status.NONFINITE)
        best, noise = self.best, self._noise_bar(self.best.step)
        status = Status.OK
        if best.jump > max(best.bar, 2 * noise, 0.5 * best.asymmetry, 1e-5 * abs(best.slope)):
            status = Status.KINK
        elif noise > 0.5 * best.bar and best.bar > 1e-2 * abs(best.slope) > 0:
            status = Status.NOISY
        return Estimate(best.slope, best.bar, best.step, self.spent, status)
