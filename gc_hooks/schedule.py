"""When a check is due: a schedule is a function of the number of calls that the hook has had before."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

from gc_hooks._typing import Schedule
from gc_hooks.errors import InvalidProblem, require

DECADES = 18
"""`logspaced` ends after 10**18 calls: more than any training makes, at a nanosecond a call 30 years."""


def at(*calls: int) -> Schedule:
    """Check at these calls, counted from 0.

    Examples
    --------
    >>> [call for call in range(2000) if at(0, 1, 1000)(call)]
    [0, 1, 1000]
    """
    for call in calls:
        _require_count("at", call, 0)
    return frozenset(calls).__contains__


def first(count: int) -> Schedule:
    """Check at each of the first ``count`` calls.

    Examples
    --------
    >>> [call for call in range(10) if first(3)(call)]
    [0, 1, 2]
    """
    _require_count("first", count, 0)
    return lambda calls: calls < count


def every(period: int) -> Schedule:
    """Check once in ``period`` calls, beginning with the first.

    Examples
    --------
    >>> [call for call in range(1000) if every(300)(call)]
    [0, 300, 600, 900]
    """
    _require_count("every", period, 1)
    return lambda calls: calls % period == 0


def logspaced(per_decade: int = 3) -> Schedule:
    """Check ``per_decade`` times between 10 and 100 calls, between 100 and 1000, and so on: bugs tend to show early.

    Examples
    --------
    >>> [call for call in range(2000) if logspaced(2)(call)]
    [0, 1, 3, 10, 32, 100, 316, 1000]
    """
    _require_count("logspaced", per_decade, 1)
    points = {0}
    for k in range(DECADES * per_decade):
        points.add(round(10 ** (k / per_decade)))
    return points.__contains__


class Drifting:
    """A schedule that also asks how far the weights have moved since the last check (``threshold``: see `drift`)."""

    def __init__(self, threshold: float, otherwise: Schedule) -> None:
        self.threshold = threshold
        self._otherwise = otherwise

    def __call__(self, calls: int, moved: Callable[[], float] | None = None) -> bool:
        """Return whether a check is due; ``moved()`` measures ``||w - w_last|| / ||w_last||``."""
        # Measuring costs a pass over the weights, so it comes last; without it the number of calls decides alone.
        return self._otherwise(calls) or (moved is not None and moved() >= self.threshold)


def drift(share: float) -> Schedule:
    """Check at the first call, and whenever the weights have moved since the last check by this part of their norm.

    Parameters
    ----------
    share : float
        ``||w - w_last|| / ||w_last||`` over all parameters: 0.1 for a tenth of their norm.

    Notes
    -----
    Costs a pass over the weights at every call, about as much as the update of plain gradient descent. A check that
    another schedule in `any_of` causes counts as the last one, and so does a check that failed.

    Examples
    --------
    >>> schedule = any_of(at(0, 1), drift(0.1))
    >>> schedule(1), schedule(2, lambda: 0.05), schedule(3, lambda: 0.12)
    (True, False, True)
    """
    # True is a number for Python, and a mistake here.
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share < math.inf:
        raise InvalidProblem(f"drift needs a share of the weights' norm, above 0, got {share!r}. Try drift(0.1).")
    return Drifting(float(share), never)


def any_of(*schedules: Schedule) -> Schedule:
    """Check whenever one of the schedules is due.

    Examples
    --------
    >>> [call for call in range(10) if any_of(at(1), every(4))(call)]
    [0, 1, 4, 8]
    """
    thresholds = []
    for schedule in schedules:
        _require_schedule(schedule)
        if isinstance(schedule, Drifting):
            thresholds.append(schedule.threshold)

    def due(calls: int) -> bool:
        return any(schedule(calls) for schedule in schedules)

    return Drifting(min(thresholds), due) if thresholds else due  # the smallest is reached first


def full_and_periodic(schedule: Schedule | None, after: int | None, period: int | None) -> tuple[Schedule, Schedule]:
    """Return when a hook makes a full check (at its calls 0, 1 and N, unless a schedule is given), and a periodic one.

    >>> full, periodic = full_and_periodic(None, 7, 5)
    >>> [call for call in range(20) if full(call)], [call for call in range(20) if periodic(call)]
    ([0, 1, 7], [0, 5, 10, 15])
    """
    if schedule is not None:
        _require_schedule(schedule)
        return schedule, never
    calls = [0, 1]  # a buffer that is never set to zero looks right at call 0
    if after is not None:
        _require_count("after", after, 0)
        calls.append(after)
    return at(*calls), never if period is None else every(period)


def never(calls: int) -> bool:
    """Check at no call."""
    return False


def _require_schedule(schedule: object) -> None:
    if not callable(schedule):
        raise InvalidProblem(
            f"A schedule must be a function of the number of calls, got {schedule!r}. Try at(0, 1, 1000) or every(500)."
        )


def _require_count(name: str, count: int, least: int) -> None:
    is_count = isinstance(count, int) and not isinstance(count, bool) and count >= least
    require(is_count, f"{name} needs a whole number, {least} or more, got {count!r}. Try 10.")
