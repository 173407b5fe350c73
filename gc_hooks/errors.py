"""What the package raises and warns with."""

from __future__ import annotations

from typing import Any


class GradCheckError(Exception):
    """Base of every error of this package."""


class InvalidProblem(GradCheckError, ValueError):
    """The loss, the parameters or an argument cannot be used as they are."""


class NondeterministicLoss(GradCheckError, RuntimeError):
    """The loss gave two values for the same parameters, so it has no slope to measure."""


class MissingDependency(GradCheckError, ImportError):
    """An optional package is needed for what was asked."""


class GradientMismatch(GradCheckError, AssertionError):
    """A gradient did not pass its check; ``.report`` holds the whole report."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class GradCheckWarning(UserWarning):
    """A gradient that looks wrong, or a check that could not be made; the training goes on."""
