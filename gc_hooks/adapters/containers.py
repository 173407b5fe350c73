"""Trainers whose parameters and gradients stand in dictionaries, lists or vectors, or are those of pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from numbers import Real
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss
from gc_hooks.adapters.aliasing import ABSENT, Naming, Pair, grads_of, lasting_params, pairs_by_name
from gc_hooks.adapters.attachment import (
    Attachment,
    LazyMapping,
    as_state,
    ask,
    attach,
    copied,
    noted,
    refuse_frozen_buffers,
    scaled,
)
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation


def part(results: Any, position: int, what: str) -> Any:
    """What stands in one place of it.

    Raises
    ------
    InvalidProblem
        There is no such place.
    """
    try:
        return results[position]
    except (LookupError, TypeError):
        count = f" of {len(results)} items" if hasattr(results, "__len__") else ""
        raise InvalidProblem(
            f"The function returned a {type(results).__name__}{count}, with no place {position} for the {what}. This "
            "usually means that it returns them in another order or in another number; counting begins at 0. Try "
            "print(function(params)), and loss= and grads= with what is seen there."
        ) from None


def loss_among(results: Any, position: int) -> Any:
    """What stands where the loss should.

    Raises
    ------
    InvalidProblem
        It is a gradient, or several.
    """
    value = part(results, position, "loss")
    if not (isinstance(value, (Mapping, list, tuple)) or (isinstance(value, np.ndarray) and value.size > 1)):
        return value
    scalars = [place for place, result in enumerate(results) if isinstance(result, Real)]
    raise InvalidProblem(
        f"In place {position} of what the function returned, where the loss should stand, stands a "
        f"{type(value).__name__}. This usually means that the gradients come first. Try "
        f"loss={scalars[0] if scalars else 1}, grads={position}."
    )


def pure(f: Loss, g: Callable[[Any], Any], theta: Any, *, loss_factor: float = 1.0) -> Attachment:
    """Two pure functions of the parameters, f(theta) and g(theta).

    Parameters
    ----------
    f : callable
        The loss.
    g : callable
        Its gradient.
    theta : array, number, or nested containers; or callable
        Where it is checked. A function without arguments is asked at every check.
    loss_factor : float
        g is the gradient of so many times f.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> f, g = lambda theta: np.sum(theta**2), lambda theta: 2 * theta
    >>> check_gradients(**adapters.pure(f, g, np.array([1.0, 2.0]))).verdict.name
    'GOOD'
    """
    if not callable(theta):
        loss = Evaluation(f, (), lambda theta: scaled(f(theta), loss_factor), takes=1)
        return {"loss": loss, "params": theta, "grads": g}
    return {
        "loss": Evaluation(f, (), lambda params: scaled(f(params["theta"]), loss_factor), takes=1),
        "params": LazyMapping(lambda: {"theta": theta()}),
        "grads": Evaluation(g, (), lambda params: {"theta": g(params["theta"])}, takes=1),
    }


def dicts(
    params: Any, grads: Any, *, loss: Loss, naming: Naming | None = None, in_place: bool = False, **options: Any
) -> Attachment:
    """A dictionary of parameters and one of gradients, with a naming rule where they differ.

    Parameters
    ----------
    params : mapping, or callable that returns one
        A function is asked at every check: hand one in where the training makes new dictionaries.
    grads : mapping, or callable
        The buffers; or a function that returns them, which takes what the loss takes. Where the training makes new
        dictionaries, call this adapter at every step.
    loss : callable
        ``loss(params)``, a pure function; with ``in_place=True`` it takes nothing and reads the arrays themselves.
    naming : callable or mapping, optional
        From a parameter's name, or the last part of it, to its gradient's: ``lambda name: name + "_grad"``,
        ``{"W": "delta_W"}``. Without it the same name and the usual ones (``dW``, ``W_grad``, ``grad_W``) are found.
    in_place : bool
    **options
        ``loss_factor``, ``state``, ``frozen`` and, in place, ``backward``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Examples
    --------
    >>> from gc_hooks import GradCheckHook, adapters
    >>> params, hook = {"w": np.array([1.0, 2.0])}, GradCheckHook(after=2, reporters=[])
    >>> for step in range(3):
    ...     grads = {"delta_w": 2 * params["w"]}
    ...     attachment = adapters.dicts(
    ...         params, grads, loss=lambda p: np.sum(p["w"] ** 2), naming=lambda name: "delta_" + name
    ...     )
    ...     hook.on_step(step, **attachment)
    ...     params["w"] = params["w"] - 0.1 * grads["delta_w"]
    >>> [report.verdict.name for report in hook.reports]
    ['GOOD', 'GOOD', 'GOOD']
    """
    if in_place:
        alone = partial(
            _named_pairs, params, {}, naming
        )  # a gradient may be a function, which is asked only for itself
        return attach(
            lambda: lasting_params(alone),
            lambda: grads_of(_named_pairs(params, grads, naming)),
            loss=loss,
            **options,
        )
    return _as_functions(params, grads, loss, naming, **options)


def returned(
    function: Callable[..., Any],
    params: Any,
    *,
    loss: int = 0,
    grads: int | slice | Sequence[int] = 1,
    naming: Naming | None = None,
    in_place: bool = False,
    **options: Any,
) -> Attachment:
    """One call that returns both: ``(loss, grads)``, ``(grads, loss, ...)``, ``(loss, dW, db)``.

    Parameters
    ----------
    function : callable
        ``function(params)``, a pure function; with ``in_place=True`` it takes nothing and reads the arrays themselves.
    params : mapping, list or array; or callable that returns one
    loss : int
        Where the loss stands in what it returns.
    grads : int, slice or sequence of int
        Where the gradients stand: all of them in one place, or one after another in the order of the parameters.
    naming : callable or mapping, optional
        As for `dicts`.
    in_place : bool
    **options
        ``loss_factor``, ``state`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    Each evaluation of the loss pays for the gradient too: twice to three times what the loss alone would cost.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> def loss_and_grads(params):
    ...     return {"dw": 2 * params["w"]}, np.sum(params["w"] ** 2)
    >>> attachment = adapters.returned(loss_and_grads, {"w": np.array([1.0, 2.0])}, loss=1, grads=0)
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """

    def value(*arguments: Any) -> Any:
        return loss_among(function(*arguments), loss)

    def gradient(*arguments: Any) -> Any:
        results = function(*arguments)
        if isinstance(grads, int):
            return part(results, grads, "gradients")
        positions = range(len(results))[grads] if isinstance(grads, slice) else grads
        picked = [part(results, position, "gradients") for position in positions]
        names = list(flatten(ask(params)))
        return {pair.name: pair.grad for pair in _by_position(names, names, picked) if pair.grad is not ABSENT}

    return _as_functions(params, gradient, value, naming, in_place=in_place, source=function, **options)


def parallel(params: Any, grads: Any, *, loss: Loss, names: Sequence[str] | None = None, **options: Any) -> Attachment:
    """A list of arrays and a list of their gradients, in the same order; generators too.

    Parameters
    ----------
    params, grads : sequence of ndarray; or callable that returns an iterable
        A function such as ``net.parameters`` is asked at every check.
    loss : callable
        ``loss()`` reads these arrays; they are changed in place and restored to the bit.
    names : sequence of str, optional
        By default the positions.
    **options
        ``backward``, ``state``, ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    Lists of different lengths and arrays of different shapes are findings of the check. An array that is listed twice
    gets the sum of its gradients, with a note.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> w, b = np.array([1.0, 2.0]), np.array([3.0])
    >>> params, grads = [w, b], [2 * w, np.array([1.0])]
    >>> report = check_gradients(**adapters.parallel(params, grads, loss=lambda: np.sum(w**2) + b))
    >>> report.verdict.name
    'GOOD'
    """
    read_params, read_grads = _listing(params), _listing(grads)

    def read() -> list[Pair]:
        arrays, leaves = read_params(), read_grads()
        known = [str(position) for position in range(len(arrays))] if names is None else list(names)
        if len(known) != len(arrays):
            raise InvalidProblem(f"There are {len(known)} names for {len(arrays)} parameters. Try to leave names out.")
        return _by_position(known, arrays, leaves)

    return attach(lambda: lasting_params(read), lambda: grads_of(read()), loss=loss, **options)


def flat(
    get: Callable[[], Array],
    put: Callable[[Array], object],
    *,
    loss: Loss,
    grad: Callable[[], Array],
    **options: Any,
) -> Attachment:
    """All parameters in one vector, with a function that gets it and one that sets it.

    Parameters
    ----------
    get : callable
        Returns the parameters as a vector.
    put : callable
        Sets them.
    loss : callable
        ``loss()`` at the parameters that are set.
    grad : callable
        Returns the gradient as a vector. Where it computes it (and does not only collect it), say
        ``backward=grad`` too: it is then asked at other points, and in float64.
    **options
        ``backward``, ``state``, ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> class Net:
    ...     theta = np.array([1.0, 2.0])
    ...
    ...     def get(self):
    ...         return self.theta
    ...
    ...     def put(self, theta):
    ...         self.theta = theta
    >>> net = Net()
    >>> attachment = adapters.flat(
    ...     net.get, net.put, loss=lambda: np.sum(net.theta**2), grad=lambda: 2 * net.theta
    ... )
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """

    @contextmanager
    def holding(params: Mapping[str, Array]) -> Iterator[None]:
        before = np.array(get())
        try:
            put(np.array(params["theta"]))
            yield
        finally:
            put(before)

    return attach(
        lambda: {"theta": get()}, lambda: {"theta": grad()}, loss=loss, within=holding, in_place=False, **options
    )


def _named_pairs(params: Any, grads: Any, naming: Naming | None) -> list[Pair]:
    return pairs_by_name(ask(params), ask(grads), naming)


def _as_functions(
    params: Any,
    grads: Any,
    loss: Loss,
    naming: Naming | None,
    *,
    in_place: bool = False,
    state: Any = (),
    loss_factor: float = 1.0,
    frozen: bool = False,
    source: Callable[..., Any] | None = None,
) -> Attachment:
    """The keywords for a loss, and a gradient, that are functions of the parameters or read the arrays themselves."""

    def value(*arguments: Any) -> Any:
        return scaled(loss(*arguments), loss_factor)

    def renamed(found: Any) -> dict[str, Any]:
        pairs = pairs_by_name(ask(params), found, naming)
        return copied(grads_of(pairs) if in_place else {p.name: p.grad for p in pairs if p.grad is not ABSENT})

    refuse_frozen_buffers(frozen, grads)
    touched, takes = as_state(state), 0 if in_place else 1
    structure = ask(params)
    if in_place:
        structure = LazyMapping(lambda: lasting_params(lambda: pairs_by_name(ask(params), {})))
    elif callable(params) and isinstance(structure, Mapping):
        structure = LazyMapping(params)
    return {
        "loss": Evaluation(source or loss, touched, value, frozen=frozen, takes=takes),
        "params": structure,
        "grads": Evaluation(grads, touched, lambda *arguments: renamed(grads(*arguments)), takes=takes)
        if callable(grads)
        else LazyMapping(lambda: renamed(grads)),
        "in_place": in_place,
    }


def _listing(source: Any) -> Callable[[], list[Any]]:
    """A list of what a sequence holds at each check, of what a function yields, or of what a generator held."""
    if callable(source):
        return lambda: list(source())
    kept = list(source) if isinstance(source, Iterator) else source
    return lambda: list(kept)


def _by_position(names: list[str], arrays: list[Any], grads: list[Any]) -> list[Pair]:
    if len(arrays) != len(grads) and grads:
        note = f"{len(grads)} gradients for {len(arrays)} parameters, paired by position as far as they go."
        grads = [noted(grads[0], note), *grads[1:]]
    names = names + [f"gradient {position}" for position in range(len(names), len(grads))]
    return [Pair(*trio) for trio in zip_longest(names, arrays, grads, fillvalue=ABSENT)]
