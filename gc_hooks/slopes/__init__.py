"""From a line through the loss to a slope with its error: `Slopes` is the loss with an instrument for each term.

No other module loops over the terms of a loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

from gc_hooks._typing import Generator
from gc_hooks.numerics import EPS, EPS_OF_FLOAT32
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.instrument import Instrument, prepare_instrument, rounding_of, sharpened
from gc_hooks.slopes.measurements import Measurements, Rounding, given_gradient_error
from gc_hooks.slopes.methods import Estimate, Method, central, is_rough
from gc_hooks.slopes.probes import Direction, Line, Probe, random_direction
from gc_hooks.slopes.progress import Progress, bar_on_terminal


@dataclass(frozen=True)
class Slopes:
    """The loss of a problem, and the instrument that measures each of its terms."""

    problem: Problem
    # One for each term; none where the loss is not finite, or the budget was spent before they were prepared.
    instruments: tuple[Instrument, ...] = ()

    @classmethod
    def prepare(
        cls,
        problem: Problem,
        method: Method | Callable[..., Estimate] | None,
        generator: Generator,
        along: Direction | None = None,
    ) -> Slopes:
        """Choose an instrument for each term, as `prepare_instrument` describes.

        Noise and rounding are measured, unless there is a direction ``along`` through all parameters that the check
        measures first: one direction through everything gives a wide bound, for which assumed ones are precise enough.
        """
        if not all(map(math.isfinite, problem.values)):
            return cls(problem)
        trial = along or random_direction(problem, generator)
        try:
            tools = [prepare_instrument(problem, term, method, generator, trial) for term in range(len(problem.terms))]
            if along is None:
                tools = [sharpened(problem, term, tool, generator, trial) for term, tool in enumerate(tools)]
            return cls(problem, tuple(tools))
        except BudgetSpent:
            return cls(problem)

    @property
    def method(self) -> str:
        """Return the name of the method, or of each where the terms have different ones."""
        return " + ".join(dict.fromkeys(tool.method.__name__ for tool in self.instruments))

    @property
    def noise(self) -> float:
        """Return the noise of the loss as far as it was measured; 0 where it was not."""
        return math.fsum(tool.noise or 0.0 for tool in self.instruments)

    @cached_property
    def precision(self) -> float:
        """Return the machine epsilon of the loss's arithmetic, as far as its measured noise shows it."""
        noise, size = self.noise, abs(self.problem.value)
        if not is_rough(noise, size) or not math.isfinite(noise):
            return EPS
        # A loss of terms that nearly cancel is noisy for its value, and not for what the parameters do to it.
        for parameter in self.problem.judged:
            if math.isfinite(parameter.gradient_norm):
                size = math.hypot(size, parameter.scale * parameter.gradient_norm)
        return EPS_OF_FLOAT32 if is_rough(noise, size) else EPS

    @property
    def are_exact(self) -> bool:
        """Return whether rounding is the only error of every term."""
        return all(tool.method.is_exact for tool in self.instruments)

    @property
    def see_kinks(self) -> bool:
        """Return whether every term's method reports a kink."""
        return all(tool.method.sees_kinks for tool in self.instruments)

    @property
    def assumed_rounding(self) -> Rounding:
        """Return the rounding of exact slopes as far as the instruments know it."""
        return Rounding(max((tool.rounding or 0.0 for tool in self.instruments), default=0.0))

    def rounding(self, generator: Generator) -> Rounding:
        """Return the rounding of exact slopes, measured where backprop is a function; see `rounding_of`."""
        if self.problem.backprop is None:
            return self.assumed_rounding
        return rounding_of(self.problem, self.assumed_rounding.relative, generator)

    def sharpened(self, generator: Generator, along: Direction) -> Slopes:
        """Return the same slopes with noise and rounding measured instead of assumed."""
        tools = []
        for term, tool in enumerate(self.instruments):
            tools.append(sharpened(self.problem, term, tool, generator, along))
        return replace(self, instruments=tuple(tools))

    def without_noise(self) -> Slopes:
        """Return the slopes with nothing known of the noise, so that `sharpened` measures it anew."""
        return replace(self, instruments=tuple(replace(tool, noise=None, trial=None) for tool in self.instruments))

    def at(self, problem: Problem) -> Slopes:
        """Return the slopes at another point, with the instruments as they are."""
        return replace(self, problem=problem)

    def slope(self, probe: Probe) -> tuple[Estimate, float]:
        """Measure the slope along a probe; return it over all terms, and the penalty's part of it."""
        problem = self.problem
        total: Estimate | None = None
        penalty = 0.0
        for term, tool in enumerate(self.instruments):
            if tool.trial is not None and tool.trial[0] is probe and not problem.moved:
                estimate = tool.trial[1]
            else:
                estimate = _estimate(tool, Line(problem, probe, term), probe.scale)
            if total is None:
                total = estimate
            else:
                total = total + estimate
                penalty += estimate.value
        assert total is not None
        return total, penalty

    def quick_residual(self, probe: Probe) -> tuple[float, float]:
        """Measure along a probe at little cost; return backprop's slope minus the measured one, and its error."""
        residual = probe.slope(self.problem.grads)
        error = given_gradient_error(self.problem, probe)
        for term, tool in enumerate(self.instruments):
            line = Line(self.problem, probe, term)
            if tool.rounding is None:
                estimate = tool.method.quick(line, scale=probe.scale, noise=tool.noise)
            else:
                estimate = _estimate(tool, line, probe.scale)
            residual -= estimate.value
            error += estimate.error
        return residual, error

    def sides(self, probe: Probe, step: float) -> tuple[float, float]:
        """Measure the slopes to the left and to the right over all terms at one step.

        NaN where few digits round the step to nothing.
        """
        point = self.problem.point
        left, right = -probe.realised(point, -step), probe.realised(point, step)
        if not (left > 0 and right > 0):  # arrays of the user's own precision have no number so near
            return math.nan, math.nan
        below, above = 0.0, 0.0
        for term in range(len(self.instruments)):
            line = Line(self.problem, probe, term)
            below += float((line.value - line(-step)) / left)
            above += float((line(step) - line.value) / right)
        return below, above

    def central_difference(self, probe: Probe, step: float) -> float:
        """Measure the central difference over all terms at one step; NaN as above."""
        return sum(self.sides(probe, step)) / 2

    def measure(
        self,
        probes: Iterable[Probe],
        measurements: Measurements,
        progress: Progress | None = None,
        patience: float = math.inf,
    ) -> None:
        """Measure probes and add them to the measurements, until there are no more or the budget is spent.

        ``progress`` is called with the number of probes so far and the number of entries; without it a bar appears on
        a terminal after ``patience`` seconds.
        """
        measurements.precision = max(measurements.precision, self.precision)
        entries = sum(measured.size for measured in measurements.parameters.values())
        bar_from = time.perf_counter() + patience
        with ExitStack() as stack:
            for done, probe in enumerate(probes, start=1):
                try:
                    total, penalty = self.slope(probe)
                except BudgetSpent:
                    break
                measurements.add(self.problem, probe, total, penalty)
                if progress is None and time.perf_counter() > bar_from:
                    progress = bar_on_terminal(stack, entries)
                if progress is not None:
                    progress(done, entries)


def _estimate(tool: Instrument, line: Line, scale: float) -> Estimate:
    """Measure one term; by central differences on a line where complex step turns out not to work."""
    if tool.rounding is None:
        return tool.method.slope(line, scale=scale, noise=tool.noise)
    try:
        estimate = tool.method.slope(line, scale=scale, noise=tool.noise)
    except BudgetSpent:
        raise
    except Exception:
        return central.slope(line, scale=scale, noise=tool.noise)
    if estimate.status is not Status.OK:
        return central.slope(line, scale=scale, noise=tool.noise)
    return Estimate(estimate.value, tool.rounding * abs(estimate.value), estimate.step, estimate.evaluations)
