"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal

# One thread each: small arrays are no faster with more, which only wait for work, and each sum has the same order
# whatever the number of processors. Libraries read it when they are loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

# A shared machine may stall at any moment, which is not a failure: nothing depends on time. And the same commit gives
# the same result, except with `pytest --hypothesis-profile=explore`, which draws new examples each time.
UNTIMED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow], "print_blob": True}
hypothesis.settings.register_profile("gc_hooks", derandomize=True, **UNTIMED)
hypothesis.settings.register_profile("explore", **UNTIMED)
hypothesis.settings.load_profile("gc_hooks")

# A shell that starts tests in the background has them ignore Ctrl-C, and their child processes with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of the many objects that pytest holds, few are garbage: looking for cycles as often as Python does took a sixth of the
# time.
gc.set_threshold(100_000, 50, 100)

# It needs PyTorch, and holds no tests: only the search for doctests would import it where there is none.
collect_ignore = ["torch_operators.py"]

# What somebody has switched off for their own trainings is on here.
for name in [name for name in os.environ if name.startswith("GC_HOOKS")]:
    del os.environ[name]


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator in the same state for every test."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_warning_is_overheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test warnings are errors: one that a hook prints in place of raising it fails the test, too."""

    def overheard(message: str) -> None:
        raise AssertionError(f"a test did not expect this warning: {message}")

    monkeypatch.setattr("gc_hooks.hooks.recorder.print_warning", overheard)
