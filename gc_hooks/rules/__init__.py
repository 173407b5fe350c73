"""Naming the bug: one small rule for each, its docstring the bug in the words of the person who has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from gc_hooks.problem import Problem
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.rules.context import RuleContext
from gc_hooks.rules.misplaced import in_wrong_place, transposed
from gc_hooks.rules.pattern import (
    few_entries,
    gradient_lost,
    many_lines,
    parameter_unused,
    summed_over_wrong_axis,
    unexplained,
    wrong_below,
)
from gc_hooks.rules.penalty import penalty_wrong
from gc_hooks.rules.scale import scaled
from gc_hooks.rules.unusable import missing_gradient, not_finite, not_numeric, not_repeatable, wrong_shape
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.verdicts.compare import whole_norm
from gc_hooks.verdicts.session import Session

Rule = Callable[[Problem, RuleContext], "Iterator[Diagnosis]"]
"""A generator, because one rule may see its bug twice: dW2 twice and db1 four times what they should be."""

RULES: tuple[Rule, ...] = (
    missing_gradient,
    wrong_shape,
    not_numeric,
    not_repeatable,
    not_finite,
    gradient_lost,
    parameter_unused,
    scaled,
    penalty_wrong,
    transposed,
    in_wrong_place,
    summed_over_wrong_axis,
    few_entries,
    wrong_below,
    many_lines,
    unexplained,
)
"""In the order in which they are asked. Those that know a repair come first, and all that fit are named; those that see
a pattern look only at what has not been explained."""


def diagnose(
    problem: Problem,
    comparisons: Mapping[str, Comparison],
    session: Session | None = None,
    constants: Mapping[str, float] | None = None,
) -> tuple[Diagnosis, ...]:
    """Ask every rule; free when nothing failed.

    Repairs are judged on what has been measured; only where a few entries of a large parameter make up a row or a
    column, the rest is measured once more.
    """
    if all(comparison.verdict < Verdict.DOUBLE_CHECK for comparison in comparisons.values()):
        return ()
    measurements = session.measurements if session is not None else Measurements.empty(problem)
    tolerance = session.tolerance if session is not None else Tolerance()
    context = RuleContext(
        problem, comparisons, measurements, tolerance, whole_norm(problem, measurements), constants or {}, session
    )
    found: list[Diagnosis] = []
    for rule in RULES:
        found += rule(problem, context)
        context = replace(context, explained=frozenset(name for diagnosis in found for name in diagnosis.parameters))
    return tuple(found)
