"""The course exercise: the textbook's formula, two planted bugs, and what a fixed step and threshold cannot tell.

Run it with ``python examples/01_first_check.py``; it takes about a second. The textbook's differences are those that
every course prints, to the digits that a processor allows: what its linear algebra rounds is divided by a step of 1e-7.
"""

from __future__ import annotations

import numpy as np

from gc_hooks import check_gradients, fixed_step, nn

textbook = fixed_step(1e-7)
THRESHOLD = 1e-7  # above it, the textbook says, there is a mistake


def relu(z):
    return np.maximum(0, z)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def forward(params, x, y):
    """LINEAR -> RELU -> LINEAR -> RELU -> LINEAR -> SIGMOID and the cross-entropy; columns are samples."""
    z1 = params["W1"] @ x + params["b1"]
    a1 = relu(z1)
    z2 = params["W2"] @ a1 + params["b2"]
    a2 = relu(z2)
    a3 = sigmoid(params["W3"] @ a2 + params["b3"])
    cost = 1.0 / x.shape[1] * np.sum(-np.log(a3) * y + -np.log(1 - a3) * (1 - y))
    return cost, (a1, a2, a3)


def backward(params, x, y, *, bugs=False):
    """The gradient by hand; with ``bugs``, dW2 is doubled and db1 has a 4 where a 1 should be."""
    m = x.shape[1]
    _, (a1, a2, a3) = forward(params, x, y)
    dz3 = a3 - y
    dz2 = (params["W3"].T @ dz3) * (a2 > 0)
    dz1 = (params["W2"].T @ dz2) * (a1 > 0)
    return {
        "dW3": 1.0 / m * (dz3 @ a2.T),
        "db3": 1.0 / m * np.sum(dz3, axis=1, keepdims=True),
        "dW2": 1.0 / m * (dz2 @ a1.T) * (2 if bugs else 1),
        "db2": 1.0 / m * np.sum(dz2, axis=1, keepdims=True),
        "dW1": 1.0 / m * (dz1 @ x.T),
        "db1": (4.0 if bugs else 1.0) / m * np.sum(dz1, axis=1, keepdims=True),
    }


def exercise():
    """Data and parameters of the exercise, drawn in its order."""
    draw = np.random.RandomState(1).randn  # the stream of np.random.seed(1), without touching the global one
    x, y = draw(4, 3), np.array([1, 1, 0])
    shapes = {"W1": (5, 4), "b1": (5, 1), "W2": (3, 5), "b2": (3, 1), "W3": (1, 3), "b3": (1, 1)}
    return x, y, {name: draw(*shape) for name, shape in shapes.items()}


def train_in_float32(params, x, y, *, steps=1500):
    """The same network in float32, until its loss is small."""
    params = {name: array.astype(np.float32) for name, array in params.items()}
    adam = nn.Adam(0.03)
    for _ in range(steps):
        grads = backward(params, x, y)
        adam.step(params, {name: grads[f"d{name}"] for name in params})
    return params


def one_parameter():
    theta, x = 4.0, 2.0
    report = check_gradients(lambda t: t * x, theta, x, method=textbook)
    print(f"J(theta) = theta * x at x = 2, theta = 4: J = {theta * x:g}, dtheta = {x:g}")
    print(f"the textbook's difference is {report.difference!r}\n")


def three_layers():
    x, y, params = exercise()

    def loss(p):
        return forward(p, x, y)[0]

    for bugs in (True, False):
        print(f"--- three layers, {'dW2 doubled and db1 with 4/m' if bugs else 'both repaired'} ---")
        grads = backward(params, x, y, bugs=bugs)
        difference = check_gradients(loss, params, grads, method=textbook).difference
        saying = "there is a mistake" if difference > THRESHOLD else "all is well"
        print(f"the textbook: difference {difference!r}, {saying}")
        print(f"gc_hooks: {check_gradients(loss, params, grads)}\n")


def float32():
    x, y, params = exercise()
    x, y = x.astype(np.float32), y.astype(np.float32)
    trained = train_in_float32(params, x, y)
    print(f"--- trained in float32 for 1,500 steps: loss {forward(trained, x, y)[0]:.1e} ---")
    for how, grads in (
        ("gradient function, judged in float64", lambda p: backward(p, x, y)),
        ("plain float32 buffers", backward(trained, x, y)),
    ):
        report = check_gradients(lambda p: forward(p, x, y)[0], trained, grads)
        print(f"{how}: {report}\n")


if __name__ == "__main__":
    one_parameter()
    three_layers()
    float32()
