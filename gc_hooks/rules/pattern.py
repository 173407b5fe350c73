"""Rules that see a pattern in what is wrong: nothing there, all the same, a few entries, everything below a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.problem import Problem
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Diagnosis, listed, of_gradients, sentence
from gc_hooks.report.verdict import Verdict
from gc_hooks.rules.context import RuleContext
from gc_hooks.slopes.measurements import MeasuredEntries

FEW, SEVERAL = 0.2, 3
LEAST_RIGHT = 2
BY_LAYER = "check_layers(layers, inputs) checks each layer's backward alone."
UNITS = "single units: try to look at which inputs or outputs they belong to, and at slices and padding."


def gradient_lost(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is exactly zero although the loss depends on the parameter."""
    names = [name for name in context.failing if problem.grad_norms[name] == 0]
    if names:
        yield Diagnosis(
            "gradient_lost",
            tuple(names),
            f"{sentence(of_gradients(names))} {_is(names)} exactly zero, and the measured slopes are not.",
            f"The measured norm is {max(context[name].measured_norm for name in names):.2g}.",
            "This usually means a buffer that is never written, a result assigned to a copy, or a mask that is always "
            "zero. Try to print it at the end of backward.",
        )


def parameter_unused(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My loss does not depend on a parameter that has a gradient."""
    names = [n for n in context.failing if np.all(np.abs(context.slopes(n)) <= 1e-13 * problem.grad_norms[n])]
    if names:
        yield Diagnosis(
            "parameter_unused",
            tuple(names),
            f"The loss does not depend on {listed(names)}, and backprop has a gradient there.",
            f"The measured slopes are zero; backprop's norm is {max(problem.grad_norms[n] for n in names):.2g}.",
            "This usually means that forward uses another parameter in its place (the bias of another gate), or "
            "forgets it. Try to look for the name in forward.",
        )


def summed_over_wrong_axis(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My bias gradient is summed over all axes, or over the wrong one: all its entries, or rows, are equal."""
    for name in context.open:
        where = _all_equal(context.grad(name))
        if where and not _all_equal(_measured_array(context, name)):
            yield Diagnosis(
                "summed_over_wrong_axis",
                (name,),
                f"{sentence(of_gradients([name]))} has {where} equal, and the measured slopes differ.",
                f"Backprop has {context.grad(name).flat[0]:.4g} there; measured: "
                f"{', '.join(f'{s:.4g}' for s in context.slopes(name)[:3])}.",
                "This usually means a sum over all axes, or over the units where the samples are meant, and "
                "broadcasting that hides it. Try np.sum(delta, axis=0) where rows are samples, with keepdims=True.",
            )


def _all_equal(grad: Array | None) -> str:
    if grad is None or grad.size < 2 or not np.any(grad):
        return ""
    if np.ptp(grad) <= 1e-13 * np.max(np.abs(grad)):
        return "all entries"
    if grad.ndim == 2 and min(grad.shape) > 1:
        for axis, what in ((0, "all rows"), (1, "all columns")):
            if np.max(np.ptp(grad, axis=axis)) <= 1e-13 * np.max(np.abs(grad)):
                return what
    return ""


def _measured_array(context: RuleContext, name: str) -> Array | None:
    """The slopes in the parameter's shape, where every entry was measured."""
    measured = context.measurements.parameters[name]
    if not measured.complete:
        return None
    return measured.entries(context.grad(name)).slopes.reshape(context.grad(name).shape)


def few_entries(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """A few entries of my gradient are wrong: single ones, rows or columns, rows that an index hits twice."""
    for name in context.open:
        wrong = _wrong_entries(context, name)
        grad, indices = context.grad(name), wrong.indices
        few = 0 < len(indices) <= max(1, FEW * grad.size) and grad.size > 1
        if few and (repaired := context.passes(name, _patched(wrong, grad))) is not None:
            yield _few(name, wrong, *_where(grad, indices), _left(repaired))
        elif len(indices) >= SEVERAL and (lines := _lines(context, name, indices)) is not None:
            yield _few(name, wrong, *lines, f"{len(indices)} entries there were measured; the rest is right.")


def many_lines(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """Many rows of my gradient are wrong and the others are right: an index that stands there twice counts once.

    Asked after `wrong_below`: a derivative that is missing spares whole rows or columns too.
    """
    for name in context.open:
        slopes, wrong = _measured_array(context, name), _wrong_entries(context, name)
        if slopes is None or not len(wrong.indices):
            continue
        code, where = _where(slopes, wrong.indices)
        patched = _patched(wrong, context.grad(name))
        several = code != "single_entries" and _right_lines(slopes, wrong, code) >= LEAST_RIGHT
        if several and (repaired := context.passes(name, patched)) is not None:
            yield _few(name, wrong, code, where, _left(repaired))


def _right_lines(slopes: Array, wrong: MeasuredEntries, code: str) -> int:
    """How many rows or columns are right, those of zeros aside, which a table has where it is not looked up."""
    spoiled = np.zeros(slopes.shape, dtype=bool)
    spoiled.flat[wrong.indices] = True
    across = 1 if code == "rows" else 0
    return int(np.count_nonzero(np.any(slopes, axis=across) & ~np.any(spoiled, axis=across)))


def _left(repaired: Comparison) -> str:
    return f"With the measured values there it would be {repaired.difference:.1g}."


def _few(name: str, wrong: MeasuredEntries, code: str, where: str, measurements: str) -> Diagnosis:
    ratios = wrong.slopes / np.where(wrong.grad == 0, np.nan, wrong.grad)
    if code == "rows" and np.all(np.abs(ratios - np.round(ratios)) < 1e-5) and np.all(ratios > 1.5):
        code, where = "repeated_indices", f"{where}, by a factor of {listed(sorted({f'{r:.0f}' for r in ratios}))}"
    return Diagnosis(
        code, (name,), f"{sentence(of_gradients([name]))} is wrong in {where} only.", measurements, _advice(code)
    )


def _wrong_entries(context: RuleContext, name: str) -> MeasuredEntries:
    """The measured entries that are wrong."""
    entries = context.measurements.parameters[name].entries(context.grad(name))
    size = np.abs(entries.grad) + np.abs(entries.slopes)
    wrong = entries.away > entries.errors + context.tolerance.good * size
    return MeasuredEntries(*(column[wrong] for column in entries))


def _lines(context: RuleContext, name: str, indices: Array) -> tuple[str, str] | None:
    """Rows or columns of a large matrix that hold all that is wrong."""
    shape = context.grad(name).shape
    if len(shape) != 2 or context[name].exact:
        return None
    for axis, code in enumerate(("rows", "columns")):
        found = np.unique(np.unravel_index(indices, shape)[axis])
        wrong = np.zeros(shape, dtype=bool)
        wrong[(slice(None),) * axis + (found,)] = True
        most = shape[axis] // 2
        if SEVERAL * len(found) <= min(len(indices), SEVERAL * most) and context.right_outside(name, wrong):
            return code, f"{code[:-1] if len(found) == 1 else code} {listed(map(str, found))}"
    return None


def _patched(wrong: MeasuredEntries, grad: Array) -> Array:
    patched = grad.copy()
    patched.flat[wrong.indices] = wrong.slopes
    return patched


def _where(grad: Array, indices: Array) -> tuple[str, str]:
    """Whether entries make up whole rows or columns."""
    if grad.ndim == 2 and min(grad.shape) > 1:
        rows, columns = (np.unique(axis) for axis in np.unravel_index(indices, grad.shape))
        for code, found, across in (("rows", rows, grad.shape[1]), ("columns", columns, grad.shape[0])):
            if len(indices) == len(found) * across:
                one = code[:-1] if len(found) == 1 else code
                return code, f"{one} {listed(map(str, found))}"
    places = [str([int(i) for i in np.unravel_index(index, grad.shape)]) for index in indices]
    return "single_entries", f"{'entry' if len(places) == 1 else 'entries'} {listed(places)}"


def _advice(code: str) -> str:
    if code == "repeated_indices":
        return (
            "This usually means grads[index] += delta where an index stands there twice: only one of them counts. Try "
            "np.add.at(grads, index, delta)."
        )
    if code == "single_entries":
        return "This usually means an index, a border, a clip or a special case. Try to look at what is special there."
    if code == "rows":
        return (
            "If these are rows of an embedding, or of a table that is indexed, it usually means grads[index] += delta "
            "where an index stands there twice, of which only one counts. Try np.add.at(grads, index, delta). Else "
            f"they are {UNITS}"
        )
    return f"These are {UNITS}"


def wrong_below(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """Everything from one layer down is wrong, and right above it: something between the two is not differentiated
    properly. Or everything is wrong, from the loss down."""
    layers = _layers([name for name in context if problem.grad_norms.get(name, 0.0) > 0 or name in context.failing])
    wrong = {name for name in context.failing if name not in context.explained}
    depth = 0
    for names in layers.values():
        if not any(name in wrong for name in names) or not all(
            context[n].verdict is not Verdict.GOOD or context[n].note == "no gradient" for n in names
        ):
            break
        depth += 1
    below = [name for names in list(layers.values())[:depth] for name in names if name in wrong]
    above = [name for names in list(layers.values())[depth:] for name in names]
    if (
        len(below) < 2
        or (not above and context.explained)
        or any(context[name].verdict > Verdict.INCONCLUSIVE for name in above)
    ):
        return
    last = list(layers.values())[depth - 1]
    yield (
        _from_loss_down(below)
        if not above
        else _from_layer_down(context, below, above, [n for n in last if n in wrong])
    )


def _from_loss_down(below: list[str]) -> Diagnosis:
    return Diagnosis(
        "other_loss",
        tuple(below),
        "Every parameter is wrong, the last layer's too, and by no constant factor.",
        advice="The first delta is wrong already: this usually means the gradient of another loss than the one that is "
        "reported (softmax with a squared error), or of another output activation. Try to check the loss's own "
        "gradient for the outputs.",
    )


def _from_layer_down(context: RuleContext, below: list[str], above: list[str], first: list[str]) -> Diagnosis:
    shown = ", ".join(f"{name} {context[name].difference:.1g}" for name in first)
    return Diagnosis(
        "wrong_below",
        tuple(below),
        f"Wrong from {listed(first)} down, and right from {above[0]} on.",
        f"Counting from the loss, the first wrong ones are {shown}; the last right one is {above[0]}.",
        f"The delta is still right where {above[0]} gets it, and wrong where {first[0]} does. Try to look at what lies "
        "between: the derivative of that activation (of its input or of its output?), a dropout mask, the weight by "
        f"which delta is handed down, and whether it was updated before. {BY_LAYER}",
    )


def _layers(names: list[str]) -> dict[str, list[str]]:
    """Parameters by layer: by what stands before the last dot, or by the number in the name.

    Examples
    --------
    >>> _layers(["W1", "W2", "b1", "b2"]), _layers(["dense1.W", "dense1.b"])
    ({'1': ['W1', 'b1'], '2': ['W2', 'b2']}, {'dense1': ['dense1.W', 'dense1.b']})
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        number = re.search(r"\d+", last)
        layers.setdefault(stem or (number.group() if number else last), []).append(name)
    return layers


def unexplained(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is wrong in a way that fits no bug known here."""
    if context.open:
        facts = ", ".join(
            f"{name} {context[name].difference:.1g} ({_share_wrong(context, name)})" for name in context.open
        )
        yield Diagnosis(
            "unexplained",
            tuple(context.open),
            f"No known bug fits {listed(context.open)}.",
            f"Differences: {facts}.",
            "Neither a factor, nor a sign, a transpose, an exchange or an L2 term puts it right; there may be two bugs "
            f"at once. Try to check a smaller piece: one layer, one sample. {BY_LAYER}",
        )


def _share_wrong(context: RuleContext, name: str) -> str:
    comparison = context[name]
    if not comparison.measured:
        return "all over"
    return f"{comparison.wrong} of {comparison.measured} entries looked at are wrong"


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
