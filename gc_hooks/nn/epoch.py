"""The epoch under way, with all that is needed to go on in the middle of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gc_hooks._typing import RandomState
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.batches import Batches


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
