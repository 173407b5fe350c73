"""Measure in other ways before an accusation: noise, rounding, kinks and the step make correct code look wrong.

Each of the four checks asks a second, independent measurement whether backprop is wrong there too. A check may widen an
error, move the point a tiny step, or turn an accusation into INCONCLUSIVE; it never makes one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gc_hooks.arrays.norms import root_mean_square
from gc_hooks.numerics import (
    BACKPROP_ROUNDINGS,
    EPS,
    FAR,
    HAIR,
    LARGEST_STEP,
    MORE_ERRORS,
    OTHER_STEPS,
    OTHER_UNITS,
    REFERENCE_DIRECTIONS,
    REFERENCES,
)
from gc_hooks.problem import Problem
from gc_hooks.report import notes
from gc_hooks.report.comparison import Basis, Comparison, Reason
from gc_hooks.report.verdict import Status, Verdict
from gc_hooks.slopes.instrument import untrained
from gc_hooks.slopes.methods import is_rough, noise_error
from gc_hooks.slopes.probes import Direction, Entry, Probe, direction_within
from gc_hooks.verdicts.session import Session


def recheck(session: Session, comparison: Comparison) -> Comparison:
    """Look again, in four ways, at a parameter that is about to be accused; stop when it is not accused any more.

    Costs about 50 evaluations.
    """
    for check in (_with_rough_loss, _with_backprop_rounding, settle_kink, _at_another_step):
        if comparison.verdict <= Verdict.INCONCLUSIVE:
            break
        comparison = check(session, comparison)
    return comparison


def _with_rough_loss(session: Session, comparison: Comparison) -> Comparison:
    """Ask for a larger difference where the loss computes in float32 somewhere."""
    if not _is_rough(session):
        return comparison
    measured = session.measurements.parameters[comparison.name]
    if measured.directions and not measured.complete:
        error = max(measurement.error for measurement in measured.directions)
    else:
        error = math.hypot(*measured.errors)
    again = session.compare(comparison.name, MORE_ERRORS * error)
    if again.verdict is not Verdict.INCONCLUSIVE:
        return again
    return again.noted(notes.NOISY_LOSS, None, Reason.NOISY_LOSS)


def _is_rough(session: Session) -> bool:
    noise = session.slopes.noise
    return math.isfinite(noise) and is_rough(noise, session.problem.value)


def _with_backprop_rounding(session: Session, comparison: Comparison) -> Comparison:
    """Allow for the rounding of backprop's own arithmetic.

    Where a trained network's gradient is the small remainder of large terms (an output of 0.9999 minus a label of 1),
    rounding is not small against it. How large such terms are is estimated at points of the same scales that no
    training has led to, where nothing cancels.
    """
    problem, name = session.problem, comparison.name
    scale = BACKPROP_ROUNDINGS * problem.precision
    underflow = BACKPROP_ROUNDINGS * problem.smallest * math.sqrt(comparison.size)
    uncancelled = max(comparison.measured_norm, _untrained_norm(session, name, 1))
    if max(scale * uncancelled * FAR, underflow) < comparison.at_least * comparison.measured_norm:
        return comparison
    for _ in range(REFERENCES):
        uncancelled = max(uncancelled, _untrained_norm(session, name, REFERENCE_DIRECTIONS))
    rounding = max(scale * uncancelled, underflow)
    again = session.compare(name, rounding)
    if again.verdict is not Verdict.INCONCLUSIVE or comparison.measured_norm == 0:
        return again
    note = notes.backprop_rounding(rounding / comparison.measured_norm)
    return again.noted(note, None, Reason.BACKPROP_ROUNDING)


def _untrained_norm(session: Session, name: str, directions: int) -> float:
    """Return the norm of a parameter's gradient at an untrained point, estimated from a few directions."""
    session = session.elsewhere(untrained(session.problem, session.generator, off_zero=True))
    if not math.isfinite(session.problem.value):  # undefined there, where a complex logarithm is still finite
        return 0.0
    slopes = []
    for _ in range(directions):
        probe = direction_within(session.problem[name], session.generator)
        slopes.append(session.slopes.slope(probe)[0].value)
    size = root_mean_square(np.array(slopes))
    return size if math.isfinite(size) else 0.0


def settle_kink(session: Session, comparison: Comparison) -> Comparison:
    """Judge a parameter a tiny step off a kink, where it stands on one.

    At a kink (a ReLU whose input is exactly zero) the slopes to the left and to the right are both right. A tiny step
    away there is none: if backprop, run there, agrees with the slopes there, it agrees. Also for a parameter that is
    not accused, but whose error a kink makes too large to tell.
    """
    if session.problem.backprop is None:
        if not _stands_on_kink(session, comparison):
            return comparison
        return comparison.noted(notes.KINK_HERE, Verdict.INCONCLUSIVE, Reason.KINK)
    for problem in _points_nearby(session):
        moved = session.elsewhere(problem, measure_noise=True)
        if _agree(moved, session.accusing_probes(comparison)):
            again = _compare_at(session, comparison, moved)
            return again if again.verdict < comparison.verdict else comparison
    if _is_rough(session) and session.measurements.parameters[comparison.name].statuses[Status.KINK]:
        return comparison.noted(notes.KINK_CLOSER_THAN_STEPS, Verdict.INCONCLUSIVE, Reason.KINK)
    return comparison


def _points_nearby(session: Session) -> Iterator[Problem]:
    """Yield the problem a tiny step to either side: with the vectors (biases) moved, with everything moved, and last
    with every entry moved by another length, which separates two equal ones that compete for a maximum."""
    problem = session.problem
    hair = max(HAIR, 8 * problem.precision)
    vectors: dict[str, Any] = {}
    everything: dict[str, Any] = {}
    normals: dict[str, Any] = {}
    for parameter in problem.parameters:
        everything[parameter.name] = parameter.scale
        normals[parameter.name] = parameter.scale * session.generator.standard_normal(parameter.value.shape)
        if parameter.value.ndim <= 1:
            vectors[parameter.name] = parameter.scale
    for shift in (vectors, everything, normals):
        for side in (hair, -hair) if shift else ():
            point = {}
            for parameter in problem.parameters:
                array = parameter.value
                moved = array + side * shift.get(parameter.name, 0.0)
                point[parameter.name] = np.asarray(moved).astype(array.dtype)
            yield problem.at(point)


def _agree(moved: Session, probes: list[Probe]) -> bool:
    """Return whether backprop and the slopes agree at the moved point along every probe."""
    grads = moved.problem.grads
    for probe in probes:
        if probe.name not in grads:
            return False
        estimate = moved.slopes.slope(probe)[0]
        backprop = probe.slope(grads)
        allowed = estimate.error + moved.tolerance.good * (abs(backprop) + abs(estimate.value))
        if not abs(backprop - estimate.value) <= allowed:
            return False
    return True


def _compare_at(session: Session, comparison: Comparison, moved: Session) -> Comparison:
    """Compare the whole parameter at the moved point, on the same basis."""
    name = comparison.name
    if comparison.basis is Basis.ESTIMATED:
        moved.measure(session.accusing_probes(comparison))
    else:
        moved.measure(Entry(name, index, moved.problem[name].scale) for index in range(comparison.size))
    return moved.compare(name).noted(notes.MOVED_OFF_KINK, None, Reason.MOVED_OFF_KINK)


def _stands_on_kink(session: Session, comparison: Comparison) -> bool:
    """Return whether the slopes to the two sides differ, in a measurement so far or where the parameter looks wrong."""
    if session.measurements.parameters[comparison.name].statuses[Status.KINK]:
        return True
    if session.slopes.see_kinks:
        return False
    for probe in session.accusing_probes(comparison):
        if isinstance(probe, Direction):
            vector = {name: -v for name, v in probe.vector.items()}
        else:
            unit = np.zeros(session.problem[probe.name].value.shape)
            unit.flat[probe.index] = -1.0
            vector = {probe.name: unit}
        right = session.slopes.slope(probe)[0]
        left = session.slopes.slope(Direction(vector, probe.scale, probe.name))[0]
        if abs(right.value + left.value) > right.error + left.error:
            return True
        # Symmetric differences are the same to both sides: there only one that looks at each side apart can tell.
        by_steps = session.slopes.by_central_differences()
        if not session.slopes.are_exact and by_steps.slope(probe)[0].status is Status.KINK:
            return True
    return False


def _at_another_step(session: Session, comparison: Comparison) -> Comparison:
    """Take an accusation back where the slope at another step agrees with backprop.

    A slope can be wrong at one step and right at another: central differences at every step that reaches across a kink
    nearby, and any method at steps that are too small to see over the rounding of the loss itself (the logarithm of
    1 - p where p is almost 1).
    """
    for probe in session.accusing_probes(comparison):
        if not _agrees_at_another_step(session, probe):
            return comparison
    return comparison.noted(notes.OTHER_STEP_AGREES, Verdict.INCONCLUSIVE, Reason.OTHER_STEP_AGREES)


def _agrees_at_another_step(session: Session, probe: Probe) -> bool:
    """Return whether the slope at some step is backprop's, and stays so when the step is halved."""
    backprop = probe.slope(session.problem.grads)
    residual = abs(session.slopes.quick_residual(probe)[0])
    noise = session.slopes.noise or EPS * abs(session.problem.value)
    # Exact slopes were not misled by a step: every third one will do.
    every = 3 if session.slopes.are_exact else 1
    finer = _eighths_below_scale(session, probe)
    for k in range(0, OTHER_STEPS + finer, every):
        step = probe.scale * LARGEST_STEP / 8.0**k
        if noise_error(noise, step) > residual / 4:
            return finer > OTHER_UNITS
        slope = session.slopes.central_difference(probe, step)
        if abs(slope - backprop) <= residual / 4:
            halved = session.slopes.central_difference(probe, step / 2)
            if abs(halved - slope) <= residual / 4:
                return True
    return False


def _eighths_below_scale(session: Session, probe: Probe) -> int:
    """Return how many eighths the natural scale along a probe may lie below the one by which steps were chosen.

    The scale of a parameter that is zero, or much smaller than the others, is taken from the others. Its own size is
    one guess at the natural one; the other is how far it goes until the loss has changed by itself, by backprop's
    account.
    """
    guesses = []
    if probe.name is not None:
        guesses.append(root_mean_square(session.problem[probe.name].value))
    slope = abs(probe.slope(session.problem.grads))
    if slope > 0:
        guesses.append(abs(session.problem.value) / slope)
    natural = min((guess for guess in guesses if guess > 0), default=probe.scale)
    return math.ceil(math.log(probe.scale / natural, 8)) if natural < probe.scale else 0
