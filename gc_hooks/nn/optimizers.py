"""Optimisers: each updates the parameters in place and keeps their dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.penalties import weights_of


class Optimizer(ABC):
    """Base class.

    Attributes
    ----------
    learning_rate : float
        May be changed between steps.
    state : dict of str to ndarray
        All that the optimiser remembers, such as ``{"velocity.dense1.W": ...}``; empty before the first step.

    Raises
    ------
    InvalidProblem
        When the learning rate is not a positive number.
    """

    def __init__(self, learning_rate: float) -> None:
        if not 0 < learning_rate < np.inf:
            raise InvalidProblem(
                f"{type(self).__name__} got learning_rate={learning_rate}. Zero never learns and a negative rate "
                "climbs the loss; the minus sign is the optimiser's. Give a positive number, such as 0.1."
            )
        self.learning_rate = learning_rate
        self.state: dict[str, Array] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the update does that is no part of the loss, for the reports of a check; nothing unless overridden."""
        return ()

    @abstractmethod
    def step(self, params: Params, grads: Params) -> None:
        """Update the arrays of `params` in place; `grads` are only read."""

    def _memory(self, kind: str, name: str, like: Array) -> Array:
        """The state array of one parameter: zeros at first."""
        key = f"{kind}.{name}"
        if key not in self.state:
            self.state[key] = np.zeros_like(like)
        return self.state[key]


class SGD(Optimizer):
    """Stochastic gradient descent: ``p <- p - learning_rate * g``.

    Parameters
    ----------
    learning_rate : float
        Positive.

    Examples
    --------
    >>> params = {"W": np.array([1.0])}
    >>> SGD(0.5).step(params, {"W": np.array([4.0])})
    >>> params
    {'W': array([-1.])}
    """

    def step(self, params: Params, grads: Params) -> None:
        """Take one step down the gradient."""
        for name, parameter in params.items():
            parameter -= self.learning_rate * grads[name]


class Momentum(Optimizer):
    """Gradient descent with Polyak's heavy ball: ``v <- momentum * v - learning_rate * g``, ``p <- p + v``.

    Parameters
    ----------
    learning_rate : float
        Positive.
    momentum : float
        Share of the velocity v that is kept, in [0, 1).

    Raises
    ------
    InvalidProblem
        When a number is out of its range.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.9) -> None:
        super().__init__(learning_rate)
        check_decay(self, "momentum", momentum)
        self.momentum = momentum

    def step(self, params: Params, grads: Params) -> None:
        """Update the velocities, then the parameters."""
        for name, parameter in params.items():
            parameter += self._update(name, grads[name])

    def _update(self, name: str, g: Array) -> Array:
        velocity = self._memory("velocity", name, g)
        velocity *= self.momentum
        velocity -= self.learning_rate * g
        return velocity


class Nesterov(Momentum):
    """Nesterov's momentum: ``v <- momentum * v - learning_rate * g``, ``p <- p + momentum * v - learning_rate * g``.

    The gradient is taken where the ball already is about to be. Sutskever, Martens, Dahl and Hinton, "On the importance
    of initialization and momentum in deep learning" (2013), in the form of Bengio, Boulanger-Lewandowski and Pascanu,
    "Advances in optimizing recurrent networks" (2013), section 3.5.

    Parameters
    ----------
    learning_rate, momentum : float
        As for `Momentum`.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.

    Examples
    --------
    >>> params = {"W": np.array([1.0])}
    >>> Nesterov(0.5, momentum=0.5).step(params, {"W": np.array([4.0])})
    >>> params
    {'W': array([-2.])}
    """

    def _update(self, name: str, g: Array) -> Array:
        update: Array = self.momentum * super()._update(name, g) - self.learning_rate * g
        return update


class Adam(Optimizer):
    """Gradient descent with step sizes from running moments of the gradient.

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Parameters
    ----------
    learning_rate : float
        Positive.
    beta1, beta2 : float
        Decay of the first and of the second moment, in [0, 1).
    epsilon : float
        Added to the root of the second moment; positive.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.
    """

    def __init__(
        self, learning_rate: float = 1e-3, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        check_decay(self, "beta1", beta1)
        check_decay(self, "beta2", beta2)
        if not epsilon > 0:
            raise InvalidProblem(
                f"Adam got epsilon={epsilon}. Without it a parameter whose gradient is zero divides zero by zero. "
                "Give a small positive number, such as 1e-8."
            )
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def step(self, params: Params, grads: Params) -> None:
        """Update the moments, then the parameters by their bias-corrected ratio."""
        steps = self.state.setdefault("steps", np.zeros((), np.int64))
        steps += 1
        for name, parameter in params.items():
            parameter -= self._update(name, grads[name], int(steps))

    def _update(self, name: str, g: Array, t: int) -> Array:
        first, second = self._memory("first", name, g), self._memory("second", name, g)
        first += (1 - self.beta1) * (g - first)
        second += (1 - self.beta2) * (g * g - second)
        corrected_first = first / (1 - self.beta1**t)
        corrected_second = second / (1 - self.beta2**t)
        update: Array = self.learning_rate * corrected_first / (np.sqrt(corrected_second) + self.epsilon)
        return update


def check_decay(optimizer: Optimizer, name: str, value: float) -> None:
    """Refuse a share of the past that is not in [0, 1).

    Raises
    ------
    InvalidProblem
    """
    if not 0 <= value < 1:
        raise InvalidProblem(
            f"{type(optimizer).__name__} got {name}={value}, outside [0, 1). At 1 and above, old gradients never fade. "
            "Try 0.9."
        )


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


Clip: TypeAlias = Callable[[Params], Params]
"""New gradients for those given, which are only read."""


def clip_by_value(limit: float) -> Clip:
    """Bring every entry into [-limit, limit]. NaN stays NaN.

    Parameters
    ----------
    limit : float
        Positive.

    Raises
    ------
    InvalidProblem
        When the limit is not a positive number.

    Examples
    --------
    >>> clip_by_value(1)({"W": np.array([0.5, -3.0])})
    {'W': array([ 0.5, -1. ])}
    """
    limit = _checked("clip_by_value", limit)

    def clip(grads: Params) -> dict[str, Array]:
        return {name: np.clip(gradient, -limit, limit) for name, gradient in grads.items()}

    return clip


def clip_by_norm(limit: float) -> Clip:
    """Scale the whole gradient to the norm `limit` where it is longer: ``g * limit / ||g||``, its direction kept.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1, with the
    norm over all parameters together. A gradient that is not finite is handed on as it is.

    Parameters
    ----------
    limit : float
        Positive.

    Raises
    ------
    InvalidProblem
        When the limit is not a positive number.

    Examples
    --------
    >>> clip_by_norm(1)({"W": np.array([3.0]), "b": np.array([4.0])})
    {'W': array([0.6]), 'b': array([0.8])}
    """
    limit = _checked("clip_by_norm", limit)

    def clip(grads: Params) -> Params:
        norm = np.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in grads.values()))
        if not limit < norm < np.inf:
            return grads
        return {name: gradient * (limit / float(norm)) for name, gradient in grads.items()}

    return clip


def _checked(name: str, limit: float) -> float:
    if not 0 < limit < np.inf:
        raise InvalidProblem(
            f"{name} got the limit {limit}. Nothing would be left of the gradient. Give a positive number, such as 1."
        )
    return float(limit)
