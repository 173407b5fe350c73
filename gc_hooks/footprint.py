"""Leaving no trace: the random states that a user's loss may draw from are put back, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Restore NumPy's and Python's global random state, also after an exception or Ctrl-C."""
    numpys, pythons = np.random.get_state(legacy=False), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)
