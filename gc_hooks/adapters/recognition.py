"""Find the parameters in a user's objects, and the gradients beside them, by what people call them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import chain, compress
from numbers import Real
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.adapters.aliasing import ABSENT, Naming, Pair, key_of, pairs_by_name, place
from gc_hooks.adapters.attachment import ask, shown, swapped
from gc_hooks.adapters.forward import ForwardPass, Place, is_container, is_floats, look_into, members
from gc_hooks.arrays.tree import flatten
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.object_graph import ATTRIBUTE, Node, all_ways, walk
from gc_hooks.isolation.rng import once_per_class
from gc_hooks.layerwise import conventions
from gc_hooks.report.diagnosis import agree, listed

LISTS = ("params", "parameters")
"""What layers call the container of their parameters."""

LISTS_OF_GRADIENTS = ("grads", "gradients", "param_grads", "params_grads", "parameter_grads")
"""What they call that of the gradients, beside the usual renamings."""

DATA = ("data", "value", "values", "val")
"""What objects that stand for one array call it, beside ``grad``."""

LIKE_A_PARAMETER = re.compile(r"[WU]\w*|[wbuvV]_?\w?|(weight|bias|gamma|beta|kernel|theta)\w*")
LIKE_A_GRADIENT = re.compile(r"d\w*|g[A-Z]\w*|\w*(grad|nabla|delta)\w*", re.IGNORECASE)
"""Attributes that may be one or the other, where no rule pairs them: enough for a doubt, and not for a verdict."""

LIKE_TARGETS = re.compile(r"[yt]|(y_?true|target|label|truth)s?", re.IGNORECASE)
"""Attributes that hold data: ``dy`` is the gradient for what is predicted, and not for ``y``."""

Chosen = Callable[[str], bool] | Sequence[str] | str | None


class Found(NamedTuple):
    """A parameter and its gradient, or ``ABSENT`` for one of them, and the object in which they were found."""

    name: str
    param: Any
    grad: Any
    owner: Node
    has_place: bool  # whether the object has an attribute for the gradient at all
    is_sure: bool = True  # False for two lists of different lengths, paired by position
    is_listed: bool = True  # False for an attribute with its gradient beside it


class Cells:
    """Arrays without axes that stand for numbers in objects, which cannot be changed in place."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str], tuple[Any, str, Array]] = {}

    def cell(self, owner: Any, name: str) -> Array:
        """Return the array for a number, with its value of now."""
        array = self._cells.setdefault((id(owner), name), (owner, name, np.array(0.0)))[2]
        array[...] = getattr(owner, name)
        return array

    def in_place(self) -> AbstractContextManager[None]:
        """Set each number to what its array holds, and put the old object back afterwards."""
        return swapped([(owner, name, array[()]) for owner, name, array in self._cells.values()])


class Layers:
    """The parameters and gradients of a model, read anew at every check, and what is left out of them."""

    def __init__(
        self,
        model: Any,
        forward: ForwardPass,
        params: str | Sequence[str],
        grads: str | Sequence[str],
        naming: Naming | None,
        only: Chosen,
        skip: Chosen,
    ) -> None:
        self._model, self._forward, self._naming = model, forward, naming
        self._params = (params,) if isinstance(params, str) else tuple(params)
        self._grads = (grads,) if isinstance(grads, str) else tuple(grads)
        self._only, self._skip = only, skip
        self.cells = Cells()
        self._statistics: list[str] = []  # what moves under a forward pass and has no gradient
        self._constants: list[str] = []  # on what the loss depends too, and may as well be no parameter
        self._old_copies: dict[tuple[int, str], tuple[Any, bool]] = {}  # with the owner, which is kept alive
        self._taken: Collection[object] = ()  # the places of parameters and gradients that belong together
        self._doubt = ""  # a sentence about what was not judged and looks like a parameter

    def pairs(self, *, after_backward: bool = False) -> list[Pair]:
        """Return parameters and gradients, each array once: in the order of the layers, the innermost first."""
        found = self._found()
        if not any(one.param is not ABSENT for one in found):
            raise InvalidProblem(f"There are no parameters: {self._nothing()}")
        if after_backward and not any(one.has_place for one in found):
            raise InvalidProblem(f"No layer has a gradient: {self._no_gradients()}")
        resolved = _by_owner(found)
        names = [pair.name for pair in resolved if pair.param is not ABSENT]
        self._refuse_unknown([*names, *self._statistics])
        kept = [pair for pair in resolved if self._is_chosen(pair.name)]
        if names and not any(pair.param is not ABSENT for pair in kept):
            raise InvalidProblem(
                f"only= and skip= leave no parameter. The names are {listed(names)}. Try only=[{names[0]!r}]."
            )
        return kept

    def unjudged(self) -> list[str]:
        """Return the names of what looks like a parameter and has no gradient beside it."""
        found = self._found()
        known = {place(leaf) for one in found for leaf in (one.param, one.grad)}
        self._taken = known
        names = {one.name.rpartition(".")[2] for one in found if one.param is not ABSENT}
        others: dict[object, Place] = {}
        for one in self._forward.places():
            is_known = not is_floats(one.value) or place(one.value) in known
            if not is_known and not self._forward.writes(one.holder.thing, one.key):
                others.setdefault(place(one.value), one)
        needed = self._forward.needs([one.value for one in others.values()])
        self._constants, unjudged = [], list[str]()
        for one, is_needed in zip(others.values(), needed, strict=True):
            if is_needed and self._is_chosen(one.name):
                doubtful = self._is_like_a_parameter(one, names, known)
                (unjudged if doubtful else self._constants).append(one.name)
        self._doubt = self._why_unjudged(unjudged) if unjudged else ""
        return unjudged

    def notes(self) -> list[str]:
        """Return what is said of the arrays that were left out."""
        notes = []
        statistics = list(filter(self._is_chosen, self._statistics))
        if statistics:
            notes.append(
                f"{listed(statistics)} {agree(statistics, 'moves', 'move')} under a forward pass and "
                f"{agree(statistics, 'has', 'have')} no gradient, like running statistics: not judged."
            )
        if self._doubt:
            notes.append(self._doubt)
        if self._constants:
            notes.append(
                f"The loss depends on {listed(self._constants)} too, and no gradient stands beside "
                f"{agree(self._constants, 'it', 'them')}: taken for data or constants, and not judged."
            )
        return notes

    def _why_unjudged(self, unjudged: Sequence[str]) -> str:
        """Return what was seen of arrays that look like parameters and have no gradient, and the line to write."""
        found = [one for one in guess(self._forward, taken=self._taken) if one.grad and one.name in unjudged]
        names, seen = "params= and grads= with both names", ""
        if found:
            names = f"params={list({one.param: 0 for one in found})}, grads={list({one.grad: 0 for one in found})}"
            seen = f" {described(found)}."
        return (
            f"The loss depends on {listed(unjudged)}, and no gradient was found for {agree(unjudged, 'it', 'them')}."
            f"{seen} This usually means that backward was not run yet, or keeps none, or under another name. Try "
            f"{names}; for constants skip={list(unjudged)}."
        )

    def _is_like_a_parameter(self, one: Place, names: Collection[str], known: Collection[object]) -> bool:
        """Return whether an array is called like one, or stands beside what may be its gradient, and no other's."""
        owner, attribute = one.owner
        last = str(one.key) if isinstance(one.key, str) else attribute
        if LIKE_TARGETS.fullmatch(last):
            return False
        if last in names or LIKE_A_PARAMETER.fullmatch(last):
            return True
        beside = members(owner.thing).items() if owner is not None else ()
        partner = None if owner is None else gradient_name(owner.thing, attribute)
        if owner is not None and partner is not None and place(getattr(owner.thing, partner, None)) not in known:
            return True
        for name, value in beside:
            is_other = name != attribute and LIKE_A_GRADIENT.fullmatch(str(name))
            if is_other and np.shape(value) == np.shape(one.value) and place(value) not in known:
                return isinstance(value, np.ndarray)
        return False

    def _is_chosen(self, name: str) -> bool:
        return (self._only is None or _matches(name, self._only)) and not (self._skip and _matches(name, self._skip))

    def _refuse_unknown(self, names: Sequence[str]) -> None:
        for keyword, chosen in (("only", self._only), ("skip", self._skip)):
            wanted = () if chosen is None or callable(chosen) else (chosen,) if isinstance(chosen, str) else chosen
            for one in wanted:
                others = (place.name for place in self._forward.places())
                if not any(_matches(name, one) for name in chain(names, others)):
                    near = min(names, key=lambda name: -SequenceMatcher(None, name, one).ratio())
                    raise InvalidProblem(
                        f"{keyword}= has {one!r}, and nothing is called so. The parameters are {listed(names)}. Try "
                        f"{keyword}=[{near!r}]."
                    )

    def _nothing(self) -> str:
        """Return what was seen in a model without parameters, and the line to write."""
        names = " or ".join(map(repr, self._params))
        seen = f"nothing in {shown(self._model)} has {names}, or arrays beside their gradients (W and dW)."
        for node in walk([Node(self._model)], all_ways, enter=look_into):
            if {"data", "grad"} <= members(node.thing).keys() and not is_container(node.thing):
                return (
                    f"{seen} {type(node.thing).__name__} has data and grad. This usually means a scalar engine. Try "
                    "adapters.scalars(net.parameters, loss=...), with a function that returns these objects."
                )
        guesses = guess(self._forward)
        paired = {one.param: one.grad for one in guesses if one.grad}
        if paired:
            return (
                f"{seen} {described(guesses)}. This usually means names of one's own. Try adapters.layers(..., "
                f"params={list(paired)}, grads={list(paired.values())})."
            )
        if guesses:
            return (
                f"{seen} {described(guesses)}. This usually means that backward was not run yet, or that it keeps the "
                "gradients elsewhere. Try to run it once before the check, or params= and grads= with their names."
            )
        return (
            f"{seen} This usually means that the layers call them otherwise, or were not built yet. Try params= and "
            "grads= with their names, or the list of the layers."
        )

    def _no_gradients(self) -> str:
        """Return what was seen in a model that lists parameters without gradients, and the line to write."""
        guesses = guess(self._forward, self._params[0])
        named = " or ".join(map(repr, self._grads))
        if any(one.grad for one in guesses):
            grad = next(one.grad for one in guesses if one.grad)
            return (
                f"nothing has {named}. {described(guesses)}. This usually means another name. Try "
                f"adapters.layers(..., params={self._params[0]!r}, grads={grad!r})."
            )
        return (
            f"nothing has {named}. This usually means that backward was not run yet, or that it keeps the gradients "
            "elsewhere. Try to run it once before the check, or grads= with their name."
        )

    def _found(self) -> list[Found]:
        """Return what there is in an object and in all that it contains, the innermost first."""
        self._statistics = []
        reserved = {*self._params, *self._grads, *LISTS, *LISTS_OF_GRADIENTS}

        def is_part(node: Node) -> bool:
            return node.step != ATTRIBUTE or node.key not in reserved

        def enter(node: Node) -> bool:
            return is_part(node) and look_into(node)

        nodes = list(walk([Node(self._model)], all_ways, enter=enter))
        inside: defaultdict[int, list[Found]] = defaultdict(list)  # what is in a node, by its id
        for node in reversed(nodes):  # in this order a thing comes after all that it contains
            found = inside.pop(id(node), [])
            if is_part(node) and not isinstance(node.thing, type):
                listed_here = [] if is_container(node.thing) else list(self._lists(node))
                twins = list(self._twins(node, listed_here, reserved))
                names = [one.name.rpartition(".")[2] for one in twins]
                found += [*listed_here, *[one for one in twins if not self._is_old_copy(one, names)]]
            inside[id(node.parent)][:0] = found
        return inside[id(None)]

    def _is_old_copy(self, one: Found, names: Sequence[str]) -> bool:
        """Return whether an attribute is kept from an earlier step: ``W_prev`` beside ``W``, which the loss reads."""
        name, thing = one.name.rpartition(".")[2], one.owner.thing
        if not isinstance(one.param, np.ndarray) or not any(
            name != other and name.startswith(other) for other in names
        ):
            return False
        if (id(thing), name) not in self._old_copies:
            self._old_copies[id(thing), name] = thing, not self._forward.needs([one.param])[0]
        return self._old_copies[id(thing), name][1]

    def _lists(self, node: Node) -> Iterator[Found]:
        """Yield what an object lists as its parameters, such as ``params`` beside ``grads``."""
        thing, path = node.thing, "".join(map("{}.".format, node.keys))
        keys: dict[str, str | None] = {}
        for position, name in enumerate(self._params):
            if hasattr(thing, name):
                given = self._grads[position : position + 1] if len(self._grads) > 1 else self._grads
                keys[name] = gradient_name(thing, name, (*given, *LISTS_OF_GRADIENTS) if name in LISTS else given)
        if not any(keys.values()):  # names that were handed in come first, where the object follows them
            for name in reversed(LISTS):
                key = gradient_name(thing, name, LISTS_OF_GRADIENTS)
                if hasattr(thing, name) and (key is not None or name == LISTS[0]):
                    keys = {name: key}  # both of them are two names of one
        for name, key in keys.items():
            params, grads = ask(getattr(thing, name)), ask(getattr(thing, key)) if key else None
            if params is None or (key is None and any(map(_is_parameter_object, flatten(params).values()))):
                continue  # objects that hold their gradients themselves are met on the walk
            if isinstance(params, (np.ndarray, Real)):
                array = params if isinstance(params, np.ndarray) else self.cells.cell(thing, name)
                if isinstance(grads, Mapping):  # one dictionary for several attributes
                    grads = grads.get(key_of(name, {}, grads, self._naming), ABSENT)
                yield from self._kept(node, path, {name: array}, {} if key is None else {name: grads}, key)
            else:
                yield from self._kept(node, path if len(keys) < 2 else f"{path}{name}.", params, grads, key)

    def _kept(self, node: Node, path: str, params: Any, grads: Any, key: str | None) -> Iterator[Found]:
        """Yield the pairs of two containers, without what moves under a forward pass and has no gradient."""
        is_sure = True
        if isinstance(grads, (list, tuple)):
            arrays, leaves = flatten(params), list(flatten(grads).values())
            is_sure = len(arrays) == len(leaves)
            if leaves and not is_sure:  # what is no parameter shifts all that come after it
                moving = self._moving(arrays)
                self._statistics += [path + name for name in moving]
                params = {name: array for name, array in arrays.items() if name not in moving}
                is_sure, grads = len(params) == len(leaves), leaves
            if isinstance(params, Mapping):
                grads = dict(zip(params, grads, strict=False))
        pairs = pairs_by_name(params, grads, self._naming, path)
        moving = self._moving({pair.name: pair.param for pair in pairs if not _has_gradient(pair)})
        self._statistics += moving
        for pair in pairs:
            if pair.name not in moving:
                yield Found(*pair, node, key is not None, is_sure)

    def _moving(self, arrays: Mapping[str, Any]) -> list[str]:
        """Return the names of those that a forward pass writes, without those that it only writes anew."""
        moving = compress(arrays, self._forward.moving(list(arrays.values())))
        return [name for name in moving if not self._is_written_anew(name, arrays[name])]

    def _is_written_anew(self, name: str, array: Any) -> bool:
        """Return whether an array that a forward pass writes is a parameter: ``self.W = self.W.astype(float)``."""
        is_like = LIKE_A_PARAMETER.fullmatch(name.rpartition(".")[2])
        return is_like is not None and is_floats(array) and all(self._forward.needs([array]))

    def _twins(self, node: Node, listed_here: Sequence[Found], reserved: Collection[str]) -> Iterator[Found]:
        """Yield attributes that have their gradient beside them: arrays, numbers, or containers of arrays."""
        thing, path = node.thing, "".join(map("{}.".format, node.keys))
        known = {one.name for one in listed_here}
        buffers = {place(one.grad) for one in listed_here}
        # A layer may also be a dictionary, or a named tuple.
        shelf = SimpleNamespace(**_by_word(thing)) if is_container(thing) else thing
        for position, (name, value) in enumerate(_by_word(thing).items()):
            key = gradient_name(shelf, name)
            if key is None or name in reserved or f"{path}{name}" in known:
                continue
            grad = getattr(shelf, key)
            if name in DATA and _is_parameter_object(thing):
                if not self._forward.writes(thing, name):
                    yield Found(path[:-1] or name, value, grad, node, True, is_listed=False)
                continue
            if callable(grad) or (grad is not None and place(grad) in buffers):
                continue
            if _may_be_twins(name, value, grad):
                written = self._forward.writes(thing, position if isinstance(thing, tuple) else name)
                if written and not self._is_written_anew(name, value):
                    continue
                if isinstance(value, np.ndarray):
                    yield Found(f"{path}{name}", value, grad, node, True, is_listed=False)
                elif shelf is thing:  # a number in an object; one in a container is beyond reach
                    yield Found(f"{path}{name}", self.cells.cell(thing, name), grad, node, True, is_listed=False)
            elif is_container(value):
                leaves = flatten({name: value})
                if leaves and all(map(is_floats, leaves.values())) and not self._moving(leaves):
                    for pair in pairs_by_name(value, grad, None, f"{path}{name}."):
                        yield Found(*pair, node, True, is_listed=False)


def _by_word(thing: Any) -> dict[str, Any]:
    """Return what stands in a thing under a name: attributes, fields, and keys that are words."""
    if isinstance(thing, tuple):
        return thing._asdict() if hasattr(thing, "_asdict") else {}
    return {name: value for name, value in members(thing).items() if isinstance(name, str)}


def twins_in(thing: Any) -> Iterator[tuple[str, str]]:
    """Yield the attributes of an object that may be a parameter, each with the name of its gradient."""
    for name, value in members(thing).items():
        key = gradient_name(thing, str(name))
        if key is not None and _may_be_twins(str(name), value, getattr(thing, key)):
            yield str(name), key


def _may_be_twins(name: str, value: Any, grad: Any) -> bool:
    """Return whether a value may be a parameter with that gradient; ``dx`` is also the spacing of a grid."""
    if LIKE_TARGETS.fullmatch(name):
        return False
    if is_floats(value):
        fits = grad is None or (isinstance(grad, (np.ndarray, np.generic, float)) and np.size(grad) == value.size)
        return fits or LIKE_A_PARAMETER.fullmatch(name) is not None  # a gradient of a wrong shape is a finding
    is_number = isinstance(value, (float, np.floating)) and (grad is None or np.size(grad) == 1)
    return is_number and LIKE_A_PARAMETER.fullmatch(name) is not None


def gradient_name(thing: Any, name: str, given: Iterable[str] = ()) -> str | None:
    """Return which attribute of an object holds the gradient of another: a given one, or one that people call so."""
    for key in given:
        if hasattr(thing, key):
            return key
    found = _partners((*_by_word(thing), *_class_names(type(thing)))).get(name)
    return found if found is not None and hasattr(thing, found) else None  # a property may not be there yet


@lru_cache(maxsize=1024)
def _partners(names: tuple[str, ...]) -> dict[str, str]:
    """Return the gradient's name for each of some names that has one; no gradient belongs to two of them."""
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        key = conventions.gradient_name(name, [other for other in names if other != name])
        if key is not None and (key not in owners or (name in key and owners[key] not in key)):
            found.pop(owners.get(key, ""), None)
            found[name], owners[key] = key, name
    return found


@once_per_class
def _class_names(kind: type) -> tuple[str, ...]:
    """Return the public names in a class: a gradient may be a property."""
    return tuple(name for name in dir(kind) if not name.startswith("_"))


def _is_parameter_object(thing: Any) -> bool:
    """Return whether a thing is an object with an array and its gradient, such as ``Parameter(data, grad)``."""
    if isinstance(thing, (np.ndarray, np.generic)) or not hasattr(thing, "grad"):
        return False
    return any(is_floats(getattr(thing, name, None)) for name in DATA)


def _by_owner(found: Iterable[Found]) -> list[Pair]:
    """Return pairs, where the gradients of one array are those that the outermost object lists for it.

    A block may list the parameters of its parts again. The optimiser then uses the block's gradients, and the parts'
    are steps on the way to them. The name is the one that says most, and the shortest of these.
    """
    groups: dict[object, list[Found]] = {}
    for one in found:
        groups.setdefault(place(one.param) if one.param is not ABSENT else id(one), []).append(one)
    pairs = []
    for group in groups.values():
        given = [one for one in group if _has_gradient(one) and one.is_sure] or list(filter(_has_gradient, group))
        kept = list[Found]()
        for one in given:
            around = list(_owners(one.owner))[1:]
            is_within = any(id(other.owner) in around for other in given)
            is_listed_too = any(other.owner is one.owner and other.is_listed > one.is_listed for other in given)
            if not is_within and not is_listed_too:
                kept.append(one)
        kept = kept or group[:1]
        others = {id(one): one for one in group}
        for one in kept[1:]:
            del others[id(one)]
        name = min(others.values(), key=_length).name
        pairs.append(Pair(name, kept[0].param, kept[0].grad))
        pairs += [Pair(one.name, one.param, one.grad) for one in kept[1:]]
    return pairs


def _length(one: Found) -> tuple[bool, bool, int]:
    """Return what is smaller for a better name: with a gradient beside it, a word and no position, and short."""
    return not one.has_place, one.name.rpartition(".")[2].isdigit(), one.name.count(".")


def _has_gradient(one: Pair | Found) -> bool:
    return one.param is ABSENT or not (one.grad is ABSENT or one.grad is None)


def _owners(node: Node | None) -> Iterator[int]:
    """Yield the ids of a node and of all that lie around it."""
    while node is not None:
        yield id(node)
        node = node.parent


def _matches(name: str, chosen: Chosen) -> bool:
    """Return whether a name is chosen: by a function, by itself, by its last part, or by that of its layer."""
    if callable(chosen):
        return bool(chosen(name))
    wanted = (chosen,) if isinstance(chosen, str) else chosen or ()
    return any(f".{one}." in f".{name}." for one in wanted)


class Guess(NamedTuple):
    """An attribute on which the loss depends, and one that may hold its gradient."""

    name: str  # of the parameter, or of the first array in it
    kind: str  # the class of the object
    param: str  # the attribute
    grad: str | None


def guess(forward: ForwardPass, param: str | None = None, taken: Collection[object] = ()) -> list[Guess]:
    """Return which attributes of a model's objects may be parameters, or those of one name, and their gradients.

    A parameter is something on which the loss depends and that a forward pass leaves alone. A gradient has the same
    shapes, and the loss does not depend on it; it is none of those at the places that are ``taken``.
    """
    objects: dict[int, tuple[Any, dict[str, list[Place]]]] = {}
    found = []
    for one in forward.places():
        owner, attribute = one.owner
        if owner is not None and is_floats(one.value) and not forward.writes(one.holder.thing, one.key):
            objects.setdefault(id(owner.thing), (owner.thing, {}))[1].setdefault(attribute, []).append(one)
            found.append(one)
    needed = set(compress((one.id for one in found), forward.needs([one.value for one in found])))
    guesses = []
    for thing, attributes in objects.values():
        idle, wanted = dict[str, list[Any]](), dict[str, list[Any]]()
        for attribute, places in attributes.items():
            is_wanted = any(one.id in needed for one in places)
            if is_wanted or not any(place(one.value) in taken for one in places):
                (wanted if is_wanted else idle)[attribute] = [np.shape(one.value) for one in places]
        if param is not None:
            arrays = flatten(ask(getattr(thing, param, {})))
            wanted = {param: list(map(np.shape, arrays.values()))} if arrays else {}
        for attribute, shapes in wanted.items():
            alike = [other for other in idle if idle[other] == shapes]
            likely = [other for other in alike if attribute in other or LIKE_A_GRADIENT.fullmatch(other)]
            name = attributes[attribute][0].name if attribute in attributes else attribute
            grad = next(iter(likely or alike), None) if likely or len(alike) == 1 else None
            guesses.append(Guess(name, type(thing).__name__, attribute, grad))
    return guesses


def described(guesses: Iterable[Guess]) -> str:
    """Return what the objects have: "Dense has W beside slope_W and b beside slope_b"."""
    seen: dict[str, list[str]] = {}
    for one in guesses:
        seen.setdefault(one.kind, []).append(f"{one.param} beside {one.grad}" if one.grad else one.param)
    return "; ".join(f"{kind} has {listed(dict.fromkeys(names))}" for kind, names in seen.items())
