"""Naming the bug: one rule for each kind, which says in its docstring what the bug is, how it is seen, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.rules import backward, misplaced, pattern, penalty, scale, unusable
from gc_hooks.rules.context import RuleContext
from gc_hooks.verdicts.session import Session

Rule = Callable[[RuleContext], "Iterator[Diagnosis]"]
"""A rule yields a diagnosis for each bug that it sees: dW2 is twice, and db1 four times what it should be."""

# Rules that know a repair come first, and each of them that fits is reported. Rules that see a pattern look only at
# what no rule before them has explained.
RULES: tuple[Rule, ...] = (
    unusable.unusable,
    unusable.not_finite,
    pattern.gradient_lost,
    scale.clipped_by_value,
    scale.scaled,
    penalty.penalty_wrong,
    misplaced.transposed,
    misplaced.in_wrong_place,
    misplaced.copied,
    scale.reparametrised,
    pattern.summed_over_wrong_axis,
    misplaced.rearranged,
    penalty.part_of_penalty,
    pattern.few_entries,
    backward.old_caches,
    backward.backward_slip,
    pattern.parameter_unused,
    pattern.weight_alone,
    pattern.wrong_below,
    pattern.many_lines,
    scale.line_factors,
    pattern.unexplained,
)


OF_ONE_PARAMETER: tuple[Rule, ...] = (unusable.unusable, unusable.not_finite, pattern.gradient_lost)
"""Rules where the operator at fault is known. The others tell what its mistake looks like from the parameters."""


def diagnose(
    session: Session,
    comparisons: Mapping[str, Comparison],
    constants: Mapping[str, float] | None = None,
    rules: Sequence[Rule] | None = None,
) -> tuple[Diagnosis, ...]:
    """Return what the rules say of a finished check; costs nothing where no parameter failed.

    Repairs are judged by the slopes that were measured. A few slopes are measured in addition where all wrong entries
    of a large matrix lie in few rows or columns.
    """
    context = RuleContext(session, comparisons, constants or {})
    found: list[Diagnosis] = []
    if any(map(context.is_wrong, context.names)):
        for rule in RULES if rules is None else rules:
            for diagnosis in list(rule(context)):  # a rule does not see what itself has explained
                context.explained.update(diagnosis.parameters)
                found.append(diagnosis)
    return tuple(found)
