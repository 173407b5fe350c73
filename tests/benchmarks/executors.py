"""How much faster an exhaustive check of 20,000 entries is over processes, one BLAS thread each, beside serial ones.

Run it with ``python tests/benchmarks/executors.py``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

from networks import Network

from gc_hooks import check_gradients, entries, nn

NETWORK = Network((120, 140, 20, 10), nn.Tanh, 64)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    with ProcessPoolExecutor(options.workers) as pool:
        check(pool, max_evaluations=100)  # the workers are started and have imported everything
        for _ in range(options.repeats):
            (serial, alone), (spread, together) = check(), check(pool)
            assert alone.parameters == together.parameters
            ratios.append(serial / spread)
            print(f"{NETWORK.size} entries: serial {serial:.1f} s, {options.workers} processes {spread:.1f} s")
    print(f"median: {statistics.median(ratios):.2f} times as fast")


def check(executor=None, **limits):
    began = time.perf_counter()
    grads = NETWORK.gradient(NETWORK.params)
    report = check_gradients(NETWORK.loss, NETWORK.params, grads, probes=entries, executor=executor, **limits)
    return time.perf_counter() - began, report


if __name__ == "__main__":
    main()
