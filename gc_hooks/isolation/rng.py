"""Read and put back the states of random generators."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

GLOBAL_GENERATORS: dict[str, Any] = {
    "NumPy's global random state": np.random.get_state.__self__,  # type: ignore[attr-defined]
    "Python's global random state": random.getstate.__self__,  # type: ignore[attr-defined]
}
"""What the functions of the modules ``numpy.random`` and ``random`` draw from."""

GENERATORS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)

T = TypeVar("T")


def once_per_class(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Remember what a function returns for each class: a walk meets thousands of objects of few classes."""
    return lru_cache(maxsize=1024)(function)


def save_global_random_state() -> Callable[[], None]:
    """Return a function that puts NumPy's and Python's global generators back to the states that they have now."""
    states = list(map(random_state, GLOBAL_GENERATORS.values()))

    def put_back() -> None:
        for generator, state in zip(GLOBAL_GENERATORS.values(), states, strict=True):
            set_random_state(generator, state)

    return put_back


@contextmanager
def preserve_global_random_state() -> Iterator[None]:
    """Put the global generators back at the end, also after an exception or Ctrl-C."""
    put_back = save_global_random_state()
    try:
        yield
    finally:
        put_back()


@once_per_class
def is_generator(kind: type) -> bool:
    """Return whether a class is one of random generators: NumPy's old and new ones, Python's, or torch's."""
    return issubclass(kind, GENERATORS) or _is_torch_generator(kind)


def _is_torch_generator(kind: type) -> bool:
    # By name: to compare classes would need an import of torch.
    return kind.__name__ == "Generator" and str(kind.__module__).partition(".")[0] == "torch"


def random_state(generator: Any) -> Any:
    """Return a copy of everything that the next draws depend on."""
    if _is_torch_generator(type(generator)):
        return generator.get_state()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, random.Random):
        return generator.getstate()
    return getattr(generator, "bit_generator", generator).state


def set_random_state(generator: Any, state: Any) -> None:
    """Put a generator back to a state that `random_state` returned."""
    if _is_torch_generator(type(generator)) or isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        getattr(generator, "bit_generator", generator).state = state
