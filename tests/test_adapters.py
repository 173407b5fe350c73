"""Anybody's trainer: one of each shape, right and with a bug, attached in at most ten lines and left as it was."""

from __future__ import annotations

import inspect
import re
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import (
    GradCheckHook,
    GradCheckWarning,
    InvalidProblem,
    NondeterministicLoss,
    Verdict,
    adapters,
    central,
    check_gradients,
    entries,
    joint,
    nn,
    per_parameter,
)
from gc_hooks.isolation.object_graph import changeable
from gc_hooks.isolation.snapshot import Snapshot
from gc_hooks.report.diagnosis import spoken
from hunts import some

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
INITIAL = {
    "W1": RNG.normal(size=(3, 4)),
    "b1": 0.1 * RNG.normal(size=4),
    "W2": RNG.normal(size=(4, 2)),
    "b2": 0.1 * RNG.normal(size=2),
}
RATE = 0.1


def forward(W1, b1, W2, b2):
    hidden = np.tanh(X @ W1 + b1)
    return 0.5 * np.sum((hidden @ W2 + b2 - Y) ** 2) / len(X), hidden


def gradients(W1, b1, W2, b2, wrong=False):
    """In the order of the parameters; when wrong, that of b1 is doubled."""
    _, hidden = forward(W1, b1, W2, b2)
    error = (hidden @ W2 + b2 - Y) / len(X)
    delta = (error @ W2.T) * (1 - hidden**2)
    return X.T @ delta, (2 if wrong else 1) * delta.sum(axis=0), hidden.T @ error, error.sum(axis=0)


def fresh(dtype=np.float64):
    return {name: array.astype(dtype) for name, array in INITIAL.items()}


class DictsByRule:
    """Two dictionaries, w and w_grad; the update makes new arrays."""

    wrong_name = "b1"

    def __init__(self, wrong, dtype):
        self.wrong, self.params = wrong, fresh(dtype)

    def backward(self):
        found = gradients(*self.params.values(), self.wrong)
        self.grads = {f"{name}_delta": grad for name, grad in zip(self.params, found, strict=True)}

    def update(self):
        self.params = {name: array - RATE * self.grads[f"{name}_delta"] for name, array in self.params.items()}

    def attach(self):
        return adapters.dicts(
            self.params, self.grads, loss=lambda p: forward(**p)[0], naming=lambda name: f"{name}_delta"
        )

    def arrays(self):
        return list(self.params.values())


class DictsByMap(DictsByRule):
    """The same, with a map, on the arrays themselves, which are updated in place."""

    def update(self):
        for name, array in self.params.items():
            array -= RATE * self.grads[f"{name}_delta"].astype(array.dtype)

    def attach(self):
        return adapters.dicts(
            self.params,
            self.grads,
            loss=lambda: forward(**self.params)[0],
            naming={name: f"{name}_delta" for name in INITIAL},
            in_place=True,
        )


class ReturnedTogether(DictsByRule):
    """One call returns (grads, loss, cache)."""

    def both(self, params):
        grads = gradients(*params.values(), self.wrong)
        return {f"d{n}": grad for n, grad in zip(params, grads, strict=True)}, forward(**params)[0], "cache"

    def update(self):
        grads = self.both(self.params)[0]
        self.params = {name: array - RATE * grads[f"d{name}"] for name, array in self.params.items()}

    def attach(self):
        return adapters.returned(self.both, self.params, loss=1, grads=0)


class ReturnedOneByOne(DictsByMap):
    """One call without arguments returns (loss, dW1, db1, dW2, db2)."""

    def attach(self):
        return adapters.returned(
            lambda: (forward(**self.params)[0], *gradients(*self.params.values(), self.wrong)),
            self.params,
            grads=slice(1, None),
            in_place=True,
        )


class Lists:
    """A list of arrays and a list of gradients."""

    wrong_name = "1"

    def __init__(self, wrong, dtype):
        self.wrong, self.params, self.grads = wrong, list(fresh(dtype).values()), []

    def backward(self):
        self.grads[:] = gradients(*self.params, self.wrong)

    def update(self):
        for array, grad in zip(self.params, self.grads, strict=True):
            array -= RATE * grad.astype(array.dtype)

    def attach(self):
        return adapters.parallel(self.params, self.grads, loss=lambda: forward(*self.params)[0])

    def arrays(self):
        return list(self.params)


class Generators(Lists):
    """Methods that yield them, and arrays that are new after every update."""

    wrong_name = "b1"

    def yielded(self, which):
        yield from getattr(self, which)

    def update(self):
        self.params = [array - RATE * grad for array, grad in zip(self.params, self.grads, strict=True)]

    def attach(self):
        return adapters.parallel(
            lambda: self.yielded("params"),
            lambda: self.yielded("grads"),
            loss=lambda: forward(*self.params)[0],
            names=list(INITIAL),
        )


class Dense:
    """A layer with a dictionary of parameters and one of gradients, and a cache."""

    wrong = False

    def __init__(self, W, b):
        self.params, self.grads = {"W": W, "b": b}, {}

    @property
    def weights(self):
        return self.params["W"], self.params["b"]

    def forward(self, inputs):
        self.inputs = inputs
        return inputs @ self.weights[0] + self.weights[1]

    def backward(self, upstream):
        self.keep(self.inputs.T @ upstream, (2 if self.wrong else 1) * upstream.sum(axis=0))
        return upstream @ self.weights[0].T

    def keep(self, dW, db):
        self.grads = {"dW": dW, "db": db}


class DenseWithTuples(Dense):
    def __init__(self, W, b):
        self.params, self.grads = (W, b), None

    weights = property(lambda self: self.params)

    def keep(self, dW, db):
        self.grads = dW, db


class DenseWithMethods(Dense):
    def __init__(self, W, b):
        self.W, self.b = W, b

    weights = property(lambda self: (self.W, self.b))

    def params(self):
        return [self.W, self.b]

    def keep(self, dW, db):
        self.dW, self.db = dW, db

    def grads(self):
        yield self.dW
        yield self.db


class DenseWithProperties(DenseWithMethods):
    params = property(lambda self: {"W": self.W, "b": self.b})
    grads = property(lambda self: [self.dW, self.db])


class Tanh:
    params = grads = ()

    def forward(self, inputs):
        self.outputs = np.tanh(inputs)
        return self.outputs

    def backward(self, upstream):
        return upstream * (1 - self.outputs**2)


class Block:
    """Layers in a row, which lists their parameters as its own once more."""

    def __init__(self, *layers):
        self.layers = list(layers)
        self.calls = 0

    @property
    def params(self):
        return [array for layer in self.layers for array in getattr(layer, "weights", ())]

    @property
    def grads(self):
        return [grad for layer in self.layers for grad in getattr(layer, "grads", {}).values()]

    def forward(self, inputs):
        self.calls += 1
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return inputs

    def backward(self, upstream):
        for layer in reversed(self.layers):
            upstream = layer.backward(upstream)
        return upstream


class Layered:
    """A model with layers, whose forward pass fills caches and counts its calls."""

    wrong_name = "layers.0.b"
    dense = Dense

    def __init__(self, wrong, dtype):
        W1, b1, W2, b2 = fresh(dtype).values()
        self.net = self.build(self.dense(W1, b1), Tanh(), self.dense(W2, b2))
        self.first.wrong = wrong

    def build(self, *layers):
        return Block(*layers)

    @property
    def first(self):
        return self.net.layers[0]

    def loss(self):
        return 0.5 * np.sum((self.net.forward(X) - Y) ** 2) / len(X)

    def backward(self):
        self.net.backward((self.net.forward(X) - Y) / len(X))

    def update(self):
        for layer in self.dense_layers():
            for array, grad in zip(layer.weights, self.gradients_of(layer), strict=True):
                array -= RATE * grad.astype(array.dtype)

    def gradients_of(self, layer):
        grads = layer.grads() if callable(layer.grads) else layer.grads
        return grads.values() if isinstance(grads, dict) else grads

    def dense_layers(self):
        return [self.net.layers[0], self.net.layers[2]]

    def attach(self):
        return adapters.layers(self.net, loss=self.loss)

    def arrays(self):
        caches = [layer.inputs for layer in self.dense_layers()] + [np.array(self.net.calls)]
        return [array for layer in self.dense_layers() for array in layer.weights] + caches


class Tuples(Layered):
    dense, wrong_name = DenseWithTuples, "0.1"

    def build(self, *layers):
        return SimpleNamespace(
            layers=layers, calls=0, **{k: getattr(Block(*layers), k) for k in ("forward", "backward")}
        )

    def attach(self):
        return adapters.layers(self.net.layers, loss=self.loss, state=self.net)


class Methods(Layered):
    dense, wrong_name = DenseWithMethods, "0.1"

    def attach(self):
        return adapters.layers(self.net.layers, loss=self.loss, state=self.net)


class Properties(Layered):
    """With backward handed in: its gradients are computed anew, and the buffers are left alone."""

    dense, wrong_name = DenseWithProperties, "0.b"

    def attach(self):
        return adapters.layers(self.net.layers, loss=self.loss, backward=self.backward, state=self.net)


class Nested(Layered):
    """A block in a block, the inner one of which lists its parameters once more."""

    wrong_name = "layers.0.layers.0.b"

    def build(self, first, activation, second):
        return Block(Block(first, activation), second)

    first = property(lambda self: self.net.layers[0].layers[0])

    def dense_layers(self):
        return [self.first, self.net.layers[1]]


class Attributes:
    """``self.W1`` and ``self.dW1``, new arrays at every update."""

    wrong_name = "b1"

    def __init__(self, wrong, dtype):
        self.wrong = wrong
        vars(self).update(fresh(dtype))

    def loss(self):
        return np.atleast_1d(forward(self.W1, self.b1, self.W2, self.b2)[0])  # of shape (1,)

    def backward(self):
        self.dW1, self.db1, self.dW2, self.db2 = gradients(self.W1, self.b1, self.W2, self.b2, self.wrong)

    def update(self):
        for name in INITIAL:
            setattr(self, name, getattr(self, name) - RATE * getattr(self, f"d{name}"))

    def attach(self):
        return adapters.attributes(self, ["W1", "b1", "W2", "b2"], loss=self.loss)

    def arrays(self):
        return [np.asarray(getattr(self, name)) for name in INITIAL]


class Numbers(Attributes):
    """The same with a bias that is a plain number."""

    def __init__(self, wrong, dtype):
        super().__init__(wrong, dtype)
        self.b1 = 0.25

    def backward(self):
        super().backward()
        self.db1 = float(self.db1.sum())


class Flat:
    """All parameters in one vector."""

    wrong_name = "theta"

    def __init__(self, wrong, dtype):
        self.wrong = wrong
        self.theta = np.concatenate([array.ravel() for array in fresh(dtype).values()])

    def get(self):
        return self.theta

    def put(self, theta):
        self.theta = theta

    def parts(self, theta):
        cuts = np.split(theta, np.cumsum([array.size for array in INITIAL.values()])[:-1])
        return [cut.reshape(array.shape) for cut, array in zip(cuts, INITIAL.values(), strict=True)]

    def loss(self):
        return forward(*self.parts(self.theta))[0]

    def grad(self):
        return np.concatenate([grad.ravel() for grad in gradients(*self.parts(self.theta), self.wrong)])

    def backward(self):
        self.gradient = self.grad()

    def update(self):
        self.put(self.theta - RATE * self.gradient)

    def attach(self):
        return adapters.flat(self.get, self.put, loss=self.loss, grad=self.grad, backward=self.grad)

    def arrays(self):
        return [self.theta]


class Pure(Flat):
    """f(theta) and g(theta)."""

    def attach(self):
        return adapters.pure(
            lambda theta: forward(*self.parts(theta))[0],
            lambda theta: np.concatenate([g.ravel() for g in gradients(*self.parts(theta), self.wrong)]),
            lambda: self.theta,
        )


class Value:
    """A node of a scalar autograd engine."""

    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = data, 0.0, parents

    def __add__(self, other):
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    def backward(self, upstream=1.0):
        self.grad += upstream
        for parent, slope in self.parents:
            parent.backward(upstream * slope)


class Scalars:
    """w0 w1 + b, squared, on one sample; the bias is used twice in the graph and gets the wrong sum."""

    wrong_name = "b"

    def __init__(self, wrong, dtype):
        self.wrong, self.values = wrong, [Value(dtype(v)) for v in (0.5, -1.5, 2.0)]

    def parameters(self):
        yield from self.values

    def loss(self):
        w0, w1, b = self.values
        out = w0 * w1 + b
        return out * out

    def backward(self):
        for value in self.values:
            value.grad = 0.0
        self.loss().backward()
        self.values[2].grad *= 2 if self.wrong else 1

    def update(self):
        for value in self.values:
            value.data -= RATE * value.grad

    def attach(self):
        return adapters.scalars(self.parameters, loss=self.loss, names=["w0", "w1", "b"])

    def arrays(self):
        return [np.array([(value.data, value.grad) for value in self.values])]


class Sgd:
    def __init__(self, rate):
        self.rate, self.steps = rate, 0

    def update(self, array, grad):
        self.steps += 1
        array -= (self.rate * grad).astype(array.dtype)
        return array


class Recorded:
    """The update happens inside backward."""

    wrong_name = "b1"

    def __init__(self, wrong, dtype):
        self.wrong, self.params, self.optimizer = wrong, fresh(dtype), Sgd(RATE)

    def backward(self):
        pass

    def update(self):
        assert self.optimizer.rate == RATE
        for name, grad in zip(INITIAL, gradients(*self.params.values(), self.wrong), strict=True):
            self.params[name] = self.optimizer.update(self.params[name], grad)

    def attach(self):
        return adapters.recorded(
            self, step=self.update, loss=lambda: forward(**self.params)[0], params=lambda: self.params
        )

    def arrays(self):
        return [*self.params.values(), np.array(self.optimizer.steps)]


class Recovered(Recorded):
    """The update happens inside ``fit``."""

    def attach(self):
        return adapters.recovered(
            self,
            step=self.update,
            loss=lambda: forward(**self.params)[0],
            params=lambda: self.params,
            learning_rate=RATE,
        )


SHAPES = [
    DictsByRule, DictsByMap, ReturnedTogether, ReturnedOneByOne, Lists, Generators, Layered, Tuples, Methods,
    Properties, Nested, Attributes, Numbers, Flat, Pure, Scalars, Recorded, Recovered,
]  # fmt: skip
FEW = [DictsByRule, Layered, Numbers, Recorded]
"""Mappings, objects, numbers and updates, where all the others are left to the long hunts."""
each_shape = pytest.mark.parametrize("shape", SHAPES)


def train(shape, *, wrong=False, dtype=np.float64, hook=None, steps=4):
    """The trainer after a few steps, with the hook attached or without."""
    trainer = shape(wrong, dtype)
    for step in range(steps):
        trainer.backward()
        if hook is not None:
            hook.on_step(step, **trainer.attach())
        trainer.update()
    return trainer


def a_hook(**options):
    return GradCheckHook(after=3, reporters=[], on_fail=lambda report: None, **options)


@each_shape
def test_a_right_gradient_is_good(shape):
    """At initialisation, one step later, and again later: the parameters are those of the moment."""
    hook = a_hook()
    train(shape, hook=hook)
    assert [report.verdict for report in hook.reports] == [Verdict.GOOD] * 3
    losses = [report.loss for report in hook.reports]
    assert losses[0] > losses[1] > losses[2]
    assert sorted(losses, reverse=True) == losses


@pytest.mark.parametrize("shape", some(SHAPES, [*FEW, Flat]))
def test_a_doubled_bias_is_found_and_named(shape):
    """WORRY on the bias alone, and the factor by its name."""
    hook = a_hook()
    train(shape, wrong=True, hook=hook)
    for report in hook.reports:
        accused = [name for name, c in report.parameters.items() if c.verdict >= Verdict.DOUBLE_CHECK]
        assert accused == [shape.wrong_name]
        assert report.verdict is Verdict.WORRY
        (diagnosis,) = report.diagnoses
        assert diagnosis.parameters == (shape.wrong_name,)
        # In one vector of all parameters it is an entry.
        assert diagnosis.code == ("single_entries" if shape in (Flat, Pure) else "scaled")


@pytest.mark.parametrize("shape", some(SHAPES, FEW))
@pytest.mark.parametrize("dtype", some([np.float64, np.float32], [np.float64]))
@pytest.mark.parametrize("wrong", some([False, True], [True]))
def test_the_training_is_the_same_to_the_bit(shape, dtype, wrong):
    """Parameters, gradients, caches, counters and global random states, with the hook and without."""
    before = np.random.get_state()[1].tobytes()
    hook = a_hook()
    hooked, alone = (train(shape, wrong=wrong, dtype=dtype, hook=h) for h in (hook, None))
    pairs = zip(hooked.arrays(), alone.arrays(), strict=True)
    assert all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in pairs)
    assert len(hook.reports) == 3
    assert np.random.get_state()[1].tobytes() == before


@pytest.mark.parametrize("shape", some(SHAPES, FEW))
def test_float32_is_never_accused(shape):
    """Trained in float32 a right gradient is GOOD or INCONCLUSIVE, and a doubled bias is not GOOD."""
    hook, wrong = a_hook(), a_hook()
    train(shape, dtype=np.float32, hook=hook)
    assert all(report.verdict <= Verdict.INCONCLUSIVE for report in hook.reports)
    train(shape, dtype=np.float32, hook=wrong, wrong=True)
    assert all(report.parameters[shape.wrong_name].verdict > Verdict.GOOD for report in wrong.reports)


@each_shape
def test_attaching_takes_at_most_ten_lines(shape):
    """The body of ``attach`` is what the user writes."""
    assert len(inspect.getsource(shape.attach).splitlines()) - 1 <= 10


@pytest.mark.parametrize("shape", some(SHAPES, FEW))
def test_an_attachment_may_be_made_once(shape):
    """Made before the loop it reads parameters and gradients anew; those that bind them at once are made each time."""
    trainer = shape(False, np.float64)
    trainer.backward()
    attachment = trainer.attach()
    first = check_gradients(**attachment)
    trainer.update()
    trainer.backward()
    binds_at_once = shape in (DictsByRule, DictsByMap, ReturnedTogether, ReturnedOneByOne)
    again = check_gradients(**(trainer.attach() if binds_at_once else attachment))
    assert first.ok
    assert again.ok
    assert again.loss < first.loss


def test_an_attachment_can_be_looked_at():
    """Its parameters and gradients are mappings, which say what is there now."""
    w, grads = np.ones(2), [np.zeros(2)]
    attachment = adapters.parallel([w], grads, loss=w.sum, names=["w"])
    assert len(attachment["params"]) == len(attachment["grads"]) == 1
    assert list(attachment["params"]) == ["w"]
    assert attachment["params"]["w"] is w
    grads[0] = np.ones(2)
    assert attachment["grads"]["w"][0] == 1.0
    with pytest.raises(InvalidProblem, match="There are 2 names for 1 parameters"):
        check_gradients(**adapters.parallel([w], grads, loss=w.sum, names=["w", "v"]))


@pytest.mark.parametrize("name", [n for n in adapters.__all__ if n[0].islower()])
def test_every_adapter_shows_how(name):
    """Each docstring has an example, which is a test of its own."""
    doc = getattr(adapters, name).__doc__
    assert ">>> " in doc
    assert all(section in doc for section in ("Parameters", "Examples"))


# the same memory under two names


class Tied:
    """An autoencoder whose decoder is the encoder's transpose, or a copy of its name."""

    def __init__(self, transposed):
        self.W = np.array(RNG.normal(size=(3, 3)))
        self.V = self.W.T if transposed else self.W

    def loss(self):
        return 0.5 * np.sum((np.tanh(X @ self.W) @ self.V - X) ** 2)

    def backward(self, forgotten=False):
        hidden = np.tanh(X @ self.W)
        error = hidden @ self.V - X
        self.dV = hidden.T @ error * (0 if forgotten else 1)
        self.dW = X.T @ ((error @ self.V.T) * (1 - hidden**2))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("forgotten", [False, True])
def test_gradients_of_one_memory_are_summed(transposed, forgotten):
    """Tied weights are one parameter: the sum is right, and a part that is left out is seen."""
    net = Tied(transposed)
    net.backward(forgotten)
    report = check_gradients(**adapters.attributes(net, ["W", "V"], loss=net.loss))
    assert list(report.parameters) == ["W"]
    assert report.verdict is (Verdict.WORRY if forgotten else Verdict.GOOD)
    assert report.notes[0] == "W and V are one array in memory: their gradients are summed under W."


def test_a_gradient_buffer_that_is_shared_too_is_counted_once():
    """Two layers that add to one buffer have the whole gradient in it already."""
    net = Tied(transposed=False)
    net.backward()
    net.dW += net.dV
    report = check_gradients(**adapters.parallel([net.W, net.V], [net.dW, net.dW], loss=net.loss))
    assert report.ok
    assert "counted once under params[0]" in report.notes[0]


def test_a_shared_layer_is_met_once():
    """The same layer at two places holds one gradient for both."""
    layer = Dense(np.ones((2, 2)), np.zeros(2))
    layer.grads = {"W": np.ones((2, 2)), "b": np.zeros(2)}
    report = check_gradients(**adapters.layers([layer, layer], loss=lambda: np.sum(layer.params["W"])))
    assert list(report.parameters) == ["0.W", "0.b"]
    assert report.ok


def test_layers_that_refer_to_each_other_go_by_their_shortest_names():
    """In their own order; a method does not lead to another model, whose parameters are not in the loss."""
    first, second, other = (Dense(np.ones((2, 2)), np.zeros(2)) for _ in range(3))
    first.next, second.previous, second.monitor = second, first, other.forward
    assert list(adapters.layers([first, second], loss=lambda: 0.0)["params"]) == ["0.W", "0.b", "1.W", "1.b"]


def test_parameters_that_overlap_in_part_are_refused():
    """A view beside the whole cannot be moved alone; parts of one vector that do not meet can."""
    theta = np.array([1.0, 2.0, 3.0])
    with pytest.raises(InvalidProblem, match=r"Parameters params\[0\] and params\[1\] share a part of their memory"):
        check_gradients(**adapters.parallel([theta, theta[1:]], [theta, theta[1:]], loss=theta.sum))
    parts = [theta[:1], theta[1:]]
    assert check_gradients(**adapters.parallel(parts, [np.ones(1), np.ones(2)], loss=theta.sum)).ok


@pytest.mark.parametrize("bias", [0, 0.5, np.float32(0.5)])
def test_numbers_and_arrays_that_others_hold_too_go_together(bias):
    """An attribute that is a number is set anew, and an array that the loss reads elsewhere is changed in place."""
    net = SimpleNamespace(W=np.array([1.0, 2.0]), b=bias, dW=np.array([2.0, 4.0]), db=1.0)
    elsewhere = net.W
    report = check_gradients(**adapters.attributes(net, ["W", "b"], loss=lambda: np.sum(elsewhere**2) + net.b))
    assert report.ok
    assert net.b is bias


def test_copies_of_parameters_are_refused():
    """To change what a property has just made would change nothing, and look like a parameter that nobody uses."""
    layer = DenseWithMethods(np.ones((3, 2)), np.zeros(2))
    layer.params = lambda: [layer.W.copy(), layer.b]
    layer.keep(np.ones((3, 2)), np.ones(2))
    with pytest.raises(InvalidProblem, match=r"Parameters params\[0\]\[0\] are new arrays each time.*adapters\.flat"):
        check_gradients(**adapters.layers([layer], loss=lambda: np.sum(layer.forward(X))))
    flat = adapters.flat(
        lambda: np.concatenate([layer.W.ravel(), layer.b]),
        lambda theta: vars(layer).update(W=theta[:6].reshape(3, 2), b=theta[6:]),
        loss=lambda: np.sum(layer.forward(X)),
        grad=lambda: np.concatenate([(X.T @ np.ones((12, 2))).ravel(), np.full(2, 12.0)]),
    )
    assert check_gradients(**flat).ok  # what the message advises
    layer.params = lambda: [layer.W.reshape(-1), layer.b[:]]  # views are the array itself
    assert list(adapters.layers([layer], loss=lambda: 0.0)["params"]) == ["0.0", "0.1"]


# what does not fit is a finding


@pytest.mark.parametrize(
    ("grads", "said"),
    [
        ([np.ones(2)], {"1": "no gradient was handed in for params[1]"}),
        ([np.ones(2), np.ones(2)], {"1": "the gradient has shape (2,), the parameter (1,)"}),
        ([np.ones(2), None], {"1": "the gradient of params[1] is None"}),
        ([np.ones(2), np.ones(1), np.ones(4)], {}),
    ],
)
def test_lists_that_do_not_fit_are_findings(grads, said):
    """Too few, too many, of another shape: said on the parameter, the others are checked, and nothing crashes."""
    params = [np.array([1.0, 2.0]), np.array([3.0])]
    report = check_gradients(**adapters.parallel(params, grads, loss=lambda: params[0].sum() + params[1]))
    wrong = {name: c.note for name, c in report.parameters.items() if c.verdict is Verdict.WORRY}
    assert wrong == said
    if len(grads) != 2:
        assert f"{len(grads)} gradients for 2 parameters, paired by position" in " ".join(report.notes)
    if len(grads) > 2:
        assert "Not parameters, ignored: gradient 2." in report.notes


def test_a_generator_that_runs_once_is_kept():
    """A generator object, instead of the function that makes it, holds its arrays for all checks."""
    params = [np.ones(2)]
    attachment = adapters.parallel((p for p in params), (2 * p for p in params), loss=lambda: np.sum(params[0] ** 2))
    assert check_gradients(**attachment).ok
    assert check_gradients(**attachment).ok


def test_a_layer_without_a_gradient_is_a_finding():
    """Backward was never called, which is a mistake of the set-up, or forgets the bias."""
    layer = Dense(np.ones((3, 2)), np.zeros(2))
    attachment = adapters.layers([layer], loss=lambda: np.sum(layer.forward(X)))
    with pytest.raises(InvalidProblem, match="There are no gradients"):
        check_gradients(**attachment)
    layer.grads = {"dW": X.T @ np.ones((12, 2))}
    report = check_gradients(**attachment)
    assert report.parameters["0.W"].verdict is Verdict.GOOD
    assert report.parameters["0.b"].verdict is Verdict.WORRY


def test_attributes_of_many_objects_and_missing_ones():
    """A list of layers with attributes; a name that nobody has is an error that says so."""
    layers = [SimpleNamespace(W=np.ones(2), dW=np.ones(2)), SimpleNamespace(b=np.ones(1))]
    report = check_gradients(
        **adapters.attributes(layers, ["W", "b"], loss=lambda: layers[0].W.sum() + layers[1].b.sum())
    )
    assert {name: c.verdict for name, c in report.parameters.items()} == {
        "0.W": Verdict.GOOD,
        "1.b": Verdict.WORRY,
    }
    with pytest.raises(InvalidProblem, match="gamma"):
        adapters.attributes(layers[0], ["gamma"], loss=lambda: 0.0)


# the loss


def test_another_factor_is_said_explicitly():
    """A mean that is reported beside the gradient of the sum is WORRY, and GOOD with its factor."""
    w = np.array([1.0, 2.0])
    options = {"params": {"w": w}, "grads": {"w": 2 * w}, "loss": lambda p: np.mean(p["w"] ** 2)}
    assert check_gradients(**adapters.dicts(**options)).verdict is Verdict.WORRY
    assert check_gradients(**adapters.dicts(**options, loss_factor=2)).ok
    assert check_gradients(**adapters.pure(lambda t: np.mean(t**2), lambda t: 2 * t, w, loss_factor=2)).ok
    assert check_gradients(**adapters.parallel([w], [2 * w], loss=lambda: np.mean(w**2), loss_factor=2)).ok


@pytest.mark.parametrize("loss", [0.5, None])
def test_a_loss_that_is_no_function_is_refused(loss):
    with pytest.raises(InvalidProblem, match=r"must be a callable, got.*lambda: model\.loss\(inputs, targets\)"):
        adapters.parallel([np.ones(2)], [np.ones(2)], loss=loss)


def test_a_loss_that_returns_its_cache_gets_the_usual_message():
    """What is no number is not multiplied by the factor, and is told at the door."""
    w = np.ones(2)
    with pytest.raises(InvalidProblem, match=r"returned a tuple of 2 items.*\[0\]"):
        check_gradients(**adapters.parallel([w], [w], loss=lambda: (w.sum(), "cache"), loss_factor=2))


class Noisy:
    """A model with dropout that is on, running statistics and a hidden state."""

    def __init__(self, kind):
        self.kind, self.rng = kind, np.random.default_rng(0)
        self.W, self.h, self.running_mean = np.array([0.5, 1.0, -0.5]), np.zeros(3), 0.0

    def forward(self):
        self.scale = (
            self.rng.random(3) if self.kind == "dropout" else np.random.rand(3) if self.kind == "global" else 1.0
        )
        self.running_mean = 0.9 * self.running_mean + self.W.mean()
        self.start = self.h if self.kind == "hidden" else 0.0
        self.h = np.tanh(self.W + self.start)
        shift = self.running_mean if self.kind == "statistics" else 0.0
        return np.sum(self.h * self.scale) + shift

    def backward(self):
        self.forward()
        self.dW = (1 - self.h**2) * self.scale + (1 / 3 if self.kind == "statistics" else 0.0)

    def attach(self, **options):
        return adapters.attributes(self, ["W"], loss=self.forward, **options)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("dropout", r"draws from Noisy\.rng"),
        ("global", "draws from NumPy's global random state"),
        ("hidden", r"changes Noisy\.h, and"),
        ("statistics", r"updates Noisy\.running_mean"),
    ],
)
def test_what_the_buffers_cannot_have_begun_from_is_refused(kind, said):
    """The model is put back after each evaluation, and still the check does not hide that its loss is not one."""
    net = Noisy(kind)
    net.backward()
    before = net.h, net.running_mean, net.rng.bit_generator.state, np.random.get_state()[1].tobytes()
    with pytest.raises(NondeterministicLoss, match=said):
        check_gradients(**net.attach())
    with pytest.raises(NondeterministicLoss, match=said):
        check_gradients(**net.attach(backward=net.backward))
    assert before == (net.h, net.running_mean, net.rng.bit_generator.state, np.random.get_state()[1].tobytes())


@pytest.mark.parametrize("kind", ["dropout", "global", "hidden", "statistics", ""])
def test_frozen_starts_every_evaluation_from_the_same_state(kind):
    """With its own forward pass backward sees the masks and the hidden state that the loss sees."""
    net = Noisy(kind)
    net.backward()
    before = net.dW, net.h, net.rng.bit_generator.state
    assert check_gradients(**net.attach(backward=net.backward, frozen=True)).ok
    assert all(
        now is then or now == then
        for now, then in zip((net.dW, net.h, net.rng.bit_generator.state), before, strict=True)
    )


def test_frozen_goes_with_functions_too():
    """One call that returns both draws the same masks for both."""
    rng = np.random.default_rng(0)

    def both(p):
        mask = rng.random(3)
        return np.sum(p["w"] ** 2 * mask), {"dw": 2 * p["w"] * mask}

    params, before = {"w": np.ones(3)}, rng.bit_generator.state
    assert check_gradients(**adapters.returned(both, params, state=rng, frozen=True)).ok
    with pytest.raises(NondeterministicLoss, match="draws from"):
        check_gradients(**adapters.returned(both, params, state=rng))
    assert rng.bit_generator.state == before
    with pytest.raises(InvalidProblem, match="frozen=True needs backward=, or a gradient function"):
        adapters.dicts(params, {"w": np.ones(3)}, loss=lambda p: 0.0, frozen=True)


def test_frozen_needs_a_backward_pass():
    with pytest.raises(InvalidProblem, match="frozen=True needs backward="):
        Noisy("").attach(frozen=True)


def test_backward_goes_with_a_loss_that_takes_nothing():
    """A backward pass that fills buffers reads the arrays themselves, and so has the loss to."""
    w = {"w": np.ones(3)}
    with pytest.raises(
        InvalidProblem, match=r"got backward= beside a loss that takes.*Try loss=lambda: loss\(params\)"
    ):
        adapters.dicts(w, w, loss=lambda p: 0.0, backward=lambda: None)


def test_gradients_in_place_may_be_returned_by_one_call_in_any_container():
    """A list, a tuple and a dictionary are paired as they are where the parameters are handed in."""
    w = {"w": np.array([1.0, 2.0])}
    for grads in ({"dw": 2 * w["w"]}, {"w": 2 * w["w"]}):
        both = lambda grads=grads: (np.sum(w["w"] ** 2), grads)  # noqa: E731 - a function of nothing
        assert check_gradients(**adapters.returned(both, w, in_place=True)).ok
    vector = w["w"]
    assert check_gradients(**adapters.returned(lambda: (vector @ vector, 2 * vector), vector, in_place=True)).ok


def test_what_is_only_updated_on_the_way_is_no_hindrance():
    """Running statistics that the loss does not use, caches and counters are put back, and the check goes through."""
    net = Noisy("")
    net.backward()
    before = net.running_mean
    assert check_gradients(**net.attach()).ok
    assert net.running_mean == before


def test_before_loss_resets_what_an_adapter_would_refuse():
    """The hook's own way to reset goes with every adapter."""
    net, hook = Noisy("hidden"), a_hook()

    def reset():
        net.h = np.zeros(3)

    net.backward()
    hook.on_step(0, before_loss=reset, **net.attach())
    assert hook.reports[0].ok


def test_a_check_that_fails_leaves_the_trainer_as_it_was():
    """An exception inside the loss, in the middle of a check."""
    calls, net = [], Noisy("")
    net.backward()
    before = vars(net).copy()

    def loss():
        calls.append(0)
        net.W[0] += 1e-9
        if len(calls) > 5:
            raise ZeroDivisionError
        net.W[0] = before["W"][0]
        return net.forward()

    with pytest.raises((ZeroDivisionError, InvalidProblem)):
        check_gradients(**adapters.attributes(net, ["W"], loss=loss))
    assert vars(net).keys() == before.keys()
    assert all(vars(net)[name] is before[name] for name in before)


# gradients with error bars


def linear(size):
    w = np.random.default_rng(size).normal(size=size)
    return w, lambda p: 0.5 * np.sum(p["w"] ** 2)


@pytest.mark.parametrize("size", [5, 400])
@pytest.mark.parametrize("probes", [None, entries, per_parameter, joint])
def test_an_error_bar_that_is_handed_over_is_part_of_the_verdict(size, probes):
    """One deviation is an accusation without its bar, and INCONCLUSIVE with it; a bar does not hide a large one."""
    w, loss = linear(size)
    noise = 1e-4 * np.random.default_rng(1).uniform(-1, 1, size)

    def verdict(grad, error):
        grads = {"w": adapters.Uncertain(grad, error, "read off an instrument")}
        report = check_gradients(loss, {"w": w}, grads, probes=probes)
        assert "read off an instrument" in report.notes
        return report.verdict

    assert verdict(w + noise, 0.0) >= Verdict.DOUBLE_CHECK
    assert verdict(w + noise, 1e-4) is Verdict.INCONCLUSIVE
    assert verdict(w, 1e-12) is Verdict.GOOD
    assert verdict(2 * w + noise, 1e-4) is Verdict.WORRY


def test_a_vanishing_gradient_within_its_bar_is_not_accused():
    """A parameter that has no gradient, recovered from an update, holds nothing but rounding."""
    params = {"w": np.ones(3), "unused": np.ones(3)}
    rounding = adapters.Uncertain(np.array([1e-11, 0.0, -1e-11]), 2e-11)
    report = check_gradients(lambda p: np.sum(p["w"] ** 2), params, {"w": 2 * params["w"], "unused": rounding})
    assert report.verdict <= Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("factor", "expected"), [(0, Verdict.GOOD), (1, Verdict.INCONCLUSIVE), (2, Verdict.INCONCLUSIVE)]
)
def test_a_small_gradient_below_its_bar_is_never_good(factor, expected):
    """Doubled or not, it cannot be told; that nothing moved where nothing slopes can."""
    params, slope = {"w": np.ones(3), "v": np.ones(3)}, 1e-8 if factor else 0.0
    grads = {"w": 2 * params["w"], "v": adapters.Uncertain(factor * slope * np.ones(3), 1e-7)}
    report = check_gradients(lambda p: np.sum(p["w"] ** 2) + slope * np.sum(p["v"]), params, grads)
    assert report.parameters["v"].verdict is expected


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rate", some([1.0, 1e-2, 1e-5, 1e-9], [1e-2, 1e-9]))
@pytest.mark.parametrize("wrong", [False, True])
def test_a_recovered_gradient_is_judged_within_its_bar(dtype, rate, wrong):
    """Whatever the learning rate leaves of it: a right one is never accused, a doubled bias never good."""

    class Net:
        def __init__(self):
            self.params = {name: 10 * array for name, array in fresh(dtype).items()}

        def fit(self):
            for name, grad in zip(INITIAL, gradients(*self.params.values(), wrong), strict=True):
                self.params[name] -= (dtype(rate) * grad).astype(dtype)

    net = Net()
    report = check_gradients(
        **adapters.recovered(
            net,
            step=net.fit,
            loss=lambda: forward(**net.params)[0],
            params=lambda: net.params,
            learning_rate=rate,
        )
    )
    others = [c.verdict for name, c in report.parameters.items() if name != "b1"]
    assert max(others) <= Verdict.INCONCLUSIVE
    b1 = report.parameters["b1"].verdict
    assert b1 > Verdict.GOOD if wrong else b1 <= Verdict.INCONCLUSIVE
    if dtype is np.float64 and rate >= 1e-5:
        assert b1 is (Verdict.WORRY if wrong else Verdict.GOOD)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_step_of_tied_arrays_is_recovered_whole(transposed):
    """What two names for one memory are updated by adds up there, and is no false alarm."""
    net = Tied(transposed)

    def fit():
        net.backward()
        net.W -= 1e-3 * net.dW
        net.V -= 1e-3 * net.dV

    before = net.W.tobytes()
    attachment = adapters.recovered(
        net, step=fit, loss=net.loss, params=lambda: {"W": net.W, "V": net.V}, learning_rate=1e-3
    )
    assert check_gradients(**attachment).ok
    assert net.W.tobytes() == before
    assert not hasattr(net, "dV")


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(InvalidProblem, match="learning_rate must be a positive number, got 0"):
        adapters.recovered(None, step=None, loss=lambda: 0.0, params=dict, learning_rate=0)


def test_a_recording_optimizer_takes_what_optimizers_are_given():
    """Arrays, lists and dictionaries of them, other positions, names, and calls that hand over nothing."""
    W, b = np.ones(2), np.ones(1)
    recorder = adapters.RecordingOptimizer(SimpleNamespace(lr=0.5, state={}))
    assert recorder.lr == 0.5
    assert recorder.zero_grad() is None
    recorder.step([W, b], [W, 3 * b])
    recorder(params={"W": W}, grads={"W": W})
    recorder.update(np.ones(4), np.ones(4))
    recorded = recorder.gradients({"W": W, "b": b})
    assert list(recorded) == ["W", "b", "the optimiser's 3"]
    assert np.array_equal(recorded["W"], 2 * W)
    by_name = adapters.RecordingOptimizer(param=1, grad=2)
    by_name.update("b", b, 5 * b)
    assert np.array_equal(by_name.gradients({"b": b})["b"], 5 * b)


def test_an_update_of_what_is_not_listed_is_told():
    """The optimiser is given an array that is not among the parameters: a note, and a missing gradient elsewhere."""
    net = Recorded(False, np.float64)
    listed = {**net.params, "extra": np.ones(2)}
    del listed["W1"]
    attachment = adapters.recorded(net, step=net.update, loss=lambda: forward(**net.params)[0], params=listed)
    report = check_gradients(**attachment)
    assert report.parameters["extra"].verdict is Verdict.WORRY
    assert "Not parameters, ignored: the optimiser's 0." in report.notes
    assert report.parameters["b1"].verdict is Verdict.GOOD


def test_a_hook_inside_the_model_is_left_alone():
    """A trainer that holds its hook hands it in with itself; what the hook counts goes on."""
    net, hook = Noisy(""), a_hook()
    net.callbacks = [hook]
    for step in range(4):
        net.backward()
        hook.on_step(step, **net.attach())
    assert [report.verdict for report in hook.reports] == [Verdict.GOOD] * 3
    assert hook.calls == 4


class Momentum:
    """In place, or with a new array for each old one; it counts its own steps, and somebody counts them for it."""

    def __init__(self, in_place):
        self.in_place, self.before, self.time = in_place, {}, 0

    def update(self, name, array, grad):
        self.before[name] = 0.9 * self.before.get(name, 0.0) + grad
        step = RATE * self.before[name] / self.time
        if not self.in_place:
            return array - step
        array -= step
        return array


class Part:
    """A layer that updates itself in backward: after its delta is computed, or before."""

    def __init__(self, rng, in_place, late):
        self.W, self.optimizer, self.late = rng.normal(size=(3, 3)), Momentum(in_place), late

    def forward(self, x):
        self.x, self.y = x, np.tanh(x @ self.W)
        return self.y

    def backward(self, upstream):
        upstream = upstream * (1 - self.y**2)
        before, self.optimizer.time = self.W, self.optimizer.time + 1
        self.W = self.optimizer.update("W", self.W, self.x.T @ upstream)
        return upstream @ (self.W if self.late else before if not self.optimizer.in_place else self.undone(before)).T

    def undone(self, updated):
        return updated + RATE * self.optimizer.before["W"] / self.optimizer.time


class Fitted:
    """Keeps its losses in a list that is not the layers', and in one that is nobody's attribute."""

    def __init__(self, in_place, late):
        rng = np.random.default_rng(8)
        self.parts, self.losses = [Part(rng, in_place, late) for _ in range(3)], []
        self.x, self.y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))

    def loss(self):
        x = self.x
        for part in self.parts:
            x = part.forward(x)
        return 0.5 * np.sum((x - self.y) ** 2)

    def fit(self):
        self.losses.append(self.loss())
        delta = self.parts[-1].y - self.y
        for part in reversed(self.parts):
            delta = part.backward(delta)

    def marks(self, seen):
        arrays = [(part.W, part.x, part.y, *part.optimizer.before.values()) for part in self.parts]
        return [a.tobytes() for trio in arrays for a in trio], self.losses, seen, self.parts[0].optimizer.time


def fitted(in_place, late, checked):
    net, seen, hook = Fitted(in_place, late), [], a_hook()

    def step():
        net.fit()
        seen.append(len(net.losses))

    for number in range(5):
        if checked:
            params = lambda: {str(k): part.W for k, part in enumerate(net.parts)}  # noqa: E731 - asked at every check
            options = {"step": step, "loss": lambda: net.loss(), "params": params, "param": 1, "grad": 2}
            hook.on_step(number, **adapters.recorded(net.parts, **options))
        step()
    return net.marks(seen), hook.reports


@pytest.mark.parametrize("in_place", some([True, False], [True]))
def test_an_update_before_the_delta_is_seen_where_gradients_are_recorded(in_place):
    """The optimiser does its work while it is listened to: what the update spoils below it is wrong, and named."""
    for report in fitted(in_place, True, True)[1][:2]:
        assert [comparison.verdict for comparison in report.parameters.values()][::2] == [Verdict.WORRY, Verdict.GOOD]
        assert any(diagnosis.code == "wrong_below" for diagnosis in report.diagnoses)
    assert all(report.ok for report in fitted(in_place, False, True)[1])


@pytest.mark.parametrize("in_place", some([True, False], [True]))
@pytest.mark.parametrize("late", some([True, False], [True]))
def test_what_step_refers_to_is_put_back_beside_the_owner(in_place, late):
    """The owners are the layers; the model behind them and a list around the step are as without the hook."""
    marks, reports = fitted(in_place, late, True)
    assert marks == fitted(in_place, late, False)[0]
    assert reports


def test_data_sets_are_not_copied():
    """What a step refers to is put back as far as it is state: not long lists of samples, nor large arrays."""
    samples, large, history, small = [(np.ones(2), 1)] * 2000, np.zeros(2**18), [0.5] * 2000, np.ones(2)
    found = changeable(lambda: (samples, large, history, small, np.linalg, len))
    assert {id(thing) for thing in found} == {id(history), id(small)}
    polynomial, namespace, layer = np.poly1d([1]), SimpleNamespace(), nn.Dense(2, 2)
    found = changeable(lambda: (polynomial, namespace, layer))
    assert {id(thing) for thing in found} == {id(namespace), id(layer)}


def loss_of(p):
    return np.sum(p["w"] ** 2)


def both(p):
    return loss_of(p), {"dw": 2 * p["w"]}


W_ONLY = {"w": np.array([1.0, 2.0])}
OWNER = SimpleNamespace(w=W_ONLY["w"], dw=2 * W_ONLY["w"], optimizer=None)
NOTHING = {"step": lambda: None, "loss": lambda: 0.0, "params": dict}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: adapters.dicts(W_ONLY, W_ONLY, loss=loss_of, in_place=True), r"The loss takes \(p\).*takes nothing"),
        (lambda: adapters.dicts(W_ONLY, lambda: W_ONLY, loss=loss_of), r"The gradient function takes \(\)"),
        (lambda: adapters.pure(lambda: 1.0, loss_of, W_ONLY), r"The loss takes \(\)"),
        (lambda: adapters.pure(lambda: 1.0, loss_of, lambda: W_ONLY["w"]), r"The loss takes \(\)"),
        (lambda: adapters.attributes(OWNER, ["w"], loss=loss_of), r"The loss takes \(p\)"),
        (lambda: adapters.returned(both, W_ONLY, loss=5), "a tuple of 2 items, with no place 5 for the loss.*loss="),
        (lambda: adapters.returned(both, W_ONLY, grads=5), "with no place 5 for the gradients"),
        (lambda: adapters.returned(both, W_ONLY, grads=[1, 2]), "with no place 2 for the gradients"),
        (lambda: adapters.returned(loss_of, W_ONLY), "returned a float64, with no place 0 for the loss"),
        (
            lambda: adapters.returned(lambda p: both(p)[::-1], W_ONLY),
            "position 0, where the loss should be, .* returned a dict.*Try loss=1, grads=0",
        ),
        (
            lambda: adapters.returned(lambda p: (p["w"], [1, [2]]), W_ONLY),
            "where the loss should be, .* returned a ndarray.*Try loss=1, grads=0",
        ),
        (lambda: adapters.layers(None, loss=lambda: 0.0), "no parameters: nothing in None has 'params'.*Try params="),
        (
            lambda: adapters.layers([SimpleNamespace()], loss=lambda: 0.0),
            "nothing in .* has 'params', or arrays beside",
        ),
        (lambda: adapters.scalars([], loss=lambda: 0.0), "no parameters: there are no values.*Try values="),
        (lambda: adapters.parallel([], [], loss=lambda: 0.0), "no parameters: the lists .* are empty.*Try to print"),
    ],
)
def test_what_cannot_work_is_refused_by_the_check_in_three_beats(make, said):
    """With what was seen and what to try, and in a training it costs the check and not the training."""
    with pytest.raises(InvalidProblem, match=said):
        check_gradients(**make())
    hook = a_hook()
    with pytest.warns(GradCheckWarning, match="The training goes on"):
        hook.on_step(0, **make())
    assert hook.reports[0].verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: adapters.attributes(OWNER, ["w", "c"], loss=lambda: 0.0),
            "no parameters c in a SimpleNamespace.*names=",
        ),
        (lambda: adapters.attributes(OWNER, [], loss=lambda: 0.0), "no parameters named in"),
        (lambda: adapters.scalars([OWNER], names=["a", "b"], loss=lambda: 0.0), "2 names for 1 values"),
        (
            lambda: adapters.recovered(None, **{**NOTHING, "params": W_ONLY}, learning_rate=0.1),
            r"params is \{.*\}, not a function.*Try params=lambda",
        ),
        (
            lambda: adapters.recovered(None, **{**NOTHING, "step": 5}, learning_rate=0.1),
            "step must be a function, got 5",
        ),
        (lambda: adapters.recorded(OWNER, **{**NOTHING, "step": 5}), "step must be a function, got 5.*Try step=lambda"),
        (lambda: adapters.recorded([], **NOTHING), r"no optimizer in \[\].*second argument"),
        (lambda: adapters.recorded(OWNER, "adam", **NOTHING), "no adam in "),
    ],
)
def test_what_is_not_there_is_refused_where_it_is_named(make, said):
    """A typing error is an error at once, with the name that was meant."""
    with pytest.raises(InvalidProblem, match=said):
        make()


def test_an_optimiser_may_be_a_function():
    """It is called itself, is passed on, and looks like no special object in disguise."""
    net = Recorded(False, np.float64)

    def descend(array, grad):
        return array - RATE * grad

    def update():
        assert not hasattr(net.optimizer, "__array__")
        for name, grad in zip(INITIAL, gradients(*net.params.values(), False), strict=True):
            net.params[name] = net.optimizer(net.params[name], grad)

    net.optimizer = descend
    before = dict(net.params)
    attachment = adapters.recorded(net, step=update, loss=lambda: forward(**net.params)[0], params=lambda: net.params)
    assert check_gradients(**attachment).ok
    assert net.optimizer is descend
    assert all(net.params[name] is array for name, array in before.items())


# parameters that are recognised, and what is left out


class Row:
    """Layers in a row, a loss, and a backward pass that keeps no caches of its own."""

    def __init__(self, *layers):
        self.layers = list(layers)

    def loss(self):
        found = X
        for layer in self.layers:
            found = layer.forward(found)
        self.outputs = found
        return 0.5 * np.sum(found**2)

    def backward(self):
        self.loss()
        upstream = self.outputs
        for layer in reversed(self.layers):
            upstream = layer.backward(upstream)
        return self


class Linear:
    """A layer whose matrix and gradient are called as one likes, beside its caches x and dx."""

    def __init__(self, param="W", grad="dW", wrong=False, size=3):
        self.names, self.wrong = (param, grad), wrong
        setattr(self, param, np.random.default_rng(size).normal(size=(3, size)))

    def forward(self, x):
        self.x = x
        return x @ getattr(self, self.names[0])

    def backward(self, upstream):
        setattr(self, self.names[1], (2 if self.wrong else 1) * self.x.T @ upstream)
        self.dx = upstream @ getattr(self, self.names[0]).T
        return self.dx


class LinearInContainer(Linear):
    """The same with the matrix in a container."""

    def __init__(self, param="params", grad="grads", wrong=False, size=3, keys=("W", "W")):
        super().__init__("W", "dW", wrong, size)
        self.where, self.keys = (param, grad), keys
        setattr(self, param, {keys[0]: self.W})

    def backward(self, upstream):
        below = super().backward(upstream)
        setattr(self, self.where[1], {self.keys[1]: self.dW})
        del self.dW
        return below


TWINS = [("W", "dW"), ("weights", "dweights"), ("W", "grad_W"), ("W", "W_grad"), ("kernel", "d_kernel"), ("W", "dL_dW")]
LISTED = [("params", "grads"), ("parameters", "gradients"), ("params", "param_grads"), ("params", "dparams")]


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize(
    ("kind", "names"), [*((Linear, names) for names in TWINS), *((LinearInContainer, names) for names in LISTED)]
)
def test_layers_of_another_kind_are_judged_among_their_like(kind, names, wrong):
    """Whatever the others call theirs: a doubled gradient is found, and caches (x beside dx) are no parameters."""
    net = Row(LinearInContainer(), kind(*names, wrong=wrong)).backward()
    report = check_gradients(**adapters.layers(net, loss=net.loss))
    assert report.verdict is (Verdict.WORRY if wrong else Verdict.GOOD)
    assert len(report.parameters) == 2
    assert not report.caveats


def test_targets_are_no_parameters():
    """``dy`` beside ``y`` is the gradient for the prediction."""
    net = SimpleNamespace(W=np.ones((3, 2)), y=Y)
    loss = lambda: 0.5 * np.sum((X @ net.W - net.y) ** 2)  # noqa: E731
    net.dy = X @ net.W - net.y
    net.dW = X.T @ net.dy
    report = check_gradients(**adapters.layers(net, loss=loss))
    assert report.ok
    assert list(report.parameters) == ["W"]


@pytest.mark.parametrize("wrong", [False, True])
def test_lists_of_arrays_and_numbers_are_twins_too(wrong):
    """``weights`` beside ``dweights``, and a bias that is a plain number; a time and its step are neither."""
    net = SimpleNamespace(weights=[np.ones((3, 2)), np.ones((2, 1))], b=0.5, t=0.0, dt=0.1, x=np.ones(3), dx=0.5)
    loss = lambda: np.sum(X @ net.weights[0] @ net.weights[1] + net.b)  # noqa: E731
    ones = np.ones((len(X), 1))
    net.dweights = [X.T @ ones @ net.weights[1].T, (X @ net.weights[0]).T @ ones]
    net.db = (2.0 if wrong else 1.0) * len(X)
    report = check_gradients(**adapters.layers(net, loss=loss))
    assert report.verdict is (Verdict.WORRY if wrong else Verdict.GOOD)
    assert list(report.parameters) == ["weights.0", "weights.1", "b"]
    assert net.b == 0.5


@pytest.mark.parametrize("factor", [1, 2])
def test_objects_that_stand_for_one_array_are_parameters(factor):
    """``Parameter(data, grad)``, listed by their layer or not; those that a forward pass makes are none."""
    made = lambda array, grad=None: SimpleNamespace(data=array, grad=grad)  # noqa: E731
    net = SimpleNamespace(W=made(np.ones((3, 2))), b=made(np.zeros(2)), history=[])
    net.params = lambda: [net.W, net.b]

    def loss():
        net.out = made(X @ net.W.data + net.b.data, np.ones((len(X), 2)))
        net.history.append(net.out.data)
        return np.sum(net.out.data)

    loss()
    net.W.grad, net.b.grad = X.T @ net.out.grad, factor * net.out.grad.sum(axis=0)
    report = check_gradients(**adapters.layers(net, loss=loss))
    assert list(report.parameters) == ["W", "b"]
    assert report.parameters["b"].verdict is (Verdict.GOOD if factor == 1 else Verdict.WORRY)
    assert not report.caveats


Kept = namedtuple("Kept", ["W", "dW"])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("build", [dict, Kept])
def test_a_layer_may_be_a_dictionary_or_a_named_tuple(build, factor):
    """With the gradient beside the array; a cache in a dictionary that is filled anew is none."""
    layers, cache = [build(W=np.ones((3, 3)), dW=np.zeros((3, 3))) for _ in range(2)], {}
    read = lambda layer, key: layer[key] if build is dict else getattr(layer, key)  # noqa: E731

    def loss():
        cache.update(x=X, h=X @ read(layers[0], "W"))
        return 0.5 * np.sum((cache["h"] @ read(layers[1], "W")) ** 2)

    loss()
    upstream = cache["h"] @ read(layers[1], "W")
    read(layers[1], "dW")[...] = factor * cache["h"].T @ upstream
    cache["dh"] = upstream @ read(layers[1], "W").T
    read(layers[0], "dW")[...] = X.T @ cache["dh"]
    report = check_gradients(**adapters.layers([*layers, cache], loss=loss))
    assert list(report.parameters) == ["0.W", "1.W"]
    assert report.ok is (factor == 1)


@pytest.mark.parametrize("factor", [1, 7])
def test_a_block_is_judged_by_its_own_gradients(factor):
    """The optimiser uses those that the block lists, and not the buffers of its parts: and under a short name."""
    cells = [Row(LinearInContainer()), Row(LinearInContainer())]
    cells[1].layers[0].params = cells[0].layers[0].params
    cells[1].layers[0].W = cells[0].layers[0].W
    W = cells[0].layers[0].W
    block = SimpleNamespace(steps=cells, params={"W": W}, grads={"W": np.zeros_like(W)})
    net = SimpleNamespace(layers=[SimpleNamespace(), block])
    loss = lambda: sum(cell.loss() for cell in cells)  # noqa: E731
    for cell in cells:
        cell.backward()
        block.grads["W"] += factor * cell.layers[0].grads["W"]
    report = check_gradients(**adapters.layers(net, loss=loss))
    assert report.verdict is (Verdict.GOOD if factor == 1 else Verdict.WORRY)
    assert list(report.parameters) == ["layers.1.W"]
    assert not report.notes
    del block.grads  # without its own, those of the parts are summed
    report = check_gradients(**adapters.layers(net, loss=loss))
    assert report.ok
    assert sum("one array in memory" in note for note in report.notes) == 1


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("forgotten", [False, True])
def test_two_names_in_one_layer_are_summed(listed, forgotten):
    """Tied in one object, in its dictionaries or beside their gradients, and never counted twice."""
    net = Tied(transposed=True)
    net.backward(forgotten)
    if listed:
        net.params = net.parameters = {"W": net.W, "V": net.V}
        net.grads = net.gradients = {"W": net.dW, "V": net.dV}
    report = check_gradients(**adapters.layers(net, loss=net.loss))
    assert list(report.parameters) == ["W"]
    assert report.ok is not forgotten


def test_many_shared_arrays_are_told_in_one_sentence():
    """However many layers share their arrays."""
    W, b = np.ones((3, 2)), np.ones(2)
    first, second = Dense(W, b), Dense(W, b)
    first.grads = second.grads = None
    first.grads, second.grads = ({"W": np.ones((3, 2)), "b": np.ones(2)} for _ in range(2))
    report = check_gradients(**adapters.layers([first, second], loss=lambda: 2 * W.sum() + 2 * b.sum()))
    assert report.ok
    (note,) = report.notes
    assert note.startswith("2 arrays have several names (0.W and 1.W; 0.b and 1.b)")


class Normalised:
    """Batch norm whose running statistics stand among its parameters: in a dictionary, or in a list."""

    def __init__(self, in_list):
        self.in_list, self.mean, self.gamma, self.beta = in_list, np.zeros(3), np.ones(3), np.full(3, 0.5)
        self.wrong = False

    @property
    def params(self):
        found = {"running_mean": self.mean, "gamma": self.gamma, "beta": self.beta}
        return list(found.values()) if self.in_list else found

    def loss(self):
        centred = X - X.mean(axis=0)
        self.normal = centred / np.sqrt((centred**2).mean(axis=0) + 1e-5)
        self.mean = 0.9 * self.mean + 0.1 * X.mean(axis=0)
        self.outputs = self.normal * self.gamma + self.beta
        return np.sum(self.outputs**3)

    def backward(self):
        self.loss()
        upstream = (2 if self.wrong else 1) * 3 * self.outputs**2
        found = {"gamma": (upstream * self.normal).sum(axis=0), "beta": (3 * self.outputs**2).sum(axis=0)}
        self.grads = list(found.values()) if self.in_list else found


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("in_list", [False, True])
def test_running_statistics_among_the_parameters_are_told_apart(in_list, wrong):
    """What moves under a forward pass and has no gradient is a note and no finding, and no longer when left out."""
    net = Normalised(in_list)
    net.wrong = wrong
    net.backward()
    before = net.mean
    names = ["0", "1", "2"] if in_list else ["running_mean", "gamma", "beta"]
    report = check_gradients(**adapters.layers(net, loss=net.loss))
    assert {name: c.verdict for name, c in report.parameters.items()} == {
        names[1]: Verdict.WORRY if wrong else Verdict.GOOD,
        names[2]: Verdict.GOOD,
    }
    assert report.notes == (
        f"{spoken(names[0])} moves under a forward pass and has no gradient, like running statistics: not judged.",
    )
    assert net.mean is before
    for skip in ([names[0]], names[0], lambda name: name == names[0]):
        report = check_gradients(**adapters.layers(net, loss=net.loss, skip=skip))
        assert list(report.parameters) == names[1:]
        assert not report.caveats
    if not in_list:
        assert list(adapters.layers([net], loss=net.loss, only=["beta"])["params"]) == ["0.beta"]


def test_a_loss_that_takes_no_other_data_is_asked_with_the_same():
    """Caches are told from parameters where moved labels are refused."""
    net = Row(Linear("weights", "dweights")).backward()
    net.labels = np.arange(3.0)

    def loss():
        assert list(net.labels) == [0, 1, 2]
        return net.loss()

    report = check_gradients(**adapters.layers(net, loss=loss))
    assert list(report.parameters) == ["layers.0.weights"]


def test_a_parameter_that_lacks_its_gradient_is_no_statistic():
    """Also one that each forward pass casts and stores anew, listed or beside its gradient."""
    net = Row(LinearInContainer())
    layer = net.layers[0]
    cast = lambda: layer.params.update(W=layer.params["W"].astype(float)) or np.sum(X @ layer.params["W"])  # noqa: E731
    layer.grads = {"b": np.ones(3)}
    with pytest.raises(InvalidProblem, match=r"the gradients are called layers\.0\.b.*layers\.0\.dW for layers\.0\.W"):
        check_gradients(**adapters.layers(net, loss=cast))
    for factor in (1, 2):
        other = SimpleNamespace(W=np.ones((3, 1)), dW=factor * X.T @ np.ones((len(X), 1)))
        loss = lambda other=other: vars(other).update(W=other.W.astype(float)) or np.sum(X @ other.W)  # noqa: E731
        assert check_gradients(**adapters.layers(other, loss=loss)).ok is (factor == 1)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Linear("W", "slope"), "layers.1.W"),  # called as the others call theirs
        (Linear("kernel", "kernel_slope"), "layers.1.kernel"),  # as parameters are called
        (Linear("stuff", "gradient_of_stuff"), "layers.1.stuff"),  # beside something like a gradient
    ],
)
def test_what_looks_like_a_parameter_is_never_good_in_silence(layer, name):
    """The loss depends on it, and no gradient is found: INCONCLUSIVE, with its name and with lines that work."""
    net = Row(LinearInContainer(), layer).backward()
    report = check_gradients(**adapters.layers(net, loss=net.loss))
    assert report.unjudged == (name,)
    assert report.verdict is Verdict.INCONCLUSIVE
    (note,) = report.notes
    for advice in re.findall(r"\w+=\[[^]]*\](?:, \w+=\[[^]]*\])?", note):
        assert check_gradients(**adapters.layers(net, loss=net.loss, **eval(f"dict({advice})"))).ok
    assert "grads=" in note


def test_constants_are_a_note_and_what_the_loss_ignores_is_none():
    """Data and positions in the model; an optimiser's moments and caches, in lists and tuples, are not mentioned."""
    net = Row(LinearInContainer(), LinearInContainer())
    net.positions, net.data = np.full(3, 0.5), X
    net.velocity, net.moments = {"W": np.ones((3, 3))}, [np.ones((3, 3))]
    forward = Row.loss

    def loss():
        net.history, net.cache = [X.copy()], (X, X.T)
        return forward(net) + np.sum(net.data * net.positions)

    net.backward()
    report = check_gradients(**adapters.layers(net, loss=loss))
    assert report.ok
    (note,) = report.notes
    assert note.startswith("The loss depends on positions and data too, and no gradient stands beside them")
    assert not check_gradients(**adapters.layers(net, loss=loss, skip=["positions", "data"])).notes


def test_recognition_leaves_the_model_as_it_was():
    """Parameters, caches and their identity, also where the loss raises in the middle."""
    net = Row(LinearInContainer(), Linear()).backward()
    net.left = 100
    before, things = Snapshot(net), {name: id(thing) for name, thing in vars(net.layers[1]).items()}

    def broken():
        net.left -= 1
        net.layers[0].params["W"][...] = 0.0
        raise ZeroDivisionError

    for loss in (net.loss, broken):
        attachment = adapters.layers(net, loss=loss)
        assert {"layers.0.W", "layers.1.W"} <= set(attachment["params"])
        attachment["params"].unjudged  # noqa: B018 - it is evaluated
        assert not before.changes()
        assert {name: id(thing) for name, thing in vars(net.layers[1]).items()} == things


def tried(message):
    """Return the keywords that a message advises, ready for a call."""
    (advice,) = re.findall(r"Try (?:adapters\.\w+\(\.\.\., )?(\w+=[^)]*?)\)?\.$", message)
    return eval(f"dict({advice})")


SLOPED = SimpleNamespace(kernel=np.ones(2), kernel_slope=2 * np.ones(2))
SLOPED_LIST = SimpleNamespace(params=[SLOPED.kernel], slopes=[SLOPED.kernel_slope])
ENGINE = SimpleNamespace(val=2.0, gradient=4.0)


def squared():
    return np.sum(SLOPED.kernel**2)


@pytest.mark.parametrize(
    ("adapter", "arguments", "keywords", "said"),
    [
        (adapters.layers, ([SLOPED],), {}, "nothing in .* has 'params', or arrays .*has kernel beside kernel_slope"),
        (adapters.layers, ([SLOPED],), {"params": "W"}, "nothing in .* has 'W', or arrays"),
        (adapters.layers, ([SLOPED_LIST],), {}, "No layer has a gradient: nothing has 'grads'.*params beside slopes"),
        (adapters.layers, ([OWNER],), {"skip": ["v"]}, "skip= has 'v'.*nothing is called so.*are 0.w"),
        (adapters.layers, ([OWNER],), {"only": "0.v"}, "only= has '0.v'"),
        (adapters.layers, ([OWNER],), {"skip": ["w"]}, "leave no parameter. The names are 0.w"),
        (adapters.attributes, (SLOPED,), {"names": ["kernal"]}, "no parameters kernal in .* has kernel beside"),
        (adapters.attributes, (OWNER,), {"names": ["v"]}, "no parameters v in .* has w beside dw"),
        (
            adapters.attributes,
            (SLOPED,),
            {"names": ["kernel"]},
            "no gradient beside kernel.*kernel beside kernel_slope",
        ),
        (adapters.scalars, ([ENGINE],), {}, "has no 'data'; it has val and gradient"),
    ],
)
def test_the_advice_of_a_message_works(adapter, arguments, keywords, said):
    """It names what was seen, and the line that it gives attaches the trainer."""
    loss = lambda: ENGINE.val**2 if adapter is adapters.scalars else squared() + np.sum(OWNER.w**2)  # noqa: E731
    with pytest.raises(InvalidProblem, match=said) as refused:
        check_gradients(**adapter(*arguments, **keywords, loss=loss))
    advised = tried(str(refused.value))
    if "skip" in advised:  # a name that exists; the only parameter cannot be left out too
        assert advised == {"skip": ["0.w"]}
    else:
        keywords = {} if "only" in advised else keywords
        assert check_gradients(**adapter(*arguments, **{**keywords, **advised}, loss=loss)).ok


def test_the_advice_to_run_backward_first_works():
    """Nothing has a gradient yet; and a scalar engine is told by its name."""
    net = Row(Linear())
    for attach in (adapters.layers, lambda net, loss: adapters.attributes(net.layers[0], ["W"], loss=loss)):
        with pytest.raises(InvalidProblem, match=r"backward was not run yet.*Try to run it once before the check"):
            check_gradients(**attach(net, loss=net.loss))
    net.backward()
    assert check_gradients(**adapters.layers(net, loss=net.loss)).ok
    assert check_gradients(**adapters.attributes(net.layers[0], ["W"], loss=net.loss)).ok
    engine = Scalars(False, float)
    engine.backward()
    with pytest.raises(InvalidProblem, match=r"Value has data and grad.*Try adapters\.scalars\(net\.parameters, loss="):
        check_gradients(**adapters.layers(engine, loss=engine.loss))
    assert check_gradients(**adapters.scalars(engine.parameters, loss=engine.loss)).ok


@pytest.mark.parametrize("wrong", [False, True])
def test_attributes_that_are_lists_of_arrays(wrong):
    """Lists, and arrays of arrays, with the names of their gradients in a mapping."""
    net = SimpleNamespace(weights=[np.ones((2, 3)), np.ones((1, 2))])
    net.nabla_w = [2 * net.weights[0], (4 if wrong else 2) * net.weights[1]]
    loss = lambda: sum(np.sum(W**2) for W in net.weights)  # noqa: E731
    for _ in range(2):
        report = check_gradients(**adapters.attributes(net, {"weights": "nabla_w"}, loss=loss))
        assert [c.verdict for c in report.parameters.values()] == [
            Verdict.GOOD,
            Verdict.WORRY if wrong else Verdict.GOOD,
        ]
        arrays = net.weights
        net.weights = np.empty(2, dtype=object)
        net.weights[:] = arrays


def test_attributes_that_were_not_named_are_told():
    """A matrix that was forgotten in the list is a note; caches, and other names of what was named, are none."""
    net = SimpleNamespace(W=np.ones(3), W2=np.ones(3), dW=np.ones(3), dW2=np.ones(3), h=np.ones(3), dh=np.ones(3))
    net.V, net.dV = net.W, net.dW
    loss = lambda: vars(net).update(h=X @ net.W) or np.sum(net.W + net.W2)  # noqa: E731
    report = check_gradients(**adapters.attributes(net, ["W"], loss=loss))
    assert report.ok
    assert report.notes == ("Not named, and so not judged: W2, beside a gradient each.",)
    assert not check_gradients(**adapters.attributes(net, ["W", "W2"], loss=loss)).notes


# many numbers


class Engine:
    """A hundred values: the sum of their squares, each times its place."""

    def __init__(self, count=100):
        self.nodes = [SimpleNamespace(_data=0.1 * k, slope=0.2 * k * k, data=len) for k in range(count)]
        self.nodes[0].slope = None  # nothing came back from the loss

    def loss(self):
        return SimpleNamespace(_data=sum(k * node._data**2 for k, node in enumerate(self.nodes)), data=len)

    def attach(self, **options):
        return adapters.scalars(lambda: iter(self.nodes), loss=self.loss, data="_data", grad="slope", **options)


def test_many_numbers_are_one_vector():
    """A wrong one is named by its place, and costs what it costs in a vector; each is the same object afterwards."""
    engine = Engine()
    engine.nodes[7]._data = number = np.float64(0.7)
    report = check_gradients(**engine.attach(), method=central)
    assert (report.verdict, list(report.parameters)) == (Verdict.GOOD, ["values"])
    engine.nodes[42].slope *= 2
    report = check_gradients(**engine.attach())
    assert report.verdict is Verdict.WORRY
    assert [entry.index for entry in report.parameters["values"].worst][:1] == [(42,)]
    searched = check_gradients(**engine.attach(), method=central)
    theta = np.array([node._data for node in engine.nodes])
    grad = np.array([node.slope or 0.0 for node in engine.nodes])
    vector = check_gradients(lambda p: np.sum(np.arange(100) * p**2), theta, grad, method=central)
    assert searched.evaluations <= 1.2 * vector.evaluations
    assert engine.nodes[7]._data is number
    for node in engine.nodes:
        node.slope = None
    with pytest.raises(InvalidProblem, match="There are no gradients"):
        check_gradients(**engine.attach())


def test_names_of_many_numbers_group_them():
    """What differs in one number is one vector; what is alone is among the values."""
    engine = Engine(45)
    names = [f"n{i}.w{j}" for i in range(5) for j in range(8)] + ["a", "c", "v[0]", "v[1]", "v[2]"]
    report = check_gradients(**engine.attach(names=names))
    assert list(report.parameters) == ["n0.w", "n1.w", "n2.w", "n3.w", "n4.w", "values", "v"]
    engine.nodes[9].slope *= 3
    report = check_gradients(**engine.attach(names=names))
    assert report.parameters["n1.w"].worst[0].index == (1,)
    few = Engine(16)
    assert list(few.attach(names=[f"w{k}" for k in range(16)])["params"]) == [f"w{k}" for k in range(16)]


def test_a_loss_of_an_engine_is_the_users_own_in_messages():
    """Its signature is checked, and causes are named by its variables."""
    engine, noise = Engine(2), np.random.default_rng(0)
    with pytest.raises(NondeterministicLoss, match="draws from noise"):
        check_gradients(**adapters.scalars(engine.nodes, loss=lambda: noise.random(), data="_data", grad="slope"))
    with pytest.raises(InvalidProblem, match=r"The loss takes \(p\)"):
        check_gradients(**adapters.scalars(engine.nodes, loss=lambda p: 0.0, data="_data", grad="slope"))


class WithOthers:
    """A layer with a right gradient under a name of choice, and whatever else is handed in."""

    def __init__(self, gradient="dW", **others):
        rng = np.random.default_rng(0)
        self.x, self.t = rng.normal(size=(12, 4)), rng.normal(size=(12, 2))
        self.W = rng.normal(size=(4, 2))
        setattr(self, gradient, 2 * self.x.T @ (self.x @ self.W - self.t) / self.t.size)
        self.__dict__.update(others)

    def loss(self):
        return np.mean((self.x @ self.W - self.t) ** 2)


@pytest.mark.parametrize(
    ("gradient", "others"),
    [
        ("W_grad", {"delta_W": np.zeros((4, 2))}),  # the last step, for momentum
        ("grad_W", {"dW": np.ones((4, 2))}),
        ("dW", {"W_prev": np.ones((4, 2)), "dW_prev": np.ones((4, 2))}),  # for Barzilai and Borwein
    ],
)
@pytest.mark.parametrize("factor", [1, 2])
def test_what_an_update_keeps_beside_the_gradient_is_no_gradient(gradient, others, factor):
    """Words say more than letters, and what the loss does not need is no parameter."""
    net = WithOthers(gradient, **others)
    setattr(net, gradient, factor * getattr(net, gradient))
    report = check_gradients(**adapters.layers(net, loss=net.loss))
    assert list(report.parameters) == ["W"]
    assert report.ok == (factor == 1)


def test_a_constant_is_not_offered_the_gradient_of_another():
    """A mask of the weight's shape beside a right dW: data, in a note, and no advice that would accuse."""

    class Masked(WithOthers):
        def loss(self):
            return np.mean((self.x @ (self.W * self.mask) - self.t) ** 2)

    net = Masked(mask=np.ones((4, 2)))
    report = check_gradients(**adapters.layers(net, loss=net.loss))
    assert (report.ok, report.unjudged) == (True, ())
    assert "mask" in str(report)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_gradient_that_is_a_numpy_number_is_one(factor):
    """The slope of a leaky unit, an array of one entry, whose gradient a sum has made a number."""
    rng = np.random.default_rng(0)
    x, net = rng.normal(size=(12, 4)), SimpleNamespace(W=rng.normal(size=(4, 5)), slope=np.array([0.25]))

    def outputs():
        z = x @ net.W
        return z, np.where(z > 0, z, net.slope * z)

    z, h = outputs()
    upstream = 2 * h / h.size
    net.dW = x.T @ (upstream * np.where(z > 0, 1, net.slope))
    net.dslope = factor * np.sum(upstream * np.where(z > 0, 0, z))
    report = check_gradients(**adapters.layers(net, loss=lambda: np.mean(outputs()[1] ** 2)))
    assert set(report.parameters) == {"W", "slope"}
    assert report.ok == (factor == 1)
