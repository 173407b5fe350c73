"""What rounding and kinks do to a right gradient accuses nobody; the same gradient, doubled, is seen."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gc_hooks import Verdict, check_gradients
from gc_hooks.report.comparison import Reason

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from graphs import FAMILIES
from networks import random_network

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
families = pytest.mark.parametrize("family", [name for name in FAMILIES if name != "random"])
SEEDS = range(5)


def drawn(family, seed, buffers):
    graph = FAMILIES[family](seed)
    if buffers == "float32":
        graph = graph.prepared().cast(np.float32)
    return graph, graph.cast(np.float64).loss


def checked(graph, loss, buffers, factor=1.0, name=None):
    """Check the gradient as a function, or as arrays; ``name`` is multiplied."""

    def gradient(params):
        grads = graph.gradient(params)
        return grads if name is None else grads | {name: (factor * grads[name]).astype(grads[name].dtype)}

    return check_gradients(loss, graph.params, gradient if buffers is None else gradient(graph.params))


@families
@pytest.mark.parametrize("buffers", [None, "float64", "float32"])
def test_what_cancels_in_a_right_backward_pass_accuses_nobody(family, buffers):
    """Saturated attention, a shift before layer norm, two batch norms, a tiny l1 term, a nilpotent matrix."""
    for seed in SEEDS:
        report = checked(*drawn(family, seed, buffers), buffers)
        assert report.method == "reference"
        assert all(comparison.verdict <= INCONCLUSIVE for comparison in report.parameters.values())


@families
@pytest.mark.parametrize("buffers", [None, "float32"])
def test_the_doubled_twin_is_seen_wherever_rounding_leaves_a_gradient(family, buffers):
    """Nothing that is called GOOD is off by more than the check says that it would have seen."""
    seen = 0
    for seed in SEEDS:
        graph, loss = drawn(family, seed, buffers)
        for name in graph.params:
            comparison = checked(graph, loss, buffers, 2.0, name).parameters[name]
            assert comparison.verdict is not GOOD or comparison.sensitivity >= 0.9
            seen += comparison.verdict is WORRY
    assert seen >= 4 or family == "nilpotent"  # whose gradient is zero


def fitted(gap):
    """A softmax that is sure of the right answers: what is left of its gradient is ``1 - probability``."""
    labels, X = np.array([0, 1, 1, 0]), np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.2], [1.5, 0.2]])

    def loss(p):
        z = X @ p["W"] + p["b"]
        z = z - z.max(axis=1, keepdims=True)
        return -np.mean((z - np.log(np.exp(z).sum(axis=1, keepdims=True)))[np.arange(4), labels])

    def gradient(p, factor=1.0):
        z = X.astype(p["W"].dtype) @ p["W"] + p["b"]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        d = e / e.sum(axis=1, keepdims=True)
        d[np.arange(4), labels] -= 1
        return {"W": np.asarray(factor * X.T.astype(d.dtype) @ d / 4, d.dtype), "b": d.sum(axis=0) / 4}

    return loss, {"W": gap * np.eye(2), "b": np.zeros(2)}, gradient


@pytest.mark.parametrize("gap", [34.0, 36.0, 60.0])
def test_a_perfectly_fitted_softmax_is_no_alarm_and_no_question(gap):
    """Its gradient is rounding: GOOD, with a sensitivity that says that nothing relative could be seen."""
    loss, params, gradient = fitted(gap)
    report = check_gradients(loss, params, gradient)
    assert report.verdict is GOOD
    assert all(c.sensitivity > 1 for c in report.parameters.values() if c.reason is Reason.NO_GRADIENT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fitted_softmax_whose_backward_forgets_the_labels_is_seen(dtype):
    """What does not cancel is as large as what cancels should be."""
    loss, params, gradient = fitted(30.0)
    params = {name: array.astype(dtype) for name, array in params.items()}
    grads = gradient(params)
    grads["W"] = grads["W"] + np.array([[0.6, 0.0], [0.1, 0.6]], dtype)
    report = check_gradients(loss, params, grads)
    assert report.parameters["W"].verdict is WORRY
    assert report.parameters["b"].verdict is GOOD


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_half_fitted_softmax_is_judged_by_what_rounding_leaves(factor):
    loss, params, gradient = fitted(12.0)
    report = check_gradients(loss, params, lambda p: gradient(p, factor))
    assert report.parameters["W"].verdict is (GOOD if factor == 1 else WORRY)


X = np.array([[1.0, 2.0], [0.0, 0.0], [0.5, -1.5]])
KINKED = {"W": np.array([[0.3, -0.4], [0.7, 0.3]]), "b": np.zeros(2), "v": np.array([1.5, -0.8])}


def kinked_loss(p):
    """Compute a ReLU network whose second sample is empty: pre-activations that are exactly zero."""
    return np.sum((np.maximum(X @ p["W"] + p["b"], 0) @ p["v"] - 1) ** 2)


def kinked_gradient(p, at_zero=0.0, factor=1.0):
    z = X @ p["W"] + p["b"]
    active = np.where(z == 0, at_zero, z > 0)
    rest = 2 * (np.maximum(z, 0) @ p["v"] - 1)
    delta = np.outer(rest, p["v"]) * active
    return {"W": factor * X.T @ delta, "b": delta.sum(axis=0), "v": np.maximum(z, 0).T @ rest}


@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("is_function", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_side_of_a_kink_and_its_middle_are_right(at_zero, is_function, dtype):
    params = {name: array.astype(dtype) for name, array in KINKED.items()}
    grads = {name: np.asarray(g, dtype) for name, g in kinked_gradient(params, at_zero).items()}
    report = check_gradients(kinked_loss, params, (lambda p: kinked_gradient(p, at_zero)) if is_function else grads)
    assert report.verdict is GOOD


@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("is_function", [True, False])
def test_a_kink_excuses_no_doubled_gradient(at_zero, is_function):
    def gradient(p):
        return kinked_gradient(p, at_zero, 2.0)

    report = check_gradients(kinked_loss, KINKED, gradient if is_function else gradient(KINKED))
    assert report.parameters["W"].verdict is WORRY
    assert report.parameters["v"].verdict is GOOD


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_loss_that_explodes_elsewhere_hides_no_factor(factor):
    """A Poisson regression: nothing is asked at points where its rates are 1e100."""
    rng = np.random.default_rng(0)
    A, w = np.c_[np.ones(50), np.abs(rng.normal(size=(50, 4))) * 8], np.array([-0.5, -1, -1.2, -0.8, -1.5])
    y = rng.poisson(np.exp(A @ w))

    def loss(p):
        return np.mean(np.exp(A @ p["w"]) - y * (A @ p["w"]))

    report = check_gradients(loss, {"w": w}, lambda p: {"w": factor * A.T @ (np.exp(A @ p["w"]) - y) / 50})
    assert report.verdict is (GOOD if factor == 1 else WORRY)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_bias_that_has_hardly_moved_is_judged_like_any_other(factor):
    rng = np.random.default_rng(1)
    A, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    params = {"w": rng.normal(size=3), "b": np.full(1, 1e-9)}

    def gradient(p):
        rest = A @ p["w"] + p["b"] - y
        return {"w": A.T @ rest / 10, "b": factor * np.array([np.sum(rest) / 10])}

    report = check_gradients(lambda p: np.mean((A @ p["w"] + p["b"] - y) ** 2), params, gradient)
    assert report.parameters["b"].verdict is (GOOD if factor == 1 else WORRY)


@pytest.mark.parametrize("factor", [1.0, 0.125])
def test_no_kink_is_told_of_a_smooth_network_in_float32(factor):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 5)).astype(np.float32)
    params = {"W": rng.normal(size=(5, 4)).astype(np.float32), "v": rng.normal(size=4).astype(np.float32)}
    h = np.tanh(x @ params["W"])
    rest = 2 * (h @ params["v"] - 1)
    grads = {"W": np.float32(factor) * x.T @ (np.outer(rest, params["v"]) * (1 - h**2)), "v": h.T @ rest}
    report = check_gradients(
        lambda: np.sum((np.tanh(x @ params["W"]) @ params["v"] - 1) ** 2), params, grads, in_place=True
    )
    assert report.parameters["W"].verdict is (GOOD if factor == 1 else WORRY)
    assert all("kink" not in comparison.note for comparison in report.parameters.values())


@pytest.mark.parametrize(("at_b", "verdict"), [(0.0, GOOD), (1e-9, WORRY)])
def test_a_gradient_that_vanishes_says_what_it_has_not_excluded(at_b, verdict):
    """A bias in front of a variance: its gradient is zero, and backprop's what rounding leaves of it."""
    rng = np.random.default_rng(3)
    A = rng.normal(size=(8, 3))
    params = {"w": rng.normal(size=3), "b": np.ones(1)}

    def gradient(p):
        z = A @ p["w"] + p["b"]
        d = 2 * (z - z.mean()) / len(z)
        return {"w": A.T @ d, "b": np.array([d.sum() + at_b])}

    report = check_gradients(lambda p: np.var(A @ p["w"] + p["b"]), params, gradient)
    comparison = report.parameters["b"]
    assert comparison.verdict is verdict
    assert verdict is WORRY or comparison.sensitivity > 1 or math.isinf(comparison.sensitivity)


@pytest.mark.parametrize("as_function", [True, False])
def test_a_part_that_is_lost_in_the_rounding_of_a_float32_loss_is_judged(as_function):
    """Its slope cannot be seen in float32, but the code of the loss has one in float64."""
    single = np.float32

    def loss(p):
        whole = np.sum(np.asarray(p["w"], single) ** 2)
        return whole + single(1e-6) * np.sum(np.sin(np.asarray(p["u"], single)))

    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=30), "u": rng.normal(size=30)}
    for factor, expected in ((1, Verdict.GOOD), (2, Verdict.WORRY)):

        def gradient(p, factor=factor):
            small = single(1e-6) * np.cos(np.asarray(p["u"], single))
            return {"w": 2 * np.asarray(p["w"], single), "u": factor * small}

        report = check_gradients(loss, params, gradient if as_function else gradient(params))
        assert report.method == "reference"
        assert report.parameters["w"].verdict is Verdict.GOOD
        assert report.parameters["u"].verdict is expected


@pytest.mark.parametrize("single", [True, False])
def test_a_kink_in_some_entries_excuses_no_others(single):
    """Half of the entries stand on a kink; what is wrong in the others is no side of it."""
    rng = np.random.default_rng(2)
    x, weights = np.maximum(rng.normal(size=200), 0), rng.normal(size=200)

    def loss(p):
        active = np.maximum(p, 0)
        return np.sum(weights * (active.astype(np.float32) if single else active))

    right = weights * (x > 0)
    assert check_gradients(loss, x, right).verdict is Verdict.GOOD
    assert check_gradients(loss, x, weights * (x >= 0)).verdict <= Verdict.INCONCLUSIVE
    assert check_gradients(loss, x, 2 * right).verdict is Verdict.WORRY


@pytest.mark.parametrize("factor", [1, 2])
def test_a_reference_is_confirmed_beside_the_kinks_that_all_samples_share(factor):
    """Biases of zero and rows of zeros: wherever the check looks it stands on kinks, but a hair away it does not."""
    network = random_network(np.random.default_rng(100_146), 100_146)
    assert network.stands_on_kink
    assert not np.any(network.params["dense1.b"])

    def gradient():
        grads = network.gradient(network.params)
        return grads | {"dense1.b": factor * grads["dense1.b"]}

    report = check_gradients(lambda: network.loss(network.params), network.params, gradient, in_place=True)
    assert report.method == "reference"
    assert report.parameters["dense1.b"].verdict is (GOOD if factor == 1 else WORRY)
    assert report.parameters["dense1.W"].verdict is GOOD


@pytest.mark.parametrize(("size", "factor", "worst"), [(1e10, 1, INCONCLUSIVE), (1e3, 1, GOOD), (1e3, 2, WORRY)])
def test_what_leaves_the_range_of_float32_accuses_nobody(size, factor, worst):
    """The textbook's derivative of z / (1 + z^2) divides by 1e40 where z is 1e10: float32 has no such number."""
    rng = np.random.default_rng(0)
    x, w = (size * rng.uniform(1, 2, 8)).astype(np.float32), rng.uniform(1, 2, 8).astype(np.float32)

    def loss(p):
        z = x.astype(float) * p["w"]
        return np.sum(z / (1 + z**2))

    with np.errstate(all="ignore"):
        z = x * w
        grads = {"w": factor * x * (1 - z**2) / (1 + z**2) ** 2}
    assert size < 1e10 or not np.any(grads["w"])
    verdict = check_gradients(loss, {"w": w}, grads).verdict
    assert verdict is worst or (verdict <= INCONCLUSIVE and worst is INCONCLUSIVE)


def test_sums_that_overflow_in_float32_accuse_nobody():
    """The variance of numbers of 1e20 is infinite there, and what it divides is zero."""
    rng = np.random.default_rng(0)
    h, t = 1e20 * rng.normal(size=(4, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)

    def normed(h):
        centred = h - h.mean(axis=1, keepdims=True)
        return centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True))

    def loss(p):
        return np.sum(t.astype(float) * p["g"] * normed(h.astype(float) * p["a"]))

    with np.errstate(all="ignore"):
        grads = {"g": np.sum(t * normed(h), axis=0), "a": np.zeros(5, np.float32)}
    params = {name: np.ones(5, np.float32) for name in grads}
    assert check_gradients(loss, params, grads).verdict <= INCONCLUSIVE


@pytest.mark.parametrize("is_function", [True, False])
@pytest.mark.parametrize("factor", [1, 2])
def test_the_first_of_many_equal_numbers_is_the_largest(is_function, factor):
    """All entries of a row are equal, in more ways than a look to both sides of a kink could show."""
    rng = np.random.default_rng(0)
    X, t, A = rng.normal(size=(6, 3)), rng.normal(size=(6, 1)), np.zeros((3, 5))

    def gradient(p):
        h, d = X @ p, np.zeros((6, 5))
        d[np.arange(6), np.argmax(h, axis=1)] = t[:, 0]
        return factor * X.T @ (d + 0.1)

    report = check_gradients(
        lambda p: np.sum(t * np.max(X @ p, axis=1, keepdims=True)) + 0.1 * np.sum(X @ p),
        A,
        gradient if is_function else gradient(A),
    )
    assert report.verdict is (GOOD if factor == 1 else WORRY)


@pytest.mark.parametrize("seed", range(40, 60))
def test_an_order_that_float32_cannot_tell_accuses_nobody(seed):
    """What is sorted differs by less than float32 has digits: its order there is another one."""
    rng = np.random.default_rng(seed)
    w, t = rng.normal(size=2).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)

    def pairs(p):
        return np.sqrt(1 + (np.float32(4e-4) * np.stack([p, 0.5 * p[::-1]], axis=1)) ** 2)

    h, d = pairs(w), np.zeros_like(t)
    np.put_along_axis(d, np.argsort(h, axis=1, kind="stable"), t, axis=1)
    shares = np.float32(4e-4) ** 2 * d / h
    grads = (shares[:, 0] + shares[::-1, 1] / 4) * w
    assert grads.dtype == np.float32
    for factor in (1, 300):
        report = check_gradients(lambda p: np.sum(t * np.sort(pairs(p), axis=1)), w, factor * grads)
        assert (report.verdict <= INCONCLUSIVE) is (factor == 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_that_changes_faster_than_any_step_is_no_alarm(dtype):
    """Central differences of sin(1e11) see a loss that is flat; its slope is 1e11."""
    rng = np.random.default_rng(1)
    x, w = (1e11 * rng.normal(size=20)).astype(dtype), rng.normal(size=20).astype(dtype)
    z = np.sin(x * w)
    grads = 2 * (z - z.mean()) / dtype(20) * np.cos(x * w) * x
    report = check_gradients(lambda p: np.var(np.sin(x.astype(float) * p)), w, grads)
    assert report.method == "reference"
    assert report.verdict <= INCONCLUSIVE


@pytest.mark.parametrize("factor", [1, 2])
def test_a_loss_that_is_rougher_than_its_value_contradicts_no_reference(factor):
    """The variance of numbers near one moves in jumps, beside a norm that has trained its parameter to 1e-14."""
    x = np.array([5.3, -1.0, 2.0])

    def loss(p):
        return np.var((1 - x * p) ** 2) + 1e-9 * np.sqrt(np.sum(p**2))

    def gradient(p):
        z = (1 - x * p) ** 2
        return factor * (-4 / 3 * (z - z.mean()) * (1 - x * p) * x + 1e-9 * p / np.sqrt(np.sum(p**2)))

    report = check_gradients(loss, np.array([3.5e-14, 3.6e-14, 5.6e-14]), gradient)
    assert report.method == "reference"
    assert report.verdict is (GOOD if factor == 1 else WORRY)


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_noises_of_one_size_do_not_cancel_in_half_of_the_samples(factor):
    """Attention that is saturated until its gradient is 1e-12 of the whole has lost digits that the reference has."""
    graph = FAMILIES["random"](530_204)

    def gradient(params):
        grads = graph.gradient(params)
        return grads | {"attention2_q": factor * grads["attention2_q"]}

    found = check_gradients(graph.loss, graph.params, gradient, seed=530_204).parameters
    assert (found["attention2_q"].verdict <= INCONCLUSIVE) is (factor == 1)
    assert found["attention2_k"].verdict <= INCONCLUSIVE
