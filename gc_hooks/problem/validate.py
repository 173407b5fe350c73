"""Turn what the user hands in into a `Problem`, or into an error that says what to try."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss, Params
from gc_hooks.arrays.aliases import ABSENT, Pair, grads_of, pairs_by_name, params_of
from gc_hooks.arrays.foreign import describe, is_tensor, plain_array
from gc_hooks.arrays.gradients import Matched, gradient_leaves, match_gradients
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
from gc_hooks.report.diagnosis import listed, spoken

GRADIENT_FUNCTION = "gradient function"

MOST_ARRAYS = 4
"""Arrays of an object that a message names: more do not fit on its line."""

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
    _check_order(loss, params, grads)
    in_place = in_place or takes_nothing(loss)
    arrays = parameter_arrays(params, in_place)
    named = None
    if in_place:  # in place several names may mean one array, and the loss sees one change of it
        own = params_of(Pair(name, array, ABSENT) for name, array in arrays.items())
        if len(own) < len(arrays):
            named, arrays = arrays, own
    terms = (loss,) if penalty is None else (loss, penalty)
    arguments = () if in_place else (params,)
    for what, term in zip(TERMS, terms, strict=False):
        if not callable(term):
            raise InvalidProblem(
                f"The {what} must be a callable, got {describe(term)}. This usually means that its value was handed "
                "in, and it has to be computed again at other parameters. Try "
                f"{what}=lambda p: compute_{what}(p, inputs, targets)."
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
        _check_signature(GRADIENT_FUNCTION, grads, arguments)
        gradients = _Gradients(problem, grads, named)
        in_training = None if in_place or is_double else gradients.match(arrays, copy=True)
        matched = gradients.match(point, copy=True)
        matched = matched.compared_with(gradients.match(point))
        if in_training is not None:
            matched = matched.no_better_than(in_training)
    else:
        matched = _match(grads, point, named)
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
    arrays = {name: _parameter_array(name, leaf, in_place) for name, leaf in leaves.items()}
    if not any(array.size for array in arrays.values()):
        held = f", only empty arrays ({listed(arrays)})" if arrays else ""
        raise InvalidProblem(
            f"There are no parameters in {describe(params)}{held}. This usually means that the model was not built "
            "yet, or that another dictionary was handed in. Try print(params) right before the check."
        )
    return arrays


def _check_order(loss: object, params: object, grads: object) -> None:
    """Refuse arguments in another order than loss, params, grads; a number in the loss's place is its value."""
    is_other = not callable(loss) and not isinstance(loss, (numbers.Number, np.generic))
    if inspect.isroutine(params) or (is_other and inspect.isroutine(grads)):
        raise InvalidProblem(
            f"The loss is {describe(loss)}, the parameters are {describe(params)}. This usually means that arguments "
            "are exchanged. Try check_gradients(loss, params, grads), in this order."
        )


def takes_nothing(function: Callable[..., Any]) -> bool:
    """Return whether a function can only be called without arguments: it reads the caller's own arrays."""
    try:
        signature = inspect.signature(function)
        signature.bind()
    except (TypeError, ValueError):  # functions written in C may have no signature
        return False
    try:
        signature.bind(None)
    except TypeError:
        return True
    return False


def _parameter_array(name: str, leaf: Any, in_place: bool) -> Array:
    name = spoken(name)
    if is_tensor(leaf):
        raise InvalidProblem(
            f"Parameter {name} is a {type(leaf).__name__} of {type(leaf).__module__.partition('.')[0]}, and the loss "
            "gets arrays of NumPy. This usually means a model of PyTorch. Try adapters.TorchGradCheckHook, or "
            ".detach().numpy() here and a loss that takes NumPy arrays."
        )
    is_python_number = isinstance(leaf, numbers.Real) and not isinstance(leaf, (bool, np.generic))
    array = plain_array(f"Parameter {name}", float(leaf) if is_python_number else leaf)
    if in_place and not (isinstance(leaf, np.ndarray) and leaf.flags.writeable):
        raise InvalidProblem(
            f"Parameter {name} is {describe(leaf)}, which cannot be changed in place: for a loss that takes nothing "
            "(in_place=True) each has to be a writable NumPy array. This usually means a number, a list or a copy in "
            "the place of the array that the loss reads. Try that array, or a loss that takes the parameters, without "
            "in_place."
        )
    if type(leaf) is not np.ndarray and _computes_differently(leaf, in_place):
        raise InvalidProblem(
            f"Parameter {name} is a {type(leaf).__name__}, whose arithmetic is not that of the plain copies that the "
            "loss gets. This usually means np.matrix or np.ma. Try "
            "numpy.asarray where the parameters are made; a mask belongs into the loss."
        )
    if array.dtype.kind in "iub":
        raise InvalidProblem(
            f"Parameter {name} holds integers ({array.dtype}, shape {array.shape}), in which a step of 1e-5 is rounded "
            f"away. This usually means whole numbers without a dot, or labels among the parameters. Try "
            f"{name} = {name}.astype(float), at the place where the parameters are made."
        )
    if array.dtype.kind != "f":
        raise InvalidProblem(
            f"Parameter {name} is {describe(leaf)}, not a real number or an array of real numbers. {_hint(leaf)}"
        )
    return array


def _hint(leaf: object) -> str:
    """Say what a parameter that is no array of real numbers usually means, and what to try."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "O":
        return (
            "This usually means rows of different lengths, or None among numbers. Try a list of arrays, or "
            ".astype(float)."
        )
    if hasattr(leaf, "__dict__") and not (isinstance(leaf, type) or inspect.isroutine(leaf)):
        arrays = [key for key, value in vars(leaf).items() if isinstance(value, np.ndarray)] or ["W"]
        written_out = ", ".join(f"'{key}': model.{key}" for key in arrays[:MOST_ARRAYS])
        return (
            f"This usually means that the model was handed in. Try a dict of the arrays that are trained, such as "
            f"{{{written_out}}}."
        )
    return "This usually means something that is not trained. Try to leave it out, or to hand in the arrays themselves."


def _computes_differently(leaf: object, in_place: bool) -> bool:
    """Return whether an array's class has arithmetic of its own (a matrix, a masked array).

    In place the loss reads the user's own arrays, and only what a mask hides is out of reach.
    """
    if in_place or not isinstance(leaf, np.ndarray):
        return isinstance(leaf, np.ma.MaskedArray)
    return any(getattr(type(leaf), name) is not getattr(np.ndarray, name) for name in ARITHMETIC)


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
        called = "backward" if what == GRADIENT_FUNCTION else what
        if arguments:
            given = ", ".join(["p", *list(_needed(signature))[1:]])
            expected = "the parameters, as one argument"
            advice = f"a lambda that adds what is missing: lambda p: {called}({given})"
            if what == GRADIENT_FUNCTION and not signature.parameters:
                advice = "a loss that takes nothing too, with in_place=True; or grads=backward(), its values now"
        else:
            expected = "nothing (in_place=True)"
            advice = f"a lambda that takes nothing: lambda: {called}({', '.join(_needed(signature))})"
        raise InvalidProblem(
            f"The {what} takes {signature}, but it is called with {expected}: {error}. This usually means that "
            f"a lambda around it is missing. Try {advice}."
        ) from None


def _needed(signature: inspect.Signature) -> Iterator[str]:
    """Yield the arguments without which a function cannot be called."""
    for parameter in signature.parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            yield f"{parameter.name}={parameter.name}" if parameter.kind is parameter.KEYWORD_ONLY else parameter.name


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
        is_supposed=matched.is_supposed,
        backprop=gradients,
    )


class _Gradients:
    """Backprop as a function of the named parameters: the user's gradient function, its results matched by name.

    ``named`` are the user's arrays under all their names, where one has several.
    """

    def __init__(self, problem: Problem, function: Callable[..., Any], named: Params | None = None) -> None:
        self.problem = problem
        self.function = function
        self.named = named

    def __call__(self, point: Params) -> dict[str, Array]:
        return self.match(point).grads

    def match(self, point: Params, copy: bool = False) -> Matched:
        """Call the function at a point, and match what it returns; copy what is to be kept."""
        problem = self.problem
        problem.meter.gradients += 1
        with np.errstate(all="ignore"):
            if problem.live is not None:
                with written(problem.live, point, problem.home):
                    return _match(self.function(), point, self.named, copy, "backward()")
            # The function may write into what it gets; a view of a large array cannot be written to anyhow.
            own = {name: array.copy() if array.flags.writeable else array for name, array in point.items()}
            return _match(self.function(rebuild_params(problem.structure, own)), point, None, copy, "backward(p)")


def _match(grads: object, point: Params, named: Params | None, copy: bool = True, source: str = "grads") -> Matched:
    """Match gradients with parameters by name; those of arrays with several names (``named``) are summed."""
    if named is not None:
        grads = grads_of(pairs_by_name(named, gradient_leaves(grads, named, source)))
    return match_gradients(grads, point, copy, source)
