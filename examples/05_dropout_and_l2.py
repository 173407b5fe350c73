"""Dropout and L2, the two that make right gradients look wrong: off, with frozen masks, and with which convention.

Run it with ``python examples/05_dropout_and_l2.py``; it takes about a second.
"""

from __future__ import annotations

import numpy as np

from gc_hooks import NondeterministicLoss, adapters, check_gradients

KEEP, STRENGTH = 0.8, 0.1
DATA = np.random.default_rng(0)
X, Y = DATA.normal(size=(32, 4)), DATA.normal(size=(32, 2))


class Net:
    """One hidden layer with inverted dropout and an L2 term; ``half`` and ``mean`` are the conventions of the term."""

    def __init__(self, *, drop=1 - KEEP, strength=0.0, half=True, mean=False, scaled=True):
        draw = np.random.default_rng(1).normal
        self.W, self.V, self.rng = draw(size=(4, 8)), draw(size=(8, 2)), np.random.default_rng(2)
        self.drop, self.scaled = drop, scaled
        self.in_loss = strength * (0.5 if half else 1.0) / (len(X) if mean else 1)
        self.in_gradient = strength  # right for lambda / 2 * ||w||^2, added to the mean over the samples

    def loss(self):
        self.mask = (self.rng.random((len(X), 8)) >= self.drop) / (1 - self.drop)
        self.hidden = np.tanh(X @ self.W)
        self.error = (self.hidden * self.mask) @ self.V - Y
        return 0.5 * np.sum(self.error**2) / len(X) + self.in_loss * (np.sum(self.W**2) + np.sum(self.V**2))

    def backward(self):
        self.loss()
        error, mask = self.error / len(X), self.mask if self.scaled else self.mask > 0
        self.dV = (self.hidden * self.mask).T @ error + self.in_gradient * self.V
        self.dW = X.T @ (error @ self.V.T * mask * (1 - self.hidden**2)) + self.in_gradient * self.W


def check(told, net, **options):
    """One check, and what it says."""
    net.backward()
    attachment = adapters.attributes(net, ["W", "V"], loss=net.loss, backward=net.backward, **options)
    try:
        report = check_gradients(**attachment, constants={"keep probability": KEEP, "samples": len(X)})
        said = [str(report.verdict), *(f"{found.code}: {found}" for found in report.diagnoses)]
    except NondeterministicLoss as error:
        said = [f"refused: {error}"]
    print(f"{told}\n    " + "\n    ".join(said))
    return said


def main():
    return [
        check("dropout left on", Net()),
        check("dropout off: its rate is 0 for the check", Net(drop=0.0)),
        check("frozen: every evaluation begins with the same masks", Net(), frozen=True),
        check("frozen, and backward forgets the scale of the mask", Net(scaled=False), frozen=True),
        check("off, and the same mistake: it cannot be seen there", Net(scaled=False, drop=0.0)),
        check("L2 as lambda / 2 * ||w||^2, gradient lambda * w", Net(drop=0.0, strength=STRENGTH)),
        check("L2 as lambda * ||w||^2, gradient lambda * w", Net(drop=0.0, strength=STRENGTH, half=False)),
        check("L2 over the samples, gradient not", Net(drop=0.0, strength=STRENGTH, mean=True)),
    ]


if __name__ == "__main__":
    main()
