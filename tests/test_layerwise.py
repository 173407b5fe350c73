"""Each layer's backward on its own: our layers, anybody's, and the hook that names the one at fault."""

from __future__ import annotations

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
    assert set(report.parameters) == {"0", "input"}


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
