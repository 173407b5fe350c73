"""False alarms and misses: verdicts on correct random networks, and on the same with a planted bug, peers beside.

Run it with ``python tests/benchmarks/detection.py --networks 1000``. Each peer that is installed (the extra ``bench``)
gets the same loss and gradient as functions of one flat vector, with the tolerances of its documentation.
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

DEPTHS = {"default": None, "entries": entries, "per_parameter": per_parameter, "joint": joint}
WAYS = ("complex step", "central", "float32 only")
BUGS = {
    "doubled": lambda g, rng: 2 * g,
    "sign": lambda g, rng: -g,
    "lost": lambda g, rng: 0 * g,
    "one entry x 1.5": lambda g, rng: with_one_entry(g, rng),
    "off by 1e-4": lambda g, rng: g * (1 + 1e-4 * rng.standard_normal(g.shape)),
}


def with_one_entry(grad, rng):
    grad = grad.copy()
    grad.flat[rng.integers(grad.size)] *= 1.5
    return grad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=100, help="networks that the peers are shown, from the first on")
    parser.add_argument("--ways", nargs="*", default=WAYS)
    options = parser.parse_args()
    tally, seeds = Counter(), range(options.seed, options.seed + options.networks)
    with ProcessPoolExecutor() as pool:
        for counts in pool.map(
            partial(check_network, ways=options.ways, peers_until=options.seed + options.peers), seeds, chunksize=4
        ):
            tally.update(counts)
    print_ours(tally)
    print_peers(tally)


def check_network(seed, ways, peers_until):
    """Return the counts of verdicts on one network."""
    rng, tally = np.random.default_rng(seed), Counter()
    network = random_network(rng, seed)
    name, bug = str(rng.choice(list(network.params))), list(BUGS.values())[rng.integers(len(BUGS))]
    for way in ways:
        tested = SinglePrecision(network) if way == "float32 only" else network
        planted = partial(with_bug, tested, name, bug, seed)
        visible = difference(network, tested, planted, name)
        method = central if way == "central" else None
        for depth, probes in DEPTHS.items():
            check = partial(check_gradients, tested.loss, tested.params, probes=probes, method=method, seed=seed)
            verdicts = check(tested.gradient).parameters.values()
            tally.update((way, depth, "correct", comparison.verdict) for comparison in verdicts)
            if visible > 1e-6:
                comparison = check(planted).parameters[name]
                tally[way, depth, "wrong", comparison.verdict] += 1
                tally[way, depth, "unseen"] += comparison.verdict is Verdict.GOOD and visible > comparison.sensitivity
        if way == "complex step" and seed < peers_until:
            compare_peers(tally, network, planted, visible)
    return tally


def with_bug(network, name, bug, seed, params):
    grads = network.gradient(params)
    return {**grads, name: bug(grads[name], np.random.default_rng(seed))}


def difference(network, tested, planted, name):
    """How wrong the planted gradient is, relative to the true one (which a float32 network has in float64)."""
    true = network.gradient(tested.params)
    whole = np.sqrt(sum(np.sum(g * g) for g in true.values()))
    size = np.linalg.norm(true[name])
    if size <= 1e-13 * whole:  # nothing there that could be wrong
        return 0.0
    return np.linalg.norm(planted(tested.params)[name] - true[name]) / size


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


def print_ours(tally):
    for case in ("correct", "wrong"):
        title = "correct parameters" if case == "correct" else "wrong parameters (by more than 1e-6)"
        print(f"\n{title:42}" + "".join(f"{verdict!s:>14}" for verdict in Verdict))
        for way in WAYS:
            for depth in DEPTHS:
                row = "".join(f"{tally[way, depth, case, verdict]:14}" for verdict in Verdict)
                print(f"{way:14}{depth:28}{row}")
    print("\nGOOD although wrong by more than the stated sensitivity:")
    for way in WAYS:
        print(f"{way:14}" + ", ".join(f"{depth} {tally[way, depth, 'unseen']}" for depth in DEPTHS))


def print_peers(tally):
    print(f"\n{'whole networks':34}{'correct':>9}{'accused':>9}{'wrong':>9}{'passed':>9}{'cannot tell':>13}")
    for peer in dict.fromkeys(key[0] for key in tally if key[1] == "correct" and len(key) == 3):
        count = {(c, v): tally[peer, c, v] for c in ("correct", "wrong") for v in (True, False, None)}
        right, bad = (sum(count[c, v] for v in (True, False, None)) for c in ("correct", "wrong"))
        unsure = count["correct", None] + count["wrong", None]
        print(f"{peer:34}{right:9}{count['correct', False]:9}{bad:9}{count['wrong', True]:9}{unsure:13}")


if __name__ == "__main__":
    main()
