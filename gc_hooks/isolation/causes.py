"""Find out why a loss gave two values for the same parameters: what it draws from, and which state it changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import gt, lt, ne
from typing import Any

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.object_graph import MOST_BYTES, PLAIN, changeable_nodes, references, variables
from gc_hooks.isolation.rng import GLOBAL_GENERATORS, is_generator
from gc_hooks.isolation.snapshot import Change, Snapshot, undo
from gc_hooks.report.diagnosis import listed

MOST_CANDIDATES = 32
"""Changes that are tried as the cause, each alone, those nearest to the loss first. Each costs four evaluations."""

REPETITIONS = 4
"""Evaluations that must agree. A mask of one unit (rate 0.5) agrees by chance in 1 of 8 cases; with 2, in 1 of 2."""

STATISTICS = re.compile("running|moving|mean|var|ema|avg")
"""Parts of the names that people give to running statistics."""

UNKNOWN = (
    "This usually means dropout, a data augmentation, a shuffled or advancing batch, batch-norm statistics or a hidden "
    "state. Try to set the dropout rate to zero, to fix batch and seed in the loss, and to reset what it carries."
)

OF_ADAPTER = (
    "Try frozen=True in the adapter: every evaluation then begins from the same state. Where the gradients are "
    "buffers, it needs backward=lambda: ..., with a forward pass and then the backward pass."
)
"""What to try where an adapter knows what to put back. The buffers alone were computed from another state."""


class _Counted:
    """Evaluates a loss, and counts how often it came to a value."""

    def __init__(self, evaluate: Callable[[], float], before: int) -> None:
        self._evaluate, self.calls = evaluate, before

    def __call__(self) -> float:
        value = self._evaluate()
        self.calls += 1
        return value


def why_nondeterministic(evaluate: Callable[[], float], function: Loss, before: int = 2) -> str:
    """Return the second and third sentence of `gc_hooks.NondeterministicLoss`: the cause, and what to try.

    ``evaluate`` returns one more value of ``function``, the loss as the user gave it, which has been evaluated
    ``before`` times. A cause is named only when the loss repeats itself with nothing but that put back. It costs up to
    150 evaluations; what was watched is put back.
    """
    source: Loss = function
    state: tuple[Any, ...] = ()
    is_adapted = isinstance(function, Evaluation)
    if isinstance(function, Evaluation):
        source, state = function.source, function.state
    seen = [*references(source), *variables(source), *find_generators(source).nodes]
    start = Snapshot(*state, named=seen)
    counted = _Counted(evaluate, before)
    try:
        counted()
        changes = start.changes()
        if not _repeats(counted, start.put_back):
            return _of_iterators(start.iterators, counted.calls) or _of_series(counted)
        draws = [change for change in changes if is_generator(type(change.target))]
        for cause in (*zip(changes[:MOST_CANDIDATES]), draws, changes):
            start.put_back()
            if cause and _repeats(counted, partial(undo, *cause)):
                return _of_changes(cause, is_adapted)
        return UNKNOWN
    except Exception:  # the loss cannot even be called again: its batches may have come to an end
        return _of_iterators(start.iterators, counted.calls) or UNKNOWN
    finally:
        start.put_back()


def footprint_of(function: Loss) -> Callable[[], tuple[str, ...]]:
    """Look at what a loss refers to, and return a function that says what has changed since, if anything has."""
    start = Snapshot(named=changeable_nodes(function), largest=MOST_BYTES)

    def told() -> tuple[str, ...]:
        names = list(dict.fromkeys(change.name for change in start.changes() if _is_state(change)))
        if not names:
            return ()
        return (
            f"Each evaluation of the loss changes {listed(names)}, and the check does not put that back. This usually "
            "means running statistics, a counter or a history. Try check_gradients(**adapters.dicts(params, grads, "
            "loss=loss)), which does.",
        )

    return told


def _is_state(change: Change) -> bool:
    """Return whether a change is one of numbers, or of a length: new objects in place of others are caches."""
    target, before = change.target, change.saved.copy
    if is_generator(type(target)):  # the check itself puts them back
        return False
    if change.key is not None:
        before = before.get(change.key)
    if isinstance(target, (list, dict, tuple, set)) and type(before) is type(target) and len(before) != len(target):
        return True
    return _holds_numbers(target)


def _holds_numbers(thing: object, depth: int = 4) -> bool:
    if isinstance(thing, (list, tuple, dict)) and depth:
        items = thing.values() if isinstance(thing, dict) else thing
        return all(_holds_numbers(item, depth - 1) for item in items)
    return isinstance(thing, (np.ndarray, *PLAIN))


def _repeats(evaluate: Callable[[], float], put_back: Callable[[], object]) -> bool:
    """Return whether the value is the same each time that something has been put back."""
    values = set()
    for _ in range(REPETITIONS):
        put_back()
        values.add(evaluate())
        if len(values) > 1:
            return False
    return True


def _of_iterators(names: Sequence[str], evaluations: int) -> str:
    """Say what it means that a loss takes from iterators, which cannot be put back; nothing where there are none."""
    if not names:
        return ""
    return (
        f"It refers to the iterator {listed(names)}. This usually means that each evaluation takes the next batch: the "
        f"loss was evaluated {evaluations} times, and the training has lost {evaluations} batches by it. Try to take "
        "one batch before the check, and to use it in every evaluation."
    )


def _of_changes(cause: Sequence[Change], is_adapted: bool) -> str:
    """Say what it means that the loss repeats itself when these changes are undone."""
    names = list(dict.fromkeys(change.name for change in cause))
    if is_generator(type(cause[0].target)):
        is_global = bool(GLOBAL_GENERATORS.keys() & names)
        what = "dropout or noise that is still on"
        advice = (
            "Try to set its rate to zero in the loss and in the gradient, which has to be a function (grads=): buffers "
            "belong to other masks. Or draw from a np.random.default_rng(seed) that is made inside both functions."
        )
        if is_global:
            what += ", or a shuffled batch, with the module's global seed"
        return (
            f"It draws from {listed(names)}, and repeats itself when that is put back. This usually means {what}. "
            f"{OF_ADAPTER if is_adapted else advice}"
        )
    advice = (
        "Try to reset what it carries at the beginning of the loss and of the gradient, which has to be a function "
        "(grads=); before_loss= of on_step does both."
    )
    if is_adapted:
        advice = OF_ADAPTER
    if all(STATISTICS.search(name.rpartition(".")[2].lower()) for name in names):
        return (
            f"Each evaluation updates {listed(names)}, and the next one uses it. This usually means the running "
            f"statistics of batch norm. {advice}"
        )
    return (
        f"Each evaluation changes {listed(names)}, and the next one begins from there. This usually means a hidden "
        f"state that is carried from call to call, a counter or a cache. {advice}"
    )


def _of_series(evaluate: Callable[[], float]) -> str:
    """Say what six more values themselves show, where nothing was seen to change."""
    values = [evaluate() for _ in range(6)]
    if len(set(values)) == 2 and all(map(ne, values, values[1:])):
        return (
            f"It alternates between {values[0]!r} and {values[1]!r}. This usually means a flag or one of two buffers "
            "that is switched at each call. Try to set it where the loss begins, or with before_loss= of on_step."
        )
    if all(map(lt, values, values[1:])) or all(map(gt, values, values[1:])):
        return (
            f"It keeps drifting, to {values[-1]!r} after 6 more calls. This usually means something that accumulates "
            "from call to call: running statistics, or an update inside the loss. Try to reset it where the "
            "loss begins, or with before_loss= of on_step."
        )
    return UNKNOWN
