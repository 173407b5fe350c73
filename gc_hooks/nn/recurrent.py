"""Recurrent layers over sequences: one loop over time, and every step's forward beside its backward.

N samples of T steps with D inputs each, H units. The state before the first step is zero. What does not depend on the
state before is computed for all steps at once, so that a step costs one matrix product.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.functions import sigmoid
from gc_hooks.nn.layers import Context, Initializer, Layer, glorot

State: TypeAlias = tuple[Array, ...]
"""What a step hands to the next: the hidden state (N, H), and the cell (N, H) where there is one."""


def orthogonal(generator: Generator, fan_in: int, fan_out: int) -> Array:
    """Orthonormal columns (rows, where there are fewer), for weights that a state passes through again and again.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks"
    (2014), section 4.

    Returns
    -------
    ndarray, (fan_in, fan_out)

    Examples
    --------
    >>> U = orthogonal(np.random.default_rng(0), 3, 3)
    >>> bool(np.allclose(U.T @ U, np.eye(3)))
    True
    """
    normal = generator.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out)))
    columns, triangle = np.linalg.qr(normal)
    columns *= np.where(np.diag(triangle) < 0, -1, 1)  # else the sign is the library's choice
    return columns if fan_in >= fan_out else columns.T


class Recurrent(Layer):
    """Base class: ``A = X W + b`` for all steps at once, then step by step ``R = h U`` and a cell that takes both.

    Attributes
    ----------
    gates : int
        G, the number of blocks of H columns in W and U.
    states : int
        How many arrays a step hands to the next.
    """

    gates = 1
    states = 1

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        last_step: bool = False,
        truncation: int | None = None,
        init: Initializer = glorot,
    ) -> None:
        for name, number in (("inputs", inputs), ("units", units), ("truncation", truncation)):
            if number is not None and number < 1:
                raise InvalidProblem(
                    f"{type(self).__name__} got {name}={number}. A layer without units has nothing to hand on, and a "
                    "gradient that flows back over no step trains nothing. Give at least 1 (truncation=None for all)."
                )
        self.inputs = inputs
        self.units = units
        self.last_step = last_step
        self.truncation = truncation
        self.initializer = init
        self._held: list[State] = []

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """W (D, G H) from the initializer and U (H, G H) orthogonal, each block on its own; b (G H,) of zeros."""
        blocks = [self.initializer(generator, self.inputs, self.units) for _ in range(self.gates)]
        turns = [orthogonal(generator, self.units, self.units) for _ in range(self.gates)]
        weights, recurrent = np.concatenate(blocks, axis=1), np.concatenate(turns, axis=1)
        return {"W": weights.astype(dtype), "U": recurrent.astype(dtype), "b": np.zeros(self.gates * self.units, dtype)}

    @abstractmethod
    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Any]:
        """One step: from ``A = x W + b`` and ``R = h U``, both (N, G H), to the next state, and a cache."""

    @abstractmethod
    def cell_backward(self, cache: Any, upstream: State) -> tuple[Array, Array, State]:
        """The same back: gradients for A and for R, and for the state before apart from what R adds to that."""

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Any]:
        """(N, T, D) to the hidden states (N, T, H), or to the last of them, (N, H)."""
        before, hidden, steps = self._run(params, inputs)
        outputs = hidden[-1] if self.last_step else np.stack(hidden, axis=1)
        return outputs, (inputs, np.stack([state[0] for state in before], axis=1), steps)

    def _run(self, params: Params, inputs: Array) -> tuple[list[State], list[Array], list[Any]]:
        """For each step: the state before it, the hidden state after it, and its cache."""
        self._check(inputs)
        A = inputs @ params["W"] + params["b"]  # (N, T, G H)
        state: State = (np.zeros((len(A), self.units), A.dtype),) * self.states
        before, hidden, steps = [], [], []
        for t in range(A.shape[1]):
            state = self._entering(t, state)
            before.append(state)
            state, step = self.cell(params, A[:, t], state[0] @ params["U"], state)
            hidden.append(state[0])
            steps.append(step)
        return before, hidden, steps

    def _entering(self, t: int, state: State) -> State:
        """The state before step t: the one held there, where that was asked for."""
        if not (self._held and self._is_cut(t)):
            return state
        precision = state[0].real.dtype
        return tuple(array.astype(precision) for array in self._held[t])

    def _is_cut(self, t: int) -> bool:
        return self.truncation is not None and t > 0 and t % self.truncation == 0

    def backward(self, params: Params, cache: Any, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Back-propagation through time: ``dh_t = dy_t + dR_{t+1} U^T + what the cell hands back``.

        ``dX = dA W^T``, ``dW = sum over t of X_t^T dA_t``, ``dU = sum over t of h_{t-1}^T dR_t``, ``db`` the sum of dA.
        Where the state is taken for a constant, nothing is handed back. Werbos, "Backpropagation through time" (1990).
        """
        inputs, before, steps = cache
        dA, dR = self._run_back(params, steps, upstream)
        axes = ([0, 1], [0, 1])
        grads = {
            "W": np.tensordot(inputs, dA, axes),
            "U": np.tensordot(before, dR, axes),
            "b": dA.sum(axis=(0, 1)),
        }
        return dA @ params["W"].T, grads | self.own_grads(dR)

    def _run_back(self, params: Params, steps: list[Any], upstream: Array) -> tuple[Array, Array]:
        """Gradients for A and for R of all steps, (N, T, G H)."""
        state: State = (np.zeros((len(upstream), self.units), upstream.dtype),) * self.states
        for_inputs, for_state = [], []
        for t in reversed(range(len(steps))):
            from_above = self._from_above(upstream, t, len(steps) - 1)
            dA, dR, state = self.cell_backward(steps[t], (state[0] + from_above, *state[1:]))
            for_inputs.append(dA)
            for_state.append(dR)
            handed_back = (state[0] + dR @ params["U"].T, *state[1:])
            state = tuple(np.zeros_like(array) for array in state) if self._is_cut(t) else handed_back
        return np.stack(for_inputs[::-1], axis=1), np.stack(for_state[::-1], axis=1)

    def _from_above(self, upstream: Array, t: int, last: int) -> Any:
        if self.last_step:
            return upstream if t == last else 0
        return upstream[:, t]

    def own_grads(self, dR: Array) -> dict[str, Array]:
        """Gradients of further parameters of the cell, from those for R (N, T, G H)."""
        return {}

    def detached(self, params: Params, inputs: Array, context: Context) -> Recurrent:
        """The same layer with the states where the gradient is cut held at what they are at this point."""
        if self.truncation is None:
            return self
        twin = copy.copy(self)
        twin._held, _, _ = self._run(params, inputs)
        return twin

    def _check(self, inputs: Array) -> None:
        if inputs.ndim == 3 and inputs.shape[2] == self.inputs and inputs.shape[1] > 0:
            return
        raise InvalidProblem(
            f"{self!r} got inputs of shape {inputs.shape} where (samples, steps, {self.inputs}) is needed. "
            "Symbols may lack an Embedding in front, or a layer before may have kept the last step only. Try "
            "inputs[:, :, np.newaxis] for one number per step, or last_step=False in the layer before."
        )

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
        Put out the last hidden state (N, H) in place of all of them (N, T, H). Of a padded sequence that is the state
        after the padding: pad in front, or mask the steps in the loss.
    truncation : int, optional
        Length of back-propagation through time: before every step whose number, counted from 0, is a multiple of this
        the state is taken for a constant, and no gradient flows further back. By default it flows through all steps.
    init : callable
        `glorot` (default), `he`, or any function of (generator, fan_in, fan_out), for each block of W.

    Raises
    ------
    InvalidProblem
        A number is below 1; in `forward`, when the inputs are not (N, T, D) or have no step.

    Notes
    -----
    A truncated gradient is not the slope of the loss, but of the loss in which those states are constants. The hook and
    `check_layers` hold them constant while they measure (`detached`), and their reports say so. In a check of your own
    hand in `Objective.detached`.

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

    def cell(self, params: Params, A: Array, R: Array, state: State) -> tuple[State, Any]:
        """``h' = tanh(A + R)``; the cache is h'."""
        hidden = np.tanh(A + R)
        return (hidden,), hidden

    def cell_backward(self, cache: Any, upstream: State) -> tuple[Array, Array, State]:
        """``dA = dR = dh' (1 - h'^2)``."""
        dA = upstream[0] * (1 - cache * cache)
        return dA, dA, (np.zeros_like(dA),)


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


class Embedding(Layer):
    """``Y = W[ids]``: a row of W for each symbol.

    Symbols are not numbers that a loss could have a slope for: the layer stands first, and checks leave its input out.

    Parameters
    ----------
    symbols : int
        How many there are, V: the ids are whole numbers from 0 to V - 1, in the type of the model's parameters.
    features : int
        Number of features D of each.

    Raises
    ------
    InvalidProblem
        A number is below 1; in `forward`, when an id is no whole number, lies outside [0, V), or the type is too coarse
        for V ids.

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
        if symbols < 1 or features < 1:
            raise InvalidProblem(
                f"Embedding({symbols}, {features}) has no symbols or no features. The alphabet was probably counted in "
                "an empty text. Give two numbers that are at least 1."
            )
        self.symbols = symbols
        self.features = features

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """W (V, D) with normal entries of variance ``1 / D``: every row is about as long as one."""
        return {"W": generator.normal(0, np.sqrt(1 / self.features), (self.symbols, self.features)).astype(dtype)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Array]:
        """``Y = W[ids]``: (N, ...) to (N, ..., D); the cache is the ids."""
        ids = self._checked(inputs)
        return params["W"][ids], ids

    def backward(self, params: Params, cache: Array, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dW[v] = sum of dY over all places where v stands``; for the symbols themselves zeros."""
        gradient = np.zeros((self.symbols, self.features), upstream.dtype)
        np.add.at(gradient, cache.ravel(), upstream.reshape(-1, self.features))  # gradient[ids] += would keep the last
        return np.zeros(cache.shape, upstream.dtype), {"W": gradient}

    def _checked(self, inputs: Array) -> Array:
        numbers = inputs.real
        wrong = numbers[~((numbers >= 0) & (numbers < self.symbols) & (numbers == np.floor(numbers)))]
        if wrong.size:
            raise InvalidProblem(
                f"{self!r} got {wrong.size} input(s) that are no ids from 0 to {self.symbols - 1}, such as {wrong[0]}. "
                "Ids that count from 1, text with symbols that are not in the alphabet, or a layer in front. Try "
                "Embedding as the first layer, with one more symbol for what is unknown."
            )
        if numbers.dtype.kind == "f" and self.symbols > 2 / float(np.finfo(numbers.dtype).eps):
            raise InvalidProblem(
                f"{self!r} got its ids as {numbers.dtype}, in which not every number below {self.symbols} exists: "
                "neighbouring symbols would be taken for each other. Try a model with dtype=numpy.float32."
            )
        return numbers.astype(np.intp)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.symbols}, {self.features})"


class EachStep(Layer):
    """The same layer at every step: (N, T, ...) is handed to it as N T samples.

    Parameters
    ----------
    layer : Layer
        One that takes rows, such as `Dense`; its parameters are named as if it stood alone ("dense1.W").

    Raises
    ------
    InvalidProblem
        In `forward`, when the inputs have no steps.

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
        """Those of the layer."""
        return self.layer.init(generator, dtype)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Any]:
        """(N, T, ...) to (N, T, ...)."""
        if inputs.ndim < 3:
            raise InvalidProblem(
                f"{self!r} got inputs of shape {inputs.shape} where (samples, steps, ...) is needed. A layer before "
                "may have kept the last step only. Try last_step=False there, or the layer without EachStep."
            )
        outputs, cache = self.layer.forward(params, _rows(inputs), context)
        return outputs.reshape(*inputs.shape[:2], *outputs.shape[1:]), cache

    def backward(self, params: Params, cache: Any, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """The layer's own, of N T samples."""
        below, grads = self.layer.backward(params, cache, _rows(upstream))
        return below.reshape(*upstream.shape[:2], *below.shape[1:]), grads

    def detached(self, params: Params, inputs: Array, context: Context) -> EachStep:
        """The same with the layer detached."""
        return EachStep(self.layer.detached(params, _rows(inputs), context))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer!r})"


def _rows(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])
