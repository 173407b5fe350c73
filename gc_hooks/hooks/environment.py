"""Environment variables that override a hook's arguments, so that the code need not be changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from gc_hooks._typing import Schedule
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed
from gc_hooks.reporters.base import absolute
from gc_hooks.schedule import at, never

KNOWN = ("GC_HOOKS", "GC_HOOKS_AT", "GC_HOOKS_LOG_DIR")

OFF, ON = {"off", "0", "false", "no"}, {"", "on", "1", "true", "yes"}


@dataclass(frozen=True)
class EnvironmentSettings:
    """What the environment sets: ``GC_HOOKS=off``, ``GC_HOOKS_AT=0,1,500`` and ``GC_HOOKS_LOG_DIR=runs/mine``."""

    off: bool = False
    calls: tuple[int, ...] | None = None  # that are checked, in place of the schedule in the code
    log_dir: str | None = None  # where the checks are written for TensorBoard
    warnings: tuple[str, ...] = ()  # one for each variable that is ignored: a typing error must not end a training

    @property
    def schedule(self) -> Schedule | None:
        """Return what replaces the schedule in the code."""
        if self.off:
            return never
        return None if self.calls is None else at(*self.calls)

    @property
    def message(self) -> str:
        """Return for a person what is overridden; empty when nothing is."""
        if self.off:
            return "GC_HOOKS=off: gradients are not checked."
        parts = []
        if self.calls is not None:
            calls = ",".join(map(str, self.calls))
            parts.append(f"GC_HOOKS_AT={calls}: checks are made at these calls, whatever the code says.")
        if self.log_dir:
            parts.append(f"GC_HOOKS_LOG_DIR={self.log_dir}: checks are written there.")
        return " ".join(parts)


def read_environment(environment: Mapping[str, str] = os.environ) -> EnvironmentSettings:
    """Return the settings of the environment, or of another mapping; an empty variable counts as not set.

    >>> read_environment({"GC_HOOKS_AT": "0, 1, 500"}).calls
    (0, 1, 500)
    """
    switch, at_calls, log_dir = [environment.get(name, "").strip() for name in KNOWN]
    warnings, calls = [], None
    for name in environment:
        if name.upper().startswith("GC_HOOK") and name not in KNOWN and environment[name].strip():
            (nearest,) = get_close_matches(name.upper(), KNOWN, 1, cutoff=0)
            known = f"There are {listed(KNOWN)}"
            warnings.append(f"{name} is not known, and is ignored. {known}. Try {nearest}, which is nearest to it.")
    if switch.lower() not in OFF | ON:
        warnings.append(f"GC_HOOKS={switch!r} is not understood, and is ignored. Try GC_HOOKS=off, or on.")
    if at_calls:
        words = [word.strip() for word in at_calls.split(",")]
        wrong = [word for word in words if not (word.isascii() and word.isdigit() and len(word) < 20)]
        if wrong:
            problem = f"{wrong[0]!r} is not a number of calls, counted from 0"
            warnings.append(f"GC_HOOKS_AT={at_calls!r} is ignored: {problem}. Try GC_HOOKS_AT=0,1,500.")
        else:
            calls = tuple(map(int, words))
    if log_dir:
        try:
            absolute(log_dir, "GC_HOOKS_LOG_DIR")
        except InvalidProblem as error:
            warnings.append(f"{error} The variable is ignored.")
            log_dir = ""
    return EnvironmentSettings(switch.lower() in OFF, calls, log_dir or None, tuple(warnings))
