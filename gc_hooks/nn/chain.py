"""Chains of layers, which is where the chain rule runs through a network, and Residual, two chains side by side."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.nn.layers import Cache, Context, Layer, PlacedLayer


class Chain:
    """Layers from inputs to outputs; without any layer, the identity.

    It holds no arrays: those of all layers come in and go out in one dict. An array's name is the chain's prefix, the
    layer's label, a dot and the layer's own name for it. The label is the layer's kind and its number among those of
    that kind: "dense2.W" is the weights of the second dense layer.
    """

    def __init__(self, layers: Iterable[Layer], prefix: str = "") -> None:
        self.layers, self.prefix = tuple(layers), prefix
        self.paths: list[str] = []  # how the names of each layer's arrays begin: "dense2."
        numbers: Counter[str] = Counter()
        for layer in self.layers:
            kind = (layer.kind or type(layer).__name__.lower()).replace(".", "_")
            if kind[-1:].isdigit():
                kind += "_"  # the first layer of kind "dense1" must not be called like the eleventh of kind "dense"
            numbers[kind] += 1
            self.paths.append(f"{prefix}{kind}{numbers[kind]}.")

    def _items(self, params: Params) -> list[tuple[str, Layer, dict[str, Array]]]:
        """Return each layer between its path and its arrays by their short names."""
        own: dict[str, dict[str, Array]] = {path: {} for path in self.paths}
        for name, array in params.items():
            end = name.find(".", len(self.prefix)) + 1
            if name[:end] in own:
                own[name[:end]][name[end:]] = array
        return list(zip(self.paths, self.layers, own.values(), strict=True))

    def _joined(self, arrays: Iterable[Params]) -> dict[str, Array]:
        """Return the arrays of all layers by their full names, given those of each layer."""
        full: dict[str, Array] = {}
        for path, short in zip(self.paths, arrays, strict=True):
            full.update(prefixed(path, short))
        return full

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Draw fresh parameters of all layers, in their order."""
        return self._joined(layer.init(generator, dtype) for layer in self.layers)

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        """Return fresh state of all layers."""
        return self._joined(layer.init_state(dtype) for layer in self.layers)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, list[Cache]]:
        """Return the outputs of the last layer, and a cache for each layer."""
        caches = []
        for _, layer, own in self._items(params):
            inputs, cache = layer.forward(own, inputs, context)
            caches.append(cache)
        return inputs, caches

    def backward(self, params: Params, caches: Sequence[Cache], upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Return the gradient for the inputs and those for the parameters, by the chain rule.

        A layer's outputs are the next one's inputs, so the gradient for the one's inputs is the other's upstream.
        """
        grads: dict[str, Array] = {}
        for (path, layer, own), cache in zip(reversed(self._items(params)), reversed(caches), strict=True):
            upstream, short = layer.backward(own, cache, upstream)
            grads.update(prefixed(path, short))
        return upstream, grads

    def observed(self, params: Params, caches: Sequence[Cache]) -> dict[str, Array]:
        """Return the state of all layers after a training step with these caches."""
        items = zip(self._items(params), caches, strict=True)
        return self._joined(layer.observed(own, cache) for (_, layer, own), cache in items)

    def detached(self, params: Params, inputs: Array, context: Context) -> Chain:
        """Return the chain of the detached layers, see `Layer.detached`."""
        layers, twin = [], copy.copy(self)
        for _, layer, own in self._items(params):
            layers.append(layer.detached(own, inputs, context.again()))
            inputs, _ = layer.forward(own, inputs, context)
        twin.layers = tuple(layers)  # under the paths of before, whatever classes these are
        return twin

    def places(self, params: Params, inputs: Array, context: Context) -> Iterator[PlacedLayer]:
        """Yield each layer with the input that those before it make, and after it the layers inside of it."""
        for number, (path, layer, own) in enumerate(self._items(params), start=1):
            position = f"{self.prefix}{number}"
            yield PlacedLayer(f"{position} {type(layer).__name__}", path, layer, own, inputs)
            for place in layer.places(own, inputs, context):
                yield place._replace(name=f"{position}.{place.name}", path=path + place.path)
            inputs, _ = layer.forward(own, inputs, context.again())

    def all_layers(self) -> Iterator[Layer]:
        """Yield the layers, each followed by those inside of it."""
        for layer in self.layers:
            yield layer
            yield from layer.inside()

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.layers))}]"


def checked_layers(layers: Iterable[Layer], owner: str) -> tuple[Layer, ...]:
    """Return the layers of a list that the user wrote; refuse an empty one, and what is not a layer."""
    layers = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    hint = f"It chains layer objects, not classes. Try {owner}([Dense(4, 8), Tanh()])."
    require(layers, f"{owner} got no layers. {hint}")
    for layer in layers:
        require(isinstance(layer, Layer), f"{owner} got {layer!r}, which is not a layer. {hint}")
    return layers


def prefixed(prefix: str, arrays: Params) -> dict[str, Array]:
    """Return the same arrays with the prefix in front of their names."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


class Residual(Layer):
    """``y = F(x) + x``, or ``F(x) + S(x)`` with a shortcut S where F changes the shape.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), equations 1 and 2.

    Parameters
    ----------
    layers : iterable of Layer
        F. Its arrays are called "residual1.dense1.W" and so on.
    shortcut : iterable of Layer, optional
        S, whose arrays are called "residual1.shortcut.dense1.W" and so on; the identity when left out.

    Examples
    --------
    >>> from gc_hooks.nn import Dense, ReLU, Sequential
    >>> model = Sequential([Residual([Dense(4, 4), ReLU(), Dense(4, 4)]), Dense(4, 2)])
    >>> [name for name in model.params if name.endswith("W")]
    ['residual1.dense1.W', 'residual1.dense2.W', 'dense1.W']
    """

    kind = "residual"

    def __init__(self, layers: Iterable[Layer], shortcut: Iterable[Layer] | None = None) -> None:
        self.body = Chain(checked_layers(layers, "Residual"))
        around = () if shortcut is None else checked_layers(shortcut, "Residual's shortcut")
        self.shortcut = Chain(around, prefix="shortcut.")

    def init(self, generator: Generator, dtype: DTypeLike) -> dict[str, Array]:
        shortcut = self.shortcut.init(generator, dtype)  # drawn before the body: the order is part of what a seed means
        return self.body.init(generator, dtype) | shortcut

    def init_state(self, dtype: DTypeLike) -> dict[str, Array]:
        return self.body.init_state(dtype) | self.shortcut.init_state(dtype)

    def forward(self, params: Params, inputs: Array, context: Context) -> tuple[Array, Cache]:
        """Compute ``y = F(x) + S(x)``; the cache is those of the two chains."""
        through, body_caches = self.body.forward(params, inputs, context)
        around, caches = self.shortcut.forward(params, inputs, context)
        if through.shape != around.shape:
            raise InvalidProblem(
                f"Residual makes {through.shape} of inputs of shape {inputs.shape}, and its shortcut {around.shape}, "
                "and the two are summed. Try layers that keep the shape, or shortcut=[Dense(...)] that changes it too."
            )
        return through + around, (body_caches, caches)

    def backward(self, params: Params, cache: Cache, upstream: Array) -> tuple[Array, dict[str, Array]]:
        """Compute ``dx = F'(x)^T dy + S'(x)^T dy``: x is used twice, so both gradients add up."""
        through, body_grads = self.body.backward(params, cache[0], upstream)
        around, grads = self.shortcut.backward(params, cache[1], upstream)
        return through + around, body_grads | grads

    def detached(self, params: Params, inputs: Array, context: Context) -> Residual:
        twin = copy.copy(self)
        twin.body = self.body.detached(params, inputs, context)
        twin.shortcut = self.shortcut.detached(params, inputs, context)
        return twin

    def observed(self, params: Params, cache: Cache) -> dict[str, Array]:
        return self.body.observed(params, cache[0]) | self.shortcut.observed(params, cache[1])

    def inside(self) -> Iterator[Layer]:
        yield from self.body.all_layers()
        yield from self.shortcut.all_layers()

    def places(self, params: Params, inputs: Array, context: Context) -> Iterator[PlacedLayer]:
        yield from self.body.places(params, inputs, context)
        yield from self.shortcut.places(params, inputs, context)

    def __repr__(self) -> str:
        shortcut = f", shortcut={self.shortcut!r}" if self.shortcut.layers else ""
        return f"{type(self).__name__}({self.body!r}{shortcut})"
