"""A rule for the one place in which a backward pass differs from the right one, by the line of forward."""

from __future__ import annotations

from collections.abc import Iterator

from gc_hooks._typing import Array
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, listed, of_gradients, sentence, spoken
from gc_hooks.rules.context import RuleContext
from gc_hooks.rules.pattern import wrong_from_below
from gc_hooks.rules.scale import in_words
from gc_hooks.tracing.slips import Argument, Kind, Slip

CODES = {
    Kind.PATH: Code.PATH_LOST,
    Kind.DERIVATIVE: Code.ACTIVATION_DERIVATIVE,
    Kind.NOT_TRANSPOSED: Code.NOT_TRANSPOSED,
    Kind.DELTA_NOT_TRANSPOSED: Code.NOT_TRANSPOSED,
    Kind.OTHER_WEIGHT: Code.OTHER_WEIGHT,
    Kind.UPDATED: Code.UPDATED_BEFORE,
    Kind.OTHER_INPUT: Code.OTHER_INPUT,
    Kind.USES: Code.USES_LOST,
    Kind.SAMPLES: Code.SAMPLES_LOST,
    Kind.OTHER_SAMPLES: Code.OTHER_SAMPLES,
}
ADVICE = {
    Code.PATH_LOST: "This usually means a value that backward takes for a constant, or a gradient that is not handed "
    "on. Try to add its term to backward.",
    Code.PATH_SCALED: "This usually means a factor of that line that backward has twice or not at all. Try to compare "
    "the two lines.",
    Code.ACTIVATION_DERIVATIVE: "This usually means the derivative of another function, or of the output where the "
    "input belongs. Try to write it down anew.",
    Code.NOT_TRANSPOSED: "Try the transpose in the line of backward that belongs to it.",
    Code.OTHER_WEIGHT: "This usually means an index that is off by one. Try the weight of the same layer.",
    Code.UPDATED_BEFORE: "This usually means an update inside of the loop of backward. Try to update after all deltas "
    "are computed.",
    Code.OTHER_INPUT: "This usually means a cache that was overwritten, or an index that is off by one. Try to keep "
    "the value that goes into that product.",
    Code.USES_LOST: "This usually means = where += belongs, or a loop that ends too early. Try +=.",
    Code.OTHER_SAMPLES: "This usually means a loss over the whole data set beside the gradient of one batch. Try a "
    "loss of the samples that the gradient is made with.",
    Code.SAMPLES_LOST: "This usually means = where += belongs in a loop over samples, or an index that is left over. "
    "Try the product over all rows.",
}
WORDS = {
    "matmul": "the product",
    "dot": "the product",
    "multiply": "the product",
    "subtract": "the difference",
    "add": "the sum",
    "divide": "the quotient",
}


def old_caches(context: RuleContext) -> Iterator[Diagnosis]:
    """My backward gives the same gradient whatever the parameters are: it reads what an earlier forward pass has left.
    Seen when it does not move although the parameters do; costs one gradient and one traced evaluation."""
    names = context.unexplained
    if names and set(names) == set(context.nonzero) and context.gradient_stands_still():
        yield Diagnosis(
            Code.OLD_CACHES,
            tuple(names),
            "Backward gives the same gradient when the parameters move, and the loss's own gradient changes.",
            advice="This usually means that it reads the caches of an earlier forward pass. Try a function that runs "
            "forward first: backward=lambda: (net.loss(x, y), net.backward()).",
        )


def backward_slip(context: RuleContext) -> Iterator[Diagnosis]:
    """My backward differs from the right one in one place: a path is lost, a derivative is that of the output, a weight
    is not transposed. Seen when the reverse pass of the traced loss gives my gradient, in every entry, with that slip
    in it. Costs three traced evaluations, and one pass back for each slip that is tried."""
    names = context.unexplained
    slip = context.find_slip(names) if names else None
    if slip is None:
        return
    code = CODES[slip.kind]
    if (code is Code.PATH_LOST and slip.weight) or _lacks_a_factor(slip):
        code = Code.PATH_SCALED
    seen, advice = _seen(slip), ADVICE[code]
    below, first, above = wrong_from_below(context)
    if code is not Code.OTHER_SAMPLES and not slip.names and len(below) > 1 and set(below) == set(names):
        if above and not any(map(context.is_wrong, above)):
            code, seen = Code.WRONG_BELOW, f"Wrong from {listed(first)} down, right from {spoken(above[0])} on. {seen}"
        elif slip.is_at_loss:
            code, seen = Code.OTHER_LOSS, f"Every parameter is wrong. {seen}"
    diagnosis = Diagnosis(code, tuple(names), seen, advice=advice, place=slip.place)

    def attempt(name: str) -> tuple[Array, str]:
        return context.gradient_without(slip, name), "that put right"

    yield context.with_repair(diagnosis, Repair.BACKWARD, attempt)


def _lacks_a_factor(slip: Slip) -> bool:
    """Return whether a derivative is left out that is a constant: a mask, the weights of samples."""
    is_constant = slip.function in ("multiply", "divide")
    return slip.kind is Kind.DERIVATIVE and slip.formula.of is Argument.NOTHING and is_constant


def _seen(slip: Slip) -> str:
    """Return what backward does in the wrong place."""
    function = WORDS.get(slip.function) or (f"{slip.function}()" if slip.function else "the formula")
    where, own = f"{function} in {slip.place}", of_gradients(slip.names)
    formula = slip.formula
    match slip.kind:
        case Kind.PATH if slip.weight == 0:
            return f"Backprop's gradient is exactly the one without the way back through {where}."
        case Kind.PATH:
            return f"What goes back through {where} is {in_words(slip.weight, {})} what it should be."
        case Kind.DERIVATIVE if _lacks_a_factor(slip):
            return f"Backprop's gradient is exactly the one without the constant factor of {where}."
        case Kind.DERIVATIVE if formula.of is Argument.NOTHING:
            return f"Backprop's gradient is exactly the one in which the derivative of {where} is left out."
        case Kind.DERIVATIVE:
            letter = "a is its result" if formula.of is Argument.OUTPUT else "z is what goes into it"
            if formula.is_more:
                return f"Backprop's derivative of {where} is multiplied by {formula.words} once more, where {letter}."
            return f"Backprop's derivative of {where} is exactly {formula.words}, where {letter}."
        case Kind.NOT_TRANSPOSED:
            return f"The gradient goes back through {where} with the matrix not transposed."
        case Kind.DELTA_NOT_TRANSPOSED:
            return f"The gradient goes back through {where} with the delta not transposed."
        case Kind.OTHER_WEIGHT:
            other = spoken(slip.instead)
            return f"The gradient goes back through {where} by {other}, which is not the weight of that line."
        case Kind.UPDATED:
            updated = f"{listed(slip.names)} - {slip.weight:.3g} * its gradient"
            return f"The gradient goes back through {where} by {updated}: a weight that was updated already."
        case Kind.OTHER_SAMPLES:
            return f"Backprop's gradient is exactly that of {slip.count} of the {slip.instead} samples in the loss."
        case Kind.OTHER_INPUT:
            return f"{sentence(own)} is made with {slip.instead}, and not with what goes into {where}."
        case _:
            what = "uses" if slip.kind is Kind.USES else "rows"
            holds = agree(slip.names, "holds", "hold")
            return f"{sentence(own)} {holds} only {slip.instead} of {slip.count} {what}, of {where}."
