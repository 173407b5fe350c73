"""Turn what the user hands in into a `Problem`, or into an error that says what to try."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss, Params
from gc_hooks.arrays.gradients import Matched, match_gradients
from gc_hooks.arrays.large import LARGE, view_or_copy
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.numerics import EPS
from gc_hooks.problem import (
    Meter,
    Parameter,
    Problem,
    as_number,
    parameter_scales,
    rebuild_params,
    written,
)
from gc_hooks.problem.determinism import TERMS, as_value, deterministic_value

ARITHMETIC = ("__mul__", "__matmul__", "__pow__", "__add__", "__array_ufunc__", "__array_function__")
"""A class of arrays that overrides one of these computes in its own way."""


def build_problem(
    loss: Loss,
    params: object,
    grads: object,
    *,
    in_place: bool = False,
    penalty: Loss | None = None,
    meter: Meter | None = None,
    is_known: bool = False,
) -> Problem:
    """Validate what `gc_hooks.check_gradients` got, and return it with the gradient at the point.

    Costs two evaluations of the loss and, where the gradient is a function, two of it. Raises `InvalidProblem` where
    the loss or the parameters cannot be used, `NondeterministicLoss` where the loss gives two values. Parameters of a
    lower precision than float64 cost one gradient more: it has to be finite where the training computes it. Where an
    earlier check has used the loss (``is_known``), it is not evaluated, and the problem has no values.
    """
    arrays = parameter_arrays(params, in_place)
    terms = (loss,) if penalty is None else (loss, penalty)
    arguments = () if in_place else (params,)
    for what, term in zip(TERMS, terms, strict=False):
        if not callable(term):
            raise InvalidProblem(
                f"The {what} must be a callable, got {_describe(term)}. It has to be computed again at other "
                f"parameters. Try {what}=lambda p: compute_{what}(p, inputs, targets)."
            )
        _check_signature(what, term, arguments)
    point = {}
    for name, array in arrays.items():
        if array.size >= LARGE and not in_place:
            point[name] = view_or_copy(array)
        else:
            point[name] = np.array(array, dtype=array.dtype if in_place else np.float64)
    problem = _without_gradient(terms, params, point, meter or Meter())
    problem = replace(problem, unjudged=tuple(getattr(params, "unjudged", ())))  # an adapter has seen the whole model
    if in_place:
        problem = replace(problem, live=arrays, home=point)
    if not callable(grads):  # buffers are only as precise as the parameters that they were computed from
        problem = replace(problem, precision=_precision(arrays))
    values = () if is_known else tuple(deterministic_value(problem, term) for term in range(len(terms)))
    is_double = _precision(arrays) <= EPS
    gradients = None
    if callable(grads):
        _check_signature("gradient function", grads, arguments)
        gradients = _Gradients(problem, grads)
        in_training = None if in_place or is_double else gradients.match(arrays, copy=True)
        matched = gradients.match(point, copy=True)
        matched = matched.compared_with(gradients.match(point))
        if in_training is not None:
            matched = matched.no_better_than(in_training)
    else:
        matched = match_gradients(grads, point)
    if is_double:  # what is computed from parameters of float32 may fit into float32 by itself
        matched = matched.with_precision_of_numbers()
    return _with_gradient(problem, values, matched, gradients).noted(*problem.meter.footprint)


def revisit(
    loss: Loss,
    point: dict[str, Array],
    gradient: Callable[[Params], Params],
    value_and_gradient: Callable[[Params], tuple[Any, Params]],
    meter: Meter,
) -> Problem:
    """Build a problem from functions that have been validated before, at another point.

    ``point`` is the check's own, in float64. Costs one call of ``value_and_gradient``, in which the loss and the
    gradient share a forward pass.
    """
    problem = _without_gradient((loss,), point, point, meter)
    meter.evaluations += 1
    values: list[float] = []

    def gradient_at_point(params: Params) -> Params:
        value, grads = value_and_gradient(params)
        values.append(as_value(as_number(value), TERMS[0]))
        return grads

    matched = _Gradients(problem, gradient_at_point).match(point, copy=True)
    return _with_gradient(problem, tuple(values), matched, _Gradients(problem, gradient))


def parameter_arrays(params: object, in_place: bool = False) -> dict[str, Array]:
    """Return the parameters as named arrays: the user's own, not copies."""
    leaves = flatten(params)
    if not leaves:
        raise InvalidProblem(
            f"There are no parameters in {type(params).__name__} {params!r}. This usually means that the model was not "
            "built yet, or that another dictionary was handed in. Try print(params) right before the check."
        )
    return {name: _parameter_array(name, leaf, in_place) for name, leaf in leaves.items()}


def _parameter_array(name: str, leaf: Any, in_place: bool) -> Array:
    if in_place and not (isinstance(leaf, np.ndarray) and leaf.flags.writeable):
        raise InvalidProblem(
            f"Parameter {name} is {_describe(leaf)}, which cannot be changed in place: with in_place=True each has to "
            "be a writable NumPy array. Try a loss that takes the parameters, and leave in_place out."
        )
    if type(leaf) is not np.ndarray and _computes_differently(leaf, in_place):
        raise InvalidProblem(
            f"Parameter {name} is a {type(leaf).__name__}, whose arithmetic is not that of the plain copies that the "
            "loss gets. Try numpy.asarray where the parameters are made; a mask belongs into the loss."
        )
    is_python_number = isinstance(leaf, numbers.Real) and not isinstance(leaf, (bool, np.generic))
    array = np.asarray(float(leaf) if is_python_number else leaf)
    if array.dtype.kind in "iub":
        raise InvalidProblem(
            f"Parameter {name} holds integers ({array.dtype}, shape {array.shape}), in which a step of 1e-5 is rounded "
            f"away. Try {name} = {name}.astype(float), at the place where the parameters are made."
        )
    if array.dtype.kind != "f":
        raise InvalidProblem(
            f"Parameter {name} is {_describe(leaf)}, not a real number or an array of real numbers. Try to leave out "
            "what is not trained, or to hand in the arrays themselves."
        )
    return array


def _computes_differently(leaf: object, in_place: bool) -> bool:
    """Return whether an array's class has arithmetic of its own (a matrix, a masked array).

    In place the loss reads the user's own arrays, and only what a mask hides is out of reach.
    """
    if in_place or not isinstance(leaf, np.ndarray):
        return isinstance(leaf, np.ma.MaskedArray)
    return any(getattr(type(leaf), name) is not getattr(np.ndarray, name) for name in ARITHMETIC)


def _describe(leaf: object) -> str:
    if isinstance(leaf, np.ndarray):
        return f"an array of {leaf.dtype}, shape {leaf.shape}{'' if leaf.flags.writeable else ', read-only'}"
    written_out = repr(leaf)
    return f"{written_out} of type {type(leaf).__name__}" if len(written_out) < 40 else f"a {type(leaf).__name__}"


def _precision(arrays: Mapping[str, Array]) -> float:
    """Return the largest machine epsilon of some arrays."""
    return max(float(np.finfo(array.dtype).eps) for array in arrays.values())


def _check_signature(what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Refuse a function that cannot be called with these arguments, before it is called."""
    if isinstance(function, Evaluation):
        arguments = (None,) * function.takes
        function = function.source
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C may have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        if arguments:
            expected = "the parameters, as one argument"
            advice = (
                "a lambda that adds what is missing (lambda p: loss(p, inputs, targets)), or in_place=True if it reads "
                "your own arrays and takes nothing."
            )
        else:
            expected = "nothing (in_place=True)"
            advice = "a lambda that takes nothing and adds what is missing: lambda: loss(inputs, targets)."
        raise InvalidProblem(
            f"The {what} takes {signature}, but it is called with {expected}: {error}. Try {advice}"
        ) from None


def _without_gradient(terms: tuple[Loss, ...], structure: object, point: dict[str, Array], meter: Meter) -> Problem:
    """Return a problem whose gradient is not known yet."""
    precision, scales = _precision(point), parameter_scales(point)
    parameters = tuple(Parameter(name, array, scales[name]) for name, array in point.items())
    return Problem(terms, structure, parameters, (), precision, meter)


def _with_gradient(
    problem: Problem, values: tuple[float, ...], matched: Matched, gradients: _Gradients | None
) -> Problem:
    """Return the problem with backprop's gradient, and with what is wrong with it."""
    precision = max(problem.precision, matched.precision)
    parameters = []
    for parameter in problem.parameters:
        name = parameter.name
        judged = replace(
            parameter,
            gradient=matched.grads.get(name),
            gradient_error=matched.errors.get(name),
            issue=matched.issues.get(name),
        )
        parameters.append(judged)
    return replace(
        problem,
        values=values,
        parameters=tuple(parameters),
        notes=matched.notes,
        precision=precision,
        smallest=matched.smallest,
        backprop=gradients,
    )


class _Gradients:
    """Backprop as a function of the named parameters: the user's gradient function, its results matched by name."""

    def __init__(self, problem: Problem, function: Callable[..., Any]) -> None:
        self.problem = problem
        self.function = function

    def __call__(self, point: Params) -> dict[str, Array]:
        return self.match(point).grads

    def match(self, point: Params, copy: bool = False) -> Matched:
        """Call the function at a point, and match what it returns; copy what is to be kept."""
        problem = self.problem
        problem.meter.gradients += 1
        with np.errstate(all="ignore"):
            if problem.live is not None:
                with written(problem.live, point, problem.home):
                    return match_gradients(self.function(), point, copy)
            # The function may write into what it gets; a view of a large array cannot be written to anyhow.
            own = {name: array.copy() if array.flags.writeable else array for name, array in point.items()}
            return match_gradients(self.function(rebuild_params(problem.structure, own)), point, copy)
