"""What checkers with a fixed step accuse although it is right: each comes out good, or says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks import NondeterministicLoss, Verdict, central, check_gradients, entries, joint, nn, per_parameter
from hunts import seeds
from zoo import network, trained

RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal((12, 2))
everywhere = pytest.mark.parametrize("probes", [None, entries, per_parameter, joint])
methods = pytest.mark.parametrize("method", [None, central])


def verdicts(report):
    return {name: comparison.verdict for name, comparison in report.parameters.items()}


@everywhere
@methods
def test_1_a_bias_in_front_of_batch_norm(method, probes):
    """Its true gradient is zero: both sides are rounding noise, and their ratio is anything."""
    params = {"W": RNG.standard_normal((3, 4)), "b": RNG.standard_normal(4), "V": RNG.standard_normal((4, 2))}

    def forward(p):
        z = X @ p["W"] + p["b"]
        away = z - z.mean(axis=0)
        spread = np.sqrt((away * away).mean(axis=0) + 1e-5)
        return away / spread, spread

    def loss(p):
        rest = forward(p)[0] @ p["V"] - Y
        return 0.5 * np.sum(rest * rest) / len(X)

    def backward(p):
        h, spread = forward(p)
        upstream = (h @ p["V"] - Y) / len(X)
        dh = upstream @ p["V"].T
        dz = (dh - dh.mean(axis=0) - h * (dh * h).mean(axis=0)) / spread
        return {"W": X.T @ dz, "b": dz.sum(axis=0), "V": h.T @ upstream}

    assert check_gradients(loss, params, backward, method=method, probes=probes).ok


@everywhere
@methods
def test_2_a_pre_activation_that_is_exactly_zero(method, probes):
    """Dropped inputs and zero biases: a kink at the point itself."""
    net = network(1, "relu")
    net.inputs[:2] = 0.0
    params = {name: 0 * array if name.startswith("b") else array for name, array in net.params.items()}
    report = check_gradients(net.loss, params, net.backward, method=method, probes=probes)
    assert report.verdict <= Verdict.INCONCLUSIVE
    assert "kink" in str(report) or report.ok


@everywhere
@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-8])
@methods
def test_3_a_kink_inside_the_step(method, distance, probes):
    """One unit that almost switches spoils a whole parameter for a fixed step."""
    net = network(2, "relu")
    net.params["b1"] -= (net.inputs @ net.params["W1"] + net.params["b1"])[0] - distance
    assert check_gradients(net.loss, net.params, net.backward, method=method, probes=probes).verdict < 2


@everywhere
@methods
def test_4_float32_parameters_and_hidden_float32(method, probes):
    """Arrays in float32 are judged in float64 where the function is at hand; a loss that rounds inside, as far as it
    goes."""
    net = network(3, dtype=np.float32)
    assert check_gradients(net.loss, net.params, net.backward, method=method, probes=probes).ok

    def rounded(p):
        return net.loss({name: array.astype(np.float32) for name, array in p.items()})

    assert check_gradients(rounded, net.params, net.backward, method=method, probes=probes).verdict < 2


def test_5_dropout_that_is_on():
    """It is no wrong gradient, and is not called one."""
    model = nn.Sequential([nn.Dense(3, 8), nn.Dropout(0.5), nn.Dense(8, 2)])
    generator = np.random.default_rng(0)

    def loss(p):
        state = np.random.default_rng(generator.integers(100)).bit_generator.state
        return nn.Objective(model, nn.MeanSquaredError()).data_loss(p, (X, Y), state)

    with pytest.raises(NondeterministicLoss, match="dropout"):
        check_gradients(loss, model.params, model.grads)


def dropped(rate, where, rng):
    """A linear model or a network with one hidden layer, dropout left on where weights are zero; a right gradient."""
    inputs, targets = rng.normal(size=(16, 3)), rng.normal(size=16)
    hidden, masks = rng.normal(size=(3, 5)), np.random.default_rng(rng.integers(1000))
    features = inputs if where == "inputs" else np.tanh(inputs @ hidden)
    kept = []

    def loss(p):
        kept[:] = [features * (masks.random(features.shape) >= rate) / (1 - rate)]
        return 0.5 * np.mean((kept[0] @ p["w"] + p["b"] - targets) ** 2)

    def backward(p):
        loss(p)
        rest = (kept[0] @ p["w"] + p["b"] - targets) / len(targets)
        return {"w": kept[0].T @ rest, "b": rest.sum()}

    return loss, {"w": np.zeros(features.shape[1]), "b": 0.0}, backward


@everywhere
@methods
@pytest.mark.parametrize("where", ["inputs", "hidden"])
@seeds(2, 10)
def test_5_dropout_in_front_of_weights_that_are_zero(where, method, probes, seeds):
    """At the point the loss repeats itself whatever the mask; asked away from it, it does not, and is told why."""
    for seed in seeds:
        options = {"method": method, "probes": probes, "seed": seed}
        loss, params, backward = dropped(0.2, where, np.random.default_rng(seed))
        with pytest.raises(NondeterministicLoss, match=r"away from those .* It draws from masks.*dropout"):
            check_gradients(loss, params, backward(params), **options)
        loss, params, backward = dropped(0.0, where, np.random.default_rng(seed))
        assert check_gradients(loss, params, backward(params), **options).ok


@everywhere
@methods
def test_6_weight_decay_that_lives_in_the_optimiser(method, probes):
    """Loss and gradient both know nothing of it, and agree."""
    net = network(4, strength=0.0)
    assert check_gradients(net.data_loss, net.params, net.backward, method=method, probes=probes).ok


@everywhere
@methods
def test_7_tied_weights(method, probes):
    """One array that is used twice is one parameter, whose gradient is the sum."""
    params = {"W": RNG.standard_normal((3, 3)), "b": RNG.standard_normal(3)}

    def loss(p):
        return 0.5 * np.sum((np.tanh(X @ p["W"] + p["b"]) @ p["W"].T) ** 2) / len(X)

    def backward(p):
        h = np.tanh(X @ p["W"] + p["b"])
        upstream = h @ p["W"].T / len(X)
        dz = upstream @ p["W"] * (1 - h * h)
        return {"W": X.T @ dz + upstream.T @ h, "b": dz.sum(axis=0)}

    assert check_gradients(loss, params, backward, method=method, probes=probes).ok


@everywhere
@methods
def test_8_saturation(method, probes):
    """log(0) replaced by a huge number: the loss is flat where backprop has a slope, and nothing is certain there."""
    params = {"w": np.array([30.0, 25.0, 20.0])}
    labels = np.array([0.0] * 6 + [1.0] * 6)
    inputs = np.abs(X) + 1

    def loss(p):
        q = 1 / (1 + np.exp(-(inputs @ p["w"])))
        with np.errstate(divide="ignore"):
            return -np.mean(labels * np.nan_to_num(np.log(q)) + (1 - labels) * np.nan_to_num(np.log(1 - q)))

    def backward(p):
        return {"w": inputs.T @ (1 / (1 + np.exp(-(inputs @ p["w"]))) - labels) / len(labels)}

    assert check_gradients(loss, params, backward, method=method, probes=probes).verdict <= Verdict.INCONCLUSIVE


@everywhere
@methods
@pytest.mark.parametrize("take", ["pool", "absolute"])
def test_9_ties_of_max_pooling_and_the_absolute_value_at_zero(take, method, probes):
    """Any of the slopes there is right."""
    w = {"w": np.array([1.0, 1.0, -2.0, 0.5, 0.0, 3.0])}

    def loss(p):
        pairs = p["w"].reshape(3, 2)
        if take == "absolute":
            return np.sum(np.where(p["w"].real >= 0, p["w"], -p["w"]) * np.arange(1, 7))
        return np.sum(np.max(pairs, axis=1) ** 2)

    def backward(p):
        pairs = p["w"].reshape(3, 2)
        if take == "absolute":
            return {"w": np.where(p["w"] > 0, 1.0, -1.0) * np.arange(1, 7)}
        winners = pairs == pairs.max(axis=1, keepdims=True)
        winners[:, 1] &= ~winners[:, 0]
        return {"w": (2 * pairs * winners).reshape(-1)}

    assert check_gradients(loss, w, backward, method=method, probes=probes).verdict <= Verdict.INCONCLUSIVE


@everywhere
@methods
def test_a_well_fitted_network(method, probes):
    """Its gradient is the small rest of large terms."""
    net = trained(network(5, "tanh"), below=1e-6)
    assert check_gradients(net.loss, net.params, net.backward, method=method, probes=probes).verdict < 2
