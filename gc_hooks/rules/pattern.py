"""Rules that see a pattern in what is wrong: zeros, equal rows, a few entries, everything below a layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import largest
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, joined, listed, of_gradients, sentence, spoken
from gc_hooks.report.verdict import Verdict
from gc_hooks.rules.context import RuleContext

EQUAL = 1e-13
"""Relative size of what is taken for rounding: about 450 roundings of float64."""
FEW = 0.2
"""Largest fraction of the entries that is called a few. With more, half a matrix that is wrong would be listed."""
LEAST_RIGHT = 2
"""Right rows or columns beside the many that are wrong; where all are wrong, it is no pattern."""
REPEATED = "grads[index] += delta where an index stands there twice"
UNITS = "single units. Try to look at which inputs or outputs they belong to, and at slices and padding."
ADVICE = {
    Code.SINGLE_ENTRIES: "This usually means an index, a border or a clip. Try to look at what is special there.",
    Code.ROWS: f"Of a table that is indexed, this usually means {REPEATED}: only one counts. Try np.add.at(grads, "
    "index, delta); else, to look at which units these are.",
    Code.COLUMNS: f"These are {UNITS}",
    Code.REPEATED_INDICES: f"This usually means {REPEATED}: only one counts. Try np.add.at(grads, index, delta).",
}
PLACES = {Code.SINGLE_ENTRIES: ("entry", "entries"), Code.ROWS: ("row", "rows"), Code.COLUMNS: ("column", "columns")}


def gradient_lost(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is exactly zero although the loss depends on the parameter. Seen by its norm; costs nothing."""
    names = [name for name in context.failing if context.gradient_norm(name) == 0]
    if names:
        largest = max(context.comparison(name).measured_norm for name in names)
        yield Diagnosis(
            Code.GRADIENT_LOST,
            tuple(names),
            sentence(f"{of_gradients(names)} {agree(names, 'is', 'are')} exactly zero, the measured slopes are not."),
            f"The measured norm is {largest:.2g}.",
            "This usually means a buffer that is never written, a result assigned to a copy, or a mask that is always "
            "zero. Try to print it at the end of backward.",
        )


def parameter_unused(context: RuleContext) -> Iterator[Diagnosis]:
    """My loss does not depend on a parameter that has a gradient. Seen by slopes that are all zero; costs nothing."""
    sizes = {name: largest(context.slopes(name)) for name in context.unexplained}
    names = [name for name, size in sizes.items() if size <= EQUAL * context.gradient_norm(name)]
    if names:
        yield Diagnosis(
            Code.PARAMETER_UNUSED,
            tuple(names),
            f"The loss does not depend on {listed(names)}, and backprop has a gradient there.",
            f"The measured slopes are zero; backprop's norm is {max(map(context.gradient_norm, names)):.2g}.",
            "This usually means that forward forgets it, or uses another parameter in its place (the bias of another "
            "gate). Try to look for the name in forward.",
        )


def summed_over_wrong_axis(context: RuleContext) -> Iterator[Diagnosis]:
    """My bias gradient is summed over all axes, or over the wrong one: all its entries, or rows, are equal.
    Seen when the measured slopes are not; costs nothing."""
    for name in context.unexplained:
        equal, measured = _equal_parts(context.gradient(name)), context.measured_gradient(name)
        if equal and np.any(context.slopes(name)) and (measured is None or not _equal_parts(measured)):
            shown = ", ".join(map("{:.4g}".format, context.slopes(name)[:3]))
            yield Diagnosis(
                Code.SUMMED_OVER_WRONG_AXIS,
                (name,),
                f"{sentence(of_gradients([name]))} has {equal} equal, and the measured slopes differ.",
                f"Backprop has {context.gradient(name).flat[0]:.4g} there; measured: {shown}.",
                "This usually means a sum over all axes, or over the units in place of the samples, which broadcasting "
                "hides. Try np.sum(delta, axis=0) where rows are samples, with keepdims=True.",
            )


def _equal_parts(array: Array) -> str:
    """Return which parts of an array are equal, for a sentence; empty where none are."""
    rounding = EQUAL * np.max(np.abs(array), initial=0.0)
    if array.size < 2 or not rounding:
        return ""
    if np.ptp(array) <= rounding:
        return "all entries"
    if array.ndim == 2 and min(array.shape) > 1:
        for axis, what in enumerate(("all rows", "all columns")):
            if np.max(np.ptp(array, axis=axis)) <= rounding:
                return what
    return ""


def few_entries(context: RuleContext) -> Iterator[Diagnosis]:
    """A few entries of my gradient are wrong: single ones, rows or columns, rows that an index hits twice. Seen when
    the gradient passes with the measured slopes there. Costs nothing."""
    for name in context.unexplained:
        size, (indices, _) = context.gradient(name).size, context.wrong_entries(name)
        few = 0 < len(indices) <= max(1, FEW * size) and size > 1 and _others_are_right(context, name, indices)
        found = _replaced_by_slopes(context, name) if few else None
        if found:
            yield found


def _others_are_right(context: RuleContext, name: str, wrong: Array) -> bool:
    """Return whether an entry is right that is not zero: zeros on both sides are no evidence."""
    slopes = context.measured_gradient(name)
    if slopes is None:
        return True
    others = np.ones(slopes.size, dtype=bool)
    others[wrong] = False
    return bool(np.any(slopes.flat[others]))


def many_lines(context: RuleContext) -> Iterator[Diagnosis]:
    """Many rows of my gradient are wrong and the others are right: an index that stands there twice counts once. Seen
    as a few entries are, but after `wrong_below`: a missing derivative spares whole rows too. Costs nothing."""
    for name in context.unexplained:
        slopes, (indices, _) = context.measured_gradient(name), context.wrong_entries(name)
        if slopes is None or slopes.ndim != 2 or not len(indices):
            continue
        found = _replaced_by_slopes(context, name)
        if found is None or found.code == Code.SINGLE_ENTRIES:
            continue
        wrong = np.zeros(slopes.shape, dtype=bool)
        wrong.flat[indices] = True
        # Lines of zeros say nothing: a table has one for each word that the batch does not contain.
        along = int(found.code != Code.COLUMNS)
        if np.count_nonzero(np.any(slopes, axis=along) & ~np.any(wrong, axis=along)) >= LEAST_RIGHT:
            yield found


def _replaced_by_slopes(context: RuleContext, name: str) -> Diagnosis | None:
    """Return the diagnosis of wrong entries, if the gradient passes with the measured slopes in their place."""
    indices, slopes = context.wrong_entries(name)
    repaired = context.gradient(name).copy()
    repaired.flat[indices] = slopes
    if context.try_repair(name, repaired) is None:
        return None
    places = np.unravel_index(indices, repaired.shape)
    code, lines = Code.SINGLE_ENTRIES, np.stack(places, axis=1)
    if repaired.ndim == 2 and min(repaired.shape) > 1:
        rows, columns = map(np.unique, places)
        if len(indices) == len(rows) * repaired.shape[1]:
            code, lines = Code.ROWS, rows
        elif len(indices) == len(columns) * repaired.shape[0]:
            code, lines = Code.COLUMNS, columns
    diagnosis = _wrong_only_in(context, name, code, lines)
    return context.with_repair(diagnosis, Repair.ENTRIES, lambda _: (repaired, "the measured values there"))


def _wrong_only_in(context: RuleContext, name: str, code: Code, places: Array) -> Diagnosis:
    """Return the diagnosis of entries, rows or columns, whose indices are the places."""
    indices, slopes = context.wrong_entries(name)
    gradient = context.gradient(name).flat[indices]
    where = f"{agree(places, *PLACES[code])} {joined(map(str, places.tolist()))}"
    # An index that stands in a batch k times and counts once makes the true gradient k times backprop's.
    ratios = slopes / np.where(gradient == 0, np.nan, gradient)
    if code is Code.ROWS and np.all(np.abs(ratios - np.round(ratios)) < 1e-5) and np.all(ratios > 1.5):
        factors = np.unique(np.round(ratios)).astype(int)
        code, where = Code.REPEATED_INDICES, f"{where}, by a factor of {joined(map(str, factors))}"
    message = f"{sentence(of_gradients([name]))} is wrong in {where} only."
    evidence = f"{len(indices)} entries there were measured; the rest is right."
    return Diagnosis(code, (name,), message, evidence, ADVICE[code])


def weight_alone(context: RuleContext) -> Iterator[Diagnosis]:
    """My bias is right, and the weight of its layer is wrong, and all below: the weight's gradient is made with another
    input than forward's. Seen by the order of the parameters and by their names; costs nothing."""
    names = context.unexplained
    layers = context.layers
    wrong_layers = [layer for layer, members in layers.items() if set(members) & set(names)]
    if not wrong_layers:
        return
    members = layers[wrong_layers[-1]]
    weights = [name for name in members if name in names]
    biases = [name for name in members if context.is_bias(name) and context.is_right(name)]
    if len(weights) == 1 and biases and not context.is_bias(weights[0]):
        (weight,) = weights
        below = [name for name in names if name != weight]
        if not below:  # then its own line may be wrong in any way
            return
        message = f"{spoken(biases[0])} is right and {spoken(weight)} is not, so the delta arrives there rightly."
        advice = (
            f"This usually means that {spoken(weight)}'s gradient is made with another input than forward's: a mask "
            "drawn again, a stale cache. Try to keep the very array that forward multiplies it with."
        )
        evidence = f"What lies below is wrong, too: {listed(below)}."
        yield Diagnosis(Code.OTHER_INPUT, (weight, *below), message, evidence, advice)


def wrong_below(context: RuleContext) -> Iterator[Diagnosis]:
    """Everything from one layer down is wrong, and right above it: something between the two is not differentiated
    properly. Or all is wrong, and nothing is explained: my backward begins with the gradient of another loss. Seen by
    the order of the parameters and by their names; costs nothing."""
    below, first, above = wrong_from_below(context)
    if len(below) < 2 or any(map(context.is_wrong, above)) or (context.explained and not above):
        return
    right = [name for name in above if context.is_right(name)]
    if above and not right:  # what could not be judged is no evidence
        return
    if not above:
        is_unclear = any(context.comparison(name).verdict is Verdict.INCONCLUSIVE for name in context.usable)
        every = "Every parameter that could be judged" if is_unclear else "Every parameter"
        yield Diagnosis(
            Code.OTHER_LOSS,
            tuple(below),
            f"{every} is wrong, the last layer's too, and by no constant factor.",
            advice="Are loss and gradient of the same samples, mask and mode, and taken before the update? If so, this "
            "usually means the gradient of another loss (softmax with a squared error) or output activation. Try to "
            "check the loss's own gradient for the outputs.",
        )
        return
    last_right, first_wrong = spoken(right[0]), spoken(first[0])
    differences = ", ".join(f"{spoken(name)} {context.comparison(name).difference:.1g}" for name in first)
    yield Diagnosis(
        Code.WRONG_BELOW,
        tuple(below),
        f"Wrong from {listed(first)} down, and right from {last_right} on.",
        f"The first wrong ones, from the loss on, are {differences}.",
        f"This usually means the backward of {first_wrong}'s layer, or what lies between it and {last_right}. Try the "
        "activation's derivative, a dropout mask, the weight by which delta is handed down, and whether it was updated "
        "before.",
    )


def wrong_from_below(context: RuleContext) -> tuple[list[str], list[str], list[str]]:
    """Return the wrong parameters of the lowest layers, those of the layer among them that is next to the loss, and
    all parameters above. The layers end below the first that has a right parameter, or none to be explained."""
    unexplained_names = context.unexplained
    below, first, above = list[str](), list[str](), list[str]()
    for names in context.layers.values():
        wrong = [name for name in names if name in unexplained_names]
        if above or not wrong or any(map(context.is_right, names)):
            above += names
        else:
            below += wrong
            first = wrong
    return below, first, above


def unexplained(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is wrong in a way that fits no bug known here. Seen when no other rule explains it; costs nothing."""
    names = context.unexplained
    if not names:
        return
    right = list(filter(context.is_right, context.names))
    message = f"Wrong: {listed(names)}, in a way that fits no known bug."
    if right:
        message = f"Right: {listed(right)}. Wrong: {listed(names)}, in a way that fits no known bug."
    advice = "This usually means the lines of backward between what is right and what is wrong."
    if len(names) == 1:
        advice = f"This usually means {spoken(names[0])}'s own line of backward, or the input that was kept for it."
    evidence = "; ".join(_where(context, name) for name in names[:MOST_SHOWN])
    yield Diagnosis(
        Code.UNEXPLAINED,
        tuple(names),
        message,
        f"{evidence}.",
        f"{advice} Try to check a smaller piece: one sample, one step, one entry that differs most.",
    )


MOST_SHOWN = 3
"""Parameters whose entries are described: with more, nobody reads the sentence."""


def _where(context: RuleContext, name: str) -> str:
    """Return how many entries of a gradient are wrong, in which pattern, and by how much."""
    comparison, (indices, _) = context.comparison(name), context.wrong_entries(name)
    size, shape = context.gradient(name).size, context.gradient(name).shape
    told = f"{spoken(name)} differs by {comparison.difference:.1g}"
    if not comparison.measured:
        return told
    if comparison.measured < size or not len(indices):
        return f"{told}, in {comparison.wrong} of {comparison.measured} entries looked at"
    if len(indices) == size:
        return f"{told}, in all {size} entries" if size > 1 else told
    places = np.unravel_index(indices, shape)
    for axis, along in enumerate(places):
        lines = np.unique(along)
        if len(lines) <= shape[axis] // 2 and shape[axis] > 2:
            return f"{told}, in {len(indices)} of {size} entries, all with index {_listed_places(lines)} of axis {axis}"
    return f"{told}, in {len(indices)} of {size} entries"


def _listed_places(lines: Array) -> str:
    return joined(map(str, lines.tolist()), 4)
