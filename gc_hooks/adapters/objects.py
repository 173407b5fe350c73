"""Trainers whose parameters and gradients are held by objects: layers, models with attributes, scalars in a graph."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.adapters.aliasing import (
    ABSENT,
    Naming,
    Pair,
    grads_of,
    key_of,
    lasting_params,
    pairs_by_name,
    without_known,
)
from gc_hooks.adapters.attachment import Attachment, as_state, ask, attach, shown, swapped
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.snapshot import is_open


def layers(
    model: Any,
    *,
    loss: Loss,
    params: str = "params",
    grads: str = "grads",
    naming: Naming | None = None,
    state: Any = (),
    **options: Any,
) -> Attachment:
    """Layers that hold ``params`` and ``grads``: as dictionaries, tuples, methods or properties, in blocks or not.

    Parameters
    ----------
    model : object or list
        The layers, or whatever holds them at any depth: lists, blocks, blocks of blocks.
    loss : callable
        ``loss()`` runs the forward pass on the check's batch and returns the number, dropout off.
    params, grads : str
        What the layers call them.
    naming : callable or mapping, optional
        As for `dicts`.
    **options
        ``backward``, ``state`` (beside the model itself), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    Arrays are changed in place and restored to the bit; what the forward pass leaves in the model (caches, running
    statistics) is put back after every evaluation, which costs a copy of the model each time. Two layers that share an
    array get the sum of their gradients, with a note. A layer without a gradient is a finding.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> class Dense:
    ...     def __init__(self, W):
    ...         self.params, self.grads = {"W": W}, {}
    ...
    ...     def forward(self, x):
    ...         self.x = x
    ...         return x @ self.params["W"]
    ...
    ...     def backward(self, upstream):
    ...         self.grads["W"] = self.x.T @ upstream
    >>> x, net = np.ones((4, 2)), [Dense(np.ones((2, 3)))]
    >>> net[0].backward(2 * net[0].forward(x))
    >>> attachment = adapters.layers(net, loss=lambda: np.sum(net[0].forward(x) ** 2))
    >>> print(*check_gradients(**attachment).parameters)
    0.W
    """

    def read() -> list[Pair]:
        return list(_found(model, "", (params, grads), naming, set()))

    lacking = (
        f"nothing in {shown(model)} has {params!r}. This usually means that the layers call them otherwise, or were "
        "not built yet. Try params= and grads= with their names, or the list of the layers itself."
    )
    return attach(
        lambda: lasting_params(read),
        lambda: grads_of(read()),
        loss=loss,
        state=(model, *as_state(state)),
        lacking=lacking,
        **options,
    )


def attributes(
    model: Any,
    names: Sequence[str],
    *,
    loss: Loss,
    naming: Naming = lambda name: f"d{name}",
    state: Any = (),
    **options: Any,
) -> Attachment:
    """Parameters that are attributes of an object (``net.W1``), beside their gradients (``net.dW1``).

    Parameters
    ----------
    model : object or list of objects
        Of several each attribute that it has, under ``0.W1``.
    names : sequence of str
        Of the parameters.
    loss : callable
        ``loss()`` reads the model's attributes.
    naming : callable or mapping
        From a parameter's name to its gradient's.
    **options
        ``backward``, ``state`` (beside the model itself), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    Arrays are changed in place and restored to the bit. Where an attribute is a number, others are set in its place,
    and the very same object again afterwards.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> class Net:
    ...     W, b = np.array([1.0, 2.0]), 3.0
    ...     dW, db = np.array([2.0, 4.0]), 1.0
    >>> net = Net()
    >>> attachment = adapters.attributes(net, ["W", "b"], loss=lambda: np.sum(net.W**2) + net.b)
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """
    many = isinstance(model, (list, tuple))
    owners = {f"{position}.": owner for position, owner in enumerate(model)} if many else {"": model}
    places = {path + name: (owner, name) for path, owner in owners.items() for name in names if hasattr(owner, name)}
    missing = [name for name in names if not any(key.rpartition(".")[2] == name for key in places)]
    if missing or not names:
        raise InvalidProblem(
            f"There are no parameters {', '.join(missing) or 'named'} in {shown(model)}: it has no such attributes. "
            "This usually means a name that is written otherwise, or one that is made only in the first step. Try "
            "names=[...] with those that print(vars(model)) shows."
        )
    cells = {key: np.array(0.0) for key, place in places.items() if isinstance(getattr(*place), numbers.Real)}

    def read() -> list[Pair]:
        for key, cell in cells.items():
            cell[...] = getattr(*places[key])
        params = {key: cells[key] if key in cells else getattr(*place) for key, place in places.items()}
        return [Pair(key, params[key], _gradient_beside(*place, naming)) for key, place in places.items()]

    return attach(
        lambda: lasting_params(read),
        lambda: grads_of(read()),
        loss=loss,
        within=lambda: _standing(places, {key: cell[()] for key, cell in cells.items()}),
        state=(*owners.values(), *as_state(state)),
        **options,
    )


def scalars(
    values: Any,
    *,
    loss: Loss,
    names: Sequence[str] | None = None,
    data: str = "data",
    grad: str = "grad",
    state: Any = (),
    **options: Any,
) -> Attachment:
    """Objects that hold a number (or an array) and its gradient, such as the nodes of a small autograd engine.

    Parameters
    ----------
    values : sequence of objects; or callable that returns an iterable
        A function such as ``net.parameters`` is asked at every check.
    loss : callable
        ``loss()`` builds the graph anew; it returns a number, or an object whose ``data`` is one.
    names : sequence of str, optional
        By default the positions.
    data, grad : str
        What the objects call them.
    **options
        ``backward``, ``state`` (beside the values themselves), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    An object that is listed twice counts once.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from gc_hooks import adapters, check_gradients
    >>> a, b = SimpleNamespace(data=2.0, grad=3.0), SimpleNamespace(data=3.0, grad=2.0)
    >>> check_gradients(**adapters.scalars([a, b], loss=lambda: a.data * b.data)).verdict.name
    'GOOD'
    """

    def nodes() -> dict[str, Any]:
        unique = list({id(node): node for node in ask(values)}.values())
        if names and len(names) != len(unique):
            raise InvalidProblem(f"There are {len(names)} names for {len(unique)} values. Try to leave names out.")
        return dict(zip(names or map(str, range(len(unique))), unique, strict=True))

    def put(params: Mapping[str, Any]) -> Any:
        return _standing({name: (node, data) for name, node in nodes().items()}, params)

    return attach(
        lambda: {name: getattr(node, data) for name, node in nodes().items()},
        lambda: {name: getattr(node, grad) for name, node in nodes().items() if hasattr(node, grad)},
        loss=loss,
        within=put,
        in_place=False,
        lacking="there are no values. This usually means a model that was not built yet, or a generator that has come "
        "to its end. Try values=net.parameters, a function that is asked at every check.",
        state=(*nodes().values(), *as_state(state)),
        **options,
    )


def _found(thing: Any, path: str, called: tuple[str, str], naming: Naming | None, met: set[int]) -> Iterator[Pair]:
    """The parameters of an object and of all that it holds, the innermost first; what is met again is left out."""
    if id(thing) in met:
        return
    met.add(id(thing))
    inner = list(
        chain.from_iterable(_found(part, f"{path}{key}.", called, naming, met) for key, part in _parts(thing, called))
    )
    yield from inner
    params, grads = (ask(getattr(thing, name, None)) for name in called)
    if _is_holder(thing, called) and params is not None:
        yield from without_known(_of_one(params, grads, naming, path), inner)


def _parts(thing: Any, called: tuple[str, str]) -> Iterable[tuple[Any, Any]]:
    if isinstance(thing, (list, tuple)):
        return enumerate(thing)
    if isinstance(thing, dict):
        return thing.items()
    if not is_open(thing) or isinstance(thing, (np.ndarray, type)) or not hasattr(thing, "__dict__"):
        return ()
    return [(name, part) for name, part in vars(thing).items() if name not in called]


def _is_holder(thing: Any, called: tuple[str, str]) -> bool:
    return hasattr(thing, called[0]) and not isinstance(thing, (list, tuple, dict, type))


def _of_one(params: Any, grads: Any, naming: Naming | None, path: str) -> list[Pair]:
    """One layer's parameters beside its gradients: by position where either has no names."""
    params, grads = _realised(params), _realised(grads)
    if isinstance(params, Mapping) and isinstance(grads, (list, tuple)):
        grads = dict(zip(params, grads, strict=False))
    return pairs_by_name(params, grads, naming, path)


def _realised(held: Any) -> Any:
    return list(held) if isinstance(held, Iterator) else held


def _gradient_beside(owner: Any, name: str, naming: Naming) -> Any:
    key: Callable[[str], str] = naming if callable(naming) else lambda name: key_of(name, {}, {}, naming)
    return getattr(owner, key(name), ABSENT)


def _standing(places: Mapping[str, tuple[Any, str]], params: Mapping[str, Any]) -> Any:
    """Other values in some attributes."""
    return swapped([places[name] for name in params], list(params.values()))
