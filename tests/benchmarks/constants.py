"""What half and double of a number in gc_hooks/numerics.py do to verdicts and to the cost, on random networks.

Run it with ``python tests/benchmarks/constants.py TRUSTED SAFETY``; without names it tries every number. Four ways:
complex step and central differences in float64, a loss that computes in float32, and gradients handed in as float32
buffers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import ast
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from detection import BUGS, difference, with_bug
from networks import SinglePrecision, random_network

from gc_hooks import Verdict, central, check_gradients, numerics

WAYS = ("complex step", "central", "float32 loss", "float32 buffers")
COLUMNS = ("accused", "unclear", "missed", "wrong unclear", "evaluations")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=numbers())
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--seed", type=int, default=200_000)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.networks)
    print(f"{'':34}" + "".join(f"{way:^42}" for way in WAYS))
    print(f"{'':34}" + len(WAYS) * "".join(f"{column.split()[-1][:8]:>8}" for column in COLUMNS))
    for name, factor in [("as it is", 1.0), *((name, factor) for name in options.names for factor in (0.5, 2.0))]:
        tally = Counter()
        with ProcessPoolExecutor() as pool:
            for counts in pool.map(partial(check_network, name=name, factor=factor), seeds, chunksize=4):
                tally.update(counts)
        cells = "".join(f"{tally[way, column]:8}" for way in WAYS for column in COLUMNS)
        print(f"{name:24}{'' if factor == 1 else f'x {factor:<6g}':10}{cells}", flush=True)


def numbers():
    """Return the names of all single numbers in gc_hooks/numerics.py, but for the machine's own."""
    tree = ast.parse(Path(numerics.__file__).read_text(encoding="utf-8"))
    names = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names += [name.id for name in ast.walk(node.targets[0]) if isinstance(name, ast.Name)]
    return [name for name in names if name != "EPS" and isinstance(getattr(numerics, name), (int, float))]


def scale(name, factor):
    """Multiply a number wherever a module of the package has imported it."""
    value = getattr(numerics, name)
    scaled = max(1, round(value * factor)) if isinstance(value, int) else value * factor
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("gc_hooks") and module is not numerics and hasattr(module, name):
            setattr(module, name, scaled)


def check_network(seed, name, factor):
    """Return the counts of verdicts on a correct network and on the same with a bug."""
    if factor != 1:
        scale(name, factor)
    rng, tally = np.random.default_rng(seed), Counter()
    network = random_network(rng, seed)
    wrong = str(rng.choice(list(network.params)))
    bug = list(BUGS.values())[rng.integers(len(BUGS))]
    for way in WAYS:
        tested = SinglePrecision(network) if way == "float32 loss" else network
        planted = partial(with_bug, tested, wrong, bug, seed)
        method = central if way == "central" else None
        for gradient in (tested.gradient, planted):
            params, grads = tested.params, gradient
            if way == "float32 buffers":
                params = {key: array.astype(np.float32) for key, array in tested.params.items()}
                grads = {key: array.astype(np.float32) for key, array in gradient(params).items()}
            report = check_gradients(tested.loss, params, grads, method=method, seed=seed)
            tally[way, "evaluations"] += report.evaluations
            if gradient is not planted:
                verdicts = [comparison.verdict for comparison in report.parameters.values()]
                tally[way, "accused"] += sum(verdict > Verdict.INCONCLUSIVE for verdict in verdicts)
                tally[way, "unclear"] += verdicts.count(Verdict.INCONCLUSIVE)
            elif difference(network, tested, planted, wrong) > 1e-6:
                verdict = report.parameters[wrong].verdict
                tally[way, "missed"] += verdict is Verdict.GOOD
                tally[way, "wrong unclear"] += verdict is Verdict.INCONCLUSIVE
    return tally


if __name__ == "__main__":
    main()
