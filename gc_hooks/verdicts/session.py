"""A check under way: the problem, its slopes, and what has been measured so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.problem.determinism import responds_to_parameters
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.verdict import Tolerance
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.probes import Entry, Probe, random_direction
from gc_hooks.tracing import Reference
from gc_hooks.verdicts.compare import compare, compare_parameter, whole_norm


@dataclass
class Session:
    """Everything that a closer look may use."""

    slopes: Slopes
    measurements: Measurements
    tolerance: Tolerance
    generator: Generator
    # Whether the loss changed where it was asked away from the point; None until a parameter is in doubt.
    loss_responds: bool | None = field(default=None)
    # Every entry, traced from the loss, and how precise the slope was that has confirmed it, relative to typical ones.
    reference: Reference | None = None
    vagueness: float = 0.0
    at_kink: bool = False  # whether numbers that the loss compares may be equal, as far as rounding can tell

    @property
    def problem(self) -> Problem:
        """Return the problem whose slopes are measured."""
        return self.slopes.problem

    @property
    def method(self) -> str:
        """Return the name of the method by which the gradient was found."""
        return "reference" if self.reference is not None else self.slopes.method

    def doubt_the_loss(self) -> None:
        """Find out, once, whether the loss is deterministic away from the point and depends on the parameters."""
        if self.loss_responds is None:
            self.loss_responds = responds_to_parameters(self.problem)

    def measure(self, probes: Iterable[Probe]) -> None:
        """Measure more; raise `BudgetSpent` where a limit was reached, with what was measured before kept."""
        self.slopes.measure(probes, self.measurements)
        if self.problem.meter.exhausted:
            raise BudgetSpent

    def leaves_error(self, names: list[str]) -> bool:
        """Return whether one more direction through some parameters leaves its error: one of them is wrong."""
        apart = replace(self, measurements=Measurements.empty(self.problem, self.measurements.rounding))
        apart.measure([random_direction(self.problem, self.generator, names)])
        (one,) = apart.measurements.joint
        return abs(one.residual) > one.total_error(apart.measurements.rounding)

    def bound_anew(self, names: list[str]) -> None:
        """Measure two fresh directions through some parameters, to bound these in place of the directions so far."""
        self.measurements.joint.clear()
        self.measure([random_direction(self.problem, self.generator, names) for _ in range(2)])

    def sharpen(self) -> None:
        """Measure noise and rounding where they were only assumed."""
        along = random_direction(self.problem, self.generator)
        self.slopes = self.slopes.sharpened(self.generator, along)
        self.measurements.rounding = self.slopes.rounding(self.generator)

    def compare_all(self, known: Mapping[str, Comparison] | None = None) -> dict[str, Comparison]:
        """Compare every parameter on what was measured so far; with comparisons of the same slopes that are known."""
        return compare(self.problem, self.measurements, self.tolerance, known)

    def compare(self, name: str, backprop_rounding: float = 0.0) -> Comparison:
        """Compare one parameter on what was measured so far."""
        problem, measurements = self.problem, self.measurements
        total_norm = whole_norm(problem, measurements)
        return compare_parameter(problem, problem[name], measurements, self.tolerance, total_norm, backprop_rounding)

    def elsewhere(self, problem: Problem) -> Session:
        """Return a session at another point, where only the noise has been measured: near a kink it seems larger."""
        along = random_direction(problem, self.generator)
        slopes = self.slopes.at(problem).without_noise().sharpened(self.generator, along)
        measurements = Measurements.empty(problem, slopes.rounding(self.generator))
        return Session(slopes, measurements, self.tolerance, self.generator)

    def accusing_probes(self, comparison: Comparison) -> list[Probe]:
        """Return the probes that speak against a parameter: its directions, or the entries that differ most."""
        measured = self.measurements.parameters[comparison.name]
        if measured.directions and not measured.complete:
            return [measurement.probe for measurement in measured.directions]
        probes: list[Probe] = []
        for entry in comparison.worst:
            index = int(np.ravel_multi_index(entry.index, comparison.shape)) if entry.index else 0
            probes.append(Entry(comparison.name, index, self.problem[comparison.name].scale))
        return probes
