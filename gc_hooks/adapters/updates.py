"""Trainers that never show a gradient: it is caught on its way to the optimiser, or read off what one step changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Loss
from gc_hooks.adapters.aliasing import ABSENT, Pair, lasting_params, params_of, place
from gc_hooks.adapters.attachment import Attachment, as_state, ask, attach, shown, swapped
from gc_hooks.arrays.gradients import Uncertain
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.object_graph import changeable


class RecordingOptimizer:
    """Stands in for an optimiser, under whatever names its methods have: records gradients instead of updating.

    Parameters
    ----------
    like : object, optional
        The optimiser whose place it takes: its numbers (``optimizer.lr``) can still be read.
    param, grad : int
        Where the parameter and the gradient stand among the arguments of its method.

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
        self._recorded: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = getattr(self._like, name, self)
        return self if callable(known) else known

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Write down parameters and gradients, and return the parameters as they are."""
        everything = (*arguments, *named.values())
        if len(everything) <= max(self._param, self._grad):
            return None
        params, grads = everything[self._param], everything[self._grad]
        pairs = zip(flatten(params).values(), flatten(grads).values(), strict=False)
        self._recorded += [(param, np.array(grad)) for param, grad in pairs]
        return params

    def gradients(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What was recorded, by the names of the parameters; several gradients of one parameter are summed."""
        names = {place(param): name for name, param in params.items()}
        grads: dict[str, Any] = {}
        for position, (param, grad) in enumerate(self._recorded):
            name = names.get(place(param), f"the optimiser's {position}")
            grads[name] = grads[name] + grad if name in grads else grad
        return grads


class _Companion(RecordingOptimizer):
    """Records, and lets the optimiser that it stands in for do its work: an update that is made before the delta below
    is computed shows only in gradients that were computed from updated parameters."""

    def __init__(self, like: Any, param: int, grad: int, recorded: list[tuple[Any, Any]]) -> None:
        super().__init__(like, param, grad)
        self._recorded = recorded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = getattr(self._like, name)
        return partial(self._pass_on, known) if callable(known) else known

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_like", "_param", "_grad", "_recorded"):
            super().__setattr__(name, value)
        else:
            setattr(self._like, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._pass_on(self._like, *arguments, **named)

    def _pass_on(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        super().__call__(*arguments, **named)
        return method(*arguments, **named)


def recorded(
    owner: Any,
    attribute: str = "optimizer",
    *,
    step: Callable[[], object],
    loss: Loss,
    params: Any,
    param: int = 0,
    grad: int = 1,
    state: Any = (),
    **options: Any,
) -> Attachment:
    """Gradients that go straight into an optimiser: they are written down on their way, in one training step.

    Parameters
    ----------
    owner : object or list of objects
        Who holds the optimiser: the model, or the layers.
    attribute : str
        Under which name.
    step : callable
        ``step()`` is one training step on the check's batch: forward, backward, update.
    loss : callable
        ``loss()`` on the same batch.
    params : nested arrays; or callable that returns them
        The arrays that the optimiser is given.
    param, grad : int
        Where parameter and gradient stand among the arguments of the optimiser's method.
    **options
        ``state`` (beside the owner), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    The optimiser makes its update, for where that comes before the delta below is computed, the delta is wrong; then
    everything is put back that the step changes in the owner, and in what ``step`` and ``loss`` refer to: objects,
    containers of numbers or of up to a thousand items, and arrays of up to a megabyte. A penalty that lives in the
    optimiser is not seen.

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
    >>> attachment = adapters.recorded(
    ...     net, step=net.train, loss=lambda: np.sum(net.W**2), params=lambda: {"W": net.W}
    ... )
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """
    _refuse_no_step(step)
    owners = list(owner) if isinstance(owner, (list, tuple)) else [owner]
    if not all(hasattr(each, attribute) for each in owners) or not owners:
        raise InvalidProblem(
            f"There is no {attribute} in {shown(owner)}. This usually means that the optimiser has another name, or "
            "that the list holds layers without one. Try its name as second argument, and owners that have it."
        )
    caught: dict[str, Any] = {}

    def run() -> None:
        record: list[tuple[Any, Any]] = []
        companions = [_Companion(getattr(each, attribute), param, grad, record) for each in owners]
        old = params_of(pairs())  # an optimiser may put new arrays in their places
        with swapped([(each, attribute) for each in owners], companions):
            step()
        caught.clear()
        caught.update(companions[0].gradients(old))

    def pairs() -> list[Pair]:
        return [Pair(name, array, ABSENT) for name, array in flatten(ask(params)).items()]

    return attach(
        lambda: lasting_params(pairs),
        lambda: caught,
        loss=loss,
        backward=run,
        state=(*owners, *as_state(state), *changeable(step, loss)),
        **options,
    )


def recovered(
    model: Any,
    *,
    step: Callable[[], object],
    loss: Loss,
    params: Callable[[], Any],
    learning_rate: float,
    state: Any = (),
    **options: Any,
) -> Attachment:
    """Gradients that nobody shows, recovered from one plain step: (old - new) / learning rate.

    Parameters
    ----------
    model : object
        All that the step changes; it is put back to the bit, as is what ``step`` and ``loss`` refer to: objects,
        containers of numbers or of up to a thousand items, and arrays of up to a megabyte.
    step : callable
        ``step()`` makes one step of plain gradient descent on the check's batch: no momentum, no decay of the weights,
        the whole batch at once.
    loss : callable
        ``loss()`` on the same batch.
    params : callable
        ``params()`` returns the arrays that are trained.
    learning_rate : float
        Of that step. A large one loses fewer digits.
    **options
        ``state`` (beside the model), ``loss_factor`` and ``frozen``, see `gc_hooks.adapters`.

    Returns
    -------
    dict
        For ``hook.on_step(step, **...)`` and ``check_gradients(**...)``.

    Notes
    -----
    A parameter that moves by little keeps few digits of its step: the gradient is known up to ``eps |w| / learning
    rate`` and its own rounding. The check gets this error bar with each entry and calls INCONCLUSIVE what lies inside.
    The step is made on the model itself, inside `preserve`: a deep copy would part arrays that share their memory.

    Examples
    --------
    >>> from gc_hooks import adapters, check_gradients
    >>> class Net:
    ...     def __init__(self):
    ...         self.W = np.array([1.0, 2.0])
    ...
    ...     def fit(self, rate):
    ...         self.W -= rate * 2 * self.W
    >>> net = Net()
    >>> attachment = adapters.recovered(
    ...     net,
    ...     step=lambda: net.fit(0.1),
    ...     loss=lambda: np.sum(net.W**2),
    ...     params=lambda: {"W": net.W},
    ...     learning_rate=0.1,
    ... )
    >>> check_gradients(**attachment).verdict.name
    'GOOD'
    """
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise InvalidProblem(f"learning_rate={learning_rate!r}: the step's own rate is a positive number. Try 0.1.")
    if not callable(params):
        raise InvalidProblem(
            f"params is {shown(params)}, not a function. This usually means the arrays themselves, which a step may "
            "replace by new ones. Try params=lambda: {...}, with what holds them after the step."
        )
    _refuse_no_step(step)
    moved: dict[str, Uncertain] = {}

    def run() -> None:
        old = {name: np.array(array) for name, array in params_of(pairs()).items()}
        step()
        new = flatten(params())
        moved.clear()
        moved.update({name: _gradient(array, np.asarray(new[name]), learning_rate) for name, array in old.items()})

    def pairs() -> list[Pair]:
        return [Pair(name, array, ABSENT) for name, array in flatten(params()).items()]

    return attach(
        lambda: lasting_params(pairs),
        lambda: moved,
        loss=loss,
        backward=run,
        state=(model, *as_state(state), *changeable(step, loss)),
        **options,
    )


def _refuse_no_step(step: Any) -> None:
    if not callable(step):
        raise InvalidProblem(
            f"step={shown(step)} is no function. This usually means a number of steps, or the result of one. Try "
            "step=lambda: model.fit_batch(inputs, targets)."
        )


def _gradient(old: Array, new: Array, learning_rate: float) -> Uncertain:
    """The gradient that made a step, and how far it can be off: the new value is rounded, and so are rate and step."""
    eps = float(np.finfo(old.dtype).eps)
    before, after = old.astype(np.float64), new.astype(np.float64)
    grad = (before - after) / learning_rate
    return Uncertain(grad, eps * (np.maximum(np.abs(before), np.abs(after)) / learning_rate + 2 * np.abs(grad)))
