"""Spending the evaluations: what is written down, and what the budget leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks import Status, check_gradients
from gc_hooks.problem.validate import build_problem
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import Instrument
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Estimate, Method
from gc_hooks.slopes.probes import Entry, direction_within, entries, random_direction

POINT = {"w": np.array([0.7, -1.3, 0.4, 2.1]), "B": np.array([[0.3, -0.8], [1.2, 0.5]])}


def loss(p):
    return np.sum(p["w"] ** 3) + p["w"][0] * np.sum(p["B"] ** 2)


def returning(estimate):
    """Return the instrument whose method finds this, whatever the line."""
    return Instrument(Method.of(lambda line, *, scale, noise: estimate))


def test_terms_are_added_and_the_penaltys_part_is_kept():
    """One entry of two terms: the slopes and errors add up, the penalty's part is kept, and the worse status counts."""
    problem = build_problem(loss, POINT, POINT, penalty=loss)
    terms = Estimate(3.0, 0.1, 0.1, 4), Estimate(0.5, 0.2, 0.1, 6, Status.KINK)
    measurements = Measurements.empty(problem)
    Slopes(problem, tuple(map(returning, terms))).measure([Entry("B", 2, 1.0)], measurements)
    measured = measurements.parameters["B"]
    assert (list(measured.indices), list(measured.slopes), list(measured.penalties)) == ([2], [3.5], [0.5])
    assert measured.errors[0] == pytest.approx(0.3)
    assert dict(measured.statuses) == {Status.KINK: 1}
    assert not measured.complete


def test_directions_are_kept_where_they_belong():
    """A direction within a parameter is that parameter's own, one through all is everybody's."""
    problem, rng = build_problem(loss, POINT, POINT), np.random.default_rng(0)
    measurements = Measurements.empty(problem)
    within, through = direction_within(problem["w"], rng), random_direction(problem, rng)
    measurements.add(problem, within, Estimate(1.0, 0.1, 0.1, 1))
    measurements.add(problem, through, Estimate(2.0, 0.1, 0.1, 1))
    (reading,), (shared,) = measurements.parameters["w"].directions, measurements.joint
    assert reading.residual == pytest.approx(np.vdot(within.vector["w"], POINT["w"]) - 1.0)
    assert shared.residual == pytest.approx(sum(np.vdot(v, POINT[n]) for n, v in through.vector.items()) - 2.0)


def test_evidence_that_comes_in_parts_is_the_same():
    """Whatever the order in which entries were measured and merged, they are compared in their own."""
    problem = build_problem(loss, POINT, POINT)
    parts = [Measurements.empty(problem) for _ in range(3)]
    for index in (3, 0, 2, 1):
        parts[index % 3].add(problem, Entry("w", index, 1.0), Estimate(float(index), 0.1, 0.1, 1))
    parts[0].merge(parts[1:])
    entries_of_w = parts[0].parameters["w"].entries(POINT["w"])
    assert entries_of_w.indices.tolist() == [0, 1, 2, 3]
    assert entries_of_w.slopes.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert entries_of_w.grad.tolist() == POINT["w"].tolist()


def test_measuring_stops_where_the_budget_is_spent():
    """Not one evaluation more than the limit; what is not measured is not there."""
    problem, rng = build_problem(loss, POINT, POINT), np.random.default_rng(0)
    slopes = Slopes.prepare(problem, None, rng)
    problem.meter.max_evaluations = problem.meter.evaluations + 3
    measurements = Measurements.empty(problem)
    slopes.measure(entries(problem, rng), measurements)
    assert sum(len(measured.indices) for measured in measurements.parameters.values()) == 3
    assert problem.meter.evaluations == problem.meter.max_evaluations


def test_progress_is_told_after_every_entry():
    """A progress bar gets the number of entries done and of all."""
    told = []
    check_gradients(loss, POINT, POINT, probes=entries, progress=lambda done, total: told.append((done, total)))
    assert told == [(k, 8) for k in range(1, 9)]
