"""Ten mistakes in one small network, each found and named.

Run it with ``python examples/03_find_the_bug.py``; it takes about a second.
"""

from __future__ import annotations

import numpy as np

from gc_hooks import check_gradients

STRENGTH = 0.01
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 5)), np.eye(3)[RNG.integers(3, size=20)]
SHAPES = {"W1": (5, 6), "b1": (6,), "W2": (6, 6), "b2": (6,), "W3": (6, 3), "b3": (3,)}
PARAMS = {name: 0.5 * RNG.standard_normal(shape) for name, shape in SHAPES.items()}


def forward(p):
    a1 = np.tanh(X @ p["W1"] + p["b1"])
    a2 = np.tanh(a1 @ p["W2"] + p["b2"])
    logits = a2 @ p["W3"] + p["b3"]
    shifted = logits - logits.real.max(axis=1, keepdims=True)
    return a1, a2, shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def loss(p):
    l2 = sum(np.sum(p[name] ** 2) for name in ("W1", "W2", "W3"))
    return -np.sum(Y * forward(p)[2]) / len(X) + STRENGTH / 2 * l2


def backward(p, bug=""):
    """The gradient by hand, with one line of it wrong."""
    a1, a2, logs = forward(p)
    m = len(X)
    d3 = (Y - np.exp(logs) if bug == "target minus output" else np.exp(logs) - Y) / m
    derivative2 = 1 - a2 if bug == "tanh' = 1 - a, in layer 2" else 1 - a2 * a2
    d2 = d3 @ p["W3"].T * derivative2
    d1 = d2 @ p["W2"].T * (1 - a1 * a1)
    decay = 0 if bug == "the L2 term left out" else STRENGTH
    grads = {
        "W1": X.T @ d1 + decay * p["W1"],
        "b1": d1.sum(axis=0),
        "W2": a1.T @ d2 + decay * p["W2"],
        "b2": d2.sum(axis=0),
        "W3": a2.T @ d3 + decay * p["W3"],
        "b3": d3.sum(axis=0),
    }
    edits = {
        "a 2 too many": {"W2": 2 * grads["W2"]},
        "a bias averaged twice": {"b1": grads["b1"] / m},
        "delta.T @ inputs": {"W2": grads["W2"].T},
        "two biases exchanged": {"b1": grads["b2"], "b2": grads["b1"]},
        "summed over all axes": {"b1": np.full(6, d1.sum())},
        "a buffer that is never written": {"W1": np.zeros((5, 6))},
        "an index that skips a row": {"W2": np.vstack([grads["W2"][:1], 0 * grads["W2"][1:2], grads["W2"][2:]])},
    }
    return grads | edits.get(bug, {})


BUGS = (
    "a 2 too many",
    "a bias averaged twice",
    "target minus output",
    "the L2 term left out",
    "delta.T @ inputs",
    "two biases exchanged",
    "summed over all axes",
    "a buffer that is never written",
    "an index that skips a row",
    "tanh' = 1 - a, in layer 2",
)


def find(bug):
    """The sentences that the check says of a bug; none for the right gradient."""
    report = check_gradients(loss, PARAMS, lambda p: backward(p, bug), constants={"batch size": len(X)})
    return [f"{diagnosis.code}: {diagnosis.message} {diagnosis.evidence}" for diagnosis in report.diagnoses]


if __name__ == "__main__":
    print(f"nothing planted: {check_gradients(loss, PARAMS, backward).verdict}\n")
    for number, bug in enumerate(BUGS, start=1):
        print(f"{number:2}. planted: {bug}")
        for told in find(bug):
            print(f"    {told}")
