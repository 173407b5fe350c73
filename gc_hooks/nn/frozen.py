"""Frozen parameters: arrays that the layers use and nobody trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem


def chosen(names: Iterable[str], among: Iterable[str], what: str) -> Iterator[str]:
    """The parameters that are meant: by name, or by the layer that they belong to.

    Raises
    ------
    InvalidProblem
        A name fits none of them.

    Examples
    --------
    >>> list(chosen(["dense1", "dense2.b"], ["dense1.W", "dense1.b", "dense2.W", "dense2.b"], "trained"))
    ['dense1.W', 'dense1.b', 'dense2.b']
    """
    known = list(among)
    for name in names:
        found = [full for full in known if full == name or full.startswith(f"{name}.")]
        if not found:
            raise InvalidProblem(
                f"There is no {what} parameter or layer {name!r}. Names are a layer's kind and its number, and behind "
                f"a dot what it calls the array. Try {', '.join(known) or 'none: there are none'}."
            )
        yield from found


def frozen_notes(names: Iterable[str]) -> tuple[str, ...]:
    """What a report says of them."""
    told = ", ".join(names)
    return (f"Frozen, and so neither trained nor checked: {told}.",) if told else ()


def in_order(arrays: Params, order: Iterable[str]) -> dict[str, Array]:
    """The same arrays, in the order of the names."""
    return {name: arrays[name] for name in order if name in arrays}
