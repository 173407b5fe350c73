"""What NumPy's functions do to boxes.

Flat functions have slope zero, and return plain arrays. Functions that only move entries move gradients back the same
way, and views also show what is written into their array later. Compositions are written out in terms of others. All
else has a derivative in autograd; what has none is refused, and the loss is measured.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.tracing.box import Box, NotTraceable, Trace, isinstance_box, notice_ties, plain, plain_key, reduced
from gc_hooks.tracing.tape import Step, Tape

IGNORED = ("dtype", "casting", "subok", "kind", "like", "optimize", "signature", "initial")
"""Keywords that do not change a derivative: how a value is stored or computed."""

REDUCTIONS: dict[Any, Any] = {np.add: np.sum, np.multiply: np.prod, np.maximum: np.max, np.minimum: np.min}


def _numpys(names: str) -> set[Any]:
    """Return NumPy's functions of some names."""
    return set(attrgetter(*names.split())(np))


COMPARISONS = _numpys("greater greater_equal less less_equal equal not_equal heaviside")

LARGER = _numpys("maximum minimum fmax fmin")
"""Functions that compare two numbers, and those of them that return the larger or the smaller one."""

AT_ZERO = _numpys("absolute fabs sign")
"""Functions with a kink where their argument is zero."""

FLAT = COMPARISONS | _numpys("""
    floor ceil rint trunc round around fix sign floor_divide signbit logical_and logical_or logical_not logical_xor
    all any isfinite isinf isnan isneginf isposinf isclose allclose array_equal argmax argmin argsort argpartition
    argwhere nonzero flatnonzero count_nonzero searchsorted digitize unique histogram lexsort nanargmax nanargmin
    ndim shape size iscomplexobj iscomplex isreal isrealobj result_type can_cast min_scalar_type may_share_memory
    shares_memory array_repr array_str array2string linalg.matrix_rank isscalar ix_ broadcast_shapes common_type
""")
"""Functions whose value does not change, or jumps, when their argument does a little: they return plain arrays."""

VIEWS = _numpys("""
    reshape ravel transpose swapaxes moveaxis rollaxis squeeze expand_dims broadcast_to diagonal flip fliplr flipud
    rot90 atleast_1d atleast_2d atleast_3d lib.stride_tricks.sliding_window_view
""")
"""Functions whose result is a view of their argument, or the argument itself."""

REARRANGED = _numpys("""
    take take_along_axis delete resize flip rot90 atleast_1d atleast_2d atleast_3d
    lib.stride_tricks.sliding_window_view diagonal fft.fftshift fft.ifftshift rollaxis
""")
"""Functions that only move entries: what they do to positions, they do to gradients."""

EXACT = (
    VIEWS
    | REARRANGED
    | LARGER
    | _numpys("""
    max min where pad repeat tile roll absolute fabs negative positive conjugate real imag triu tril diag
""")
)
"""Functions that round nothing."""

BLURRED_RESULTS = {np.exp, np.tanh, np.power}
BLURRED_OPERANDS = {np.multiply, np.matmul, np.dot, np.square, np.power, np.divide}
"""Functions in whose derivatives a backward pass uses the result, or the operands, as later steps have left them."""

SPLITS = _numpys("split array_split vsplit hsplit dsplit")


class Operations(Trace):
    """A trace that knows what NumPy's functions do to boxes."""

    def call_ufunc(self, ufunc: np.ufunc, method: str, inputs: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Return what a universal function does to boxes; with ``out=`` written into that box."""
        out = keywords.pop("out", None)
        out = out[0] if isinstance(out, tuple) else out
        where = keywords.get("where", True)
        if method == "at":
            return _at(ufunc, *inputs)
        if method in ("reduce", "accumulate"):
            result = _reduced(self, ufunc, method, inputs[0], keywords)
        elif method == "outer":
            first, second = inputs
            result = ufunc(np.reshape(first, np.shape(first) + (1,) * np.ndim(second)), second)
        elif method == "__call__":
            keywords.pop("where", None)
            if where is not True:
                inputs = [np.where(where, one, 1.0) for one in inputs]
            result = self.call(ufunc, tuple(inputs), keywords)
            if where is not True:
                result = np.where(where, result, 0.0 if out is None else out)
        else:
            raise NotTraceable(f"numpy.{ufunc.__name__}.{method} has no derivative here")
        return result if out is None else _written(out, result)

    def call(self, function: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Return what another function does to boxes."""
        keywords = {name: value for name, value in keywords.items() if value is not np._NoValue and name != "like"}
        if not self.is_open or function in FLAT:
            return _plain_call(self, function, args, keywords)
        out = keywords.pop("out", None)
        if out is not None:
            return _written(out[0] if isinstance(out, tuple) else out, self.call(function, args, keywords))
        where = keywords.pop("where", True)
        if where is not True:
            return _of_chosen(function, args, plain(where), keywords)
        if keywords.pop("initial", 0.0):
            raise NotTraceable(f"numpy.{_name(function)} gets a value to begin with")
        if function in COMPOSED:
            return COMPOSED[function](*args, **keywords)
        first: Any = args[0] if args else None
        if function in SPLITS:
            return _split(function, *args, **keywords)
        if function in REARRANGED and isinstance_box(first):
            result = _rearranged(function, first, args[1:], keywords)
        else:
            _notice(self, function, args)
            result = _differentiated(self, function, args, keywords)
        if function in VIEWS and isinstance_box(first) and isinstance_box(result):
            rest = tuple(map(plain_key, args[1:]))
            result.view_of(first, lambda array: function(array, *rest, **keywords))
        return result

    def cast(self, box: Box, dtype: Any) -> Any:
        """Return an array in another number format: floats stay as precise as they are, and the tape takes note."""
        if not self.is_open or dtype.kind not in "fc":
            return box.value.astype(dtype)
        if dtype.kind == "f":
            self.tape.precision = max(self.tape.precision, float(np.finfo(dtype).eps))
            if np.iscomplexobj(box.value):
                raise NotTraceable("an imaginary part is dropped by a cast")
        value = np.array(box.value) if dtype.kind == "f" else box.value.astype(np.complex128)
        is_real = not np.iscomplexobj(box.value)

        def pull(gradient: Array) -> tuple[Array]:
            return (gradient.real if is_real else gradient,)

        return self.box(value, self.tape.add((box.step,), pull, depends=box.step.depends))


def _written(out: Any, result: Any) -> Any:
    """Write a result into the array that was handed in for it."""
    if isinstance_box(out):
        out.assign(result)
    elif isinstance_box(result) and result.depends:
        raise NotTraceable("a result is written into an array that was made before")
    else:
        out[...] = plain(result)
    return out


def _notice(trace: Trace, function: Callable[..., Any], args: Sequence[Any]) -> None:
    """Notice where a function compares numbers that are equal."""
    if function in COMPARISONS or function in LARGER:
        notice_ties(trace.tape, plain(args[0]), plain(args[1]))
    if function in AT_ZERO:
        notice_ties(trace.tape, np.append(plain(args[0]), 1.0), 0.0)


def _of_chosen(function: Callable[..., Any], args: Sequence[Any], where: Any, keywords: dict[str, Any]) -> Any:
    """Return a sum or a mean over the entries that a mask chooses."""
    if function not in (np.sum, np.mean):
        raise NotTraceable(f"numpy.{_name(function)} with where= has no derivative here")
    total = np.sum(np.where(where, args[0], 0.0), *args[1:], **keywords)
    if function is np.sum:
        return total
    return total / np.sum(np.broadcast_to(where, np.shape(args[0])), *args[1:], **keywords)


def _plain_call(trace: Trace, function: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Return what a function does to the values: of finished traces, and where the slope is zero."""
    values = list(map(_plain_items, args))
    _notice(trace, function, values)
    return function(*values, **{name: _plain_items(value) for name, value in keywords.items()})


def _plain_items(thing: Any) -> Any:
    if isinstance(thing, (list, tuple)) and any(map(isinstance_box, thing)):
        return type(thing)(map(plain, thing))
    return plain(thing)


def _differentiated(trace: Trace, function: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Return a result by autograd's derivative of a function."""
    tape = trace.tape
    args = list(args)
    if not any(map(isinstance_box, args)):
        args, keywords = _first_by_position(function, args, keywords)
    numbers = [number for number, one in enumerate(args) if isinstance_box(one)]
    boxes = [args[number] for number in numbers]
    # A result is rounded once, and stays the same wherever it is used; sums round what they add up.
    is_sum = function not in EXACT and (not isinstance(function, np.ufunc) or function is np.matmul)
    values = [one.copy() if _is_counting(one) else plain(one) for one in args]
    if is_sum:
        values = [
            tape.rounded(value) if isinstance_box(one) else value for one, value in zip(args, values, strict=True)
        ]
    keywords = {name: value for name, value in keywords.items() if name not in IGNORED}
    if not boxes or any(map(isinstance_box, keywords.values())):
        raise NotTraceable(f"numpy.{_name(function)} gets arrays in a list, or by keyword")
    answer = function(*values, **keywords)
    if function not in EXACT:
        answer = tape.in_range(answer if is_sum else tape.rounded(answer))
    if function is np.divide:  # in whose derivative the divisor is squared
        values[1] = tape.in_range(values[1], 2.0)
    if np.result_type(*_parts(answer)).kind not in "fc":
        return answer
    if not any(box.depends for box in boxes):
        return constant(trace, answer)
    rule = derivative(function)
    if rule is None:
        raise NotTraceable(f"numpy.{_name(function)} has no derivative here")
    if keywords.get("order") in ("K", "A", None):
        keywords.pop("order", None)
    parents = [box.step for box in boxes]
    shapes = [np.shape(values[number]) for number in numbers]
    are_real = [not np.iscomplexobj(values[number]) for number in numbers]
    step = tape.add(parents)

    def pull(gradient: Any, is_blurred: bool = False) -> list[Array]:
        seen, result = list(values), answer
        if is_blurred:
            for number, parent in zip(numbers, parents, strict=True):
                seen[number] = tape.blurred(seen[number], parent)
            result = tape.rounded(tape.blurred(answer, step))
        pull_all = rule(tuple(numbers), result, tuple(seen), keywords)
        parts = []
        for part, shape, is_real in zip(pull_all(gradient), shapes, are_real, strict=True):
            part = np.asarray(part)
            if is_real and np.iscomplexobj(part):
                part = part.real
            if part.shape != shape:
                part = reduced(part, shape).reshape(shape)
            parts.append(part)
        return parts

    step.pull = pull
    if tape.rounding:
        if function in BLURRED_RESULTS or function in BLURRED_OPERANDS:
            read = [step] * (function in BLURRED_RESULTS) + parents * (function in BLURRED_OPERANDS)
            step.blurred = lambda gradient: pull(gradient, True) if any(one.losses for one in read) else None
        if function in (np.add, np.subtract):
            _lose(tape, values, answer, step, dict(zip(numbers, parents, strict=True)))
    if not isinstance(answer, (tuple, list)):
        return trace.box(answer, step)
    return _unpacked(trace, answer, step)


def _is_counting(thing: Any) -> bool:
    """Return whether a thing is an array of whole numbers or a mask: no box, it may change before the way back."""
    return type(thing) is np.ndarray and thing.dtype.kind in "biu"


def _lose(tape: Tape, values: list[Any], answer: Any, step: Step, parents: dict[int, Step]) -> None:
    """Note how much of a sum, and of its terms, rounding leaves open: that of the largest of the three."""
    step.losses.append(lambda: reduce(np.maximum, [tape.rounding * np.abs(value) for value in values]))
    for number, parent in parents.items():
        parent.losses.append(partial(_lost_in, answer, np.shape(values[number]), tape.rounding))


def _lost_in(total: Any, shape: tuple[int, ...], rounding: float) -> Any:
    """Return how much of a term in some shape is lost in a sum."""
    return reduced(rounding * np.abs(total), shape, partial(np.max, initial=0.0))


def constant(trace: Trace, answer: Any) -> Any:
    """Return what depends on no parameter as boxes, into which anything can be written; numbers as they are."""
    if isinstance(answer, (tuple, list)):
        parts = [constant(trace, part) for part in answer]
        return getattr(answer, "_make", type(answer))(parts)
    is_array = isinstance(answer, np.ndarray) and answer.ndim > 0 and answer.dtype.kind in "fc"
    return trace.constant(answer) if is_array else answer


def _parts(answer: Any) -> Sequence[Any]:
    return answer if isinstance(answer, (tuple, list)) else (answer,)


def _unpacked(trace: Trace, answer: Any, step: Any) -> Any:
    """Return the results of a function with several as boxes, in the class in which it returns them."""
    zeros = tuple(np.zeros_like(one, dtype=np.result_type(one, np.float64)) for one in answer)
    boxes = []
    for position, part in enumerate(answer):

        def pull(gradient: Array, position: int = position) -> tuple[Any]:
            return ((*zeros[:position], np.asarray(gradient), *zeros[position + 1 :]),)

        boxes.append(trace.box(part, trace.tape.add((step,), pull)))
    return getattr(answer, "_make", type(answer))(boxes)


def _first_by_position(
    function: Callable[..., Any], args: list[Any], keywords: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with the arrays that were handed in by name at their positions."""
    try:
        bound = inspect.signature(function).bind(*args, **keywords)
    except (TypeError, ValueError):
        return args, keywords
    return list(bound.args), bound.kwargs


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


# Derivatives: those of autograd, but for three that are to round, and to break ties, as a backward pass does.


def _tanh_rule(numbers: Any, answer: Any, args: Any, keywords: Any) -> Any:
    """Return the pull of tanh from its result, as every backward pass has it."""
    return lambda gradient: (gradient * (1 - answer**2),)


def _larger_rule(numbers: Any, answer: Any, args: Any, keywords: Any) -> Any:
    """Return the pull of the larger or smaller of two; of two equal ones the constant is taken, as ``x > 0`` does."""
    chosen = [args[number] == answer for number in numbers]
    share = 0.5 if len(numbers) > 1 else 0.0
    tied = args[0] == args[1]
    return lambda gradient: [gradient * np.where(tied, share, mine) for mine in chosen]


def _exp_rule(numbers: Any, answer: Any, args: Any, keywords: Any) -> Any:
    """Return the pull of exp, in which nothing times infinity is nothing: of ``1 / (1 + exp(-x))`` far to the left."""
    return lambda gradient: (np.where(gradient == 0, 0.0, gradient * answer),)


@cache
def derivative(function: Callable[..., Any]) -> Any:
    """Return autograd's rule for a function of NumPy or SciPy: ``(argnums, answer, args, keywords) -> pull``."""
    own = {np.tanh: _tanh_rule, np.exp: _exp_rule, **dict.fromkeys(LARGER, _larger_rule)}
    if function in own:
        return own[function]
    import autograd.numpy
    from autograd.core import primitive_vjps
    from autograd.tracer import trace_primitives_map

    if "scipy.special" in sys.modules:
        import autograd.scipy.special  # noqa: F401
    return primitive_vjps.get(trace_primitives_map.get(function))


# What only moves entries needs no derivative: the positions of the entries tell where a gradient goes.


def _rearranged(function: Callable[..., Any], box: Box, rest: Sequence[Any], keywords: dict[str, Any]) -> Any:
    rest = tuple(map(plain_key, rest))
    named = {name: plain_key(value) for name, value in keywords.items()}
    positions = np.asarray(function(np.arange(box.size).reshape(box.shape), *rest, **named))
    return gathered(box, positions)


def gathered(box: Box, positions: Array) -> Any:
    """Return the entries at some positions in C order, in the shape of the positions."""
    trace, shape = box.tracer, box.shape
    value = box.value.reshape(-1)[positions]

    def pull(gradient: Array) -> tuple[Array]:
        total = np.zeros(int(np.prod(shape)), np.result_type(gradient))
        np.add.at(total, positions.reshape(-1), np.asarray(gradient).reshape(-1))
        return (total.reshape(shape),)

    return trace.box(value, trace.tape.add((box.step,), pull, depends=box.depends))


def shown(box: Box, positions: Array) -> Any:
    """Return the entries at some positions as a view of a box: what is written into the one is seen in the other."""

    def again(array: Any) -> Any:
        return gathered(array, positions) if isinstance_box(array) else array.reshape(-1)[positions]

    view = again(box)
    view.base, view.again, view.seen = box, again, box.version
    return view


def _split(function: Callable[..., Any], array: Any, *rest: Any, **keywords: Any) -> Any:
    parts = function(np.arange(array.size).reshape(array.shape), *rest, **keywords)
    found = []
    for positions in parts:
        start = np.unravel_index(positions.reshape(-1)[0], array.shape) if positions.size else (0,) * array.ndim
        key = tuple(slice(int(low), int(low) + length) for low, length in zip(start, positions.shape, strict=True))
        found.append(array[key])
    return found


def assembled(items: Any) -> Any:
    """Return nested lists that hold boxes as one array, and anything else as it is."""
    if not isinstance(items, (list, tuple)) or not _holds_boxes(items):
        return items
    return np.stack([assembled(item) for item in items])


def _holds_boxes(items: Any) -> bool:
    return any(isinstance_box(item) or (isinstance(item, (list, tuple)) and _holds_boxes(item)) for item in items)


# Compositions: what autograd has no derivative of, what takes lists, and what writes into arrays, by other functions.


def _trace_of(arrays: Sequence[Any]) -> Trace:
    trace: Trace = next(one.tracer for one in arrays if isinstance_box(one))
    return trace


def _concatenate(arrays: Any, axis: Any = 0, **_: Any) -> Any:
    arrays = list(map(assembled, arrays))
    if not any(map(isinstance_box, arrays)):
        return np.concatenate(arrays, axis)
    trace = _trace_of(arrays)
    if axis is None:
        arrays, axis = [np.ravel(one) for one in arrays], 0
    value = np.concatenate([plain(one) for one in arrays], axis=axis)
    if not any(isinstance_box(one) and one.depends for one in arrays):
        return constant(trace, value)
    ends = np.cumsum([np.shape(one)[axis] for one in arrays])[:-1]
    kept = [number for number, one in enumerate(arrays) if isinstance_box(one)]
    steps = [arrays[number].step for number in kept]

    def pull(gradient: Array) -> list[Array]:
        parts = np.split(gradient, ends, axis=axis)
        return [parts[number] for number in kept]

    return trace.box(value, trace.tape.add(steps, pull))


def _stack(arrays: Any, axis: int = 0, **_: Any) -> Any:
    return _concatenate([np.expand_dims(one, axis) for one in map(assembled, arrays)], axis)


def _clip(array: Any, a_min: Any = None, a_max: Any = None, **keywords: Any) -> Any:
    low, high = keywords.get("min", a_min), keywords.get("max", a_max)
    if low is not None:
        array = np.maximum(array, low)
    return array if high is None else np.minimum(array, high)


def _select(conditions: Any, choices: Any, default: Any = 0) -> Any:
    result = default
    for condition, choice in reversed(list(zip(conditions, choices, strict=True))):
        result = np.where(condition, choice, result)
    return result


def _average(array: Any, axis: Any = None, weights: Any = None, **keywords: Any) -> Any:
    if weights is None:
        return np.mean(array, axis=axis, **keywords)
    if axis is not None and np.ndim(weights) == 1 != np.ndim(array):
        shape = [1] * np.ndim(array)
        shape[axis] = -1
        weights = np.reshape(weights, shape)
    weights = weights * np.ones(np.shape(array))
    return np.sum(array * weights, axis=axis) / np.sum(weights, axis=axis)


def _quantile(array: Any, q: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """Interpolate between the sorted entries around each quantile, as NumPy does by default."""
    rows = np.sort(np.ravel(array) if axis is None else np.moveaxis(array, axis, -1), axis=-1)
    last = rows.shape[-1] - 1
    position = np.asarray(plain(q)) * last
    low = np.floor(position).astype(int)
    share = position - low
    found = rows[..., low] * (1 - share) + rows[..., np.minimum(low + 1, last)] * share
    if np.ndim(q):
        found = np.moveaxis(found, -1, 0)
    if keepdims:
        found = np.reshape(found, np.shape(q) + np.shape(np.max(plain(array), axis=axis, keepdims=True)))
    return found


def _accumulate(ufunc: np.ufunc, array: Any, axis: int) -> Any:
    if ufunc is np.add:
        return np.cumsum(array, axis=axis)
    rows = np.moveaxis(array, axis, 0)
    found = [rows[0]]
    for position in range(1, rows.shape[0]):
        found.append(ufunc(found[-1], rows[position]))
    return np.moveaxis(np.stack(found), 0, axis)


def _reduced(trace: Trace, ufunc: np.ufunc, method: str, array: Any, keywords: dict[str, Any]) -> Any:
    axis = keywords.get("axis", 0)
    if method == "accumulate":
        return _accumulate(ufunc, array, axis)
    if ufunc in (np.logical_and, np.logical_or):
        return ufunc.reduce(plain(array), axis=axis, keepdims=keywords.get("keepdims", False))
    function = REDUCTIONS.get(ufunc)
    if function is None:
        rows = np.moveaxis(array, axis, 0)
        result = reduce(ufunc, [rows[position] for position in range(len(rows))])
        return np.expand_dims(result, axis) if keywords.get("keepdims") else result
    return trace.call(function, (array,), {**keywords, "axis": axis})


def _at(ufunc: np.ufunc, array: Any, key: Any, values: Any = None) -> None:
    if ufunc not in (np.add, np.subtract):
        raise NotTraceable(f"numpy.{ufunc.__name__}.at has no derivative here")
    trace = _writable(f"{ufunc.__name__}.at", array).tracer
    key, sign = plain_key(key), 1.0 if ufunc is np.add else -1.0
    value, shape = np.array(array.value), np.shape(plain(values))
    ufunc.at(value, key, plain(values))
    source = values.step if isinstance_box(values) else trace.tape.add(depends=False)

    def pull(gradient: Array) -> tuple[Array, Array]:
        return gradient, reduced(sign * gradient[key], shape)

    depends = array.step.depends or source.depends
    array.assign(trace.box(value, trace.tape.add((array.step, source), pull, depends=depends)))


def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    if period is not None:
        raise NotTraceable("numpy.interp with a period has no derivative here")
    place = np.clip(np.searchsorted(plain(xp), plain(x), side="right") - 1, 0, np.shape(xp)[0] - 2)
    notice_ties(_trace_of((x, xp, fp)).tape, np.asarray(plain(x))[..., None], plain(xp))
    share = (x - xp[place]) / (xp[place + 1] - xp[place])
    result = fp[place] + share * (fp[place + 1] - fp[place])
    result = np.where(plain(x) < plain(xp)[0], fp[0] if left is None else left, result)
    return np.where(plain(x) > plain(xp)[-1], fp[-1] if right is None else right, result)


def _convolve(first: Any, second: Any, mode: str = "full") -> Any:
    if np.shape(second)[0] > np.shape(first)[0]:
        first, second = second, first
    long, short = np.shape(first)[0], np.shape(second)[0]
    padded = np.concatenate([np.zeros(short - 1), first, np.zeros(short - 1)])
    windows = np.arange(long + short - 1)[:, None] + np.arange(short)[::-1]
    full = padded[windows] @ second
    if mode == "same":
        start = (short - 1) // 2
        return full[start : start + long]
    return full if mode == "full" else full[short - 1 : long]


def _writable(function: str, array: Any) -> Any:
    """Return an array into which a function writes; refuse one that is no box."""
    if not isinstance_box(array):
        raise NotTraceable(f"numpy.{function} writes into an array that was made before")
    return array


def _copyto(target: Any, source: Any, casting: str = "same_kind", where: Any = True) -> None:
    _writable("copyto", target)[...] = source if where is True else np.where(where, source, target)


def _put_along_axis(array: Any, positions: Any, values: Any, axis: Any = -1) -> None:
    grid = list(np.indices(np.shape(plain(positions)), sparse=True))
    grid[axis] = plain(positions)
    _writable("put_along_axis", array)[tuple(grid)] = values


def _fill_diagonal(array: Any, value: Any) -> None:
    _writable("fill_diagonal", array)[(np.arange(min(array.shape)),) * array.ndim] = value


def _like(make: Callable[..., Any], array: Any, *args: Any, **keywords: Any) -> Any:
    return buffer(array.tracer, make(array.value, *args, **keywords))


def _full_like(array: Any, fill: Any, *_: Any, **__: Any) -> Any:
    made = buffer(array.tracer, np.zeros(array.shape))
    made[...] = fill
    return made


def buffer(trace: Trace, value: Any) -> Any:
    """Return an array that was made while tracing as a box, into which anything can be written."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fc":
        return value
    if value.dtype.kind == "f":
        trace.tape.precision = max(trace.tape.precision, float(np.finfo(value.dtype).eps))
        value = value.astype(np.float64)
    return trace.constant(value)


def _var(array: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False, **_: Any) -> Any:
    """Write the variance out, so that what cancels in it shows when it is rounded."""
    centred = array - np.mean(array, axis=axis, keepdims=True)
    squares = np.abs(centred) ** 2 if np.iscomplexobj(array.value) else centred**2
    total = np.sum(squares, axis=axis, keepdims=keepdims)
    return total / (np.size(array) / np.size(plain(total)) - ddof)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Write the norms of vectors out, and that of Frobenius; others of a matrix by its singular values."""
    sums = {"axis": axis, "keepdims": keepdims}
    if ord in (None, "fro"):
        return np.sqrt(np.sum(np.real(x) ** 2 + np.imag(x) ** 2 if np.iscomplexobj(x) else x**2, **sums))
    if np.ndim(x) > 1 and not isinstance(axis, (int, np.integer)):
        if axis is not None or keepdims or ord not in (2, "nuc"):
            raise NotTraceable("numpy.linalg.norm of this order, or of several matrices, has no derivative here")
        values = np.linalg.svd(x, full_matrices=False)[1]
        return values[0] if ord == 2 else np.sum(values)
    if ord in (np.inf, -np.inf):
        return (np.max if ord > 0 else np.min)(np.abs(x), **sums)
    if ord == 0:
        return np.sum(plain(x) != 0, **sums).astype(float)
    if ord == 1:
        return np.sum(np.abs(x), **sums)
    return np.sum(np.abs(x) ** ord, **sums) ** (1.0 / ord)


def _extremum(find: Callable[..., Any], array: Any, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
    """Return the first largest or smallest entries, as most backward passes do; notice where others are as large."""
    value = array.value
    axes = tuple(range(value.ndim)) if axis is None else tuple(np.atleast_1d(axis) % value.ndim)
    kept = tuple(length for number, length in enumerate(value.shape) if number not in axes)
    ends = tuple(range(-len(axes), 0))
    rows = np.moveaxis(value, axes, ends).reshape(*kept, -1)
    first = find(rows, axis=-1, keepdims=True)
    others = np.array(rows)
    np.put_along_axis(others, first, np.nan, -1)  # which is near to nothing
    notice_ties(array.tracer.tape, np.take_along_axis(rows, first, -1), others)
    if value.dtype.kind not in "fc":
        return np.take_along_axis(rows, first, -1).reshape(kept)
    positions = np.moveaxis(np.arange(value.size).reshape(value.shape), axes, ends).reshape(rows.shape)
    shape = [1 if number in axes else length for number, length in enumerate(value.shape)] if keepdims else kept
    return gathered(array, np.take_along_axis(positions, first, -1).reshape(shape))


def _sorted(array: Any, axis: Any = -1, **_: Any) -> Any:
    """Return the sorted entries: gathered in their order."""
    if axis is None:
        array, axis = np.ravel(array), 0
    order = np.argsort(array.value, axis=axis, kind="stable")
    ordered = np.take_along_axis(array, order, axis)
    rows = np.moveaxis(np.take_along_axis(array.value, order, axis), axis, 0)
    notice_ties(array.tracer.tape, rows[1:], rows[:-1])
    return ordered


def _where(condition: Any, *choices: Any) -> Any:
    if not any(map(isinstance_box, choices)):
        return np.where(plain(condition), *choices)
    return _differentiated(_trace_of(choices), np.where, [plain(condition), *choices], {})


def vectorised(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function of numbers makes of arrays."""
    shape = np.broadcast_shapes(*map(np.shape, args))
    spread = [np.broadcast_to(one, shape) for one in args]
    found = [function(*map(itemgetter(index), spread)) for index in np.ndindex(*shape)]
    return np.reshape(np.stack(found), shape)


def _pad(array: Any, pad_width: Any, mode: Any = "constant", **keywords: Any) -> Any:
    if mode in ("edge", "reflect", "symmetric", "wrap"):
        return gathered(array, np.pad(np.arange(array.size).reshape(array.shape), pad_width, mode, **keywords))
    return _differentiated(array.tracer, np.pad, [array, pad_width, mode], keywords)


def _rfft(array: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    whole = np.fft.fft(array, n, axis, norm)
    rows = np.moveaxis(whole, axis, -1)
    return np.moveaxis(rows[..., : rows.shape[-1] // 2 + 1], -1, axis)


COMPOSED: dict[Any, Callable[..., Any]] = {
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.vstack: lambda arrays, **_: _concatenate(list(map(np.atleast_2d, arrays)), 0),
    np.hstack: lambda arrays, **_: _concatenate(list(map(np.atleast_1d, arrays)), 0 if np.ndim(arrays[0]) < 2 else 1),
    np.dstack: lambda arrays, **_: _concatenate(list(map(np.atleast_3d, arrays)), 2),
    np.column_stack: lambda arrays: _concatenate([np.transpose(np.atleast_2d(np.transpose(a))) for a in arrays], 1),
    np.append: lambda array, values, axis=None: _concatenate([array, values], axis),
    np.where: _where,
    np.clip: _clip,
    np.select: _select,
    np.choose: lambda index, choices, **_: _select([np.equal(plain(index), n) for n in range(len(choices))], choices),
    np.sort: _sorted,
    np.partition: lambda array, kth, axis=-1, **_: np.take_along_axis(
        array, np.argpartition(array.value, kth, axis=axis), axis
    ),
    np.max: partial(_extremum, np.argmax),
    np.amax: partial(_extremum, np.argmax),
    np.min: partial(_extremum, np.argmin),
    np.amin: partial(_extremum, np.argmin),
    np.ptp: lambda *args, **keywords: np.max(*args, **keywords) - np.min(*args, **keywords),
    np.quantile: _quantile,
    np.percentile: lambda array, q, *args, **keywords: _quantile(array, np.divide(q, 100.0), *args, **keywords),
    np.median: lambda array, axis=None, **keywords: _quantile(array, 0.5, axis, **keywords),
    np.average: _average,
    np.var: _var,
    np.std: lambda *args, **keywords: np.sqrt(_var(*args, **keywords)),
    np.nansum: lambda array, *args, **keywords: np.sum(np.where(np.isnan(array), 0.0, array), *args, **keywords),
    np.interp: _interp,
    np.cumprod: lambda array, axis=None, **_: _accumulate(
        np.multiply, np.ravel(array) if axis is None else array, axis or 0
    ),
    np.einsum: lambda *operands, **_: _differentiated(_trace_of(operands), np.einsum, operands, {}),
    np.vdot: lambda first, second: np.sum(np.conj(np.ravel(first)) * np.ravel(second)),
    np.linalg.multi_dot: lambda arrays, **_: reduce(np.dot, arrays),
    np.linalg.matrix_power: lambda matrix, power: reduce(
        np.matmul, [matrix if power > 0 else np.linalg.inv(matrix)] * abs(power)
    ),
    np.linalg.eigvalsh: lambda matrix, UPLO="L": np.linalg.eigh(matrix, UPLO)[0],
    np.linalg.norm: _norm,
    np.fft.rfft: _rfft,
    np.convolve: _convolve,
    np.correlate: lambda first, second, mode="valid": _convolve(first, np.conj(second)[::-1], mode),
    np.pad: _pad,
    np.cbrt: lambda array: np.sign(array) * np.abs(array) ** (1 / 3),
    np.hypot: lambda first, second: np.sqrt(first**2 + second**2),
    np.copy: lambda array, *_, **__: array.copy(),
    np.copyto: _copyto,
    np.put_along_axis: _put_along_axis,
    np.fill_diagonal: _fill_diagonal,
    np.zeros_like: partial(_like, np.zeros_like),
    np.empty_like: partial(_like, np.zeros_like),
    np.ones_like: partial(_like, np.ones_like),
    np.full_like: _full_like,
}
