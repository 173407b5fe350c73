"""Find out why a loss gave two values for the same parameters: what it draws from, and which state it changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import gt, lt, ne
from typing import Any

from gc_hooks._typing import Loss
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.object_graph import references
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


def why_nondeterministic(evaluate: Callable[[], float], function: Loss) -> str:
    """Return the second and third sentence of `gc_hooks.NondeterministicLoss`: the cause, and what to try.

    ``evaluate`` returns one more value of ``function``, the loss as the user gave it. A cause is named only when the
    loss repeats itself with nothing but that put back. It costs up to 150 evaluations; what was watched is put back.
    """
    source: Loss = function
    state: tuple[Any, ...] = ()
    if isinstance(function, Evaluation):
        source, state = function.source, function.state
    start = Snapshot(*state, named=[*references(source), *find_generators(source).nodes])
    of_iterators = ""
    if start.iterators:
        of_iterators = (
            f"It refers to the iterator {listed(start.iterators)}. This usually means that each evaluation takes the "
            "next batch. Try to take one batch before the check, and to use it in every evaluation."
        )
    try:
        evaluate()
        changes = start.changes()
        if not _repeats(evaluate, start.put_back):
            return of_iterators or _of_series(evaluate)
        draws = [change for change in changes if is_generator(type(change.target))]
        for cause in (*zip(changes[:MOST_CANDIDATES]), draws, changes):
            start.put_back()
            if cause and _repeats(evaluate, partial(undo, *cause)):
                return _of_changes(cause)
        return UNKNOWN
    except Exception:  # the loss cannot even be called again: its batches may have come to an end
        return of_iterators or UNKNOWN
    finally:
        start.put_back()


def _repeats(evaluate: Callable[[], float], put_back: Callable[[], object]) -> bool:
    """Return whether the value is the same each time that something has been put back."""
    values = set()
    for _ in range(REPETITIONS):
        put_back()
        values.add(evaluate())
    return len(values) == 1


def _of_changes(cause: Sequence[Change]) -> str:
    """Say what it means that the loss repeats itself when these changes are undone."""
    names = list(dict.fromkeys(change.name for change in cause))
    if is_generator(type(cause[0].target)):
        seen = (
            f"It draws from {listed(names)}, and repeats itself when that is put back. This usually means dropout or "
            "noise that is still on"
        )
        if GLOBAL_GENERATORS.keys() & names:
            return (
                f"{seen}, or a shuffled batch, with the module's global seed. Try to set the dropout rate to zero for "
                "the check, or to draw from a np.random.default_rng(seed) that is made inside the function."
            )
        return (
            f"{seen}. Try to set its rate to zero for the check, or to fix the masks: put the generator's state back "
            "before each evaluation (before_loss=), or frozen=True in an adapter."
        )
    if all(STATISTICS.search(name.rpartition(".")[2].lower()) for name in names):
        return (
            f"Each evaluation updates {listed(names)}, and the next one uses it. This usually means the running "
            "statistics of batch norm. Try to use the batch's own in the loss, or to restore them (before_loss=)."
        )
    return (
        f"Each evaluation changes {listed(names)}, and the next one begins from there. This usually means a hidden "
        "state that is carried from call to call, a counter or a cache. Try to reset what it carries (before_loss=)."
    )


def _of_series(evaluate: Callable[[], float]) -> str:
    """Say what six more values themselves show, where nothing was seen to change."""
    values = [evaluate() for _ in range(6)]
    if len(set(values)) == 2 and all(map(ne, values, values[1:])):
        return (
            f"It alternates between {values[0]!r} and {values[1]!r}. This usually means a flag or one of two buffers "
            "that is switched at each call. Try to set it before each evaluation (before_loss=)."
        )
    if all(map(lt, values, values[1:])) or all(map(gt, values, values[1:])):
        return (
            f"It keeps drifting, to {values[-1]!r} after 6 more calls. This usually means something that accumulates "
            "from call to call: running statistics, or an update inside the loss. Try to reset it (before_loss=)."
        )
    return UNKNOWN
