"""Writing for TensorBoard: into an event file of our own, or through a SummaryWriter that belongs to the user."""

from __future__ import annotations

import itertools
import os
import socket
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks.errors import require_package
from gc_hooks.reporters.records import as_record
from gc_hooks.tensorboard_tab.metadata import PLUGIN

_files = itertools.count(1)


class EventSink:
    """What takes the figures and texts of checks, as messages of TensorBoard's."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Write a number."""
        self._write(_summary(tag, simple_value=value), step)

    def text(self, tag: str, text: str, step: int) -> None:
        """Write Markdown."""
        self._write(_summary(f"{tag}/text_summary", text.encode(), plugin="text", size=1), step)

    def histogram(self, tag: str, limits: Sequence[float], counts: Sequence[int], step: int) -> None:
        """Write the counts between neighbouring limits; there is one limit more than there are counts."""
        names = ("min", "max", "num", "sum", "sum_squares", "bucket_limit", "bucket")
        self._write(_summary(tag, histo=dict(zip(names, _histogram_fields(limits, counts), strict=True))), step)

    def document(self, tag: str, text: str, step: int) -> None:
        """Write a text for the tab."""
        self._write(tab_summary(tag, text), step)

    def flush(self) -> None:
        """Have everything on disk."""
        raise NotImplementedError

    def close(self) -> None:
        """Have everything on disk, and release what is open."""
        self.flush()

    def _write(self, summary: Any, step: int) -> None:
        raise NotImplementedError


class EventFile(EventSink):
    """An event file written in the caller's own thread: an error surfaces here, and nothing waits in a queue.

    What is written waits in memory until `flush`, which takes back what it could not write to the end. So every record
    in the file is whole, whatever a Ctrl-C or a full disk breaks off. A writer with a queue and a thread waits for ever
    when its thread has died of a full disk, and loses what is queued when the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_files)}"
        self._path = folder / name
        self._waiting, self._end = bytearray(), 0
        self._add(_event(file_version="brain.Event:2"))
        self._file = self._path.open("xb", buffering=0)
        self._closing = weakref.finalize(self, self._file.close)  # also where nobody calls close()
        self.flush()  # a directory that cannot be written to is found now

    @property
    def fate(self) -> str:
        """Return what has become of the file, whose checks are lost with it; empty where it is as it was left."""
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return "was removed"  # such a file takes every write, and keeps nothing
        if not os.path.samestat(found, os.fstat(self._file.fileno())):
            return "was replaced"
        return "was cut off" if found.st_size < self._end else ""

    def layout(self, charts: dict[str, Any]) -> None:
        """Arrange the custom-scalars dashboard."""
        from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

        categories = []
        for title, content in charts.items():
            drawn = []
            for name, (kind, tags) in content.items():
                if kind == "Margin":
                    series = dict(zip(("value", "lower", "upper"), tags, strict=True))
                    drawn.append({"title": name, "margin": {"series": [series]}})
                else:
                    drawn.append({"title": name, "multiline": {"tag": tags}})
            categories.append({"title": title, "chart": drawn})
        config = Layout(category=categories).SerializeToString()
        self._write(_summary("custom_scalars__config__", config, plugin="custom_scalars"), 0)

    def _write(self, summary: Any, step: int) -> None:
        self._add(_event(step=step, summary=summary))

    def _add(self, event: Any) -> None:
        self._waiting += as_record(event.SerializeToString())

    def flush(self) -> None:
        """Write all that waits, or nothing of it."""
        try:
            self._file.seek(self._end)
            rest = memoryview(self._waiting)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._end, self._waiting = self._file.tell(), bytearray()
        except BaseException:
            self._file.truncate(self._end)
            raise

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            self.flush()
        finally:
            self._closing()


class UsersWriter(EventSink):
    """A SummaryWriter of the user's: it is flushed and never closed, and its custom-scalars layout is left alone.

    What such a writer cannot do (a document needs its file writer, which tensorboardX's and torch's have) is left out.
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

    def flush(self) -> None:
        self._writer.flush()

    def _write(self, summary: Any, step: int) -> None:
        # add_text would mark it as a text for the dashboard of texts: only the file writer takes a message as it is.
        if not hasattr(self._writer, "_get_file_writer"):
            return
        file = self._writer._get_file_writer()
        try:
            file.add_summary(summary, step)
        except TypeError:  # tensorboardX has message classes of its own
            from tensorboardX.summary import Summary

            file.add_summary(Summary.FromString(summary.SerializeToString()), step)


class TensorboardXWriter(EventSink):
    """A SummaryWriter of tensorboardX's, past its queue: that waits for ever once its thread has died of a full disk,
    and what is in it is lost when the process is killed."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @property
    def _file(self) -> Any:
        return self._writer._get_file_writer().event_writer._ev_writer  # which has a lock: its thread writes there too

    def flush(self) -> None:
        self._file.flush()

    def _write(self, summary: Any, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event.FromString(_event(step=step, summary=summary).SerializeToString()))


def users_writer(writer: Any) -> EventSink:
    """Return the way to write through a SummaryWriter of the user's."""
    # A class of the user's may do more in its add_scalar, and is asked to.
    file = writer._get_file_writer() if type(writer).__module__ == "tensorboardX.writer" else None
    has_queue = hasattr(getattr(file, "event_writer", None), "_ev_writer")
    return TensorboardXWriter(writer) if has_queue else UsersWriter(writer)


def tab_summary(tag: str, text: str) -> Any:
    """Return a text as TensorBoard's own message, marked as a tensor: without that mark no plugin gets to see it."""
    return _summary(tag, text.encode(), plugin=PLUGIN, data_class="DATA_CLASS_TENSOR")


def _event(**fields: Any) -> Any:
    """Return TensorBoard's message of something that happens now."""
    with require_package("tensorboard", "Writing for TensorBoard"):
        from tensorboard.compat.proto.event_pb2 import Event
    return Event(wall_time=time.time(), **fields)


def _summary(
    tag: str,
    text: bytes | None = None,
    *,
    plugin: str = "",
    size: int = 0,
    data_class: str | None = None,
    **fields: Any,
) -> Any:
    """Return a figure as TensorBoard's message; or a text for one of its plugins, as a list where it has a size."""
    with require_package("tensorboard", "Writing for TensorBoard"):
        from tensorboard.compat.proto.summary_pb2 import Summary
    if text is not None:
        shape = {"dim": [{"size": size}]} if size else {}
        fields["tensor"] = {"dtype": "DT_STRING", "string_val": [text], "tensor_shape": shape}
        fields["metadata"] = {"plugin_data": {"plugin_name": plugin}, "data_class": data_class}
    return Summary(value=[{"tag": tag, **fields}])


def _histogram_fields(limits: Sequence[float], counts: Sequence[int]) -> tuple[Any, ...]:
    """Return the fields of a histogram message: least, most, number, sum, sum of squares, upper limits, counts."""
    filled = np.flatnonzero(counts)
    middles = (np.array(limits[1:]) + np.array(limits[:-1])) / 2
    total, squares = float(np.dot(middles, counts)), float(np.dot(middles**2, counts))
    return limits[filled[0]], limits[filled[-1] + 1], sum(counts), total, squares, list(limits[1:]), list(counts)
