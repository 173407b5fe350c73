"""Does backprop's gradient agree with the measured slopes? A difference, its error, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gc_hooks.arrays.norms import finite_norm, norm, root_mean_square
from gc_hooks.numerics import (
    BELIEVED,
    BY_CHANCE,
    CERTAIN_IN_HALF,
    EARLY_STAGES,
    FEW,
    FLIPPED,
    MOST_DIRECTIONS,
    REFERENCE_ROUNDINGS,
    ROUGHLY_EQUAL,
    USUALLY,
    ZERO,
    ZERO_WITHIN,
)
from gc_hooks.problem import Parameter, Problem
from gc_hooks.report import notes
from gc_hooks.report.comparison import Basis, Comparison, EntryComparison, Reason
from gc_hooks.report.verdict import Precision, Status, Tolerance, Verdict
from gc_hooks.slopes.measurements import MeasuredEntries, Measurements, ParameterMeasurements
from gc_hooks.verdicts.bounds import Interval, bound_by_directions, lower_factor, upper_factor

WORST = 5
"""Entries that a report lists for each parameter."""


@dataclass(frozen=True)
class Joint:
    """What directions through all parameters say of each."""

    # Bounds for a parameter along which they go one unit; None where there are no such directions.
    interval: Interval | None
    suspect: bool  # one of them left its error: some parameter is wrong


def compare(
    problem: Problem,
    measurements: Measurements,
    tolerance: Tolerance,
    known: Mapping[str, Comparison] | None = None,
) -> dict[str, Comparison]:
    """Compare every parameter, in the order in which the user gave them.

    ``known`` are comparisons with the same slopes, from which the details of single entries are taken.
    """
    total_norm = whole_norm(problem, measurements)
    joint = _joint(measurements)
    found = {}
    for parameter in problem.parameters:
        issue = parameter.issue
        if parameter.gradient is None:
            assert issue is not None
            comparison = Comparison(parameter.name, parameter.value.shape)
            found[parameter.name] = comparison.noted(issue.text, Verdict.WORRY, Reason.ISSUE)
            continue
        before = True if known is None else known[parameter.name]
        comparison = _compare(problem, parameter, measurements, tolerance, total_norm, joint, details=before)
        if issue:  # usable, but wrong whatever the slopes say: it does not repeat itself
            comparison = comparison.noted(issue.text, Verdict.WORRY, Reason.ISSUE)
        found[parameter.name] = comparison
    return found


def compare_parameter(
    problem: Problem,
    parameter: Parameter,
    measurements: Measurements,
    tolerance: Tolerance,
    total_norm: float,
    backprop_rounding: float = 0.0,
    details: bool = True,
) -> Comparison:
    """Compare one parameter on the best basis that the measurements give, with ``details`` of single entries.

    ``total_norm`` is the norm of the whole gradient (`whole_norm`), against which a vanishing one is judged, and
    ``backprop_rounding`` what the rounding of backprop's own arithmetic can do to this gradient, as a norm.
    """
    joint = _joint(measurements)
    return _compare(problem, parameter, measurements, tolerance, total_norm, joint, backprop_rounding, details)


def _joint(measurements: Measurements) -> Joint:
    if not measurements.joint:
        return Joint(None, False)
    rounding = measurements.rounding
    suspect = any(abs(one.residual) > one.total_error(rounding) for one in measurements.joint)
    return Joint(bound_by_directions(measurements.joint, 1.0, 1.0, rounding, 0.0), suspect)


def _compare(
    problem: Problem,
    parameter: Parameter,
    measurements: Measurements,
    tolerance: Tolerance,
    total_norm: float,
    joint: Joint,
    backprop_rounding: float = 0.0,
    details: bool | Comparison = True,
) -> Comparison:
    measured = measurements.parameters[parameter.name]
    assert parameter.gradient is not None
    entries = measured.entries(parameter.gradient)
    if len(measured.indices) >= measured.size:
        basis = Basis.EXACT
    elif measured.directions:
        basis = Basis.ESTIMATED
    elif len(measured.indices):
        basis = Basis.PARTIAL
    else:
        basis = Basis.BOUNDED if measurements.joint else Basis.NOTHING
    wrong, worst = 0, tuple[EntryComparison, ...]()
    if isinstance(details, Comparison):
        wrong, worst = details.wrong, details.worst
    elif details:
        wrong = len(entries.wrong(tolerance.good))
        worst = _worst_entries(parameter, entries, wrong)
    comparison = Comparison(
        parameter.name,
        parameter.value.shape,
        precision=Precision.of(max(problem.precision, measurements.precision)),
        basis=basis,
        measured=len(measured.indices),
        directions=len(measured.directions),
        suspect=joint.suspect,
        wrong=wrong,
        status=_worst_status(measured, measurements),
        worst=worst,
    )
    if not parameter.value.size:
        return replace(
            comparison,
            basis=Basis.EXACT,
            difference=0.0,
            error=0.0,
            verdict=Verdict.GOOD,
            note=notes.NO_ENTRIES,
            reason=Reason.NO_ENTRIES,
        )
    if not all(map(math.isfinite, problem.values)):
        names = [other.name for other in problem.parameters if not np.all(np.isfinite(other.value))]
        return comparison.noted(notes.loss_not_finite(problem.value, names), None, Reason.LOSS_NOT_FINITE)
    along = [measurement.slope for measurement in measured.directions]
    are_finite = measured.is_traced and math.isfinite(measured.traced_norm)
    if not ((are_finite or np.all(np.isfinite(measured.slopes))) and np.all(np.isfinite(along))):
        return comparison.noted(notes.NEAR_LOSS_NOT_FINITE, None, Reason.NEAR_LOSS_NOT_FINITE)
    if not math.isfinite(parameter.gradient_norm):
        return comparison.noted(notes.GRADIENT_NOT_FINITE, Verdict.WORRY, Reason.GRADIENT_NOT_FINITE)
    if basis is Basis.NOTHING:
        return comparison.noted(notes.not_measured(problem.meter.budget), None, Reason.BUDGET)
    if measurements.is_traced:
        return _beside_reference(parameter, comparison, entries, measurements, tolerance, total_norm)
    interval = _interval(parameter, basis, entries, measurements, joint, backprop_rounding)
    judged = _vanishing(problem, parameter, comparison, interval, tolerance, total_norm, measurements)
    if judged is None:
        judged = _judged(comparison, interval, tolerance)
    if basis is Basis.PARTIAL:
        note = notes.partly_measured(judged.measured, judged.size, problem.meter.budget)
        judged = judged.noted(note, max(judged.verdict, Verdict.INCONCLUSIVE), Reason.BUDGET)
    return judged


def _beside_reference(
    parameter: Parameter,
    comparison: Comparison,
    entries: MeasuredEntries,
    measurements: Measurements,
    tolerance: Tolerance,
    total_norm: float,
) -> Comparison:
    """Compare with a gradient of which every entry is known; what differs may be the rounding of backprop.

    An accusation has to leave all of the rounding that is possible; GOOD bears what is usual. Agreement needs less: two
    computations agree `BY_CHANCE` times better than rounding allows in one of so many cases only, so that they exclude
    an error that is so much larger than what they differ by.

    Where the terms of a gradient cancel down to their rounding, there is none that this precision could have. What is
    excluded is an error as large as that, or as what GOOD leaves open of the whole gradient.
    """
    given = 0.0 if parameter.gradient_error is None else norm(parameter.gradient_error)
    backprop_norm, residual = parameter.gradient_norm, entries.residual
    measured_norm = measurements.parameters[parameter.name].traced_norm
    size = backprop_norm + measured_norm
    rounding = max(entries.relative * measured_norm, measurements.rounding.floors.get(parameter.name, 0.0))
    if size > 0:  # a number whose terms cancel has no more digits than one in a lower precision
        left = max(measurements.precision, rounding / (REFERENCE_ROUNDINGS * size))
        comparison = replace(comparison, precision=Precision.of(left))
    agreed = BY_CHANCE * max(residual, measurements.precision * size)
    error, escape = given + min(rounding / USUALLY, agreed), 2 * (given + min(rounding, agreed))
    # What rounding turns round cannot grow any more with it.
    turned = measurements.rounding.turns or rounding >= measured_norm / FLIPPED
    possible = FLIPPED * rounding if turned else rounding
    at_least = max(0.0, residual - given - possible)
    penalty = norm(entries.penalties)
    interval = Interval(residual, residual + error, at_least, backprop_norm, measured_norm, error, escape, penalty)
    judged = _judged(comparison, interval, tolerance)
    largest = max(backprop_norm, measured_norm)
    if judged.verdict > Verdict.INCONCLUSIVE or largest > max(rounding, given):
        return judged
    if judged.verdict is Verdict.GOOD:  # by chance, where backward rounds as the loss does
        return judged.noted(notes.NO_GRADIENT, None, Reason.NO_GRADIENT) if largest <= ZERO * total_norm else judged
    if largest > 0 and given > rounding:  # below the bar that was handed in
        return _no_gradient(comparison, interval, math.inf, tolerance, total_norm)
    largest = 0.0 if residual <= CERTAIN_IN_HALF * total_norm else math.inf
    unseen = measured_norm + min(rounding, agreed)
    sensitivity = unseen / measured_norm if measured_norm > 0 else math.inf
    return replace(_no_gradient(comparison, interval, largest, tolerance, total_norm), sensitivity=sensitivity)


def _interval(
    parameter: Parameter,
    basis: Basis,
    entries: MeasuredEntries,
    measurements: Measurements,
    joint: Joint,
    backprop_rounding: float,
) -> Interval:
    """Return where ``||g - n||`` lies."""
    name, rounding = parameter.name, measurements.rounding
    if basis in (Basis.EXACT, Basis.PARTIAL):
        floor = rounding.floors.get(name, 0.0) / math.sqrt(parameter.value.size)
        error = norm(entries.total_errors(rounding, floor)) + backprop_rounding
        residual = entries.residual
        at_least = max(0.0, residual - error)
        sizes = norm(entries.grad), norm(entries.slopes)
        return Interval(residual, residual + error, at_least, *sizes, error, 2 * error, norm(entries.penalties))
    size = parameter.gradient_norm
    if basis is Basis.ESTIMATED:
        directions = measurements.parameters[name].directions
        return bound_by_directions(directions, size, 1.0, rounding, backprop_rounding)
    weight, bounds = measurements.joint[0].probe.weights[name], joint.interval
    if backprop_rounding or bounds is None:
        bounds = bound_by_directions(measurements.joint, size, weight, rounding, backprop_rounding)
        weight = 1.0
    at_most = bounds.at_most / weight
    return Interval(at_most, at_most, 0.0, size, size, bounds.error / weight, bounds.escape / weight, 0.0)


def _judged(comparison: Comparison, interval: Interval, tolerance: Tolerance) -> Comparison:
    """Add the classic ratio with its bounds, and the verdict.

    Where the sizes of both sides are known, the ratio is ``||g - n||`` over their sum. Else ``||n||`` lies within
    ``||g - n||`` of ``||g||``, so that ``||g - n|| = x`` makes a ratio between ``x / (2 ||g|| + x)`` and
    ``x / (2 ||g|| - x)``.
    """
    size = interval.backprop_norm + interval.measured_norm
    is_known = comparison.basis in (Basis.EXACT, Basis.PARTIAL)
    if is_known:
        smallest, largest = size - interval.error, size + interval.error
    else:
        doubled = 2 * interval.backprop_norm
        smallest = max(doubled - interval.at_most, interval.backprop_norm, interval.at_most)
        largest = doubled + interval.at_least
        if interval.estimate > ROUGHLY_EQUAL * interval.backprop_norm:
            size = max(size, interval.estimate)
        else:
            size = doubled
    at_most = min(1.0, interval.at_most / smallest) if smallest > 0 else 1.0
    at_least = interval.at_least / largest if largest > 0 else 0.0
    difference = interval.estimate / size if size > 0 else 0.0
    difference = min(max(difference, at_least), at_most)
    penalty_share, sensitivity = 0.0, math.inf
    if interval.measured_norm > 0:
        penalty_share = min(interval.penalty / interval.measured_norm, 1e6)
        # A relative error has to leave the errors of measurement, and then the good band: twice, since it makes half
        # as large a difference. Along directions, what leaves their errors is measured along 16 before it is judged.
        band = 2 * tolerance.good
        if not is_known:
            band *= EARLY_STAGES * upper_factor(MOST_DIRECTIONS) / lower_factor(MOST_DIRECTIONS)
        sensitivity = band + interval.escape / interval.measured_norm
        if is_known:  # in a lower precision GOOD bears more than the rounding that was seen
            sensitivity = max(sensitivity, interval.at_most / interval.measured_norm)
    judged = replace(
        comparison,
        difference=difference,
        error=at_most - difference,
        at_least=at_least,
        verdict=tolerance.judge(difference, at_most - difference, at_least, comparison.precision),
        backprop_norm=interval.backprop_norm,
        measured_norm=interval.measured_norm,
        penalty_share=penalty_share,
        sensitivity=sensitivity,
    )
    return judged.noted(notes.nothing_below(judged.error)) if judged.verdict is Verdict.INCONCLUSIVE else judged


def _vanishing(
    problem: Problem,
    parameter: Parameter,
    comparison: Comparison,
    interval: Interval,
    tolerance: Tolerance,
    total_norm: float,
    measurements: Measurements,
) -> Comparison | None:
    """Return the comparison where both sides vanish against the whole gradient, else None.

    A bias in front of batch norm has such a gradient, and a unit that is never active.
    """
    given_error = 0.0 if parameter.gradient_error is None else norm(parameter.gradient_error)
    floor = measurements.rounding.floors.get(parameter.name, 0.0)
    rounding = max(100 * problem.precision * total_norm, floor)
    vanishes = interval.measured_norm <= max(interval.error, ZERO * total_norm) or comparison.basis is Basis.BOUNDED
    if parameter.gradient_norm > max(rounding, given_error) or not vanishes:
        return None
    largest = interval.at_most
    if comparison.basis is Basis.EXACT:
        largest = interval.measured_norm + interval.error
    measured = measurements.parameters[parameter.name]
    any_slope = bool(np.any(measured.slopes)) or any(one.slope for one in (*measured.directions, *measurements.joint))
    # Where the loss moves in jumps, a slope may hide below them; where it never moves, its error is infinite.
    moves_in_jumps = 0 < interval.error < math.inf
    no_slope_at_all = total_norm == 0 and not moves_in_jumps and not any_slope
    hidden = given_error > rounding and (parameter.gradient_norm > 0 or interval.measured_norm > 0)
    largest = 0.0 if no_slope_at_all else largest
    return _no_gradient(comparison, interval, math.inf if hidden else largest, tolerance, total_norm)


def _no_gradient(
    comparison: Comparison, interval: Interval, largest: float, tolerance: Tolerance, total_norm: float
) -> Comparison:
    """Return the comparison of two gradients that are both zero, as far as a largest one that was not seen."""
    # As much wider than in float64 as the band of certainty is.
    zero_within = ZERO_WITHIN * tolerance.certain_in(comparison.precision) / tolerance.certain
    sizes = interval.backprop_norm, interval.measured_norm
    comparison = replace(comparison, difference=0.0, wrong=0, backprop_norm=sizes[0], measured_norm=sizes[1])
    if largest <= zero_within * total_norm:
        note = notes.NO_GRADIENT
        if largest > ZERO_WITHIN * total_norm > 0:
            note = notes.no_gradient_above(largest / total_norm)
        return replace(comparison, error=0.0).noted(note, Verdict.GOOD, Reason.NO_GRADIENT)
    return replace(comparison, error=1.0).noted(notes.PERHAPS_NO_GRADIENT, None, Reason.PERHAPS_NO_GRADIENT)


def whole_norm(problem: Problem, measurements: Measurements) -> float:
    """Return the norm of the whole gradient, as backprop or as the measurement has it, whichever is larger.

    Infinite where rounding may have left all of it: nothing is large beside that.
    """
    backprop, measured = 0.0, 0.0
    if measurements.is_traced and all(_is_rounding(problem, measurements, name) for name in measurements.parameters):
        return math.inf
    for name, found in measurements.parameters.items():
        size = problem.by_name[name].gradient_norm
        if not math.isfinite(size):
            size = finite_norm(problem.grads[name])
        backprop = math.hypot(backprop, size)
        if found.is_traced and math.isfinite(found.traced_norm):
            measured = math.hypot(measured, found.traced_norm)
        elif len(found.indices):
            measured = math.hypot(measured, finite_norm(np.array(found.slopes)))
        elif found.directions:
            slopes = np.array([measurement.slope for measurement in found.directions])
            measured = math.hypot(measured, root_mean_square(slopes))
    if backprop > 0:
        measured = min(measured, BELIEVED * backprop)
    return max(backprop, measured)


def _is_rounding(problem: Problem, measurements: Measurements, name: str) -> bool:
    size = max(problem.by_name[name].gradient_norm, norm(measurements.parameters[name].slopes))
    return size <= measurements.rounding.floors.get(name, 0.0)


def _worst_status(measured: ParameterMeasurements, measurements: Measurements) -> Status:
    seen = set(measured.statuses) or {measurement.status for measurement in measurements.joint}
    for status in (Status.NONFINITE, Status.KINK, Status.NOISY):
        if status in seen:
            return status
    return Status.OK


def _worst_entries(parameter: Parameter, entries: MeasuredEntries, wrong: int) -> tuple[EntryComparison, ...]:
    """Return the entries that differ most: of a large parameter in which none is wrong, the one that does."""
    most = WORST if wrong or entries.grad.size <= FEW else 1
    worst = []
    for k in entries.worst(most):
        index = np.unravel_index(entries.indices[k], parameter.value.shape)
        position = tuple(int(i) for i in index)
        error = entries.own_errors[k] + entries.relative * abs(entries.slopes[k])
        values = float(entries.grad[k]), float(entries.slopes[k]), float(error)
        worst.append(EntryComparison(position, *values))
    return tuple(worst)
