"""Replay a loss: evaluate it with all values and lines kept, and pass back over its tape with changes in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from heapq import heappop, heappush
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.tracing import Reference
from gc_hooks.tracing.box import Box, Trace, isinstance_box, plain, user_line
from gc_hooks.tracing.operations import Operations
from gc_hooks.tracing.tape import Step, Tape, is_basic

Change = Callable[[Any, "list[Any]"], "tuple[list[Any], dict[int, Any]]"]
"""What is changed at one step: from the gradient that arrives and the parts for the parents, to other parts, and what
is added to the gradients of other steps, by their positions."""


@dataclass
class Details:
    """What is known of a step besides what the tape holds."""

    value: Array = field(default_factory=lambda: np.full((), np.nan))  # NaN where it is not known
    function: Any = None
    args: tuple[Any, ...] = ()  # as plain values
    numbers: tuple[int, ...] = ()  # the positions among them of the step's parents
    place: str = ""  # file and line

    @property
    def name(self) -> str:
        """Return the function's name; empty for an index."""
        return str(getattr(self.function, "__name__", ""))


class Recording(Operations):
    """A trace that also keeps the values, the functions and the lines of all steps."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape)
        self.details: defaultdict[int, Details] = defaultdict(Details)

    def box(self, value: Any, step: Step) -> Box:
        if step.position not in self.details:
            self.details[step.position] = Details(np.asarray(value), place=user_line())
        return super().box(value, step)

    def call(self, function: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        before = len(self.tape.steps)
        result = super().call(function, args, keywords)
        if isinstance_box(result) and self.is_open and result.step.position >= before:
            details = self.details[result.step.position]
            if not details.name:  # else the functions of which this one is composed are known
                details.function, details.args = function, tuple(map(plain, args))
                details.numbers = tuple(number for number, one in enumerate(args) if isinstance_box(one))
        return result


@dataclass
class Record:
    """One evaluation of the loss: its steps and what is known of them, where it begins and ends."""

    steps: list[Step]
    details: defaultdict[int, Details]
    starts: dict[int, str]  # the parameters by the positions of their steps
    end: Step
    shape: tuple[int, ...]  # of the loss

    def of(self, step: Step) -> Details:
        """Return what is known of a step."""
        return self.details[step.position]

    def sources(self) -> dict[int, frozenset[str]]:
        """Return the parameters on which each step depends, by its position."""
        found: dict[int, frozenset[str]] = {}
        for step in self.steps:
            own = {self.starts[step.position]} if step.position in self.starts else set()
            found[step.position] = frozenset(own).union(*(found[parent.position] for parent in step.parents))
        return found

    def gates(self) -> dict[int, Step | None]:
        """Return, for each step, the nearest earlier one through which all ways back from it lead, if there is one."""
        gates: dict[int, Any] = {}

        def common(one: Any, other: Any) -> Any:
            while one is not None and other is not None and one is not other:
                if one.position > other.position:
                    one = gates[one.position]
                else:
                    other = gates[other.position]
            return one if one is other else None

        for step in self.steps:
            parents = [parent for parent in step.parents if parent.depends]
            gates[step.position] = reduce(common, parents) if parents else None
        return gates

    def pass_back(
        self,
        changes: Mapping[int, Change] | None = None,
        *,
        end: Step | None = None,
        seed: Any = None,
        stops: Container[int] | None = None,
        watch: Callable[[Step, Any, list[Any]], None] | None = None,
    ) -> dict[int, Any]:
        """Return the gradients of the value at the end with respect to those of some steps, by their positions.

        The end is the loss; ``seed`` is its own gradient, 1. The steps are the parameters, or ``stops``. ``changes``
        are made on the way, and ``watch`` sees what arrives at each step and what goes back from it.
        """
        end, stops = end or self.end, self.starts if stops is None else stops
        totals: dict[int, Any] = {end.position: np.ones(self.shape) if seed is None else seed}
        waiting = [-end.position]  # a heap, from which the latest step comes first
        found: dict[int, Any] = {}
        while waiting:
            step = self.steps[-heappop(waiting)]
            total = totals.pop(step.position)
            if step.position in stops:
                found[step.position] = total
                continue
            if step.shape is not None:
                parts = [total]
            elif step.pull is not None:
                parts = list(step.pull(np.array(total) if step.changes else total))
            else:
                continue
            extra: dict[int, Any] = {}
            if watch is not None:
                watch(step, total, parts)
            if changes is not None and step.position in changes:
                parts, extra = changes[step.position](total, parts)
            received = [
                (parent.position, _spread(step, part)) for parent, part in zip(step.parents, parts, strict=True)
            ]
            for position, part in (*received, *extra.items()):
                if part is not None and self.steps[position].depends:
                    if position not in totals:
                        heappush(waiting, -position)
                    totals[position] = _sum(totals.get(position), part)
        return found


def _spread(step: Step, part: Any) -> Any:
    """Return what goes back from a step in the form of its parent: items among zeros."""
    if step.shape is None or part is None:
        return part
    whole = np.zeros(step.shape, np.result_type(part, np.float64))
    if is_basic(step.key):
        whole[step.key] = part
    else:
        np.add.at(whole, step.key, part)
    return whole


def _sum(total: Any, part: Any) -> Any:
    if total is None:
        return part
    if isinstance(part, tuple):  # of an operation with several results
        return tuple(mine + theirs for mine, theirs in zip(total, part, strict=True))
    return total + part


def record(problem: Problem, reference: Reference) -> Record:
    """Evaluate the loss with everything kept; raise `NotTraceable` and `BudgetSpent` as `Tracer.trace` does."""

    def ask(problem: Problem, term: int, trace: Trace) -> Record:
        assert isinstance(trace, Recording)
        boxes, end = reference.tracer.run(problem, term, trace)
        starts = {box.step.position: name for name, box in boxes.items()}
        return Record(list(trace.tape.steps), trace.details, starts, end.step, end.shape)

    if problem.meter.exhausted:
        raise BudgetSpent
    problem.meter.evaluations += 1
    tape = Tape(problem.precision_of_loss, problem.precision)
    found: Record = reference.tracer.trace_term(problem, 0, tape, ask, Recording)
    return found
