"""A chain of layers, with its parameters and gradients in twin dicts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.layer_view import INPUT, LayerView, location
from gc_hooks.nn.chain import Chain
from gc_hooks.nn.layers import Context, Layer, Place


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


@dataclass(frozen=True)
class Tie:
    """A layer's array that is another one, or its transpose."""

    alias: str
    name: str
    transposed: bool

    def seen(self, array: Array) -> Array:
        """The array as the layer sees it; the same turns that layer's gradient back."""
        return array.T if self.transposed else array


def spread(ties: Iterable[Tie], arrays: Params) -> dict[str, Array]:
    """All names that the layers ask for: the arrays and, beside them, their aliases.

    Examples
    --------
    >>> import numpy as np
    >>> {name: a.shape for name, a in spread([Tie("out.W", "in.W", True)], {"in.W": np.ones((2, 3))}).items()}
    {'in.W': (2, 3), 'out.W': (3, 2)}
    """
    return {**arrays, **{tie.alias: tie.seen(arrays[tie.name]) for tie in ties}}


def summed(ties: Iterable[Tie], grads: dict[str, Array]) -> dict[str, Array]:
    """The gradient of each array: by the chain rule, the sum over all places where it is used."""
    for tie in ties:
        if tie.alias in grads:
            share = tie.seen(grads.pop(tie.alias))
            grads[tie.name] = grads[tie.name] + share if tie.name in grads else share
    return grads


def checked_ties(tied: Mapping[str, str], params: Params) -> tuple[Tie, ...]:
    """Read ``{"dense2.W": "dense1.W.T"}``.

    Raises
    ------
    InvalidProblem
        There is no such parameter, it is tied itself, or the shapes differ.
    """
    ties = tuple(_tie(alias, target, params) for alias, target in tied.items())
    for tie in ties:
        if tie.name in tied:
            raise InvalidProblem(
                f"tied has {tie.alias!r} stand for {tie.name!r}, which stands for another itself. "
                f"A chain of ties has one array at its end. Try to tie both to {tied[tie.name]!r}."
            )
    return ties


def _tie(alias: str, target: str, params: Params) -> Tie:
    transposed = target not in params and target.endswith(".T")
    name = target.removesuffix(".T") if transposed else target
    strangers = [n for n in (alias, name) if n not in params]
    if strangers:
        raise InvalidProblem(
            f"tied names {strangers[0]!r}, and there is no such parameter. Names are a layer's kind and number and "
            f"its own name for the array. Try one of {', '.join(params)}; a name with .T stands for the transpose."
        )
    tie = Tie(alias, name, transposed)
    if tie.seen(params[name]).shape != params[alias].shape:
        raise InvalidProblem(
            f"tied has {alias!r} of shape {params[alias].shape} stand for {target!r} of shape "
            f"{tie.seen(params[name]).shape}. One array has one shape. Try {name + ('' if transposed else '.T')!r}, or "
            "layers whose widths agree."
        )
    return tie


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
    tied : mapping of str to str, optional
        Parameters that are other ones, or their transposes: ``{"dense3.W": "dense1.W.T"}``. They are one array under
        one name, "dense1.W", whose gradient is the sum over both places.

    Attributes
    ----------
    params, grads : dict of str to ndarray
        Twin dicts, allocated once. Names are the layer's class and its number among those of its class: "dense1.W",
        "dense1.b", "dense2.W", ... Gradients are zero at first.
    state : dict of str to ndarray
        What belongs to the model and is neither trained nor a gradient: running statistics ("batchnorm1.mean"), which
        only `observe` moves, and frozen parameters.
    notes : tuple of str
        What a report should say of the model.

    Raises
    ------
    InvalidProblem
        When there are no layers, something in the list is no layer, the dtype is not a real floating-point type, or
        names in `tied` do not fit.

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
        self._chain = Chain(layers)
        self.dtype = _checked_dtype(dtype)
        fresh = self._chain.init(np.random.default_rng(seed), self.dtype)
        self._ties = checked_ties(tied or {}, fresh)
        aliases = {tie.alias for tie in self._ties}
        self.params = {name: array for name, array in fresh.items() if name not in aliases}
        self.grads = _zeros_like(self.params)
        self.state = self._chain.init_state(self.dtype)
        self._order = tuple(self.params)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From inputs to outputs."""
        return self._chain.layers

    def all_layers(self) -> Iterator[Layer]:
        """The layers, and those inside of blocks."""
        return self._chain.all_layers()

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
        params = self.params if params is None else params
        return self._chain.forward(self._all(params), self._in_precision(inputs, params), context or Context())

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
        _, grads = self._chain.backward(self._all(self.params if params is None else params), caches, upstream)
        return in_order(summed(self._ties, grads), self.params)

    def detached(self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None) -> Sequential:
        """The model whose slope `backward` computes: the states at which truncated back-propagation stops are held at
        what they are for these parameters and inputs. Without truncation the model itself, at no cost."""
        if not truncation_notes(self.all_layers()):
            return self
        params, context = self.params if params is None else params, context or Context(training=True)
        twin = copy.copy(self)
        twin._chain = self._chain.detached(self._all(params), self._in_precision(inputs, params), context)
        return twin

    def pieces(
        self, inputs: ArrayLike, context: Context | None = None, params: Params | None = None
    ) -> Iterator[LayerView]:
        """The layers one by one, each at the input that those before it make; in training mode without dropout unless
        the context says otherwise. After a block come the layers inside of it."""
        params, context = self.params if params is None else params, context or Context(training=True)
        frozen = self._with_aliases(name for name in self.frozen if name not in params)
        trained = self._with_aliases(params)
        for place in self._chain.places(self._all(params), self._in_precision(inputs, params), context):
            yield _piece(place, trained, frozen, context)

    def _with_aliases(self, names: Iterable[str]) -> set[str]:
        names = set(names)
        return names | {tie.alias for tie in self._ties if tie.name in names}

    def _all(self, params: Params) -> dict[str, Array]:
        """Every array that the layers use, by each of its names."""
        return spread(self._ties, {**self.state, **params})

    def observe(self, caches: Sequence[Any]) -> None:
        """Take what a training step has seen into the running statistics; the one place where they are written.

        Parameters
        ----------
        caches : list
            From `forward` in training mode.
        """
        for name, array in self._chain.observed(self._all(self.params), caches).items():
            self.state[name][...] = array

    def freeze(self, *names: str) -> None:
        """Train these no longer: parameters ("dense1.W") or layers ("dense1") move out of `params` into `state`.

        The layers use them as before; optimiser, penalty and check do not see them.

        Raises
        ------
        InvalidProblem
            A name fits nothing that is trained.

        Examples
        --------
        >>> from gc_hooks.nn import Dense
        >>> model = Sequential([Dense(4, 8), Dense(8, 3)])
        >>> model.freeze("dense1")
        >>> list(model.params), list(model.state)
        (['dense2.W', 'dense2.b'], ['dense1.W', 'dense1.b'])
        """
        for name in list(chosen(names, self.params, "trained")):
            self.state[name] = self.params.pop(name)
            del self.grads[name]

    def unfreeze(self, *names: str) -> None:
        """Train them again: the contrary of `freeze`.

        Raises
        ------
        InvalidProblem
            A name fits nothing that is frozen.
        """
        for name in list(chosen(names, self.frozen, "frozen")):
            self.params[name] = self.state.pop(name)
            self.grads[name] = np.zeros_like(self.params[name])
        for twin in (self.params, self.grads):
            ordered = in_order(twin, self._order)
            twin.clear()  # the same dict: callbacks hold on to it
            twin.update(ordered)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parameters that are not trained."""
        return tuple(name for name in self._order if name in self.state)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report should say of the model."""
        return (*frozen_notes(self.frozen), *truncation_notes(self.all_layers()))

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
        twin.state = {name: array.astype(twin.dtype) for name, array in self.state.items()}
        return twin

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(map(repr, self.layers))}], dtype={self.dtype})"

    def _in_precision(self, inputs: ArrayLike, params: Params) -> Array:
        array = np.asarray(inputs)
        if np.iscomplexobj(array):
            return array
        dtype = np.result_type(*{array.dtype for array in params.values()} or {self.dtype})
        return array.astype(np.finfo(dtype).dtype, copy=False)  # finfo: the real type of a complex one


def _piece(place: Place, trained: set[str], frozen: set[str], context: Context) -> LayerView:
    """One layer, of whose arrays only those that are trained can be moved."""
    layer = place.layer.detached(place.params, place.inputs, context.again())
    point = {short: array for short, array in place.params.items() if place.path + short in trained}
    point = point if layer.discrete else {**point, INPUT: place.inputs}
    notes = frozen_notes(short for short in place.params if place.path + short in frozen)

    def forward(p: Params) -> Array:
        return layer.forward({**place.params, **p}, p.get(INPUT, place.inputs), context.again())[0]

    def backward(p: Params, upstream: Array) -> dict[str, Array]:
        _, cache = layer.forward({**place.params, **p}, p.get(INPUT, place.inputs), context.again())
        below, grads = layer.backward({**place.params, **p}, cache, upstream)
        grads = {short: g for short, g in grads.items() if place.path + short not in frozen}
        return {**grads, INPUT: below} if INPUT in point else grads

    where = location(type(layer).backward)
    return LayerView(place.name, point, forward, backward, where, (*notes, *truncation_notes([layer])))


def truncation_notes(layers: Iterable[Layer]) -> tuple[str, ...]:
    """What is to be said of layers whose backward is not the slope of their forward."""
    return tuple(
        f"{layer!r} truncates back-propagation through time: slopes are those of the loss with the state held "
        f"constant once in {layer.truncation} step(s), which is what its gradient stands for."
        for layer in layers
        if layer.truncation is not None
    )


def _zeros_like(params: Params) -> dict[str, Array]:
    return {name: np.zeros_like(array) for name, array in params.items()}


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
