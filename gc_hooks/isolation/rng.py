"""Leaving no trace: the random states that a user's loss may draw from are put back, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

GLOBAL_GENERATORS: dict[str, Any] = {
    "NumPy's global random state": np.random.get_state.__self__,  # type: ignore[attr-defined]
    "Python's global random state": random.getstate.__self__,  # type: ignore[attr-defined]
}
"""What the functions of the modules ``numpy.random`` and ``random`` draw from."""

GENERATORS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)

GlobalState: TypeAlias = dict[str, Any]


def global_random_state() -> GlobalState:
    """NumPy's and Python's global random state."""
    return {name: random_state(generator) for name, generator in GLOBAL_GENERATORS.items()}


def set_global_random_state(state: GlobalState) -> None:
    """Go back to one of them."""
    for name, generator in GLOBAL_GENERATORS.items():
        set_random_state(generator, state[name])


@contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Restore NumPy's and Python's global random state, also after an exception or Ctrl-C."""
    state = global_random_state()
    try:
        yield
    finally:
        set_global_random_state(state)


def is_random(generator: Any) -> bool:
    """Whether it is a random generator of NumPy's or of Python's, old or new."""
    return isinstance(generator, GENERATORS)


def draws(kind: type) -> bool:
    """Whether a class is that of random generators, of these or of torch's."""
    return issubclass(kind, GENERATORS) or _is_torchs(kind)


def _is_torchs(kind: type) -> bool:
    return kind.__name__ == "Generator" and kind.__module__.partition(".")[0] == "torch"


def random_state(generator: Any) -> Any:
    """Everything that the next draws depend on, as a copy."""
    if _is_torchs(type(generator)):
        return generator.get_state()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, random.Random):
        return generator.getstate()
    return _bits(generator).state


def set_random_state(generator: Any, state: Any) -> None:
    """Put a generator back to where `random_state` found it."""
    if isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif _is_torchs(type(generator)):
        generator.set_state(state)
    else:
        _bits(generator).state = state


def _bits(generator: Any) -> Any:
    return getattr(generator, "bit_generator", generator)
