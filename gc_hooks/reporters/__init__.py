"""Who is told of a check: a reporter has ``report(report)`` and ``close()``.

More is used where it exists: ``open()``, which returns what a person should know of where the checks go; ``where()``,
how to look at them; ``say(text)``, which tells something that is not a check; and ``draws``, true where checks should
keep what pictures are made of.
"""

from gc_hooks.reporters.choice import chosen_reporters
from gc_hooks.reporters.console import ConsoleReporter
from gc_hooks.reporters.jsonl import JsonlReporter, read_jsonl
from gc_hooks.reporters.log import Log, read_log
from gc_hooks.reporters.tensorboard import TensorBoardReporter

__all__ = [
    "ConsoleReporter",
    "JsonlReporter",
    "Log",
    "TensorBoardReporter",
    "chosen_reporters",
    "read_jsonl",
    "read_log",
]
