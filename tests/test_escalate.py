"""Making sure: three depths, what they cost, what they miss, and what is opened on suspicion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gc_hooks import Basis, Verdict, central, check_gradients, complex_step, entries, joint, nn, per_parameter
from hunts import seeds, some

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
DEPTHS = [entries, per_parameter, joint, None]
depths = pytest.mark.parametrize("depth", DEPTHS, ids=["entries", "per_parameter", "joint", "default"])


class Net:
    """A small network: its loss and gradient as functions of the parameters, on a fixed batch."""

    def __init__(self, sizes, activation=nn.Tanh, seed=0, samples=16):
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Dense(a, b), activation())]
        model, rng = nn.Sequential(layers[:-1], seed=seed), np.random.default_rng(seed)
        self.params = model.params
        batch = rng.standard_normal((samples, sizes[0])), rng.integers(0, sizes[-1], samples)
        objective = nn.Objective(model, nn.SoftmaxCrossEntropy())
        self.loss = lambda params: objective.data_loss(params, batch)
        self.grads = objective.gradient(model.params, batch)


def planted(grads, name, change):
    """The gradients with one of them changed."""
    return {**grads, name: change(grads[name].copy())}


@depths
@pytest.mark.parametrize("method", [None, central])
@pytest.mark.parametrize("activation", some([nn.ReLU, nn.Tanh, nn.Sigmoid], [nn.ReLU]))
@seeds(1, 4)
def test_every_depth_passes_what_is_right_and_finds_what_is_wrong(depth, method, activation, seeds):
    """The wrong parameter is named, and only that one; the correct twin is good."""
    for seed in seeds:
        net = Net([6, 12, 9, 4], activation, seed)
        clean = check_gradients(net.loss, net.params, net.grads, probes=depth, method=method, seed=seed)
        assert clean.verdict <= INCONCLUSIVE
        assert method is central or clean.ok
        wrong = planted(net.grads, "dense2.W", lambda g: 1.01 * g)
        report = check_gradients(net.loss, net.params, wrong, probes=depth, method=method, seed=seed)
        assert [c.name for c in report.parameters.values() if c.verdict > INCONCLUSIVE] == ["dense2.W"]


@pytest.mark.parametrize("sizes", [[6, 5, 3], [20, 30, 10], [64, 128, 64, 10], [300, 256, 64, 10]])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_passing_check_costs_a_handful_of_evaluations_whatever_the_size(sizes, activation):
    """At most 10 for a joint one, 40 for one direction in each parameter, 25 for a joint one of a real-only loss."""
    net = Net(sizes, activation)
    for depth, method, limit in ((joint, None, 10), (per_parameter, None, 40), (joint, central, 25)):
        report = check_gradients(net.loss, net.params, net.grads, probes=depth, method=method)
        assert report.ok
        assert report.evaluations <= limit


@pytest.mark.parametrize(
    ("depth", "basis"), [(entries, Basis.EXACT), (per_parameter, Basis.ESTIMATED), (joint, Basis.BOUNDED)]
)
def test_the_report_tells_on_what_a_difference_rests(depth, basis):
    """Exact, estimated from directions within the parameter, or bounded by one through all."""
    net = Net([10, 20, 5])
    report = check_gradients(net.loss, net.params, net.grads, probes=depth)
    assert {c.basis for c in report.parameters.values()} == {basis}
    assert {c.exact for c in report.parameters.values()} == {basis is Basis.EXACT}
    again = type(report).from_json(report.to_json())
    assert {c.basis for c in again.parameters.values()} == {basis}


def shapes(grad, size, rng):
    """Errors of a given norm: dense, in one entry, equal in two, and two entries moved against each other."""
    flat = [np.zeros(grad.size) for _ in range(4)]
    flat[0] = rng.standard_normal(grad.size)
    flat[1][rng.integers(grad.size)] = 1.0
    first, second = rng.choice(grad.size, 2, replace=False)
    flat[2][[first, second]] = 1.0
    flat[3][first], flat[3][second] = 1.0, -1.0
    return [(size / np.linalg.norm(error) * error).reshape(grad.shape) for error in flat]


@depths
@seeds(1, 12)
def test_an_error_of_the_stated_sensitivity_is_seen(depth, seeds):
    """Planted on a copy of the gradient in four shapes, it is not called good in at least 99 of 100 cases."""
    missed = cases = 0
    for seed in seeds:
        net, rng = Net([7, 11, 4], [nn.ReLU, nn.Tanh, nn.Sigmoid][seed % 3], seed), np.random.default_rng(seed)
        clean = check_gradients(net.loss, net.params, net.grads, probes=depth, seed=seed)
        for name, grad in net.grads.items():
            sensitivity = clean.parameters[name].sensitivity
            assert sensitivity < 1e-5
            for error in shapes(grad, 1.05 * sensitivity * np.linalg.norm(grad), rng):
                wrong = planted(net.grads, name, lambda g, error=error: g + error)
                report = check_gradients(net.loss, net.params, wrong, probes=depth, seed=1000 + seed)
                missed += report.parameters[name].verdict is GOOD
                cases += 1
    assert missed <= 0.01 * cases + 1


@depths
def test_an_error_far_below_the_band_is_good(depth):
    """What lies below 1e-7 is good by definition."""
    net = Net([7, 11, 4])
    wrong = planted(net.grads, "dense1.W", lambda g: (1 + 1e-9) * g)
    assert check_gradients(net.loss, net.params, wrong, probes=depth).ok


@depths
def test_a_gradient_that_is_lost_altogether_is_found(depth):
    """Buffers that are all zero, or those of one parameter, are no structural zeros."""
    net = Net([6, 12, 4])
    zeros = {name: np.zeros_like(grad) for name, grad in net.grads.items()}
    assert {c.verdict for c in check_gradients(net.loss, net.params, zeros, probes=depth).parameters.values()} == {
        WORRY
    }
    report = check_gradients(net.loss, net.params, {**net.grads, "dense1.b": zeros["dense1.b"]}, probes=depth)
    assert [c.name for c in report.parameters.values() if c.verdict is not GOOD] == ["dense1.b"]


@depths
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_a_small_gradient_beside_a_large_one_is_not_lost(depth, size):
    """A parameter that moves the loss a million times less is judged by its own gradient."""
    point = {"loud": np.linspace(1, 2, 100), "quiet": np.linspace(1, 2, 100)}

    def loss(p):
        return np.sum(np.sin(p["loud"])) + size * np.sum(np.sin(p["quiet"]))

    grads = {"loud": np.cos(point["loud"]), "quiet": size * np.cos(point["quiet"])}
    assert check_gradients(loss, point, grads, probes=depth).ok
    report = check_gradients(loss, point, planted(grads, "quiet", lambda g: 2 * g), probes=depth)
    assert (report.parameters["loud"].verdict, report.parameters["quiet"].verdict) == (GOOD, WORRY)


@pytest.mark.parametrize(("method", "limit"), [(complex_step, 75), pytest.param(central, 150, marks=pytest.mark.slow)])
def test_a_wrong_entry_among_two_hundred_thousand_is_found(method, limit):
    """It is named with its index and both slopes, within so many evaluations beyond the passing check's."""
    net = Net([500, 400, 10], samples=4)
    clean = check_gradients(net.loss, net.params, net.grads, method=method)
    typical = np.sqrt(np.mean(net.grads["dense1.W"] ** 2))
    wrong = planted(net.grads, "dense1.W", lambda g: g)
    wrong["dense1.W"][123, 45] += typical
    report = check_gradients(net.loss, net.params, wrong, method=method)
    opened = report.parameters["dense1.W"]
    assert report.evaluations - clean.evaluations <= limit
    assert (opened.wrong, opened.worst[0].index) == (1, (123, 45))
    assert opened.worst[0].backprop - opened.worst[0].measured == pytest.approx(typical, rel=1e-6)


def test_ten_wrong_entries_among_two_hundred_thousand_are_accused_though_not_found():
    """A sample meets none of them; the directions accuse the matrix, and cost no search."""
    net = Net([500, 400, 10], samples=4)
    indices = np.random.default_rng(10).choice(200_000, 10, replace=False)
    wrong = planted(net.grads, "dense1.W", lambda g: g)
    wrong["dense1.W"].flat[indices] += np.sqrt(np.mean(net.grads["dense1.W"] ** 2))
    report = check_gradients(net.loss, net.params, wrong, method=complex_step)
    assert [c.name for c in report.parameters.values() if c.verdict is not GOOD] == ["dense1.W"]
    assert report.verdict is WORRY
    assert report.evaluations <= 100


def test_an_error_all_over_is_sampled_and_not_searched():
    """A doubled matrix needs no list of all its entries: the sample shows it."""
    net = Net([100, 100, 5])
    report = check_gradients(
        net.loss, net.params, planted(net.grads, "dense1.W", lambda g: 2 * g), probes=per_parameter
    )
    assert report.parameters["dense1.W"].wrong >= 3
    assert report.parameters["dense1.W"].measured < 50
    assert report.parameters["dense1.W"].difference == pytest.approx(1 / 3, abs=0.2)


@pytest.mark.parametrize("limit", [3, 5, 8, 12, 20, 40, 80])
@depths
def test_a_budget_is_kept_and_nothing_unseen_is_good_or_wrong(depth, limit):
    """Not one evaluation more; a doubled bias is never good, and a right one never accused."""
    net = Net([6, 12, 4])
    report = check_gradients(net.loss, net.params, net.grads, probes=depth, max_evaluations=limit)
    assert report.evaluations <= limit
    assert report.verdict <= INCONCLUSIVE
    wrong = planted(net.grads, "dense2.b", lambda g: 2 * g)
    report = check_gradients(net.loss, net.params, wrong, probes=depth, max_evaluations=limit)
    assert report.evaluations <= limit
    assert report.parameters["dense2.b"].verdict is not GOOD
    assert report.parameters["dense1.W"].verdict <= INCONCLUSIVE


def straight(p):
    return float(np.sum(p["w"] ** 2) + p["b"])


HERE, GRADS = {"w": np.array([1.0, 2.0]), "b": 3.0}, {"w": np.array([2.0, 4.0]), "b": 1.0}


@depths
@pytest.mark.parametrize("loss", [lambda p: straight(HERE), lambda p: 2.0])
def test_a_loss_that_does_not_read_its_parameters_is_told(loss, depth):
    """The same bits at every point, with every parameter changed, and a gradient: the loss is doubted aloud."""
    report = check_gradients(loss, HERE, GRADS, probes=depth)
    assert report.verdict is INCONCLUSIVE
    assert "to the last bit wherever every parameter was changed" in report.notes[-1]
    assert "Try loss=lambda p: ... that uses p, or in_place=True" in report.notes[-1]


def test_a_loss_that_reads_copies_of_the_arrays_is_told():
    """In place there is no argument to forget, but the arrays may be others."""
    arrays, copies = {"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, 2.0])}
    options = {"params": arrays, "grads": {"w": 2 * arrays["w"]}, "in_place": True}
    assert "the arrays that the loss reads" in check_gradients(lambda: np.sum(copies["w"] ** 2), **options).notes[-1]
    assert check_gradients(lambda: np.sum(arrays["w"] ** 2), **options).notes == ()


@pytest.mark.parametrize(
    "loss", [straight, lambda p: 1e-9 * straight(p), lambda p: float(p["b"]), lambda p: np.round(straight(p))]
)
def test_a_loss_that_changes_at_all_is_not_doubted(loss):
    """A gradient that is wrong, a parameter that is unused and a loss that changes by leaps are other matters."""
    assert "last bit" not in str(check_gradients(loss, HERE, {"w": np.array([7.0, 4.0]), "b": 1.0}).notes)


def test_a_loss_that_is_flat_where_backprop_says_so_stays_good():
    """A dead network has no gradient; nor is it doubted where it could not be asked any further away."""
    assert check_gradients(lambda p: 2.0, HERE, {"w": np.zeros(2), "b": 0.0}).ok

    def dead(p):
        if abs(p["b"] - 3.0) >= 0.1:
            raise ValueError("outside of its domain")
        return 2.0

    report = check_gradients(dead, HERE, GRADS, method=central)
    assert report.verdict is INCONCLUSIVE
    assert "last bit" not in str(report.notes)


def doubled_matrix(factor=2.0):
    """A network in place whose first matrix (96 entries) has a gradient that is this many times too large."""
    draw = np.random.default_rng(0).normal
    x, y = draw(size=(16, 8)), draw(size=(16, 3))
    p = {"W": 0.5 * draw(size=(8, 12)), "b": 0.1 * draw(size=12), "V": 0.5 * draw(size=(12, 3))}
    hidden = np.tanh(x @ p["W"] + p["b"])
    rest = (hidden @ p["V"] - y) / y.size
    delta = rest @ p["V"].T * (1 - hidden**2)
    grads = {"W": factor * x.T @ delta, "b": delta.sum(0), "V": hidden.T @ rest}
    return (lambda: 0.5 * np.mean((np.tanh(x @ p["W"] + p["b"]) @ p["V"] - y) ** 2)), p, grads


@depths
def test_a_budget_that_ends_in_the_search_leaves_the_accusation(depth):
    """What has passed the second thoughts stands; what is cut short is the search for the wrong entries."""
    options = {"in_place": True, "probes": depth, "method": central}
    whole = check_gradients(*doubled_matrix(), **options)
    if depth is not entries:  # where every entry is measured first, there is no search
        for limit in (200, 300, 500):
            report = check_gradients(*doubled_matrix(), max_evaluations=limit, **options)
            assert report.evaluations <= limit < whole.evaluations
            assert {name: c.verdict for name, c in report.parameters.items() if c.verdict > GOOD} == {"W": WORRY}
    assert check_gradients(*doubled_matrix(1.0), max_evaluations=300, **options).verdict <= INCONCLUSIVE


def many(count):
    """Many parameters of six entries each, of which ``l7`` has a doubled gradient; and the right gradients."""
    point = {f"l{k}": np.full((2, 3), 1 + k / count) for k in range(count)}
    return (lambda p: sum(np.vdot(w, w) for w in p.values()) / 2), point, {**point, "l7": 2 * point["l7"]}


@pytest.mark.parametrize(("count", "limit"), [(125, 200), (500, 250), (1000, 250)])
def test_one_wrong_gradient_among_many_does_not_open_them_all(count, limit):
    """Groups are halved to find it, and the others are bounded anew without it."""
    loss, point, grads = many(count)
    report = check_gradients(loss, point, grads, probes=joint)
    assert {name: c.verdict for name, c in report.parameters.items() if c.verdict > GOOD} == {"l7": WORRY}
    assert report.evaluations <= limit
    assert check_gradients(loss, point, point, probes=joint).ok


@pytest.mark.parametrize("method", [complex_step, central])
def test_several_wrong_gradients_among_many_are_told_apart(method):
    """Each is accused, and none beside them."""
    loss, point, _ = many(100)
    wrong = {"l3": WORRY, "l4": WORRY, "l50": WORRY, "l99": WORRY}
    grads = {name: (1.5 if name in wrong else 1.0) * value for name, value in point.items()}
    report = check_gradients(loss, point, grads, probes=joint, method=method)
    assert {name: c.verdict for name, c in report.parameters.items() if c.verdict > GOOD} == wrong


def test_each_parameter_is_looked_at_before_any_is_opened_the_worst_first():
    """With a budget for two or three of six wrong matrices, it goes to those that look worst, wherever they stand."""
    draw = np.random.default_rng(0).normal
    point = {f"W{k}": draw(size=(10, 10)) for k in range(6)}
    factors = {"W0": 1.01, "W1": 1.01, "W2": 1.01, "W3": 1.01, "W4": 3.0, "W5": 3.0}
    grads = {name: factors[name] * np.cos(value) for name, value in point.items()}

    def loss(p):
        return sum(np.sum(np.sin(w)) for w in p.values())

    report = check_gradients(loss, point, grads, probes=per_parameter, method=central, max_evaluations=280)
    accused = {name for name, c in report.parameters.items() if c.verdict > INCONCLUSIVE}
    assert {"W4", "W5"} <= accused < set(point)
    assert not any(c.measured for c in report.parameters.values())
    assert not any(c.verdict is GOOD for c in report.parameters.values())
