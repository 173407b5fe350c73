"""Look again where backprop and the reference differ: rounding, and kinks, make correct code look wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice, product

import numpy as np

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.arrays.norms import distance, norm
from gc_hooks.numerics import EPS, FAR_BEYOND, HAIR, PLACES, REFERENCE_ROUNDINGS, ROUNDED_REFERENCES, TRIAL_STEPS
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.problem.determinism import require_deterministic
from gc_hooks.report import notes
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes.instrument import beside
from gc_hooks.slopes.measurements import Measurements, Rounding
from gc_hooks.slopes.methods import noise_error
from gc_hooks.slopes.probes import Direction
from gc_hooks.tracing import Reference
from gc_hooks.tracing.box import NotTraceable
from gc_hooks.verdicts.compare import compare
from gc_hooks.verdicts.escalate import unfinished
from gc_hooks.verdicts.session import Session

TWINS = (False, True)
"""Samples that are rounded one way, and the opposite one."""


def look_again(session: Session, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Return the comparisons once more, with the rounding of backprop and the kinks at this point allowed for.

    Costs nothing where all of them are GOOD in double precision; else one reference with every number rounded, four
    where that is not far below the differences; where the loss has compared two equal numbers, up to six references and
    gradients a tiny step away; and one slope where the direction that confirmed the reference was too vague to speak
    for it. Raises `NotTraceable` where that slope is on neither side, and `NondeterministicLoss` where nothing can be
    told because the loss does not repeat itself.
    """
    assert session.reference is not None
    precision = max(session.problem.precision, session.measurements.precision)
    if not _doubtful(comparisons, precision):
        return comparisons
    try:
        comparisons = _looked_again(session, comparisons)
    except BudgetSpent:
        return {name: unfinished(session, comparison) for name, comparison in comparisons.items()}
    if any(comparison.verdict is Verdict.INCONCLUSIVE for comparison in comparisons.values()):
        with suppress(BudgetSpent):
            require_deterministic(session.problem)
    return comparisons


def _looked_again(session: Session, known: dict[str, Comparison]) -> dict[str, Comparison]:
    comparisons = _with_rounding(session, known)
    if session.at_kink and not all(comparison.verdict is Verdict.GOOD for comparison in comparisons.values()):
        kink = _Kink(session, comparisons)
        (kink.ask_every_side if session.problem.backprop is None else kink.ask_both_beside)()
        comparisons = kink.found
    issues = {parameter.name for parameter in session.problem if parameter.issue}
    accused = [c for c in comparisons.values() if c.is_accused and c.name not in issues]
    return _with_a_slope(session, comparisons, accused) if accused else comparisons


def _with_rounding(session: Session, known: dict[str, Comparison]) -> dict[str, Comparison]:
    """Measure what the rounding of single numbers does to the gradient, and compare with that as the error.

    A right backward pass computes the same gradient in another order: it is off by as much as the reference moves when
    every number on its way is rounded once more. One sample does where it is far below the differences of all that is
    doubtful.
    """
    problem, reference, samples = session.problem, session.reference, list[dict[str, float]]()
    assert reference is not None
    seeds, found = session.generator.integers(2**63, size=ROUNDED_REFERENCES // 2), known
    for seed, opposite in product(seeds, TWINS):
        moves = _moves(session, problem, reference, np.random.default_rng(seed), opposite)
        if not moves:
            return {name: _may_be_rounding(comparison) for name, comparison in found.items()}
        samples.append(moves)
        found = _allowing_for(session, known, samples)
        if _are_settled(session, found):
            break
    return found


def _moves(
    session: Session, problem: Problem, reference: Reference, generator: Generator, opposite: bool = False
) -> dict[str, float]:
    """Return how far the reference moves when every number is rounded once more; of none where it is not finite."""
    rounding = REFERENCE_ROUNDINGS * max(problem.precision, session.measurements.precision)
    try:
        rounded = reference.tracer.trace(problem, rounding, generator, reference, opposite)
    except NotTraceable:  # numbers leave the range of a lower precision
        return {}
    session.at_kink |= rounded.at_kink
    return {name: distance(rounded.gradients[name], gradient) for name, gradient in reference.gradients.items()}


def _allowing_for(
    session: Session, known: dict[str, Comparison], samples: list[dict[str, float]]
) -> dict[str, Comparison]:
    """Compare with the root mean square of the moves as the error."""
    problem, floors = session.problem, {}
    for name in samples[0]:
        underflow = problem.smallest * math.sqrt(max(problem[name].value.size, 1))
        moved = math.hypot(*(moves[name] for moves in samples)) / math.sqrt(len(samples))
        floors[name] = max(moved, REFERENCE_ROUNDINGS * underflow)
    session.measurements.rounding = Rounding(0.0, floors, _may_flip(session))
    return session.compare_all(known)


def _may_flip(session: Session) -> bool:
    """Return whether backprop may be the gradient of another side, as a sample shows only if it happens to lie there.

    Backprop that is a function is asked beside the kink.
    """
    return session.at_kink and session.problem.backprop is None


def _are_settled(session: Session, found: dict[str, Comparison]) -> bool:
    """Return whether more samples would change nothing: GOOD, or a difference far beyond its rounding, or far below."""
    for name, floor in session.measurements.rounding.floors.items():
        if found[name].verdict is not Verdict.GOOD and (_may_flip(session) or not _is_far_beyond(session, name, floor)):
            return False
    return True


def _may_be_rounding(comparison: Comparison) -> Comparison:
    if comparison.reason is not Reason.DIFFERENCE or comparison.verdict is Verdict.GOOD:
        return comparison
    return comparison.noted(notes.OUT_OF_RANGE, Verdict.INCONCLUSIVE, Reason.BACKPROP_ROUNDING)


def _doubtful(comparisons: dict[str, Comparison], precision: float) -> list[str]:
    """Return the parameters whose verdict may depend on rounding: in a lower precision all of them."""
    return [c.name for c in comparisons.values() if precision > EPS or c.verdict is not Verdict.GOOD]


def _is_far_beyond(session: Session, name: str, rounding: float) -> bool:
    """Return whether the difference or its rounding is so much larger that more samples would change nothing."""
    problem, reference = session.problem, session.reference
    assert reference is not None
    residual = distance(problem.grads[name], reference.gradients[name]) if name in problem.grads else math.inf
    return max(residual, rounding) > FAR_BEYOND * min(residual, rounding)


class _Kink:
    """Comparisons at a kink: those found so far, and the parameters that are not GOOD yet."""

    def __init__(self, session: Session, comparisons: dict[str, Comparison]) -> None:
        assert session.reference is not None
        self.session = session
        self.problem, self.reference = session.problem, session.reference
        self.found = dict(comparisons)
        self.floors = dict(session.measurements.rounding.floors)
        issues = {parameter.name for parameter in self.problem if parameter.issue}
        self.doubtful = {c.name for c in comparisons.values() if c.verdict is not Verdict.GOOD} - issues

    def ask_both_beside(self) -> None:
        """Compare backprop and the reference a tiny step to one side and to the other."""
        for point in islice(_both_sides(self.problem, self.session.generator, HAIR), PLACES):
            if self.doubtful:
                moved = self.problem.at(point)
                with suppress(NotTraceable):  # not finite there
                    away = self.reference.tracer.trace(moved)
                    self._take_better(moved, away, moved, away.gradients)

    def ask_every_side(self) -> None:
        """Compare arrays, which backprop has computed at the point, with the gradients of the sides around it.

        Else allow for what the sides differ by.
        """
        problem, reference, measurements = self.problem, self.reference, self.session.measurements
        comparisons, rounding = dict(self.found), measurements.rounding
        spread = {name: np.zeros(problem[name].value.shape) for name in self.doubtful}
        residuals = {name: problem.grads[name] - reference.gradients[name] for name in self.doubtful}
        sides = [reference.gradients]
        hair = max(HAIR / 1000, 64 * problem.precision)  # as near to the point as the tie lets it be
        for count, point in enumerate(_both_sides(problem, self.session.generator, hair)):
            if count == 2 * PLACES:  # what the kink cannot explain stays accused
                left = {name: norm(_beyond(residuals[name], spread[name])) for name in self.doubtful}
                self.doubtful -= {name for name, size in left.items() if size > self.floors[name]}
            if not self.doubtful:
                break
            moved = problem.at(point, {})
            try:
                away = reference.tracer.trace(moved)
            except NotTraceable:  # not finite there
                continue
            sides.append(away.gradients)
            gradients = dict(away.gradients)
            for name in self.doubtful:
                gradients[name] = _nearest_middle(problem.grads[name], away.gradients[name], [s[name] for s in sides])
                spread[name] = np.maximum(spread[name], np.abs(away.gradients[name] - reference.gradients[name]))
                self.floors[name] = rounding.floors[name] + 16 * hair * norm(away.gradients[name])
            self._take_better(moved, away, problem, gradients)
        rest = compare(_without(problem, residuals, spread), measurements, self.session.tolerance)
        widened = {name: rounding.floors[name] + 2 * norm(spread[name]) for name in spread}
        measurements.rounding = Rounding(0.0, {**rounding.floors, **widened})
        for name, comparison in self.session.compare_all(comparisons).items():
            if name in spread and self.found[name].is_accused and not rest[name].is_accused:
                self.found[name] = comparison.noted(notes.KINK_HERE, Verdict.INCONCLUSIVE, Reason.KINK)

    def _take_better(self, moved: Problem, away: Reference, asked: Problem, gradients: Params) -> None:
        """Compare the gradients that are asked with those beside the kink, and keep the better verdicts."""
        measurements = Measurements.of_all_entries(asked, gradients, away.penalties, away.precision)
        measurements.rounding = Rounding(0.0, self.floors)
        here = compare(asked, measurements, self.session.tolerance)
        if any(name in self.doubtful and here[name].verdict is Verdict.INCONCLUSIVE for name in here):
            # What turns round at the kink itself is none of the rounding beside it.
            moves = _moves(self.session, moved, away, self.session.generator)
            measurements.rounding = Rounding(0.0, self.floors | moves)
            again = compare(asked, measurements, self.session.tolerance)
            here |= {name: comparison for name, comparison in again.items() if comparison.verdict is Verdict.GOOD}
        for name in sorted(self.doubtful):
            if here[name].verdict < self.found[name].verdict:
                self.found[name] = here[name].noted(notes.MOVED_OFF_KINK, None, Reason.MOVED_OFF_KINK)
                self.doubtful -= {name} if here[name].verdict is Verdict.GOOD else set()


def _nearest_middle(backprop: Array, gradient: Array, sides: list[Array]) -> Array:
    """Return what is nearest to backprop of a gradient and its means with those of other sides.

    Where two numbers are equal to the last bit, backprop may take the middle of both sides: np.sign does.
    """
    middles = [(gradient + side) / 2 for side in sides]
    return min(middles, key=lambda middle: norm(backprop - middle))


def _beyond(residual: Array, spread: Array) -> Array:
    """Return what a kink leaves unexplained of each entry's difference.

    Two opposite points turn each kink round once between them, so that twice the larger change is at least all of it.
    """
    return np.asarray(residual - np.clip(residual, -2 * spread, 2 * spread))


def _without(problem: Problem, residuals: Params, spread: Params) -> Problem:
    """Return the problem with gradients from which all that a kink explains is taken."""
    parameters = []
    for parameter in problem.parameters:
        name, gradient = parameter.name, parameter.gradient
        if name in spread and gradient is not None:
            gradient = gradient - residuals[name] + _beyond(residuals[name], spread[name])
        parameters.append(replace(parameter, gradient=gradient))
    return replace(problem, parameters=tuple(parameters))


def _both_sides(problem: Problem, generator: Generator, hair: float) -> Iterator[dict[str, Array]]:
    """Yield points a tiny step away, and opposite ones."""
    for _ in range(4 * PLACES):
        point = beside(problem, generator, hair).point
        yield point
        yield {name: np.asarray(2 * problem.point[name] - array, array.dtype) for name, array in point.items()}


def _apart(session: Session, accused: list[Comparison]) -> dict[str, Array]:
    """Return backprop minus reference for each of some parameters, as long as its scale: where the two differ most."""
    problem, reference = session.problem, session.reference
    assert reference is not None
    vector = {}
    for comparison in accused:
        away = problem.grads[comparison.name] - reference.gradients[comparison.name]
        vector[comparison.name] = away * (problem[comparison.name].scale / norm(away))
    return vector


def _ask_values(session: Session, accused: list[Comparison]) -> None:
    """Raise `NotTraceable` where values of the loss at real points speak for backprop: one central difference.

    A complex step and a trace stay at the point. Code that keeps a part of the loss from an earlier call there shows
    both the same, without its slope.
    """
    problem, reference = session.problem, session.reference
    assert reference is not None
    probe, step = Direction(_apart(session, accused)), TRIAL_STEPS[0]
    slope = session.slopes.central_difference(probe, step)
    noise = noise_error(2 * EPS * abs(problem.value), step)
    from_backprop = abs(slope - probe.slope(problem.grads))
    if 4 * (from_backprop + noise) < abs(slope - probe.slope(reference.gradients)) and not session.at_kink:
        raise NotTraceable("values of the loss beside this point agree with backprop and not with it", "")


def _with_a_slope(
    session: Session, comparisons: dict[str, Comparison], accused: list[Comparison]
) -> dict[str, Comparison]:
    """Ask a slope along backprop minus reference, where the two differ most; `NotTraceable` if it is on neither side.

    Not asked where the direction that confirmed the reference was so precise that it cannot have missed such a
    difference. A slope that is too vague to tell makes the accusations INCONCLUSIVE.
    """
    problem, reference = session.problem, session.reference
    assert reference is not None
    if session.slopes.are_exact:
        _ask_values(session, accused)
    vector = _apart(session, [c for c in accused if not c.difference > FAR_BEYOND * session.vagueness])
    if not vector:
        return comparisons
    probe = Direction(vector, weights={name: problem[name].scale for name in vector})
    by_reference, by_backprop = probe.slope(reference.gradients), probe.slope(problem.grads)
    apart = abs(by_backprop - by_reference)
    slopes = session.slopes.at(reference.tracer.in_double(problem)) if reference.is_rough else session.slopes
    estimate = slopes.slope(probe)[0]
    if not estimate.error <= apart / 4:  # the noise of the loss tells more precisely how far it can be off
        estimate = slopes.sharpened(session.generator, probe).slope(probe)[0]
    residual = abs(estimate.value - by_reference)
    if residual + estimate.error <= apart / 2:
        return comparisons
    if residual > estimate.error and not session.at_kink:  # at a kink slopes are those of neither side
        raise NotTraceable(
            f"backprop and it differ, and the measured slope {estimate.value:.6g} ± {estimate.error:.0e} is on neither "
            f"side ({by_backprop:.6g} and {by_reference:.6g})",
            "",
        )
    for name in vector:
        comparisons[name] = comparisons[name].noted(notes.NOISY_LOSS, Verdict.INCONCLUSIVE, Reason.NOISY_LOSS)
    return comparisons
