"""Adapters for functions of the parameters, and for parameters in dictionaries, in lists or in one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Array, Loss, Params
from gc_hooks.adapters.aliasing import ABSENT, Naming, Pair, grads_of, lasting_params, pairs_by_name, pairs_by_position
from gc_hooks.adapters.attachment import (
    Attachment,
    LazyMapping,
    Options,
    Read,
    ask,
    attach,
    scaled,
    set_to_zero,
)
from gc_hooks.arrays.gradients import noted
from gc_hooks.arrays.norms import same_bits
from gc_hooks.arrays.tree import flatten, is_container
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.undoing import undone_by
from gc_hooks.problem.validate import takes_nothing
from gc_hooks.report.diagnosis import listed

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
        loss = Evaluation(f, (), lambda theta: scaled(f(theta), loss_factor), (f,), takes=1)
        return {"loss": loss, "params": theta, "grads": Evaluation(g, (), g, (g,), takes=1), "in_place": False}
    return {
        "loss": Evaluation(f, (), lambda params: scaled(f(params["theta"]), loss_factor), (f,), takes=1),
        "params": LazyMapping(lambda: {"theta": theta()}),
        "grads": Evaluation(g, (), lambda params: {"theta": g(params["theta"])}, (g,), takes=1),
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
    grads : mapping, or callable
        The buffers, or a gradient function that takes what the loss takes. Where the training makes new dictionaries of
        buffers, call this adapter at every step. A list beside a dictionary of parameters is paired by position.
    loss : callable
        ``loss(params)``, a pure function; or ``loss()``, which reads the arrays themselves: ``in_place`` is then true.
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
    if not (in_place or takes_nothing(loss)):
        if backward is not None:
            raise InvalidProblem(
                "dicts got backward= beside a loss that takes the parameters. This usually means a backward pass that "
                "reads the arrays themselves, and so has the loss to. Try loss=lambda: loss(params); or, without "
                "backward, grads= with a function of params."
            )
        return _attach_functions(params, grads, loss, naming, **options)

    def found(gradients: Any) -> dict[str, Any]:
        return grads_of(_pairs(ask(params), gradients, naming))

    read: Read | None = lambda: found(ask(grads))  # noqa: E731 - or none, where the gradients are a function
    if callable(grads) and backward is None:
        read, backward = None, wraps(grads)(lambda: found(_gradients_alone(grads(), ask(params), "grads()")))
    return attach(
        # Without the gradients: they may be a function, which is to be called only when the gradients are read.
        lambda: lasting_params(lambda: pairs_by_name(ask(params), None)),
        read,
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
        ``function(params)``, a pure function; or ``function()``, which reads the arrays themselves: ``in_place`` is
        then true.
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
        if any(is_container(type(item)) for item in found):
            return found  # one list for all weights, and one for all biases
        return grads_of(pairs_by_position(names, names, found))

    if not (in_place or takes_nothing(function)):
        return _attach_functions(params, gradient, value, naming, **options)
    return attach(
        lambda: lasting_params(lambda: pairs_by_name(ask(params), None)),
        None,
        loss=value,
        backward=lambda: grads_of(_pairs(ask(params), gradient(), naming)),
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
    """Attach a list of arrays and a list of their gradients, in the same order; generators too, and lists of lists.

    Lists that do not fit are findings of the check. An array that is listed twice gets the sum of its gradients.

    Parameters
    ----------
    params, grads : sequence of ndarray, or of sequences of them; or callable that returns an iterable
        ``[weights, biases]``, each of them a list, is paired by the places in both.
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

    def pairs(found: Any) -> list[Pair]:
        arrays, leaves = (each if isinstance(each, Mapping) else list(each) for each in (ask(params), found))
        known = flatten(arrays)
        if names is not None and len(names) != len(known):
            raise InvalidProblem(f"There are {len(names)} names for {len(known)} parameters. Try to leave names out.")
        if list(known) == list(map(str, range(len(arrays)))):
            return pairs_by_position(names or list(known), list(arrays), list(leaves))
        new = dict(zip(known, names or known, strict=True))
        named = _pairs(arrays, leaves or None, None)
        return [pair._replace(name=new.get(pair.name, pair.name)) for pair in named]

    return attach(
        lambda: lasting_params(lambda: pairs(())),  # without the gradients, which backward may have to make first
        lambda: grads_of(pairs(ask(grads))),
        loss=loss,
        backward=backward,
        clear=lambda: set_to_zero(pair.grad for pair in pairs(ask(grads))),
        **options,
    )


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
        with undone_by(partial(put, np.array(get()))):
            put(np.copy(params["theta"]))
            yield

    def added() -> dict[str, Array]:
        """Return what one backward pass adds, where it adds to what it finds."""
        assert backward is not None
        start = np.array(grad())
        backward()
        once = np.array(grad())
        if np.any(start) and not options.get("frozen") and not same_bits(start, once):
            backward()
            twice = np.array(grad())
            if not same_bits(once, twice):
                return {"theta": twice - once}
        return {"theta": once}

    computed: Callable[[], object] | None = added
    if backward is None:
        computed = None
    elif backward == grad:
        computed = lambda: {"theta": grad()}  # noqa: E731
    return attach(
        lambda: {"theta": get()},
        None if computed else lambda: {"theta": grad()},
        loss=loss,
        within=parameters_set,
        in_place=False,
        backward=computed,
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


def _pairs(params: Any, grads: Any, naming: Naming | None) -> list[Pair]:
    """Pair by name; by position, where a list of gradients stands beside parameters that have names."""
    if is_container(type(params)) and not is_container(type(grads)):
        return _pairs_of_one(flatten(params), grads)
    has_names = isinstance(params, Mapping)
    if has_names == isinstance(grads, Mapping) or not is_container(type(params)):
        return pairs_by_name(params, grads, naming)
    arrays, leaves = flatten(params), flatten(grads)
    shapes = [list(map(np.shape, tree.values())) for tree in (arrays, leaves)]
    if has_names and shapes[0] == shapes[1]:
        first, *others = leaves.values()
        note = f"The gradients are a list: paired by position with {listed(tuple(arrays))}."
        return pairs_by_position(list(arrays), list(arrays.values()), [noted(first, note), *others])
    kinds = "a dictionary", "a list"
    if not has_names:
        kinds = "a list", "a dictionary"
    raise InvalidProblem(
        f"The parameters are {kinds[0]} ({listed(tuple(arrays), 8)}), and the gradients are {kinds[1]} "
        f"({listed(tuple(leaves), 8)}): which belongs to which is not said. Try {kinds[0]} of the gradients, with the "
        f"{'same keys' if has_names else 'same order'}."
    )


def _pairs_of_one(arrays: Mapping[str, Any], grad: Any) -> list[Pair]:
    """Pair one array with the only parameter; refuse it where there are more."""
    if len(arrays) == 1 or grad is None:
        return pairs_by_position(list(arrays), list(arrays.values()), [] if grad is None else [grad])
    raise InvalidProblem(
        f"The gradients are one {type(grad).__name__}, beside {len(arrays)} parameters ({listed(arrays, 8)}). This "
        "usually means that only the first of several results was taken. Try all of them: grads=slice(1, None) in "
        "adapters.returned, or a dictionary with the parameters' names."
    )


def _gradients_alone(found: Any, params: Any, called: str) -> Any:
    """Return the gradients; refuse nothing, and a number where no parameter is one, which is the loss."""
    if found is None:
        raise InvalidProblem(
            f"{called} returned None. This usually means that it fills buffers. Try grads= with those buffers and "
            "backward= with this function, beside a loss that takes nothing; or let it return a dictionary."
        )
    if not isinstance(found, (list, tuple)):
        return found
    numbers = [place for place, item in enumerate(found) if _is_number(item)]
    others = [place for place in range(len(found)) if place not in numbers]
    expected = [_is_number(param) for param in params] if isinstance(params, (list, tuple)) else []
    if not (numbers and others) or expected == [place in numbers for place in range(len(found))]:
        return found
    where = others[0] if len(others) == 1 or is_container(type(found[others[0]])) else others
    raise InvalidProblem(
        f"{called} returned a {type(found).__name__}: {listed([type(item).__name__ for item in found])}. This usually "
        f"means the loss beside its gradients. Try adapters.returned(function, params, loss={numbers[0]}, "
        f"grads={where}), with that function."
    )


def _is_number(item: Any) -> bool:
    return isinstance(item, Real) or (isinstance(item, np.ndarray) and item.ndim == 0)


def _attach_functions(
    params: Any, grads: Any, loss: Loss, naming: Naming | None, **options: Unpack[Options]
) -> Attachment:
    """Return the keywords for a loss, and perhaps a gradient, that take the parameters."""

    def named(*values: Any) -> dict[str, Any]:
        found = grads
        if values:  # the gradient is a function of them
            found = _gradients_alone(grads(*values), ask(params), "grads(params)")
        return {name: grad for name, _, grad in _pairs(ask(params), found, naming) if grad is not ABSENT}

    read: Read | None = named
    backward = None
    if callable(grads):
        read, backward = None, wraps(grads)(named)
    current = ask(params)
    if callable(params) and isinstance(current, Mapping):
        current = params
    return attach(current, read, loss=loss, takes=1, in_place=False, backward=backward, **options)
