"""A network taken apart: each layer as a function of its own parameters and its input, with its backward beside it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem

INPUT = "input"


@dataclass(frozen=True)
class LayerView:
    """One layer.

    Attributes
    ----------
    name : str
    point : dict of str to ndarray
        Its parameters, and its input under the name "input" where that is made of real numbers.
    forward : callable
        ``forward(point) -> outputs``, a pure function.
    backward : callable
        ``backward(point, upstream) -> gradients`` by the names of the point.
    where : str
        File and line of the layer's own backward.
    notes : tuple of str
        What a report should say of it.
    """

    name: str
    point: dict[str, Array]
    forward: Callable[[Mapping[str, Array]], Any]
    backward: Callable[[Mapping[str, Array], Array], dict[str, Any]]
    where: str
    notes: tuple[str, ...] = ()


def location(function: Any) -> str:
    """File and line of a function, as far as it can be told.

    Examples
    --------
    >>> location(location).startswith("layer_view.py:"), location(len)
    (True, '')
    """
    try:
        file, (_, line) = inspect.getsourcefile(function), inspect.getsourcelines(function)
    except (TypeError, OSError):
        return ""
    return f"{Path(file or '').name}:{line}"


def layer_views(layers: Iterable[Any], inputs: Array) -> Iterator[LayerView]:
    """Layers of anybody's: objects with ``forward(inputs)`` and ``backward(upstream)``, and, if they have parameters,
    ``params`` and ``grads`` as twin dicts or lists. Copies are run, so that the caller's keep what they carry.

    Raises
    ------
    InvalidProblem
        There are none, or one lacks forward or backward.
    """
    layers = list(layers)
    if not layers:
        raise InvalidProblem("check_layers got no layers. Try the list of layers from inputs to outputs.")
    for number, layer in enumerate(layers, start=1):
        for method in ("forward", "backward"):
            if not callable(getattr(layer, method, None)):
                raise InvalidProblem(
                    f"Layer {number}, {layer!r}, has no {method}(). check_layers needs objects with forward(inputs) "
                    "and backward(upstream). Try to wrap it in a small class that has both."
                )
        name = f"{number} {type(layer).__name__}"
        point = {key: np.array(array, dtype=np.float64) for key, array in _named(layer, "params").items()}
        inputs = np.asarray(inputs)
        if inputs.dtype.kind == "f":
            point[INPUT] = inputs.astype(np.float64)
        piece = _foreign(name, layer, point, inputs)
        yield piece
        inputs = piece.forward(piece.point)


def _foreign(name: str, layer: Any, point: dict[str, Array], inputs: Array) -> LayerView:
    twin = copy.deepcopy(layer)

    def forward(p: Mapping[str, Array]) -> Any:
        for key, array in _named(twin, "params").items():
            array[...] = p[key]
        outputs = twin.forward(p.get(INPUT, inputs))
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def backward(p: Mapping[str, Array], upstream: Array) -> dict[str, Any]:
        forward(p)
        below = twin.backward(upstream)
        below, own = (below[0], below[1:]) if isinstance(below, tuple) else (below, ())
        grads = own[0] if own and isinstance(own[0], Mapping) else _named(twin, "grads")
        return {**{key: np.array(grad) for key, grad in grads.items()}, **({INPUT: below} if INPUT in point else {})}

    return LayerView(name, point, forward, backward, location(type(layer).backward))


def _named(layer: Any, attribute: str) -> dict[str, Any]:
    """A layer's parameters or gradients by name; those of a list by their position."""
    held = getattr(layer, attribute, None) or {}
    held = held() if callable(held) else held
    return dict(held) if isinstance(held, Mapping) else {str(k): array for k, array in enumerate(held)}
