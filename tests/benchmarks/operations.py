"""Textbook operations of expression graphs: forward as strangers write it, and backward by hand.

``draw(rng, shape)`` returns the parameters and the constants for an input of this shape, ``forward(h, p, c)`` the
output, and ``backward(h, p, c, dy)`` the gradient of the input and those of the parameters. All of it is plain NumPy
that keeps the precision of the arrays that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EPS = 1e-5
"""Added to a variance before it divides."""


@dataclass(frozen=True)
class Operation:
    """One operation: how it is drawn, computed, and differentiated."""

    name: str
    draw: Callable
    forward: Callable
    backward: Callable
    fits: Callable = lambda shape: True
    precise: Callable | None = None
    """The forward pass in long double, where LAPACK and np.interp know double precision only."""

    def compute(self, h, p, c):
        """Run forward in the precision of the arrays."""
        forward = self.precise if self.precise and h.dtype == np.longdouble else self.forward
        return forward(h, p, c)


def nothing(rng, shape):
    return {}, {}


def square(rng, d, size=1.0):
    return rng.normal(size=(d, d)) * size / np.sqrt(d)


# Products with parameters


def draw_linear(rng, shape):
    d, out = shape[1], int(rng.integers(2, 7))
    params = {"W": rng.normal(size=(d, out)) / np.sqrt(d)}
    bias = [None, (out,), (1, out), ()][rng.integers(4)]
    if bias is not None:
        params["b"] = np.asarray(rng.normal(size=bias) * rng.integers(2))
    return params, {"einsum": bool(rng.integers(2))}


def linear(h, p, c):
    z = np.einsum("nd,de->ne", h, p["W"]) if c["einsum"] else h @ p["W"]
    return z + p["b"] if "b" in p else z


def linear_backward(h, p, c, dy):
    grads = {"W": h.T @ dy}
    if "b" in p:
        grads["b"] = summed_to(dy, p["b"])
    return dy @ p["W"].T, grads


def summed_to(dy, param):
    """Sum over what the parameter was broadcast along."""
    shape = np.shape(param)
    dy = dy.sum(tuple(range(dy.ndim - len(shape))))
    return dy.sum(tuple(k for k, length in enumerate(shape) if length == 1), keepdims=True) if 1 in shape else dy


def draw_shift(rng, shape):
    n, d = shape
    return {"s": np.asarray(rng.normal(size=[(), (d,), (1, d), (n, 1)][rng.integers(4)]))}, {}


def shift_backward(h, p, c, dy):
    return dy, {"s": summed_to(dy, p["s"])}


def draw_gain(rng, shape):
    return {"g": np.asarray(1 + rng.normal(size=[(), (shape[1],)][rng.integers(2)]) / 3)}, {}


def gain_backward(h, p, c, dy):
    return dy * p["g"], {"g": summed_to(dy * h, p["g"])}


def draw_embedding(rng, shape):
    words = int(rng.integers(3, 9))
    ids = rng.integers(words, size=shape[0])
    return {"E": rng.normal(size=(words, shape[1]))}, {"ids": ids}


def embedding(h, p, c):
    return h + p["E"][c["ids"]]


def embedding_backward(h, p, c, dy):
    dE = np.zeros_like(p["E"])
    np.add.at(dE, c["ids"], dy)
    return dy, {"E": dE}


def draw_two(rng, shape):
    d = shape[1]
    return {"A": square(rng, d), "B": square(rng, d)}, {}


def product(h, p, c):
    return (h @ p["A"]) * (h @ p["B"])


def product_backward(h, p, c, dy):
    a, b = h @ p["A"], h @ p["B"]
    da, db = dy * b, dy * a
    return da @ p["A"].T + db @ p["B"].T, {"A": h.T @ da, "B": h.T @ db}


def gate(h, p, c):
    return h * (1 / (1 + np.exp(-(h @ p["W"]))))


def gate_backward(h, p, c, dy):
    s = 1 / (1 + np.exp(-(h @ p["W"])))
    dz = dy * h * s * (1 - s)
    return dy * s + dz @ p["W"].T, {"W": h.T @ dz}


def draw_one(rng, shape):
    return {"W": square(rng, shape[1], rng.choice([0.1, 1, 3]))}, {}


def residual(h, p, c):
    return h + np.tanh(h @ p["W"])


def residual_backward(h, p, c, dy):
    z = np.tanh(h @ p["W"])
    dz = dy * (1 - z * z)
    return dy + dz @ p["W"].T, {"W": h.T @ dz}


def draw_attention(rng, shape):
    params = {k: square(rng, shape[1]) for k in "qkv"}
    if rng.integers(3) == 0:
        params["kb"] = rng.normal(size=shape[1])
    return params, {"causal": bool(rng.integers(2))}


def attended(h, p, c):
    q, k, v = h @ p["q"], h @ p["k"], h @ p["v"]
    if "kb" in p:
        k = k + p["kb"]
    a = q @ k.T / float(np.sqrt(h.shape[1]))
    if c["causal"]:
        a = np.where(np.tri(len(h), dtype=bool), a, -1e9)
    e = np.exp(a - a.max(1, keepdims=True))
    return q, k, v, e / e.sum(1, keepdims=True)


def attention(h, p, c):
    _, _, v, weights = attended(h, p, c)
    return weights @ v


def attention_backward(h, p, c, dy):
    q, k, v, weights = attended(h, p, c)
    dw, dv = dy @ v.T, weights.T @ dy
    da = weights * (dw - (dw * weights).sum(1, keepdims=True)) / float(np.sqrt(h.shape[1]))
    dq, dk = da @ k, da.T @ q
    grads = {"q": h.T @ dq, "k": h.T @ dk, "v": h.T @ dv}
    if "kb" in p:
        grads["kb"] = dk.sum(0)
    return dq @ p["q"].T + dk @ p["k"].T + dv @ p["v"].T, grads


# Norms


def draw_norm(rng, shape):
    d = shape[1]
    fresh = rng.integers(2)
    params = {}
    if rng.integers(4):
        params["g"] = np.ones(d) if fresh else 1 + rng.normal(size=d) / 3
    if rng.integers(2):
        params["b"] = np.zeros(d) if fresh else rng.normal(size=d)
    return params, {}


def normalised(h, axis):
    q = h - h.mean(axis, keepdims=True)
    s = np.sqrt((q * q).mean(axis, keepdims=True) + EPS)
    return q / s, s


def norm_of(axis):
    def forward(h, p, c):
        y = normalised(h, axis)[0]
        if "g" in p:
            y = y * p["g"]
        return y + p["b"] if "b" in p else y

    def backward(h, p, c, dy):
        y, s = normalised(h, axis)
        dn = dy * p["g"] if "g" in p else dy
        dh = (dn - dn.mean(axis, keepdims=True) - y * (dn * y).mean(axis, keepdims=True)) / s
        grads = {}
        if "g" in p:
            grads["g"] = (dy * y).sum(0)
        if "b" in p:
            grads["b"] = dy.sum(0)
        return dh, grads

    return forward, backward


def rms_norm(h, p, c):
    return h / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + EPS) * p["g"]


def rms_norm_backward(h, p, c, dy):
    s = np.sqrt(np.mean(h**2, axis=1, keepdims=True) + EPS)
    y, dn = h / s, dy * p["g"]
    return (dn - y * (dn * y).mean(1, keepdims=True)) / s, {"g": (dy * y).sum(0)}


def draw_rms(rng, shape):
    return {"g": 1 + rng.normal(size=shape[1]) * rng.choice([0, 0.3])}, {}


def unit_rows(h, p, c):
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def unit_rows_backward(h, p, c, dy):
    s = np.sqrt((h * h).sum(1, keepdims=True))
    y = h / s
    return (dy - y * (dy * y).sum(1, keepdims=True)) / s, {}


def standardised(h, p, c):
    return (h - h.mean(axis=1, keepdims=True)) / (h.std(axis=1, keepdims=True) + 1e-3)


def standardised_backward(h, p, c, dy):
    q, s = h - h.mean(1, keepdims=True), h.std(1, keepdims=True)
    ds = -(dy * q).sum(1, keepdims=True) / (s + 1e-3) ** 2
    dq = dy / (s + 1e-3) + ds * q / (s * h.shape[1])
    return dq - dq.mean(1, keepdims=True), {}


# Convolution and Fourier


def draw_conv1d(rng, shape):
    width = int(rng.integers(2, min(shape[1], 3) + 1))
    return {"w": rng.normal(size=width) / np.sqrt(width), "b": np.asarray(rng.normal())}, {}


def conv1d(h, p, c):
    w, out = p["w"], h.shape[1] - len(p["w"]) + 1
    return sum(w[j] * h[:, j : j + out] for j in range(len(w))) + p["b"]


def conv1d_backward(h, p, c, dy):
    out, dh, dw = dy.shape[1], np.zeros_like(h), np.zeros_like(p["w"])
    for j in range(len(dw)):
        dw[j] = (dy * h[:, j : j + out]).sum()
        dh[:, j : j + out] += p["w"][j] * dy
    return dh, {"w": dw, "b": dy.sum()}


def draw_conv2d(rng, shape):
    return {"k": rng.normal(size=(2, 2)) / 2}, {}


def conv2d(h, p, c):
    k, x = p["k"], np.pad(h, 1)
    y = np.zeros((x.shape[0] - 1, x.shape[1] - 1))
    for i in range(2):
        for j in range(2):
            y = y + k[i, j] * x[i : i + y.shape[0], j : j + y.shape[1]]
    return y


def conv2d_backward(h, p, c, dy):
    x, dk = np.pad(h, 1), np.zeros_like(p["k"])
    dx = np.zeros_like(x)
    for i in range(2):
        for j in range(2):
            dk[i, j] = (dy * x[i : i + dy.shape[0], j : j + dy.shape[1]]).sum()
            dx[i : i + dy.shape[0], j : j + dy.shape[1]] += p["k"][i, j] * dy
    return dx[1:-1, 1:-1], {"k": dk}


def draw_spectrum(rng, shape):
    return {}, {"half": bool(rng.integers(2)), "by_abs": bool(rng.integers(2))}


def spectrum(h, p, c):
    f = np.fft.rfft(h, axis=1) if c["half"] else np.fft.fft(h, axis=1)
    return (np.abs(f) ** 2 if c["by_abs"] else (f * np.conj(f)).real) / h.shape[1]


def spectrum_backward(h, p, c, dy):
    f = np.fft.fft(h, axis=1)
    g = np.zeros_like(f)
    g[:, : dy.shape[1]] = dy * f[:, : dy.shape[1]]
    return (2 * np.fft.ifft(g, axis=1).real).astype(h.dtype), {}


# Along an axis


def cumsum(h, p, c):
    return np.cumsum(h, axis=c["axis"])


def cumsum_backward(h, p, c, dy):
    return np.flip(np.cumsum(np.flip(dy, c["axis"]), axis=c["axis"]), c["axis"]), {}


def draw_axis(rng, shape):
    return {}, {"axis": int(rng.integers(2))}


def draw_cumprod(rng, shape):
    return {}, {"divide": bool(rng.integers(2))}


def cumprod(h, p, c):
    return np.cumprod(h, axis=1)


def cumprod_backward(h, p, c, dy):
    y = np.cumprod(h, axis=1)
    if c["divide"]:
        return np.cumsum((dy * y)[:, ::-1], axis=1)[:, ::-1] / h, {}
    dh, g = np.zeros_like(h), np.zeros_like(h[:, 0])
    for i in reversed(range(h.shape[1])):
        g = g + dy[:, i]
        dh[:, i] = g * (y[:, i - 1] if i else 1)
        g = g * h[:, i]
    return dh, {}


def sort(h, p, c):
    return np.sort(h, axis=1)


def sort_backward(h, p, c, dy):
    dh = np.zeros_like(h)
    np.put_along_axis(dh, np.argsort(h, axis=1, kind="stable"), dy, axis=1)
    return dh, {}


def draw_top(rng, shape):
    return {}, {"k": int(rng.integers(1, shape[1])), "gather": bool(rng.integers(2))}


def top(h, p, c):
    if c["gather"]:
        return np.take_along_axis(h, np.argsort(h, axis=1)[:, -c["k"] :], axis=1)
    return np.sort(h, axis=1)[:, -c["k"] :]


def top_backward(h, p, c, dy):
    dh = np.zeros_like(h)
    np.put_along_axis(dh, np.argsort(h, axis=1)[:, -c["k"] :], dy, axis=1)
    return dh, {}


def draw_quantile(rng, shape):
    return {}, {"q": float(rng.choice([0.25, 0.5, 0.9]))}


def quantile(h, p, c):
    return h - np.quantile(h, c["q"], axis=1, keepdims=True)


def quantile_backward(h, p, c, dy):
    order, place = np.argsort(h, axis=1), c["q"] * (h.shape[1] - 1)
    low = int(place)
    high, part, down = min(low + 1, h.shape[1] - 1), place - low, -dy.sum(1)
    dh, rows = dy.copy(), np.arange(len(h))
    dh[rows, order[:, low]] += (1 - part) * down
    dh[rows, order[:, high]] += part * down
    return dh, {}


def peak(h, p, c):
    return h.max(axis=1, keepdims=True) - h


def peak_backward(h, p, c, dy):
    dh = -dy
    dh[np.arange(len(h)), np.argmax(h, axis=1)] += dy.sum(1)
    return dh, {}


def draw_interp(rng, shape):
    m = int(rng.integers(3, 8))
    return {"fp": rng.normal(size=m)}, {"xp": np.sort(rng.normal(size=m)) * rng.choice([1, 5])}


def interp(h, p, c):
    return np.interp(h, c["xp"], p["fp"])


def precise_interp(h, p, c):
    xp, fp = c["xp"], p["fp"]
    i = np.clip(np.searchsorted(xp, h, side="right") - 1, 0, len(xp) - 2)
    t = np.clip((h - xp[i]) / (xp[i + 1] - xp[i]), 0, 1)
    return fp[i] * (1 - t) + fp[i + 1] * t


def interp_backward(h, p, c, dy):
    xp, fp = c["xp"], p["fp"]
    i = np.clip(np.searchsorted(xp, h, side="right") - 1, 0, len(xp) - 2)
    t = (h - xp[i]) / (xp[i + 1] - xp[i])
    inside, t = (t >= 0) & (t <= 1), np.clip(t, 0, 1)
    dfp = np.zeros_like(fp)
    np.add.at(dfp, i, dy * (1 - t))
    np.add.at(dfp, i + 1, dy * t)
    return dy * inside * (fp[i + 1] - fp[i]) / (xp[i + 1] - xp[i]), {"fp": dfp}


def table(h, p, c):
    """Interpolate by hand, and go on straight beyond the ends."""
    xp, fp = c["xp"], p["fp"]
    i = np.clip(np.searchsorted(xp, h, side="right") - 1, 0, len(xp) - 2)
    t = (h - xp[i]) / (xp[i + 1] - xp[i])
    return fp[i] * (1 - t) + fp[i + 1] * t


def table_backward(h, p, c, dy):
    xp, fp = c["xp"], p["fp"]
    i = np.clip(np.searchsorted(xp, h, side="right") - 1, 0, len(xp) - 2)
    t = (h - xp[i]) / (xp[i + 1] - xp[i])
    dfp = np.zeros_like(fp)
    np.add.at(dfp, i, dy * (1 - t))
    np.add.at(dfp, i + 1, dy * t)
    return dy * (fp[i + 1] - fp[i]) / (xp[i + 1] - xp[i]), {"fp": dfp}


def log_softmax(h, p, c):
    m = h.max(axis=1, keepdims=True)
    return h - (m + np.log(np.sum(np.exp(h - m), axis=1, keepdims=True)))


def log_softmax_backward(h, p, c, dy):
    return dy - softmax(h, p, c) * dy.sum(1, keepdims=True), {}


def softmax(h, p, c):
    e = np.exp(h - h.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward(h, p, c, dy):
    y = softmax(h, p, c)
    return y * (dy - (dy * y).sum(1, keepdims=True)), {}


def centred(h, p, c):
    return h - np.mean(h, axis=c["axis"], keepdims=True)


def centred_backward(h, p, c, dy):
    return dy - dy.mean(c["axis"], keepdims=True), {}


def moments(h, p, c):
    return np.stack([h.mean(axis=1), np.var(h, axis=1)], axis=1)


def moments_backward(h, p, c, dy):
    d = h.shape[1]
    return dy[:, :1] / d + dy[:, 1:] * 2 * (h - h.mean(1, keepdims=True)) / d, {}


def with_squares(h, p, c):
    return np.concatenate([h, h**2], axis=1)


def with_squares_backward(h, p, c, dy):
    d = h.shape[1]
    return dy[:, :d] + dy[:, d:] * 2 * h, {}


# Matrix functions


def draw_matrix(rng, shape):
    """Squared as often as it is drawn, or, with None, as the matrix's norm asks for."""
    squarings = int(rng.integers(1, 5)) if rng.integers(2) else None
    return {"A": square(rng, shape[1], rng.choice([0.1, 1, 2]))}, {"terms": 14, "squarings": squarings}


def exponentials(A, c):
    """Return the Taylor polynomials by Horner's rule, and the squares that follow."""
    squarings = c["squarings"]
    if squarings is None:
        squarings = max(0, int(np.ceil(np.log2(np.abs(A).sum(axis=0).max() + 1e-30)))) + 1
    B, one = A / 2**squarings, np.eye(len(A)).astype(A.dtype)
    sums = [one]
    for k in range(c["terms"], 0, -1):
        sums.append(one + B @ sums[-1] / k)
    squares = [sums[-1]]
    for _ in range(squarings):
        squares.append(squares[-1] @ squares[-1])
    return B, sums, squares


def expm(h, p, c):
    return h @ exponentials(p["A"], c)[2][-1]


def expm_backward(h, p, c, dy):
    B, sums, squares = exponentials(p["A"], c)
    dE, dB = h.T @ dy, np.zeros_like(B)
    for E in reversed(squares[:-1]):
        dE = E.T @ dE + dE @ E.T
    for k in range(1, c["terms"] + 1):
        dB += dE @ sums[c["terms"] - k].T / k
        dE = B.T @ dE / k
    return dy @ squares[-1].T, {"A": dB / 2 ** (len(squares) - 1)}


def draw_power(rng, shape):
    power = int(rng.integers(2, 5))
    return {"A": square(rng, shape[1], rng.choice([0.1, 1]))}, {"power": power, "named": bool(rng.integers(2))}


def draw_nilpotent(rng, shape):
    d = min(shape[1], 4)
    A = np.zeros((shape[1], shape[1]))
    A[:d, :d] = np.triu(rng.normal(size=(d, d)), 1)
    return {"A": A}, {"power": int(rng.integers(2, d + 2)), "named": bool(rng.integers(2))}


def matrix_power(h, p, c):
    if c["named"]:
        return h @ np.linalg.matrix_power(p["A"], c["power"])
    for _ in range(c["power"]):
        h = h @ p["A"]
    return h


def matrix_power_backward(h, p, c, dy):
    A, steps = p["A"], [h]
    for _ in range(c["power"] - 1):
        steps.append(steps[-1] @ A)
    dA = np.zeros_like(A)
    for step in reversed(steps):
        dA += step.T @ dy
        dy = dy @ A.T
    return dy, {"A": dA}


def inverse(A):
    """Return the inverse in the precision of A, NaN without one; Newton's steps give what LAPACK cannot."""
    try:
        X = np.linalg.inv(A.astype(np.float64) if A.dtype == np.longdouble else A).astype(A.dtype)
    except np.linalg.LinAlgError:
        return np.full_like(A, np.nan)
    for _ in range(2 * (A.dtype == np.longdouble)):
        X = X @ (2 * np.eye(len(A), dtype=A.dtype) - A @ X)
    return X


def draw_solve(rng, shape):
    d = shape[1]
    return {"A": np.eye(d) * 2 + square(rng, d)}, {}


def solve(h, p, c):
    return np.linalg.solve(p["A"], h.T).T


def solve_backward(h, p, c, dy):
    X = inverse(p["A"])
    y, dh = h @ X.T, dy @ X
    return dh, {"A": -dh.T @ y}


# Entry by entry


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


ROOT = float(np.sqrt(2 / np.pi))


def gelu(z):
    return z * (1 + np.tanh(ROOT * (z + 0.044715 * z**3))) / 2


def gelu_slope(z):
    t = np.tanh(ROOT * (z + 0.044715 * z**3))
    return (1 + t) / 2 + z * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * z * z) / 2


CURVES = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "leaky": (lambda z: np.where(z > 0, z, 0.1 * z), lambda z: np.where(z > 0, 1, 0.1).astype(z.dtype)),
    "gelu": (gelu, gelu_slope),
    "softplus": (lambda z: np.log1p(np.exp(z)), sigmoid),
    "logaddexp": (lambda z: np.logaddexp(0, z), sigmoid),
    "abs": (np.abs, np.sign),
    "clip": (lambda z: np.clip(z, -1, 1), lambda z: ((z > -1) & (z < 1)).astype(z.dtype)),
    "hinge": (lambda z: np.maximum(0, 1 - z), lambda z: -(z < 1).astype(z.dtype)),
    "squared_hinge": (lambda z: np.maximum(0, 1 - z) ** 2, lambda z: -2 * np.maximum(0, 1 - z)),
    "square": (np.square, lambda z: 2 * z),
    "cube": (lambda z: z**3, lambda z: 3 * z * z),
    "sin": (np.sin, np.cos),
    "exp": (lambda z: np.exp(z / 3), lambda z: np.exp(z / 3) / 3),
    "log": (lambda z: np.log(1 + z * z), lambda z: 2 * z / (1 + z * z)),
    "root": (lambda z: np.sqrt(1 + z * z), lambda z: z / np.sqrt(1 + z * z)),
    "over": (lambda z: z / (1 + z * z), lambda z: (1 - z * z) / (1 + z * z) ** 2),
}
"""Functions of each entry, and their derivatives."""


def curve_of(name):
    function, slope = CURVES[name]
    return Operation(name, nothing, lambda h, p, c: function(h), lambda h, p, c, dy: (dy * slope(h), {}))


def from_two(shape):
    return shape[1] >= 2


LAYERS = {
    operation.name: operation
    for operation in [
        Operation("linear", draw_linear, linear, linear_backward),
        Operation(
            "shift", draw_shift, lambda h, p, c: h + p["s"], lambda h, p, c, dy: (dy, {"s": summed_to(dy, p["s"])})
        ),
        Operation("gain", draw_gain, lambda h, p, c: h * p["g"], gain_backward),
        Operation("embedding", draw_embedding, embedding, embedding_backward),
        Operation("product", draw_two, product, product_backward),
        Operation("gate", draw_one, gate, gate_backward),
        Operation("residual", draw_one, residual, residual_backward),
        Operation("attention", draw_attention, attention, attention_backward),
        Operation("layer_norm", draw_norm, *norm_of(1), from_two),
        Operation("batch_norm", draw_norm, *norm_of(0)),
        Operation("rms_norm", draw_rms, rms_norm, rms_norm_backward),
        Operation("unit_rows", nothing, unit_rows, unit_rows_backward, from_two),
        Operation("standardised", nothing, standardised, standardised_backward, from_two),
        Operation("conv1d", draw_conv1d, conv1d, conv1d_backward, from_two),
        Operation("conv2d", draw_conv2d, conv2d, conv2d_backward),
        Operation("spectrum", draw_spectrum, spectrum, spectrum_backward, from_two),
        Operation("cumsum", draw_axis, cumsum, cumsum_backward),
        Operation("cumprod", draw_cumprod, cumprod, cumprod_backward),
        Operation("sort", nothing, sort, sort_backward),
        Operation("top", draw_top, top, top_backward, from_two),
        Operation("quantile", draw_quantile, quantile, quantile_backward, from_two),
        Operation("peak", nothing, peak, peak_backward, from_two),
        Operation("interp", draw_interp, interp, interp_backward, precise=precise_interp),
        Operation("table", draw_interp, table, table_backward),
        Operation("log_softmax", nothing, log_softmax, log_softmax_backward, from_two),
        Operation("softmax", nothing, softmax, softmax_backward, from_two),
        Operation("centred", draw_axis, centred, centred_backward, from_two),
        Operation("moments", nothing, moments, moments_backward, from_two),
        Operation("with_squares", nothing, with_squares, with_squares_backward),
        Operation("expm", draw_matrix, expm, expm_backward),
        Operation("matrix_power", draw_power, matrix_power, matrix_power_backward),
        Operation("nilpotent", draw_nilpotent, matrix_power, matrix_power_backward, from_two),
        Operation("solve", draw_solve, solve, solve_backward, precise=lambda h, p, c: h @ inverse(p["A"]).T),
        *map(curve_of, CURVES),
    ]
}


# Losses


def draw_targets(rng, shape):
    return {}, {"t": rng.normal(size=shape)}


def draw_signs(rng, shape):
    return {}, {"t": np.where(rng.random(shape) < 0.5, -1.0, 1.0)}


def draw_counts(rng, shape):
    return {}, {"t": rng.poisson(2, size=shape).astype(float)}


def draw_labels(rng, shape):
    return {}, {"labels": rng.integers(shape[1], size=shape[0])}


def mean_of(name, draw, value, slope):
    """Return a loss that is the mean of a function of each output and its target."""

    def forward(h, p, c):
        return np.mean(value(h, c["t"]))

    def backward(h, p, c, dy):
        return dy * slope(h, c["t"]) / h.size, {}

    return Operation(name, draw, forward, backward)


def huber(h, t):
    a = np.abs(h - t)
    return np.where(a < 1, a * a / 2, a - 0.5)


def cross_entropy(h, p, c):
    e = h - h.max(axis=1, keepdims=True)
    logp = e - np.log(np.exp(e).sum(axis=1, keepdims=True))
    return -np.mean(logp[np.arange(len(h)), c["labels"]])


def cross_entropy_backward(h, p, c, dy):
    d = softmax(h, p, c)
    d[np.arange(len(h)), c["labels"]] -= 1
    return dy * d / len(h), {}


def gram(h):
    return h.T @ h / len(h) + np.eye(h.shape[1], dtype=h.dtype) / 10


def slogdet(h, p, c):
    return np.linalg.slogdet(h.T @ h / len(h) + np.eye(h.shape[1]) / 10)[1]


def slogdet_backward(h, p, c, dy):
    return dy * 2 * h @ inverse(gram(h)) / len(h), {}


LOSSES = {
    operation.name: operation
    for operation in [
        mean_of("squared", draw_targets, lambda h, t: (h - t) ** 2, lambda h, t: 2 * (h - t)),
        mean_of("absolute", draw_targets, lambda h, t: np.abs(h - t), lambda h, t: np.sign(h - t)),
        mean_of("huber", draw_targets, huber, lambda h, t: np.clip(h - t, -1, 1)),
        mean_of("hinge_loss", draw_signs, lambda h, t: np.maximum(0, 1 - t * h), lambda h, t: -t * (t * h < 1)),
        mean_of(
            "squared_hinge_loss", draw_signs,
            lambda h, t: np.maximum(0, 1 - t * h) ** 2, lambda h, t: -2 * t * np.maximum(0, 1 - t * h),
        ),
        mean_of("poisson", draw_counts, lambda h, t: np.exp(h) - t * h, lambda h, t: np.exp(h) - t),
        mean_of("exponential", draw_signs, lambda h, t: np.exp(-t * h), lambda h, t: -t * np.exp(-t * h)),
        mean_of("logistic", draw_signs, lambda h, t: np.logaddexp(0, -t * h), lambda h, t: -t * sigmoid(-t * h)),
        mean_of("weighted", draw_targets, lambda h, t: h * t, lambda h, t: t),
        mean_of(
            "pinball", draw_targets,
            lambda h, t: np.maximum(0.9 * (t - h), 0.1 * (h - t)),
            lambda h, t: np.where(h < t, -0.9, 0.1).astype(h.dtype),
        ),
        Operation("cross_entropy", draw_labels, cross_entropy, cross_entropy_backward, from_two),
        Operation("slogdet", nothing, slogdet, slogdet_backward),
        Operation(
            "sum_of_squares", nothing, lambda h, p, c: np.sum(h**2), lambda h, p, c, dy: (dy * 2 * h, {})
        ),
        Operation(
            "variance", nothing, lambda h, p, c: np.var(h, axis=0).sum(),
            lambda h, p, c, dy: (dy * 2 * (h - h.mean(0)) / len(h), {}),
        ),
    ]
}  # fmt: skip


# Terms of one array

PENALTIES = {
    "l1": (lambda w: np.sum(np.abs(w)), np.sign),
    "l2": (lambda w: np.sum(w**2), lambda w: 2 * w),
    "norm": (lambda w: np.sqrt(np.sum(w**2)), lambda w: w / np.sqrt(np.sum(w**2))),
    "determinant": (lambda w: np.linalg.slogdet(w)[1], lambda w: inverse(w).T),
}
"""Penalties of one array, and their gradients; the determinant's is of square ones."""
