"""Draw on a terminal with Rich: load it without a trace, and open the progress bar of checks and trainings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gc_hooks.isolation.rng import preserve_global_random_state


def load_rich() -> Any:
    """Import the parts of Rich that this package uses, and return the module ``rich``.

    Rich draws from Python's global random state when it is imported (it numbers its styles); the state is put back, so
    that a training draws the same numbers with and without a bar.

    Raises
    ------
    ImportError
        Rich is not installed.
    """
    with preserve_global_random_state():
        import rich.box
        import rich.console
        import rich.errors
        import rich.progress
        import rich.table
        import rich.text
    return rich


@contextmanager
def progress_bar(console: object, description: str, total: int, *, transient: bool) -> Iterator[tuple[Any, Any]]:
    """Show a bar with the count, the time left and some figures; yield Rich's ``Progress`` and the task in it.

    Parameters
    ----------
    console : rich.console.Console
    description : str
        Stands in front of the bar.
    total : int
        Steps of the whole task.
    transient : bool
        Remove the bar when it is closed.

    Raises
    ------
    rich.errors.LiveError
        Another bar is open on this console.
    """
    parts = load_rich().progress
    columns = (
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeRemainingColumn(),
        parts.TextColumn("{task.fields[figures]}"),
    )
    with preserve_global_random_state():
        bar = parts.Progress(*columns, console=console, transient=transient)
    with bar:
        yield bar, bar.add_task(description, total=total, figures="")
