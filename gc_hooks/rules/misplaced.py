"""Rules for gradients that are right, but in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.problem import Problem
from gc_hooks.report.diagnosis import Diagnosis, listed, of_gradients, sentence
from gc_hooks.rules.context import RuleContext

MOST = 40


def transposed(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient of a matrix is its transpose, or its entries are in another order."""
    for name in context.failing:
        for what, repaired in _reordered(context.grad(name)):
            comparison = context.passes(name, repaired)
            if comparison is not None:
                yield Diagnosis(
                    "transposed",
                    (name,),
                    sentence(f"{of_gradients([name])} is {what} of the measured slopes."),
                    f"With {of_gradients([name])}{'.T' if what == 'the transpose' else ' put in order'} the difference "
                    f"would be {comparison.difference:.1g}.",
                    "This usually means delta.T @ inputs for inputs.T @ delta, or a reshape in another order. Try to "
                    "write down the shapes of both factors.",
                )


def _reordered(grad: Array) -> Iterator[tuple[str, Array]]:
    if grad.ndim != 2 or min(grad.shape) < 2:
        return
    if grad.shape[0] == grad.shape[1]:
        yield "the transpose", grad.T
    else:
        yield "a reshaped transpose", grad.reshape(grad.shape[::-1]).T
        yield "a reshaped transpose", grad.T.reshape(grad.shape)


def in_wrong_place(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My gradients are right, but those of two parameters are exchanged, or the two lists are out of step."""
    taken = {name: other for name in context.failing[:MOST] if (other := _really_of(context, name)) is not None}
    pairs = [(name, other) for name, other in taken.items() if taken.get(other) == name and name < other]
    for pair in pairs:
        yield _diagnosis("swapped", pair, "exchanged", context, taken)
    shifted = [name for name in taken if not any(name in pair for pair in pairs)]
    if len(shifted) > 1:
        yield _diagnosis("out_of_step", tuple(shifted), "out of step with the parameters", context, taken)


def _really_of(context: RuleContext, name: str) -> str | None:
    """The parameter under whose name this one's gradient was handed in."""
    grad = context.grad(name)
    for other, candidate in context.problem.grads.items():
        alike = other != name and candidate.shape == grad.shape and not np.array_equal(candidate, grad)
        if alike and context.passes(name, candidate) is not None:
            return other
    return None


def _diagnosis(code: str, names: tuple[str, ...], what: str, context: RuleContext, taken: dict[str, str]) -> Diagnosis:
    explained = listed(f"{of_gradients([taken[name]])} is that of {name}" for name in names)
    worst = max(context.judged(name, context.grad(taken[name])).difference for name in names)
    return Diagnosis(
        code,
        names,
        f"The gradients of {listed(names)} are {what}.",
        f"By its values {explained}; put in their places, the difference would be {worst:.1g}.",
        "This usually means a list that was built in another order, or an index that is off by one. Try names in place "
        "of positions.",
    )
