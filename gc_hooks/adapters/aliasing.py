"""Which gradient belongs to which array, where several names may mean the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.adapters.attachment import noted
from gc_hooks.arrays.gradients import gradient_key
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed

Naming = Callable[[str], Any] | Mapping[str, Any]
ABSENT: Any = object()


class Pair(NamedTuple):
    """A parameter and its gradient; without a gradient that is ``ABSENT``, without a parameter the parameter is."""

    name: str
    param: Any
    grad: Any


def pairs_by_name(params: Any, grads: Any, naming: Naming | None = None, path: str = "") -> list[Pair]:
    """Pair two nested containers by their names; gradients that fit no parameter come last."""
    arrays, leaves = flatten(params), {} if grads is None else flatten(grads)
    keys = {name: key_of(name, arrays, leaves, naming) for name in arrays}
    found = [Pair(path + name, arrays[name], leaves.get(key, ABSENT)) for name, key in keys.items()]
    extra = [key for key in leaves if key not in keys.values()]
    return found + [Pair(path + key, ABSENT, leaves[key]) for key in extra if key not in arrays]


def key_of(name: str, arrays: Mapping[str, Any], leaves: Mapping[str, Any], naming: Naming | None) -> str:
    """Under which key a parameter's gradient stands: by the rule for its whole name, or for the last part of it."""
    if naming is None:
        return gradient_key(name, leaves, arrays) or name
    rule = naming if callable(naming) else lambda key: naming.get(key, key)
    stem, dot, last = name.rpartition(".")
    whole = str(rule(name))
    return whole if whole in leaves else f"{stem}{dot}{rule(last)}"


def params_of(pairs: Iterable[Pair]) -> dict[str, Any]:
    """The parameters, each memory under the first of its names.

    Raises
    ------
    InvalidProblem
        One lies partly inside another one: neither can be moved alone.
    """
    params = {pair.name: pair.param for pair in pairs if pair.param is not ABSENT}
    firsts = _first_names(params)
    alone = {name: param for name, param in params.items() if firsts[name] == name}
    _refuse_overlaps({name: param for name, param in alone.items() if isinstance(param, np.ndarray)})
    return alone


def lasting_params(read: Callable[[], Iterable[Pair]]) -> dict[str, Any]:
    """The same, read twice: to change copies would change nothing.

    Raises
    ------
    InvalidProblem
        The trainer makes new arrays each time that it is asked.
    """
    params, again = params_of(read()), params_of(read())
    copies = [n for n, p in params.items() if np.size(p) and n in again and place(p) != place(again[n])]
    if copies and all(isinstance(params[name], np.ndarray) for name in copies):
        raise InvalidProblem(
            f"Parameters {listed(copies)} are new arrays each time that they are asked for, so that a change of them "
            "would not reach the loss. This usually means a copy or a concatenation on the way. Try to hand in the "
            "arrays that the forward pass reads, or adapters.flat with a function that sets them."
        )
    return params


def grads_of(pairs: Iterable[Pair]) -> dict[str, Any]:
    """The gradients; those of one memory are summed under its first name, a buffer that they share counted once."""
    pairs = list(pairs)
    firsts = _first_names({pair.name: pair.param for pair in pairs if pair.param is not ABSENT})
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(firsts.get(pair.name, pair.name), []).append(pair)
    summed = {name: _summed(group) for name, group in groups.items()}
    return {name: grad for name, grad in summed.items() if grad is not ABSENT}


def without_known(own: Iterable[Pair], inner: Iterable[Pair]) -> list[Pair]:
    """Those whose memory no inner pair has: a block that lists its parts' parameters again adds nothing."""
    known = {place(pair.param) for pair in inner}
    return [pair for pair in own if place(pair.param) not in known]


def place(array: Any) -> Any:
    """Where an array lies in memory, whatever the order of its axes; for anything else, and for no memory, which one.

    Examples
    --------
    >>> array = np.ones((2, 3))
    >>> place(array) == place(array.T), place(array) == place(array[0]), place(array) == place(array.copy())
    (True, False, False)
    """
    if not isinstance(array, np.ndarray) or not array.size:
        return id(array)
    axes = sorted(axis for axis in zip(array.strides, array.shape, strict=True) if axis[1] > 1)
    return array.__array_interface__["data"][0], array.dtype.str, tuple(axes)


def _first_names(params: Mapping[str, Any]) -> dict[str, str]:
    """For each name the first one that means the same memory."""
    firsts: dict[Any, str] = {}
    arrays = ((name, place(param) if isinstance(param, np.ndarray) else name) for name, param in params.items())
    return {name: firsts.setdefault(where, name) for name, where in arrays}


def _refuse_overlaps(arrays: Mapping[str, Array]) -> None:
    for (one, first), (other, second) in combinations(arrays.items(), 2):
        if np.may_share_memory(first, second) and np.shares_memory(first, second):
            raise InvalidProblem(
                f"Parameters {one} and {other} share a part of their memory, so that neither can be moved alone. This "
                "usually means that a view is listed beside the whole. Try to list the whole, or the parts, once."
            )


def _summed(group: list[Pair]) -> Any:
    if len(group) == 1:
        return group[0].grad
    first, names = group[0].param, [pair.name for pair in group]
    buffers = {place(pair.grad): pair for pair in group if pair.grad is not ABSENT}
    grads = list(_aligned(buffers.values(), first))
    how = "their gradients are summed" if len(grads) > 1 else "their gradient is counted once"
    note = f"{listed(names)} are one array in memory: {how} under {names[0]}."
    misfit = next((grad for grad in grads if np.shape(grad) != first.shape), None)
    if misfit is not None:
        return noted(misfit, note)
    return noted(sum(grads[1:], start=grads[0]), note) if grads else ABSENT


def _aligned(pairs: Iterable[Pair], first: Array) -> Iterator[Any]:
    """The gradients with their axes in the order of the first parameter's."""
    for _, param, grad in pairs:
        turned = param.shape == first.shape[::-1] and param.strides == first.strides[::-1] != first.strides
        yield np.transpose(grad) if turned and np.shape(grad) == param.shape else grad
