"""Convolutions and pooling: by loops, by im2col, by strides, by windows."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from benchmarks.styles.collection import PURE, style


def images(rng, channels=1, size=4):
    return rng.normal(size=(2, channels, size, size))


@style
def convolution_by_four_loops(rng):
    x = images(rng)

    def conv_forward_naive(x, w, b, pad=1, stride=2):
        N, _, H, W = x.shape
        F, _, HH, WW = w.shape
        x_pad = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="constant")
        H_out, W_out = 1 + (H + 2 * pad - HH) // stride, 1 + (W + 2 * pad - WW) // stride
        out = np.zeros((N, F, H_out, W_out))
        for n in range(N):
            for f in range(F):
                for i in range(H_out):
                    for j in range(W_out):
                        window = x_pad[n, :, i * stride : i * stride + HH, j * stride : j * stride + WW]
                        out[n, f, i, j] = np.sum(window * w[f]) + b[f]
        return out

    params = {"w": rng.normal(size=(2, 1, 3, 3)), "b": rng.normal(size=2)}
    return lambda p: np.sum(np.tanh(conv_forward_naive(x, p["w"], p["b"]))), params, PURE


@style
def convolution_by_im2col_in_a_loop(rng):
    x = images(rng, channels=2)

    def im2col(data, fh, fw):
        N, C, H, W = data.shape
        out_h, out_w = H - fh + 1, W - fw + 1
        col = np.zeros((N, C, fh, fw, out_h, out_w))
        for y in range(fh):
            for x in range(fw):
                col[:, :, y, x, :, :] = data[:, :, y : y + out_h, x : x + out_w]
        return col.transpose(0, 4, 5, 1, 2, 3).reshape(N * out_h * out_w, -1)

    def loss(p):
        h = np.maximum(im2col(x, 2, 2) @ p["W1"].reshape(2, -1).T + p["b1"], 0)
        h = h.reshape(2, 3, 3, 2).transpose(0, 3, 1, 2)
        return np.sum((im2col(h, 3, 3) @ p["W2"]) ** 2)

    params = {"W1": rng.normal(size=(2, 2, 2, 2)), "b1": rng.normal(size=2), "W2": rng.normal(size=(18, 1))}
    return loss, params, PURE


@style
def convolution_by_im2col_indices(rng):
    x = images(rng)
    i, j = np.meshgrid(np.arange(2), np.arange(2), indexing="ij")
    rows = i.reshape(-1, 1) + np.repeat(np.arange(3), 3).reshape(1, -1)
    columns = j.reshape(-1, 1) + np.tile(np.arange(3), 3).reshape(1, -1)

    def loss(p):
        h = np.tanh(x * p["gain"])
        patches = h[:, 0][:, rows, columns]
        return np.sum(np.einsum("fk,nkp->nfp", p["w"], patches) ** 2)

    return loss, {"gain": rng.normal(size=(4, 4)), "w": rng.normal(size=(2, 4))}, PURE


@style
def convolution_by_as_strided(rng):
    x = images(rng)[:, 0]

    def windows(a, k):
        n, h, w = a.shape
        s = a.strides
        return as_strided(a, (n, h - k + 1, w - k + 1, k, k), (s[0], s[1], s[2], s[1], s[2]))

    def loss(p):
        h = np.einsum("nijkl,kl->nij", windows(x, 2), p["w1"])
        h = np.maximum(h, 0)
        return np.sum(np.einsum("nijkl,kl->nij", windows(h, 2), p["w2"]) ** 2)

    return loss, {"w1": rng.normal(size=(2, 2)), "w2": rng.normal(size=(2, 2))}, PURE


@style
def convolution_by_sliding_windows(rng):
    x = images(rng)[:, 0]

    def loss(p):
        h = np.tensordot(sliding_window_view(x, (2, 2), axis=(1, 2)), p["w1"], axes=2)
        h = np.tanh(h)
        h = np.tensordot(sliding_window_view(h, (2, 2), axis=(1, 2)), p["w2"], axes=2)
        return np.mean(h**2)

    return loss, {"w1": rng.normal(size=(2, 2)), "w2": rng.normal(size=(2, 2))}, PURE


@style
def strided_windows_of_data_only(rng):
    x = rng.normal(size=10)
    patches = sliding_window_view(x, 3)
    return lambda w: np.sum(np.maximum(patches @ w, 0) ** 2), rng.normal(size=3), PURE


@style
def convolution_by_shifts_of_the_kernel(rng):
    x = images(rng)[:, 0]

    def loss(w):
        out = 0
        for i in range(2):
            for j in range(2):
                out = out + w[i, j] * x[:, i : i + 3, j : j + 3]
        return np.sum(np.cos(out))

    return loss, rng.normal(size=(2, 2)), PURE


@style
def convolution_of_a_signal(rng):
    x = rng.normal(size=8)

    def loss(p):
        h = np.tanh(np.convolve(x, p["k"], mode="valid"))
        return np.sum(np.correlate(h, p["c"], mode="valid") ** 2) + np.convolve(h, p["c"]).sum()

    return loss, {"k": rng.normal(size=3), "c": rng.normal(size=2)}, PURE


@style
def convolution_same_of_a_signal(rng):
    x = rng.normal(size=6)
    return lambda k: np.sum(np.convolve(x, k, mode="same") ** 2), rng.normal(size=3), PURE


@style
def transposed_convolution(rng):
    x = rng.normal(size=(2, 3))

    def loss(w):
        out = np.zeros((2, 2 * 3 + 1))
        for i in range(3):
            out[:, 2 * i : 2 * i + 3] += x[:, i, None] * w
        return np.sum(np.tanh(out) ** 2)

    return loss, rng.normal(size=3), PURE


@style
def upsampling_by_repeat_and_by_zeros(rng):
    x = rng.normal(size=(3, 3))

    def loss(w):
        h = x * w
        nearest = h.repeat(2, axis=0).repeat(2, axis=1)
        dilated = np.zeros((6, 6))
        dilated[::2, ::2] = h
        return np.sum(nearest * np.roll(nearest, 1, axis=0)) + np.sum(np.exp(dilated))

    return loss, rng.normal(size=(3, 3)), PURE


@style
def max_pooling_by_loops(rng):
    x = images(rng)[:, 0]

    def loss(w):
        h = x * w
        pooled = np.zeros((2, 2, 2))
        for i in range(2):
            for j in range(2):
                pooled[:, i, j] = np.max(h[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], axis=(1, 2))
        return np.sum(pooled**2)

    return loss, rng.normal(size=(4, 4)), PURE


@style
def max_pooling_by_reshape(rng):
    x = images(rng)

    def loss(w):
        h = np.maximum(x * w, 0.01 * x * w)
        pooled = h.reshape(2, 1, 2, 2, 2, 2).max(axis=3).max(axis=4)
        return np.sum(np.sin(pooled))

    return loss, rng.normal(size=(4, 4)), PURE


@style
def max_pooling_by_argmax(rng):
    x = images(rng)

    def loss(w):
        h = x * w
        col = h.reshape(2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
        arg_max = np.argmax(col, axis=1)
        return np.sum(col[np.arange(len(col)), arg_max] ** 3)

    return loss, rng.normal(size=(4, 4)), PURE


@style
def average_pooling_and_global(rng):
    x = images(rng, channels=2)

    def loss(p):
        h = x * p["gain"]
        pooled = h.reshape(2, 2, 2, 2, 2, 2).mean(axis=(3, 5))
        return np.sum(pooled**2) + np.sum(h.mean(axis=(2, 3)) @ p["W"])

    return loss, {"gain": rng.normal(size=(2, 1, 4)), "W": rng.normal(size=(2, 2))}, PURE


@style
def padding_modes(rng):
    x = rng.normal(size=(3, 3))

    def loss(w):
        h = x * w
        edges = np.pad(h, 1, mode="edge")
        mirrored = np.pad(h, ((1, 1), (0, 0)), "reflect")
        return np.sum(edges[:-2] * edges[2:]) + np.sum(mirrored[1:] * mirrored[:-1]) + np.pad(w, 1)[1:].prod(0).sum()

    return loss, rng.normal(size=(3, 3)), PURE


@style
def depthwise_and_pointwise(rng):
    x = images(rng, channels=2, size=3)

    def loss(p):
        h = np.zeros((2, 2, 2, 2))
        for c in range(2):
            for i in range(2):
                for j in range(2):
                    h[:, c] += p["depth"][c, i, j] * x[:, c, i : i + 2, j : j + 2]
        return np.sum(np.einsum("oc,nchw->nohw", p["point"], h) ** 2)

    return loss, {"depth": rng.normal(size=(2, 2, 2)), "point": rng.normal(size=(3, 2))}, PURE


@style
def convolution_by_scipy_signal(rng):
    from scipy.signal import convolve2d, correlate2d

    x = rng.normal(size=(4, 4))

    def loss(p):
        h = np.tanh(correlate2d(x, p["a"], mode="valid"))
        return np.sum(convolve2d(h, p["b"], mode="full") ** 2)

    return loss, {"a": rng.normal(size=(2, 2)), "b": rng.normal(size=(2, 2))}, PURE


@style
def convolution_by_fft(rng):
    x = rng.normal(size=6)

    def loss(k):
        spectrum = np.fft.rfft(x) * np.fft.rfft(k, n=6)
        return np.sum(np.fft.irfft(spectrum, n=6) ** 3)

    return loss, rng.normal(size=3), PURE
