"""When a check is due: a schedule is asked with the number of calls that the hook has had before."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

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


class Drifting:
    """A schedule that also sees how far the weights have moved from where they were last checked.

    Attributes
    ----------
    share : float
    """

    def __init__(self, share: float, otherwise: Schedule) -> None:
        self.share = share
        self._otherwise = otherwise

    def __call__(self, calls: int, moved: Callable[[], float] | None = None) -> bool:
        """``moved`` measures ``||w - w_last|| / ||w_last||``; without it the number of calls decides alone."""
        return self._otherwise(calls) or (moved is not None and moved() >= self.share)


def drift(share: float) -> Schedule:
    """Whenever the weights have moved by this share from where they were last checked, and at the first call.

    Parameters
    ----------
    share : float
        ``||w - w_last|| / ||w_last||`` over all parameters: 0.1 for a tenth of their norm.

    Notes
    -----
    Costs a pass over the weights at every call, about as much as the update of plain gradient descent. With ``any_of``
    the others are asked first, and what they set off counts as a check. One that failed counts too.

    Examples
    --------
    >>> schedule = any_of(at(0, 1), drift(0.1))
    >>> schedule(1), schedule(2, lambda: 0.05), schedule(3, lambda: 0.12)
    (True, False, True)
    """
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share < math.inf:
        raise InvalidProblem(f"drift({share!r}): a share of the weights' norm is needed, above 0. Try drift(0.1).")
    return Drifting(float(share), never)


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
    drifting = [schedule for schedule in schedules if isinstance(schedule, Drifting)]

    def due(calls: int) -> bool:
        return any(schedule(calls) for schedule in schedules)

    return Drifting(min(schedule.share for schedule in drifting), due) if drifting else due


def whole_and_periodic(schedule: Schedule | None, after: int | None, period: int | None) -> tuple[Schedule, Schedule]:
    """When a hook makes a whole check (at its calls 0, 1 and N, unless a schedule is given), and when a periodic one.

    Examples
    --------
    >>> whole, periodic = whole_and_periodic(None, 7, 5)
    >>> [call for call in range(20) if whole(call)], [call for call in range(20) if periodic(call)]
    ([0, 1, 7], [0, 5, 10, 15])
    """
    if schedule is not None:
        any_of(schedule)
        return schedule, never
    return at(0, 1) if after is None else at(0, 1, after), never if period is None else every(period)


def never(calls: int) -> bool:
    """At no call."""
    return False


def _whole(name: str, number: int, least: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise InvalidProblem(f"{name}({number!r}): a whole number of calls, at least {least}, is needed.")
    return number
