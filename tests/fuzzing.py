"""Problems drawn by hypothesis, whose exact gradient is known: structures, dtypes, layouts, kinks, noise and scales."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gc_hooks import Tolerance, Verdict, central, check_gradients, entries, joint, per_parameter
from gc_hooks.arrays.tree import flatten, rebuild
from gc_hooks.slopes.probes import automatic

ROWS = 6
"""Numbers that the parameters are mixed into before the loss bends them."""

CURVES = {
    "linear": (lambda z: z, np.ones_like),
    "quadratic": (lambda z: z * z / 2, lambda z: z),
    "sin": (np.sin, np.cos),
    "exp": (lambda z: np.exp(z / 2), lambda z: np.exp(z / 2) / 2),
    "log": (lambda z: np.log(1 + z * z), lambda z: 2 * z / (1 + z * z)),
    "abs": (np.abs, np.sign),
    "analytic abs": (lambda z: np.where(z.real < 0, -z, z), np.sign),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "max": (np.max, lambda z: np.eye(len(z), dtype=z.dtype)[np.argmax(z)]),
    "norm": (np.linalg.norm, lambda z: z / np.linalg.norm(z)),
}
"""Functions of a vector, summed up, and their derivatives; the absolute value and the norm deceive complex step."""

NOISES = {
    "none": lambda value: value,
    "float32": lambda value: float(np.float32(value)),
    "eleven digits": lambda value: float(f"{value:.11g}"),
}
PROBES = {"default": None, "slopes": automatic, "entries": entries, "per_parameter": per_parameter, "joint": joint}


@dataclass(frozen=True)
class Leaf:
    """One parameter to be drawn."""

    shape: tuple[int, ...] = (3,)
    dtype: str = "float64"
    scale: float = 1.0
    layout: str = "C"
    zeros: bool = False

    def draw(self, rng):
        array = rng.standard_normal(self.shape) * (rng.random(self.shape) < 0.5 if self.zeros else 1)
        array = np.asarray(self.scale * array, dtype=self.dtype)
        if self.layout == "F":
            return np.asfortranarray(array)
        if self.layout == "strided" and array.ndim:
            base = np.full([2 * length for length in self.shape], np.nan, dtype=self.dtype)
            view = base[tuple(slice(None, None, 2) for _ in self.shape)][..., ::-1]
            view[...] = array
            return view
        array.flags.writeable = self.layout != "read-only"
        return array


@dataclass(frozen=True)
class Drawn:
    """A loss of nested parameters, ``size * sum_k w_k f_k(A x / scale + s)``, over all leaves x; its gradient, and how
    they are to be checked."""

    tree: Any = Leaf()
    curves: tuple[str, ...] = ("quadratic",)
    size: float = 1.0
    noise: str = "none"
    buffers: bool = False
    rounded: bool = False
    in_place: bool = False
    by_central: bool = False
    probes: str = "default"
    seed: int = 0

    def leaves(self):
        return flatten(self.tree)

    def params(self):
        rng = np.random.default_rng([self.seed, 1])
        return rebuild(self.tree, {name: leaf.draw(rng) for name, leaf in self.leaves().items()})

    def mixing(self, dtype=np.float64):
        rng = np.random.default_rng([self.seed, 2])
        matrices = {
            name: (rng.standard_normal((ROWS, int(np.prod(leaf.shape)))) / leaf.scale).astype(dtype)
            for name, leaf in self.leaves().items()
        }
        return matrices, rng.standard_normal(ROWS).astype(dtype), rng.uniform(0.5, 2, len(self.curves)).astype(dtype)

    def _mixed(self, flat, dtype=np.float64):
        matrices, shift, weights = self.mixing(dtype)
        mixed = shift + sum(matrices[name] @ np.ravel(array) for name, array in flat.items()) / dtype(len(flat))
        return mixed, matrices, weights

    def loss(self, params):
        z, _, weights = self._mixed(flatten(params))
        value = self.size * sum(w * np.sum(CURVES[c][0](z)) for w, c in zip(weights, self.curves, strict=True))
        return NOISES[self.noise](value)

    def flat_gradient(self, params, dtype=np.float64):
        flat = {name: np.asarray(array, dtype) for name, array in flatten(params).items()}
        z, matrices, weights = self._mixed(flat, dtype)
        delta = sum(w * CURVES[c][1](z) for w, c in zip(weights, self.curves, strict=True)) * dtype(self.size)
        return {n: (m.T @ delta).reshape(flat[n].shape) / dtype(len(flat)) for n, m in matrices.items()}

    def gradient(self, params):
        return rebuild(params, self.flat_gradient(params))

    def precision(self):
        """In which the buffers are computed: that of the parameters where it is asked for."""
        kinds = {leaf.dtype for leaf in self.leaves().values()}
        return np.float32 if self.rounded and kinds <= {"float32", "float16"} else np.float64

    def check(self, params, wrong=None, seed=0):
        """Check it, with ``wrong`` done to the gradients by name."""
        wrong = wrong or (lambda grads: grads)
        held = self._buffers(params, wrong) if self.buffers else None

        def loss(*given):
            return self.loss(*given or (params,))

        def gradient(*given):
            (point,) = given or (params,)
            return rebuild(point, wrong(self.flat_gradient(point)))

        options = {"method": central if self.by_central else None, "probes": PROBES[self.probes], "seed": seed}
        grads = held if self.buffers else gradient
        return check_gradients(loss, params, grads, in_place=self.in_place, max_evaluations=4000, **options)

    def _buffers(self, params, wrong):
        return rebuild(params, self.handed_in(wrong(self.flat_gradient(params, self.precision()))))

    def handed_in(self, grads):
        """Gradients in the precision of the parameters' buffers, where that can hold them."""
        kinds = {n: self.leaves()[n].dtype for n in grads}
        held = {n: np.max(np.abs(g), initial=0) < np.finfo(kinds[n]).max for n, g in grads.items()}
        return {n: np.asarray(g, kinds[n] if held[n] else np.float64) for n, g in grads.items()}

    def coarsest(self):
        """Machine epsilon of the coarsest buffer; 0 for a function, which is judged in float64."""
        return max(float(np.finfo(leaf.dtype).eps) for leaf in self.leaves().values()) if self.buffers else 0.0


PLANTED = {
    "scaled": lambda g, e, rng: g * (1 + e),
    "one entry": lambda g, e, rng: _with_entry(g, e * np.linalg.norm(g), rng),
    "all over": lambda g, e, rng: g + e * np.linalg.norm(g) * _unit(rng.standard_normal(g.shape)),
    "offset": lambda g, e, rng: g + e * np.linalg.norm(g) / np.sqrt(max(g.size, 1)),
    "sign": lambda g, e, rng: -g,
    "zero": lambda g, e, rng: 0 * g,
    "not a number": lambda g, e, rng: _with_entry(g, np.nan, rng),
}


@dataclass(frozen=True)
class Error:
    """A mistake in one parameter's gradient, the k-th."""

    kind: str = "scaled"
    strength: float = 1e-3
    which: int = 0

    def plant(self, grads):
        name = list(grads)[self.which % len(grads)]
        rng = np.random.default_rng(self.which)
        return grads | {name: np.asarray(PLANTED[self.kind](grads[name], self.strength, rng))}


def _with_entry(array, away, rng):
    wrong = np.array(array, dtype=np.float64)
    if wrong.size:
        wrong.reshape(-1)[rng.integers(wrong.size)] += away
    return wrong


def _unit(array):
    return array / (np.linalg.norm(array) or 1)


# --- strategies -------------------------------------------------------------------------------------------------------

powers = st.integers(-8, 8).map(lambda k: 10.0**k)
shapes = st.one_of(
    st.just(()), st.tuples(st.integers(0, 20)), st.tuples(st.integers(1, 9), st.integers(1, 30)), st.just((2, 3, 2, 2))
)


@st.composite
def leaves(draw):
    dtype = draw(st.sampled_from(["float64"] * 5 + ["float32", "float32", "float16", "longdouble"]))
    scale = draw(st.sampled_from([1e-2, 1.0, 1e2]) if dtype == "float16" else powers)
    layout = draw(st.sampled_from(["C", "C", "F", "strided", "read-only"]))
    return Leaf(draw(shapes), dtype, scale, layout, draw(st.booleans()))


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(lambda text: "." not in text)
trees = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.dictionaries(names, inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=5,
)


@st.composite
def drawn(draw):
    """A problem."""
    problem = Drawn(
        tree=draw(trees),
        curves=tuple(draw(st.lists(st.sampled_from(list(CURVES)), min_size=1, max_size=3, unique=True))),
        size=draw(powers),
        noise=draw(st.sampled_from(["none"] * 3 + list(NOISES))),
        buffers=draw(st.booleans()),
        rounded=draw(st.booleans()),
        in_place=draw(st.booleans()),
        by_central=draw(st.booleans()),
        probes=draw(st.sampled_from(list(PROBES))),
        seed=draw(st.integers(0, 2**16)),
    )
    return replace(problem, in_place=problem.in_place and _writable(problem))


def _writable(problem):
    """Whether all parameters are arrays that can be changed in place."""
    return all(leaf.layout != "read-only" for leaf in problem.leaves().values())


errors = st.builds(
    Error, st.sampled_from(list(PLANTED)), st.floats(-8, 0).map(lambda power: 10.0**power), st.integers(0, 4)
)


# --- invariants -------------------------------------------------------------------------------------------------------


def traces(*trees):
    """Every bit that a check might leave behind."""
    arrays = [
        (name, a.dtype.str, a.strides, a.tobytes(), None if a.base is None else np.asarray(a.base).tobytes())
        for tree in trees
        for name, a in flatten(tree).items()
    ]
    state = np.random.get_state()
    return arrays, state[1].tobytes(), state[2:], random.getstate(), np.geterr(), list(warnings.filters)


def checked(problem, wrong=None, seed=0):
    """A report; the check must leave no trace."""
    params = problem.params()
    before = traces(params)
    report = problem.check(params, wrong, seed)
    assert traces(params) == before
    return report


def accused(report):
    """The parameters that are said to be wrong."""
    return {name: c for name, c in report.parameters.items() if c.verdict > Verdict.INCONCLUSIVE}


def missed(problem, error, seed=0):
    """What is called good although it is wrong by more than the check says that it would have seen."""
    true = problem.flat_gradient(problem.params())
    told = problem.handed_in(error.plant(true)) if problem.buffers else error.plant(true)
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in true.values()))
    report = checked(problem, error.plant, seed)
    found = {}
    for name, comparison in report.parameters.items():
        wider = Tolerance().certain_in(comparison.precision) / Tolerance().certain  # as the note of such a GOOD says
        vanishing = (2e-6 * wider + 100 * problem.coarsest()) * whole
        is_unseen = _unseen(told[name], true[name], vanishing, comparison.sensitivity)
        if comparison.verdict is Verdict.GOOD and is_unseen:
            found[name] = comparison
    return found


def _unseen(told, true, vanishing, sensitivity):
    """An error that should have been seen: above the stated sensitivity, or, of a gradient that vanishes and has none,
    above what counts as nothing against the whole gradient."""
    away = np.linalg.norm(np.asarray(told - true, dtype=np.float64))
    bound = sensitivity * np.linalg.norm(true) if np.isfinite(sensitivity) else vanishing
    return not away <= bound
