"""Rules for the L2 penalty: what is wrong is a multiple of the parameter itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks.problem import Problem
from gc_hooks.report.diagnosis import Diagnosis, of_gradients, sentence
from gc_hooks.rules.context import RuleContext
from gc_hooks.rules.scale import factor_of, is_bias, penalty_part, recognised

MESSAGES = {
    "l2_missing": "{gradients} lack{s} the L2 term, {strength:.3g} times the parameter",
    "l2_sign": "{gradients} ha{ve} the L2 term with the wrong sign",
    "l2_factor": "{gradients} ha{ve} the L2 term {ratio}",
    "l2_on_bias": "{gradients} ha{ve} an L2 term, {strength:.3g} times the parameter, that is not in the loss",
}
ADVICE = {
    "l2_missing": "The loss has the penalty, and backward does not. Try to add strength * W, and to divide it by m if "
    "the loss does.",
    "l2_sign": "Try + strength * W.",
    "l2_factor": "This usually means that the 1/2 or the 1/m of the penalty is in one of loss and gradient only. Try "
    "to compare the two lines.",
    "l2_on_bias": "Biases are usually not penalised. Try to leave them out of backward's penalty, or to add them to "
    "the loss's.",
}


def penalty_wrong(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My L2 term is missing from the gradient, has the wrong factor or sign, or is on the biases too."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for name in context.failing:
        for code, extra, ratio in _readings_of(context, name):
            found.setdefault(code, []).append((name, extra, ratio))
    for code, cases in found.items():
        yield _diagnosis(context, code, cases)


def _readings_of(context: RuleContext, name: str) -> Iterator[tuple[str, float, float]]:
    """Codes that fit, with the multiple of the parameter that is too much, and how strong the L2 term is against what
    it should be."""
    point, grad = context.problem.point[name], context.grad(name)
    if np.count_nonzero(context.seen_through(name, point)) < 2:  # one number is a multiple of any other
        return
    extra = float(context.fit(name, context.seen_through(name, grad) - context.slopes(name), point)[0])
    if context.passes(name, grad - extra * point) is None:
        return
    part = penalty_part(context, name)
    if part is not None:
        strength = float(np.vdot(part, point) / np.vdot(point, point))
        ratio = 1 + extra / strength
        yield _code(ratio), extra, ratio
    elif recognised(factor_of(context, name) or 0.0, context.constants) is not None:
        return  # the whole gradient is a multiple of the parameter here, and such a factor explains it alone
    elif extra > 0:
        yield ("l2_on_bias" if is_bias(context.problem, name) else "l2_factor"), extra, np.nan
    else:
        yield "l2_missing", extra, 0.0


def _code(ratio: float) -> str:
    if abs(ratio) < 1e-3:
        return "l2_missing"
    return "l2_sign" if abs(ratio + 1) < 1e-3 else "l2_factor"


def _diagnosis(context: RuleContext, code: str, cases: list[tuple[str, float, float]]) -> Diagnosis:
    names = [name for name, _, _ in cases]
    several = len(names) > 1
    message = MESSAGES[code].format(
        gradients=of_gradients(names),
        s="" if several else "s",
        ve="ve" if several else "s",
        strength=abs(cases[0][1]),
        ratio=_ratio(cases[0][2], cases[0][1]),
    )
    repaired = {
        n: context.judged(n, context.grad(n) - extra * context.problem.point[n]).difference for n, extra, _ in cases
    }
    worst = max(repaired, key=repaired.__getitem__)
    sign = "-" if cases[0][1] > 0 else "+"
    size = abs(next(extra for name, extra, _ in cases if name == worst))
    measurements = (
        f"With {of_gradients([worst])} {sign} {size:.3g} * {worst} the difference would be {repaired[worst]:.1g}."
    )
    if code == "l2_missing" and np.all(context.shares(names[0]) == 0):
        measurements += " (Half of an L2 term twice as strong would look the same.)"
    return Diagnosis(code, tuple(names), sentence(f"{message}."), measurements, ADVICE[code])


def _ratio(ratio: float, extra: float) -> str:
    if np.isnan(ratio):
        return f"{abs(extra):.3g} times the parameter too strong: twice as strong as in the loss, or not in the loss"
    known = recognised(ratio, {})
    return f"{ratio if known is None else known:.4g} times as strong as in the loss"
