"""Confirm a reference by values of the loss alone: it has to be the slope along a direction through all parameters."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from functools import reduce

from gc_hooks._typing import Generator
from gc_hooks.arrays.large import uniforms
from gc_hooks.arrays.norms import distance, norm
from gc_hooks.numerics import (
    ASSUMED_ROUNDING,
    CONFIRMED,
    EPS,
    HAIR,
    MORE_ERRORS,
    MOST_BALANCE,
    REFERENCE_ROUNDINGS,
    SMOOTHLY,
    STEP_IN_SINGLE,
    STEPS_BESIDE,
    TRIAL_STEPS,
    VAGUE,
)
from gc_hooks.problem import Problem
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import (
    ComplexStepRefused,
    Instrument,
    beside,
    central_differences,
    complex_slope,
    untrained,
)
from gc_hooks.slopes.methods import Estimate, central, complex_step, noise_error
from gc_hooks.slopes.probes import Direction, random_direction
from gc_hooks.tracing import NotTraceable, Reference, Tracer


def confirmed_reference(tracer: Tracer, generator: Generator) -> tuple[Reference, Slopes, float]:
    """Return the reference at the point, the slopes that have confirmed it, and how precise they were.

    Raises `NotTraceable` where there is none, or where a slope contradicts it. Costs the reference and one complex
    evaluation, or two real ones; more where these are too vague, and where the point is flat or stands on a kink: then
    the code is judged at other points. A slope that contradicts it may reach across a kink nearby: it is asked again a
    hair away. A reference that is confirmed nowhere, and contradicted nowhere, has an infinite vagueness.
    """
    problem = tracer.problem
    reference = tracer.trace(problem)
    here = _judgement(problem, reference, generator)
    if here.is_confirmed:
        return reference, here.slopes, here.vagueness
    contradicted = here.contradiction is not None
    for place, steps in _places_elsewhere(problem, reference, here, generator):
        if math.isfinite(place.value):
            beside_it = tracer.trace(place)
            there = _judgement(place, beside_it, generator, steps)
            # What is confirmed there is another gradient where code has kept a part of this one from an earlier call.
            if there.is_confirmed and (here.contradiction is None or _is_nearly(beside_it, reference)):
                vagueness = math.inf if here.contradiction is not None else there.vagueness
                return reference, there.slopes.at(problem), vagueness
            contradicted = contradicted or there.contradiction is not None
    if contradicted:
        raise NotTraceable(here.seen, "")
    return reference, here.slopes, math.inf


def _is_nearly(one: Reference, other: Reference) -> bool:
    """Return whether two references differ by no more than a smooth loss lets them that are a hair apart."""
    pairs = [(one.gradients[name], other.gradients[name]) for name in other.gradients]
    apart = math.hypot(*(distance(first, second) for first, second in pairs))
    return apart <= SMOOTHLY * HAIR * math.hypot(*(norm(second) for _, second in pairs))


def _places_elsewhere(
    problem: Problem, reference: Reference, here: _Judgement, generator: Generator
) -> Iterator[tuple[Problem, tuple[float, float]]]:
    """Yield the problem a hair away, where a kink may be near, and else at points that no training has led to.

    With each come the steps of slopes there, which are not to reach back to the kink.
    """
    if here.contradiction is not None or reference.at_kink:
        for _ in range(2):
            yield problem.at(beside(problem, generator).point, {}), STEPS_BESIDE
    if here.contradiction is None:
        for _ in range(2):
            yield untrained(problem, generator), TRIAL_STEPS


def _judgement(
    problem: Problem, reference: Reference, generator: Generator, steps: tuple[float, float] = TRIAL_STEPS
) -> _Judgement:
    """Return what slopes say at a point: of the loss, or, where its rounding hides them, of its code in float64."""
    if not (reference.is_rough and math.isfinite(problem.value)):
        return _Judgement(problem, reference, generator, steps)
    double = _Judgement(reference.tracer.in_double(problem), reference, generator, steps, is_double=True)
    judgement = double
    if not (double.is_confirmed and double.has_values_of(problem, generator)):
        judgement = _Judgement(problem, reference, generator, steps)
        if judgement.contradiction is None and double.is_confirmed:
            judgement = double
    if judgement is double:
        double.slopes = double.slopes.at(problem)
    return judgement


class _Judgement:
    """What slopes along one direction say of a reference."""

    def __init__(
        self,
        problem: Problem,
        reference: Reference,
        generator: Generator,
        steps: tuple[float, float],
        is_double: bool = False,
    ) -> None:
        self.steps = steps
        self.problem = problem
        self.reference = reference
        self.is_confirmed = False
        self.contradiction: tuple[Direction, Estimate] | None = None  # a slope that the reference does not have
        self.vagueness = math.inf  # the error of the slope, relative to slopes that are typical along the direction
        self.slopes = Slopes(problem, (Instrument(central),) * len(problem.terms))
        if not math.isfinite(problem.value):
            return
        takes_complex = reference.tracer.takes_complex and problem.live is None and not is_double
        if takes_complex and self._agrees_with_complex_step(generator):
            return
        self._ask_central_differences(generator)
        if self.contradiction is not None and self._explains(*self.contradiction, generator):
            self.contradiction = None

    @property
    def seen(self) -> str:
        """Say why it is not confirmed."""
        if self.contradiction is None:
            return "the loss is flat or too noisy to confirm it"
        direction, slope = self.contradiction
        expected = direction.slope(self.reference.gradients)
        return f"along one direction it is {expected:.6g}, and the measured slope {slope.value:.6g} ± {slope.error:.0e}"

    def has_values_of(self, problem: Problem, generator: Generator) -> bool:
        """Return whether a loss in a lower precision has the same values to both sides, and tells so precisely.

        Its own slopes need no long ladder of steps then.
        """
        direction, precision = (
            _balanced_direction(self.problem, self.reference, generator, 8.0),
            self.reference.precision,
        )
        typical, step = self._expected(direction)[1], STEP_IN_SINGLE * direction.scale
        seen = self.slopes.at(problem).central_difference(direction, step)
        error = noise_error(2 * precision * abs(problem.value), step) + precision * typical / step
        return abs(seen - self.slopes.central_difference(direction, step)) <= MORE_ERRORS * error <= VAGUE * typical

    def _agrees_with_complex_step(self, generator: Generator) -> bool:
        # Code that asks for floats may have lost the same term in boxes and in complex numbers.
        if not abs(self.reference.value - self.problem.value) <= CONFIRMED * abs(self.problem.value):
            return False
        direction = _balanced_direction(self.problem, self.reference, generator, MOST_BALANCE)
        expected, typical = self._expected(direction)
        try:
            slope = sum(complex_slope(self.problem, term, direction).value for term in range(len(self.problem.terms)))
        except ComplexStepRefused:
            return False
        if typical == 0 or not abs(slope - expected) <= CONFIRMED * typical:
            return False
        tools = (Instrument(complex_step, rounding=ASSUMED_ROUNDING),) * len(self.problem.terms)
        self.slopes, self.is_confirmed, self.vagueness = Slopes(self.problem, tools), True, CONFIRMED
        return True

    def _ask_central_differences(self, generator: Generator) -> None:
        direction = _balanced_direction(self.problem, self.reference, generator, 8.0)
        expected, typical = self._expected(direction)
        for slope in self._measured(direction, typical):
            residual = abs(slope.value - expected) - ASSUMED_ROUNDING * typical
            # At a kink slopes are those of neither side.
            differs = not residual <= MORE_ERRORS * slope.error and not self.reference.at_kink
            self.contradiction = (direction, slope) if differs or not math.isfinite(slope.value) else None
            if residual <= slope.error and typical > 0:
                self.vagueness = min(self.vagueness, slope.error / typical)
            if self.vagueness <= 1e-6:
                break
        self.is_confirmed = self.contradiction is None and self.vagueness <= VAGUE

    def _measured(self, direction: Direction, typical: float) -> Iterator[Estimate]:
        """Yield slopes over all terms: by one step, by two, and by a ladder of steps."""
        terms = range(len(self.problem.terms))
        stages = [central_differences(self.problem, term, direction, typical, self.steps) for term in terms]
        for first, *others in zip(*stages, strict=True):
            yield reduce(operator.add, others, first)

    def _explains(self, direction: Direction, slope: Estimate, generator: Generator) -> bool:
        """Return whether a slope is another one because of rounding, or because its step is too long for the loss.

        A loss that subtracts nearly equal numbers on its way is rougher than its value tells. And no step shows a slope
        that changes from one end of it to the other. Costs two references, and four more.
        """
        tracer, expected = self.reference.tracer, direction.slope(self.reference.gradients)
        residual = abs(slope.value - expected) / MORE_ERRORS
        try:
            rounding = REFERENCE_ROUNDINGS * max(EPS, self.reference.precision)
            # Two of them: what code has kept from an earlier call is no rounding.
            first, other = (tracer.trace(self.problem, rounding, generator).value for _ in range(2))
            error = slope.error + noise_error(abs(first - other), slope.step)
            if residual <= error:
                return True
            along = [self._slope_at(direction, part * slope.step) for part in (-1.0, -0.5, 0.5, 1.0)]
            return residual <= error + max(along) - min(along)
        except NotTraceable:  # not finite
            return False

    def _slope_at(self, direction: Direction, step: float) -> float:
        """Return the slope along a direction that the reference has a step away."""
        point = self.problem.point | direction.changes(self.problem.point, step)
        return direction.slope(self.reference.tracer.trace(self.problem.at(point, {})).gradients)

    def _expected(self, direction: Direction) -> tuple[float, float]:
        """Return the reference's slope along a direction, and the size of slopes that are typical along it."""
        typical = 0.0
        for name, weight in direction.weights.items():
            typical = math.hypot(typical, weight * norm(self.reference.gradients[name]))
        return direction.slope(self.reference.gradients), typical


def _balanced_direction(problem: Problem, reference: Reference, generator: Generator, most: float) -> Direction:
    """Return a direction along which every parameter contributes alike to the slope, by the reference's account.

    No parameter goes farther than ``most`` times its share, and as little nearer.
    """
    contributions = {p.name: p.scale * norm(reference.gradients[p.name]) for p in problem.parameters}
    least = EPS * max(contributions.values(), default=0.0)
    usable = [size for size in contributions.values() if size > least]
    typical = math.exp(math.fsum(map(math.log, usable)) / len(usable)) if usable else 1.0
    weights = {}
    for parameter in problem.parameters:
        size = contributions[parameter.name]
        balance = min(max(typical / size, 1 / most), most) if size > 0 else 1.0
        weights[parameter.name] = parameter.scale * balance
    return random_direction(problem, generator, draw=uniforms, weights=weights)
