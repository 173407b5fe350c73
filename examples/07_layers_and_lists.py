"""Other people's trainers: layers, blocks, tied weights, lists, one flat vector, and one that never shows a gradient.

Run it with ``python examples/07_layers_and_lists.py``; it takes about a second.
"""

from __future__ import annotations

import numpy as np

from gc_hooks import adapters, check_gradients

DATA = np.random.default_rng(0)
X = DATA.normal(size=(32, 6))


class Dense:
    """A layer as many write it: twin dictionaries, and a cache that forward leaves for backward."""

    def __init__(self, W):
        self.params, self.grads = {"W": W, "b": np.zeros(W.shape[1])}, {}

    def forward(self, x):
        self.x, self.y = x, np.tanh(x @ self.params["W"] + self.params["b"])
        return self.y

    def backward(self, upstream):
        delta = upstream * (1 - self.y**2)
        self.grads.update(W=self.x.T @ delta, b=delta.sum(axis=0))
        return delta @ self.params["W"].T


class Autoencoder:
    """A block of encoder layers, and a decoder whose matrix is the encoder's, transposed: the very same memory."""

    def __init__(self):
        W = np.random.default_rng(1).normal(size=(6, 3))
        self.encoder, self.decoder = [Dense(W)], Dense(W.T)

    def loss(self):
        self.error = self.decoder.forward(self.encoder[0].forward(X)) - X
        return 0.5 * np.sum(self.error**2)

    def backward(self):
        self.loss()
        self.encoder[0].backward(self.decoder.backward(self.error))

    def fit(self, rate):
        self.backward()
        for layer in (*self.encoder, self.decoder):
            for name, array in layer.params.items():
                array -= rate * layer.grads[name]


def show(told, attachment):
    report = check_gradients(**attachment)
    print(f"{told}\n    {report.headline}", *report.notes, sep="\n    ")
    return report


def main():
    net = Autoencoder()
    net.backward()
    layers = [*net.encoder, net.decoder]
    names = [(layer, name) for layer in layers for name in layer.params]
    arrays, grads = [layer.params[n] for layer, n in names], [layer.grads[n] for layer, n in names]
    fit = {"step": lambda: net.fit(1e-3), "learning_rate": 1e-3}
    return [
        show("layers in a block, found at any depth", adapters.layers(net, loss=net.loss)),
        show("two lists", adapters.parallel(arrays, grads, loss=net.loss)),
        show("two lists, one of them too short", adapters.parallel(arrays, grads[:3], loss=net.loss)),
        show(
            "no gradient to be had: from what one step changes",
            adapters.recovered(net, loss=net.loss, params=lambda: [layer.params for layer in layers], **fit),
        ),
    ]


if __name__ == "__main__":
    main()
