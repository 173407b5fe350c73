"""Optimisers, which update the parameters with the gradient, and clipping, which bounds the gradient before that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.nn.losses import weights_of
from gc_hooks.nn.ranges import FRACTION, NOT_NEGATIVE, POSITIVE


class Optimizer:
    """Base class: an update rule for parameters p with gradient g, in place and in the precision of p.

    All optimisers refuse a number that is out of its range with `InvalidProblem`: the learning rate and `epsilon` have
    to be positive, `momentum`, `beta1`, `beta2` and RMSProp's `decay` in [0, 1), AdamW's `decay` zero or more.

    Parameters
    ----------
    learning_rate : float
        Size of a step. It may be changed between steps.

    Attributes
    ----------
    state : dict of str to ndarray
        All that the optimiser remembers, such as ``{"velocity.dense1.W": ...}``; empty before the first step.
    """

    def __init__(self, learning_rate: float, *, epsilon: float = 1e-8, **decays: float) -> None:
        name = type(self).__name__
        POSITIVE.check(name, "A negative rate climbs the loss. Try 0.1.", learning_rate=learning_rate)
        POSITIVE.check(name, "A gradient that is always zero would divide zero by zero. Try 1e-8.", epsilon=epsilon)
        FRACTION.check(name, "At 1 and above, old gradients never fade. Try 0.9.", **decays)
        self.learning_rate = learning_rate
        self.state: dict[str, Array] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for a check's report on what the update does that is not part of the loss. By default none."""
        return ()

    def step(self, params: Params, grads: Params) -> None:
        """Update the arrays of `params` in place; `grads` are only read."""
        for name, parameter in params.items():
            parameter += self._change(name, grads[name])

    def _change(self, name: str, g: Array) -> Array:
        """Return what to add to the parameter with gradient g."""
        raise NotImplementedError

    def _memory(self, kind: str, name: str, like: Array) -> Array:
        """Return the state array of one parameter, which starts as zeros."""
        key = f"{kind}.{name}"
        if key not in self.state:
            self.state[key] = np.zeros_like(like)
        return self.state[key]


class SGD(Optimizer):
    """Stochastic gradient descent: ``p <- p - learning_rate * g``.

    Examples
    --------
    >>> params = {"W": np.array([1.0])}
    >>> SGD(0.5).step(params, {"W": np.array([4.0])})
    >>> params
    {'W': array([-1.])}
    """

    def _change(self, name: str, g: Array) -> Array:
        return -self.learning_rate * g


class Momentum(Optimizer):
    """Gradient descent with Polyak's heavy ball: ``v <- momentum * v - learning_rate * g``, ``p <- p + v``.

    Parameters
    ----------
    momentum : float
        Fraction of the velocity v that is left after a step.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.9) -> None:
        super().__init__(learning_rate, momentum=momentum)
        self.momentum = momentum

    def _change(self, name: str, g: Array) -> Array:
        velocity = self._memory("velocity", name, g)
        velocity *= self.momentum
        velocity -= self.learning_rate * g
        return velocity


class Nesterov(Momentum):
    """Nesterov's momentum: ``v <- momentum * v - learning_rate * g``, ``p <- p + momentum * v - learning_rate * g``.

    The gradient counts as that of the point to which the velocity is about to carry p. Sutskever, Martens, Dahl and
    Hinton, "On the importance of initialization and momentum in deep learning" (2013), in the form of Bengio,
    Boulanger-Lewandowski and Pascanu, "Advances in optimizing recurrent networks" (2013), section 3.5.

    Examples
    --------
    >>> params = {"W": np.array([1.0])}
    >>> Nesterov(0.5, momentum=0.5).step(params, {"W": np.array([4.0])})
    >>> params
    {'W': array([-2.])}
    """

    def _change(self, name: str, g: Array) -> Array:
        return self.momentum * super()._change(name, g) - self.learning_rate * g


class RMSProp(Optimizer):
    """``s <- decay * s + (1 - decay) * g^2``, ``p <- p - learning_rate * g / (sqrt(s) + epsilon)``.

    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5 (2012).

    Parameters
    ----------
    decay : float
        Fraction of the mean square s that is left after a step.
    epsilon : float
        Bounds the step where gradients have been tiny.

    Examples
    --------
    >>> params = {"W": np.array([1.0])}
    >>> RMSProp(0.5, decay=0.75).step(params, {"W": np.array([4.0])})  # the root of s is 2
    >>> print(f"{params['W'][0]:.2e}")
    5.00e-09
    """

    def __init__(self, learning_rate: float = 1e-3, *, decay: float = 0.99, epsilon: float = 1e-8) -> None:
        super().__init__(learning_rate, epsilon=epsilon, decay=decay)
        self.decay, self.epsilon = decay, epsilon

    def _change(self, name: str, g: Array) -> Array:
        square = self._memory("square", name, g)
        square *= self.decay
        square += (1 - self.decay) * (g * g)
        return -self.learning_rate * g / (np.sqrt(square) + self.epsilon)


class Adam(Optimizer):
    """``m <- beta1 * m + (1 - beta1) * g``, ``s <- beta2 * s + (1 - beta2) * g^2``, then a step along m / sqrt(s).

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Parameters
    ----------
    beta1, beta2 : float
        Fraction of the mean gradient m, and of the mean square s, that is left after a step.
    epsilon : float
        Added to the root of s.
    """

    def __init__(
        self, learning_rate: float = 1e-3, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate, epsilon=epsilon, beta1=beta1, beta2=beta2)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def step(self, params: Params, grads: Params) -> None:
        """Count the step, then update the moments and the parameters."""
        steps = self.state.setdefault("steps", np.zeros((), np.int64))
        steps += 1
        super().step(params, grads)

    def _change(self, name: str, g: Array) -> Array:
        t, m, s = int(self.state["steps"]), self._memory("first", name, g), self._memory("second", name, g)
        m += (1 - self.beta1) * (g - m)
        s += (1 - self.beta2) * (g * g - s)
        # Both start at zero. After t steps their weights sum to 1 - beta^t, so dividing by that makes them means.
        mean, square = m / (1 - self.beta1**t), s / (1 - self.beta2**t)
        return -self.learning_rate * mean / (np.sqrt(square) + self.epsilon)


class AdamW(Adam):
    """`Adam`, and before it ``W <- (1 - learning_rate * decay) W`` for the weights, never the biases.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2. The decay is not part of the
    loss or of its gradient, so a gradient check says nothing about it, and the hook's reports mention that.

    Parameters
    ----------
    decay : float
        A step removes the fraction ``learning_rate * decay`` of each weight.
    beta1, beta2, epsilon : float
        As for `Adam`.

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
        NOT_NEGATIVE.check("AdamW", "A negative decay lets the weights grow without end. Try 0.01.", decay=decay)
        self.decay = decay

    @property
    def remarks(self) -> tuple[str, ...]:
        remark = f"AdamW decays the weights (decay={self.decay:g}) in the update, outside of the loss: not checked."
        return (remark,) if self.decay else ()

    def step(self, params: Params, grads: Params) -> None:
        """Let the weights decay, then take Adam's step."""
        for weights in weights_of(params).values():
            weights *= 1 - self.learning_rate * self.decay
        super().step(params, grads)


Clip: TypeAlias = Callable[[Params], Params]
"""A function of the gradients, which are only read, that returns the gradients for the optimiser."""

CLIP_HINT = "With zero, nothing would be left of the gradient. Try 1."


def clip_by_value(limit: float) -> Clip:
    """Return a function that brings every entry into [-limit, limit]; the limit is positive. NaN stays NaN.

    Examples
    --------
    >>> clip_by_value(1)({"W": np.array([0.5, -3.0])})
    {'W': array([ 0.5, -1. ])}
    """
    POSITIVE.check("clip_by_value", CLIP_HINT, limit=limit)
    low, high = -float(limit), float(limit)
    return lambda grads: {name: np.clip(gradient, low, high) for name, gradient in grads.items()}


def clip_by_norm(limit: float) -> Clip:
    """Return a function that shortens a gradient longer than `limit` to that norm: ``g * limit / ||g||``.

    The norm is that of all parameters together, and the direction stays. Pascanu, Mikolov and Bengio, "On the
    difficulty of training recurrent neural networks" (2013), algorithm 1. A gradient that is not finite is returned as
    it is. The limit is positive.

    Examples
    --------
    >>> clip_by_norm(1)({"W": np.array([3.0]), "b": np.array([4.0])})
    {'W': array([0.6]), 'b': array([0.8])}
    """
    POSITIVE.check("clip_by_norm", CLIP_HINT, limit=limit)

    def clip(grads: Params) -> Params:
        # float64 whatever the gradients are: squares of half precision overflow above 256.
        norm = np.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in grads.values()))
        if not limit < norm < np.inf:
            return grads
        return {name: gradient * (float(limit) / float(norm)) for name, gradient in grads.items()}

    return clip
