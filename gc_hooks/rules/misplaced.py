"""Rules for gradients that are right, but in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, joined, listed, of_gradients, sentence, spoken
from gc_hooks.rules.context import RuleContext

MOST_PARAMETERS = 40
"""Failing parameters for which the gradients of all others are tried. Each trial is a comparison without a new slope,
and costs about as much as reading the arrays; twice as many parameters take twice as long."""


def transposed(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient of a matrix is its transpose, or its entries are in another order. Seen when it passes after it
    is put in order; costs no slope."""
    for name in context.failing:
        own, gradient = of_gradients([name]), context.gradient(name)
        if gradient.ndim != 2 or min(gradient.shape) < 2:
            continue
        what, words, orders = "the transpose", f"{own}.T", [gradient.T]
        if gradient.shape[0] != gradient.shape[1]:
            what, words = "a reshaped transpose", f"{own} put in order"
            orders = [gradient.reshape(gradient.shape[::-1]).T, gradient.T.reshape(gradient.shape)]
        for order in orders:
            if context.try_repair(name, order) is not None:
                diagnosis = Diagnosis(
                    Code.TRANSPOSED,
                    (name,),
                    sentence(f"{own} is {what} of the measured slopes."),
                    advice="This usually means delta.T @ inputs for inputs.T @ delta, or a reshape in another order. "
                    "Try to write down the shapes of both factors.",
                )
                yield context.with_repair(diagnosis, Repair.REORDER, {name: (order, words)}.__getitem__)


def rearranged(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient has its entries in another order: a kernel reversed, axes exchanged, all out by one step. Seen when
    it passes after it is put in order; costs no slope."""
    for name in context.unexplained:
        for code, words, advice, order in _orders(context.gradient(name)):
            if not np.array_equal(order, context.gradient(name)) and context.try_repair(name, order) is not None:
                message = sentence(f"{of_gradients([name])} is the measured slopes, {words}.")
                diagnosis = Diagnosis(code, (name,), message, advice=advice)
                yield context.with_repair(diagnosis, Repair.REORDER, {name: (order, "that put right")}.__getitem__)
                break


def _orders(gradient: Array) -> Iterator[tuple[Code, str, str, Array]]:
    """Yield a gradient with its entries in other orders: a code, words for what was wrong, an advice, and the array."""
    axes, several = range(gradient.ndim), [axis for axis in range(gradient.ndim) if gradient.shape[axis] > 1]
    for count in range(len(several), 0, -1):
        for chosen in combinations(several, count):
            where = f"reversed along {agree(chosen, 'axis', 'axes')} {joined(map(str, chosen))}"
            yield Code.FLIPPED, where, TURNED, np.flip(gradient, chosen)
    for axis in several:
        for by in (1, -1):
            yield Code.SHIFTED, f"shifted by one along axis {axis}", OUT_BY_ONE, np.roll(gradient, by, axis)
    if gradient.ndim > 2:
        for order in permutations(axes):
            moved = np.transpose(gradient, order)
            if moved.shape == gradient.shape:
                yield Code.TRANSPOSED, "with its axes exchanged", EXCHANGED, moved


def copied(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is that of another parameter, by a line that was copied. Seen when the two are equal and the other is
    right; costs nothing."""
    copies: dict[str, list[str]] = {}
    for name in context.unexplained:
        for source in context.usable:
            is_other = source != name and context.is_right(source)
            if is_other and np.array_equal(context.gradient(source), context.gradient(name)):
                copies.setdefault(source, []).append(name)
                break
    for source, names in copies.items():
        own, verb = of_gradients(names), agree(names, "is", "are")
        message = sentence(f"{own} {verb} the very numbers of {of_gradients([source])}, which is right.")
        advice = "This usually means a line that was copied. Try to look at the names in it."
        yield Diagnosis(Code.COPIED, tuple(names), message, advice=advice)


TURNED = (
    "This usually means a convolution where a correlation belongs, or a kernel that is rotated. Try to turn it round, "
    "kernel[::-1, ::-1], or not to."
)
OUT_BY_ONE = "This usually means an index that is off by one (u[t] for u[t - 1]). Try to write down the first and last."
EXCHANGED = "This usually means axes in another order. Try to write down the shapes of both factors."


def in_wrong_place(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradients are right, but those of two parameters are exchanged, or the two lists are out of step.
    Seen when another parameter's gradient passes; costs a comparison for each pair of the same shape, and no slope."""
    sources: dict[str, str] = {}  # for each parameter, the one under whose name its gradient was handed in
    for name in context.failing[:MOST_PARAMETERS]:
        gradient = context.gradient(name)
        for source in context.nonzero:
            candidate = context.gradient(source)
            differs = candidate.shape == gradient.shape and not np.array_equal(candidate, gradient)
            if source != name and differs and context.try_repair(name, candidate) is not None:
                sources[name] = source
                break
    shifted = list(sources)
    for name, source in sources.items():
        if name < source and sources.get(source) == name:
            shifted.remove(name)
            shifted.remove(source)
            yield _misplaced(context, Code.SWAPPED, [name, source], "exchanged", sources)
    if len(shifted) > 1:
        yield _misplaced(context, Code.OUT_OF_STEP, shifted, "out of step with the parameters", sources)


def _misplaced(context: RuleContext, code: Code, names: list[str], how: str, sources: dict[str, str]) -> Diagnosis:
    places = joined(f"{of_gradients([sources[name]])} is that of {spoken(name)}" for name in names)
    diagnosis = Diagnosis(
        code,
        tuple(names),
        f"The gradients of {listed(names)} are {how}.",
        advice="This usually means a list in another order. Try names for positions.",
    )
    return context.with_repair(
        diagnosis,
        Repair.MOVE,
        lambda name: (context.gradient(sources[name]), "each in its place"),
        f" By value {places}.",
    )
