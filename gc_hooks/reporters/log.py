"""Reading back what `TensorBoardReporter` wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gc_hooks.errors import GradCheckError, MissingDependency
from gc_hooks.report import CheckReport
from gc_hooks.reporters.jsonl import ends_in_half_a_line, read_jsonl
from gc_hooks.tensorboard_tab.metadata import CHECKS

EVENTS = "tfevents"
HEAD, CHECKSUM = 8, 4
"""A record is its length, a checksum of that, the data, and a checksum of these."""

CUT_OFF = "ends in the middle of a record: what was whole is shown."


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
    """The checks of all runs below a directory, of one event file, or of a file of JSON lines.

    Raises
    ------
    GradCheckError
        There is no such directory or file, or the file holds no checks.
    MissingDependency
        tensorboard cannot be imported.
    """
    path, log = Path(log_dir), Log()
    if path.is_file() and EVENTS not in path.name:
        _add_lines(log, path)
    elif path.exists():
        for file in [path] if path.is_file() else sorted(path.rglob(f"*{EVENTS}*")):
            _add_events(log, file, path)
    else:
        raise GradCheckError(f"There is no directory {path}. Try the log_dir that the hook was given.")
    return log


def _add_lines(log: Log, path: Path) -> None:
    """The reports of a file of JSON lines."""
    log.files += 1
    log.runs[path.name] = read_jsonl(path)
    if ends_in_half_a_line(path):
        log.troubles.append(f"{path} ends in the middle of a line: what was whole is shown.")


def _add_events(log: Log, file: Path, root: Path) -> None:
    """The reports of an event file, and what is wrong with it."""
    log.files += 1
    run = file.parent.relative_to(root if root.is_dir() else root.parent).as_posix()
    records = _Records(file)
    for number, text in enumerate(_documents(records), start=1):
        try:
            log.runs.setdefault(run, []).append(CheckReport.from_json(text))
        except GradCheckError as error:
            log.troubles.append(f"{file}, check {number}: {error}")
    log.troubles += [f"{file} {trouble}" for trouble in records.troubles]


def _documents(records: Iterable[bytes]) -> Iterator[str]:
    """The texts under the tab's tag."""
    from tensorboard.compat.proto.event_pb2 import Event

    for record in records:
        for value in Event.FromString(record).summary.value:
            if value.tag == CHECKS and value.tensor.string_val:
                yield value.tensor.string_val[0].decode(errors="replace")


class _Records:
    """The records of an event file one after the other; a damaged one is passed over, and told afterwards.

    TensorBoard itself stops at the first one that is damaged, without a word.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.troubles: list[str] = []
        self._checksum = _checksum()

    def __iter__(self) -> Iterator[bytes]:
        damaged = 0
        with self.file.open("rb") as file:
            while (length := self._next_length(file)) is not None:
                data, check = file.read(length), file.read(CHECKSUM)
                if len(check) < CHECKSUM:
                    self.troubles.append(CUT_OFF)
                elif self._is_whole(data, check):
                    yield data
                else:
                    damaged += 1
        if damaged:
            self.troubles.append(f"is damaged: {damaged} of its records cannot be read.")

    def _next_length(self, file: BinaryIO) -> int | None:
        """Of the next record; None at the end, and where it cannot be told."""
        start, head, check = file.tell(), file.read(HEAD), file.read(CHECKSUM)
        if self._is_whole(head, check):
            return int.from_bytes(head, "little")
        if len(check) == CHECKSUM:
            self.troubles.append("is damaged: what follows cannot be read." if start else "is no event file.")
        elif head:
            self.troubles.append(CUT_OFF)
        return None

    def _is_whole(self, data: bytes, check: bytes) -> bool:
        return len(check) == CHECKSUM and self._checksum(data) == int.from_bytes(check, "little")


def _checksum() -> Callable[[bytes], int]:
    try:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except ImportError as error:
        raise MissingDependency(
            f"Reading a log needs tensorboard, which cannot be imported: {error}. Try pip install tensorboard."
        ) from error
    checksum: Callable[[bytes], int] = masked_crc32c
    return checksum
