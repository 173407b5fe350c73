"""Choose and prepare the method for one term of the loss: can complex step be trusted, and how noisy is the term?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.arrays.large import LARGE, jittered, scrambled
from gc_hooks.arrays.norms import norm
from gc_hooks.numerics import (
    ASSUMED_ROUNDING,
    EPS,
    GRADIENT_ROUNDINGS,
    HAIR,
    JITTERED_GRADIENTS,
    JITTERED_SLOPES,
    LEAST_ROUNDING,
    SLOPE_ROUNDINGS,
    TRIAL_STEPS,
    TRIES_ELSEWHERE,
    TRUNCATION,
    TRUSTED,
)
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.problem.determinism import require_deterministic
from gc_hooks.report.notes import COMPLEX_IN_PLACE, LARGE_ARRAY, Refusal, refused
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.measurements import Rounding, typical_slope
from gc_hooks.slopes.methods import (
    Estimate,
    Method,
    central,
    central_difference,
    complex_step,
    noise_error,
)
from gc_hooks.slopes.noise import measure_noise
from gc_hooks.slopes.probes import Direction, Line, Probe, random_direction

# The numbers of this module were found by tests/benchmarks/calibration.py: with them the errors cover 99.96 % of the
# slopes of random networks, at a median of 19 times the true error.


@dataclass(frozen=True)
class Instrument:
    """A method prepared for one term of the loss."""

    method: Method
    noise: float | None = None  # standard deviation of the noise of this term; None until it is measured
    # Relative rounding of a slope by complex step, assumed or measured; None for other methods, which state their error
    # themselves.
    rounding: float | None = None
    notes: tuple[str, ...] = ()  # why it is not the method that was asked for
    # A direction that was measured during preparation, so that it need not be measured again.
    trial: tuple[Direction, Estimate] | None = None


def prepare_instrument(
    problem: Problem,
    term: int,
    method: Method | Callable[..., Estimate] | None,
    generator: Generator,
    along: Direction,
) -> Instrument:
    """Return the instrument for one term: with the method that was asked for, or with the best that can be trusted.

    * The method that was asked for, unless it is complex step.
    * Central differences, where an array is so large that a complex copy is not affordable and complex step was not
      asked for, and where the loss reads the user's own arrays, which cannot hold complex numbers.
    * Complex step, where it agrees with central differences along a random direction through all parameters.
    * Central differences otherwise, and the notes say why.

    The trial costs one complex evaluation and two real ones at a small step; where these are too vague, two at another
    step, 8 to 16 for the noise of the loss and up to 18 for a ladder of steps. Noise and rounding are assumed until
    `sharpened` measures them.
    """
    if method is not None and method is not complex_step:
        return Instrument(Method.of(method))
    if method is None and any(parameter.value.size >= LARGE for parameter in problem.parameters):
        return Instrument(central, notes=(LARGE_ARRAY,))
    if problem.live is not None:
        return Instrument(central, notes=(COMPLEX_IN_PLACE,) if method is complex_step else ())
    try:
        return _trusted_complex_step(problem, term, generator, along)
    except ComplexStepRefused as refusal:
        if refusal.why is Refusal.DISAGREES:  # no two slopes of a loss that draws at random are the same
            require_deterministic(problem)
        return Instrument(central, notes=(refused(refusal.why, *refusal.details),))


class ComplexStepRefused(Exception):
    """Say why complex step cannot be trusted with a term; caught where the instrument is chosen."""

    def __init__(self, why: Refusal, *details: str) -> None:
        super().__init__(why, *details)
        self.why = why
        self.details = details


def _trusted_complex_step(problem: Problem, term: int, generator: Generator, along: Direction) -> Instrument:
    """Return complex step as the instrument of a term, or raise `ComplexStepRefused` if it is not confirmed."""
    estimate = complex_slope(problem, term, along)
    place, probe, slope = problem, along, estimate
    for _ in range(TRIES_ELSEWHERE):
        try:
            _confirm(place, term, probe, slope)
            break
        except ComplexStepRefused as refusal:
            if refusal.why is not Refusal.TOO_VAGUE:
                raise
        # Flat or rough here: judge the code at a point where it is neither.
        place = untrained(problem, generator)
        probe = random_direction(place, generator)
        slope = complex_slope(place, term, probe)
    else:
        _confirm(place, term, probe, slope)
    return Instrument(complex_step, rounding=ASSUMED_ROUNDING, trial=(along, estimate))


def complex_slope(problem: Problem, term: int, probe: Probe) -> Estimate:
    """Return the slope by complex step: one complex evaluation; raise `ComplexStepRefused` where there is none."""
    try:
        estimate = complex_step.slope(Line(problem, probe, term), scale=probe.scale, noise=None)
    except BudgetSpent:
        raise
    except Exception as error:  # whatever a loss does with a complex number is a refusal
        raise ComplexStepRefused(Refusal.COMPLEX_TYPE, type(error).__name__) from None
    if estimate.status is not Status.OK:
        raise ComplexStepRefused(Refusal.NOT_FINITE)
    return estimate


def _confirm(problem: Problem, term: int, probe: Direction, estimate: Estimate) -> None:
    """Raise `ComplexStepRefused` unless a central difference agrees with the slope and is precise enough to tell.

    Small steps do not reach the kinks that larger ones meet. What fails at one is tried at another, then with a whole
    ladder of steps.
    """
    typical = typical_slope(problem, probe)
    refusal = None
    for real in central_differences(problem, term, probe, max(abs(estimate.value), typical)):
        if not abs(estimate.value - real.value) <= estimate.error + real.error:
            refusal = ComplexStepRefused(Refusal.DISAGREES, f"{estimate.value:.6g}", f"{real.value:.6g}")
        elif real.value == 0 or real.error > TRUSTED * max(abs(real.value), typical):
            refusal = ComplexStepRefused(Refusal.TOO_VAGUE)
        else:
            return
    assert refusal is not None
    raise refusal


def central_differences(
    problem: Problem, term: int, probe: Direction, typical: float, steps: tuple[float, float] = TRIAL_STEPS
) -> Iterator[Estimate]:
    """Yield central differences that cost 2, 2 more, and then up to 34 evaluations more.

    The first is one small step, whose truncation is far below what is compared. The second adds another step, and the
    third measures the noise of the loss and then a ladder of steps.
    """
    line = Line(problem, probe, term)
    step, smaller = steps[0] * probe.scale, steps[1] * probe.scale
    noise = noise_error(2 * EPS * abs(problem.values[term]), step)
    slope = central_difference(line, step)
    yield Estimate(slope, noise + TRUNCATION * typical, step, 2)
    yield Estimate(slope, noise + abs(slope - central_difference(line, smaller)), step, 4)
    yield central(line, scale=probe.scale, noise=noise_of(problem, term, probe))


def noise_of(problem: Problem, term: int, along: Direction) -> float:
    """Return the standard deviation of a term's noise; infinite for a term that does not change at all."""
    precision = problem.precision if problem.live is not None else EPS
    noise = measure_noise(Line(problem, along, term), precision=precision)
    return math.inf if math.isnan(noise) else noise


def sharpened(problem: Problem, term: int, tool: Instrument, generator: Generator, along: Direction) -> Instrument:
    """Return an instrument with its noise or rounding measured instead of assumed.

    Costs 8 to 16 evaluations for the noise. The rounding costs two complex ones where backprop is not a function; where
    it is one, `rounding_of` will ask it.
    """
    if tool.method.needs_noise and tool.noise is None:
        return replace(tool, noise=noise_of(problem, term, along))
    if tool.rounding is None:
        return tool
    if problem.backprop is not None:
        return replace(tool, rounding=LEAST_ROUNDING)
    if tool.trial is None:
        return tool
    # How far the slope moves when every parameter is moved by its own rounding.
    place, probe = beside(problem, generator), tool.trial[0]
    moves = 0.0
    try:
        slope = complex_slope(place, term, probe).value
        for _ in range(JITTERED_SLOPES):
            moves = math.hypot(moves, complex_slope(place.jittered(generator), term, probe).value - slope)
    except ComplexStepRefused:
        return tool
    size = max(abs(slope), typical_slope(problem, probe))
    if size == 0:
        return tool
    return replace(tool, rounding=max(ASSUMED_ROUNDING, SLOPE_ROUNDINGS * moves / math.sqrt(JITTERED_SLOPES) / size))


def rounding_of(problem: Problem, relative: float, generator: Generator) -> Rounding:
    """Return the rounding of exact slopes, with a floor for each parameter; backprop has to be a function.

    The floor is how far the gradient moves with every parameter moved by its own rounding: terms that cancel show
    there, parameter by parameter. Costs five evaluations of the gradient.
    """
    assert problem.backprop is not None
    if not relative:
        return Rounding()
    place = beside(problem, generator)
    gradients = {name: gradient.copy() for name, gradient in problem.backprop(place.point).items()}
    moves = dict.fromkeys(problem.grads, 0.0)
    for _ in range(JITTERED_GRADIENTS):
        others = problem.backprop(place.jittered(generator).point)
        for name in moves:
            if name in others and name in gradients:
                moves[name] = math.hypot(moves[name], norm(others[name] - gradients[name]))
    factor = GRADIENT_ROUNDINGS / math.sqrt(JITTERED_GRADIENTS)
    return Rounding(relative, {name: factor * move for name, move in moves.items()})


def beside(problem: Problem, generator: Generator, hair: float = HAIR) -> Problem:
    """Return the problem a hair away, where it stands on no kink; nothing is evaluated.

    What cancels at the point cancels there too, and a jitter moves it by rounding alone.
    """
    hair = max(hair, 64 * problem.precision)
    (apart,) = generator.spawn(1)  # which leaves the directions that are measured as they would be
    parameters = []
    for parameter in problem.parameters:
        array = parameter.value
        if array.size >= LARGE:
            array = jittered(array, hair, apart)
        else:
            array = (array + hair * parameter.scale * apart.standard_normal(array.shape)).astype(array.dtype)
        parameters.append(replace(parameter, value=np.asarray(array)))
    return replace(problem, parameters=tuple(parameters), moved=True)


def untrained(problem: Problem, generator: Generator) -> Problem:
    """Return the problem at a point of the same scales that no training has led to: shuffled entries, random signs."""
    return problem.at({parameter.name: scrambled(parameter.value, generator) for parameter in problem.parameters}, {})
