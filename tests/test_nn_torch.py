"""The layers of `nn` against PyTorch: outputs and all gradients, in float64, over shapes drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_hooks import nn

torch = pytest.importorskip("torch")
functional = torch.nn.functional
torch.set_num_threads(1)  # small arrays on a shared machine

CLOSE = 1e-10
SEEDS = st.integers(0, 2**32 - 1)
WINDOWS = st.tuples(st.integers(1, 4), st.integers(1, 4))
PADDINGS = st.tuples(st.integers(0, 3), st.integers(0, 3))
SIDES = st.tuples(st.integers(4, 9), st.integers(4, 9))


def tensor(array):
    """A leaf whose gradient PyTorch computes."""
    return torch.tensor(np.ascontiguousarray(array), requires_grad=True)


def filters(array):
    return array.permute(2, 3, 1, 0).numpy()


def last(result):
    """Channels last again."""
    return result.detach().permute(0, 2, 3, 1).numpy()


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=CLOSE, atol=CLOSE)


def both_ways(layer, inputs, generator, training=True):
    """Our outputs, a random upstream gradient and our gradients, at random parameters."""
    params = {**layer.init(generator, np.float64), **layer.init_state(np.float64)}
    params = {name: array + 0.5 * generator.random(array.shape) for name, array in params.items()}
    outputs, cache = layer.forward(params, inputs, nn.Context(training))
    upstream = generator.normal(size=outputs.shape)
    below, grads = layer.backward(params, cache, upstream)
    return params, outputs, upstream, below, grads, cache


@settings(max_examples=60)
@given(
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    SIDES,
    WINDOWS,
    WINDOWS,
    PADDINGS,
    SEEDS,
)
def test_convolution(samples, inputs, outputs, sides, size, stride, padding, seed):
    """Any window, stride and padding, an empty batch too."""
    generator = np.random.default_rng(seed)
    layer = nn.Conv2D(inputs, outputs, size, stride=stride, padding=padding)
    images = generator.normal(size=(samples, *sides, inputs))
    params, ours, upstream, below, grads, _ = both_ways(layer, images, generator)
    x, b = tensor(images.transpose(0, 3, 1, 2)), tensor(params["b"])
    W = tensor(params["W"].transpose(3, 2, 0, 1))
    theirs = functional.conv2d(x, W, b, stride=stride, padding=padding)
    theirs.backward(torch.tensor(upstream.transpose(0, 3, 1, 2)))
    close(ours, last(theirs))
    close(below, last(x.grad))
    close(grads["W"], filters(W.grad))
    close(grads["b"], b.grad.numpy())


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 4), SIDES, WINDOWS, WINDOWS, st.booleans(), SEEDS)
def test_pooling(samples, channels, sides, size, stride, ties, seed):
    """Overlapping windows, gaps, left-over edges; with many equal numbers, whose gradient goes to the first."""
    generator = np.random.default_rng(seed)
    shape = samples, *sides, channels
    images = generator.integers(0, 3, size=shape).astype(float) if ties else generator.normal(size=shape)
    pairs = ((nn.MaxPool2D, functional.max_pool2d), (nn.AveragePool2D, functional.avg_pool2d))
    for layer, function in pairs:
        _, ours, upstream, below, _, _ = both_ways(layer(size, stride=stride), images, generator)
        x = tensor(images.transpose(0, 3, 1, 2))
        theirs = function(x, size, stride=stride)
        theirs.backward(torch.tensor(upstream.transpose(0, 3, 1, 2)))
        close(ours, last(theirs))
        close(below, last(x.grad))


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(1, 4), st.none() | SIDES, st.booleans(), SEEDS)
def test_batch_norm(samples, features, sides, training, seed):
    """Dense and spatial, in both modes, with the running statistics after a step of training."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(2.0, 3.0, size=(samples, *(sides or ()), features))
    layer = nn.BatchNorm(features, momentum=0.3)
    params, ours, upstream, below, grads, cache = both_ways(layer, inputs, generator, training)
    module = torch.nn.BatchNorm1d(features, momentum=0.3, dtype=torch.float64).train(training)
    with torch.no_grad():
        for ours_, theirs_ in (
            ("gamma", "weight"),
            ("beta", "bias"),
            ("mean", "running_mean"),
            ("variance", "running_var"),
        ):
            getattr(module, theirs_).copy_(torch.tensor(params[ours_]))
    x = tensor(inputs)
    theirs = module(x.reshape(-1, features))
    theirs.backward(torch.tensor(upstream.reshape(-1, features)))
    close(ours, theirs.detach().numpy().reshape(ours.shape))
    close(below, x.grad.numpy())
    close(grads["gamma"], module.weight.grad.numpy())
    close(grads["beta"], module.bias.grad.numpy())
    state = {**params, **layer.observed(params, cache)}
    close(state["mean"], module.running_mean.numpy())
    close(state["variance"], module.running_var.numpy())


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 6), SEEDS)
def test_layer_norm(others, features, seed):
    """Over the last axis, whatever stands before it."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(*others, features))
    params, ours, upstream, below, grads, _ = both_ways(nn.LayerNorm(features), inputs, generator)
    x, gamma, beta = tensor(inputs), tensor(params["gamma"]), tensor(params["beta"])
    theirs = functional.layer_norm(x, (features,), gamma, beta)
    theirs.backward(torch.tensor(upstream))
    close(ours, theirs.detach().numpy())
    close(below, x.grad.numpy())
    close(grads["gamma"], gamma.grad.numpy())
    close(grads["beta"], beta.grad.numpy())


ACTIVATIONS = {
    "gelu": (nn.GELU(), functional.gelu),
    "tanh gelu": (nn.TanhGELU(), lambda x: functional.gelu(x, approximate="tanh")),
    "elu": (nn.ELU(), functional.elu),
    "elu 0.3": (nn.ELU(0.3), lambda x: functional.elu(x, alpha=0.3)),
    "softplus": (nn.Softplus(), lambda x: functional.softplus(x, threshold=1000)),
    "softmax": (nn.Softmax(), lambda x: functional.softmax(x, dim=-1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]), SEEDS)
def test_activations(name, shape, scale, seed):
    """Of any shape, small and large, and at exactly zero."""
    layer, function = ACTIVATIONS[name]
    generator = np.random.default_rng(seed)
    inputs = scale * generator.normal(size=shape)
    _, ours, upstream, below, _, _ = both_ways(layer, inputs, generator)
    x = tensor(inputs)
    theirs = function(x)
    theirs.backward(torch.tensor(upstream))
    close(ours, theirs.detach().numpy())
    close(below, x.grad.numpy())


@settings(max_examples=20)
@given(st.integers(2, 4), SIDES, SEEDS)
def test_a_network_of_blocks(samples, sides, seed):
    """Convolution, norm, a block with a shortcut, pooling, flattening and tied weights, from the loss to the inputs."""
    generator = np.random.default_rng(seed)
    inner = [nn.Conv2D(2, 3, padding=1), nn.BatchNorm(3), nn.GELU(), nn.Conv2D(3, 3, padding=1)]
    block = nn.Residual(inner, shortcut=[nn.Conv2D(2, 3, 1)])
    units = 3 * (sides[0] // 2) * (sides[1] // 2)
    tail = [nn.MaxPool2D(), nn.Flatten(), nn.Dense(units, 4), nn.ELU(), nn.Dense(4, units)]
    model = nn.Sequential([block, *tail], tied={"dense2.W": "dense1.W.T"}, seed=seed)
    images, targets = generator.normal(size=(samples, *sides, 2)), generator.normal(size=(samples, units))
    grads = nn.Objective(model, nn.MeanSquaredError()).gradient(model.params, (images, targets))
    p = {name: tensor(array) for name, array in model.params.items()}
    outputs = their_network(p, torch.tensor(images).permute(0, 3, 1, 2))
    functional.mse_loss(outputs, torch.tensor(targets)).backward()
    for name, gradient in grads.items():
        close(gradient, p[name].grad.numpy())


def their_network(p, x):
    """The same, with PyTorch's functions."""

    def conv(name, z, padding=0):
        return functional.conv2d(z, p[f"{name}.W"].permute(3, 2, 0, 1), p[f"{name}.b"], padding=padding)

    gamma, beta = p["residual1.batchnorm1.gamma"], p["residual1.batchnorm1.beta"]
    z = functional.batch_norm(conv("residual1.conv1", x, 1), None, None, gamma, beta, training=True)
    z = conv("residual1.conv2", functional.gelu(z), 1) + conv("residual1.shortcut.conv1", x)
    z = functional.max_pool2d(z, 2).permute(0, 2, 3, 1).flatten(1)
    hidden = functional.elu(z @ p["dense1.W"] + p["dense1.b"])
    return hidden @ p["dense1.W"].T + p["dense2.b"]
