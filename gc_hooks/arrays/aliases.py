"""Pair gradients with parameters, where several names may mean the same memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from gc_hooks.arrays.gradients import gradient_key, noted
from gc_hooks.arrays.norms import without_ones
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed, spoken

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
    params, spans = {}, []
    for group in _by_memory(pairs):
        name, array, _ = group[0]
        if array is ABSENT:
            continue
        params[name] = array
        if isinstance(array, np.ndarray) and array.size:
            spans.append((*_span(array), name))
    reached: list[tuple[int, int, str]] = []  # those that may lie over the next one
    for span in sorted(spans, key=itemgetter(0, 1)):
        reached = [before for before in reached if before[1] > span[0]]
        for _, _, name in reached:
            # The exact test can take long. The test of the bounds is fast, and it is enough for almost all pairs.
            if np.shares_memory(params[name], params[span[2]]):
                raise InvalidProblem(
                    f"Parameters {listed((name, span[2]))} share a part of their memory. This usually "
                    "means that a view is listed beside its array. Try to list the array, or its parts, once."
                )
        reached.append(span)
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


def _span(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Return the first byte of an array and the one behind its last."""
    first = last = array.__array_interface__["data"][0]
    for stride, length in zip(array.strides, array.shape, strict=True):
        reach = stride * (length - 1)
        first, last = first + min(reach, 0), last + max(reach, 0)
    return first, last + array.itemsize


def _one_array(how: str, groups: Sequence[Sequence[str]]) -> str:
    """Return one sentence for all arrays that have several names."""
    if len(groups) == 1:
        return f"{listed(groups[0])} are one array in memory: {how} under {spoken(groups[0][0])}."
    each = "; ".join(map(listed, groups[:3])) + ("; and so on" if len(groups) > 3 else "")
    return f"{len(groups)} arrays have several names ({each}): {how} under the first."


def _copied(grad: Any) -> Any:
    """Return a copy of an array, which may be a buffer that is written again; anything else as it is."""
    return np.array(grad) if isinstance(grad, np.ndarray) else grad


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
        if grad is not ABSENT:
            buffers[place(grad)] = _turned(grad, param, first)
    if not buffers:
        return ABSENT, ""
    how = "their gradients are summed" if len(buffers) > 1 else "their gradient is counted once"
    for grad in buffers.values():
        if np.shape(grad) != first.shape:
            return grad, how
    total, *others = buffers.values()
    return sum(others, start=total), how


def _turned(grad: Any, param: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> Any:
    """Return the gradient for one view of an array with the axes of another view; as it is where it fits neither.

    One name may mean the transpose of the other. Axes longer than one are told apart by their strides.
    """
    if not isinstance(grad, np.ndarray) or without_ones(grad.shape) != without_ones(param.shape):
        return grad
    axes = [stride for stride, length in zip(param.strides, param.shape, strict=True) if length > 1]
    wanted = [stride for stride, length in zip(first.strides, first.shape, strict=True) if length > 1]
    return grad.squeeze().transpose(list(map(axes.index, wanted))).reshape(first.shape)
