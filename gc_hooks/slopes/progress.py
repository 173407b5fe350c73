"""Show a progress bar for checks that take longer than a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from gc_hooks.terminal import load_rich, progress_bar

Progress = Callable[[int, int], object]
"""``progress(done, total)``: called with the number of entries measured so far and the number of all."""

PATIENCE = 1.0
"""Seconds. A check that takes less shows no bar."""


@contextmanager
def progress_shown(progress: Progress | None) -> Iterator[Progress]:
    """Yield the caller's own function, or else a bar that opens on a terminal after `PATIENCE` seconds."""
    if progress is not None:
        yield progress
        return
    with ExitStack() as stack:
        yield _Bar(stack)


class _Bar:
    """A bar that appears when a check takes longer than `PATIENCE`."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.begin = time.perf_counter() + PATIENCE
        self.opened = False
        self.bar: Any = None
        self.task: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` slopes are measured."""
        if not self.opened and time.perf_counter() > self.begin:
            self.opened = True
            self._open(total)
        if self.bar is not None:
            self.bar.update(self.task, completed=done)

    def _open(self, total: int) -> None:
        """Open the bar; leave it out where there is no terminal, or where another bar is being shown."""
        try:
            rich = load_rich()
        except ImportError:
            return
        console = rich.console.Console(stderr=True)
        if not console.is_terminal:
            return
        with suppress(rich.errors.LiveError):
            bar = progress_bar(console, "gradient check", total, transient=True)
            self.bar, self.task = self.stack.enter_context(bar)
