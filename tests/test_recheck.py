"""Second thoughts: correct code that looks wrong is not accused, and wrong code stays accused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gc_hooks import Status, Tolerance, Verdict, central, check_gradients, complex_step, fixed_step
from gc_hooks.problem.validate import build_problem
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import Instrument
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Estimate
from gc_hooks.slopes.probes import entries
from gc_hooks.verdicts.escalate import escalate
from gc_hooks.verdicts.recheck import recheck
from gc_hooks.verdicts.session import Session
from hunts import seeds, some
from zoo import ACTIVATIONS, network, trained

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
X = np.array([[1.0, 2.0], [0.0, 0.0], [0.5, -1.5]])
KINKED = {"W": np.array([[0.3, -0.4], [0.7, 0.3]]), "b": np.zeros(2), "v": np.array([1.5, -0.8])}


def kinked_loss(p, slope=0.0):
    """The second sample is empty and the biases are zero: a pre-activation that is exactly zero."""
    z = X @ p["W"] + p["b"]
    return np.sum((np.where(z > 0, z, slope * z) @ p["v"] - 1) ** 2)


def kinked_gradient(p, slope=0.0, at_zero=0.0, factor=1.0):
    z = X @ p["W"] + p["b"]
    active = np.where(z > 0, 1.0, np.where(z == 0, at_zero, slope))
    a = np.where(z > 0, z, slope * z)
    rest = 2 * (a @ p["v"] - 1)
    delta = np.outer(rest, p["v"]) * active
    return {"W": X.T @ delta, "b": factor * delta.sum(axis=0), "v": a.T @ rest}


kinks = pytest.mark.parametrize(("slope", "at_zero"), [(0.0, 0.0), (0.0, 1.0), (0.1, 0.1), (0.1, 1.0), (0.0, 0.5)])
methods = pytest.mark.parametrize("method", [None, central, complex_step])


@kinks
@methods
def test_a_kink_at_the_point_never_accuses_a_gradient_function(slope, at_zero, method):
    """Whichever side backward takes at an exact zero, it is right a hair away, and so it is good."""
    report = check_gradients(
        lambda p: kinked_loss(p, slope), KINKED, lambda p: kinked_gradient(p, slope, at_zero), method=method
    )
    assert report.verdict is GOOD
    if report.parameters["b"].note:
        assert report.parameters["b"].note == "a kink was met: compared a hair away from it"


@kinks
@methods
def test_a_kink_at_the_point_never_accuses_buffers(slope, at_zero, method):
    """Buffers cannot be asked again elsewhere: at most inconclusive, with the advice to hand in the function."""
    report = check_gradients(
        lambda p: kinked_loss(p, slope), KINKED, kinked_gradient(KINKED, slope, at_zero), method=method
    )
    assert report.verdict <= INCONCLUSIVE
    assert {report.parameters[name].verdict for name in ("W", "v")} == {GOOD}
    assert report.parameters["b"].verdict is GOOD or "hand in the gradient as a function" in report.parameters["b"].note


@kinks
@methods
def test_a_bug_beside_a_kink_is_still_seen(slope, at_zero, method):
    """The twin with a doubled bias gradient is never good, and accused where the kink does not hide it."""
    wrong = kinked_gradient(KINKED, slope, at_zero, factor=2)
    report = check_gradients(
        lambda p: kinked_loss(p, slope), KINKED, lambda p: kinked_gradient(p, slope, at_zero, 2), method=method
    )
    assert report.parameters["b"].verdict in ((WORRY,) if at_zero == slope else (WORRY, INCONCLUSIVE))
    assert check_gradients(lambda p: kinked_loss(p, slope), KINKED, wrong, method=method).verdict > GOOD


@methods
@pytest.mark.parametrize("in_place", [False, True])
def test_an_absolute_value_at_zero_is_a_kink(method, in_place):
    """Lasso at a weight of zero: sign(0) = 0 is right, and so would be 1."""
    w = np.array([0.0, 0.5, -2.0])
    for at_zero in (0.0, 1.0, -1.0):

        def gradient(w=w, at_zero=at_zero):
            return np.where(w == 0, at_zero, np.sign(w))

        def loss(w=w):
            return np.sum(np.abs(w))

        functions = ((lambda: loss()), w, (lambda: gradient())) if in_place else (loss, w, gradient)
        assert check_gradients(*functions, method=method, in_place=in_place).verdict is GOOD


def norm_in_front(p):
    z = X @ p["W"] + p["b"]
    z = z - z.mean(axis=0)
    return np.sum(np.tanh(z / np.sqrt((z * z).mean(axis=0) + 1e-5)) * np.array([1.0, -2.0]))


@methods
@pytest.mark.parametrize("noise", [0.0, 1e-17, 3e-16])
def test_a_bias_in_front_of_batch_norm_has_no_gradient(method, noise):
    """Its true gradient is zero and both sides are rounding: the classic ratio is 1, the verdict is good."""
    point = {"W": KINKED["W"], "b": np.array([0.3, -0.2])}
    slopes = check_gradients(norm_in_front, point, {"W": 0 * point["W"], "b": 0 * point["b"]}, method=complex_step)
    grads = {"W": np.zeros((2, 2)), "b": noise * np.array([1.0, -1.0])}
    for entry in slopes.parameters["W"].worst:
        grads["W"][entry.index] = entry.measured
    report = check_gradients(norm_in_front, point, grads, method=method)
    assert report.parameters["b"].verdict is GOOD
    assert report.parameters["b"].note == "no gradient"
    wrong = check_gradients(norm_in_front, point, {**grads, "b": np.array([0.1, 0.0])}, method=method)
    assert wrong.parameters["b"].verdict is WORRY


FLOAT32 = [network(seed, act, dtype=np.float32) for act in ACTIVATIONS for seed in range(4)]
net32 = pytest.mark.parametrize(
    "net",
    [
        pytest.param(net, id=f"{net.activation}{k % 4}", marks=[pytest.mark.slow] if k % 4 else [])
        for k, net in enumerate(FLOAT32)
    ],
)


def doubled(grads, name):
    return {**grads, name: 2 * grads[name]}


@net32
@methods
def test_float32_at_initialisation(net, method):
    """Correct float32 buffers are never accused and a doubled bias is found; as a function the code is good."""
    buffers = net.backward(net.params)
    assert check_gradients(net.loss, net.params, buffers, method=method).verdict <= INCONCLUSIVE
    assert check_gradients(net.loss, net.params, net.backward, method=method).verdict is GOOD
    for name in ("db1", "db3"):
        report = check_gradients(net.loss, net.params, doubled(buffers, name), method=method)
        assert report.parameters[name[1:]].verdict is WORRY


@pytest.fixture(scope="module", params=some(["relu", "tanh", "sigmoid"], ["relu"]))
def fitted(request):
    return trained(network(1 if request.param != "relu" else 3, request.param, dtype=np.float32), rate=0.02)


@methods
def test_float32_after_training(fitted, method):
    """With the loss below 1e-3, float32 buffers of a correct network are far from its own float64 gradient: they are
    not accused, while the code itself is judged in float64, where a doubled bias still shows."""
    assert fitted.loss(fitted.params) < 1e-3
    assert (
        check_gradients(fitted.loss, fitted.params, fitted.backward(fitted.params), method=method).verdict
        <= INCONCLUSIVE
    )
    assert check_gradients(fitted.loss, fitted.params, fitted.backward, method=method).verdict is GOOD
    wrong = check_gradients(fitted.loss, fitted.params, lambda p: doubled(fitted.backward(p), "db2"), method=method)
    assert {name: c.verdict for name, c in wrong.parameters.items() if c.verdict > GOOD} == {"b2": WORRY}


@methods
def test_float32_arrays_in_place(fitted, method):
    """A loss in float32 that reads float32 arrays is noisy: correct buffers are not accused, gross errors are."""
    for net in (fitted, network(2, "tanh", dtype=np.float32)):
        grads = net.backward(net.params)
        report = check_gradients(lambda net=net: net.loss(net.params), net.params, grads, in_place=True, method=method)
        assert report.verdict <= INCONCLUSIVE
    wrong = doubled(grads, "dW3")
    report = check_gradients(lambda: net.loss(net.params), net.params, wrong, in_place=True, method=method)
    assert report.parameters["W3"].verdict is WORRY


@pytest.mark.parametrize("convert", [np.float32, lambda v: round(v, 8), lambda v: round(v, 6)])
@methods
@seeds(2, 10)
def test_a_rounded_loss_is_never_the_gradients_fault(convert, method, seeds):
    """A loss that ends with a cast or is rounded for display: correct gradients are not accused, gross errors are."""
    for seed in seeds:
        net = network(seed, "tanh")

        def loss(p, net=net):
            return convert(float(net.loss(p)))

        assert check_gradients(loss, net.params, net.backward, method=method, seed=seed).verdict <= INCONCLUSIVE
        wrong = check_gradients(loss, net.params, doubled(net.backward(net.params), "dW3"), method=method, seed=seed)
        assert wrong.parameters["W3"].verdict is WORRY


@methods
@seeds(2, 10)
def test_float32_inside_the_loss_beside_a_penalty_in_float64(method, seeds):
    """Small steps are lost on the float32 part and see the penalty alone, which is no evidence against backprop; what
    is wrong is not good either."""
    for seed in seeds:
        net = network(seed, "tanh", strength=0.3)

        def loss(p, net=net):
            return float(net.data_loss({name: array.astype(np.float32) for name, array in p.items()})) + net.penalty(p)

        assert check_gradients(loss, net.params, net.backward, method=method, seed=seed).verdict <= INCONCLUSIVE
        wrong = check_gradients(loss, net.params, doubled(net.backward(net.params), "dW3"), method=method, seed=seed)
        assert wrong.parameters["W3"].verdict > GOOD


def case_for(loss, params, grads, method, noise=1e-16):
    problem, generator = build_problem(loss, params, grads), np.random.default_rng(0)
    slopes = Slopes(problem, (Instrument(method, noise),))
    measurements = Measurements.empty(problem)
    slopes.measure(entries(problem, generator), measurements)
    return Session(slopes, measurements, Tolerance(), generator)


def test_second_thoughts_are_free_when_all_is_well():
    """A parameter that passes costs no evaluation more, nor does one that has a flaw."""
    point = {"w": np.ones(2), "missing": np.ones(1)}
    session = case_for(lambda p: np.sum(p["w"] ** 2), point, {"w": 2 * np.ones(2)}, central)
    before, comparisons = session.problem.meter.evaluations, session.compare_all()
    assert escalate(session, comparisons) == comparisons
    assert session.problem.meter.evaluations == before


@pytest.mark.parametrize("kink", [1.0 + 3e-6, 1.0 + 3e-5])
def test_another_step_that_agrees_withdraws_the_accusation(kink):
    """Central differences that were fooled by a kink next to the point are not believed where another step agrees."""
    session = case_for(lambda w: np.sum(w + 5 * np.maximum(w - kink, 0)), np.ones(2), np.ones(2), central)
    fooled = session.measurements.parameters["theta"]
    for k in range(2):
        fooled.slopes[k], fooled.errors[k] = 3.5, 1e-9
    assert session.compare("theta").verdict is WORRY
    again = recheck(session, session.compare("theta"))
    assert again.verdict is INCONCLUSIVE
    assert again.note == "another step size agrees with backprop"


@pytest.mark.parametrize("method", [central, complex_step])
def test_another_step_does_not_save_a_wrong_gradient(method):
    """Where no step agrees the accusation stands."""
    session = case_for(lambda w: np.sum(w**2), np.ones(2), 3 * np.ones(2), method)
    assert recheck(session, session.compare("theta")).verdict is WORRY


def test_where_a_small_step_is_too_noisy_it_decides_nothing():
    """A step whose own noise is as large as the discrepancy is no witness."""
    session = case_for(lambda w: np.sum(w**2), np.ones(2), (2 + 1e-3) * np.ones(2), central)
    session.slopes = Slopes(session.problem, (Instrument(central, 1e-6),))
    assert session.compare("theta").verdict is DOUBLE_CHECK
    assert recheck(session, session.compare("theta")).verdict is DOUBLE_CHECK


def test_a_budget_that_ends_before_second_thoughts_leaves_it_open():
    """What could not be thought over is not called wrong, and what was seen is said."""
    session = case_for(lambda w: np.sum(w**2), np.ones(2), 3 * np.ones(2), central)
    session.problem.meter.max_evaluations = session.problem.meter.evaluations
    (comparison,) = escalate(session, session.compare_all()).values()
    assert comparison.verdict is INCONCLUSIVE
    limit = session.problem.meter.max_evaluations
    assert comparison.note == f"the budget (max_evaluations={limit}) was spent before it was certain"
    assert comparison.difference == pytest.approx(0.2)


def test_a_gradient_that_vanishes_a_hair_away_agrees_with_nothing():
    """A backward pass that returns no usable gradient at the moved point is not excused by it."""
    calls = []

    def gradient(w):
        calls.append(w)
        return 3 * w if len(calls) < 3 else np.zeros(7)

    report = check_gradients(lambda w: np.sum(w**2), np.ones(2), gradient)
    assert report.verdict is WORRY


def test_rounding_of_backprop_is_allowed_for_where_large_terms_cancel():
    """Two large terms whose difference is the gradient: backprop's rounding is part of the bar, and it is said."""
    big = 1e9

    def loss(w):
        return big * w[0] - big * w[1] + w[0] ** 2

    w = np.array([1.0, 1.0])
    wrong = np.array([big + 2.0, -big]) * (1 + 1e-3)
    assert check_gradients(loss, w, wrong).verdict > INCONCLUSIVE
    assert check_gradients(loss, w, np.array([big + 2.0, -big])).verdict is GOOD


def test_a_reference_that_is_not_finite_counts_for_nothing():
    """Where the shuffled network has no finite slope, the bar is that of the measured gradient alone."""

    def loss(w):
        return np.sum(np.log(w))

    w = np.array([0.5, 2.0])
    assert check_gradients(loss, w, 2 / w).verdict is WORRY
    assert check_gradients(loss, w, 1 / w).verdict is GOOD


def test_statuses_other_than_kinks_are_looked_at_twice():
    """A method that does not report kinks: the slopes along v and -v tell."""

    def one_sided(line, *, scale, noise):
        return Estimate((line(1e-6) - line.value) / 1e-6, 1e-9, 1e-6, 1)

    w = np.array([0.0, 1.0])
    report = check_gradients(lambda w: np.sum(np.abs(w)), w, np.array([-1.0, 1.0]), method=one_sided)
    assert report.parameters["theta"].status is Status.OK
    assert report.verdict is INCONCLUSIVE
    assert "a kink at this very point" in report.parameters["theta"].note
    assert check_gradients(lambda w: np.sum(np.abs(w)), w, np.array([1.0, 3.0]), method=one_sided).verdict > GOOD


@pytest.mark.parametrize("method", [fixed_step(1e-7), fixed_step(1e-4)])
def test_a_fixed_step_accuses_no_more_than_it_knows(method):
    """The textbook's step has a bar too: correct gradients are not accused with it, gross errors are."""
    for seed in range(5):
        net = network(seed, "tanh", strength=0.1)
        assert check_gradients(net.loss, net.params, net.backward, method=method).verdict <= INCONCLUSIVE
        wrong = doubled(net.backward(net.params), "dW2")
        assert check_gradients(net.loss, net.params, wrong, method=method).parameters["W2"].verdict is WORRY


def test_nan_is_no_agreement():
    """A loss that is NaN next to the point leaves the accusation to nobody: inconclusive, never good."""
    w = np.array([1.0])
    report = check_gradients(lambda w: float(w[0]) if w[0] == 1.0 else math.nan, w, w)
    assert report.verdict is INCONCLUSIVE
    assert report.parameters["theta"].note == "the loss is not finite next to this point"


@pytest.mark.parametrize("scale", [[1e3, 1.0], [1e4, 1e-4]])
def test_steps_that_float32_rounds_away_say_nothing(scale):
    """Smaller and smaller steps into arrays of few digits come to one that does not move them: no slope, no crash."""
    w = np.array(scale, dtype=np.float32)
    report = check_gradients(lambda: float(np.sum(w.astype(float))), w, 2 * np.ones(2), in_place=True, probes=entries)
    assert report.verdict is WORRY
