"""Residual blocks: a chain of layers with a way around it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.chain import Chain, grouped, prefixed
from gc_hooks.nn.layers import Context, Layer, Place

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
