"""Rules for gradients that are right, but in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.problem import Problem
from gc_hooks.report.diagnosis import Diagnosis, listed, of_gradients, sentence
from gc_hooks.rules.context import Clues

MOST = 40


def transposed(problem: Problem, clues: Clues) -> Iterator[Diagnosis]:
    """My gradient of a matrix is its transpose, or its entries are in another order."""
    for name in clues.failing:
        for what, repaired in _reordered(clues.grad(name)):
            comparison = clues.passes(name, repaired)
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


def in_wrong_place(problem: Problem, clues: Clues) -> Iterator[Diagnosis]:
    """My gradients are right, but those of two parameters are exchanged, or the two lists are out of step."""
    taken = {name: other for name in clues.failing[:MOST] if (other := _really_of(clues, name)) is not None}
    pairs = [(name, other) for name, other in taken.items() if taken.get(other) == name and name < other]
    for pair in pairs:
        yield _diagnosis("swapped", pair, "exchanged", clues, taken)
    shifted = [name for name in taken if not any(name in pair for pair in pairs)]
    if len(shifted) > 1:
        yield _diagnosis("out_of_step", tuple(shifted), "out of step with the parameters", clues, taken)


def _really_of(clues: Clues, name: str) -> str | None:
    """The parameter under whose name this one's gradient was handed in."""
    grad = clues.grad(name)
    for other, candidate in clues.problem.grads.items():
        alike = other != name and candidate.shape == grad.shape and not np.array_equal(candidate, grad)
        if alike and clues.passes(name, candidate) is not None:
            return other
    return None


def _diagnosis(code: str, names: tuple[str, ...], what: str, clues: Clues, taken: dict[str, str]) -> Diagnosis:
    told = listed(f"{of_gradients([taken[name]])} is that of {name}" for name in names)
    worst = max(clues.judged(name, clues.grad(taken[name])).difference for name in names)
    return Diagnosis(
        code,
        names,
        f"The gradients of {listed(names)} are {what}.",
        f"By its values {told}; put in their places, the difference would be {worst:.1g}.",
        "This usually means a list that was built in another order, or an index that is off by one. Try names in place "
        "of positions.",
    )
