"""What a passing check costs: evaluations, and time as a ratio to one evaluation of loss and gradient.

Run it with ``python tests/benchmarks/cost.py``; ratios are medians of checks that take turns with the unit in one run.
Beside them, where PyTorch is installed, its fast gradcheck on the same loss and gradient as functions of a flat vector.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from functools import partial

import numpy as np
from networks import Network, flattened
from peers import available

from gc_hooks import central, check_gradients, joint, nn, per_parameter

SIZES = (
    ((20, 30, 10), 64),
    ((64, 128, 64, 10), 64),
    ((300, 256, 64, 10), 64),
    ((784, 256, 128, 10), 128),
    ((1000, 800, 200, 10), 64),
)
CHECKS = {
    "joint": {"probes": joint},
    "per_parameter": {"probes": per_parameter},
    "default": {},
    "joint, real only": {"probes": joint, "method": central},
}


PEER = "torch gradcheck, fast mode"


def seconds(function):
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    columns = [*CHECKS, *(peer for peer in available() if peer == PEER)]
    print(f"{'entries':>8}  {'batch':>5}  activation  " + "  ".join(f"{name:>26}" for name in columns))
    for sizes, samples in SIZES:
        for activation in (nn.ReLU, nn.Tanh):
            network = Network(sizes, activation, samples)
            print(f"{network.size:8}  {samples:5}  {activation.__name__:10}  {row(network, repeats)}", flush=True)


def row(network, repeats):
    grads = network.gradient(network.params)
    peers = [check for peer, check in available().items() if peer == PEER]
    units, times, reports = [], {name: [] for name in (*CHECKS, PEER)}, {}
    for seed in range(repeats):
        units.append(seconds(lambda: (network.loss(network.params), network.gradient(network.params)))[0])
        for name, options in CHECKS.items():
            spent, reports[name] = seconds(
                partial(check_gradients, network.loss, network.params, grads, seed=seed, **options)
            )
            times[name].append(spent)
        for peer in peers:
            spent, _ = seconds(partial(peer, *flattened(network)))
            times[PEER].append(spent)
    unit = np.median(units)
    cells = [cell(reports[name], np.median(times[name]) / unit) for name in CHECKS]
    return "  ".join([*cells, *(f"{np.median(times[PEER]) / unit:.1f}x".rjust(26) for _ in peers)])


def cell(report, ratio):
    complex_part = f" ({report.complex_evaluations} complex)" if report.complex_evaluations else ""
    good = "" if report.ok else "!"
    return f"{good}{report.evaluations}{complex_part}, {ratio:.1f}x".rjust(26)


if __name__ == "__main__":
    main()
