"""The training loop, `Trainer`, with its mini-batches and the record of what happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Array, Batch, Generator, RandomState
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.nn.layers import Context
from gc_hooks.nn.losses import LossFunction, Penalty
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.objective import Objective
from gc_hooks.nn.optimizers import Clip, Optimizer
from gc_hooks.nn.progress import progress_display
from gc_hooks.nn.ranges import COUNT
from gc_hooks.training import Callback, TrainState

TOO_FEW = "Nothing would be trained; a division may have been rounded to zero. Try 1."
CLIPPED = "Gradients are clipped before the optimiser uses them; the check looks at them before they are clipped."


class Trainer:
    """Train a model on batches, with callbacks.

    Parameters
    ----------
    model : Sequential
        Trained in place.
    loss : LossFunction
    optimizer : Optimizer
    penalty : Penalty, optional
        Added to the loss and to the gradient, such as `L2`.
    clip : callable, optional
        `clip_by_norm`, `clip_by_value`, or any function of the gradients, applied after ``on_gradients``.
    callbacks : iterable of Callback
        Called in this order at each point.
    seed : int
        Seed of the order of the samples and of the dropout masks, which have a generator each.

    Attributes
    ----------
    history : History
        The figures of all epochs so far.
    objective, state : Objective, TrainState
        What the callbacks get.

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
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.callbacks = tuple(callbacks)
        self.objective = Objective(model, loss, penalty)
        self.history = History()
        remarks = optimizer.remarks if clip is None else (*optimizer.remarks, CLIPPED)
        self.state = TrainState(self.objective, model.params, model.grads, model_state=model.state, remarks=remarks)
        self._clip = clip
        # Two streams: turning dropout on must not change the order of the samples.
        orders, masks = np.random.SeedSequence(seed).spawn(2)
        self._orders, self._masks = np.random.default_rng(orders), np.random.default_rng(masks)
        self._epoch = self._next_epoch()
        self._resumes = False  # True when `_epoch` was loaded and is to be continued

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
        """Train for some epochs; a further call continues where the last one ended.

        A callback ends the training after the current batch with ``state.stop()``; an epoch that is not complete has no
        ``on_epoch_end`` and no line in the history. ``on_train_end`` is called exactly once in any case, with
        ``state.interrupted`` set when an exception passes through.

        Parameters
        ----------
        inputs : array_like, (N, features)
        targets : array_like
            N of what the loss takes.
        epochs, batch_size : int
            At least 1; the last batch may be smaller.
        validation : tuple of array_like, optional
            Inputs and targets that are evaluated at the end of each epoch.
        shuffle : bool
            Draw a new order of the samples for each epoch.
        progress : bool, optional
            True prints a line per epoch where there is no terminal with a bar; False shows nothing.

        Returns
        -------
        History
            The figures of all epochs so far. "loss" (with the penalty) and "accuracy" are means over the epoch's
            batches, in training mode and before each update; "val_loss" and "val_accuracy" are those of `evaluate`.
        """
        COUNT.check("fit", TOO_FEW, epochs=epochs, batch_size=batch_size)
        batches = Batches(inputs, targets, batch_size, shuffle=shuffle, seed=self._orders)
        held_out = None if validation is None else checked_data("validation", *validation)
        state = self.state
        state.should_stop, state.stop_reason, state.interrupted = False, "", False
        with progress_display(progress, epochs, len(batches)) as display:
            callbacks = (*self.callbacks, display)
            try:
                for callback in callbacks:
                    callback.on_train_begin(state)
                for _ in range(epochs):
                    if state.should_stop:
                        break
                    self._run_epoch(callbacks, batches, held_out)
            except BaseException:
                state.interrupted = True
                raise
            finally:
                for callback in callbacks:
                    callback.on_train_end(state)
        return self.history

    def _run_epoch(self, callbacks: tuple[Callback, ...], batches: Batches, held_out: Batch | None) -> None:
        state = self.state
        if not self._resumes:
            self._epoch = self._next_epoch()
        epoch = self._epoch
        epoch.begin(batches)
        self._resumes = False
        for callback in callbacks:
            callback.on_epoch_begin(state)
        for inputs, targets in batches.epoch(skip=len(epoch.sizes)):
            if state.should_stop:
                return
            # In the model's precision, so that a check sees exactly the numbers that were trained on.
            dtype = self.model.dtype
            exact = targets.astype(dtype) if targets.dtype.kind == "f" else targets
            self._run_batch(callbacks, (inputs.astype(dtype), exact))
        state.epoch += 1
        state.metrics = epoch.means()
        self._epoch = self._next_epoch()
        if held_out is not None:
            for name, figure in self.evaluate(*held_out).items():
                state.metrics[f"val_{name}"] = figure
        self.history.record(state.metrics)
        for callback in callbacks:
            callback.on_epoch_end(state)

    def _next_epoch(self) -> Epoch:
        return Epoch(self._orders.bit_generator.state, self._masks.bit_generator.state)

    def _run_batch(self, callbacks: tuple[Callback, ...], batch: Batch) -> None:
        state, model, (inputs, targets) = self.state, self.model, batch
        state.batch = batch
        for callback in callbacks:
            callback.on_batch_begin(state)

        # Forward, then backward: the gradients are complete, and nothing has been updated yet.
        state.random_state = self._masks.bit_generator.state
        outputs, caches = model.forward(inputs, Context(training=True, generator=self._masks))
        figures = self._figures(outputs, targets)
        state.loss = figures["loss"]
        grads = model.backward(caches, self.loss.gradient(outputs, targets))
        model.store(self.objective.penalised(model.params, grads))
        for callback in callbacks:
            callback.on_gradients(state)

        # Update: the parameters, the running statistics, and the record of what has happened.
        self.optimizer.step(model.params, model.grads if self._clip is None else self._clip(model.grads))
        model.observe(caches)
        state.step += 1
        self.history.batch_loss.append(state.loss)
        self._epoch.sizes.append(len(inputs))
        self._epoch.figures.append(figures)
        self._epoch.masks = self._masks.bit_generator.state
        for callback in callbacks:
            callback.on_batch_end(state)

    def _figures(self, outputs: Array, targets: Array) -> dict[str, float]:
        total = self.loss.value(outputs, targets) + self.objective.penalty(self.model.params)
        return {"loss": float(total), **self.loss.metrics(outputs, targets)}

    def evaluate(self, inputs: ArrayLike, targets: ArrayLike) -> dict[str, float]:
        """Return the loss (with the penalty) and a classifier's accuracy, in evaluation mode."""
        checked_inputs, checked_targets = checked_data("evaluation", inputs, targets)
        return self._figures(self.model(checked_inputs), checked_targets)

    def predict(self, inputs: ArrayLike) -> Array:
        """Return the labels (N,) of a classifier, or the outputs of a regression."""
        return self.loss.predict(self.model(inputs))

    def predict_proba(self, inputs: ArrayLike) -> Array:
        """Return class probabilities: (N, C) for softmax, (N,) for the binary loss; a regression has none."""
        return self.loss.predict_proba(self.model(inputs))

    def standing(self) -> dict[str, Any]:
        """Return where the training stands, in the types of JSON: after the last finished batch, also in an epoch."""
        state = self.state
        return {"step": state.step, "epoch": state.epoch, "history": self.history, "under_way": asdict(self._epoch)}

    def go_on_from(self, standing: Mapping[str, Any], batch_loss: list[float]) -> None:
        """Continue from there with the next ``fit``; the parameters are not part of it."""
        self.state.step, self.state.epoch = standing["step"], standing["epoch"]
        self.history.clear()
        self.history.update(standing["history"])
        self.history.batch_loss[:] = batch_loss
        self._epoch, self._resumes = Epoch(**standing["under_way"]), True
        self._orders.bit_generator.state, self._masks.bit_generator.state = self._epoch.orders, self._epoch.masks


class History(dict[str, list[float]]):
    """A list of figures per epoch under each name: "loss", "accuracy", "val_loss", "val_accuracy".

    All lists have one entry per finished epoch; NaN where an epoch has no such figure (no validation data). The
    attribute ``batch_loss`` is the total loss on each batch, with one entry per step.

    Examples
    --------
    >>> history = History()
    >>> history.record({"loss": 0.5})
    >>> history.record({"loss": 0.25, "val_loss": 0.75})
    >>> history
    {'loss': [0.5, 0.25], 'val_loss': [nan, 0.75]}
    """

    def __init__(self) -> None:
        super().__init__()
        self.batch_loss: list[float] = []

    def record(self, metrics: Mapping[str, float]) -> None:
        """Append the figures of one epoch."""
        epochs = max(map(len, self.values()), default=0)
        for name in dict.fromkeys([*self, *metrics]):
            self.setdefault(name, [float("nan")] * epochs).append(metrics.get(name, float("nan")))


class Batches:
    """Mini-batches of a data set, in a new order for each epoch.

    Parameters
    ----------
    inputs, targets : array_like, (N, ...)
    batch_size : int
        At least 1. Where it does not divide N, the last batch of an epoch is smaller.
    shuffle : bool
        Draw a new order of the samples for each epoch.
    seed : int or numpy.random.Generator
        Seed of the orders, or a generator. Each epoch draws the same number of times from it, also when its first
        batches are skipped: to continue an epoch later, save the state of ``generator`` before it.

    Examples
    --------
    >>> batches = Batches(np.arange(5), np.arange(5), batch_size=2, shuffle=False)
    >>> len(batches), [inputs.tolist() for inputs, targets in batches]
    (3, [[0, 1], [2, 3], [4]])
    >>> [inputs.tolist() for inputs, targets in batches.epoch(skip=2)]
    [[4]]
    """

    def __init__(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int | Generator = 0,
    ) -> None:
        self.inputs, self.targets = checked_data("training", inputs, targets)
        COUNT.check("Batches", TOO_FEW, batch_size=batch_size)
        self.batch_size, self.shuffle = batch_size, shuffle
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Return the batches of the next epoch."""
        return self.epoch()

    def epoch(self, skip: int = 0) -> Iterator[Batch]:
        """Return the batches of the next epoch without the first few, in the order that a complete epoch has."""
        samples = len(self.inputs)
        order = self.generator.permutation(samples) if self.shuffle else np.arange(samples)
        # A generator expression, so that the order is drawn now, and each batch is copied only when it is used.
        starts = range(skip * self.batch_size, samples, self.batch_size)
        batches = (order[start : start + self.batch_size] for start in starts)
        return ((self.inputs[rows], self.targets[rows]) for rows in batches)


def checked_data(purpose: str, inputs: ArrayLike, targets: ArrayLike) -> Batch:
    """Return inputs and targets as arrays; refuse them when they are empty or of different lengths."""
    data = np.asarray(inputs), np.asarray(targets)
    lengths = [len(array) if array.ndim else 0 for array in data]
    require(
        lengths[0] == lengths[1] and lengths[0] > 0,
        f"The {purpose} data are inputs of shape {data[0].shape} and targets of shape {data[1].shape}: {lengths[0]} "
        f"and {lengths[1]} samples. Both need the same number of rows, at least one: one may be transposed, or a split "
        "left nothing over. Try inputs.T, or look at the split.",
    )
    return data


@dataclass
class Epoch:
    """How much of an epoch is done, in the types of JSON."""

    orders: RandomState  # state of the generator of orders before this epoch's order was drawn
    masks: RandomState  # state of the generator of masks after the last finished batch
    plan: dict[str, int] = field(default_factory=dict)  # what `begin` stores; empty before
    sizes: list[int] = field(default_factory=list)  # number of samples of each finished batch
    figures: list[dict[str, float]] = field(default_factory=list)  # loss and metrics of each finished batch

    def begin(self, batches: Batches) -> None:
        """Store the plan of the batches, or refuse to continue an epoch with other batches than it began with."""
        plan = {"samples": len(batches.inputs), "batch_size": batches.batch_size, "shuffle": int(batches.shuffle)}
        if self.sizes and plan != self.plan:
            text = "samples={samples}, batch_size={batch_size}, shuffle={shuffle}"
            raise InvalidProblem(
                f"The training was saved after {len(self.sizes)} batches of an epoch with {text.format(**self.plan)}, "
                f"and is to go on with {text.format(**plan)}. The rest would be other samples. Give fit the same data, "
                "batch_size and shuffle, or save between epochs."
            )
        self.plan = plan

    def means(self) -> dict[str, float]:
        """Return the means of the figures over all samples."""
        means = {}
        for name in self.figures[0]:
            values = [figures[name] for figures in self.figures]
            means[name] = float(np.average(values, weights=self.sizes))
        return means
