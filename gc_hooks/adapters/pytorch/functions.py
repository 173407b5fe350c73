"""Stand-ins for the forward and backward of every hand-written `torch.autograd.Function`, while a check runs a closure.

The body of ``forward`` is run under torch's own autograd, with a stand-in for ``ctx``. Its way back is the reference.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gc_hooks.isolation.rng import save_global_random_state
from gc_hooks.tracing.box import NotTraceable

if TYPE_CHECKING:
    from torch import Tensor

OWN = "_gc_hooks_call"
"""The attribute of a ctx that holds what the stand-in of forward has kept for that of backward."""
STYLES = ("forward", "setup_context", "backward", "vjp")
NO_GRAPH = "the result of {} has no graph of torch's autograd (NumPy, .detach(), a kernel)"


class Context:
    """What a body gets as its ``ctx``: it keeps what it is given."""

    def __init__(self, ctx: Any) -> None:
        self.needs_input_grad = tuple(ctx.needs_input_grad)
        self._forward_cls = type(ctx)._forward_cls
        self.saved_tensors: tuple[Any, ...] = ()
        self.constant: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors."""
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Keep nothing: no derivative is taken forward."""

    def mark_dirty(self, *tensors: Any) -> None:
        """Do nothing: what was written into shows by itself."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Note which results are constants."""
        self.constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Do nothing: a missing gradient is left out."""


@dataclass
class Call:
    """One call of a Function: its inputs, and its results with the graph of the body."""

    function: Any = None  # the class, once it is known
    leaves: list[Tensor | None] = field(default_factory=list)  # one for each input, None where it has no gradient
    given: list[Any] = field(default_factory=list)  # what the body got in place of the inputs
    results: list[Any] = field(default_factory=list)

    def pull_back(self, upstream: Sequence[Any], others: Sequence[Tensor] = ()) -> list[Any]:
        """Return torch's own gradient of the body: for each input, and then for other tensors that it may have used."""
        import torch

        pairs = [(r, u) for r, u in zip(self.results, upstream, strict=True) if u is not None and _has_graph(r)]
        inputs = [leaf for leaf in self.leaves if leaf is not None]
        wanted = [*inputs, *others]
        if not (pairs and wanted):
            return [None] * (len(self.leaves) + len(others))
        # One number, and not grad_outputs=, for which torch imports half a second of other libraries.
        with torch.enable_grad():
            total = sum((r * u.to(r.dtype).conj()).real.sum() for r, u in pairs)
        # A body that uses tensors of the closure reaches into the graph around it, which is still needed.
        found = iter(torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True))
        return [None if leaf is None else next(found) for leaf in self.leaves] + list(found)


Observer = Callable[[Call, Sequence[Any], Sequence[Any]], None]
"""Gets a call, the upstream gradient of its results, and what backward has returned for its inputs."""


class StandIns:
    """Stand in for the Functions of one thread, from `put` to `take_away`, so that their backward is the reference.

    What a body uses and was not handed in (a weight that it reads from a closure) gets its gradient too: that of the
    ``others``, which are collected in ``more``. The classes in ``except_for`` are left as they are. With ``observe``
    the Functions do what they always do, and after each backward it is called with the call, the upstream gradient and
    what backward returned.
    """

    def __init__(
        self,
        others: Sequence[Tensor] = (),
        observe: Observer | None = None,
        except_for: tuple[Any, ...] = (),
    ) -> None:
        self.more: list[Any] = [None] * len(others)
        self.refusal: NotTraceable | None = None
        self._others, self._observe, self._except_for = others, observe, except_for
        self._replaced: list[tuple[Any, str, Any]] = []
        self._waiting: list[Call] = []  # calls whose ctx comes later: setup_context gets it

    def put(self) -> None:
        """Put the stand-ins into the classes that the user's program has made so far."""
        for cls in function_classes():
            for name in STYLES if not issubclass(cls, self._except_for) else ():
                own = vars(cls).get(name)
                if own is not None:
                    self._replaced.append((cls, name, own))  # first: a Ctrl-C may come in between
                    setattr(cls, name, staticmethod(self._stand_in(cls, name, getattr(cls, name))))

    def take_away(self) -> None:
        """Put back what was there before."""
        for cls, name, own in self._replaced:
            setattr(cls, name, own)

    def _stand_in(self, cls: Any, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        if name == "forward":
            stand_in = self._forward_alone if has_setup_context(cls) else self._forward
        else:
            stand_in = self._setup_context if name == "setup_context" else self._backward

        # The engine runs a backward in a thread of its own; there its ctx tells whether it is ours.
        return here_alone(own, stand_in, everywhere=name in ("backward", "vjp"))

    def _forward(self, own: Callable[..., Any], ctx: Any, *args: Any) -> Any:
        if issubclass(type(ctx)._forward_cls, self._except_for):
            return own(ctx, *args)
        call, inner = Call(type(ctx)._forward_cls), Context(ctx)
        setattr(ctx, OWN, call)
        results = self._as_ever(own, ctx, *args)
        found = self._run_body(own, call, args, inner)
        if self._observe is None:
            results, dirty = _in_their_place(found, call, args)
            ctx.mark_dirty(*dirty)
            constant = set(map(id, inner.constant))
            pairs = zip(_as_tuple(found), _as_tuple(results), strict=True)
            ctx.mark_non_differentiable(*(result for one, result in pairs if id(one) in constant))
        return results

    def _forward_alone(self, own: Callable[..., Any], *args: Any) -> Any:
        call = Call()
        results = self._as_ever(own, *args)
        found = self._run_body(own, call, args)
        self._waiting.append(call)
        return results if self._observe is not None else _in_their_place(found, call, args)[0]

    def _as_ever(self, own: Callable[..., Any], *args: Any) -> Any:
        """Return what forward returns, where it is to do what it always does; its body will draw the same again."""
        if self._observe is None:
            return None
        put_back = save_global_random_state()
        results = own(*args)
        put_back()
        return results

    def _setup_context(self, own: Callable[..., Any], ctx: Any, inputs: Any, output: Any) -> Any:
        if not self._waiting:
            return own(ctx, inputs, output)
        call = self._waiting.pop()
        call.function = type(ctx)._forward_cls
        setattr(ctx, OWN, call)
        return own(ctx, inputs, output)  # it also marks what has no gradient

    def _backward(self, own: Callable[..., Any], ctx: Any, *upstream: Any) -> Any:
        call = vars(ctx).get(OWN)
        if call is None:
            return own(ctx, *upstream)
        if self._observe is not None:
            kept = [None if one is None else one.clone() for one in upstream]
            returned = own(ctx, *upstream)
            if call.results:
                self._observe(call, kept, _as_tuple(returned))
            return returned
        every = call.pull_back(upstream, self._others)
        count = len(call.leaves)
        for number, part in enumerate(every[count:]):
            if part is not None:
                before = self.more[number]
                self.more[number] = part if before is None else before + part
        return tuple(every[:count])

    def _run_body(self, own: Callable[..., Any], call: Call, args: tuple[Any, ...], *before: Any) -> Any:
        """Return what a body returns under autograd, and keep it in the call; refuse a body that has no graph."""
        import torch

        is_wanted = any(map(_has_graph, args))
        call.leaves = [arg.detach().clone().requires_grad_() if _has_graph(arg) else None for arg in args]
        with torch.enable_grad():
            # Not the leaves themselves, which cannot be written into.
            call.given = [arg if leaf is None else leaf.clone() for arg, leaf in zip(args, call.leaves, strict=True)]
            try:
                found = own(*before, *call.given)
            except Exception as error:
                why = f"{call_name(own)} raised {type(error).__name__} under torch's autograd: {str(error)[:80]}"
                self.refusal = self.refusal or NotTraceable(why, place_of(own))
                if self._observe is None:
                    raise
                return None
        call.results = list(_as_tuple(found))
        differentiable = list(filter(_is_differentiable, call.results))
        if is_wanted and differentiable and not any(map(_has_graph, differentiable)):
            self.refusal = self.refusal or NotTraceable(NO_GRAPH.format(call_name(own)), place_of(own))
            call.results = []
        if self.refusal is not None and self._observe is None:
            raise self.refusal
        return found


def _in_their_place(found: Any, call: Call, args: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return what forward returns in place of a body's results, and the inputs that were written into.

    The results are copies: who writes into one later would spoil the graph of the body.
    """
    written = {}
    for given, leaf, arg in zip(call.given, call.leaves, args, strict=True):
        if leaf is not None and given._version:
            arg.copy_(given.detach())
            written[id(given)] = arg
    results = tuple(written.get(id(one), _copied(one)) for one in _as_tuple(found))
    return results if isinstance(found, (tuple, list)) else results[0], list(written.values())


def here_alone(own: Callable[..., Any], stand_in: Callable[..., Any], everywhere: bool = False) -> Callable[..., Any]:
    """Return a function that calls a stand-in with what it stands in for; in other threads it does what that does."""
    thread = threading.get_ident()

    @functools.wraps(own)
    def run(*args: Any) -> Any:
        return stand_in(own, *args) if everywhere or threading.get_ident() == thread else own(*args)

    return run


def function_classes() -> Iterator[Any]:
    """Yield the Functions that the program has defined so far, other than torch's own."""
    import torch

    waiting: list[Any] = [torch.autograd.Function]
    seen: set[Any] = set()
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls not in seen:
                seen.add(cls)
                waiting.append(cls)
                if str(cls.__module__).partition(".")[0] != "torch":
                    yield cls


def has_setup_context(cls: Any) -> bool:
    """Return whether a Function's forward takes no ctx."""
    import torch

    return bool(cls.setup_context is not torch.autograd.Function.setup_context)


def call_name(function: Any) -> str:
    """Return the name of a function with its class: "RMSNorm.forward"."""
    return ".".join(str(getattr(function, "__qualname__", function)).split(".")[-2:])


def place_of(function: Any) -> str:
    """Return file and line of a function, such as "norms.py:41"; empty for what was not written in Python."""
    import inspect
    import linecache

    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ""
    line = code.co_firstlineno  # of the first decorator
    while linecache.getline(code.co_filename, line).lstrip().startswith("@"):
        line += 1
    return f"{code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{line}"


def _as_tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def _copied(value: Any) -> Any:
    return value.detach().clone() if _is_differentiable(value) else value


def _is_differentiable(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _has_graph(value: Any) -> bool:
    return _is_differentiable(value) and value.requires_grad
