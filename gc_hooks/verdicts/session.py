"""Everything that a closer look may use: the problem, the instrument, and what has been measured so far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gc_hooks._typing import Generator
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.problem.determinism import responds_to_parameters
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.verdict import Tolerance
from gc_hooks.slopes.instrument import Instrument, rounding_of, sharpen
from gc_hooks.slopes.measure import measure
from gc_hooks.slopes.measurements import Measurements, given_gradient_error
from gc_hooks.slopes.probes import Entry, Line, Probe, random_direction
from gc_hooks.verdicts.compare import compare, compare_parameter, whole_norm


@dataclass(frozen=True)
class Session:
    """A check under way.

    ``heeded`` says whether the loss changed where it was asked away from the point; it is empty until somebody doubts.
    """

    problem: Problem
    instruments: list[Instrument]
    measurements: Measurements
    tolerance: Tolerance
    generator: Generator
    heeded: list[bool] = field(default_factory=list)

    def doubt_the_loss(self) -> None:
        """Before the gradient is doubted: ask, once, whether the loss repeats itself away from the point, and heeds
        the parameters.

        Raises
        ------
        NondeterministicLoss
        """
        if not self.heeded:
            self.heeded.append(responds_to_parameters(self.problem))

    def measure(self, probes: Iterable[Probe]) -> None:
        """Measure more, and write it down.

        Raises
        ------
        BudgetSpent
            A limit was reached; what was measured before stands.
        """
        measure(self.problem, probes, self.instruments, self.measurements)
        if self.problem.meter.exhausted:
            raise BudgetSpent

    def sharpen(self) -> None:
        """Measure noise and rounding where they were only assumed."""
        along = random_direction(self.problem, self.generator, list(self.problem.point))
        self.instruments[:] = sharpen(self.problem, self.instruments, self.generator, along)
        self.measurements.rounding = rounding_of(self.problem, self.instruments, self.generator)

    def slope(self, probe: Probe) -> tuple[float, float]:
        """One slope over all terms, and its error bar; not written down."""
        estimates = [tool.measure(self.problem, probe, term) for term, tool in enumerate(self.instruments)]
        slope = math.fsum(estimate.value for estimate in estimates)
        return slope, math.fsum(estimate.error for estimate in estimates)

    def plain_slope(self, probe: Probe, step: float) -> float:
        """The central difference over all terms at one step; NaN where arrays of few digits round the step away."""
        width = probe.realised(self.problem.point, step) - probe.realised(self.problem.point, -step)
        if not width > 0:  # arrays of the user's own precision have no number so near
            return math.nan
        lines = [Line(self.problem, probe, term) for term in range(len(self.instruments))]
        return float(sum((line(step) - line(-step)) / width for line in lines))

    def quick_residual(self, probe: Probe) -> tuple[float, float]:
        """Backprop's slope minus the measured one, and its error bar, at little cost; not written down."""
        estimates = [tool.quick(self.problem, probe, term) for term, tool in enumerate(self.instruments)]
        away = probe.slope(self.problem.grads) - math.fsum(estimate.value for estimate in estimates)
        errors = math.fsum(estimate.error for estimate in estimates)
        return away, errors + given_gradient_error(self.problem, probe)

    def compare_all(self) -> dict[str, Comparison]:
        """Every parameter, on the evidence so far."""
        return compare(self.problem, self.measurements, self.tolerance)

    def compare(self, name: str, rounding: float = 0.0) -> Comparison:
        """One parameter, on the evidence so far."""
        whole = whole_norm(self.problem, self.measurements)
        return compare_parameter(self.problem, name, self.measurements, self.tolerance, whole, rounding)

    def elsewhere(self, problem: Problem) -> Session:
        """The same at another point, where nothing has been measured yet."""
        return replace(self, problem=problem, measurements=Measurements.empty(problem, self.measurements.rounding))

    def with_noise_measured_anew(self) -> Session:
        """The same with instruments that know the noise at this point: near a kink it seems larger."""
        tools = [replace(tool, noise=None, trial=None) for tool in self.instruments]
        anew = replace(self, instruments=tools)
        anew.sharpen()
        return anew

    def probes_of(self, comparison: Comparison) -> list[Probe]:
        """What speaks against a parameter: the entries that differ most, or its directions."""
        measured = self.measurements.parameters[comparison.name]
        if measured.directions and not measured.complete:
            return [measurement.probe for measurement in measured.directions]
        return [self.entry(comparison.name, worst.index, comparison.shape) for worst in comparison.worst]

    def entry(self, name: str, index: tuple[int, ...], shape: tuple[int, ...]) -> Entry:
        """One entry, by its index."""
        flat = 0
        for position, length in zip(index, shape, strict=True):
            flat = flat * length + position
        return Entry(name, flat, self.problem.scales[name])
