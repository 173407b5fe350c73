"""Layers over sequences, losses and optimisers give PyTorch's values and gradients, for shapes of all kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_hooks import nn

torch = pytest.importorskip("torch")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SEEDS = st.integers(0, 2**32)


def shapes(*most):
    return st.tuples(*(st.integers(1, limit) for limit in most))


def tensor(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), **CLOSE)


# Recurrent layers. PyTorch keeps two biases and transposes; of the LSTM its blocks are i, f, g, o.


def in_their_order(cell, array):
    if cell is not nn.LSTM:
        return array
    i, f, o, g = np.split(array, 4, axis=-1)
    return np.concatenate([i, f, g, o], axis=-1)


def twin_of(cell, params, inputs, units):
    """PyTorch's layer with our parameters, and its parameters as leaves by our names."""
    theirs = {nn.RNN: torch.nn.RNN, nn.LSTM: torch.nn.LSTM, nn.GRU: torch.nn.GRU}[cell](inputs, units, batch_first=True)
    second = np.zeros_like(params["b"])
    if cell is nn.GRU:
        second[2 * units :] = params["c"]
    with torch.no_grad():
        theirs.double()
        theirs.weight_ih_l0[...] = torch.tensor(in_their_order(cell, params["W"]).T)
        theirs.weight_hh_l0[...] = torch.tensor(in_their_order(cell, params["U"]).T)
        theirs.bias_ih_l0[...] = torch.tensor(in_their_order(cell, params["b"]))
        theirs.bias_hh_l0[...] = torch.tensor(second)
    return theirs


def grads_of(cell, theirs, units):
    """Their gradients in the shapes of ours, with the blocks in their order."""
    grads = {"W": theirs.weight_ih_l0.grad.T, "U": theirs.weight_hh_l0.grad.T, "b": theirs.bias_ih_l0.grad}
    return grads | ({"c": theirs.bias_hh_l0.grad[2 * units :]} if cell is nn.GRU else {})


def run_in_chunks(theirs, x, truncation):
    """All hidden states, the state detached between chunks."""
    state, parts = None, []
    for chunk in torch.split(x, truncation or x.shape[1], dim=1):
        if state is not None:
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        hidden, state = theirs(chunk, state)
        parts.append(hidden)
    return torch.cat(parts, dim=1)


@settings(max_examples=40)
@given(
    cell=st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]),
    shape=shapes(4, 9, 5, 5),
    last=st.booleans(),
    truncation=st.one_of(st.none(), st.integers(1, 9)),
    seed=SEEDS,
)
def test_recurrent_layers(cell, shape, last, truncation, seed):
    """Hidden states, and gradients for inputs and parameters, also with the state detached once in so many steps."""
    samples, steps, inputs, units = shape
    generator = np.random.default_rng(seed)
    layer = cell(inputs, units, last_step=last, truncation=truncation)
    params = {name: generator.normal(size=array.shape) for name, array in layer.init(generator, np.float64).items()}
    x = generator.normal(size=(samples, steps, inputs))
    outputs, cache = layer.forward(params, x, nn.Context())
    upstream = generator.normal(size=outputs.shape)
    below, grads = layer.backward(params, cache, upstream)

    theirs, their_x = twin_of(cell, params, inputs, units), tensor(x)
    hidden = run_in_chunks(theirs, their_x, truncation)
    expected = hidden[:, -1] if last else hidden
    expected.backward(torch.tensor(upstream))
    close(outputs, expected)
    close(below, their_x.grad)
    for name, gradient in grads_of(cell, theirs, units).items():
        close(in_their_order(cell, grads[name]) if name != "c" else grads[name], gradient)


@settings(max_examples=30)
@given(shape=shapes(4, 6, 7, 4), seed=SEEDS)
def test_embedding(shape, seed):
    samples, steps, symbols, features = shape
    generator = np.random.default_rng(seed)
    W, ids = generator.normal(size=(symbols, features)), generator.integers(symbols, size=(samples, steps))
    layer = nn.Embedding(symbols, features)
    outputs, cache = layer.forward({"W": W}, ids.astype(float), nn.Context())
    upstream = generator.normal(size=outputs.shape)
    their_W = tensor(W)
    expected = torch.nn.functional.embedding(torch.tensor(ids), their_W)
    expected.backward(torch.tensor(upstream))
    close(outputs, expected)
    close(layer.backward({"W": W}, cache, upstream)[1]["W"], their_W.grad)


# Losses


def compare_loss(ours, outputs, targets, theirs):
    z = tensor(outputs)
    expected = theirs(z)
    expected.backward()
    close(ours.value(outputs, targets), expected)
    close(ours.gradient(outputs, targets), z.grad)


@settings(max_examples=60)
@given(
    shape=shapes(4, 5, 6),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    weighted=st.booleans(),
    ignored=st.floats(0, 0.9),
    flat=st.booleans(),
    seed=SEEDS,
)
def test_cross_entropy_with_labels(shape, smoothing, weighted, ignored, flat, seed):
    """Of samples and of sequences, with class weights, label smoothing and an ignored label together."""
    samples, _, classes = shape
    generator = np.random.default_rng(seed)
    z = 3 * generator.normal(size=(samples, classes) if flat else shape)
    labels = generator.integers(classes, size=z.shape[:-1])
    labels = np.where(generator.random(labels.shape) < ignored, -7, labels)
    labels.flat[0] = 0  # PyTorch divides zero by zero where nothing counts
    weights = generator.random(classes) + 0.1 if weighted else None
    options = {"weight": None if weights is None else torch.tensor(weights), "label_smoothing": smoothing}
    compare_loss(
        nn.SoftmaxCrossEntropy(weights=weights, smoothing=smoothing, ignore=-7),
        z,
        labels,
        lambda y: torch.nn.functional.cross_entropy(
            y.reshape(-1, classes), torch.tensor(labels.ravel()), ignore_index=-7, **options
        ),
    )


@settings(max_examples=30)
@given(shape=shapes(5, 6), smoothing=st.sampled_from([0.0, 0.2]), weighted=st.booleans(), seed=SEEDS)
def test_cross_entropy_with_rows(shape, smoothing, weighted, seed):
    generator = np.random.default_rng(seed)
    z, rows = generator.normal(size=shape), generator.dirichlet(np.ones(shape[1]), size=shape[0])
    weights = generator.random(shape[1]) + 0.1 if weighted else None
    options = {"weight": None if weights is None else torch.tensor(weights), "label_smoothing": smoothing}
    compare_loss(
        nn.SoftmaxCrossEntropy(weights=weights, smoothing=smoothing),
        z,
        rows,
        lambda y: torch.nn.functional.cross_entropy(y, torch.tensor(rows), **options),
    )


@settings(max_examples=30)
@given(shape=shapes(5, 4, 3), delta=st.floats(0.1, 5), seed=SEEDS)
def test_huber(shape, delta, seed):
    generator = np.random.default_rng(seed)
    y, t = 3 * generator.normal(size=shape), generator.normal(size=shape)
    compare_loss(nn.Huber(delta), y, t, lambda z: torch.nn.functional.huber_loss(z, torch.tensor(t), delta=delta))


@settings(max_examples=30)
@given(shape=shapes(4, 5, 3), seed=SEEDS, which=st.sampled_from(["mse", "huber", "binary"]))
def test_masked(shape, seed, which):
    """NaN in the targets is as if those entries were not there."""
    generator = np.random.default_rng(seed)
    known = generator.random(shape) < 0.6
    known.flat[0] = True
    y, t = generator.normal(size=shape), generator.random(size=shape)
    ours, theirs = {
        "mse": (nn.MeanSquaredError(), torch.nn.functional.mse_loss),
        "huber": (nn.Huber(), torch.nn.functional.huber_loss),
        "binary": (nn.BinaryCrossEntropy(), torch.nn.functional.binary_cross_entropy_with_logits),
    }[which]
    mask = torch.tensor(known)
    compare_loss(nn.Masked(ours), y, np.where(known, t, np.nan), lambda z: theirs(z[mask], torch.tensor(t)[mask]))


# Optimisers, over ten steps of the same gradients


OPTIMIZERS = {
    "nesterov": (
        lambda rate: nn.Nesterov(rate, momentum=0.8),
        lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.8, nesterov=True),
    ),
    "rmsprop": (
        lambda rate: nn.RMSProp(rate, decay=0.9),
        lambda p, rate: torch.optim.RMSprop(p, lr=rate, alpha=0.9, eps=1e-8),
    ),
    "adamw": (
        lambda rate: nn.AdamW(rate, decay=0.1),
        lambda p, rate: torch.optim.AdamW(p, lr=rate, weight_decay=0.1, eps=1e-8),
    ),
    "adam": (lambda rate: nn.Adam(rate), lambda p, rate: torch.optim.Adam(p, lr=rate, eps=1e-8)),
    "momentum": (lambda rate: nn.Momentum(rate), lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9)),
}


@pytest.mark.parametrize("which", OPTIMIZERS)
@settings(max_examples=10)
@given(shape=shapes(4, 4), rate=st.floats(1e-4, 0.5), seed=SEEDS)
def test_optimisers(which, shape, rate, seed):
    make_ours, make_theirs = OPTIMIZERS[which]
    generator = np.random.default_rng(seed)
    params = {"dense1.W": generator.normal(size=shape)}
    theirs = tensor(params["dense1.W"].copy())
    ours, other = make_ours(rate), make_theirs([theirs], rate)
    for _ in range(10):
        gradient = generator.normal(size=shape)
        ours.step(params, {"dense1.W": gradient})
        theirs.grad = torch.tensor(gradient)
        other.step()
        close(params["dense1.W"], theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.step_decay(0.1, every=3, factor=0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        (nn.exponential_decay(0.1, 0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        (nn.cosine_decay(0.1, 20, floor=0.01), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.01)),
        (nn.warm_up(4, lambda step: 0.1), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.2, 1.0, 4)),
    ],
)
def test_learning_rates(ours, theirs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = theirs(optimizer)
    for step in range(20):
        assert ours(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-10)
        optimizer.step()
        schedule.step()


@settings(max_examples=20)
@given(size=st.integers(1, 5), limit=st.floats(0.1, 10), seed=SEEDS)
def test_clipping(size, limit, seed):
    """By value to the last bit; by norm up to the 1e-6 that PyTorch adds to it."""
    generator = np.random.default_rng(seed)
    grads = {"W": generator.normal(size=(size, 2)), "b": generator.normal(size=size)}
    theirs = [torch.zeros(array.shape, dtype=torch.float64) for array in grads.values()]
    for clip, their_clip, tolerance in (
        (nn.clip_by_value(limit), torch.nn.utils.clip_grad_value_, 0),
        (nn.clip_by_norm(limit), torch.nn.utils.clip_grad_norm_, 2e-6 / min(1, limit)),
    ):
        for leaf, array in zip(theirs, grads.values(), strict=True):
            leaf.grad = torch.tensor(array)
        their_clip(theirs, limit)
        for name, leaf in zip(grads, theirs, strict=True):
            np.testing.assert_allclose(clip(grads)[name], leaf.grad.numpy(), rtol=tolerance)
