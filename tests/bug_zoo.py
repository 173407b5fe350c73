"""Bugs that people write into backward passes, each with the code by which the diagnosis has to name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from gc_hooks import CheckReport, GradCheckHook, check_gradients, check_hessian, check_jacobian, check_layers, nn
from zoo import ACTIVATIONS, WRONG_DERIVATIVES

STRENGTH, KEEP, TEMPERATURE = 0.01, 0.8, 4.0


class Perceptron:
    """Five layers, the hidden ones of the same width, softmax cross-entropy and L2 on the weights; rows are samples.

    ``faults`` switches single lines of forward and backward to a wrong version of themselves.
    """

    def __init__(self, activation, width, *, inputs=4, classes=3, samples=7, seed=0, faults=()):
        rng = np.random.default_rng(seed)
        ends = [inputs, width, width, width, width, classes]
        self.activation, self.faults, self.samples = activation, frozenset(faults), samples
        self.x = rng.standard_normal((samples, inputs))
        self.y = np.eye(classes)[rng.integers(classes, size=samples)]
        self.params = {}
        for k, (a, b) in enumerate(pairwise(ends), start=1):
            self.params[f"W{k}"] = rng.standard_normal((a, b)) * np.sqrt(1.5 / a)
            self.params[f"b{k}"] = 0.1 * rng.standard_normal(b)
        self.mask = (rng.random((samples, width)) < KEEP) / KEEP
        self.constants = {"batch size": samples, "number of classes": classes}
        self.constants |= {"keep probability": KEEP, "temperature": TEMPERATURE}

    def forward(self, p):
        f, _ = ACTIVATIONS[self.activation]
        z, a = {}, {0: self.x}
        for k in range(1, 6):
            bias = 0 if k == 2 and "b2 unused" in self.faults else p[f"b{k}"]
            z[k] = a[k - 1] @ p[f"W{k}"] + bias
            a[k] = f(z[k]) * (self.mask if k == 3 and "dropout" in self.faults else 1)
        logits = z[5] / (TEMPERATURE if "temperature" in self.faults else 1)
        shifted = logits - logits.real.max(axis=1, keepdims=True)
        return z, a, shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))

    def data_loss(self, p):
        return -np.sum(self.y * self.forward(p)[2]) / self.samples

    def penalty(self, p):
        return 0.5 * STRENGTH * sum(np.sum(p[f"W{k}"] * p[f"W{k}"]) for k in range(1, 6))

    def loss(self, p):
        return self.data_loss(p) + self.penalty(p)

    def backward(self, p):
        z, a, logs = self.forward(p)
        delta = (np.exp(logs) - self.y) / self.samples
        if "squared error" in self.faults:
            delta = delta * np.exp(logs) * (1 - np.exp(logs))
        if "diagonal" in self.faults:
            delta = -self.y * (1 - np.exp(logs)) / self.samples + np.exp(logs) ** 2 * (1 - self.y) / self.samples
        if "no shift" in self.faults:
            delta = delta - delta.mean(axis=0)
        grads = {}
        for k in range(5, 0, -1):
            grads[f"W{k}"] = a[k - 1].T @ delta + STRENGTH * p[f"W{k}"]
            grads[f"b{k}"] = delta.sum(axis=0)
            if k > 1:
                delta = self.handed_down(delta, z, p, k)
        return {name: grads[name] for name in self.params}

    def handed_down(self, delta, z, p, k):
        _, derivative = ACTIVATIONS[self.activation]
        weight = p[f"W{k}"]
        if k == 4 and "other weight" in self.faults:
            weight = p["W3"]
        if k == 4 and "not transposed" in self.faults:
            weight = weight.T
        if k == 5 and "updated before" in self.faults:
            weight = weight - 0.1 * np.sign(weight) * np.arange(1, 1 + len(weight))[:, None] / len(weight)
        delta = delta @ weight.T
        if k == 4 and "dropout" in self.faults:
            delta = delta * (self.mask * KEEP if "unscaled mask" in self.faults else self.mask)
        if f"derivative {k - 1}" in self.faults:
            return delta * WRONG_DERIVATIVES[self.activation](z[k - 1])
        if f"no derivative {k - 1}" in self.faults:
            return delta
        return delta * derivative(z[k - 1])


@dataclass(frozen=True)
class Bug:
    """A mistake: lines of the network that are wrong, or an edit of the gradient that it hands over."""

    codes: tuple[str, ...]
    parameters: tuple[str, ...]
    faults: tuple[str, ...] = ()
    edit: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None
    apart: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def case(self, activation, width, seed=0):
        """Loss, parameters, gradient function and the options of the check."""
        net = Perceptron(activation, width, seed=seed, faults=self.faults)

        def gradient(p):
            grads = net.backward(p)
            return grads if self.edit is None else {**grads, **self.edit(grads, Edited(net, p))}

        options = {"constants": net.constants, **({"penalty": net.penalty} if self.apart else {})}
        return net.data_loss if self.apart else net.loss, net.params, gradient, options


@dataclass(frozen=True)
class Edited:
    """What an edit may look at."""

    net: Perceptron
    p: dict[str, Any]

    def decay(self, name):
        return STRENGTH * self.p[name]


WEIGHTS, BIASES = tuple(f"W{k}" for k in range(1, 6)), tuple(f"b{k}" for k in range(1, 6))
ALL = tuple(name for pair in zip(WEIGHTS, BIASES, strict=True) for name in pair)


def down_from(k):
    """The parameters of layer k and of all below it."""
    return ALL[: 2 * k]


def times(names, factor, code="scaled"):
    value = factor if callable(factor) else lambda net: factor
    return Bug((code,), tuple(names), edit=lambda g, e: {n: g[n] * value(e.net) for n in names})


def data_times(names, factor, code="scaled", apart=True):
    def edit(g, e):
        decays = {n: e.decay(n) if n[0] == "W" else 0 for n in names}
        return {n: (g[n] - decays[n]) * factor + decays[n] for n in names}

    return Bug((code,), tuple(names), edit=edit, apart=apart)


def penalty_times(names, ratio, code, apart):
    return Bug(
        (code,), tuple(names), edit=lambda g, e: {n: g[n] + (ratio - 1) * e.decay(n) for n in names}, apart=apart
    )


def changed(code, names, edit):
    return Bug((code,) if isinstance(code, str) else code, tuple(names), edit=edit)


def fault(code, names, *faults):
    return Bug((code,), tuple(names), faults=faults)


def patched(array, index, change):
    array = array.copy()
    array[index] = change(array[index])
    return array


def clipped(grads, limit):
    norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
    return {name: g * (limit / norm) for name, g in grads.items()}


def moved(names):
    """Each gets the next one's gradient."""
    after = dict(zip(names, (*names[1:], names[0]), strict=True))
    return lambda g, e: {n: g[after[n]] for n in names}


BUGS = {
    "W2 twice": times(["W2"], 2),
    "W1 halved": times(["W1"], 0.5),
    "b1 four times": times(["b1"], 4),
    "W3 by an odd number": times(["W3"], 1.3742),
    "b2 summed over what is averaged": times(["b2"], lambda net: net.samples),
    "W5 averaged twice": times(["W5"], lambda net: 1 / net.samples),
    "all weights twice": times(WEIGHTS, 2),
    "all biases averaged twice": times(BIASES, lambda net: 1 / net.samples),
    "everything by m / (m - 1)": times(ALL, lambda net: net.samples / (net.samples - 1)),
    "everything by the number of classes": times(ALL, lambda net: net.y.shape[1]),
    "everything without 1/m": times(ALL, lambda net: net.samples),
    "everything without 2": times(ALL, 0.5),
    "two different factors": Bug(
        ("scaled", "scaled"), ("b1", "W2"), edit=lambda g, e: {"W2": 2 * g["W2"], "b1": 4 * g["b1"]}
    ),
    "data part of all weights twice": data_times(WEIGHTS, 2.0),
    "data part of W3 halved": data_times(["W3"], 0.5),
    "target - output": times(ALL, -1, "sign"),
    "sign of b3": times(["b3"], -1, "sign"),
    "sign of W1": times(["W1"], -1, "sign"),
    "target - output, then L2": data_times(ALL, -1, "sign", apart=False),
    "target - output, then L2, apart": data_times(ALL, -1, "sign"),
    "everything but L2 twice": data_times(ALL, 2.0, apart=False),
    "clipped to 0.01": changed("clipped", ALL, lambda g, e: clipped(g, 0.01)),
    "clipped to 0.05": changed("clipped", ALL, lambda g, e: clipped(g, 0.05)),
    "L2 missing": penalty_times(WEIGHTS, 0, "l2_missing", False),
    "L2 missing, apart": penalty_times(WEIGHTS, 0, "l2_missing", True),
    "L2 missing on W2": penalty_times(["W2"], 0, "l2_missing", False),
    "L2 doubled": penalty_times(WEIGHTS, 2, "l2_factor", False),
    "L2 doubled, apart": penalty_times(WEIGHTS, 2, "l2_factor", True),
    "L2 halved, apart": penalty_times(WEIGHTS, 0.5, "l2_factor", True),
    "L2 of another number of samples, apart": penalty_times(WEIGHTS, 1 / 7, "l2_factor", True),
    "L2 with the wrong sign, apart": penalty_times(WEIGHTS, -1, "l2_sign", True),
    "L2 wrong on W4, apart": penalty_times(["W4"], 3, "l2_factor", True),
    "L2 on biases": changed("l2_on_bias", BIASES, lambda g, e: {n: g[n] + e.decay(n) for n in BIASES}),
    "L2 on b2": changed("l2_on_bias", ["b2"], lambda g, e: {"b2": g["b2"] + e.decay("b2")}),
    "W2 transposed": changed("transposed", ["W2"], lambda g, e: {"W2": g["W2"].T}),
    "W4 transposed": changed("transposed", ["W4"], lambda g, e: {"W4": g["W4"].T}),
    "W1 reshaped": changed("transposed", ["W1"], lambda g, e: {"W1": g["W1"].T.reshape(g["W1"].shape)}),
    "W2 and W3 exchanged": changed("swapped", ["W2", "W3"], lambda g, e: {"W2": g["W3"], "W3": g["W2"]}),
    "b1 and b4 exchanged": changed("swapped", ["b1", "b4"], lambda g, e: {"b1": g["b4"], "b4": g["b1"]}),
    "weights out of step": changed("out_of_step", WEIGHTS[1:4], moved(WEIGHTS[1:4])),
    "biases out of step": changed("out_of_step", BIASES[:4], moved(BIASES[:4])),
    "b1 summed over everything": changed(
        "summed_over_wrong_axis", ["b1"], lambda g, e: {"b1": np.full_like(g["b1"], g["b1"].sum())}
    ),
    "b3 averaged over everything": changed(
        "summed_over_wrong_axis", ["b3"], lambda g, e: {"b3": np.full_like(g["b3"], g["b3"].mean())}
    ),
    "W2 with equal rows": changed(
        "summed_over_wrong_axis", ["W2"], lambda g, e: {"W2": np.ones_like(g["W2"]) * g["W2"].sum(axis=0)}
    ),
    "W1 lost": changed("gradient_lost", ["W1"], lambda g, e: {"W1": 0 * g["W1"]}),
    "b2 lost": changed("gradient_lost", ["b2"], lambda g, e: {"b2": 0 * g["b2"]}),
    "lost below layer 3": changed("gradient_lost", down_from(2), lambda g, e: {n: 0 * g[n] for n in down_from(2)}),
    "b2 unused": fault("parameter_unused", ["b2"], "b2 unused"),
    "one entry of W2": changed(
        "single_entries", ["W2"], lambda g, e: {"W2": patched(g["W2"], (1, 2), lambda v: v + 1.0)}
    ),
    "one entry of b3": changed(
        "single_entries", ["b3"], lambda g, e: {"b3": patched(g["b3"], np.argmax(np.abs(g["b3"])), lambda v: 3 * v)}
    ),
    "a row of W3": changed("rows", ["W3"], lambda g, e: {"W3": patched(g["W3"], 1, lambda v: v + v[::-1] + 0.1)}),
    "a column of W3": changed(
        "columns", ["W3"], lambda g, e: {"W3": patched(g["W3"], (slice(None), 2), lambda v: v + v[::-1] + 0.1)}
    ),
    "rows of a repeated index": changed(
        "repeated_indices", ["W2"], lambda g, e: {"W2": patched(g["W2"], 2, lambda v: v / 3)}
    ),
    "derivative of layer 1": fault("wrong_below", down_from(1), "derivative 1"),
    "derivative of layer 2": fault("wrong_below", down_from(2), "derivative 2"),
    "derivative of layer 3": fault("wrong_below", down_from(3), "derivative 3"),
    "derivative of layer 4": fault("wrong_below", down_from(4), "derivative 4"),
    "no derivative in layer 2": fault("wrong_below", down_from(2), "no derivative 2"),
    "no derivative in layer 4": fault("wrong_below", down_from(4), "no derivative 4"),
    "handed down by another weight": fault("wrong_below", down_from(3), "other weight"),
    "handed down untransposed": fault("wrong_below", down_from(3), "not transposed"),
    "weight updated before": fault("wrong_below", down_from(4), "updated before"),
    "gradient of the squared error": fault("other_loss", ALL, "squared error"),
    "only the diagonal of softmax": fault("other_loss", ALL, "diagonal"),
    "delta without its mean": fault("other_loss", ALL, "no shift"),
    "two parameters, two bugs": Bug(
        ("scaled", "transposed"), ("b1", "W2"), edit=lambda g, e: {"b1": 2 * g["b1"], "W2": g["W2"].T}
    ),
    "three parameters, three bugs": Bug(
        ("sign", "gradient_lost", "l2_on_bias"),
        ("W4", "b1", "b3"),
        edit=lambda g, e: {"W4": -g["W4"], "b1": 0 * g["b1"], "b3": g["b3"] + e.decay("b3")},
    ),
    "two bugs in one parameter": changed("unexplained", ["W2"], lambda g, e: {"W2": 2 * g["W2"].T + 3 * e.p["W2"]}),
    "nonsense": changed("unexplained", ["W3"], lambda g, e: {"W3": np.tanh(g["W3"]) + g["W3"] ** 2}),
    "missing": changed("missing_gradient", ["W2"], lambda g, e: {"W2": None}),
    "wrong shape": changed("wrong_shape", ["b1"], lambda g, e: {"b1": g["b1"][:-1]}),
    "NaN": changed("not_finite", ["W2"], lambda g, e: {"W2": g["W2"] * np.nan}),
    "text": changed("not_numeric", ["b2"], lambda g, e: {"b2": g["b2"].astype(str)}),
}
BUGS["unscaled mask"] = Bug(
    ("dropout_scale",),
    down_from(3),
    faults=("dropout", "unscaled mask"),
    edit=lambda g, e: {n: g[n] for n in g},
    apart=True,
)


@dataclass(frozen=True)
class OtherBug:
    """A bug outside of the perceptron: in another network, a layer, a training loop.

    ``reports(wrong)`` returns the reports of its checks, with the bug or, where ``wrong`` is False, without. All codes
    are named in them.
    """

    codes: tuple[str, ...]
    reports: Callable[[bool], list[CheckReport]]


def embedding(wrong):
    """Words that occur several times in a batch: with ``grad[words] += delta`` one of them counts."""
    rng = np.random.default_rng(0)
    words, targets, output = np.array([0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6]), rng.normal(size=12), rng.normal(size=5)

    def backward(p):
        hidden, grad = np.tanh(p["E"][words]), np.zeros_like(p["E"])
        delta = np.outer(hidden @ output - targets, output) * (1 - hidden**2) / 12
        if wrong:
            grad[words] += delta
        else:
            np.add.at(grad, words, delta)
        return {"E": grad}

    def loss(p):
        return 0.5 * np.mean((np.tanh(p["E"][words]) @ output - targets) ** 2)

    return [check_gradients(loss, {"E": rng.normal(size=(7, 5))}, backward)]


def convolution(wrong):
    """A convolution of images with a kernel, whose gradient comes out turned round."""
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(4, 8, 8)), rng.normal(size=(4, 6, 6))
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))

    def loss(p):
        return 0.5 * np.mean((np.einsum("nijkl,kl->nij", patches, p["K"]) - targets) ** 2)

    def backward(p):
        delta = (np.einsum("nijkl,kl->nij", patches, p["K"]) - targets) / targets.size
        grad = np.einsum("nijkl,nij->kl", patches, delta)
        return {"K": grad[::-1, ::-1] if wrong else grad}

    return [check_gradients(loss, {"K": rng.normal(size=(3, 3))}, backward)]


def buffer_of_backward(wrong):
    """A backward pass that adds to a buffer which nobody sets to zero."""
    buffer = np.zeros(3)

    def backward(p):
        buffer[...] = 2 * p["w"] + (buffer if wrong else 0)
        return {"w": buffer}

    return [check_gradients(lambda p: np.sum(p["w"] ** 2), {"w": np.arange(1.0, 4.0)}, backward)]


class Affine:
    """A layer that one writes oneself."""

    def __init__(self, wrong):
        self.params = {"W": np.random.default_rng(0).normal(size=(4, 3))}
        self.grads, self.wrong = {"W": np.zeros((4, 3))}, wrong

    def forward(self, inputs):
        self.inputs = inputs
        return inputs @ self.params["W"]

    def backward(self, upstream):
        self.grads["W"][...] = self.inputs.T @ upstream + (self.params["W"] if self.wrong else 0)
        return upstream @ self.params["W"].T


def training(chain=nn.Sequential, dense=nn.Dense, activation=nn.Tanh, twin=nn.Tanh):
    """Reports of the first steps of a training with our trainer, in which one class is replaced by a wrong one."""

    def reports(wrong):
        classes = (chain, dense, activation) if wrong else (nn.Sequential, nn.Dense, twin)
        rng, hook = np.random.default_rng(6), GradCheckHook(after=2, reporters=[], on_fail=lambda report: None)
        model = classes[0]([classes[1](4, 6), classes[2](), nn.Dense(6, 3)])
        inputs, labels = rng.normal(size=(36, 4)), rng.integers(3, size=36)
        nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[hook]).fit(inputs, labels, batch_size=9)
        return hook.reports

    return reports


class NeverZeroed(nn.Sequential):
    def store(self, grads):
        for name, grad in grads.items():
            self.grads[name] += grad


class WrittenOnce(nn.Sequential):
    def store(self, grads):
        if not any(grad.any() for grad in self.grads.values()):
            super().store(grads)


class ClippedAfterwards(nn.Sequential):
    def store(self, grads):
        super().store({name: np.clip(grad, -1e-3, 1e-3) for name, grad in grads.items()})


class NoDerivative(nn.Tanh):
    def backward(self, params, cache, upstream):
        return upstream, {}


class MaskDrawnAgain(nn.Dropout):
    """It keeps the generator for backward in place of the mask, and there it has moved on."""

    def forward(self, params, inputs, context):
        return super().forward(params, inputs, context)[0], context

    def backward(self, params, cache, upstream):
        return super().forward(params, upstream, cache)[0], {}


class NextSample(nn.Tanh):
    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        return np.roll(upstream, 1, axis=0), grads


class AveragedTwice(nn.Dense):
    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        return upstream, {**grads, "b": grads["b"] / len(upstream)}


def jacobian_report(bug):
    """Check a Jacobian of three springs in a row, as a pair of products, with or without a bug."""

    def run(wrong):
        point = np.array([0.3, -0.8, 1.1])
        slopes = np.diag(2 - 3 * point**2) - np.eye(3, k=1) - np.eye(3, k=-1)
        forward, backward = slopes.copy(), slopes.copy()
        if wrong and bug == "pattern":
            forward[0, 1] = backward[0, 1] = 0.0
        elif wrong:
            backward[0, 1] = 0.0

        def forces(p):
            return 2 * p - p**3 - np.append(p[1:], 0.0) - np.append(0.0, p[:-1])

        return [check_jacobian(forces, point, (lambda u: backward.T @ u, lambda v: forward @ v))]

    return run


def hessian_report(bug):
    """Check the Hessian of Rosenbrock's function, whose residuals are 10 (y - x^2) and 1 - x."""

    def residuals(p):
        return np.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])

    def gradient(p):
        return np.stack([-400 * p[0] * (p[1] - p[0] ** 2) - 2 * (1 - p[0]), 200 * (p[1] - p[0] ** 2)])

    def hessian(p, wrong):
        newton = np.array([[1200 * p[0] ** 2 - 400 * p[1] + 2, -400 * p[0]], [-400 * p[0], 200.0]])
        if wrong and bug == "gauss_newton":
            newton[0, 0] = 800 * p[0] ** 2 + 2
        elif wrong:
            newton[1, 0] = 0.0
        return newton

    point = np.array([0.6, -0.7])
    return lambda wrong: [check_hessian(gradient, point, lambda p: hessian(p, wrong), residuals=residuals)]


OTHER_BUGS = {
    "Gauss-Newton for Newton": OtherBug(("gauss_newton",), hessian_report("gauss_newton")),
    "half of a Hessian": OtherBug(("not_symmetric", "pattern"), hessian_report("not_symmetric")),
    "a neighbour forgotten in a Jacobian": OtherBug(("pattern",), jacobian_report("pattern")),
    "a neighbour forgotten in a vjp": OtherBug(("not_adjoint",), jacobian_report("vjp")),
    "words that occur twice": OtherBug(("rows",), embedding),
    "a kernel turned round": OtherBug(("flipped",), convolution),
    "a buffer inside backward": OtherBug(("not_repeatable",), buffer_of_backward),
    "a penalty inside a layer": OtherBug(
        ("l2_factor", "not_linear"), lambda wrong: list(check_layers([Affine(wrong)], np.ones((5, 4))).values())
    ),
    "buffers never set to zero": OtherBug(("accumulated",), training(chain=NeverZeroed)),
    "buffers written once": OtherBug(("stale",), training(chain=WrittenOnce)),
    "buffers clipped": OtherBug(("buffers_differ",), training(chain=ClippedAfterwards)),
    "no derivative in a layer": OtherBug(("wrong_below", "layer"), training(activation=NoDerivative)),
    "a mask drawn again": OtherBug(
        ("dropout_mask", "layer"), training(activation=partial(MaskDrawnAgain, 0.4), twin=partial(nn.Dropout, 0.4))
    ),
    "delta of the next sample": OtherBug(
        ("unexplained", "order_matters", "samples_mixed", "layer"), training(activation=NextSample)
    ),
    "bias averaged twice": OtherBug(
        ("scaled", "batch_size_matters", "samples_mixed", "layer"), training(dense=AveragedTwice)
    ),
}


# Networks of other kinds, in which single lines of backward are wrong. Each is checked in its right and its wrong form.


def one_check(network, *codes):
    """A bug of a network: ``network(wrong)`` returns its loss, its parameters and its gradient function."""
    return OtherBug(codes, lambda wrong: [check_gradients(*network(wrong))])


def softmax(z):
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def recurrent(bug):
    """A recurrent network whose loss is a sum over all steps."""
    rng, steps = np.random.default_rng(1), 6
    x, y, zeros = rng.normal(size=(steps, 4)), rng.normal(size=(steps, 3)), np.zeros(5)
    params = {
        "Wx": rng.normal(size=(4, 5)) / 2,
        "Wh": rng.normal(size=(5, 5)) / 2,
        "b": rng.normal(size=5) / 5,
        "V": rng.normal(size=(5, 3)),
    }

    def states(p):
        found = [zeros]
        for t in range(steps):
            found.append(np.tanh(x[t] @ p["Wx"] + found[-1] @ p["Wh"] + p["b"]))
        return found

    def loss(p):
        total = 0.0
        for t, h in enumerate(states(p)[1:]):
            total = total + np.sum((h @ p["V"] - y[t]) ** 2)
        return total / steps

    def backward(p):
        h, grads, above = states(p), {name: np.zeros_like(array) for name, array in p.items()}, zeros
        for t in reversed(range(steps)):
            error = 2 * (h[t + 1] @ p["V"] - y[t]) / steps
            grads["V"] += np.outer(h[t + 1], error)
            derivative = 1 - np.tanh(h[t + 1]) ** 2 if bug == "tanh of the output" else 1 - h[t + 1] ** 2
            delta = (above + p["V"] @ error) * derivative
            if bug == "input of the last step only" and t < steps - 1:
                pass
            else:
                grads["Wx"] += np.outer(x[t], delta)
            grads["Wh"] += np.outer(h[t + 1] if bug == "the state after" else h[t], delta)
            grads["b"] += delta
            above = (p["Wh"].T if bug == "untransposed" else p["Wh"]) @ delta
            if bug == "no path through time":
                above = zeros
        return grads

    return loss, params, backward


def normalised(bug, axis):
    """Batch norm (axis 0) or layer norm (axis 1) between two layers."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    params = {
        "W": rng.normal(size=(5, 4)),
        "gamma": rng.normal(size=4),
        "beta": rng.normal(size=4),
        "V": rng.normal(size=(4, 3)),
    }

    def forward(p):
        z = x @ p["W"]
        centred = z - np.mean(z, axis=axis, keepdims=True)
        scale = 1 / np.sqrt(np.mean(centred**2, axis=axis, keepdims=True) + 1e-5)
        return centred * scale, scale, np.tanh(centred * scale * p["gamma"] + p["beta"])

    def loss(p):
        return np.mean((forward(p)[2] @ p["V"] - y) ** 2)

    def backward(p):
        n, scale, h = forward(p)
        error = 2 * (h @ p["V"] - y) / y.size
        delta = error @ p["V"].T * (1 - h**2)
        grads = {"V": h.T @ error, "gamma": (delta * n).sum(axis=0), "beta": delta.sum(axis=0)}
        delta = delta * p["gamma"]
        of_mean = np.mean(delta, axis=axis, keepdims=True)
        of_variance = n * np.mean(delta * n, axis=axis, keepdims=True)
        if bug in ("no mean", "neither"):
            of_mean = 0
        if bug in ("no variance", "neither"):
            of_variance = 0
        return {**grads, "W": x.T @ ((delta - of_mean - of_variance) * scale)}

    return loss, params, backward


def attention(bug):
    """One head over a sequence."""
    rng, length, width = np.random.default_rng(3), 6, 4
    x, y = rng.normal(size=(length, width)), rng.normal(size=(length, width))
    params = {name: rng.normal(size=(width, width)) * 0.7 for name in ("q", "k", "v")}

    def forward(p):
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        scores = q @ k.T / np.sqrt(width)
        weights = softmax(scores)
        return q, k, v, weights, weights @ v

    def loss(p):
        return np.mean((forward(p)[-1] - y) ** 2)

    def backward(p):
        q, k, v, weights, out = forward(p)
        error = 2 * (out - y) / y.size
        of_weights = error @ v.T
        delta = weights * (of_weights - np.sum(of_weights * weights, axis=1, keepdims=True)) / np.sqrt(width)
        if bug == "diagonal of softmax":
            delta = weights * (1 - weights) * of_weights / np.sqrt(width)
        of_k = delta @ q if bug == "scores untransposed" else delta.T @ q
        of_v = weights @ error if bug == "weights untransposed" else weights.T @ error
        return {"q": x.T @ (delta @ k), "k": x.T @ of_k, "v": x.T @ of_v}

    return loss, params, backward


def residual(bug):
    """A block with a path around it, and three square weights without a bias."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 4))
    params = {f"W{number}": rng.normal(size=(4, 4)) / 2 for number in (1, 2, 3)}

    def forward(p):
        a = np.tanh(x @ p["W1"])
        b = np.tanh(a @ p["W2"])
        return a, b, (a + b) @ p["W3"]

    def loss(p):
        return np.mean((forward(p)[-1] - y) ** 2)

    def backward(p):
        a, b, out = forward(p)
        error = 2 * (out - y) / y.size
        grads = {"W3": (a + b).T @ error}
        above = error @ p["W3"].T
        delta = above * (1 - b**2)
        grads["W2"] = a.T @ delta
        weight = {"another weight": p["W3"], "updated before": p["W2"] - 0.1 * grads["W2"]}.get(bug, p["W2"])
        skip = {"no path around": 0, "path around twice": 2}.get(bug, 1)
        grads["W1"] = x.T @ ((delta @ weight.T + skip * above) * (1 - a**2))
        if bug == "input before tanh":
            grads["W2"] = (x @ p["W1"]).T @ delta
        if bug == "last sample":
            grads["W2"] = np.outer(a[-1], delta[-1])
        return grads

    return loss, params, backward


def vector(bug):
    """One vector and a number, as scipy's users have them: a curve through points, with a penalty."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 9)), rng.normal(size=20)
    params = {"theta": rng.normal(size=9) + 2}

    def penalty(t):
        return 0.05 * np.sum(np.abs(t)) if bug in ("L1 missing", "L2 for L1") else 0.05 * np.sum(t[1:] ** 2)

    def loss(p):
        return np.mean((np.sin(x @ p["theta"]) - y) ** 2) + penalty(p["theta"])

    def backward(p, wrong=True):
        t = p["theta"]
        z = x @ t
        derivative = -(np.sin(z) ** 2) if wrong and bug == "derivative of the derivative" else np.cos(z)
        grad = 2 * x.T @ ((np.sin(z) - y) * derivative) / len(y)
        rest = 0.1 * np.r_[0, t[1:]]
        if bug in ("L1 missing", "L2 for L1"):
            rest = 0.05 * np.sign(t)
        if wrong:
            rest = {"L1 missing": 0 * t, "L2 for L1": 0.1 * t, "L2 missing on most": 0 * t}.get(bug, rest)
        grad = grad + rest
        if wrong and bug in ORDERS:
            grad = ORDERS[bug](grad)
        return {"theta": grad * t if wrong and bug == "by the logarithm" else grad}

    return loss, params, backward


ORDERS = {
    "reversed": lambda grad: grad[::-1],
    "out by one": lambda grad: np.roll(grad, 1),
    "clipped by value": lambda grad: np.clip(grad, -0.2, 0.2),
}


def weighted(wrong):
    """A linear layer for several outputs, each of which has a weight in the loss, and none in the gradient."""
    rng = np.random.default_rng(6)
    x, y, weights = rng.normal(size=(9, 4)), rng.normal(size=(9, 3)), np.array([0.3, 1.1, 2.7])

    def loss(p):
        return np.sum(weights * (x @ p["W"] - y) ** 2)

    return (
        loss,
        {"W": rng.normal(size=(4, 3))},
        lambda p: {"W": 2 * x.T @ ((x @ p["W"] - y) * (1 if wrong else weights))},
    )


def checkpointed(bug):
    """Dropout between two layers, in a block that backward runs again with another mask; or what it forgets of it."""
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    mask, other = ((rng.random((12, 8)) > 0.3) / 0.7 for _ in range(2))
    shapes = {"W1": (5, 8), "b1": 8, "W2": (8, 6), "b2": 6, "W3": (6, 3), "b3": 3}
    params = {name: rng.normal(size=shape) / 2 for name, shape in shapes.items()}

    def forward(p, mask):
        a = np.tanh(x @ p["W1"] + p["b1"])
        dropped = a * mask
        c = np.tanh(dropped @ p["W2"] + p["b2"])
        return a, dropped, c, c @ p["W3"] + p["b3"] - y

    def backward(p):
        a, _, c, error = forward(p, mask)
        delta = error / error.size
        grads = {"W3": c.T @ delta, "b3": delta.sum(axis=0)}
        delta = delta @ p["W3"].T * (1 - c * c)
        again = other if bug == "mask drawn again" else mask
        grads |= {"W2": (a if bug == "input before the mask" else a * again).T @ delta, "b2": delta.sum(axis=0)}
        below = {"no mask": 1.0, "unscaled mask": mask > 0}.get(bug, again)
        delta = delta @ p["W2"].T * below * (1 - a * a)
        return grads | {"W1": x.T @ delta, "b1": delta.sum(axis=0)}

    return lambda p: 0.5 * np.mean(forward(p, mask)[3] ** 2), params, backward


def averaged(wrong):
    """A table of words, each row of whose gradient is a mean over its uses, and not a sum."""
    rng = np.random.default_rng(8)
    words, y = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]), rng.normal(size=(12, 4))
    counts = np.bincount(words)[:, None]

    def loss(p):
        return np.mean((p["E"][words] - y) ** 2)

    def backward(p):
        grad = np.zeros_like(p["E"])
        np.add.at(grad, words, 2 * (p["E"][words] - y) / y.size)
        return {"E": grad / counts if wrong else grad}

    return loss, {"E": rng.normal(size=(4, 4))}, backward


def whole_data_set(wrong):
    """The loss of all samples beside the gradient of eight of them: nothing is wrong with backward."""
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(30, 4)), np.eye(3)[rng.integers(3, size=30)]
    params = {
        "W1": rng.normal(size=(4, 6)),
        "b1": rng.normal(size=6),
        "W2": rng.normal(size=(6, 3)),
        "b2": rng.normal(size=3),
    }

    def forward(p, x):
        hidden = np.tanh(x @ p["W1"] + p["b1"])
        return hidden, softmax(hidden @ p["W2"] + p["b2"])

    def loss(p):
        return -np.mean(np.sum(y * np.log(forward(p, x)[1]), axis=1))

    def backward(p):
        batch = slice(8) if wrong else slice(None)
        hidden, outputs = forward(p, x[batch])
        delta = (outputs - y[batch]) / len(outputs)
        below = delta @ p["W2"].T * (1 - hidden**2)
        return {"W1": x[batch].T @ below, "b1": below.sum(0), "W2": hidden.T @ delta, "b2": delta.sum(0)}

    return loss, params, backward


def reads_old_caches(wrong):
    """A backward pass that reads what the last forward pass has left: that of the training, at other parameters."""
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    params = {"W": rng.normal(size=(4, 5)), "V": rng.normal(size=(5, 2))}
    earlier = {name: array + 0.1 * rng.normal(size=array.shape) for name, array in params.items()}

    def loss(p):
        return np.mean((np.tanh(x @ p["W"]) @ p["V"] - y) ** 2)

    def backward(p):
        p = earlier if wrong else p
        h = np.tanh(x @ p["W"])
        error = 2 * (h @ p["V"] - y) / y.size
        return {"W": x.T @ (error @ p["V"].T * (1 - h**2)), "V": h.T @ error}

    return loss, params, backward


def own_loop(bug):
    """A training by hand whose hook is in the wrong place, or gets another gradient than the loss's."""
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 2))
    params = {"W": rng.normal(size=(4, 5)) / 2, "b": np.zeros(5), "V": rng.normal(size=(5, 2)) / 2}
    velocity = {name: np.zeros_like(array) for name, array in params.items()}
    hook = GradCheckHook(after=3, reporters=[], on_fail=lambda report: None)

    def backward(p, x, y):
        h = np.tanh(x @ p["W"] + p["b"])
        error = 2 * (h @ p["V"] - y) / y.size
        delta = error @ p["V"].T * (1 - h**2)
        return {"W": x.T @ delta, "b": delta.sum(axis=0), "V": h.T @ error}

    grads = velocity
    for step in range(4):
        rows = rng.permutation(40)[:16]

        def loss(p, x=x[rows], y=y[rows]):
            return np.mean((np.tanh(x @ p["W"] + p["b"]) @ p["V"] - y) ** 2)

        if bug == "before backward":
            hook.on_step(step, loss=loss, params=params, grads=grads)
        grads = backward(params, x[rows], y[rows])
        velocity = {name: 0.9 * velocity[name] + grad for name, grad in grads.items()}
        if bug not in ("before backward", "after the update"):
            hook.on_step(step, loss=loss, params=params, grads=velocity if bug == "velocity" else grads)
        params = {name: array - 0.1 * grads[name] for name, array in params.items()}
        if bug == "after the update":
            hook.on_step(step, loss=loss, params=params, grads=grads)
    return hook.reports[1:]


def gates(wrong):
    """Three gates; the gradients of two biases are copied from the first."""
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(10, 3)), rng.normal(size=(10, 4))
    params = {f"{kind}{gate}": rng.normal(size=(3, 4) if kind == "W" else 4) for gate in "fio" for kind in "Wb"}

    def gate(p, name):
        return 1 / (1 + np.exp(-(x @ p[f"W{name}"] + p[f"b{name}"])))

    def loss(p):
        return 0.5 * np.mean((gate(p, "f") * gate(p, "i") + gate(p, "o") - y) ** 2)

    def backward(p):
        f, i, o = (gate(p, name) for name in "fio")
        error = (f * i + o - y) / y.size
        delta = {"f": error * i * f * (1 - f), "i": error * f * i * (1 - i), "o": error * o * (1 - o)}
        grads = {f"W{name}": x.T @ delta[name] for name in "fio"}
        return grads | {f"b{name}": delta["f" if wrong else name].sum(axis=0) for name in "fio"}

    return loss, params, backward


def family(network, bugs, *settings):
    """The bugs of one network; its right form is that without any."""
    return {
        f"{network.__name__}: {bug}": one_check(
            lambda wrong, bug=bug: network(bug if wrong else "", *settings), *codes.split()
        )
        for bug, codes in bugs.items()
    }


NORMS = {"no mean": "path_lost", "no variance": "path_lost", "neither": "path_lost"}
OTHER_BUGS |= {
    **family(
        recurrent,
        {
            "tanh of the output": "wrong_below",
            "input of the last step only": "uses_lost",
            "the state after": "other_input",
            "untransposed": "wrong_below",
            "no path through time": "wrong_below",
        },
    ),
    **{f"batch norm: {name}": bug for name, bug in family(normalised, NORMS, 0).items()},
    **{f"layer norm: {name}": bug for name, bug in family(normalised, NORMS, 1).items()},
    **family(
        attention,
        {
            "diagonal of softmax": "wrong_below",
            "scores untransposed": "not_transposed",
            "weights untransposed": "not_transposed",
        },
    ),
    **family(
        residual,
        {
            "another weight": "other_weight",
            "updated before": "updated_before",
            "no path around": "path_lost",
            "path around twice": "path_scaled",
            "input before tanh": "other_input",
            "last sample": "samples_lost",
        },
    ),
    **{
        f"vector: {bug}": one_check(lambda wrong, bug=bug: (*vector(bug)[:2], lambda p: vector(bug)[2](p, wrong)), code)
        for bug, code in {
            "derivative of the derivative": "activation_derivative",
            "L1 missing": "l1",
            "L2 for L1": "l1",
            "L2 missing on most": "l2_missing",
            "by the logarithm": "reparametrised",
            "reversed": "flipped",
            "out by one": "shifted",
            "clipped by value": "clipped",
        }.items()
    },
    **family(
        checkpointed,
        {
            "mask drawn again": "other_input",
            "input before the mask": "other_input",
            "no mask": "wrong_below",
            "unscaled mask": "scaled",
        },
    ),
    "weights of outputs": one_check(weighted, "path_scaled"),
    "rows averaged": one_check(averaged, "line_factors"),
    "a backward that reads old caches": one_check(reads_old_caches, "old_caches"),
    **{
        f"own loop: {bug}": OtherBug((code,), lambda wrong, bug=bug: own_loop(bug if wrong else ""))
        for bug, code in {
            "after the update": "after_the_update",
            "before backward": "stale",
            "velocity": "momentum",
        }.items()
    },
    "the loss of all samples": one_check(whole_data_set, "other_samples"),
    "biases copied": one_check(gates, "copied"),
}
