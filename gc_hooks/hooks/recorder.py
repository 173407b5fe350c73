"""Make a check whatever happens: nothing that goes wrong in one ends the training, and everything is recorded."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gc_hooks.errors import GradCheckError, GradCheckWarning
from gc_hooks.hooks.drift import Drift
from gc_hooks.isolation.generators import Found, find_generators
from gc_hooks.isolation.rng import preserve_global_random_state
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Basis, Comparison, Reason
from gc_hooks.report.diagnosis import agree, listed
from gc_hooks.reporters.base import Reporter

T = TypeVar("T")

MOST_PICTURES = 8
"""Number of good reports, and of others, that keep their plot data in memory: it is most of a report, and a training
with thousands of checks must stay small. The last report keeps it too."""

IDLE = 3
"""Checks in a row after which a matrix without any gradient is told: as many as the default schedule makes. One batch
of zeros, or one layer whose units are all off, is no news."""

ALL = 1e-12
"""How near the penalty's share of a gradient has to be to 1, where the data's part is zero: roundings of a norm."""

PACKAGE = str(Path(__file__).parents[1]) + os.sep
LIBRARIES = (str(Path(os.__file__).parent), "site-packages", "<frozen")
"""Parts of the file names of code that the user did not write."""


class CheckUnderWay:
    """A check between its begin and its report: whoever makes it sets ``report``, and may use ``seed``."""

    report: CheckReport

    def __init__(self, recorder: CheckRecorder, seed: int) -> None:
        self.seed = seed
        self._recorder = recorder
        self._on_exit = ExitStack()
        self._lost: Sequence[str] = ()  # what could not be restored, complete at the end

    def protect(self, params: object, functions: object, *, known: bool = False) -> None:
        """Remember where the weights are; when the check has ended, restore the random generators of the functions.

        ``known`` says that the last check had the same functions, so that no new search for generators is needed.
        """
        recorder = self._recorder
        if not (known and recorder.found is not None and recorder.found.in_place):
            recorder.found = find_generators(functions)
        self._lost = self._on_exit.enter_context(recorder.found.preserve())
        recorder.drift.attempt(params)


class CheckRecorder:
    """Record checks: keep their reports, and hand them to reporters."""

    def __init__(self, reporters: Sequence[Reporter], seed: int) -> None:
        self.reports: list[CheckReport] = []
        self.seconds = 0.0  # spent on all checks and reports so far
        self.wants_pictures = any(reporter.draws for reporter in reporters)  # a check should keep its plot data
        self.drift = Drift()
        self.found: Found | None = None  # the random generators that the last check could reach
        self._pictured: Counter[bool] = Counter()
        self._mistakes: dict[str, int] = {}  # what was handed in wrongly, and the step at which it was told
        self._idle: dict[str, int] = {}  # the matrices without a gradient, and for how many checks
        self._reporters = list(reporters)
        self._generator = np.random.default_rng(seed)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the functions of one training: a copy looks for their generators anew."""
        return {**vars(self), "found": None}

    @contextmanager
    def record(self, step: int, what: str = "The check") -> Iterator[CheckUnderWay]:
        """Record the check that is made in the ``with`` block; an exception there becomes an INCONCLUSIVE report.

        The block calls ``check.protect`` first, and sets ``check.report``; after it, that is the report as recorded.
        """
        check = CheckUnderWay(self, int(self._generator.integers(2**32)))
        began = time.perf_counter()
        try:
            # The user's np.seterr(all="raise") is meant for the training, not for the check.
            with preserve_global_random_state(), np.errstate(all="ignore"):
                try:
                    with check._on_exit:
                        yield check
                    # check_gradients restores generators too, and may have said the same of them.
                    lost = [note for note in check._lost if note not in check.report.notes]
                    check.report = self._with_idle(self.drift.add_to(check.report.noted(*lost)))
                except Exception as error:
                    check.report = CheckReport({}, step=step, seed=check.seed, notes=(self._tell(step, what, error),))
                check.report = self._publish(check.report)
        finally:  # a Ctrl-C has cost time, too
            self.seconds += time.perf_counter() - began

    def _tell(self, step: int, what: str, error: Exception) -> str:
        """Warn of what went wrong, and return it as a note; a mistake that will not heal is told once."""
        text, known = _described(error), len(self._mistakes)
        note = f"{what} at step {step} failed with {text}{_where(error)}"
        if isinstance(error, GradCheckError):
            # The same mistake at another step may name other numbers.
            first = self._mistakes.setdefault(re.sub(r"\d[\d.e+-]*", "", text), step)
            if len(self._mistakes) == known:
                return f"Nothing was checked, for the reason that was told at step {first}."
        warn(f"Nothing was checked. {note} The training goes on.")
        return note

    def _with_idle(self, report: CheckReport) -> CheckReport:
        """Add to a report which matrices have had no gradient in any of the last checks."""
        before, self._idle, idle = self._idle, {}, []
        for name, comparison in report.parameters.items():
            if _is_idle(comparison):
                self._idle[name] = before.get(name, 0) + 1
                if self._idle[name] >= IDLE:
                    idle.append(name)
            elif name in before and comparison.basis is Basis.BOUNDED:  # a glance sees data and penalty together
                self._idle[name] = before[name]
        if not idle:
            return report
        checks = min(self._idle[name] for name in idle)
        return report.noted(
            f"{listed(idle)} {agree(idle, 'has', 'have')} had no gradient in {checks} checks, so that nothing was seen "
            f"of {agree(idle, 'its', 'their')} backward. This usually means an input of zeros (a batch that was never "
            "filled), units that are always off, or a parameter that is not used. Try to print what it is multiplied "
            "with."
        )

    def _publish(self, report: CheckReport) -> CheckReport:
        """Keep a report and hand it to the reporters; the first time, say where the checks can be looked at."""
        report = report.noted(*filter(None, self._call_each(lambda reporter: reporter.open())))
        self.reports.append(report)
        self._call_each(lambda reporter: reporter.report(report))
        if len(self.reports) == 1:
            for place in filter(None, self._call_each(lambda reporter: reporter.where())):
                self.say(place)
        elif self.reports[-2].pictures:
            before = self.reports[-2]
            self._pictured[before.ok] += 1
            if self._pictured[before.ok] > MOST_PICTURES:
                self.reports[-2] = replace(before, pictures={}, curve=None)
        return report

    def say(self, text: str) -> bool:
        """Tell a person something that is not a check; return whether a reporter could."""
        return any(answer is not False for answer in self._call_each(lambda reporter: reporter.say(text)))

    def close(self) -> None:
        """Close the reporters."""
        self._call_each(lambda reporter: reporter.close())

    def _call_each(self, call: Callable[[Reporter], T]) -> list[T]:
        """Call something of every reporter, and leave out from now on the one that fails."""
        answers = []
        for reporter in tuple(self._reporters):
            try:
                answers.append(call(reporter))
            except Exception as error:
                # By identity: two reporters of the user's may be equal.
                self._reporters = [other for other in self._reporters if other is not reporter]
                failed = f"{_text(reporter)} failed with {_described(error)}"
                warn(f"{failed} It is not used any more; checks and training go on.")
        return answers


def _is_idle(comparison: Comparison) -> bool:
    """Return whether a matrix has no gradient of the data; a vector in front of a norm never has one."""
    is_matrix = comparison.size > max(comparison.shape, default=1)
    is_all_penalty = abs(comparison.penalty_share - 1) <= ALL
    return is_matrix and (comparison.reason is Reason.NO_GRADIENT or (is_all_penalty and comparison.exact))


def _where(error: Exception) -> str:
    """Return where in the user's code an exception was raised, and what to try; empty for one that says so itself."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(PACKAGE)]
    if not frames or isinstance(error, GradCheckError):
        return ""
    last = frames[-1]
    for frame in frames:
        if not any(place in frame.filename for place in LIBRARIES):
            last = frame
    return (
        f" It was raised in {last.name} ({Path(last.filename).name}:{last.lineno}). This usually means that the "
        "check asks for what the training does not: other parameters, float64, complex numbers, or repeated calls. "
        "Try to call it once by hand, with the same arguments, right before the check."
    )


def _described(error: Exception) -> str:
    text = f"{type(error).__name__}: {_text(error)}".rstrip(": ")
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _text(thing: object) -> str:
    """Return a user's object as text, also where its class cannot do that."""
    try:
        return str(thing)
    except Exception:
        return f"a {type(thing).__name__} that cannot be printed"


def warn(message: str) -> None:
    """Warn with a `GradCheckWarning` that points at the user's line; it never ends a training.

    Where a filter makes errors of warnings (``python -W error``), it is printed instead: ``on_fail="raise"`` is the way
    to have a wrong gradient end the program.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _is_library(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, GradCheckWarning, stacklevel=level)
    except GradCheckWarning:
        print_warning(message)


def _is_library(filename: str) -> bool:
    return filename.startswith(PACKAGE) or any(place in filename for place in LIBRARIES)


def print_warning(message: str) -> None:
    """Print a warning that may not be raised."""
    with suppress(OSError, ValueError):  # nobody reads it
        print(f"{GradCheckWarning.__name__}: {message}", file=sys.stderr, flush=True)
