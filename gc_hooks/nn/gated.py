"""Recurrent layers with gates: `LSTM` and `GRU`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.nn.functions import sigmoid
from gc_hooks.nn.recurrent import Recurrent, State


class LSTM(Recurrent):
    """``c' = f c + i g``, ``h' = o tanh(c')``, with gates i, f, o of a sigmoid and g of a tanh of ``x W + h U + b``.

    Hochreiter and Schmidhuber, "Long short-term memory" (1997), with the forget gate of Gers, Schmidhuber and Cummins
    (2000). The blocks of W, U and b are i, f, o, g.

    Parameters
    ----------
    inputs, units, last_step, truncation, init
        As for `RNN`.

    Raises
    ------
    InvalidProblem
        As for `RNN`.

    Examples
    --------
    >>> from gc_hooks.nn import Context
    >>> layer = LSTM(3, 4, last_step=True)
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> layer.forward(params, np.ones((2, 5, 3)), Context())[0].shape
    (2, 4)
    >>> params["b"].reshape(4, 4)[1]  # to forget nothing, at first
    array([1., 1., 1., 1.])
    """

    kind = "lstm"
    gates = 4
    states = 2

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """As for `RNN`, with ones for the biases of the forget gate: Jozefowicz, Zaremba and Sutskever (2015)."""
        params = super().init(generator, dtype)
        params["b"][self.units : 2 * self.units] = 1
        return params

    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Any]:
        """``c' = f c + i g``, ``h' = o tanh(c')``; the cache is the gates, g, c and tanh(c')."""
        H, before = self.units, state[1]
        z = A + R
        gates, g = sigmoid(z[:, : 3 * H]), np.tanh(z[:, 3 * H :])
        c = gates[:, H : 2 * H] * before + gates[:, :H] * g
        squashed = np.tanh(c)
        return (gates[:, 2 * H :] * squashed, c), (gates, g, before, squashed)

    def cell_backward(self, cache: Any, upstream: State) -> tuple[Array, Array, State]:
        """``dc' += dh' o (1 - tanh(c')^2)``, ``di = dc' g``, ``df = dc' c``, ``do = dh' tanh(c')``, ``dg = dc' i``,
        ``dc = dc' f``; each gate's times its derivative s (1 - s), g's times 1 - g^2."""
        H, (gates, g, before, squashed) = self.units, cache
        i, f, o = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :]
        dh, dc = upstream
        dc = dc + dh * o * (1 - squashed * squashed)
        for_gates = np.concatenate([dc * g, dc * before, dh * squashed], axis=1) * gates * (1 - gates)
        dA = np.concatenate([for_gates, dc * i * (1 - g * g)], axis=1)
        return dA, dA, (np.zeros_like(dh), dc * f)


class GRU(Recurrent):
    """``h' = (1 - z) n + z h`` with gates r, z of a sigmoid of ``x W + h U + b`` and ``n = tanh(A_n + r (R_n + c))``.

    Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), in the form in which the reset gate
    comes after the product with U (as in cuDNN and PyTorch), which has a bias c of its own. The blocks of W, U and b
    are r, z, n.

    Parameters
    ----------
    inputs, units, last_step, truncation, init
        As for `RNN`.

    Raises
    ------
    InvalidProblem
        As for `RNN`.

    Examples
    --------
    >>> params = GRU(3, 4).init(np.random.default_rng(0), np.float64)
    >>> {name: array.shape for name, array in params.items()}
    {'W': (3, 12), 'U': (4, 12), 'b': (12,), 'c': (4,)}
    """

    kind = "gru"
    gates = 3

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """As for `RNN`, and c (H,) of zeros."""
        return {**super().init(generator, dtype), "c": np.zeros(self.units, dtype)}

    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Any]:
        """``h' = (1 - z) n + z h``; the cache is the gates, n, what r is multiplied with, and h."""
        H, before = self.units, state[0]
        gates = sigmoid(A[:, : 2 * H] + R[:, : 2 * H])
        r, z = gates[:, :H], gates[:, H:]
        reset = R[:, 2 * H :] + params["c"]
        n = np.tanh(A[:, 2 * H :] + r * reset)
        return ((1 - z) * n + z * before,), (gates, n, reset, before)

    def cell_backward(self, cache: Any, upstream: State) -> tuple[Array, Array, State]:
        """``dn = dh' (1 - z) (1 - n^2)``, ``dr = dn (R_n + c) r (1 - r)``, ``dz = dh' (h - n) z (1 - z)``; R_n gets
        ``r dn``, and h ``z dh'``."""
        H, (gates, n, reset, before) = self.units, cache
        r, z = gates[:, :H], gates[:, H:]
        (dh,) = upstream
        dn = dh * (1 - z) * (1 - n * n)
        for_gates = np.concatenate([dn * reset, dh * (before - n)], axis=1) * gates * (1 - gates)
        return np.concatenate([for_gates, dn], axis=1), np.concatenate([for_gates, r * dn], axis=1), (z * dh,)

    def own_grads(self, dR: Array) -> dict[str, Array]:
        """``dc = sum of the last block of dR``."""
        return {"c": dR[:, :, 2 * self.units :].sum(axis=(0, 1))}
