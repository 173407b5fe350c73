"""Random networks whose loss and gradient are functions of a dict of arrays, for the benchmarks beside this file."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gc_hooks import nn

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)


class Network:
    """A multilayer perceptron on random data."""

    def __init__(self, sizes, activation, samples, *, seed=0, weight_scale=1.0, loss_scale=1.0, steps=0):
        model = nn.Sequential(
            [layer for a, b in pairwise(sizes) for layer in (nn.Dense(a, b), activation())][:-1], seed=seed
        )
        rng = np.random.default_rng(seed)
        self.batch = rng.standard_normal((samples, sizes[0])), rng.integers(0, sizes[-1], samples)
        self.objective, self.loss_scale = nn.Objective(model, nn.SoftmaxCrossEntropy()), loss_scale
        self.params = {name: weight_scale * array for name, array in model.params.items()}
        for _ in range(steps):
            for name, grad in self.objective.gradient(self.params, self.batch).items():
                self.params[name] -= 0.1 * grad

    @property
    def size(self):
        """Number of entries of all parameters."""
        return sum(array.size for array in self.params.values())

    def loss(self, params):
        """The loss; one forward pass."""
        return self.loss_scale * self.objective.data_loss(params, self.batch)

    def gradient(self, params):
        """The gradient; a forward and a backward pass."""
        return {n: self.loss_scale * g for n, g in self.objective.gradient(params, self.batch).items()}


def random_network(rng, seed):
    """Two to five layers, weights scaled by 0.1 to 5, a loss in any unit, at initialisation or trained for a while."""
    sizes = [int(rng.integers(3, 25)) for _ in range(rng.integers(2, 5))] + [int(rng.integers(2, 6))]
    return Network(
        sizes,
        ACTIVATIONS[rng.integers(3)],
        int(rng.integers(2, 33)),
        seed=seed,
        weight_scale=10 ** rng.uniform(-1, 0.7),
        loss_scale=10.0 ** rng.choice([-6, 0, 6]),
        steps=int(10 ** rng.uniform(0.5, 3)) if seed % 2 else 0,
    )
