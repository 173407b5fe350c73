"""Making a check whatever happens: nothing that goes wrong in one ends the training, and none goes unrecorded."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks.errors import GradCheckError, GradCheckWarning
from gc_hooks.hooks.drift import Drift
from gc_hooks.isolation.object_graph import Reached, generators_reached, states_kept
from gc_hooks.isolation.rng import global_random_state_kept
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison

NOTHING_NEW = 1e-6
"""Weights that have moved by less than this share since the last check show it nothing new."""
PACKAGE = str(Path(__file__).parents[1] / "_")[:-1]
LIBRARIES = (str(Path(os.__file__).parent), "site-packages", "<frozen")

MOST_PICTURES = 8
"""Of so many checks that are good, and as many that are not, the pictures stay in memory, beside those of the last."""

Ask = Callable[[int], CheckReport]
"""A check that is ready to be made, given a seed."""


class CheckRecorder:
    """Makes checks, keeps their reports, and hands them on.

    Parameters
    ----------
    reporters : sequence of reporters
    seed : int
        Of the generator from which each check gets a seed of its own.

    Attributes
    ----------
    reports : list of CheckReport
        Of all checks. Pictures, which are most of a report, stay with the first eight that are good, the first eight
        that are not, and the last; the others' have been handed to the reporters.
    seconds : float
        Spent on all checks and reports so far.
    wants_pictures : bool
        Whether a reporter draws, so that a check should keep what is needed for it.
    movement : Movement
        How far the weights have gone since.
    """

    def __init__(self, reporters: Sequence[Any], seed: int) -> None:
        self.reports: list[CheckReport] = []
        self.seconds = 0.0
        self.wants_pictures = any(getattr(reporter, "draws", False) for reporter in reporters)
        self.movement = Drift()
        self._pictured: Counter[bool] = Counter()
        self._reached: Reached | None = None
        self._reporters = list(reporters)
        self._generator = np.random.default_rng(seed)

    def check(self, step: int, params: Any, ask: Ask, same: bool = False) -> CheckReport:
        """Make one check; what goes wrong is one warning and an INCONCLUSIVE report.

        ``same`` says that the check asks the functions of the last one, so that the random generators which these
        reach are known.
        """
        if not (same and self._reached is not None and self._reached.in_place):
            self._reached = None
        return self._timed(lambda: self._attempt(step, params, ask))

    def failed(self, step: int, what: str, error: Exception) -> CheckReport:
        """Record that there was no check to make."""
        return self._timed(lambda: self._inconclusive(step, what, error, 0))

    def _timed(self, make: Callable[[], CheckReport]) -> CheckReport:
        began = time.perf_counter()
        try:
            with global_random_state_kept():
                report = make()
                report = report.noted(*filter(None, self.tell("open")))
                self.reports.append(report)
                self.tell("report", report)
                self._tell_where()
                self._forget_pictures()
                return report
        finally:
            self.seconds += time.perf_counter() - began

    def _forget_pictures(self) -> None:
        """Of the check before the last, where there are enough of its kind: a long training makes thousands."""
        before = self.reports[-2] if len(self.reports) > 1 else None
        if before is not None and before.pictures:
            self._pictured[before.ok] += 1
            if self._pictured[before.ok] > MOST_PICTURES:
                self.reports[-2] = replace(before, pictures={}, curve=None)

    def _attempt(self, step: int, params: Any, ask: Ask) -> CheckReport:
        seed = int(self._generator.integers(2**32))
        try:
            with np.errstate(all="ignore"):  # what the user wants of NumPy is meant for the training
                self._reached = self._reached or generators_reached(ask)
                with states_kept(self._reached) as lost:
                    same = self.movement.attempt(params)
                    report = ask(seed)
                report = report.noted(*(note for note in lost if note not in report.notes))
                return self._with_movement(report, same)
        except Exception as error:
            return self._inconclusive(step, "The check", error, seed)

    def _inconclusive(self, step: int, what: str, error: Exception, seed: int) -> CheckReport:
        trouble = f"{what} at step {step} failed with {_told(error)}{_where(error)}"
        warn(f"Nothing was checked. {trouble} The training goes on.")
        return CheckReport({}, step=step, seed=seed, notes=(trouble,))

    def _with_movement(self, report: CheckReport, same: bool) -> CheckReport:
        """How far the weights are from where the first check saw them, and whether this one has seen anything new."""
        way = self.movement.seen()
        report = replace(report, parameters=_each_with(report.parameters, way.each), moved=way.since_first)
        if not same:
            report = report.noted("These are not the parameters of the last check: their movement counts from here.")
        if not way.since_last <= NOTHING_NEW:  # NaN is news
            return report
        return report.noted("The weights are where the last check saw them: this one has nothing new to see.")

    def _tell_where(self) -> None:
        """After the first check: where the checks can be looked at."""
        if len(self.reports) == 1:
            for place in filter(None, self.tell("where")):
                self.tell("say", place)

    def tell(self, verb: str, *arguments: Any) -> list[Any]:
        """Let every reporter that can do so do something; one that fails is left out from then on."""
        return [self._tell(r, verb, arguments) for r in list(self._reporters) if hasattr(r, verb)]

    def _tell(self, reporter: Any, verb: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(reporter, verb)(*arguments)
        except Exception as error:
            self._reporters = [other for other in self._reporters if other is not reporter]
            warn(
                f"{type(reporter).__name__} failed with {_told(error)} It is not used any more; the checks and the "
                "training go on."
            )
            return None


def _each_with(comparisons: Mapping[str, Comparison], each: Mapping[str, tuple[float, float]]) -> dict[str, Comparison]:
    """Every parameter with its size and how far it has moved."""
    return {
        name: replace(c, weight_norm=each[name][0], moved=each[name][1]) if name in each else c
        for name, c in comparisons.items()
    }


def _told(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _where(error: Exception) -> str:
    """Where it was raised, if in the user's own code: not in this package, and rather not in a library."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(PACKAGE)]
    own = [frame for frame in frames if not any(place in frame.filename for place in LIBRARIES)]
    if isinstance(error, GradCheckError) or not frames:
        return ""
    frame = (own or frames)[-1]
    return (
        f" It was raised in {frame.name} ({Path(frame.filename).name}:{frame.lineno}). This usually means that the "
        "check asks for what the training does not: other parameters, float64, complex numbers, or repeated calls. "
        "Try to call it once by hand, with the same arguments, right before the check."
    )


def warn(message: str) -> None:
    """A `GradCheckWarning` that is shown each time."""
    warnings.warn(message, GradCheckWarning, stacklevel=2)
