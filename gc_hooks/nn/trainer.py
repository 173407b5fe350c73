"""The training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Array, Batch
from gc_hooks.callbacks import Callback, CallbackList, TrainState
from gc_hooks.nn.batches import Batches, check_counts, checked_data
from gc_hooks.nn.clipping import Clip
from gc_hooks.nn.epoch import Epoch
from gc_hooks.nn.history import History
from gc_hooks.nn.layers import Context
from gc_hooks.nn.losses import LossFunction
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.objective import Objective
from gc_hooks.nn.optimizers import Optimizer
from gc_hooks.nn.penalties import Penalty
from gc_hooks.nn.progress import progress_display

CLIPPED = "Gradients are clipped on their way to the optimiser: checked is what they are before."


class Trainer:
    """Train a model on batches, with callbacks.

    Parameters
    ----------
    model : Sequential
        Trained in place.
    loss : SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError, or of the kind
    optimizer : SGD, Momentum, Adam, or of the kind
    penalty : L2, optional
        Added to the loss and to the gradient.
    clip : callable, optional
        `clip_by_norm`, `clip_by_value`, or any function of the gradients that returns others for the optimiser; applied
        after ``on_gradients``.
    callbacks : iterable of Callback
        Called in this order at each point.
    seed : int
        Of the order of the samples and, by a generator of its own, of the dropout masks.

    Attributes
    ----------
    objective : Objective
        What is minimised, as pure functions.
    history : History
        The figures of all epochs so far.
    state : TrainState
        What the callbacks are shown.

    Examples
    --------
    >>> from gc_hooks.nn import Dense, SGD, SoftmaxCrossEntropy
    >>> model = Sequential([Dense(2, 2)])
    >>> trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.5))
    >>> history = trainer.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=50)
    >>> trainer.predict([[0.0, 1.0], [1.0, 0.0]])
    array([0, 1])
    """

    def __init__(
        self,
        model: Sequential,
        loss: LossFunction,
        optimizer: Optimizer,
        *,
        penalty: Penalty | None = None,
        clip: Clip | None = None,
        callbacks: Iterable[Callback] = (),
        seed: int = 0,
    ) -> None:
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.callbacks = tuple(callbacks)
        self.objective = Objective(model, loss, penalty)
        self.history = History()
        remarks = (*getattr(optimizer, "remarks", ()), *([] if clip is None else [CLIPPED]))
        self.state = TrainState(self.objective, model.params, model.grads, model_state=model.state, remarks=remarks)
        self._clip = clip
        # Two streams: turning dropout on must not change the order of the samples.
        orders, masks = np.random.SeedSequence(seed).spawn(2)
        self._orders, self._masks = np.random.default_rng(orders), np.random.default_rng(masks)
        self._epoch, self._goes_on = self._next_epoch(), False

    @property
    def step(self) -> int:
        """Number of updates made so far."""
        return self.state.step

    def fit(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        shuffle: bool = True,
        progress: bool | None = None,
    ) -> History:
        """Train for some epochs; a further call goes on where the last one ended.

        A callback ends the training with ``state.stop()``: after the batch under way, and without
        ``on_epoch_end`` and a line in the history for an epoch that still had batches to come. ``on_train_end`` is
        called exactly once whatever happens, with ``state.interrupted`` set when an exception passes through.

        Parameters
        ----------
        inputs : array_like, (N, features)
        targets : array_like
            N of what the loss takes.
        epochs, batch_size : int
            At least 1. The last batch of an epoch may be smaller.
        validation : tuple of array_like, optional
            Inputs and targets that are evaluated at the end of each epoch.
        shuffle : bool
            Draw a new order of the samples for each epoch.
        progress : bool, optional
            By default a bar in a terminal, and nothing elsewhere. True prints a line per epoch where there is no
            terminal; False shows nothing.

        Returns
        -------
        History
            Of all epochs so far. "loss" (with the penalty) and "accuracy" are means over the epoch's batches, in
            training mode and before each update; "val_loss" and "val_accuracy" are those of `evaluate`.

        Raises
        ------
        InvalidProblem
            When data are empty or of different lengths, or a number is below 1.
        """
        check_counts("fit", epochs=epochs, batch_size=batch_size)
        batches = Batches(inputs, targets, batch_size, shuffle=shuffle, seed=self._orders)
        held_out = None if validation is None else checked_data("validation", *validation)
        with progress_display(progress, epochs, len(batches)) as display:
            self._run(CallbackList([*self.callbacks, display]), batches, held_out, epochs)
        return self.history

    def _run(self, callbacks: Callback, batches: Batches, held_out: Batch | None, epochs: int) -> None:
        state = self.state
        state.should_stop, state.stop_reason, state.interrupted = False, "", False
        try:
            callbacks.on_train_begin(state)
            for _ in range(epochs):
                if state.should_stop:
                    break
                self._run_epoch(callbacks, batches, held_out)
        except BaseException:
            state.interrupted = True
            raise
        finally:
            callbacks.on_train_end(state)

    def _run_epoch(self, callbacks: Callback, batches: Batches, held_out: Batch | None) -> None:
        state, epoch = self.state, self._begun_epoch(batches)
        callbacks.on_epoch_begin(state)
        for batch in batches.epoch(skip=epoch.done):
            if state.should_stop:
                return
            self._run_batch(callbacks, self._in_precision(batch))
        state.epoch += 1
        state.metrics = epoch.means()
        self._epoch = self._next_epoch()
        if held_out is not None:
            state.metrics |= {f"val_{name}": figure for name, figure in self.evaluate(*held_out).items()}
        self.history.record(state.metrics)
        callbacks.on_epoch_end(state)

    def _begun_epoch(self, batches: Batches) -> Epoch:
        """The epoch that was loaded, if it goes on here, or a new one."""
        if not self._goes_on:
            self._epoch = self._next_epoch()
        self._epoch.begin(batches)
        self._goes_on = False
        return self._epoch

    def _next_epoch(self) -> Epoch:
        return Epoch(self._orders.bit_generator.state, self._masks.bit_generator.state)

    def _run_batch(self, callbacks: Callback, batch: Batch) -> None:
        state, model, (inputs, targets) = self.state, self.model, batch
        state.batch = batch
        callbacks.on_batch_begin(state)

        state.random_state = self._masks.bit_generator.state
        outputs, caches = model.forward(inputs, Context(training=True, generator=self._masks))
        figures = self._figures(outputs, targets)
        state.loss = figures["loss"]
        grads = model.backward(caches, self.loss.gradient(outputs, targets))
        model.store(self.objective.penalised(model.params, grads))
        callbacks.on_gradients(state)

        self.optimizer.step(model.params, model.grads if self._clip is None else self._clip(model.grads))
        model.observe(caches)
        state.step += 1
        self.history.batch_loss.append(state.loss)
        self._epoch.finish_batch(len(inputs), figures, self._masks.bit_generator.state)
        callbacks.on_batch_end(state)

    def _in_precision(self, batch: Batch) -> Batch:
        """The batch in the model's precision: what is checked later is rounded no further than what was trained on."""
        inputs, targets = batch
        return inputs.astype(self.model.dtype), _rounded(targets, self.model.dtype)

    def standing(self) -> dict[str, Any]:
        """Where the training stands, as JSON can hold it: after the last finished batch, also of a broken epoch."""
        state = self.state
        return {"step": state.step, "epoch": state.epoch, "history": self.history, "under_way": self._epoch.as_dict()}

    def go_on_from(self, standing: Mapping[str, Any], batch_loss: list[float]) -> None:
        """Stand there, so that the next ``fit`` goes on from there; the parameters are not part of it."""
        self.state.step, self.state.epoch = standing["step"], standing["epoch"]
        self.history.clear()
        self.history.update(standing["history"])
        self.history.batch_loss[:] = batch_loss
        self._epoch, self._goes_on = Epoch(**standing["under_way"]), True
        self._orders.bit_generator.state, self._masks.bit_generator.state = self._epoch.orders, self._epoch.masks

    def evaluate(self, inputs: ArrayLike, targets: ArrayLike) -> dict[str, float]:
        """Loss (with the penalty) and, of a classifier, accuracy in evaluation mode.

        Raises
        ------
        InvalidProblem
            When the data are empty or of different lengths.
        """
        checked_inputs, checked_targets = checked_data("evaluation", inputs, targets)
        return self._figures(self.model(checked_inputs), checked_targets)

    def predict(self, inputs: ArrayLike) -> Array:
        """Labels (N,) of a classifier, outputs of a regression."""
        return self.loss.predict(self.model(inputs))

    def predict_proba(self, inputs: ArrayLike) -> Array:
        """Class probabilities: (N, C) of softmax, (N,) of the binary loss.

        Raises
        ------
        InvalidProblem
            When the loss is that of a regression.
        """
        return self.loss.predict_proba(self.model(inputs))

    def _figures(self, outputs: Array, targets: Array) -> dict[str, float]:
        total = self.loss.value(outputs, targets) + self.objective.penalty(self.model.params)
        return {"loss": float(total), **self.loss.metrics(outputs, targets)}


def _rounded(targets: Array, dtype: np.dtype[np.floating]) -> Array:
    return targets.astype(dtype) if targets.dtype.kind == "f" else targets
