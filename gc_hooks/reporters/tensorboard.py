"""TensorBoard: the difference values as scalars, the report as text, on disk before the training goes on."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from gc_hooks.errors import InvalidProblem, MissingDependency
from gc_hooks.report import CheckReport

FOLDER = "gradcheck"
SMALLEST = 1e-17
"""Below this a logarithm would only show that two numbers are equal."""

_files = itertools.count(1)


class TensorBoardReporter:
    """Writes checks for TensorBoard.

    Parameters
    ----------
    log_dir : str or path, optional
        The run's directory. Checks go into a sub-directory of their own, ``gradcheck``, because TensorBoard's Python
        loader reads one event file of a directory; where there is one already, into ``gradcheck-2`` and so on.
    writer : SummaryWriter, optional
        tensorboardX's or torch's own, used instead; it stays the caller's to close.

    Attributes
    ----------
    path : Path or None
        The directory that is written to, once there is one.

    Raises
    ------
    InvalidProblem
        Neither or both of ``log_dir`` and ``writer`` were given.

    Notes
    -----
    Per check: ``gradcheck/difference``, ``gradcheck/log10_difference`` (each over all parameters, and per parameter
    under its name), ``gradcheck/verdict`` (0 good, 1 inconclusive, 2 double check, 3 worry), ``gradcheck/evaluations``
    and the text ``gradcheck/report``. Steps are made to increase strictly: TensorBoard deletes what a smaller step
    follows. A process that was forked off writes nothing.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, *, writer: Any = None) -> None:
        if (log_dir is None) == (writer is None):
            raise InvalidProblem(
                f"TensorBoardReporter(log_dir={log_dir!r}, writer={writer!r}): give one of the two, a directory to "
                "write to or a SummaryWriter of your own."
            )
        self._log_dir = None if log_dir is None else Path(log_dir)
        self._sink: _Sink | None = None if writer is None else _UsersWriter(writer)
        self._last_step: int | None = None
        self.path: Path | None = None

    def open(self) -> str:
        """Make the directory and the file, if that has not happened yet; what a person should know of it."""
        if self._sink is not None or self._log_dir is None:
            return ""
        writer = _events_writer()
        self.path = _claim(self._log_dir)
        self._sink = _EventFile(self.path, writer)
        if self.path.name == FOLDER:
            return ""
        return f"{self._log_dir / FOLDER} holds earlier checks and stays as it is: these go to {self.path}."

    def report(self, report: CheckReport) -> None:
        """Write one check, and flush it."""
        self.open()
        assert self._sink is not None
        step = report.step if self._last_step is None else max(report.step, self._last_step + 1)
        self._last_step = step
        for tag, value in scalars(report):
            self._sink.scalar(tag, value, step)
        self._sink.text(f"{FOLDER}/report", report.to_markdown(), step)
        self._sink.flush()

    def close(self) -> None:
        """Close the file, if this reporter opened one; a report after that goes to a new one."""
        if self._sink is not None:
            self._sink.close()
        if self._log_dir is not None:
            self._sink = None


def scalars(report: CheckReport) -> Iterable[tuple[str, float]]:
    """The figures of a check and their tags; what is not a number is left out.

    Examples
    --------
    >>> dict(scalars(CheckReport({}, difference=1e-9, evaluations=12)))["gradcheck/log10_difference"]
    -9.0
    """
    figures = [("", report.difference)]
    figures += [(f"/{tag}", report.parameters[name].difference) for name, tag in unique_tags(report.parameters).items()]
    for suffix, difference in figures:
        if math.isfinite(difference):
            yield f"{FOLDER}/difference{suffix}", difference
            yield f"{FOLDER}/log10_difference{suffix}", math.log10(max(difference, SMALLEST))
    yield f"{FOLDER}/verdict", float(report.verdict)
    yield f"{FOLDER}/evaluations", float(report.evaluations)


def unique_tags(names: Iterable[str]) -> dict[str, str]:
    """Names as tags: TensorBoard's writers replace most signs by an underscore, and two names must not become one.

    Examples
    --------
    >>> unique_tags(["W[1]", "W(1)", "dense1.W"])
    {'W[1]': 'W_1_', 'W(1)': 'W_1_-2', 'dense1.W': 'dense1.W'}
    """
    tags: dict[str, str] = {}
    for name in names:
        clean = re.sub(r"[^-/\w.]", "_", name).lstrip("/")
        taken = set(tags.values())
        tags[name] = next(tag for k in itertools.count(1) if (tag := clean if k == 1 else f"{clean}-{k}") not in taken)
    return tags


def _claim(log_dir: Path) -> Path:
    """A sub-directory that nobody has written to, made in one step so that two processes cannot both have it."""
    log_dir.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = log_dir / (FOLDER if number == 1 else f"{FOLDER}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


class _Sink(Protocol):
    """Where scalars and texts go."""

    def scalar(self, tag: str, value: float, step: int) -> None: ...

    def text(self, tag: str, text: str, step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _EventFile:
    """An event file written in the caller's own thread: an error surfaces here, and nothing waits in a queue.

    tensorboardX's usual writer blocks for ever when its thread has died of a full disk, loses what is queued when the
    process is killed, and gives two writers of the same second the same file.
    """

    def __init__(self, folder: Path, writer: Any) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar, text

        self._event, self._scalar, self._text = event_pb2.Event, scalar, text
        self._pid = os.getpid()
        self._writer = writer(str(folder / "events"), f".{self._pid}.{next(_files)}")
        self._closing = weakref.finalize(self, self._writer.close)
        self._writer.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._write(self._scalar(tag, value), step)

    def text(self, tag: str, text: str, step: int) -> None:
        self._write(self._text(tag, text), step)

    def _write(self, summary: Any, step: int) -> None:
        if os.getpid() == self._pid:
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        if os.getpid() == self._pid:
            self._writer.flush()

    def close(self) -> None:
        self._closing()


def _events_writer() -> Any:
    """tensorboardX's writer class, or a message that says how to get it."""
    try:
        from tensorboardX.event_file_writer import EventsWriter
    except ImportError as error:
        raise MissingDependency(
            f"Writing for TensorBoard needs tensorboardX, which cannot be imported: {error}. Try "
            "pip install tensorboardX."
        ) from error
    return EventsWriter


class _UsersWriter:
    """A SummaryWriter that belongs to somebody else: flushed, never closed."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def text(self, tag: str, text: str, step: int) -> None:
        self._writer.add_text(tag, text, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self.flush()
