"""What is minimised, as pure functions of parameters, batch and random state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Batch, Params, RandomState
from gc_hooks.layer_view import INPUT, LayerView, location
from gc_hooks.nn.layers import Context
from gc_hooks.nn.losses import LossFunction
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.penalties import Penalty


class Objective:
    """The loss of a model plus a penalty on its parameters.

    Implements `gc_hooks.training.Objective`. No method touches the model's parameters, gradients or any generator;
    all compute in the precision of the parameters that they are given.

    Parameters
    ----------
    model : Sequential
    loss : SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError, or of the kind
    penalty : L2, optional

    Examples
    --------
    >>> from gc_hooks.nn import Dense, MeanSquaredError
    >>> model = Sequential([Dense(2, 1)])
    >>> objective = Objective(model, MeanSquaredError())
    >>> batch = np.ones((3, 2)), np.zeros(3)
    >>> bool(objective(model.params, batch) == objective.data_loss(model.params, batch))
    True
    """

    def __init__(self, model: Sequential, loss: LossFunction, penalty: Penalty | None = None) -> None:
        self._model = model
        self._loss = loss
        self._penalty = penalty

    def __call__(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Any:
        """Data loss plus penalty; costs a forward pass."""
        data_loss = self.data_loss(params, batch, random_state)
        return data_loss if self._penalty is None else data_loss + self._penalty.value(params)

    def data_loss(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Any:
        """The loss on the batch in training mode, without the penalty; costs a forward pass."""
        inputs, targets = batch
        outputs, _ = self._model.forward(inputs, training_context(random_state), params)
        return self._loss.value(outputs, targets)

    def pieces(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Iterator[LayerView]:
        """The layers one by one, and last the loss as a function of the outputs."""
        inputs, targets = batch
        outputs: Any = None
        for piece in self._model.pieces(inputs, training_context(random_state), params):
            outputs = piece.forward(piece.point)
            yield piece
        yield LayerView(
            type(self._loss).__name__,
            {INPUT: outputs},
            lambda p: self._loss.value(p[INPUT], targets),
            lambda p, upstream: {INPUT: upstream * self._loss.gradient(p[INPUT], targets)},
            location(type(self._loss).gradient),
        )

    def detached(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Objective:
        """The objective whose slope `gradient` is: where back-propagation through time is truncated, the states there
        are held at what they are for these parameters on this batch. Elsewhere the objective itself."""
        model = self._model.detached(batch[0], training_context(random_state), params)
        return self if model is self._model else Objective(model, self._loss, self._penalty)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report should say of the model: which parameters are frozen."""
        return self._model.notes

    @property
    def constants(self) -> dict[str, float]:
        """Numbers by which a gradient may be off: what dropout keeps."""
        rates = {getattr(layer, "rate", 0.0) for layer in self._model.all_layers()} - {0.0}
        return {"keep probability" if len(rates) == 1 else f"keep probability {1 - r:g}": 1 - r for r in sorted(rates)}

    def penalty(self, params: Params) -> Any:
        """The penalty; ``0.0`` when there is none."""
        return 0.0 if self._penalty is None else self._penalty.value(params)

    def gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        """The gradient of data loss plus penalty; costs a forward and a backward pass."""
        return self.penalised(params, self.data_gradient(params, batch, random_state))

    def data_gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        """The gradient of the data loss alone; costs a forward and a backward pass."""
        _, grads = self._passes(params, batch, random_state)
        return grads

    def value_and_gradient(
        self, params: Params, batch: Batch, random_state: RandomState | None = None
    ) -> tuple[Any, dict[str, Array]]:
        """Data loss plus penalty, and the gradient of both; costs what `gradient` costs, one forward pass serves."""
        outputs, grads = self._passes(params, batch, random_state)
        return self._loss.value(outputs, batch[1]) + self.penalty(params), self.penalised(params, grads)

    def _passes(self, params: Params, batch: Batch, random_state: RandomState | None) -> tuple[Array, dict[str, Array]]:
        """Forward and backward in training mode: the outputs, and the gradient of the data loss."""
        inputs, targets = batch
        outputs, caches = self._model.forward(inputs, training_context(random_state), params)
        return outputs, self._model.backward(caches, self._loss.gradient(outputs, targets), params)

    def penalised(self, params: Params, grads: Params) -> dict[str, Array]:
        """New gradients: those given, plus the penalty's."""
        extra = {} if self._penalty is None else self._penalty.gradient(params)
        return {name: gradient + extra[name] if name in extra else gradient for name, gradient in grads.items()}


def training_context(random_state: RandomState | None) -> Context:
    """Training mode with a generator of its own in that state, or with dropout's rate forced to zero."""
    if random_state is None:
        return Context(training=True)
    bit_generator = getattr(np.random, random_state["bit_generator"])(0)
    bit_generator.state = random_state
    return Context(training=True, generator=np.random.Generator(bit_generator))
