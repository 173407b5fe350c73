"""A network taken apart: each layer as a function of its own parameters and its input, with its backward beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gc_hooks._typing import Array

INPUT = "input"


@dataclass(frozen=True)
class LayerView:
    """One layer as pure functions of its point: its parameters, and its input where that is made of real numbers."""

    name: str
    point: dict[str, Array]  # the input stands under the name "input"
    forward: Callable[[Mapping[str, Array]], Any]  # forward(point) -> outputs
    backward: Callable[[Mapping[str, Array], Array], dict[str, Any]]  # backward(point, upstream) -> gradients by name
    where: str  # file and line of the layer's own backward
    notes: tuple[str, ...] = ()  # for the report
    unjudged: tuple[str, ...] = ()  # arrays of the layer that look like parameters and are not in the point
    batch: tuple[int, ...] = ()  # numbers by which the layer may divide its own gradients: the size of the batch
    failure: str = ""  # why it cannot be checked


def location(function: Any) -> str:
    """Return file and line of a function; an empty text where Python does not know them.

    >>> location(location).startswith("layer_view.py:"), location(len)
    (True, '')
    """
    try:
        file, (_, line) = inspect.getsourcefile(function), inspect.getsourcelines(function)
    except (TypeError, OSError):
        return ""
    return f"{Path(file or '').name}:{line}"
