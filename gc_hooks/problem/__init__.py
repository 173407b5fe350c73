"""What is being checked: the loss, the point at which it is checked, and backprop's gradient there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator, Loss, Params
from gc_hooks.arrays.gradients import GradientIssue
from gc_hooks.arrays.large import jittered
from gc_hooks.arrays.norms import norm, root_mean_square
from gc_hooks.arrays.tree import rebuild
from gc_hooks.errors import GradCheckError

Backprop = Callable[[Params], "dict[str, Array]"]


class BudgetSpent(Exception):
    """A limit was reached; caught inside the package, where what was not looked at is said."""


@dataclass
class Meter:
    """What a check has spent, and what it may spend.

    Attributes
    ----------
    evaluations : int
        Calls of the loss so far (a penalty that is handed in apart is not counted: it costs next to nothing).
    complex_evaluations : int
        How many of them were complex, which cost 2 to 7 times as much.
    gradients : int
        Calls of the gradient function so far.
    refusals : list of str
        What the loss raised away from the point, where that is outside of its domain.
    max_evaluations : int or None
    max_seconds : float or None
    """

    max_evaluations: int | None = None
    max_seconds: float | None = None
    evaluations: int = 0
    complex_evaluations: int = 0
    gradients: int = 0
    refusals: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the check began."""
        return time.perf_counter() - self.started

    @property
    def exhausted(self) -> bool:
        """Whether a limit has been reached."""
        return bool(self._limit)

    @property
    def budget(self) -> str:
        """What was spent, for a sentence, with the limit that was reached."""
        return f"the budget ({self._limit})" if self._limit else "the budget"

    @property
    def _limit(self) -> str:
        if self.max_evaluations is not None and self.evaluations >= self.max_evaluations:
            return f"max_evaluations={self.max_evaluations}"
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            return f"max_seconds={self.max_seconds}"
        return ""


@dataclass(frozen=True)
class Problem:
    """A loss, a point and backprop's gradient there; validated once, by `gc_hooks.problem.validate.build_problem`.

    Attributes
    ----------
    terms : tuple of callable
        The loss, and the penalty when it is handed in apart; the gradient is that of their sum.
    structure : nested containers
        The user's own parameters: the shape in which the loss wants them.
    point : dict of str to ndarray
        Where slopes are measured. Private float64 copies, or, in place, copies in the user's own precision.
    grads : dict of str to ndarray
        Backprop's gradient at the point, in float64, for each parameter that has a usable one.
    flaws : dict of str to Flaw
        What is wrong with a gradient before a slope is measured: missing, of another shape, not repeatable.
    values : tuple of float
        Each term at the point.
    precision : float
        Machine epsilon of the arithmetic that made ``grads``.
    quantum : float
        The smallest number that it knows: below about a thousand of these, buffers of half precision hold few digits.
    gradient : callable or None
        Backprop as a function of the point, when it is one; what it returns holds until it is asked again.
    live : dict of str to ndarray or None
        The user's own arrays, for a loss that reads them.
    home : dict of str to ndarray or None
        What these hold, to the bit.
    scales : dict of str to float
        Root mean square of each parameter: the unit in which steps are chosen.
    notes : tuple of str
        What was noticed at the door.
    grad_errors : dict of str to ndarray
        How far the entries of ``grads`` can be off, where that was handed in with them.
    moved : bool
        Whether the point is no longer where the user's own arrays are.
    meter : Meter
    """

    terms: tuple[Loss, ...]
    structure: Any
    point: dict[str, Array]
    grads: dict[str, Array]
    values: tuple[float, ...]
    precision: float
    meter: Meter
    gradient: Backprop | None = None
    live: dict[str, Array] | None = None
    home: dict[str, Array] | None = None
    issues: dict[str, GradientIssue] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    grad_errors: dict[str, Array] = field(default_factory=dict)
    moved: bool = False
    quantum: float = 0.0

    @property
    def value(self) -> float:
        """The loss at the point, penalty included."""
        return float(sum(self.values))

    @cached_property
    def grad_norms(self) -> dict[str, float]:
        """The norm of each gradient; NaN or infinite where an entry is."""
        return {name: norm(grad) for name, grad in self.grads.items()}

    def evaluate(self, term: int, changes: Params) -> Any:
        """One term of the loss with some parameters replaced: one loss evaluation.

        An arithmetic or value error (the logarithm of a negative number) away from the point means that the loss's
        domain ends there: NaN, and the report says so. Any other exception is the caller's own and comes through.

        Raises
        ------
        BudgetSpent
            A limit was reached before. The two evaluations at the door are always made.
        """
        if self.meter.exhausted and self.values:
            raise BudgetSpent
        if term == 0:
            self.meter.evaluations += 1
            self.meter.complex_evaluations += any(array.dtype.kind == "c" for array in changes.values())
        try:
            with np.errstate(all="ignore"):
                return self._call(self.terms[term], changes)
        except (ArithmeticError, ValueError) as error:
            if isinstance(error, GradCheckError) or not self.values:
                raise
            self.meter.refusals.append(f"{type(error).__name__}: {error}")
            return math.nan

    def _call(self, term: Loss, changes: Params) -> Any:
        if self.live is None:
            return as_number(term(rebuild_params(self.structure, {**self.point, **changes})))
        with written(self.live, {**self.point, **changes} if self.moved else changes, self.home):
            return as_number(term())

    def at(self, point: Params, grads: dict[str, Array] | None = None) -> Problem:
        """The same problem at another point: one evaluation a term, and backprop is run there unless given."""
        moved = replace(self, point=dict(point), grads={}, moved=True)
        if grads is None:
            grads = {} if self.gradient is None else {n: g.copy() for n, g in self.gradient(moved.point).items()}
        values = tuple(float(moved.evaluate(term, {})) for term in range(len(self.terms)))
        return replace(moved, values=values, grads=grads)

    def jittered(self, generator: Generator) -> Problem:
        """The same problem with every entry moved by its own rounding; nothing is evaluated.

        A vector (a bias, often still zero) also by that of the sums to which it is added.
        """
        size, point = float(np.finfo(np.float64).eps), {}
        for name, array in self.point.items():
            unit = self.scales[name] if array.ndim <= 1 else 0.0
            point[name] = jittered(array, size, generator, unit)
        return replace(self, point=point, moved=True)


def rebuild_params(structure: Any, leaves: Params) -> Any:
    """The user's own structure again; what was a number is a number again."""
    return rebuild(structure, {name: leaf[()] if leaf.ndim == 0 else leaf for name, leaf in leaves.items()})


def as_number(value: Any) -> Any:
    """A number, or the only element of an array, as a Python number; anything else as it is."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError):  # no array, or one of several elements
        return value


@contextmanager
def written(live: Mapping[str, Array], values: Params, home: Params | None = None) -> Iterator[None]:
    """Write values into the user's own arrays, and restore every bit afterwards, whatever happens; ``home`` is what
    they hold now, where a copy of it is at hand."""
    saved = {name: live[name].copy() if home is None else home[name] for name in values}
    try:
        for name, value in values.items():
            live[name][...] = value
        yield
    finally:
        put_back(live, saved)


def put_back(live: Mapping[str, Array], saved: Params) -> None:
    """Write saved values into the user's own arrays; a Ctrl-C that comes in the middle of it comes through after it."""
    try:
        for name, value in saved.items():
            live[name][...] = value
    except BaseException:
        for name, value in saved.items():
            live[name][...] = value
        raise


def parameter_scales(point: Params) -> dict[str, float]:
    """The unit of length of each parameter: its root mean square.

    A vector's is no less than a tenth of what is typical here: a bias that began at zero and has hardly moved says
    little of how far it may go, and steps that are smaller than need be drown in noise.
    """
    own = {name: root_mean_square(array) for name, array in point.items()}
    known = [scale for scale in own.values() if math.isfinite(scale) and scale > 0]
    typical = root_mean_square(np.array(known)) if known else 1.0
    least = {name: typical / 10 if array.ndim <= 1 else 0.0 for name, array in point.items()}
    return {name: max(s, least[name]) if math.isfinite(s) and s > 0 else typical for name, s in own.items()}
