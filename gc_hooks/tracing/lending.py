"""Lend a user's code boxes where it looks for its arrays, and functions that know boxes where NumPy's do not.

A loss that takes its parameters gets boxes in their place. What else it reads stands in dictionaries, attributes,
lists, tuples, slots and variables: for the length of one evaluation boxes stand there, of the parameters that it reads
in place and of its data, because ``X.dot(W)`` asks X alone. NumPy also makes arrays (``np.zeros``) and takes lists
apart (``np.array([a, b])``) without asking a box; so a module of the user's that calls NumPy ``np`` finds a stand-in
under that name meanwhile. NumPy itself is never changed.

To other threads a stand-in is NumPy's function, and a box is the value of its array: they can compute with it, and not
tell it by its class. What they write meanwhile into a parameter is lost, as it is while slopes are measured in place.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.isolation.object_graph import Node, all_ways, pairs_of, placing, walk
from gc_hooks.isolation.reach import LONGEST, MOST
from gc_hooks.tracing.box import CURRENT, Box, NotTraceable, Trace, isinstance_box, plain, words
from gc_hooks.tracing.operations import assembled, buffer, gathered, shown, vectorised

SEQUENCES = words("""
    concatenate stack vstack hstack dstack column_stack append select choose block einsum ix_ broadcast_arrays
    multi_dot
""")
"""Functions that hand over a list of boxes by themselves."""

MATHEMATICS = {"pow": "power", "atan2": "arctan2", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
"""Functions of `math` that NumPy calls otherwise."""

REPLACEABLE = {ModuleType, FunctionType, type(math.exp), type(np.zeros), type(np.sum), type}
"""The classes of what may have a stand-in."""

MOST_IN_TUPLE = 16
"""Items of a tuple that is made anew with boxes in it: a longer one is a data set."""


TRACING = threading.RLock()
"""Held by the thread that is tracing: places are those of the whole process."""

PATIENCE = 10.0
"""Seconds for which a trace waits for that of another thread, which may wait for this one in turn."""


class StandIn(ModuleType):
    """A module with some functions replaced."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        found = stand_in(getattr(self._module, name))
        self.__dict__[name] = found
        return found


def stand_in(thing: Any) -> Any:
    """Return what stands in for a thing of NumPy's, of SciPy's or of `math`; the thing itself where nothing does."""
    known = _stand_ins("scipy.special" in sys.modules).get(id(thing))
    if known is not None:
        return known
    if isinstance(thing, ModuleType) and thing.__name__.startswith(("numpy.", "scipy.")):
        return StandIn(thing)
    is_numpys = callable(thing) and str(getattr(thing, "__module__", "")).startswith("numpy")
    if is_numpys and not isinstance(thing, (type, np.ufunc)) and getattr(thing, "__name__", "") not in SEQUENCES:
        return _standing_in_for(thing, _with_arrays)
    return thing


@cache
def _stand_ins(with_scipy: bool) -> dict[int, Any]:
    """Return what stands in for what, by the ids of the originals."""
    functions: dict[Any, Callable[..., Any]] = dict.fromkeys((np.zeros, np.empty, np.ones, np.full), _made)
    functions |= dict.fromkeys((np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray), _taken)
    functions[np.lib.stride_tricks.as_strided] = _strided
    for name, function in vars(math).items():
        numpys = getattr(np, MATHEMATICS.get(name, name), None)
        if callable(function) and isinstance(numpys, np.ufunc):
            functions[function] = partial(_mathematics, numpys)
    modules = [np, math]
    if with_scipy:
        special = sys.modules["scipy.special"]
        modules += [special, sys.modules["scipy"]]
        functions |= {special.logsumexp: _logsumexp, special.softmax: _softmax, special.log_softmax: _log_softmax}
        functions[special.xlogy] = _xlogy
    found: dict[int, Any] = {id(original): _standing_in_for(original, new) for original, new in functions.items()}
    found[id(np.vectorize)] = lambda *args, **keywords: _vectorized(np.vectorize(*args, **keywords))
    found.update((id(module), StandIn(module)) for module in modules)
    return found


def _standing_in_for(original: Any, replacement: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **keywords: Any) -> Any:
        if CURRENT.trace is None:
            return original(*args, **keywords)
        return replacement(original, *args, **keywords)

    return called


# The functions that stand in. Each gets the original one first.


def _made(original: Any, shape: Any, *args: Any, **keywords: Any) -> Any:
    assert CURRENT.trace is not None
    if isinstance(shape, (list, tuple)):
        shape = tuple(map(int, shape))
    if any(map(isinstance_box, args)):  # np.full with a value that depends on the parameters
        return np.full_like(buffer(CURRENT.trace, np.zeros(shape)), args[0])
    return buffer(CURRENT.trace, original(shape, *args, **keywords))


def _taken(original: Any, items: Any, dtype: Any = None, **keywords: Any) -> Any:
    assert CURRENT.trace is not None
    array = assembled(items)
    if not isinstance_box(array):
        made = original(items, dtype, **keywords)
        return made if original is np.asarray else buffer(CURRENT.trace, made)
    if dtype is not None and np.dtype(dtype) != array.dtype:
        return array.astype(dtype)
    return array.copy() if original is np.array and keywords.get("copy", True) else array


def _with_arrays(original: Any, *args: Any, **keywords: Any) -> Any:
    return original(*map(assembled, args), **keywords)


def _strided(original: Any, array: Any, shape: Any = None, strides: Any = None, **keywords: Any) -> Any:
    if not isinstance_box(array):
        return original(array, shape, strides, **keywords)
    # Positions have eight bytes as float64 has, so that the strides of the one are those of the other.
    counted = np.arange(array.size).reshape(array.shape)
    return gathered(array, original(counted, shape, strides, **keywords))


def _vectorized(original: np.vectorize) -> Callable[..., Any]:
    """Return what stands in for a function of numbers that was made one of arrays."""

    def called(*arrays: Any, **keywords: Any) -> Any:
        if any(map(isinstance_box, arrays)):
            return vectorised(original.pyfunc, *arrays)
        return original(*arrays, **keywords)

    return called


def _mathematics(numpys: Any, original: Any, *args: Any) -> Any:
    return numpys(*args) if any(map(isinstance_box, args)) else original(*args)


def _logsumexp(original: Any, a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, **rest: Any) -> Any:
    if not isinstance_box(a) or rest:
        return original(a, axis, b, keepdims, **rest)
    largest = np.max(plain(a), axis=axis, keepdims=True)
    shares = np.exp(a - largest) if b is None else b * np.exp(a - largest)
    result = np.log(np.sum(shares, axis=axis, keepdims=True)) + largest
    return result if keepdims else np.squeeze(result, axis=axis)


def _softmax(original: Any, x: Any, axis: Any = None) -> Any:
    return np.exp(_log_softmax(original, x, axis)) if isinstance_box(x) else original(x, axis)


def _log_softmax(original: Any, x: Any, axis: Any = None) -> Any:
    return x - _logsumexp(None, x, axis, keepdims=True) if isinstance_box(x) else original(x, axis)


def _xlogy(original: Any, x: Any, y: Any) -> Any:
    if not (isinstance_box(x) or isinstance_box(y)):
        return original(x, y)
    is_zero = plain(x) == 0
    return np.where(is_zero, 0.0, x * np.log(np.where(is_zero, 1.0, y)))


# Where things stand.


class Place(NamedTuple):
    """A place at which something stands that is replaced."""

    put: Callable[[Any], None]
    thing: Any


@cache
def _own_places() -> list[Place]:
    """Return where the modules of `gc_hooks.nn` find NumPy: a walk does not look into libraries."""
    places = []
    for name, module in list(sys.modules.items()):
        if name.startswith("gc_hooks.nn."):
            names = [key for key, thing in vars(module).items() if thing is np]
            places += [Place(partial(vars(module).__setitem__, key), np) for key in names]
    return places


def find_places(*functions: object) -> list[Place]:
    """Return the places that functions can reach at which an array of floats stands, or something with a stand-in."""
    places: dict[tuple[int, Any], Place] = {}
    for node in walk(map(Node, functions), all_ways, plain_arrays=False, longest=LONGEST, most=MOST):
        for where, place in _places_in(node.thing, _is_replaced):
            places.setdefault(where, place)
    return [*_own_places(), *places.values()]


def _places_in(owner: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[tuple[int, Any], Place]]:
    """Yield the places in an object at which a wanted thing stands, each with what tells it from others."""
    for way in all_ways(type(owner)) or ():
        for part in way(owner):
            _, _, home = part
            for key, item in pairs_of(part, LONGEST):
                put = placing(owner, key, home) if wanted(item) else None
                if put is not None:
                    yield (id(owner if home is None else home), key), Place(put, item)
    if isinstance(owner, FunctionType) and wanted(owner.__defaults__):
        yield (id(owner), "__defaults__"), Place(partial(setattr, owner, "__defaults__"), owner.__defaults__)
    if isinstance(owner, FunctionType) and owner.__kwdefaults__:
        yield from _places_in(owner.__kwdefaults__, wanted)
    if isinstance(owner, CellType):
        yield (id(owner), ""), Place(partial(setattr, owner, "cell_contents"), owner.cell_contents)


def _is_replaced(thing: Any) -> bool:
    kind = type(thing)
    if kind is np.ndarray:
        return bool(thing.dtype.kind == "f")
    if kind is tuple:
        return len(thing) <= MOST_IN_TUPLE and any(map(_is_replaced, thing))
    return kind is np.vectorize or (kind in REPLACEABLE and stand_in(thing) is not thing)


class _Lender:
    """What stands in for what, in one evaluation."""

    def __init__(self, trace: Trace, places: list[Place], live: Mapping[str, Array], boxes: Mapping[str, Box]) -> None:
        self.trace = trace
        self.live = [(array, boxes[name]) for name, array in live.items()]
        self.owners = {id(place.thing): place.thing for place in places if type(place.thing) is np.ndarray}
        self.known: dict[int, Any] = {}  # by the ids of what they stand in for
        for array, box in self.live:
            self.owners[id(array)], self.known[id(array)], box.original = array, box, array

    def new(self, thing: Any) -> Any:
        """Return what stands in for a thing."""
        if id(thing) not in self.known:
            found: Any
            if type(thing) is tuple:
                found = tuple(self.new(item) if _is_replaced(item) else item for item in thing)
            elif type(thing) is np.vectorize:
                found = _vectorized(thing)
            elif type(thing) is np.ndarray:
                found = self._box(thing)
                found.original = thing
            else:
                found = stand_in(thing)
            self.known[id(thing)] = found
        return self.known[id(thing)]

    def _box(self, array: Array) -> Any:
        """Return a box for an array that is no parameter itself: it may be a view of one, or hold some."""
        if array.base is not None:
            for owner in (*(array for array, _ in self.live), self.owners.get(id(array.base))):
                positions = None if owner is None else _positions(array, owner)
                if positions is not None:
                    return shown(self.new(owner), positions)
        box = self.trace.constant(array)
        for part, inside in self.live:
            if part.base is array:
                box[np.unravel_index(np.asarray(_positions(part, array)), array.shape)] = inside
        return box


def begin(trace: Trace) -> None:
    """Begin a trace in this thread; `leave_nothing` ends it."""
    trace.locks = [TRACING] * TRACING.acquire(timeout=PATIENCE)  # in one line, so that Ctrl-C leaves none behind
    if not trace.locks:
        raise NotTraceable("another thread traces its own loss all the time", "")
    CURRENT.trace = trace


def lend(trace: Trace, places: list[Place], live: Mapping[str, Array], boxes: Mapping[str, Box]) -> None:
    """Put what stands in for something in its places; `take_back` takes it back.

    ``live`` are the user's arrays for which ``boxes`` stand in; other arrays get boxes of their own.
    """
    lender = _Lender(trace, places, live, boxes)
    for place in places:
        trace.lent.append(place)
        place.put(lender.new(place.thing))


def take_back(trace: Trace) -> None:
    """End a trace: put back what stood in the places, and forget what was recorded."""
    CURRENT.trace = trace.outer
    while trace.lent:
        place = trace.lent[-1]
        place.put(place.thing)
        trace.lent.pop()
    trace.tape.steps.clear()
    trace.converted.clear()
    trace.refusal = None


def leave_nothing(trace: Trace) -> None:
    """End a trace, and put its value wherever a box still stands: in lists that grow, or after Ctrl-C."""
    take_back(trace)
    _put_values(trace)
    while trace.locks:
        trace.locks.pop().release()


def _put_values(trace: Trace) -> None:
    things: list[Any] = trace.alive
    values = {id(box): plain(box)[()] if box.original is None else box.original for box in things}
    kept = []  # so that no other thing gets an id of theirs
    while things:
        owners, tuples = gc.get_referrers(*things), []
        kept += things
        for owner in owners:
            if isinstance(owner, tuple):
                items = [values.get(id(item), item) for item in owner]
                values[id(owner)] = getattr(owner, "_make", tuple)(items)  # a named one stays one
                tuples.append(owner)
            elif owner is not things:
                for _, place in _places_in(_class_of_variables(owner), lambda thing: id(thing) in values):
                    place.put(values[id(place.thing)])
        things = tuples


def _class_of_variables(owner: Any) -> Any:
    """Return the class whose variables a dictionary holds, which Python must be told of; anything else as it is."""
    holders = gc.get_referrers(owner) if type(owner) is dict else ()
    return next((one for one in holders if isinstance(one, type)), owner)


def _positions(array: Array, owner: Array) -> Array | None:
    """Return where in an array, counted in C order, the entries stand that another one shows; None where not all do."""
    if not np.may_share_memory(array, owner) or array.dtype != owner.dtype or not array.size:
        return None
    wanted, there = _addresses(array), _addresses(owner).reshape(-1)
    order = np.argsort(there, kind="stable")
    positions = order[np.minimum(np.searchsorted(there, wanted, sorter=order), owner.size - 1)]
    return positions if np.array_equal(there[positions], wanted) else None


def _addresses(array: Array) -> Array:
    """Return where in memory each entry stands."""
    steps = [np.arange(length) * stride for length, stride in zip(array.shape, array.strides, strict=True)]
    return array.__array_interface__["data"][0] + sum(np.ix_(*steps), np.zeros((), np.intp))  # type: ignore[no-any-return]
