"""What a function leads to: the variables that its code names, what these hold, and the random generators among it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import islice
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gc_hooks.isolation.evaluation import Evaluation
from gc_hooks.isolation.rng import draws, random_state, set_random_state
from gc_hooks.isolation.snapshot import PLAIN, opens

T = TypeVar("T")
LONG, MOST, MEGABYTE = 1000, 5000, 2**20
"""So many items of one container, and so many objects in all, are looked at for generators; larger arrays are data."""
LIBRARIES = {"numpy", "scipy", "pandas", "sklearn", "torch", "jax", "jaxlib", "tensorflow", "keras", "numba", "cupy"}
LIBRARIES |= {"matplotlib", "PIL", "cv2", "tensorboard", "tensorboardX", "rich", "tqdm", "IPython", "pytest", "_pytest"}
"""Their functions and classes lead to nothing of the user's."""


class Held(NamedTuple):
    """A thing by its name, and the dictionary and key under which it stands, if it stands in one."""

    name: str
    thing: Any
    home: dict[Any, Any] | None = None
    key: Any = None


class Reached(NamedTuple):
    """The random generators that some functions can reach, and what is to be said of the search."""

    generators: tuple[Held, ...]
    notes: tuple[str, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether all of them are known to stand where they were found."""
        return all(held.home is not None and held.home.get(held.key) is held.thing for held in self.generators)


@contextmanager
def generators_kept(*functions: Any) -> Iterator[tuple[str, ...]]:
    """Put back the states of all random generators that some functions can reach; the global ones are another matter.

    Reached are NumPy's (old and new), Python's and torch's generators in the variables, defaults and arguments that the
    functions have, in attributes, containers and methods of what stands there, and so on. Of a container longer than a
    thousand items the first thousand are looked at. One that was replaced by another is put back where it stood. It
    costs a walk over objects, and copies no arrays.

    Yields
    ------
    tuple of str
        What could not be put back, in words.
    """
    with states_kept(generators_reached(*functions)) as notes:
        yield notes


@contextmanager
def states_kept(reached: Reached) -> Iterator[tuple[str, ...]]:
    """The same for generators that have been found already."""
    kept, lost = _states(reached)
    try:
        yield (*lost, *reached.notes)
    finally:
        for held, state in kept:
            set_random_state(held.thing, state)
            if held.home is not None and held.home.get(held.key) is not held.thing:
                held.home[held.key] = held.thing


def generators_reached(*functions: Any) -> Reached:
    """All of them, by a walk over objects."""
    looked = list(_reached(functions))
    generators = tuple(held for held in looked if draws(type(held.thing)))
    if len(looked) < MOST:
        return Reached(generators)
    note = (
        f"More than {MOST:,} objects can be reached from the loss and the gradient: random generators beyond them "
        "were not put back. Try functions that refer to less, or before_loss=."
    )
    return Reached(generators, (note,))


def _states(reached: Reached) -> tuple[list[tuple[Held, Any]], tuple[str, ...]]:
    kept, lost = [], []
    for held in reached.generators:
        try:
            kept.append((held, random_state(held.thing)))
        except Exception:  # a class of the user's own that does not say
            lost.append(f"{held.name} ({type(held.thing).__name__})")
    if not lost:
        return kept, ()
    note = (
        f"The random generator {', '.join(lost)} does not give its state, so that it could not be put back. This "
        "usually means a class that has none to give. Try a np.random.default_rng(seed)."
    )
    return kept, (note,)


def _reached(functions: tuple[Any, ...]) -> Iterator[Held]:
    """All that can be reached and leads on, or is a generator: the nearest first, each thing once."""
    waiting = deque(Held("", function) for function in functions)
    met: set[int] = set()
    while waiting and len(met) < MOST:
        held = waiting.popleft()
        if id(held.thing) in met:
            continue
        met.add(id(held.thing))
        yield held
        try:
            way = _way(type(held.thing))
            waiting.extend(way(held) if way is not None else ())
        except Exception:  # an object that does not want to be looked at
            continue


def _once_a_class(function: Callable[[Any], T]) -> Callable[[Any], T]:
    return lru_cache(maxsize=1024)(function)


Way = Callable[[Held], "Iterable[Held]"]


@_once_a_class
def _way(kind: Any) -> Way | None:
    """How to go on from things of one class, if that leads anywhere."""
    if draws(kind):
        return _no_further
    for kinds, way in WAYS:
        if issubclass(kind, kinds):
            return way
    plain = issubclass(kind, PLAIN) or is_library(kind.__module__) or not opens(kind)
    return None if plain and kind is not SimpleNamespace else _of_object


def _no_further(held: Held) -> Iterable[Held]:
    return ()


def _of_function(held: Held) -> Iterable[Held]:
    return variables(held.thing)


def _of_method(held: Held) -> Iterable[Held]:
    return [Held(held.name, held.thing.__self__), Held("", getattr(held.thing, "__func__", None))]


def _of_partial(held: Held) -> Iterable[Held]:
    call = held.thing
    return [Held(held.name, inner) for inner in (call.func, *call.args, *call.keywords.values())]


def _of_dict(held: Held) -> Iterable[Held]:
    return _items(held.name, "[{!r}]", islice(list(held.thing.items()), LONG), held.thing)


def _of_collection(held: Held) -> Iterable[Held]:
    if not any(map(_way, set(map(type, held.thing)))):  # a long history of numbers
        return ()
    return _items(held.name, "[{}]", enumerate(islice(list(held.thing), LONG)))


def _of_object(held: Held) -> Iterable[Held]:
    kind, attributes = type(held.thing), getattr(held.thing, "__dict__", {})
    found = _items(held.name, ".{}", list(attributes.items()), attributes)
    if slots := _slots(kind):
        found += _items(held.name, ".{}", [(name, getattr(held.thing, name, None)) for name in slots])
    return found + [Held(own.__name__, own) for own in _own_kinds(kind)]


def _of_class(held: Held) -> Iterable[Held]:
    """The attributes of a class, and the functions behind its methods and properties."""
    found = vars(held.thing).items() if held.thing in _own_kinds(held.thing) else ()
    inner = ((key, t.fget if isinstance(t, property) else getattr(t, "__func__", t)) for key, t in list(found))
    return _items(held.name, ".{}", inner)


def _items(name: str, step: str, items: Iterable[tuple[Any, Any]], home: dict[Any, Any] | None = None) -> list[Held]:
    """Those that lead on, by their names."""
    return [Held((name + step.format(k)).lstrip("."), t, home, k) for k, t in items if _way(type(t))]


WAYS: tuple[tuple[Any, Way], ...] = (
    (FunctionType, _of_function),
    (type, _of_class),
    ((MethodType, BuiltinMethodType), _of_method),
    (partial, _of_partial),
    (dict, _of_dict),
    ((list, tuple, set, frozenset, deque), _of_collection),
)


@_once_a_class
def _slots(kind: Any) -> tuple[str, ...]:
    named = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    return tuple(slot for names in named for slot in ((names,) if isinstance(names, str) else names))


@_once_a_class
def _own_kinds(kind: Any) -> tuple[type, ...]:
    """A class and those that it inherits from, as far as they are the user's."""
    return tuple(k for k in kind.__mro__ if not (_is_ours(k.__module__) or is_library(k.__module__)))


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "gc_hooks"


def is_library(module: str | None) -> bool:
    """Whether it is of Python's or of a known library, and not of the user's."""
    package = (module or "").partition(".")[0]
    return package in LIBRARIES or (package in sys.stdlib_module_names and package != "__main__")


# --- what a function refers to ----------------------------------------------------------------------------------------


def referred(function: Any) -> Iterator[tuple[str, Any]]:
    """The variables that a function sees, and those that the functions among them see, by their names."""
    waiting, met = [("", function)], set()
    while waiting:
        name, thing = waiting.pop()
        if id(thing) in met:
            continue
        met.add(id(thing))
        if isinstance(thing, FunctionType):
            waiting.extend((inner, value) for inner, value, *_ in variables(thing))
        elif isinstance(thing, Evaluation):
            waiting.append((name, thing.source))
        elif isinstance(thing, MethodType):
            waiting.append((name, thing.__self__))
        elif isinstance(thing, partial):
            waiting.extend((name, inner) for inner in (thing.func, *thing.args, *thing.keywords.values()))
        elif not isinstance(thing, (ModuleType, type)):
            yield name or type(thing).__name__, thing


def changeable(*functions: Any) -> tuple[Any, ...]:
    """What functions refer to and a call may well change, as far as it is no data set: that would be dear to copy."""
    return tuple(thing for function in functions for _, thing in referred(function) if _is_changeable(thing))


def _is_changeable(thing: Any) -> bool:
    if isinstance(thing, np.ndarray):
        return thing.nbytes <= MEGABYTE
    if isinstance(thing, (list, dict, set, deque)):
        values = thing.values() if isinstance(thing, dict) else thing
        return len(thing) <= LONG or all(issubclass(kind, PLAIN) for kind in set(map(type, values)))
    return _way(type(thing)) is _of_object or draws(type(thing))


def variables(function: FunctionType) -> list[Held]:
    """The variables that a function sees: those around it, those of its module that its code names, its defaults."""
    if is_library(function.__module__):
        return []
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = [Held(name, cell.cell_contents) for name, cell in cells if _is_filled(cell)]
    if not _is_ours(function.__module__):
        names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
        found += _named(function.__globals__, names)
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return found + [Held("a default argument", default) for default in defaults]


def _named(module: dict[str, Any], names: list[str], depth: int = 0) -> Iterator[Held]:
    """What stands in a module under some names; of modules of the user's among it, what stands there under them."""
    for name in filter(module.__contains__, names):
        thing = module[name]
        if not isinstance(thing, ModuleType):
            yield Held(name, thing, module, name)
        elif depth < 3 and not is_library(thing.__name__):
            yield from _named(vars(thing), names, depth + 1)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
