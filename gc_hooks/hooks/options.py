"""The arguments that all hooks share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gc_hooks._typing import Schedule
from gc_hooks.check import CheckOptions
from gc_hooks.errors import InvalidProblem
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance
from gc_hooks.slopes.methods import Estimate, Method


@dataclass(frozen=True)
class HookOptions:
    """Arguments that all hooks share, checked; `gc_hooks.GradCheckHook` describes them."""

    after: int | None = 1000
    every: int | None = None
    schedule: Schedule | None = None
    log_dir: str | os.PathLike[str] | None = None
    writer: Any = None
    reporters: Iterable[Any] | None = None
    method: Method | Callable[..., Estimate] | None = None
    tolerance: Tolerance = Tolerance()
    on_fail: str | Callable[[CheckReport], object] = "warn"
    max_evaluations: int | None = None
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not callable(self.on_fail):
            require_choice("on_fail", self.on_fail, ("warn", "raise", "stop"))
        if self.log_dir is not None and self.writer is not None:
            raise InvalidProblem("The hook got both log_dir and writer. Try the one that the checks should go to.")
        self.for_check()

    def for_check(self, pictures: bool = False) -> CheckOptions:
        """Return what each check gets; a check that is due adds probes, seed and step."""
        return CheckOptions(
            method=self.method,
            tolerance=self.tolerance,
            max_evaluations=self.max_evaluations,
            max_seconds=self.max_seconds,
            pictures=pictures,
        )


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the known ones."""
    if value not in choices:
        raise InvalidProblem(f"{name}={value!r} is not known. Try one of {', '.join(map(repr, choices))}.")
