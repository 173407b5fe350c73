"""Beyond networks: verdicts on random expression graphs, right ones and (``--wrong``) with an error planted.

Run it with ``python tests/benchmarks/graphs.py --graphs 1000 [--buffers float32] [--wrong]``, or for one kind with
``--family attention``. ``--verify`` compares the graphs' own backward passes with differences in long double. A seed
makes the same graph always. The exit status is 1 where a right gradient was accused, or a wrong one called GOOD beyond
the sensitivity that the report states.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from operations import LAYERS, LOSSES, PENALTIES, Operation

from gc_hooks import Verdict, check_gradients

LARGEST = 1e10
"""Losses beyond it, before they are scaled, are drawn again: nobody trains there."""


@dataclass(frozen=True)
class Layer:
    """An operation with its constants, around which the input may also be added to the output."""

    operation: Operation
    constants: dict = field(default_factory=dict)
    prefix: str = ""
    skips: bool = False

    def own(self, params):
        return {name.removeprefix(self.prefix): w for name, w in params.items() if name.startswith(self.prefix)}


@dataclass(frozen=True)
class Graph:
    """A loss of operations behind one another, with the gradient that the textbook has."""

    x: np.ndarray
    layers: list[Layer]
    end: Layer
    params: dict
    size: float = 1.0
    penalties: tuple = ()
    trained: bool = False

    def loss(self, params):
        h = self.x
        for layer in self.layers:
            y = layer.operation.compute(h, layer.own(params), layer.constants)
            h = h + y if layer.skips else y
        value = self.end.operation.compute(h, {}, self.end.constants)
        for name, kind, strength in self.penalties:
            value = value + strength * PENALTIES[kind][0](params[name])
        return self.size * value

    def gradient(self, params, without=None):
        """Return the gradient in the precision of the arrays, ``without`` one row's share in one parameter."""
        dtype, inputs = self.x.dtype, [self.x]
        for layer in self.layers:
            y = layer.operation.compute(inputs[-1], layer.own(params), layer.constants)
            inputs.append(np.asarray(inputs[-1] + y if layer.skips else y, dtype))
        grads = {}
        dy, _ = self.end.operation.backward(inputs.pop(), {}, self.end.constants, dtype.type(self.size))
        for layer in reversed(self.layers):
            h, p = inputs.pop(), layer.own(params)
            dh, own = layer.operation.backward(h, p, layer.constants, dy)
            if without in {layer.prefix + name for name in own}:
                left = np.where(np.arange(len(dy))[:, None] == len(dy) - 1, 0, dy).astype(dtype)
                name = without.removeprefix(layer.prefix)
                own[name] = layer.operation.backward(h, p, layer.constants, left)[1][name]
            grads |= {layer.prefix + name: np.asarray(g, dtype) for name, g in own.items()}
            dy = dh + dy if layer.skips else dh
        for name, kind, strength in self.penalties:
            share = np.asarray(self.size * strength * PENALTIES[kind][1](params[name]), dtype)
            grads[name] = grads[name] + share if name in grads else share
        return {name: grads[name] for name in params}

    def apply(self, change):
        """Return the graph with something done to its input, its parameters and the constants of its operations."""

        def changed(values):
            return {name: change(value) for name, value in values.items()}

        layers = [replace(layer, constants=changed(layer.constants)) for layer in self.layers]
        end = replace(self.end, constants=changed(self.end.constants))
        return replace(self, x=change(self.x), layers=layers, end=end, params=changed(self.params))

    def prepared(self):
        """Return the graph with what comes before the first parameter done: nobody prepares the data in each step."""
        x, layers = self.x, list(self.layers)
        while not layers[0].own(self.params):
            layer = layers.pop(0)
            y = layer.operation.compute(x, {}, layer.constants)
            x = x + y if layer.skips else y
        return replace(self, x=x, layers=layers)

    def cast(self, dtype):
        """Return the graph with all of its arrays in another precision."""
        return self.apply(lambda value: value.astype(dtype) if is_float(value) else value)

    def __str__(self):
        names = [layer.operation.name + "+" * layer.skips for layer in self.layers] + [self.end.operation.name]
        names += [f"{strength:.0e} {kind}({name})" for name, kind, strength in self.penalties]
        trained = ", trained" * self.trained
        return f"{' > '.join(names)} (x {self.x.shape} {np.max(np.abs(self.x)):.2g}, size {self.size:g}{trained})"


def is_float(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


# Drawing


def random_graph(seed):
    """Draw until the loss and the gradient are finite."""
    for attempt in range(1000):
        # A matrix that has no inverse is drawn again too.
        with contextlib.suppress(np.linalg.LinAlgError), np.errstate(all="ignore"):
            graph = drawn(np.random.default_rng([seed, attempt]))
            if graph is not None and is_usable(graph):
                return graph
    raise RuntimeError(f"no graph for seed {seed}")


def drawn(rng):
    shape = int(rng.integers(3, 9)), int(rng.integers(2, 7))
    x = rng.normal(size=shape) * rng.choice([1, 1, 1, 0.01, 0.1, 3, 10, 30])
    if rng.integers(8) == 0:
        x[:, rng.integers(shape[1])] = 0
    h, layers, params = x, [], {}
    for k in range(int(rng.integers(1, 5))):
        h, layer, own = add(rng, str(rng.choice(fitting(LAYERS, h.shape))), h, k)
        layers.append(layer)
        params |= own
    operation = LOSSES[rng.choice(fitting(LOSSES, h.shape))]
    end = Layer(operation, operation.draw(rng, h.shape)[1])
    if not params:
        return None
    size = float(10.0 ** rng.integers(-6, 4)) if rng.integers(2) else 1.0
    graph = Graph(x, layers, end, with_zeros(rng, params), size, penalty(rng, params))
    return trained(graph) if rng.integers(3) == 0 else graph


def add(rng, name, h, k, skips=None):
    """Draw a layer for this input; also return its output and its parameters."""
    operation, prefix = LAYERS[name], f"{name}{k}_"
    own, constants = operation.draw(rng, h.shape)
    y = operation.forward(h, own, constants)
    if skips is None:
        skips = y.shape == h.shape and rng.integers(6) == 0
    layer = Layer(operation, constants, prefix, bool(skips))
    return h + y if skips else y, layer, {prefix + name: w for name, w in own.items()}


def fitting(operations, shape):
    return [name for name, operation in operations.items() if operation.fits(shape)]


def with_zeros(rng, params):
    """Set some parameters to exactly zero, or some of their entries."""
    params = {name: np.array(w, dtype=float) for name, w in params.items()}
    for w in params.values():
        how = rng.integers(20)
        if how == 0:
            w[...] = 0
        if how == 1:
            w *= rng.random(w.shape) < 0.5
    return params


def penalty(rng, params):
    if rng.integers(4):
        return ()
    name = str(rng.choice(list(params)))
    kinds = ["l1", "l2", "norm"] + ["determinant"] * is_square(params[name])
    return ((name, str(rng.choice(kinds)), float(10.0 ** rng.integers(-10, 1))),)


def is_square(w):
    return w.ndim == 2 and w.shape[0] == w.shape[1]


def trained(graph, steps=60):
    """Go downhill, with a step that grows while it helps."""
    params, rate, value = graph.params, 0.1, graph.loss(graph.params)
    for _ in range(steps):
        grads = graph.gradient(params)
        norm = norm_of(grads.values())
        if not (np.isfinite(norm) and norm > 0):
            break
        moved = {name: w - rate * grads[name] / norm for name, w in params.items()}
        below = graph.loss(moved)
        rate = rate * 1.5 if below < value else rate / 3
        if below < value:
            params, value = moved, below
    return replace(graph, params={name: np.array(w) for name, w in params.items()}, trained=True)


def is_usable(graph):
    single = graph.prepared().cast(np.float32)
    values = [graph.loss(graph.params), *graph.gradient(graph.params).values()]
    values += single.gradient(single.params).values()
    singular = any(
        kind == "determinant" and np.linalg.cond(graph.params[name]) > 1e6 for name, kind, _ in graph.penalties
    )
    return not singular and abs(values[0]) <= LARGEST * graph.size and all(np.all(np.isfinite(v)) for v in values)


# Families


def chain(rng, x, names, end, **given):
    """A graph of named operations; ``given`` replaces parameters or constants by their local names."""
    h, layers, params = x, [], {}
    for k, name in enumerate(names):
        _, layer, own = add(rng, name, h, k, skips=False)
        own = {key: given.get(key.removeprefix(layer.prefix), w) for key, w in own.items()}
        own = {key: np.asarray(w, float) for key, w in own.items() if w is not None}
        constants = {key: given.get(key, c) for key, c in layer.constants.items()}
        layers.append(replace(layer, constants=constants))
        params |= own
        h = layer.operation.forward(h, layers[-1].own(own), constants)
    operation = LOSSES[end]
    return Graph(x, layers, Layer(operation, operation.draw(rng, h.shape)[1]), params)


def attention_family(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 4)) * rng.uniform(5, 30)
    return chain(rng, x, ["attention"], "cross_entropy", kb=None, causal=False)


def shift_family(seed):
    rng = np.random.default_rng(seed)
    n, W = 4, rng.normal(size=(2, 2))
    shift = rng.normal(size=[(), (n, 1)][rng.integers(2)])
    names = ["residual", "shift", "layer_norm"] if rng.integers(4) == 0 else ["linear", "shift", "layer_norm"]
    return chain(rng, rng.normal(size=(n, 2)), names, "squared", W=W, b=None, g=None, s=shift)


def batchnorms_family(seed):
    rng = np.random.default_rng(seed)
    x, W = rng.normal(size=(12, 5)), rng.normal(size=(5, 5))
    graph = chain(rng, x, ["linear", "batch_norm", "gain", "batch_norm"], "squared", W=W, b=None, g=np.ones(5))
    params = {name: w for name, w in graph.params.items() if not name.startswith("batch_norm")}
    return replace(graph, params=params)


def l1_family(seed):
    rng = np.random.default_rng(seed)
    graph = chain(rng, rng.normal(size=(50, 20)), ["linear"], "squared", W=rng.normal(size=(20, 1)), b=None)
    return replace(graph, params=graph.params | {"w": rng.normal(size=200)}, penalties=(("w", "l1", 1e-10),))


def nilpotent_family(seed):
    rng = np.random.default_rng(seed)
    A = np.triu(rng.normal(size=(3, 3)), 1)
    return chain(rng, rng.normal(size=(5, 3)), ["nilpotent"], "sum_of_squares", A=A, power=4, named=False)


FAMILIES = {
    "random": random_graph,
    "attention": attention_family,
    "shift": shift_family,
    "batchnorms": batchnorms_family,
    "l1": l1_family,
    "nilpotent": nilpotent_family,
}


# Errors

ERRORS = {
    "twice": lambda g, at: 2 * g,
    "1 % more": lambda g, at: 1.01 * g,
    "1e-4 more": lambda g, at: (1 + 1e-4) * g,
    "sign of an entry": lambda g, at: np.where(at, -g, g),
    "entry zero": lambda g, at: np.where(at, 0, g),
    "a term left out": None,
}


def plant(graph, params, name, error, entry):
    """Return the gradients with one error in one parameter."""
    if error == "a term left out":
        return graph.gradient(params, without=name)
    grads = graph.gradient(params)
    at = np.arange(grads[name].size).reshape(grads[name].shape) == entry
    return grads | {name: ERRORS[error](grads[name], at).astype(grads[name].dtype)}


# Judging


def check_graph(seed, family="random", buffers=None, wrong=False):
    """Return the counts of one graph, and a line for each verdict that must not be."""
    with np.errstate(all="ignore"):
        graph = FAMILIES[family](seed)
        if buffers == "float32":
            # In which precision the data was prepared is the data's affair.
            graph = graph.prepared().cast(np.float32)
        precise = graph.cast(np.longdouble)
        true, right = precise.gradient(precise.params), graph.gradient(graph.params)
    tally, lines = Counter(graphs=1), []
    judge(tally, lines, seed, graph, true, right, buffers, graph.gradient)
    if wrong:
        rng = np.random.default_rng([seed, 7])
        name, error = str(rng.choice(list(graph.params))), str(rng.choice(list(ERRORS)))
        entry = int(rng.integers(graph.params[name].size))
        planted = partial(plant, graph, name=name, error=error, entry=entry)
        judge(tally, lines, seed, graph, true, right, buffers, planted, name)
    return tally, lines


def judge(tally, lines, seed, graph, true, right, buffers, gradient, wrong=None):
    """Check one gradient, in which the parameter ``wrong`` has an error."""
    with np.errstate(all="ignore"):
        told = gradient(graph.params)
    # The loss computes in double precision with the same numbers; a function is asked again at other points.
    double = graph.cast(np.float64)
    started, ticks = time.perf_counter(), time.process_time()
    try:
        report = check_gradients(double.loss, graph.params, gradient if buffers is None else told, seed=seed)
    except Exception as error:
        lines.append(f"RAISED seed {seed} {type(error).__name__}: {error}, {graph}")
        return
    tally["seconds"] += time.perf_counter() - started
    tally["cpu"] += time.process_time() - ticks
    tally["evaluations"] += report.evaluations
    tally["checks"] += 1
    tally["method", report.method] += 1
    if wrong is None:
        tally["unclear"] += any(c.verdict is Verdict.INCONCLUSIVE for c in report.parameters.values())
    whole = norm_of(true.values())
    for name, comparison in report.parameters.items():
        away, size = distance(told[name], true[name]), distance(true[name], 0)
        tally["wrong" if name == wrong else "right", comparison.verdict.name] += 1

        def said(comparison=comparison, away=away, size=size):
            return (
                f"seed {seed} {comparison.name} {comparison.verdict.name} "
                f"{comparison.stated or comparison.difference} [{comparison.reason.value}] truly {away:.1e} from "
                f"{size:.1e} in {whole:.1e} ({explained(graph, comparison.name)}), {report.method}: {graph}"
                + f"; wrong: {wrong}"
                * (wrong is not None)
            )

        if name != wrong and comparison.verdict > Verdict.INCONCLUSIVE:
            tally["accused"] += 1
            lines.append(f"ACCUSED {said()}")
        # What the right backward pass has in this precision cannot be missed: its rounding is no error.
        unlike = min(away, distance(told[name], right[name]))
        against = np.fmax(size, comparison.measured_norm)
        if comparison.verdict is Verdict.GOOD and is_missed(
            unlike, against, whole, comparison.sensitivity, told[name].dtype, partial(rounded_otherwise, graph, name)
        ):
            tally["missed"] += 1
            lines.append(f"MISSED sensitivity {comparison.sensitivity:.1e} {said()}")


def explained(graph, name):
    """Say what rounding does to a right gradient."""
    return "rounding {:.0e}, inputs rounded otherwise {:.0e}".format(*rounded_otherwise(graph, name))


def rounded_otherwise(graph, name, times=8):
    """Round all numbers otherwise, and compare what is computed.

    The first is backprop's own rounding: how far it is from the truth at such points. The second is how far the truth
    itself moves: much, where a kink is within the rounding of the inputs.
    """
    rng, dtype = np.random.default_rng(0), graph.x.dtype

    def rounded(value):
        if not is_float(value):
            return value
        return np.asarray(value * (1 + np.finfo(dtype).eps * rng.uniform(-1, 1, np.shape(value))), dtype)

    def true(asked):
        precise = asked.cast(np.longdouble)
        return precise.gradient(precise.params)[name]

    with np.errstate(all="ignore"):
        here, others = true(graph), [graph.apply(rounded) for _ in range(times)]
        rounding = max(distance(other.gradient(other.params)[name], true(other)) for other in others)
        moved = max(distance(true(other), here) for other in others)
    return rounding, moved


def is_missed(away, size, whole, sensitivity, dtype, rounding):
    """Whether what is called GOOD is wrong by more than the check says that it would have seen.

    A gradient that vanishes has no sensitivity, or an infinite one: there, it is what counts as nothing against the
    whole gradient, or what rounding leaves of zero.
    """
    nothing = 100 * np.finfo(dtype).eps * whole
    if away <= max(sensitivity * size if np.isfinite(sensitivity) else 2e-6 * whole, nothing):
        return False
    rounded, moved = rounding()  # at a kink the gradient of another side is right too
    return not away <= max(2 * moved, 0.0 if np.isfinite(sensitivity) else 100 * rounded)


def distance(a, b):
    return norm_of([np.asarray(a, np.longdouble) - b])


def norm_of(arrays):
    """The norm of all entries together, in long double: the square of a tiny one is no zero."""
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(a, np.longdouble))) for a in arrays)))


# Verifying

SIXTH = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
"""Weights of the central difference of sixth order."""


def differences(loss, params, name, entry, step):
    """Return a slope of sixth order along one entry."""

    def at(k):
        moved = np.array(params[name])
        moved.reshape(-1)[entry] += k * step
        return loss(params | {name: moved})

    return sum(weight * (at(k) - at(-k)) for k, weight in SIXTH.items()) / step


def disagreements(graph, tolerance=1e-6, entries=4, seed=0):
    """Return the entries where the textbook's gradient is not the slope, as lines; some of each parameter are asked.

    None where there is no one slope: the gradient jumps a hair away.
    """
    rng, lines = np.random.default_rng(seed), []
    with np.errstate(all="ignore"):
        asked = graph.cast(np.longdouble)
        try:
            size = abs(float(asked.loss(asked.params)))
        except TypeError:  # LAPACK has no long double
            asked, size = graph, abs(float(graph.loss(graph.params)))
        grads = asked.gradient(asked.params)
        whole = norm_of(grads.values())
        if jumps(asked, grads, whole, rng):
            return None
        noise = 30 * float(np.finfo(asked.x.dtype).eps) * size
        for name, g in grads.items():
            for entry in rng.permutation(g.size)[:entries]:
                told = g.reshape(-1)[entry]
                slopes = {step: differences(asked.loss, asked.params, name, entry, step) for step in STEPS}
                away = [abs(float(slope - told)) - noise / step for step, slope in slopes.items()]
                scale = max(abs(float(told)), 1e-4 * whole, 1e-9 * graph.size)
                # Where a gradient vanishes, the differences do so with their step.
                if not (min(away) <= tolerance * scale or away[-1] <= 1e-3 * away[0]):
                    seen = ", ".join(f"{slope:.6g}" for slope in slopes.values())
                    lines.append(f"{name}[{entry}]: told {told:.6g}, slopes {seen}: {graph}")
    return lines


STEPS = 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8


def jumps(graph, grads, whole, rng):
    """Whether the gradient is another one a hair away, and does not get there little by little: a kink."""

    def change(directions, step):
        moved = graph.gradient({name: w + step * directions[name] for name, w in graph.params.items()})
        return norm_of(moved[name] - g for name, g in grads.items())

    for _ in range(6):
        directions = {name: rng.normal(size=np.shape(w)) for name, w in graph.params.items()}
        near = change(directions, 1e-6)
        if not (near <= 1e-3 * whole or near <= 0.2 * change(directions, 1e-5)):
            return True
    return False


def verified(seed, family):
    found = disagreements(FAMILIES[family](seed))
    return None if found is None else [f"seed {seed} {line}" for line in found]


# Report


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", choices=FAMILIES, default="random")
    parser.add_argument("--buffers", choices=("float64", "float32"), help="hand in arrays instead of a function")
    parser.add_argument("--wrong", action="store_true", help="check each graph once more with an error planted")
    parser.add_argument("--verify", action="store_true", help="compare the graphs' own gradients with differences")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + options.graphs)
    if options.verify:
        work = partial(verified, family=options.family)
    else:
        work = partial(check_graph, family=options.family, buffers=options.buffers, wrong=options.wrong)
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(work, seeds, chunksize=4))
    if options.verify:
        lines = [line for found in results for line in found or ()]
        kinks = sum(found is None for found in results)
        print("\n".join(lines))
        print(f"{options.graphs} graphs, {kinks} of them on a kink; {len(lines)} entries differ")
        return int(bool(lines))
    tally, lines = Counter(), []
    for counts, found in results:
        tally.update(counts)
        lines += found
    print("\n".join(lines))
    print_tally(tally)
    return int(bool(lines))


def print_tally(tally):
    checks = tally["checks"]
    print(f"{tally['graphs']} graphs, {checks} checks")
    for case in ("right", "wrong"):
        counts = {verdict.name: tally[case, verdict.name] for verdict in Verdict}
        if sum(counts.values()):
            print(f"{case} parameters: {sum(counts.values())}: " + ", ".join(f"{n} {v}" for v, n in counts.items()))
    methods = {key[1]: count for key, count in tally.items() if key[0] == "method"}
    print("methods: " + ", ".join(f"{name} {count / checks:.1%}" for name, count in sorted(methods.items())))
    print(f"right checks with an INCONCLUSIVE: {tally['unclear'] / tally['graphs']:.2%}")
    print(f"right ones accused: {tally['accused']}; GOOD beyond the stated sensitivity: {tally['missed']}")
    print(f"{tally['evaluations'] / checks:.0f} evaluations and {1e3 * tally['cpu'] / checks:.1f} ms of CPU a check")


if __name__ == "__main__":
    sys.exit(main())
