"""Layers one after the other: what runs them, and what their arrays are called. It holds no arrays."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.layers import Context, Layer, Place


class Chain:
    """Layers from inputs to outputs, with the arrays of all of them in one dict.

    An array's name is the layer's label, a dot and the layer's own name for it. The label is the layer's kind and its
    number among those of that kind: "dense2.W" is the weights of the second dense layer.

    Parameters
    ----------
    layers : iterable of Layer
    owner : str
        Who is to be named when something in the list is no layer.

    Raises
    ------
    InvalidProblem
        There are no layers, or something in the list is no layer.
    """

    def __init__(self, layers: Iterable[Layer], owner: str = "Sequential") -> None:
        self.layers = _checked_layers(layers, owner)
        self.labels = tuple(_labels(self.layers))

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Fresh parameters of all layers, drawn in their order."""
        return self._joined(layer.init(generator, dtype) for layer in self.layers)

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """Fresh state of all layers."""
        return self._joined(layer.init_state(dtype) for layer in self.layers)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, list[Any]]:
        """Outputs of the last layer, and a cache for each."""
        own, caches = grouped(params), []
        for label, layer in zip(self.labels, self.layers, strict=True):
            inputs, cache = layer.forward(own[label], inputs, context)
            caches.append(cache)
        return inputs, caches

    def backward(self, params: Params, caches: Sequence[Any], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """The chain rule, last layer first: the gradient for the inputs, and those for the parameters."""
        own, grads = grouped(params), {}
        for label, layer, cache in reversed(list(zip(self.labels, self.layers, caches, strict=True))):
            upstream, short = layer.backward(own[label], cache, upstream)
            grads.update(prefixed(f"{label}.", short))
        return upstream, grads

    def observed(self, params: Params, caches: Sequence[Any]) -> dict[str, Array]:
        """The state of all layers after a training step with these caches."""
        own = grouped(params)
        places = zip(self.labels, self.layers, caches, strict=True)
        return self._joined(layer.observed(own[label], cache) for label, layer, cache in places)

    def detached(self, params: Params, inputs: Array, context: Context) -> Chain:
        """The same with what backward takes for a constant held at what it is here, see `Layer.detached`."""
        own, layers, twin = grouped(params), [], copy.copy(self)
        for label, layer in zip(self.labels, self.layers, strict=True):
            layers.append(layer.detached(own[label], inputs, context.again()))
            inputs, _ = layer.forward(own[label], inputs, context)
        twin.layers = tuple(layers)
        return twin

    def places(self, params: Params, inputs: Array, context: Context) -> Iterator[Place]:
        """Each layer at the input that those before it make, and after it those inside of it."""
        own = grouped(params)
        for number, (label, layer) in enumerate(zip(self.labels, self.layers, strict=True), start=1):
            yield Place(f"{number} {type(layer).__name__}", f"{label}.", layer, own[label], inputs)
            for place in layer.places(own[label], inputs, context):
                yield place._replace(name=f"{number}.{place.name}", path=f"{label}.{place.path}")
            inputs, _ = layer.forward(own[label], inputs, context.again())

    def all_layers(self) -> Iterator[Layer]:
        """The layers, and those inside of them."""
        for layer in self.layers:
            yield layer
            yield from layer.inside()

    def _joined(self, arrays: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
        """The arrays of each layer, by their full names."""
        full: dict[str, Array] = {}
        for label, short in zip(self.labels, arrays, strict=True):
            full.update(prefixed(f"{label}.", short))
        return full

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.layers))}]"


def grouped(arrays: Params) -> defaultdict[str, dict[str, Array]]:
    """Arrays by what stands before the first dot of their names.

    Examples
    --------
    >>> grouped({"residual1.dense1.W": 1, "dense1.W": 2})["residual1"]
    {'dense1.W': 1}
    """
    groups: defaultdict[str, dict[str, Array]] = defaultdict(dict)
    for name, array in arrays.items():
        label, _, short = name.partition(".")
        groups[label][short] = array
    return groups


def prefixed(prefix: str, arrays: Params) -> dict[str, Array]:
    """The same arrays with something before their names."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _labels(layers: Iterable[Layer]) -> Iterator[str]:
    numbers: Counter[str] = Counter()
    for layer in layers:
        kind = (layer.kind or type(layer).__name__.lower()).replace(".", "_")
        kind += "_" * kind[-1:].isdigit()  # the first "dense1" must not be the eleventh "dense"
        numbers[kind] += 1
        yield f"{kind}{numbers[kind]}"


def _checked_layers(layers: Iterable[Layer], owner: str) -> tuple[Layer, ...]:
    layers = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    strangers = [repr(layer) for layer in layers if not isinstance(layer, Layer)]
    if strangers or not layers:
        raise InvalidProblem(
            f"{owner} got {'no layers' if not layers else f'{strangers[0]}, which is no layer'}. It chains "
            f"layer objects, not classes or functions. Try {owner}([Dense(4, 8), ReLU(), Dense(8, 3)])."
        )
    return layers


SHORTCUT = "shortcut"


class Residual(Layer):
    """``y = F(x) + x``, or ``F(x) + S(x)`` with a shortcut S where F changes the shape.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), equations 1 and 2.

    Parameters
    ----------
    layers : iterable of Layer
        F. Its arrays are called "residual1.dense1.W" and so on.
    shortcut : iterable of Layer, optional
        S, whose arrays are called "residual1.shortcut.dense1.W" and so on; the identity when left out.

    Raises
    ------
    InvalidProblem
        Something in a list is no layer; in `forward`, when the two summands have different shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from gc_hooks.nn import Dense, ReLU, Sequential
    >>> model = Sequential([Residual([Dense(4, 4), ReLU(), Dense(4, 4)]), Dense(4, 2)])
    >>> [name for name in model.params if name.endswith("W")]
    ['residual1.dense1.W', 'residual1.dense2.W', 'dense1.W']
    """

    kind = "residual"

    def __init__(self, layers: Iterable[Layer], shortcut: Iterable[Layer] | None = None) -> None:
        self.body = Chain(layers, "Residual")
        self.shortcut = None if shortcut is None else Chain(shortcut, "Residual's shortcut")

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Fresh parameters of the layers inside."""
        around = {} if self.shortcut is None else self.shortcut.init(generator, dtype)
        return {**self.body.init(generator, dtype), **prefixed(f"{SHORTCUT}.", around)}

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """Fresh state of the layers inside."""
        around = {} if self.shortcut is None else self.shortcut.init_state(dtype)
        return {**self.body.init_state(dtype), **prefixed(f"{SHORTCUT}.", around)}

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, tuple[Any, Any]]:
        """``y = F(x) + S(x)``; the cache is those of the two chains."""
        through, cache = self.body.forward(params, inputs, context)
        around, shortcut_cache = inputs, None
        if self.shortcut is not None:
            around, shortcut_cache = self.shortcut.forward(grouped(params)[SHORTCUT], inputs, context)
        if through.shape != around.shape:
            raise InvalidProblem(
                f"Residual's layers make {through.shape} of inputs of shape {inputs.shape}, and {around.shape} is what "
                "goes around them. The two are summed: a layer inside changes the shape. Try a padding or a width that "
                "keeps it, or shortcut=[Dense(...)] or [Conv2D(...)] that changes it too."
            )
        return through + around, (cache, shortcut_cache)

    def backward(self, params: Params, cache: tuple[Any, Any], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """``dx = F'(x)^T dy + S'(x)^T dy``: the gradient goes both ways."""
        below, grads = self.body.backward(params, cache[0], upstream)
        if self.shortcut is None:
            return below + upstream, grads
        around, more = self.shortcut.backward(grouped(params)[SHORTCUT], cache[1], upstream)
        return below + around, {**grads, **prefixed(f"{SHORTCUT}.", more)}

    def detached(self, params: Params, inputs: Array, context: Context) -> Residual:
        """With the layers inside held in the same way."""
        twin = copy.copy(self)
        twin.body = self.body.detached(params, inputs, context)
        if self.shortcut is not None:
            twin.shortcut = self.shortcut.detached(grouped(params)[SHORTCUT], inputs, context)
        return twin

    def observed(self, params: Params, cache: tuple[Any, Any]) -> dict[str, Array]:
        """The state of the layers inside."""
        around = {} if self.shortcut is None else self.shortcut.observed(grouped(params)[SHORTCUT], cache[1])
        return {**self.body.observed(params, cache[0]), **prefixed(f"{SHORTCUT}.", around)}

    def inside(self) -> Iterator[Layer]:
        """The layers inside, those of the shortcut last."""
        yield from self.body.all_layers()
        if self.shortcut is not None:
            yield from self.shortcut.all_layers()

    def places(self, params: Params, inputs: Array, context: Context) -> Iterator[Place]:
        """The same, each with its input."""
        yield from self.body.places(params, inputs, context)
        if self.shortcut is not None:
            for place in self.shortcut.places(grouped(params)[SHORTCUT], inputs, context):
                yield place._replace(name=f"{SHORTCUT}.{place.name}", path=f"{SHORTCUT}.{place.path}")

    def __repr__(self) -> str:
        around = "" if self.shortcut is None else f", shortcut={self.shortcut!r}"
        return f"{type(self).__name__}({self.body!r}{around})"
