"""Ranges of the numbers that layers, losses, optimisers and schedules take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from gc_hooks.errors import require


class Range(NamedTuple):
    """A range and its description, for messages; no range contains NaN."""

    text: str
    contains: Callable[[float], bool]

    def check(self, owner: str, hint: str, **numbers: float) -> None:
        """Refuse arguments of the owner that are out of range; the hint says what that means and what to try."""
        for name, number in numbers.items():
            require(self.contains(number), f"{owner} got {name}={number}, but it must be {self.text}. {hint}")


POSITIVE = Range("positive", lambda number: 0 < number < math.inf)
NOT_NEGATIVE = Range("zero or more", lambda number: 0 <= number < math.inf)
FRACTION = Range("in [0, 1)", lambda number: 0 <= number < 1)
COUNT = Range("at least 1", lambda number: number >= 1)
