"""Who stands at a PyTorch module's entrance: sees what the training runs it on, and can have it run again alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gc_hooks.isolation.rng import global_random_state, set_global_random_state


class ForwardRecorder:
    """A forward pre-hook. Between two calls of the training's hook it keeps what the module was run on, and the random
    states at that moment; a replay begins each pass with them.

    Parameters
    ----------
    wanted : callable
        ``wanted()`` says whether a check may come before the next call.

    Notes
    -----
    A copy of the module, or one that was saved, has a witness that sees nothing.
    """

    def __init__(self, wanted: Callable[[], bool] = bool) -> None:
        self._wanted = wanted
        self._seen: list[tuple[Any, Any]] = []
        self._staged: Callable[[Any], Any] | None = None
        self._replayed: int | None = None
        self._alike = True
        self.batch_size = 0

    def __reduce__(self) -> Any:
        return ForwardRecorder, ()

    def __call__(self, module: Any, args: Any, kwargs: Any) -> Any:
        """Before each forward pass of the module."""
        import torch

        if self._staged is not None:
            self._replay(args, kwargs)
            self.batch_size = _samples(args, kwargs)
            return self._staged(args), self._staged(kwargs)
        if torch.is_grad_enabled() and self._wanted():
            self._seen.append(((args, kwargs), _random_states()))
        return None

    def forget(self) -> None:
        """The next step begins."""
        if self._seen:
            self._seen = []

    @contextmanager
    def on_stage(self, convert: Callable[[Any], Any]) -> Iterator[None]:
        """What runs now is no training; the module's inputs are converted."""
        self._staged = convert
        try:
            yield
        finally:
            self._staged = self._replayed = None

    def begin_replay(self) -> None:
        """The next pass is to be the training's own once more."""
        self._replayed, self._alike = 0, True

    @property
    def idle(self) -> bool:
        """Whether the training has not run the module since the last step, as far as can be seen from here."""
        return not self._seen

    @property
    def objection(self) -> str:
        """Why the last replay was not the training's own pass; empty when it was."""
        if self.idle:
            return "The module has not been run since the last step, or not as a whole."
        if not self._alike:
            return "loss= does not run the module on just what the training has run it on since the last step."
        return ""

    def settle(self) -> None:
        """The replay is over: whether it has run the module as often."""
        self._alike = self._alike and self._replayed == len(self._seen)

    def _replay(self, args: Any, kwargs: Any) -> None:
        if self._replayed is None:
            return
        number, self._replayed = self._replayed, self._replayed + 1
        if number >= len(self._seen):
            self._alike = False
            return
        inputs, states = self._seen[number]
        self._alike = self._alike and _equal(inputs, (args, kwargs))
        _set_random_states(states)


def _random_states() -> Any:
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, global_random_state()


def _set_random_states(states: Any) -> None:
    import torch

    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state_all(states[1])
    set_global_random_state(states[2])


def _equal(first: Any, second: Any) -> bool:
    """Whether two nests of inputs hold the same numbers; what is no tensor has to be the same object or equal."""
    import torch

    if first is second:
        return True
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        alike = first.shape == second.shape and first.dtype == second.dtype and first.device == second.device
        return bool(alike and torch.equal(first, second))
    if type(first) is not type(second):
        return False
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    return bool(first == second) if isinstance(first, (int, float, str, bytes)) else False


def _samples(args: Any, kwargs: Any) -> int:
    """The length of the first input, as far as there is one."""
    import torch

    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim]
    return len(tensors[0]) if tensors else 0
