"""TensorBoard: the differences as scalars, the report as text, on disk before the training goes on."""

from __future__ import annotations

import math
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks.errors import GradCheckWarning, InvalidProblem
from gc_hooks.report import CheckReport
from gc_hooks.report.text import spelt_out
from gc_hooks.reporters.base import Reporter, absolute
from gc_hooks.reporters.events import EventFile, EventSink, users_writer
from gc_hooks.tensorboard_tab.metadata import CHECKS, stock_address, tab_address

FOLDER = "gradcheck"
SMALLEST = 1e-17
"""A smaller difference is drawn here: it is below the rounding of float64, and zero has no logarithm."""

MOST_STEPS = 2**63 - 1
"""The largest step that an event file can hold."""

ONE_AT_A_TIME = threading.RLock()
"""Held while a check is written: a hook may be used in several threads. One for all: a reporter can be copied."""

HALF_DECADES = [k / 2 for k in range(-34, 1)]
"""Limits of the histograms, from SMALLEST to 1."""

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


class TensorBoardReporter(Reporter):
    """Write checks for TensorBoard.

    Parameters
    ----------
    log_dir : str or path, optional
        The run's directory. Checks go into a sub-directory of their own, ``gradcheck``, because TensorBoard's Python
        loader reads one event file of a directory; where there is one already, into ``gradcheck-2`` and so on.
    writer : SummaryWriter, optional
        tensorboardX's or torch's own, used instead; closing it is left to the caller.

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
    ``gradcheck/log10_error`` of what was measured of each parameter. Steps are made to increase strictly, because
    TensorBoard deletes what a smaller step follows. A forked process writes nothing.
    """

    draws = True

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, *, writer: object = None) -> None:
        if (log_dir is None) == (writer is None):
            raise InvalidProblem(
                f"TensorBoardReporter got log_dir={log_dir!r} and writer={writer!r}. Try one of the two: a directory, "
                "or a SummaryWriter."
            )
        self._log_dir = None if log_dir is None else absolute(log_dir, "log_dir")
        self._given = log_dir  # which is shorter, and what a person finds who did not change the directory
        self._sink: EventSink | None = None if writer is None else users_writer(writer)
        self._pid = os.getpid()
        self._last_step: int | None = None
        self.path: Path | None = None

    def open(self) -> str:
        """Make the directory and the file, unless that is done; return where checks go if it is not the usual place."""
        with ONE_AT_A_TIME:
            if self._sink is not None or self._log_dir is None:
                return ""
            self.path, self._pid = _make_folder(self._log_dir), os.getpid()
            self._sink = file = EventFile(self.path)
            file.layout(CHARTS)
            if self.path.name == FOLDER:
                return ""
            return f"{self._log_dir / FOLDER} holds earlier checks and is not changed: these checks go to {self.path}."

    def report(self, report: CheckReport) -> None:
        """Write one check, and flush it."""
        if not self._is_forked:
            with ONE_AT_A_TIME:
                self._report(report)

    def _report(self, report: CheckReport) -> None:
        fate = self._sink.fate if isinstance(self._sink, EventFile) else ""
        before = self.path
        if fate:
            self._sink = None
        self.open()
        if fate:
            message = f"{before} {fate} during the run, and the checks in it are lost. New checks go to {self.path}."
            warnings.warn(message, GradCheckWarning, stacklevel=3)
        assert self._sink is not None
        step = int(min(max(report.step, -MOST_STEPS), MOST_STEPS))
        if self._last_step is not None:
            step = min(max(step, self._last_step + 1), MOST_STEPS)
        self._last_step = step
        # The document first: all other figures can be made from it.
        self._sink.document(CHECKS, report.to_json(), step)
        for tag, value in scalars(report):
            self._sink.scalar(tag, value, step)
        for tag, counts in histograms(report):
            self._sink.histogram(tag, HALF_DECADES, counts, step)
        self._sink.text(f"{FOLDER}/report", spelt_out(report.to_markdown()), step)
        self._sink.flush()

    @property
    def _is_forked(self) -> bool:
        # A forked process shares the file with its parent, and would wait for a writer's thread that it has not got.
        return self._sink is not None and os.getpid() != self._pid

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy begins with: one that writes to a directory has a file of its own."""
        return vars(self) if self._log_dir is None else {**vars(self), "_sink": None, "path": None}

    def where(self) -> str:
        """Return how to look at the checks."""
        shows = "TensorBoard shows the checks"
        if self._log_dir is not None:
            shows = f"gc-hooks view {self._given} shows the checks in TensorBoard,"
        return f"{shows} at {tab_address()}, and as scalars at {stock_address()}"

    def close(self) -> None:
        """Close the file, if this reporter opened one; a report after that goes to a new one."""
        if self._sink is not None and not self._is_forked:
            self._sink.close()
        if self._log_dir is not None:
            self._sink = None


def scalars(report: CheckReport) -> Iterator[tuple[str, float]]:
    """Yield the figures of a check with their tags, without those that are not finite."""
    differences = {"": report.difference}
    for name, tag in unique_tags(report.parameters).items():
        differences[f"/{tag}"] = report.parameters[name].difference
    for suffix, difference in differences.items():
        if math.isfinite(difference):
            yield f"{FOLDER}/difference{suffix}", difference
            yield f"{FOLDER}/log10_difference{suffix}", math.log10(max(difference, SMALLEST))
    yield f"{FOLDER}/thresholds/good", math.log10(report.bands[0])
    yield f"{FOLDER}/thresholds/worry", math.log10(report.bands[-1])
    yield f"{FOLDER}/verdict", float(report.verdict)
    yield f"{FOLDER}/evaluations", float(report.evaluations)


def histograms(report: CheckReport) -> Iterator[tuple[str, list[int]]]:
    """Yield for each parameter how many of its entries (or directions) have which error: wrong ones are a second hump.

    The error is ``log10(|g - n| / (|g| + |n|))``, counted in half decades from 1e-17 to 1.
    """
    for name, tag in unique_tags(report.pictures).items():
        plot, logarithms = report.pictures[name], []
        for *_, backprop, residual, _ in plot.entries or plot.directions:
            size = abs(backprop) + abs(backprop - residual)
            if math.isfinite(size):
                error = abs(residual) / (size or 1.0)
                logarithms.append(math.log10(min(max(error, SMALLEST), 1.0)))  # rounding can lift it above 1
        if logarithms:
            yield f"{FOLDER}/log10_error/{tag}", np.histogram(logarithms, HALF_DECADES)[0].tolist()


def unique_tags(names: Iterable[str]) -> dict[str, str]:
    """Return a tag for each name: TensorBoard replaces most signs by "_", and two names must not become one tag.

    >>> unique_tags(["W[1]", "W(1)", "dense1.W"])
    {'W[1]': 'W_1_', 'W(1)': 'W_1_-2', 'dense1.W': 'dense1.W'}
    """
    tags: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        clean = re.sub(r"[^-/\w.]", "_", name).lstrip("/")
        tag, number = clean, 1
        while tag in taken:
            number += 1
            tag = f"{clean}-{number}"
        tags[name] = tag  # the first name keeps its tag, whatever follows
        taken.add(tag)
    return tags


def _make_folder(log_dir: Path) -> Path:
    """Make a sub-directory in which nobody has written, in one step, so that two processes cannot both have it."""
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"log_dir={str(log_dir)!r} cannot be made: a file stands there or above it. This usually means that the "
            "name of a log file was given. Try the name of a directory, such as log_dir='runs/mine'."
        ) from error
    path, number = log_dir / FOLDER, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = log_dir / f"{FOLDER}-{number}"
