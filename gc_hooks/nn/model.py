"""The model: a chain of layers with its parameters and gradients in twin dicts; tied and frozen parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.layer_view import INPUT, LayerView, location
from gc_hooks.nn.chain import Chain, checked_layers
from gc_hooks.nn.layers import Cache, Context, Layer, PlacedLayer


class Sequential:
    """Layers one after the other.

    Parameters
    ----------
    layers : iterable of Layer
        From inputs to outputs. They hold no arrays, so one may stand in several places and models.
    seed : int
        Seed of the initial parameters.
    dtype : dtype
        Type of the parameters, a real floating-point type. The initial values are drawn in float64 and rounded.
    tied : mapping of str to str, optional
        Parameters that are other ones, or their transposes: ``{"dense3.W": "dense1.W.T"}`` is one array, "dense1.W",
        whose gradient is the sum over both places.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        Twin dicts, allocated once: "dense1.W", "dense1.b", "dense2.W", ... Gradients are zero at first.
    state : dict of str to ndarray
        What is not trained: running statistics ("batchnorm1.mean"), which only `observe` moves, and frozen parameters.

    Raises
    ------
    InvalidProblem
        The layers are none or not layers, the dtype is not a real floating-point type, or names in `tied` do not fit.

    Examples
    --------
    >>> from gc_hooks.nn import Dense, ReLU
    >>> model = Sequential([Dense(4, 8), ReLU(), Dense(8, 3)])
    >>> list(model.params)
    ['dense1.W', 'dense1.b', 'dense2.W', 'dense2.b']
    >>> model(np.ones((5, 4))).shape
    (5, 3)
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        seed: int = 0,
        dtype: DTypeLike = np.float64,
        tied: Mapping[str, str] | None = None,
    ) -> None:
        self._chain = Chain(checked_layers(layers, "Sequential"))
        self.dtype = _checked_dtype(dtype)
        self.params = self._chain.init(np.random.default_rng(seed), self.dtype)
        self._ties = _checked_ties(tied or {}, self.params)
        for tie in self._ties:
            del self.params[tie.alias]
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}
        self.state = self._chain.init_state(self.dtype)
        self._order = tuple(self.params)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, from inputs to outputs."""
        return self._chain.layers

    def all_layers(self) -> Iterator[Layer]:
        """Yield the layers, and those inside of blocks."""
        return self._chain.all_layers()

    def forward(
        self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None
    ) -> tuple[Array, list[Cache]]:
        """Return the outputs (N, outputs), and for each layer a cache, for `backward` with the same parameters.

        The default is evaluation mode and the model's own parameters. Others may be given, of another precision or
        complex; the inputs (N, features) are converted to their precision. Nothing of the model is written.
        """
        arrays, inputs = self._prepared(inputs, params)
        return self._chain.forward(arrays, inputs, context or Context())

    def backward(self, caches: Sequence[Cache], upstream: Array, params: Params | None = None) -> dict[str, Array]:
        """Return the gradients of the parameters, given the loss's gradient (N, outputs); nothing is written."""
        _, grads = self._chain.backward(self._all(params), caches, upstream)
        for tie in self._ties:
            if tie.alias in grads:
                # An array that is used in two places has the sum of both gradients, by the chain rule.
                gradient = tie.view(grads.pop(tie.alias))
                grads[tie.name] = grads[tie.name] + gradient if tie.name in grads else gradient
        return {name: grads[name] for name in self.params if name in grads}

    def __call__(self, inputs: ArrayLike) -> Array:
        """Return the outputs in evaluation mode, (N, outputs)."""
        return self.forward(inputs)[0]

    def store(self, grads: Params) -> None:
        """Copy gradients over the live buffers; the one place where they are written."""
        for name, gradient in grads.items():
            self.grads[name][...] = gradient

    def observe(self, caches: Sequence[Cache]) -> None:
        """Update the running statistics with the caches of a training step; the one place where they are written."""
        for name, array in self._chain.observed(self._all(), caches).items():
            self.state[name][...] = array

    def freeze(self, *names: str) -> None:
        """Train these no longer: parameters ("dense1.W") or layers ("dense1") move out of `params` into `state`.

        The layers use them as before; optimiser, penalty and check do not see them.

        Examples
        --------
        >>> from gc_hooks.nn import Dense
        >>> model = Sequential([Dense(4, 8), Dense(8, 3)])
        >>> model.freeze("dense1")
        >>> list(model.params), list(model.state)
        (['dense2.W', 'dense2.b'], ['dense1.W', 'dense1.b'])
        """
        for name in _matching(names, self.params, "trained"):
            self.state[name] = self.params.pop(name)
            del self.grads[name]

    def unfreeze(self, *names: str) -> None:
        """Train them again: the contrary of `freeze`."""
        for name in _matching(names, self.frozen, "frozen"):
            self.params[name] = self.state.pop(name)
            self.grads[name] = np.zeros_like(self.params[name])
        for twin in (self.params, self.grads):  # the dicts stay, because callbacks refer to them
            for name in self._order:
                if name in twin:
                    twin[name] = twin.pop(name)  # to the end: after all of them, the order is the initial one

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that are not trained."""
        return tuple(name for name in self._order if name in self.state)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report should say of the model."""
        return _notes(self.frozen, self.all_layers())

    def astype(self, dtype: DTypeLike) -> Sequential:
        """Return a new model with the same layers and these parameters in another precision; its gradients are zero."""
        twin = copy.copy(self)
        twin.dtype = _checked_dtype(dtype)
        twin.params = {name: array.astype(twin.dtype) for name, array in self.params.items()}
        twin.grads = {name: np.zeros_like(array) for name, array in twin.params.items()}
        twin.state = {name: array.astype(twin.dtype) for name, array in self.state.items()}
        return twin

    def detached(self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None) -> Sequential:
        """Return the model whose slope `backward` computes: the model itself, unless back-propagation is truncated.

        The states at which it stops are constants, at their values for these parameters and inputs.
        """
        if all(layer.truncation is None for layer in self.all_layers()):
            return self
        twin = copy.copy(self)
        twin._chain = self._chain.detached(*self._prepared(inputs, params), context or Context(training=True))
        return twin

    def pieces(
        self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None
    ) -> Iterator[LayerView]:
        """Yield the layers, and those inside of blocks, in training mode without dropout where no context is given."""
        context = context or Context(training=True)
        trained = set(self.params if params is None else params)
        frozen = set(self.frozen) - trained
        for tie in self._ties:
            if tie.name in trained:
                trained.add(tie.alias)
            elif tie.name in frozen:
                frozen.add(tie.alias)
        for place in self._chain.places(*self._prepared(inputs, params), context):
            yield _view(place, trained, frozen, context)

    def _all(self, params: Params | None = None) -> dict[str, Array]:
        """Return every array that the layers use, under each of its names."""
        arrays = {**self.state, **(self.params if params is None else params)}
        for tie in self._ties:
            arrays[tie.alias] = tie.view(arrays[tie.name])
        return arrays

    def _prepared(self, inputs: ArrayLike, params: Params | None) -> tuple[dict[str, Array], Array]:
        """Return all arrays, and the inputs in the real precision of the parameters, or as they are if complex."""
        array = np.asarray(inputs)
        if not np.iscomplexobj(array):
            types = {array.dtype for array in (self.params if params is None else params).values()}
            dtype = np.finfo(np.result_type(*types or {self.dtype})).dtype  # finfo: the real type of a complex one
            array = array.astype(dtype, copy=False)
        return self._all(params), array

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._chain!r}, dtype={self.dtype})"


class Tie(NamedTuple):
    """A name that a layer uses for another layer's array, or for its transpose."""

    alias: str
    name: str
    transposed: bool

    def view(self, array: Array) -> Array:
        """Return the array as the alias shows it; applied to the alias's gradient, it turns that back."""
        return array.T if self.transposed else array


def _checked_ties(tied: Mapping[str, str], params: Params) -> tuple[Tie, ...]:
    """Read ``{"dense2.W": "dense1.W.T"}``, and refuse what does not fit the parameters."""
    ties = []
    for alias, target in tied.items():
        transposed = target not in params and target.endswith(".T")
        tie = Tie(alias, target.removesuffix(".T") if transposed else target, transposed)
        ties.append(tie)
        for name in (alias, tie.name):
            hint = f"Try one of {', '.join(params)}, or its transpose, such as 'dense1.W.T'."
            require(name in params, f"tied names {name!r}, and there is no such parameter. {hint}")
        shape, other = tie.view(params[tie.name]).shape, tie.name if transposed else f"{tie.name}.T"
        require(
            shape == params[alias].shape,
            f"tied has {alias!r} of shape {params[alias].shape} stand for {target!r} of shape {shape}. "
            f"One array has one shape. Try {other!r}, or layers whose widths agree.",
        )
    for tie in ties:
        require(
            tie.name not in tied,
            f"tied has {tie.alias!r} stand for {tie.name!r}, which stands for another itself. Try to tie both to "
            f"{tied.get(tie.name)!r}.",
        )
    return tuple(ties)


def _matching(names: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """Return the parameters with these names, and those of the layers with these names."""
    known, matching = list(known), []
    for name in names:
        found = [full for full in known if full == name or full.startswith(f"{name}.")]
        if not found:
            raise InvalidProblem(
                f"There is no {what} parameter or layer {name!r}. Try {', '.join(known) or 'none: there are none'}, or "
                "the part before the dot for a layer."
            )
        matching += found
    return list(dict.fromkeys(matching))  # a layer and one of its parameters may both be named


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    with suppress(TypeError):
        if np.dtype(dtype).kind == "f":
            return np.dtype(dtype)
    raise InvalidProblem(
        f"The model got dtype={dtype!r}, which is not a real floating-point type. Gradients need fractions. "
        "Try numpy.float64, or numpy.float32 for speed."
    )


def _view(place: PlacedLayer, trained: set[str], frozen: set[str], context: Context) -> LayerView:
    """Return the view of one layer; its point has the arrays that are trained and, where it has a slope, its input."""
    layer = place.layer.detached(place.params, place.inputs, context.again())
    point = {short: array for short, array in place.params.items() if place.path + short in trained}
    fixed = [short for short in place.params if place.path + short in frozen]
    if not layer.discrete:
        point[INPUT] = place.inputs

    def forward(p: Params) -> Array:
        return layer.forward({**place.params, **p}, p.get(INPUT, place.inputs), context.again())[0]

    def backward(p: Params, upstream: Array) -> dict[str, Array]:
        params = {**place.params, **p}
        _, cache = layer.forward(params, p.get(INPUT, place.inputs), context.again())
        below, grads = layer.backward(params, cache, upstream)
        views = {short: gradient for short, gradient in grads.items() if short not in fixed}
        if INPUT in point:
            views[INPUT] = below
        return views

    return LayerView(place.name, point, forward, backward, location(type(layer).backward), _notes(fixed, [layer]))


def _notes(frozen: Iterable[str], layers: Iterable[Layer]) -> tuple[str, ...]:
    """Return a sentence on what is frozen, and one for each layer whose backward is not the slope of its forward."""
    listed, notes = ", ".join(frozen), []
    if listed:
        notes.append(f"Frozen, and so neither trained nor checked: {listed}.")
    for layer in layers:
        if layer.truncation is not None:
            notes.append(
                f"{layer!r} truncates back-propagation through time: slopes are those of the loss with the state held "
                f"constant once in {layer.truncation} step(s), which is what its gradient stands for."
            )
    return tuple(notes)
