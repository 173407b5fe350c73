"""What all tests share."""

from __future__ import annotations

import os

import hypothesis
import numpy as np
import pytest

# A shared machine may stall at any moment, which is no failure; and on CI the same commit gives the same result.
hypothesis.settings.register_profile("gc_hooks", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("gc_hooks")

# What somebody has switched off for their own trainings is on here.
for name in [name for name in os.environ if name.startswith("GC_HOOKS")]:
    del os.environ[name]


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator in the same state for every test."""
    return np.random.default_rng(0)
