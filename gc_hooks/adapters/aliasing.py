"""Pair gradients with parameters by position, and refuse parameters that do not last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from gc_hooks.arrays.aliases import ABSENT, Naming, Pair, grads_of, key_of, pairs_by_name, params_of, place
from gc_hooks.arrays.gradients import noted
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed

__all__ = [
    "ABSENT",
    "Naming",
    "Pair",
    "grads_of",
    "key_of",
    "lasting_params",
    "pairs_by_name",
    "pairs_by_position",
    "params_of",
    "place",
]


def pairs_by_position(names: Sequence[str], params: Sequence[Any], grads: Sequence[Any]) -> list[Pair]:
    """Pair two lists by position; a note says so when their lengths differ."""
    names, grads = list(names), list(grads)
    if grads and len(params) != len(grads):
        note = f"{len(grads)} gradients for {len(params)} parameters, paired by position as far as they go."
        grads[0] = noted(grads[0], note)
    for position in range(len(names), len(grads)):
        names.append(f"gradient {position}")
    return list(map(Pair._make, zip_longest(names, params, grads, fillvalue=ABSENT)))  # nothing is left out


def lasting_params(read: Callable[[], Iterable[Pair]]) -> dict[str, Any]:
    """Return the parameters; refuse arrays that are new at each reading: changes of them would not reach the loss."""
    params, again = params_of(read()), params_of(read())
    copies = []
    for name, param in params.items():
        if np.size(param) and name in again and place(param) != place(again[name]):
            copies.append(name)
    if copies and all(isinstance(params[name], np.ndarray) for name in copies):
        raise InvalidProblem(
            f"Parameters {listed(copies)} are new arrays each time that they are read. This usually means a copy or a "
            "concatenation. Try the arrays that the forward pass reads, or adapters.flat."
        )
    return params
