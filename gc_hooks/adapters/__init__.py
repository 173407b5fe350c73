"""Attach the check to anybody's trainer, in at most ten lines.

Each adapter returns the keywords of the hook's ``on_step`` and of `gc_hooks.check_gradients`:

    hook.on_step(step, **adapters.layers(net, loss=lambda: net.loss(x, y)))
    check_gradients(**adapters.attributes(net, ["W1", "b1"], loss=lambda: net.loss(x, y)))

The README has a line to copy for each of the usual layouts. Call it at every step, or once before the loop: parameters
and gradients are read when a check needs them. All adapters take these keywords in the same meaning:

* ``loss``: ``loss()`` runs the forward pass on one batch, dropout off and the penalty included, and returns one number.
* ``backward``: ``backward()`` runs the forward and the backward pass and fills the buffers. They are set to zero before
  it, so that it may add to them, and put back after the check. With it the gradient is computed twice and at other
  points, and a hook also compares it with what the training left in the buffers. Without it the buffers are judged as
  they are: they are what the optimiser is about to use.
* ``state``: an object, or a tuple of them, that `preserve` puts back after every evaluation. What the functions refer
  to is put back without it: objects, variables that they set, containers of numbers or of up to a thousand items, and
  arrays of up to a megabyte. An iterator cannot be put back.
* ``loss_factor``: the gradient is that of ``loss_factor`` times the loss. It is the batch size where the loss is
  reported as a mean and the gradient is that of the sum.
* ``frozen``: every evaluation, backward's too, begins from the state in which the check found the trainer: dropout
  with fixed masks, hidden state as it was. It needs ``backward``, or a gradient that is a function.

A loss that takes nothing reads the arrays themselves, which are changed in place and put back.

A loss that draws random numbers or changes a state that it depends on, and is not ``frozen``, is refused with the
cause: the gradient in the buffers was computed from another state.

`TorchGradCheckHook` is a hook of its own, for PyTorch, and `ScipyGradCheckHook` for optimisers and solvers of SciPy.
"""

from gc_hooks.adapters.containers import dicts, flat, parallel, pure, returned
from gc_hooks.adapters.objects import attributes, layers, scalars
from gc_hooks.adapters.optimizers import ScipyGradCheckHook
from gc_hooks.adapters.pytorch.hook import TorchGradCheckHook
from gc_hooks.adapters.updates import RecordingOptimizer, recorded, recovered
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.isolation.snapshot import preserve

__all__ = [
    "RecordingOptimizer",
    "ScipyGradCheckHook",
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
