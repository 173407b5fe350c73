"""`Box`: a stand-in for an array that records what is done with it, so that plain NumPy code can be differentiated.

NumPy hands every universal function and nearly every other function over to a foreign array that it meets (NEP 13, NEP
18). A box computes the same with its own value and adds a step to the tape. Writes (``x[i] = v``, ``x += b``, ``out=``)
make a new value and a new step, and views of a written array follow it.
"""

from __future__ import annotations

import operator
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gc_hooks._typing import Array
from gc_hooks.numerics import EPS, TIE
from gc_hooks.report.notes import not_traced
from gc_hooks.tracing.tape import Step, Tape, is_basic

LIBRARIES = sys.stdlib_module_names | {"numpy", "scipy", "autograd"}


class NotTraceable(Exception):
    """Say why a loss cannot be traced, and where; caught where the reference is asked for."""

    def __init__(self, why: str = "", place: str | None = None) -> None:
        """Take the reason, empty where nobody asked for a reference, and the place, by default the line that runs."""
        place = user_line() if place is None else place
        super().__init__(why, place)
        self.notes = (not_traced(f"{why} in {place}" if place else why),) if why else ()
        if CURRENT.trace is not None:  # the user's code may swallow it
            CURRENT.trace.refusal = CURRENT.trace.refusal or self


def user_line(deepest: Any = None) -> str:
    """Return the file and line of the user's code that is running, such as ``net.py:41``."""
    frame = deepest or sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in LIBRARIES and not module.startswith("gc_hooks.tracing"):
            return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class Trace(ABC):
    """An evaluation that is being traced: its tape, and what was turned into plain numbers on the way.

    What NumPy's functions do is for `gc_hooks.tracing.operations.Operations` to say.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        # What was turned into plain numbers, and where: at the end of a loss that is usual.
        self.converted: list[tuple[Box, str]] = []
        self.refusal: NotTraceable | None = None  # the first one
        self.boxes: list[weakref.ref[Box]] = []
        self.outer = CURRENT.trace  # one in whose loss this one runs
        self.locks: list[Any] = []  # what keeps other threads from tracing
        self.lent: list[Any] = []  # the places at which something stands in, see `gc_hooks.tracing.lending`

    @property
    def is_open(self) -> bool:
        """Return whether this evaluation is under way in this thread: to all others boxes are their values."""
        return CURRENT.trace is self

    @property
    def alive(self) -> list[Box]:
        """Return the boxes that something still refers to."""
        return [box for found in self.boxes if (box := found()) is not None]

    def box(self, value: Any, step: Step) -> Box:
        return Box(self, np.asarray(value), step)

    def constant(self, value: Any) -> Box:
        """Return an array that depends on no parameter as a box."""
        return Box(self, value, self.tape.add(depends=False))

    @abstractmethod
    def call_ufunc(self, ufunc: np.ufunc, method: str, inputs: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Return what a universal function does to boxes."""

    @abstractmethod
    def call(self, function: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Return what another function does to boxes."""

    @abstractmethod
    def cast(self, box: Box, dtype: Any) -> Any:
        """Return a copy of a box in another number format."""


class _Current(threading.local):
    """The trace that is under way in a thread."""

    trace: Trace | None = None


CURRENT = _Current()


@dataclass(frozen=True, slots=True)
class _Items:
    """Take items out of an array."""

    key: Any

    def __call__(self, array: Any) -> Any:
        return array[self.key]


class Box(NDArrayOperatorsMixin):
    """An array on a tape."""

    __slots__ = ("__weakref__", "_step", "_value", "again", "base", "is_own", "original", "seen", "tracer", "version")
    __array_priority__ = 1000.0

    def __init__(self, trace: Trace, value: Array, step: Step) -> None:
        self.tracer = trace
        self._value = value
        self._step = step
        self.base: Box | None = None  # the array that this one is a view of
        self.again: Callable[[Any], Any] | None = None  # how the view is made
        self.version = 0  # counts the writes
        self.seen = 0  # the base's version to which this view belongs
        self.is_own = False  # whether nobody else has seen the value, so that it may be changed in place
        self.original: Any = None  # the user's array for which it stands
        trace.boxes.append(weakref.ref(self))

    # To `isinstance` an array, and a number where NumPy returns numbers: code that asks is to go the same way.
    __class__ = property(lambda self: np.ndarray if self.original is not None else type(self._value[()]))

    # The value now, and the step that made it. A view follows what is written into its base.

    @property
    def value(self) -> Array:
        self._follow()
        self.is_own = False
        return self._value

    @property
    def step(self) -> Step:
        self._follow()
        return self._step

    @property
    def depends(self) -> bool:
        return self.tracer.is_open and self.step.depends

    def _follow(self) -> None:
        if self.base is None or not self.tracer.is_open:
            return
        self.base._follow()
        if self.base.version != self.seen:
            assert self.again is not None
            fresh = self.again(self.base)
            self._value, self._step, self.seen = fresh._value, fresh._step, self.base.version
            self.version += 1

    def view_of(self, base: Box, again: Callable[[Any], Any]) -> Box:
        """Return this box as a view of another, where NumPy makes a view and no copy."""
        if np.may_share_memory(self._value, base._value):
            self.base, self.again, self.seen = base, again, base.version
        return self

    # Writing.

    def assign(self, fresh: Any) -> None:
        """Take over the value and the step of another array, as a write of every entry does."""
        self._follow()
        trace = self.tracer
        value = np.asarray(fresh.value if isinstance_box(fresh) else fresh)
        step = fresh.step if isinstance_box(fresh) else trace.tape.add(depends=False)
        if value.shape != self._value.shape:
            self[...] = fresh
            return
        self._value, self._step, self.is_own = value, step, False
        self._written()

    def __setitem__(self, key: Any, item: Any) -> None:
        self._follow()
        key = plain_key(key)
        trace = self.tracer
        if not trace.is_open:
            self._value[key] = plain(item)
            return
        if isinstance(item, (list, tuple)) and any(map(isinstance_box, item)):
            item = np.stack(item)
        before, is_boxed = self._step, isinstance_box(item)
        part = item.value if is_boxed else np.asarray(item)
        if part.dtype == object or part.dtype.kind not in "fciub":
            raise NotTraceable("an array of objects is written into an array")
        if np.iscomplexobj(part) and not np.iscomplexobj(self._value):
            raise NotTraceable("complex numbers are written into an array of real ones")
        if not self.is_own or np.result_type(part, self._value) != self._value.dtype:
            self._value = np.array(self._value, dtype=np.result_type(part, self._value, np.float64))
            self.is_own = True
        self._value[key] = part
        shape = part.shape
        source = item.step if is_boxed else trace.tape.add(depends=False)

        def pull(gradient: Array) -> tuple[Array, Array]:
            written = np.array(gradient[key])
            if not is_basic(key) and written.ndim:  # of entries that are written twice, the last one stands
                order = np.zeros(gradient.shape, np.intp)
                counted = np.arange(written.size).reshape(written.shape)
                order[key] = counted
                written[order[key] != counted] = 0.0
            written = reduced(written, shape)
            gradient[key] = 0.0
            return gradient, written

        if before.depends or source.depends:
            self._step = trace.tape.add((before, source), pull, changes=True)
        self._written()

    def _written(self) -> None:
        """Let the base follow a write into its view: the positions of a view in its base are those of counted ones."""
        self.version += 1
        if self.base is None or self.again is None:
            return
        base = self.base
        if isinstance(self.again, _Items):
            base[self.again.key] = Box(self.tracer, self._value, self._step)
            self.seen = base.version
            return
        positions = np.asarray(self.again(np.arange(base._value.size).reshape(base._value.shape)))
        own = Box(self.tracer, self._value, self._step)
        base[np.unravel_index(positions, base._value.shape) if base._value.ndim else ...] = own
        self.seen = base.version

    # What NumPy asks.

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        try:
            return self.tracer.call_ufunc(ufunc, method, inputs, keywords)
        except Exception as error:
            if method == "__call__" or not self.tracer.is_open:
                raise
            # Raised under another method, NumPy would keep the box alive for ever. The trace knows of the refusal.
            if not isinstance(error, NotTraceable):
                NotTraceable(f"numpy.{ufunc.__name__}.{method} raised {type(error).__name__}")
            return self.value

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, keywords: Any) -> Any:
        return self.tracer.call(function, args, keywords)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.array(self._converted("an array"), dtype=dtype)

    def _converted(self, what: str) -> Array:
        """Return the plain value; where it depends on a parameter, note the place where its history is lost."""
        value = self.value
        if self.depends:
            kept = Box(self.tracer, value, self.step)
            self.tracer.converted.append((kept, f"turned into {what} in {user_line()}"))
        return value

    def __float__(self) -> float:
        return float(self._converted("a float"))

    def __complex__(self) -> complex:
        return complex(self._converted("a complex number"))

    def __int__(self) -> int:  # of a whole number the slope is zero
        return int(self.value)

    def __index__(self) -> int:
        return operator.index(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        return iter([self[position] for position in range(len(self))])

    def __contains__(self, item: Any) -> bool:
        return bool(np.any(self.value == plain(item)))

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, form: str) -> str:
        return format(self.value[()], form)

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy()

    def __getitem__(self, key: Any) -> Any:
        key = plain_key(key)
        self._follow()
        found = self._value[key]
        if not self.tracer.is_open:
            return found
        is_view = is_basic(key) and isinstance(found, np.ndarray)  # NumPy copies everything else
        if is_view and self.is_own:  # the next write is to copy this part again, and not all of a large buffer
            found = found.copy()
        box = self.tracer.box(found, self.tracer.tape.add_items(self._step, self._value.shape, key))
        if is_view:
            box.base, box.again, box.seen = self, _Items(key), self.version
        return box

    # The attributes and methods of an array.

    T = property(np.transpose)
    mT = property(lambda self: np.swapaxes(self, -1, -2))  # noqa: N815  (as NumPy calls it)
    real = property(np.real)
    imag = property(np.imag)
    flat = property(lambda self: self.reshape(-1))

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        return np.reshape(self, shape[0] if len(shape) == 1 else shape, order=order)  # type: ignore[call-overload]

    def transpose(self, *axes: Any) -> Any:
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)

    def flatten(self, order: str = "C") -> Any:
        return np.ravel(self, order=order).copy()  # type: ignore[call-overload]

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        return self.tracer.cast(self, np.dtype(dtype))

    def copy(self, order: str = "C") -> Any:
        return self.tracer.cast(self, self.dtype)

    def item(self, *index: int) -> Any:
        if not index:
            return self.reshape(())
        return self.reshape(-1)[index[0]] if len(index) == 1 else self[index]

    def tolist(self) -> Any:
        return [row.tolist() for row in self] if self.ndim else self

    def fill(self, value: Any) -> None:
        self[...] = value

    def sort(self, axis: int = -1, kind: Any = None) -> None:
        self.assign(np.sort(self, axis=axis))

    def view(self, *_: Any) -> Any:
        raise NotTraceable("it reads the bytes of an array by .view()")

    def __getattr__(self, name: str) -> Any:
        if name in FORM:
            return getattr(self._value, name)
        if name not in METHODS:
            raise AttributeError(f"'numpy.ndarray' object has no attribute {name!r}")
        function = getattr(np, name)
        return lambda *args, **keywords: function(self, *args, **keywords)


def words(names: str) -> frozenset[str]:
    """Return the names that stand in a text."""
    return frozenset(names.split())


FORM = words("shape ndim size dtype itemsize nbytes flags strides")
"""Attributes that a box has of its value."""

METHODS = words("""
    all any argmax argmin argsort argpartition choose clip compress conj conjugate cumprod cumsum diagonal dot max
    mean min nonzero partition prod ptp put ravel repeat round searchsorted squeeze std sum swapaxes take trace
    var
""")
"""Methods of arrays that are NumPy's functions of the same name."""


def isinstance_box(thing: object) -> bool:
    """Return whether a thing is a box; to `isinstance` it is an array."""
    return type(thing) is Box


def plain(thing: Any) -> Any:
    """Return the value of a box, and anything else as it is."""
    return thing.value if isinstance_box(thing) else thing


def plain_key(key: Any) -> Any:
    """Return a key without boxes: positions and masks have no slope. It is read again after it may have changed."""
    if isinstance(key, tuple):
        return tuple(map(plain_key, key))
    key = plain(key)
    if isinstance(key, np.ndarray):
        return key.copy()
    if isinstance(key, list):
        return [plain_key(one) for one in key]
    return key


def reduced(gradient: Any, shape: tuple[int, ...], by: Callable[..., Any] = np.sum) -> Any:
    """Sum a gradient over the axes along which its value was broadcast."""
    while np.ndim(gradient) > len(shape):
        gradient = by(gradient, axis=0)
    for axis, length in enumerate(shape):
        if length == 1 and gradient.shape[axis] != 1:
            gradient = by(gradient, axis=axis, keepdims=True)
    return gradient


def notice_ties(tape: Tape, first: Any, second: Any) -> None:
    """Notice where two numbers that are compared are equal, as far as their precision can tell: a kink lies there."""
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype.kind not in "fc" and second.dtype.kind not in "fc":
        return
    with np.errstate(all="ignore"):
        distance = np.abs(first - second)
        size = np.maximum(np.abs(first), np.abs(second))
        largest = np.max(size, initial=0.0, where=np.isfinite(size))
        tape.at_kink |= bool(np.any(distance <= TIE * max(tape.precision, tape.backprop_precision, EPS) * largest))
        distance = np.asarray(first - second)
        number = len(tape.distances)
        tape.distances.append(distance)
        if number < len(tape.before) and tape.before[number].shape == distance.shape:
            before = tape.before[number]
            tape.at_kink |= bool(np.any(np.abs(distance - before) > np.abs(before)))
