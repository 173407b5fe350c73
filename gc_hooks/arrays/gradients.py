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

RENAMED = ("d{}", "grad_{}", "{}_grad", "d_{}", "g{}")
"""How gradient dictionaries name the gradient of ``W1``, after ``W1`` itself; the first is the textbooks'."""


class Grain(NamedTuple):
    """How fine the numbers are that a gradient was handed in as: machine epsilon, and the smallest of them."""

    precision: float = 0.0
    quantum: float = 0.0


@dataclass(frozen=True)
class GradientIssue:
    """What is wrong with a gradient before a single slope is measured."""

    code: str
    text: str


@dataclass(frozen=True)
class Uncertain:
    """A gradient that is known only up to an error bar: recovered from an update, read off an instrument.

    Handed in where an array would stand.

    Attributes
    ----------
    value : array
    error : array or float
        How far each entry can be off.
    note : str
        What the report should say of it.
    """

    value: Any
    error: Any = 0.0
    note: str = ""


@dataclass(frozen=True)
class Matched:
    """Gradients by the names of their parameters.

    Attributes
    ----------
    grads : dict of str to ndarray
        Float64 copies; only those that have the shape of their parameter.
    flaws : dict of str to Flaw
    notes : tuple of str
    precision : float
        The largest machine epsilon among the arrays that were handed in.
    errors : dict of str to ndarray
        How far the entries of a gradient can be off, where that was handed in too.
    quantum : float
        The largest of their smallest numbers.
    """

    grads: dict[str, Array]
    issues: dict[str, GradientIssue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    precision: float = float(np.finfo(np.float64).eps)
    errors: dict[str, Array] = field(default_factory=dict)
    quantum: float = 0.0

    def compared_with(self, again: Matched) -> Matched:
        """The same, with a flaw on each gradient that a second call did not repeat to rounding."""
        issues = {
            name: GradientIssue(
                "not_repeatable", f"two calls of the gradient function at the same parameters differ by {d:.1e}"
            )
            for name, grad in self.grads.items()
            if name in again.grads and (d := relative_difference(grad, again.grads[name])) > 1e3 * self.precision
        }
        return replace(self, issues={**self.issues, **issues})


def match_gradients(grads: Any, point: Params, copy: bool = True) -> Matched:
    """Pair gradients with parameters, by name or by the textbooks' renaming, and copy them.

    Parameters
    ----------
    grads : array, number, or nested dicts, lists and tuples of them
        In the structure of the parameters, or with ``dW1`` for ``W1``; further entries are ignored, with a note.
    point : dict of str to ndarray
        The parameters.
    copy : bool
        False for what is looked at once: arrays of float64 are then the caller's own.

    Raises
    ------
    InvalidProblem
        There are no gradients at all.

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
    found = {name: key for name in point if (key := gradient_key(name, leaves, point)) is not None}
    pairs = {name: _as_gradient(name, leaves[key], point[name].shape, copy) for name, key in found.items()}
    used = set(found.values())
    extra = [key for key in leaves if key not in used]
    issues = {name: gradient for name, (gradient, _) in pairs.items() if isinstance(gradient, GradientIssue)}
    issues |= {name: _missing(name, extra) for name in point if name not in found}
    bars = {name: bar for name, key in found.items() if (bar := _bar(leaves[key], point[name].shape)) is not None}
    told = [leaf.note for leaf in leaves.values() if isinstance(leaf, Uncertain) and leaf.note]
    return Matched(
        grads={name: gradient for name, (gradient, _) in pairs.items() if not isinstance(gradient, GradientIssue)},
        issues=issues,
        notes=(*((f"Not parameters, ignored: {_listed(extra)}.",) if extra else ()), *dict.fromkeys(told)),
        precision=max([grain.precision for _, grain in pairs.values()], default=Matched.precision),
        quantum=max([grain.quantum for _, grain in pairs.values()], default=Matched.quantum),
        errors={name: bar for name, bar in bars.items() if name not in issues},
    )


def gradient_key(name: str, leaves: Mapping[str, Any], point: Mapping[str, Any]) -> str | None:
    """The key under which a parameter's gradient stands, by its own name or by the textbooks' renaming."""
    if name in leaves:
        return name
    stem, _, last = name.rpartition(".")
    renamed = (".".join(filter(None, (stem, form.format(last)))) for form in RENAMED)
    return next((key for key in renamed if key in leaves and key not in point), None)


def _missing(name: str, extra: list[str]) -> GradientIssue:
    seen = f"; the names without a parameter are {_listed(extra)}" if extra else ""
    return GradientIssue("missing_gradient", f"no gradient was handed in for {name}{seen}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _as_gradient(name: str, leaf: Any, shape: tuple[int, ...], copy: bool) -> tuple[Array | GradientIssue, Grain]:
    """A float64 copy of a gradient, or its flaw; and the grain of what was handed in."""
    if isinstance(leaf, Uncertain):
        leaf = leaf.value
    if leaf is None:
        return GradientIssue("missing_gradient", f"the gradient of {name} is None"), Grain()
    if type(leaf) is not np.ndarray and isinstance(leaf, np.ma.MaskedArray):
        return GradientIssue(
            "not_numeric", f"the gradient of {name} is a masked array: what is hidden has no value"
        ), Grain()
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiub":
        return GradientIssue("not_numeric", f"the gradient of {name} holds {array.dtype}, not real numbers"), Grain()
    if shape == () and array.size == 1:
        array = array.reshape(())
    if array.shape != shape:
        hint = ", its transpose" if array.shape == shape[::-1] else ""
        return GradientIssue(
            "wrong_shape", f"the gradient has shape {array.shape}{hint}, the parameter {shape}"
        ), Grain()
    return array.astype(np.float64, copy=copy), _grain(array.dtype)


@lru_cache(maxsize=64)
def _grain(dtype: np.dtype[Any]) -> Grain:
    if dtype.kind != "f":
        return Grain()
    limits = np.finfo(dtype if dtype.itemsize < 8 else np.float64)  # a long double is rounded to one
    return Grain(float(limits.eps), float(limits.tiny * limits.eps))


def _bar(leaf: Any, shape: tuple[int, ...]) -> Array | None:
    """The error bar of each entry; None where none was handed in, or where the gradient has another shape anyhow."""
    if not isinstance(leaf, Uncertain) or np.shape(leaf.value) != shape:
        return None
    bar = np.abs(np.asarray(leaf.error, dtype=np.float64))
    return np.broadcast_to(bar, shape) if np.any(bar) else None
