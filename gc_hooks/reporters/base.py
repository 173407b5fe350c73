"""What a reporter is: an object that a hook hands each check to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gc_hooks.errors import InvalidProblem
from gc_hooks.report import CheckReport


class Reporter:
    """Base class of reporters: override `report`, and what else you need.

    A method that raises is one warning; the hook then goes on without that reporter.

    Attributes
    ----------
    draws : bool
        True where `report` reads ``report.pictures`` and ``report.curve``: checks then keep what is needed for them.

    Examples
    --------
    >>> class Counter(Reporter):
    ...     checks = 0
    ...
    ...     def report(self, report):
    ...         self.checks += 1
    """

    draws: bool = False

    def open(self) -> str | None:
        """Get ready for a report, unless that has been done; return what the report should say of it, if anything."""
        return None

    def report(self, report: CheckReport) -> None:
        """Take one check."""

    def say(self, text: str) -> bool | None:
        """Tell a person something that is not a check; return False where nobody can read it."""
        return False

    def where(self) -> str | None:
        """Return how to look at the checks."""
        return None

    def close(self) -> None:
        """Release what is open. It may be called again, and a report may follow."""

    def __str__(self) -> str:
        return type(self).__name__


class _Wrapped(Reporter):
    """An object of the user's that is not a `Reporter`: what it lacks is taken from the base class."""

    def __init__(self, target: object) -> None:
        self._target = target
        # Nobody knows what a foreign object has. Nowhere else is a reporter asked what it can do.
        for name in ("draws", "open", "report", "say", "where", "close"):
            if hasattr(target, name):
                setattr(self, name, getattr(target, name))

    def __str__(self) -> str:
        return type(self._target).__name__


def as_reporter(reporter: object) -> Reporter:
    """Return the reporter itself, or wrapped where it is an object that only has a method ``report``."""
    if isinstance(reporter, Reporter):
        return reporter
    if isinstance(reporter, type):
        raise InvalidProblem(f"reporters holds the class {reporter.__name__}. Try an object: {reporter.__name__}().")
    if not callable(getattr(reporter, "report", None)):
        raise InvalidProblem(
            f"reporters holds {reporter!r} of type {type(reporter).__name__}, which has no method report(report). "
            "Try ConsoleReporter(), JsonlReporter(path), or a class that inherits Reporter."
        )
    return _Wrapped(reporter)


def absolute(path: object, what: str) -> Path:
    """Return a path that stays where it is when the program changes its directory.

    Raises
    ------
    InvalidProblem
        It is no path, or the address of another machine.
    """
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidProblem(f"{what}={path!r} is no path. Try a text such as 'runs/mine', or a pathlib.Path.")
    if re.match(r"\w{2,}://", text):  # with one letter it is a drive of Windows
        raise InvalidProblem(
            f"{what}={path!r} is an address, and checks are written to a directory of this machine. Try one such as "
            "'runs/mine', and copy it there at the end."
        )
    return Path(text).absolute()
