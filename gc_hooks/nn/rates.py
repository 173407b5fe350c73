"""Learning rates that change over the training: functions of the number of updates made so far, and who sets them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.optimizers import Optimizer
from gc_hooks.training import Callback, TrainState

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


class EarlyStopping(Callback):
    """Stop when a figure has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        A name in the history. Figures whose name ends in "accuracy" are to rise, all others to fall. NaN is no
        improvement.
    patience : int
        Epochs without improvement after which the training stops.
    restore_best : bool
        At the end of the training, put the parameters of the best epoch back, and its running statistics. The
        optimiser's state is left as it is.

    Attributes
    ----------
    best : float
        The best value so far in this call of ``fit``; NaN before the first.

    Raises
    ------
    InvalidProblem
        When the patience is below 1; at the end of an epoch, when it has no such figure.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 5, *, restore_best: bool = False) -> None:
        if patience < 1:
            raise InvalidProblem(
                f"EarlyStopping got patience={patience}. It counts epochs without improvement, so it would stop at "
                "once. Give at least 1."
            )
        self.monitor = monitor
        self.patience = patience
        self.restore_best = restore_best
        self._forget()

    def _forget(self) -> None:
        self.best = float("nan")
        self._waited = 0
        self._best: dict[str, Array] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """Start afresh."""
        self._forget()

    def on_epoch_end(self, state: TrainState) -> None:
        """Compare with the best, and stop when patience is at its end."""
        value = self._figure(state)
        if self._improves(value):
            self._remember(value, state)
            return
        self._waited += 1
        if self._waited >= self.patience:
            state.stop(f"{self.monitor} has not improved on {self.best:.6g} for {self._waited} epochs")

    def on_train_end(self, state: TrainState) -> None:
        """Put the best parameters back, where that was asked for."""
        arrays = _arrays(state)
        for name, best in self._best.items():
            arrays[name][...] = best

    def _figure(self, state: TrainState) -> float:
        if self.monitor in state.metrics:
            return state.metrics[self.monitor]
        raise InvalidProblem(
            f"EarlyStopping watches {self.monitor!r}, but epoch {state.epoch} has only {', '.join(state.metrics)}. "
            "Figures that begin with 'val_' need validation data. Try fit(..., validation=(inputs, targets)), or "
            "monitor='loss'."
        )

    def _improves(self, value: float) -> bool:
        if self.best != self.best:  # NaN: nothing to compare with yet
            return value == value
        return value > self.best if self.monitor.endswith("accuracy") else value < self.best

    def _remember(self, value: float, state: TrainState) -> None:
        self.best, self._waited = value, 0
        if self.restore_best:
            self._best = {name: array.copy() for name, array in _arrays(state).items()}


def _arrays(state: TrainState) -> dict[str, Array]:
    """All that makes the model: a network is its running statistics too."""
    return {**state.model_state, **state.params}
