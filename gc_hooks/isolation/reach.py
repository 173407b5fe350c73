"""What functions can reach, as a search for random generators looks for it: wider than what is put back."""

from __future__ import annotations

import gc
import threading
import weakref
from contextvars import ContextVar
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

from gc_hooks.isolation.object_graph import (
    ATTRIBUTE,
    CALLS,
    PLAIN,
    SAME,
    VARIABLE,
    Node,
    Part,
    Way,
    all_ways,
    is_library,
    walk,
)
from gc_hooks.isolation.rng import is_generator, once_per_class

LONGEST = 1000
"""Items of one container that are looked at. Generators stand in short lists; a longer one is mostly data."""

MOST = 5000
"""Things that are visited, which takes 5 to 10 milliseconds. Twice as many would be felt in a check at every step."""


HOLDERS = {
    *("builtins", "itertools", "functools", "types", "operator", "contextlib", "queue", "_queue"),
    *("weakref", "_weakref", "weakrefset", "_weakrefset", "contextvars", "_contextvars", "_thread", "_threading_local"),
    *("torch.utils.data.dataloader", "torch.utils.data.sampler"),
}
"""Modules whose objects hold what a user has put there: iterators, caches, proxies, queues, references. A search may
look into them, because it changes nothing there."""


def reachable(*functions: object) -> list[Node]:
    """Return the nodes of all that functions can reach, through methods and modules too; at most `MOST`."""
    return list(walk(map(Node, functions), _ways, plain_arrays=False, longest=LONGEST, most=MOST))


def reachable_generators(*functions: object) -> list[Any]:
    """Return the random generators among them."""
    return [node.thing for node in reachable(*functions) if is_generator(type(node.thing))]


@once_per_class
def _ways(kind: type) -> tuple[Way, ...] | None:
    """Return the ways on that a search for generators takes: more than `preserve`, which would write there."""
    if issubclass(kind, ModuleType):
        return (_of_whole_module,)
    if is_generator(kind) or issubclass(kind, (*PLAIN, CodeType, FrameType, TracebackType)):
        return all_ways(kind)
    for base, way in HELD:
        if issubclass(kind, base):
            return (way, *(all_ways(kind) or ()))
    onward = all_ways(kind)
    return (_of_holder,) if not onward and str(kind.__module__) in HOLDERS else onward


def _of_whole_module(thing: ModuleType) -> list[Part]:
    """Return the objects in a module of the user's, where it is not known which of them are used."""
    if is_library(thing.__name__):
        return []
    values = vars(thing)
    objects = {name: value for name, value in list(values.items()) if not isinstance(value, (type, ModuleType, *CALLS))}
    return [(VARIABLE, objects.items(), values)]


def _of_holder(thing: object) -> list[Part]:
    return [(SAME, enumerate(gc.get_referents(thing)), None)]


def _of_reference(thing: Any) -> list[Part]:
    return [(SAME, [(0, weakref.ref.__call__(thing))], None)]


def _of_context(thing: ContextVar[Any]) -> list[Part]:
    return [(SAME, [(0, thing.get(None))], None)]


def _of_thread(thing: threading.local) -> list[Part]:
    return [(ATTRIBUTE, vars(thing).items(), vars(thing))]


HELD: tuple[tuple[Any, Way], ...] = (
    (weakref.ref, _of_reference),
    (ContextVar, _of_context),
    (threading.local, _of_thread),
)
