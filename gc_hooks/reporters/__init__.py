"""Who is told of a check: a reporter has ``report(report)`` and ``close()``.

Two more methods are used where they exist: ``open()``, which returns what a person should know of where the checks go,
and ``say(text)``, which tells something that is not a check.
"""

from gc_hooks.reporters.console import ConsoleReporter
from gc_hooks.reporters.jsonl import JsonlReporter, read_jsonl
from gc_hooks.reporters.tensorboard import TensorBoardReporter

__all__ = ["ConsoleReporter", "JsonlReporter", "TensorBoardReporter", "read_jsonl"]
