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
