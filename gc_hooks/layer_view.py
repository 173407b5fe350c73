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
    """One layer as pure functions of its point: its parameters, and its input where that is made of real numbers."""

    name: str
    point: dict[str, Array]  # the input stands under the name "input"
    forward: Callable[[Mapping[str, Array]], Any]  # forward(point) -> outputs
    backward: Callable[[Mapping[str, Array], Array], dict[str, Any]]  # backward(point, upstream) -> gradients by name
    where: str  # file and line of the layer's own backward
    notes: tuple[str, ...] = ()  # for the report
    unjudged: tuple[str, ...] = ()  # arrays of the layer that look like parameters and are not in the point


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


def layer_views(layers: Iterable[Any], inputs: Array) -> Iterator[LayerView]:
    """Yield a view of each layer: any objects with ``forward(inputs)`` and ``backward(upstream)``.

    Layers with parameters have ``params`` and ``grads`` as twin dicts or lists. Copies are run, so that the caller's
    layers keep their caches.
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
        point = {key: np.array(array, dtype=np.float64) for key, array in _arrays_of(layer, "params").items()}
        inputs = np.asarray(inputs)
        if inputs.dtype.kind == "f":
            point[INPUT] = inputs.astype(np.float64)
        view = _view(f"{number} {type(layer).__name__}", layer, point, inputs)
        yield view
        inputs = view.forward(view.point)


def _view(name: str, layer: Any, point: dict[str, Array], inputs: Array) -> LayerView:
    twin = copy.deepcopy(layer)

    def forward(point: Mapping[str, Array]) -> Any:
        for key, array in _arrays_of(twin, "params").items():
            array[...] = point[key]
        outputs = twin.forward(point.get(INPUT, inputs))
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def backward(point: Mapping[str, Array], upstream: Array) -> dict[str, Any]:
        forward(point)  # fills the caches that backward reads
        below, gradients = twin.backward(upstream), _arrays_of(twin, "grads")
        if isinstance(below, tuple):  # with the gradients of its parameters as a second value, perhaps
            below, *own = below
            if own and isinstance(own[0], Mapping):
                gradients = dict(own[0])
        for key, gradient in gradients.items():
            gradients[key] = np.array(gradient)  # a copy: the next call may write into the layer's own
        if INPUT in point:
            gradients[INPUT] = below
        return gradients

    return LayerView(name, point, forward, backward, location(type(layer).backward))


def _arrays_of(layer: object, attribute: str) -> dict[str, Any]:
    """Return a layer's parameters or gradients by name, those of a list by position."""
    arrays = getattr(layer, attribute, None) or {}
    if callable(arrays):
        arrays = arrays()
    if isinstance(arrays, Mapping):
        return dict(arrays)
    return {str(position): array for position, array in enumerate(arrays)}
