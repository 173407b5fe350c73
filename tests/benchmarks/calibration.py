"""Does the error bar cover the truth? Slopes of random networks, their bars, and how far off they really are.

Run it with ``python tests/benchmarks/calibration.py``. The truth is the slope by complex step in extended precision
(np.clongdouble: 64 bits of mantissa on x86), for a loss that computes in float32 that of its twin in float64.
Networks with exact kinks are left out, there is no slope there, and so are parameters whose true gradient is zero or
vanishes in the rounding of the others', which the check tells apart by a rule of its own.

Then the same is asked of a reference: does what it moves by, when every number on its way is rounded once more, bound
the rounding of a right backward pass? The truth is backprop in extended precision, for float32 that in float64.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from itertools import chain

import numpy as np
from networks import SinglePrecision, random_network

from gc_hooks import central, complex_step
from gc_hooks.arrays.norms import norm
from gc_hooks.numerics import REFERENCE_ROUNDINGS, ROUNDED_REFERENCES, USUALLY
from gc_hooks.problem.validate import build_problem
from gc_hooks.report.verdict import Tolerance
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.probes import Entry, direction_within, random_direction
from gc_hooks.tracing import Tracer

CERTAIN = Tolerance().certain
METHODS = {"complex step": complex_step, "central differences": central, "float32-only loss": central}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slopes", type=int, default=40_000)
    parser.add_argument("--parameters", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=200_000)
    options = parser.parse_args()
    print_slopes(options)
    print_references(options)


def print_slopes(options):
    if options.slopes == 0:
        return
    print(
        f"{'':22}{'slopes':>8}{'inside the bar':>16}{'bar / error':>13}{'inconclusive':>14}{'farthest outside':>18}"
        f"{'evaluations each':>18}"
    )
    for name, method in METHODS.items():
        rows, seed = [], options.seed
        while sum(map(len, rows)) < options.slopes:
            rows.append(slopes_of(seed, method, name.startswith("float32")))
            seed += 1
        print(line(name, np.concatenate(rows)), flush=True)


def print_references(options):
    """Print how well rounded references bound the rounding of backprop."""
    print(f"{'':22}{'parameters':>12}{'possible':>10}{'usual':>10}{'bound / error':>15}{'farthest':>10}")
    for name, kinds in (("float64", (np.float64, np.longdouble)), ("float32 buffers", (np.float32, np.float64))):
        rows, seed = [], options.seed
        while len(rows) < options.parameters:
            rows += roundings_of(seed, *kinds)
            seed += 1
        bounds, errors = np.transpose(rows)
        seen = errors > 0
        shares = [np.mean(errors <= bounds / less) for less in (1.0, USUALLY)]
        ratios = errors[seen] / np.maximum(bounds[seen], 1e-300)
        cells = f"{shares[0]:10.2%}{shares[1]:10.2%}{1 / np.median(ratios):15.1f}{np.max(ratios):10.2f}"
        print(f"{name:22}{len(rows):12}{cells}", flush=True)


def roundings_of(seed, kind, finer):
    """Return for each parameter what rounding is possible by the reference's account, and what it is."""
    network = random_network(np.random.default_rng(seed), seed, kinks=False)
    if network.stands_on_kink:
        return []
    inputs, targets = network.batch
    params = {name: array.astype(kind) for name, array in network.params.items()}
    batch = inputs.astype(kind), targets.astype(kind) if targets.dtype.kind == "f" else targets
    true = network.on(tuple(a.astype(finer) if a.dtype.kind == "f" else a for a in batch))[1](
        {name: array.astype(finer) for name, array in params.items()}
    )
    loss, gradient = network.on(batch)
    problem = build_problem(loss, params, gradient(params))
    tracer, generator = Tracer(problem), np.random.default_rng(seed)
    reference = tracer.trace(problem)
    squares = dict.fromkeys(params, 0.0)
    for _ in range(ROUNDED_REFERENCES):
        rounded = tracer.trace(problem, REFERENCE_ROUNDINGS * problem.precision, generator, reference)
        for name, array in rounded.gradients.items():
            squares[name] += np.sum(np.square(array - reference.gradients[name])) / ROUNDED_REFERENCES
    errors = {name: float(norm(np.asarray(problem.grads[name] - true[name], np.float64))) for name in params}
    return [(np.sqrt(squares[name]), errors[name]) for name in params]


def slopes_of(seed, method, single):
    """A row for each slope: its bar, its error, and what the verdict holds the bar against."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, seed, most=150 if seed % 25 == 0 else 24, kinks=False)
    if network.stands_on_kink:
        return np.empty((0, 4))
    checked = SinglePrecision(network) if single else network
    problem = build_problem(checked.loss, checked.params, checked.gradient)
    probes = [*some_entries(problem, rng), *some_directions(problem, rng)]
    slopes = Slopes.prepare(problem, method, rng)
    if method is complex_step and slopes.method != "complex_step":
        return np.empty((0, 4))
    measurements = Measurements.empty(problem, slopes.rounding(rng))
    slopes.measure(probes, measurements)
    rows = np.array(
        [*rows_of_entries(network, problem, measurements), *rows_of_directions(network, problem, measurements)]
    )
    return np.column_stack([rows, np.full(len(rows), problem.meter.evaluations / len(probes))])


def some_entries(problem, rng):
    for name, array in problem.point.items():
        for index in rng.choice(array.size, min(array.size, 12), replace=False):
            yield Entry(name, int(index), problem[name].scale)


def some_directions(problem, rng):
    yield random_direction(problem, rng)
    for _ in range(2):
        yield from (direction_within(parameter, rng) for parameter in problem)


def rows_of_entries(network, problem, measurements):
    for name in with_gradient(problem):
        measured = measurements.parameters[name]
        entries = measured.entries(problem.grads[name])
        typical = np.sqrt(np.mean(entries.slopes**2))
        floor = measurements.rounding.floors.get(name, 0.0) / np.sqrt(measured.size)
        bars = entries.total_errors(measurements.rounding, floor)
        for index, slope, bar in zip(entries.indices, entries.slopes, bars, strict=True):
            true = truth(network, problem.point, Entry(name, int(index), 1.0))
            yield bar, abs(slope - true), 2 * max(abs(slope), typical)


def rows_of_directions(network, problem, measurements):
    for reading in chain(
        measurements.joint, *(measurements.parameters[name].directions for name in with_gradient(problem))
    ):
        true = truth(network, problem.point, reading.probe)
        yield (
            reading.total_error(measurements.rounding),
            abs(reading.slope - true),
            2 * max(abs(reading.slope), reading.typical),
        )


def with_gradient(problem):
    sizes = {parameter.name: parameter.gradient_norm for parameter in problem}
    whole = np.linalg.norm(list(sizes.values()))
    return [name for name, size in sizes.items() if size > 100 * problem.precision * whole]


def truth(network, point, probe):
    """The slope in extended precision."""
    point = {name: array.astype(np.longdouble) for name, array in point.items()}
    shifted = {name: array.astype(np.clongdouble) for name, array in point.items()}
    step = np.longdouble(2.0) ** -200
    for name, change in directions_of(probe, point).items():
        shifted[name] = point[name] + np.clongdouble(1j) * (step * change)
    return float(np.imag(network.loss(shifted)) / step)


def directions_of(probe, point):
    if not isinstance(probe, Entry):
        return {name: vector.astype(np.longdouble) for name, vector in probe.vector.items()}
    unit = np.zeros_like(point[probe.name])
    unit.flat[probe.index] = 1
    return {probe.name: unit}


def line(name, rows):
    bars, errors, sizes, costs = rows.T
    seen = sizes > 0  # a slope that is exactly zero, and measured so, has neither bar nor error
    bars, errors, sizes = bars[seen], errors[seen], sizes[seen]
    inside, ratio = np.mean(errors <= bars), np.median(bars / np.maximum(errors, 1e-300))
    vague, outside = np.mean(bars > CERTAIN * sizes), np.max(errors / np.maximum(bars, 1e-300))
    return f"{name:22}{len(bars):8}{inside:16.3%}{ratio:13.1f}{vague:14.2%}{outside:18.2f}{np.mean(costs):18.1f}"


if __name__ == "__main__":
    main()
