"""Does backprop's slope agree with the measured one? A difference, its error bar, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.estimate import Status
from gc_hooks.matching import norm
from gc_hooks.measure import Measured
from gc_hooks.problem import Problem

WORST = 5


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

    def judge(self, difference: float, error: float) -> Verdict:
        """The verdict on a difference with its error bar; what cannot be told is INCONCLUSIVE, NaN too.

        Examples
        --------
        >>> Tolerance().judge(3e-9, 1e-10), Tolerance().judge(0.3, 1e-9), Tolerance().judge(float("nan"), 0.0)
        (<Verdict.GOOD: 0>, <Verdict.WORRY: 3>, <Verdict.INCONCLUSIVE: 1>)
        """
        if difference - error > self.good:
            return Verdict.WORRY if difference >= self.worry else Verdict.DOUBLE_CHECK
        return Verdict.GOOD if difference + error <= self.certain else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class EntryComparison:
    """One entry: where it is, what backprop says, what was measured, and how far the measurement can be off."""

    index: tuple[int, ...]
    backprop: float
    measured: float
    error: float


@dataclass(frozen=True)
class Comparison:
    """One parameter: how far backprop's gradient is from the measured one.

    Attributes
    ----------
    name : str
    shape : tuple of int
    difference : float
        ``||g - n|| / (||g|| + ||n||)``, between 0 and 1; NaN where there is nothing to compare.
    error : float
        Its error bar, a bound: measurement, and the rounding of backprop's own arithmetic where that matters.
    verdict : Verdict
    sensitivity : float
        The smallest relative error ``||g - n|| / ||n||`` that this check would have seen.
    exact : bool
        All entries were measured.
    measured : int
        Number of entries that were measured.
    wrong : int
        Number of measured entries whose difference is certain.
    backprop_norm, measured_norm : float
        ``||g||`` and ``||n||`` over the measured entries.
    penalty_share : float
        ``||penalty's part|| / ||n||``; 0 unless the penalty was handed in apart.
    status : Status
        The worst that happened to a measurement.
    worst : tuple of EntryComparison
        The entries that differ most.
    note : str
    """

    name: str
    shape: tuple[int, ...]
    difference: float
    error: float
    verdict: Verdict
    sensitivity: float = math.nan
    exact: bool = False
    measured: int = 0
    wrong: int = 0
    backprop_norm: float = math.nan
    measured_norm: float = math.nan
    penalty_share: float = 0.0
    status: Status = Status.OK
    worst: tuple[EntryComparison, ...] = ()
    note: str = ""

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def noted(self, note: str, verdict: Verdict | None = None) -> Comparison:
        """The same with one more note, and another verdict if one is given."""
        return replace(
            self,
            note="; ".join(filter(None, (self.note, note))),
            verdict=self.verdict if verdict is None else verdict,
        )


def compare(problem: Problem, measured: dict[str, Measured], tolerance: Tolerance) -> dict[str, Comparison]:
    """Compare every parameter, in the order in which the user gave them."""
    whole = whole_norm(problem, measured)
    return {
        name: _flagged(problem, name, compare_parameter(problem, name, measured[name], tolerance, whole))
        if name in measured
        else _not_comparable(problem, name)
        for name in problem.point
    }


def compare_parameter(
    problem: Problem, name: str, measured: Measured, tolerance: Tolerance, whole: float, rounding: float = 0.0
) -> Comparison:
    """Compare one parameter.

    Parameters
    ----------
    problem, name, measured, tolerance
    whole : float
        Norm of the whole gradient, against which a vanishing one is judged.
    rounding : float
        What the rounding of backprop's own arithmetic can do to this gradient, as a norm.
    """
    seen = measured.seen
    grad, slopes = problem.grads[name][seen], measured.slopes[seen]
    errors = measured.errors[seen]
    base = Comparison(
        name=name,
        shape=problem.point[name].shape,
        difference=math.nan,
        error=math.nan,
        verdict=Verdict.INCONCLUSIVE,
        exact=bool(seen.all()),
        measured=int(seen.sum()),
        backprop_norm=norm(grad),
        measured_norm=norm(slopes),
        status=_worst_status(measured),
        penalty_share=_share(measured.shares[seen], slopes),
        worst=_worst_entries(problem.grads[name], measured),
    )
    if not problem.point[name].size:
        return replace(base, difference=0.0, error=0.0, verdict=Verdict.GOOD, note="no entries")
    if (not_finite := _not_finite(base, problem, slopes)) is not None:
        return not_finite
    if not seen.any():
        return base.noted("not measured: the budget was spent before")
    if (vanishing := _no_gradient(base, problem, norm(errors), whole)) is not None:
        return _limited(vanishing)
    return _limited(_judged(base, grad, slopes, errors, rounding, tolerance))


def _judged(
    base: Comparison, grad: Array, slopes: Array, errors: Array, rounding: float, tolerance: Tolerance
) -> Comparison:
    difference, error = ratio(grad, slopes, norm(errors) + rounding)
    certain = np.abs(grad - slopes) - errors - rounding > tolerance.good * (np.abs(grad) + np.abs(slopes))
    return replace(
        base,
        difference=difference,
        error=error,
        verdict=tolerance.judge(difference, error),
        wrong=int(certain.sum()),
        sensitivity=_sensitivity(tolerance.good, error),
    )


def ratio(grad: Array, slopes: Array, bar: float) -> tuple[float, float]:
    """The classic ratio ``||g - n|| / (||g|| + ||n||)``, and how far a bar on ``||n||`` can move it.

    Examples
    --------
    >>> ratio(np.array([1.0]), np.array([1.0]), 1e-9)
    (0.0, 5.000000002500001e-10)
    """
    size, away = norm(grad) + norm(slopes), norm(grad - slopes)
    if size == 0:
        return 0.0, 0.0 if bar == 0 else 1.0
    difference = away / size
    highest = (away + bar) / (size - bar) if bar < size else math.inf
    lowest = max(0.0, away - bar) / (size + bar)
    return difference, min(1.0, max(highest - difference, difference - lowest))


def overall(problem: Problem, measured: dict[str, Measured], comparisons: dict[str, Comparison]) -> tuple[float, float]:
    """The classic ratio over all parameters, and its error bar; NaN where nothing was measured."""
    seen = {name: m.seen for name, m in measured.items() if m.seen.any()}
    if not seen:
        return math.nan, math.nan
    grad, slopes = (
        np.concatenate([source(name)[mask] for name, mask in seen.items()])
        for source in (problem.grads.__getitem__, lambda name: measured[name].slopes)
    )
    parts = [comparisons[name] for name in seen if math.isfinite(comparisons[name].error)]
    bar = math.hypot(*(part.error * (part.backprop_norm + part.measured_norm) for part in parts))
    with np.errstate(all="ignore"):
        return ratio(grad, slopes, bar)


def penalty_share(measured: dict[str, Measured]) -> float:
    """What the penalty contributes to the whole slope, as a ratio of norms."""
    whole = math.hypot(*(norm(m.slopes[m.seen]) for m in measured.values()))
    part = math.hypot(*(norm(m.shares[m.seen]) for m in measured.values()))
    return part / whole if whole > 0 else math.nan


def _sensitivity(good: float, error: float) -> float:
    """The relative error r with ``r / (2 + r) - error > good``: what DOUBLE_CHECK would have begun at.

    An error of r moves the classic ratio to about ``r / (2 + r)``; the bar is counted twice, once because it may hide
    the error and once because it is subtracted.
    """
    seen = good + 2 * error
    return 2 * seen / (1 - seen) if seen < 1 else math.inf


def _no_gradient(base: Comparison, problem: Problem, bar: float, whole: float) -> Comparison | None:
    """Both sides vanish against the whole gradient: a bias in front of batch norm, a unit that is never active."""
    if base.backprop_norm > 100 * problem.precision * whole or base.measured_norm > bar:
        return None
    if bar <= 1e-6 * whole or whole == 0:  # with nothing to hold it against, both are exactly zero
        return replace(base, difference=0.0, error=0.0, verdict=Verdict.GOOD, note="no gradient")
    return replace(base, difference=0.0, error=1.0, note="no gradient, but the bar is too wide to be sure")


def _limited(comparison: Comparison) -> Comparison:
    """What was not looked at is said, and is never good."""
    if comparison.exact:
        return comparison
    note = f"{comparison.measured} of {comparison.size} entries measured: the budget was spent"
    worse = comparison.verdict if comparison.verdict > Verdict.INCONCLUSIVE else Verdict.INCONCLUSIVE
    return comparison.noted(note, worse)


def _not_finite(base: Comparison, problem: Problem, slopes: Array) -> Comparison | None:
    """NaN and infinity never pass; they are WORRY where backprop alone makes them."""
    if not math.isfinite(problem.value):
        return base.noted(f"the loss is {problem.value}")
    if not np.all(np.isfinite(slopes)):
        return base.noted("the loss is not finite next to this point")
    if not np.all(np.isfinite(problem.grads[base.name])):
        return base.noted("backprop's gradient is not finite, the loss and its slope are", Verdict.WORRY)
    return None


def _not_comparable(problem: Problem, name: str) -> Comparison:
    flaw = problem.flaws[name]
    return Comparison(name, problem.point[name].shape, math.nan, math.nan, Verdict.WORRY, note=flaw.text)


def _flagged(problem: Problem, name: str, comparison: Comparison) -> Comparison:
    """A gradient that was usable but has a flaw (it does not repeat itself) is wrong whatever the slopes say."""
    flaw = problem.flaws.get(name)
    return comparison.noted(flaw.text, Verdict.WORRY) if flaw else comparison


def whole_norm(problem: Problem, measured: dict[str, Measured]) -> float:
    """Norm of the whole gradient, as backprop or as the measurement has it, whichever is larger."""
    sides = ([problem.grads[name] for name in measured], [m.slopes[m.seen] for m in measured.values()])
    norms = [math.hypot(*(norm(array[np.isfinite(array)]) for array in side)) for side in sides]
    return max(norms, default=0.0)


def _worst_status(measured: Measured) -> Status:
    order = (Status.NONFINITE, Status.KINK, Status.NOISY)
    return next((status for status in order if measured.statuses[status]), Status.OK)


def _share(shares: Array, slopes: Array) -> float:
    size = norm(slopes)
    return min(norm(shares) / size, 1e6) if size > 0 else 0.0


def _worst_entries(grad: Array, measured: Measured) -> tuple[EntryComparison, ...]:
    away = np.where(measured.seen, np.nan_to_num(np.abs(grad - measured.slopes), nan=math.inf), -1.0).reshape(-1)
    order = np.argsort(-away, kind="stable")[:WORST]
    return tuple(
        EntryComparison(
            index=tuple(int(i) for i in np.unravel_index(int(k), grad.shape)),
            backprop=float(grad.flat[k]),
            measured=float(measured.slopes.flat[k]),
            error=float(measured.errors.flat[k]),
        )
        for k in order
        if away[k] > 0
    )
