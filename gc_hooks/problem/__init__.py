"""What is checked: the terms of the loss, the parameters at which it is checked, and backprop's gradient there."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.exceptions import ComplexWarning

from gc_hooks._typing import Array, Generator, Loss, Params
from gc_hooks.arrays.gradients import GradientIssue
from gc_hooks.arrays.large import LARGE, jittered
from gc_hooks.arrays.norms import is_vector, largest, norm, root_mean_square
from gc_hooks.arrays.tree import rebuild
from gc_hooks.errors import GradCheckError
from gc_hooks.numerics import EPS

CLOSER_THAN_SINGLE, NO_ROUNDING = 1e-11, 1e-2
"""Relative differences that float32 reaches by luck alone, and that are no rounding of it where nothing cancels."""

Backprop = Callable[[Params], "dict[str, Array]"]
"""Backprop as a function of the named parameters; what it returns is valid until it is called again."""


class BudgetSpent(Exception):
    """Say that a limit was reached; caught inside the package, which reports what was not measured."""


@dataclass
class Meter:
    """Count what a check has spent, and hold what it may spend."""

    max_evaluations: int | None = None
    max_seconds: float | None = None
    # Calls of the loss so far. A penalty that is handed in separately is not counted: it costs next to nothing.
    evaluations: int = 0
    complex_evaluations: int = 0  # how many of them were complex, which cost 2 to 7 times as much
    gradients: int = 0  # calls of the gradient function so far
    # What the loss raised away from the point, where it is not defined.
    refusals: list[str] = field(default_factory=list)
    footprint: tuple[str, ...] = ()  # what evaluations change that is not put back
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Return the seconds since the check began."""
        return time.perf_counter() - self.started

    @property
    def exhausted(self) -> bool:
        """Return whether a limit has been reached."""
        if self.max_evaluations is not None and self.evaluations >= self.max_evaluations:
            return True
        return self.max_seconds is not None and self.seconds >= self.max_seconds

    @property
    def budget(self) -> str:
        """Name the budget in a sentence, with the limit that was reached."""
        if self.max_evaluations is not None and self.evaluations >= self.max_evaluations:
            return f"the budget (max_evaluations={self.max_evaluations})"
        if self.exhausted:
            return f"the budget (max_seconds={self.max_seconds})"
        return "the budget"


@dataclass(frozen=True, eq=False)
class Parameter:
    """One array that is trained, with backprop's gradient for it."""

    name: str  # its path, such as ``layers.0.W``
    value: Array  # the array at the point. A private float64 copy, or, in place, a copy in the user's own precision.
    scale: float  # its unit of length, in which steps along it are chosen
    gradient: Array | None = None  # backprop's gradient in float64; None where it cannot be used
    # How far each entry of ``gradient`` can be off, where that was handed in with it.
    gradient_error: Array | None = None
    issue: GradientIssue | None = None  # what was found wrong with the gradient before a slope was measured

    @cached_property
    def gradient_norm(self) -> float:
        """Return the norm of backprop's gradient; NaN or infinite where an entry is."""
        return math.nan if self.gradient is None else norm(self.gradient)


@dataclass(frozen=True, eq=False)
class Problem:
    """A loss, a point and backprop's gradient there; validated once, by `gc_hooks.problem.validate.build_problem`."""

    # The loss, and the penalty where it is handed in separately. The gradient is that of their sum.
    terms: tuple[Loss, ...]
    structure: Any  # the user's own parameters: the shape in which the loss takes them
    parameters: tuple[Parameter, ...]
    values: tuple[float, ...]  # each term at the point; empty until they are evaluated
    precision: float  # machine epsilon of the arithmetic that made the gradient
    meter: Meter
    is_supposed: bool = False  # whether that was concluded from numbers with few digits
    backprop: Backprop | None = None  # backprop as a function of the point, where it was handed in as one
    live: dict[str, Array] | None = None  # the user's own arrays, for a loss that reads them (``in_place``)
    home: dict[str, Array] | None = None  # what the live arrays hold, to the bit
    smallest: float = 0.0  # the smallest positive number of the gradient's number format
    notes: tuple[str, ...] = ()  # what was noticed when the problem was validated
    moved: bool = False  # whether the point is another one than that of the user's arrays
    # Arrays of the model that look like parameters and are not among them, by name.
    unjudged: tuple[str, ...] = ()

    # The parameters by name, and what each of them holds: value, gradient, and the gradient's error, where there is
    # one. Derived from ``parameters``.
    by_name: dict[str, Parameter] = field(init=False)
    point: dict[str, Array] = field(init=False)
    grads: dict[str, Array] = field(init=False)
    gradient_errors: dict[str, Array] = field(init=False)
    judged: tuple[Parameter, ...] = field(init=False)  # the parameters that have a gradient and at least one entry

    def __post_init__(self) -> None:
        judged = []
        for name in ("by_name", "point", "grads", "gradient_errors"):
            object.__setattr__(self, name, {})  # the dataclass is frozen
        for parameter in self.parameters:
            self.by_name[parameter.name] = parameter
            self.point[parameter.name] = parameter.value
            if parameter.gradient is not None:
                self.grads[parameter.name] = parameter.gradient
                if parameter.value.size:
                    judged.append(parameter)
            if parameter.gradient_error is not None:
                self.gradient_errors[parameter.name] = parameter.gradient_error
        object.__setattr__(self, "judged", tuple(judged))

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return self.by_name[name]

    def noted(self, *notes: str) -> Problem:
        """Return a copy with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    @property
    def precision_of_loss(self) -> float:
        """Return the machine epsilon in which the loss gets its parameters."""
        return max(float(np.finfo(array.dtype).eps) for array in self.point.values())

    @property
    def value(self) -> float:
        """Return the loss at the point, penalty included."""
        return float(sum(self.values))

    def evaluate(self, term: int, changes: Params) -> Any:
        """Evaluate one term of the loss with some parameters replaced; raise `BudgetSpent` after the first two.

        An arithmetic or value error away from the point (the logarithm of a negative number) means that the loss is
        not defined there: it counts as NaN, and the report says so. Any other exception is the user's own.
        """
        meter = self.meter
        if self.values and meter.exhausted:
            raise BudgetSpent
        is_complex = any(array.dtype.kind == "c" for array in changes.values())
        if term == 0:
            meter.evaluations += 1
            meter.complex_evaluations += is_complex
        # NumPy only warns where it drops an imaginary part, and the slope would come out as zero. Warning filters are
        # shared by all threads, so that only the main one may change them.
        refuse_casts = is_complex and threading.current_thread() is threading.main_thread()
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings() if refuse_casts else nullcontext():
                if refuse_casts:
                    warnings.simplefilter("error", ComplexWarning)
                if self.live is None:
                    value = self.terms[term](rebuild_params(self.structure, {**self.point, **changes}))
                else:
                    written_values = {**self.point, **changes} if self.moved else changes
                    with written(self.live, written_values, self.home):
                        value = self.terms[term]()
        except (ArithmeticError, ValueError) as error:
            if isinstance(error, GradCheckError) or not self.values:
                raise
            meter.refusals.append(f"{type(error).__name__}: {error}")
            return math.nan
        return value if isinstance(value, (float, complex)) else as_number(value)

    def known_to_be_double(self, gradients: Params) -> Problem:
        """Return the problem with backprop in float64, where it is closer to the true gradient than float32 could be.

        Numbers with few digits may also be what is left of larger ones that cancel, near a minimum. A gradient that is
        wrong altogether says nothing.
        """
        if not self.is_supposed:
            return self
        apart = []
        for name, gradient in self.grads.items():
            size = largest(gradients[name])
            apart.append(largest(gradient - gradients[name]) / size if size else 0.0)
        is_double = [d <= CLOSER_THAN_SINGLE for d in apart]
        if not any(is_double) or any(not close and d < NO_ROUNDING for close, d in zip(is_double, apart, strict=True)):
            return self
        return replace(self, precision=EPS, smallest=0.0, is_supposed=False)

    def at(self, point: Params, grads: dict[str, Array] | None = None) -> Problem:
        """Return the problem at another point: one evaluation of each term, and one of backprop unless it is given."""
        parameters = tuple(replace(p, value=point[p.name], gradient=None) for p in self.parameters)
        moved = replace(self, parameters=parameters, moved=True)
        if grads is None:
            grads = {}
            if self.backprop is not None:
                grads = {name: gradient.copy() for name, gradient in self.backprop(moved.point).items()}
        values = tuple(float(moved.evaluate(term, {})) for term in range(len(self.terms)))
        parameters = tuple(replace(p, gradient=grads.get(p.name)) for p in parameters)
        return replace(moved, parameters=parameters, values=values)

    def jittered(self, generator: Generator) -> Problem:
        """Return the problem with every entry moved by its own rounding; nothing is evaluated.

        A vector (a bias, often still zero) is also moved by the rounding of the sums to which it is added.
        """
        parameters = []
        for parameter in self.parameters:
            array = parameter.value
            unit = parameter.scale if is_vector(array) else 0.0
            if array.size < LARGE:
                moved = np.asarray(array + np.hypot(array, unit) * EPS * generator.standard_normal(array.shape))
            else:
                moved = jittered(array, EPS, generator)
            parameters.append(replace(parameter, value=moved))
        return replace(self, parameters=tuple(parameters), moved=True)


def rebuild_params(structure: object, leaves: Params) -> Any:
    """Return the user's own structure with other arrays in it; what was a number is a number again."""
    leaves = {name: leaf if leaf.ndim else leaf[()] for name, leaf in leaves.items()}
    # Most structures are a flat dict, whose keys are the names; this is done at every evaluation.
    if type(structure) is dict and structure.keys() == leaves.keys():
        return leaves
    return rebuild(structure, leaves)


def as_number(value: Any) -> Any:
    """Return an array of one element, or what else is one number, as a Python number; and anything else as it is."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError):  # not an array, or one of several elements
        pass
    if isinstance(value, (int, np.ndarray)) or not hasattr(type(value), "__float__"):
        return value
    try:  # a Decimal, a scalar of another library
        return float(value)
    except Exception:  # what it is, a message will say
        return value


@contextmanager
def written(live: Mapping[str, Array], values: Params, home: Params | None = None) -> Iterator[None]:
    """Write values into the user's own arrays, and restore every bit afterwards, whatever happens.

    ``home`` is what the arrays hold now, where a copy of it exists already.
    """
    saved = {name: live[name].copy() if home is None else home[name] for name in values}
    try:
        for name, value in values.items():
            live[name][...] = value
        yield
    finally:
        put_back(live, saved)


def put_back(live: Mapping[str, Array], saved: Params) -> None:
    """Write saved values into the user's own arrays; a Ctrl-C in the middle of it comes through afterwards."""
    try:
        for name, value in saved.items():
            live[name][...] = value
    except BaseException:
        for name, value in saved.items():
            live[name][...] = value
        raise


def parameter_scales(point: Params) -> dict[str, float]:
    """Return the unit of length of each parameter: its root mean square.

    The unit of a vector is at least a tenth of what is typical for the other parameters: a bias that began at zero and
    has moved only a little says nothing of how far it may go, and unnecessarily small steps drown in noise.
    """
    sizes = {name: root_mean_square(array) for name, array in point.items()}
    usable = [size for size in sizes.values() if math.isfinite(size) and size > 0]
    typical = root_mean_square(np.array(usable)) if usable else 1.0
    for name, size in sizes.items():
        if not (math.isfinite(size) and size > 0):
            sizes[name] = typical
        elif is_vector(point[name]):
            sizes[name] = max(size, typical / 10)
    return sizes
