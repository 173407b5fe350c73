"""What a call of the hook costs when no check is due, beside an empty function that takes the same keywords.

Run it with ``python tests/benchmarks/overhead.py``; nanoseconds a call, medians of blocks that are measured in turns.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from gc_hooks import GradCheckHook, any_of, at, drift, every

CALLS, BLOCKS = 20_000, 41


def empty(step, *, loss, params, grads):
    """A function that does nothing."""


def cost(params):
    raise AssertionError("no check is due")


def hooks(params):
    """Hooks that have had their first calls, and will not be due for long."""
    made = {
        "after=10**9 (the default's kind)": GradCheckHook(after=10**9, reporters=[]),
        "after=10**9, every=10**9": GradCheckHook(after=10**9, every=10**9, reporters=[]),
        "schedule=any_of(at(0), every(10**9))": GradCheckHook(schedule=any_of(at(0), every(10**9)), reporters=[]),
        f"schedule=drift(0.5), {params['W'].size} weights": GradCheckHook(schedule=drift(0.5), reporters=[]),
    }
    for hook in made.values():
        for step in range(3):
            hook.on_step(step, loss=lambda p: np.sum(p["W"] ** 2), params=params, grads={"W": 2 * params["W"]})
    return made


def nanoseconds(function, params, calls):
    began = time.perf_counter()
    for step in range(calls):
        function(step, loss=cost, params=params, grads=params)
    return 1e9 * (time.perf_counter() - began) / calls


def measure(calls=CALLS, blocks=BLOCKS):
    """Nanoseconds a call for the empty function and for each hook."""
    params = {"W": np.random.default_rng(0).standard_normal((100, 10))}
    functions = {"an empty function": empty} | {name: hook.on_step for name, hook in hooks(params).items()}
    blocks_of = {name: [] for name in functions}
    for _ in range(blocks):
        for name, function in functions.items():
            blocks_of[name].append(nanoseconds(function, params, calls))
    return {name: statistics.median(times) for name, times in blocks_of.items()}


def main():
    medians = measure()
    base = medians["an empty function"]
    print(f"{'hook.on_step, nothing due':45}{'ns a call':>10}{'beyond':>10}")
    for name, median in medians.items():
        print(f"{name:45}{median:10.0f}{median - base:10.0f}")


if __name__ == "__main__":
    main()
