"""JSON lines: every check is one line of a text file, for programs to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gc_hooks.errors import GradCheckError
from gc_hooks.report import CheckReport
from gc_hooks.reporters.base import Reporter, absolute

BEGINNING = b'{"schema": '
"""How each report begins: what else stands in a file is not the rest of one."""


class JsonlReporter(Reporter):
    """Append each check to a file, and have it on disk before the training goes on.

    Parameters
    ----------
    path : str or path
        Made on the first check, with its folders; an existing file is added to.

    Notes
    -----
    A process that is forked after the first check writes nothing: the file is its parent's.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> JsonlReporter(f"{folder}/checks.jsonl").report(CheckReport({}, step=7))
    >>> [report.step for report in read_jsonl(f"{folder}/checks.jsonl")]
    [7]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = absolute(path, "JsonlReporter")
        self._pid = 0

    def report(self, report: CheckReport) -> None:
        """Append one line."""
        self._pid = self._pid or os.getpid()
        if os.getpid() != self._pid:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed process left half a line, to which nothing must be added
                    file.write(b"\n")
            file.write(report.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # the next step may be the one at which the process is killed


def read_jsonl(path: str | os.PathLike[str]) -> list[CheckReport]:
    """Return the checks of a file, without the lines that a killed process left half-written.

    Raises
    ------
    GradCheckError
        A complete line is not a report, or a report of a newer version.
    """
    reports, wrong, _ = read_lines(path)
    for error in wrong.values():
        raise error
    return reports


def read_lines(path: str | os.PathLike[str]) -> tuple[list[CheckReport], dict[int, GradCheckError], bool]:
    """Return the checks of a file, what is wrong with which of its lines, and whether one of them was cut off."""
    reports, wrong, is_cut_off = [], {}, False
    # Not str.splitlines(): a name in a report may hold a line separator of another kind.
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            reports.append(CheckReport.from_json(line.decode(errors="replace")))
        except GradCheckError as error:
            # A report that was cut off begins like all others, and is not complete JSON.
            if line.startswith(BEGINNING[: len(line)]) and isinstance(error.__cause__, json.JSONDecodeError):
                is_cut_off = True
            else:
                wrong[number] = error
    return reports, wrong, is_cut_off
