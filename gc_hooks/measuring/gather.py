"""Gathering evidence: the instruments are made ready, and every probe goes through them, here or on an executor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Executor
from itertools import chain, islice

from gc_hooks._typing import Generator
from gc_hooks.measuring.calibrate import Instrument, assumed_rounding, calibrate, rounding_of
from gc_hooks.measuring.estimate import Method
from gc_hooks.measuring.evidence import Evidence
from gc_hooks.measuring.measure import measure
from gc_hooks.measuring.spread import measure_on
from gc_hooks.measuring.waiting import Progress, progress_shown
from gc_hooks.methods import complex_casts_refused
from gc_hooks.probes import Direction, Probe
from gc_hooks.problem import BudgetSpent, Problem


def gather(
    problem: Problem,
    probes: Iterable[Probe],
    method: Method | None,
    generator: Generator,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> tuple[list[Instrument], Evidence]:
    """Make the instruments ready and send the probes through them.

    A direction through all parameters, where the probes begin with one, also serves to try complex step on. Nothing is
    measured where the loss is not finite.
    """
    if not math.isfinite(problem.value):
        return [], Evidence.empty(problem)
    probes = iter(probes)
    first = list(islice(probes, 1))
    along = next((probe for probe in first if isinstance(probe, Direction) and probe.name is None), None)
    try:
        instruments = calibrate(problem, method, generator, along)
    except BudgetSpent:
        return [], Evidence.empty(problem)
    rounding = rounding_of(problem, instruments, generator) if along is None else assumed_rounding(instruments)
    evidence = Evidence.empty(problem, rounding)
    every = chain(first, probes)
    with complex_casts_refused(), progress_shown(progress) as told:
        if executor is None:
            return instruments, measure(problem, every, instruments, evidence, told)
        return instruments, measure_on(executor, problem, every, instruments, evidence, told)
