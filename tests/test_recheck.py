"""Second thoughts: correct code that looks wrong is not accused, and wrong code stays accused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gc_hooks import (
    Status,
    Tolerance,
    Verdict,
    central,
    check_gradients,
    complex_step,
    entries,
    fixed_step,
    per_parameter,
)
from gc_hooks.problem.validate import build_problem
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import Instrument
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Estimate
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


def poisson(seed):
    """A regression whose prediction is an exponential: with other signs it explodes."""
    rng = np.random.default_rng(seed)
    inputs = np.c_[np.ones(50), 8 * np.abs(rng.normal(size=(50, 4)))]
    w = np.array([-0.5, -1, -1.2, -0.8, -1.5])
    counts = rng.poisson(np.exp(inputs @ w))

    def loss(p):
        return np.mean(np.exp(inputs @ p["w"]) - counts * (inputs @ p["w"]))

    return loss, {"w": w}, lambda p: {"w": inputs.T @ (np.exp(inputs @ p["w"]) - counts) / 50}


def decays(seed):
    """A sum of exponential decays, fitted to data: with other signs it explodes."""
    t = np.linspace(0, 10, 40)
    rates, sizes = np.array([0.7, 2.1]) * np.exp(0.1 * np.random.default_rng(seed).normal(size=2)), np.array([1, 0.5])
    data = np.exp(-np.outer(t, rates)) @ sizes + 0.1

    def gradient(p):
        decay = np.exp(-np.outer(t, p["w"]))
        rest = decay @ sizes - data
        return {"w": -sizes * (decay.T @ (t * rest))}

    return (lambda p: 0.5 * np.sum((np.exp(-np.outer(t, p["w"])) @ sizes - data) ** 2)), {"w": rates}, gradient


@methods
@pytest.mark.parametrize("case", [poisson, decays])
@pytest.mark.parametrize("buffers", [False, True])
@seeds(3, 12)
def test_where_a_sign_matters_rounding_is_not_taken_from_other_signs(case, method, buffers, seeds):
    """A doubled gradient is accused; what rounding does is judged near the point, where nothing explodes."""
    for seed in seeds:
        loss, point, gradient = case(seed)
        right = gradient(point) if buffers else gradient
        wrong = {"w": 2 * gradient(point)["w"]} if buffers else lambda p, f=gradient: {"w": 2 * f(p)["w"]}
        options = {"method": method, "probes": per_parameter, "seed": seed}
        assert check_gradients(loss, point, right, **options).ok
        assert check_gradients(loss, point, wrong, **options).verdict is WORRY


def small_bias(size):
    """A network whose bias has barely moved from zero."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)), rng.normal(size=(16, 3))
    p = {"W": rng.normal(size=(4, 5)), "b": size * rng.normal(size=5), "V": rng.normal(size=(5, 3))}

    def loss(p=p):
        return 0.5 * np.mean((np.tanh(x @ p["W"] + p["b"]) @ p["V"] - y) ** 2)

    def gradient(change, p=p):
        hidden = np.tanh(x @ p["W"] + p["b"])
        rest = (hidden @ p["V"] - y) / y.size
        delta = rest @ p["V"].T * (1 - hidden**2)
        return {"W": x.T @ delta, "b": change(delta.sum(0)), "V": hidden.T @ rest}

    return loss, p, gradient


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("size", [0, 1e-22, 1e-15, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("change", [lambda b: -b, lambda b: b / 10, lambda b: b[::-1]], ids=["sign", "tenth", "turned"])
def test_a_bias_that_has_barely_moved_is_accused_where_it_is_wrong(size, change, in_place):
    """No step agrees with its gradient, and none is said to; the right one is good."""
    loss, p, gradient = small_bias(size)
    options = {"in_place": in_place, "method": central}
    wrong = check_gradients(loss, p, gradient(change), **options).parameters["b"]
    assert (wrong.verdict, wrong.note) == (WORRY, "")
    assert check_gradients(loss, p, gradient(lambda b: b), **options).parameters["b"].verdict is GOOD


def recurrent(seed, slip):
    """A smooth recurrent network in float32, in place, whose error is a factor off on its way back through time."""
    rng = np.random.default_rng(seed)
    draws = {"Wx": (5, 8, 0.4), "Wh": (8, 8, 0.4), "b": (8, 0.2), "Wd": (8, 5, 0.4)}
    p = {name: (rng.normal(size=shape) * size).astype(np.float32) for name, (*shape, size) in draws.items()}
    inputs = np.eye(5, dtype=np.float32)[rng.integers(5, size=16)]

    def forward():
        states = [np.zeros(8, np.float32)]
        for x in inputs:
            states.append(np.tanh(x @ p["Wx"] + states[-1] @ p["Wh"] + p["b"]))
        e = np.exp(states[-1] @ p["Wd"])
        return states, e / e.sum()

    states, delta = forward()
    delta[2] -= 1
    grads = {name: np.zeros_like(array) for name, array in p.items()}
    grads["Wd"] += np.outer(states[-1], delta)
    back = p["Wd"] @ delta * np.float32(slip)
    for t in range(16, 0, -1):
        z = back * (1 - states[t] ** 2)
        grads["Wx"] += np.outer(inputs[t - 1], z)
        grads["Wh"] += np.outer(states[t - 1], z)
        grads["b"] += z
        back = p["Wh"] @ z
    return (lambda: -np.log(forward()[1][2])), p, grads


@pytest.mark.parametrize("probes", [entries, per_parameter])
@seeds(2, 8)
def test_a_smooth_network_in_float32_has_no_kink(probes, seeds):
    """What looks like one is rounding: it is not told, and excuses nothing."""
    for seed in seeds:
        for slip in (1, 1 / 8):
            report = check_gradients(*recurrent(seed, slip), in_place=True, method=central, probes=probes)
            found = [report.parameters[name] for name in ("Wx", "Wh", "b")]
            assert not any("kink" in comparison.note for comparison in found)
            assert all((comparison.verdict is WORRY) is (slip != 1) for comparison in found)


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("size", [16, 256, 600, 2000])
@seeds(2, 6)
def test_many_kinks_in_a_loss_that_rounds_inside_accuse_nobody(size, buffers, seeds):
    """Half of the entries stand on a kink, and float32 hides a step that is small enough to leave it."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        point, weights = np.maximum(rng.normal(size=size), 0), rng.normal(size=size)

        def loss(p, weights=weights):
            return np.sum(weights * np.maximum(p, 0).astype(np.float32))

        def gradient(p, weights=weights):
            return weights * (p > 0)

        right = gradient(point) if buffers else gradient
        report = check_gradients(loss, point, right, method=central, probes=per_parameter, seed=seed)
        assert report.verdict <= INCONCLUSIVE
        assert report.ok or "kink" in report.parameters["theta"].note
        lost = check_gradients(loss, point, 8 * gradient(point), method=central, probes=per_parameter, seed=seed)
        assert lost.verdict is WORRY


def dead_sample(p, factor=1.0):
    """The loss and gradient of two hidden units and a sample that switches both off: an output of exactly zero."""
    x, signs = np.array([-1.0, 2.0]), np.array([-1.0, 1.0])
    h, k = np.maximum(p["w1"] * x, 0), np.maximum(p["w2"] * x, 0)
    z = p["v"] * h + p["u"] * k + p["b"]
    on = (z.real > 0) * signs / 2
    grads = {
        "w1": np.sum(on * p["v"] * (h > 0) * x),
        "w2": np.sum(on * p["u"] * (k > 0) * x),
        "v": factor * np.sum(on * h),
        "u": np.sum(on * k),
        "b": np.sum(on),
    }
    return np.mean(signs * np.maximum(z, 0)), grads


@methods
@seeds(4, 16)
def test_a_kink_at_the_point_is_not_taken_for_rounding(method, seeds):
    """Buffers: only the bias stands on the kink and is told so, the others are good, and a doubled one is accused."""
    p = {"w1": 1.5, "w2": 0.9, "v": 0.7, "u": 0.4, "b": 0.0}
    for seed in seeds:
        options = {"method": method, "probes": entries, "seed": seed}
        report = check_gradients(lambda p: dead_sample(p)[0], p, dead_sample(p)[1], **options)
        assert [name for name, c in report.parameters.items() if c.verdict is not GOOD] == ["b"]
        assert "a kink at this very point" in report.parameters["b"].note
        wrong = check_gradients(lambda p: dead_sample(p)[0], p, dead_sample(p, 2.0)[1], **options)
        assert wrong.parameters["v"].verdict is WORRY
        assert wrong.parameters["b"].verdict is INCONCLUSIVE


@methods
@seeds(3, 12)
def test_a_kink_in_one_flat_vector_is_settled_a_hair_away(method, seeds):
    """A whole network in one vector, with zero biases and empty samples: good, and a doubled part is accused."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        inputs, targets = rng.normal(size=(12, 4)), rng.normal(size=12)
        inputs[:3] = 0
        point = np.concatenate([rng.normal(size=20), np.zeros(5), rng.normal(size=5)])

        def loss(v, inputs=inputs, targets=targets):
            return np.sum((np.maximum(inputs @ v[:20].reshape(4, 5) + v[20:25], 0) @ v[25:] - targets) ** 2)

        def gradient(v, factor=1.0, inputs=inputs, targets=targets):
            z = inputs @ v[:20].reshape(4, 5) + v[20:25]
            rest = 2 * (np.maximum(z, 0) @ v[25:] - targets)
            delta = np.outer(rest, v[25:]) * (z > 0)
            return np.concatenate([(inputs.T @ delta).ravel(), delta.sum(0), factor * np.maximum(z, 0).T @ rest])

        options = {"method": method, "probes": per_parameter, "seed": seed}
        assert check_gradients(loss, point, gradient, **options).ok
        assert check_gradients(loss, point, lambda v, f=gradient: f(v, 2.0), **options).verdict is WORRY
