"""Hold the random numbers of a loop of the user's fixed, where loss and backward draw them from known generators."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gc_hooks._typing import Loss
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.generators import Found, find_generators
from gc_hooks.isolation.object_graph import changeable
from gc_hooks.isolation.rng import GLOBAL_GENERATORS, preserve_global_random_state, random_state, set_random_state
from gc_hooks.isolation.snapshot import Snapshot
from gc_hooks.quick_check import accused
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import Code, Diagnosis, agree, listed, of_gradients, sentence

HELD = "Dropout was on, its masks held fixed: {} begins each evaluation in the same state."
ADVICE = (
    "This usually means that dropout's mask is drawn again in backward. Try to keep the mask of forward for it. Where "
    "backward draws for another reason, try a rate of zero for the check."
)


@dataclass(frozen=True)
class Draws:
    """The generators from which a loss draws, and what backward draws from them."""

    found: Found
    generators: dict[str, Any]
    before: dict[str, Any]  # their states before the loss is evaluated, and after it
    after: dict[str, Any]
    more: tuple[str, ...]  # the names of those from which backward draws more than the loss, or less

    def held(self, function: Callable[..., Any], states: dict[str, Any]) -> Callable[..., Any]:
        """Return a function that begins in these states at each call, and leaves none of its own behind."""

        def call(*arguments: object) -> Any:
            with self.found.preserve(), preserve_global_random_state():
                for name, generator in self.generators.items():
                    set_random_state(generator, states[name])
                return function(*arguments)

        return call

    def told(self, report: CheckReport) -> CheckReport:
        """Return the report of a check with the draws held, with what was done and what backward draws."""
        asked, diagnoses = HELD.format(listed(self.generators)), report.diagnoses
        wrong = tuple(accused(report))
        if wrong and self.more:
            message = (
                f"{sentence(of_gradients(wrong))} {agree(wrong, 'is', 'are')} wrong with dropout's masks held fixed."
            )
            evidence = f"Backward draws other numbers from {listed(self.more)} than the loss does."
            diagnoses = (Diagnosis(Code.DROPOUT_MASK, wrong, message, evidence, ADVICE), *diagnoses)
        return replace(report, asked=(*report.asked, asked), diagnoses=diagnoses)


def find_draws(loss: Loss, grads: Any, arguments: tuple[Any, ...]) -> Draws | None:
    """Return from which generators a loss draws; None where their states do not fix its value, or backward's masks.

    A gradient that draws nothing goes back through an earlier forward pass, whose masks are not known. Costs two
    evaluations and a gradient.
    """
    if not callable(grads):
        return None
    found = find_generators(loss, grads)
    every = {**GLOBAL_GENERATORS, **{node.name: node.thing for node in found.nodes}}
    before = {name: random_state(generator) for name, generator in every.items()}

    def after(function: Any) -> tuple[Any, dict[str, Any]]:
        is_adapted = isinstance(function, Evaluation)
        with found.preserve(), preserve_global_random_state():
            value = (function.call if is_adapted else function)(*arguments)
            return value, {name: random_state(generator) for name, generator in every.items()}

    # A hidden state is no mask: what else changes is put back after the two evaluations, and not between them.
    adapted = [function for function in (loss, grads) if isinstance(function, Evaluation)]
    state = [thing for function in adapted for thing in function.state]
    sources = [function.source if isinstance(function, Evaluation) else function for function in (loss, grads)]
    start = Snapshot(*state, *changeable(*sources))
    try:
        (value, states), (again, _) = after(loss), after(loss)
        drawn = [name for name in every if _differ(before[name], states[name])]
        if not drawn or float(value) != float(again):
            return None
        _, of_backward = after(grads)
    finally:
        start.put_back()
    if not all(_differ(before[name], of_backward[name]) for name in drawn):
        return None
    more = tuple(name for name in drawn if _differ(states[name], of_backward[name]))
    return Draws(found, {name: every[name] for name in drawn}, before, states, more)


def _differ(first: Any, second: Any) -> bool:
    return pickle.dumps(first) != pickle.dumps(second)
