"""The confusion table of the diagnosis: planted bugs, and by which names they were called.

Run it with ``python tests/benchmarks/diagnosis.py``: the bugs of the zoo, three activations, several sizes of
parameters, and seeds that the tests do not use. ``--method slopes`` switches the reference off.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bug_zoo import BUGS
from gc_hooks import check_gradients
from gc_hooks.slopes.probes import automatic

METHODS = {"reference": {}, "slopes": {"probes": automatic}}
OUTCOMES = ("right code first", "right code among others", "nothing named", "wrong code")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[5, 8, 30, 300])
    parser.add_argument("--seeds", type=int, default=3, help="networks for each bug, activation and width")
    parser.add_argument("--method", choices=METHODS, default="reference")
    options = parser.parse_args()
    print(f"{'entries':>9}{'bugs':>7}" + "".join(f"{outcome:>26}" for outcome in OUTCOMES) + "   confusions")
    for width in options.widths:
        seeds = range(1000, 1000 + (1 if width > 100 else options.seeds))
        cases = [
            (bug, activation, seed) for bug in BUGS for activation in ("tanh", "sigmoid", "relu") for seed in seeds
        ]
        with ProcessPoolExecutor() as pool:
            called = partial(outcome, width, METHODS[options.method])
            results = list(pool.map(called, *zip(*cases, strict=True), chunksize=8))
        tally = Counter(what for what, _ in results)
        confused = Counter(detail for what, detail in results if what == "wrong code" or what == "nothing named")
        cells = "".join(f"{tally[what]:17} ({tally[what] / len(cases):6.2%})" for what in OUTCOMES)
        print(f"{4 * width + 3 * width**2 + 7 * width + 3:9}{len(cases):7}{cells}   {dict(confused)}", flush=True)


def outcome(width, how, bug, activation, seed):
    planted = BUGS[bug]
    loss, params, gradient, options = planted.case(activation, width, seed)
    report = check_gradients(loss, params, gradient, seed=seed, **how, **options)
    codes = [diagnosis.code for diagnosis in report.diagnoses]
    about = {name for diagnosis in report.diagnoses for name in diagnosis.parameters}
    if codes and codes[0] in planted.codes and about == set(planted.parameters):
        return OUTCOMES[0], ""
    if set(codes) & set(planted.codes):
        return OUTCOMES[1], ""
    unnamed = not codes or set(codes) == {"unexplained"}
    return OUTCOMES[2 if unnamed else 3], f"{bug}: {', '.join(codes) or report.verdict}"


if __name__ == "__main__":
    main()
