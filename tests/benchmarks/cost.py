"""What a whole check costs beside one evaluation of loss and gradient: where all is well, and where one array is wrong.

Run it with ``python tests/benchmarks/cost.py``. A gradient is wrong in one array, which is doubled; each array is so in
turn, and the dearest counts. All checks of a network take turns with the unit in one process, and of each the quickest
of many counts, in seconds of the CPU: what others do on the machine only ever makes one slower. The unit is a loss and
a gradient, each with its own forward pass, as the check calls them.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import time
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import numpy as np
from networks import Network, SinglePrecision, flattened
from peers import available

from gc_hooks import Verdict, adapters, check_gradients, joint, nn
from gc_hooks.slopes.probes import automatic

PEER = "torch gradcheck, fast mode"
SECONDS = 1.5
"""Time for which the checks of one way and one outcome are repeated, of which ``--share`` takes a part."""
SLOW = 60
"""Evaluations of the unit from which on a check is not repeated."""


class Model(Network):
    """The same with any layers and inputs."""

    def __init__(self, layers, inputs, targets):
        model = nn.Sequential(layers, seed=0)
        self.batch, self.loss_scale, self.params = (inputs, targets), 1.0, dict(model.params)
        self.objective = nn.Objective(model, nn.SoftmaxCrossEntropy())


def convolutional():
    """Two convolutions, each with a pooling behind it, on images of 8 x 8."""
    rng = np.random.default_rng(0)
    layers = [nn.Conv2D(1, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2D(), nn.Conv2D(16, 32, 3, padding=1), nn.Tanh()]
    layers += [nn.MaxPool2D(), nn.Flatten(), nn.Dense(128, 10)]
    return Model(layers, rng.standard_normal((32, 8, 8, 1)), rng.integers(0, 10, 32))


def recurrent():
    """An LSTM of 64 units over 20 steps."""
    rng = np.random.default_rng(0)
    layers = [nn.LSTM(64, 64, last_step=True), nn.Dense(64, 10)]
    return Model(layers, rng.standard_normal((16, 20, 64)), rng.integers(0, 10, 16))


NETWORKS = {
    "digits, ReLU": lambda: Network((64, 128, 64, 10), nn.ReLU, 64),
    "dense, tanh": lambda: Network((64, 128, 64, 10), nn.Tanh, 64),
    "two convolutions": convolutional,
    "LSTM, 20 steps": recurrent,
    "784-256-128-10": lambda: Network((784, 256, 128, 10), nn.Tanh, 128),
    "1000-1000-1000-10": lambda: Network((1000, 1000, 1000, 10), nn.Tanh, 64),
}


def doubled(gradient, wrong):
    """Return a gradient function with one array doubled, or with none."""
    return lambda *args: {name: (1 + (name == wrong)) * array for name, array in gradient(*args).items()}


def pure(network, wrong, **options):
    return {"loss": network.loss, "params": network.params, "grads": doubled(network.gradient, wrong), **options}


class Trainer:
    """Arrays that a loss reads where they are, and buffers that backward fills."""

    def __init__(self, network, wrong):
        self.params = {name: array.copy() for name, array in network.params.items()}
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}
        self.loss = lambda: network.loss(self.params)
        self.gradient = doubled(network.gradient, wrong)

    def backward(self):
        for name, array in self.gradient(self.params).items():
            self.grads[name][...] = array


def by_dicts(network, wrong):
    trainer = Trainer(network, wrong)
    options = {"loss": trainer.loss, "backward": trainer.backward, "in_place": True}
    return adapters.dicts(trainer.params, trainer.grads, **options)


def by_layers(network, wrong):
    trainer = Trainer(network, wrong)
    layers = [SimpleNamespace(params={}, grads={}) for _ in trainer.params]
    for layer, name in zip(layers, trainer.params, strict=True):
        layer.params[name], layer.grads[name] = trainer.params[name], trainer.grads[name]
    return adapters.layers(layers, loss=trainer.loss, backward=trainer.backward)


def by_attributes(network, wrong):
    trainer = Trainer(network, wrong)
    names = {name: name.replace(".", "_") for name in trainer.params}
    arrays = {short: trainer.params[name] for name, short in names.items()}
    buffers = {f"d{short}": trainer.grads[name] for name, short in names.items()}
    model = SimpleNamespace(**arrays, **buffers)
    return adapters.attributes(model, list(arrays), loss=trainer.loss, backward=trainer.backward)


def in_single_precision(network, wrong):
    single = SinglePrecision(network)
    single.params = {name: array.astype(np.float32) for name, array in single.params.items()}
    return by_dicts(single, wrong)


WAYS = {
    "functions": pure,
    "dicts": by_dicts,
    "layers": by_layers,
    "attributes": by_attributes,
    "float32": in_single_precision,
    "slopes": partial(pure, probes=automatic),
    "joint": partial(pure, probes=joint),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="how long to measure, as a share of the usual time")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--ways", nargs="*", default=[*WAYS, PEER], metavar="NAME", help=", ".join((*WAYS, PEER)))
    options = parser.parse_args()
    ways = [way for way in options.ways if way in WAYS or way in available()]
    print("times of one loss and gradient: a good check / one with an array doubled (evaluations, gradients)")
    for name in options.networks:
        network = NETWORKS[name]()
        unit, found = measured(network, ways, options.share)
        print(f"\n{name}, {network.size:,} parameters, the unit takes {1e3 * unit:.2f} ms of the CPU")
        for way in ways:
            print(f"  {way:28}" + " / ".join(found[way]), flush=True)


def measured(network, ways, share):
    """Return the seconds of the unit, and for each way its costs, good and failing, for the table."""
    checks = {way: {wrong: prepared(network, way, wrong) for wrong in (None, *network.params)} for way in ways}
    times, said = defaultdict(list), {}
    for ones in checks.values():  # what is imported or computed once for the process is no part of a check
        ones[None]()
    unit, began = min(seconds(partial(evaluate, network))[0] for _ in range(5)), time.perf_counter()
    units, rounds, least = [], 0, 1 + len(network.params)
    while rounds < least or time.perf_counter() - began < share * SECONDS * 2 * len(ways):
        units.append(seconds(partial(evaluate, network))[0])
        for way, ones in checks.items():
            wrong_ones = list(network.params)
            for wrong in (None, wrong_ones[rounds % len(wrong_ones)]):
                if way == PEER and wrong:  # it would go on entry by entry, to say more of it
                    continue
                if times[way, wrong] and times[way, wrong][0] > SLOW * unit:
                    continue
                spent, said[way, wrong] = seconds(ones[wrong])
                times[way, wrong].append(spent)
        rounds += 1
    unit, found = min(units), {}
    for way in ways:
        failing = {wrong: min(spent) for (of, wrong), spent in times.items() if of == way and wrong}
        shown = [None, *sorted(failing, key=failing.__getitem__)[-1:]]
        found[way] = [cell(min(times[way, wrong]) / unit, said[way, wrong], wrong) for wrong in shown]
    return unit, found


def prepared(network, way, wrong):
    """Return a check as a function of nothing."""
    if way in WAYS:
        return partial(check_gradients, **WAYS[way](network, wrong))
    return partial(available()[way], *flattened(network, doubled(network.gradient, wrong)))


def evaluate(network):
    network.loss(network.params)
    network.gradient(network.params)


def seconds(function):
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def cell(ratio, said, wrong):
    """Return a ratio, marked where the check did not see what it had to."""
    if isinstance(said, bool):
        return f"{ratio:.1f}{'' if said is (wrong is None) else '!'}"
    is_seen = said.verdict is Verdict.GOOD if wrong is None else said.verdict > Verdict.INCONCLUSIVE
    return f"{ratio:.1f}{'' if is_seen else '!'} ({said.evaluations}, {said.gradients}{', ' + wrong if wrong else ''})"


if __name__ == "__main__":
    main()
