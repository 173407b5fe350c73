"""Where to look: lines along entries and along random directions."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks.problem.validate import build_problem
from gc_hooks.slopes.probes import Direction, Entry, Line, automatic, entries, joint_weights, random_direction

POINT = {"W": np.arange(6.0).reshape(2, 3) + 1, "b": np.array([0.5, -1.0])}
GRADS = {"W": np.arange(6.0).reshape(2, 3) * 10, "b": np.array([7.0, 8.0])}


def weighted(p):
    """A linear loss whose gradient is ``GRADS``."""
    return np.sum(p["W"] * GRADS["W"]) + np.sum(p["b"] * GRADS["b"])


@pytest.fixture
def problem():
    return build_problem(weighted, POINT, GRADS)


@pytest.mark.parametrize("t", [0.25, -0.25, 0.25j])
@pytest.mark.parametrize("order", ["C", "F"])
def test_entry_moves_one_entry(t, order):
    """The index counts in C order whatever the memory layout, and the point itself stays where it is."""
    point = {"W": np.array(POINT["W"], order=order)}
    changes = Entry("W", 4, 1.0).changes(point, t)
    assert list(changes) == ["W"]
    away = changes["W"] - POINT["W"]
    assert away[1, 1] == t
    assert np.count_nonzero(away) == 1
    assert np.array_equal(point["W"], POINT["W"])


def test_entry_knows_backprops_slope():
    """Along one entry, backprop's slope is that entry of the gradient."""
    assert Entry("W", 4, 1.0).slope(GRADS) == 40.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("t", [1e-3, -1e-3, 1e-6, 1e-30])
def test_entry_knows_the_step_that_is_really_made(dtype, t):
    """1.1 + t is rounded to the array's precision: the realised step is what is left of t, possibly nothing."""
    point = {"b": np.array([1.1], dtype=dtype)}
    entry = Entry("b", 0, 1.0)
    moved = np.array(entry.changes(point, t)["b"][0], dtype=dtype)
    assert entry.realised(point, t) == np.float64(moved) - np.float64(point["b"][0])


@pytest.mark.parametrize("t", [0.5, 0.5j])
def test_direction_moves_what_its_vector_names(t):
    """The point is moved by t times the vector, in the parameters of the vector only."""
    changes = Direction({"b": np.array([1.0, -2.0])}).changes(POINT, t)
    assert list(changes) == ["b"]
    assert np.array_equal(changes["b"], POINT["b"] + t * np.array([1.0, -2.0]))


def test_direction_keeps_the_precision_of_the_point():
    """A float32 array is moved in at least its own precision, and complex steps keep float64 parts."""
    point = {"b": np.ones(2, dtype=np.float32)}
    changed = Direction({"b": np.ones(2)}).changes(point, 1e-30j)["b"]
    assert changed.dtype == np.complex128
    assert changed.imag.tolist() == [1e-30, 1e-30]


def test_slope_along_a_direction_is_the_inner_product(problem):
    """Backprop's slope is <v, g>, and for a linear loss the line says the same."""
    direction = Direction({"W": np.ones((2, 3)), "b": np.array([1.0, 0.0])})
    line = Line(problem, direction)
    assert direction.slope(GRADS) == 157.0
    assert line(1.0) - line.value == pytest.approx(157.0)
    assert line.realised(0.125) == 0.125


def test_every_entry_is_probed_once(problem):
    """The probes of the default depth are all entries of all parameters, each with its parameter's unit."""
    probes = list(entries(problem, np.random.default_rng(0)))
    assert sorted((p.name, p.index) for p in probes) == [("W", k) for k in range(6)] + [("b", k) for k in range(2)]
    assert {(p.name, p.scale) for p in probes} == {(parameter.name, parameter.scale) for parameter in problem}


def test_parameters_take_turns(problem):
    """A check that is cut short has seen something of every parameter."""
    names = [probe.name for probe in entries(problem, np.random.default_rng(0))]
    assert names == ["W", "b", "W", "b", "W", "W", "W", "W"]


def test_order_of_entries_comes_from_the_generator(problem):
    """The same seed looks in the same order, another one in another."""
    orders = [[p.index for p in entries(problem, np.random.default_rng(seed))] for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_what_has_no_gradient_or_no_entries_is_not_probed():
    """Nothing is spent on parameters that cannot be compared."""
    point = {"missing": np.ones(2), "empty": np.zeros((0, 3)), "w": np.ones(1)}
    problem = build_problem(lambda p: p["w"][0], point, {"empty": point["empty"], "w": point["w"]})
    assert [probe.name for probe in entries(problem, np.random.default_rng(0))] == ["w"]


def test_random_directions_carry_the_scales():
    """Each parameter is moved in its own unit, by normal numbers, signs and sizes both."""
    point = {"large": np.full((40, 50), 100.0), "small": np.full((40, 50), 0.01)}
    grads = {"large": np.full((40, 50), 0.01), "small": np.full((40, 50), 100.0)}
    direction = random_direction(build_problem(lambda p: 0.0, point, grads), np.random.default_rng(0))
    for name, unit in (("large", 100.0), ("small", 0.01)):
        ratios = direction.vector[name] / unit
        assert direction.weights[name] == pytest.approx(unit)
        assert abs(ratios.mean()) < 0.1
        assert ratios.std() == pytest.approx(1.0, abs=0.1)
        assert len(np.unique(ratios)) == 2000


def test_parameters_with_a_small_gradient_are_not_drowned_in_a_direction_through_all():
    """A direction goes further along them, by a factor of eight at most."""
    point = {"loud": np.ones(4), "quiet": np.ones(4), "silent": np.ones(4)}
    grads = {"loud": np.ones(4), "quiet": np.full(4, 0.25), "silent": np.full(4, 1e-6)}
    weights = joint_weights(build_problem(lambda p: 0.0, point, grads))
    assert weights["quiet"] == pytest.approx(4 * weights["loud"])
    assert weights["silent"] == 8.0


def test_random_directions_may_be_confined(problem):
    """A direction through some parameters leaves the others alone."""
    assert list(random_direction(problem, np.random.default_rng(0), ["b"]).vector) == ["b"]


def test_a_line_goes_through_one_term():
    """Loss and penalty are measured apart, each from its own value."""
    problem = build_problem(weighted, POINT, GRADS, penalty=lambda p: 3.0 * p["b"][0])
    line = Line(problem, Entry("b", 0, 1.0), term=1)
    assert line.value == 1.5
    assert line(1.0) == 4.5


def test_every_parameter_is_looked_at_once_before_any_is_opened():
    """A budget that ends early has then seen something of each, whatever the order and the sizes."""
    params = {"b1": np.ones(7), "W1": np.ones((7, 8)), "b2": np.ones(2), "W2": np.ones((8, 9))}
    problem = build_problem(lambda p: 1.0, params, params)
    seen = [probe.name for probe in automatic(problem, np.random.default_rng(0))]
    assert set(seen[:4]) == set(params)
    assert len(seen) == 7 + 2 + 1 + 1
