"""Losses that take nothing and read the user's own arrays, wherever those live."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import IN_PLACE, style
from gc_hooks import adapters

rng_of_the_module = np.random.default_rng(7)
hidden_size, vocabulary = 3, 4
Wxh = rng_of_the_module.normal(size=(hidden_size, vocabulary)) * 0.5
Whh = rng_of_the_module.normal(size=(hidden_size, hidden_size)) * 0.5
Why = rng_of_the_module.normal(size=(vocabulary, hidden_size)) * 0.5
bh = np.zeros((hidden_size, 1))
by = np.zeros((vocabulary, 1))
weights_of_the_module = {"W": rng_of_the_module.normal(size=(3, 2))}


def data(rng, outputs=2):
    return rng.normal(size=(5, 3)), rng.normal(size=(5, outputs))


@style
def globals_of_a_character_rnn(rng):
    inputs, targets = [0, 2, 1], [2, 1, 3]

    def loss_fun():
        h, loss = np.zeros((hidden_size, 1)), 0
        for t in range(len(inputs)):
            x = np.zeros((vocabulary, 1))
            x[inputs[t]] = 1
            h = np.tanh(np.dot(Wxh, x) + np.dot(Whh, h) + bh)
            y = np.dot(Why, h) + by
            p = np.exp(y) / np.sum(np.exp(y))
            loss += -np.log(p[targets[t], 0])
        return loss

    return loss_fun, {"Wxh": Wxh, "Whh": Whh, "Why": Why, "bh": bh, "by": by}, IN_PLACE


@style
def a_dict_of_the_module(rng):
    x, y = data(rng)
    return lambda: np.sum((x @ weights_of_the_module["W"] - y) ** 2), weights_of_the_module, IN_PLACE


@style
def closure_variables(rng):
    x, y = data(rng)
    W1, b1, W2 = rng.normal(size=(3, 4)), np.zeros(4), rng.normal(size=(4, 2))

    def loss():
        return np.mean((np.tanh(x @ W1 + b1) @ W2 - y) ** 2)

    return loss, {"W1": W1, "b1": b1, "W2": W2}, IN_PLACE


@style
def a_dict_in_a_closure(rng):
    x, y = data(rng)
    params = {"W": rng.normal(size=(3, 2)), "b": np.zeros(2)}
    return lambda: 0.5 * np.sum((x.dot(params["W"]) + params["b"] - y) ** 2), params, IN_PLACE


@style
def list_slots(rng):
    x, y = data(rng)
    weights = [rng.normal(size=(3, 3)), rng.normal(size=(3, 2))]
    biases = [rng.normal(size=3), rng.normal(size=2)]

    def feed_forward():
        a = x
        for w, b in zip(weights, biases, strict=True):
            a = 1 / (1 + np.exp(-(a @ w + b)))
        return np.sum((a - y) ** 2) / 2

    return feed_forward, {"weights": weights, "biases": biases}, IN_PLACE


@style
def attributes_of_an_object(rng):
    class Network:
        def __init__(self):
            self.W1, self.b1 = rng.normal(size=(3, 4)), np.zeros((1, 4))
            self.W2, self.b2 = rng.normal(size=(4, 2)), np.zeros((1, 2))

        def forward(self, X):
            self.a1 = np.tanh(X @ self.W1 + self.b1)
            return self.a1 @ self.W2 + self.b2

        def loss(self):
            return np.mean((self.forward(x) - y) ** 2)

    (x, y), net = data(rng), Network()
    return net.loss, {"W1": net.W1, "b1": net.b1, "W2": net.W2, "b2": net.b2}, IN_PLACE


@style
def a_dict_of_an_object(rng):
    class Model:
        def __init__(self):
            self.params = {"W": rng.normal(size=(3, 2)), "b": np.zeros(2)}
            self.cache = {}

        def loss(self, x, y):
            self.cache["scores"] = scores = x @ self.params["W"] + self.params["b"]
            return np.sum((scores - y) ** 2)

    (x, y), model = data(rng), Model()
    return lambda: model.loss(x, y), model.params, IN_PLACE


@style
def layer_objects_in_a_list(rng):
    class Dense:
        def __init__(self, n, m):
            self.W, self.b = rng.normal(size=(n, m)), np.zeros(m)

        def forward(self, x):
            self.x = x
            self.out = x @ self.W + self.b
            return self.out

    class Tanh:
        def forward(self, x):
            self.out = np.tanh(x)
            return self.out

    layers = [Dense(3, 4), Tanh(), Dense(4, 2)]
    x, y = data(rng)

    def loss():
        out = x
        for layer in layers:
            out = layer.forward(out)
        return ((out - y) ** 2).mean()

    params = {f"{k}.{name}": getattr(layers[k], name) for k in (0, 2) for name in "Wb"}
    return loss, params, IN_PLACE


@style
def slots(rng):
    class Cell:
        __slots__ = ("b", "h", "w")

        def __init__(self):
            self.w, self.b = rng.normal(size=(3, 2)), rng.normal(size=2)

        def __call__(self, x):
            self.h = np.tanh(x @ self.w + self.b)
            return self.h

    (x, y), cell = data(rng), Cell()
    return lambda: np.sum((cell(x) - y) ** 2), {"w": cell.w, "b": cell.b}, IN_PLACE


@style
def a_property(rng):
    class Net:
        def __init__(self):
            self._weights = rng.normal(size=(3, 2))

        @property
        def weights(self):
            return self._weights

        def cost(self):
            return np.sum((x @ self.weights - y) ** 2)

    (x, y), net = data(rng), Net()
    return net.cost, {"weights": net.weights}, IN_PLACE


@style
def a_class_attribute(rng):
    class Net:
        W = rng.normal(size=(3, 2))

        @classmethod
        def loss(cls):
            return np.sum((x @ cls.W - y) ** 2)

    x, y = data(rng)
    return Net.loss, {"W": Net.W}, IN_PLACE


@style
def default_arguments(rng):
    x, y = data(rng)
    W = rng.normal(size=(3, 2))

    def loss(W=W, b=None):
        out = x @ W
        if b is not None:
            out = out + b
        return np.mean((out - y) ** 2)

    return loss, {"W": W}, IN_PLACE


@style
def one_vector_seen_through_views(rng):
    x, y = data(rng)
    theta = rng.normal(size=11)
    W, b, scale = theta[:6].reshape(3, 2), theta[6:8], theta[8:]

    def loss():
        return np.sum((np.tanh(x * scale) @ W + b - y) ** 2)

    return loss, {"theta": theta}, IN_PLACE


@style
def an_alias_inside_of_a_layer(rng):
    class Layer:
        def __init__(self, W):
            self.W = W

        def forward(self, x):
            return np.tanh(x @ self.W)

    params = {"W": rng.normal(size=(3, 2))}
    (x, y), layer = data(rng), Layer(params["W"])
    return lambda: np.sum((layer.forward(x) - y) ** 2), params, IN_PLACE


@style
def transposed_alias_for_tying(rng):
    x, _ = data(rng)
    W = rng.normal(size=(3, 2))
    decoder = {"W": W.T}

    def loss():
        return np.sum((np.tanh(x @ W) @ decoder["W"] - x) ** 2)

    return loss, {"W": W}, IN_PLACE


@style
def methods_that_return_the_weights(rng):
    class Module:
        def __init__(self):
            self.inner = {"W": rng.normal(size=(3, 2)), "b": np.zeros(2)}

        def parameters(self):
            return list(self.inner.values())

        def __call__(self, x):
            W, b = self.parameters()
            return np.maximum(x @ W + b, 0)

    (x, y), net = data(rng), Module()
    return lambda: np.sum((net(x) - y) ** 2), net.parameters(), IN_PLACE


@style
def history_is_appended(rng):
    class Trainer:
        def __init__(self):
            self.W, self.losses, self.activations = rng.normal(size=(3, 2)), [], []

        def step(self):
            a = np.tanh(x @ self.W)
            self.activations.append(a)
            loss = np.mean((a - y) ** 2)
            self.losses.append(loss)
            return loss

    (x, y), trainer = data(rng), Trainer()
    return trainer.step, {"W": trainer.W}, IN_PLACE


@style
def blocks_of_blocks(rng):
    class Dense:
        def __init__(self, n, m):
            self.params, self.grads = {"W": rng.normal(size=(n, m)), "b": np.zeros(m)}, {}

        def forward(self, x):
            self.x = x
            return np.tanh(x @ self.params["W"] + self.params["b"])

    class Block:
        def __init__(self, *parts):
            self.parts = parts

        def forward(self, x):
            for part in self.parts:
                x = part.forward(x)
            return x

    inner = Block(Dense(3, 3), Dense(3, 2))
    net, (x, y) = Block(inner, Dense(2, 2)), data(rng)
    params = {f"{k}.{n}": a for k, d in enumerate((*inner.parts, net.parts[1])) for n, a in d.params.items()}
    return lambda: np.sum((net.forward(x) - y) ** 2), params, IN_PLACE


@style
def by_adapters_dicts(rng):
    x, y = data(rng)
    params = {"W1": rng.normal(size=(3, 3)), "b1": np.zeros(3), "W2": rng.normal(size=(3, 2))}

    def loss():
        return np.mean((np.tanh(x @ params["W1"] + params["b1"]) @ params["W2"] - y) ** 2)

    return loss, params, IN_PLACE, lambda grads: adapters.dicts(params, grads, loss=loss, in_place=True)


@style
def by_adapters_layers(rng):
    class Affine:
        def __init__(self, n, m):
            self.params, self.grads = {"W": rng.normal(size=(n, m)), "b": np.zeros(m)}, {}

        def forward(self, x):
            self.x = x
            return x @ self.params["W"] + self.params["b"]

    class Relu:
        def forward(self, x):
            self.mask = x <= 0
            out = x.copy()
            out[self.mask] = 0
            return out

    net, (x, y) = [Affine(3, 4), Relu(), Affine(4, 2)], data(rng)

    def loss():
        out = x
        for layer in net:
            out = layer.forward(out)
        return np.sum((out - y) ** 2) / len(x)

    def attach(grads):
        for k in (0, 2):
            net[k].grads = {name: grads[f"{k}.{name}"] for name in "Wb"}
        return adapters.layers(net, loss=loss)

    return loss, {f"{k}.{name}": net[k].params[name] for k in (0, 2) for name in "Wb"}, IN_PLACE, attach


@style
def by_adapters_attributes(rng):
    class Net:
        def __init__(self):
            self.W1, self.b1, self.W2 = rng.normal(size=(3, 4)), np.zeros(4), rng.normal(size=(4, 2))

        def loss(self):
            self.h = np.tanh(x @ self.W1 + self.b1)
            return np.mean((self.h @ self.W2 - y) ** 2)

    (x, y), net = data(rng), Net()

    def attach(grads):
        for name, grad in grads.items():
            setattr(net, f"d{name}", grad)
        return adapters.attributes(net, ["W1", "b1", "W2"], loss=net.loss)

    return net.loss, {name: getattr(net, name) for name in ("W1", "b1", "W2")}, IN_PLACE, attach


@style
def by_adapters_parallel(rng):
    class Layer:
        def __init__(self, n, m):
            self.params = [rng.normal(size=(n, m)), np.zeros(m)]

        def forward(self, x):
            W, b = self.params
            return 1 / (1 + np.exp(-(np.dot(x, W) + b)))

    layers, (x, y) = [Layer(3, 3), Layer(3, 2)], data(rng)
    params = [array for layer in layers for array in layer.params]

    def loss():
        out = x
        for layer in layers:
            out = layer.forward(out)
        return 0.5 * np.sum((out - y) ** 2)

    return loss, params, IN_PLACE, lambda grads: adapters.parallel(params, grads, loss=loss)


@style
def by_adapters_flat(rng):
    class Net:
        def __init__(self):
            self.theta = rng.normal(size=8)

        def set_params(self, theta):
            self.theta = theta

        def loss(self):
            return np.sum((x @ self.theta[:6].reshape(3, 2) + self.theta[6:] - y) ** 2)

    (x, y), net = data(rng), Net()

    def attach(grads):
        return adapters.flat(lambda: net.theta, net.set_params, loss=net.loss, grad=lambda: grads["theta"])

    return net.loss, {"theta": net.theta}, IN_PLACE, attach
