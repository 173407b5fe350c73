"""Reading back what `TensorBoardReporter` wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gc_hooks.errors import GradCheckError, require_package
from gc_hooks.report import CheckReport
from gc_hooks.reporters.jsonl import read_lines
from gc_hooks.tensorboard_tab.metadata import CHECKS

EVENTS = "tfevents"
"""Part of the name of every event file."""

HEAD, CHECKSUM = 8, 4
"""Bytes: a record is its length (HEAD), a checksum of that, the data, and a checksum of the data."""

CUT_OFF = "ends in the middle of a {}: the complete ones are shown."


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

    Raises
    ------
    GradCheckError
        There is no such directory or file, or the file holds no checks.
    MissingDependency
        tensorboard cannot be imported.
    """
    path, log = Path(log_dir), Log()
    if path.is_dir():
        for file in sorted(path.rglob(f"*{EVENTS}*")):
            _add_event_file(log, file, path)
    elif not path.exists():
        raise GradCheckError(f"There is no directory {path}. Try the log_dir that the hook was given.")
    elif EVENTS in path.name:
        _add_event_file(log, path, path.parent)
    else:
        log.files += 1
        log.runs[path.name], is_cut_off = read_lines(path)
        if is_cut_off:
            log.troubles.append(f"{path} {CUT_OFF.format('line')}")
    return log


def _add_event_file(log: Log, file: Path, root: Path) -> None:
    """Add the reports of an event file to the log, and what could not be read."""
    with require_package("tensorboard", "Reading a log"):
        from tensorboard.compat.proto.event_pb2 import Event

    log.files += 1
    run, number = file.parent.relative_to(root).as_posix(), 0
    for record in _intact_records(log, file):
        for value in Event.FromString(record).summary.value:
            if value.tag != CHECKS or not value.tensor.string_val:
                continue
            number += 1
            try:
                text = value.tensor.string_val[0].decode(errors="replace")
                log.runs.setdefault(run, []).append(CheckReport.from_json(text))
            except GradCheckError as error:
                log.troubles.append(f"{file}, check {number}: {error}")


def _intact_records(log: Log, path: Path) -> Iterator[bytes]:
    """Yield the records of an event file without the damaged ones; add a sentence for these to the log's troubles."""
    # TensorBoard's own reader stops at the first damaged record and does not say so.
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    damaged = 0
    with path.open("rb") as file:
        while head := file.read(HEAD):
            check = file.read(CHECKSUM)
            if len(check) < CHECKSUM:  # the process was killed while it wrote
                log.troubles.append(f"{path} {CUT_OFF.format('record')}")
                break
            if masked_crc32c(head) != int.from_bytes(check, "little"):
                # Without the length nobody knows where the next record begins.
                is_first = file.tell() == HEAD + CHECKSUM
                trouble = "is not an event file." if is_first else "is damaged: what follows cannot be read."
                log.troubles.append(f"{path} {trouble}")
                break
            data, check = file.read(int.from_bytes(head, "little")), file.read(CHECKSUM)
            if len(check) < CHECKSUM:
                log.troubles.append(f"{path} {CUT_OFF.format('record')}")
            elif masked_crc32c(data) == int.from_bytes(check, "little"):
                yield data
            else:
                damaged += 1
    if damaged:
        log.troubles.append(f"{path} is damaged: {damaged} of its records cannot be read.")
