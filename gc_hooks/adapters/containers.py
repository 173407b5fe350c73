"""Adapters for functions of the parameters, and for parameters in dictionaries, in lists or in one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Array, Loss, Params
from gc_hooks.adapters.aliasing import ABSENT, Naming, Pair, grads_of, lasting_params, pairs_by_name, pairs_by_position
from gc_hooks.adapters.attachment import Attachment, LazyMapping, Options, Read, ask, attach, scaled
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation

if TYPE_CHECKING:
    from typing_extensions import Unpack


def pure(f: Loss, g: Callable[[Any], Any], theta: Any, *, loss_factor: float = 1.0) -> Attachment:
    """Attach two pure functions of the parameters, f(theta) and g(theta).

    Parameters
    ----------
    f, g : callable
        The loss and its gradient.
    theta : array, number, or nested containers; or callable
        Where the gradient is checked. A function without arguments is called at every check.
    loss_factor : float
        g is the gradient of ``loss_factor * f``.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> f, g = lambda theta: np.sum(theta**2), lambda theta: 2 * theta
    >>> check_gradients(**adapters.pure(f, g, np.array([1.0, 2.0]))).verdict.name
    'GOOD'
    """
    if not callable(theta):
        loss = Evaluation(f, (), lambda theta: scaled(f(theta), loss_factor), takes=1)
        return {"loss": loss, "params": theta, "grads": g, "in_place": False}
    return {
        "loss": Evaluation(f, (), lambda params: scaled(f(params["theta"]), loss_factor), takes=1),
        "params": LazyMapping(lambda: {"theta": theta()}),
        "grads": Evaluation(g, (), lambda params: {"theta": g(params["theta"])}, takes=1),
        "in_place": False,
    }


def dicts(
    params: Any,
    grads: Any,
    *,
    loss: Loss,
    naming: Naming | None = None,
    in_place: bool = False,
    backward: Callable[[], object] | None = None,
    **options: Unpack[Options],
) -> Attachment:
    """Attach a dictionary of parameters and one of gradients, with a naming rule where they differ.

    Parameters
    ----------
    params : mapping, or callable that returns one
        A function is called at every check: hand one in where the training makes new dictionaries.
    grads : mapping, or callable that takes what the loss takes
        The buffers. Where the training makes new dictionaries, call this adapter at every step.
    loss : callable
        ``loss(params)``, a pure function; with ``in_place=True`` it takes nothing and reads the arrays themselves.
    naming : callable or mapping, optional
        From a parameter's name, or the last part of it, to its gradient's: ``lambda name: name + "_grad"``,
        ``{"W": "delta_W"}``. Without it the same name and the usual ones (``dW``, ``W_grad``, ``grad_W``) are found.
    in_place : bool
    backward, **options
        ``backward`` (only in place), ``state``, ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> params, grads = {"w": np.array([1.0, 2.0])}, {"delta_w": np.array([2.0, 4.0])}
    >>> attachment = adapters.dicts(params, grads, loss=lambda p: np.sum(p["w"] ** 2), naming={"w": "delta_w"})
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """
    if not in_place:
        if backward is not None:
            raise InvalidProblem(
                "dicts got backward= without in_place=True. This usually means a loss that takes nothing. Try "
                "in_place=True; or, for a loss(params), grads= with a function of params."
            )
        return _attach_functions(params, grads, loss, naming, **options)
    return attach(
        # Without the gradients: they may be a function, which is to be called only when the gradients are read.
        lambda: lasting_params(lambda: pairs_by_name(ask(params), None)),
        lambda: grads_of(pairs_by_name(ask(params), ask(grads), naming)),
        loss=loss,
        backward=backward,
        **options,
    )


def returned(
    function: Callable[..., Any],
    params: Any,
    *,
    loss: int = 0,
    grads: int | slice | Sequence[int] = 1,
    naming: Naming | None = None,
    in_place: bool = False,
    **options: Unpack[Options],
) -> Attachment:
    """Attach one function that returns both: ``(loss, grads)``, ``(grads, loss, ...)``, ``(loss, dW, db)``.

    Each evaluation of the loss computes the gradient too: it costs two to three times as much as the loss alone.

    Parameters
    ----------
    function : callable
        ``function(params)``, a pure function; with ``in_place=True`` it takes nothing and reads the arrays themselves.
    params : mapping, list or array; or callable that returns one
    loss : int
        Position of the loss in what the function returns.
    grads : int, slice or sequence of int
        Position of the gradients: one for all of them together, or one for each parameter in its order.
    naming, in_place
        As for `dicts`.
    **options
        ``state``, ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> def loss_and_grads(params):
    ...     return {"dw": 2 * params["w"]}, np.sum(params["w"] ** 2)
    >>> attachment = adapters.returned(loss_and_grads, {"w": np.array([1.0, 2.0])}, loss=1, grads=0)
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """

    @wraps(function)  # messages speak of the user's own function and its arguments
    def value(*arguments: Any) -> Any:
        results = function(*arguments)
        found = _item(results, loss, "loss")
        if not (isinstance(found, (Mapping, list, tuple)) or (isinstance(found, np.ndarray) and found.size > 1)):
            return found
        numbers = [position for position, result in enumerate(results) if isinstance(result, Real)] or [1]
        raise InvalidProblem(
            f"At position {loss}, where the loss should be, the function returned a {type(found).__name__}. This "
            f"usually means that the gradients come first. Try loss={numbers[0]}, grads={loss}."
        )

    def gradient(*arguments: Any) -> Any:
        results = function(*arguments)
        if isinstance(grads, int):
            return _item(results, grads, "gradients")
        positions = grads
        if isinstance(positions, slice):
            positions = range(len(results))[positions]
        names = list(flatten(ask(params)))
        found = [_item(results, position, "gradients") for position in positions]
        return grads_of(pairs_by_position(names, names, found))

    if not in_place:
        return _attach_functions(params, gradient, value, naming, **options)
    return attach(
        lambda: lasting_params(lambda: pairs_by_name(ask(params), None)),
        None,
        loss=value,
        backward=lambda: grads_of(pairs_by_name(ask(params), gradient(), naming)),
        **options,
    )


def parallel(
    params: Any,
    grads: Any,
    *,
    loss: Loss,
    names: Sequence[str] | None = None,
    backward: Callable[[], object] | None = None,
    **options: Unpack[Options],
) -> Attachment:
    """Attach a list of arrays and a list of their gradients, in the same order; generators too.

    Lists that do not fit are findings of the check. An array that is listed twice gets the sum of its gradients.

    Parameters
    ----------
    params, grads : sequence of ndarray; or callable that returns an iterable
        A function such as ``net.parameters`` is called at every check.
        The arrays are changed in place and restored to the bit.
    names : sequence of str, optional
        By default the positions.
    loss, backward, **options
        Also ``state``, ``loss_factor`` and ``frozen``; see `gc_hooks.adapters`.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> w, b = np.array([1.0, 2.0]), np.array([3.0])
    >>> params, grads = [w, b], [2 * w, np.array([1.0])]
    >>> check_gradients(**adapters.parallel(params, grads, loss=lambda: np.sum(w**2) + b)).verdict.name
    'GOOD'
    """
    # A list is read at every check, and a function called; a generator runs only once, so that its arrays stay.
    if isinstance(params, Iterator):
        params = list(params)
    if isinstance(grads, Iterator):
        grads = list(grads)

    def read() -> list[Pair]:
        arrays = list(ask(params))
        known = names
        if known is None:
            known = list(map(str, range(len(arrays))))
        if len(known) != len(arrays):
            raise InvalidProblem(f"There are {len(known)} names for {len(arrays)} parameters. Try to leave names out.")
        return pairs_by_position(known, arrays, list(ask(grads)))

    return attach(lambda: lasting_params(read), lambda: grads_of(read()), loss=loss, backward=backward, **options)


def flat(
    get: Callable[[], Array],
    put: Callable[[Array], object],
    *,
    loss: Loss,
    grad: Callable[[], Array],
    backward: Callable[[], object] | None = None,
    **options: Unpack[Options],
) -> Attachment:
    """Attach all parameters in one vector, with a function that gets it and one that sets it.

    Parameters
    ----------
    get, put : callable
        ``get()`` returns the parameters as a vector, ``put(vector)`` sets them.
    grad : callable
        Returns the gradient as a vector. Where it computes the gradient and does not only collect it, hand in
        ``backward=grad`` too: the gradient is then checked at other points as well, and in float64.
    loss, backward, **options
        Also ``state``, ``loss_factor`` and ``frozen``; see `gc_hooks.adapters`.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> class Net:
    ...     theta = np.array([1.0, 2.0])
    >>> get, put = lambda: Net.theta, lambda theta: setattr(Net, "theta", theta)
    >>> loss, grad = lambda: np.sum(Net.theta**2), lambda: 2 * Net.theta
    >>> attachment = adapters.flat(get, put, loss=loss, grad=grad)
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """

    @contextmanager
    def parameters_set(params: Params) -> Iterator[None]:
        before = np.array(get())
        try:
            put(np.copy(params["theta"]))
            yield
        finally:
            put(before)  # also after an exception or Ctrl-C

    return attach(
        lambda: {"theta": get()},
        lambda: {"theta": grad()},
        loss=loss,
        within=parameters_set,
        in_place=False,
        backward=backward,
        **options,
    )


def _item(results: Any, position: int, what: str) -> Any:
    """Return one item of what a function returned."""
    try:
        return results[position]
    except (LookupError, TypeError):
        count = f" of {len(results)} items" if hasattr(results, "__len__") else ""
        raise InvalidProblem(
            f"The function returned a {type(results).__name__}{count}, with no place {position} for the {what}. This "
            "usually means another order or number of results. Try print(function(params)), and loss= and grads= with "
            "the positions that it shows, from 0."
        ) from None


def _attach_functions(
    params: Any, grads: Any, loss: Loss, naming: Naming | None, **options: Unpack[Options]
) -> Attachment:
    """Return the keywords for a loss, and perhaps a gradient, that take the parameters."""

    def named(*values: Any) -> dict[str, Any]:
        found = grads
        if values:  # the gradient is a function of them
            found = grads(*values)
        return {name: grad for name, _, grad in pairs_by_name(ask(params), found, naming) if grad is not ABSENT}

    read: Read | None = named
    backward = None
    if callable(grads):
        read, backward = None, wraps(grads)(named)
    current = ask(params)
    if callable(params) and isinstance(current, Mapping):
        current = params
    return attach(current, read, loss=loss, takes=1, in_place=False, backward=backward, **options)
