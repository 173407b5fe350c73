"""Where checks go: to the terminal, to TensorBoard, to a file of JSON lines, or to a reporter of your own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from gc_hooks.errors import InvalidProblem
from gc_hooks.reporters.base import Reporter, as_reporter
from gc_hooks.reporters.console import ConsoleReporter
from gc_hooks.reporters.jsonl import JsonlReporter, read_jsonl
from gc_hooks.reporters.log import Log, read_log
from gc_hooks.reporters.tensorboard import TensorBoardReporter

__all__ = [
    "ConsoleReporter",
    "JsonlReporter",
    "Log",
    "Reporter",
    "TensorBoardReporter",
    "choose_reporters",
    "read_jsonl",
    "read_log",
]


def choose_reporters(
    reporters: Iterable[Any] | None, log_dir: str | os.PathLike[str] | None, writer: object
) -> list[Reporter]:
    """Return the given reporters, or else the console; and TensorBoard's, if there is a directory or a writer."""
    if reporters is None:
        reporters = [ConsoleReporter()]
    if not isinstance(reporters, Iterable):
        raise InvalidProblem(f"reporters must be a list, got {reporters!r}. Try reporters=[{reporters!r}].")
    chosen = list(map(as_reporter, reporters))
    if log_dir is not None or writer is not None:
        chosen.append(TensorBoardReporter(log_dir, writer=writer))
    return chosen
