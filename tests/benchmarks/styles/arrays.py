"""NumPy's functions: products, indexing, reductions, sorting, shapes."""

from __future__ import annotations

import numpy as np

from benchmarks.styles.collection import PURE, style


@style
def einsum_of_a_batch(rng):
    x = rng.normal(size=(3, 2, 2))

    def loss(p):
        h = np.einsum("bij,jk->bik", x, p["W"])
        h = np.einsum("bik,bjk->bij", h, h)
        return np.einsum("bii->", h) + np.einsum("ij,ij", p["W"], p["W"])

    return loss, {"W": rng.normal(size=(2, 3))}, PURE


@style
def einsum_with_an_ellipsis(rng):
    x = rng.normal(size=(2, 3, 2))
    return lambda W: np.sum(np.tanh(np.einsum("...i,ij->...j", x, W))), rng.normal(size=(2, 2)), PURE


@style
def tensordot_and_matmul(rng):
    x = rng.normal(size=(2, 3, 2))

    def loss(p):
        h = np.tensordot(x, p["T"], axes=([1, 2], [0, 1]))
        return np.sum(np.matmul(h, p["W"]) ** 2) + np.tensordot(p["W"], p["W"])

    return loss, {"T": rng.normal(size=(3, 2, 2)), "W": rng.normal(size=(2, 2))}, PURE


@style
def outer_inner_vdot_kron(rng):
    a = rng.normal(size=3)

    def loss(p):
        u, v = p["u"], p["v"]
        return (
            np.sum(np.outer(a, u) ** 2)
            + np.inner(u, a) ** 2
            + np.vdot(u, v)
            + np.sum(np.kron(u, v[:2]) ** 3)
            + np.cross(u, v)[0]
        )

    return loss, {"u": rng.normal(size=3), "v": rng.normal(size=3)}, PURE


@style
def multi_dot_and_trace(rng):
    A, B = rng.normal(size=(2, 3)), rng.normal(size=(2, 2))
    return lambda W: np.trace(np.linalg.multi_dot([A, W, B])) ** 2, rng.normal(size=(3, 2)), PURE


@style
def fancy_rows_and_columns(rng):
    rows, columns = np.array([0, 2, 2]), np.array([1, 1, 0])

    def loss(W):
        return np.sum(W[rows, columns] ** 2) + np.sum(np.sin(W[rows])) + np.sum(W[:, columns] ** 3) + W[-1, 0]

    return loss, rng.normal(size=(3, 2)), PURE


@style
def boolean_indexing(rng):
    X = rng.normal(size=(6, 3))
    keep = np.array([True, False, True, True, False, True])

    def loss(w):
        z = (X @ w)[keep]
        return np.sum(z[z > 0] ** 2) + z[z < 0].sum()

    return loss, rng.normal(size=3), PURE


@style
def take_and_compress(rng):
    def loss(W):
        return np.sum(np.take(W, [0, 2, 0], axis=0) ** 2) + np.take(W, 3) + W.take([1, 1], axis=1).prod()

    return loss, rng.normal(size=(3, 2)), PURE


@style
def take_along_the_argmax(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        z = X @ W
        best = np.argmax(z, axis=1)
        return np.sum(np.take_along_axis(z, best[:, None], axis=1) ** 2) + z[np.arange(4), np.argmin(z, axis=1)].sum()

    return loss, rng.normal(size=(3, 3)), PURE


@style
def choose_and_select(rng):
    X, which = rng.normal(size=4), np.array([0, 1, 1, 0])

    def loss(w):
        z = X * w[0]
        first = np.choose(which, [z, z**2 * w[1]])
        second = np.select([X > 0.5, X < -0.5], [z * w[2], np.exp(z)], default=0.25 * z)
        return np.sum(first * second)

    return loss, rng.normal(size=3), PURE


@style
def choose_for_the_right_class(rng):
    X, y = rng.normal(size=(5, 3)), rng.integers(3, size=5)

    def loss(W):
        scores = X @ W
        correct = np.choose(y, scores.T)
        return np.sum(np.log(np.sum(np.exp(scores), axis=1)) - correct)

    return loss, rng.normal(size=(3, 3)), PURE


@style
def where_nested(rng):
    X = rng.normal(size=8)

    def loss(w):
        z = X * w[0] + w[1]
        return np.sum(np.where(z > 1, 2 * z - 1, np.where(z < -1, -0.5 * z, z**2)))

    return loss, rng.normal(size=2), PURE


@style
def where_as_an_index(rng):
    def loss(w):
        (positive,) = np.where(w > 0)
        negative = np.nonzero(w < 0)[0]
        return np.sum(w[positive] ** 2) - np.sum(w[negative] ** 3)

    return loss, rng.normal(size=6), PURE


@style
def clip_minimum_maximum(rng):
    X = rng.normal(size=6)

    def loss(w):
        z = X * w
        return np.sum(np.clip(z, -0.5, 0.5) ** 2 + np.minimum(z, 1) * np.maximum(z, w[::-1]) + np.fmax(z, 0))

    return loss, rng.normal(size=6), PURE


@style
def clip_as_a_method(rng):
    X, y = rng.normal(size=(4, 2)), rng.integers(2, size=4)

    def loss(w):
        p = (1 / (1 + np.exp(-X @ w))).clip(1e-7, 1 - 1e-7)
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()

    return loss, rng.normal(size=2), PURE


@style
def absolute_and_sign(rng):
    x = rng.normal(size=6)

    def loss(w):
        z = w * x
        return (
            np.sum(np.abs(z)) + np.sum(np.sign(z) * z**2) + np.fabs(w).max() + abs(w[0]) + np.sum(np.absolute(z) ** 3)
        )

    return loss, rng.normal(size=6), PURE


@style
def sort_and_argsort(rng):
    x = rng.normal(size=6)

    def loss(w):
        z = np.sort(w * x)
        order = np.argsort(-w)
        return np.sum(z * np.arange(6)) + np.sum(w[order[:2]] ** 2)

    return loss, rng.normal(size=6), PURE


@style
def top_k_by_partition(rng):
    X = rng.normal(size=(3, 5))

    def loss(w):
        z = X * w
        return np.sum(np.partition(z, -2, axis=1)[:, -2:] ** 2)

    return loss, rng.normal(size=5), PURE


@style
def top_k_by_argpartition(rng):
    def loss(w):
        top = np.argpartition(w, -3)[-3:]
        return np.sum(np.exp(w[top]))

    return loss, rng.normal(size=6), PURE


@style
def largest_and_smallest(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        z = X @ W
        return np.max(z) + z.min() ** 2 + np.amax(z, axis=0).sum() + z.max(axis=1).prod() + np.ptp(z)

    return loss, rng.normal(size=(3, 2)), PURE


@style
def median_quantile_percentile(rng):
    x = rng.normal(size=7)

    def loss(w):
        z = w * x
        return np.median(z) ** 2 + np.quantile(z, 0.3) + np.percentile(z, [25, 80]).sum()

    return loss, rng.normal(size=7), PURE


@style
def cumulative_sums_and_products(rng):
    x = rng.normal(size=5)

    def loss(w):
        z = np.tanh(w * x)
        transmittance = np.cumprod(1 - 0.5 * z**2)
        return np.sum(np.cumsum(z) ** 2) + np.sum(transmittance * z) + np.prod(w)

    return loss, rng.normal(size=5), PURE


@style
def cumsum_of_an_axis_as_a_method(rng):
    X = rng.normal(size=(3, 4))
    return lambda w: ((X * w).cumsum(axis=1) ** 2).sum() + w.cumprod()[-1], rng.normal(size=4), PURE


@style
def differences_and_total_variation(rng):
    x = rng.normal(size=(3, 4))

    def loss(p):
        z = x + p
        return np.sum(np.abs(np.diff(z, axis=0))) + np.sum(np.diff(z, n=2) ** 2) + np.sum(np.gradient(z[0]) ** 2)

    return loss, rng.normal(size=(3, 4)), PURE


@style
def interpolation(rng):
    at, knots = np.array([0.2, 0.9, 1.7, 2.4]), np.arange(4.0)
    return lambda values: np.sum(np.interp(at, knots, values) ** 2), rng.normal(size=4), PURE


@style
def trapezoids(rng):
    t = np.linspace(0, 1, 6)

    def area(w):
        y = np.exp(w[0] * t) * w[1]
        return (np.diff(t) * (y[1:] + y[:-1]) / 2).sum() ** 2

    return area, rng.normal(size=2), PURE


@style
def roll_flip_rot90(rng):
    x = rng.normal(size=(3, 3))

    def loss(W):
        y = np.roll(W, 1, axis=0) * x + np.flip(W, axis=1) ** 2 + W[::-1] * np.rot90(W)
        return np.sum(y * np.fliplr(x)) + np.sum(np.flipud(W) * x)

    return loss, rng.normal(size=(3, 3)), PURE


@style
def tile_and_repeat(rng):
    x = rng.normal(size=(4, 3))

    def loss(w):
        return np.sum(x * np.tile(w, (4, 1))) ** 2 + np.sum(np.repeat(w, 4).reshape(3, 4) ** 3) + w.repeat(2).prod()

    return loss, rng.normal(size=3), PURE


@style
def broadcasting_of_columns(rng):
    X, Y = rng.normal(size=(4, 2)), rng.normal(size=(3, 2))

    def loss(p):
        d = (X @ p)[:, np.newaxis, :] - (Y @ p)[None]
        squared = np.sum(d**2, axis=-1)
        return np.sum(np.exp(-squared)) + np.sum(np.expand_dims(squared, 0) * np.broadcast_to(squared[:, :1], (4, 3)))

    return loss, rng.normal(size=(2, 2)), PURE


@style
def distances_by_the_binomial_formula(rng):
    X = rng.normal(size=(4, 3))

    def loss(C):
        d2 = (X**2).sum(1)[:, None] + (C**2).sum(1)[None, :] - 2 * X @ C.T
        return np.sum(np.min(d2, axis=1))

    return loss, rng.normal(size=(2, 3)), PURE


@style
def axes_moved_and_swapped(rng):
    x = rng.normal(size=(2, 3, 2))

    def loss(T):
        a = np.swapaxes(T, 0, 1) * np.moveaxis(x, 0, 1)
        b = np.transpose(T, (2, 0, 1)) * x.transpose(2, 0, 1)
        return np.sum(a**2) + np.sum(np.tanh(b)) + np.rollaxis(T, 2).sum()

    return loss, rng.normal(size=(2, 3, 2)), PURE


@style
def shapes_by_methods(rng):
    x = rng.normal(size=(4, 6))

    def loss(W):
        flat = W.flatten()
        again = W.ravel().reshape(3, -1).transpose(1, 0)
        return (x @ flat).sum() ** 2 + (again.T.dot(again)).sum() + W.swapaxes(0, 1).squeeze().sum() + W.size

    return loss, rng.normal(size=(3, 2)), PURE


@style
def transpose_with_arguments(rng):
    x = rng.normal(size=(2, 3, 4))

    def loss(W):
        y = x.transpose(0, 2, 1) @ W
        return np.sum(y.transpose(2, 0, 1)[0] ** 2) + y.T.sum()

    return loss, rng.normal(size=(3, 2)), PURE


@style
def reductions_as_methods(rng):
    X = rng.normal(size=(4, 3))

    def loss(W):
        z = X.dot(W)
        return (
            z.sum(axis=0).prod() + z.mean(1).std() + z.var() + z.max() - z.min(axis=0, keepdims=True).sum() + z.trace()
        )

    return loss, rng.normal(size=(3, 3)), PURE


@style
def sum_over_several_axes(rng):
    x = rng.normal(size=(2, 3, 2))
    return (
        lambda w: np.sum(np.sum((x * w) ** 2, axis=(0, 2)) ** 0.5) + np.mean(x * w, axis=(-1, 0)).sum(),
        rng.normal(size=(3, 1)),
        PURE,
    )


@style
def sum_of_a_where(rng):
    x, mask = rng.normal(size=(3, 4)), rng.random((3, 4)) < 0.6
    return lambda w: np.sum(x * w**2, where=mask) + np.nansum(np.where(mask, w * x, np.nan)), rng.normal(size=4), PURE


@style
def masked_mean_by_multiplication(rng):
    x, mask = rng.normal(size=(3, 4)), rng.integers(2, size=(3, 4)).astype(bool)

    def loss(w):
        error = (x * w - 1) ** 2
        return (error * mask).sum() / mask.sum() + error[mask].mean()

    return loss, rng.normal(size=4), PURE


@style
def reduce_accumulate_outer_of_ufuncs(rng):
    x = rng.normal(size=4)

    def loss(w):
        z = np.multiply.outer(w, x)
        return np.add.reduce(z, axis=0).prod() + np.multiply.reduce(w) + np.add.accumulate(w)[2] + np.maximum.reduce(w)

    return loss, rng.normal(size=3), PURE


@style
def reduceat_for_segments(rng):
    x = rng.normal(size=6)
    return lambda w: np.sum(np.add.reduceat(w * x, [0, 2, 5]) ** 2), rng.normal(size=6), PURE


@style
def bincount_for_segments(rng):
    x, index = rng.normal(size=6), np.array([0, 1, 1, 2, 0, 2])
    return lambda w: np.sum(np.bincount(index, weights=w * x) ** 2), rng.normal(size=6), PURE


@style
def powers_and_roots(rng):
    x = rng.random(5) + 0.5

    def loss(w):
        w = np.square(w) + 0.5
        return np.sum(
            x**w + np.power(w, 2.5) + np.sqrt(w) + np.cbrt(w) + np.reciprocal(w) + np.float_power(w, x) + 2**w
        )

    return loss, rng.normal(size=5), PURE


@style
def trigonometry(rng):
    def loss(w):
        s = np.sin(w) * 0.5
        return np.sum(
            np.arcsin(s) + np.arccos(s) * np.cos(w) + np.arctan2(w, 2.0) + np.sinh(s) + np.cosh(s) + np.arctan(w)
        ) + np.sum(np.hypot(w, s) + np.tan(s) + np.arctanh(s) + np.deg2rad(w) + np.sinc(w))

    return loss, rng.normal(size=4), PURE


@style
def logarithms(rng):
    def loss(w):
        w = np.abs(w) + 0.5
        return np.sum(np.log(w) + np.log2(w) * np.log10(w) + np.log1p(w) + np.exp2(-w) + np.expm1(-w))

    return loss, rng.normal(size=4), PURE


@style
def remainders_and_floors(rng):
    x = 3 * rng.normal(size=5)

    def loss(w):
        z = x * w
        return np.sum(np.mod(z, 1.0) ** 2 + (z - np.floor(z)) * z + np.round(z) * w + z % 2 + np.heaviside(z, 0.5) * z)

    return loss, rng.normal(size=5), PURE


@style
def polynomial_features_by_vander(rng):
    x = rng.normal(size=5)
    return (
        lambda p: np.sum((np.vander(x * p["scale"], 3) @ p["w"]) ** 2),
        {"w": rng.normal(size=3), "scale": 0.75},
        PURE,
    )


@style
def grids_by_meshgrid(rng):
    y, x = np.meshgrid(np.arange(3.0), np.arange(4.0), indexing="ij")

    def gaussian_bump(p):
        bump = np.exp(-((x - p["cx"]) ** 2 + (y - p["cy"]) ** 2) / (2 * p["s"] ** 2))
        return np.sum((bump - 0.3) ** 2)

    return gaussian_bump, {"cx": 1.25, "cy": 0.75, "s": 1.5}, PURE


@style
def spatial_gather_bilinear(rng):
    image = rng.normal(size=(4, 4))

    def loss(points):
        x, y = points[:, 0], points[:, 1]
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        dx, dy = x - x0, y - y0
        values = (
            image[y0, x0] * (1 - dx) * (1 - dy)
            + image[y0, x0 + 1] * dx * (1 - dy)
            + image[y0 + 1, x0] * (1 - dx) * dy
            + image[y0 + 1, x0 + 1] * dx * dy
        )
        return np.sum(values**2)

    return loss, rng.uniform(0.2, 2.8, size=(4, 2)), PURE


@style
def delete_and_concatenate(rng):
    def loss(w):
        return np.sum(np.delete(w, 1) ** 3) + np.concatenate([w[:2], w[3:], w * 2]).prod()

    return loss, rng.normal(size=5), PURE


@style
def apply_along_axis(rng):
    X = rng.normal(size=(4, 3))

    def softmax_of_a_row(row):
        e = np.exp(row - row.max())
        return e / e.sum()

    def loss(W):
        probs = np.apply_along_axis(softmax_of_a_row, 1, X @ W)
        return -np.sum(np.log(probs[:, 0]))

    return loss, rng.normal(size=(3, 3)), PURE


@style
def vectorized_scalar_function(rng):
    X = rng.normal(size=6)

    def scalar(z):
        if z > 0:
            return z * z
        return -0.5 * z

    activation = np.vectorize(scalar)
    return lambda w: np.sum(activation(X * w[0] + w[1])), rng.normal(size=2), PURE


@style
def covariance_and_correlation(rng):
    X = rng.normal(size=(5, 3))

    def barlow(W):
        z = X @ W
        z = (z - z.mean(0)) / z.std(0)
        c = z.T @ z / len(z)
        return np.sum((c - np.eye(2)) ** 2) + np.cov((X @ W).T)[0, 1]

    return barlow, rng.normal(size=(3, 2)), PURE


@style
def average_with_weights(rng):
    x = rng.normal(size=(4, 2))
    return lambda w: np.sum(np.average(x, axis=0, weights=np.exp(w)) ** 2), rng.normal(size=4), PURE


@style
def triangles_and_diagonals(rng):
    def loss(W):
        L = np.tril(W, -1) + np.diag(np.exp(np.diag(W)))
        return np.sum((L @ L.T) ** 2) + np.triu(W, 1).sum() ** 2 + np.diagonal(W).prod() + np.diagflat(W[0]).sum()

    return loss, rng.normal(size=(3, 3)), PURE
