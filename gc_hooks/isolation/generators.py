"""Find the random generators that functions can reach, and put their states back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gc_hooks.isolation.object_graph import Node, all_ways, walk
from gc_hooks.isolation.rng import is_generator, random_state, set_random_state

LONGEST = 1000
"""Items of one container that are looked at. Generators stand in short lists; a longer one is mostly data."""

MOST = 5000
"""Things that are visited, which takes 5 to 10 milliseconds. Twice as many would be felt in a check at every step."""


class Found(NamedTuple):
    """The random generators that some functions can reach, and notes on what the search left out."""

    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = ()

    @property
    def in_place(self) -> bool:
        """Return whether all of them are known to stand where they were found, so that no new search is needed."""
        return all(node.home is not None and node.home.get(node.key) is node.thing for node in self.nodes)

    @contextmanager
    def preserve(self) -> Iterator[tuple[str, ...]]:
        """Put back the states, and each generator where it stood; yield notes on what cannot be put back."""
        saved, notes = [], list(self.notes)
        for node in self.nodes:
            try:
                saved.append((node, random_state(node.thing)))
            except Exception:  # a class of the user's own that does not give its state
                notes.append(
                    f"The random generator {node.name} ({type(node.thing).__name__}) does not give its state, so that "
                    "it could not be put back. This usually means a class of your own without that method. Try a "
                    "np.random.default_rng(seed)."
                )
        try:
            yield tuple(notes)
        finally:
            for node, state in saved:
                set_random_state(node.thing, state)
                # A loss that begins with a new generator each time leaves that one in the old one's place.
                if node.home is not None and node.home.get(node.key) is not node.thing:
                    node.home[node.key] = node.thing


def find_generators(*functions: object) -> Found:
    """Search what functions can reach for generators, other than the global ones, without a copy of anything."""
    nodes = list(walk(map(Node, functions), all_ways, plain_arrays=False, longest=LONGEST, most=MOST))
    found = tuple(node for node in nodes if is_generator(type(node.thing)))
    if len(nodes) < MOST:
        return Found(found)
    note = (
        f"More than {MOST:,} objects can be reached from the loss and the gradient: random generators beyond them "
        "were not put back. Try functions that refer to less, or before_loss=."
    )
    return Found(found, (note,))
