"""Rules for gradients that are wrong before a slope is measured: missing, misshapen, not numbers, not repeatable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.problem import Problem
from gc_hooks.report.diagnosis import Diagnosis, of_gradients, sentence
from gc_hooks.report.verdict import Verdict
from gc_hooks.rules.context import RuleContext

MOST_SHOWN = 3


def missing_gradient(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """I forgot to return the gradient of a parameter, or I called it something else."""
    yield from _issue(
        problem,
        "missing_gradient",
        "No gradient was handed in for",
        "This usually means that backward does not return it, or under another name. Try the parameter's own name, or "
        "dW1 for W1.",
    )


def wrong_shape(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """The gradient of a parameter does not have the parameter's shape."""
    yield from _issue(
        problem,
        "wrong_shape",
        "The gradient has another shape than the parameter for",
        "This usually means a product in the wrong order, a missing transpose, or a sum over the batch without "
        "keepdims=True.",
    )


def not_numeric(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """The gradient holds something that is not a real number."""
    yield from _issue(
        problem, "not_numeric", "The gradient is not made of real numbers for", "Try to print its dtype in backward."
    )


def not_repeatable(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My backward pass gives another gradient when I call it again."""
    yield from _issue(
        problem,
        "not_repeatable",
        "Two calls of the gradient function at the same parameters do not give the same gradient for",
        "This usually means a buffer that is added to and never set to zero (+=), a cache that an earlier forward pass "
        "left behind, or dropout. Try to set the buffers to zero where backward begins.",
    )


def not_finite(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is NaN although the loss is fine."""
    names = tuple(n for n, c in context.items() if c.verdict is Verdict.WORRY and "is not finite" in c.note)
    if names:
        yield Diagnosis(
            "not_finite",
            names,
            f"Backprop's gradient is NaN or infinite for {', '.join(names)}, while the loss and its slope are finite.",
            "; ".join(_not_finite_in(name, problem.grads[name]) for name in names) + ".",
            "This usually means 0/0, log(0), or a power or a square root at 0 in backward. "
            "Try to look at what is special at these entries.",
        )


def _not_finite_in(name: str, grad: Array) -> str:
    places = np.argwhere(~np.isfinite(grad))
    shown = ", ".join(f"{place.tolist()} is {grad[tuple(place)]}" for place in places[:MOST_SHOWN])
    more = f" and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
    return f"{sentence(of_gradients([name]))}: {len(places)} of {grad.size} entries, {shown}{more}"


def _issue(problem: Problem, code: str, message: str, advice: str) -> Iterator[Diagnosis]:
    issues = {name: issue.text for name, issue in problem.issues.items() if issue.code == code}
    measurements = "; ".join(f"{name}: {text}" for name, text in issues.items()) + "."
    if issues:
        yield Diagnosis(code, tuple(issues), f"{message} {', '.join(issues)}.", measurements, advice)
