"""A chain of layers, with its parameters and gradients in twin dicts."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gc_hooks._typing import Array, Generator, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.layers import Context, Layer
from gc_hooks.pieces import INPUT, Piece, location


class Sequential:
    """Layers one after the other.

    Parameters
    ----------
    layers : iterable of Layer
        From inputs to outputs. They hold no arrays, so one may stand in several places and models.
    seed : int
        Of the initial parameters.
    dtype : dtype
        Of the parameters: a real floating-point type. The initial values are drawn in float64 and rounded.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        Twin dicts, allocated once. Names are the layer's class and its number among those with parameters:
        "dense1.W", "dense1.b", "dense2.W", ... Gradients are zero at first.

    Raises
    ------
    InvalidProblem
        When there are no layers, something in the list is no layer, or the dtype is not a real floating-point type.

    Examples
    --------
    >>> from gc_hooks.nn import Dense, ReLU
    >>> model = Sequential([Dense(4, 8), ReLU(), Dense(8, 3)])
    >>> list(model.params)
    ['dense1.W', 'dense1.b', 'dense2.W', 'dense2.b']
    >>> model(np.ones((5, 4))).shape
    (5, 3)
    """

    def __init__(self, layers: Iterable[Layer], *, seed: int = 0, dtype: DTypeLike = np.float64) -> None:
        self.layers = _checked_layers(layers)
        self.dtype = _checked_dtype(dtype)
        self.params: dict[str, Array] = {}
        self._names = self._initialize(np.random.default_rng(seed))
        self.grads = _zeros_like(self.params)

    def _initialize(self, generator: Generator) -> list[dict[str, str]]:
        """Fill `params`; for each layer, return what its parameters' short names ("W") are called in full."""
        numbers: Counter[str] = Counter()
        names = []
        for layer in self.layers:
            kind, fresh = layer.kind or type(layer).__name__.lower(), layer.init(generator, self.dtype)
            numbers[kind] += bool(fresh)
            names.append({short: f"{kind}{numbers[kind]}.{short}" for short in fresh})
            self.params.update({names[-1][short]: array for short, array in fresh.items()})
        return names

    def forward(
        self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None
    ) -> tuple[Array, list[Any]]:
        """Run the layers, in evaluation mode unless the context says otherwise.

        Nothing of the model is written: other parameters may be handed in, of another precision or complex. The
        inputs are brought to the precision of the parameters.

        Parameters
        ----------
        inputs : array_like, (N, features)
        context : Context, optional
        params : mapping of str to ndarray, optional
            The model's own when left out.

        Returns
        -------
        outputs : ndarray, (N, outputs)
        caches : list
            One per layer, for `backward`.
        """
        params, context = self.params if params is None else params, context or Context()
        activations, caches = self._in_precision(inputs, params), []
        for layer, names in zip(self.layers, self._names, strict=True):
            activations, cache = layer.forward(_short(params, names), activations, context)
            caches.append(cache)
        return activations, caches

    def backward(self, caches: Sequence[Any], upstream: Array, params: Params | None = None) -> dict[str, Array]:
        """Gradients of the parameters, from the loss's gradient for the outputs; nothing is written.

        Parameters
        ----------
        caches : list
            From `forward` with the same parameters.
        upstream : ndarray, (N, outputs)
        params : mapping of str to ndarray, optional
            The model's own when left out.
        """
        params = self.params if params is None else params
        grads: dict[str, Array] = {}
        for layer, names, cache in reversed(list(zip(self.layers, self._names, caches, strict=True))):
            upstream, short = layer.backward(_short(params, names), cache, upstream)
            grads.update({names[key]: gradient for key, gradient in short.items()})
        return {name: grads[name] for name in self.params if name in grads}

    def pieces(
        self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None
    ) -> Iterator[Piece]:
        """The layers one by one, each at the input that those before it make; in training mode without dropout unless
        the context says otherwise."""
        params, context = self.params if params is None else params, context or Context(training=True)
        activations = self._in_precision(inputs, params)
        for number, (layer, names) in enumerate(zip(self.layers, self._names, strict=True), start=1):
            piece = _piece(f"{number} {type(layer).__name__}", layer, _short(params, names), activations, context)
            yield piece
            activations = piece.forward(piece.point)

    def store(self, grads: Params) -> None:
        """Copy gradients over the live buffers; the one place where they are written."""
        for name, gradient in grads.items():
            self.grads[name][...] = gradient

    def __call__(self, inputs: ArrayLike) -> Array:
        """Outputs in evaluation mode, (N, outputs)."""
        return self.forward(inputs)[0]

    def astype(self, dtype: DTypeLike) -> Sequential:
        """A new model with the same layers and these parameters in another precision; its gradients are zero."""
        twin = copy.copy(self)
        twin.dtype = _checked_dtype(dtype)
        twin.params = {name: array.astype(twin.dtype) for name, array in self.params.items()}
        twin.grads = _zeros_like(twin.params)
        return twin

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(map(repr, self.layers))}], dtype={self.dtype})"

    def _in_precision(self, inputs: ArrayLike, params: Params) -> Array:
        array = np.asarray(inputs)
        if np.iscomplexobj(array):
            return array
        dtype = np.result_type(*{array.dtype for array in params.values()} or {self.dtype})
        return array.astype(np.finfo(dtype).dtype, copy=False)  # finfo: the real type of a complex one


def _piece(name: str, layer: Layer, params: Params, inputs: Array, context: Context) -> Piece:
    def forward(p: Params) -> Array:
        return layer.forward(p, p[INPUT], context.again())[0]

    def backward(p: Params, upstream: Array) -> dict[str, Array]:
        _, cache = layer.forward(p, p[INPUT], context.again())
        below, grads = layer.backward(p, cache, upstream)
        return {**grads, INPUT: below}

    return Piece(name, {**params, INPUT: inputs}, forward, backward, location(type(layer).backward))


def _short(params: Params, names: dict[str, str]) -> dict[str, Array]:
    return {short: params[name] for short, name in names.items()}


def _zeros_like(params: Params) -> dict[str, Array]:
    return {name: np.zeros_like(array) for name, array in params.items()}


def _checked_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    layers = tuple(layers)
    strangers = [repr(layer) for layer in layers if not isinstance(layer, Layer)]
    if strangers or not layers:
        raise InvalidProblem(
            f"Sequential got {'no layers' if not layers else f'{strangers[0]}, which is no layer'}. It chains "
            "layer objects, not classes or functions. Try Sequential([Dense(4, 8), ReLU(), Dense(8, 3)])."
        )
    return layers


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except TypeError:
        checked = None
    if checked is None or checked.kind != "f":
        raise InvalidProblem(
            f"The model got dtype={dtype!r}, which is not a real floating-point type. Gradients need fractions. "
            "Try numpy.float64, or numpy.float32 for speed."
        )
    return checked
