"""Why a loss gave two values for the same parameters: what it draws from, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from gc_hooks.isolation.evaluation import state_of
from gc_hooks.isolation.object_graph import referred
from gc_hooks.isolation.rng import GLOBAL_GENERATORS, is_random
from gc_hooks.isolation.snapshot import Change, Snapshot, undo
from gc_hooks.report.diagnosis import listed

MOST_CANDIDATES, REPETITIONS = 32, 4
STATISTICS = ("running", "moving", "mean", "var", "ema", "avg")
"""Parts of the names that people give to running statistics."""
UNKNOWN = (
    "This usually means dropout, a data augmentation, a shuffled or advancing batch, batch-norm statistics or a "
    "hidden state that is carried from call to call. Try to set the dropout rate to zero, to fix the batch and the "
    "seed inside the function, and to reset what it carries."
)

Evaluate = Callable[[], float]


def why_nondeterministic(evaluate: Evaluate, function: Callable[..., Any]) -> str:
    """The second and third sentence of `gc_hooks.NondeterministicLoss`: the cause, and what to try.

    Parameters
    ----------
    evaluate : callable
        One more value of the loss; nothing but the loss's own state makes it differ from the last one.
    function : callable
        The loss as it was handed in: what it refers to is watched.

    Notes
    -----
    A cause is named only when the loss repeats itself with just that put back. Costs up to 150 evaluations; all that is
    reached from the function is put back afterwards.
    """
    start = Snapshot(*state_of(function), named=referred(function))
    try:
        return _told(evaluate, start)
    except Exception:  # a loss that cannot even be called again: its batches may have come to an end
        return _of_iterators(start) or UNKNOWN
    finally:
        start.put_back()


def _told(evaluate: Evaluate, start: Snapshot) -> str:
    evaluate()
    changes = start.changes()
    if not _repeats(evaluate, start.put_back):
        return _of_iterators(start) or _of_series([evaluate() for _ in range(6)])
    candidates = [[change] for change in changes[:MOST_CANDIDATES]]
    for cause in (*candidates, [change for change in changes if is_random(change.target)], changes):
        start.put_back()
        if cause and _repeats(evaluate, partial(_undo_all, cause)):
            return _of_draws(cause) if is_random(cause[0].target) else _of_state(cause)
    return UNKNOWN


def _undo_all(changes: list[Change]) -> None:
    for change in changes:
        undo(change)


def _repeats(evaluate: Evaluate, put_back: Callable[[], object]) -> bool:
    """Whether the value is the same each time that something has been put back."""
    values = set()
    for _ in range(REPETITIONS):
        put_back()
        values.add(evaluate())
    return len(values) == 1


def _of_draws(cause: list[Change]) -> str:
    names = [change.path for change in cause]
    seen = f"It draws from {listed(names)}, and repeats itself when that is put back."
    if set(names) & GLOBAL_GENERATORS.keys():
        return (
            f"{seen} This usually means dropout or noise that is still on, or an augmentation or a shuffled batch, "
            "with the module's global seed. Try to set the dropout rate to zero for the check, or to draw from a "
            "np.random.default_rng(seed) that is made inside the function."
        )
    return (
        f"{seen} This usually means dropout or noise that is still on. Try to set its rate to zero for the check, or "
        "to hold the masks fixed: put the generator's state back before each evaluation (before_loss=), or frozen=True "
        "in an adapter."
    )


def _of_state(cause: list[Change]) -> str:
    names = list(dict.fromkeys(change.path for change in cause))
    last = [name.rpartition(".")[2].lower() for name in names]
    if all(any(part in name for part in STATISTICS) for name in last):
        return (
            f"Each evaluation updates {listed(names)}, and the next one uses it. This usually means the running "
            "statistics of batch norm. Try to use the batch's own statistics in the loss, or to restore them before "
            "each evaluation (before_loss=)."
        )
    return (
        f"Each evaluation changes {listed(names)}, and the next one begins from there. This usually means a hidden "
        "state that is carried from call to call, a counter or a cache. Try to reset what it carries before each "
        "evaluation: before_loss=, with a function that does so."
    )


def _of_iterators(start: Snapshot) -> str:
    if not start.iterators:
        return ""
    return (
        f"It refers to the iterator {listed(start.iterators)}. This usually means that each evaluation takes the next "
        "batch. Try to take one batch before the check, and to use it in every evaluation."
    )


def _of_series(values: list[float]) -> str:
    """Nothing was seen to change, but the values themselves say something."""
    steps = [after - before for before, after in pairwise(values)]
    if len(set(values)) == 2 and all(steps):
        return (
            f"It alternates between {values[0]!r} and {values[1]!r}. This usually means a flag or one of two buffers "
            "that is switched at each call. Try to set it before each evaluation (before_loss=)."
        )
    if all(step > 0 for step in steps) or all(step < 0 for step in steps):
        return (
            f"It keeps drifting, to {values[-1]!r} after {len(values)} more calls. This usually means something that "
            "accumulates from call to call: running statistics, or an update inside the loss. Try to reset it before "
            "each evaluation (before_loss=)."
        )
    return UNKNOWN
