"""Turn any nesting of dicts, lists and tuples into ``{"layers.0.W": leaf}``, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from gc_hooks.errors import InvalidProblem

ROOT = "theta"
"""The name of parameters that are a single number or a single array."""


def flatten(tree: object) -> dict[str, Any]:
    """Name every leaf of nested mappings, lists and tuples by its path, in their order.

    A tree that is itself a leaf is called ``theta``. Raises `InvalidProblem` where two leaves would get the same name.

    Examples
    --------
    >>> flatten({"layers": [{"W": 1.0, "b": 2.0}], "scale": 3.0})
    {'layers.0.W': 1.0, 'layers.0.b': 2.0, 'scale': 3.0}
    """
    leaves: dict[str, Any] = {}
    for path, leaf in _walk(tree, ""):
        name = path or ROOT
        if name in leaves:
            raise InvalidProblem(
                f"Two parameters are both called {name!r}. This usually means that a key holds a dot or that a number "
                "and a string were both used as keys. Try other keys."
            )
        leaves[name] = leaf
    return leaves


def rebuild(tree: object, leaves: Mapping[str, Any]) -> Any:
    """Return the structure of ``tree`` with other leaves: the inverse of `flatten`.

    Examples
    --------
    >>> rebuild([{"W": None}, None], {"0.W": 1.0, "1": 2.0})
    [{'W': 1.0}, 2.0]
    """
    return _rebuild(tree, leaves, "")


def _rebuild(tree: Any, leaves: Mapping[str, Any], path: str) -> Any:
    if not is_container(type(tree)):
        return leaves[path or ROOT]
    branches = {}
    for key, branch in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        word = _word(key)
        branches[key] = _rebuild(branch, leaves, f"{path}.{word}" if path else word)
    if isinstance(tree, Mapping):
        return branches
    if hasattr(tree, "_fields"):  # a named tuple takes its items one by one
        return type(tree)(*branches.values())
    return tuple(branches.values()) if isinstance(tree, tuple) else list(branches.values())


def _is_container(kind: Any) -> bool:
    return issubclass(kind, (Mapping, list, tuple))


is_container: Callable[[Any], bool] = lru_cache(maxsize=1024)(_is_container)
"""Return whether trees of this class have branches. Cached, because every array is asked at every evaluation."""


def _walk(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its path."""
    if not is_container(type(tree)):
        yield path, tree
        return
    for key, branch in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        word = _word(key)
        yield from _walk(branch, f"{path}.{word}" if path else word)


def _word(key: object) -> str:
    """Return a key as a part of a name that any file can hold: half a surrogate pair is spelt out."""
    text = str(key)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
