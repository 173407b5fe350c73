"""What the package raises and warns with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class GradCheckError(Exception):
    """Base of every error of this package."""


class InvalidProblem(GradCheckError, ValueError):
    """The loss, the parameters or an argument cannot be used as they are."""


def require(condition: object, message: str) -> None:
    """Raise `InvalidProblem` with the message unless the condition is true.

    The message is built in any case, so code that runs at every training step raises in an ``if`` of its own.
    """
    if not condition:
        raise InvalidProblem(message)


class NondeterministicLoss(GradCheckError, RuntimeError):
    """The loss gave two values for the same parameters, so it has no slope to measure."""


class MissingDependency(GradCheckError, ImportError):
    """An optional package is needed for what was asked."""


@contextmanager
def require_package(package: str, purpose: str) -> Iterator[None]:
    """Turn an `ImportError` in the ``with`` block into a `MissingDependency` that says how to install the package."""
    try:
        yield
    except ImportError as error:
        message = f"{purpose} needs {package}, which cannot be imported: {error}. Try pip install {package}."
        raise MissingDependency(message) from error


class GradientMismatch(GradCheckError, AssertionError):
    """A gradient did not pass its check; ``.report`` holds the whole report."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class GradCheckWarning(UserWarning):
    """A gradient that looks wrong, or a check that could not be made; the training goes on."""
