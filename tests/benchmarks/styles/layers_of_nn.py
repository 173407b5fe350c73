"""Every layer, loss and penalty of `gc_hooks.nn`, pure and in place, as a trainer's objective."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.styles.collection import IN_PLACE, PURE, add
from gc_hooks import adapters, nn
from test_nn_laws import CASES, IDS, IMAGES, ROWS, STEPS

FIRST = {
    id(ROWS): nn.Dense(4, 4),
    id(STEPS): nn.EachStep(nn.Dense(4, 4)),
    id(IMAGES): nn.Conv2D(2, 2, 1),
    id(IDS): None,
}
"""What stands in front of a layer, so that it has parameters below."""


def trainer_of(part, inputs, *targets):
    """Return a trainer with the part in it, and the batch."""
    if isinstance(part, nn.Layer):
        first = FIRST[id(inputs)]
        model = nn.Sequential([part] if first is None else [first, part])
        targets = np.zeros_like(model(inputs))
        return nn.Trainer(model, nn.MeanSquaredError(), nn.SGD(0.1)), (inputs, targets)
    if not targets:
        model = nn.Sequential([nn.Dense(4, 3)])
        return nn.Trainer(model, nn.MeanSquaredError(), nn.SGD(0.1), penalty=part), (ROWS, ROWS[:, :3])
    outputs = 1 if inputs.ndim == 1 else inputs.shape[1]
    return nn.Trainer(nn.Sequential([nn.Dense(4, outputs)]), part, nn.SGD(0.1)), (ROWS, *targets)


def write(case, in_place, rng):
    trainer, batch = trainer_of(*case)
    model, objective, masks = trainer.model, trainer.objective, np.random.default_rng(1).bit_generator.state
    for array in model.params.values():
        array += 0.1 * rng.normal(size=array.shape)
    if not in_place:
        return partial(objective, batch=batch, random_state=masks), model.params, PURE

    def loss():
        return objective(model.params, batch, masks)

    def attach(grads):
        model.store(grads)
        return adapters.dicts(model.params, model.grads, loss=loss, in_place=True)

    return loss, model.params, IN_PLACE, attach


for name, case in CASES.items():
    add(f"nn.{name}", "nn", partial(write, case, False))
    add(f"nn.{name} in place", "nn", partial(write, case, True))
