"""The figures of a training run."""

from __future__ import annotations

from collections.abc import Mapping


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
