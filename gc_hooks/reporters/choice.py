"""Which reporters a hook tells."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from gc_hooks.errors import InvalidProblem
from gc_hooks.reporters.console import ConsoleReporter
from gc_hooks.reporters.tensorboard import TensorBoardReporter


def chosen_reporters(reporters: Iterable[Any] | None, log_dir: str | os.PathLike[str] | None, writer: Any) -> list[Any]:
    """The given ones, or else the console; and TensorBoard where there is a directory or a writer for it.

    Raises
    ------
    InvalidProblem
        Something that was given cannot report; or both a directory and a writer were given.
    """
    if not (reporters is None or isinstance(reporters, Iterable)):
        raise InvalidProblem(f"reporters={reporters!r} is no list of reporters. Try reporters=[{reporters!r}].")
    chosen = [ConsoleReporter()] if reporters is None else [_able(reporter) for reporter in reporters]
    tensorboard = [] if log_dir is None and writer is None else [TensorBoardReporter(log_dir, writer=writer)]
    return [*chosen, *tensorboard]


def _able(reporter: Any) -> Any:
    if isinstance(reporter, type):
        raise InvalidProblem(f"reporters= holds the class {reporter.__name__}. Try {reporter.__name__}(), an object.")
    if not callable(getattr(reporter, "report", None)):
        raise InvalidProblem(
            f"reporters= holds {reporter!r} of type {type(reporter).__name__}, which has no method report(report), so "
            "it would hear of no check. Try ConsoleReporter(), JsonlReporter(path), or add that method."
        )
    return reporter
