"""Spread a check of every entry over an executor: threads, processes, or an existing cluster's."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

from gc_hooks.errors import GradCheckError, InvalidProblem
from gc_hooks.problem import BudgetSpent, Meter
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.probes import Entry, Probe
from gc_hooks.slopes.progress import PATIENCE, Progress, bar_on_terminal

Work: TypeAlias = tuple[Measurements, int, int]
"""What a worker returns: its measurements, and how many evaluations, and complex ones, they took."""

CHUNK_SECONDS = 0.5
"""How long a worker should take for one chunk: long against the milliseconds of handing it over, short against the
patience of somebody who presses Ctrl-C."""
FIRST_CHUNK, LARGEST_CHUNK = 16, 5000
"""Entries. The first chunk is small, because nothing is known of the loss's speed; a budget of seconds is kept at best
to within one chunk."""
AHEAD = 4
"""Chunks that wait for each worker, so that none is idle while results are collected."""


def measure_on(
    executor: Executor,
    slopes: Slopes,
    probes: Iterable[Probe],
    measurements: Measurements,
    progress: Progress | None = None,
) -> None:
    """Measure entries on an executor; directions, which are few, are measured here.

    Raises `InvalidProblem` where the loss cannot be sent to a worker, and `GradCheckError` where a worker died: no
    partial report is passed off as a complete one.
    """
    if slopes.problem.live is not None:
        raise InvalidProblem(
            "executor= was given with in_place=True. The workers would change the same arrays at the same time. Try a "
            "loss that takes the parameters, or leave executor out."
        )
    total = sum(measured.size for measured in measurements.parameters.values())
    bar_from = time.perf_counter() + PATIENCE
    run = _ParallelRun(executor, slopes)
    with ExitStack() as stack:
        stack.callback(run.cancel)
        for found, done in run.results(_entries_only(slopes, probes, measurements)):
            measurements.merge([found])
            if progress is None and time.perf_counter() > bar_from:
                progress = bar_on_terminal(stack, total)
            if progress is not None:
                progress(done, total)


def _entries_only(slopes: Slopes, probes: Iterable[Probe], measurements: Measurements) -> Iterator[Entry]:
    for probe in probes:
        if isinstance(probe, Entry):
            yield probe
        else:
            slopes.measure([probe], measurements)


class _ParallelRun:
    """The chunks that workers are measuring, and what they return."""

    def __init__(self, executor: Executor, slopes: Slopes) -> None:
        self.executor = executor
        self.meter = slopes.problem.meter
        # Workers do not run backprop, and the trial direction may be as large as the parameters.
        tools = tuple(replace(tool, trial=None) for tool in slopes.instruments)
        self.slopes = Slopes(replace(slopes.problem, backprop=None, meter=Meter()), tools)
        self.pending: dict[Future[Work], tuple[int, float]] = {}
        self.chunk = FIRST_CHUNK

    def results(self, entries: Iterator[Entry]) -> Iterator[tuple[Measurements, int]]:
        """Yield measurements and the number of entries so far, until all are measured or the budget is spent."""
        done = 0
        while self._submit(entries):
            for future in wait(self.pending, return_when=FIRST_COMPLETED).done:
                size, began = self.pending.pop(future)
                found, evaluations, complex_evaluations = self._result(future)
                self.meter.evaluations += evaluations
                self.meter.complex_evaluations += complex_evaluations
                # Chunks that took little time grow. One that waited in a queue seems to have taken longer, which is
                # the safe side.
                fitting = size * CHUNK_SECONDS / max(time.perf_counter() - began, 1e-6)
                self.chunk = int(min(max(self.chunk, fitting), LARGEST_CHUNK))
                done += size
                yield found, done

    def _submit(self, entries: Iterator[Entry]) -> bool:
        """Submit chunks while there are entries and the budget lasts; return whether any are pending."""
        workers = int(getattr(self.executor, "_max_workers", None) or 4)
        while len(self.pending) < AHEAD * workers and not self.meter.exhausted:
            size = self.chunk
            if self.meter.max_evaluations is not None:  # each entry costs at least one evaluation
                pending = sum(entries for entries, _ in self.pending.values())
                size = max(0, min(size, self.meter.max_evaluations - self.meter.evaluations - pending))
            chunk = list(islice(entries, size))
            if not chunk:
                break
            future = self.executor.submit(_measure_chunk, self.slopes, chunk)
            self.pending[future] = len(chunk), time.perf_counter()
        return bool(self.pending)

    def _result(self, future: Future[Work]) -> Work:
        try:
            return future.result()
        except BudgetSpent:
            raise
        except BrokenExecutor as error:
            raise GradCheckError(
                f"A worker of {type(self.executor).__name__} died ({error}): there is no report. This usually means "
                "that memory ran out, or that the loss ended the process. Try fewer workers."
            ) from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            about_pickling = isinstance(error, pickle.PicklingError) or "pickle" in str(error)
            if not about_pickling and "local object" not in str(error):
                raise
            raise InvalidProblem(
                f"The loss cannot be sent to another process: {error}. Lambdas and functions inside functions cannot. "
                "Try a function at the top of a module, with functools.partial for the data, or a ThreadPoolExecutor."
            ) from error

    def cancel(self) -> None:
        """Cancel what has not begun; what has begun ends by itself soon."""
        for future in self.pending:
            future.cancel()


def _measure_chunk(slopes: Slopes, chunk: list[Entry]) -> Work:
    """Measure some entries in a worker, which counts from zero."""
    meter = Meter()
    mine = slopes.at(replace(slopes.problem, meter=meter))
    measurements = Measurements.empty(mine.problem)
    mine.measure(chunk, measurements)
    return measurements, meter.evaluations, meter.complex_evaluations
