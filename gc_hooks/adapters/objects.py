"""Attach trainers whose parameters and gradients are in objects: layers, models with attributes, scalars in a graph."""

from __future__ import annotations

import numbers
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.adapters.aliasing import ABSENT, Naming, Pair, grads_of, key_of, lasting_params, pairs_by_name, place
from gc_hooks.adapters.attachment import Attachment, ask, attach, set_attribute_to_zero, shown, swapped
from gc_hooks.adapters.forward import ForwardPass, members
from gc_hooks.adapters.recognition import (
    LIKE_A_PARAMETER,
    Cells,
    Chosen,
    Guess,
    Layers,
    described,
    gradient_name,
    guess,
    twins_in,
)
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed

FEW = 16
"""Numbers in objects that are a parameter each; more are entries of one vector."""


def layers(
    model: Any,
    *,
    loss: Loss,
    params: str | Sequence[str] = "params",
    grads: str | Sequence[str] = "grads",
    naming: Naming | None = None,
    only: Chosen = None,
    skip: Chosen = None,
    **options: Any,
) -> Attachment:
    """Attach layers that hold their parameters and gradients: ``params`` beside ``grads``, or ``W`` beside ``dW``.

    Found by themselves are dictionaries, lists, tuples, methods and properties that are called ``params`` and
    ``grads``, ``parameters`` and ``gradients`` or ``param_grads``, and attributes (arrays, numbers, or lists of arrays)
    that have their gradient beside them: ``dW``, ``grad_W``, ``W_grad`` or ``dL_dW`` for ``W``. So are objects
    that stand for one array, such as a ``Parameter`` with ``data`` and ``grad``.

    Parameters
    ----------
    model : object or list
        The layers, or what contains them at any depth: lists, blocks, blocks of blocks.
    params, grads : str or sequence of str
        The names of both in the layers, where they are others; of several the first belongs to the first.
    naming : callable or mapping, optional
        As for `dicts`.
    only, skip : sequence of str, or callable, optional
        What to judge, and what to leave out: names such as ``"0.W"``, the last part (``"W"``), a layer (``"0"``), or a
        function of the name that returns a bool.
    loss, **options
        Also ``backward``, ``state`` (beside the model itself), ``loss_factor``, ``frozen``; see `gc_hooks.adapters`.

    Notes
    -----
    Arrays are changed in place and restored to the bit, as is what the forward pass leaves in the model: this costs a
    copy of the model at every evaluation. Two layers that share an array get the sum of their gradients, with a note; a
    block that lists the parameters of its parts again is judged by its own gradients. A layer without a gradient is a
    finding. A layer that can be reached in several ways goes by the shortest.

    To tell parameters from caches and running statistics, a check evaluates the loss once more, and twice or more where
    an array has no gradient and is no cache. If the loss depends on one that looks like a parameter, it is named in
    ``report.unjudged``, and the report is not GOOD. If it may as well be data or a constant, a note names it.

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
    forward = ForwardPass(loss, model, options.get("state", ()))
    found = Layers(model, forward, params, grads, naming, only, skip)
    return attach(
        lambda: lasting_params(found.pairs),
        lambda: grads_of(found.pairs(after_backward=True), found.notes()),
        loss=loss,
        within=found.cells.in_place,
        owners=(model,),
        unjudged=found.unjudged,
        **options,
    )


def attributes(
    model: Any,
    names: Sequence[str] | Mapping[str, str],
    *,
    loss: Loss,
    naming: Naming | None = None,
    **options: Any,
) -> Attachment:
    """Attach parameters that are attributes of an object (``net.W1``), beside their gradients (``net.dW1``).

    Parameters
    ----------
    model : object or list of objects
        With several, each attribute of each object is a parameter, such as ``0.W1``.
    names : sequence of str; or mapping of str to str
        The attributes: arrays, numbers, or lists and dictionaries of arrays, such as ``net.weights``. A mapping has the
        gradient's name for each: ``{"weights": "nabla_w"}``.
    naming : callable or mapping, optional
        From a parameter's name to its gradient's. Without it ``dW``, ``grad_W``, ``W_grad`` and the like are found.
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
    if isinstance(names, Mapping):
        naming = names
    several = isinstance(model, (list, tuple))
    owners = model if several else [model]
    places: dict[str, tuple[Any, str]] = {}
    missing = dict.fromkeys(names)
    for position, owner in enumerate(owners):
        for name in names:
            if hasattr(owner, name):
                places[f"{position}.{name}" if several else name] = (owner, name)
                missing.pop(name, None)
    forward = ForwardPass(loss, model, options.get("state", ()))
    if missing or not names:
        raise InvalidProblem(
            f"There are no parameters {', '.join(missing) or 'named'} in {shown(model)}. {_try_names(forward, owners)}"
        )
    cells = Cells()

    def gradient_key(owner: Any, name: str) -> str:
        return (gradient_name(owner, name) or "") if naming is None else key_of(name, {}, {}, naming)

    def gradient_of(owner: Any, name: str) -> Any:
        return getattr(owner, gradient_key(owner, name), ABSENT)

    def read() -> list[Pair]:
        pairs = []
        for key, (owner, name) in places.items():
            param, grad = getattr(owner, name), gradient_of(owner, name)
            if isinstance(param, numbers.Real):
                param = cells.cell(owner, name)
            if isinstance(param, np.ndarray) and not param.dtype.hasobject:
                pairs.append(Pair(key, param, grad))
            else:  # several arrays
                pairs += pairs_by_name(_as_list(param), None if grad is ABSENT else _as_list(grad), None, f"{key}.")
        return pairs

    def grads() -> dict[str, Any]:
        if all(gradient_of(*one) is ABSENT for one in places.values()):
            raise InvalidProblem(
                f"There is no gradient beside {listed(places)} in {shown(model)}. {_try_naming(forward, names)}"
            )
        pairs = read()
        known = {place(pair.param) for pair in pairs}
        others = []
        for owner in owners:
            for name, _ in twins_in(owner):
                is_known = name in names or place(getattr(owner, name)) in known
                if not is_known and LIKE_A_PARAMETER.fullmatch(name) and not forward.writes(owner, name):
                    others.append(name)
        note = f"Not named, and so not judged: {listed(dict.fromkeys(others))}, beside a gradient each."
        return grads_of(pairs, [note] if others else [])

    def clear() -> None:
        for owner, name in places.values():
            set_attribute_to_zero(owner, gradient_key(owner, name))

    return attach(
        lambda: lasting_params(read),
        grads,
        loss=loss,
        within=cells.in_place,
        clear=clear,
        owners=owners,
        **options,
    )


def _as_list(arrays: Any) -> Any:
    """Return an array of arrays as a list; anything else as it is."""
    return list(arrays) if isinstance(arrays, np.ndarray) and arrays.dtype.hasobject else arrays


def _try_names(forward: ForwardPass, owners: Sequence[Any]) -> str:
    """Return what some objects have instead of the names that were given, and the line to write."""
    found = []
    for owner in owners:
        kind = type(owner).__name__
        found += [Guess(name, kind, name, key) for name, key in twins_in(owner) if not forward.writes(owner, name)]
    names: Any = list(dict.fromkeys(one.param for one in found))
    if not found:
        found = guess(forward)
        names = {one.param: one.grad for one in found if one.grad is not None} or [one.param for one in found]
    if not found:
        return (
            "This usually means a name that is made only in the first step. Try names=[...], of those that "
            "print(vars(model)) shows."
        )
    return f"{described(found)}. This usually means a name that was mistyped. Try names={names}."


def _try_naming(forward: ForwardPass, names: Iterable[str]) -> str:
    """Return what may hold the gradients of some attributes, and the line to write."""
    found = {one.param: one for one in guess(forward) if one.param in names and one.grad is not None}
    if not found:
        return (
            "This usually means that backward was not run yet, or that it keeps the gradients elsewhere. Try to run it "
            "once before the check, or naming={'W': 'name of its gradient'}."
        )
    line = {name: one.grad for name, one in found.items()}
    return f"{described(found.values())}. This usually means another name. Try naming={line}."


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

    Up to 16 numbers are a parameter each. More are the entries of one vector called ``values``, in their order: a check
    of 300 numbers then costs what one vector costs. With ``names`` that differ in one number, such as ``l1.w0`` and
    ``l1.w1``, there is a vector for each kind of name, ``l1.w``.

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

    @wraps(loss)  # messages speak of the user's own function
    def value() -> Any:
        found = loss()
        return found if isinstance(found, (np.ndarray, np.generic)) else getattr(found, data, found)

    def nodes() -> dict[str, Any]:
        unique = {id(node): node for node in ask(values)}.values()
        if names and len(names) != len(unique):
            raise InvalidProblem(f"There are {len(names)} names for {len(unique)} values. Try to leave names out.")
        for node in unique:
            if not hasattr(node, data):
                raise InvalidProblem(_no_number(node, data))
        return dict(zip(names or map(str, range(len(unique))), unique, strict=True))

    def groups() -> dict[str, list[Any]]:
        """Return the nodes of each parameter, by its name: one, or those of a vector."""
        found = nodes()
        numeric = [name for name, node in found.items() if isinstance(getattr(node, data), numbers.Real)]
        if len(numeric) <= FEW:
            return {name: [node] for name, node in found.items()}
        stems = stems_of(numeric) if names else dict.fromkeys(numeric, "values")
        grouped: dict[str, list[Any]] = {}
        for name, node in found.items():
            grouped.setdefault(stems.get(name, name), []).append(node)
        return grouped

    def read(group: list[Any], attribute: str) -> Any:
        if len(group) == 1:
            return getattr(group[0], attribute, ABSENT)
        found = [getattr(node, attribute, None) for node in group]
        if all(one is None for one in found):
            return ABSENT
        # An engine leaves None where nothing came back from the loss: that is a zero.
        array = np.array([0.0 if one is None else one for one in found])
        return array.astype(float) if array.dtype.kind in "iub" else array

    def put(params: Mapping[str, Any]) -> AbstractContextManager[None]:
        found = groups()
        settings = []
        for name, new in params.items():
            group = found[name]
            settings += [(node, data, new if len(group) == 1 else new[k]) for k, node in enumerate(group)]
        return swapped(settings)

    def grads() -> dict[str, Any]:
        found = {name: read(group, grad) for name, group in groups().items()}
        return {name: one for name, one in found.items() if one is not ABSENT}

    def clear() -> None:
        for node in nodes().values():
            set_attribute_to_zero(node, grad)

    return attach(
        lambda: {name: read(group, data) for name, group in groups().items()},
        grads,
        loss=value if callable(loss) else loss,
        within=put,
        clear=clear,
        in_place=False,
        lacking="there are no values. This usually means a model that was not built yet, or a generator at its end. "
        "Try values=net.parameters, a function that is called at every check.",
        owners=tuple(nodes().values()),
        **options,
    )


def stems_of(names: Sequence[str]) -> dict[str, str]:
    """Return for each name what is left without its last number; "values" where that is no group of several.

    >>> stems_of(["l1.w0", "l1.w1", "l1.b"])
    {'l1.w0': 'l1.w', 'l1.w1': 'l1.w', 'l1.b': 'values'}
    """
    stems = {name: re.sub(r"[\[_]?\d+\]?(?=\D*$)", "", name, count=1) for name in names}
    counts = Counter(stems.values())
    return {name: stem if counts[stem] > 1 and stem.strip("._") else "values" for name, stem in stems.items()}


def _no_number(node: Any, data: str) -> str:
    """Return what an object has instead of its number, and the line to write."""
    found = [name for name, one in members(node).items() if isinstance(one, (numbers.Real, np.ndarray))]
    said = f"A {type(node).__name__} has no {data!r}; it has {listed(found) or 'no number'}. This usually means "
    if len(found) < 2:
        return f"{said}that these are not the nodes. Try values=net.parameters, which returns them."
    likely = [name for name in found if "grad" in name or name.startswith("d")] or found[1:]
    first = next(name for name in found if name != likely[0])
    return f"{said}other names. Try adapters.scalars(..., data={first!r}, grad={likely[0]!r})."
