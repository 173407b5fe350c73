"""How a training run shows its progress: a bar, a line per epoch, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gc_hooks.terminal import load_rich, progress_bar
from gc_hooks.training import Callback, TrainState


@contextmanager
def progress_display(progress: bool | None, epochs: int, batches: int) -> Iterator[Callback]:
    """A callback that shows progress while the context is open.

    Parameters
    ----------
    progress : bool or None
        False shows nothing. Otherwise a terminal gets a bar; elsewhere True prints a line per epoch, None nothing.
    epochs : int
    batches : int
        Of each epoch.
    """
    console = None if progress is False else _terminal()
    if console is not None:
        with progress_bar(console, "training", epochs * batches, transient=False) as (bar, task):
            yield Bar(bar, task)
    else:
        yield EpochLines(epochs) if progress else Callback()


class EpochLines(Callback):
    """Print the figures of each epoch on a line."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_begin(self, state: TrainState) -> None:
        """Note where this call of ``fit`` will end."""
        self.last = state.epoch + self.epochs

    def on_epoch_end(self, state: TrainState) -> None:
        """Print the line."""
        print(f"epoch {state.epoch}/{self.last}  {_figures(state)}", flush=True)


class Bar(Callback):
    """Advance the task of a ``rich.progress.Progress`` with each batch."""

    def __init__(self, bar: Any, task: Any) -> None:
        self.bar = bar
        self.task = task

    def on_batch_end(self, state: TrainState) -> None:
        """One batch further."""
        self.bar.update(self.task, advance=1, description=f"epoch {state.epoch + 1}", figures=f"loss {state.loss:.4g}")

    def on_epoch_end(self, state: TrainState) -> None:
        """Show the epoch's figures until the next batch."""
        self.bar.update(self.task, description=f"epoch {state.epoch}", figures=_figures(state))


def _figures(state: TrainState) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())


def _terminal() -> Any:
    """Return Rich's console where it is a terminal, else None."""
    try:
        rich = load_rich()
    except ImportError:
        return None
    console = rich.get_console()  # everybody's console, so that what others print on it appears above the bar
    return console if console.is_terminal else None
