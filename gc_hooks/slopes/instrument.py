"""Making the instrument ready: which method can be trusted with this loss, and how noisy is it?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.arrays.large import LARGE, scrambled
from gc_hooks.arrays.norms import norm
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.problem.determinism import require_deterministic
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.estimate import EPS, Estimate, LineLike, Method, noise_bar
from gc_hooks.slopes.measurements import Rounding, typical_slope
from gc_hooks.slopes.methods import central, complex_casts_refused, complex_step
from gc_hooks.slopes.noise import measure_noise
from gc_hooks.slopes.probes import Direction, Line, Probe, random_direction

TRUSTED, TRUNCATION = 1e-6, 1e-8
ELSEWHERE = 4
TRIAL_STEPS, QUICK_STEPS = (2.0**-22, 2.0**-24), (2.0**-14, 2.0**-17)
ROUNDINGS, ASSUMED_ROUNDING, LEAST_ROUNDING = 32.0, 64 * EPS, 6 * EPS
JITTERS, SLOPES, MOVED, JUMP, VANISHING = 4, 2, 4.0, 1e-7, 1e-9
"""Found by tests/benchmarks/calibration.py: they cover 99.9 % of the slopes."""
APART = "where central differences gave"
VAGUE = "central differences were too vague to confirm it"


@dataclass(frozen=True)
class Instrument:
    """A method made ready for one term of the loss.

    Attributes
    ----------
    method : Method
    name : str
    noise : float or None
        Standard deviation of the noise of this term.
    rounding : float
        Relative rounding of a slope by complex step, as assumed or measured; 0 for other methods.
    notes : tuple of str
        Why it is not the method that was asked for.
    trial : tuple of Direction and Estimate, or None
        A direction that was measured on the way, so that it need not be measured again.
    """

    method: Method
    name: str
    noise: float | None = None
    rounding: float = 0.0
    notes: tuple[str, ...] = ()
    trial: tuple[Direction, Estimate] | None = None

    def measure(self, problem: Problem, probe: Probe, term: int) -> Estimate:
        """One slope of one term."""
        if self.trial is not None and self.trial[0] is probe and not problem.moved:
            return self.trial[1]
        estimate = self.method(Line(problem, probe, term), scale=probe.scale, noise=self.noise)
        by_complex_step = self.rounding > 0 and estimate.evaluations == 1
        return replace(estimate, error=self.rounding * abs(estimate.value)) if by_complex_step else estimate

    def quick(self, problem: Problem, probe: Probe, term: int) -> Estimate:
        """A cheaper slope with a wider bar, to find out where to look: four evaluations with central differences."""
        if self.method is not central or not self.noise or not math.isfinite(self.noise):
            return self.measure(problem, probe, term)
        return _two_steps(Line(problem, probe, term), probe.scale, QUICK_STEPS, self.noise)


def prepare_instruments(
    problem: Problem, method: Method | None, generator: Generator, along: Direction | None = None
) -> list[Instrument]:
    """An instrument for each term: the method that was asked for, or the best one that can be trusted here.

    Complex step earns its place at every check: along a random direction through all parameters it has to agree with
    central differences. That costs one complex evaluation, two real ones at a small step, and for its rounding four of
    the gradient, or two complex evaluations more; where these are too vague, two at another step, 8 to 16 for the noise
    of the loss and up to 18 for a ladder of steps. Central differences cost that noise measurement. With ``along``,
    noise and rounding are assumed for now.

    Parameters
    ----------
    problem, method, generator
    along : Direction, optional
        The direction to try complex step on: one that the check will want measured anyhow.
    """
    trial = along or random_direction(problem, generator)
    tools = [_prepare(problem, term, method, generator, trial) for term in range(len(problem.terms))]
    # One direction through everything gives a wide bound, for which the rounding of the loss's value is noise enough.
    return tools if along is not None else sharpen(problem, tools, generator, trial)


def sharpen(problem: Problem, tools: list[Instrument], generator: Generator, along: Direction) -> list[Instrument]:
    """The same instruments with their noise or rounding measured instead of assumed.

    Costs 8 to 16 evaluations for central differences. For complex step it costs two complex ones where backprop is no
    function; where it is one, `rounding_of` will ask it.
    """
    return [_sharpened(problem, term, tool, generator, along) for term, tool in enumerate(tools)]


def _sharpened(problem: Problem, term: int, tool: Instrument, generator: Generator, along: Direction) -> Instrument:
    if tool.method is central and tool.noise is None:
        return replace(tool, noise=_noise(problem, term, along))
    if tool.rounding and problem.gradient is not None:
        return replace(tool, rounding=LEAST_ROUNDING)
    return _with_rounding(problem, term, tool, generator) if tool.trial is not None else tool


def assumed_rounding(tools: list[Instrument]) -> Rounding:
    """The rounding of slopes as far as the instruments know it."""
    return Rounding(max((tool.rounding for tool in tools), default=0.0))


def rounding_of(problem: Problem, tools: list[Instrument], generator: Generator) -> Rounding:
    """The rounding of slopes by complex step, measured where backprop is a function: how far its gradient moves with
    every parameter moved by its own rounding. Terms that cancel show there, parameter by parameter.

    Costs four evaluations of the gradient. One that jumps while others do not stands at a kink, which is another
    matter; where all jump, that is the rounding.
    """
    assumed = assumed_rounding(tools)
    if not assumed.relative or problem.gradient is None:
        return assumed
    whole = math.hypot(*problem.grad_norms.values())
    moved = dict.fromkeys(problem.grads, 0.0)
    for _ in range(JITTERS):
        for name, away in _under_jitter(problem, generator).items():
            moved[name] = math.hypot(moved[name], away / math.sqrt(JITTERS))
    nothing = {name: max(VANISHING * whole, 1e3 * EPS * abs(problem.value) / problem.scales[name]) for name in moved}
    smooth = {n for n, m in moved.items() if m <= max(JUMP * problem.grad_norms[n], nothing[n])}
    # One that jumps alone stands at a kink. Where all do that have a gradient, they are what rounding leaves of a
    # network that is fitted to the last digit.
    left = smooth if any(problem.grad_norms[name] > nothing[name] for name in smooth) else set(moved)
    return Rounding(assumed.relative, {name: MOVED * moved[name] for name in moved if name in left})


def _under_jitter(problem: Problem, generator: Generator) -> dict[str, float]:
    """How far each gradient moves when every parameter is moved by its own rounding."""
    assert problem.gradient is not None
    jittered = problem.gradient(problem.jittered(generator).point)
    return {name: norm(jittered[name] - grad) for name, grad in problem.grads.items() if name in jittered}


def _prepare(problem: Problem, term: int, method: Method | None, generator: Generator, trial: Direction) -> Instrument:
    if method not in (None, central, complex_step):
        return Instrument(method, getattr(method, "__name__", repr(method)))
    refusal = ""
    if method is None and any(array.size >= LARGE for array in problem.point.values()):
        refusal = "An array is so large that complex numbers in its place are not asked for: central differences."
    elif problem.live is None and method is not central:
        outcome = _try_complex_step(problem, term, generator, trial)
        if isinstance(outcome, Instrument):
            return outcome
        if APART in outcome:  # of a loss that draws at random, no two slopes are the same
            require_deterministic(problem)
        refusal = f"Complex step was refused: {outcome}. Measured by central differences."
    elif problem.live is not None and method is complex_step:
        refusal = "Complex step cannot be written into arrays of real numbers; measured by central differences."
    return Instrument(central, "central", notes=(refusal,) if refusal else ())


def _noise(problem: Problem, term: int, along: Direction) -> float:
    """Standard deviation of a term's noise; infinite for a term that does not change at all."""
    precision = problem.precision if problem.live is not None else EPS
    noise = measure_noise(Line(problem, along, term), precision=precision)
    return math.inf if math.isnan(noise) else noise


def _try_complex_step(problem: Problem, term: int, generator: Generator, trial: Direction) -> Instrument | str:
    """The instrument, or why complex step cannot be trusted with this term."""
    estimate = complex_slope(problem, term, trial)
    verdict = estimate if isinstance(estimate, str) else _confirm(problem, term, trial, estimate)
    for _ in range(ELSEWHERE):
        if verdict != VAGUE:
            break
        verdict = _confirm_elsewhere(problem, term, generator)  # flat or rough here: judge the code where it is neither
    if verdict or isinstance(estimate, str):
        return verdict
    return Instrument(_complex_step_or_central, "complex_step", None, ASSUMED_ROUNDING, trial=(trial, estimate))


def complex_slope(problem: Problem, term: int, probe: Probe) -> Estimate | str:
    """The slope by complex step, or why there is none."""
    try:
        with complex_casts_refused():
            estimate = complex_step(Line(problem, probe, term), scale=probe.scale)
    except BudgetSpent:
        raise
    except Exception as error:  # whatever a loss does to a complex number is a refusal
        return f"the loss does not take complex numbers ({type(error).__name__})"
    return estimate if estimate.status is Status.OK else "it gave a value that is not finite"


def _confirm(problem: Problem, term: int, probe: Direction, estimate: Estimate) -> str:
    """Why complex step is not confirmed by central differences; empty when it is."""
    typical = typical_slope(probe, problem.grad_norms)
    refusal = ""
    for real in _closer_and_closer(problem, term, probe, max(abs(estimate.value), typical)):
        refusal = _agree(estimate, real, typical)
        if not refusal:
            break
    return refusal


def _closer_and_closer(problem: Problem, term: int, probe: Direction, typical: float) -> Iterator[Estimate]:
    """Central differences that cost more each time: one small step, whose truncation is far below what is compared;
    another one beside it; and with the noise measured the whole ladder.

    Small steps do not reach the kinks that larger ones meet.
    """
    line = Line(problem, probe, term)
    step, smaller = (h * probe.scale for h in TRIAL_STEPS)
    noise = noise_bar(2 * EPS * abs(line.value), step)
    slope = plain_slope(line, step)
    yield Estimate(slope, noise + TRUNCATION * typical, step, 2)
    yield Estimate(slope, noise + abs(slope - plain_slope(line, smaller)), step, 4)
    yield central(line, scale=probe.scale, noise=_noise(problem, term, probe))


def _confirm_elsewhere(problem: Problem, term: int, generator: Generator) -> str:
    elsewhere = untrained(problem, generator)
    probe = random_direction(elsewhere, generator)
    estimate = complex_slope(elsewhere, term, probe)
    return estimate if isinstance(estimate, str) else _confirm(elsewhere, term, probe, estimate)


def _agree(estimate: Estimate, real: Estimate, typical: float) -> str:
    away = abs(estimate.value - real.value)
    if not away <= estimate.error + real.error:
        return f"{estimate.value:.6g} {APART} {real.value:.6g}"
    vague = real.error > TRUSTED * max(abs(real.value), typical) or real.value == 0
    return VAGUE if vague else ""


def _two_steps(line: LineLike, scale: float, steps: tuple[float, float], noise: float) -> Estimate:
    """Central differences at two steps; the bar is their disagreement and what the noise does to the larger one."""
    slopes = [plain_slope(line, h * scale) for h in steps]
    step = steps[0] * scale
    return Estimate(slopes[0], noise_bar(noise, step) + abs(slopes[0] - slopes[1]), step, 4)


def plain_slope(line: LineLike, step: float) -> float:
    """The central difference at one step."""
    return (float(line(step)) - float(line(-step))) / (2 * step)


def _with_rounding(problem: Problem, term: int, tool: Instrument, generator: Generator) -> Instrument:
    """With the relative rounding of a slope: how far it moves when every parameter is moved by its own rounding."""
    assert tool.trial is not None
    probe, estimate = tool.trial
    jittered = [complex_slope(problem.jittered(generator), term, probe) for _ in range(SLOPES)]
    moved = [slope.value - estimate.value for slope in jittered if not isinstance(slope, str)]
    size = max(abs(estimate.value), typical_slope(probe, problem.grad_norms))
    if len(moved) < SLOPES or size == 0:
        return tool
    return replace(tool, rounding=max(ASSUMED_ROUNDING, ROUNDINGS * math.hypot(*moved) / math.sqrt(SLOPES) / size))


def untrained(problem: Problem, generator: Generator, *, off_zero: bool = False) -> Problem:
    """The problem at a point of the same scales that no training has led to: entries shuffled, signs drawn anew.

    An array of zeros stays where it is, unless it is to become one of its unit with random signs.
    """
    point = dict(problem.point)
    for name, array in problem.point.items() if off_zero else ():
        point[name] = array if np.any(array) else np.full(array.shape, problem.scales[name], array.dtype)
    return problem.at({name: scrambled(array, generator) for name, array in point.items()}, {})


def _complex_step_or_central(line: LineLike, *, scale: float, noise: float | None) -> Estimate:
    """Complex step; central differences on a line where it turns out not to work."""
    try:
        estimate = complex_step(line, scale=scale, noise=noise)
    except BudgetSpent:
        raise
    except Exception:
        return central(line, scale=scale, noise=noise)
    return estimate if estimate.status is Status.OK else central(line, scale=scale, noise=noise)
