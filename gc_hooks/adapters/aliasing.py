"""Pair gradients with parameters, where several names may mean the same memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, cycle, zip_longest
from typing import Any, NamedTuple

import numpy as np

from gc_hooks.adapters.attachment import noted
from gc_hooks.arrays.gradients import gradient_key
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed

Naming = Callable[[str], Any] | Mapping[str, Any]
ABSENT: Any = object()


class Pair(NamedTuple):
    """A parameter and its gradient, or ``ABSENT`` for one of them."""

    name: str
    param: Any
    grad: Any


def pairs_by_name(params: Any, grads: Any, naming: Naming | None = None, path: str = "") -> list[Pair]:
    """Pair two nested containers by their names; gradients that fit no parameter come last."""
    arrays = flatten(params)
    leaves = {} if grads is None else flatten(grads)
    pairs, used = [], set(arrays)
    for name, array in arrays.items():
        key = key_of(name, arrays, leaves, naming)
        used.add(key)
        pairs.append(Pair(path + name, array, leaves.get(key, ABSENT)))
    for key, leaf in leaves.items():
        if key not in used:
            pairs.append(Pair(path + key, ABSENT, leaf))
    return pairs


def pairs_by_position(names: Sequence[str], params: Sequence[Any], grads: Sequence[Any]) -> list[Pair]:
    """Pair two lists by position; a note says so when their lengths differ."""
    names, grads = list(names), list(grads)
    if grads and len(params) != len(grads):
        note = f"{len(grads)} gradients for {len(params)} parameters, paired by position as far as they go."
        grads[0] = noted(grads[0], note)
    for position in range(len(names), len(grads)):
        names.append(f"gradient {position}")
    return list(map(Pair._make, zip_longest(names, params, grads, fillvalue=ABSENT)))  # nothing is left out


def key_of(name: str, arrays: Mapping[str, Any], leaves: Mapping[str, Any], naming: Naming | None) -> str:
    """Return the key of a parameter's gradient: the rule applies to the full name, or to the last part of it."""
    if naming is None:
        return gradient_key(name, leaves, arrays) or name
    rule = naming if callable(naming) else lambda key: naming.get(key, key)
    full = str(rule(name))
    if full in leaves:
        return full
    stem, dot, last = name.rpartition(".")
    return f"{stem}{dot}{rule(last)}"


def params_of(pairs: Iterable[Pair]) -> dict[str, Any]:
    """Return the parameters by name, those of one memory under the first one; refuse arrays that overlap in part."""
    params = {}
    for group in _by_memory(pairs):
        if group[0].param is not ABSENT:
            params[group[0].name] = group[0].param
    arrays = [(name, param) for name, param in params.items() if isinstance(param, np.ndarray)]
    for (one, first), (other, second) in combinations(arrays, 2):
        # The exact test can take long. The test of the bounds is fast, and it is enough for almost all pairs.
        if np.may_share_memory(first, second) and np.shares_memory(first, second):
            raise InvalidProblem(
                f"Parameters {one} and {other} share a part of their memory. This usually means that a view is listed "
                "beside its array. Try to list the array, or its parts, once."
            )
    return params


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


def grads_of(pairs: Iterable[Pair], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the gradients by name, with notes for the report; those of one memory are summed under its first name."""
    grads: dict[str, Any] = {}
    shared: dict[str, list[list[str]]] = {}  # what was done with the gradients of one array, and its names
    for group in _by_memory(pairs):
        grad, how = _summed(group)
        if grad is not ABSENT:
            grads[group[0].name] = grad
            if how:
                shared.setdefault(how, []).append([pair.name for pair in group])
    sentences = [*(_one_array(how, names) for how, names in shared.items()), *notes]
    for name, sentence in zip(cycle(grads), sentences, strict=False):
        grads[name] = noted(_copied(grads[name]), sentence)
    return grads


def _one_array(how: str, groups: Sequence[Sequence[str]]) -> str:
    """Return one sentence for all arrays that have several names."""
    if len(groups) == 1:
        return f"{listed(groups[0])} are one array in memory: {how} under {groups[0][0]}."
    each = "; ".join(map(listed, groups[:3])) + ("; and so on" if len(groups) > 3 else "")
    return f"{len(groups)} arrays have several names ({each}): {how} under the first."


def _copied(grad: Any) -> Any:
    """Return a copy of an array, which may be a buffer that is written again; anything else as it is."""
    return np.array(grad) if isinstance(grad, np.ndarray) else grad


def place(array: object) -> object:
    """Return where an array lies in memory, the same for its transpose; for anything else, and for no memory, its id.

    >>> array = np.ones((2, 3))
    >>> place(array) == place(array.T), place(array) == place(array[0]), place(array) == place(array.copy())
    (True, False, False)
    """
    if not isinstance(array, np.ndarray) or not array.size:
        return id(array)
    axes = [axis for axis in zip(array.strides, array.shape, strict=True) if axis[1] > 1]
    # An axis of length one steps nowhere; sorted, so that the order of the axes does not count.
    return array.__array_interface__["data"][0], array.dtype.str, tuple(sorted(axes))


def _by_memory(pairs: Iterable[Pair]) -> Iterable[list[Pair]]:
    """Group the pairs whose parameters are the same memory."""
    groups = defaultdict(list)
    for pair in pairs:
        groups[place(pair.param) if isinstance(pair.param, np.ndarray) else pair.name].append(pair)
    return groups.values()


def _summed(group: Sequence[Pair]) -> tuple[Any, str]:
    """Return the gradient of one array, or ``ABSENT``, and in words what was done where it has several names."""
    first = group[0].param
    if len(group) == 1:
        return group[0].grad, ""
    buffers = {}  # by their place: a gradient buffer that several names share holds the sum already
    for _, param, grad in group:
        # One name may mean the transpose of the other: its gradient is turned to the axes of the first.
        transposed = param.shape == first.shape[::-1] and param.strides == first.strides[::-1] != first.strides
        if transposed and np.shape(grad) == param.shape:
            buffers[place(grad)] = np.transpose(grad)
        elif grad is not ABSENT:
            buffers[place(grad)] = grad
    if not buffers:
        return ABSENT, ""
    how = "their gradients are summed" if len(buffers) > 1 else "their gradient is counted once"
    for grad in buffers.values():
        if np.shape(grad) != first.shape:
            return grad, how
    total, *others = buffers.values()
    return sum(others, start=total), how
