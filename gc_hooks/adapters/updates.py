"""Adapters for trainers that show no gradient: record it on its way to the optimiser, or compute it from one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gc_hooks._typing import Array, Loss, Params
from gc_hooks.adapters.aliasing import Pair, lasting_params, pairs_by_name, params_of, place
from gc_hooks.adapters.attachment import Attachment, Options, ask, attach, shown, swapped
from gc_hooks.arrays.gradients import Uncertain, noted
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.report.diagnosis import listed, plural

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RecordingOptimizer:
    """Takes the place of an optimiser, whatever its methods are called, and records gradients instead of updating.

    Parameters
    ----------
    like : object, optional
        The optimiser whose place it takes: its numbers (``optimizer.lr``) can still be read.
    param, grad : int
        Positions of the parameter and the gradient among the arguments of its method.

    Examples
    --------
    >>> recorder, W = RecordingOptimizer(), np.ones(2)
    >>> W is recorder.update(W, 2 * W)
    True
    >>> recorder.gradients({"W": W})
    {'W': array([2., 2.])}
    """

    def __init__(self, like: Any = None, param: int = 0, grad: int = 1) -> None:
        self._like, self._param, self._grad = like, param, grad
        self._recorded: list[tuple[Any, Array]] = []
        self._calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of a protocol, such as __array__, which this object does not follow
            raise AttributeError(name)
        attribute = getattr(self._like, name, self)
        if callable(attribute):
            return self
        return attribute

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Record parameters and gradients, and return the parameters as they are."""
        everything = (*arguments, *named.values())
        self._calls.append(everything)
        if len(everything) <= max(self._param, self._grad):
            return None
        params, grads = everything[self._param], everything[self._grad]
        for param, grad in zip(flatten(params).values(), flatten(grads).values(), strict=False):
            self._recorded.append((param, np.array(grad)))  # a copy: the buffer is written again
        return params

    def gradients(self, params: Mapping[str, Any]) -> dict[str, Array]:
        """Return the recorded gradients by the names of the parameters; several of one parameter are summed."""
        names = {place(param): name for name, param in params.items()}
        grads: dict[str, Array] = {}
        for position, (param, grad) in enumerate(self._recorded):
            name = names.get(place(param), f"the optimiser's {position}")
            grads[name] = grads.get(name, 0) + grad
        return grads

    def why_nothing(self) -> str:
        """Say why there is no gradient of any parameter, and what to try."""
        calls = [arguments for arguments in self._calls if arguments]
        if self._recorded:
            return (
                f"it got {plural(len(self._recorded), 'gradient')}, and none for an array of params. This usually "
                "means that params returns copies, or that the arguments come in another order. Try params=lambda: "
                "..., with the arrays that the optimiser itself gets, and param= and grad= with their positions."
            )
        if calls:
            got = listed([type(argument).__name__ for argument in calls[0]])
            return (
                f"it was called with {plural(len(calls[0]), 'argument')} ({got}), not with a parameter and its "
                "gradient. This usually means that it reads both from a layer. Try adapters.recovered, which needs no "
                "optimiser, or adapters.attributes with that layer, right after backward."
            )
        return (
            "it was never called with a gradient. This usually means that the trainer holds it in a second place, such "
            "as a copy in each layer. Try the objects that call it as owner, or adapters.recovered, which needs no "
            "optimiser."
        )


class _PassingOptimizer:
    """Hands every call to a recorder, and then to the optimiser (or a method of it): the updates are made.

    A trainer may update a layer before it computes the delta of the layer below. That bug changes a gradient only
    where the updates are real.
    """

    def __init__(self, optimizer: Any, recorder: RecordingOptimizer) -> None:
        vars(self).update(_optimizer=optimizer, _recorder=recorder)  # __setattr__ sets the optimiser's attributes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        attribute = getattr(self._optimizer, name)
        if callable(attribute):
            return _PassingOptimizer(attribute, self._recorder)
        return attribute

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._optimizer, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._recorder(*arguments, **named)
        return self._optimizer(*arguments, **named)


def recorded(
    owner: Any,
    attribute: str | Sequence[str] = "optimizer",
    *,
    step: Callable[[], object],
    loss: Loss,
    params: Any,
    param: int = 0,
    grad: int = 1,
    **options: Unpack[Options],
) -> Attachment:
    """Attach a trainer that hands its gradients straight to an optimiser: one training step is made and recorded.

    The optimiser makes its update: where that comes before the delta of the layer below is computed, the delta is
    wrong. Then everything is put back that the step changes in the owner, and in what ``step`` and ``loss`` refer to:
    objects, containers of numbers or of up to a thousand items, and arrays of up to a megabyte. A penalty that the
    optimiser adds itself is not seen.

    Parameters
    ----------
    owner : object or list of objects
        What holds the optimiser: the model, or the layers.
    attribute : str or list of str
        The optimiser's name there; several where a layer has one for each parameter, such as ``["W_opt", "b_opt"]``.
    step, loss : callable
        ``step()`` makes one training step on a batch: forward, backward, update. ``loss()`` is that of the same batch.
    params : nested arrays that the optimiser is given; or callable that returns them
    param, grad : int
        Positions of parameter and gradient among the arguments of the optimiser's method.
    **options
        ``state`` (beside the owner itself), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients, nn
    >>> class Net:
    ...     def __init__(self):
    ...         self.W, self.optimizer = np.array([1.0, 2.0]), nn.SGD(0.1)
    ...
    ...     def train(self):
    ...         self.optimizer.step({"W": self.W}, {"W": 2 * self.W})
    >>> net = Net()
    >>> loss, params = lambda: np.sum(net.W**2), lambda: {"W": net.W}
    >>> attachment = adapters.recorded(net, step=net.train, loss=loss, params=params)
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """
    owners = list(owner) if isinstance(owner, (list, tuple)) else [owner]
    attributes = [attribute] if isinstance(attribute, str) else list(attribute)
    found = [(each, name) for each in owners for name in attributes if hasattr(each, name)]
    held, holders = {name for _, name in found}, {id(holder) for holder, _ in found}
    missing = [name for name in attributes if name not in held]
    without = [each for each in owners if id(each) not in holders]
    if missing or without or not found:
        raise InvalidProblem(
            f"There is no {' or '.join(missing or attributes)} in {shown(without[0] if without else owner)}. This "
            "usually means that the optimiser has another name. Try its name as second argument, and owners that have "
            "it."
        )

    def gradients_of_step(before: Params) -> dict[str, Any]:
        recorder = RecordingOptimizer(param=param, grad=grad)
        with swapped([(*place, _PassingOptimizer(getattr(*place), recorder)) for place in found]):
            step()
        grads: dict[str, Any] = dict(recorder.gradients(before))
        if not grads.keys() & before.keys():
            raise InvalidProblem(f"Nothing was recorded under {listed(attributes)}: {recorder.why_nothing()}")
        lacking = [name for name in before if name not in grads]
        if lacking:
            note = f"Nothing was recorded for {listed(lacking)} under {listed(attributes)}."
            first = next(iter(grads))
            grads[first] = noted(grads[first], f"{note} Try the names of all optimisers as second argument.")
        return grads

    return _attach_step(step, loss, params, gradients_of_step, owners, **options)


def recovered(
    model: Any,
    *,
    step: Callable[[], object],
    loss: Loss,
    params: Callable[[], Any],
    learning_rate: float,
    **options: Unpack[Options],
) -> Attachment:
    """Attach a trainer that never shows its gradient: it is recovered from one step, (old - new) / learning rate.

    A small step keeps few digits of the gradient: the gradient is known up to ``eps |w| / learning rate`` and its own
    rounding. The check gets this error with each entry and calls a smaller difference INCONCLUSIVE. The step is made
    on the model itself, inside `preserve`: a deep copy would separate arrays that share their memory.

    Parameters
    ----------
    model : object
        All that the step changes; it is put back to the bit, as is what ``step`` and ``loss`` refer to: objects,
        containers of numbers or of up to a thousand items, and arrays of up to a megabyte.
    step, loss : callable
        ``step()`` makes one step of plain gradient descent on a batch: no momentum, no weight decay. ``loss()`` is that
        of the same batch.
    params : callable
        ``params()`` returns the arrays that are trained.
    learning_rate : float
        Of that step. A large one loses fewer digits.
    **options
        ``state`` (beside the model itself), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> W = np.array([1.0, 2.0])
    >>> def fit():
    ...     W[:] -= 0.1 * 2 * W
    >>> loss, params = lambda: np.sum(W**2), lambda: {"W": W}
    >>> attachment = adapters.recovered(W, step=fit, loss=loss, params=params, learning_rate=0.1)
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise InvalidProblem(
            f"learning_rate must be a positive number, got {learning_rate!r}. Try the rate with which step() updates."
        )
    if not callable(params):
        raise InvalidProblem(
            f"params is {shown(params)}, not a function. This usually means the arrays themselves, which a step may "
            "replace. Try params=lambda: {...}, with what holds them after the step."
        )

    def gradients_of_step(before: Params) -> dict[str, Uncertain]:
        copies = {name: np.array(array) for name, array in before.items()}  # the step may write into the arrays
        step()
        after = flatten(params())
        return {name: _recovered_gradient(old, np.asarray(after[name]), learning_rate) for name, old in copies.items()}

    return _attach_step(step, loss, params, gradients_of_step, [model], **options)


def _recovered_gradient(old: Array, new: Array, learning_rate: float) -> Uncertain:
    """Return the gradient behind one step, with the error of each entry."""
    eps = float(np.finfo(old.dtype).eps)
    before, after = old.astype(np.float64), new.astype(np.float64)
    grad = (before - after) / learning_rate
    # new = fl(old - fl(rate * grad)), in the precision of the parameters. The subtraction rounds by at most eps / 2 of
    # the larger value, which the division by the rate magnifies; the product and the rate itself round by eps / 2 of
    # the gradient each. Twice these bounds leave room for a step that is computed in another order.
    rounding = np.maximum(np.abs(before), np.abs(after)) / learning_rate
    return Uncertain(grad, eps * (rounding + 2 * np.abs(grad)))


def _attach_step(
    step: Callable[[], object],
    loss: Loss,
    params: Any,
    gradients_of_step: Callable[[Params], Mapping[str, Any]],
    owners: list[Any],
    **options: Unpack[Options],
) -> Attachment:
    """Return the keywords for gradients that one training step shows, which gets the parameters before the step."""
    if not callable(step):
        raise InvalidProblem(
            f"step must be a function, got {shown(step)}. Try step=lambda: model.fit_batch(inputs, targets)."
        )

    def read() -> list[Pair]:
        return pairs_by_name(ask(params), None)

    return attach(
        lambda: lasting_params(read),
        None,
        loss=loss,
        backward=lambda: gradients_of_step(params_of(read())),
        owners=owners,
        **options,
    )
