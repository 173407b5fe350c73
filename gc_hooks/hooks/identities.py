"""Identities of the loss that its gradient has to share: what does not change the one must not change the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array, Batch, Params
from gc_hooks.arrays.norms import relative_difference
from gc_hooks.numerics import EPS
from gc_hooks.report.diagnosis import Diagnosis, listed
from gc_hooks.training import Objective

ROUNDINGS = 1e4
"""Roundings by which two equal losses or gradients may differ when they are summed in another order: 2e-12 in float64.
The bugs that are looked for change the gradient by a factor, or mix samples: ten times more would hide none."""

MOST_SAMPLES = 16
"""Samples of the check batch that are used: each of them costs a backward pass of its own."""


def broken_identities(objective: Objective, params: Params, batch: Batch) -> Iterator[Diagnosis]:
    """Yield a diagnosis for each identity that the loss has and its gradient has not, with dropout off.

    A mean over independent samples does not change with the order of the samples, nor when every sample is there
    twice, and it is the mean of the samples' own losses. Where the loss has such an identity, its gradient must have it
    too. Costs a few backward passes, and one for each of up to 16 samples.
    """
    inputs, targets = batch[0][:MOST_SAMPLES], batch[1][:MOST_SAMPLES]
    for code, description, batches in _equivalent_batches(inputs, targets):
        loss = objective.data_loss(params, (inputs, targets))
        mean_loss = np.mean([objective.data_loss(params, other) for other in batches])
        if abs(mean_loss - loss) > ROUNDINGS * EPS * abs(mean_loss):
            continue
        grads = objective.data_gradient(params, (inputs, targets))
        others = [objective.data_gradient(params, other) for other in batches]
        broken, ratios = {}, {}
        for name, grad in grads.items():
            mean = np.mean([other[name] for other in others], axis=0)
            difference = relative_difference(mean, grad)
            if difference > ROUNDINGS * EPS:
                broken[name] = difference
                ratios[name] = float(np.linalg.norm(mean) / (np.linalg.norm(grad) or 1.0))
        if broken:
            worst = max(broken, key=broken.__getitem__)
            yield Diagnosis(
                code,
                tuple(broken),
                f"The loss is the same {description}, but backprop's gradient of {listed(broken)} is not.",
                f"For {worst} they differ by {broken[worst]:.1g}; the ratio of their norms is {ratios[worst]:.4g}.",
                "This usually means a sum for a mean over the batch, or rows of different samples that are mixed. Try "
                "to look where the number of samples comes in.",
            )


def _equivalent_batches(inputs: Array, targets: Array) -> Iterator[tuple[str, str, list[Batch]]]:
    """Yield code, description and batches, whose mean loss is that of the given batch if samples are independent."""
    yield "order_matters", "with the samples in another order", [(inputs[::-1], targets[::-1])]
    twice = np.concatenate([inputs, inputs]), np.concatenate([targets, targets])
    yield "batch_size_matters", "with every sample twice", [twice]
    singles = [(inputs[k : k + 1], targets[k : k + 1]) for k in range(len(inputs))]
    yield "samples_mixed", "as the mean over single samples", singles
