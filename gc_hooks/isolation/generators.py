"""Find the random generators that functions can reach, and put their states back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.object_graph import ITEM, Node, placing
from gc_hooks.isolation.reach import MOST, reachable
from gc_hooks.isolation.rng import is_generator, random_state, set_random_state
from gc_hooks.isolation.snapshot import Snapshot
from gc_hooks.isolation.undoing import run_all, undone_by
from gc_hooks.report.diagnosis import listed

CACHE = type(lru_cache(len))  # the class of functions with a functools.lru_cache


@dataclass
class Found:
    """What some functions can reach that has to be put back after a check, and notes on what the search left out."""

    functions: tuple[object, ...]
    nodes: tuple[Node, ...]  # the random generators
    caches: tuple[Any, ...] = ()  # those of functools.lru_cache that are empty
    state: tuple[Any, ...] = ()  # the objects that evaluations put back: again at the end, should a Ctrl-C come between
    notes: tuple[str, ...] = ()
    is_new: bool = True  # whether no check has been made since the search

    @property
    def in_place(self) -> bool:
        """Return whether all of them are known to stand where they were found, so that no new search is needed."""
        return all(node.home is not None and node.home.get(node.key) is node.thing for node in self.nodes)

    @contextmanager
    def preserve(self) -> Iterator[list[str]]:
        """Put back the states, and each generator where it stood; yield notes on what is not, complete at the end."""
        notes = list(self.notes)
        steps: list[tuple[Any, ...]] = [(Snapshot(*self.state).put_back,)] if self.state else []
        steps += [(_empty_again, cache) for cache in self.caches]
        for node in self.nodes:
            try:
                steps.append((set_random_state, node.thing, random_state(node.thing)))
            except Exception:  # a class of the user's own that does not give its state
                notes.append(
                    f"The random generator {node.name} ({type(node.thing).__name__}) does not give its state, so that "
                    "it could not be put back. This usually means a class of your own without that method. Try a "
                    "np.random.default_rng(seed)."
                )
            else:
                steps.append((_put_where_it_stood, node, _place_of(node)))
        with undone_by(partial(run_all, steps)):
            yield notes
        if self.is_new:
            self.is_new = False
            notes += self._made_meanwhile()

    def _made_meanwhile(self) -> list[str]:
        """Say which generators were made during the check: the training goes on with them where they are now."""
        known = {id(node.thing) for node in self.nodes}
        names = [node.name for node in find_generators(*self.functions).nodes if id(node.thing) not in known]
        if not names:
            return []
        return [
            f"The check was the first to use the random generator {listed(names)}, and has drawn from it. This usually "
            "means one that the loss makes when it is first called. Try to make it before the first step."
        ]


def _empty_again(cache: Any) -> None:
    if cache.cache_info().currsize:
        cache.cache_clear()


Put = Callable[[Any], None]


def _place_of(node: Node) -> Put | None:
    return None if node.parent is None else placing(node.parent.thing, node.key, node.home)


def _put_where_it_stood(node: Node, put: Put | None) -> None:
    """Put a generator in its old place; a loss that begins with a new one each time leaves that one there."""
    if put is None or node.parent is None:
        return
    owner = node.parent.thing
    if node.home is not None:
        is_there = node.home.get(node.key) is node.thing
    else:  # a list may have got shorter, or another order
        is_there = node.step == ITEM and any(item is node.thing for item in owner)
    if not is_there:
        put(node.thing)


def find_generators(*functions: object) -> Found:
    """Search what functions can reach for generators, other than the global ones, without a copy of anything."""
    nodes = reachable(*functions)
    notes: tuple[str, ...] = ()
    if len(nodes) >= MOST:
        notes = (
            f"More than {MOST:,} objects can be reached from the loss and the gradient: random generators beyond them "
            "were not put back. Try functions that refer to less, or before_loss=.",
        )
    return Found(
        functions,
        tuple(node for node in nodes if is_generator(type(node.thing))),
        tuple(node.thing for node in nodes if isinstance(node.thing, CACHE) and not node.thing.cache_info().currsize),
        tuple(thing for node in nodes if isinstance(node.thing, Evaluation) for thing in node.thing.state),
        notes,
    )
