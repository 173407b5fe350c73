"""Does backprop's slope agree with the measured one? A difference, its error bar, and a verdict."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from gc_hooks.arrays.norms import norm
from gc_hooks.problem import Problem
from gc_hooks.report.comparison import Basis, Comparison, EntryComparison
from gc_hooks.report.diagnosis import listed
from gc_hooks.report.verdict import Status, Tolerance, Verdict
from gc_hooks.slopes.estimate import EPS
from gc_hooks.slopes.measurements import MeasuredEntries, Measurements, ParameterMeasurements
from gc_hooks.verdicts.bounds import (
    Interval,
    finite_norm,
    lower_factor,
    of_directions,
    of_entries,
    root_mean_square,
    upper_factor,
)

WORST = 5
MOST_DIRECTIONS = 16
BELIEVED = 1e6
EARLY_STAGES = 1.15
"""What sixteen directions would just have seen may have passed as good after fewer; so much more would not."""


def compare(problem: Problem, measurements: Measurements, tolerance: Tolerance) -> dict[str, Comparison]:
    """Compare every parameter, in the order in which the user gave them."""
    whole, shared = whole_norm(problem, measurements), _shared(measurements)
    return {
        name: _flagged(problem, _compared(problem, name, measurements, tolerance, whole, shared))
        if name in measurements.parameters
        else _not_comparable(problem, name)
        for name in problem.point
    }


def compare_parameter(
    problem: Problem, name: str, measurements: Measurements, tolerance: Tolerance, whole: float, rounding: float = 0.0
) -> Comparison:
    """Compare one parameter on the best basis that the evidence gives.

    Parameters
    ----------
    problem, name, evidence, tolerance
    whole : float
        Norm of the whole gradient (`whole_norm`), against which a vanishing one is judged.
    rounding : float
        What the rounding of backprop's own arithmetic can do to this gradient, as a norm.
    """
    return _compared(problem, name, measurements, tolerance, whole, _shared(measurements), rounding)


class _Shared(NamedTuple):
    """What directions through all parameters say of each: bounds, for one along which they go a unit, and whether one
    of them left its error bar."""

    interval: Interval | None
    suspect: bool


def _shared(measurements: Measurements) -> _Shared:
    rounding = measurements.rounding
    suspect = any(abs(measurement.residual) > measurement.bar(rounding) for measurement in measurements.joint)
    return _Shared(of_directions(measurements.joint, 1.0, 1.0, rounding, 0.0) if measurements.joint else None, suspect)


def _compared(
    problem: Problem,
    name: str,
    measurements: Measurements,
    tolerance: Tolerance,
    whole: float,
    shared: _Shared,
    rounding: float = 0.0,
) -> Comparison:
    measured = measurements.parameters[name]
    known = _known(problem, name, measurements, tolerance, shared)
    if not measured.size:
        known["basis"] = Basis.EXACT
        return Comparison(**known, difference=0.0, error=0.0, verdict=Verdict.GOOD, note="no entries")
    if (not_finite := _not_finite(problem, known, measured)) is not None:
        return not_finite
    if known["basis"] is Basis.NOTHING:
        return _untold(known, f"not measured: {problem.meter.budget} was spent before")
    interval = _interval(problem, known, measurements, shared, rounding)
    if (vanishing := _no_gradient(problem, known, interval, whole, measurements)) is not None:
        return vanishing
    return _limited(_judged(known, interval, tolerance), problem)


def _known(
    problem: Problem, name: str, measurements: Measurements, tolerance: Tolerance, shared: _Shared
) -> dict[str, Any]:
    """All that is known before anything is judged."""
    measured = measurements.parameters[name]
    entries = measured.entries(problem.grads[name])
    return {
        "name": name,
        "shape": problem.point[name].shape,
        "basis": _basis(measured, measurements),
        "measured": len(entries.indices),
        "directions": len(measured.directions),
        "suspect": shared.suspect,
        "status": _worst_status(measured, measurements),
        "worst": _worst_entries(problem.point[name].shape, entries),
        "wrong": _wrong_entries(entries, tolerance),
    }


def _untold(known: dict[str, Any], note: str, verdict: Verdict = Verdict.INCONCLUSIVE) -> Comparison:
    return Comparison(**known, difference=math.nan, error=math.nan, verdict=verdict, note=note)


def _basis(measured: ParameterMeasurements, measurements: Measurements) -> Basis:
    if measured.complete:
        return Basis.EXACT
    if measured.directions:
        return Basis.ESTIMATED
    if measured.indices:
        return Basis.PARTIAL
    return Basis.BOUNDED if measurements.joint else Basis.NOTHING


def _interval(
    problem: Problem, known: dict[str, Any], measurements: Measurements, shared: _Shared, rounding: float
) -> Interval:
    name, basis = known["name"], known["basis"]
    measured, grad, size = measurements.parameters[name], problem.grads[name], problem.grad_norms[name]
    if basis in (Basis.EXACT, Basis.PARTIAL):
        floor = measurements.rounding.floors.get(name, 0.0) / math.sqrt(measured.size)
        return of_entries(measured.entries(grad), measurements.rounding, floor, rounding)
    if basis is Basis.ESTIMATED:
        return of_directions(measured.directions, size, 1.0, measurements.rounding, rounding)
    weight, bounds = measurements.joint[0].probe.weights[name], shared.interval
    if rounding or bounds is None:
        bounds = of_directions(measurements.joint, size, weight, measurements.rounding, rounding)
        weight = 1.0
    at_most = bounds.at_most / weight
    return Interval(at_most, at_most, 0.0, size, size, bounds.bar / weight, bounds.escape / weight, 0.0)


def _judged(known: dict[str, Any], interval: Interval, tolerance: Tolerance) -> Comparison:
    """The classic ratio with its bounds, and the verdict."""
    difference, at_most, at_least = _ratios(interval, known["basis"])
    return Comparison(
        **known,
        difference=difference,
        error=at_most - difference,
        at_least=at_least,
        verdict=tolerance.judge(difference, at_most - difference, at_least),
        backprop_norm=interval.backprop_norm,
        measured_norm=interval.measured_norm,
        penalty_share=min(interval.share / interval.measured_norm, 1e6) if interval.measured_norm > 0 else 0.0,
        sensitivity=_sensitivity(known["basis"], interval, tolerance),
    )


def _ratios(interval: Interval, basis: Basis) -> tuple[float, float, float]:
    """The ratio, the most and the least it can be.

    Where both sides are known, their sizes are; else ``||n||`` lies within ``||g - n||`` of ``||g||``, so that an error
    of x makes a ratio between ``x / (2 ||g|| + x)`` and ``x / (2 ||g|| - x)``.
    """
    size = interval.backprop_norm + interval.measured_norm
    if basis in (Basis.EXACT, Basis.PARTIAL):
        smallest, largest = size - interval.bar, size + interval.bar
    else:
        doubled = 2 * interval.backprop_norm
        smallest = max(doubled - interval.at_most, interval.backprop_norm, interval.at_most)
        largest = doubled + interval.at_least
        size = max(size, interval.estimate) if interval.estimate > 1e-3 * interval.backprop_norm else doubled
    at_most = min(1.0, interval.at_most / smallest) if smallest > 0 else 1.0
    at_least = interval.at_least / largest if largest > 0 else 0.0
    difference = interval.estimate / size if size > 0 else 0.0
    return min(max(difference, at_least), at_most), at_most, at_least


def _sensitivity(basis: Basis, interval: Interval, tolerance: Tolerance) -> float:
    """The relative error that would have been seen with 99 %: it has to leave the bars, and then the good band.

    What leaves the bars along one direction is measured along more, up to 16, before it is judged.
    """
    if interval.measured_norm <= 0:
        return math.inf
    escape = interval.escape / interval.measured_norm
    if basis in (Basis.EXACT, Basis.PARTIAL):
        band = 2 * tolerance.good
    else:
        spread = upper_factor(MOST_DIRECTIONS) / lower_factor(MOST_DIRECTIONS)
        band = 2 * tolerance.good * EARLY_STAGES * spread
    return band + escape


def _no_gradient(
    problem: Problem, known: dict[str, Any], interval: Interval, whole: float, measurements: Measurements
) -> Comparison | None:
    """Both sides vanish against the whole gradient: a bias in front of batch norm, a unit that is never active."""
    name, basis = known["name"], known["basis"]
    grad_norm = problem.grad_norms[name]
    largest = interval.at_most if basis is not Basis.EXACT else interval.measured_norm + interval.bar
    inside = interval.measured_norm <= max(interval.bar, 100 * EPS * whole) or basis is Basis.BOUNDED
    rounding = max(100 * problem.precision * whole, measurements.rounding.floors.get(name, 0.0))
    handed_over = norm(problem.grad_errors[name]) if name in problem.grad_errors else 0.0
    if grad_norm > max(rounding, handed_over) or not inside:
        return None
    sides = {"backprop_norm": grad_norm, "measured_norm": interval.measured_norm}
    known = {**known, **sides, "difference": 0.0, "wrong": 0}
    moves = 0 < interval.bar < math.inf  # in jumps that hide a slope; a loss that never moves has an infinite bar
    nothing = whole == 0 and not moves and not _any_slope(measurements.parameters[name], measurements)
    hidden = handed_over > rounding and (grad_norm > 0 or interval.measured_norm > 0)
    if (nothing or largest <= 1e-6 * whole) and not hidden:
        return _limited(Comparison(**known, error=0.0, verdict=Verdict.GOOD, note="no gradient"), problem)
    vague = "no gradient, but the bar is too wide to be sure"
    return Comparison(**known, error=1.0, verdict=Verdict.INCONCLUSIVE, note=vague)


def _any_slope(measured: ParameterMeasurements, measurements: Measurements) -> bool:
    """Whether any slope was measured that is not exactly zero."""
    return any(measured.slopes) or any(measurement.slope for measurement in (*measured.directions, *measurements.joint))


def _limited(comparison: Comparison, problem: Problem) -> Comparison:
    """What was not looked at is said, and is never good."""
    if comparison.basis is not Basis.PARTIAL:
        return comparison
    note = f"{comparison.measured} of {comparison.size} entries measured: {problem.meter.budget} was spent"
    return comparison.noted(note, max(comparison.verdict, Verdict.INCONCLUSIVE))


def _not_finite(problem: Problem, known: dict[str, Any], measured: ParameterMeasurements) -> Comparison | None:
    """NaN and infinity never pass; they are WORRY where backprop alone makes them."""
    if not math.isfinite(problem.value):
        return _untold(known, f"the loss is {problem.value}{_since(problem)}")
    slopes = chain(measured.slopes, (measurement.slope for measurement in measured.directions))
    if not all(map(math.isfinite, slopes)):
        return _untold(known, "the loss is not finite next to this point")
    if not math.isfinite(problem.grad_norms[known["name"]]):
        return _untold(known, "backprop's gradient is not finite, the loss and its slope are", Verdict.WORRY)
    return None


def _since(problem: Problem) -> str:
    """Whether it is the loss alone that is not finite."""
    names = [name for name, array in problem.point.items() if not np.all(np.isfinite(array))]
    if names:
        return (
            f", and {listed(names)} {'is' if len(names) == 1 else 'are'} not finite already: look at the steps before"
        )
    return ", although all parameters are finite: look for log(0), 0/0 or an overflow in the loss"


def _not_comparable(problem: Problem, name: str) -> Comparison:
    issue = problem.issues[name]
    return Comparison(name, problem.point[name].shape, math.nan, math.nan, Verdict.WORRY, note=issue.text)


def _flagged(problem: Problem, comparison: Comparison) -> Comparison:
    """A gradient that was usable but has a flaw (it does not repeat itself) is wrong whatever the slopes say."""
    issue = problem.issues.get(comparison.name)
    return comparison.noted(issue.text, Verdict.WORRY) if issue else comparison


def whole_norm(problem: Problem, measurements: Measurements) -> float:
    """Norm of the whole gradient, as backprop or as the measurement has it, whichever is larger.

    A measurement that is millions of times larger (steps chosen in the wrong unit) is not believed so far that all
    others vanish against it.
    """
    sizes = ((name, problem.grad_norms[name]) for name in measurements.parameters)
    backprop = math.hypot(*(n if math.isfinite(n) else finite_norm(problem.grads[name]) for name, n in sizes))
    measured = math.hypot(*(_measured_norm(m) for m in measurements.parameters.values()))
    return max(backprop, min(measured, BELIEVED * backprop) if backprop > 0 else measured)


def _measured_norm(measured: ParameterMeasurements) -> float:
    if measured.indices:
        return finite_norm(np.array(measured.slopes))
    return root_mean_square(np.array([measurement.slope for measurement in measured.directions]))


def _worst_status(measured: ParameterMeasurements, measurements: Measurements) -> Status:
    seen = measured.statuses or {measurement.status: 1 for measurement in measurements.joint}
    return next((status for status in (Status.NONFINITE, Status.KINK, Status.NOISY) if seen.get(status)), Status.OK)


def _wrong_entries(entries: MeasuredEntries, tolerance: Tolerance) -> int:
    if not len(entries.indices):
        return 0
    allowed = entries.errors + tolerance.good * (np.abs(entries.grad) + np.abs(entries.slopes))
    return int(np.sum(entries.away > allowed))


def _worst_entries(shape: tuple[int, ...], entries: MeasuredEntries) -> tuple[EntryComparison, ...]:
    if not len(entries.indices):
        return ()
    order = np.argsort(-np.nan_to_num(entries.away, nan=math.inf), kind="stable")[:WORST]
    return tuple(
        EntryComparison(
            index=tuple(int(i) for i in np.unravel_index(entries.indices[k], shape)),
            backprop=float(entries.grad[k]),
            measured=float(entries.slopes[k]),
            error=float(entries.errors[k]),
        )
        for k in order
        if entries.away[k] != 0
    )
