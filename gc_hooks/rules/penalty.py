"""A rule for the L2 penalty: what is wrong is a multiple of the parameter itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import is_vector
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, of_gradients, sentence, spoken
from gc_hooks.rules.context import RuleContext, is_several
from gc_hooks.rules.scale import factor_of, penalty_part, recognised

SAME_RATIO = 1e-3
"""How near to 0 (missing) or -1 (wrong sign) the L2 term's ratio to the right one has to be. The penalty is often a
thousandth of the gradient, so that its ratio is known to a thousandth of the gradient's accuracy only."""
ADVICE = {
    Code.L2_MISSING: "The loss has the penalty, and backward does not. Try to add strength * W, and to divide it by m "
    "if the loss does.",
    Code.L2_SIGN: "Try + strength * W.",
    Code.L2_FACTOR: "This usually means that the 1/2 or the 1/m of the penalty is in one of loss and gradient only. "
    "Try to compare the two lines.",
    Code.L2_ON_BIAS: "Biases are usually not penalised. Try to leave them out of backward's penalty, or to add them to "
    "the loss's.",
}


def penalty_wrong(context: RuleContext) -> Iterator[Diagnosis]:
    """My L2 term is missing from the gradient, has the wrong factor or sign, or is on the biases too.
    Seen when the gradient passes after a multiple of the parameter is taken off; costs no slope."""
    # By the code: for each gradient how many times the parameter is too much, and the L2 term's ratio to the right one.
    found: dict[Code, dict[str, tuple[float, float]]] = {}
    for name in context.failing:
        # Without a direction or a second entry, one number would always be a multiple of the other.
        value, gradient = context.value(name), context.gradient(name)
        if not is_several(context.slopes_of(value, name)):
            continue
        excess = float(context.fit(name, context.slopes_of(gradient, name), value, less=context.slopes(name))[0])
        if context.try_repair(name, gradient, value, by=partial(_without, excess)) is None:
            continue
        code, ratio, part = Code.L2_FACTOR, math.nan, penalty_part(context, name)
        if part is not None:
            ratio = 1 + excess / float(np.vdot(part, value) / np.vdot(value, value))
            if abs(ratio) < SAME_RATIO:
                code = Code.L2_MISSING
            elif abs(ratio + 1) < SAME_RATIO:
                code = Code.L2_SIGN
        elif recognised(factor_of(context, name) or 0.0, context.constants) is not None:
            continue  # the gradient is a multiple of the parameter, as in sum(W**2): a factor alone explains it
        elif excess < 0:
            code = Code.L2_MISSING
        elif is_vector(value):
            code = Code.L2_ON_BIAS
        found.setdefault(code, {})[name] = excess, ratio
    for code, wrong in found.items():
        yield _diagnosis(context, code, wrong)


def _without(excess: float, gradient: Array, value: Array) -> Array:
    return gradient - excess * value


def _diagnosis(context: RuleContext, code: Code, wrong: dict[str, tuple[float, float]]) -> Diagnosis:
    names = list(wrong)
    excess, ratio = wrong[names[0]]
    gradients, has, more = of_gradients(names), agree(names, "has", "have"), ""
    term = f"{abs(excess):.3g} times the parameter"
    if code is Code.L2_MISSING:
        message = f"{gradients} {agree(names, 'lacks', 'lack')} the L2 term, {term}."
        if not np.any(context.penalty_slopes(names[0])):
            more = " (Half of an L2 term twice as strong would look the same.)"
    elif code is Code.L2_SIGN:
        message = f"{gradients} {has} the L2 term with the wrong sign."
    elif code is Code.L2_ON_BIAS:
        message = f"{gradients} {has} an L2 term, {term}, that is not in the loss."
    elif math.isnan(ratio):
        message = (
            f"{gradients} {has} the L2 term {term} too strong: twice as strong as in the loss, or not in the loss."
        )
    else:
        message = f"{gradients} {has} the L2 term {recognised(ratio, {}) or ratio:.4g} times as strong as in the loss."

    def attempt(name: str) -> tuple[Array, str]:
        excess, _ = wrong[name]
        sign = "-" if excess > 0 else "+"
        repaired = context.gradient(name) - excess * context.value(name)
        return repaired, f"{of_gradients([name])} {sign} {abs(excess):.3g} * {spoken(name)}"

    diagnosis = Diagnosis(code, tuple(names), sentence(message), advice=ADVICE[code])
    return context.with_repair(diagnosis, Repair.PENALTY, attempt, more)
