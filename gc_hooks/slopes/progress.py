"""Show a progress bar for checks that take longer than a second."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from gc_hooks.terminal import load_rich, progress_bar

Progress = Callable[[int, int], object]
"""``progress(done, total)``: called with the number of entries measured so far and the number of all."""

PATIENCE = 1.0
"""Seconds. A check that takes less shows no bar."""


def bar_on_terminal(stack: ExitStack, total: int) -> Progress:
    """Open a bar that the stack closes, and return a function that advances it.

    The function does nothing where there is no terminal, no Rich, or another bar on the terminal already.
    """
    try:
        rich = load_rich()
    except ImportError:
        return _ignore
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        return _ignore
    try:
        bar, task = stack.enter_context(progress_bar(console, "gradient check", total, transient=True))
    except rich.errors.LiveError:
        return _ignore
    return lambda done, total: bar.update(task, completed=done)


def _ignore(done: int, total: int) -> None:
    """Show nothing."""
