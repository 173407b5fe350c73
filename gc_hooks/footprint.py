"""Leaving no trace: the random states that a user's loss may draw from are put back, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

GlobalState: TypeAlias = tuple[Any, Any]


def global_random_state() -> GlobalState:
    """NumPy's and Python's global random state."""
    return np.random.get_state(legacy=False), random.getstate()


def set_global_random_state(state: GlobalState) -> None:
    """Go back to one of them."""
    np.random.set_state(state[0])
    random.setstate(state[1])


@contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Restore NumPy's and Python's global random state, also after an exception or Ctrl-C."""
    state = global_random_state()
    try:
        yield
    finally:
        set_global_random_state(state)
