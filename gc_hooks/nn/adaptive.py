"""Optimisers with a step size for every entry: `RMSProp`, and `AdamW`, which decays the weights beside the gradient."""

from __future__ import annotations

import numpy as np

from gc_hooks._typing import Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.optimizers import Adam, Optimizer, check_decay
from gc_hooks.nn.penalties import weights_of


class RMSProp(Optimizer):
    """``s <- decay * s + (1 - decay) * g^2``, ``p <- p - learning_rate * g / (sqrt(s) + epsilon)``.

    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5 (2012).

    Parameters
    ----------
    learning_rate : float
        Positive.
    decay : float
        Share of the mean square s that is kept, in [0, 1).
    epsilon : float
        Added to the root; positive.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.

    Examples
    --------
    >>> params = {"W": np.array([1.0])}
    >>> RMSProp(0.5, decay=0.75).step(params, {"W": np.array([4.0])})  # the root of s is 2
    >>> print(f"{params['W'][0]:.2e}")
    5.00e-09
    """

    def __init__(self, learning_rate: float = 1e-3, *, decay: float = 0.99, epsilon: float = 1e-8) -> None:
        super().__init__(learning_rate)
        check_decay(self, "decay", decay)
        if not epsilon > 0:
            raise InvalidProblem(
                f"RMSProp got epsilon={epsilon}. Without it a parameter that never had a gradient divides zero by "
                "zero. Give a small positive number, such as 1e-8."
            )
        self.decay, self.epsilon = decay, epsilon

    def step(self, params: Params, grads: Params) -> None:
        """Update the mean squares, then the parameters."""
        for name, parameter in params.items():
            g, square = grads[name], self._memory("square", name, grads[name])
            square *= self.decay
            square += (1 - self.decay) * (g * g)
            parameter -= self.learning_rate * g / (np.sqrt(square) + self.epsilon)


class AdamW(Adam):
    """`Adam`, and before it ``W <- (1 - learning_rate * decay) W`` for the weights, never the biases.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2. The decay is no part of the loss
    and none of the gradient: a check neither sees nor misses it, and the hook's reports say so.

    Parameters
    ----------
    learning_rate : float
        Positive.
    decay : float
        Zero or more.
    beta1, beta2, epsilon : float
        As for `Adam`.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.

    Examples
    --------
    >>> params = {"W": np.array([1.0]), "b": np.array([1.0])}
    >>> AdamW(0.5, decay=0.1).step(params, {"W": np.zeros(1), "b": np.zeros(1)})
    >>> params
    {'W': array([0.95]), 'b': array([1.])}
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        decay: float = 1e-2,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon)
        if not 0 <= decay < np.inf:
            raise InvalidProblem(
                f"AdamW got decay={decay}. A negative one lets the weights grow without end. Give a number that is "
                "zero or more, such as 0.01."
            )
        self.decay = decay

    @property
    def remarks(self) -> tuple[str, ...]:
        """That the decay is not checked."""
        if not self.decay:
            return ()
        return (
            f"AdamW decays the weights (decay={self.decay:g}) in the update: decoupled, no part of the loss or of its "
            "gradient, and not checked.",
        )

    def step(self, params: Params, grads: Params) -> None:
        """Let the weights decay, then take Adam's step."""
        for weights in weights_of(params).values():
            weights *= 1 - self.learning_rate * self.decay
        super().step(params, grads)
