"""Which hand-written Function is wrong: each call of its backward beside the reference of that one operator."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.adapters.pytorch.functions import Call, has_setup_context, place_of
from gc_hooks.adapters.pytorch.tensors import as_array
from gc_hooks.arrays.norms import distance, norm
from gc_hooks.report.diagnosis import Diagnosis, joined, plural
from gc_hooks.report.verdict import Tolerance
from gc_hooks.rules.scale import in_words

ALIKE = 1e-9
"""Two gradients of one operator in float64 that differ by less, relative to their size, are the same."""
OPERATOR = "operator"
"""The code of a diagnosis that names a Function."""
ADVICE = "This usually means a slip in the formula of that gradient. Try to derive it again, line by line."
FACTOR = (
    "This usually means a factor that is there twice or not at all, or a mean where the sum belongs. Try to compare it "
    "with forward."
)
LOST = "This usually means that backward returns None, or zeros, in its place. Try to return it."
TRANSPOSED = "Try .T, or the factors in the other order."
CONSTANT = (
    "This usually means rounding, a sign or .detach() in forward, and a gradient that goes straight through it on "
    "purpose. If it is meant, try by_design={}."
)


@dataclass
class Input:
    """What is known of the gradient that a Function's backward returns for one of its inputs, over all its calls."""

    own: list[Array] = field(default_factory=list)
    reference: list[Array] = field(default_factory=list)
    is_straight: bool = True  # whether every entry is that of the upstream gradient, or zero
    is_missing: bool = True  # whether backward has returned None in every call

    def difference(self) -> float:
        """Return the classic ratio over all calls."""
        size = math.hypot(*map(norm, self.own)) + math.hypot(*map(norm, self.reference))
        return math.hypot(*map(distance, self.own, self.reference)) / size if size else 0.0


class Operators:
    """Compare every backward of a Function with its reference, at its real inputs and its real upstream gradient."""

    def __init__(self, constants: Mapping[str, float] | None = None) -> None:
        self.constants = constants or {}  # numbers by which a gradient may be off, with their names
        self.found: dict[Any, dict[int, Input]] = {}
        self.calls: dict[Any, int] = {}

    def observe(self, call: Call, upstream: Sequence[Any], returned: Sequence[Any]) -> None:
        """Keep what one call of a backward has returned, beside what it should have."""
        inputs = self.found.setdefault(call.function, {})
        self.calls[call.function] = self.calls.get(call.function, 0) + 1
        reference = call.pull_back(upstream)
        for number, leaf in enumerate(call.leaves):
            if leaf is not None and number < len(returned):
                seen, zeros = inputs.setdefault(number, Input()), np.zeros(tuple(leaf.shape))
                own, right = returned[number], reference[number]
                seen.is_missing = seen.is_missing and own is None
                seen.is_straight = seen.is_straight and own is not None and _is_straight(own, upstream[0])
                seen.own.append(zeros if own is None else _double(own.sum_to_size(leaf.shape)))
                seen.reference.append(zeros if right is None else _double(right))

    def straight_through(self, tolerance: Tolerance) -> tuple[Any, ...]:
        """Return the Functions that hand the upstream gradient on where the derivative of forward is zero."""
        found = []
        for function, inputs in self.found.items():
            wrong = [seen for seen in inputs.values() if seen.difference() > tolerance.good]
            if wrong and all(seen.is_straight and not any(map(np.any, seen.reference)) for seen in wrong):
                found.append(function)
        return tuple(found)

    def diagnoses(self, parameters: Sequence[str], tolerance: Tolerance) -> tuple[Diagnosis, ...]:
        """Return a diagnosis for each Function that differs from its reference, the worst first."""
        found = []
        for function, inputs in self.found.items():
            wrong = {number: seen for number, seen in inputs.items() if seen.difference() > tolerance.good}
            if wrong:
                worst = max(seen.difference() for seen in wrong.values())
                found.append((worst, self._diagnosis(function, inputs, wrong, tuple(parameters))))
        return tuple(diagnosis for _, diagnosis in sorted(found, key=lambda pair: -pair[0]))

    def _diagnosis(
        self, function: Any, inputs: dict[int, Input], wrong: dict[int, Input], parameters: tuple[str, ...]
    ) -> Diagnosis:
        names = argument_names(function)
        spoken = {n: f"input {n} ({names[n]})" if n < len(names) else f"input {n}" for n in inputs}
        backward = function.backward if function.vjp is _base().vjp else function.vjp
        place = place_of(backward)
        seen, advice = zip(*(self._pattern(one, function.__name__) for one in wrong.values()), strict=True)
        what = [f"for {spoken[number]} it is {words}" for number, words in zip(wrong, seen, strict=True)]
        calls = plural(self.calls[function], "call")
        evidence = [f"Compared in {calls}, each with its own inputs and upstream gradient."]
        right = [spoken[number] for number in inputs if number not in wrong]
        if right:
            evidence.append(f"Right for {joined(right)}.")
        return Diagnosis(
            OPERATOR,
            parameters,
            f"{function.__name__}.backward ({place}) returns a wrong gradient: {'; '.join(what)}.",
            " ".join(evidence),
            " ".join(dict.fromkeys(advice)),
            layer=function.__name__,
            place=place,
        )

    def _pattern(self, seen: Input, name: str) -> tuple[str, str]:
        """Return in words how a gradient differs from its reference, and what to try."""
        own, right = _in_one(seen.own), _in_one(seen.reference)
        if not np.any(own):
            return ("None" if seen.is_missing else "zero") + ", and forward depends on it", LOST
        if not np.any(right):
            return "not zero, and the derivative of forward is", CONSTANT.format(name)
        factor = float(own @ right / (right @ right))
        if norm(own - factor * right) <= ALIKE * norm(own):
            return f"{in_words(factor, self.constants)} what it should be", FACTOR
        if all(map(_are_transposes, seen.own, seen.reference)):
            return "the transpose of what it should be", TRANSPOSED
        return f"wrong {_where(seen)}, the difference is {seen.difference():.1e}", ADVICE


def argument_names(function: Any) -> list[str]:
    """Return what forward calls its inputs, without its ctx."""
    try:
        names = list(inspect.signature(function.forward).parameters)
    except (TypeError, ValueError):  # not written in Python
        return []
    return names if has_setup_context(function) else names[1:]


def _are_transposes(own: Array, right: Array) -> bool:
    return own.ndim == 2 and own.shape == right.T.shape and norm(own - right.T) <= ALIKE * norm(own)


def _is_straight(own: Any, upstream: Any) -> bool:
    if upstream is None or own.shape != upstream.shape:
        return False
    return bool(((own == upstream) | (own == 0)).all())


def _where(seen: Input) -> str:
    """Return where wrong entries stand: along the axis along which there are fewest, if that leaves any out."""
    wrong = np.zeros(seen.own[0].shape, dtype=bool)
    for own, right in zip(seen.own, seen.reference, strict=True):
        if own.shape != wrong.shape:
            return "in its calls"
        wrong |= np.abs(own - right) > ALIKE * np.max(np.abs(right), initial=0.0)
    places = []
    for axis in range(wrong.ndim):
        others = tuple(other for other in range(wrong.ndim) if other != axis)
        places.append(np.flatnonzero(np.any(wrong, axis=others)))
    shares = [len(indices) / max(wrong.shape[axis], 1) for axis, indices in enumerate(places)]
    if not shares or min(shares) == 1:
        return f"in {np.count_nonzero(wrong)} of {wrong.size} entries"
    axis = int(np.argmin(shares))
    return f"only at {joined(map(str, places[axis]))} of the {wrong.shape[axis]} positions along axis {axis}"


def _in_one(arrays: list[Array]) -> Array:
    return np.concatenate([array.ravel() for array in arrays])


def _double(tensor: Any) -> Array:
    return np.asarray(as_array(tensor), np.float64)


def _base() -> Any:
    import torch

    return torch.autograd.Function
