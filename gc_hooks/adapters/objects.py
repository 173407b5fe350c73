"""Attach trainers whose parameters and gradients are in objects: layers, models with attributes, scalars in a graph."""

from __future__ import annotations

import numbers
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss
from gc_hooks.adapters.aliasing import ABSENT, Naming, Pair, grads_of, key_of, lasting_params, pairs_by_name, place
from gc_hooks.adapters.attachment import Attachment, ask, attach, shown, swapped
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.object_graph import ATTRIBUTE, CALLS, Node, all_ways, walk


def layers(
    model: Any,
    *,
    loss: Loss,
    params: str = "params",
    grads: str = "grads",
    naming: Naming | None = None,
    **options: Any,
) -> Attachment:
    """Attach layers that have ``params`` and ``grads``: dictionaries, tuples, methods or properties, in blocks or not.

    Parameters
    ----------
    model : object or list
        The layers, or what contains them at any depth: lists, blocks, blocks of blocks.
    params, grads : str
        The names of both in the layers.
    naming : callable or mapping, optional
        As for `dicts`.
    loss, **options
        Also ``backward``, ``state`` (beside the model itself), ``loss_factor``, ``frozen``; see `gc_hooks.adapters`.

    Notes
    -----
    Arrays are changed in place and restored to the bit, as is what the forward pass leaves in the model: this costs a
    copy of the model at every evaluation. Two layers that share an array get the sum of their gradients, with a note.
    A layer without a gradient is a finding. A layer that can be reached in several ways goes by the shortest.

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
    return attach(
        lambda: lasting_params(lambda: _pairs(model, params, grads, naming)),
        lambda: grads_of(_pairs(model, params, grads, naming)),
        loss=loss,
        owners=(model,),
        lacking=f"nothing in {shown(model)} has {params!r}. This usually means that the layers call them otherwise, or "
        "were not built yet. Try params= and grads= with their names, or the list of the layers.",
        **options,
    )


def attributes(
    model: Any,
    names: Sequence[str],
    *,
    loss: Loss,
    naming: Naming = lambda name: f"d{name}",
    **options: Any,
) -> Attachment:
    """Attach parameters that are attributes of an object (``net.W1``), beside their gradients (``net.dW1``).

    Parameters
    ----------
    model : object or list of objects
        With several, each attribute of each object is a parameter, such as ``0.W1``.
    names : sequence of str
        The attributes.
    naming : callable or mapping
        From a parameter's name to its gradient's.
    loss, **options
        Also ``backward``, ``state`` (beside the model itself), ``loss_factor``, ``frozen``; see `gc_hooks.adapters`.

    Notes
    -----
    Arrays are changed in place and restored to the bit; a number is replaced, and is the same object again afterwards.

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
    several = isinstance(model, (list, tuple))
    owners = model if several else [model]
    places: dict[str, tuple[Any, str]] = {}
    missing = dict.fromkeys(names)
    for position, owner in enumerate(owners):
        for name in names:
            if hasattr(owner, name):
                places[f"{position}.{name}" if several else name] = (owner, name)
                missing.pop(name, None)
    if missing or not names:
        raise InvalidProblem(
            f"There are no parameters {', '.join(missing) or 'named'} in {shown(model)}. This usually means a "
            "name that is made only in the first step. Try names=[...], of those that print(vars(model)) shows."
        )
    # A number cannot be changed in place. An array without axes stands for it, and is filled at each reading.
    cells: dict[str, Array] = {}
    for key, (owner, name) in places.items():
        if isinstance(getattr(owner, name), numbers.Real):
            cells[key] = np.array(0.0)

    def read() -> list[Pair]:
        pairs = []
        for key, (owner, name) in places.items():
            param = getattr(owner, name)
            if key in cells:
                cells[key][...] = param
                param = cells[key]
            pairs.append(Pair(key, param, getattr(owner, key_of(name, {}, {}, naming), ABSENT)))
        return pairs

    return attach(
        lambda: lasting_params(read),
        lambda: grads_of(read()),
        loss=loss,
        within=lambda: swapped([(*places[key], cell[()]) for key, cell in cells.items()]),
        owners=owners,
        **options,
    )


def scalars(
    values: Any,
    *,
    loss: Loss,
    names: Sequence[str] | None = None,
    data: str = "data",
    grad: str = "grad",
    **options: Any,
) -> Attachment:
    """Attach objects that have a number (or an array) and its gradient, such as the nodes of a small autograd engine.

    Parameters
    ----------
    values : sequence of objects; or callable that returns an iterable
        A function such as ``net.parameters`` is called at every check.
        An object that is listed twice counts once.
    loss : callable
        ``loss()`` builds the graph anew; it returns a number, or an object whose ``data`` is one.
    names : sequence of str, optional
        By default the positions.
    data, grad : str
        The names of both in the objects.
    **options
        ``backward``, ``state`` (beside the values themselves), ``loss_factor``, ``frozen``; see `gc_hooks.adapters`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from gc_hooks import adapters, check_gradients
    >>> a, b = SimpleNamespace(data=2.0, grad=3.0), SimpleNamespace(data=3.0, grad=2.0)
    >>> check_gradients(**adapters.scalars([a, b], loss=lambda: a.data * b.data)).verdict.name
    'GOOD'
    """

    def nodes() -> dict[str, Any]:
        unique = {id(node): node for node in ask(values)}.values()
        if names and len(names) != len(unique):
            raise InvalidProblem(f"There are {len(names)} names for {len(unique)} values. Try to leave names out.")
        return dict(zip(names or map(str, range(len(unique))), unique, strict=True))

    def put(params: Mapping[str, Any]) -> AbstractContextManager[None]:
        found = nodes()
        return swapped([(found[name], data, value) for name, value in params.items()])

    return attach(
        lambda: {name: getattr(node, data) for name, node in nodes().items()},
        lambda: {name: getattr(node, grad) for name, node in nodes().items() if hasattr(node, grad)},
        loss=loss,
        within=put,
        in_place=False,
        lacking="there are no values. This usually means a model that was not built yet, or a generator at its end. "
        "Try values=net.parameters, a function that is called at every check.",
        owners=tuple(nodes().values()),
        **options,
    )


def _pairs(model: Any, params_name: str, grads_name: str, naming: Naming | None) -> list[Pair]:
    """Return the parameters and gradients in an object and in all that it contains, the innermost first."""

    def is_part(node: Node) -> bool:
        return node.step != ATTRIBUTE or node.key not in (params_name, grads_name)

    def enter(node: Node) -> bool:
        # A method or a class may lead to another model, whose parameters are not in the loss.
        return is_part(node) and not isinstance(node.thing, (*CALLS, type))

    nodes = list(walk([Node(model)], all_ways, enter=enter))
    inside: defaultdict[int, list[Pair]] = defaultdict(list)  # the pairs in a node, by its id
    for node in reversed(nodes):  # in this order a thing comes after all that it contains
        thing, pairs = node.thing, inside.pop(id(node), [])
        if is_part(node) and hasattr(thing, params_name) and not isinstance(thing, (list, tuple, dict, type)):
            params, grads = ask(getattr(thing, params_name)), ask(getattr(thing, grads_name, None))
            if params is not None:
                if isinstance(params, Mapping) and isinstance(grads, (list, tuple)):
                    grads = dict(zip(params, grads, strict=False))
                own = pairs_by_name(params, grads, naming, "".join(map("{}.".format, node.keys)))
                # A block may list the parameters of its parts again.
                known = {place(pair.param) for pair in pairs}
                pairs += [pair for pair in own if place(pair.param) not in known]
        inside[id(node.parent)][:0] = pairs
    return inside[id(None)]
