"""See a list of anybody's layers as `LayerView`s: each a copy, as a function of its own parameters and its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.layer_view import INPUT, LayerView, location
from gc_hooks.layerwise.conventions import PASSES
from gc_hooks.layerwise.discover import Findings, discover
from gc_hooks.layerwise.pairs import Names
from gc_hooks.layerwise.twin import Twin, explained
from gc_hooks.report.diagnosis import agree, listed


def foreign_views(layers: Iterable[Any], inputs: Array, names: Names) -> list[LayerView]:
    """Return a view of each layer: objects with a forward and a backward method. A failure of one is told in its view.

    Raises `InvalidProblem` where something is no layer, or nothing goes by the names that the user gave.
    """
    layers = list(layers)
    if not layers:
        raise InvalidProblem("check_layers got no layers. Try the list of layers from inputs to outputs.")
    passes = [_passes(number, layer) for number, layer in enumerate(layers, start=1)]
    inputs = np.asarray(inputs)
    views: list[LayerView] = []
    stopped, seen = "", set[str]()
    for number, layer in enumerate(layers, start=1):
        name = f"{number} {type(layer).__name__}"
        if stopped:
            views.append(_failed(name, f"It was not reached: {stopped} gave no outputs. Try to mend that first."))
            continue
        try:
            with explained("It"):
                twin = Twin(layer, passes[number - 1], _as_floats(inputs))
        except InvalidProblem as refusal:
            views.append(_failed(name, str(refusal)))
            stopped = name
            continue
        try:
            with explained("It"):
                upstream = np.random.default_rng(0).standard_normal(twin.outputs.shape)
                found = discover(twin, names, np.asarray(upstream))
                seen.update(found.attributes)
                is_needed = any(view.unjudged or set(view.point) - {INPUT} for view in views)
                views.append(_view(name, twin, found, is_needed))
        except InvalidProblem as refusal:
            views.append(_failed(name, str(refusal)))
        inputs = twin.outputs
    for what, given in (("params", names.params), ("grads", names.grads)):
        if given and seen and seen.isdisjoint(given):
            raise InvalidProblem(
                f"No layer has {what}={list(given)}. They have {listed(sorted(seen), 12)}. This usually "
                "means another spelling. Try the names that print(vars(layer)) shows after a backward pass."
            )
    return views


def _view(name: str, twin: Twin, found: Findings, needs_below: bool) -> LayerView:
    inputs = twin.inputs
    point = {key: np.array(group.value, dtype=np.float64) for key, group in found.parameters.items()}
    is_real = inputs.dtype.kind == "f"
    if is_real and (found.below is not None or needs_below):
        point[INPUT] = inputs

    def placed(point: Mapping[str, Array]) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key, group in found.parameters.items():
            values.update(group.filled(point[key]))
        return values

    def forward(point: Mapping[str, Array]) -> Any:
        with twin.rewound():
            return twin.forward(placed(point), point.get(INPUT, inputs))

    def backward(point: Mapping[str, Array], upstream: Array) -> dict[str, Any]:
        with twin.rewound():
            twin.forward(placed(point), point.get(INPUT, inputs))
            returned = twin.backward(upstream)
            gradients = {key: read(twin.layer, returned) for key, read in found.gradients.items()}
            if INPUT in point:
                gradients[INPUT] = None if found.below is None else found.below(twin.layer, returned)
            # Copies: what follows may write into the layer's own.
            return {key: None if gradient is None else np.array(gradient) for key, gradient in gradients.items()}

    return LayerView(
        name,
        point,
        forward,
        backward,
        location(getattr(type(twin.layer), twin.passes[1], None)),
        notes=tuple(_notes(twin, found, is_real and INPUT not in point)),
        unjudged=tuple(found.unjudged),
        batch=twin.batch,
    )


def _notes(twin: Twin, found: Findings, lacks_below: bool) -> Iterator[str]:
    """Yield what the report has to say of how the layer was judged."""
    if found.unjudged:
        yield _unjudged(found)
    if lacks_below:
        yield (
            f"Its {twin.passes[1]}() gives no gradient for its input, so that this was not judged: nothing below it is "
            "trained."
        )
    if found.state:
        yield (
            f"A forward pass changes {listed(found.state)}, and there is no gradient for "
            f"{agree(found.state, 'it', 'them')}: taken for state, such as running statistics, and not judged."
        )
    if twin.carries:
        yield (
            "A second call gives other outputs: the layer draws, or carries a state. Every evaluation began from the "
            "same state, with the same draws."
        )


def _unjudged(found: Findings) -> str:
    """Return what was not judged, why, and the line to write."""
    names = list(found.unjudged)
    likely = []
    for group in found.unjudged.values():
        shape = np.shape(group.value)
        alike = [p.name for p, other in found.updates.items() if other == shape and len(p.steps) == 1]
        likely.append(next((name for name in alike if name not in likely), None))
    seen = f"The outputs depend on {listed(names)}, and no gradient was found for {agree(names, 'it', 'them')}."
    usual = "This usually means a gradient under another name, one that backward does not keep, or a constant."
    if all(likely):
        advice = f"Try params={names}, grads={likely}, which backward sets"
    else:
        advice = "Try to let backward keep each beside its parameter, as self.dW beside self.W"
    return f"{seen} {usual} {advice}, or skip={names} for constants."


def _passes(number: int, layer: Any) -> tuple[str, str]:
    """Return the names of a layer's two methods."""
    if isinstance(layer, type):
        raise InvalidProblem(
            f"Layer {number} is the class {layer.__name__}. Try an object of it: {layer.__name__}(...)."
        )
    for pair in PASSES:
        if all(callable(getattr(layer, name, None)) for name in pair):
            return pair
    missing = "forward" if not callable(getattr(layer, "forward", None)) else "backward"
    raise InvalidProblem(
        f"Layer {number}, {layer!r}, has no {missing}(). check_layers needs objects with forward(inputs) and "
        "backward(upstream), or with forward_pass and backward_pass, or fprop and bprop. Try to wrap it in a small "
        "class that has both."
    )


def _failed(name: str, reason: str) -> LayerView:
    return LayerView(name, {}, lambda point: None, lambda point, upstream: {}, "", failure=reason)


def _as_floats(inputs: Array) -> Array:
    return inputs.astype(np.float64) if inputs.dtype.kind == "f" else inputs
