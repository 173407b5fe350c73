"""Buffers that are made first and filled afterwards, and arrays that are written in place."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import PURE, style


@style
def zeros_filled_by_row(rng):
    X, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))

    def loss(p):
        out = np.zeros((len(X), 2))
        for i in range(len(X)):
            out[i] = np.tanh(X[i] @ p["W"] + p["b"])
        return np.mean((out - y) ** 2)

    return loss, {"W": rng.normal(size=(3, 2)), "b": np.zeros(2)}, PURE


@style
def empty_filled_by_slice(rng):
    X = rng.normal(size=(4, 3))

    def loss(p):
        out = np.empty((4, 5))
        out[:, :2] = X @ p["A"]
        out[:, 2:] = np.sin(X @ p["B"])
        return np.sum(out**2) + np.prod(out[0])

    return loss, {"A": rng.normal(size=(3, 2)), "B": rng.normal(size=(3, 3))}, PURE


@style
def zeros_like_filled_by_mask(rng):
    X = rng.normal(size=(5, 3))

    def prelu(x, slope):
        out = np.zeros_like(x)
        out[x > 0] = x[x > 0]
        out[x <= 0] = slope * x[x <= 0]
        return out

    return lambda p: np.sum(prelu(X @ p["W"], p["slope"]) ** 2), {"W": rng.normal(size=(3, 2)), "slope": 0.25}, PURE


@style
def stable_sigmoid_by_two_masks(rng):
    X, y = 3 * rng.normal(size=(5, 3)), rng.normal(size=5)

    def sigmoid(z):
        out = np.empty_like(z)
        positive = z >= 0
        out[positive] = 1 / (1 + np.exp(-z[positive]))
        e = np.exp(z[~positive])
        out[~positive] = e / (1 + e)
        return out

    return lambda w: np.mean((sigmoid(X @ w) - y) ** 2), rng.normal(size=3), PURE


@style
def ones_and_full_filled(rng):
    x = rng.normal(size=4)

    def loss(w):
        features = np.ones((4, 3))
        features[:, 1] = x * w[0]
        features[:, 2] = (x * w[1]) ** 2
        offset = np.full(4, 0.5)
        offset += w[2]
        return np.sum((features.sum(axis=1) - offset) ** 2)

    return loss, rng.normal(size=3), PURE


@style
def full_like_and_fill(rng):
    x = rng.normal(size=4)

    def loss(w):
        out = np.full_like(x, -1.0)
        out[1:3] = np.exp(w) * x[1:3]
        rest = np.empty(4)
        rest.fill(2.0)
        rest[0] = w[0] * w[1]
        return np.dot(out, rest) ** 2

    return loss, rng.normal(size=2), PURE


@style
def ufuncs_with_out(rng):
    X = rng.normal(size=(4, 3))

    def loss(p):
        buffer = np.empty((4, 2))
        np.dot(X, p["W"], out=buffer)
        np.add(buffer, p["b"], out=buffer)
        np.tanh(buffer, out=buffer)
        return np.sum(buffer * buffer)

    return loss, {"W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}, PURE


@style
def maximum_with_out(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))

    def loss(p):
        z = X @ p["W"]
        np.maximum(z, 0, out=z)
        np.subtract(z, y, out=z)
        np.multiply(z, z, z)
        return z.sum()

    return loss, {"W": rng.normal(size=(3, 2))}, PURE


@style
def augmented_assignments(rng):
    x = rng.normal(size=(4, 3))

    def loss(p):
        z = x @ p["W"]
        z += p["b"]
        z *= 0.5
        z -= z.mean(axis=0)
        z /= 1 + np.abs(z)
        return np.sum(z**2)

    return loss, {"W": rng.normal(size=(3, 2)), "b": rng.normal(size=(4, 2))}, PURE


@style
def augmented_at_a_fancy_index(rng):
    """The logits of the right class are pushed down before the softmax (a margin)."""
    X, y = rng.normal(size=(4, 3)), rng.integers(3, size=4)

    def loss(p):
        z = X @ p["W"]
        z[np.arange(4), y] -= p["margin"]
        z -= z.max(axis=1, keepdims=True)
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(4), y])

    return loss, {"W": rng.normal(size=(3, 3)), "margin": np.array([0.5])}, PURE


@style
def augmented_at_a_slice(rng):
    x = rng.normal(size=6)

    def loss(w):
        y = w * x
        y[1:] += 0.5 * y[:-1]
        y[::2] *= 2.0
        return np.sum(np.sin(y))

    return loss, rng.normal(size=6), PURE


@style
def add_at_for_a_scatter(rng):
    index, messages = np.array([0, 2, 0, 1, 2]), rng.normal(size=(5, 2))

    def loss(p):
        total = np.zeros((3, 2))
        np.add.at(total, index, messages * p["gain"])
        return np.sum(np.tanh(total + p["bias"]) ** 2)

    return loss, {"gain": rng.normal(size=(5, 1)), "bias": rng.normal(size=2)}, PURE


@style
def put_along_axis(rng):
    X, y = rng.normal(size=(4, 3)), rng.integers(3, size=(4, 1))

    def loss(p):
        z = X @ p["W"]
        right = np.take_along_axis(z, y, axis=1)
        others = z.copy()
        np.put_along_axis(others, y, -10.0, axis=1)
        return np.sum(np.logaddexp(0, others.max(axis=1, keepdims=True) - right))

    return loss, {"W": rng.normal(size=(3, 3))}, PURE


@style
def fill_diagonal(rng):
    X = rng.normal(size=(4, 3))

    def contrastive(p):
        z = X @ p
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        similarity = z @ z.T
        np.fill_diagonal(similarity, -1e9)
        return np.sum(np.log(np.sum(np.exp(similarity), axis=1)))

    return contrastive, rng.normal(size=(3, 2)), PURE


@style
def accumulator_array(rng):
    X = rng.normal(size=(5, 3))

    def loss(p):
        total = np.zeros(2)
        for row in X:
            total += np.tanh(row @ p["W"])
        return total @ total

    return loss, {"W": rng.normal(size=(3, 2))}, PURE


@style
def matrix_filled_entry_by_entry(rng):
    A = rng.normal(size=(3, 2))

    def loss(B):
        C = np.zeros((A.shape[0], B.shape[1]))
        for i in range(A.shape[0]):
            for j in range(B.shape[1]):
                for k in range(A.shape[1]):
                    C[i, j] += A[i, k] * B[k, j]
        return np.sum(C**2)

    return loss, rng.normal(size=(2, 3)), PURE


@style
def lists_made_into_an_array(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=4)

    def loss(w):
        predictions = []
        for row in X:
            predictions.append(np.dot(row, w))
        predictions = np.array(predictions)
        return np.mean((predictions - y) ** 2)

    return loss, rng.normal(size=3), PURE


@style
def comprehension_in_np_array(rng):
    X, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))

    def loss(p):
        hidden = np.array([np.tanh(x @ p["W"]) for x in X])
        return np.sum((hidden - y) ** 2)

    return loss, {"W": rng.normal(size=(3, 2))}, PURE


@style
def matrix_literal_of_parameters(rng):
    x = rng.normal(size=(5, 2))

    def loss(p):
        c, s = np.cos(p["angle"]), np.sin(p["angle"])
        R = np.array([[c, -s], [s, c]])
        return np.sum((x @ R.T + p["shift"] - 1) ** 2) * p["scale"]

    return loss, {"angle": 0.5, "shift": rng.normal(size=2), "scale": 1.25}, PURE


@style
def asarray_at_the_door(rng):
    X = rng.normal(size=(4, 3))

    def loss(w):
        w = np.asarray(w, dtype=float)
        return np.sum(np.asarray(X @ w) ** 2)

    return loss, rng.normal(size=3), PURE


@style
def atleast_2d_and_ascontiguousarray(rng):
    X = rng.normal(size=(4, 3))

    def loss(w):
        w = np.atleast_2d(w).T
        return np.sum(np.cos(np.ascontiguousarray(X) @ w))

    return loss, rng.normal(size=3), PURE


@style
def stacked_columns(rng):
    x = rng.normal(size=5)

    def loss(w):
        design = np.column_stack([np.ones(5), x * w[0], np.sin(w[1] * x)])
        return np.sum((design @ w[2:]) ** 2)

    return loss, rng.normal(size=5), PURE


@style
def vstack_hstack_dstack(rng):
    a = rng.normal(size=(2, 3))

    def loss(W):
        top = np.vstack([a @ W, W[:1]])
        wide = np.hstack((top, top**2))
        deep = np.dstack([wide, np.tanh(wide)])
        return deep.sum() + np.sum(deep[..., 0] * deep[..., 1])

    return loss, rng.normal(size=(3, 2)), PURE


@style
def np_c_and_np_r(rng):
    x = rng.normal(size=4)

    def loss(w):
        design = np.c_[np.ones(4), w[0] * x]
        tail = np.r_[w[1:], 1.0]
        return np.sum(design**2) * np.sum(tail**3)

    return loss, rng.normal(size=3), PURE


@style
def append_and_insert(rng):
    x = rng.normal(size=3)

    def loss(w):
        longer = np.append(w * x, 1.0)
        longer = np.append(longer, [np.sum(w)])
        return np.sum(longer**3)

    return loss, rng.normal(size=3), PURE


@style
def bmat_by_block(rng):
    A = rng.normal(size=(2, 2))

    def loss(W):
        M = np.block([[A, W], [W.T, np.eye(2)]])
        return np.sum(M @ M)

    return loss, rng.normal(size=(2, 2)), PURE


@style
def zero_padded_copy(rng):
    x = rng.normal(size=(3, 3))

    def loss(w):
        padded = np.zeros((5, 5))
        padded[1:-1, 1:-1] = x * w
        total = 0.0
        for i in range(3):
            for j in range(3):
                total += np.sum(padded[i : i + 3, j : j + 3]) ** 2
        return total

    return loss, rng.normal(size=(3, 3)), PURE


@style
def written_through_a_view(rng):
    """A view of a buffer is filled, and the buffer read."""
    x = rng.normal(size=(4, 3))

    def loss(W):
        whole = np.zeros((4, 4))
        left, right = whole[:, :2], whole[:, 2:]
        left[...] = x @ W
        right[...] = np.tanh(left)
        return np.sum(whole**2)

    return loss, rng.normal(size=(3, 2)), PURE


@style
def copyto_and_where_argument(rng):
    x = rng.normal(size=(4, 3))

    def loss(W):
        z = x @ W
        out = np.zeros_like(z)
        np.copyto(out, np.exp(z))
        np.divide(out, 1 + out, out=out, where=out > 1)
        return out.sum()

    return loss, rng.normal(size=(3, 2)), PURE


@style
def object_of_buffers_reused_between_calls(rng):
    class Workspace:
        def __init__(self):
            self.z = np.zeros((4, 2))

        def loss(self, W):
            self.z[:] = x @ W
            self.z[self.z < 0] *= 0.1
            return (self.z**2).sum()

    x = rng.normal(size=(4, 3))
    return Workspace().loss, rng.normal(size=(3, 2)), PURE
