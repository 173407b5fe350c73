"""One walk over objects: what a thing leads to, and by which name it is reached.

`walk` goes from some roots to items, attributes, slots, variables of functions and attributes of classes. Whoever looks
for something among a user's objects is a visitor of it: `Snapshot` copies what can change, `find_generators` looks for
random generators, `references` for the variables of a loss, and `gc_hooks.adapters.layers` for layers.
"""

from __future__ import annotations

import dis
import json
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from types import MemberDescriptorType as Slot
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.isolation.rng import is_generator, once_per_class

DATA = {"numpy", "scipy", "pandas", "sklearn"}
"""Packages whose objects are arrays, often data sets."""

HOLDERS = {"argparse", "collections", "types"}
"""Modules of Python's own whose objects do nothing but hold what they are given: Namespace, UserDict, ChainMap."""

# Memory of devices; threads, files and windows; the program that runs the training; reports, which are to stay.
OPAQUE = (set(sys.stdlib_module_names) - HOLDERS).union(
    ("torch", "jax", "jaxlib", "tensorflow", "keras", "numba", "cupy"),
    ("tensorboard", "tensorboardX", "wandb", "mlflow", "rich", "tqdm", "matplotlib", "PIL", "cv2"),
    ("IPython", "pytest", "_pytest", "lightning", "pytorch_lightning", "accelerate", "ignite"),
    ("gc_hooks.hooks.hook", "gc_hooks.hooks.recorder"),
    ("gc_hooks.adapters.pytorch.hook", "gc_hooks.adapters.pytorch.forward_recorder"),
    ("gc_hooks.tracing.box", "gc_hooks.tracing.tape", "gc_hooks.isolation.object_graph"),
)
"""Modules whose objects are not looked into: to put their attributes back would not put back what they stand for."""

KNOWN = OPAQUE | HOLDERS | DATA | {"gc_hooks"}
"""Packages whose code leads to nothing of the user's."""

MOST_ITEMS, MOST_BYTES = 1000, 2**20
"""A longer list, or a larger array, is taken for a data set: a copy at every evaluation would cost milliseconds."""

MOST_VISITS = 5000
"""Things that are visited in search of functions, which takes 5 to 10 milliseconds."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype, ModuleType)
"""What cannot change, and modules: of these only the names that a function's code uses are looked at."""

SETS_GLOBAL, SETS_CELL = {"STORE_GLOBAL", "DELETE_GLOBAL"}, {"STORE_DEREF", "DELETE_DEREF"}

CALLS = (FunctionType, MethodType, BuiltinMethodType, partial)

CONTAINERS = (OrderedDict, dict, list, tuple, set, frozenset, deque, bytearray)
"""Python's own containers, a special one before what it is a case of."""

STDLIB = str(Path(json.__file__).parents[1])
MADE_AT_RUN_TIME = 1 << 9  # the flag Py_TPFLAGS_HEAPTYPE of a class; those that Python is built with are without it

ITEM, KEY, ATTRIBUTE, VARIABLE, SAME, KEY_ITSELF = "[{}]", "[{!r}]", ".{}", "{}", "", ".keys()[{}]"
"""How a name goes on at each kind of step. A variable begins a new name; the object of a method has the method's."""


class Node(NamedTuple):
    """A thing that is met on a walk, and how it was reached."""

    thing: Any
    parent: Node | None = None
    step: str = VARIABLE
    key: Any = ""  # a position, a key or a name; a root without a name goes by that of its class
    home: dict[Any, Any] | None = None  # the dictionary in which the thing stands under the key, if there is one

    @property
    def keys(self) -> list[Any]:
        """Return the positions, keys and names on the way from the root."""
        return [*self.parent.keys, self.key] if self.parent is not None else []

    @property
    def name(self) -> str:
        """Return the way to the thing as a user would write it: ``net.layers[0].W``."""
        # Not put together during the walk, because most nodes are never named.
        steps, node, start = [], self, self
        while node.parent is not None and node.step != VARIABLE:
            if node.step != SAME:
                steps.append(node.step.format(node.key))
                start = node.parent
            node = node.parent
        return (node.key or type(start.thing).__name__) + "".join(reversed(steps))


Part = tuple[str, Iterable[Any], "dict[Any, Any] | None"]
"""What is reached in one step: the kind of step, pairs of key and thing, and the dictionary in which they stand.

The items of a sequence are things without a key: `pairs_of` numbers them.
"""

Way = Callable[[Any], list[Part]]
Ways = Callable[[type], "tuple[Way, ...] | None"]
"""How to go on from things of a class: empty where the walk ends, None for things that are not visited at all."""


def walk(
    roots: Iterable[Node],
    ways: Ways,
    *,
    enter: Callable[[Node], bool] = lambda node: True,
    plain_arrays: bool = True,
    longest: int | None = None,
    most: int | None = None,
) -> Iterator[Node]:
    """Visit everything that can be reached from some roots: the nearest first, each thing once.

    ``enter`` says which nodes are looked into, ``plain_arrays=False`` leaves out arrays that contain no objects,
    ``longest`` is the number of items of one container that are looked at, and ``most`` that of all visits.
    """
    waiting = deque(roots)
    met: dict[int, Any] = {}
    while waiting and (most is None or len(met) < most):
        node = waiting.popleft()
        thing = node.thing
        onward = ways(type(thing))
        if onward is None or id(thing) in met:
            continue
        met[id(thing)] = thing  # kept alive, so that no other object gets its id
        yield node
        if not enter(node):
            continue
        try:
            for way in onward:
                for part in way(thing):
                    step, _, home = part
                    for number, (key, item) in enumerate(pairs_of(part, longest, ways)):
                        if step == KEY and type(key) is not str and ways(type(key)) is not None:
                            waiting.append(Node(key, node, KEY_ITSELF, number))
                        if not plain_arrays and type(item) is np.ndarray and not item.dtype.hasobject:
                            continue
                        if ways(type(item)) is not None and id(item) not in met:
                            waiting.append(Node(item, node, step, key, home))
        except Exception:  # an object that raises when it is looked into leads nowhere
            continue


@once_per_class
def all_ways(kind: type) -> tuple[Way, ...] | None:
    """Return every way on from things of a class."""
    if issubclass(kind, PLAIN):
        return None
    if is_generator(kind):
        return ()
    found = [way for kinds, way in WAYS if issubclass(kind, kinds)]
    if is_open(kind):
        found.append(of_object)
    return tuple(found) if found or issubclass(kind, (bytearray, Iterator)) else None


def pairs_of(part: Part, longest: int | None = None, ways: Ways = all_ways) -> list[tuple[Any, Any]]:
    """Return the pairs of key and thing in a part, or the first of them; none for a long container of plain things."""
    step, things, _ = part
    found = list(islice(things, longest))  # a copy: another thread may change the container
    # Of a long history of numbers only the classes are looked at, which is ten times as fast; of few items it is not.
    if step in (ITEM, KEY) and len(found) > 20:
        kinds = set(map(type, chain.from_iterable(found) if step == KEY else found))
        if set(map(ways, kinds)) == {None}:
            return []
    return list(enumerate(found)) if step == ITEM else found


def of_object(thing: object) -> list[Part]:
    """Return what stands in an object's attributes and slots, and its class."""
    kind = type(thing)
    parts: list[Part] = []
    if kind.__dictoffset__:
        attributes = object.__getattribute__(thing, "__dict__")
        parts.append((ATTRIBUTE, attributes.items(), attributes))
    if slots(kind):
        parts.append((ATTRIBUTE, read_slots(thing).items(), None))
    if not is_of_library(kind):
        parts.append((VARIABLE, [(kind.__name__, kind)], None))
    return parts


def _of_class(thing: type) -> list[Part]:
    """Return what stands in a class of the user's, the functions behind its methods and properties, and its bases."""
    if is_of_library(thing):
        return []
    attributes = []
    for name, found in list(vars(thing).items()):
        if isinstance(found, property):
            found = found.fget
        elif isinstance(found, cached_property):
            found = found.func
        elif isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        attributes.append((name, found))
    kinds = [(kind.__name__, kind) for kind in (*thing.__bases__, type(thing))]
    return [(ATTRIBUTE, attributes, None), (VARIABLE, kinds, None)]


def _of_call(thing: Any) -> list[Part]:
    """Return the object and the function of a method, or the function and the arguments of a partial one."""
    if isinstance(thing, partial):
        inner = (thing.func, *thing.args, *thing.keywords.values())
    else:
        inner = (thing.__self__, getattr(thing, "__func__", None))
    return [(SAME, enumerate(inner), None)]


def _of_function(thing: FunctionType) -> list[Part]:
    """Return the variables around a function, its defaults, and those of its module that its code names."""
    own = []
    for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
        with suppress(ValueError):  # the variable has no value yet
            own.append((name, cell.cell_contents))
    for default in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
        own.append(("a default argument", default))
    parts: list[Part] = [(VARIABLE, own, None), (ATTRIBUTE, thing.__dict__.items(), thing.__dict__)]
    if is_library(thing.__module__):
        return parts
    names = _names(thing.__code__)
    parts += _of_module(thing.__globals__, names)
    # Modules that it sees as its own variables, or imports when it runs.
    package = str(thing.__globals__.get("__package__"))
    imported = [sys.modules.get(name) for name in (*names, *map(f"{package}.{{}}".format, names))]
    for inner in [*(inner for _, inner in own), *imported]:
        if isinstance(inner, ModuleType) and not is_library(inner.__name__):
            parts += _of_module(vars(inner), names)
    return parts


def _of_module(variables: dict[str, Any], names: tuple[str, ...], depth: int = 0) -> list[Part]:
    """Return what stands in a module under some names, and under the same names in the user's modules among it."""
    found: dict[str, Any] = {}
    parts: list[Part] = [(VARIABLE, found.items(), variables)]
    for name in filter(variables.__contains__, names):
        found[name] = inner = variables[name]
        # Three deep is package.module.submodule.name; modules may refer to each other without end.
        if isinstance(inner, ModuleType) and depth < 3 and not is_library(inner.__name__):
            parts += _of_module(vars(inner), names, depth + 1)
    return parts


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """Return the names that a function's code uses, also as texts, with those of the functions inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_names(constant))
        elif isinstance(constant, str):  # globals()["rng"], import_module("mine.data")
            names.add(constant)
    return tuple(sorted(names))


@lru_cache(maxsize=1024)
def _set_by(code: CodeType) -> frozenset[str]:
    """Return the variables outside a function that its code sets (``global``, ``nonlocal``)."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in SETS_GLOBAL}
    names.update(each.argval for each in dis.get_instructions(code) if each.opname in SETS_CELL)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_set_by(constant))
    return frozenset(names)


class Variables:
    """The variables outside a function that its code sets, as one thing that can be read and put back."""

    def __init__(self, function: FunctionType) -> None:
        names = _set_by(function.__code__)
        around = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._cells = {name: cell for name, cell in around if name in names}
        self._globals, self._names = function.__globals__, names - self._cells.keys()

    def __bool__(self) -> bool:
        return bool(self._cells or self._names)

    def read(self) -> dict[str, Any]:
        """Return the variables that have a value."""
        found = {name: self._globals[name] for name in self._names if name in self._globals}
        for name, cell in self._cells.items():
            with suppress(ValueError):
                found[name] = cell.cell_contents
        return found

    def write(self, values: dict[str, Any]) -> None:
        """Set the variables to what they were; one that had no value has none again."""
        now = self.read()
        for name in {**now, **values}:
            if name in values:
                if now.get(name, self) is not values[name]:
                    self._set(name, values[name])
            elif name in self._cells:
                del self._cells[name].cell_contents
            else:
                del self._globals[name]

    def _set(self, name: str, value: Any) -> None:
        if name in self._cells:
            self._cells[name].cell_contents = value
        else:
            self._globals[name] = value


class ClassVariables:
    """What stands in a class of the user's, other than methods, as one thing that can be read and put back."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def read(self) -> dict[str, Any]:
        """Return the attributes that are no methods, properties or names of Python's own."""
        found = {}
        for name, value in vars(self._kind).items():
            if not (name.startswith("__") or hasattr(type(value), "__get__")):
                found[name] = value
        return found

    def write(self, values: dict[str, Any]) -> None:
        """Set the attributes to what they were."""
        now = self.read()
        for name in now.keys() - values.keys():
            delattr(self._kind, name)
        for name, value in values.items():
            if now.get(name, self) is not value:
                setattr(self._kind, name, value)


@once_per_class
def own_container(kind: type) -> Any:
    """Return Python's own container that a class is a case of. Its methods show what is stored.

    Those of the user's class may do anything else: count epochs, shuffle, load.
    """
    return next(base for base in CONTAINERS if issubclass(kind, base))


WAYS: tuple[tuple[Any, Way], ...] = (
    ((Variables, ClassVariables), lambda thing: []),
    (FunctionType, _of_function),
    ((MethodType, BuiltinMethodType, partial), _of_call),
    (type, _of_class),
    (dict, lambda thing: [(KEY, own_container(type(thing)).items(thing), thing)]),
    ((list, tuple, set, frozenset, deque), lambda thing: [(ITEM, own_container(type(thing)).__iter__(thing), None)]),
    (
        np.ndarray,
        lambda thing: [(ITEM, np.ndarray.view(thing, np.ndarray).flat if thing.dtype.hasobject else (), None)],
    ),
)


def plain_view(array: Array) -> Array:
    """Return a view of an array without the class that a user may have given it."""
    return np.ndarray.view(array, np.ndarray)


def placing(owner: Any, key: Any, home: dict[Any, Any] | None) -> Callable[[Any], None] | None:
    """Return a function that puts something where an owner has it; None where nothing can be put."""
    if home is not None:
        return partial(home.__setitem__, key)
    if isinstance(owner, (list, deque)):
        return partial(owner.__setitem__, key)
    if isinstance(owner, FunctionType):
        cells = dict(zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True))
        return partial(setattr, cells[key], "cell_contents") if key in cells else None
    if isinstance(owner, type):
        there = vars(owner).get(key)  # not behind a property or a static method
        return partial(setattr, owner, key) if isinstance(there, np.ndarray) or is_generator(type(there)) else None
    if isinstance(key, str) and key in slots(type(owner)):
        return partial(slots(type(owner))[key].__set__, owner)
    return None


@once_per_class
def slots(kind: type) -> dict[str, Slot]:
    """Return the slots of a class and of its bases; a private one is called as Python calls it, ``_Layer__rng``."""
    found: dict[str, Slot] = {}
    for base in kind.__mro__:
        for name, slot in vars(base).items():
            if "__slots__" in vars(base) and isinstance(slot, Slot):  # classes written in C have others
                found.setdefault(name, slot)
    return found


def read_slots(thing: object) -> dict[str, Any]:
    """Return what stands in an object's slots, without those that are empty."""
    found = {}
    for name, slot in slots(type(thing)).items():
        with suppress(AttributeError):
            found[name] = slot.__get__(thing)
    return found


@lru_cache(maxsize=1024)
def is_library(module: str | None) -> bool:
    """Return whether a module is one of `KNOWN` packages, and not one of the user's with such a name (``code.py``)."""
    package = str(module).partition(".")[0]
    if package not in KNOWN or package not in sys.stdlib_module_names:
        return package in KNOWN
    file = getattr(sys.modules.get(str(module)), "__file__", None) or STDLIB
    return file.startswith(STDLIB) and "site-packages" not in file


@once_per_class
def is_of_library(kind: type) -> bool:
    """Return whether a class is of one of `KNOWN` packages, and does not only claim to be.

    A class that is made by ``exec``, in a namespace without a name, says that it is of "builtins".
    """
    module = str(kind.__module__)
    if not is_library(module) or not kind.__flags__ & MADE_AT_RUN_TIME:
        return is_library(module)
    return kind.__qualname__.partition(".")[0] in getattr(sys.modules.get(module), "__dict__", {})


@once_per_class
def is_open(kind: type) -> bool:
    """Return whether objects of a class have attributes that can be read and put back."""
    if issubclass(kind, type) or not (kind.__dictoffset__ or slots(kind)):
        return False
    module = str(kind.__module__)
    return not {module, module.partition(".")[0]} & OPAQUE or not is_of_library(kind)


def references(*functions: object) -> list[Node]:
    """Return the variables that functions see, and those that the functions among them see."""
    nodes = walk(map(Node, functions), all_ways, enter=lambda node: isinstance(node.thing, CALLS))
    return [node for node in nodes if not isinstance(node.thing, (*CALLS, type))]


def variables(*functions: object) -> list[Node]:
    """Return what can be set from inside functions, and methods, that functions can reach.

    These are variables around them and of their modules, their own attributes, and those of classes; and containers and
    arrays that they see as variables, which can be changed in place.
    """
    found = []
    for node in walk(map(Node, functions), all_ways, longest=MOST_ITEMS, most=MOST_VISITS):
        thing = node.thing
        is_variable = node.step == VARIABLE and node.parent is not None and isinstance(node.parent.thing, FunctionType)
        if is_variable and isinstance(thing, (np.ndarray, list, dict, set, deque)) and _is_state(thing):
            found.append(node)
        if not isinstance(thing, (FunctionType, type)) or is_library(thing.__module__):
            continue
        if isinstance(thing, type):
            found.append(Node(ClassVariables(thing), key=thing.__name__))
        else:
            own = thing.__dict__, Variables(thing)
            found += [Node(part, key=thing.__name__) for part in own if part]
    return found


def changeable(*functions: object) -> tuple[Any, ...]:
    """Return what functions refer to and a call may change, without data sets, which are expensive to copy."""
    return tuple(node.thing for node in changeable_nodes(*functions))


def changeable_nodes(*functions: object) -> list[Node]:
    """Return the same with the names by which it is reached."""
    return [*variables(*functions), *[node for node in references(*functions) if _is_state(node.thing)]]


def _is_state(thing: Any) -> bool:
    """Return whether a thing may be changed by a call, and is small enough to be copied for that."""
    kind = type(thing)
    if isinstance(thing, np.ndarray):
        return thing.nbytes <= MOST_BYTES
    if isinstance(thing, (list, dict, set, deque)):
        own = own_container(kind)
        stored = own.values(thing) if isinstance(thing, dict) else own.__iter__(thing)
        return own.__len__(thing) <= MOST_ITEMS or all(issubclass(one, PLAIN) for one in set(map(type, stored)))
    return is_generator(kind) or (is_open(kind) and str(kind.__module__).partition(".")[0] not in DATA)
