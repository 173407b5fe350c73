"""The README's table "your code looks like ...: copy this line": each line is run on such a program."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import GradCheckHook, GradientMismatch, Verdict, adapters, assert_gradients, check_gradients
from gc_hooks.isolation.snapshot import Snapshot

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TABLE = README.partition("| your code looks like |")[2].partition("\n\n")[0]
ROWS = [tuple(row.strip(" |").split(" | ")) for row in TABLE.splitlines()[2:]]

RNG = np.random.default_rng(5)
X, TARGETS = RNG.normal(size=(10, 3)), RNG.normal(size=(10, 2))
LABELS = np.arange(10) % 2


def weights():
    rng = np.random.default_rng(6)
    return {"W1": rng.normal(size=(3, 4)), "b1": np.zeros(4), "W2": rng.normal(size=(4, 2)), "b2": np.zeros(2)}


def forward(W1, b1, W2, b2):
    hidden = np.tanh(X @ W1 + b1)
    return 0.5 * np.mean((hidden @ W2 + b2 - TARGETS) ** 2), hidden


def backward(W1, b1, W2, b2, factor=1):
    """The gradients in the order of the parameters, with that of W1 times a factor."""
    hidden = forward(W1, b1, W2, b2)[1]
    error = (hidden @ W2 + b2 - TARGETS) / TARGETS.size
    delta = error @ W2.T * (1 - hidden**2)
    return factor * X.T @ delta, delta.sum(axis=0), hidden.T @ error, error.sum(axis=0)


# the programs, with the gradient of their first matrix times a factor


def cs231n(factor):
    class TwoLayerNet:
        def __init__(self):
            self.params = weights()

        def loss(self, X, y):
            grads = dict(zip(self.params, backward(**self.params, factor=factor), strict=True))
            return forward(**self.params)[0], grads

    return {"model": TwoLayerNet(), "y": TARGETS}


class Dense:
    """A layer of the book: its arrays, their gradients and its caches are attributes."""

    def __init__(self, W, b, factor=1):
        self.weights, self.biases, self.factor = W, b[np.newaxis], factor

    def forward(self, inputs):
        self.inputs = inputs
        self.output = inputs @ self.weights + self.biases

    def backward(self, dvalues):
        self.dweights = self.factor * self.inputs.T @ dvalues
        self.dbiases = dvalues.sum(axis=0, keepdims=True)
        self.dinputs = dvalues @ self.weights.T


class ReLU:
    def forward(self, inputs):
        self.inputs, self.output = inputs, np.maximum(0, inputs)

    def backward(self, dvalues):
        self.dinputs = dvalues * (self.inputs > 0)


class CrossEntropy:
    def forward(self, inputs, labels):
        powers = np.exp(inputs - inputs.max(axis=1, keepdims=True))
        self.output = powers / powers.sum(axis=1, keepdims=True)
        return -np.mean(np.log(self.output[range(len(labels)), labels]))

    def backward(self, dvalues, labels):
        self.dinputs = dvalues.copy()
        self.dinputs[range(len(labels)), labels] -= 1
        self.dinputs /= len(labels)


def nnfs(factor):
    W1, b1, W2, b2 = weights().values()
    dense1, activation1, dense2, criterion = Dense(W1, b1, factor), ReLU(), Dense(W2, b2), CrossEntropy()

    def loss():
        dense1.forward(X)
        activation1.forward(dense1.output)
        dense2.forward(activation1.output)
        return criterion.forward(dense2.output, LABELS)

    loss()
    criterion.backward(criterion.output, LABELS)
    dense2.backward(criterion.dinputs)
    activation1.backward(dense2.dinputs)
    dense1.backward(activation1.dinputs)
    return {"dense1": dense1, "activation1": activation1, "dense2": dense2, "criterion": criterion, "loss": loss}


class Network:
    """Columns are samples; one at a time."""

    def __init__(self, factor):
        W1, b1, W2, b2 = weights().values()
        self.weights, self.biases = [W1.T.copy(), W2.T.copy()], [b1[:, np.newaxis], b2[:, np.newaxis]]
        self.factor = factor

    def activations(self, a):
        found = [a]
        for W, b in zip(self.weights, self.biases, strict=True):
            found.append(1 / (1 + np.exp(-(W @ found[-1] + b))))
        return found

    def cost(self, x, y):
        return 0.5 * np.sum((self.activations(x)[-1] - y) ** 2)

    def backprop(self, x, y):
        nabla_b, nabla_w = [None, None], [None, None]
        *inner, last = self.activations(x)
        delta = (last - y) * last * (1 - last)
        for layer in (1, 0):
            nabla_b[layer], nabla_w[layer] = delta, delta @ inner[layer].T
            delta = self.weights[layer].T @ delta * inner[layer] * (1 - inner[layer])
        nabla_w[0] *= self.factor
        return nabla_b, nabla_w


def nielsen(factor):
    return {"net": Network(factor), "x": X[:1].T, "y": TARGETS[:1].T}


def nielsen_with_attributes(factor):
    net, x, y = nielsen(factor).values()
    net.nabla_b, net.nabla_w = net.backprop(x, y)
    return {"net": net, "loss": lambda: net.cost(x, y)}


def min_char_rnn(factor):
    rng = np.random.default_rng(7)
    Wxh, Whh, Why = rng.normal(size=(4, 3)), 0.5 * rng.normal(size=(4, 4)), rng.normal(size=(3, 4))
    bh, by, inputs, targets, hprev = np.zeros((4, 1)), np.zeros((3, 1)), [0, 2, 1], [2, 1, 0], np.zeros((4, 1))

    def lossFun(inputs, targets, hprev):  # noqa: N802 - as it is called there
        xs, hs, ps, loss = {}, {-1: np.copy(hprev)}, {}, 0
        for t in range(len(inputs)):
            xs[t] = np.zeros((3, 1))
            xs[t][inputs[t]] = 1
            hs[t] = np.tanh(Wxh @ xs[t] + Whh @ hs[t - 1] + bh)
            y = Why @ hs[t] + by
            ps[t] = np.exp(y) / np.sum(np.exp(y))
            loss += -np.log(ps[t][targets[t], 0])
        dWxh, dWhh, dWhy, dbh, dby = (np.zeros_like(array) for array in (Wxh, Whh, Why, bh, by))
        dhnext = np.zeros_like(hs[0])
        for t in reversed(range(len(inputs))):
            dy = np.copy(ps[t])
            dy[targets[t]] -= 1
            dWhy += dy @ hs[t].T
            dby += dy
            draw = (1 - hs[t] ** 2) * (Why.T @ dy + dhnext)
            dbh += draw
            dWxh += draw @ xs[t].T
            dWhh += draw @ hs[t - 1].T
            dhnext = Whh.T @ draw
        return loss, factor * dWxh, dWhh, dWhy, dbh, dby, hs[len(inputs) - 1]

    return {name: value for name, value in locals().items() if name not in ("rng", "factor")}


class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = data, 0.0, parents

    def __add__(self, other):
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    def relu(self):
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))

    def backward(self, upstream=1.0):
        self.grad += upstream
        for parent, slope in self.parents:
            parent.backward(upstream * slope)


def micrograd(factor):
    rng = np.random.default_rng(8)
    W, v = [[Value(float(w)) for w in row] for row in rng.normal(size=(10, 4))], list(map(Value, rng.normal(size=10)))

    def loss():
        total = Value(0.0)
        for x, y in zip(X[:2], TARGETS[:2, 0], strict=True):
            out = Value(float(-y))
            for row, weight in zip(W, v, strict=True):
                a = row[3]
                for w, xi in zip(row, x, strict=False):
                    a = a + w * Value(float(xi))
                out = out + a.relu() * weight
            total = total + out * out
        return total

    loss().backward()
    W[1][0].grad *= factor
    return {"net": SimpleNamespace(parameters=lambda: [w for row in W for w in row] + v), "loss": loss}


class MLP:
    """One class with all that it has in attributes, and dropout that may be on."""

    def __init__(self, factor, keep=1.0):
        vars(self).update(weights())
        self.factor, self.keep, self.rng = factor, keep, np.random.default_rng(9)

    def loss(self, X, y):
        self.X, self.y = X, y
        self.mask = (self.rng.random((len(X), 4)) < self.keep) / self.keep
        self.h = np.tanh(X @ self.W1 + self.b1)
        self.out = (self.h * self.mask) @ self.W2 + self.b2
        return 0.5 * np.mean((self.out - y) ** 2)

    def backward(self):
        self.dout = (self.out - self.y) / self.y.size
        self.dW2, self.db2 = (self.h * self.mask).T @ self.dout, self.dout.sum(axis=0)
        self.dh = self.dout @ self.W2.T * self.mask * (1 - self.h**2)
        self.dW1, self.db1 = self.factor * self.X.T @ self.dh, self.dh.sum(axis=0)
        self.dX = self.dh @ self.W1.T


def mlp(factor, keep=1.0):
    net = MLP(factor, keep)
    net.loss(X, TARGETS)
    net.backward()
    return {"net": net, "y": TARGETS}


def mlp_with_dropout(factor):
    return mlp(factor, keep=0.5)


def two_lists(factor):
    W1, b1, W2, b2 = weights().values()
    dW1, db1, dW2, db2 = backward(W1, b1, W2, b2, factor)

    def loss(Ws, bs, X, y):
        return forward(Ws[0], bs[0], Ws[1], bs[1])[0]

    return {"Ws": [W1, W2], "bs": [b1, b2], "dWs": [dW1, dW2], "dbs": [db1, db2], "loss": loss, "y": TARGETS}


def dictionary(factor):
    _, _, dWs, dbs, loss, _ = two_lists(factor).values()
    Ws, bs, *_ = two_lists(factor).values()
    return {
        "params": {"W": Ws, "b": bs},
        "grads": {"W": dWs, "b": dbs},
        "loss": lambda p, X, y: loss(p["W"], p["b"], X, y),
        "y": TARGETS,
    }


def vector(factor):
    b = np.array([0.3, -1.0, 0.7])
    return {
        "J": lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (b[:-1] - x[:-1]) ** 2),
        "g": lambda x: (
            factor
            * np.array(
                [
                    -400 * x[0] * (x[1] - x[0] ** 2) - 2 * (b[0] - x[0]),
                    200 * (x[1] - x[0] ** 2) - 400 * x[1] * (x[2] - x[1] ** 2) - 2 * (b[1] - x[1]),
                    200 * (x[2] - x[1] ** 2),
                ]
            )
        ),
        "x": np.array([0.4, 0.2, -0.6]),
    }


def vector_together(factor):
    J, g, x = vector(factor).values()
    return {"J": lambda x: (J(x), g(x)), "x": x}


def functions(factor):
    names = list(weights())
    return {
        "f": lambda p: forward(**p)[0],
        "g": lambda p: dict(zip(names, backward(**p, factor=factor), strict=True)),
        "params": weights(),
    }


class Part:
    """One half of a GAN: a layer with its parameters and gradients."""

    def __init__(self, rng, inputs, outputs, factor=1):
        self.params, self.grads = {"W": rng.normal(size=(inputs, outputs)), "b": np.zeros(outputs)}, {}
        self.factor = factor

    def forward(self, x):
        self.x, self.y = x, np.tanh(x @ self.params["W"] + self.params["b"])
        return self.y

    def backward(self, upstream):
        delta = upstream * (1 - self.y**2)
        self.grads = {"W": self.factor * self.x.T @ delta, "b": delta.sum(axis=0)}
        return delta @ self.params["W"].T


def gan(factor):
    rng = np.random.default_rng(10)
    D, G = Part(rng, 3, 1), Part(rng, 2, 3, factor)
    noise = rng.normal(size=(10, 2))

    def d_loss():
        return 0.5 * np.sum((D.forward(X) - 1) ** 2)

    def g_loss():
        return 0.5 * np.sum((D.forward(G.forward(noise)) - 1) ** 2)

    g_loss()
    G.backward(D.backward(D.y - 1))
    d_loss()
    D.backward(D.y - 1)
    hooks = {name: GradCheckHook(reporters=[], on_fail=lambda report: None) for name in ("hook_d", "hook_g")}
    return {"D": D, "G": G, "d_loss": d_loss, "g_loss": g_loss, "step": 0, **hooks}


def torch_function(factor):
    torch = pytest.importorskip("torch")

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, upstream):
            return 2 * factor * ctx.saved_tensors[0] * upstream

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x):
            return Square.apply(self.linear(x))

    torch.manual_seed(0)
    model, criterion, inputs, y = Net(), torch.nn.MSELoss(), torch.tensor(X).float(), torch.tensor(TARGETS).float()
    criterion(model(inputs), y).backward()

    def quiet(model):
        return adapters.TorchGradCheckHook(model, reporters=[], on_fail=lambda report: None)

    return {"TorchGradCheckHook": quiet, "model": model, "criterion": criterion, "X": inputs, "y": y, "step": 0}


def homework(factor):
    f, g, params = functions(factor).values()
    return {"student": SimpleNamespace(loss=f, grads=g), "params": params, "assert_gradients": assert_gradients}


PROGRAMS = {
    "CS231n": cs231n,
    "the nnfs book": nnfs,
    "Nielsen's": nielsen,
    "the same, kept in attributes": nielsen_with_attributes,
    "Karpathy's": min_char_rnn,
    "micrograd": micrograd,
    "`self.W1`": mlp,
    "the same with dropout": mlp_with_dropout,
    "two lists": two_lists,
    "a dictionary": dictionary,
    "scipy: `minimize(J, x0, jac=g)`": vector,
    "scipy: `minimize(J, x0, jac=True)`": vector_together,
    "JAX": functions,
    "a GAN": gan,
    "PyTorch": torch_function,
    "homework": homework,
}


def outcome(line, namespace):
    """Run what the README prints, and return the worst verdict of the checks."""
    found = None
    for code in re.findall("`([^`]+)`", line):
        if re.match(r"\w+ = ", code):
            exec(code, namespace)
        else:
            try:
                found = eval(code, namespace)
            except GradientMismatch as mismatch:
                return mismatch.report.verdict
    if isinstance(found, dict):
        return check_gradients(**found).verdict
    hooks = [one for one in namespace.values() if hasattr(one, "reports")]
    reports = [report for hook in hooks for report in hook.reports]
    return max((report.verdict for report in reports), default=Verdict.GOOD)


def test_every_row_has_its_program():
    """Nothing is promised that is not tried here."""
    begun = [[name for name in PROGRAMS if row[0].startswith(name)] for row in ROWS]
    assert [len(names) for names in begun] == [1] * len(PROGRAMS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:30] for row in ROWS])
@pytest.mark.parametrize("factor", [1, 3])
def test_the_line_of_the_table_attaches_the_program(row, factor):
    """At the first attempt: GOOD as it is, WORRY where a gradient is three times too large, and left as it was."""
    (program,) = (program for name, program in PROGRAMS.items() if row[0].startswith(name))
    namespace = {"np": np, "adapters": adapters, "X": X, **program(factor)}
    owned = [value for name, value in namespace.items() if name not in ("np", "adapters") and not callable(value)]
    before = Snapshot(*(one for one in owned if not hasattr(one, "reports")))
    verdict = outcome(row[1], namespace)
    assert verdict is (Verdict.GOOD if factor == 1 else Verdict.WORRY)
    assert not before.changes()
