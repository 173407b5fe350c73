"""Code that computes in float32, in whole or in part.

Where the truth is wanted, the same code is run with ``np.float32`` standing for double precision: so all values here
can be written in both.
"""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import IN_PLACE, PURE, style


def coarse(rng, *shape):
    """Return numbers that float32 holds exactly."""
    return np.round(rng.normal(size=shape) * 64) / 64


@style
def float32_arrays_and_a_pure_loss(rng):
    X, y = coarse(rng, 5, 3).astype(np.float32), coarse(rng, 5, 2).astype(np.float32)
    params = {"W": coarse(rng, 3, 2).astype(np.float32), "b": np.zeros(2, np.float32)}
    return lambda p: np.mean((np.tanh(X @ p["W"] + p["b"]) - y) ** 2), params, PURE


@style
def float32_arrays_in_place(rng):
    X, y = coarse(rng, 5, 3).astype(np.float32), coarse(rng, 5, 2).astype(np.float32)
    params = {"W": coarse(rng, 3, 2).astype(np.float32), "b": np.zeros(2, np.float32)}
    return lambda: np.mean((np.tanh(X @ params["W"] + params["b"]) - y) ** 2), params, IN_PLACE


@style
def activations_cast_to_float32(rng):
    X, y = coarse(rng, 5, 3), coarse(rng, 5, 2)

    def loss(p):
        h = np.tanh(X @ p["W"]).astype(np.float32)
        return np.sum((h @ p["V"] - y) ** 2)

    return loss, {"W": coarse(rng, 3, 3), "V": coarse(rng, 3, 2)}, PURE


@style
def result_in_float32(rng):
    X, y = coarse(rng, 5, 3), coarse(rng, 5)
    return lambda w: np.float32(np.mean((X @ w - y) ** 2)), coarse(rng, 3), PURE


@style
def buffer_of_float32(rng):
    X = coarse(rng, 4, 3)

    def loss(p):
        out = np.zeros((4, 2), dtype=np.float32)
        for i in range(4):
            out[i] = np.maximum(X[i] @ p["W"], 0)
        return np.sum(out**2)

    return loss, {"W": coarse(rng, 3, 2)}, PURE


@style
def inputs_cast_by_asarray(rng):
    X, y = coarse(rng, 5, 3), coarse(rng, 5)

    def loss(w):
        w = np.asarray(w, dtype=np.float32)
        return np.mean((np.asarray(X, np.float32) @ w - y) ** 2)

    return loss, coarse(rng, 3), PURE


@style
def constants_of_float32(rng):
    X, y = coarse(rng, 5, 3), coarse(rng, 5)
    half = np.float32(0.5)

    def loss(w):
        return half * np.sum((X @ w - y) ** 2) + np.float32(0.25) * np.sum(w * w, dtype=np.float64)

    return loss, coarse(rng, 3), PURE
