"""Spreading an exhaustive check over an executor: threads, processes, or an existing cluster's."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import replace
from itertools import chain, islice
from typing import TypeAlias

from gc_hooks._typing import Generator
from gc_hooks.errors import GradCheckError, InvalidProblem
from gc_hooks.problem import BudgetSpent, Meter, Problem
from gc_hooks.slopes.estimate import Method
from gc_hooks.slopes.instrument import Instrument, assumed_rounding, prepare_instruments, rounding_of
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import complex_casts_refused
from gc_hooks.slopes.probes import Direction, Entry, Probe
from gc_hooks.slopes.progress import Progress, progress_shown


def measure(
    problem: Problem,
    probes: Iterable[Probe],
    instruments: list[Instrument],
    measurements: Measurements,
    progress: Progress | None = None,
) -> Measurements:
    """Measure probes until there are no more or the budget is spent.

    Parameters
    ----------
    problem, probes, instruments
    evidence : Evidence
        What to add to.
    progress : callable, optional
        Told the number of probes so far and how many entries there are in all.

    Returns
    -------
    Evidence
        The one that was handed in.
    """
    total = sum(measured.size for measured in measurements.parameters.values())
    with complex_casts_refused():
        for done, probe in enumerate(probes, start=1):
            try:
                measurements.add(
                    problem, probe, [tool.measure(problem, probe, term) for term, tool in enumerate(instruments)]
                )
            except BudgetSpent:
                break
            if progress is not None:
                progress(done, total)
    return measurements


Share: TypeAlias = tuple[Measurements, int, int]
"""What a worker sends back: its evidence, and how many evaluations, and complex ones, that took."""

CHUNK_SECONDS = 0.5
FIRST_CHUNK = 16
LARGEST_CHUNK = 5000
AHEAD = 4


def measure_on(
    executor: Executor,
    problem: Problem,
    probes: Iterable[Probe],
    instruments: list[Instrument],
    measurements: Measurements,
    progress: Progress | None = None,
) -> Measurements:
    """Measure entries on an executor; directions, which are few, are measured here.

    Chunks take about half a second each, so that handing them over costs little and a cancelled check ends soon.

    Raises
    ------
    InvalidProblem
        The loss reads the caller's own arrays, or cannot be sent to another process.
    GradCheckError
        A worker died; no partial report is passed off as a whole one.
    """
    if problem.live is not None:
        raise InvalidProblem(
            "executor= was given for a loss with in_place=True. It reads your own arrays, of which there is one set, "
            "and workers would change it under each other's hands. Try a loss that takes the parameters, or leave "
            "executor out."
        )
    entries = _entries_only(problem, probes, instruments, measurements)
    crew = _Crew(executor, problem, instruments)
    try:
        for share, done in crew.shares(entries):
            measurements.merge([share])
            if progress is not None:
                progress(done, sum(measured.size for measured in measurements.parameters.values()))
    finally:
        crew.dismiss()
    return measurements


def _entries_only(
    problem: Problem, probes: Iterable[Probe], instruments: list[Instrument], measurements: Measurements
) -> Iterator[Entry]:
    for probe in probes:
        if isinstance(probe, Entry):
            yield probe
        else:
            measure(problem, [probe], instruments, measurements)


class _Crew:
    """The work that is out, and what comes back."""

    def __init__(self, executor: Executor, problem: Problem, instruments: list[Instrument]) -> None:
        self.executor = executor
        self.meter = problem.meter
        # Backprop is not run there, and the trial direction may be as large as the parameters.
        self.problem = replace(problem, gradient=None, meter=Meter())
        self.instruments = [replace(tool, trial=None) for tool in instruments]
        self.out: dict[Future[Share], tuple[int, float]] = {}
        self.chunk = FIRST_CHUNK

    def shares(self, entries: Iterator[Entry]) -> Iterator[tuple[Measurements, int]]:
        """Keep a few chunks out until all entries are measured or the budget is spent."""
        done = 0
        while self._hand_out(entries):
            for future in wait(self.out, return_when=FIRST_COMPLETED).done:
                size, began = self.out.pop(future)
                share, evaluations, complex_evaluations = self._result(future)
                self.meter.evaluations += evaluations
                self.meter.complex_evaluations += complex_evaluations
                self._adapt(size, time.perf_counter() - began)
                done += size
                yield share, done

    def _hand_out(self, entries: Iterator[Entry]) -> bool:
        """Hand out chunks while there are entries and the budget lasts; whether any work is out."""
        while len(self.out) < AHEAD * self._workers and not self.meter.exhausted:
            chunk = list(islice(entries, self._affordable()))
            if not chunk:
                break
            future = self.executor.submit(_work, self.problem, self.instruments, chunk)
            self.out[future] = len(chunk), time.perf_counter()
        return bool(self.out)

    def _affordable(self) -> int:
        """Entries of the next chunk: no more than the evaluations that are left, counting one for each that is out."""
        limit = self.meter.max_evaluations
        out = sum(size for size, _ in self.out.values())
        return self.chunk if limit is None else max(0, min(self.chunk, limit - self.meter.evaluations - out))

    @property
    def _workers(self) -> int:
        return int(getattr(self.executor, "_max_workers", None) or 4)

    def _adapt(self, size: int, seconds: float) -> None:
        """Chunks that took little time grow; what waited in a queue seems to have taken longer: the safe side."""
        wanted = size * CHUNK_SECONDS / max(seconds, 1e-6)
        self.chunk = int(min(max(FIRST_CHUNK, wanted, self.chunk), LARGEST_CHUNK))

    def _result(self, future: Future[Share]) -> Share:
        try:
            return future.result()
        except BudgetSpent:
            raise
        except BrokenExecutor as error:
            raise GradCheckError(
                f"A worker of {type(self.executor).__name__} died ({error}), and what it was measuring is lost: there "
                "is no report. This usually means that memory ran out, or that the loss ended the process. Try fewer "
                "workers."
            ) from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if not _is_about_pickling(error):
                raise
            raise InvalidProblem(
                f"The loss cannot be sent to another process: {error}. Lambdas and functions inside functions cannot. "
                "Try a function at the top of a module, with functools.partial for the data, or a ThreadPoolExecutor."
            ) from error

    def dismiss(self) -> None:
        """Cancel what has not begun; what has, ends by itself soon."""
        for future in self.out:
            future.cancel()


def _is_about_pickling(error: BaseException) -> bool:
    return isinstance(error, pickle.PicklingError) or "pickle" in str(error) or "local object" in str(error)


def _work(problem: Problem, instruments: list[Instrument], chunk: list[Entry]) -> Share:
    """Measure some entries in a worker, which counts from zero."""
    mine = replace(problem, meter=Meter())
    measurements = measure(mine, chunk, instruments, Measurements.empty(problem))
    return measurements, mine.meter.evaluations, mine.meter.complex_evaluations


def gather(
    problem: Problem,
    probes: Iterable[Probe],
    method: Method | None,
    generator: Generator,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> tuple[list[Instrument], Measurements]:
    """Make the instruments ready and send the probes through them.

    A direction through all parameters, where the probes begin with one, also serves to try complex step on. Nothing is
    measured where the loss is not finite.
    """
    if not math.isfinite(problem.value):
        return [], Measurements.empty(problem)
    probes = iter(probes)
    first = list(islice(probes, 1))
    along = next((probe for probe in first if isinstance(probe, Direction) and probe.name is None), None)
    try:
        instruments = prepare_instruments(problem, method, generator, along)
    except BudgetSpent:
        return [], Measurements.empty(problem)
    rounding = rounding_of(problem, instruments, generator) if along is None else assumed_rounding(instruments)
    measurements = Measurements.empty(problem, rounding)
    every = chain(first, probes)
    with complex_casts_refused(), progress_shown(progress) as explained:
        if executor is None:
            return instruments, measure(problem, every, instruments, measurements, explained)
        return instruments, measure_on(executor, problem, every, instruments, measurements, explained)
