"""What a trainer shows to its callbacks, and the seven points at which it calls them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from gc_hooks._typing import Array, Batch, Params, RandomState


class Objective(ABC):
    """What a training minimises, as pure functions: none touches what the trainer's own backward pass reads.

    Base class for the objective that a trainer shows in `TrainState`. Without a penalty `data_loss` and `data_gradient`
    are enough; with one, override `penalty` and `gradient` too. All compute in the precision of the given parameters:
    float32, float64, or (the two values) complex. ``random_state`` fixes the random draws of a training pass, such as
    dropout masks; None sets dropout's rate to zero and stays in training mode.
    """

    @abstractmethod
    def data_loss(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Any:
        """Return the loss on the batch, without the penalty."""

    @abstractmethod
    def data_gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        """Return the gradient of the data loss, computed by a forward and a backward pass of its own."""

    def penalty(self, params: Params) -> Any:
        """Return the regularisation term."""
        return 0.0

    def gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        """Return the gradient of data loss plus penalty."""
        return self.data_gradient(params, batch, random_state)

    def value_and_gradient(
        self, params: Params, batch: Batch, random_state: RandomState | None = None
    ) -> tuple[Any, dict[str, Array]]:
        """Return data loss plus penalty, and the gradient of both. Override it where one forward pass serves both."""
        value = self.data_loss(params, batch, random_state) + self.penalty(params)
        return value, self.gradient(params, batch, random_state)

    def detached(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Objective:
        """Return the objective whose slope `gradient` is: another one where the gradient treats a state as constant."""
        return self

    def layer_views(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Iterable[Any]:
        """Return a `gc_hooks.layer_view.LayerView` of each layer, and last of the loss, where they are known."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a report should say of the model."""
        return ()

    @property
    def constants(self) -> dict[str, float]:
        """Return numbers by which a wrong gradient may be off, with their names, for the diagnosis."""
        return {}


def adopted(source: Any) -> Objective:
    """Return an objective that does not inherit `Objective` as one; what it does not have keeps its default."""
    own = [name for name in dir(Objective) if not name.startswith("_") and hasattr(source, name)]
    adopting: Any = type(
        type(source).__name__, (Objective,), {name: staticmethod(getattr(source, name)) for name in own}
    )
    return cast(Objective, adopting())


@dataclass
class TrainState:
    """What a trainer shows to its callbacks. The arrays are the live ones: read them, and do not write to them.

    Attributes
    ----------
    objective : Objective
        Loss and gradient as pure functions.
    params, grads : dict of str to ndarray
        Two dicts with the same keys. In `Callback.on_gradients` the optimiser is about to use these gradients.
    step, epoch : int
        Number of updates made, and of epochs completed, since the trainer was created.
    batch : tuple of ndarray
        Inputs and targets.
    loss : float
        Loss on the batch, penalty included.
    random_state : mapping
        State of the trainer's generator before the forward pass: with it the same dropout masks are drawn again.
    metrics : dict of str to float
        Figures of the last completed epoch.
    should_stop, stop_reason : bool, str
        Set by `stop`; the trainer ends after the current batch.
    remarks : tuple of str
        Sentences for a report, such as on a part of the update that is not in the loss.
    interrupted : bool
        True in `on_train_end` when an exception (Ctrl-C too) ended the training.
    model_state : dict of str to ndarray
        Running statistics and frozen parameters.
    """

    objective: Objective
    params: dict[str, Array]
    grads: dict[str, Array]
    step: int = 0
    epoch: int = 0
    batch: Batch | None = None
    loss: float = float("nan")  # before the first batch
    random_state: RandomState | None = None  # as plain data, so that it can be used again
    metrics: dict[str, float] = field(default_factory=dict)
    should_stop: bool = False
    stop_reason: str = ""
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
    model_state: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            self.objective = adopted(self.objective)

    def stop(self, reason: str = "") -> None:
        """Ask the trainer to end after the current batch."""
        self.should_stop = True
        self.stop_reason = self.stop_reason or reason  # the first reason is the cause


class Callback:
    """Base class of callbacks: override the points at which you want to be called."""

    def on_train_begin(self, state: TrainState) -> None:
        """Act before the first batch of a call of ``fit``."""

    def on_epoch_begin(self, state: TrainState) -> None:
        """Act before the first batch of an epoch."""

    def on_batch_begin(self, state: TrainState) -> None:
        """Act before the forward pass on a batch."""

    def on_gradients(self, state: TrainState) -> None:
        """Act after the backward pass, before the optimiser uses the gradients."""

    def on_batch_end(self, state: TrainState) -> None:
        """Act after the optimiser's update."""

    def on_epoch_end(self, state: TrainState) -> None:
        """Act after an epoch; its figures are in ``state.metrics``."""

    def on_train_end(self, state: TrainState) -> None:
        """Act at the end of ``fit``, also of one that was stopped or interrupted."""
