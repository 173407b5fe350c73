"""A rule for the L2 penalty: what is wrong is a multiple of the parameter itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, of_gradients, sentence, spoken
from gc_hooks.rules.context import RuleContext, is_several
from gc_hooks.rules.scale import factor_is_known, penalty_part, recognised

SAME_RATIO = 1e-3
"""How near to 0 (missing) or -1 (wrong sign) the L2 term's ratio to the right one has to be. The penalty is often a
thousandth of the gradient, so that its ratio is known to a thousandth of the gradient's accuracy only."""
ADVICE = {
    Code.L2_MISSING: "Try to add strength * W in backward, divided by m if the loss does.",
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
        # And of equal entries (a gamma of ones) any constant error is a multiple.
        is_hidden = _is_of_one_size(value) and not np.any(context.penalty_slopes(name))
        if not is_several(context.slopes_of(value, name)) or is_hidden:
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
        elif factor_is_known(context, name):
            continue  # the gradient is a multiple of the parameter, as in sum(W**2): a factor alone explains it
        elif excess < 0:
            code = Code.L2_MISSING
        elif context.is_bias(name):
            code = Code.L2_ON_BIAS
        found.setdefault(code, {})[name] = excess, ratio
    # A bias alone lacks no penalty: its gradient is along it by chance (after the first steps from zero).
    if all(map(context.is_bias, found.get(Code.L2_MISSING, {}))):
        found.pop(Code.L2_MISSING, None)
    for code, wrong in found.items():
        yield _diagnosis(context, code, wrong)


def _is_of_one_size(value: Array) -> bool:
    """Return whether all entries have one absolute value."""
    sizes = np.abs(value)
    return bool(np.ptp(sizes) <= SAME_RATIO * np.max(sizes, initial=0.0))


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
            more = (
                f" It may be all of a term of {abs(excess):.3g}, half of one of {2 * abs(excess):.3g}, or the sign of "
                f"one of {abs(excess) / 2:.3g}."
            )
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


def part_of_penalty(context: RuleContext) -> Iterator[Diagnosis]:
    """My penalty is an L1 term, or an L2 term on some entries only, and backward lacks it or has another. Seen when the
    gradient passes after a multiple of the sign, or of some entries of the parameter, is taken off; costs no slope."""
    for name in context.unexplained:
        value, gradient, slopes = context.value(name), context.gradient(name), context.slopes(name)
        measured, own = context.measured_gradient(name), of_gradients([name])
        if measured is None or np.count_nonzero(value) < LEAST_ENTRIES or _is_of_one_size(value):
            continue
        signs = np.unique(np.sign(value[value != 0]))
        indices, _ = context.wrong_entries(name)
        chosen = np.zeros(value.shape)
        chosen.flat[indices] = value.flat[indices]
        excess = context.slopes_of(gradient, name) - slopes
        for code, terms in (
            (Code.L1, {f"sign({name})": np.sign(value)}),
            (Code.L1, {f"sign({name})": np.sign(value), name: value}),
            (Code.L2_MISSING, {f"{name} in {len(indices)} of {value.size} entries": chosen}),
        ):
            few = any(np.count_nonzero(term) < LEAST_ENTRIES * len(terms) for term in terms.values())
            if few or (code is Code.L1 and len(signs) < 2):  # of one sign any constant error is an L1 term
                continue
            strengths = context.fit(name, excess, *terms.values())
            taken = sum(strength * term for strength, term in zip(strengths, terms.values(), strict=True))
            if not np.all(np.isfinite(strengths)) or context.try_repair(name, gradient - taken) is None:
                continue
            words = []
            for strength, term in zip(strengths, terms, strict=True):
                words.append(f"{'has' if strength > 0 else 'lacks'} {abs(strength):.3g} * {term}")
            if code is Code.L2_MISSING and strengths[0] > 0:
                code = Code.L2_FACTOR
            yield context.with_repair(
                Diagnosis(code, (name,), sentence(f"{own} {' and '.join(words)}."), advice=ONE_OF_TWO),
                Repair.PENALTY,
                {name: (gradient - taken, "that put right")}.__getitem__,
            )
            break


LEAST_ENTRIES = 4
"""Entries that have to agree, for each strength: those of a bias before softmax sum to zero, and one proves nothing."""
ONE_OF_TWO = (
    "This usually means a penalty that is in one of loss and gradient only, or an L1 term in one and an L2 term in the "
    "other. Try to compare the two lines."
)
