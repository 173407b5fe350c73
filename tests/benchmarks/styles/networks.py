"""Whole networks: functions, classes, lists of layers, caches, a backward pass of their own behind the loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce

import numpy as np

from benchmarks.styles.collection import PURE, style


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def softmax(z):
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


@style
def functions_of_a_dict(rng):
    X, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    params = {"W1": rng.normal(size=(3, 4)), "b1": np.zeros(4), "W2": rng.normal(size=(4, 2)), "b2": np.zeros(2)}

    def forward(p):
        h = np.tanh(X @ p["W1"] + p["b1"])
        return h @ p["W2"] + p["b2"]

    def loss(p):
        return np.mean((forward(p) - y) ** 2)

    return loss, params, PURE


@style
def columns_are_samples(rng):
    """A well-known course's way: features in rows, biases as columns, a cost by logarithms."""
    X, Y = rng.normal(size=(3, 5)), rng.integers(2, size=(1, 5))
    params = {
        "W1": rng.normal(size=(4, 3)) * 0.5,
        "b1": np.zeros((4, 1)),
        "W2": rng.normal(size=(1, 4)) * 0.5,
        "b2": np.zeros((1, 1)),
    }

    def forward_propagation(parameters):
        Z1 = np.dot(parameters["W1"], X) + parameters["b1"]
        A1 = np.tanh(Z1)
        Z2 = np.dot(parameters["W2"], A1) + parameters["b2"]
        A2 = sigmoid(Z2)
        cache = {"Z1": Z1, "A1": A1, "Z2": Z2, "A2": A2}
        return A2, cache

    def compute_cost(parameters):
        A2, _ = forward_propagation(parameters)
        m = Y.shape[1]
        logprobs = np.multiply(np.log(A2), Y) + np.multiply(np.log(1 - A2), 1 - Y)
        cost = -1 / m * np.sum(logprobs)
        return float(np.squeeze(cost))

    return compute_cost, params, PURE


@style
def loop_over_numbered_layers(rng):
    X, Y = rng.normal(size=(3, 4)), np.array([[1, 0, 1, 1]])
    sizes = [3, 3, 2, 1]
    params = {}
    for l in range(1, len(sizes)):  # noqa: E741
        params["W" + str(l)] = rng.normal(size=(sizes[l], sizes[l - 1]))
        params["b" + str(l)] = rng.normal(size=(sizes[l], 1)) * 0.1

    def cost(parameters):
        A, L, caches = X, len(parameters) // 2, []
        for l in range(1, L):  # noqa: E741
            Z = np.dot(parameters["W" + str(l)], A) + parameters["b" + str(l)]
            caches.append((A, Z))
            A = np.maximum(0, Z)
        AL = sigmoid(np.dot(parameters["W" + str(L)], A) + parameters["b" + str(L)])
        return -np.sum(Y * np.log(AL) + (1 - Y) * np.log(1 - AL)) / Y.shape[1]

    return cost, params, PURE


@style
def own_backward_behind_the_loss(rng):
    """The classic two-layer network that returns loss and grads; the check takes the first."""
    X, y, reg = rng.normal(size=(5, 3)), rng.integers(3, size=5), 1e-2
    params = {"W1": rng.normal(size=(3, 4)), "b1": np.zeros(4), "W2": rng.normal(size=(4, 3)), "b2": np.zeros(3)}

    def loss_and_grads(p):
        N = X.shape[0]
        hidden = np.maximum(0, X.dot(p["W1"]) + p["b1"])
        scores = hidden.dot(p["W2"]) + p["b2"]
        exp_scores = np.exp(scores - np.max(scores, axis=1, keepdims=True))
        probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
        loss = np.sum(-np.log(probs[range(N), y])) / N
        loss += 0.5 * reg * np.sum(p["W1"] * p["W1"]) + 0.5 * reg * np.sum(p["W2"] * p["W2"])
        grads = {}
        dscores = probs
        dscores[range(N), y] -= 1
        dscores /= N
        grads["W2"] = np.dot(hidden.T, dscores) + reg * p["W2"]
        grads["b2"] = np.sum(dscores, axis=0)
        dhidden = np.dot(dscores, p["W2"].T)
        dhidden[hidden <= 0] = 0
        grads["W1"] = np.dot(X.T, dhidden) + reg * p["W1"]
        grads["b1"] = np.sum(dhidden, axis=0)
        return loss, grads

    return lambda p: loss_and_grads(p)[0], params, PURE


@style
def own_backward_accumulates_and_clips(rng):
    """Gradients by ``dW +=`` and ``np.clip(out=)`` behind the loss."""
    inputs, targets = [0, 2, 1, 3], [2, 1, 3, 0]
    params = {
        "Wxh": rng.normal(size=(3, 4)) * 0.5,
        "Whh": rng.normal(size=(3, 3)) * 0.5,
        "Why": rng.normal(size=(4, 3)) * 0.5,
        "bh": np.zeros((3, 1)),
        "by": np.zeros((4, 1)),
    }

    def loss_fun(p):
        xs, hs, ys, ps = {}, {}, {}, {}
        hs[-1] = np.zeros((3, 1))
        loss = 0
        for t in range(len(inputs)):
            xs[t] = np.zeros((4, 1))
            xs[t][inputs[t]] = 1
            hs[t] = np.tanh(np.dot(p["Wxh"], xs[t]) + np.dot(p["Whh"], hs[t - 1]) + p["bh"])
            ys[t] = np.dot(p["Why"], hs[t]) + p["by"]
            ps[t] = np.exp(ys[t]) / np.sum(np.exp(ys[t]))
            loss += -np.log(ps[t][targets[t], 0])
        dWhy, dby = np.zeros_like(p["Why"]), np.zeros_like(p["by"])
        for t in reversed(range(len(inputs))):
            dy = np.copy(ps[t])
            dy[targets[t]] -= 1
            dWhy += np.dot(dy, hs[t].T)
            dby += dy
        for dparam in [dWhy, dby]:
            np.clip(dparam, -5, 5, out=dparam)
        return loss, dWhy, dby

    return lambda p: loss_fun(p)[0], params, PURE


@style
def a_class_is_given_its_weights(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))

    class Net:
        def __init__(self, W1, b1, W2):
            self.W1, self.b1, self.W2 = W1, b1, W2

        def forward(self, x):
            self.z = x @ self.W1 + self.b1
            self.h = sigmoid(self.z)
            self.out = self.h @ self.W2
            return self.out

        def loss(self, x, y):
            return 0.5 * ((self.forward(x) - y) ** 2).sum() / len(y)

    params = {"W1": rng.normal(size=(3, 4)), "b1": rng.normal(size=4), "W2": rng.normal(size=(4, 1))}
    return lambda p: Net(**p).loss(X, y), params, PURE


class Linear:
    def forward(self, x, W, b):
        self.x = x
        return np.matmul(x, W) + b


class ReLU:
    def forward(self, x):
        self.mask = x > 0
        return x * self.mask


class LeakyReLU:
    def forward(self, x):
        self.x = x
        return np.where(x > 0, x, 0.01 * x)


@style
def a_list_of_layer_objects(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    layers = [Linear(), ReLU(), Linear(), LeakyReLU(), Linear()]
    shapes = [(3, 4), (4, 3), (3, 2)]
    params = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in shapes]

    def loss(params):
        a, weights = X, iter(params)
        for layer in layers:
            a = layer.forward(a, *next(weights)) if isinstance(layer, Linear) else layer.forward(a)
        return np.sum(np.square(a - y)) / y.size

    return loss, params, PURE


@style
def masks_zeroed_in_a_copy(rng):
    """ReLU by a copy whose negative entries are set to zero."""
    X, y = rng.normal(size=(5, 3)), rng.normal(size=5)
    mask = None

    def loss(p):
        nonlocal mask
        z = np.dot(X, p["W"]) + p["b"]
        mask = z <= 0
        out = z.copy()
        out[mask] = 0
        return np.sum((out.dot(p["v"]) - y) ** 2)

    return loss, {"W": rng.normal(size=(3, 4)), "b": rng.normal(size=4), "v": rng.normal(size=4)}, PURE


@style
def layers_as_closures(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))

    def dense(W, b, activation):
        def apply(x):
            return activation(x @ W + b)

        return apply

    def loss(p):
        network = [dense(p["W"][0], p["b"][0], np.tanh), dense(p["W"][1], p["b"][1], lambda z: z)]
        return np.mean((reduce(lambda a, layer: layer(a), network, X) - y) ** 2)

    params = {"W": [rng.normal(size=(3, 4)), rng.normal(size=(4, 2))], "b": [np.zeros(4), np.zeros(2)]}
    return loss, params, PURE


@style
def table_of_activations(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 1))
    activations = {
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "softplus": lambda x: np.log1p(np.exp(x)),
        "swish": lambda x: x / (1 + np.exp(-x)),
        "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * np.power(x, 3)))),
        "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    }

    def loss(p):
        a = X
        for name, f in activations.items():
            a = f(a.dot(p[name]))
        return np.sum((a - y) ** 2)

    params = {name: rng.normal(size=(3, 3)) for name in activations}
    params["elu"] = rng.normal(size=(3, 1))
    return loss, params, PURE


@style
def a_dataclass_of_weights(rng):
    @dataclass
    class Weights:
        W: np.ndarray
        b: np.ndarray
        v: np.ndarray

        def __call__(self, x):
            return np.tanh(x @ self.W + self.b) @ self.v

    X, y = rng.normal(size=(5, 2)), rng.normal(size=5)
    params = {"W": rng.normal(size=(2, 3)), "b": rng.normal(size=3), "v": rng.normal(size=3)}
    return lambda p: np.mean(np.abs(Weights(**p)(X) - y) ** 2), params, PURE


@style
def partial_of_a_general_loss(rng):
    def loss(params, X, y, *, activation, weight_decay):
        W, b, v = params
        prediction = activation(X @ W + b) @ v
        return np.mean((prediction - y) ** 2) + weight_decay * sum(np.sum(w**2) for w in params)

    X, y = rng.normal(size=(5, 2)), rng.normal(size=5)
    params = [rng.normal(size=(2, 3)), rng.normal(size=3), rng.normal(size=3)]
    return partial(loss, X=X, y=y, activation=np.sin, weight_decay=0.01), params, PURE


@style
def bias_as_an_extra_column(rng):
    X, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 1))

    def add_bias(A):
        return np.hstack([np.ones((A.shape[0], 1)), A])

    def cost(p):
        a1 = add_bias(X)
        a2 = add_bias(sigmoid(np.dot(a1, p["Theta1"].T)))
        h = np.dot(a2, p["Theta2"].T)
        J = (1 / (2 * len(y))) * np.sum((h - y) ** 2)
        J += 0.1 / (2 * len(y)) * (np.sum(p["Theta1"][:, 1:] ** 2) + np.sum(p["Theta2"][:, 1:] ** 2))
        return J

    return cost, {"Theta1": rng.normal(size=(3, 3)), "Theta2": rng.normal(size=(1, 4))}, PURE


@style
def tied_weights_of_an_autoencoder(rng):
    X = rng.normal(size=(5, 4))

    def loss(p):
        code = np.tanh(X @ p["W"] + p["b"])
        decoded = code @ p["W"].T + p["c"]
        return np.square(X - decoded).sum(axis=1).mean()

    return loss, {"W": rng.normal(size=(4, 2)), "b": np.zeros(2), "c": np.zeros(4)}, PURE


@style
def loops_over_samples(rng):
    X, y = rng.normal(size=(5, 3)), rng.integers(3, size=5)

    def svm_loss_naive(p):
        W, loss = p["W"], 0.0
        for i in range(X.shape[0]):
            scores = X[i].dot(W)
            correct_class_score = scores[y[i]]
            for j in range(W.shape[1]):
                if j == y[i]:
                    continue
                margin = scores[j] - correct_class_score + 1
                if margin > 0:
                    loss += margin
        loss /= X.shape[0]
        return loss + 0.1 * np.sum(W * W)

    return svm_loss_naive, {"W": rng.normal(size=(3, 3)) * 0.3}, PURE


@style
def svm_vectorised(rng):
    X, y = rng.normal(size=(5, 3)), rng.integers(3, size=5)

    def svm_loss(p):
        scores = X.dot(p["W"])
        correct = scores[np.arange(len(y)), y].reshape(-1, 1)
        margins = np.maximum(0, scores - correct + 1)
        margins[np.arange(len(y)), y] = 0
        return np.sum(margins) / len(y) + 0.1 * np.sum(np.square(p["W"]))

    return svm_loss, {"W": rng.normal(size=(3, 3)) * 0.3}, PURE


@style
def batch_norm_by_hand(rng):
    X, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))

    def batchnorm_forward(x, gamma, beta, eps=1e-5):
        N, _ = x.shape
        mu = 1.0 / N * np.sum(x, axis=0)
        xmu = x - mu
        sq = xmu**2
        var = 1.0 / N * np.sum(sq, axis=0)
        sqrtvar = np.sqrt(var + eps)
        ivar = 1.0 / sqrtvar
        xhat = xmu * ivar
        return gamma * xhat + beta

    def loss(p):
        h = np.maximum(batchnorm_forward(X @ p["W1"], p["gamma"], p["beta"]), 0)
        return np.sum((h @ p["W2"] - y) ** 2)

    params = {
        "W1": rng.normal(size=(3, 4)),
        "gamma": 1 + 0.1 * rng.normal(size=4),
        "beta": rng.normal(size=4),
        "W2": rng.normal(size=(4, 2)),
    }
    return loss, params, PURE


@style
def batch_norm_with_running_statistics(rng):
    X, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    running = {"mean": np.zeros(4), "var": np.ones(4)}

    def loss(p):
        z = X @ p["W"]
        mean, var = z.mean(axis=0), z.var(axis=0)
        running["mean"] = 0.9 * running["mean"] + 0.1 * mean
        running["var"] = 0.9 * running["var"] + 0.1 * var
        z = (z - mean) / np.sqrt(var + 1e-5) * p["gamma"] + p["beta"]
        return np.sum((np.tanh(z) @ p["v"] - y) ** 2)

    params = {"W": rng.normal(size=(3, 4)), "gamma": np.ones(4), "beta": np.zeros(4), "v": rng.normal(size=4)}
    return loss, params, PURE


@style
def layer_norm_by_mean_and_std(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))

    def layer_norm(x, g, b):
        mean = np.mean(x, axis=-1, keepdims=True)
        std = np.std(x, axis=-1, keepdims=True)
        return g * (x - mean) / (std + 1e-6) + b

    def loss(p):
        return np.mean((layer_norm(X @ p["W"], p["g"], p["b"]) - y) ** 2)

    return loss, {"W": rng.normal(size=(3, 3)), "g": np.ones(3), "b": np.zeros(3)}, PURE


@style
def variance_with_ddof(rng):
    X = rng.normal(size=(5, 3))

    def loss(p):
        z = X * p
        return np.sum(np.var(z, axis=0, ddof=1)) + np.std(z, ddof=1) + z.mean()

    return loss, rng.normal(size=3), PURE


@style
def rms_norm_and_swiglu(rng):
    x = rng.normal(size=(4, 3))

    def loss(p):
        h = x * p["scale"] / np.sqrt(np.mean(x**2 * p["scale"] ** 2, axis=-1, keepdims=True) + 1e-6)
        gate = h @ p["W_gate"]
        gate = gate * (1 / (1 + np.exp(-gate)))
        return np.sum((gate * (h @ p["W_up"])) @ p["W_down"])

    params = {
        "scale": 1 + 0.1 * rng.normal(size=3),
        "W_gate": rng.normal(size=(3, 4)),
        "W_up": rng.normal(size=(3, 4)),
        "W_down": rng.normal(size=(4, 2)),
    }
    return loss, params, PURE


@style
def dropout_with_a_fixed_mask(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    mask = (rng.random((5, 4)) < 0.8) / 0.8

    def loss(p):
        h = np.maximum(X @ p["W1"], 0.0)
        h *= mask
        return 0.5 * np.mean(np.sum((h @ p["W2"] - y) ** 2, axis=1))

    return loss, {"W1": rng.normal(size=(3, 4)), "W2": rng.normal(size=(4, 1))}, PURE


@style
def dropout_seeded_inside(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))

    def loss(p):
        generator = np.random.RandomState(3)
        h = np.tanh(X @ p["W1"])
        h = h * (generator.rand(*h.shape) < 0.7) / 0.7
        return np.mean((h @ p["W2"] - y) ** 2)

    return loss, {"W1": rng.normal(size=(3, 4)), "W2": rng.normal(size=(4, 1))}, PURE


@style
def residual_blocks_in_a_loop(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))

    def loss(p):
        h = X
        for block in p["blocks"]:
            h = h + np.tanh(h @ block["W"] + block["b"])
        return np.average((h - y) ** 2)

    return loss, {"blocks": [{"W": rng.normal(size=(3, 3)), "b": rng.normal(size=3)} for _ in range(3)]}, PURE


@style
def residual_added_in_place(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))

    def loss(p):
        h = X @ p["W0"]
        for W in (p["W1"], p["W2"]):
            h += np.tanh(h @ W)
        h -= y
        h **= 2
        return h.mean()

    return loss, {f"W{k}": rng.normal(size=(3, 3)) * 0.5 for k in range(3)}, PURE


@style
def penalties_are_functions(rng):
    X, y = rng.normal(size=(5, 3)), rng.integers(2, size=5)

    def l2_penalty(weights, lmbda):
        return 0.5 * lmbda * sum((w**2).sum() for w in weights)

    def l1_penalty(weights, alpha):
        return alpha * np.sum([np.abs(w).sum() for w in weights])

    def data_loss(p):
        h = sigmoid(np.tanh(X @ p["W"]) @ p["v"])
        return -np.mean(y * np.log(h + 1e-12) + (1 - y) * np.log(1 - h + 1e-12))

    def loss(p):
        weights = list(p.values())
        return data_loss(p) + l2_penalty(weights, 0.1) + l1_penalty(weights, 0.05)

    return loss, {"W": rng.normal(size=(3, 3)), "v": rng.normal(size=3)}, PURE


@style
def mixture_of_experts(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=4)

    def loss(p):
        gates = softmax(X @ p["gate"])
        experts = np.stack([X @ w for w in p["experts"]], axis=1)
        return np.sum((np.sum(gates * experts, axis=1) - y) ** 2)

    return loss, {"gate": rng.normal(size=(3, 3)), "experts": [rng.normal(size=3) for _ in range(3)]}, PURE
