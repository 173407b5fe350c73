"""Mistakes that people really make in hand-written backpropagation, as faulty parts of the digits network."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gc_hooks import nn


class DoubledWeights(nn.Dense):
    """The gradient of the weights is twice what it should be."""

    def backward(self, params, cache, upstream):
        d_inputs, grads = super().backward(params, cache, upstream)
        return d_inputs, {**grads, "W": 2 * grads["W"]}


class AveragedBias(nn.Dense):
    """The gradient of the bias is averaged over the batch where it has to be summed."""

    def backward(self, params, cache, upstream):
        d_inputs, grads = super().backward(params, cache, upstream)
        return d_inputs, {**grads, "b": grads["b"] / len(upstream)}


class AlwaysOpenReLU(nn.ReLU):
    """The mask is made from the output, ``output >= 0``, which is always true."""

    def backward(self, params, cache, upstream):
        return upstream, {}


class ForgottenPenalty(nn.L2):
    """The penalty is in the loss and not in the gradient."""

    def gradient(self, params):
        return {name: np.zeros_like(g) for name, g in super().gradient(params).items()}


class PenaltyOnBiases(nn.L2):
    """The gradient decays the biases too, the loss does not: right as long as they are zero, at initialisation."""

    def gradient(self, params):
        biases = {name: self.strength * array for name, array in params.items() if name.endswith(".b")}
        return {**super().gradient(params), **biases}


class NeverZeroed(nn.Sequential):
    """The buffers are added to (+=) and never set to zero: right at step 0, wrong from step 1 on."""

    def store(self, grads):
        for name, gradient in grads.items():
            self.grads[name] += gradient


class CappedLogits(nn.SoftmaxCrossEntropy):
    """The loss caps its logits so that nothing overflows, and the gradient does not know: right until they grow."""

    CAP = 12.0

    def value(self, outputs, targets):
        return super().value(np.where(outputs.real < self.CAP, outputs, self.CAP), targets)


@dataclass(frozen=True)
class Bug:
    """What is planted, and the parameters whose gradient it makes wrong."""

    story: str
    wrong: tuple[str, ...] = ()
    parts: dict = field(default_factory=dict)

    def part(self, name):
        """The faulty part of that name, or the good one."""
        return self.parts.get(name, getattr(nn, name))


WEIGHTS = ("dense1.W", "dense2.W", "dense3.W")
BIASES = ("dense1.b", "dense2.b", "dense3.b")

BUGS = {
    "none": Bug("nothing"),
    "doubled": Bug("dense2.W's gradient is doubled", ("dense2.W",), {"Dense": DoubledWeights}),
    "averaged-bias": Bug("dense2.b's gradient is divided by the batch size", ("dense2.b",), {"Dense": AveragedBias}),
    "relu-mask": Bug("the first ReLU lets every gradient through", ("dense1.W", "dense1.b"), {"ReLU": AlwaysOpenReLU}),
    "no-penalty": Bug("L2 is in the loss and not in the gradient", WEIGHTS, {"L2": ForgottenPenalty}),
    "penalty-on-biases": Bug(
        "L2's gradient decays the biases too: right at initialisation, when they are zero",
        BIASES,
        {"L2": PenaltyOnBiases},
    ),
    "capped-logits": Bug(
        "the loss caps its logits and the gradient does not know: right until they have grown",
        WEIGHTS + BIASES,
        {"SoftmaxCrossEntropy": CappedLogits},
    ),
    "never-zeroed": Bug(
        "gradient buffers are never set to zero: right at step 0, wrong at step 1",
        WEIGHTS + BIASES,
        {"Sequential": NeverZeroed},
    ),
}
