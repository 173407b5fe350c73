"""Which gradient belongs to which parameter, and what is wrong with those that fit none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.arrays.norms import relative_difference
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.numerics import EPS, FEW_DIGITS, MOST_DIGITS, REPEATS_WITHIN
from gc_hooks.report.diagnosis import listed

RENAMED = ("d{}", "grad_{}", "{}_grad", "d_{}", "g{}")
"""How gradient dictionaries name the gradient of ``W1``, after ``W1`` itself; the first is the textbooks'."""

MOST_LOOKED_AT = 256
"""Entries, spread over an array, that show in which precision it was computed; one alone does so as a rule."""


class NumberFormat(NamedTuple):
    """The number format in which a gradient was handed in: its machine epsilon, and its smallest positive number."""

    eps: float = 0.0
    smallest: float = 0.0


@dataclass(frozen=True)
class GradientIssue:
    """Why a gradient cannot be used, found before a slope is measured."""

    code: str
    text: str


@dataclass(frozen=True)
class Uncertain:
    """A gradient that is known only up to an error, such as one recovered from an update of the parameters.

    Hand it in where an array would stand.
    """

    value: Any
    error: Any = 0.0  # how far each entry can be off
    note: str = ""  # A sentence for the report


@dataclass(frozen=True)
class Matched:
    """Gradients by the names of their parameters."""

    grads: dict[str, Array]  # in float64; only those that have the shape of their parameter
    issues: dict[str, GradientIssue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    precision: float = EPS  # the largest machine epsilon among the arrays that were handed in
    # How far the entries of a gradient can be off, where an `Uncertain` one was handed in.
    errors: dict[str, Array] = field(default_factory=dict)
    smallest: float = 0.0  # the largest of their smallest positive numbers

    def compared_with(self, again: Matched) -> Matched:
        """Return a copy with an issue for each gradient that a second call did not repeat."""
        issues = dict(self.issues)
        for name, gradient in self.grads.items():
            if name not in again.grads:
                continue
            difference = relative_difference(gradient, again.grads[name])
            if difference > REPEATS_WITHIN * self.precision:
                text = f"two calls of the gradient function at the same parameters differ by {difference:.1e}"
                issues[name] = GradientIssue("not_repeatable", text)
        return replace(self, issues=issues)

    def with_precision_of_numbers(self) -> Matched:
        """Return a copy with the precision of float32 where arrays of float64 hold what was computed in float32."""
        if not any(map(_computed_in_float32, self.grads.values())):
            return self
        single = _format_of(np.dtype(np.float32))
        return replace(self, precision=max(self.precision, single.eps), smallest=max(self.smallest, single.smallest))

    def no_better_than(self, in_training: Matched) -> Matched:
        """Return a copy with the training's own gradient wherever that is not finite and this one is."""
        grads, overflows = dict(self.grads), []
        for name, gradient in in_training.grads.items():
            if not np.all(np.isfinite(gradient)) and name in grads and np.all(np.isfinite(grads[name])):
                grads[name] = gradient
                overflows.append(name)
        if not overflows:
            return self
        note = (
            f"The gradient of {listed(overflows)} is finite in float64, and not in the parameters' own precision. This "
            "usually means that exp or a power overflows there."
        )
        return replace(self, grads=grads, notes=(*self.notes, note))


def match_gradients(grads: object, point: Params, copy: bool = True) -> Matched:
    """Pair gradients with the named parameters of a point, by name or by the textbooks' renaming (``dW1`` for ``W1``).

    Further entries are ignored, with a note. Without ``copy``, arrays of float64 stay the caller's own.

    Examples
    --------
    >>> matched = match_gradients({"dW1": np.ones(2), "dZ1": np.ones(5)}, {"W1": np.ones(2)})
    >>> matched.grads, matched.notes
    ({'W1': array([1., 1.])}, ('Not parameters, ignored: dZ1.',))
    """
    if grads is None:
        raise InvalidProblem(
            "The gradients are None. This usually means that backward has no return statement, or fills buffers "
            "instead. Try to return the dictionary of gradients, or to hand in the buffers."
        )
    leaves = flatten(grads)
    keys = {name: gradient_key(name, leaves, point) for name in point}
    used = set(keys.values())
    extra = [key for key in leaves if key not in used]
    found: dict[str, Array] = {}
    issues: dict[str, GradientIssue] = {}
    errors: dict[str, Array] = {}
    notes = [f"Not parameters, ignored: {listed(extra, 8)}."] if extra else []
    precisions = [NumberFormat(0.0)]
    for name, array in point.items():
        key = keys[name]
        if key is None:
            issues[name] = _missing(name, extra)
            continue
        leaf = leaves[key]
        error: Any = 0.0
        if isinstance(leaf, Uncertain):
            error = np.abs(np.asarray(leaf.error, dtype=np.float64))
            if leaf.note and leaf.note not in notes:
                notes.append(leaf.note)
            leaf = leaf.value
        gradient = _usable(name, leaf, array.shape)
        if isinstance(gradient, GradientIssue):
            issues[name] = gradient
            continue
        precisions.append(_format_of(gradient.dtype))
        found[name] = gradient.astype(np.float64, copy=copy)
        if np.any(error):
            errors[name] = np.broadcast_to(error, np.shape(leaf)).reshape(array.shape)
    return Matched(
        grads=found,
        issues=issues,
        notes=tuple(notes),
        precision=max(precision.eps for precision in precisions) if found else EPS,
        errors=errors,
        smallest=max(precision.smallest for precision in precisions),
    )


def gradient_key(name: str, leaves: Mapping[str, Any], point: Mapping[str, Any]) -> str | None:
    """Return the key of a parameter's gradient, its own name or one of the textbooks' renamings; None if there is none.

    A key that is itself the name of a parameter is not a renaming of another one.
    """
    if name in leaves:
        return name
    words = name.split(".")
    for place in reversed(range(len(words))):  # of W.0, in a list called W, the first word is renamed: dW.0
        for form in RENAMED:
            key = ".".join([*words[:place], form.format(words[place]), *words[place + 1 :]])
            if key in leaves and key not in point:
                return key
    return None


def _missing(name: str, extra: list[str]) -> GradientIssue:
    seen = f"; the names without a parameter are {listed(extra, 8)}" if extra else ""
    return GradientIssue("missing_gradient", f"no gradient was handed in for {name}{seen}")


def _usable(name: str, leaf: object, shape: tuple[int, ...]) -> Array | GradientIssue:
    """Return what was handed in as an array of real numbers in the parameter's shape, or why it cannot be used."""
    if leaf is None:
        return GradientIssue("missing_gradient", f"the gradient of {name} is None")
    if type(leaf) is not np.ndarray and isinstance(leaf, np.ma.MaskedArray):
        return GradientIssue(
            "not_numeric", f"the gradient of {name} is a masked array: a hidden entry has no value to compare"
        )
    array: Array = np.asarray(leaf)
    if array.dtype.kind not in "fiub":
        return GradientIssue("not_numeric", f"the gradient of {name} holds {array.dtype}, not real numbers")
    if shape == () and array.size == 1:
        array = array.reshape(())
    if array.shape != shape:
        hint = ", its transpose" if array.shape == shape[::-1] else ""
        return GradientIssue("wrong_shape", f"the gradient has shape {array.shape}{hint}, the parameter {shape}")
    return array


def _computed_in_float32(gradient: Array) -> bool:
    """Return whether numbers of float64 are such that they were computed in float32."""
    some = gradient.flat[:: max(1, gradient.size // MOST_LOOKED_AT)]
    digits = np.frexp(some[np.isfinite(some)])[0] * 2.0**MOST_DIGITS
    return bool(np.all(digits == np.rint(digits)) and np.any(digits % 2.0 ** (MOST_DIGITS - FEW_DIGITS)))


@lru_cache(maxsize=64)
def _format_of(dtype: np.dtype[Any]) -> NumberFormat:
    if dtype.kind != "f":  # integers are exact
        return NumberFormat()
    limits = np.finfo(dtype if dtype.itemsize < 8 else np.float64)  # a long double is rounded to float64
    return NumberFormat(float(limits.eps), float(limits.tiny * limits.eps))
