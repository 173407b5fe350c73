"""JSON lines: every check is one line of a text file, for programs to read."""

from __future__ import annotations

import os
from pathlib import Path

from gc_hooks.report import CheckReport


class JsonlReporter:
    """Appends each check to a file, and has it on disk before the training goes on.

    Parameters
    ----------
    path : str or path
        Made on the first check, with its folders; an existing file is added to.

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

    def report(self, report: CheckReport) -> None:
        """Append one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(report.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Nothing is held open."""


def read_jsonl(path: str | os.PathLike[str]) -> list[CheckReport]:
    """The checks of a file; a last line that a killed process left half-written is passed over.

    Raises
    ------
    GradCheckError
        A whole line is no report, or one of a newer version.
    """
    text = Path(path).read_text(encoding="utf-8")
    whole, _, _ = text.rpartition("\n")
    return [CheckReport.from_json(line) for line in whole.splitlines() if line]
