"""A long training with many checks: what memory, file descriptors, threads and the event file do.

Run it with ``python tests/benchmarks/soak.py`` (``--steps 100000 --every 100``); a line for each tenth of the run.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gc_hooks import GradCheckHook, every, nn


class Sample(NamedTuple):
    """What the process holds at one moment."""

    step: int
    checks: int
    traced: int
    resident: int
    descriptors: int
    threads: int
    log: int


class Sampler(nn.trainer.Callback):
    """Takes samples on the way."""

    def __init__(self, hook, log_dir, period):
        self.hook, self.log_dir, self.period, self.samples = hook, Path(log_dir), period, []

    def on_batch_end(self, state):
        if state.step % self.period == 0:
            self.samples.append(self._sample(state.step))

    def _sample(self, step):
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
        log = sum(file.stat().st_size for file in self.log_dir.rglob("*tfevents*"))
        checks, descriptors = len(self.hook.reports), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it is no path
        return Sample(step, checks, traced, _resident(), descriptors, threading.active_count(), log)


def _resident():
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def soak(steps, period, log_dir, parts=10):
    """Train so many steps with a check in every so many; samples at equal distances, and how long it took."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=256)
    inputs = rng.normal(size=(256, 8)) + 2 * np.eye(3, 8)[labels]
    model = nn.Sequential([nn.Dense(8, 16), nn.Tanh(), nn.Dense(16, 3)])
    hook = GradCheckHook(schedule=every(period), reporters=[], log_dir=log_dir)
    sampler = Sampler(hook, log_dir, steps // parts)
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(1e-3), callbacks=[hook, sampler])
    began = time.perf_counter()
    trainer.fit(inputs, labels, epochs=steps // 16, batch_size=16, progress=False)
    hook.close()
    return sampler.samples, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--trace", action="store_true", help="also count Python's own allocations, which is slow")
    chosen = parser.parse_args()
    if chosen.trace:
        tracemalloc.start()
    with tempfile.TemporaryDirectory() as log_dir:
        samples, seconds = soak(chosen.steps, chosen.every, log_dir)
    print(f"{'step':>8}{'checks':>8}{'resident':>12}{'traced':>12}{'files':>7}{'threads':>9}{'log':>12}{'a check':>10}")
    for s in samples:
        mega = (f"{size / 2**20:9.1f} MB" for size in (s.resident, s.traced, s.log))
        resident, traced, log = mega
        each = f"{s.log / s.checks / 1024:7.1f} kB"
        print(f"{s.step:8}{s.checks:8}{resident}{traced}{s.descriptors:7}{s.threads:9}{log}{each}")
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
