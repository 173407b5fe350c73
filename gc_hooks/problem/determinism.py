"""What a loss gives: one number, and the same one each time."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Generator, Params
from gc_hooks.arrays.norms import same_bits
from gc_hooks.errors import InvalidProblem, NondeterministicLoss
from gc_hooks.isolation.causes import why_nondeterministic
from gc_hooks.isolation.evaluation import bare, state_of
from gc_hooks.isolation.snapshot import preserve
from gc_hooks.problem import BudgetSpent, Problem, written

TERMS = ("loss", "penalty")
AWAY = (1.0, 0.125, 8.0)
"""How far from the point a loss is asked again, in units of the parameters' own scales."""


def term_value(problem: Problem, term: int, changes: Params | None = None) -> float:
    """One term of the loss at the point, or with some parameters changed.

    Raises
    ------
    InvalidProblem
        It gave something else than a number.
    """
    return as_value(problem.evaluate(term, changes or {}), TERMS[term])


def deterministic_value(problem: Problem, term: int, changes: Params | None = None) -> float:
    """The same, called twice; the two values have to be the same bits.

    An evaluation of `gc_hooks.adapters` puts back what it touches; it is asked without that, for what it leaves behind
    may be what the gradient was computed from.

    Raises
    ------
    InvalidProblem
        It gave something else than a number, or changes the parameters.
    NondeterministicLoss
        It gave two values; the message names the cause where it can be told.
    """
    what, function = TERMS[term], problem.terms[term]
    problem = replace(problem, terms=tuple(map(bare, problem.terms)))
    arrays = problem.live or problem.point
    before = {name: array.copy() for name, array in arrays.items() if array.flags.writeable}
    with preserve(*state_of(function)), written(arrays, before, before):  # whatever the loss does is undone
        first, second = (term_value(problem, term, changes) for _ in range(2))
        changed = _changed(before, arrays)
    if changed:
        raise InvalidProblem(
            f"The {what} changes the parameters that it is given. This usually means an in-place operation on them "
            "(W *= ..., an update inside the loss). Try to let it work on a copy."
        )
    if first != second and not (np.isnan(first) and np.isnan(second)):
        with written(arrays, before, before):
            why = why_nondeterministic(lambda: term_value(problem, term, changes), function)
        where = ", away from those at which it repeats itself" if changes else ""
        raise NondeterministicLoss(
            f"The {what} gave {first!r} and then {second!r} for the same parameters{where}, so it has no slope to "
            f"measure. {why}"
        )
    return first


def require_deterministic(problem: Problem) -> None:
    """Ask every term twice away from the point: dropout in front of weights that are zero shows only there.

    Raises
    ------
    NondeterministicLoss
    """
    next(_totals_away(problem), None)


def responds_to_parameters(problem: Problem) -> bool:
    """The same, and whether the loss changes at all when every parameter does.

    Costs two evaluations, and six for a loss that does not change.

    Raises
    ------
    NondeterministicLoss
    """
    asked = False
    for total in _totals_away(problem):
        if total != problem.value:
            return True
        asked = True
    return not asked


def _totals_away(problem: Problem) -> Iterator[float]:
    """The loss at points away from this one, as far as they are in its domain."""
    generator = np.random.default_rng(0)  # not the check's own, whose directions stay what they are
    for reach in AWAY:
        changes = _moved(problem, reach, generator)
        try:
            total = sum(deterministic_value(problem, term, changes) for term in range(len(problem.terms)))
        except (NondeterministicLoss, BudgetSpent):
            raise
        except Exception:  # where no check would have led it, it may raise what it likes
            continue
        if math.isfinite(total):
            yield total


def _moved(problem: Problem, reach: float, generator: Generator) -> Params:
    point, scales = problem.point, problem.scales
    ways = {name: reach * scales[name] * generator.standard_normal(array.shape) for name, array in point.items()}
    return {name: np.asarray(array + ways[name]).astype(array.dtype) for name, array in point.items()}


def _changed(before: Params, after: Params) -> list[str]:
    return [name for name, array in before.items() if not same_bits(array, after[name])]


def as_value(value: Any, what: str) -> float:
    """A term's value as a float.

    Raises
    ------
    InvalidProblem
        It is no number; the message says what came instead.
    """
    if isinstance(value, (tuple, list)):
        raise InvalidProblem(
            f"The {what} returned a {type(value).__name__} of {len(value)} items, not a number. This usually means "
            f"(cost, cache). Try lambda p: {what}(p)[0]."
        )
    if value is None:
        raise InvalidProblem(f"The {what} returned None. This usually means that its return statement is missing.")
    if isinstance(value, np.ndarray):
        raise InvalidProblem(
            f"The {what} returned an array of shape {value.shape}, not a number. This usually means that the mean or "
            f"the sum over the samples is missing. Try lambda p: {what}(p).mean(), the way in which backprop takes it."
        )
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise InvalidProblem(
            f"The {what} returned {value!r} of type {type(value).__name__}, not a real number. Try to return a float."
        )
    return float(value)
