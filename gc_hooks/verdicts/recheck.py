"""Second thoughts before accusing: rounding and kinks make correct code look wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.arrays.norms import root_mean_square
from gc_hooks.problem import Problem
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.verdict import Status, Verdict
from gc_hooks.slopes.estimate import EPS, noise_bar
from gc_hooks.slopes.instrument import untrained
from gc_hooks.slopes.methods import central, is_rough
from gc_hooks.slopes.probes import Direction, Entry, Probe, direction_within
from gc_hooks.verdicts.session import Session

REFERENCES, REFERENCE_DIRECTIONS = 4, 3
ROUNDINGS = 16.0
FAR = 1e6
"""A difference so much larger than a first guess at the rounding needs no second one."""
MORE_BARS = 4.0
HAIR = 1e-6
LARGEST_STEP = 2.0**-3
OTHER_UNITS = 3
"""So many eighths below the others' unit of length, and steps that are small enough may drown in noise."""


def recheck(session: Session, comparison: Comparison) -> Comparison:
    """Look again at a parameter that is about to be accused.

    A guard may widen a bar, measure again a hair away from the point, or turn an accusation into INCONCLUSIVE; never
    the other way round. Costs about 50 evaluations.
    """
    for guard in (_rough_loss, _rounding, settle_kink, _another_step):
        if comparison.verdict <= Verdict.INCONCLUSIVE:
            break
        comparison = guard(session, comparison)
    return comparison


def _rough_loss(session: Session, comparison: Comparison) -> Comparison:
    """Bars that hold in 999 of 1,000 cases are not enough to accuse on, where all of them are wide and there are many:
    in a loss that computes in float32 the discrepancy has to be several bars long."""
    if not _is_rough(session):
        return comparison
    measured = session.measurements.parameters[comparison.name]
    bars = [measurement.error for measurement in measured.directions]
    widest = max(bars) if bars and not measured.complete else math.hypot(*measured.errors)
    again = session.compare(comparison.name, MORE_BARS * widest)
    return again if again.verdict is not Verdict.INCONCLUSIVE else again.noted("the loss is too noisy to be sure")


def _is_rough(session: Session) -> bool:
    noise = sum(tool.noise or 0.0 for tool in session.instruments)
    return math.isfinite(noise) and is_rough(noise, session.problem.value)


def _rounding(session: Session, comparison: Comparison) -> Comparison:
    """Backprop's own arithmetic rounds, and where a trained network's gradient is the small rest of large terms (an
    output of 0.9999 minus a label of 1) the rounding is no longer small against it.

    How large such terms are is read off the same network with every array shuffled and its signs redrawn: one of the
    same scales that no training has led to, in which nothing cancels.
    """
    scale = ROUNDINGS * session.problem.precision
    quick_check = max(comparison.measured_norm, _norm_at(_untrained(session), comparison.name, 1))
    underflow = ROUNDINGS * session.problem.quantum * math.sqrt(comparison.size)
    if max(scale * quick_check * FAR, underflow) < comparison.at_least * comparison.measured_norm:
        return comparison
    rounding = max(scale * max(quick_check, _uncancelled_norm(session, comparison.name)), underflow)
    again = session.compare(comparison.name, rounding)
    if again.verdict is not Verdict.INCONCLUSIVE or comparison.measured_norm == 0:
        return again
    return again.noted(f"backprop's own rounding may be {rounding / comparison.measured_norm:.0e} of it")


def _uncancelled_norm(session: Session, name: str) -> float:
    """Norm of a parameter's gradient where nothing cancels: the largest of a few untrained networks', each estimated
    from a few directions."""
    return max(_norm_at(_untrained(session), name, REFERENCE_DIRECTIONS) for _ in range(REFERENCES))


def _untrained(session: Session) -> Session:
    return session.elsewhere(untrained(session.problem, session.generator, off_zero=True))


def _norm_at(session: Session, name: str, directions: int) -> float:
    if not math.isfinite(session.problem.value):  # out of the loss's domain, where a complex logarithm is still finite
        return 0.0
    probes = [direction_within(session.problem, session.generator, name) for _ in range(directions)]
    size = math.hypot(*(session.slope(probe)[0] for probe in probes)) / math.sqrt(len(probes))
    return size if math.isfinite(size) else 0.0


def settle_kink(session: Session, comparison: Comparison) -> Comparison:
    """At a kink (a ReLU whose input is exactly zero) the slopes to the left and to the right are both right. A hair
    away there is none: where backprop, run there, agrees with the slopes there, it agrees.

    Also for a parameter that is not accused, but whose bar a kink makes too wide to tell.
    """
    if session.problem.gradient is None:
        if not _stands_on_kink(session, comparison):
            return comparison
        note = "a kink at this very point, where backprop and measurement may take another side each: hand in the"
        return comparison.noted(f"{note} gradient as a function", Verdict.INCONCLUSIVE)
    for problem in _a_hair_away(session.problem, session.generator):
        moved = session.elsewhere(problem).with_noise_measured_anew()
        if _agrees(moved, session.probes_of(comparison)):
            return min(comparison, _compared_at(session, comparison, moved), key=lambda c: c.verdict)
    if _is_rough(session) and session.measurements.parameters[comparison.name].statuses[Status.KINK]:
        note = "a kink was met, closer than the steps that so noisy a loss needs"
        return comparison.noted(note, Verdict.INCONCLUSIVE)
    return comparison


def _a_hair_away(problem: Problem, generator: Generator) -> Iterator[Problem]:
    """The problem a hair to either side: first with the vectors (biases) moved, then with everything moved, and last
    with every entry moved by another length, which parts two equal ones that compete for a maximum."""
    vectors = [name for name, array in problem.point.items() if array.ndim <= 1]
    hair = max(HAIR, 8 * problem.precision)
    for names in (vectors, list(problem.point)):
        for side in (hair, -hair) if names else ():
            yield _shifted(problem, {name: side * problem.scales[name] for name in names})
    ways = {name: generator.standard_normal(array.shape) for name, array in problem.point.items()}
    for side in (hair, -hair):
        yield _shifted(problem, {name: side * problem.scales[name] * way for name, way in ways.items()})


def _shifted(problem: Problem, shifts: Mapping[str, Any]) -> Problem:
    point = {n: np.asarray(a + shifts.get(n, 0.0)).astype(a.dtype) for n, a in problem.point.items()}
    return problem.at(point)


def _agrees(moved: Session, probes: list[Probe]) -> bool:
    """Whether what looked wrong agrees at the moved point."""
    for probe in probes:
        if probe.name not in moved.problem.grads:
            return False
        slope, error = moved.slope(probe)
        backprop = probe.slope(moved.problem.grads)
        if not abs(backprop - slope) <= error + moved.tolerance.good * (abs(backprop) + abs(slope)):
            return False
    return True


def _compared_at(session: Session, comparison: Comparison, moved: Session) -> Comparison:
    """The whole parameter, compared at the moved point on the same basis."""
    name = comparison.name
    if comparison.basis is Basis.ESTIMATED:
        moved.measure(session.probes_of(comparison))
    else:
        moved.measure(Entry(name, index, moved.problem.scales[name]) for index in range(comparison.size))
    return moved.compare(name).noted("a kink was met: compared a hair away from it")


def _stands_on_kink(session: Session, comparison: Comparison) -> bool:
    """Whether a slope to the right was not the slope to the left, or is not where it looks most wrong."""
    if session.measurements.parameters[comparison.name].statuses[Status.KINK]:
        return True
    if all(tool.method is central for tool in session.instruments):  # which would have seen it
        return False
    return any(_has_jump(session, probe) for probe in session.probes_of(comparison))


def _has_jump(session: Session, probe: Probe) -> bool:
    (right, right_error), (left, left_error) = session.slope(probe), session.slope(_backwards(session.problem, probe))
    return abs(right + left) > right_error + left_error


def _backwards(problem: Problem, probe: Probe) -> Direction:
    if isinstance(probe, Direction):
        return Direction({name: -vector for name, vector in probe.vector.items()}, probe.scale, probe.name)
    unit = np.zeros(problem.point[probe.name].shape)
    unit.flat[probe.index] = -1.0
    return Direction({probe.name: unit}, probe.scale, probe.name)


def _another_step(session: Session, comparison: Comparison) -> Comparison:
    """A slope can be wrong at one step and right at another: central differences over a kink nearby at every step that
    reaches it, and any method where the loss itself is rounded to steps (the logarithm of 1 - p where p is almost 1) at
    all steps that are too small to see over them. Where another step agrees with backprop, nothing is certain."""
    probes = session.probes_of(comparison)
    if all(_agrees_at_another_step(session, probe) for probe in probes):
        return comparison.noted("another step size agrees with backprop", Verdict.INCONCLUSIVE)
    return comparison


def _agrees_at_another_step(session: Session, probe: Probe) -> bool:
    """Whether the slope at some step, which halving it changes by much less than the discrepancy, is backprop's."""
    backprop = probe.slope(session.problem.grads)
    away = abs(session.quick_residual(probe)[0])
    noise = sum(tool.noise or 0.0 for tool in session.instruments) or EPS * abs(session.problem.value)
    every, finer = 1 if any(tool.method is central for tool in session.instruments) else 3, _finer(session, probe)
    for step in (probe.scale * LARGEST_STEP / 8.0**k for k in range(0, 9 + finer, every)):
        slope = session.plain_slope(probe, step)
        bar = noise_bar(noise, step)
        if bar > away / 4:
            return finer > OTHER_UNITS
        if abs(slope - backprop) <= away / 4 and abs(session.plain_slope(probe, step / 2) - slope) <= away / 4:
            return True
    return False


def _finer(session: Session, probe: Probe) -> int:
    """How many eighths a parameter's own unit of length may lie below the one that steps were chosen by, which is taken
    from the other parameters where it is zero or much smaller than they are.

    Its own size is one guess; how far it goes until the loss has changed by itself, by backprop's account, another."""
    size = root_mean_square(session.problem.point[probe.name]) if probe.name is not None else 0.0
    slope = abs(probe.slope(session.problem.grads))
    guesses = (size, abs(session.problem.value) / slope if slope > 0 else 0.0)
    own = min((guess for guess in guesses if guess > 0), default=probe.scale)
    return math.ceil(math.log(probe.scale / own, 8)) if own < probe.scale else 0
