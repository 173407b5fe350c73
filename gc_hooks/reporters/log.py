"""Reading back what `TensorBoardReporter` wrote."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gc_hooks.errors import GradCheckError, require_package
from gc_hooks.report import CheckReport
from gc_hooks.reporters.jsonl import read_lines
from gc_hooks.reporters.records import CUT_OFF, intact_records
from gc_hooks.tensorboard_tab.metadata import CHECKS

EVENTS = "tfevents"
"""Part of the name of every event file."""


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
    """Return the checks of all runs below a directory, of one event file, or of a file of JSON lines.

    A file or directory below it that cannot be read is one of the log's ``troubles``.

    Raises
    ------
    GradCheckError
        There is no such directory or file, it cannot be read, or the file holds no checks.
    MissingDependency
        tensorboard cannot be imported.
    """
    path, log = Path(log_dir), Log()
    try:
        if path.is_dir():
            for file in _event_files(log, path):
                _add_event_file(log, file, path)
        elif not path.exists():
            raise GradCheckError(f"There is no directory {path}. Try the log_dir that the hook was given.")
        elif EVENTS in path.name:
            _add_event_file(log, path, path.parent)
        else:
            _add_lines(log, path)
    except OSError as error:  # of the path itself: each file below it has its own
        raise GradCheckError(f"{path} {_cannot(error)}") from error
    return log


def _event_files(log: Log, root: Path) -> list[Path]:
    """Return the event files below a directory; add to the log's troubles what cannot be listed."""
    files, seen = [], set()
    # TensorBoard follows links, too.
    for folder, folders, names in os.walk(root, onerror=partial(_add_trouble, log), followlinks=True):
        # A link can lead back up; and what was seen by another name would be counted twice.
        if (here := Path(folder).resolve()) in seen:
            folders.clear()
            continue
        seen.add(here)
        files += [Path(folder, name) for name in names if EVENTS in name]
    return sorted(files)


def _add_trouble(log: Log, error: OSError) -> None:
    log.troubles.append(f"{error.filename} {_cannot(error)}")


def _cannot(error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return f"cannot be read: {why}."


def _add_lines(log: Log, path: Path) -> None:
    """Add the reports of a file of JSON lines to the log, and what could not be read."""
    log.files += 1
    reports, wrong, is_cut_off = read_lines(path)
    if wrong and not reports:
        raise next(iter(wrong.values()))
    log.runs[path.name] = reports
    log.troubles += [f"{path}, line {number}: {error}" for number, error in wrong.items()]
    if is_cut_off:
        log.troubles.append(f"{path} {CUT_OFF.format('line')}")


def _add_event_file(log: Log, file: Path, root: Path) -> None:
    """Add the reports of an event file to the log, and what could not be read."""
    with require_package("tensorboard", "Reading a log"):
        from tensorboard.compat.proto.event_pb2 import Event

    log.files += 1
    run, number, foreign = file.parent.relative_to(root).as_posix(), 0, 0
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            log.troubles.append(f"{file} cannot be read: it is no regular file.")
            return
        for record in intact_records(file, log.troubles):
            try:
                event = Event.FromString(record)
            except Exception:  # DecodeError, or what else Protobuf's implementations raise
                foreign += 1
                continue
            for value in event.summary.value:
                if value.tag != CHECKS or not value.tensor.string_val:
                    continue
                number += 1
                try:
                    text = value.tensor.string_val[0].decode(errors="replace")
                    log.runs.setdefault(run, []).append(CheckReport.from_json(text))
                except GradCheckError as error:
                    log.troubles.append(f"{file}, check {number}: {error}")
    except (OSError, MemoryError) as error:  # it may be gone since it was listed
        log.troubles.append(f"{file} {_cannot(error)}")
    if foreign:
        log.troubles.append(f"{file} is damaged: {foreign} of its records are no events.")
