"""Naming the bug: one small rule for each, its docstring the bug in the words of the person who has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gc_hooks.comparison import Comparison
from gc_hooks.problem import Problem
from gc_hooks.verdict import Verdict


@dataclass(frozen=True)
class Diagnosis:
    """Which bug it is.

    Attributes
    ----------
    code : str
        One word for programs to act on.
    parameters : tuple of str
        Where it was seen.
    message : str
        What was seen, in one sentence.
    evidence : str
        The figures behind it.
    advice : str
        What it usually means and what to try.
    """

    code: str
    parameters: tuple[str, ...]
    message: str
    evidence: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.message, self.evidence, self.advice)))


Comparisons = Mapping[str, Comparison]
Rule = Callable[[Problem, Comparisons], "Diagnosis | None"]


def diagnose(problem: Problem, comparisons: Comparisons) -> tuple[Diagnosis, ...]:
    """Ask every rule; free when nothing failed."""
    if all(comparison.verdict < Verdict.DOUBLE_CHECK for comparison in comparisons.values()):
        return ()
    found = (rule(problem, comparisons) for rule in RULES)
    return tuple(diagnosis for diagnosis in found if diagnosis is not None)


def missing_gradient(problem: Problem, comparisons: Comparisons) -> Diagnosis | None:
    """I forgot to return the gradient of a parameter, or I called it something else."""
    return _flaw(
        problem,
        "missing_gradient",
        "No gradient was handed in for",
        "This usually means that backward does not return it, or under another name. Try the parameter's own name, or "
        "dW1 for W1.",
    )


def wrong_shape(problem: Problem, comparisons: Comparisons) -> Diagnosis | None:
    """The gradient of a parameter does not have the parameter's shape."""
    return _flaw(
        problem,
        "wrong_shape",
        "The gradient has another shape than the parameter for",
        "This usually means a product in the wrong order, a missing transpose, or a sum over the batch without "
        "keepdims=True.",
    )


def not_numeric(problem: Problem, comparisons: Comparisons) -> Diagnosis | None:
    """The gradient holds something that is not a real number."""
    return _flaw(
        problem, "not_numeric", "The gradient is not made of real numbers for", "Try to print its dtype in backward."
    )


def not_repeatable(problem: Problem, comparisons: Comparisons) -> Diagnosis | None:
    """My backward pass gives another gradient when I call it again."""
    return _flaw(
        problem,
        "not_repeatable",
        "Two calls of the gradient function at the same parameters do not give the same gradient for",
        "This usually means a buffer that is added to and never set to zero (+=), a cache that an earlier forward pass "
        "left behind, or dropout. Try to set the buffers to zero where backward begins.",
    )


def not_finite(problem: Problem, comparisons: Comparisons) -> Diagnosis | None:
    """My gradient is NaN although the loss is fine."""
    names = tuple(n for n, c in comparisons.items() if c.verdict is Verdict.WORRY and "is not finite" in c.note)
    if not names:
        return None
    return Diagnosis(
        "not_finite",
        names,
        f"Backprop's gradient is NaN or infinite for {', '.join(names)}, while the loss and its slope are finite.",
        advice="This usually means 0/0, log(0), or a power or a square root at 0 in backward.",
    )


def _flaw(problem: Problem, code: str, message: str, advice: str) -> Diagnosis | None:
    flaws = {name: flaw.text for name, flaw in problem.flaws.items() if flaw.code == code}
    if not flaws:
        return None
    evidence = "; ".join(f"{name}: {text}" for name, text in flaws.items()) + "."
    return Diagnosis(code, tuple(flaws), f"{message} {', '.join(flaws)}.", evidence, advice)


RULES: tuple[Rule, ...] = (missing_gradient, wrong_shape, not_numeric, not_repeatable, not_finite)
