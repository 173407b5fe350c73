"""Stop a training run that no longer gets better."""

from __future__ import annotations

from gc_hooks._typing import Array
from gc_hooks.callbacks import Callback, TrainState
from gc_hooks.errors import InvalidProblem


class EarlyStopping(Callback):
    """Stop when a figure has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        A name in the history. Figures whose name ends in "accuracy" are to rise, all others to fall. NaN is no
        improvement.
    patience : int
        Epochs without improvement after which the training stops.
    restore_best : bool
        At the end of the training, put the parameters of the best epoch back, and its running statistics. The
        optimiser's state is left as it is.

    Attributes
    ----------
    best : float
        The best value so far in this call of ``fit``; NaN before the first.

    Raises
    ------
    InvalidProblem
        When the patience is below 1; at the end of an epoch, when it has no such figure.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 5, *, restore_best: bool = False) -> None:
        if patience < 1:
            raise InvalidProblem(
                f"EarlyStopping got patience={patience}. It counts epochs without improvement, so it would stop at "
                "once. Give at least 1."
            )
        self.monitor = monitor
        self.patience = patience
        self.restore_best = restore_best
        self._forget()

    def _forget(self) -> None:
        self.best = float("nan")
        self._waited = 0
        self._best: dict[str, Array] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """Start afresh."""
        self._forget()

    def on_epoch_end(self, state: TrainState) -> None:
        """Compare with the best, and stop when patience is at its end."""
        value = self._figure(state)
        if self._improves(value):
            self._remember(value, state)
            return
        self._waited += 1
        if self._waited >= self.patience:
            state.stop(f"{self.monitor} has not improved on {self.best:.6g} for {self._waited} epochs")

    def on_train_end(self, state: TrainState) -> None:
        """Put the best parameters back, where that was asked for."""
        arrays = _arrays(state)
        for name, best in self._best.items():
            arrays[name][...] = best

    def _figure(self, state: TrainState) -> float:
        if self.monitor in state.metrics:
            return state.metrics[self.monitor]
        raise InvalidProblem(
            f"EarlyStopping watches {self.monitor!r}, but epoch {state.epoch} has only {', '.join(state.metrics)}. "
            "Figures that begin with 'val_' need validation data. Try fit(..., validation=(inputs, targets)), or "
            "monitor='loss'."
        )

    def _improves(self, value: float) -> bool:
        if self.best != self.best:  # NaN: nothing to compare with yet
            return value == value
        return value > self.best if self.monitor.endswith("accuracy") else value < self.best

    def _remember(self, value: float, state: TrainState) -> None:
        self.best, self._waited = value, 0
        if self.restore_best:
            self._best = {name: array.copy() for name, array in _arrays(state).items()}


def _arrays(state: TrainState) -> dict[str, Array]:
    """All that makes the model: a network is its running statistics too."""
    return {**state.model_state, **state.params}
