"""Identities that a right gradient keeps at any step size: what holds for the loss has to hold for its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array, Batch, Params
from gc_hooks.arrays.norms import relative_difference
from gc_hooks.report.diagnosis import Diagnosis, listed
from gc_hooks.slopes.estimate import EPS
from gc_hooks.training import Objective

ROUNDINGS = 1e4
MOST_SAMPLES = 16


def broken_identities(objective: Objective, params: Params, batch: Batch) -> Iterator[Diagnosis]:
    """A diagnosis for each identity that the loss keeps and its gradient does not, with dropout off.

    Samples in another order, every sample twice, and the mean over single samples give the same loss where it is a
    mean over independent samples, and then the same gradient. Costs a few backward passes, and one for each of up to 16
    samples.
    """
    few: Batch = tuple(array[:MOST_SAMPLES] for array in batch)  # type: ignore[assignment]
    for code, told, batches in _retellings(few):
        loss = float(np.mean([objective.data_loss(params, other) for other in batches]))
        if abs(loss - objective.data_loss(params, few)) > ROUNDINGS * EPS * abs(loss):
            continue
        whole = objective.data_gradient(params, few)
        parts = [objective.data_gradient(params, other) for other in batches]
        means = {name: np.mean([part[name] for part in parts], axis=0) for name in whole}
        broken = {n: d for n in whole if (d := relative_difference(means[n], whole[n])) > ROUNDINGS * EPS}
        if broken:
            yield _diagnosis(code, told, broken, means, whole)


def _retellings(batch: Batch) -> Iterator[tuple[str, str, list[Batch]]]:
    inputs, targets = batch
    yield "order_matters", "with the samples in another order", [(inputs[::-1], targets[::-1])]
    twice = np.concatenate([inputs, inputs]), np.concatenate([targets, targets])
    yield "batch_size_matters", "with every sample twice", [twice]
    singles = [(inputs[k : k + 1], targets[k : k + 1]) for k in range(len(inputs))]
    yield "samples_mixed", "as the mean over single samples", singles


def _diagnosis(
    code: str, told: str, broken: dict[str, float], means: dict[str, Array], whole: dict[str, Array]
) -> Diagnosis:
    ratios = {name: float(np.linalg.norm(means[name]) / (np.linalg.norm(whole[name]) or 1.0)) for name in broken}
    worst = max(broken, key=broken.__getitem__)
    return Diagnosis(
        code,
        tuple(broken),
        f"The loss is the same {told}, and backprop's gradient of {listed(broken)} is not.",
        f"For {worst} the two differ by {broken[worst]:.1g}; their norms have the ratio {ratios[worst]:.4g}.",
        "This usually means a sum over the batch where the mean is meant, or the other way round, or rows of different "
        "samples that are mixed. Try to look at where the number of samples comes in.",
    )
