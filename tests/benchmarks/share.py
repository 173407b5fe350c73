"""The hook's own figure for its share of the training time, on the digits example.

Run it with ``python tests/benchmarks/share.py``; the share is that of a long run, the middle one of three. One line is
with a log for TensorBoard.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib
import statistics
import sys
import tempfile
from pathlib import Path

from gc_hooks import GradCheckHook, TensorBoardReporter

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
digits = importlib.import_module("02_train_digits")

SCHEDULES = {
    "every=1000": {"after": None, "every": 1000},
    "every=100": {"after": None, "every": 100},
    "every=100, with a log": {"after": None, "every": 100, "log_dir": True},
    "after=500, as in the demo": {"after": 500},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    data = digits.load_digits()[:2]
    print(f"{'schedule':28}{'steps':>8}{'checks':>8}{'share':>8}{'slopes, ms':>12}")
    for name, schedule in SCHEDULES.items():
        runs = [train(data, schedule, options.epochs) for _ in range(options.repeats)]
        share, steps, checks, milliseconds = statistics.median_low(runs)
        print(f"{name:28}{steps:8}{checks:8}{share:8.1%}{milliseconds:12.2f}", flush=True)


def train(data, schedule, epochs):
    with tempfile.TemporaryDirectory() as folder:
        reporters = [TensorBoardReporter(folder)] if schedule.get("log_dir") else []
        hook = GradCheckHook(**{**schedule, "log_dir": None}, reporters=reporters)
        trainer = digits.build_trainer(hook)
        trainer.fit(*data, epochs=epochs, batch_size=32)
    assert all(report.ok for report in hook.reports)
    last = [report.seconds for report in hook.reports[-20:]]
    return hook.share, trainer.step, len(hook.reports), 1e3 * statistics.median(last)


if __name__ == "__main__":
    main()
