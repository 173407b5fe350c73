"""Anybody's trainer, attached in at most ten lines: what the hook and the check take, made from what it has.

Each adapter returns the keywords of `gc_hooks.check_gradients` and of the hook's ``on_step``:

    hook.on_step(step, **adapters.layers(net, loss=lambda: net.loss(x, y)))
    check_gradients(**adapters.attributes(net, ["W1", "b1"], loss=lambda: net.loss(x, y)))

It may be called at every step, or once before the loop: parameters and gradients are read when a check asks for them.
Some keywords are common to those whose loss takes nothing and reads the trainer's own arrays:

* ``loss``: ``loss()`` runs the forward pass, dropout off and the penalty in, on one batch, and returns one number.
* ``backward``: ``backward()`` runs the forward and the backward pass and fills the buffers. Without it the buffers are
  judged as they are, which shows what the optimiser is about to use; with it the gradient is asked twice and at other
  points, and what it did to the buffers is put back.
* ``state``: an object, or a tuple of them, that `preserve` puts back after every evaluation, beside the trainer's own.
* ``loss_factor``: the gradient is that of so many times the loss; the batch size, where the loss is reported as a mean
  and the gradient is that of the sum.
* ``frozen``: every evaluation, backward's too, begins from the state in which the check found the trainer: dropout
  with fixed masks, hidden state where it was. It needs ``backward``.

A loss that draws at random or carries something on, and is not ``frozen``, is refused with the cause: the gradient in
the buffers was computed from another start.

`TorchGradCheckHook` is a hook of its own, for PyTorch.
"""

from gc_hooks.adapters.containers import dicts, flat, parallel, pure, returned
from gc_hooks.adapters.objects import attributes, layers, scalars
from gc_hooks.adapters.pytorch.hook import TorchGradCheckHook
from gc_hooks.adapters.updates import RecordingOptimizer, recorded, recovered
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.isolation.snapshot import preserve

__all__ = [
    "RecordingOptimizer",
    "TorchGradCheckHook",
    "Uncertain",
    "attributes",
    "dicts",
    "flat",
    "layers",
    "parallel",
    "preserve",
    "pure",
    "recorded",
    "recovered",
    "returned",
    "scalars",
]
