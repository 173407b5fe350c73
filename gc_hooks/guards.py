"""Second thoughts before accusing: rounding and kinks make correct code look wrong. Free when all is well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.compare import Comparison, Tolerance, Verdict, compare_parameter, whole_norm
from gc_hooks.estimate import SAFETY, Status
from gc_hooks.ladder import FINEST_TOP
from gc_hooks.measure import Instrument, Measured, apply, measure, untrained
from gc_hooks.methods import central
from gc_hooks.probes import Direction, Entry, Line
from gc_hooks.problem import Problem

REFERENCES, REFERENCE_DIRECTIONS = 4, 3
ROUNDINGS = 16.0
HAIR = 1e-6


@dataclass(frozen=True)
class Case:
    """Everything that a second thought may look at."""

    problem: Problem
    instruments: list[Instrument]
    measured: dict[str, Measured]
    tolerance: Tolerance
    generator: Generator


def reconsider(case: Case, comparisons: dict[str, Comparison]) -> dict[str, Comparison]:
    """Look again at every parameter that is about to be accused.

    A guard may widen a bar, measure again a hair away from the point, or turn an accusation into INCONCLUSIVE; never
    the other way round. Costs nothing for a parameter that passes, and about 50 evaluations for one that does not.
    """
    return {name: _reconsidered(case, comparison) for name, comparison in comparisons.items()}


def _reconsidered(case: Case, comparison: Comparison) -> Comparison:
    if _blurred(case, comparison):
        return _kink(case, comparison)
    for guard in (_rounding, _kink, _smaller_step):
        if not _accused(case, comparison) or case.problem.meter.exhausted:
            break
        comparison = guard(case, comparison)
    return comparison


def _accused(case: Case, comparison: Comparison) -> bool:
    """Whether it is the measured slopes, not a flaw of the gradient itself, that speak against a parameter."""
    compared = math.isfinite(comparison.difference) and comparison.name not in case.problem.flaws
    return compared and comparison.verdict > Verdict.INCONCLUSIVE


def _blurred(case: Case, comparison: Comparison) -> bool:
    """Whether a kink at the point makes the bar too wide to tell."""
    kink = comparison.exact and comparison.status is Status.KINK and not case.problem.meter.exhausted
    return kink and comparison.verdict is Verdict.INCONCLUSIVE


def _rounding(case: Case, comparison: Comparison) -> Comparison:
    """Backprop's own arithmetic rounds, and where a trained network's gradient is the small rest of large terms (an
    output of 0.9999 minus a label of 1) the rounding is no longer small against it.

    How large such terms are is read off the same network with every array shuffled and its signs redrawn: one of the
    same scales that no training has led to, in which nothing cancels.
    """
    name = comparison.name
    size = max(comparison.measured_norm, _uncancelled_norm(case, name))
    rounding = ROUNDINGS * case.problem.precision * size
    whole = whole_norm(case.problem, case.measured)
    again = compare_parameter(case.problem, name, case.measured[name], case.tolerance, whole, rounding)
    if again.verdict is not Verdict.INCONCLUSIVE or comparison.measured_norm == 0:
        return again
    return again.noted(f"backprop's own rounding may be {rounding / comparison.measured_norm:.0e} of it")


def _uncancelled_norm(case: Case, name: str) -> float:
    """Norm of a parameter's gradient where nothing cancels: the largest of a few untrained networks', each estimated
    from a few directions."""
    return max(_norm_at(case, name, untrained(case.problem, case.generator)) for _ in range(REFERENCES))


def _norm_at(case: Case, name: str, elsewhere: Problem) -> float:
    if not math.isfinite(elsewhere.value):  # out of the loss's domain, where a complex logarithm is still finite
        return 0.0
    slopes = []
    for _ in range(REFERENCE_DIRECTIONS):
        vector = case.generator.standard_normal(elsewhere.point[name].shape)
        probe = Direction({name: vector}, scale=elsewhere.scales[name])
        slopes.append(sum(apply(tool, elsewhere, probe, term).value for term, tool in enumerate(case.instruments)))
    size = math.hypot(*slopes) / math.sqrt(len(slopes))
    return size if math.isfinite(size) else 0.0


def _kink(case: Case, comparison: Comparison) -> Comparison:
    """At a kink (a ReLU whose input is exactly zero) the slopes to the left and to the right are both right. A hair
    away there is none: where backprop, run there, agrees with the slopes there, it agrees."""
    if case.problem.gradient is None:
        if not _stands_on_kink(case, comparison):
            return comparison
        note = "a kink at this very point, where backprop and measurement may take another side each: hand in the"
        return comparison.noted(f"{note} gradient as a function", Verdict.INCONCLUSIVE)
    for moved in _a_hair_away(case.problem):
        if _agrees_at(case, comparison, moved):
            return min(comparison, _compared_at(case, comparison, moved), key=lambda c: c.verdict)
    return comparison


def _a_hair_away(problem: Problem) -> Iterator[Problem]:
    """The problem a hair to either side: first with the vectors (biases) moved, then with everything moved."""
    vectors = [name for name, array in problem.point.items() if array.ndim <= 1]
    hair = max(HAIR, 8 * problem.precision)
    for names in (vectors, list(problem.point)):
        for side in (hair, -hair) if names else ():
            shift = {name: side * problem.scales[name] for name in names}
            yield problem.at({n: (a + shift.get(n, 0.0)).astype(a.dtype) for n, a in problem.point.items()})


def _agrees_at(case: Case, comparison: Comparison, moved: Problem) -> bool:
    """Whether the entries that looked most wrong agree at the moved point."""
    name = comparison.name
    if name not in moved.grads:
        return False
    sample = measure(moved, _worst_probes(case.problem, comparison), case.instruments)[name]
    grad, slopes = moved.grads[name][sample.seen], sample.slopes[sample.seen]
    away = np.abs(grad - slopes) - sample.errors[sample.seen]
    return bool(np.all(away <= case.tolerance.good * (np.abs(grad) + np.abs(slopes))))


def _compared_at(case: Case, comparison: Comparison, moved: Problem) -> Comparison:
    """The whole parameter, compared at the moved point."""
    name = comparison.name
    probes = (Entry(name, index, moved.scales[name]) for index in range(comparison.size))
    measured = measure(moved, probes, case.instruments)
    again = compare_parameter(moved, name, measured[name], case.tolerance, whole_norm(case.problem, case.measured))
    return again.noted("a kink was met: compared a hair away from it")


def _worst_probes(problem: Problem, comparison: Comparison) -> list[Entry]:
    return [
        Entry(
            comparison.name, int(np.ravel_multi_index(worst.index, comparison.shape)), problem.scales[comparison.name]
        )
        for worst in comparison.worst
    ]


def _stands_on_kink(case: Case, comparison: Comparison) -> bool:
    """Whether a slope to the right was not the slope to the left, or is not for the entries that look most wrong."""
    if case.measured[comparison.name].statuses[Status.KINK]:
        return True
    return any(_has_jump(case, probe) for probe in _worst_probes(case.problem, comparison))


def _has_jump(case: Case, probe: Entry) -> bool:
    unit = np.zeros(case.problem.point[probe.name].shape)
    unit.flat[probe.index] = -1.0
    lines = (probe, Direction({probe.name: unit}, scale=probe.scale))
    slopes = [apply(tool, case.problem, line, term) for term, tool in enumerate(case.instruments) for line in lines]
    return abs(sum(slope.value for slope in slopes)) > sum(slope.error for slope in slopes)


def _smaller_step(case: Case, comparison: Comparison) -> Comparison:
    """Central differences over a kink nearby are wrong at every step that reaches it: where a smaller step agrees with
    backprop, nothing is certain."""
    if not any(tool.method is central for tool in case.instruments):
        return comparison
    if all(_agrees_with_smaller(case, probe) for probe in _worst_probes(case.problem, comparison)):
        return comparison.noted("a smaller step agrees with backprop, a larger one does not", Verdict.INCONCLUSIVE)
    return comparison


def _agrees_with_smaller(case: Case, probe: Entry) -> bool:
    """Whether some small step, whose own noise is well below the discrepancy, gives backprop's slope."""
    backprop = probe.slope(case.problem.grads)
    away = abs(backprop - float(case.measured[probe.name].slopes.flat[probe.index]))
    noise = sum(tool.noise or 0.0 for tool in case.instruments)
    for step in (probe.scale * FINEST_TOP / 8.0**k for k in range(2, 9)):
        bar = SAFETY * noise / (math.sqrt(2) * step)
        if bar > away / 4:
            return False
        if abs(_plain_slope(case, probe, step) - backprop) <= bar:
            return True
    return False


def _plain_slope(case: Case, probe: Entry, step: float) -> float:
    lines: Iterable[Line] = (Line(case.problem, probe, term) for term in range(len(case.instruments)))
    return float(sum((line(step) - line(-step)) / (line.realised(step) - line.realised(-step)) for line in lines))
