"""Ask a loss for its value: it has to be one number, and the same one each time."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Params
from gc_hooks.arrays.foreign import describe
from gc_hooks.arrays.norms import same_bits
from gc_hooks.errors import InvalidProblem, NondeterministicLoss
from gc_hooks.isolation.causes import footprint_of, why_nondeterministic
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.undoing import undone_by
from gc_hooks.numerics import DISTANCES
from gc_hooks.problem import BudgetSpent, Problem, as_number, written
from gc_hooks.report.diagnosis import plural

TERMS = ("loss", "penalty")
"""What the terms of a problem are called in messages."""


def deterministic_value(problem: Problem, term: int, changes: Params | None = None) -> float:
    """Evaluate one term twice, at the point or with some parameters changed; both values have to be the same bits.

    An `Evaluation` of `gc_hooks.adapters` puts back what it touches. It is asked here without that: what it leaves
    behind may be what the gradient was computed from. Where the values differ, the cause is searched for.
    """
    what, function = TERMS[term], problem.terms[term]
    keeping: AbstractContextManager[None] = nullcontext()
    if isinstance(function, Evaluation):
        keeping = undone_by(function.snapshot().put_back)
        if not function.frozen:
            terms = (*problem.terms[:term], function.call, *problem.terms[term + 1 :])
            problem = replace(problem, terms=terms)
    arrays = problem.live or problem.point
    before = {name: array.copy() for name, array in arrays.items() if array.flags.writeable}
    with keeping, written(arrays, before, before):  # what the loss does is undone
        values = [problem.evaluate(term, changes or {})]
        # A cache is the same after a second evaluation at the same point. What is not, and nobody puts back, is told.
        is_watched = problem.live is not None and not changes and not isinstance(function, Evaluation)
        changed_since = footprint_of(function) if is_watched else tuple
        values.append(problem.evaluate(term, changes or {}))
        problem.meter.footprint += changed_since()
        written_out = f"lambda p: {what}(p)" if problem.live is None else f"lambda: {what}()"
        first, second = [
            float(value) if isinstance(value, float) else as_value(value, what, written_out) for value in values
        ]
        changed = [name for name, array in before.items() if not same_bits(array, arrays[name])]
    if changed:
        raise InvalidProblem(
            f"The {what} changes the parameters that it is given. This usually means an in-place operation on them "
            "(W *= ..., an update inside the loss). Try to let it work on a copy."
        )
    if first != second and not (math.isnan(first) and math.isnan(second)):
        with written(arrays, before, before):
            why = why_nondeterministic(
                lambda: as_value(problem.evaluate(term, changes or {}), what), function, problem.meter.evaluations
            )
        where = ", away from those at which it repeats itself" if changes else ""
        raise NondeterministicLoss(
            f"The {what} gave {first!r} and then {second!r} for the same parameters{where}, so it has no slope to "
            f"measure. {why}"
        )
    return first


def require_deterministic(problem: Problem) -> None:
    """Evaluate every term twice away from the point: dropout in front of weights that are zero shows only there."""
    next(_values_elsewhere(problem), None)


def responds_to_parameters(problem: Problem) -> bool:
    """Return whether the loss changes when every parameter does; True also where it could be evaluated nowhere else.

    Costs two evaluations, and six for a loss that does not change. Raises `NondeterministicLoss`.
    """
    was_evaluated = False
    for value in _values_elsewhere(problem):
        if value != problem.value:
            return True
        was_evaluated = True
    return not was_evaluated


def _values_elsewhere(problem: Problem) -> Iterator[float]:
    """Yield the finite values of the loss at points away from this one, where it is defined."""
    generator = np.random.default_rng(0)  # its own, so that the directions of the check stay the same
    for distance in DISTANCES:
        changes = {}
        for parameter in problem.parameters:
            shift = distance * parameter.scale * generator.standard_normal(parameter.value.shape)
            changes[parameter.name] = np.asarray(parameter.value + shift).astype(parameter.value.dtype)
        try:
            value = sum(deterministic_value(problem, term, changes) for term in range(len(problem.terms)))
        except (NondeterministicLoss, BudgetSpent):
            raise
        except Exception:  # no check leads it so far away, so it may raise here
            continue
        if math.isfinite(value):
            yield value


def as_value(value: Any, what: str, call: str = "") -> float:
    """Return a term's value as a float, or raise `InvalidProblem` with what came instead of a number.

    ``call`` is how a message writes the call of the term.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    call = call or f"lambda p: {what}(p)"
    if _are_outputs(value):
        raise InvalidProblem(
            f"The {what} returned a {type(value).__name__} of {plural(len(value), 'item')}, not a number. This usually "
            "means residuals, or outputs of a layer, which have a Jacobian and no gradient. Try "
            "check_jacobian(function, params, jacobian)."
        )
    if isinstance(value, (tuple, list)):
        place = next((k for k, item in enumerate(value) if isinstance(as_number(item), (int, float))), 0)
        raise InvalidProblem(
            f"The {what} returned a {type(value).__name__} of {plural(len(value), 'item')}, not a number. This usually "
            f"means (cost, cache). Try {call}[{place}]."
        )
    if isinstance(value, Mapping):
        numbers_in_it = [key for key, item in value.items() if isinstance(as_number(item), (int, float))]
        meaning = "that loss and gradients are exchanged: the order is loss, params, grads"
        advice = "a function that returns the loss alone"
        if numbers_in_it:
            meaning, advice = "that the loss is one entry of it", f"{call}[{numbers_in_it[0]!r}]"
        raise InvalidProblem(
            f"The {what} returned {describe(value)}, not a number. This usually means {meaning}. Try {advice}."
        )
    if value is None:
        raise InvalidProblem(
            f"The {what} returned None. This usually means that its return statement is missing. Try to end it with "
            f"return {what}."
        )
    if isinstance(getattr(value, "shape", None), tuple):
        raise InvalidProblem(
            f"The {what} returned an array of shape {tuple(value.shape)}, not a number. This usually means that the "
            "mean or the sum over the samples is missing, or that these are residuals. Try "
            f"{call}.mean(), the way in which backprop takes it; for residuals, try "
            "check_jacobian(function, params, jacobian)."
        )
    raise InvalidProblem(
        f"The {what} returned {describe(value)}, not a real number. This usually means a text, a flag or an object "
        "that holds the number. Try to return a float."
    )


def _are_outputs(value: object) -> bool:
    """Return whether this is a list of numbers, or a list or tuple of arrays: no loss with its cache."""
    if not isinstance(value, (tuple, list)) or len(value) < 2:
        return False
    if all(isinstance(item, np.ndarray) and item.ndim for item in value):
        return True
    are_numbers = all(isinstance(as_number(item), (int, float)) for item in value)
    return isinstance(value, list) and len(value) > 2 and are_numbers
