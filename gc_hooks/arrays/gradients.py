"""Which gradient belongs to which parameter, and what is wrong with those that fit none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.arrays.foreign import plain_array
from gc_hooks.arrays.norms import relative_difference, without_ones
from gc_hooks.arrays.tree import ROOT, flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.numerics import EPS, FEW_DIGITS, MOST_DIGITS, REPEATS_WITHIN
from gc_hooks.report.diagnosis import joined, listed, plural, spoken

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


def noted(leaf: Any, note: str) -> Uncertain:
    """Return a gradient with a note for the report."""
    if isinstance(leaf, Uncertain):
        return Uncertain(leaf.value, leaf.error, f"{leaf.note} {note}".strip())
    return Uncertain(leaf, note=note)


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
    is_supposed: bool = False  # whether the precision was concluded from numbers with few digits

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
        if not any(map(computed_in_float32, self.grads.values())):
            return self
        single = _format_of(np.dtype(np.float32))
        precision, smallest = max(self.precision, single.eps), max(self.smallest, single.smallest)
        return replace(self, precision=precision, smallest=smallest, is_supposed=precision > self.precision)

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


def match_gradients(grads: object, point: Params, copy: bool = True, source: str = "grads") -> Matched:
    """Pair gradients with the named parameters of a point, by name or by the textbooks' renaming (``dW1`` for ``W1``).

    Further entries are ignored, with a note. Without ``copy``, arrays of float64 stay the caller's own. ``source`` is
    where they come from, for messages: ``grads``, ``backward(p)`` or ``backward()``.

    Examples
    --------
    >>> matched = match_gradients({"dW1": np.ones(2), "dZ1": np.ones(5)}, {"W1": np.ones(2)})
    >>> matched.grads, matched.notes
    ({'W1': array([1., 1.])}, ('Not parameters, ignored: dZ1.',))
    """
    leaves = gradient_leaves(grads, point, source)
    keys = {name: gradient_key(name, leaves, point) for name in point}
    used = set(keys.values())
    extra = [key for key in leaves if key not in used]
    found: dict[str, Array] = {}
    issues: dict[str, GradientIssue] = {}
    errors: dict[str, Array] = {}
    notes = [f"Not parameters, ignored: {joined(extra, 8)}."] if extra else []
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
        if gradient.shape != array.shape:
            notes.append(_reshaped(name, gradient.shape, array.shape))
            gradient = gradient.reshape(array.shape)
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
    seen = f"; the names without a parameter are {joined(extra, 8)}" if extra else ""
    return GradientIssue("missing_gradient", f"no gradient was handed in for {spoken(name)}{seen}")


def gradient_leaves(grads: object, point: Params, source: str) -> dict[str, Any]:
    """Return gradients by their own names; raise `InvalidProblem` where all of them are handed in in a wrong form.

    That is a mistake of setting up the check, and says nothing of a gradient.
    """
    what = "The gradients are" if source == "grads" else "The gradient function returned"
    if grads is None:
        raise InvalidProblem(
            f"{what} None. This usually means that backward has no return statement, or fills buffers instead. Try to "
            "return the dictionary of gradients, or to hand in the buffers."
        )
    leaves = flatten(grads)
    fitting = _number_fitting(leaves, point)
    if isinstance(grads, (tuple, list)) and fitting < len(point):
        what += f" a {type(grads).__name__} of {plural(len(grads), 'item')}"
        fitting_of = [_number_fitting(flatten(item), point) for item in grads]
        # Of two numbers that would both do, the second is the gradient: (loss, gradient) is what people return.
        best = max(range(len(grads)), key=lambda k: (fitting_of[k], k == 1), default=0)
        if max(fitting_of, default=0) > max(fitting, len(point) // 2):
            meaning = "(loss, gradients)" if len(grads) > 1 else "one list too many"
            raise InvalidProblem(
                f"{what}, and one of them holds the gradients. This usually means {meaning}. Try "
                f"{_written(source, f'{source}[{best}]')}."
            )
    if not any(gradient_key(name, leaves, point) for name in point):
        raise InvalidProblem(_none_fits(what, grads, leaves, point, source))
    return leaves


def _none_fits(what: str, grads: object, leaves: Mapping[str, Any], point: Params, source: str) -> str:
    """Say that no gradient belongs to a parameter by its name, and what to write."""
    names = list(point)
    parameters = f"the parameters are called {listed(names)}"
    if not leaves:
        return (
            f"There are no gradients, and {parameters}. This usually means that the check comes before "
            "backward, or another model was handed in. Try the check right after backward."
        )
    is_list = spoken(names[0]).startswith("params[")
    if isinstance(grads, (tuple, list)):
        advice = "arrays in the structure of the parameters" if is_list else "a dict with the parameters' names"
        for start in (0, 1):  # the loss may stand before them
            if _is_in_order(list(leaves.values())[start:], point):
                items = f"{source}[1:]" if start else source
                advice = f"{_written(source, f'dict(zip({names}, {items}))')}, if that is their order"
        return f"{what}, and {parameters}. This usually means that they are meant in this order. Try {advice}."
    stem, dot, last = names[0].rpartition(".")
    renamed = f"d{names[0]}" if last.isdecimal() else f"{stem}{dot}d{last}"
    advice = f"the parameters' own names, or {renamed} for {names[0]}"
    if is_list:
        advice = "a list in the order of the parameters"
        if isinstance(grads, Mapping) and _is_in_order(list(leaves.values()), point):
            advice = _written(source, f"list({source}.values())")
    elif names == [ROOT] and isinstance(grads, Mapping) and len(grads) == 1:
        advice = _written(source, f"{source}[{next(iter(grads))!r}]")
    keys = "a single array" if leaves.keys() == {ROOT} else f"called {joined(leaves)}"
    return (
        f"No gradient has the name of a parameter: the gradients are {keys}, {parameters}. This usually means other "
        f"names on the two sides, or the gradients of another model. Try {advice}."
    )


def _is_in_order(leaves: list[Any], point: Params) -> bool:
    """Return whether gradients have the shapes of the parameters, one after the other."""
    shapes = [without_ones(array.shape) for array in point.values()]
    return [without_ones(_shape(leaf)) for leaf in leaves] == shapes


def _written(source: str, expression: str) -> str:
    """Return what to write in the place of ``grads``."""
    return {"backward(p)": "lambda p: ", "backward()": "lambda: "}.get(source, "") + expression


def _number_fitting(leaves: Mapping[str, Any], point: Params) -> int:
    """Return how many parameters have a gradient of their name and shape."""
    number = 0
    for name, array in point.items():
        key = gradient_key(name, leaves, point)
        number += key is not None and without_ones(_shape(leaves[key])) == without_ones(array.shape)
    return number


def _shape(leaf: Any) -> tuple[int, ...]:
    """Return the shape of an array of any library; () for what is none."""
    return tuple(getattr(leaf.value if isinstance(leaf, Uncertain) else leaf, "shape", ()))


def _reshaped(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say that a gradient was compared in its parameter's shape, and what an update would make of its own."""
    name = spoken(name)
    note = f"The gradient of {name} has shape {shape}, the parameter {wanted}: compared after a reshape."
    try:
        updated = np.broadcast_shapes(shape, wanted)
    except ValueError:
        updated = ()
    if updated != wanted:
        seen = f"has shape {updated}" if updated else "is not possible"
        note += f" An update {name} - lr * gradient {seen}: try gradient.reshape(parameter.shape) in backward."
    return note


def _usable(name: str, leaf: object, shape: tuple[int, ...]) -> Array | GradientIssue:
    """Return what was handed in as an array of real numbers in the parameter's shape, axes of length one aside, or why
    it cannot be used."""
    if leaf is None:
        return GradientIssue("missing_gradient", f"the gradient of {spoken(name)} is None")
    if type(leaf) is not np.ndarray and isinstance(leaf, np.ma.MaskedArray):
        return GradientIssue(
            "not_numeric", f"the gradient of {spoken(name)} is a masked array: a hidden entry has no value to compare"
        )
    array: Array = plain_array(f"The gradient of {spoken(name)}", leaf)
    if array.dtype.kind not in "fiub":
        return GradientIssue("not_numeric", f"the gradient of {spoken(name)} holds {array.dtype}, not real numbers")
    if shape == () and array.size == 1:
        array = array.reshape(())
    if without_ones(array.shape) != without_ones(shape):
        hint = ", its transpose" if array.shape == shape[::-1] else ""
        return GradientIssue("wrong_shape", f"the gradient has shape {array.shape}{hint}, the parameter {shape}")
    return array


def computed_in_float32(gradient: Array) -> bool:
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
