"""What parameters look like: numbers, one flat vector, nested containers, columns."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from benchmarks.styles.collection import PURE, style


@style
def one_array(rng):
    A, b = rng.normal(size=(6, 4)), rng.normal(size=6)
    return lambda x: 0.5 * np.linalg.norm(A @ x - b) ** 2, rng.normal(size=4), PURE


@style
def numbers(rng):
    x, y = rng.normal(size=8), rng.normal(size=8)

    def mse(p):
        return np.mean((p["slope"] * x + p["intercept"] - y) ** 2)

    return mse, {"slope": 0.5, "intercept": -0.25}, PURE


@style
def one_number(rng):
    return lambda theta: theta**3 - 2 * theta, 1.5, PURE


@style
def numbers_and_math(rng):
    """Scalars and Python's ``math``, not NumPy."""

    def rosenbrock(p):
        return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2 + math.exp(-p["x"]) + math.sin(p["y"])

    return rosenbrock, {"x": 0.75, "y": -0.5}, PURE


@style
def flat_vector_cut_by_slices(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))

    def loss(theta):
        W1 = theta[:12].reshape(3, 4)
        b1 = theta[12:16]
        W2 = theta[16:24].reshape(4, 2)
        b2 = theta[24:]
        return np.sum((np.tanh(X @ W1 + b1) @ W2 + b2 - y) ** 2) / 2

    return loss, rng.normal(size=26) * 0.5, PURE


@style
def flat_vector_with_an_offset(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    shapes = OrderedDict([("W1", (3, 3)), ("b1", (1, 3)), ("W2", (3, 1)), ("b2", (1, 1))])

    def unflatten(vector):
        weights, offset = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            weights[name] = np.reshape(vector[offset : offset + size], shape)
            offset += size
        return weights

    def cost(vector):
        w = unflatten(vector)
        return np.mean((1 / (1 + np.exp(-(X @ w["W1"] + w["b1"]))) @ w["W2"] + w["b2"] - y) ** 2)

    return cost, rng.normal(size=16), PURE


@style
def flat_vector_by_np_split(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=5)

    def loss(theta):
        W, b, v = np.split(theta, [9, 12])
        return np.mean((np.tanh(X @ W.reshape((3, 3)) + b) @ v - y) ** 2)

    return loss, rng.normal(size=15), PURE


@style
def flat_vector_by_array_split_and_order(rng):
    x = rng.normal(size=(4, 2))

    def loss(theta):
        first, second = np.array_split(theta, 2)
        A = first.reshape((2, 3), order="F")
        return np.sum((x @ A @ second.reshape(3, -1)) ** 2)

    return loss, rng.normal(size=12), PURE


@style
def column_vector(rng):
    X, y = np.c_[np.ones(6), rng.normal(size=(6, 2))], rng.integers(2, size=(6, 1))

    def cost(theta):
        h = 1 / (1 + np.exp(-X.dot(theta)))
        J = (-y.T @ np.log(h) - (1 - y).T @ np.log(1 - h)) / len(y)
        return J[0, 0] + 0.5 / len(y) * np.sum(theta[1:] ** 2)

    return cost, rng.normal(size=(3, 1)), PURE


@style
def result_of_one_element(rng):
    X, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 1))

    def cost(w):
        residual = X @ w - y
        return residual.T @ residual

    return cost, rng.normal(size=(2, 1)), PURE


@style
def nested_lists_and_tuples(rng):
    x = rng.normal(size=(4, 2))
    params = {"encoder": [(rng.normal(size=(2, 3)), np.zeros(3))], "decoder": ([rng.normal(size=(3, 2))], 0.5)}

    def loss(p):
        ((W, b),) = p["encoder"]
        (V,), scale = p["decoder"]
        return np.sum((np.tanh(x @ W + b) @ V * scale - x) ** 2)

    return loss, params, PURE


@style
def keyword_arguments(rng):
    x, y = rng.normal(size=(4, 3)), rng.normal(size=4)

    def loss(weights, bias, log_sigma):
        residual = (x @ weights + bias - y) / np.exp(log_sigma)
        return 0.5 * np.sum(residual**2) + len(y) * log_sigma + 0.5 * len(y) * np.log(2 * np.pi)

    return lambda p: loss(**p), {"weights": rng.normal(size=3), "bias": 0.5, "log_sigma": -0.25}, PURE


@style
def unpacked_into_names(rng):
    x, y = np.linspace(-1, 1, 9), rng.normal(size=9)

    def loss(p):
        a, b, c = p
        return ((a * x**2 + b * x + c - y) ** 2).sum()

    return loss, rng.normal(size=3), PURE


@style
def polynomial_by_horner(rng):
    x, y = np.linspace(-1, 1, 7), rng.normal(size=7)

    def loss(coefficients):
        value = 0
        for c in coefficients:
            value = value * x + c
        return np.sum((value - y) ** 2)

    return loss, rng.normal(size=4), PURE


@style
def polynomial_by_polyval(rng):
    x, y = np.linspace(-1, 1, 7), rng.normal(size=7)
    return lambda c: np.sum((np.polyval(c, x) - y) ** 2), rng.normal(size=4), PURE


@style
def symmetric_from_a_triangle(rng):
    x = rng.normal(size=3)

    def loss(p):
        S = np.zeros((3, 3))
        S[np.triu_indices(3)] = p
        S = S + S.T - np.diag(np.diag(S))
        return x @ S @ x + np.trace(S @ S)

    return loss, rng.normal(size=6), PURE


@style
def positive_by_exp_and_softplus(rng):
    counts = rng.integers(1, 6, size=5)

    def poisson_nll(p):
        rate = np.exp(p["log_rate"]) + np.log1p(np.exp(p["raw"]))
        return np.sum(rate - counts * np.log(rate))

    return poisson_nll, {"log_rate": rng.normal(size=5), "raw": rng.normal(size=5)}, PURE


@style
def dict_mapped_to_a_new_dict(rng):
    x = rng.normal(size=(4, 3))

    def loss(p):
        scaled = {k: v / np.sqrt(v.shape[0]) for k, v in p.items()}
        return np.mean(np.cos(x @ scaled["W"]) @ scaled["v"])

    return loss, {"W": rng.normal(size=(3, 4)), "v": rng.normal(size=4)}, PURE


@style
def all_raveled_into_one(rng):
    """The norm of all weights, by one vector made of them."""
    x = rng.normal(size=(4, 3))

    def loss(p):
        flat = np.concatenate([w.ravel() for w in p])
        return np.sum(np.tanh(x @ p[0]) @ p[1]) + 0.1 * np.dot(flat, flat)

    return loss, [rng.normal(size=(3, 2)), rng.normal(size=(2, 2))], PURE
