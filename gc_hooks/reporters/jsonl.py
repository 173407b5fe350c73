"""JSON lines: every check is one line of a text file, for programs to read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from gc_hooks.report import CheckReport

BEGINNING = b'{"schema": '


class JsonlReporter:
    """Appends each check to a file, and has it on disk before the training goes on.

    Parameters
    ----------
    path : str or path
        Made on the first check, with its folders; an existing file is added to.

    Notes
    -----
    A process that is forked off after the first check writes nothing: the file is its parent's.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> JsonlReporter(f"{folder}/checks.jsonl").report(CheckReport({}, step=7))
    >>> [report.step for report in read_jsonl(f"{folder}/checks.jsonl")]
    [7]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._pid = 0

    def report(self, report: CheckReport) -> None:
        """Append one line."""
        self._pid = self._pid or os.getpid()
        if os.getpid() != self._pid:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            new_line = b"\n" if _lacks_newline(file) else b""
            file.write(new_line + report.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Nothing is held open."""


def read_jsonl(path: str | os.PathLike[str]) -> list[CheckReport]:
    """The checks of a file; lines that a killed process left half-written are passed over.

    Raises
    ------
    GradCheckError
        A whole line is no report, or one of a newer version.
    """
    lines = Path(path).read_bytes().split(b"\n")
    return [CheckReport.from_json(line.decode(errors="replace")) for line in lines if line and not _is_cut_off(line)]


def ends_in_half_a_line(path: str | os.PathLike[str]) -> bool:
    """Whether the last report was cut off."""
    return any(_is_cut_off(line) for line in Path(path).read_bytes().split(b"\n") if line)


def _lacks_newline(file: BinaryIO) -> bool:
    """Whether the file ends in half a line, to which nothing must be added."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _is_cut_off(line: bytes) -> bool:
    """Whether this is the beginning of a report and no more."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(BEGINNING[: len(line)])
    return False
