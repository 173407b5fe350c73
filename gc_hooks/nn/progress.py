"""How a training run shows its progress: a bar, a line per epoch, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gc_hooks.terminal import load_rich, progress_bar
from gc_hooks.training import Callback, TrainState


@contextmanager
def progress_display(progress: bool | None, epochs: int, batches: int) -> Iterator[Callback]:
    """Yield a callback that shows progress while the context is open.

    False shows nothing. Otherwise a terminal gets a bar; elsewhere True prints a line per epoch, and None nothing.
    """
    console = None
    if progress is not False:
        with suppress(ImportError):
            console = load_rich().get_console()  # the one of all, so that what others print appears above the bar
    if console is not None and console.is_terminal:
        with progress_bar(console, "training", epochs * batches, transient=False) as (bar, task):
            yield Bar(bar, task)
    else:
        yield EpochLines(epochs) if progress else Callback()


class EpochLines(Callback):
    """Print the figures of each epoch on a line."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_begin(self, state: TrainState) -> None:
        self.last = state.epoch + self.epochs  # the epoch with which this call of fit will end

    def on_epoch_end(self, state: TrainState) -> None:
        print(f"epoch {state.epoch}/{self.last}  {_figures(state)}", flush=True)


class Bar(Callback):
    """Advance the task of a ``rich.progress.Progress`` with each batch."""

    def __init__(self, bar: Any, task: object) -> None:
        self.bar, self.task = bar, task

    def on_batch_end(self, state: TrainState) -> None:
        self.bar.update(self.task, advance=1, description=f"epoch {state.epoch + 1}", figures=f"loss {state.loss:.4g}")

    def on_epoch_end(self, state: TrainState) -> None:
        self.bar.update(self.task, description=f"epoch {state.epoch}", figures=_figures(state))


def _figures(state: TrainState) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
