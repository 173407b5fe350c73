"""Does backprop's gradient agree with the measured slopes? A difference, its error, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gc_hooks.arrays.norms import finite_norm, norm, root_mean_square
from gc_hooks.numerics import BELIEVED, EARLY_STAGES, MOST_DIRECTIONS, ROUGHLY_EQUAL, ZERO, ZERO_WITHIN
from gc_hooks.problem import Parameter, Problem
from gc_hooks.report import notes
from gc_hooks.report.comparison import Basis, Comparison, EntryComparison, Reason
from gc_hooks.report.verdict import Status, Tolerance, Verdict
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


def compare(problem: Problem, measurements: Measurements, tolerance: Tolerance) -> dict[str, Comparison]:
    """Compare every parameter, in the order in which the user gave them."""
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
        comparison = _compare(problem, parameter, measurements, tolerance, total_norm, joint)
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
) -> Comparison:
    """Compare one parameter on the best basis that the measurements give.

    ``total_norm`` is the norm of the whole gradient (`whole_norm`), against which a vanishing one is judged, and
    ``backprop_rounding`` what the rounding of backprop's own arithmetic can do to this gradient, as a norm.
    """
    joint = _joint(measurements)
    return _compare(problem, parameter, measurements, tolerance, total_norm, joint, backprop_rounding)


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
) -> Comparison:
    measured = measurements.parameters[parameter.name]
    assert parameter.gradient is not None
    entries = measured.entries(parameter.gradient)
    if len(measured.indices) >= measured.size:
        basis = Basis.EXACT
    elif measured.directions:
        basis = Basis.ESTIMATED
    elif measured.indices:
        basis = Basis.PARTIAL
    else:
        basis = Basis.BOUNDED if measurements.joint else Basis.NOTHING
    comparison = Comparison(
        parameter.name,
        parameter.value.shape,
        basis=basis,
        wrong=int(np.sum(entries.are_wrong(tolerance.good))),
        measured=len(measured.indices),
        directions=len(measured.directions),
        suspect=joint.suspect,
        status=_worst_status(measured, measurements),
        worst=_worst_entries(parameter, entries),
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
    slopes = [*measured.slopes, *(measurement.slope for measurement in measured.directions)]
    if not np.all(np.isfinite(slopes)):
        return comparison.noted(notes.NEAR_LOSS_NOT_FINITE, None, Reason.NEAR_LOSS_NOT_FINITE)
    if not math.isfinite(parameter.gradient_norm):
        return comparison.noted(notes.GRADIENT_NOT_FINITE, Verdict.WORRY, Reason.GRADIENT_NOT_FINITE)
    if basis is Basis.NOTHING:
        return comparison.noted(notes.not_measured(problem.meter.budget), None, Reason.BUDGET)
    interval = _interval(parameter, basis, entries, measurements, joint, backprop_rounding)
    judged = _vanishing(problem, parameter, comparison, interval, total_norm, measurements)
    if judged is None:
        judged = _judged(comparison, interval, tolerance)
    if basis is Basis.PARTIAL:
        note = notes.partly_measured(judged.measured, judged.size, problem.meter.budget)
        judged = judged.noted(note, max(judged.verdict, Verdict.INCONCLUSIVE), Reason.BUDGET)
    return judged


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
        residual = norm(entries.residuals)
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
    return replace(
        comparison,
        difference=difference,
        error=at_most - difference,
        at_least=at_least,
        verdict=tolerance.judge(difference, at_most - difference, at_least),
        backprop_norm=interval.backprop_norm,
        measured_norm=interval.measured_norm,
        penalty_share=penalty_share,
        sensitivity=sensitivity,
    )


def _vanishing(
    problem: Problem,
    parameter: Parameter,
    comparison: Comparison,
    interval: Interval,
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
    any_slope = any(measured.slopes) or any(one.slope for one in (*measured.directions, *measurements.joint))
    # Where the loss moves in jumps, a slope may hide below them; where it never moves, its error is infinite.
    moves_in_jumps = 0 < interval.error < math.inf
    no_slope_at_all = total_norm == 0 and not moves_in_jumps and not any_slope
    hidden = given_error > rounding and (parameter.gradient_norm > 0 or interval.measured_norm > 0)
    is_sure = (no_slope_at_all or largest <= ZERO_WITHIN * total_norm) and not hidden
    sizes = parameter.gradient_norm, interval.measured_norm
    comparison = replace(comparison, difference=0.0, wrong=0, backprop_norm=sizes[0], measured_norm=sizes[1])
    if is_sure:
        return replace(comparison, error=0.0).noted(notes.NO_GRADIENT, Verdict.GOOD, Reason.NO_GRADIENT)
    return replace(comparison, error=1.0).noted(notes.PERHAPS_NO_GRADIENT, None, Reason.PERHAPS_NO_GRADIENT)


def whole_norm(problem: Problem, measurements: Measurements) -> float:
    """Return the norm of the whole gradient, as backprop or as the measurement has it, whichever is larger."""
    backprop, measured = 0.0, 0.0
    for name, found in measurements.parameters.items():
        size = problem.by_name[name].gradient_norm
        if not math.isfinite(size):
            size = finite_norm(problem.grads[name])
        backprop = math.hypot(backprop, size)
        if found.indices:
            measured = math.hypot(measured, finite_norm(np.array(found.slopes)))
        elif found.directions:
            slopes = np.array([measurement.slope for measurement in found.directions])
            measured = math.hypot(measured, root_mean_square(slopes))
    if backprop > 0:
        measured = min(measured, BELIEVED * backprop)
    return max(backprop, measured)


def _worst_status(measured: ParameterMeasurements, measurements: Measurements) -> Status:
    seen = set(measured.statuses) or {measurement.status for measurement in measurements.joint}
    for status in (Status.NONFINITE, Status.KINK, Status.NOISY):
        if status in seen:
            return status
    return Status.OK


def _worst_entries(parameter: Parameter, entries: MeasuredEntries) -> tuple[EntryComparison, ...]:
    residuals = entries.residuals
    order = np.argsort(-np.nan_to_num(residuals, nan=math.inf), kind="stable")[:WORST]
    worst = []
    for k in order:
        if residuals[k] != 0:
            index = np.unravel_index(entries.indices[k], parameter.value.shape)
            position = tuple(int(i) for i in index)
            values = float(entries.grad[k]), float(entries.slopes[k]), float(entries.errors[k])
            worst.append(EntryComparison(position, *values))
    return tuple(worst)
