"""Rules for gradients that are wrong before a slope is measured: missing, misshapen, not numbers, not repeatable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks.report.comparison import Reason
from gc_hooks.report.diagnosis import Code, Diagnosis, listed, of_gradients, sentence, spoken
from gc_hooks.rules.context import RuleContext

MOST_SHOWN = 3
"""Entries of a gradient that is not finite which are printed: enough to see a pattern, and they fit on one line."""

UNUSABLE = {
    Code.MISSING_GRADIENT: (
        "No gradient was handed in for",
        "This usually means that backward does not return it. Try the parameter's own name, or dW1 for W1.",
    ),
    Code.WRONG_SHAPE: (
        "The gradient has another shape than the parameter for",
        "This usually means a product in the wrong order, a missing transpose, or a sum over another axis. Try to "
        "print the shapes of both factors where it is computed.",
    ),
    Code.NOT_NUMERIC: ("The gradient is not made of real numbers for", "Try to print its dtype in backward."),
    Code.NOT_REPEATABLE: (
        "Two calls of the gradient function at the same parameters do not give the same gradient for",
        "This usually means a buffer that is added to (+=) and never zeroed, an old cache, or dropout. Try to set the "
        "buffers to zero where backward begins.",
    ),
}
"""What was seen, and the advice."""


def unusable(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is missing, does not have the shape of its parameter, does not hold real numbers, or is another one
    when backward runs again. Seen when gradients are matched with parameters; costs nothing."""
    for code, (message, advice) in UNUSABLE.items():
        issues = context.issues(code)
        if issues:
            evidence = "; ".join(f"{spoken(name)}: {text}" for name, text in issues.items())
            yield Diagnosis(code, tuple(issues), f"{message} {listed(issues)}.", f"{evidence}.", advice)


def not_finite(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is NaN or infinite although the loss is fine. Seen in the gradient itself; costs nothing."""
    evidence = {}
    for name in context.names:
        if context.comparison(name).reason is not Reason.GRADIENT_NOT_FINITE:
            continue
        gradient = context.gradient(name)
        places = np.argwhere(~np.isfinite(gradient))
        shown = ", ".join(f"{place.tolist()} is {gradient[tuple(place)]}" for place in places[:MOST_SHOWN])
        if len(places) > MOST_SHOWN:
            shown += f" and {len(places) - MOST_SHOWN} more"
        evidence[name] = f"{sentence(of_gradients([name]))}: {len(places)} of {gradient.size} entries, {shown}"
    if evidence:
        yield Diagnosis(
            Code.NOT_FINITE,
            tuple(evidence),
            f"Backprop's gradient is NaN or infinite for {listed(evidence)}, while the loss and its slope are finite.",
            f"{'; '.join(evidence.values())}.",
            "This usually means 0/0, log(0), a root at 0, or an overflow in backward. Try to look at what is special "
            "there.",
        )
