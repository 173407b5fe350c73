"""Writing for TensorBoard: into an event file of our own, or through a SummaryWriter that belongs to the user."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gc_hooks.errors import require_package
from gc_hooks.tensorboard_tab.metadata import PLUGIN

_files = itertools.count(1)


class EventFile:
    """An event file written in the caller's own thread: an error surfaces here, and nothing waits in a queue.

    tensorboardX's usual writer blocks for ever when its thread has died of a full disk, loses what is queued when the
    process is killed, and gives two writers of the same second the same file.
    """

    def __init__(self, folder: Path) -> None:
        with require_package("tensorboardX", "Writing for TensorBoard"):
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
        self._make: ModuleType = summary
        self._event: Any = Event
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{next(_files)}")
        self._closing = weakref.finalize(self, self._writer.close)  # also where nobody calls close()
        self.flush()  # a directory that cannot be written to is found now

    @property
    def exists(self) -> bool:
        """Return whether the file is still there: one that was removed takes every write, and keeps nothing."""
        return Path(self._writer._file_name).exists()  # tensorboardX has no public name for it

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Write a number."""
        self._write(self._make.scalar(tag, value), step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Write Markdown."""
        self._write(self._make.text(tag, text), step)

    def histogram(self, tag: str, limits: Sequence[float], counts: Sequence[int], step: int) -> None:
        """Write the counts between neighbouring limits; there is one limit more than there are counts."""
        self._write(self._make.histogram_raw(tag, *_histogram_fields(limits, counts)), step)

    def document(self, tag: str, text: str, step: int) -> None:
        """Write a text for the tab."""
        self._write(self._make.Summary.FromString(tab_summary(tag, text).SerializeToString()), step)

    def layout(self, charts: dict[str, Any]) -> None:
        """Arrange the custom-scalars dashboard."""
        self._write(self._make.custom_scalars(charts), 0)

    def _write(self, summary: object, step: int) -> None:
        self._try(self._writer.write_event, self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Have everything on disk."""
        self._try(self._writer.flush)

    def _try(self, action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except OSError:  # the disk is full: what waits in the buffer must not be tried again when the program ends
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the file without writing what is left."""
        self._closing.detach()
        with suppress(OSError):
            self._writer._py_recordio_writer.close()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._closing()


class UsersWriter:
    """A SummaryWriter of the user's: it is flushed and never closed, and its custom-scalars layout is left alone.

    Its methods are those of `EventFile`. What such a writer cannot do (a document needs its file writer, which
    tensorboardX's and torch's have) is left out.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def text(self, tag: str, text: str, step: int) -> None:
        self._writer.add_text(tag, text, step)

    def histogram(self, tag: str, limits: Sequence[float], counts: Sequence[int], step: int) -> None:
        if hasattr(self._writer, "add_histogram_raw"):
            self._writer.add_histogram_raw(tag, *_histogram_fields(limits, counts), step)

    def document(self, tag: str, text: str, step: int) -> None:
        # add_text would mark it as a text for the dashboard of texts: only the file writer takes a message as it is.
        if not hasattr(self._writer, "_get_file_writer"):
            return
        summary, file = tab_summary(tag, text), self._writer._get_file_writer()
        try:
            file.add_summary(summary, step)
        except TypeError:  # tensorboardX has message classes of its own
            from tensorboardX.summary import Summary

            file.add_summary(Summary.FromString(summary.SerializeToString()), step)

    def flush(self) -> None:
        self._writer.flush()

    close = flush


def tab_summary(tag: str, text: str) -> Any:
    """Return a text as TensorBoard's own message, marked as a tensor: without that mark no plugin gets to see it."""
    with require_package("tensorboard", "Writing for TensorBoard"):
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN), data_class=DATA_CLASS_TENSOR)
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape={})
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def _histogram_fields(limits: Sequence[float], counts: Sequence[int]) -> tuple[Any, ...]:
    """Return the fields of a histogram message: least, most, number, sum, sum of squares, upper limits, counts."""
    filled = np.flatnonzero(counts)
    middles = (np.array(limits[1:]) + np.array(limits[:-1])) / 2
    total, squares = float(np.dot(middles, counts)), float(np.dot(middles**2, counts))
    return limits[filled[0]], limits[filled[-1] + 1], sum(counts), total, squares, list(limits[1:]), list(counts)
