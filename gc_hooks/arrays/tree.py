"""Nested parameters as flat ones: any nesting of dicts, lists and tuples <-> ``{"layers.0.W": leaf}``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from gc_hooks.errors import InvalidProblem

ROOT = "theta"
"""The name of parameters that are a single number or a single array."""


def flatten(tree: Any) -> dict[str, Any]:
    """Name every leaf of a nested container by its path.

    Parameters
    ----------
    tree : leaf, or mapping, list or tuple of trees
        Whatever is not a mapping, a list or a tuple is a leaf.

    Returns
    -------
    dict of str to leaf
        In the order of the containers; a tree that is itself a leaf is called ``theta``.

    Raises
    ------
    InvalidProblem
        Two leaves would get the same name.

    Examples
    --------
    >>> flatten({"layers": [{"W": 1.0, "b": 2.0}], "scale": 3.0})
    {'layers.0.W': 1.0, 'layers.0.b': 2.0, 'scale': 3.0}
    """
    leaves: dict[str, Any] = {}
    for path, leaf in _walk(tree, ()):
        name = ".".join(path) or ROOT
        if name in leaves:
            raise InvalidProblem(
                f"Two parameters are both called {name!r}. This usually means that a key holds a dot or that a number "
                "and a string were both used as keys. Try other keys."
            )
        leaves[name] = leaf
    return leaves


def rebuild(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """The inverse of `flatten`: the structure of ``tree`` with other leaves.

    Examples
    --------
    >>> rebuild([{"W": None}, None], {"0.W": 1.0, "1": 2.0})
    [{'W': 1.0}, 2.0]
    """
    return _rebuild(tree, leaves, ())


def is_container(tree: Any) -> bool:
    """Whether a tree has branches of its own."""
    return _has_branches(type(tree))


def _is_containers(kind: Any) -> bool:
    return issubclass(kind, (Mapping, list, tuple))


_has_branches: Callable[[Any], bool] = lru_cache(maxsize=1024)(_is_containers)
"""Asked of every array at every evaluation, so that each class is looked at once."""


def _walk(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not is_container(tree):
        yield path, tree
        return
    for key, branch in _branches(tree):
        yield from _walk(branch, (*path, _word(key)))


def _word(key: Any) -> str:
    """A key as a part of a name that can be written anywhere: half a character, which no file takes, is spelt out."""
    text = str(key)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _branches(tree: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return iter(tree.items()) if isinstance(tree, Mapping) else iter(enumerate(tree))


def _rebuild(tree: Any, leaves: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    if not is_container(tree):
        return leaves[".".join(path) or ROOT]
    branches = {key: _rebuild(branch, leaves, (*path, _word(key))) for key, branch in _branches(tree)}
    if isinstance(tree, Mapping):
        return branches
    if hasattr(tree, "_fields"):  # a named tuple takes its items one by one
        return type(tree)(*branches.values())
    return tuple(branches.values()) if isinstance(tree, tuple) else list(branches.values())
