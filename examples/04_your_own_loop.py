"""A loop of one's own: a network in plain NumPy, the hook attached in one line, and then a mistake planted in it.

Run it with ``python examples/04_your_own_loop.py``; it takes about a second.
"""

from __future__ import annotations

import numpy as np

from gc_hooks import GradCheckHook, adapters

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(64, 5))
TARGETS = np.sin(INPUTS[:, :1]) + 0.1 * RNG.normal(size=(64, 1))


class Net:
    """Two layers whose parameters are attributes, as in a thousand notebooks; the mistake is in ``db1``."""

    def __init__(self, mistake: bool):
        draw = np.random.default_rng(1).normal
        self.W1, self.b1 = 0.5 * draw(size=(5, 16)), np.zeros(16)
        self.W2, self.b2 = 0.5 * draw(size=(16, 1)), np.zeros(1)
        self.mistake = mistake

    def loss(self, x, y):
        self.hidden = np.tanh(x @ self.W1 + self.b1)
        self.error = self.hidden @ self.W2 + self.b2 - y
        return 0.5 * np.mean(self.error**2)

    def backward(self, x):
        error = self.error / len(x)
        delta = error @ self.W2.T * (1 - self.hidden**2)
        self.dW1, self.db1 = x.T @ delta, delta.mean(axis=0) if self.mistake else delta.sum(axis=0)
        self.dW2, self.db2 = self.hidden.T @ error, error.sum(axis=0)

    def step(self, rate):
        for name in ("W1", "b1", "W2", "b2"):
            setattr(self, name, getattr(self, name) - rate * getattr(self, f"d{name}"))


def train(mistake: bool, hook: GradCheckHook | None = None, steps: int = 3000) -> Net:
    net = Net(mistake)
    for step in range(steps):
        net.loss(INPUTS, TARGETS)
        net.backward(INPUTS)
        if hook is not None:  # the only lines that are new
            names = ["W1", "b1", "W2", "b2"]
            hook.on_step(step, **adapters.attributes(net, names, loss=lambda: net.loss(INPUTS, TARGETS)))
        net.step(0.05)
    return net


def main() -> list[GradCheckHook]:
    hooks = []
    for mistake in (False, True):
        print(f"--- {'db1 is averaged over the batch once too often' if mistake else 'right'} ---")
        with GradCheckHook(after=2000, on_fail=lambda report: None) as hook:  # the console tells enough
            trained = train(mistake, hook)
        alone = train(mistake)
        same = all(np.array_equal(getattr(trained, name), getattr(alone, name)) for name in ("W1", "b1", "W2", "b2"))
        print(f"loss {alone.loss(INPUTS, TARGETS):.4f}; trained to the same bits without the hook: {same}\n")
        hooks.append(hook)
    return hooks


if __name__ == "__main__":
    main()
