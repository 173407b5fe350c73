"""False alarms and misses: verdicts on correct random networks, and on the same with a planted bug, peers beside.

Run it with ``python tests/benchmarks/detection.py --networks 650``. Each network is checked in five ways: as pure
functions, in place, with float32 parameters and a loss that computes in float64, and with losses that compute in
float32 only, because they cast or because they read float32 arrays in place. In each way the gradient is handed in as a
function and as arrays. ``--method slopes`` switches the reference off. Each peer that is installed (the extra
``bench``) gets the same loss and gradient as functions of one flat vector, with the tolerances of its documentation.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from networks import SinglePrecision, flattened, random_network
from peers import available

from gc_hooks import Verdict, central, check_gradients, entries, joint, per_parameter
from gc_hooks.slopes.probes import automatic

METHODS = {
    "reference": {},
    "slopes": {"probes": automatic},
    "central": {"method": central},
    "entries": {"probes": entries},
    "per_parameter": {"probes": per_parameter},
    "joint": {"probes": joint},
}
DOUBLE = ("pure", "in place", "float32 parameters")
SINGLE = ("float32 casts", "float32 in place")
BUGS = {
    "doubled": lambda g, rng: 2 * g,
    "sign": lambda g, rng: -g,
    "lost": lambda g, rng: 0 * g,
    "one entry x 1.5": lambda g, rng: with_one_entry(g, rng),
    "off by 1e-4": lambda g, rng: g * (1 + 1e-4 * rng.standard_normal(g.shape)).astype(g.dtype),
}


def with_one_entry(grad, rng):
    grad = grad.copy()
    grad.flat[rng.integers(grad.size)] *= 1.5
    return grad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=0, help="networks that the peers are shown, from the first on")
    parser.add_argument("--ways", nargs="*", default=DOUBLE + SINGLE)
    parser.add_argument("--method", choices=METHODS, default="reference")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--unclear", action="store_true", help="also list what is INCONCLUSIVE")
    options = parser.parse_args()
    tally, seeds = Counter(), range(options.seed, options.seed + options.networks)
    with ProcessPoolExecutor(options.processes) as pool:
        check = partial(
            check_network, ways=options.ways, method=options.method, peers_until=options.seed + options.peers
        )
        for counts, faults in pool.map(check, seeds, chunksize=4):
            tally.update(counts)
            for is_serious, fault in faults:
                if is_serious or options.unclear:
                    print(fault, flush=True)
    print_ours(tally, options.ways)
    print_peers(tally)


def check_network(seed, ways, method, peers_until):
    """Return the counts of verdicts on one network, and a line for each that is not as it should be."""
    rng, tally, faults = np.random.default_rng(seed), Counter(), []
    network = random_network(rng, seed)
    name, bug = str(rng.choice(list(network.params))), list(BUGS)[rng.integers(len(BUGS))]
    for way in ways:
        problem = Problem(network, way)
        for form in ("function", "arrays"):
            for case in ("right", "wrong", "doubled"):
                planted = {"right": None, "wrong": bug, "doubled": "doubled"}[case]
                visible = problem.difference(name, planted, seed) if planted else 0.0
                if planted and visible <= 1e-6:  # nothing there that could be wrong
                    continue
                report = problem.check(form, name, planted, seed, METHODS[method])
                tally[way, form, "method", report.method] += 1
                for found in report.parameters.values():
                    what = case if found.name == name and planted else "right"
                    is_unseen = found.verdict is Verdict.GOOD and visible > found.sensitivity and what != "right"
                    tally[way, form, what, found.verdict] += 1
                    tally[way, form, "unseen"] += is_unseen
                    is_accused = what == "right" and found.verdict > Verdict.INCONCLUSIVE
                    is_missed = what == "doubled" and found.verdict is not Verdict.WORRY
                    if is_accused or is_unseen or is_missed or found.verdict is Verdict.INCONCLUSIVE:
                        fault = f"{seed} {way}, {form}: {what} ({planted}) {found.name} {found.verdict}"
                        fault += f", {found.difference:.1e} ± {found.error:.0e}, off by {visible:.1e}"
                        fault += f", sensitivity {found.sensitivity:.1e}, {report.method}, {found.note} {report.notes}"
                        faults.append((is_accused or is_unseen, fault))
    if "pure" in ways and seed < peers_until:
        planted = partial(with_bug, network.gradient, name, BUGS[bug], seed)
        compare_peers(tally, network, planted, Problem(network, "pure").difference(name, bug, seed))
    return tally, faults


class Problem:
    """A network in one of the ways in which its arrays may live, with the gradient that is true there."""

    def __init__(self, network, way):
        self.in_place = way.endswith("in place")
        single = SinglePrecision(network)
        batch = network.batch if way in ("pure", "in place") else single.batch
        params = network.params if way in ("pure", "in place") else single.params
        kind = np.float32 if way in ("float32 parameters", "float32 in place") else np.float64
        self.params = {name: array.astype(kind) for name, array in params.items()}
        self.loss, self.gradient = network.on(batch)
        if way == "float32 casts":
            self.loss, self.gradient = single.loss, single.gradient
        self.true = network.on(batch)[1]({name: array.astype(np.float64) for name, array in params.items()})
        self.precision = float(np.finfo(np.float32 if way in SINGLE else np.float64).eps)

    def difference(self, name, bug, seed):
        """How wrong the gradient with a planted bug is, relative to the true one; 0 where that is lost in rounding."""
        whole = np.sqrt(sum(np.sum(g * g) for g in self.true.values()))
        size = np.linalg.norm(self.true[name])
        right = self.gradient(self.params)[name]
        if size <= 500 * self.precision * whole or np.linalg.norm(right - self.true[name]) > size / 2:
            return 0.0
        wrong = BUGS[bug](right, np.random.default_rng(seed))
        return np.linalg.norm(wrong - self.true[name]) / size

    def check(self, form, name, bug, seed, options):
        """Check the gradient, with a bug planted in one parameter."""
        gradient, loss, params = self.gradient, self.loss, self.params
        if bug:
            gradient = partial(with_bug, gradient, name, BUGS[bug], seed)
        if self.in_place:
            gradient, loss = partial(gradient, params), partial(loss, params)
        grads = gradient if form == "function" else gradient(*() if self.in_place else (params,))
        return check_gradients(loss, params, grads, in_place=self.in_place, seed=seed, **options)


def with_bug(gradient, name, bug, seed, params):
    grads = gradient(params)
    return {**grads, name: bug(grads[name], np.random.default_rng(seed))}


def compare_peers(tally, network, planted, visible):
    loss, correct, flat = flattened(network)
    wrong = flattened(network, planted)[1]
    for peer, passes in available().items():
        tally[peer, "correct", passes(loss, correct, flat)] += 1
        if visible > 1e-6:
            tally[peer, "wrong", passes(loss, wrong, flat)] += 1
    for probes in (None, joint):
        peer = "gc_hooks" + (", joint" if probes else "")
        for case, gradient in (("correct", network.gradient), ("wrong", planted)):
            if case == "correct" or visible > 1e-6:
                verdict = check_gradients(network.loss, network.params, gradient, probes=probes).verdict
                tally[peer, case, None if verdict is Verdict.INCONCLUSIVE else verdict is Verdict.GOOD] += 1


def print_ours(tally, ways):
    """Print a row for each way and form of the gradient."""
    titles = [
        "right",
        "accused",
        "unclear",
        "GOOD",
        "wrong",
        "missed",
        "WORRY",
        "doubled",
        "WORRY",
        "unclear",
        "hidden",
        "reference",
    ]
    print(f"{'':30}" + "".join(f"{title:>10}" for title in titles))
    for way in ways:
        for form in ("function", "arrays"):
            right, wrong, doubled = (_verdicts(tally, way, form, case) for case in ("right", "wrong", "doubled"))
            accused = right[Verdict.WORRY] + right[Verdict.DOUBLE_CHECK]
            methods = {key[3]: count for key, count in tally.items() if key[:3] == (way, form, "method")}
            cells = [
                f"{sum(right.values())}",
                f"{accused}",
                _share(right, Verdict.INCONCLUSIVE),
                _share(right, Verdict.GOOD),
                f"{sum(wrong.values())}",
                f"{tally[way, form, 'unseen']}",
                _share(wrong, Verdict.WORRY),
                f"{sum(doubled.values())}",
                _share(doubled, Verdict.WORRY),
                _share(doubled, Verdict.INCONCLUSIVE),
                _share(doubled, Verdict.GOOD),  # within the sensitivity that is stated: no gradient is left of rounding
                _share(methods, "reference"),
            ]
            print(f"{way + ', ' + form:30}" + "".join(f"{cell:>10}" for cell in cells), methods)


def _verdicts(tally, way, form, case):
    return {verdict: tally[way, form, case, verdict] for verdict in Verdict}


def _share(counts, key):
    whole = sum(counts.values())
    return f"{counts.get(key, 0) / whole:.2%}" if whole else "-"


def print_peers(tally):
    print(f"\n{'whole networks':34}{'correct':>9}{'accused':>9}{'wrong':>9}{'passed':>9}{'cannot tell':>13}")
    for peer in dict.fromkeys(key[0] for key in tally if key[1] == "correct" and len(key) == 3):
        count = {(c, v): tally[peer, c, v] for c in ("correct", "wrong") for v in (True, False, None)}
        right, bad = (sum(count[c, v] for v in (True, False, None)) for c in ("correct", "wrong"))
        unsure = count["correct", None] + count["wrong", None]
        print(f"{peer:34}{right:9}{count['correct', False]:9}{bad:9}{count['wrong', True]:9}{unsure:13}")


if __name__ == "__main__":
    main()
