"""Layers for sequences: RNN, LSTM, GRU, an embedding of symbols, and any layer applied at each step.

N samples of T steps with D inputs each, H units. The state before the first step is zero. What does not depend on the
state before is computed for all steps at once, so that a step costs one matrix product. Each cell is a pair of
functions, `cell` and `cell_backward`; the loops over time are the same for all of them.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import sigmoid
from gc_hooks.nn.layers import Cache, Context, Initializer, Layer, glorot, orthogonal
from gc_hooks.nn.ranges import COUNT

State: TypeAlias = tuple[Array, ...]
"""What a step passes on to the next: the hidden state (N, H), and the cell state (N, H) of an LSTM."""


class Recurrent(Layer):
    """Base class: ``A = X W + b`` for all steps at once, then step by step ``R = h U`` and a cell that takes both."""

    gates = 1  # number G of blocks of H columns in W and U
    states = 1  # number of arrays that a step passes on to the next

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        last_step: bool = False,
        truncation: int | None = None,
        init: Initializer = glorot,
    ) -> None:
        hint = "Nothing would be passed on, or back. Try RNN(3, 8), and truncation=None for all steps."
        steps = 1 if truncation is None else truncation
        COUNT.check(type(self).__name__, hint, inputs=inputs, units=units, truncation=steps)
        self.inputs, self.units, self.initializer = inputs, units, init
        self.last_step, self.truncation = last_step, truncation
        self._constant_states: list[State] = []  # of a detached layer: the state before each step

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Return W (D, G H) from the initialiser and U (H, G H) orthogonal, block by block; b (G H,) of zeros."""
        blocks = [self.initializer(generator, self.inputs, self.units) for _ in range(self.gates)]
        recurrent = [orthogonal(generator, self.units, self.units) for _ in range(self.gates)]
        W, U = np.concatenate(blocks, axis=1), np.concatenate(recurrent, axis=1)
        return {"W": W.astype(dtype), "U": U.astype(dtype), "b": np.zeros(self.gates * self.units, dtype)}

    @abstractmethod
    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Cache]:
        """Make one step from ``A = x W + b`` and ``R = h U``, both (N, G H); return the next state and a cache."""

    @abstractmethod
    def cell_backward(self, cache: Cache, upstream: State) -> tuple[Array, Array, State]:
        """Return the gradients for A, for R, and for the state before, without what flows into h through R."""

    def own_grads(self, dR: Array) -> dict[str, Array]:
        """Return the gradients of further parameters of the cell, from those for R (N, T, G H). By default none."""
        return {}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Cache]:
        """Compute the hidden states (N, T, H) for inputs (N, T, D), or the last of them, (N, H).

        The cache is the inputs and, for each step, the state before it and the cache of its cell.
        """
        if inputs.ndim != 3 or inputs.shape[2] != self.inputs or inputs.shape[1] == 0:
            hint = "An Embedding may be missing in front. Try inputs[:, :, np.newaxis] for one number per step, or "
            hint += "last_step=False in the layer before."
            raise self._misfit(inputs, f"(samples, steps, {self.inputs})", hint)
        A = inputs @ params["W"] + params["b"]  # (N, T, D)(D, G H) + (G H,)
        state: State = (np.zeros((len(A), self.units), A.dtype),) * self.states
        before, hidden, steps = [], [], []
        for t in range(A.shape[1]):
            if self._constant_states and self._is_cut(t):
                precision = state[0].real.dtype
                state = tuple(array.astype(precision) for array in self._constant_states[t])
            before.append(state)
            state, step = self.cell(params, A[:, t], state[0] @ params["U"], state)
            hidden.append(state[0])
            steps.append(step)
        return hidden[-1] if self.last_step else np.stack(hidden, axis=1), (inputs, before, steps)

    def _is_cut(self, t: int) -> bool:
        return self.truncation is not None and t > 0 and t % self.truncation == 0

    def backward(self, params: Params, cache: Cache, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dW = sum over t of X_t^T dA_t``, ``dU = sum over t of h_{t-1}^T dR_t``, ``db`` and ``dX = dA W^T``.

        This is back-propagation through time: all steps share W, U and b, so their gradients sum over the steps.
        Werbos, "Backpropagation through time" (1990).
        """
        inputs, before, steps = cache
        state: State = (np.zeros((len(upstream), self.units), upstream.dtype),) * self.states
        outputs: list[Array | int] = [*upstream.swapaxes(0, 1)]
        if self.last_step:
            outputs = [*[0] * (len(steps) - 1), upstream]
        for_A, for_R = [], []
        for t in reversed(range(len(steps))):
            # h_t is an output, is multiplied with U in the next step, and enters that step's cell: three terms in dh_t.
            dA, dR, state = self.cell_backward(steps[t], (state[0] + outputs[t], *state[1:]))
            for_A.append(dA)
            for_R.append(dR)
            state = (state[0] + dR @ params["U"].T, *state[1:])
            if self._is_cut(t):  # the state before this step counts as a constant
                state = tuple(map(np.zeros_like, state))
        A_grad, R_grad = np.stack(for_A[::-1], axis=1), np.stack(for_R[::-1], axis=1)  # (N, T, G H)
        hidden, axes = np.stack([state[0] for state in before], axis=1), ([0, 1], [0, 1])  # over samples and steps
        grads = {"W": np.tensordot(inputs, A_grad, axes), "U": np.tensordot(hidden, R_grad, axes)}
        grads["b"] = A_grad.sum(axis=(0, 1))
        return A_grad @ params["W"].T, grads | self.own_grads(R_grad)

    def detached(self, params: Params, inputs: Array, context: Context) -> Recurrent:
        """Return the same layer with the states at which the gradient is cut as constants, at their values here."""
        if self.truncation is None:
            return self
        twin = copy.copy(self)
        _, (_, twin._constant_states, _) = self.forward(params, inputs, context)
        return twin

    def __repr__(self) -> str:
        last = ", last_step=True" if self.last_step else ""
        cut = "" if self.truncation is None else f", truncation={self.truncation}"
        return f"{type(self).__name__}({self.inputs}, {self.units}{last}{cut})"


class RNN(Recurrent):
    """``h_t = tanh(x_t W + h_{t-1} U + b)``.

    Elman, "Finding structure in time" (1990).

    Parameters
    ----------
    inputs, units : int
        Number of features D that come in at each step, and H of the state.
    last_step : bool
        Return the last hidden state (N, H) in place of all of them (N, T, H): so pad sequences in front.
    truncation : int, optional
        Length of back-propagation through time: before every step whose number, counted from 0, is a multiple of this
        the state counts as a constant. By default the gradient flows through all steps.
    init : callable
        `glorot` (default), `he`, or any function of (generator, fan_in, fan_out), for each block of W.

    Notes
    -----
    A truncated gradient is the slope of the loss in which those states are constants. The hook and `check_layers` keep
    them constant (see `Objective.detached`), and their reports say so.

    Examples
    --------
    >>> layer = RNN(3, 4)
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> {name: array.shape for name, array in params.items()}
    {'W': (3, 4), 'U': (4, 4), 'b': (4,)}
    >>> layer.forward(params, np.ones((2, 5, 3)), Context())[0].shape
    (2, 5, 4)
    """

    kind = "rnn"

    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Cache]:
        """Compute ``h' = tanh(A + R)``; the cache is h'."""
        hidden = np.tanh(A + R)
        return (hidden,), hidden

    def cell_backward(self, cache: Cache, upstream: State) -> tuple[Array, Array, State]:
        """Compute ``dA = dR = dh' (1 - h'^2)``."""
        dA = upstream[0] * (1 - cache * cache)
        return dA, dA, (np.zeros_like(dA),)


class LSTM(Recurrent):
    """``c' = f c + i g``, ``h' = o tanh(c')``, with gates i, f, o of a sigmoid and g of a tanh of ``x W + h U + b``.

    Hochreiter and Schmidhuber, "Long short-term memory" (1997), with the forget gate of Gers, Schmidhuber and Cummins
    (2000). The blocks of W, U and b are i, f, o, g. Parameters and errors are those of `RNN`.

    Examples
    --------
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
        """Draw as for `RNN`, with ones for the biases of the forget gate: Jozefowicz, Zaremba and Sutskever (2015)."""
        params = super().init(generator, dtype)
        params["b"][self.units : 2 * self.units] = 1
        return params

    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Cache]:
        """Compute ``c' = f c + i g``, ``h' = o tanh(c')``; the cache is the gates, g, c and tanh(c')."""
        H, c_before = self.units, state[1]
        z = A + R
        gates, g = sigmoid(z[:, : 3 * H]), np.tanh(z[:, 3 * H :])
        i, f, o = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :]
        c = f * c_before + i * g
        tanh_c = np.tanh(c)
        return (o * tanh_c, c), (gates, g, c_before, tanh_c)

    def cell_backward(self, cache: Cache, upstream: State) -> tuple[Array, Array, State]:
        """Apply the chain rule backwards through the two formulas, then through the sigmoids and the tanh of g."""
        H, (gates, g, c_before, tanh_c) = self.units, cache
        i, f, o = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :]
        dh, dc = upstream
        dc = dc + dh * o * (1 - tanh_c * tanh_c)  # c' is passed on, and is in h' = o tanh(c')
        d_gates = np.concatenate([dc * g, dc * c_before, dh * tanh_c], axis=1)  # di, df, do
        d_gates = d_gates * gates * (1 - gates)  # a sigmoid s has the slope s (1 - s)
        dA = np.concatenate([d_gates, dc * i * (1 - g * g)], axis=1)  # dg = dc' i, and tanh has the slope 1 - g^2
        return dA, dA, (np.zeros_like(dh), dc * f)


class GRU(Recurrent):
    """``h' = (1 - z) n + z h`` with gates r, z of a sigmoid of ``x W + h U + b`` and ``n = tanh(A_n + r (R_n + c))``.

    Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), in the form in which the reset gate
    comes after the product with U (as in cuDNN and PyTorch), which has a bias c of its own. The blocks of W, U and b
    are r, z, n. Parameters and errors are those of `RNN`.

    Examples
    --------
    >>> params = GRU(3, 4).init(np.random.default_rng(0), np.float64)
    >>> {name: array.shape for name, array in params.items()}
    {'W': (3, 12), 'U': (4, 12), 'b': (12,), 'c': (4,)}
    """

    kind = "gru"
    gates = 3

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Draw as for `RNN`, with c (H,) of zeros."""
        return {**super().init(generator, dtype), "c": np.zeros(self.units, dtype)}

    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Cache]:
        """Compute ``h' = (1 - z) n + z h``; the cache is the gates, n, what r is multiplied with, and h."""
        H, h = self.units, state[0]
        gates = sigmoid(A[:, : 2 * H] + R[:, : 2 * H])
        r, z = gates[:, :H], gates[:, H:]
        reset = R[:, 2 * H :] + params["c"]
        n = np.tanh(A[:, 2 * H :] + r * reset)
        return ((1 - z) * n + z * h,), (gates, n, reset, h)

    def cell_backward(self, cache: Cache, upstream: State) -> tuple[Array, Array, State]:
        """Apply the chain rule backwards through ``h' = (1 - z) n + z h``, the tanh of n, and the two sigmoids."""
        H, (gates, n, reset, h) = self.units, cache
        r, z = gates[:, :H], gates[:, H:]
        (dh,) = upstream
        dn = dh * (1 - z) * (1 - n * n)  # for the argument of the tanh, A_n + r (R_n + c)
        d_gates = np.concatenate([dn * reset, dh * (h - n)], axis=1) * gates * (1 - gates)  # dr, dz
        # A_n gets dn as it is, R_n through r; the state before gets z dh' without what flows through R.
        return np.concatenate([d_gates, dn], axis=1), np.concatenate([d_gates, r * dn], axis=1), (z * dh,)

    def own_grads(self, dR: Array) -> dict[str, Array]:
        """Compute ``dc = sum of the last block of dR``, because c is added to R_n."""
        return {"c": dR[:, :, 2 * self.units :].sum(axis=(0, 1))}


class Embedding(Layer):
    """``Y = W[ids]``: a row of W for each symbol.

    A loss has no slope for symbols: the layer stands first, and checks leave its input out.

    Parameters
    ----------
    symbols : int
        Number V of symbols: the ids are whole numbers from 0 to V - 1, in the type of the model's parameters.
    features : int
        Number of features D of each.

    Examples
    --------
    >>> layer = Embedding(4, 2)
    >>> ids = np.array([[0, 3, 3]])
    >>> outputs, cache = layer.forward({"W": np.arange(8.0).reshape(4, 2)}, ids, Context())
    >>> outputs
    array([[[0., 1.],
            [6., 7.],
            [6., 7.]]])
    >>> layer.backward({}, cache, np.ones_like(outputs))[1]["W"][:, 0]  # what is read twice gets both gradients
    array([1., 0., 0., 2.])
    """

    kind = "embedding"
    discrete = True

    def __init__(self, symbols: int, features: int) -> None:
        hint = "The alphabet may come from an empty text. Try Embedding(26, 8)."
        COUNT.check("Embedding", hint, symbols=symbols, features=features)
        self.symbols, self.features = symbols, features

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Draw W (V, D) with normal entries of variance ``1 / D``, so that every row has about the length 1."""
        return {"W": generator.normal(0, np.sqrt(1 / self.features), (self.symbols, self.features)).astype(dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """Compute ``Y = W[ids]``: (N, ...) to (N, ..., D); the cache is the ids."""
        numbers = inputs.real
        wrong = numbers[~((numbers >= 0) & (numbers < self.symbols) & (numbers == np.floor(numbers)))]
        if wrong.size:
            raise InvalidProblem(
                f"{self!r} got {wrong.size} input(s) that are not ids from 0 to {self.symbols - 1}, such as {wrong[0]}."
                " They may be symbols that are not in the alphabet, or come from a layer. Try Embedding as the first "
                "layer, with one more symbol for what is unknown."
            )
        # A type with p bits of precision represents all whole numbers up to 2^p = 2 / eps.
        if numbers.dtype.kind == "f" and self.symbols > 2 / float(np.finfo(numbers.dtype).eps):
            raise InvalidProblem(
                f"{self!r} got its ids as {numbers.dtype}, in which not every number below {self.symbols} exists. "
                "Try a model with dtype=numpy.float32."
            )
        ids = numbers.astype(np.intp)
        return params["W"][ids], ids

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dW[v] = sum of dY over all places with the symbol v``; for the symbols themselves zeros."""
        gradient = np.zeros((self.symbols, self.features), upstream.dtype)
        # gradient[ids] += ... would use only the last place of a symbol that occurs several times.
        np.add.at(gradient, cache.ravel(), upstream.reshape(-1, self.features))
        return np.zeros(cache.shape, upstream.dtype), {"W": gradient}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.symbols}, {self.features})"


class EachStep(Layer):
    """The same layer at every step: (N, T, ...) is given to it as N T samples.

    It is one that takes rows, such as `Dense`; its arrays are named as if it stood alone ("dense1.W").

    Examples
    --------
    >>> from gc_hooks.nn import Dense
    >>> layer = EachStep(Dense(3, 2))
    >>> params = layer.init(np.random.default_rng(0), np.float64)
    >>> layer.forward(params, np.ones((5, 7, 3)), Context())[0].shape
    (5, 7, 2)
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.kind = layer.kind or type(layer).__name__.lower()
        self.truncation = layer.truncation

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        return self.layer.init(generator, dtype)

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        return self.layer.init_state(dtype)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Cache]:
        """Apply the layer to N T samples: (N, T, ...) to (N, T, ...)."""
        if inputs.ndim < 3:
            raise self._misfit(inputs, "(samples, steps, ...)", "Try last_step=False in the layer before.")
        outputs, cache = self.layer.forward(params, _rows(inputs), context)
        return outputs.reshape(*inputs.shape[:2], *outputs.shape[1:]), cache

    def backward(self, params: Params, cache: Cache, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Apply the layer's own backward to N T samples."""
        below, grads = self.layer.backward(params, cache, _rows(upstream))
        return below.reshape(*upstream.shape[:2], *below.shape[1:]), grads

    def detached(self, params: Params, inputs: Array, context: Context) -> EachStep:
        return EachStep(self.layer.detached(params, _rows(inputs), context))

    def observed(self, params: Params, cache: Cache) -> dict[str, Array]:
        return self.layer.observed(params, cache)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer!r})"


def _rows(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])
