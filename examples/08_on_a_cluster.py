"""An exhaustive check, entry by entry, spread over a Dask cluster; here one on this machine.

Run it with ``python examples/08_on_a_cluster.py``. With the address of a scheduler (``--address tcp://...:8786``) the
same check runs on an existing cluster, whose workers need NumPy and gc_hooks. It takes some seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from functools import partial

import numpy as np

from gc_hooks import check_gradients, entries

try:
    from distributed import Client, LocalCluster
except ImportError as missing:
    sys.exit(f"This example needs Dask ({missing}). Try pip install gc_hooks[distributed].")


def forward(params, inputs):
    return np.tanh(inputs @ params["W1"] + params["b1"])


def loss(params, inputs, targets):
    """At the top of a module, so that it can be sent to a worker: a lambda cannot."""
    return 0.5 * np.mean((forward(params, inputs) @ params["W2"] - targets) ** 2)


def backward(params, inputs, targets, bug=False):
    hidden = forward(params, inputs)
    upstream = (hidden @ params["W2"] - targets) / targets.size
    below = upstream @ params["W2"].T * (1 - hidden**2)
    grads = {"W1": inputs.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ upstream}
    if bug:
        grads["W1"][3, 4] *= 1.001  # one entry of 1,500, by a thousandth
    return grads


def problem(seed=0):
    rng = np.random.default_rng(seed)
    inputs, targets = rng.standard_normal((200, 30)), rng.standard_normal((200, 5))
    shapes = {"W1": (30, 50), "b1": (50,), "W2": (50, 5)}
    return {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}, inputs, targets


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a running scheduler; by default a cluster is started here")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bug", action="store_true", help="make one entry of the gradient wrong")
    options = parser.parse_args(arguments)
    params, inputs, targets = problem()
    with ExitStack() as stack:
        local = {"n_workers": options.workers, "threads_per_worker": 1, "dashboard_address": None}
        cluster = options.address or stack.enter_context(LocalCluster(**local))
        client = stack.enter_context(Client(cluster))
        began = time.perf_counter()
        report = check_gradients(
            partial(loss, inputs=inputs, targets=targets),
            params,
            partial(backward, inputs=inputs, targets=targets, bug=options.bug),
            probes=entries,
            executor=client.get_executor(),
        )
        print(f"{report}\n\n{report.evaluations} evaluations over {cluster}: {time.perf_counter() - began:.1f} s")
    return report


if __name__ == "__main__":
    main()
