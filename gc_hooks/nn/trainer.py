"""The training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gc_hooks._typing import Array, Batch, Generator, RandomState
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.layers import Context
from gc_hooks.nn.losses import LossFunction
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.objective import Objective
from gc_hooks.nn.optimizers import Clip, Optimizer
from gc_hooks.nn.penalties import Penalty
from gc_hooks.nn.progress import progress_display
from gc_hooks.training import Callback, CallbackList, TrainState


class History(dict[str, list[float]]):
    """A list of figures per epoch under each name: "loss", "accuracy", "val_loss", "val_accuracy".

    All lists have one entry per finished epoch; NaN where an epoch has no such figure (it ran without validation data).

    Attributes
    ----------
    batch_loss : list of float
        Total loss on each batch, one entry per step.

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
        for name in [*self, *(name for name in metrics if name not in self)]:
            self.setdefault(name, [float("nan")] * epochs).append(metrics.get(name, float("nan")))


class Batches:
    """Mini-batches of a data set, in an order of its own for each epoch.

    Parameters
    ----------
    inputs : array_like, (N, ...)
    targets : array_like, (N, ...)
    batch_size : int
        At least 1. Where it does not divide N, the last batch of an epoch is smaller.
    shuffle : bool
        Draw a new order of the samples for each epoch.
    seed : int or numpy.random.Generator
        Of the orders. A generator is drawn from as it is: one number of draws for each epoch, whatever is left out.

    Attributes
    ----------
    generator : numpy.random.Generator
        To go on later where an epoch was broken off, keep its state from before that epoch, and the number of batches
        that were used.

    Raises
    ------
    InvalidProblem
        When the data are empty or of different lengths, or the batch size is below 1.

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
        check_counts("Batches", batch_size=batch_size)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        return self.epoch()

    def epoch(self, skip: int = 0) -> Iterator[Batch]:
        """The batches of the next epoch without the first few; the order is drawn as if they were there."""
        samples = len(self.inputs)
        order = self.generator.permutation(samples) if self.shuffle else np.arange(samples)
        return self._in_order(order[skip * self.batch_size :])

    def _in_order(self, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self.inputs[rows], self.targets[rows]


def checked_data(purpose: str, inputs: ArrayLike, targets: ArrayLike) -> Batch:
    """Inputs and targets as arrays with as many rows.

    Raises
    ------
    InvalidProblem
        They are empty or of different lengths.
    """
    data = np.asarray(inputs), np.asarray(targets)
    lengths = [len(array) if array.ndim else 0 for array in data]
    if lengths[0] != lengths[1] or not lengths[0]:
        raise InvalidProblem(
            f"The {purpose} data are inputs of shape {data[0].shape} and targets of shape {data[1].shape}: "
            f"{lengths[0]} and {lengths[1]} samples. Rows are samples, as many of one as of the other and at least "
            "one: one of the two may be transposed, or a split left nothing over. Try inputs.T, or look at the split."
        )
    return data


def check_counts(caller: str, **counts: int) -> None:
    """Refuse a count below 1.

    Raises
    ------
    InvalidProblem
    """
    for name, number in counts.items():
        if number < 1:
            raise InvalidProblem(
                f"{caller} got {name}={number}. Nothing would be trained; a division of the number of samples may have "
                "been rounded to zero. Give at least 1."
            )


@dataclass
class Epoch:
    """How far an epoch has come.

    Attributes
    ----------
    orders : mapping
        State of the generator of orders before this epoch's order was drawn.
    masks : mapping
        State of the generator of masks after the last finished batch.
    plan : dict
        Of the batches: number of samples, batch size, shuffled or not. Empty where none was begun.
    sizes : list of int
        Of the finished batches.
    figures : list of dict
        Of the finished batches.
    """

    orders: RandomState
    masks: RandomState
    plan: dict[str, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of finished batches."""
        return len(self.sizes)

    def finish_batch(self, size: int, figures: dict[str, float], masks: RandomState) -> None:
        """One batch further."""
        self.sizes.append(size)
        self.figures.append(figures)
        self.masks = masks

    def means(self) -> dict[str, float]:
        """The figures, as means over all samples."""
        return {
            name: float(np.average([figures[name] for figures in self.figures], weights=self.sizes))
            for name in self.figures[0]
        }

    def begin(self, batches: Batches) -> None:
        """Note the plan of the batches, or see that it is the one that was begun with.

        Raises
        ------
        InvalidProblem
            A resumed epoch is to go on with other batches.
        """
        plan = plan_of(batches)
        if self.done and plan != self.plan:
            raise InvalidProblem(
                f"The training was saved after {self.done} batches of an epoch with {_told(self.plan)}, and is to go "
                f"on with {_told(plan)}. The rest of that epoch would be other samples. Give fit the same data, "
                "batch_size and shuffle, or save between epochs."
            )
        self.plan = plan

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return asdict(self)


def plan_of(batches: Batches) -> dict[str, int]:
    """What has to be the same for an epoch to go on."""
    return {"samples": len(batches.inputs), "batch_size": batches.batch_size, "shuffle": int(batches.shuffle)}


def _told(plan: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in plan.items())


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
