"""When a check is due: a schedule is asked with the number of calls that the hook has had before."""

from __future__ import annotations

from gc_hooks._typing import Schedule
from gc_hooks.errors import InvalidProblem


def at(*calls: int) -> Schedule:
    """At these calls, counted from 0.

    Examples
    --------
    >>> [call for call in range(2000) if at(0, 1, 1000)(call)]
    [0, 1, 1000]
    """
    chosen = frozenset(_whole("at", call, 0) for call in calls)
    return chosen.__contains__


def first(count: int) -> Schedule:
    """At each of the first calls.

    Examples
    --------
    >>> [call for call in range(10) if first(3)(call)]
    [0, 1, 2]
    """
    limit = _whole("first", count, 0)
    return lambda calls: calls < limit


def every(period: int) -> Schedule:
    """Once in so many calls, beginning with the first.

    Examples
    --------
    >>> [call for call in range(1000) if every(300)(call)]
    [0, 300, 600, 900]
    """
    length = _whole("every", period, 1)
    return lambda calls: calls % length == 0


def logspaced(per_decade: int = 3) -> Schedule:
    """More and more seldom: so many checks for each tenfold number of calls, as bugs tend to show early.

    Examples
    --------
    >>> [call for call in range(2000) if logspaced(2)(call)]
    [0, 1, 3, 10, 32, 100, 316, 1000]
    """
    density = _whole("logspaced", per_decade, 1)
    points = frozenset(round(10 ** (k / density)) for k in range(18 * density))
    return lambda calls: calls == 0 or calls in points


def any_of(*schedules: Schedule) -> Schedule:
    """Whenever one of them says so.

    Examples
    --------
    >>> [call for call in range(10) if any_of(at(1), every(4))(call)]
    [0, 1, 4, 8]
    """
    for schedule in schedules:
        if not callable(schedule):
            raise InvalidProblem(
                f"any_of: {schedule!r} is no schedule. A schedule is a function of the number of calls, such as at(0, "
                "1, 1000) or every(500)."
            )
    return lambda calls: any(schedule(calls) for schedule in schedules)


def whole_and_periodic(schedule: Schedule | None, after: int | None, period: int | None) -> tuple[Schedule, Schedule]:
    """When a hook makes a whole check (at its calls 0, 1 and N, unless a schedule is given), and when a periodic one.

    Examples
    --------
    >>> whole, periodic = whole_and_periodic(None, 7, 5)
    >>> [call for call in range(20) if whole(call)], [call for call in range(20) if periodic(call)]
    ([0, 1, 7], [0, 5, 10, 15])
    """
    if schedule is not None:
        return any_of(schedule), never
    return at(0, 1) if after is None else at(0, 1, after), never if period is None else every(period)


def never(calls: int) -> bool:
    """At no call."""
    return False


def _whole(name: str, number: int, least: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise InvalidProblem(f"{name}({number!r}): a whole number of calls, at least {least}, is needed.")
    return number
