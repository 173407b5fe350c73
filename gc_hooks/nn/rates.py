"""Learning rates that change over the training: functions of the number of updates made so far, and who sets them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from gc_hooks.callbacks import Callback, TrainState
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.optimizers import Optimizer

Rate: TypeAlias = Callable[[int], float]
"""The learning rate of an update, given the number of those before it."""


def step_decay(rate: float, every: int, factor: float = 0.1) -> Rate:
    """``rate * factor^(step // every)``.

    Parameters
    ----------
    rate, factor : float
        Positive.
    every : int
        Number of updates, at least 1.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.

    Examples
    --------
    >>> [step_decay(1.0, every=2, factor=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    _check_positive("step_decay", rate=rate, every=every, factor=factor)
    return lambda step: rate * factor ** (step // every)


def exponential_decay(rate: float, factor: float) -> Rate:
    """``rate * factor^step``.

    Parameters
    ----------
    rate, factor : float
        Positive; the factor is that of a single update, such as 0.999.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.

    Examples
    --------
    >>> [exponential_decay(1.0, 0.5)(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """
    _check_positive("exponential_decay", rate=rate, factor=factor)
    return lambda step: rate * factor**step


def cosine_decay(rate: float, steps: int, floor: float = 0.0) -> Rate:
    """``floor + (rate - floor) (1 + cos(pi step / steps)) / 2``: half a wave down to the floor, and then the floor.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), equation 5, without restarts.
    A rate of zero, where that is the floor, lets the last updates do nothing.

    Parameters
    ----------
    rate : float
        Positive.
    steps : int
        Number of updates, at least 1.
    floor : float
        From zero to the rate.

    Raises
    ------
    InvalidProblem
        When a number is out of its range.

    Examples
    --------
    >>> [round(cosine_decay(1.0, steps=4)(step), 2) for step in range(6)]
    [1.0, 0.85, 0.5, 0.15, 0.0, 0.0]
    """
    _check_positive("cosine_decay", rate=rate, steps=steps)
    if not 0 <= floor <= rate:
        raise InvalidProblem(
            f"cosine_decay got floor={floor} with rate={rate}. The rate falls from one to the other. Give a floor from "
            "zero to the rate."
        )
    return lambda step: floor + (rate - floor) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def warm_up(steps: int, after: Rate) -> Rate:
    """``after(step) * (step + 1) / (steps + 1)`` for the first `steps` updates, and `after` from then on.

    Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2: a gradual warm-up in front of any schedule.

    Parameters
    ----------
    steps : int
        At least 1.
    after : callable
        Such as ``cosine_decay(0.1, 1000)``, or ``lambda step: 0.1``.

    Raises
    ------
    InvalidProblem
        When the number is below 1, or `after` is no function.

    Examples
    --------
    >>> [warm_up(3, lambda step: 1.0)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _check_positive("warm_up", steps=steps)
    if not callable(after):
        raise InvalidProblem(
            f"warm_up got after={after!r}, which is no function of the step. A plain rate was probably meant. Try "
            "after=lambda step: 0.1, or cosine_decay(0.1, 1000)."
        )
    return lambda step: after(step) * min(1.0, (step + 1) / (steps + 1))


class LearningRate(Callback):
    """Set an optimiser's learning rate before each update.

    It depends on the number of updates alone, so that a resumed training goes on with the right one.

    Parameters
    ----------
    optimizer : Optimizer
        The trainer's.
    rate : callable
        `step_decay`, `exponential_decay`, `cosine_decay`, `warm_up`, or any function of the number of updates so far.

    Examples
    --------
    >>> from gc_hooks.nn import SGD
    >>> optimizer = SGD(0.1)
    >>> callback = LearningRate(optimizer, cosine_decay(0.1, steps=1000))  # one of the trainer's callbacks
    """

    def __init__(self, optimizer: Optimizer, rate: Rate) -> None:
        self.optimizer = optimizer
        self.rate = rate

    def on_batch_begin(self, state: TrainState) -> None:
        """Set the rate of the update to come."""
        self.optimizer.learning_rate = self.rate(state.step)


def _check_positive(name: str, **numbers: float) -> None:
    for what, number in numbers.items():
        if not 0 < number < math.inf:
            raise InvalidProblem(
                f"{name} got {what}={number}. Rates and factors are positive, and a schedule has at least one step: a "
                "division may have been rounded to zero. Give a positive number."
            )
