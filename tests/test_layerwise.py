"""Each layer's backward on its own: our layers, anybody's, and the hook that names the one at fault."""

from __future__ import annotations

import pickle
import re
import threading
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import GradCheckHook, InvalidProblem, Verdict, check_layers, nn

RNG = np.random.default_rng(3)
X, LABELS = RNG.standard_normal((12, 4)), RNG.integers(3, size=12)


class OpenReLU(nn.ReLU):
    """The mask is always true."""

    def backward(self, params, cache, upstream):
        return upstream, {}


class SumForMean(nn.SoftmaxCrossEntropy):
    """The gradient of the sum, where the loss is a mean."""

    def gradient(self, outputs, targets):
        return np.tanh(super().gradient(outputs, targets))


class Affine:
    """Anybody's layer, with its buffers in dicts."""

    def __init__(self, a, b, factor=1.0):
        self.params = {"W": RNG.standard_normal((a, b)), "b": np.zeros(b)}
        self.grads, self.factor = {"W": np.zeros((a, b)), "b": np.zeros(b)}, factor

    def forward(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, upstream):
        self.grads["W"][...] = self.x.T @ upstream
        self.grads["b"][...] = upstream.sum(axis=0)
        return self.factor * upstream @ self.params["W"].T


class Listed:
    """Anybody's layer, with lists of arrays, outputs beside a cache, and gradients handed back."""

    def __init__(self):
        self.params = [RNG.standard_normal(5)]

    def forward(self, x):
        self.x = x
        return x * self.params[0], "cache"

    def backward(self, upstream):
        return upstream * self.params[0], {"0": (upstream * self.x).sum(axis=0)}


class Lookup:
    """Rows by integers, which have no gradient; an index that stands there twice counts once."""

    def __init__(self, right):
        self.params, self.grads, self.right = {"E": RNG.standard_normal((6, 3))}, {"E": np.zeros((6, 3))}, right

    def forward(self, indices):
        self.indices = indices
        return self.params["E"][indices]

    def backward(self, upstream):
        grad = np.zeros((6, 3))
        if self.right:
            np.add.at(grad, self.indices, upstream)
        else:
            grad[self.indices] += upstream
        self.grads["E"][...] = grad


def verdicts(reports):
    return {name: report.verdict for name, report in reports.items()}


@pytest.mark.parametrize("relu", [nn.ReLU, OpenReLU])
def test_the_layer_at_fault_is_the_only_one_accused(relu):
    """Everything below is right on its own, although its parameters are wrong in the whole network."""
    model = nn.Sequential([nn.Dense(4, 8), relu(), nn.Dropout(0.3), nn.Dense(8, 3)])
    reports = check_layers(model, X)
    wrong = {name for name, verdict in verdicts(reports).items() if verdict is not Verdict.GOOD}
    assert wrong == ({"2 OpenReLU"} if relu is OpenReLU else set())
    assert list(reports["1 Dense"].parameters) == ["W", "b", "input"]


def test_the_place_of_the_backward_is_told():
    """File and line."""
    report = check_layers(nn.Sequential([nn.Dense(4, 2), OpenReLU()]), X)["2 OpenReLU"]
    line = OpenReLU.backward.__code__.co_firstlineno
    assert any(f"test_layerwise.py:{line}" in note for note in report.notes)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_layers_of_anybodys(factor):
    """Twin dicts of buffers; the gradient for the input is judged, and named."""
    layers = [Affine(4, 5), Affine(5, 3, factor)]
    before = [layer.params["W"].copy() for layer in layers]
    reports = check_layers(layers, X)
    assert verdicts(reports) == {
        "1 Affine": Verdict.GOOD,
        "2 Affine": Verdict.GOOD if factor == 1 else Verdict.WORRY,
    }
    assert all(np.array_equal(layer.params["W"], was) for layer, was in zip(layers, before, strict=True))
    assert not any(layer.grads["W"].any() for layer in layers)
    if factor == 2:
        (diagnosis,) = reports["2 Affine"].diagnoses
        assert (diagnosis.code, diagnosis.parameters) == ("scaled", ("input",))


def test_lists_caches_and_gradients_that_are_handed_back():
    """Positions are names, a cache beside the outputs is passed over."""
    (report,) = check_layers([Listed()], RNG.standard_normal((6, 5))).values()
    assert report.ok
    assert set(report.parameters) == {"params[0]", "input"}


@pytest.mark.parametrize("right", [True, False])
def test_integers_have_no_gradient(right):
    """An embedding is judged for its table alone, and a repeated index is named."""
    (report,) = check_layers([Lookup(right)], np.array([1, 4, 4, 2])).values()
    assert list(report.parameters) == ["E"]
    assert report.ok is right
    assert [diagnosis.code for diagnosis in report.diagnoses] == ([] if right else ["rows"])


@pytest.mark.parametrize(("layers", "message"), [([], "no layers"), ([object()], "no forward"), ([np.tanh], "forward")])
def test_what_is_no_layer_is_refused(layers, message):
    """With what is needed."""
    with pytest.raises(InvalidProblem, match=message):
        check_layers(layers, X)


@pytest.mark.parametrize(
    ("parts", "at_fault"),
    [({"relu": OpenReLU}, "2 OpenReLU"), ({"loss": SumForMean}, "SumForMean"), ({}, None)],
)
def test_the_hook_adds_the_layer(parts, at_fault):
    """Where a delta goes wrong between parameters, the layers are checked one by one, and the loss too."""
    hook = GradCheckHook(after=None, reporters=[], on_fail=lambda report: None)
    model = nn.Sequential([nn.Dense(4, 8), parts.get("relu", nn.ReLU)(), nn.Dense(8, 3)])
    nn.Trainer(model, parts.get("loss", nn.SoftmaxCrossEntropy)(), nn.SGD(0.1), callbacks=[hook]).fit(X, LABELS)
    told = [diagnosis for diagnosis in hook.reports[0].diagnoses if diagnosis.code == "layer"]
    assert [at_fault in diagnosis.message for diagnosis in told] == ([True] if at_fault else [])
    assert all("test_layerwise.py:" in diagnosis.message for diagnosis in told)


class PerBatch(nn.Dense):
    """Divides by the batch's size once more."""

    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        return upstream, {**grads, "b": grads["b"] / len(upstream)}


class NextSample(nn.Tanh):
    """The rows of the batch are out of step by one."""

    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        return np.roll(upstream, 1, axis=0), grads


@pytest.mark.parametrize(
    ("dense", "activation", "codes"),
    [
        (PerBatch, nn.Tanh, {"batch_size_matters", "samples_mixed"}),
        (nn.Dense, NextSample, {"order_matters", "samples_mixed"}),
        (nn.Dense, OpenReLU, set()),
    ],
)
def test_identities_that_the_loss_keeps_and_the_gradient_does_not(dense, activation, codes):
    """Another order, every sample twice, single samples: each that is broken is a diagnosis of a failing check."""
    hook = GradCheckHook(after=None, reporters=[], on_fail=lambda report: None)
    model = nn.Sequential([dense(4, 8), activation(), nn.Dense(8, 3)])
    nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[hook]).fit(X, LABELS)
    identities = {"order_matters", "batch_size_matters", "samples_mixed"}
    assert {diagnosis.code for diagnosis in hook.reports[0].diagnoses} & identities == codes


def test_of_zeros_backward_makes_zeros():
    """A buffer that is added to is seen without any slope."""

    class Adding(Affine):
        def backward(self, upstream):
            self.grads["b"] += 1.0 + upstream.sum(axis=0)
            return super().forward(self.x) @ self.params["W"].T

    reports = check_layers([Adding(4, 3)], X)
    assert "not_linear" in {diagnosis.code for diagnosis in reports["1 Adding"].diagnoses}
    assert check_layers([Affine(4, 3)], X)["1 Affine"].diagnoses == ()


# The conventions of others. A `Strange` layer computes an affine map; its subclasses say where things stand.


class Strange:
    """An affine layer; ``factor`` is a bug in dW, ``share`` what the gradients are divided by."""

    def __init__(self, a=4, b=3, factor=1.0, share=1):
        rng = np.random.default_rng(a + b)
        self.factor, self.share = factor, share
        self.keep(rng.standard_normal((a, b)), rng.standard_normal(b))

    def forward(self, x):
        self.x = x
        W, b = self.parts()
        return x @ W + b

    def backward(self, upstream):
        self.hand_over(self.factor * self.x.T @ upstream / self.share, upstream.sum(axis=0) / self.share)
        return upstream @ self.parts()[0].T


class Dicts(Strange):
    def keep(self, W, b):
        self.params, self.grads = {"W": W, "b": b}, {}

    def parts(self):
        return self.params["W"], self.params["b"]

    def hand_over(self, dW, db):
        self.grads["W"], self.grads["b"] = dW, db


class Lists(Strange):
    """With gradients that add up in buffers, which somebody else sets to zero."""

    def keep(self, W, b):
        self.params, self.grads = [W, b], [np.ones_like(W), np.ones_like(b)]

    def parts(self):
        return self.params

    def hand_over(self, dW, db):
        self.grads[0] += dW
        self.grads[1] += db


class Tuples(Lists):
    def keep(self, W, b):
        self.params, self.param_grads = (W, b), None

    def hand_over(self, dW, db):
        self.param_grads = dW, db


class Attributes(Strange):
    def keep(self, W, b):
        self.W, self.b = W, b

    def parts(self):
        return self.W, self.b

    def hand_over(self, dW, db):
        self.dW, self.db = dW, db


class GradFirst(Attributes):
    def hand_over(self, dW, db):
        self.grad_W, self.grad_b = dW, db


class GradLast(Attributes):
    def hand_over(self, dW, db):
        self.W_grad, self.b_grad = dW, db


class FromTheBook(Strange):
    """Nothing is returned, and whether the training runs has to be said."""

    def keep(self, W, b):
        self.weights, self.biases = W, b[np.newaxis]

    def parts(self):
        return self.weights, self.biases

    def hand_over(self, dW, db):
        self.dweights, self.dbiases = dW, db[np.newaxis]

    def forward(self, x, training):
        self.output = super().forward(x)

    def backward(self, upstream):
        self.dinputs = super().backward(upstream)


class Words(Dicts):
    """With the names of the passes that some use."""

    forward = backward = None

    def keep(self, W, b):
        self.parameters, self.gradients = {"W": W, "b": b}, {"W": None, "b": None}

    def parts(self):
        return self.parameters["W"], self.parameters["b"]

    def hand_over(self, dW, db):
        self.gradients.update(W=dW, b=db)

    def forward_pass(self, x):
        return Strange.forward(self, x)

    def backward_pass(self, upstream):
        return Strange.backward(self, upstream)


class Methods(Attributes):
    def keep(self, W, b):
        self._weights, self._offset = W, b

    def parts(self):
        return self._weights, self._offset

    parameters = parts

    def hand_over(self, dW, db):
        self.found = [dW, db]

    def gradients(self):
        return self.found


class Returning(Attributes):
    def backward(self, upstream):
        below = super().backward(upstream)
        return below, self.__dict__.pop("dW"), self.__dict__.pop("db")


class Apart(Attributes):
    """Arrays by themselves, their gradients in a dict."""

    def keep(self, W, b):
        super().keep(W, b)
        self.grads = {"W": np.ones_like(W), "b": np.ones_like(b)}

    def hand_over(self, dW, db):
        self.grads["W"] += dW
        self.grads["b"] += db


class InOrder(Apart):
    """The gradients in a list."""

    def hand_over(self, dW, db):
        self.grads = [dW, db]


class Cached(Attributes):
    """The gradients among what forward keeps."""

    def hand_over(self, dW, db):
        self.cache = {"dW": dW, "db": db}


class Nodes(Strange):
    """Objects that hold a value and its gradient."""

    def keep(self, W, b):
        self.W, self.b = SimpleNamespace(value=W, grad=None), SimpleNamespace(value=b, grad=None)

    def parts(self):
        return self.W.value, self.b.value

    def hand_over(self, dW, db):
        self.W.grad, self.b.grad = dW, db


class Single(Attributes):
    """In float32."""

    def keep(self, W, b):
        super().keep(W.astype(np.float32), b.astype(np.float32))


class Lazy(Dicts):
    """Built in the first forward, with random numbers; and every input is kept in a list, until somebody empties it."""

    def keep(self, W, b):
        self.params, self.grads, self.seen = {"W": None, "b": None}, {}, []

    def forward(self, x):
        if self.params["W"] is None:
            self.params.update(W=np.random.standard_normal((x.shape[1], 3)), b=np.zeros(3))
        self.seen.append(x)
        return super().forward(x)

    def backward(self, upstream):
        below = [super(Lazy, self).backward(upstream) for _ in self.seen]
        return below[0] if len(below) == 1 else below


class Blind(Attributes):
    """A first layer, without a gradient for its input."""

    def backward(self, upstream):
        super().backward(upstream)


class Carrying(Attributes):
    """The last output is added to the next one, as a constant."""

    last = 0.0

    def forward(self, x):
        outputs = super().forward(x) + self.last
        self.last = outputs.mean(axis=0)
        return outputs


class Views(Strange):
    """All parameters in one vector, all gradients in another."""

    def keep(self, W, b):
        flat, self.shape = np.concatenate([W.ravel(), b]), W.shape
        self.params, self.grads = [flat], [np.zeros_like(flat)]
        self.weights, self.bias = flat[: W.size].reshape(W.shape), flat[W.size :]

    def parts(self):
        return self.weights, self.bias

    def hand_over(self, dW, db):
        self.grads[0][: dW.size], self.grads[0][dW.size :] = dW.ravel(), db


class Block(Strange):
    """Its part is another layer."""

    def keep(self, W, b):
        self.part = Attributes(*W.shape, factor=self.factor, share=self.share)

    def forward(self, x):
        return self.part.forward(x)

    def backward(self, upstream):
        return self.part.backward(upstream)


NAMES = {
    Dicts: {"W", "b", "input"},
    Lists: {"params[0]", "params[1]", "input"},
    Tuples: {"params[0]", "params[1]", "input"},
    Attributes: {"W", "b", "input"},
    GradFirst: {"W", "b", "input"},
    GradLast: {"W", "b", "input"},
    FromTheBook: {"weights", "biases", "input"},
    Words: {"W", "b", "input"},
    Methods: {"_weights", "_offset", "input"},
    Returning: {"W", "b", "input"},
    Apart: {"W", "b", "input"},
    InOrder: {"W", "b", "input"},
    Cached: {"W", "b", "input"},
    Nodes: {"W.value", "b.value", "input"},
    Single: {"W", "b", "input"},
    Lazy: {"W", "b", "input"},
    Blind: {"W", "b"},
    Carrying: {"W", "b", "input"},
    Views: {"params[0]", "input"},
    Block: {"part.W", "part.b", "input"},
}


def wrong_in(report):
    return {name for name, comparison in report.parameters.items() if comparison.verdict > Verdict.INCONCLUSIVE}


@pytest.mark.parametrize("share", [1, len(X)])
@pytest.mark.parametrize("kind", NAMES)
def test_a_layer_of_another_convention_is_judged(kind, share):
    """The right one is GOOD, also where it divides by the batch; a doubled dW is found, and dW alone is accused."""
    (right,) = check_layers([kind(share=share)], X).values()
    assert (right.verdict, set(right.parameters), right.unjudged) == (Verdict.GOOD, NAMES[kind], ())
    (doubled,) = check_layers([kind(share=share, factor=2.0)], X).values()
    assert wrong_in(doubled) == {next(iter(doubled.parameters))}
    assert any("divides" in note for note in right.notes) is (share > 1)


def test_float32_is_judged_in_float64():
    """A difference that float32 does not resolve is seen."""
    (report,) = check_layers([Single(factor=1 + 1e-6)], X).values()
    assert wrong_in(report) == {"W"}


def test_one_layer_that_divides_by_the_batch_among_others_that_do_not():
    """That is a bug, whichever of them is meant."""
    alike = check_layers([Attributes(4, 4, share=12), Dicts(share=12)], X)
    assert set(verdicts(alike).values()) == {Verdict.GOOD}
    reports = check_layers([Attributes(4, 4), Dicts(share=12)], X)
    assert verdicts(reports) == {"1 Attributes": Verdict.GOOD, "2 Dicts": Verdict.WORRY}
    assert wrong_in(reports["2 Dicts"]) == {"W", "b"}
    assert any("1 Attributes does not" in note for note in reports["2 Dicts"].notes)


def test_samples_may_stand_in_columns():
    """The batch is the axis along which the outputs move with the inputs; another length is no convention."""

    class Columns(Attributes):
        def forward(self, x):
            return super().forward(x.T).T

        def backward(self, upstream):
            return super().backward(upstream.T).T

    assert check_layers([Columns(4, 4, share=12)], X.T)["1 Columns"].ok
    assert wrong_in(check_layers([Columns(4, 4, share=4)], X.T)["1 Columns"]) == {"W", "b"}


class Hidden(Attributes):
    """The gradients have names that nobody can guess."""

    def hand_over(self, dW, db):
        self.upd, self.off = dW, db


class Constant(Strange):
    """Adds a table, which is not trained."""

    def keep(self, W, b):
        self.table = RNG.standard_normal(4)

    def forward(self, x):
        return x + self.table

    def backward(self, upstream):
        return upstream


def test_what_was_not_judged_is_said_and_never_good():
    """With a line to write that works: names for gradients, or what is to be left out."""
    (report,) = check_layers([Hidden(factor=2.0)], X).values()
    assert (report.verdict, report.unjudged) == (Verdict.INCONCLUSIVE, ("W", "b"))
    assert "params=['W', 'b'], grads=['upd', 'off']" in str(report)
    (told,) = check_layers([Hidden(factor=2.0)], X, params=["W", "b"], grads=["upd", "off"]).values()
    assert (wrong_in(told), told.unjudged) == ({"W"}, ())
    assert check_layers([Hidden()], X, params=["W", "b"], grads=["upd", "off"])["1 Hidden"].ok
    (report,) = check_layers([Constant()], X).values()
    assert (report.verdict, report.unjudged) == (Verdict.INCONCLUSIVE, ("table",))
    assert "skip=['table']" in str(report)
    assert check_layers([Constant()], X, skip=["table"])["1 Constant"].ok


def test_one_attribute_may_hold_all():
    """Named by one word, as for the adapter."""

    class Own(Dicts):
        def hand_over(self, dW, db):
            self.deltas = {"W": dW, "b": db}

    assert not check_layers([Own()], X)["1 Own"].ok
    assert check_layers([Own()], X, params="params", grads="deltas")["1 Own"].ok
    assert wrong_in(check_layers([Own(factor=2.0)], X, grads="deltas")["1 Own"]) == {"W"}


@pytest.mark.parametrize("names", [{"params": "weigths"}, {"grads": ["nabla"]}])
def test_names_that_no_layer_has_are_a_mistake(names):
    """Told once, with those that there are."""
    with pytest.raises(InvalidProblem, match="W, b, dW"):
        check_layers([Attributes()], X, **names)


def test_gradients_without_a_name_are_not_guessed():
    """Two of one size could be either's."""

    class Product(Strange):
        def keep(self, W, b):
            self.U, self.V = W, 2 * W

        def forward(self, x):
            self.x = x
            return (x @ self.U) * (x @ self.V)

        def backward(self, g):
            of_u, of_v = g * (self.x @ self.V), g * (self.x @ self.U)
            return of_u @ self.U.T + of_v @ self.V.T, self.x.T @ of_v, self.x.T @ of_u

    (report,) = check_layers([Product()], X).values()
    assert (report.verdict, report.unjudged) == (Verdict.INCONCLUSIVE, ("U", "V"))


class Gate(Strange):
    """A gate g, whose weight is called gw: it looks like the gradient of w."""

    def keep(self, W, b):
        self.w, self.gw = W, -W

    def forward(self, x):
        self.x = x
        return (x @ self.w) * (x @ self.gw)

    def backward(self, g):
        of_w, of_g = g * (self.x @ self.gw), g * (self.x @ self.w)
        self.grads = {"gw": self.x.T @ of_g, "w": self.factor * self.x.T @ of_w}
        return of_w @ self.w.T + of_g @ self.gw.T


def test_what_moves_the_outputs_is_no_gradient():
    """Whatever its name."""
    (right,) = check_layers([Gate()], X).values()
    assert (right.ok, set(right.parameters)) == (True, {"w", "gw", "input"})
    assert wrong_in(check_layers([Gate(factor=2.0)], X)["1 Gate"]) == {"w"}


class Statistics(Strange):
    """A normalisation with running statistics among its parameters, which have no gradient."""

    def keep(self, W, b):
        self.params, self.grads = {"gamma": np.ones(4), "mean": np.zeros(4)}, {}

    def forward(self, x):
        self.params["mean"] = 0.9 * self.params["mean"] + 0.1 * x.mean(axis=0)
        self.x = x - x.mean(axis=0)
        return self.x * self.params["gamma"]

    def backward(self, upstream):
        self.grads["gamma"] = self.factor * (upstream * self.x).sum(axis=0)
        return (upstream - upstream.mean(axis=0)) * self.params["gamma"]


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_running_statistics_are_no_parameters(factor):
    """What moves in a forward pass and has no gradient is not asked for one."""
    (report,) = check_layers([Statistics(factor=factor)], X).values()
    assert set(report.parameters) == {"gamma", "input"}
    assert wrong_in(report) == ({"gamma"} if factor == 2 else set())


class Masked(Strange):
    """Dropout with the global seed; wrong where backward draws again."""

    def keep(self, W, b):
        pass

    def forward(self, x):
        self.mask = np.random.random_sample(x.shape) < 0.5
        return x * self.mask

    def backward(self, upstream):
        if self.factor != 1:
            self.mask = np.random.random_sample(upstream.shape) < 0.5
        return upstream * self.mask


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_layer_that_draws_is_judged_with_the_draws_put_back(factor):
    """Its neighbours are judged too, and the training's random numbers are what they were."""
    np.random.seed(1)
    expected = np.random.random_sample()
    np.random.seed(1)
    reports = check_layers([Attributes(4, 4), Masked(factor=factor), Dicts(4, 3)], X)
    assert [report.ok for report in reports.values()] == [True, factor == 1, True]
    assert any("same draws" in note for note in reports["2 Masked"].notes)
    assert np.random.random_sample() == expected


class Failing(Strange):
    """Raises in one of its passes."""

    def __init__(self, where):
        self.where = where

    def forward(self, x):
        return x @ np.ones((99, 2)) if self.where == "forward" else x * 1.0

    def backward(self, upstream):
        raise KeyError("delta")


class Ticking(Failing):
    def forward(self, x):
        return x + next(TICKS)


TICKS = count()


class Locked(Attributes):
    def keep(self, W, b):
        super().keep(W, b)
        self.lock = threading.Lock()


class Leading(Attributes):
    """A copy of the lambda uses the original."""

    def keep(self, W, b):
        super().keep(W, b)
        self.product = lambda x: x @ self.W


class Needing(Attributes):
    def forward(self, x, targets):
        return super().forward(x)


@pytest.mark.parametrize(
    ("layer", "reason", "goes_on"),
    [
        (Failing("forward"), "forward.. got inputs of shape .12, 4. and raised ValueError", False),
        (Failing("backward"), "raised KeyError.*delta", True),
        (Ticking(""), "two outputs for the same inputs", False),
        (Locked(4, 4), "cannot be copied", False),
        (Leading(4, 4), "leads back to your own layer", False),
        (Needing(4, 4), "needs targets beside the inputs", False),
    ],
)
def test_a_layer_that_fails_is_inconclusive_alone(layer, reason, goes_on):
    """With the reason in three beats; the others have their reports, as far as there is something to check."""
    first, failed, last = check_layers([Attributes(4, 4), layer, Dicts(4, 3, factor=2.0)], X).values()
    assert (first.verdict, failed.verdict) == (Verdict.GOOD, Verdict.INCONCLUSIVE)
    text = " ".join(failed.notes)
    assert re.search(f"{reason}.* This usually means .* Try ", text)
    assert wrong_in(last) == ({"W"} if goes_on else set())
    assert goes_on or "not reached" in str(last)


def test_a_forgotten_return_is_told_where_something_below_is_trained():
    """A first layer may return nothing; in a later one its absence is a finding."""
    first, second = check_layers([Blind(4, 4), Blind(4, 3)], X).values()
    assert first.ok
    assert any("not judged" in note for note in first.notes)
    assert wrong_in(second) == {"input"}


def test_layers_that_have_run_before_are_left_as_they_are():
    """Caches, buffers and what they carry; and what stands there does not change the verdict."""
    layers = [Carrying(4, 4), Lists(4, 4), Lazy(), FromTheBook(3, 3)]
    outputs = layers[2].forward(layers[1].forward(layers[0].forward(X)))
    layers[3].forward(outputs, True)
    for layer, width in zip(layers, (4, 4, 3, 3), strict=True):
        layer.backward(np.ones((12, width)))
    before = pickle.dumps([vars(layer) for layer in layers])
    assert set(verdicts(check_layers(layers, X)).values()) == {Verdict.GOOD}
    assert pickle.dumps([vars(layer) for layer in layers]) == before


def test_inputs_of_zeros_hide_no_parameter():
    """The outputs are asked at other inputs too."""
    (report,) = check_layers([Attributes()], np.zeros((5, 4))).values()
    assert set(report.parameters) | set(report.unjudged) == {"W", "b", "input"}


def test_a_list_of_our_layers_is_a_model():
    """As if it had been put together."""
    assert list(check_layers([nn.Dense(4, 3), nn.Tanh()], X)) == ["1 Dense", "2 Tanh"]


def test_a_wrong_option_is_no_failure_of_a_layer():
    """It is raised."""
    with pytest.raises(InvalidProblem, match="method must be"):
        check_layers([Attributes()], X, method=3)
