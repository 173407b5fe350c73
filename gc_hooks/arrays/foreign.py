"""What is handed in, for a message, and arrays of other libraries where NumPy's are expected."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem


def describe(thing: object) -> str:
    """Return a short text for whatever was handed in.

    >>> describe(np.ones(2)), describe(None), describe({"W": np.ones(30)})
    ('an array of float64, shape (2,)', 'None of type NoneType', 'a dict')
    """
    if inspect.isroutine(thing):
        return "a function"
    if isinstance(thing, np.ndarray):
        return f"an array of {thing.dtype}, shape {thing.shape}{'' if thing.flags.writeable else ', read-only'}"
    written_out = repr(thing)
    return f"{written_out} of type {type(thing).__name__}" if len(written_out) < 40 else f"a {type(thing).__name__}"


def is_tensor(leaf: Any) -> bool:
    """Return whether this is a tensor of PyTorch, asked of its methods: PyTorch may not be installed."""
    return callable(getattr(leaf, "detach", None)) and callable(getattr(leaf, "numpy", None))


def plain_array(what: str, leaf: Any) -> Array:
    """Return an array of NumPy, or raise `InvalidProblem` with a message that begins with ``what``."""
    try:
        array: Array = np.asarray(leaf)
    except Exception as error:  # each library raises its own
        advice = "a NumPy copy of it"
        if is_tensor(leaf):
            advice = "its .detach().cpu().numpy()"
        elif callable(getattr(leaf, "get", None)):  # CuPy
            advice = "its .get(), which is a NumPy array"
        reason = (str(error).splitlines() or [""])[0]
        raise InvalidProblem(
            f"{what} is a {type(leaf).__name__}, which NumPy cannot read ({type(error).__name__}: {reason}). This "
            f"usually means an array of another library, or one on a GPU. Try {advice}."
        ) from error
    return array
