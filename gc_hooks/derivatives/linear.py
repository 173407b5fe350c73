"""The Jacobian that is judged, whatever it was handed in as: products with vectors, and entries where it has them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.foreign import describe, plain_array
from gc_hooks.arrays.gradients import computed_in_float32
from gc_hooks.arrays.tree import ROOT, flatten, is_container, rebuild
from gc_hooks.errors import InvalidProblem
from gc_hooks.numerics import EPS, EPS_OF_FLOAT32
from gc_hooks.report.diagnosis import spoken

MOST_PRODUCTS = 512
"""Rows up to which a Jacobian that knows products with its transpose alone is written out, a product for each."""

Product = Callable[[Array], Array]


@dataclass(frozen=True)
class Layout:
    """The named arrays of which a flat vector is made, in their order."""

    structure: Any
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, structure: Any, arrays: dict[str, Array]) -> Layout:
        """Return the layout of named arrays, and the structure in which the user has them."""
        return cls(structure, {name: array.shape for name, array in arrays.items()})

    @property
    def size(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield the place of each array in the flat vector."""
        start = 0
        for name, shape in self.shapes.items():
            yield name, slice(start, start + math.prod(shape))
            start += math.prod(shape)

    def split(self, vector: Array) -> dict[str, Array]:
        """Return the named arrays of a flat vector."""
        return {name: vector[place].reshape(self.shapes[name]) for name, place in self.slices()}

    def build(self, vector: Array) -> Any:
        """Return the user's own structure with the entries of a flat vector."""
        return rebuild(self.structure, self.split(vector))

    def place(self, position: int) -> tuple[str, tuple[int, ...]]:
        """Return the name of the array and the index in it, of a position in the flat vector."""
        for name, place in self.slices():
            if position < place.stop:
                index = np.unravel_index(position - place.start, self.shapes[name] or (1,))
                return name, tuple(map(int, index)) if self.shapes[name] else ()
        raise IndexError(position)


class WrongShape(Exception):
    """Say what of a Jacobian has no place beside the function: a finding, and no error of the call."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A matrix, or the products that stand for one."""

    shape: tuple[int, int]
    matrix: Any = None  # an array, or a sparse matrix by rows
    forward: Product | None = None
    backward: Product | None = None

    @property
    def is_sparse(self) -> bool:
        return self.matrix is not None and not isinstance(self.matrix, np.ndarray)

    def times(self, vector: Array) -> Array:
        """Return the product with a vector."""
        if self.matrix is not None:
            return np.asarray(self.matrix @ vector)
        assert self.forward is not None
        return self.forward(vector)

    def transposed_times(self, vector: Array) -> Array:
        """Return the product of the transpose with a vector."""
        return np.asarray(self.matrix.T @ vector)

    def sizes(self, vector: Array) -> Array:
        """Return what the terms of each row's product with a vector add up to; zero where no entries are known."""
        if self.matrix is None:
            return np.zeros(self.shape[0])
        return np.asarray(abs(self.matrix) @ abs(vector))

    def row_norms(self, weights: Array) -> Array:
        """Return the norm of each row with its columns weighted: what its product with a random direction typically is.

        Zero where no entries are known.
        """
        if self.matrix is None:
            return np.zeros(self.shape[0])
        return np.asarray(np.sqrt(self._squares() @ np.square(weights)))

    def column_sizes(self) -> Array:
        """Return the root mean square of each column; NaN where no entries are known."""
        if self.matrix is None:
            return np.full(self.shape[1], math.nan)
        return np.sqrt(np.asarray(self._squares().sum(axis=0)).reshape(-1) / self.shape[0])

    def _squares(self) -> Any:
        return self.matrix.multiply(self.matrix) if self.is_sparse else np.square(self.matrix)

    def columns(self, positions: Sequence[int]) -> Array:
        """Return some columns as an array."""
        if self.matrix is not None:
            some = self.matrix[:, list(positions)]
            return np.asarray(some.toarray() if self.is_sparse else some)
        units = np.zeros((len(positions), self.shape[1]))
        units[np.arange(len(positions)), list(positions)] = 1.0
        return np.stack([self.times(unit) for unit in units], axis=1)

    def entry(self, row: int, column: int) -> float:
        """Return one entry."""
        return float(self.columns([column])[row, 0] if self.matrix is None else self.matrix[row, column])

    def precision(self) -> float:
        """Return the machine epsilon of the arithmetic in which the entries were computed, as far as they show it."""
        if self.matrix is None:
            return EPS
        numbers = self.matrix.data if self.is_sparse else self.matrix
        return max(float(np.finfo(numbers.dtype).eps), EPS_OF_FLOAT32 if computed_in_float32(numbers) else EPS)


def read_linear(given: Any, point: Any, outputs: Layout, inputs: Layout) -> Linear:
    """Return what was handed in as a Jacobian; raise `WrongShape` where it is none of this function.

    That is a matrix of all outputs by all parameters (an array, a sparse matrix, a LinearOperator), blocks in the
    structure of the parameters, of the outputs, or of outputs that hold parameters each; or ``(vjp, jvp)``.
    """
    shape = outputs.size, inputs.size
    if _is_pair(given):
        vjp, jvp = given
        return _products(vjp, jvp, point, outputs, inputs)
    if callable(getattr(given, "matvec", None)):
        return _operator(given, shape)
    given = as_rows(given, shape)
    leaves = flatten(given)
    if list(leaves) == [ROOT]:
        return Linear(shape, _block(leaves[ROOT], shape, tuple(outputs.shapes.values()), tuple(inputs.shapes.values())))
    rows = []
    for output in outputs.shapes:
        row = []
        for name in inputs.shapes:
            keys = [f"{output}.{name}", *([name] if len(outputs.shapes) == 1 else [])]
            keys += [output] if len(inputs.shapes) == 1 else []
            found = [leaves[key] for key in keys if key in leaves]
            if not found or found[0] is None:
                raise WrongShape(f"There is no block for {spoken(name)} (it has {', '.join(map(repr, leaves))}).")
            block_shape = math.prod(outputs.shapes[output]), math.prod(inputs.shapes[name])
            row.append(_block(found[0], block_shape, (outputs.shapes[output],), (inputs.shapes[name],)))
        rows.append(row)
    if any(not isinstance(block, np.ndarray) for row in rows for block in row):
        from scipy import sparse

        return Linear(shape, sparse.block_array([list(map(sparse.csr_array, row)) for row in rows], format="csr"))
    return Linear(shape, np.block(rows))


def as_rows(given: Any, shape: tuple[int, ...]) -> Any:
    """Return lists of numbers as the array of this shape that they are, and anything else as it is."""
    if isinstance(given, (list, tuple)) and np.ndim(given[0] if given else 0) < len(shape):
        try:
            array = np.array(given, dtype=np.result_type(*map(np.asarray, flatten(given).values())))
        except (TypeError, ValueError):  # rows of different lengths, or no numbers
            return given
        return array if array.shape == shape else given
    return given


def _is_pair(given: Any) -> bool:
    """Return whether this is (vjp, jvp), functions or None."""
    if not (isinstance(given, tuple) and len(given) == 2):
        return False
    return any(map(callable, given)) and all(item is None or callable(item) for item in given)


def _block(leaf: Any, shape: tuple[int, int], outputs: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    """Return a matrix of this shape, from one that has it or has the shapes of one output and one array in a row."""
    if callable(getattr(leaf, "tocsr", None)):
        if tuple(leaf.shape) != shape:
            raise WrongShape(_unlike(leaf.shape, shape))
        matrix = leaf.tocsr(copy=True)  # a function may fill the same one at each call
        return matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64)
    array = plain_array("The matrix", leaf)
    if array.dtype.kind not in "fiub":
        raise InvalidProblem(
            f"The matrix is {describe(leaf)}, not an array of real numbers. This usually means something else in its "
            "place. Try check_jacobian(function, params, jacobian), in this order."
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    accepted: list[tuple[int, ...]] = [shape]
    if len(outputs) == len(inputs) == 1:
        accepted.append((*outputs[0], *inputs[0]))
    if 1 in shape:  # a gradient, or the derivative by one number
        accepted += [(shape[0] * shape[1],)]
    if array.shape not in accepted:
        raise WrongShape(_unlike(array.shape, shape))
    return np.array(array).reshape(shape)  # a function may fill the same array at each call


def _unlike(shape: Sequence[int], expected: tuple[int, int]) -> str:
    return f"The matrix has shape {tuple(shape)}, and {expected[0]} outputs by {expected[1]} parameters are expected."


def _operator(given: Any, shape: tuple[int, int]) -> Linear:
    """Return the products of a LinearOperator; its transpose is often left out."""
    if tuple(given.shape) != shape:
        raise WrongShape(_unlike(given.shape, shape))

    def forward(vector: Array) -> Array:
        return np.asarray(given.matvec(vector), dtype=np.float64).reshape(-1)

    def backward(vector: Array) -> Array:
        return np.asarray(given.rmatvec(vector), dtype=np.float64).reshape(-1)

    try:
        backward(np.zeros(shape[0]))
    except (NotImplementedError, TypeError, AttributeError):
        return Linear(shape, forward=forward)
    return Linear(shape, forward=forward, backward=backward)


def _products(vjp: Any, jvp: Any, point: Any, outputs: Layout, inputs: Layout) -> Linear:
    """Return the products of (vjp, jvp): functions of a vector, or of the parameters and a vector."""
    shape = outputs.size, inputs.size
    forward = None if jvp is None else _product("jvp", jvp, point, inputs, outputs)
    backward = None if vjp is None else _product("vjp", vjp, point, outputs, inputs)
    if forward is None and backward is not None:
        if outputs.size > MOST_PRODUCTS:
            raise InvalidProblem(
                f"A vjp alone gives one row of a Jacobian at a time, and there are {outputs.size}. This usually means "
                "that jacobian=(vjp, None) was handed in for a large function. Try a function that returns "
                "lambda p: R @ function(p) with a few random rows R, or hand in (vjp, jvp)."
            )
        return Linear(shape, np.stack([backward(unit) for unit in np.eye(outputs.size)]))
    return Linear(shape, forward=forward, backward=backward)


def _product(what: str, function: Callable[..., Any], point: Any, takes: Layout, gives: Layout) -> Product:
    """Return a product of flat vectors, from one of the user's structures."""
    wants_params = needed_arguments(function) >= 2

    def product(vector: Array) -> Array:
        built = takes.build(vector)
        given = function(point, built) if wants_params else function(built)
        if isinstance(given, tuple) and len(given) == 1 and not isinstance(gives.structure, tuple):
            (given,) = given  # as jax.vjp returns it
        leaves = flatten(given) if is_container(type(given)) else {ROOT: given}
        if leaves.keys() == gives.shapes.keys():
            leaves = {name: leaves[name] for name in gives.shapes}
        arrays = [np.asarray(leaf, dtype=np.float64).reshape(-1) for leaf in leaves.values()]
        if [array.size for array in arrays] != [math.prod(shape) for shape in gives.shapes.values()]:
            shapes = ", ".join(str(np.shape(leaf)) for leaf in leaves.values())
            raise WrongShape(
                f"{what} gives shapes {shapes}, and {', '.join(map(str, gives.shapes.values()))} belong there."
            )
        return np.concatenate(arrays)

    return product


def needed_arguments(function: Callable[..., Any]) -> int:
    """Return how many arguments a function needs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in parameters)
