"""Training on a timetable: learning rates that change over the training, and stopping early.

A schedule is a function of the number of updates made so far; all of them refuse numbers that are not positive.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import TypeAlias

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.nn.optimizers import Optimizer
from gc_hooks.nn.ranges import COUNT, POSITIVE
from gc_hooks.training import Callback, TrainState

Rate: TypeAlias = Callable[[int], float]
"""The learning rate of an update, given the number of updates before it."""

HINT = "A division may have been rounded to zero. Try a rate of 0.1, a factor of 0.5, or at least one step."


def step_decay(rate: float, every: int, factor: float = 0.1) -> Rate:
    """Return ``rate * factor^(step // every)`` as a function of the step.

    Examples
    --------
    >>> [step_decay(1.0, every=2, factor=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    POSITIVE.check("step_decay", HINT, rate=rate, every=every, factor=factor)
    return lambda step: rate * factor ** (step // every)


def exponential_decay(rate: float, factor: float) -> Rate:
    """Return ``rate * factor^step`` as a function of the step: the factor is that of one update, such as 0.999.

    Examples
    --------
    >>> [exponential_decay(1.0, 0.5)(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """
    POSITIVE.check("exponential_decay", HINT, rate=rate, factor=factor)
    return lambda step: rate * factor**step


def cosine_decay(rate: float, steps: int, floor: float = 0.0) -> Rate:
    """Return ``floor + (rate - floor) (1 + cos(pi step / steps)) / 2`` up to that number of steps, then the floor.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), equation 5, without restarts.
    The floor lies from zero to the rate.

    Examples
    --------
    >>> [round(cosine_decay(1.0, steps=4)(step), 2) for step in range(6)]
    [1.0, 0.85, 0.5, 0.15, 0.0, 0.0]
    """
    POSITIVE.check("cosine_decay", HINT, rate=rate, steps=steps)
    require(
        0 <= floor <= rate,
        f"cosine_decay got floor={floor} with rate={rate}. The rate falls to the floor. Try floor=0.",
    )
    return lambda step: floor + (rate - floor) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def warm_up(steps: int, after: Rate) -> Rate:
    """Return ``after(step) * (step + 1) / (steps + 1)`` for the first `steps` updates, and `after` from then on.

    Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2: a gradual warm-up in front of any schedule.

    Examples
    --------
    >>> [warm_up(3, lambda step: 1.0)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    POSITIVE.check("warm_up", HINT, steps=steps)
    require(
        callable(after),
        f"warm_up got after={after!r}, which is not a function of the step. Try after=lambda step: 0.1.",
    )
    return lambda step: after(step) * min(1.0, (step + 1) / (steps + 1))


class LearningRate(Callback):
    """Set an optimiser's learning rate before each update, by a schedule or any function of the number of updates.

    It depends on nothing else, so that a resumed training continues with the right rate.

    Examples
    --------
    >>> from gc_hooks.nn import SGD
    >>> optimizer = SGD(0.1)
    >>> callback = LearningRate(optimizer, cosine_decay(0.1, steps=1000))  # one of the trainer's callbacks
    """

    def __init__(self, optimizer: Optimizer, rate: Rate) -> None:
        self.optimizer, self.rate = optimizer, rate

    def on_batch_begin(self, state: TrainState) -> None:
        """Set the rate of the coming update."""
        self.optimizer.learning_rate = self.rate(state.step)


class EarlyStopping(Callback):
    """Stop when a figure has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        A figure of the history. It should rise if its name ends in "accuracy", and fall if not; NaN never improves it.
    patience : int
        Number of epochs without improvement after which the training stops.
    restore_best : bool
        Put the parameters and running statistics of the best epoch back at the end, but not the optimiser's state.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 5, *, restore_best: bool = False) -> None:
        COUNT.check("EarlyStopping", "The training would stop at once. Try patience=5.", patience=patience)
        self.monitor, self.patience, self.restore_best = monitor, patience, restore_best
        self.best, self._waited = math.nan, 0  # the best value in this call of fit, and the epochs since then
        self._best_arrays: dict[str, Array] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """Forget what an earlier call of ``fit`` reached."""
        self.best, self._waited, self._best_arrays = math.nan, 0, {}

    def on_epoch_end(self, state: TrainState) -> None:
        """Compare with the best epoch, and stop when the patience is exhausted."""
        if self.monitor not in state.metrics:
            raise InvalidProblem(
                f"EarlyStopping watches {self.monitor!r}, but epoch {state.epoch} has only {', '.join(state.metrics)}. "
                "Try monitor='loss', or fit(..., validation=(inputs, targets)) for figures that begin with 'val_'."
            )
        value = state.metrics[self.monitor]
        better = operator.gt if self.monitor.endswith("accuracy") else operator.lt  # both are false for NaN
        if better(value, self.best) or (math.isnan(self.best) and not math.isnan(value)):
            self.best, self._waited = value, 0
            if self.restore_best:  # running statistics count as much as parameters
                self._best_arrays = copy.deepcopy({**state.model_state, **state.params})
            return
        self._waited += 1
        if self._waited >= self.patience:
            state.stop(f"{self.monitor} has not improved on {self.best:.6g} for {self._waited} epochs")

    def on_train_end(self, state: TrainState) -> None:
        """Put the best epoch's arrays back, if `restore_best` is set."""
        arrays = {**state.model_state, **state.params}
        for name, best in self._best_arrays.items():
            arrays[name][...] = best
