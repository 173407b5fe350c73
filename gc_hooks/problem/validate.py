"""The door: what the user hands in is looked at once, here, and becomes a `Problem` or a clear message."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss, Params
from gc_hooks.arrays.gradients import Matched, match_gradients
from gc_hooks.arrays.large import copies_in_double, own_copy
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import called_with
from gc_hooks.problem import Backprop, Meter, Problem, as_number, parameter_scales, rebuild_params, written
from gc_hooks.problem.determinism import TERMS, as_value, deterministic_value

ARITHMETIC = ("__mul__", "__matmul__", "__pow__", "__add__", "__array_ufunc__", "__array_function__")
"""What makes a type of arrays compute in its own way."""


def build_problem(
    loss: Loss,
    params: Any,
    grads: Any,
    *,
    in_place: bool = False,
    penalty: Loss | None = None,
    meter: Meter | None = None,
) -> Problem:
    """Validate what is to be checked.

    Parameters
    ----------
    loss, params, grads, in_place, penalty
        As for `gc_hooks.check_gradients`.
    meter : Meter, optional
        Where the evaluations are counted.

    Returns
    -------
    Problem
        With the gradient at the point: run twice when it is a function, copied when it is arrays.

    Raises
    ------
    InvalidProblem
        The loss or the parameters cannot be used.
    NondeterministicLoss
        The loss gave two values for the same parameters.

    Notes
    -----
    Costs two evaluations of the loss and, where it is a function, two of the gradient.
    """
    arrays = parameter_arrays(params, in_place)
    point = {name: np.array(array) for name, array in arrays.items()} if in_place else copies_in_double(arrays)
    problem = Problem(
        terms=_terms(loss, penalty, params, in_place),
        structure=params,
        point=point,
        grads={},
        values=(),
        precision=_precision(arrays if in_place else point),
        meter=meter or Meter(),
        live=arrays if in_place else None,
        home=point if in_place else None,
        scales=parameter_scales(point),
    )
    values = tuple(deterministic_value(problem, term) for term in range(len(problem.terms)))
    return _with_gradient(problem, values, grads, {name: array.dtype for name, array in arrays.items()})


def revisit(
    loss: Loss,
    point: dict[str, Array],
    gradient: Callable[[Params], Params],
    value_and_gradient: Callable[[Params], tuple[Any, Params]],
    meter: Meter,
) -> Problem:
    """What has come through the door before, at another point: functions of named arrays, seen to repeat themselves.

    The point is the check's own, in float64. Costs one call of ``value_and_gradient``, in which the loss and the
    gradient share a forward pass.
    """
    problem = Problem(
        terms=(loss,),
        structure=point,
        point=point,
        grads={},
        values=(),
        precision=_precision(point),
        meter=meter,
        scales=parameter_scales(point),
    )
    meter.evaluations += 1
    values: list[float] = []

    def both(params: Params) -> Params:
        value, grads = value_and_gradient(params)
        values.append(as_value(as_number(value), TERMS[0]))
        return grads

    matched = _as_function(problem, both)(point, copy=True)
    return _attach_gradient(
        problem, tuple(values), matched, _only_grads(_as_function(problem, gradient)), problem.precision
    )


def parameter_arrays(params: Any, in_place: bool = False) -> dict[str, Array]:
    """The parameters as named arrays (the user's own, not copies).

    Raises
    ------
    InvalidProblem
        There are none, or one is not an array or a number of floating-point type.
    """
    leaves = flatten(params)
    if not leaves:
        raise InvalidProblem(
            f"There are no parameters in {type(params).__name__} {params!r}. This usually means that the model was not "
            "built yet, or that another dictionary was handed in. Try print(params) right before the check."
        )
    return {name: _parameter(name, leaf, in_place) for name, leaf in leaves.items()}


def _parameter(name: str, leaf: Any, in_place: bool) -> Array:
    if in_place and not (isinstance(leaf, np.ndarray) and leaf.flags.writeable):
        raise InvalidProblem(
            f"Parameter {name} is {_describe(leaf)}, which cannot be changed in place. With in_place=True the loss "
            "reads your own arrays, so each parameter has to be a writable NumPy array. Try a loss that takes the "
            "parameters, and leave in_place out."
        )
    if _computes_differently(leaf, in_place):
        raise InvalidProblem(
            f"Parameter {name} is a {type(leaf).__name__}, whose arithmetic is not that of plain arrays. The loss gets "
            "plain copies, so that it would be another one than the training's. Try numpy.asarray where the parameters "
            "are made; a mask belongs into the loss."
        )
    array = np.asarray(float(leaf) if _is_python_number(leaf) else leaf)
    if array.dtype.kind in "iub":
        raise InvalidProblem(
            f"Parameter {name} holds integers ({array.dtype}, shape {array.shape}). A step of 1e-5 would be rounded "
            f"away, and every slope would come out as zero. Try {name} = {name}.astype(float), at the place where the "
            "parameters are made."
        )
    if array.dtype.kind != "f":
        raise InvalidProblem(
            f"Parameter {name} is {_describe(leaf)}. Parameters are real numbers, arrays of them, or dicts, lists and "
            "tuples of these. Try to leave out what is not trained, or to hand in the arrays themselves."
        )
    return array


def _computes_differently(leaf: Any, in_place: bool) -> bool:
    """Whether an array's type has arithmetic of its own (a matrix, a masked array), which a plain copy has not. In
    place the loss reads the user's own arrays, and only what a mask hides is out of reach."""
    if type(leaf) is np.ndarray:  # most are; numpy.ma takes its time to load
        return False
    if in_place or not isinstance(leaf, np.ndarray):
        return isinstance(leaf, np.ma.MaskedArray)
    return any(getattr(type(leaf), name) is not getattr(np.ndarray, name) for name in ARITHMETIC)


def _is_python_number(leaf: Any) -> bool:
    return isinstance(leaf, numbers.Real) and not isinstance(leaf, (bool, np.generic))


def _describe(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return f"an array of {leaf.dtype}, shape {leaf.shape}{'' if leaf.flags.writeable else ', read-only'}"
    return f"{leaf!r} of type {type(leaf).__name__}" if len(repr(leaf)) < 40 else f"a {type(leaf).__name__}"


def _precision(arrays: Params) -> float:
    return max(float(np.finfo(array.dtype).eps) for array in arrays.values())


def _terms(loss: Loss, penalty: Loss | None, params: Any, in_place: bool) -> tuple[Loss, ...]:
    terms = (loss,) if penalty is None else (loss, penalty)
    for what, term in zip(TERMS, terms, strict=False):
        if not callable(term):
            raise InvalidProblem(
                f"The {what} is {_describe(term)}, not a function. The slope of a number cannot be measured: it has to "
                f"be computed again at other parameters. Try {what}=lambda p: compute_{what}(p, inputs, targets)."
            )
        _check_signature(what, term, () if in_place else (params,))
    return terms


def _check_signature(what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function, arguments = called_with(function, arguments)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C may have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        wanted = "nothing (in_place=True)" if not arguments else "the parameters, as one argument"
        advice = (
            "a lambda that adds what is missing (lambda p: loss(p, inputs, targets)), or in_place=True if it reads "
            "your own arrays and takes nothing."
            if arguments
            else "a lambda that takes nothing and adds what is missing: lambda: loss(inputs, targets)."
        )
        raise InvalidProblem(
            f"The {what} takes {signature}, but it is called with {wanted}: {error}. Try {advice}"
        ) from None


def _with_gradient(problem: Problem, values: tuple[float, ...], grads: Any, dtypes: dict[str, Any]) -> Problem:
    """Run or copy backprop's gradient, and pair it with the parameters."""
    if not callable(grads):
        precision = max(float(np.finfo(dtype).eps) for dtype in dtypes.values())
        return _attach_gradient(problem, values, match_gradients(grads, problem.point), None, precision)
    _check_signature("gradient function", grads, () if problem.live is not None else (problem.structure,))
    call = _as_function(problem, grads)
    matched = call(problem.point, copy=True)
    return _attach_gradient(
        problem, values, matched.compared_with(call(problem.point)), _only_grads(call), problem.precision
    )


def _attach_gradient(
    problem: Problem, values: tuple[float, ...], matched: Matched, gradient: Backprop | None, precision: float
) -> Problem:
    """The problem with its gradient: what can be judged, and what is wrong with the rest."""
    precision = max(precision, matched.precision)
    return replace(
        problem,
        values=values,
        grads=matched.grads,
        grad_errors=matched.errors,
        issues=matched.issues,
        notes=(*matched.notes, *_precision_note(precision, gradient)),
        precision=precision,
        quantum=matched.quantum,
        gradient=gradient,
    )


def _only_grads(call: Callable[..., Matched]) -> Backprop:
    return lambda point: call(point).grads


def _precision_note(precision: float, gradient: Backprop | None) -> tuple[str, ...]:
    if precision < 1e-10 or gradient is not None:
        return ()
    kind = "float32" if precision < 1e-6 else "half precision"
    return (
        f"The gradient was handed in as arrays of {kind}, whose own rounding widens the bars where it matters. Hand in "
        "a function that computes it, and it is judged in float64.",
    )


def _as_function(problem: Problem, grads: Callable[..., Any]) -> Callable[..., Matched]:
    """Backprop as a function of the point, whose results are matched at once, and copied where they are to be kept."""

    def call(point: Params, copy: bool = False) -> Matched:
        problem.meter.gradients += 1
        with np.errstate(all="ignore"):
            if problem.live is None:
                copies = {name: own_copy(array) for name, array in point.items()}
                return match_gradients(grads(rebuild_params(problem.structure, copies)), point, copy)
            with written(problem.live, point, problem.home):
                return match_gradients(grads(), point, copy)

    return call
