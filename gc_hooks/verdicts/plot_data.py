"""Measuring what only a picture needs, once the verdict stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import NamedTuple, TypeVar

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.plots import ParameterPlot, Rows, StepCurve, histogram, legible, rounded, worst_of_cells
from gc_hooks.report.verdict import Verdict
from gc_hooks.slopes.estimate import EPS
from gc_hooks.slopes.methods import complex_casts_refused
from gc_hooks.slopes.probes import Direction, Entry, direction_within, random_direction
from gc_hooks.verdicts.session import Session

STEPS = tuple(2.0**-k for k in range(2, 48, 4))
MOST_FAILING, MORE_ENTRIES = 4, 256
LEAST_SECONDS = 0.25


class PlotData(NamedTuple):
    """The pictures of a check: of each parameter, and the error against the step size through all of them."""

    parameters: dict[str, ParameterPlot]
    curve: StepCurve | None


def collect_plot_data(session: Session, comparisons: Mapping[str, Comparison]) -> PlotData:
    """Pictures of everything that was measured, and a little more; no verdict depends on it.

    Costs 24 evaluations for the curve through all parameters and, for each of the four that fail worst, as many and up
    to 256 entries (four evaluations each with central differences); never more time than the check has taken, or a
    quarter of a second. A joint check that finds everything good gets no pictures.
    """
    problem = session.problem
    if not session.instruments or all(
        c.basis is Basis.BOUNDED and c.verdict is Verdict.GOOD for c in comparisons.values()
    ):
        return PlotData({}, None)
    deadline = problem.meter.seconds + max(LEAST_SECONDS, problem.meter.seconds)

    def in_time() -> bool:
        return problem.meter.seconds < deadline

    with complex_casts_refused():
        whole = random_direction(problem, session.generator, list(session.measurements.parameters))
        curve = _if_possible(lambda: _step_curve(session, whole)) if whole.vector else None
        failing = _worst_failing(comparisons)
        pictures = {name: _plot(session, name, name in failing, in_time) for name in session.measurements.parameters}
    return PlotData(pictures, curve)


def _worst_failing(comparisons: Mapping[str, Comparison]) -> set[str]:
    failing = [c for c in comparisons.values() if c.verdict > Verdict.INCONCLUSIVE and math.isfinite(c.difference)]
    return {c.name for c in sorted(failing, key=lambda c: -c.difference)[:MOST_FAILING]}


def _plot(session: Session, name: str, failing: bool, in_time: Callable[[], bool]) -> ParameterPlot:
    array, measured = session.problem.point[name], session.measurements.parameters[name]
    entries = measured.entries(session.problem.grads[name])
    columns = [entries.indices, entries.grad, entries.grad - entries.slopes, entries.errors]
    curve = None
    if failing and in_time():
        curve = _if_possible(lambda: _step_curve(session, direction_within(session.problem, session.generator, name)))
        columns = _with_more(session, name, columns, in_time)
    weights, low, high = histogram(array)
    directions = legible(
        (measurement.backprop, measurement.residual, measurement.error) for measurement in measured.directions
    )
    return ParameterPlot(_rows(columns, array.shape), directions, weights, low, high, curve)


def _rows(columns: list[Array], shape: tuple[int, ...]) -> Rows:
    positions, _, away, _ = columns
    kept = worst_of_cells(positions, np.abs(away), shape)
    values = legible(zip(*(column[kept].tolist() for column in columns[1:]), strict=True))
    return tuple((int(position), *row) for position, row in zip(positions[kept], values, strict=True))


def _with_more(session: Session, name: str, columns: list[Array], in_time: Callable[[], bool]) -> list[Array]:
    """The measured entries and others spread evenly between them, by the quick measurement."""
    size = session.measurements.parameters[name].size
    edges = np.linspace(0, size, MORE_ENTRIES + 1).astype(np.intp)
    spread = session.generator.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))
    more = np.setdiff1d(np.minimum(spread, size - 1), columns[0])
    grad, found = session.problem.grads[name].reshape(-1), []
    for position in takewhile(lambda _: in_time(), more.tolist()):
        sketched = _quick_or_none(session, Entry(name, position, session.problem.scales[name]))
        if sketched is None:
            break
        found.append((position, grad[position], *sketched))
    every = np.concatenate([np.column_stack(columns), np.array(found).reshape(-1, 4)])
    every = every[np.argsort(every[:, 0], kind="stable")]
    return [every[:, 0].astype(np.intp), *every.T[1:]]


def _quick_or_none(session: Session, entry: Entry) -> tuple[float, float] | None:
    return _if_possible(lambda: session.quick_residual(entry))


def _step_curve(session: Session, probe: Direction) -> StepCurve | None:
    """Plain central differences at each step against the slope by the check's own method."""
    problem, tools = session.problem, session.instruments
    estimates = [tool.measure(problem, probe, term) for term, tool in enumerate(tools)]
    best = sum(estimates[1:], start=estimates[0])
    size = abs(best.value)
    if not (math.isfinite(size) and size > 0):
        return None
    slopes = [session.plain_slope(probe, step * probe.scale) for step in STEPS]
    noises = [tool.noise or EPS * abs(value) for tool, value in zip(tools, problem.values, strict=True)]
    noise = math.fsum(filter(math.isfinite, noises)) / (math.sqrt(2) * probe.scale * size)
    by_steps = best.evaluations > len(estimates)  # complex step needs one evaluation a term, and no step to choose
    return StepCurve(
        along=probe.name or "",
        steps=STEPS,
        errors=tuple(rounded(abs(slope - best.value) / size, 3) for slope in slopes),
        backprop=rounded(abs(probe.slope(problem.grads) - best.value) / size, 3),
        error=rounded(best.error / size, 3),
        noise=rounded(noise, 3),
        chosen=rounded(estimates[0].step / probe.scale, 3) if by_steps else math.nan,
    )


_Result = TypeVar("_Result")


def _if_possible(measure: Callable[[], _Result]) -> _Result | None:
    """What was measured; nothing where the check's own limits forbid more, or the loss raises: the verdict stands."""
    try:
        return measure()
    except Exception:
        return None
