"""The figures of docs/decisions: what the other choice would have done.

Run one part with ``python tests/benchmarks/decisions.py bands`` (or ``scipy``, which needs SciPy 1.15, ``signs``,
``methods``). The first takes two minutes, the others some seconds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from networks import random_network

from gc_hooks import Tolerance, Verdict, central, check_gradients, fixed_step, joint, per_parameter
from gc_hooks.slopes.methods import Curve
from gc_hooks.slopes.noise import measure_noise

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_own_methods import FivePoint, Network, checked, five_point


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    PARTS[parser.parse_args().part]()


# 001: the bands

BANDS = {
    "1e-7, 1e-5, 1e-3": {},
    "good = 1e-10": {"good": 1e-10},
    "good = 1e-8": {"good": 1e-8},
    "good = 1e-6": {"good": 1e-6},
    "certain = 1e-6": {"certain": 1e-6},
    "certain = 1e-4": {"certain": 1e-4},
}
WIDTHS = 13, 9, 9, 14, 9, 9
WAYS = {"complex step": None, "central differences": central}


def bands(networks=60, seed=700_000):
    """Judge correct random networks, and the same with one gradient off by a relative 1e-3 to 1e-8, by other bands."""
    counts = Counter()
    for number in range(seed, seed + networks):
        rng = np.random.default_rng(number)
        network = random_network(rng, number, kinks=False)
        norms = {name: np.linalg.norm(grad) for name, grad in network.gradient(network.params).items()}
        planted = partial(off_by, network, max(norms, key=norms.get), 10 ** rng.uniform(-8, -3), number)
        for way, method in WAYS.items():
            for title, options in BANDS.items():
                settings = {"method": method, "tolerance": Tolerance(**options)}
                for gradient in (network.gradient, planted):
                    verdict = check_gradients(network.loss, network.params, gradient, **settings).verdict
                    counts[way, title, gradient is planted, min(verdict, Verdict.DOUBLE_CHECK)] += 1
    columns = (Verdict.GOOD, Verdict.INCONCLUSIVE, Verdict.DOUBLE_CHECK)
    print(f"{networks} networks, each by its worst parameter")
    print(f"{'':40}correct: good  unclear  accused   wrong: good  unclear  accused")
    for way in WAYS:
        for title in BANDS:
            correct, wrong = ([counts[way, title, side, verdict] for verdict in columns] for side in (False, True))
            print(
                f"{way + ', ' + title:40}" + "".join(f"{n:{w}}" for n, w in zip(correct + wrong, WIDTHS, strict=True))
            )


def off_by(network, name, size, seed, params):
    """Return the gradient with one parameter's moved by ``size`` of its norm, in a random direction."""
    grads = network.gradient(params)
    direction = np.random.default_rng(seed).standard_normal(grads[name].shape)
    return {**grads, name: grads[name] + direction * size * np.linalg.norm(grads[name]) / np.linalg.norm(direction)}


# 005: central differences of our own


def scipy(starts=200):
    """Say how often an error estimate covers the true error: `central` beside scipy.differentiate.derivative."""
    from scipy.differentiate import derivative

    def bent(x):
        return np.where(x > 0.3, x, 0.1 * x + 0.27)

    functions = {
        "sin": (np.sin, np.cos),
        "1e3 + sin": (lambda x: 1e3 + np.sin(x), np.cos),
        "near a kink": (lambda x: bent(x) ** 2, lambda x: 2 * bent(x) * np.where(x > 0.3, 1.0, 0.1)),
        "sin in float32": (lambda x: np.float64(np.sin(np.float32(x))), np.cos),
    }
    print(f"{'':16}{'':10}{'covers':>10}{'median error':>14}{'evaluations':>13}")
    for title, (function, slope) in functions.items():
        rng = np.random.default_rng(0)
        rows = {"scipy": [], "central": []}
        for x in 0.3 + 0.3 * rng.normal(size=starts):
            theirs, line = derivative(function, x), Curve(function, x)
            ours = central(line, noise=measure_noise(line))
            rows["scipy"].append((abs(theirs.df - slope(x)), theirs.error, theirs.nfev))
            rows["central"].append((abs(ours.value - slope(x)), ours.error, ours.evaluations))
        for whose, figures in rows.items():
            off, error, evaluations = np.array(figures, dtype=float).T
            print(
                f"{title:16}{whose:10}{np.mean(off <= error):10.1%}{np.median(off):14.1e}{np.mean(evaluations):13.1f}"
            )


# 007: directions with normal entries


def signs(draws=20_000, size=100):
    """How often an error in two entries leaves all residuals below a thousandth of it, along K random directions."""
    rng = np.random.default_rng(0)
    print(f"{'unseen along K directions':34}{'K = 1':>10}{'2':>10}{'4':>10}")
    for title, error in (("two equal errors", (1.0, 1.0)), ("two entries exchanged", (1.0, -1.0))):
        for kind in ("signs", "normal"):
            row = []
            for k in (1, 2, 4):
                directions = rng.standard_normal((draws, k, size))
                if kind == "signs":
                    directions = np.sign(directions)
                residuals = np.abs(directions[..., :2] @ np.array(error))
                row.append(np.mean(np.all(residuals < 1e-3 * np.linalg.norm(error), axis=1)))
            print(f"{title + ', ' + kind:34}" + "".join(f"{100 * share:9.2f}%" for share in row))


# 009: methods have traits


def methods(seeds=60):
    """Own methods on correct code whose loss computes in float32, and what a passing check costs."""
    stencil = Counter()
    for seed in range(4):
        network = Network(seed, inputs=20, hidden=30, samples=16, single=True)
        for method in (five_point, FivePoint()):
            stencil[checked(network, method, probes=per_parameter).verdict.name] += 1
    print("five_point, as a function and as a class:", dict(stencil))
    for step in (1e-4, 1e-5, 1e-6):
        verdicts = Counter(checked(Network(seed, single=True), fixed_step(step)).verdict.name for seed in range(seeds))
        print(f"fixed_step({step:g}):", dict(verdicts))

    def mine(line, *, scale, noise):
        return central(line, scale=scale, noise=noise)

    network = Network(0, inputs=20, hidden=30, samples=16)
    for probes in (None, per_parameter, joint):
        costs = {
            m.__name__: checked(network, m, probes=probes).evaluations for m in (central, mine, five_point, FivePoint())
        }
        print(f"evaluations, probes={getattr(probes, '__name__', None)}:", costs)


PARTS = {"bands": bands, "scipy": scipy, "signs": signs, "methods": methods}

if __name__ == "__main__":
    main()
