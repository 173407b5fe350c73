"""The cheapest look: it says GOOD or nothing, and never GOOD of what is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

import zoo
from gc_hooks import Tolerance, Verdict
from gc_hooks.arrays import large
from gc_hooks.arrays.large import Normals, uniforms
from gc_hooks.problem import Meter
from gc_hooks.problem.validate import revisit
from gc_hooks.quick_check import Glance
from gc_hooks.report.comparison import Basis
from hunts import some

WRONG = {
    "doubled": lambda g, rng: 2 * g,
    "sign": lambda g, rng: -g,
    "lost": lambda g, rng: 0 * g,
    "one entry": lambda g, rng: g * np.where(np.arange(g.size).reshape(g.shape) == g.size // 2, 1.01, 1.0),
    "a ten-thousandth": lambda g, rng: g * (1 + 1e-4 * rng.standard_normal(g.shape)),
    "not a number": lambda g, rng: np.where(np.arange(g.size).reshape(g.shape) == 0, np.nan, g),
}


def gradient_of(net):
    """By the parameters' own names."""
    return lambda p: {name.removeprefix("d"): grad for name, grad in net.backward(p).items()}


def looked_at(loss, gradient, point, *, seed=0, takes_complex=True, **limits):
    point = {name: np.array(array, dtype=np.float64) for name, array in point.items()}
    problem = revisit(loss, point, gradient, lambda p: (loss(p), gradient(p)), Meter(**limits))
    return Glance(takes_complex=takes_complex).look(problem, Tolerance(), seed=seed, step=7)


both_methods = pytest.mark.parametrize("takes_complex", [True, False], ids=["complex step", "central"])


@pytest.mark.parametrize("activation", zoo.ACTIVATIONS)
@pytest.mark.parametrize("strength", [0.0, 1e-2])
def test_a_right_gradient_is_good_after_three_evaluations(activation, strength):
    """A complex one and two real ones, beside the one that the loss and the gradient share."""
    net = zoo.network(1, activation, strength=strength)
    reports = [looked_at(net.loss, gradient_of(net), net.params, seed=seed) for seed in range(20)]
    told = [report for report in reports if report is not None]
    assert len(told) >= 19
    for report in told:
        assert (report.verdict, report.step) == (Verdict.GOOD, 7)
        assert (report.evaluations, report.complex_evaluations, report.gradients) == (4, 1, 1)
        assert {c.basis for c in report.parameters.values()} == {Basis.BOUNDED}


@pytest.mark.parametrize("activation", zoo.ACTIVATIONS)
def test_by_central_differences_a_right_gradient_is_good_after_two_evaluations(activation):
    """More where a kink is near or one direction does not bound every parameter."""
    net, costs = zoo.network(1, activation), []
    for seed in range(20):
        report = looked_at(net.loss, gradient_of(net), net.params, seed=seed, takes_complex=False)
        if report is not None:
            assert (report.verdict, report.complex_evaluations) == (Verdict.GOOD, 0)
            costs.append(report.evaluations)
    assert len(costs) >= 18
    assert np.median(costs) == 3
    assert max(costs) <= 13


@both_methods
@pytest.mark.parametrize("bug", WRONG)
@pytest.mark.parametrize("name", ["W1", "b2", "W3"])
def test_of_a_wrong_gradient_it_says_nothing(bug, name, takes_complex):
    net = zoo.network(2, "tanh", strength=1e-3)
    for seed in range(20):
        rng = np.random.default_rng(seed)

        def wrong(p, rng=rng):
            grads = gradient_of(net)(p)
            return {**grads, name: WRONG[bug](grads[name], rng)}

        assert looked_at(net.loss, wrong, net.params, seed=seed, takes_complex=takes_complex) is None


@both_methods
@pytest.mark.parametrize("name", some(["W1", "W3"], ["W1"]))
def test_an_error_of_the_stated_sensitivity_is_seen(name, takes_complex):
    """In one entry, in two that are equal, and spread over all: in 99 of 100 cases."""
    net = zoo.network(3, "sigmoid")
    gradient = gradient_of(net)
    grads = gradient(net.params)
    unseen, tries = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clean = looked_at(net.loss, gradient_of(net), net.params, seed=seed, takes_complex=takes_complex)
        if clean is None:
            continue
        size = clean.parameters[name].sensitivity * np.linalg.norm(grads[name])
        for error in (one_entry(grads[name], rng), two_equal(grads[name], rng), rng.standard_normal(grads[name].shape)):
            off = grads[name] + size * error / np.linalg.norm(error)
            wrong = lambda p, off=off: {**gradient(p), name: off}  # noqa: E731
            report = looked_at(net.loss, wrong, net.params, seed=seed, takes_complex=takes_complex)
            unseen += report is not None
            tries += 1
    assert tries > 500
    assert unseen <= 0.01 * tries + 3 * math.sqrt(0.01 * tries)


def one_entry(array, rng):
    error = np.zeros_like(array)
    error.flat[rng.integers(error.size)] = 1
    return error


def two_equal(array, rng):
    error = np.zeros_like(array)
    error.flat[rng.choice(error.size, 2, replace=False)] = 1
    return error


@pytest.mark.parametrize("errors", [[1.0], [1.0, 1.0], [1.0, -1.0], [3.0, 1.0, 1.0], [1.0] * 8], ids=str)
def test_uniform_directions_hide_an_error_hardly_more_often_than_normal_ones(errors):
    """Signs would hide two equal ones one time in two: never more than 2.4 % more often."""
    weights, near, tries = np.array(errors) / np.linalg.norm(errors), 0.1, 400_000
    drawn = uniforms(np.random.default_rng(0), (tries, len(errors)), 2.0) / 2.0
    assert np.std(drawn) == pytest.approx(1, rel=0.01)
    normal = math.erf(near / math.sqrt(2))
    assert np.mean(np.abs(drawn @ weights) < near) < 1.024 * normal + 4 * math.sqrt(normal / tries)


def test_a_large_array_gets_a_direction_that_is_drawn_when_it_is_gone_along(monkeypatch):
    monkeypatch.setattr(large, "LARGE", 12)
    assert isinstance(uniforms(np.random.default_rng(0), (3, 4)), Normals)


def test_a_kink_within_the_step_is_for_the_pipeline():
    """The slopes to the left and to the right are both right, and backprop has one of them."""
    point = {"w": np.array([1.0, 0.0, 2.0])}
    assert looked_at(lambda p: np.sum(np.abs(p["w"])), lambda p: {"w": np.where(p["w"] >= 0, 1.0, -1.0)}, point) is None


def test_where_one_step_is_too_coarse_it_says_nothing():
    """And accuses nobody: the loss turns within the step."""
    point, fast = {"w": np.full(3, 0.3)}, 1e6
    assert (
        looked_at(lambda p: np.sum(np.sin(fast * p["w"])), lambda p: {"w": fast * np.cos(fast * p["w"])}, point) is None
    )


@pytest.mark.parametrize(
    ("loss", "gradient", "point"),
    [
        (lambda p: math.nan, lambda p: {"w": p["w"]}, {"w": np.ones(3)}),
        (lambda p: np.sum(p["w"] ** 2), lambda p: {"w": None}, {"w": np.ones(3)}),
        (lambda p: np.sum(p["w"] ** 2), lambda p: {"w": np.ones(4)}, {"w": np.ones(3)}),
        (lambda p: 0.0, lambda p: {"w": p["w"]}, {"w": np.ones(0)}),
    ],
    ids=["loss not finite", "no gradient", "wrong shape", "no entries"],
)
def test_what_is_out_of_the_ordinary_is_for_the_pipeline(loss, gradient, point):
    assert looked_at(loss, gradient, point) is None


def test_a_branch_that_complex_step_and_backprop_both_lose_is_not_good():
    """The absolute value of a complex number has no imaginary part that moves, and backward forgot the branch."""
    point = {"w": np.array([1.0, -2.0, 3.0])}

    def loss(p):
        return np.sum(p["w"] ** 2) + 1e-3 * np.sum(np.sqrt(np.real(p["w"]) ** 2 + 1))

    assert looked_at(loss, lambda p: {"w": 2 * p["w"]}, point) is None


@pytest.mark.parametrize(
    ("loss", "first"),
    [(lambda p: sum(map(float, p["w"] ** 2)), 4), (lambda p: np.linalg.norm(p["w"]) ** 2, 8)],
    ids=["refuses complex numbers", "is wrong with them"],
)
def test_where_complex_step_fails_a_central_difference_tells_and_complex_step_is_not_tried_again(loss, first):
    """Two real evaluations beside the loss at the point. A doubled gradient is for the pipeline."""
    point, glance = {"w": np.array([1.0, -2.0, 3.0])}, Glance()
    for evaluations, complex_evaluations in ((first, 1), (3, 0)):
        problem = revisit(loss, point, lambda p: {}, lambda p: (loss(p), {"w": 2 * p["w"]}), Meter())
        report = glance.look(problem, Tolerance(), seed=0, step=0)
        assert report.ok
        assert (report.evaluations, report.complex_evaluations) == (evaluations, complex_evaluations)
    assert looked_at(loss, lambda p: {"w": 4 * p["w"]}, point) is None


def test_a_spent_budget_is_for_the_pipeline_to_tell():
    net = zoo.network(0, "tanh")
    assert looked_at(net.loss, gradient_of(net), net.params, max_evaluations=3) is None
    assert looked_at(net.loss, gradient_of(net), net.params, max_evaluations=4) is not None
