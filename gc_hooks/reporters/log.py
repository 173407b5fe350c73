"""Reading back what `TensorBoardReporter` wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gc_hooks.errors import GradCheckError, MissingDependency
from gc_hooks.report import CheckReport
from gc_hooks.reporters.jsonl import read_jsonl
from gc_hooks.tensorboard_tab.metadata import CHECKS

EVENTS = "*tfevents*"
FRAME, CHECKSUM = 12, 4


@dataclass
class Log:
    """The checks below a directory.

    Attributes
    ----------
    runs : dict of str to list of CheckReport
        By the directory's path below the log's, as TensorBoard names runs; in the order in which they were written.
    files : int
        Number of event files that were read.
    troubles : list of str
        What could not be read, and why.
    """

    runs: dict[str, list[CheckReport]] = field(default_factory=dict)
    files: int = 0
    troubles: list[str] = field(default_factory=list)


def read_log(log_dir: str | os.PathLike[str]) -> Log:
    """The checks of all runs below a directory, or those of a file of JSON lines.

    Raises
    ------
    GradCheckError
        There is no such directory or file, or the file holds no checks.
    MissingDependency
        tensorboard cannot be imported.
    """
    path = Path(log_dir)
    if path.is_file():
        return Log({path.name: read_jsonl(path)}, 1)
    if not path.is_dir():
        raise GradCheckError(f"There is no directory {path}. Try the log_dir that the hook was given.")
    log = Log()
    for file in sorted(path.rglob(EVENTS)):
        log.files += 1
        run = file.parent.relative_to(path).as_posix()
        for number, text in enumerate(_documents(file), start=1):
            try:
                log.runs.setdefault(run, []).append(CheckReport.from_json(text))
            except GradCheckError as error:
                log.troubles.append(f"{file}, check {number}: {error}")
        if _is_cut_off(file):
            log.troubles.append(f"{file} ends in the middle of a record: what was whole is shown.")
    return log


def _documents(file: Path) -> Iterator[str]:
    """The texts under the tab's tag."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError as error:
        raise MissingDependency(
            f"Reading a log needs tensorboard, which cannot be imported: {error}. Try pip install tensorboard."
        ) from error
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == CHECKS and value.tensor.string_val:
                yield value.tensor.string_val[0].decode(errors="replace")


def _is_cut_off(file: Path) -> bool:
    """Whether the last record lacks its end: each has its length in front, then a checksum, the data, a checksum."""
    size, place = file.stat().st_size, 0
    with file.open("rb") as records:
        while place + FRAME <= size:
            records.seek(place)
            place += FRAME + int.from_bytes(records.read(8), "little") + CHECKSUM
    return place != size
