"""Look again where backprop and the reference differ: rounding, and kinks, make correct code look wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product

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
        comparisons = _looked_again(session, comparisons, precision)
    except BudgetSpent:
        return {name: unfinished(session, comparison) for name, comparison in comparisons.items()}
    if any(comparison.verdict is Verdict.INCONCLUSIVE for comparison in comparisons.values()):
        with suppress(BudgetSpent):
            require_deterministic(session.problem)
    return comparisons


def _looked_again(session: Session, known: dict[str, Comparison], precision: float) -> dict[str, Comparison]:
    comparisons = _with_rounding(session, known, precision)
    if session.at_kink and not all(comparison.verdict is Verdict.GOOD for comparison in comparisons.values()):
        comparisons = _off_the_kink(session, comparisons)
    issues = {parameter.name for parameter in session.problem if parameter.issue}
    accused = [c for c in comparisons.values() if c.is_accused and c.name not in issues]
    return _with_a_slope(session, comparisons, accused) if accused else comparisons


def _with_rounding(session: Session, known: dict[str, Comparison], precision: float) -> dict[str, Comparison]:
    """Measure what the rounding of single numbers does to the gradient, and compare with that as the error.

    A right backward pass computes the same gradient in another order: it is off by as much as the reference moves when
    every number on its way is rounded once more. One sample does where it is far below the differences of all that is
    doubtful.
    """
    problem, reference = session.problem, session.reference
    assert reference is not None
    moves, found, rounding = dict.fromkeys(reference.gradients, 0.0), known, REFERENCE_ROUNDINGS * precision
    twins = [int(session.generator.integers(2**63)) for _ in range(ROUNDED_REFERENCES // 2)]
    for count, (seed, opposite) in enumerate(product(twins, (False, True)), start=1):
        try:
            rounded = reference.tracer.trace(problem, rounding, np.random.default_rng(seed), reference, opposite)
        except NotTraceable:  # not finite, where numbers leave the range of a lower precision
            return {name: _may_be_rounding(comparison) for name, comparison in found.items()}
        floors = {}
        for name, gradient in reference.gradients.items():
            moves[name] = math.hypot(moves[name], distance(rounded.gradients[name], gradient))
            underflow = problem.smallest * math.sqrt(max(gradient.size, 1))
            floors[name] = max(moves[name] / math.sqrt(count), REFERENCE_ROUNDINGS * underflow)
        session.at_kink |= rounded.at_kink
        # Arrays may be the gradient of another side, which a sample shows only where it happens to lie there.
        may_flip = session.at_kink and problem.backprop is None
        session.measurements.rounding = Rounding(0.0, floors, may_flip)
        found = session.compare_all(known)
        doubtful = [name for name, c in found.items() if c.verdict is not Verdict.GOOD and name in floors]
        if not doubtful or not (may_flip or any(not _is_far_beyond(session, name, floors[name]) for name in doubtful)):
            break
    return found


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


def _off_the_kink(session: Session, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Compare a tiny step to one side of the kink and to the other; else allow for what its sides differ by.

    Where backprop is a function it is run there too. What it has computed at the point is the gradient of one side.
    """
    problem, reference, rounding = session.problem, session.reference, session.measurements.rounding
    assert reference is not None
    doubtful = {name for name, c in comparisons.items() if c.verdict is not Verdict.GOOD and not problem[name].issue}
    found, spread = dict(comparisons), {name: np.zeros(problem[name].value.shape) for name in doubtful}
    residuals = {name: problem.grads[name] - reference.gradients[name] for name in doubtful}
    floors, sides = dict(rounding.floors), [reference.gradients]
    # Arrays stay what they are at the point: as near to it as the tie lets them.
    hair = HAIR if problem.backprop is not None else max(HAIR / 1000, 64 * problem.precision)
    for count, point in enumerate(_both_sides(problem, session.generator, hair)):
        if not doubtful or (problem.backprop is not None and count == PLACES):
            break
        if count == 2 * PLACES:  # what the kink cannot explain stays accused
            doubtful = {name for name in doubtful if norm(_beyond(residuals[name], spread[name])) <= floors[name]}
        moved = problem.at(point) if problem.backprop is not None else problem.at(point, {})
        try:
            away = reference.tracer.trace(moved)
        except NotTraceable:  # not finite there
            continue
        asked, gradients = moved, dict(away.gradients)
        if problem.backprop is None:
            asked = problem
            sides.append(away.gradients)
            for name in doubtful:
                gradients[name] = _nearest_middle(problem.grads[name], away.gradients[name], [s[name] for s in sides])
        measurements = Measurements.of_all_entries(asked, gradients, away.penalties, away.precision)
        for name in doubtful if problem.backprop is None else ():
            spread[name] = np.maximum(spread[name], np.abs(away.gradients[name] - reference.gradients[name]))
            floors[name] = rounding.floors[name] + 16 * hair * norm(away.gradients[name])
        measurements.rounding = Rounding(0.0, floors)
        here = compare(asked, measurements, session.tolerance)
        if any(name in doubtful and here[name].verdict is Verdict.INCONCLUSIVE for name in here):
            # What turns round at the kink itself is none of the rounding beside it.
            measurements.rounding = Rounding(0.0, floors | _moves(session, moved, away))
            again = compare(asked, measurements, session.tolerance)
            here |= {name: comparison for name, comparison in again.items() if comparison.verdict is Verdict.GOOD}
        for name, comparison in here.items():
            if name in doubtful and comparison.verdict < found[name].verdict:
                found[name] = comparison.noted(notes.MOVED_OFF_KINK, None, Reason.MOVED_OFF_KINK)
                doubtful -= {name} if comparison.verdict is Verdict.GOOD else set()
    if problem.backprop is None:
        rest = compare(_without(problem, residuals, spread), session.measurements, session.tolerance)
        widened = {name: rounding.floors[name] + 2 * norm(spread[name]) for name in spread}
        session.measurements.rounding = Rounding(0.0, {**rounding.floors, **widened})
        for name, comparison in session.compare_all(comparisons).items():
            if name in spread and found[name].is_accused and not rest[name].is_accused:
                found[name] = comparison.noted(notes.KINK_HERE, Verdict.INCONCLUSIVE, Reason.KINK)
    return found


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


def _moves(session: Session, problem: Problem, reference: Reference) -> dict[str, float]:
    """Return how far the reference moves when every number is rounded once more."""
    precision = max(problem.precision, session.measurements.precision)
    try:
        rounded = reference.tracer.trace(problem, REFERENCE_ROUNDINGS * precision, session.generator)
    except NotTraceable:  # not finite
        return {}
    return {name: distance(rounded.gradients[name], gradient) for name, gradient in reference.gradients.items()}


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
