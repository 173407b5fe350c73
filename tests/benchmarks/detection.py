"""False alarms and misses: verdicts on correct random networks, and on the same with a planted bug.

Run it with ``python tests/benchmarks/detection.py --networks 300``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections import Counter

import numpy as np
from networks import random_network

from gc_hooks import Verdict, central, check_gradients, entries, joint, per_parameter

DEPTHS = {"default": None, "entries": entries, "per_parameter": per_parameter, "joint": joint}
METHODS = {"complex step": None, "central": central}
BUGS = {
    "doubled": lambda g, rng: 2 * g,
    "sign": lambda g, rng: -g,
    "lost": lambda g, rng: 0 * g,
    "one entry x 1.5": lambda g, rng: with_one_entry(g, rng),
}


def with_one_entry(grad, rng):
    grad = grad.copy()
    grad.flat[rng.integers(grad.size)] *= 1.5
    return grad


def ratio(first, second):
    size = np.linalg.norm(first) + np.linalg.norm(second)
    return np.linalg.norm(first - second) / size if size > 0 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=100_000)
    options = parser.parse_args()
    clean = {(m, d): Counter() for m in METHODS for d in DEPTHS}
    wrong = {key: Counter() for key in clean}
    for seed in range(options.seed, options.seed + options.networks):
        examine(seed, clean, wrong)
    for title, counts in (("correct parameters", clean), ("wrong parameters (difference above 1e-6)", wrong)):
        print(f"\n{title:42}" + "".join(f"{verdict!s:>14}" for verdict in Verdict))
        for (method, depth), counter in counts.items():
            print(f"{method:14}{depth:28}" + "".join(f"{counter[verdict]:14}" for verdict in Verdict))


def examine(seed, clean, wrong):
    rng = np.random.default_rng(seed)
    network = random_network(rng, seed)
    grads = network.gradient(network.params)
    name = str(rng.choice(list(grads)))
    bug = list(BUGS.values())[rng.integers(len(BUGS))]
    planted = {**grads, name: bug(grads[name], rng)}
    visible = ratio(planted[name], grads[name]) > 1e-6
    for method, chosen in METHODS.items():
        for depth, probes in DEPTHS.items():
            settings = {"probes": probes, "method": chosen, "seed": seed}
            report = check_gradients(network.loss, network.params, grads, **settings)
            clean[method, depth].update(c.verdict for c in report.parameters.values())
            if visible:
                report = check_gradients(network.loss, network.params, planted, **settings)
                wrong[method, depth][report.parameters[name].verdict] += 1


if __name__ == "__main__":
    main()
