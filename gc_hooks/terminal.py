"""Draw on a terminal with Rich: load it without a trace, print what any terminal can show, open progress bars."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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


COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys and does not show, line breaks and tabs aside; the last turn a line around."""


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Return a text in which all is spelt out that a terminal would obey, or that its encoding has no sign for.

    >>> printable("W\x1b[2J ± 1", "ascii")
    'W\\x1b[2J \\xb1 1'
    """
    text = COMMANDS.sub(lambda sign: sign.group().encode("unicode_escape").decode(), text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def print_on(console: Any, thing: object, **options: Any) -> None:
    """Print with Rich; an error is raised as what it is, and is over with that.

    By itself Rich ends the program where the reader of its output has gone, and keeps what it could not write for the
    next who prints on this console.
    """

    def has_gone() -> None:
        raise  # the BrokenPipeError with which Rich calls this

    console.on_broken_pipe = has_gone
    try:
        console.print(thing, **options)
    except BaseException as error:
        if isinstance(error, BrokenPipeError):
            let_go(console.file)
        with suppress(OSError):
            console.begin_capture()
            console.end_capture()
        raise
    finally:
        vars(console).pop("on_broken_pipe", None)  # another thread may have taken it back


def let_go(file: Any) -> None:
    """Have what waits in a file go nowhere: at the end of the program it would fail again, and be its exit status."""
    with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())


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
