"""TensorBoard: the difference values as scalars, the report as text, on disk before the training goes on."""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gc_hooks.errors import GradCheckWarning, InvalidProblem
from gc_hooks.report import CheckReport
from gc_hooks.report.plots import ParameterPlot
from gc_hooks.reporters.events import EventFile, Sink, UsersWriter
from gc_hooks.tensorboard_tab.metadata import CHECKS, stock_address, tab_address

FOLDER = "gradcheck"
SMALLEST = 1e-17
"""Below this a logarithm would only show that two numbers are equal."""

HALF_DECADES = [k / 2 for k in range(-34, 1)]
CHARTS = {
    "Gradient check": {
        "log10 of the difference, between the bands of good and worry": [
            "Margin",
            [f"{FOLDER}/log10_difference", f"{FOLDER}/thresholds/good", f"{FOLDER}/thresholds/worry"],
        ],
        "log10 of the difference, each parameter": ["Multiline", [f"{FOLDER}/log10_difference/.*"]],
    }
}
"""For TensorBoard's custom-scalars dashboard."""


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
    Per check: the report for the tab, as JSON (``gradcheck/checks``), and for TensorBoard's own dashboards
    ``gradcheck/difference``, ``gradcheck/log10_difference`` (each over all parameters, and per parameter under its
    name), ``gradcheck/thresholds/good`` and ``worry`` around them, ``gradcheck/verdict`` (0 good, 1 inconclusive, 2
    double check, 3 worry), ``gradcheck/evaluations``, the text ``gradcheck/report``, and the histograms
    ``gradcheck/log10_error`` of what was measured of each parameter. Steps are made to increase strictly: TensorBoard
    deletes what a smaller step follows. A process that was forked off writes nothing. In a writer of yours the layout
    of the custom scalars is left alone.
    """

    draws = True
    """Checks keep what the tab draws."""

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, *, writer: Any = None) -> None:
        if (log_dir is None) == (writer is None):
            raise InvalidProblem(
                f"TensorBoardReporter(log_dir={log_dir!r}, writer={writer!r}): give one of the two, a directory to "
                "write to or a SummaryWriter of your own."
            )
        self._log_dir = None if log_dir is None else Path(log_dir)
        self._sink: Sink | None = None if writer is None else UsersWriter(writer)
        self._pid = os.getpid()
        self._last_step: int | None = None
        self.path: Path | None = None

    def open(self) -> str:
        """Make the directory and the file, if that has not happened yet; what a person should know of it."""
        if self._sink is not None or self._log_dir is None:
            return ""
        self.path, self._pid = _claim(self._log_dir), os.getpid()
        self._sink = EventFile(self.path)
        self._sink.layout(CHARTS)
        if self.path.name == FOLDER:
            return ""
        return f"{self._log_dir / FOLDER} holds earlier checks and stays as it is: these go to {self.path}."

    def report(self, report: CheckReport) -> None:
        """Write one check, and flush it."""
        if self._is_another_s:
            return
        self._begin_anew_where_removed()
        self.open()
        assert self._sink is not None
        step = report.step if self._last_step is None else max(report.step, self._last_step + 1)
        self._last_step = step
        self._sink.document(CHECKS, report.to_json(), step)
        for tag, value in scalars(report):
            self._sink.scalar(tag, value, step)
        for tag, counts in histograms(report):
            self._sink.histogram(tag, HALF_DECADES, counts, step)
        self._sink.text(f"{FOLDER}/report", report.to_markdown(), step)
        self._sink.flush()

    @property
    def _is_another_s(self) -> bool:
        """Whether this is a process that was forked off the one that writes: it would share the file with it, and wait
        for ever for a thread of the writer's that it has not got."""
        return self._sink is not None and os.getpid() != self._pid

    def _begin_anew_where_removed(self) -> None:
        if not isinstance(self._sink, EventFile) or self._sink.is_there:
            return
        lost = self.path
        self._sink.abandon()
        self._sink = None
        self.open()
        warnings.warn(
            f"{lost} was removed during the run, and the checks in it are gone. Those from here on go to {self.path}.",
            GradCheckWarning,
            stacklevel=2,
        )

    def where(self) -> str:
        """How to look at the checks."""
        if self._log_dir is None:
            return f"TensorBoard shows the checks at {tab_address()}, and as scalars at {stock_address()}"
        return (
            f"gc-hooks view {self._log_dir} shows the checks in TensorBoard, at {tab_address()}, and as scalars at "
            f"{stock_address()}"
        )

    def close(self) -> None:
        """Close the file, if this reporter opened one; a report after that goes to a new one."""
        if self._sink is not None and not self._is_another_s:
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
    yield f"{FOLDER}/thresholds/good", math.log10(report.bands[0])
    yield f"{FOLDER}/thresholds/worry", math.log10(report.bands[-1])
    yield f"{FOLDER}/verdict", float(report.verdict)
    yield f"{FOLDER}/evaluations", float(report.evaluations)


def histograms(report: CheckReport) -> Iterator[tuple[str, list[int]]]:
    """How far backprop is from each measured slope of a parameter, ``log10(|g - n| / (|g| + |n|))``, as counts in half
    decades from 1e-17 to 1: a few wrong entries are a second hump."""
    for name, tag in unique_tags(report.pictures).items():
        counts = [0] * (len(HALF_DECADES) - 1)
        for error in relative_errors(report.pictures[name]):
            place = math.floor(2 * (math.log10(max(error, SMALLEST)) - HALF_DECADES[0]))
            counts[min(place, len(counts) - 1)] += 1
        if any(counts):
            yield f"{FOLDER}/log10_error/{tag}", counts


def relative_errors(picture: ParameterPlot) -> Iterator[float]:
    """Of each measured entry, or of each direction where there are no entries; what is not finite is left out.

    Examples
    --------
    >>> list(relative_errors(ParameterPlot(entries=((0, 2.0, 1.0, 1e-9), (1, 0.0, 0.0, 1e-9)))))
    [0.3333333333333333, 0.0]
    """
    for *_, backprop, away, _ in picture.entries or picture.directions:
        size = abs(backprop) + abs(backprop - away)
        if math.isfinite(size):
            yield abs(away) / size if size > 0 else 0.0


def unique_tags(names: Iterable[str]) -> dict[str, str]:
    """Names as tags: TensorBoard's writers replace most signs by an underscore, and two names must not become one.

    Examples
    --------
    >>> unique_tags(["W[1]", "W(1)", "dense1.W"])
    {'W[1]': 'W_1_', 'W(1)': 'W_1_-2', 'dense1.W': 'dense1.W'}
    """
    tags: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        clean = re.sub(r"[^-/\w.]", "_", name).lstrip("/")
        tags[name] = next(tag for k in itertools.count(1) if (tag := clean if k == 1 else f"{clean}-{k}") not in taken)
        taken.add(tags[name])
    return tags


def _claim(log_dir: Path) -> Path:
    """A sub-directory that nobody has written to, made in one step so that two processes cannot both have it."""
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"log_dir is {str(log_dir)!r}, and there or above it stands a file: no directory can be made. This usually "
            "means that the name of a log file was given. Try the name of a directory, such as log_dir='runs/mine'."
        ) from error
    for number in itertools.count(1):
        path = log_dir / (FOLDER if number == 1 else f"{FOLDER}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError
