"""The second opinion: the gradient of the user's own forward code, derived from that code by reverse mode.

The loss is called once with boxes in place of its parameters (`gc_hooks.tracing.box`). NumPy hands every operation on
a box to it, the tape records them (`tape`), autograd knows their derivatives (`operations`), and one pass back over the
tape gives every entry of the gradient. Nothing is left of it afterwards (`lending`). It is a witness and no judge: a
check believes it after a slope that was measured from values of the loss alone has confirmed it (`confirm`).
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.arrays.tree import rebuild
from gc_hooks.numerics import EPS
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.verdict import Tolerance
from gc_hooks.tracing.box import Box, NotTraceable, Trace, isinstance_box, user_line
from gc_hooks.tracing.lending import Place, begin, find_places, leave_nothing, lend, take_back
from gc_hooks.tracing.operations import Operations
from gc_hooks.tracing.tape import Tape

__all__ = ["NotTraceable", "Reference", "Tracer"]


@dataclass(frozen=True)
class Reference:
    """The gradient of a loss, traced from its own code.

    ``gradients`` is that of all terms, ``penalties`` the penalty's part where it was handed in separately, by the names
    of the parameters and in their shapes.
    """

    tracer: Tracer  # asks again, at another point or with other roundings
    gradients: dict[str, Array]
    penalties: dict[str, Array]
    value: float  # of the loss, as it was traced
    precision: float  # the largest machine epsilon that the loss computes in
    at_kink: bool  # whether the loss has compared two numbers that are equal
    distances: list[Array]  # of all numbers that it has compared

    @property
    def is_rough(self) -> bool:
        """Return whether the loss computes in a lower precision than float64 somewhere."""
        return self.precision > EPS


class Tracer:
    """Trace the gradient of a problem's loss, at its point and at others."""

    takes_complex = True  # whether the loss may be called with complex numbers
    has_tape = True  # whether every step of the loss is known, for a search in it
    most_vague = (
        math.inf
    )  # the error of the slope that confirms a reference, relative to typical ones, up to which it does

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def places(self) -> list[Place]:
        """Return where the loss finds its arrays: found once for all evaluations of a check."""
        return find_places(*self.problem.terms)

    def trace(
        self,
        problem: Problem,
        rounding: float = 0.0,
        generator: Generator | None = None,
        plain: Reference | None = None,
        opposite: bool = False,
    ) -> Reference:
        """Return the gradient at the point of a problem; raise `NotTraceable` where it cannot be traced.

        Costs one evaluation of each term, with the work of about one gradient more. With a ``rounding`` each number is
        changed by a random relative amount up to it on its way, or by the ``opposite``, see `Tape`. It then stands at a
        kink, too, where that moves numbers that are compared as far as they were apart in a ``plain`` trace.
        """
        total: dict[str, Array] = {}
        penalties: dict[str, Array] = {}
        value, precision, at_kink = 0.0, 0.0, False
        distances: list[Array] = []
        for term in range(len(problem.terms)):
            drawn = generator or np.random.default_rng(0)
            tape = Tape(problem.precision_of_loss, problem.precision, rounding, drawn, opposite)
            tape.before = [] if plain is None else plain.distances[len(distances) :]
            if problem.meter.exhausted:
                raise BudgetSpent
            if term == 0:
                problem.meter.evaluations += 1
            part, traced = self.trace_term(problem, term, tape, self._gradients)
            value += traced
            for name, gradient in part.items():
                total[name] = total[name] + gradient if name in total else gradient
            if term:
                penalties = part
            precision, at_kink = max(precision, tape.precision), at_kink or tape.at_kink
            distances += tape.distances
        for name, gradient in total.items():
            if not np.all(np.isfinite(gradient)):
                raise NotTraceable(f"its derivative for {name} is not finite", "")
        return Reference(self, total, penalties, value, precision, at_kink, distances)

    def judged(self, reference: Reference) -> Reference:
        """Return what backprop is compared with, once a slope has confirmed a reference."""
        return reference

    def named(
        self, parameters: Sequence[str], tolerance: Tolerance, constants: Mapping[str, float]
    ) -> tuple[Diagnosis, ...]:
        """Return which operators of the loss are at fault, where they can be looked at one by one."""
        return ()

    def in_double(self, problem: Problem) -> Problem:
        """Return the problem with a loss that computes in float64, by boxes, where the user's own does not.

        Its values are those of the same code, and free of the rounding in which small slopes are lost.
        """
        point = {name: np.asarray(array, np.float64) for name, array in problem.point.items()}
        parameters = tuple(replace(parameter, value=point[parameter.name]) for parameter in problem.parameters)
        terms = tuple(partial(self._value, problem, term) for term in range(len(problem.terms)))
        double = replace(problem, terms=terms, structure=point, parameters=parameters, live=None, home=None)
        return replace(double, values=tuple(float(double.evaluate(term, {})) for term in range(len(terms))))

    def _value(self, problem: Problem, term: int, point: dict[str, Any]) -> float:
        """Return one term at another point, in float64; NaN where it cannot be traced there."""
        parameters = tuple(replace(p, value=np.asarray(point[p.name], np.float64)) for p in problem.parameters)
        moved = replace(problem, parameters=parameters, moved=True)
        tape = Tape(problem.precision_of_loss, problem.precision)
        try:
            return float(self.trace_term(moved, term, tape, lambda *args: self.run(*args)[1].value.reshape(-1)[0]))
        except NotTraceable:
            return math.nan

    def trace_term(
        self,
        problem: Problem,
        term: int,
        tape: Tape,
        ask: Callable[[Problem, int, Trace], Any],
        kind: type[Operations] = Operations,
    ) -> Any:
        """Return what is asked of one term, and leave nothing of it: no stand-in, and no box in what the loss keeps."""
        trace = kind(tape)
        found = None
        refused: tuple[str, str] | None = None
        try:
            try:
                try:
                    begin(trace)
                    found = ask(problem, term, trace)
                except Exception as error:  # whatever a loss does with a box that it would not do with an array
                    refused = _refused(trace.refusal or error)  # not the error, which keeps all functions' variables
                take_back(trace)
                if trace.alive:  # in caches: an evaluation leaves in them what it always does
                    with suppress(BudgetSpent):
                        problem.evaluate(term, {})
                if refused is not None:
                    raise NotTraceable(*refused)
                return found
            finally:
                leave_nothing(trace)
        finally:  # again, where Ctrl-C came in the middle of it
            leave_nothing(trace)

    def _gradients(self, problem: Problem, term: int, trace: Trace) -> tuple[dict[str, Array], float]:
        with np.errstate(all="ignore"):
            boxes, end = self.run(problem, term, trace)
            gradients = trace.tape.gradients(end.step, np.ones(end.shape), [box.step for box in boxes.values()])
        found = {}
        for (name, box), gradient in zip(boxes.items(), gradients, strict=True):
            found[name] = np.zeros(box.shape)
            if gradient is not None:
                found[name] = np.asarray(np.real(gradient.total()), np.float64)
        return found, float(end.value.reshape(-1)[0].real)

    def run(self, problem: Problem, term: int, trace: Trace) -> tuple[dict[str, Box], Box]:
        """Call a term with boxes in place of its parameters; return these, and the box in which it ends."""
        loss, boxes = problem.terms[term], {}
        for name, array in problem.point.items():
            boxes[name] = trace.box(np.asarray(array, dtype=np.float64), trace.tape.add())
        with np.errstate(all="ignore"):
            lend(trace, self.places, problem.live or {}, boxes)
            value = loss() if problem.live is not None else loss(rebuild(problem.structure, boxes))
        return boxes, _end(trace, value)


def _end(trace: Trace, value: Any) -> Box:
    """Return the box in which the loss ends.

    A loss may return a plain number (``float(...)``): it ends where a box has become that number.
    """
    if trace.refusal is not None:
        raise trace.refusal
    last: Box | None = None
    if isinstance_box(value):
        last = value
    elif trace.converted and np.size(value) == 1:
        box = trace.converted[-1][0]
        precision = max(trace.tape.precision, _precision_of(value))
        at = float(box.value.reshape(-1)[0].real) if box.size == 1 else math.nan
        if abs(float(np.reshape(value, ())) - at) <= 2 * precision * abs(at):
            last = box
    for box, place in trace.converted:
        if last is None or box.step is not last.step:
            raise NotTraceable(f"a number that depends on the parameters is {place}", "")
    if last is None or not last.step.depends:
        raise NotTraceable("the loss does not depend on what stands in the parameters' places", "")
    if last.size != 1:
        raise NotTraceable("it returned more than one number", "")
    return last


def _precision_of(value: Any) -> float:
    dtype = np.asarray(value).dtype
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def _refused(error: Exception) -> tuple[str, str]:
    """Return why there is no reference, and the line of the user's code that raised."""
    if isinstance(error, NotTraceable):
        return error.args
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = user_line(frame) or place
    return f"it raised {type(error).__name__}: {str(error)[:100]}", place
