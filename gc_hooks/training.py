"""The seven points at which a trainer calls back, and what it shows to those who listen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gc_hooks._typing import Array, Batch, Params, RandomState


class Objective(Protocol):
    """What is being minimised, as pure functions that touch nothing which the trainer's own backward pass reads.

    All compute in the precision of what they are given: float32, float64, or (the two values) complex.
    ``random_state`` fixes the random draws of a training pass, dropout's masks that is; ``None`` forces dropout's
    rate to zero and stays in training mode.
    """

    def data_loss(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Any:
        """The loss on the batch, without the penalty."""

    def penalty(self, params: Params) -> Any:
        """The regularisation term; ``0.0`` when there is none."""

    def gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        """The gradient of data loss plus penalty, by a forward and a backward pass of its own."""

    def data_gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        """The gradient of the data loss alone; what `gradient` adds to it is the penalty's part."""


@dataclass
class TrainState:
    """What a trainer shows to its callbacks; the arrays are the live ones, so look and do not touch.

    Attributes
    ----------
    objective : Objective
        The loss and its gradient as pure functions.
    params, grads : dict of str to ndarray
        Twin dicts. In `Callback.on_gradients` the gradients are those that the optimiser is about to use.
    step : int
        Number of updates made since the trainer was created; the update under way counts from `on_batch_end` on.
    epoch : int
        Epochs completed since the trainer was created.
    batch : tuple of ndarray
        Inputs and targets of the current batch.
    loss : float
        Total loss (with the penalty) on the current batch.
    random_state : mapping
        State of the trainer's generator right before the forward pass on this batch: with it, the same dropout
        masks can be drawn again.
    metrics : dict of str to float
        The figures of the last finished epoch.
    should_stop : bool
        Set by `stop`; the trainer ends cleanly after the current batch.
    remarks : tuple of str
        What a report has to say about this training, such as what the update does that is no part of the loss.
    interrupted : bool
        True in `on_train_end` when an exception (Ctrl-C too) ended the training.
    model_state : dict of str to ndarray
        What the model keeps beside its parameters: running statistics and frozen parameters.
    """

    objective: Objective
    params: dict[str, Array]
    grads: dict[str, Array]
    step: int = 0
    epoch: int = 0
    batch: Batch | None = None
    loss: float = float("nan")
    random_state: RandomState | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    should_stop: bool = False
    stop_reason: str = ""
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
    model_state: dict[str, Array] = field(default_factory=dict)

    def stop(self, reason: str = "") -> None:
        """Ask the trainer to end after the current batch."""
        self.should_stop = True
        self.stop_reason = self.stop_reason or reason


class Callback:
    """Base class: override the points that you want to hear of."""

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first batch of a call of ``fit``."""

    def on_epoch_begin(self, state: TrainState) -> None:
        """Before the first batch of an epoch."""

    def on_batch_begin(self, state: TrainState) -> None:
        """Before the forward pass on a batch."""

    def on_gradients(self, state: TrainState) -> None:
        """After the backward pass and before the optimiser uses the gradients."""

    def on_batch_end(self, state: TrainState) -> None:
        """After the optimiser's update."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After an epoch, with its figures in ``state.metrics``."""

    def on_train_end(self, state: TrainState) -> None:
        """At the end of ``fit``, also of one that was stopped or interrupted."""


class CallbackList(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self.callbacks = tuple(callbacks)

    def on_train_begin(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(state)

    def on_epoch_begin(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_epoch_begin(state)

    def on_batch_begin(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_batch_begin(state)

    def on_gradients(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_gradients(state)

    def on_batch_end(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_batch_end(state)

    def on_epoch_end(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(state)

    def on_train_end(self, state: TrainState) -> None:
        for callback in self.callbacks:
            callback.on_train_end(state)
