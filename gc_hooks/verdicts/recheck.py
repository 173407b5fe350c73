"""Measure in other ways before an accusation: noise, rounding, kinks and the step make correct code look wrong.

Each of the four checks asks a second, independent measurement whether backprop is wrong there too. A check may widen an
error, move the point a tiny step, or turn an accusation into INCONCLUSIVE; it never makes one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import norm, root_mean_square
from gc_hooks.numerics import (
    BACKPROP_ROUNDINGS,
    EPS,
    KINK_PROBES,
    LARGEST_STEP,
    MORE_ERRORS,
    OTHER_STEPS,
    OTHER_UNIT,
    PLACES,
    QUICK_STEPS,
    SAFETY,
    SHARE_DIRECTIONS,
    SHARES,
    TRIAL_STEPS,
)
from gc_hooks.report import notes
from gc_hooks.report.comparison import Basis, Comparison, Reason
from gc_hooks.report.verdict import Status, Verdict
from gc_hooks.slopes.instrument import beside, rounding_of
from gc_hooks.slopes.methods import is_rough, noise_error
from gc_hooks.slopes.probes import Entry, Probe, direction_within
from gc_hooks.verdicts.localize import measure_sample
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
    rounding is not small against it. How large such terms are shows nearer to zero, where the outputs are others and
    no sign is; and what moves under a jitter of the parameters is measured, where backprop is a function.
    """
    problem, name = session.problem, comparison.name
    uncancelled = max([comparison.measured_norm, *(_norm_at(session, name, share) for share in SHARES)])
    underflow = problem.smallest * math.sqrt(comparison.size)
    rounding = BACKPROP_ROUNDINGS * max(problem.precision * uncancelled, underflow)
    if problem.backprop is not None:
        rounding = max(rounding, rounding_of(problem, problem.precision, session.generator).floors.get(name, 0.0))
    again = session.compare(name, rounding)
    if again.verdict is not Verdict.INCONCLUSIVE or comparison.measured_norm == 0:
        return again
    note = notes.backprop_rounding(rounding / comparison.measured_norm)
    return again.noted(note, None, Reason.BACKPROP_ROUNDING)


def _norm_at(session: Session, name: str, share: float) -> float:
    """Return about the norm of a parameter's gradient with all parameters a share of what they are; 0 if undefined.

    An array of zeros is moved by the rest of its scale.
    """
    point = {}
    for parameter in session.problem:
        array = parameter.value
        moved = share * array if array.any() else array + (1 - share) * parameter.scale
        point[parameter.name] = moved.astype(array.dtype)
    slopes = replace(session.slopes, problem=session.problem.at(point, {}))
    probes = [direction_within(session.problem[name], session.generator) for _ in range(SHARE_DIRECTIONS)]
    size = root_mean_square(np.array([slopes.central_difference(p, QUICK_STEPS[0] * p.scale) for p in probes]))
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
    name, is_exact = comparison.name, comparison.basis is not Basis.ESTIMATED
    kinks = 0
    for _ in range(PLACES):
        moved = session.elsewhere(session.problem.at(beside(session.problem, session.generator).point))
        if name not in moved.problem.grads:
            return comparison
        moved.measure(session.accusing_probes(comparison))
        again = moved.compare(name)
        if is_exact and not again.is_accused:
            known = set(moved.measurements.parameters[name].indices)
            scale = moved.problem[name].scale
            moved.measure(Entry(name, index, scale) for index in range(comparison.size) if index not in known)
            again = moved.compare(name)
        kinks += moved.measurements.parameters[name].statuses[Status.KINK]
        if again.verdict < comparison.verdict:
            return again.noted(notes.MOVED_OFF_KINK, None, Reason.MOVED_OFF_KINK)
    # Where a loss is so noisy that steps have to reach back to the kink, moving does not help.
    if kinks and _stands_on_kink(session, comparison):
        return comparison.noted(notes.KINK_CLOSER_THAN_STEPS, Verdict.INCONCLUSIVE, Reason.KINK)
    return comparison


def _stands_on_kink(session: Session, comparison: Comparison) -> bool:
    """Return whether the slopes to the two sides differ, by as much as is in doubt, and no entry without a kink does.

    Along a direction several kinks may cancel: there only their sizes together can be compared.
    """
    name = comparison.name
    measured = session.measurements.parameters[name]
    if session.slopes.see_kinks and not measured.statuses[Status.KINK]:
        return False
    by_direction = comparison.basis is Basis.ESTIMATED
    if by_direction:
        jumps, doubts = _jumps(session, [measurement.probe for measurement in measured.directions[:KINK_PROBES]])
        if norm(jumps) < norm(doubts) / 4:
            return False
        measure_sample(session, name)
    entries = measured.entries(session.problem.grads[name])
    widest = np.argsort(-(entries.residuals + entries.errors))[:KINK_PROBES]
    scale = session.problem[name].scale
    jumps, doubts = _jumps(session, [Entry(name, int(index), scale) for index in np.asarray(entries.indices)[widest]])
    if not by_direction and norm(jumps) < norm(doubts) / 4:
        return False
    alone = np.isin(widest, entries.wrong(session.tolerance.good)) & (jumps < doubts / 2)
    return norm(doubts[alone]) <= norm(doubts) / 2


def _jumps(session: Session, probes: Sequence[Probe]) -> tuple[Array, Array]:
    """Return by how much the slopes to the two sides differ, and how far backprop or the measurement may be off.

    The first is 0 where it cannot be told. Two steps have to show it: what bends differs by less at the smaller step,
    and what is noise by more.
    """
    slopes, jumps, doubts = session.slopes, [], []
    noise = slopes.noise or EPS * abs(session.problem.value)
    for probe in probes:
        estimate = slopes.slope(probe)[0]
        doubt = max(abs(probe.slope(session.problem.grads) - estimate.value), estimate.error)
        # At least where four standard deviations of the noise, that of three values, are a quarter of what is in doubt.
        clear = 4 * SAFETY * math.sqrt(6) * noise / doubt if doubt > 0 else math.inf
        step = max(estimate.step, clear, TRIAL_STEPS[0] * probe.scale)
        near, far = 0.0, math.nan
        if 8 * step <= LARGEST_STEP * probe.scale:
            near, far = np.diff([slopes.sides(probe, step), slopes.sides(probe, 8 * step)]).ravel()
        jumps.append(abs(near) if abs(near - far) <= abs(near) / 2 else 0.0)
        doubts.append(doubt)
    return np.array(jumps), np.array(doubts)


def _at_another_step(session: Session, comparison: Comparison) -> Comparison:
    """Take an accusation back where the slope at another step agrees with backprop, or noise hides the steps that suit.

    A slope can be wrong at one step and right at another: central differences at every step that reaches across a kink
    nearby, and any method at steps that are too small to see over the rounding of the loss itself (the logarithm of
    1 - p where p is almost 1).
    """
    seen = set()
    for probe in session.accusing_probes(comparison):
        seen.add(_other_steps(session, probe))
        if Reason.DIFFERENCE in seen:
            return comparison
    if Reason.NOISY_LOSS in seen:
        return comparison.noted(notes.NOISY_LOSS, Verdict.INCONCLUSIVE, Reason.NOISY_LOSS)
    return comparison.noted(notes.OTHER_STEP_AGREES, Verdict.INCONCLUSIVE, Reason.OTHER_STEP_AGREES)


def _other_steps(session: Session, probe: Probe) -> Reason:
    """Return what the slopes at other steps say.

    One of them is backprop's and stays so when the step is halved; or none is; or noise hides the steps that suit a
    parameter much smaller than the unit in which steps were chosen.
    """
    backprop = probe.slope(session.problem.grads)
    residual = abs(session.slopes.quick_residual(probe)[0])
    noise = session.slopes.noise or EPS * abs(session.problem.value)
    # Exact slopes were not misled by a step: every third one will do.
    every = 3 if session.slopes.are_exact else 1
    # Two guesses at a scale that suits, where that of the steps was taken from other parameters: how far it goes until
    # the loss has changed by itself, by backprop's account; and the parameter's own size, unless it is zero.
    by_loss = abs(session.problem.value) / (abs(backprop) or math.inf) or probe.scale
    by_size = 0.0 if probe.name is None else root_mean_square(session.problem[probe.name].value)
    finer = math.ceil(math.log(max(probe.scale / by_loss, 1.0), 8))
    for k in range(0, OTHER_STEPS + finer, every):
        step = probe.scale * LARGEST_STEP / 8.0**k
        if noise_error(noise, step) > residual / 4:
            hidden = min(by_loss, by_size or probe.scale) < OTHER_UNIT * probe.scale
            return Reason.NOISY_LOSS if hidden else Reason.DIFFERENCE
        slope = session.slopes.central_difference(probe, step)
        if abs(slope - backprop) <= residual / 4:
            halved = session.slopes.central_difference(probe, step / 2)
            if abs(halved - slope) <= residual / 4:
                return Reason.OTHER_STEP_AGREES
    return Reason.DIFFERENCE
