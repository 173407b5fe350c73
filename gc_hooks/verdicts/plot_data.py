"""Measure what only the plots of a report need, once the verdict stands; no verdict depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.numerics import EPS
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.plots import ParameterPlot, Rows, StepCurve, histogram, legible, rounded, worst_of_cells
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes.probes import Direction, Entry, direction_within, random_direction
from gc_hooks.verdicts.session import Session

STEPS = tuple(2.0**-k for k in range(2, 48, 4))
"""Steps of the curve of error against step, in units of the scale."""

MOST_FAILING, MORE_ENTRIES = 4, 256
"""Parameters that get a curve of their own, the worst ones, and entries that are measured for each heat map."""

LEAST_SECONDS = 0.25
"""Seconds that plots may take, or as long as the check has taken, whichever is more."""


class PlotData(NamedTuple):
    """The plots of a check: of each parameter, and the error against the step through all of them."""

    parameters: dict[str, ParameterPlot]
    curve: StepCurve | None


def collect_plot_data(session: Session, comparisons: Mapping[str, Comparison]) -> PlotData:
    """Return plots of everything that was measured, and of a little more.

    Costs 24 evaluations for the curve through all parameters and, for each of the four that fail worst, as many and up
    to 256 entries (four evaluations each with central differences). A joint check that finds everything good gets no
    plots.
    """
    is_joint_and_good = all(
        comparison.basis is Basis.BOUNDED and comparison.verdict is Verdict.GOOD for comparison in comparisons.values()
    )
    if not session.slopes.instruments or is_joint_and_good:
        return PlotData({}, None)
    meter = session.problem.meter
    deadline = meter.seconds + max(LEAST_SECONDS, meter.seconds)
    failing = [comparison for comparison in comparisons.values() if comparison.is_accused]
    failing.sort(key=lambda comparison: -comparison.difference)
    worst = {comparison.name for comparison in failing[:MOST_FAILING]}
    names = list(session.measurements.parameters)
    curve = _step_curve(session, random_direction(session.problem, session.generator, names)) if names else None
    plots = {}
    for name in names:
        plots[name] = _plot(session, name, name in worst, lambda: meter.seconds < deadline)
    return PlotData(plots, curve)


def _plot(session: Session, name: str, is_failing: bool, in_time: Callable[[], bool]) -> ParameterPlot:
    parameter, measured = session.problem[name], session.measurements.parameters[name]
    entries = measured.entries(session.problem.grads[name])
    columns = [np.asarray(entries.indices), entries.grad, entries.grad - entries.slopes, entries.errors]
    curve = None
    if is_failing and in_time():
        curve = _step_curve(session, direction_within(parameter, session.generator))
        columns = _with_more_entries(session, name, columns, in_time)
    weights, low, high = histogram(parameter.value)
    directions = legible((one.backprop, one.residual, one.error) for one in measured.directions)
    return ParameterPlot(_rows(columns, parameter.value.shape), directions, weights, low, high, curve)


def _rows(columns: list[Array], shape: tuple[int, ...]) -> Rows:
    positions, _, residuals, _ = columns
    kept = worst_of_cells(positions, np.abs(residuals), shape)
    values = legible(zip(*(column[kept].tolist() for column in columns[1:]), strict=True))
    return tuple((int(position), *row) for position, row in zip(positions[kept], values, strict=True))


def _with_more_entries(session: Session, name: str, columns: list[Array], in_time: Callable[[], bool]) -> list[Array]:
    """Return the columns with entries added that lie evenly between the measured ones, by quick measurements."""
    parameter = session.problem[name]
    size, gradient = parameter.value.size, session.problem.grads[name].reshape(-1)
    edges = np.linspace(0, size, MORE_ENTRIES + 1).astype(np.intp)
    spread = session.generator.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))
    found = []
    for position in np.setdiff1d(np.minimum(spread, size - 1), columns[0]).tolist():
        if not in_time():
            break
        try:
            residual, error = session.slopes.quick_residual(Entry(name, position, parameter.scale))
        except Exception:  # the budget is spent, or the loss raises there: the verdict stands without it
            break
        found.append((position, gradient[position], residual, error))
    table = np.concatenate([np.column_stack(columns), np.array(found).reshape(-1, 4)])
    table = table[np.argsort(table[:, 0], kind="stable")]
    return [table[:, 0].astype(np.intp), *table.T[1:]]


def _step_curve(session: Session, probe: Direction) -> StepCurve | None:
    """Return plain central differences at each step against the slope by the check's own method.

    None where the slope is zero, the budget is spent or the loss raises: the verdict stands without it.
    """
    slopes = session.slopes
    try:
        best = slopes.slope(probe)[0]
        size = abs(best.value)
        if not (math.isfinite(size) and size > 0):
            return None
        plain = [slopes.central_difference(probe, step * probe.scale) for step in STEPS]
    except Exception:
        return None
    noise = 0.0
    for tool, value in zip(slopes.instruments, session.problem.values, strict=True):
        own_noise = tool.noise or EPS * abs(value)
        if math.isfinite(own_noise):
            noise += own_noise
    return StepCurve(
        along=probe.name or "",
        steps=STEPS,
        errors=tuple(rounded(abs(slope - best.value) / size, 3) for slope in plain),
        backprop=rounded(abs(probe.slope(session.problem.grads) - best.value) / size, 3),
        error=rounded(best.error / size, 3),
        noise=rounded(noise / (math.sqrt(2) * probe.scale * size), 3),
        # An exact method has no step to choose.
        chosen=math.nan if slopes.are_exact else rounded(best.step / probe.scale, 3),
    )
