"""A bar with an estimate of the time left, for checks that take longer than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Progress = Callable[[int, int], object]
"""Told how many entries have been measured so far, and how many there are."""

PATIENCE = 1.0
"""Seconds after which a bar is worth its lines."""


@contextmanager
def progress_shown(progress: Progress | None) -> Iterator[Progress]:
    """The caller's own function; or a bar, where there is a terminal and the check takes longer than a moment."""
    if progress is not None:
        yield progress
        return
    with ExitStack() as stack:
        yield _Bar(stack)


class _Bar:
    """Begins to show itself when a moment has passed."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.begin = time.perf_counter() + PATIENCE
        self.bar: Any = None
        self.task: Any = None

    def __call__(self, done: int, total: int) -> None:
        """So many of all."""
        if self.bar is None and time.perf_counter() > self.begin:
            self.bar = self._opened(total)
        if self.bar:
            self.bar.update(self.task, completed=done)

    def _opened(self, total: int) -> Any:
        """A bar of rich on a terminal; False where there is none, or where another one is being shown."""
        try:
            from rich.console import Console
            from rich.errors import LiveError
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return False
        console = Console(stderr=True)
        if not console.is_terminal:
            return False
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        bar = Progress(*columns, console=console, transient=True)
        self.task = bar.add_task("gradient check", total=total)
        try:
            return self.stack.enter_context(bar)
        except LiveError:
            return False
