"""Writing for TensorBoard: into an event file of our own, or through a SummaryWriter that belongs to somebody else."""

from __future__ import annotations

import itertools
import math
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from gc_hooks.errors import MissingDependency
from gc_hooks.tensorboard_tab.metadata import PLUGIN

_files = itertools.count(1)


class Sink(Protocol):
    """Where the figures of a check go; each has a tag and a step."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A number."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Markdown."""

    def histogram(self, tag: str, limits: Sequence[float], counts: Sequence[int], step: int) -> None:
        """Counts between limits, of which there is one more."""

    def document(self, tag: str, text: str, step: int) -> None:
        """A text for the tab."""

    def layout(self, charts: dict[str, Any]) -> None:
        """The custom-scalars dashboard."""

    def flush(self) -> None:
        """Have everything on disk."""

    def close(self) -> None:
        """End it."""


class EventFile:
    """An event file written in the caller's own thread: an error surfaces here, and nothing waits in a queue.

    tensorboardX's usual writer blocks for ever when its thread has died of a full disk, loses what is queued when the
    process is killed, and gives two writers of the same second the same file. A process that was forked off writes
    nothing.

    Raises
    ------
    MissingDependency
        tensorboardX or tensorboard cannot be imported.
    """

    def __init__(self, folder: Path) -> None:
        self._parts = _parts()
        self._pid = os.getpid()
        self._writer = self._parts.EventsWriter(str(folder / "events"), f".{self._pid}.{next(_files)}")
        self._closing = weakref.finalize(self, self._writer.close)
        self.flush()

    @property
    def is_there(self) -> bool:
        """Whether the file is still where it was made: one that was removed takes everything, and keeps nothing."""
        return Path(self._writer._file_name).exists()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A number."""
        self._write(self._parts.make.scalar(tag, value), step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Markdown."""
        self._write(self._parts.make.text(tag, text), step)

    def histogram(self, tag: str, limits: Sequence[float], counts: Sequence[int], step: int) -> None:
        """Counts between limits, of which there is one more."""
        self._write(self._parts.make.histogram_raw(tag, *_bucketed(limits, counts)), step)

    def document(self, tag: str, text: str, step: int) -> None:
        """A text for the tab."""
        self._write(self._parts.Summary.FromString(tab_summary(tag, text).SerializeToString()), step)

    def layout(self, charts: dict[str, Any]) -> None:
        """The custom-scalars dashboard."""
        self._write(self._parts.make.custom_scalars(charts), 0)

    def _write(self, summary: Any, step: int) -> None:
        if os.getpid() == self._pid:
            with self._given_up_on_failure():
                self._writer.write_event(self._parts.Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Have everything on disk."""
        if os.getpid() == self._pid:
            with self._given_up_on_failure():
                self._writer.flush()

    @contextmanager
    def _given_up_on_failure(self) -> Iterator[None]:
        """Where the disk is full, what waits in the buffer must not be tried once more when the program ends."""
        try:
            yield
        except OSError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the file, whatever becomes of what was not yet written."""
        self._closing.detach()
        with suppress(OSError):
            self._writer._py_recordio_writer.close()

    def close(self) -> None:
        """End it."""
        self._closing()


def _parts() -> Any:
    """What is needed of tensorboardX, or a message that says how to get it."""
    try:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
    except ImportError as error:
        raise MissingDependency(
            f"Writing for TensorBoard needs tensorboardX, which cannot be imported: {error}. Try "
            "pip install tensorboardX."
        ) from error
    return SimpleNamespace(EventsWriter=EventsWriter, Event=Event, Summary=summary.Summary, make=summary)


class UsersWriter:
    """A SummaryWriter that belongs to somebody else: flushed, never closed, and its custom-scalars layout left alone.

    What such a writer cannot do (a tensor needs its file writer, which tensorboardX's and torch's have) is left out.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A number."""
        self._writer.add_scalar(tag, value, step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Markdown."""
        self._writer.add_text(tag, text, step)

    def histogram(self, tag: str, limits: Sequence[float], counts: Sequence[int], step: int) -> None:
        """Counts between limits, of which there is one more."""
        if hasattr(self._writer, "add_histogram_raw"):
            self._writer.add_histogram_raw(tag, *_bucketed(limits, counts), step)

    def document(self, tag: str, text: str, step: int) -> None:
        """A text for the tab."""
        if not hasattr(self._writer, "_get_file_writer"):
            return
        summary, file = tab_summary(tag, text), self._writer._get_file_writer()
        try:
            file.add_summary(summary, step)
        except TypeError:  # tensorboardX has message classes of its own
            file.add_summary(_parts().Summary.FromString(summary.SerializeToString()), step)

    def layout(self, charts: dict[str, Any]) -> None:
        """Theirs."""

    def flush(self) -> None:
        """Have everything on disk."""
        self._writer.flush()

    def close(self) -> None:
        """It stays open."""
        self.flush()


def tab_summary(tag: str, text: str) -> Any:
    """A text as TensorBoard's own message, marked as a tensor: without that mark no loader hands it on to a plugin.

    Raises
    ------
    MissingDependency
        tensorboard cannot be imported.
    """
    try:
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
    except ImportError as error:
        raise MissingDependency(
            f"Writing for TensorBoard needs tensorboard, which cannot be imported: {error}. Try "
            "pip install tensorboard."
        ) from error
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN), data_class=DATA_CLASS_TENSOR)
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape={})
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def _bucketed(limits: Sequence[float], counts: Sequence[int]) -> tuple[Any, ...]:
    """Counts in the terms of a histogram message: least, most, number, sum, sum of squares, upper limits, counts."""
    filled = [k for k, count in enumerate(counts) if count]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(limits)]
    total = math.fsum(m * c for m, c in zip(middles, counts, strict=True))
    squares = math.fsum(m * m * c for m, c in zip(middles, counts, strict=True))
    return limits[filled[0]], limits[filled[-1] + 1], sum(counts), total, squares, list(limits[1:]), list(counts)
