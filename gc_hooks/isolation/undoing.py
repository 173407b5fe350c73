"""Put things back to the end, whatever comes in between: an object that refuses, a Ctrl-C, and a second one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

TRIES = 4
"""How often a step is begun. With 4, three Ctrl-C within one step lose nothing; a step takes microseconds."""


def run_all(steps: Iterable[Sequence[Any]]) -> None:
    """Run every step, a function with its arguments, also after one that raises; at the end raise what was raised.

    A step that was interrupted begins again. Ctrl-C is raised before the error of an object that refuses.
    """
    raised: list[BaseException] = []
    for function, *arguments in steps:
        for _ in range(TRIES):
            try:
                function(*arguments)
                break
            except BaseException as error:  # it comes through when all is done
                raised.append(error)
    if raised:
        raise min(raised, key=lambda error: isinstance(error, Exception))


def call_and_undo(put_back: Callable[[], object], function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns, and put back what it has changed, also where a Ctrl-C comes just before that.

    A context manager leaves a gap: a Ctrl-C that comes when Python enters ``__exit__``.
    """
    try:
        try:
            return function(*arguments)
        finally:
            put_back()
    except BaseException:
        put_back()
        raise


@contextmanager
def undone_by(put_back: Callable[[], object]) -> Iterator[None]:
    """Call a function at the end of the context, and once more where that, or the context, was broken off.

    A Ctrl-C may come just before the first call, which ``finally`` alone does not see.
    """
    try:
        try:
            yield
        finally:
            put_back()
    except BaseException:
        put_back()
        raise
