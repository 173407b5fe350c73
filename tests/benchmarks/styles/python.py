"""Python around NumPy: conversions, checks, prints, decorators, caches, recursion."""

from __future__ import annotations

import functools
import math
import numbers
import warnings
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from benchmarks.styles.collection import PURE, style


def problem(rng):
    return rng.normal(size=(5, 3)), rng.normal(size=5), rng.normal(size=3)


@style
def float_at_the_return(rng):
    X, y, w = problem(rng)
    return lambda w: float(np.mean((X @ w - y) ** 2)), w, PURE


@style
def item_at_the_return(rng):
    X, y, w = problem(rng)

    def loss(w):
        return np.sum((X @ w - y) ** 2).item()

    return loss, w, PURE


@style
def squeeze_and_float_at_the_return(rng):
    X, y, w = problem(rng)
    return lambda w: float(np.squeeze((X @ w - y)[None] @ (X @ w - y)[:, None])), w, PURE


@style
def python_float_between_two_parts(rng):
    """The data loss is made a float, and the penalty a float, and both are added."""
    X, y, w = problem(rng)

    def loss(w):
        data = float(np.mean((X @ w - y) ** 2))
        penalty = float(0.1 * np.sum(w**2))
        return data + penalty

    return loss, w, PURE


@style
def item_of_every_sample(rng):
    X, y, w = problem(rng)

    def loss(w):
        total = 0.0
        for x_i, y_i in zip(X, y, strict=True):
            total += ((x_i @ w - y_i) ** 2).item()
        return total / len(y)

    return loss, w, PURE


@style
def tolist_and_python_arithmetic(rng):
    X, y, w = problem(rng)

    def loss(w):
        weights = w.tolist()
        return sum(
            (sum(a * b for a, b in zip(row, weights, strict=True)) - t) ** 2 for row, t in zip(X, y, strict=True)
        )

    return loss, w, PURE


@style
def lists_of_lists_without_numpy(rng):
    X, y, w = problem(rng)
    X, y = X.tolist(), y.tolist()

    def loss(w):
        total = 0
        for row, target in zip(X, y, strict=True):
            z = 0
            for j in range(len(row)):
                z += row[j] * w[j]
            total += (1 / (1 + math.exp(-z)) - target) ** 2
        return total / len(X)

    return loss, w, PURE


@style
def math_functions_of_a_scalar(rng):
    X, y, w = problem(rng)

    def loss(w):
        error = np.sum((X @ w - y) ** 2)
        return math.log(error) + math.sqrt(np.sum(w * w)) + math.tanh(w[0])

    return loss, w, PURE


@style
def builtin_sum_max_abs_pow(rng):
    X, y, w = problem(rng)

    def loss(w):
        r = X @ w - y
        return sum(r**2) + max(w) * min(w) + sum(abs(v) for v in w) + pow(w[0], 2) + abs(r).sum() + round(2.4)

    return loss, w, PURE


@style
def prints_inside(rng):
    X, y, w = problem(rng)

    def loss(w):
        prediction = X @ w
        value = np.mean((prediction - y) ** 2)
        print(f"loss {value:.4f}, first prediction {prediction[0]:+.2e}, shape {prediction.shape}")
        print("weights:", w)
        return value

    return loss, w, PURE


@style
def assertions(rng):
    X, y, w = problem(rng)

    def loss(w):
        assert w.shape == (3,)
        assert w.ndim == 1
        assert len(w) == X.shape[1]
        z = X @ w
        assert np.isfinite(z).all()
        assert not np.any(np.isnan(z)), "nan"
        value = ((z - y) ** 2).mean()
        assert value >= 0
        return value

    return loss, w, PURE


@style
def isinstance_checks(rng):
    X, y, w = problem(rng)

    def forward(X, w):
        if not isinstance(w, np.ndarray):
            raise TypeError(f"expected an array, got {type(w)}")
        return X @ w

    return lambda w: np.sum((forward(X, w) - y) ** 2), w, PURE


@style
def isinstance_of_a_number(rng):
    def loss(p):
        total = 0.0
        for value in p.values():
            if isinstance(value, (int, float, numbers.Number)):
                total += value**2
            elif isinstance(value, (list, tuple)):
                total += sum(np.sum(v) for v in value)
            else:
                total += np.sum(np.sin(value))
        return total

    return loss, {"a": 0.5, "b": rng.normal(size=3), "c": [rng.normal(size=2)]}, PURE


@style
def dtype_checks(rng):
    X, y, w = problem(rng)

    def loss(w):
        if not np.issubdtype(w.dtype, np.inexact):
            raise TypeError("weights must be floating")
        if w.dtype.kind not in "fc":
            w = w.astype(float)
        return np.sum((X @ w - y) ** 2)

    return loss, w, PURE


@style
def astype_float(rng):
    X, y, w = problem(rng)
    return lambda w: np.sum(((X @ w).astype(float) - y) ** 2), w, PURE


@style
def astype_of_a_comparison(rng):
    X, y, w = problem(rng)

    def loss(w):
        z = X @ w - y
        return np.sum(z * (z > 0).astype(float)) + np.sum(z**2 * (z > 0)) + np.count_nonzero(z > 0) * np.sum(w**2)

    return loss, w, PURE


@style
def np_copy_and_deepcopy(rng):
    from copy import copy, deepcopy

    X, y, w = problem(rng)

    def loss(p):
        first, second = deepcopy(p), copy(p)
        return np.sum((np.copy(X) @ np.copy(first["w"]) - y) ** 2) + np.sum(second["w"].copy() ** 3)

    return loss, {"w": w}, PURE


@style
def branches_on_values(rng):
    X, y, w = problem(rng)

    def loss(w):
        norm = np.sqrt(np.sum(w**2))
        if norm > 1:
            w = w / norm
        r = X @ w - y
        if (r > 0).any() and np.all(np.abs(r) < 100):
            return np.sum(r**2)
        return np.sum(np.abs(r))

    return loss, w, PURE


@style
def while_loop_on_a_value(rng):
    def loss(w):
        x, steps = w, 0
        while np.linalg.norm(x) > 0.5:
            x = 0.7 * np.sin(x)
            steps += 1
        return np.sum(x) * steps

    return loss, rng.normal(size=3), PURE


@style
def decorators(rng):
    X, y, w = problem(rng)

    def counted(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            wrapper.calls += 1
            return function(*args, **kwargs)

        wrapper.calls = 0
        return wrapper

    @counted
    def loss(w):
        return np.mean((X @ w - y) ** 2)

    return loss, w, PURE


@style
def generators_and_maps(rng):
    X, y, w = problem(rng)

    def predictions(w):
        for row in X:
            yield np.tanh(row @ w)

    return (
        lambda w: np.mean([(p - t) ** 2 for p, t in zip(predictions(w), y, strict=True)]) + sum(map(np.sin, w)),
        w,
        PURE,
    )


@style
def a_cache_dict_is_returned(rng):
    X, y, w = problem(rng)

    def forward(X, params):
        cache = {"X": X, "w": params["w"]}
        cache["Z"] = np.dot(X, params["w"])
        cache["A"] = np.tanh(cache["Z"])
        return cache["A"], cache

    def loss(params):
        A, cache = forward(X, params)
        return np.sum((A - y) ** 2) + 0.1 * np.sum(cache["Z"] ** 2)

    return loss, {"w": w}, PURE


@style
def named_tuple_of_results(rng):
    X, y, w = problem(rng)

    class Result(NamedTuple):
        prediction: np.ndarray
        loss: float

    def evaluate(w):
        prediction = X @ w
        return Result(prediction, np.mean((prediction - y) ** 2))

    return lambda w: evaluate(w).loss, w, PURE


@style
def callable_object(rng):
    class Loss:
        def __init__(self, X, y):
            self.X, self.y, self.calls = X, y, 0

        def __call__(self, w):
            self.calls += 1
            self.residual = self.X @ w - self.y
            return 0.5 * self.residual @ self.residual

    X, y, w = problem(rng)
    return Loss(X, y), w, PURE


@style
def operators_of_an_own_class(rng):
    """A small tensor class around arrays."""

    class Tensor:
        def __init__(self, data):
            self.data = data

        def __matmul__(self, other):
            return Tensor(self.data @ other.data)

        def __sub__(self, other):
            return Tensor(self.data - other.data)

        def __pow__(self, power):
            return Tensor(self.data**power)

        def mean(self):
            return Tensor(np.mean(self.data))

    X, y, w = problem(rng)
    return lambda w: (((Tensor(X) @ Tensor(w)) - Tensor(y)) ** 2).mean().data, w, PURE


@style
def tensor_class_that_makes_arrays(rng):
    class Tensor:
        def __init__(self, data):
            self.data = np.array(data)

        def dot(self, other):
            return Tensor(np.dot(self.data, other.data))

        def relu(self):
            return Tensor(np.where(self.data > 0, self.data, 0))

    X, y, w = problem(rng)
    return lambda w: np.sum((Tensor(X).dot(Tensor(w)).relu().data - y) ** 2), w, PURE


@style
def errstate_and_suppressed_warnings(rng):
    X, y, w = problem(rng)

    def loss(w):
        with np.errstate(divide="ignore", over="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            z = 1 / (1 + np.exp(-X @ w))
        with suppress(KeyError):
            {}["nothing"]
        return np.sum((z - y) ** 2)

    return loss, w, PURE


@style
def nan_to_num_and_isclose(rng):
    X, y, w = problem(rng)

    def loss(w):
        z = np.nan_to_num(X @ w)
        if np.allclose(z, 0) or np.isclose(z[0], y[0]):
            return 0.0
        return np.sum(z**2)

    return loss, w, PURE


@style
def global_statement(rng):
    X, y, w = problem(rng)

    def loss(w):
        global last_prediction
        last_prediction = X @ w
        return np.sum((last_prediction - y) ** 2)

    return loss, w, PURE


@style
def recursion(rng):
    def horner(c, x):
        if len(c) == 1:
            return c[0]
        return c[0] + x * horner(c[1:], x)

    return lambda c: horner(c, 0.75) ** 2, rng.normal(size=4), PURE


@style
def reduce_by_functools(rng):
    x = rng.normal(size=(2, 2))
    return lambda Ws: np.trace(functools.reduce(np.dot, Ws, x)), [rng.normal(size=(2, 2)) for _ in range(3)], PURE


@style
def string_keys_and_eval_of_names(rng):
    x = rng.normal(size=3)

    def loss(p):
        total = 0
        for name in ("tanh", "sin", "exp"):
            total = total + getattr(np, name)(p[f"w_{name}"] * x).sum()
        return total

    return loss, {f"w_{name}": rng.normal(size=3) for name in ("tanh", "sin", "exp")}, PURE


@style
def matrices_of_np_matrix(rng):
    X, y = np.asmatrix(rng.normal(size=(4, 3))), np.asmatrix(rng.normal(size=(4, 1)))

    def loss(W):
        r = np.asmatrix(X) * W - y
        return (r.T * r)[0, 0]

    return loss, rng.normal(size=(3, 1)), PURE


@style
def zero_dimensional_arrays(rng):
    X, y, w = problem(rng)

    def loss(w):
        total = np.array(0.0)
        for j in range(3):
            total = total + w[j] ** 2
        return np.asarray(total) + np.float64(0.5) * np.sum((X @ w - y) ** 2)

    return loss, w, PURE


@style
def indexing_by_lists_and_ellipsis(rng):
    def loss(W):
        a = W[[0, 2]]
        b = W[..., -1]
        c = W[1:, None, :]
        d = W.flat[3]
        return np.sum(a**2) + np.sum(np.sin(b)) + np.sum(c**3) + d * W[(1, 1)]

    return loss, rng.normal(size=(3, 3)), PURE


@style
def iterating_and_unpacking_arrays(rng):
    def loss(W):
        total = 0
        for i, row in enumerate(W):
            a, b = row
            total += (i + 1) * a * np.exp(b)
        first, *rest = W[:, 0]
        return total + first * sum(rest)

    return loss, rng.normal(size=(3, 2)), PURE


@style
def fsum_of_terms(rng):
    X, y, w = problem(rng)
    return lambda w: math.fsum((X @ w - y) ** 2), w, PURE


@style
def no_parameter_in_one_branch(rng):
    """Weights that are used only when a switch is on."""
    X, y, w = problem(rng)
    use_gate = True

    def loss(p):
        z = X @ p["w"]
        if use_gate:
            z = z * (1 / (1 + np.exp(-X @ p["gate"])))
        return np.mean((z - y) ** 2)

    return loss, {"w": w, "gate": rng.normal(size=3)}, PURE


@style
def numbers_seen_by_int(rng):
    """Sizes and positions are made integers of arrays that do not depend on parameters."""
    X, y, w = problem(rng)

    def loss(w):
        n, k = int(np.ceil(X.shape[0] * 0.6)), int(np.argmax(np.abs(w)))
        return np.sum((X[:n] @ w - y[:n]) ** 2) + w[k] ** 2 + range(3)[k] * w[0]

    return loss, w, PURE


@style
def hooks_and_logging(rng):
    X, y, w = problem(rng)
    log = []

    def loss(w):
        value = np.mean((X @ w - y) ** 2)
        log.append({"loss": float(value), "norm": float(np.linalg.norm(w)), "text": str(value), "all": w.tolist()})
        return value

    return loss, w, PURE
