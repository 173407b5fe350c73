"""A copy of anybody's layer, each call of which begins from the same state."""

from __future__ import annotations

import copy
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.object_graph import ATTRIBUTE, CALLS, VARIABLE, Node, all_ways, changeable, walk
from gc_hooks.isolation.snapshot import preserve
from gc_hooks.layerwise.conventions import OUTPUTS, TRAINING
from gc_hooks.layerwise.places import Place, in_one_memory, inner_arrays, inner_places
from gc_hooks.report.diagnosis import listed

CLOSE = 1e-6
"""Two outputs agree up to here, relative to the larger; float32 keeps seven digits."""


class Twin:
    """A copy of a layer. Between two calls all that the first has changed is put back, draws included."""

    def __init__(self, layer: Any, passes: tuple[str, str], inputs: Array) -> None:
        self.layer = _copied(layer)
        self.passes = passes
        self.inputs = inputs
        forward, backward = (getattr(self.layer, name) for name in passes)
        beside = (*changeable(forward, backward), *[node.thing for node in find_generators(forward, backward).nodes])
        self._beside = tuple(thing for thing in beside if thing is not self.layer)
        self._extra, self._extra_of_backward = _extra(forward, "the inputs"), _extra(backward, "the upstream gradient")
        self._output: Place | None = None
        self.widen()
        with self.rewound(), explained(f"Its {passes[0]}() got inputs of shape {inputs.shape} and"):
            self.outputs: Array = np.array(self.forward())
        self.require_repeatable()
        self._empty_logs()

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """Put everything back afterwards."""
        with preserve(self.layer, *self._beside):
            yield

    def forward(self, values: Mapping[Place, Any] | None = None, inputs: Any = None) -> Any:
        """Return the layer's outputs with some values in their places; copies, as a layer may write into them."""
        copies: dict[int, Any] = {}
        for place, value in (values or {}).items():
            if place in self._in_place:
                place.read(self.layer)[...] = value
            else:  # what stands at several places stays one array
                place.write(self.layer, copies.setdefault(id(value), value.copy()))
        inputs = self.inputs if inputs is None else inputs
        outputs = getattr(self.layer, self.passes[0])(inputs.copy(), **self._extra)
        if outputs is None:
            self._output = self._output or self._place_of_outputs()
            outputs = self._output.read(self.layer)
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def backward(self, upstream: Array) -> tuple[Any, ...]:
        """Return what backward returns, after a forward: the gradient for the inputs, and those of parameters."""
        below = getattr(self.layer, self.passes[1])(upstream.copy(), **self._extra_of_backward)
        return below if isinstance(below, tuple) else (below,)

    def responds(self, values: Mapping[Place, Any]) -> bool:
        """Return whether the outputs change when these values stand in their places: here, or at other inputs.

        With inputs of zeros no weight matters.
        """
        if self._outcome(values, self.inputs) != self.outputs.tobytes():
            return True
        if self.inputs.dtype.kind != "f":
            return False
        inputs = self.inputs + np.random.default_rng(0).standard_normal(self.inputs.shape)
        return self._outcome(values, inputs) != self._outcome({}, inputs)

    def _outcome(self, values: Mapping[Place, Any], inputs: Array) -> object:
        """Return the bits of the outputs, or the class of what is raised."""
        with self.rewound():
            try:
                return np.asarray(self.forward(values, inputs)).tobytes()
            except Exception as error:
                return type(error)

    def build(self) -> None:
        """Leave what the first forward makes."""
        with preserve(*self._beside):
            self.forward()
        self.widen()
        with self.rewound():
            self.outputs = np.array(self.forward())
        self._empty_logs()

    def _empty_logs(self) -> None:
        """Empty the lists that every forward adds to, unless the outputs depend on what is in them."""
        lists = [(place, len(thing)) for place, thing in inner_places(self.layer) if isinstance(thing, list) and thing]
        grown: list[Place] = []
        with self.rewound(), suppress(Exception):
            self.forward()
            grown = [place for place, length in lists if len(place.read(self.layer)) > length]
        for place in grown:
            log = place.read(self.layer)
            kept = list(log)
            log.clear()
            if self._outcome({}, self.inputs) != self.outputs.tobytes():
                log += kept

    def widen(self) -> None:
        """Give arrays of a lower precision that of float64, so that the code is judged and not its rounding."""
        wide: dict[int, Array] = {}
        shared = {id(array) for _, arrays in in_one_memory(self.layer) for array in arrays}
        self._in_place: set[Place] = set()
        for place, array in inner_arrays(self.layer):
            # Another array shows the same memory, or the class has arithmetic of its own.
            if id(array) in shared or type(array) is not np.ndarray:
                self._in_place.add(place)
            elif array.dtype.kind == "f" and array.dtype.itemsize < 8:
                place.write(self.layer, wide.setdefault(id(array), array.astype(np.float64)))

    @property
    def carries(self) -> bool:
        """Return whether a second call gives other outputs where nothing is put back."""
        with self.rewound(), suppress(Exception):  # some want a backward pass between two of them
            self.forward()
            return self.outputs.tobytes() != np.asarray(self.forward()).tobytes()
        return False

    def require_repeatable(self) -> None:
        """Raise where the outputs change although everything that is known was put back."""
        if self._outcome({}, self.inputs) != self.outputs.tobytes():
            raise InvalidProblem(
                f"Its {self.passes[0]}() gave two outputs for the same inputs, although its state and the random "
                "generators that it reaches were put back. This usually means a generator of another kind, a clock or "
                "an iterator. Try a np.random.default_rng(seed) as an attribute of the layer."
            )

    @property
    def batch(self) -> tuple[int, ...]:
        """Return the lengths of the axes along which the outputs roll with the inputs, and the product of them."""
        lengths = []
        for axis, (length, kept) in enumerate(zip(self.inputs.shape, self.outputs.shape, strict=False)):
            if 1 < length == kept:
                with self.rewound(), suppress(Exception):
                    rolled = np.asarray(self.forward(inputs=np.roll(self.inputs, 1, axis)))
                    if np.allclose(rolled, np.roll(self.outputs, 1, axis), rtol=CLOSE, atol=CLOSE):
                        lengths.append(length)
        return tuple(dict.fromkeys([*lengths, math.prod(lengths)])) if lengths else ()

    def _place_of_outputs(self) -> Place:
        for name in OUTPUTS:
            if isinstance(getattr(self.layer, name, None), np.ndarray):
                return Place().then(ATTRIBUTE, name)
        raise InvalidProblem(
            f"Its {self.passes[0]}() returned nothing, and left no array in {', '.join(OUTPUTS[:3])}. This usually "
            "means a forgotten return. Try to return the outputs."
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn any error into one that says what was called, where it was raised, and what to try."""
    try:
        yield
    except InvalidProblem:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise InvalidProblem(
            f"{what} raised {type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {error}. This "
            "usually means an input that does not fit the layer, or a layer that needs something to be set first. Try "
            "to call it alone in the same way."
        ) from error


def _copied(layer: Any) -> Any:
    """Return a deep copy, in which modules are the same; raise where there is none that stands alone."""
    same: dict[int, Any] = {id(module): module for module in list(sys.modules.values())}
    try:
        twin = copy.deepcopy(layer, same | _copied_views(layer))
    except Exception as error:
        raise InvalidProblem(
            f"It cannot be copied, and your own layer is not run: deepcopy raised {type(error).__name__}: {error}. "
            "This usually means that it holds a lock, a file or a connection. Try to give the layer a __deepcopy__ "
            "that leaves it out."
        ) from error
    if any(node.thing is layer for node in walk([Node(twin)], all_ways, enter=_is_own)):
        raise InvalidProblem(
            "A copy of it leads back to your own layer, which is not run. This usually means a lambda in an attribute "
            "that uses self. Try to make it a method."
        )
    return twin


def _copied_views(layer: Any) -> dict[int, Any]:
    """Return copies, by the ids of the originals, of arrays that share memory: the copies share theirs too."""
    copies: dict[int, Any] = {}
    for owner, arrays in in_one_memory(layer):
        memory = np.empty(owner.nbytes, np.uint8)
        memory[:] = np.frombuffer(owner.tobytes("A"), np.uint8)
        start = owner.__array_interface__["data"][0]
        for array in arrays:
            offset = array.__array_interface__["data"][0] - start
            copies[id(array)] = np.ndarray(array.shape, array.dtype, memory, offset, array.strides)
    return copies


def _is_own(node: Node) -> bool:
    """Return whether a node belongs to a layer: no class, and no variable of a module."""
    return not isinstance(node.thing, type) and not (node.step == VARIABLE and node.home is not None)


def _needed(function: Callable[..., Any]) -> list[str]:
    """Return the names of what a method cannot be called without, its first argument aside."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):  # functions written in C may have none
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _extra(function: Callable[..., Any], what: str) -> dict[str, bool]:
    """Return what a method needs beside its first argument: only whether the training runs can be told."""
    needed = _needed(function)
    unknown = [name for name in needed if not TRAINING.match(name)]
    if unknown:
        raise InvalidProblem(
            f"Its {function.__name__}() needs {listed(unknown)} beside {what}. This usually means a loss at the end of "
            "the list, a learning rate, or a cache that is handed over. Try to leave out the loss, which "
            "check_gradients checks, and to wrap another layer in a small class whose methods add what is needed."
        )
    return dict.fromkeys(needed, True)


def ask(thing: Any) -> Any:
    """Return what a method returns, or the thing itself; an iterator as a list."""
    found = thing() if isinstance(thing, CALLS) else thing
    return list(found) if isinstance(found, Iterator) else found
