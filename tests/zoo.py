"""Small networks with a backward pass by hand, bugs to plant in it, and the clean twin of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
    "leaky": (lambda z: np.where(z > 0, z, 0.1 * z), lambda z: np.where(z > 0, 1.0, 0.1)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
}
WRONG_DERIVATIVES = {
    "relu": np.ones_like,
    "leaky": lambda z: np.where(z > 0, 1.0, -0.1),
    "tanh": lambda z: 1 - np.tanh(z),
    "sigmoid": sigmoid,
}


@dataclass(frozen=True)
class Network:
    """Two hidden layers and a squared error: ``f(f(x W1 + b1) W2 + b2) W3 + b3``; rows are samples."""

    activation: str
    inputs: Any
    targets: Any
    params: dict[str, Any]
    strength: float = 0.0
    derivative: Callable[[Any], Any] | None = None
    factor: float = 1.0
    edits: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def forward(self, p):
        activate, _ = ACTIVATIONS[self.activation]
        z1 = self.inputs @ p["W1"] + p["b1"]
        z2 = activate(z1) @ p["W2"] + p["b2"]
        return z1, z2, activate(z2) @ p["W3"] + p["b3"]

    def data_loss(self, p):
        rest = self.forward(p)[-1] - self.targets
        return 0.5 * np.sum(rest * rest) / len(rest) * self.factor

    def penalty(self, p):
        return 0.5 * self.strength * sum(np.sum(p[name] * p[name]) for name in ("W1", "W2", "W3")) * self.factor

    def loss(self, p):
        return self.data_loss(p) + self.penalty(p)

    def backward(self, p):
        activate, derivative = ACTIVATIONS[self.activation]
        derivative = self.derivative or derivative
        z1, z2, output = self.forward(p)
        d3 = (output - self.targets) / np.asarray(len(output) / self.factor, output.dtype)
        d2 = d3 @ p["W3"].T * derivative(z2)
        d1 = d2 @ p["W2"].T * derivative(z1)
        deltas = {"1": (self.inputs, d1), "2": (activate(z1), d2), "3": (activate(z2), d3)}
        grads = {}
        for k, (below, delta) in deltas.items():
            decay = np.asarray(self.strength * self.factor, output.dtype) * p[f"W{k}"]
            grads |= {f"dW{k}": below.T @ delta + decay, f"db{k}": delta.sum(axis=0)}
        return grads | {name: edit(grads[name], p, self) for name, edit in self.edits.items()}


def network(seed: int = 0, activation: str = "tanh", *, size: float = 1.0, dtype: Any = np.float64, **options: Any):
    """A network with its data, 3-4-4-2, five samples; ``size`` scales its weights."""
    rng = np.random.default_rng(seed)
    shapes = {"W1": (3, 4), "b1": (4,), "W2": (4, 4), "b2": (4,), "W3": (4, 2), "b3": (2,)}
    params = {name: (size * rng.standard_normal(shape) * 0.7).astype(dtype) for name, shape in shapes.items()}
    inputs, targets = rng.standard_normal((5, 3)).astype(dtype), rng.standard_normal((5, 2)).astype(dtype)
    return Network(activation, inputs, targets, params, **options)


def trained(net: Network, *, below: float = 1e-3, rate: float = 0.05, momentum: float = 0.9) -> Network:
    """The same network after gradient descent in its own precision, until its loss is small."""
    p = {name: array.copy() for name, array in net.params.items()}
    speed = {name: np.zeros_like(array) for name, array in p.items()}
    for _ in range(20_000):
        if net.loss(p) < below:
            break
        for name, grad in net.backward(p).items():
            speed[name[1:]] = (momentum * speed[name[1:]] - rate * grad).astype(p[name[1:]].dtype)
            p[name[1:]] += speed[name[1:]]
    return Network(net.activation, net.inputs, net.targets, p, net.strength)


def decay(grad, p, net, *, name, factor):
    """The gradient with the L2 term ``factor`` times as strong."""
    return grad + (factor - 1) * net.strength * net.factor * p[name]


EDITS = {
    "scaled": {"dW2": lambda g, p, net: 2 * g},
    "sign": {"db1": lambda g, p, net: -g},
    "transposed": {"dW2": lambda g, p, net: g.T},
    "last sample only": {
        "db3": lambda g, p, net: (net.forward(p)[-1] - net.targets)[-1] * net.factor / len(net.inputs)
    },
    "L2 missing": {"dW1": lambda g, p, net: decay(g, p, net, name="W1", factor=0)},
    "L2 doubled": {"dW3": lambda g, p, net: decay(g, p, net, name="W3", factor=2)},
}
"""A bug for each gradient that it spoils; the others stay right."""
