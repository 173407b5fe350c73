"""Spending the evaluations: the instrument is made ready, then every probe goes through it."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.exceptions import ComplexWarning

from gc_hooks._typing import Array, Generator
from gc_hooks.estimate import Estimate, LineLike, Method, Status
from gc_hooks.methods import central, complex_step
from gc_hooks.noise import measure_noise
from gc_hooks.probes import Entry, Line, Probe, random_direction
from gc_hooks.problem import Problem

SELF_TESTS = 2
TRUSTED = 1e-6
ELSEWHERE = 4
VAGUE = "central differences were too vague to confirm it"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Instrument:
    """A method made ready for one term of the loss.

    Attributes
    ----------
    method : Method
    name : str
    noise : float or None
        Standard deviation of the noise of this term.
    notes : tuple of str
        Why it is not the method that was asked for.
    """

    method: Method
    name: str
    noise: float | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Measured:
    """The slopes of one parameter, entry by entry; NaN where an entry was not measured.

    Attributes
    ----------
    slopes, errors : ndarray, shape of the parameter
        The sum over the terms, and its error bars.
    shares : ndarray, shape of the parameter
        What the penalty contributes, where it was handed in apart; else zero.
    seen : ndarray of bool, shape of the parameter
        Which entries were measured.
    statuses : Counter of Status
    evaluations : int
    """

    slopes: Array
    errors: Array
    shares: Array
    seen: Array
    statuses: Counter[Status] = field(default_factory=Counter)
    evaluations: int = 0

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Measured:
        """Nothing measured yet."""
        return cls(np.full(shape, math.nan), np.full(shape, math.inf), np.zeros(shape), np.zeros(shape, dtype=bool))

    def record(self, index: int, estimates: list[Estimate]) -> None:
        """Write down one entry: the sum of its terms."""
        total = sum(estimates[1:], start=estimates[0])
        self.seen.flat[index] = True
        self.slopes.flat[index] = total.value
        self.errors.flat[index] = total.error
        self.shares.flat[index] = sum(estimate.value for estimate in estimates[1:])
        self.statuses[total.status] += 1
        self.evaluations += total.evaluations


def calibrate(problem: Problem, method: Method | None, generator: Generator) -> list[Instrument]:
    """An instrument for each term: the method that was asked for, or the best one that can be trusted here.

    Complex step earns its place at every check: along random directions through all parameters it has to agree with
    central differences. Costs about 12 evaluations a direction, and 8 to 16 for the noise of the loss.
    """
    return [_calibrate(problem, term, method, generator) for term in range(len(problem.terms))]


def _calibrate(problem: Problem, term: int, method: Method | None, generator: Generator) -> Instrument:
    if method not in (None, central, complex_step):
        return Instrument(method, getattr(method, "__name__", repr(method)))
    noise = _noise(problem, term, generator)
    if problem.live is not None:
        asked = ("Complex step cannot be written into arrays of real numbers; measured by central differences.",)
        return Instrument(central, "central", noise, asked if method is complex_step else ())
    refusal = "" if method is central else _refusal(problem, term, noise, generator)
    if method is central or refusal:
        return Instrument(central, "central", noise, (refusal,) if refusal else ())
    return Instrument(_complex_step_or_central, "complex_step", noise)


def _noise(problem: Problem, term: int, generator: Generator) -> float:
    line = Line(problem, random_direction(problem, generator), term)
    noise = measure_noise(line, precision=problem.precision if problem.live is not None else np.finfo(float).eps)
    return math.inf if math.isnan(noise) else noise


def _refusal(problem: Problem, term: int, noise: float, generator: Generator) -> str:
    """Why complex step cannot be trusted with this term; empty when it can."""
    for _ in range(SELF_TESTS):
        verdict = _self_test(problem, term, noise, generator)
        for _ in range(ELSEWHERE):
            if verdict != VAGUE:
                break
            elsewhere = untrained(problem, generator)  # flat or rough here: judge the code where it is neither
            verdict = _self_test(elsewhere, term, _noise(elsewhere, term, generator), generator)
        if verdict:
            return f"Complex step was refused: {verdict}. Measured by central differences."
    return ""


def _self_test(problem: Problem, term: int, noise: float, generator: Generator) -> str:
    line = Line(problem, random_direction(problem, generator), term)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ComplexWarning)
            complex_slope = complex_step(line, noise=noise if math.isfinite(noise) else None)
    except Exception as error:
        return f"the loss does not take complex numbers: {type(error).__name__}"
    if complex_slope.status is not Status.OK:
        return "it gave a value that is not finite"
    real_slope = central(line, noise=noise)
    away = abs(complex_slope.value - real_slope.value)
    if away > complex_slope.error + real_slope.error:
        return f"{complex_slope.value:.6g} where central differences gave {real_slope.value:.6g}"
    vague = real_slope.error > TRUSTED * abs(real_slope.value) and (away or not math.isfinite(real_slope.error))
    return VAGUE if vague else ""


def untrained(problem: Problem, generator: Generator) -> Problem:
    """The problem at a point of the same scales that no training has led to: entries shuffled, signs drawn anew."""
    point = {}
    for name, array in problem.point.items():
        shuffled = generator.permuted(array.reshape(-1)).reshape(array.shape)
        point[name] = (shuffled * generator.choice((-1.0, 1.0), array.shape)).astype(array.dtype)
    return problem.at(point, {})


def _complex_step_or_central(line: LineLike, *, scale: float, noise: float | None) -> Estimate:
    """Complex step; central differences on a line where it turns out not to work."""
    try:
        estimate = complex_step(line, scale=scale, noise=noise)
    except (TypeError, ValueError, ArithmeticError, ComplexWarning):
        return central(line, scale=scale, noise=noise)
    return estimate if estimate.status is Status.OK else central(line, scale=scale, noise=noise)


def measure(
    problem: Problem, probes: Iterable[Probe], instruments: list[Instrument], progress: Progress | None = None
) -> dict[str, Measured]:
    """Send every probe through the instrument, until all are measured or the budget is spent."""
    measured = {name: Measured.of_shape(array.shape) for name, array in problem.point.items() if name in problem.grads}
    total = sum(problem.point[name].size for name in measured)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ComplexWarning)
        for done, probe in enumerate(probes, start=1):
            if problem.meter.exhausted:
                break
            assert isinstance(probe, Entry)
            estimates = [apply(instrument, problem, probe, k) for k, instrument in enumerate(instruments)]
            measured[probe.name].record(probe.index, estimates)
            if progress is not None:
                progress(done, total)
    return measured


def apply(instrument: Instrument, problem: Problem, probe: Probe, term: int) -> Estimate:
    """One slope of one term."""
    return instrument.method(Line(problem, probe, term), scale=probe.scale, noise=instrument.noise)
