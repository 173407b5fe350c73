"""Read and put back the states of random generators."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from gc_hooks.isolation.undoing import run_all, undone_by

GLOBAL_GENERATORS: dict[str, Any] = {
    "NumPy's global random state": np.random.get_state.__self__,  # type: ignore[attr-defined]
    "Python's global random state": random.getstate.__self__,  # type: ignore[attr-defined]
}
"""What the functions of the modules ``numpy.random`` and ``random`` draw from."""

GENERATORS = (
    np.random.Generator,
    np.random.BitGenerator,
    np.random.RandomState,
    np.random.SeedSequence,  # it counts the children that it has spawned
    random.Random,
)

T = TypeVar("T")


def once_per_class(function: Callable[..., T]) -> Callable[..., T]:
    """Remember what a function returns for each class: a walk meets thousands of objects of few classes."""
    return lru_cache(maxsize=1024)(function)


def global_generators() -> dict[str, Any]:
    """Return the generators of whole modules by name: NumPy's, Python's, and torch's where it is loaded."""
    found = dict(GLOBAL_GENERATORS)
    torch = sys.modules.get("torch")  # not imported here: a training without it pays nothing
    if torch is not None and hasattr(torch, "default_generator"):
        found["PyTorch's global random state"] = torch.default_generator
        if torch.cuda.is_initialized():
            for number, generator in enumerate(torch.cuda.default_generators):
                found[f"PyTorch's global random state on device {number}"] = generator
    return found


def save_global_random_state() -> Callable[[], None]:
    """Return a function that puts the global generators back to the states that they have now."""
    saved = [(set_random_state, generator, random_state(generator)) for generator in global_generators().values()]
    return partial(run_all, saved)


def preserve_global_random_state() -> AbstractContextManager[None]:
    """Put the global generators back at the end of the context, also after an exception or Ctrl-C."""
    return undone_by(save_global_random_state())


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
    if isinstance(generator, np.random.SeedSequence):
        return generator.__reduce__()[2]  # what pickle keeps, the only way to its counter
    bits = getattr(generator, "bit_generator", generator)
    seeds = getattr(bits, "seed_seq", None)
    return bits.state, random_state(seeds) if isinstance(seeds, np.random.SeedSequence) else None


def set_random_state(generator: Any, state: Any) -> None:
    """Put a generator back to a state that `random_state` returned."""
    if _is_torch_generator(type(generator)) or isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.SeedSequence):
        generator.__setstate__(state)  # type: ignore[attr-defined]
    else:
        bits = getattr(generator, "bit_generator", generator)
        bits.state, seeds = state
        if seeds is not None:
            set_random_state(bits.seed_seq, seeds)
