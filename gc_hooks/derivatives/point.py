"""A function where its Jacobian is checked, and the Jacobian there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.arrays.foreign import describe
from gc_hooks.arrays.tree import flatten
from gc_hooks.derivatives.linear import Layout, Linear, as_rows, read_linear
from gc_hooks.errors import InvalidProblem, NondeterministicLoss
from gc_hooks.numerics import EPS
from gc_hooks.problem import Meter, Parameter, Problem, parameter_scales, rebuild_params
from gc_hooks.problem.validate import parameter_arrays
from gc_hooks.slopes.instrument import beside

APART = 2.0**-8
"""In units of the scales. How far the point is moved off a kink: farther than the steps that measure slopes there. The
Jacobian is asked where the function is, so that nothing is lost."""

Function = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Point:
    """A function where it is checked, and the Jacobian that is judged there."""

    problem: Problem
    outputs: Layout
    inputs: Layout
    here: Array
    jacobian: Any  # as it was handed in: a function, or its value
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Function, params: object, jacobian: object, meter: Meter) -> Point:
        """Validate what was handed in: one evaluation of the function."""
        arrays = parameter_arrays(params)
        point = {name: np.array(array, dtype=np.float64) for name, array in arrays.items()}
        scales = parameter_scales(point)
        parameters = tuple(Parameter(name, array, scales[name]) for name, array in point.items())
        precision = max(float(np.finfo(array.dtype).eps) for array in arrays.values())

        def flat(given: Any) -> Array:
            return _flat(_arrays(_as_vector(function(given))))

        problem = Problem((flat,), params, parameters, (0.0,), EPS if callable(jacobian) else precision, meter)
        meter.evaluations += 1
        first = _as_vector(function(rebuild_params(params, point)))
        found = _arrays(first)
        for name, array in point.items():
            if not np.array_equal(array, np.asarray(arrays[name], dtype=np.float64), equal_nan=True):
                raise InvalidProblem(
                    "The function changes the parameters that it is given. This usually means an in-place operation "
                    "on them. Try to let it work on a copy."
                )
        return cls(problem, Layout.of(first, found), Layout.of(params, point), _flat(found), jacobian)

    def _params(self) -> Any:
        return rebuild_params(self.problem.structure, {k: v.copy() for k, v in self.problem.point.items()})

    def value(self) -> Any:
        """Return the Jacobian at this point, in the user's own type."""
        return self.jacobian(self._params()) if self.is_function else self.jacobian

    def linear(self) -> Linear:
        """Return the Jacobian at this point; raise `WrongShape`."""
        return read_linear(self.value(), self._params(), self.outputs, self.inputs)

    @property
    def is_function(self) -> bool:
        """Return whether the Jacobian may be asked at other points."""
        return callable(self.jacobian) and not hasattr(self.jacobian, "matvec")

    def apart(self, generator: Generator) -> Point:
        """Return the same a small step away, off the kinks of this point: one evaluation."""
        problem = beside(self.problem, generator, APART)
        here = np.reshape(problem.evaluate(0, {}), -1)
        return replace(self, problem=problem, here=here, notes=(*self.notes, _MOVED))

    def require_deterministic(self) -> None:
        """Refuse a function that does not repeat itself: one evaluation."""
        again = np.reshape(self.problem.evaluate(0, {}), -1)
        if again.shape == self.here.shape and np.array_equal(again, self.here, equal_nan=True):
            return
        raise NondeterministicLoss(
            "The function gave two results for the same parameters, so it has no slope to measure. This usually means "
            "random numbers, or something that it keeps from call to call. Try a seed inside of the function."
        )


_MOVED = "Some outputs have a kink at this point: compared a small step away from it."


def _as_vector(value: Any) -> Any:
    """Return a list of numbers, as functions for `root` return it, as the array that it is."""
    return as_rows(value, (len(value),)) if isinstance(value, (list, tuple)) else value


def _arrays(value: Any) -> dict[str, Array]:
    """Return the outputs of a function as named arrays of numbers."""
    arrays = {}
    for name, leaf in flatten(value).items():
        array = np.asarray(leaf)
        if array.dtype.kind not in "fciub":
            raise InvalidProblem(
                f"The function returned {describe(value)}, not numbers. This usually means that its return statement "
                "is missing, or residuals of different lengths. Try to return an array, or a list of arrays."
            )
        arrays[name] = array
    if not sum(array.size for array in arrays.values()):
        raise InvalidProblem(
            f"The function returned no numbers ({describe(value)}). This usually means empty data. Try print(function("
            "params)) right before the check."
        )
    return arrays


def _flat(arrays: dict[str, Array]) -> Array:
    flat = np.concatenate([array.reshape(-1) for array in arrays.values()])
    return flat if flat.dtype.kind in "fc" else flat.astype(np.float64)
