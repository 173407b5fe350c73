"""The loss of a model and its gradient, as pure functions of parameters, batch and random state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gc_hooks import training
from gc_hooks._typing import Array, Batch, Params, RandomState
from gc_hooks.layer_view import INPUT, LayerView, location
from gc_hooks.nn.layers import Context
from gc_hooks.nn.losses import LossFunction, Penalty
from gc_hooks.nn.model import Sequential


class Objective(training.Objective):
    """The loss of a model plus a penalty on its parameters.

    Its methods are those of `gc_hooks.training.Objective`; none touches the model's arrays or a generator.

    Parameters
    ----------
    model : Sequential
    loss : SoftmaxCrossEntropy, BinaryCrossEntropy, MeanSquaredError, or another loss of `gc_hooks.nn`
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
        """Return data loss plus penalty."""
        data_loss = self.data_loss(params, batch, random_state)
        if self._penalty is None:  # NumPy 1 makes float64 of a float32 and 0.0
            return data_loss
        return data_loss + self.penalty(params)

    def data_loss(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Any:
        inputs, targets = batch
        outputs, _ = self._model.forward(inputs, training_context(random_state), params)
        return self._loss.value(outputs, targets)

    def data_gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        return self._passes(params, batch, random_state)[1]

    def penalty(self, params: Params) -> Any:
        return 0.0 if self._penalty is None else self._penalty.value(params)

    def gradient(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> dict[str, Array]:
        return self.penalised(params, self.data_gradient(params, batch, random_state))

    def value_and_gradient(
        self, params: Params, batch: Batch, random_state: RandomState | None = None
    ) -> tuple[Any, dict[str, Array]]:
        outputs, grads = self._passes(params, batch, random_state)
        return self._loss.value(outputs, batch[1]) + self.penalty(params), self.penalised(params, grads)

    def _passes(self, params: Params, batch: Batch, random_state: RandomState | None) -> tuple[Array, dict[str, Array]]:
        """Run forward and backward in training mode: return the outputs, and the gradient of the data loss."""
        inputs, targets = batch
        outputs, caches = self._model.forward(inputs, training_context(random_state), params)
        return outputs, self._model.backward(caches, self._loss.gradient(outputs, targets), params)

    def penalised(self, params: Params, grads: Params) -> dict[str, Array]:
        """Return new gradients: those given, plus those of the penalty."""
        total = dict(grads)
        slopes = {} if self._penalty is None else self._penalty.gradient(params)
        for name in slopes.keys() & total.keys():
            total[name] = total[name] + slopes[name]
        return total

    def detached(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Objective:
        """Return the objective whose slope `gradient` is: in it, states where back-propagation stops are constants."""
        model = self._model.detached(batch[0], training_context(random_state), params)
        return self if model is self._model else Objective(model, self._loss, self._penalty)

    def layer_views(self, params: Params, batch: Batch, random_state: RandomState | None = None) -> Iterator[LayerView]:
        inputs, targets = batch
        outputs: Any = None
        for view in self._model.pieces(inputs, training_context(random_state), params):
            outputs = view.forward(view.point)
            yield view
        yield LayerView(
            type(self._loss).__name__,
            {INPUT: outputs},
            lambda p: self._loss.value(p[INPUT], targets),
            lambda p, upstream: {INPUT: upstream * self._loss.gradient(p[INPUT], targets)},
            location(type(self._loss).gradient),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self._model.notes

    @property
    def constants(self) -> dict[str, float]:
        """Return the keep probabilities of dropout: a gradient may be wrong by such a factor."""
        # A layer of the user's own may have a dropout rate too.
        rates = sorted({getattr(layer, "rate", 0.0) for layer in self._model.all_layers()} - {0.0})
        if len(rates) == 1:
            return {"keep probability": 1 - rates[0]}
        return {f"keep probability {1 - rate:g}": 1 - rate for rate in rates}


def training_context(random_state: RandomState | None) -> Context:
    """Return training mode, with a generator in that state, or with dropout's rate set to zero where there is none."""
    if random_state is None:
        return Context(training=True)
    bit_generator = getattr(np.random, random_state["bit_generator"])(0)
    bit_generator.state = random_state
    return Context(training=True, generator=np.random.Generator(bit_generator))
