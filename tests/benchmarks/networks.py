"""Random networks whose loss and gradient are functions of a dict of arrays, for the benchmarks beside this file."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gc_hooks import nn
from gc_hooks.nn.layers import Layer

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)


class Centre(Layer):
    """Batch norm's first half: the batch's mean is taken off, so that the bias before it has no gradient at all."""

    def forward(self, params, inputs, context):
        return inputs - inputs.mean(axis=0), None

    def backward(self, params, cache, upstream):
        return upstream - upstream.mean(axis=0), {}


class Network:
    """A multilayer perceptron on random data."""

    def __init__(
        self,
        sizes,
        activation,
        samples,
        *,
        seed=0,
        weight_scale=1.0,
        loss_scale=1.0,
        penalty=0.0,
        steps=0,
        rate=0.1,
        squared=False,
        centred=False,
        dropped=0.0,
    ):
        rng = np.random.default_rng(seed)
        between = [Centre()] if centred else []
        layers = [part for a, b in pairwise(sizes) for part in (nn.Dense(a, b), *between, activation())]
        model = nn.Sequential(layers[: -1 - len(between)], seed=seed)
        inputs = rng.standard_normal((samples, sizes[0])) * (rng.random((samples, 1)) >= dropped)
        targets = rng.standard_normal((samples, sizes[-1])) if squared else rng.integers(0, sizes[-1], samples)
        self.batch = inputs, targets
        loss = nn.MeanSquaredError() if squared else nn.SoftmaxCrossEntropy()
        self.objective = nn.Objective(model, loss, nn.L2(penalty) if penalty else None)
        self.loss_scale = loss_scale
        self.params = {name: weight_scale * array for name, array in model.params.items()}
        self._train(steps, rate)

    def _train(self, steps, rate):
        for _ in range(steps):
            grads = self.objective.gradient(self.params, self.batch)
            size = np.sqrt(sum(np.vdot(g, g) for g in grads.values()))
            for name, grad in grads.items():
                self.params[name] -= rate * grad / max(1.0, size)

    @property
    def size(self):
        """Number of entries of all parameters."""
        return sum(array.size for array in self.params.values())

    @property
    def stands_on_kink(self):
        """Whether the input of some ReLU is exactly zero."""
        model = self.objective._model
        pieces = zip(model.layers, model.pieces(self.batch[0], params=self.params), strict=True)
        return any(isinstance(layer, nn.ReLU) and bool(np.any(piece.point["input"] == 0)) for layer, piece in pieces)

    def loss(self, params):
        """The loss; one forward pass, in the precision of the parameters."""
        return self.loss_scale * self.objective(params, self.batch)

    def gradient(self, params):
        """The gradient; a forward and a backward pass."""
        return self.on(self.batch)[1](params)

    def on(self, batch):
        """The loss and the gradient on another batch, as functions of the parameters."""

        def gradient(params):
            return {name: self.loss_scale * grad for name, grad in self.objective.gradient(params, batch).items()}

        return lambda params: self.loss_scale * self.objective(params, batch), gradient


class SinglePrecision:
    """The same network, in which loss and gradient compute in float32 whatever they are given."""

    def __init__(self, network):
        self.network = network
        inputs, targets = network.batch
        self.batch = inputs.astype(np.float32), targets.astype(np.float32) if targets.dtype.kind == "f" else targets
        self.params = {name: array.astype(np.float32).astype(np.float64) for name, array in network.params.items()}

    def loss(self, params):
        """The loss, rounded to float32 at every operation."""
        if any(np.iscomplexobj(array) for array in params.values()):
            raise TypeError("float32 only")
        return np.float32(self.network.loss_scale) * self.network.objective(_single(params), self.batch)

    def gradient(self, params):
        """The gradient, rounded to float32 at every operation."""
        grads = self.network.objective.gradient(_single(params), self.batch)
        return {name: np.float32(self.network.loss_scale) * grad for name, grad in grads.items()}


def _single(params):
    return {name: array.astype(np.float32) for name, array in params.items()}


def flattened(network, gradient=None):
    """Loss and gradient (the network's own, unless given) as functions of one vector, and the vector."""
    gradient, names = gradient or network.gradient, list(network.params)
    shapes = [network.params[name].shape for name in names]
    ends = np.cumsum([network.params[name].size for name in names])[:-1]

    def unflat(vector):
        return {n: v.reshape(s) for n, v, s in zip(names, np.split(np.asarray(vector), ends), shapes, strict=True)}

    def flat(grads):
        return np.concatenate([np.ravel(grads[name]) for name in names])

    return (
        lambda vector: float(network.loss(unflat(vector))),
        lambda vector: flat(gradient(unflat(vector))),
        flat(network.params),
    )


def random_network(rng, seed, *, most=24, kinks=True):
    """Two to six layers, a loss in any unit, with and without a penalty; at initialisation with weights scaled by 0.01
    to 10 (deep networks by less for each layer, or nothing would come through), trained for a while, or fitted well;
    some with exact kinks, with units that are never active, and with biases that have no gradient."""
    layers = int(rng.integers(2, 7))
    stage = ("initial", "initial", "trained", "fitted")[rng.integers(4)]
    trained = stage != "initial"
    network = Network(
        [*map(int, rng.integers(3, most + 1, layers)), int(rng.integers(2, 6))],
        ACTIVATIONS[rng.integers(3)],
        int(rng.integers(2, 33)),
        seed=seed,
        weight_scale=1.0 if trained else 10 ** (rng.uniform(-2, 1) * 2 / layers),
        loss_scale=10.0 ** rng.choice([-6, 0, 6]),
        penalty=10 ** rng.uniform(-6, -3 if trained else 0) if rng.random() < 0.5 else 0.0,
        steps={"initial": 0, "trained": int(10 ** rng.uniform(0.5, 3)), "fitted": 2000}[stage],
        rate=0.5 if stage == "fitted" else 0.1,
        squared=bool(rng.random() < 0.3),
        centred=bool(rng.random() < 0.1),
        dropped=0.3 if kinks and rng.random() < 0.15 else 0.0,
    )
    if rng.random() < 0.1:
        network.params["dense1.W"][:, :2], network.params["dense1.b"][:2] = 0.0, -1.0
    return network
