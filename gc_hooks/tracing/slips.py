"""Find the one mistake in a reverse pass that gives backprop's gradient: a *slip*.

The tape holds every operation of the user's forward code, with its line. A backward pass that was written by hand
follows the same operations, and most wrong ones differ from the right one in a single place: a path that is not
followed, a derivative that is taken of the output, a weight that is not transposed. Here the reverse pass is repeated
with such a slip in it. If the result is backprop's gradient, in every entry of every parameter, then that is the bug,
and the line is known.

There are many places, and most of them are sorted out before they are tried. A slip changes the gradients of exactly
the parameters that lie behind it: they have to be the wrong ones. And let ``v`` be a direction through the parameters,
``x'`` the change of a value ``x`` along it, and ``p`` the part of the gradient that goes back from one step to its
parent ``x``. Then ``p . x'`` is what this path adds to the slope along ``v``. If backward gives the path the weight
``w`` in place of 1, then its slope along ``v`` is off by ``(w - 1) p . x'``. That holds for every ``v``: two directions
have to give the same ``w``. So one pass back, and two evaluations for ``x'``, ask all places at once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.arrays.norms import largest
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.tracing import NotTraceable, Reference
from gc_hooks.tracing.operations import derivative
from gc_hooks.tracing.replay import Change, record
from gc_hooks.tracing.tape import Step

STEP = 1e-7
"""Length of the step along a direction, in units of the parameters' scales: changes have a relative error of about 1e-7
(curvature) and 1e-9 (rounding), and hardly any kink lies so near."""
ALIKE = 1e-5
"""How far, relatively, two weights may be apart that are taken for one: the error of the changes, with room."""
WRONG = 1e-9
"""From which part of a gradient's largest entry on an entry is wrong: a thousand times what rounding does to most."""
FEWEST_ENTRIES = 3
"""Wrong entries from which on two directions prove something: one number has some weight for every path."""
WORK, PER_STEP = 3 * 10**7, 2000
"""Numbers that all trials together may touch, at about 5 ns each: a fifth of a second to one second. And what the
handling of one step costs, in them. No clock is read: a diagnosis is not to depend on what else a machine does."""
FEWEST, MOST = 12, 400
"""Trials that are made whatever they cost, and at most. A failing check costs as much as about twelve passes back."""
MOST_SAMPLES = 400
"""Samples whose weights are solved for: as many unknowns, in about a tenth of a second."""
MOST_TURNS = 8
"""Operations of one line from which on it is taken for a loop, whose turns are not tried one by one."""
PRODUCTS = (np.matmul, np.dot, np.multiply, np.outer)
LINEAR = (np.add, np.subtract, np.negative, np.positive, np.multiply, np.divide)
SOME: dict[str, slice] = {
    "the last": slice(-1, None),
    "the first": slice(1),
    "all but the first": slice(1, None),
    "all but the last": slice(-1),
}


class Kind(str, Enum):
    """What a backward pass does in the wrong place."""

    PATH = "path"  # a path back has another weight than 1: lost (0), the wrong sign (-1), a factor
    DERIVATIVE = "derivative"  # that of a function, entry by entry
    NOT_TRANSPOSED = "not_transposed"  # the gradient is handed down by W and not by W.T
    DELTA_NOT_TRANSPOSED = "delta_not_transposed"  # or by the delta itself
    OTHER_WEIGHT = "other_weight"  # it is handed down by another parameter
    UPDATED = "updated"  # it is handed down by a weight that has been updated already
    OTHER_INPUT = "other_input"  # a weight's gradient is made with another value than forward's
    USES = "uses"  # only some of the places count in which a parameter is used
    SAMPLES = "samples"  # only some of the rows count that a parameter is multiplied with
    OTHER_SAMPLES = "other_samples"  # the gradient is that of some of the loss's samples


class Argument(str, Enum):
    """What a wrong derivative is a function of."""

    OUTPUT = "output"
    INPUT = "input"
    NOTHING = "nothing"  # it is left out


@dataclass(frozen=True)
class Formula:
    """What people write for a derivative: the words for it, with a for the output and z for the input."""

    words: str
    of: Argument
    is_more: bool = False  # whether the right derivative is there too


@dataclass(frozen=True)
class Slip:
    """A mistake that gives backprop's gradient: what it is, where in forward, and the gradient that it gives."""

    kind: Kind
    function: str  # the NumPy function whose way back is wrong; empty for an index, and for a formula of several
    place: str  # its file and line
    changes: Mapping[int, Change] = field(default_factory=dict)  # in a pass back
    gradients: dict[str, Array] = field(default_factory=dict)  # what it gives; empty until it has been tried
    weight: float = 0.0  # of a path, or of an update
    formula: Formula = Formula("", Argument.NOTHING)
    instead: str = ""  # the parameter or the value that is used in place of the right one; which uses count
    names: tuple[str, ...] = ()  # the parameters that it is about, where it is about some
    count: int = 0  # of uses or samples
    is_at_loss: bool = False  # whether no parameter is used after it


@dataclass(frozen=True)
class _Leaf:
    """One use of a parameter: the step, which of its parents it is, and what goes back to it."""

    step: Step
    index: int
    is_turned: bool  # whether the transpose is used
    part: Any

    def of_parameter(self, part: Any) -> Array:
        """Return a part of the gradient in the parameter's own order of axes."""
        return np.asarray(part).T if self.is_turned else np.asarray(part)


def find_slip(
    problem: Problem,
    reference: Reference,
    backprop: Mapping[str, Array],
    generator: Generator,
    fits: Callable[[Mapping[str, Array]], bool],
) -> Slip | None:
    """Return the slip that gives backprop's gradient; None where there is none.

    ``backprop`` are the gradients to be explained, of the parameters that can be compared; ``fits`` says whether a
    gradient for all parameters is that of backprop. Costs three traced evaluations and one pass back, and one more for
    each trial, see `WORK`.
    """
    try:
        search = _Search(problem, reference, backprop, generator)
        for slip in search.candidates():
            gradients = slip.gradients or search.try_out(slip.changes)
            if slip.weight:  # which is known as well as the differences are; what it adds is proportional to it
                slip, gradients = search.sharpened(slip, gradients)
            if fits(gradients):
                return replace(slip, gradients=gradients, is_at_loss=search.is_at_loss(slip.changes))
    except (NotTraceable, BudgetSpent):  # no more may be tried, or the code goes another way nearby
        pass
    return None


class _Search:
    """All that is known of the right pass back, and the slips that may explain what is wrong."""

    def __init__(
        self, problem: Problem, reference: Reference, backprop: Mapping[str, Array], generator: Generator
    ) -> None:
        self.problem = problem
        self.reference = reference
        self.generator = generator
        self.record = record(problem, reference)
        self.totals: dict[int, Any] = {}  # the gradient at each step
        self.parts: dict[int, list[Any]] = {}  # what goes from it to its parents
        self.right = self._named(self.record.pass_back(watch=self._watch))
        self.backprop = backprop
        self.residual = {name: grad - self.right[name] for name, grad in backprop.items()}
        whole = max(map(largest, self.right.values()), default=0.0)
        self.vanishes = {name: largest(grad) <= WRONG * whole for name, grad in self.right.items()}
        self.wrong = []
        entries = 0
        for name, residual in self.residual.items():
            count = np.count_nonzero(np.abs(residual) > WRONG * largest(self.right[name]))
            entries += int(count)
            self.wrong += [name] if count else []
        size = sum(details.value.size for details in self.record.details.values())
        work = WORK // (size + PER_STEP * len(self.record.steps))
        self.trials_left = min(max(work, FEWEST), MOST) if entries >= FEWEST_ENTRIES else 0
        self.turns = Counter((details.place, details.name) for details in self.record.details.values())
        self.sources = self.record.sources()
        self.leaves = self._find_leaves()
        self.changes_along: list[dict[int, Array]] = []  # how values change along two directions
        self.slopes_off: list[float] = []  # by how much backprop's slope is off along them
        for _ in range(2):
            direction = {}
            for parameter in problem.parameters:
                direction[parameter.name] = parameter.scale * generator.standard_normal(parameter.value.shape)
            self.changes_along.append(self._changes_along(direction))
            self.slopes_off.append(
                float(sum(np.vdot(residual, direction[name]) for name, residual in self.residual.items()))
            )

    def candidates(self) -> Iterator[Slip]:
        """Yield what may have been done wrong, what costs no pass back first."""
        yield from self._uses()
        yield from self._some_of_the_samples()
        yield from self._other_inputs()
        yield from self._paths()
        yield from self._handed_down()
        yield from self._updated()
        yield from self._derivatives()

    def try_out(self, changes: Mapping[int, Change]) -> dict[str, Array]:
        """Return the gradient with changes in the pass back; raise `BudgetSpent` where no more may be tried."""
        self.trials_left -= 1
        if self.trials_left < 0:
            raise BudgetSpent
        return self._named(self.record.pass_back(changes))

    def sharpened(self, slip: Slip, gradients: Mapping[str, Array]) -> tuple[Slip, dict[str, Array]]:
        """Return a slip with the weight that fits best, and what it gives."""
        added = {name: gradients[name] - self.right[name] for name in self.wrong}
        size = sum(float(np.vdot(array, array)) for array in added.values())
        times = sum(float(np.vdot(array, self.residual[name])) for name, array in added.items()) / (size or 1.0)
        fitted = {name: self.right[name] + times * (grad - self.right[name]) for name, grad in gradients.items()}
        is_path = slip.kind is Kind.PATH
        weight = 1 + (slip.weight - 1) * times if is_path else slip.weight * times
        return replace(slip, weight=_plain_number(weight) if is_path else weight), fitted

    def is_at_loss(self, changes: Mapping[int, Change]) -> bool:
        """Return whether no parameter is used after the steps that are changed."""
        last = max((leaf.step.position for leaves in self.leaves.values() for leaf in leaves), default=0)
        return min(changes, default=-1) > last

    def _watch(self, step: Step, total: Any, parts: list[Any]) -> None:
        self.totals[step.position], self.parts[step.position] = total, parts

    def _named(self, found: Mapping[int, Any]) -> dict[str, Array]:
        """Return the whole gradient by name, the penalty's part included."""
        named = {}
        for position, name in self.record.starts.items():
            grad = np.asarray(np.real(found.get(position, 0.0)), np.float64)
            value = self.problem.point[name]
            named[name] = np.broadcast_to(grad, value.shape) + self.reference.penalties.get(name, 0.0)
        return named

    # What changes along a direction.

    def _changes_along(self, direction: Mapping[str, Array]) -> dict[int, Array]:
        """Return the change of every value along a direction, by a difference to the values at the point."""
        parameters = tuple(
            replace(p, value=np.asarray(p.value, np.float64) + STEP * direction[p.name])
            for p in self.problem.parameters
        )
        beside = record(replace(self.problem, parameters=parameters, moved=True), self.reference)
        if len(beside.steps) != len(self.record.steps):
            raise NotTraceable
        changes = {}
        for position, details in self.record.details.items():
            value = beside.details[position].value
            if value.shape == details.value.shape:
                changes[position] = (value - details.value) / STEP
        return changes

    def _weight(self, parts: Sequence[tuple[Step, Any]]) -> float | None:
        """Return with which weight some parts of the gradient, each at a step, explain what backprop's slope is off.

        None where the two directions say different things.
        """
        weights = []
        for changes, slope_off in zip(self.changes_along, self.slopes_off, strict=True):
            slope = 0.0
            for step, part in parts:
                change = changes.get(step.position, np.nan)
                slope += float(np.real(np.sum(np.asarray(part) * change)))
            weights.append(slope_off / slope if slope else np.nan)
        one, other = weights
        return (one + other) / 2 if abs(one - other) <= ALIKE * max(abs(one), abs(other)) else None

    def _explains(self, parts: Sequence[tuple[Step, Any]]) -> bool:
        """Return whether some parts of the gradient are what backprop's slope is off."""
        weight = self._weight(parts)
        return weight is not None and abs(weight - 1) <= 10 * ALIKE

    def _lie_behind(self, *steps: Step) -> bool:
        """Return whether the wrong parameters are those on which some steps depend."""
        behind = frozenset[str]().union(*(self.sources[step.position] for step in steps)) & self.residual.keys()
        # What an invariance makes vanish (a bias in front of a normalisation) stays right whatever is wrong.
        return set(self.wrong) <= behind and all(self.vanishes[name] for name in behind - set(self.wrong))

    def _edges(self) -> Iterator[tuple[Step, int]]:
        """Yield the ways back from steps to parents that depend on parameters, those next to the loss first."""
        for position in sorted(self.parts, reverse=True):
            step = self.record.steps[position]
            for index, parent in enumerate(step.parents):
                if parent.depends:
                    yield step, index

    def _is_repeated(self, step: Step) -> bool:
        """Return whether a step is one turn of a loop: backward has a loop too, and its bug is in all turns."""
        return self.turns[self.record.of(step).place, self.record.of(step).name] > MOST_TURNS

    def _label(self, step: Step, index: int) -> tuple[Any, ...]:
        """Return what the ways back of one line have in common."""
        details = self.record.of(step)
        number = details.numbers[index] if index < len(details.numbers) else index
        return details.place, details.name, number, step.shape is not None

    # Paths.

    def _paths(self) -> Iterator[Slip]:
        """Yield paths with another weight: single ones by what they add, then several without any weight.

        These are the paths of one line, and those of one function among all that leads to what is wrong alone.
        """
        groups = defaultdict(list)
        alike = defaultdict(list)  # ways that follow each other have the same weight
        for step, index in self._edges():
            groups[self._label(step, index)].append((step, index))
            if self.sources[step.parents[index].position] <= set(self.wrong):
                groups[self.record.of(step).name,].append((step, index))
            part = _spread_in_parent(step, self.parts[step.position][index])
            if self._lie_behind(step.parents[index]) and not isinstance(part, tuple):
                weight = self._weight([(step.parents[index], part)])
                if weight is not None:
                    alike[f"{weight:.4g}"].append((step, index, _plain_number(1 + weight)))
        for edges in alike.values():
            step, index, weight = min(edges, key=lambda edge: self._silence(edge[0]))
            yield self._path([(step, index)], weight)
        for group in groups.values():
            if len(group) > 1 and self._lie_behind(*(step.parents[index] for step, index in group)):
                yield self._path(group, 0.0)

    def _silence(self, step: Step) -> int:
        """Return how little the name of a step's function says of a path through it: a mean says more than a sum."""
        details = self.record.of(step)
        if isinstance(details.function, np.ufunc):
            return 2 if details.function in LINEAR else 1
        return 0 if details.name else 3

    def _path(self, edges: Sequence[tuple[Step, int]], weight: float) -> Slip:
        details = self.record.of(edges[0][0])
        indices = defaultdict(list)
        for step, index in edges:
            indices[step.position].append(index)
        changes = {position: partial(_weighted, several, weight) for position, several in indices.items()}
        return Slip(Kind.PATH, details.name, details.place, changes, weight=weight)

    # Derivatives of functions, entry by entry.

    def _derivatives(self) -> Iterator[Slip]:
        """Yield wrong derivatives of one function or formula; then of all calls of one function."""
        groups: dict[Any, list[tuple[Step, Step]]] = defaultdict(list)
        singles: dict[bool, list[tuple[Step, Step]]] = {False: [], True: []}  # functions, and formulas of several
        met = set()  # the beginnings of formulas
        for step, roots in self._functions():
            details, whole = self.record.of(step), roots[-1]
            for root in roots if not self._is_repeated(step) else ():
                if self._lie_behind(root):
                    singles[root not in step.parents].append((step, root))
            if details.function not in LINEAR and roots[0] in step.parents:
                groups[details.name, ""].append((step, roots[0]))
                groups[details.name, details.place].append((step, roots[0]))
            if whole.position not in met and len(roots) > 1:
                met.add(whole.position)
                groups["", details.place].append((step, whole))
        for one in (*singles[False], *sorted(singles[True], key=self._patchwork)):
            yield from self._wrong_derivatives([one])
        for functions in groups.values():
            if len(functions) > 1 and self._lie_behind(*(root for _, root in functions)):
                yield from self._wrong_derivatives(functions)

    def _patchwork(self, formula: tuple[Step, Step]) -> tuple[bool, int]:
        """Return how little a formula is what people write as one: whole lines come first, then the shortest."""
        step, root = formula
        place, before = self.record.of(step).place, self.record.of(root).place
        between = self.record.steps[root.position + 1 : step.position]
        after = self.record.steps[step.position + 1 : step.position + 2]
        is_line = place != before and all(self.record.of(one).place == place for one in between)
        is_end = all(self.record.of(one).place != place for one in after)
        return not (is_line and is_end), step.position - root.position

    def _functions(self) -> Iterator[tuple[Step, list[Step]]]:
        """Yield steps with the earlier ones of which they are a function in the same form, the last first.

        These are single functions, and whole formulas: of a softmax its result, and what goes into it.
        """
        gates = self.record.gates()
        for position in sorted(self.parts, reverse=True):
            step, roots = self.record.steps[position], []
            shape = self.record.of(step).value.shape
            earlier = gates[position] if shape else None
            while earlier is not None:
                if self.record.of(earlier).value.shape == shape:
                    roots.append(earlier)
                earlier = gates[earlier.position] if earlier.position not in self.record.starts else None
            if roots:
                yield step, roots

    def _wrong_derivatives(self, functions: Sequence[tuple[Step, Step]]) -> Iterator[Slip]:
        details = self.record.of(functions[0][0])
        name = details.name if functions[0][1] in functions[0][0].parents else ""
        tables, rights = [], []
        for step, root in functions:
            output, value = self.record.of(step).value, self.record.of(root).value
            tables.append(_usual_derivatives(value, output, self._through(step, root, np.ones(output.shape))))
            rights.append(self._through(step, root, self.totals[step.position]))
        for formula in tables[0]:
            changes: dict[int, Change] = {}
            excess = []
            for (step, root), right, table in zip(functions, rights, tables, strict=True):
                total = right if formula.is_more else self.totals[step.position]
                excess.append((root, total * table[formula] - right))
                changes[step.position] = partial(self._differentiated, step, root, table[formula], formula.is_more)
            parts = [part for _, part in excess]
            differs = any(map(np.any, parts)) and all(np.all(np.isfinite(part)) for part in parts)
            if differs and (len(functions) > 1 or self._explains(excess)):
                yield Slip(Kind.DERIVATIVE, name, details.place, changes, formula=formula)

    def _through(self, step: Step, root: Step, total: Any) -> Any:
        """Return what arrives at an earlier step of a gradient at a step."""
        return self.record.pass_back(end=step, seed=total, stops=(root.position,)).get(root.position, 0.0)

    def _differentiated(
        self, step: Step, root: Step, factor: Array, is_more: bool, total: Any, parts: list[Any]
    ) -> tuple[list[Any], dict[int, Any]]:
        """Hand a gradient straight to an earlier step, by a wrong derivative."""
        if is_more:
            total = self._through(step, root, total)
        return [None] * len(parts), {root.position: total * factor}

    # Products.

    def _handed_down(self) -> Iterator[Slip]:
        """Yield products through which the gradient goes back by a wrong factor: untransposed, or another weight."""
        groups: dict[Any, list[tuple[Step, int, Array, bool]]] = defaultdict(list)
        for step, index in self._edges():
            if not self._is_product(step):
                continue
            label, other = self._label(step, index), self._other_factor(step, index)
            if _is_square(other):
                groups[label, Kind.NOT_TRANSPOSED, ""].append((step, index, other.T, False))
            if _is_square(np.asarray(self.totals[step.position])):
                groups[label, Kind.DELTA_NOT_TRANSPOSED, ""].append((step, index, other, True))
            behind = self._lie_behind(step.parents[index]) or self._is_repeated(step)
            for name, value in self.problem.point.items() if behind else ():
                for one, words in ((value, name), (value.T, f"{name}.T")):
                    if value.ndim == 2 and one.shape == other.shape and not np.array_equal(one, other):
                        groups[label, Kind.OTHER_WEIGHT, words].append((step, index, one, False))
        for (_, kind, instead), edges in groups.items():
            changes: dict[int, Change] = {}
            excess = []
            for step, index, other, is_turned in edges:
                pull = partial(self._pull, step, index, other, is_turned)
                changes[step.position] = partial(_replaced, index, pull)
                excess.append(
                    (step.parents[index], pull(self.totals[step.position]) - self.parts[step.position][index])
                )
            if self._lie_behind(*(step for step, _ in excess)) and (len(edges) > 1 or self._explains(excess)):
                details = self.record.of(edges[0][0])
                yield Slip(kind, details.name, details.place, changes, instead=instead)

    def _updated(self) -> Iterator[Slip]:
        """Yield products through which the gradient goes back by a weight that has been updated before."""
        for name, leaves in self.leaves.items():
            for leaf in leaves:
                step, index = leaf.step, 1 - leaf.index
                if not self._is_product(step) or len(step.parents) != 2 or not self._lie_behind(step.parents[index]):
                    continue
                grad = leaf.of_parameter(self.backprop[name])
                excess = self._pull(step, index, grad, False, self.totals[step.position])
                rate = self._weight([(step.parents[index], excess)])
                if rate is not None:
                    pull = partial(self._pull, step, index, self._other_factor(step, index) + rate * grad, False)
                    details, changes = self.record.of(step), {step.position: partial(_replaced, index, pull)}
                    yield Slip(Kind.UPDATED, details.name, details.place, changes, weight=-rate, names=(name,))

    def _is_product(self, step: Step) -> bool:
        """Return whether a step is a product of two matrices or vectors, both of them known."""
        details = self.record.of(step)
        is_known = len(details.args) == 2 and len(details.numbers) == len(step.parents)
        return details.function in PRODUCTS and is_known

    def _other_factor(self, step: Step, index: int) -> Array:
        """Return what a parent is multiplied with."""
        details = self.record.of(step)
        return np.asarray(details.args[1 - details.numbers[index]])

    def _pull(self, step: Step, index: int, other: Any, is_turned: bool, total: Any) -> Any:
        """Return what goes back to one factor of a product where the other one has another value."""
        details = self.record.of(step)
        number, args = details.numbers[index], list(details.args)
        args[1 - number] = other
        answer = details.function(*args)
        pull = derivative(details.function)((number,), answer, tuple(args), {})
        (part,) = pull(np.transpose(total) if is_turned else total)
        return np.asarray(part).reshape(np.shape(args[number]))

    # Uses of a parameter.

    def _find_leaves(self) -> dict[str, list[_Leaf]]:
        """Return where each parameter is used, or its transpose; in the order of forward."""
        turned: dict[int, bool] = dict.fromkeys(self.record.starts, False)
        names = dict(self.record.starts)
        leaves: dict[str, list[_Leaf]] = {name: [] for name in self.residual}
        for step in self.record.steps:
            for index, parent in enumerate(step.parents):
                name = names.get(parent.position)
                if name not in leaves or step.position not in self.parts or step.shape is not None:
                    continue
                is_turned = turned[parent.position]
                if self.record.of(step).function is np.transpose and self.problem.point[name].ndim == 2:
                    names[step.position], turned[step.position] = name, not is_turned
                else:
                    leaves[name].append(_Leaf(step, index, is_turned, self.parts[step.position][index]))
        return leaves

    def _uses(self) -> Iterator[Slip]:
        """Yield gradients in which only some of a parameter's uses count, or only some of the samples."""
        for kind, left_out in ((Kind.USES, self._other_uses), (Kind.SAMPLES, self._other_samples)):
            for words, chosen in SOME.items():
                gradients, names, count = dict(self.right), [], 0
                for name in self.wrong:
                    missing, of = left_out(self.leaves[name], chosen)
                    if of > 1:
                        gradients[name] = gradients[name] - missing
                        names.append(name)
                        count = of
                if names:
                    details = self.record.of(self.leaves[names[0]][0].step)
                    slip = Slip(kind, details.name, details.place, gradients=gradients, instead=words)
                    yield replace(slip, names=tuple(names), count=count)

    def _other_uses(self, leaves: list[_Leaf], chosen: slice) -> tuple[Any, int]:
        """Return what is left out where only some of the uses count, and how many there are."""
        kept = {id(leaf) for leaf in leaves[chosen]}
        return sum(leaf.of_parameter(leaf.part) for leaf in leaves if id(leaf) not in kept), len(leaves)

    def _other_samples(self, leaves: list[_Leaf], chosen: slice) -> tuple[Any, int]:
        """Return what is left out where only some rows of the one product count, and how many rows there are."""
        total = np.asarray(self.totals[leaves[0].step.position]) if len(leaves) == 1 else np.zeros(())
        if total.ndim < 2 or leaves[0].step.pull is None:
            return 0.0, 0
        masked = np.array(total)
        masked[chosen] = 0.0
        return leaves[0].of_parameter(leaves[0].step.pull(masked)[leaves[0].index]), len(total)

    def _some_of_the_samples(self) -> Iterator[Slip]:
        """Yield the gradient of a part of the samples that the loss takes, where each row belongs to one.

        Backprop's gradient is then a sum of what the rows add, each times one number: 0, or how many times fewer there
        are where the loss is a mean. These numbers follow from slopes along as many directions as there are rows.
        """
        leaves = [(name, leaf) for name in self.wrong for leaf in self.leaves[name]]
        counts = {len(np.atleast_1d(self.totals[leaf.step.position])) for _, leaf in leaves}
        is_known = len(leaves) == len(self.wrong) > 1 and len(counts) == 1
        rows = counts.pop() if is_known else 0
        if not 1 < rows <= MOST_SAMPLES or sum(self.residual[name].size for name in self.wrong) < rows + FEWEST:
            return
        table, wanted = [], []
        for _ in range(rows + FEWEST):
            of_rows, slope = np.zeros(rows), 0.0
            for name, leaf in leaves:
                direction = self.generator.standard_normal(self.right[name].shape) * self.problem.by_name[name].scale
                change = self._change_of(leaf, direction)
                if np.shape(change) != np.shape(self.totals[leaf.step.position]):
                    return
                of_rows += np.sum((change * self.totals[leaf.step.position]).reshape(rows, -1), axis=1)
                slope += float(np.vdot(self.backprop[name] - self.reference.penalties.get(name, 0.0), direction))
            table.append(of_rows)
            wanted.append(slope)
        weights = np.linalg.lstsq(np.array(table), np.array(wanted), rcond=None)[0]
        chosen = np.abs(weights) > ALIKE * largest(weights)
        weight = float(np.mean(weights[chosen])) if np.any(chosen) else 0.0
        count = int(np.count_nonzero(chosen))
        if not 0 < count < rows or np.any(np.abs(weights[chosen] - weight) > 10 * ALIKE * abs(weight)):
            return
        gradients, details = dict(self.right), self.record.of(leaves[0][1].step)
        for name, leaf in leaves:
            total = np.asarray(self.totals[leaf.step.position])
            masked = np.where(chosen.reshape(-1, *[1] * (total.ndim - 1)), weight * total, 0.0)
            assert leaf.step.pull is not None
            part = leaf.of_parameter(leaf.step.pull(masked)[leaf.index])
            gradients[name] = self.right[name] - leaf.of_parameter(leaf.part) + part
        slip = Slip(Kind.OTHER_SAMPLES, details.name, details.place, gradients=gradients, weight=weight, count=count)
        yield replace(slip, instead=str(rows))

    def _change_of(self, leaf: _Leaf, direction: Array) -> Any:
        """Return how the value of a step changes along a direction of a parameter, of which it is a linear function."""
        details, turned = self.record.of(leaf.step), direction.T if leaf.is_turned else direction
        number = details.numbers[leaf.index] if leaf.index < len(details.numbers) else 0
        if details.function is np.add:
            return np.broadcast_to(turned, details.value.shape)
        if self._is_product(leaf.step):
            args = list(details.args)
            args[number] = turned
            return details.function(*args)
        return np.nan

    def _other_inputs(self) -> Iterator[Slip]:
        """Yield gradients of one weight that are made with another value than the one that forward has used."""
        lines: dict[Any, list[_Leaf]] = defaultdict(list)
        for leaf in self.leaves[self.wrong[0]] if len(self.wrong) == 1 else []:
            if self._is_product(leaf.step):
                other = self._other_factor(leaf.step, leaf.index)
                lines[self.record.of(leaf.step).place, other.shape].append(leaf)
        for uses in lines.values():
            details = self.record.of(uses[0].step)
            inputs = [self._other_factor(leaf.step, leaf.index) for leaf in uses]
            choices: list[tuple[str, Sequence[Array]]] = []
            if len(uses) > 1:
                after, zeros = self._next_like(uses[-1].step, inputs[-1]), np.zeros_like(inputs[0])
                choices.append(("the value of the step after", [*inputs[1:], after]))
                choices.append(("the value of the step before", [inputs[0], *inputs[:-1]]))
                choices.append(("the value of the step before", [zeros, *inputs[:-1]]))
            else:
                for place, value in self._values_like(inputs[0]):
                    choices.append((f"the value of {place}", [value]))
            for words, others in choices:
                grad = self.right[self.wrong[0]]
                for leaf, other in zip(uses, others, strict=True):
                    part = self._pull(leaf.step, leaf.index, other, False, self.totals[leaf.step.position])
                    grad = grad + leaf.of_parameter(part - leaf.part)
                gradients = {**self.right, self.wrong[0]: grad}
                slip = Slip(Kind.OTHER_INPUT, details.name, details.place, gradients=gradients, instead=words)
                yield replace(slip, names=(self.wrong[0],))

    def _next_like(self, step: Step, like: Array) -> Array:
        """Return the next function of one value, in the form of another; zeros where there is none."""
        for later in self.record.steps[step.position + 1 :]:
            details = self.record.of(later)
            is_function = len(later.parents) == 1 and isinstance(details.function, np.ufunc)
            if is_function and details.value.shape == like.shape:
                return details.value
        return np.zeros_like(like)

    def _values_like(self, value: Array) -> Iterator[tuple[str, Array]]:
        """Yield other values of the same form, with the lines in which they were made."""
        seen = [value, -value]  # the sign is another bug
        for position, details in self.record.details.items():
            for one in (details.value, *details.args):
                if position in self.record.starts or not isinstance(one, np.ndarray) or one.shape != value.shape:
                    continue
                if details.place and one.dtype.kind == "f" and not any(np.array_equal(one, other) for other in seen):
                    seen.append(one)
                    yield details.place, one


def _spread_in_parent(step: Step, part: Any) -> Any:
    """Return what goes back from a step to a parent; of items, what stands among zeros is all that counts."""
    if step.shape is None:
        return part
    whole = np.zeros(step.shape)
    np.add.at(whole, step.key, np.real(part))
    return whole


def _weighted(indices: Sequence[int], weight: float, total: Any, parts: list[Any]) -> tuple[list[Any], dict[int, Any]]:
    """Give some paths back from a step another weight."""
    parts = list(parts)
    for index in indices:
        parts[index] = None if weight == 0 else weight * parts[index]
    return parts, {}


def _replaced(index: int, pull: Callable[[Any], Any], total: Any, parts: list[Any]) -> tuple[list[Any], dict[int, Any]]:
    """Hand something else back to one parent of a step."""
    return [*parts[:index], pull(total), *parts[index + 1 :]], {}


def _is_square(array: Array) -> bool:
    return array.ndim == 2 and array.shape[0] == array.shape[1] > 1


def _plain_number(weight: float) -> float:
    """Return the number that people write for a weight that is known to six digits; itself where there is none.

    >>> _plain_number(2.000001), _plain_number(-0.2500001), _plain_number(1e-7), _plain_number(0.37)
    (2.0, -0.25, 0.0, 0.37)
    """
    if abs(weight) <= 10 * ALIKE:
        return 0.0
    number = round(weight) if abs(weight) >= 1 else 1 / round(1 / weight)
    return float(number) if abs(weight - number) <= 10 * ALIKE * abs(number) else weight


def _usual_derivatives(z: Array, a: Array, right: Any) -> dict[Formula, Array]:
    """Return what people write for the derivative of a function a of z: in place of the right one, or beside it."""
    right = np.broadcast_to(right, z.shape)
    with np.errstate(all="ignore"):
        of_a, of_z = 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-z))
        positive, negative = np.where(z > 0, 1.0, 0.0), np.where(z < 0, 1.0, 0.0)
        of_output = {
            "1 - a**2": 1 - a * a,
            "a * (1 - a)": a * (1 - a),
            "1 - tanh(a)**2": 1 - np.tanh(a) ** 2,
            "sigmoid(a) * (1 - sigmoid(a))": of_a * (1 - of_a),
        }
        of_input = {
            "(z > 0)": positive,
            "1 - z**2": 1 - z * z,
            "z * (1 - z)": z * (1 - z),
            "1 - tanh(z)**2": 1 - np.tanh(z) ** 2,
            "sigmoid(z) * (1 - sigmoid(z))": of_z * (1 - of_z),
            "(z >= 0)": 1 - negative,
            "(z < 0)": negative,
            "z": z,
            "sigmoid(z)": of_z,
            "tanh(z)": np.tanh(z),
            "cos(z)": np.cos(z),
            "sin(z)": np.sin(z),
            "-sin(z)": -np.sin(z),
            "-sin(z)**2": -(np.sin(z) ** 2),
            "exp(z)": np.exp(z),
            "1 / z": 1 / z,
            "2 * z": 2 * z,
            "sign(z)": np.sign(z),
        }
        more_of_output = {"a": a, "1 - a": 1 - a, "a**2": a * a}
    table = {Formula("1", Argument.NOTHING): np.ones_like(z)}
    for argument, formulas in (
        (Argument.OUTPUT, of_output),
        (Argument.INPUT, of_input),
        (Argument.OUTPUT, more_of_output),
    ):
        for words, array in formulas.items():
            table[Formula(words, argument)] = np.asarray(array)
    table[Formula("its own square", Argument.INPUT)] = right * right
    table[Formula("1 wherever it is not 0", Argument.INPUT)] = np.where(right != 0, 1.0, 0.0)
    for words, array in of_output.items():
        table[Formula(words, Argument.OUTPUT, is_more=True)] = np.asarray(array)
    table[Formula("(z > 0)", Argument.INPUT, is_more=True)] = positive
    return table
