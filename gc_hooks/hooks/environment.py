"""Switches that need no change of the code: environment variables that override a hook's arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from gc_hooks._typing import Schedule
from gc_hooks.schedule import at, never

OFF, ON = {"off", "0", "false", "no"}, {"", "on", "1", "true", "yes"}


@dataclass(frozen=True)
class EnvironmentSettings:
    """What the environment asks for.

    Attributes
    ----------
    off : bool
        ``GC_HOOKS=off``: the hook does nothing.
    calls : tuple of int or None
        ``GC_HOOKS_AT=0,1,500``: the calls that are checked, in place of the schedule in the code.
    log_dir : str or None
        ``GC_HOOKS_LOG_DIR=runs/mine``: where the checks are written for TensorBoard.
    troubles : tuple of str
        One message for each variable that cannot be understood, and is ignored: no training ends for it.
    """

    off: bool = False
    calls: tuple[int, ...] | None = None
    log_dir: str | None = None
    troubles: tuple[str, ...] = ()

    @property
    def schedule(self) -> Schedule | None:
        """What replaces the schedule in the code."""
        return never if self.off else None if self.calls is None else at(*self.calls)

    @property
    def told(self) -> str:
        """What is overridden, for a person to know; empty when nothing is."""
        if self.off:
            return "GC_HOOKS=off: gradients are not checked."
        calls = "" if self.calls is None else ",".join(map(str, self.calls))
        parts = [f"GC_HOOKS_AT={calls}: checks are made at these calls, whatever the code says."] if calls else []
        parts += [f"GC_HOOKS_LOG_DIR={self.log_dir}: checks are written there."] if self.log_dir else []
        return " ".join(parts)


def read_environment(environment: Mapping[str, str] | None = None) -> EnvironmentSettings:
    """The switches of the environment, or of another mapping; what is empty counts as not set.

    Examples
    --------
    >>> read_environment({"GC_HOOKS_AT": "0, 1, 500"}).calls
    (0, 1, 500)
    >>> read_environment({"GC_HOOKS": "perhaps"}).troubles
    ("GC_HOOKS='perhaps' is not understood, and is ignored. Try GC_HOOKS=off, or on.",)
    """
    given = os.environ if environment is None else environment
    switch, at, log_dir = (given.get(name, "").strip() for name in ("GC_HOOKS", "GC_HOOKS_AT", "GC_HOOKS_LOG_DIR"))
    calls, troubles = _calls(at)
    if switch.lower() not in OFF | ON:
        troubles = (f"GC_HOOKS={switch!r} is not understood, and is ignored. Try GC_HOOKS=off, or on.", *troubles)
    return EnvironmentSettings(switch.lower() in OFF, calls, log_dir or None, troubles)


def _calls(text: str) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if not (word.isascii() and word.isdigit()):
            trouble = (
                f"GC_HOOKS_AT={text!r} is ignored: {word!r} is no number of calls, counted from 0. Try "
                "GC_HOOKS_AT=0,1,500."
            )
            return None, (trouble,)
    return (tuple(map(int, words)) or None), ()
