"""Blocks inside of models, tied weights and frozen parameters: names, gradients, and what a check is shown of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gc_hooks import Callback, GradCheckHook, InvalidProblem, Verdict, check_gradients, check_layers, nn

RNG = np.random.default_rng(4)
INPUTS, LABELS = RNG.normal(size=(12, 5)), RNG.integers(3, size=12)
BATCH = INPUTS, LABELS


class ScaledTanh(nn.Tanh):
    """The right derivative, times three."""

    def backward(self, params, cache, upstream):
        return 3 * super().backward(params, cache, upstream)[0], {}


class OneWay(nn.Residual):
    """The gradient that goes around the layers is forgotten."""

    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        return below - upstream, grads


def residual(activation=None, block=nn.Residual):
    inner = [nn.Dense(5, 5), activation or nn.Tanh(), nn.Dense(5, 5)]
    narrow = nn.Residual([nn.Dense(5, 4), nn.Residual([nn.Dense(4, 4), nn.Tanh()])], shortcut=[nn.Dense(5, 4)])
    return nn.Sequential([block(inner), nn.Dense(5, 5), narrow, nn.Dense(4, 3)])


def judged(model, batch=BATCH):
    """A check of the model's gradient on the batch."""
    objective = nn.Objective(model, nn.SoftmaxCrossEntropy())
    return check_gradients(
        lambda params: objective(params, batch), model.params, lambda params: objective.gradient(params, batch)
    )


# Residual blocks


def test_the_arrays_of_a_block_have_names_of_their_own():
    """The label of the block stands before what its layers call their arrays; a block may stand in a block."""
    names = [name.removesuffix(".W") for name in residual().params if name.endswith("W")]
    assert names == [
        *("residual1.dense1", "residual1.dense2", "dense1", "residual2.dense1", "residual2.residual1.dense1"),
        *("residual2.shortcut.dense1", "dense2"),
    ]


class Dense1(nn.Dense):
    kind = ""


class Dotted(nn.Dense):
    kind = "my.layer"


def test_labels_are_never_the_same():
    """The first layer of a class Dense1 is not the eleventh dense one, and a dot in a kind is none of ours."""
    layers = [nn.Dense(2, 2) for _ in range(11)]
    model = nn.Sequential([*layers, Dense1(2, 2), Dotted(2, 2)])
    assert len(model.params) == 26
    assert list(model.params)[-4:] == ["dense1_1.W", "dense1_1.b", "my_layer1.W", "my_layer1.b"]
    assert all(report.ok for report in check_layers(model, np.ones((3, 2))).values())


def test_a_block_adds_its_inputs_to_what_its_layers_make():
    """The outputs are F(x) + x, and F(x) + S(x) with a shortcut."""
    layer = nn.Dense(5, 5)
    params = layer.init(np.random.default_rng(1), np.float64)
    inner, around = ({f"{prefix}dense1.{k}": a for k, a in params.items()} for prefix in ("", "shortcut."))
    outputs, _ = nn.Residual([layer]).forward(inner, INPUTS, nn.Context())
    np.testing.assert_array_equal(outputs, INPUTS @ params["W"] + INPUTS)
    outputs, _ = nn.Residual([nn.Tanh()], shortcut=[layer]).forward(around, INPUTS, nn.Context())
    np.testing.assert_array_equal(outputs, np.tanh(INPUTS) + INPUTS @ params["W"])


def test_the_gradient_through_blocks_is_right():
    """Checked as a whole and layer by layer, inside of the blocks too."""
    model = residual()
    assert judged(model).ok
    reports = check_layers(model, INPUTS)
    assert {name: report.verdict for name, report in reports.items()} == dict.fromkeys(reports, Verdict.GOOD)
    assert list(reports) == [
        *("1 Residual", "1.1 Dense", "1.2 Tanh", "1.3 Dense", "2 Dense", "3 Residual", "3.1 Dense", "3.2 Residual"),
        *("3.2.1 Dense", "3.2.2 Tanh", "3.shortcut.1 Dense", "4 Dense"),
    ]


def test_a_forgotten_way_around_is_found():
    """The block is accused, and none of the layers inside of it."""
    model = residual(block=OneWay)
    assert [n for n, r in check_layers(model, INPUTS).items() if r.verdict > Verdict.INCONCLUSIVE] == ["1 OneWay"]


def fitted(model, **options):
    """The reports of a hook on two steps."""
    hook = GradCheckHook(after=None, reporters=[], on_fail=lambda report: None, **options)
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.Momentum(0.1), callbacks=[hook])
    trainer.fit(INPUTS, LABELS, epochs=1, batch_size=6)
    return hook.reports


def test_the_hook_names_the_layer_inside_of_a_block_and_not_the_block():
    """The report says which layer's backward is wrong; the block around it, wrong too for that, is not named."""
    wrong = nn.Sequential([nn.Dense(5, 5), nn.Residual([nn.Dense(5, 5), ScaledTanh(), nn.Dense(5, 5)]), nn.Dense(5, 3)])
    report = fitted(wrong)[0]
    told = [diagnosis.message for diagnosis in report.diagnoses if diagnosis.code == "layer"]
    assert len(told) == 1
    assert "layer 2.2 ScaledTanh (test_nn_blocks.py" in told[0]
    assert [report.verdict for report in fitted(residual())] == [Verdict.GOOD] * 2


def test_the_dropout_inside_of_a_block_is_known():
    """What it keeps is a number by which a gradient may be off."""
    model = nn.Sequential([nn.Residual([nn.Dropout(0.25), nn.Dense(5, 5)])])
    assert nn.Objective(model, nn.MeanSquaredError()).constants == {"keep probability": 0.75}


def test_a_block_that_changes_the_shape_is_explained():
    """Both shapes and a shortcut are in the message."""
    with pytest.raises(InvalidProblem, match=r"\(12, 4\) of inputs of shape \(12, 5\).*summed.*Try.*shortcut="):
        nn.Sequential([nn.Residual([nn.Dense(5, 4)])])(INPUTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Residual([]), "Residual got no layers"),
        (lambda: nn.Residual(nn.Sequential([nn.Tanh()])), "Residual got Sequential.* not a layer.*Try Residual"),
        (lambda: nn.Residual([nn.Tanh()], shortcut=[nn.Tanh]), "Residual's shortcut got <class .*not a layer"),
    ],
)
def test_a_block_without_proper_layers_is_refused(make, message):
    """As a model is, in the block's name."""
    with pytest.raises(InvalidProblem, match=message):
        make()


def test_a_block_prints_its_layers():
    """With the shortcut where there is one."""
    assert repr(nn.Residual([nn.Tanh(), nn.Tanh()])) == "Residual([Tanh(), Tanh()])"
    assert repr(nn.Residual([nn.Tanh()], shortcut=[nn.ReLU()])) == "Residual([Tanh()], shortcut=[ReLU()])"


# Tied weights


def autoencoder(**options):
    layers = [nn.Dense(5, 3), nn.Tanh(), nn.Dense(3, 3), nn.Tanh(), nn.Dense(3, 3), nn.Dense(3, 5)]
    return nn.Sequential(layers, tied={"dense3.W": "dense2.W", "dense4.W": "dense1.W.T"}, **options)


def reconstruction(model):
    objective = nn.Objective(model, nn.MeanSquaredError())
    return lambda p: objective(p, (INPUTS, INPUTS)), lambda p: objective.gradient(p, (INPUTS, INPUTS))


def test_a_tied_parameter_has_one_name_and_one_array():
    """The other name is gone from params and grads, and both layers compute with the one array."""
    model = autoencoder()
    assert [name for name in model.params if name.endswith("W")] == ["dense1.W", "dense2.W"]
    assert list(model.grads) == list(model.params)
    for array in model.params.values():
        array[...] = 1.0
    model.params["dense1.W"][...] = 0.0
    np.testing.assert_array_equal(model(INPUTS), np.ones((12, 5)))  # of the last layer only its bias is left


def test_the_gradient_of_a_tied_parameter_is_the_sum_over_its_places():
    """It is the slope, and the sum of the gradients of two networks in one of which each place is free."""
    model = autoencoder()
    loss, gradient = reconstruction(model)
    assert check_gradients(loss, model.params, gradient).ok
    free = nn.Sequential(model.layers)
    free.params.update(model.params)
    free.params.update({"dense3.W": model.params["dense2.W"], "dense4.W": model.params["dense1.W"].T.copy()})
    apart, tied = reconstruction(free)[1](free.params), gradient(model.params)
    np.testing.assert_allclose(tied["dense1.W"], apart["dense1.W"] + apart["dense4.W"].T, rtol=1e-12)
    np.testing.assert_allclose(tied["dense2.W"], apart["dense2.W"] + apart["dense3.W"], rtol=1e-12)


class LostShare(nn.Sequential):
    """The gradient of the first place alone."""

    def backward(self, caches, upstream, params=None):
        grads = super().backward(caches, upstream, params)
        (last, shared) = (caches[-1], self.params["dense1.W"])
        return {**grads, "dense1.W": grads["dense1.W"] - (last.T @ upstream).T.reshape(shared.shape)}


def test_a_share_that_is_lost_is_found():
    """Only the tied parameter is accused."""
    wrong = LostShare(autoencoder().layers, tied={"dense3.W": "dense2.W", "dense4.W": "dense1.W.T"})
    loss, gradient = reconstruction(wrong)
    report = check_gradients(loss, wrong.params, gradient)
    assert [n for n, c in report.parameters.items() if c.verdict > Verdict.INCONCLUSIVE] == ["dense1.W"]


class ForgetfulDense(nn.Dense):
    """Its weights' gradient is not handed on."""

    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        return below, {"b": grads["b"]}


@pytest.mark.parametrize("places", [(0,), (3,), (0, 3)])
def test_a_share_that_a_layer_forgets_is_found(places):
    """At either place, or missing altogether at both."""
    layers = list(autoencoder().layers)
    for place in places:
        layers[-1 if place else 0] = ForgetfulDense(*((3, 5) if place else (5, 3)))
    model = nn.Sequential(layers, tied={"dense3.W": "dense2.W", "dense4.W": "dense1.W.T"})
    loss, gradient = reconstruction(model)
    report = check_gradients(loss, model.params, gradient)
    assert [n for n, c in report.parameters.items() if c.verdict > Verdict.INCONCLUSIVE] == ["dense1.W"]


def test_tied_parameters_are_tied_after_training_and_in_another_precision():
    """Both names are one array whatever is done with the model, and each layer's own check sees its own side."""
    model = autoencoder().astype(np.float32)
    trainer = nn.Trainer(model, nn.MeanSquaredError(), nn.Adam(0.01))
    trainer.fit(INPUTS, INPUTS, epochs=3)
    assert "dense4.W" not in model.params
    reports = check_layers(model, INPUTS)
    assert all(report.ok for report in reports.values())
    assert set(reports["6 Dense"].parameters) == {"W", "b", "input"}
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin(INPUTS), model(INPUTS))


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        ({"dense9.W": "dense1.W"}, r"names 'dense9\.W', and there is no such.*Try one of dense1\.W"),
        ({"dense2.W": "dense9.W.T"}, r"names 'dense9\.W', and there is no such"),
        ({"dense4.W": "dense1.W"}, r"\(3, 5\) stand for 'dense1\.W' of shape \(5, 3\).*Try 'dense1\.W\.T'"),
        ({"dense2.W": "dense3.W", "dense3.W": "dense2.W"}, "stands for another itself.*Try to tie both to"),
    ],
)
def test_ties_that_do_not_fit_are_explained(tied, message):
    """Names, shapes, and what to write in their place."""
    with pytest.raises(InvalidProblem, match=message):
        nn.Sequential(autoencoder().layers, tied=tied)


# Frozen parameters


def test_frozen_parameters_are_used_and_not_trained():
    """They leave params and grads for the state; a training moves the others alone, and the outputs depend on them."""
    model = residual()
    before = model(INPUTS)
    model.freeze("residual1", "dense2.W")
    np.testing.assert_array_equal(model(INPUTS), before)
    assert model.frozen == (*(f"residual1.dense{k}.{p}" for k in (1, 2) for p in "Wb"), "dense2.W")
    kept = {name: model.state[name].copy() for name in model.frozen}
    moving = {name: array.copy() for name, array in model.params.items()}
    fitted(model)
    assert not kept.keys() & (model.params.keys() | model.grads.keys())
    assert all(np.array_equal(model.state[name], array) for name, array in kept.items())
    assert not any(np.array_equal(model.params[name], array) for name, array in moving.items())


def test_a_check_leaves_frozen_parameters_out_and_says_so():
    """In the hook's report, and in that of each layer on its own."""
    model = residual()
    model.freeze("dense1")
    for report in fitted(model):
        assert report.verdict is Verdict.GOOD
        assert set(report.parameters) == set(model.params)
        assert "Frozen, and so neither trained nor checked: dense1.W, dense1.b." in report.notes
    report = check_layers(model, INPUTS)["2 Dense"]
    assert set(report.parameters) == {"input"}
    assert "Frozen, and so neither trained nor checked: W, b." in report.notes
    assert not any("rozen" in note for note in fitted(residual())[0].notes)


def test_unfreezing_gives_everything_back():
    """The same arrays in the same order, in the same dicts, with gradients of zero."""
    model = residual()
    params, grads, arrays = model.params, model.grads, dict(model.params)
    model.freeze("residual1", "dense1.W")
    model.unfreeze("residual1.dense2", "dense1")
    assert model.frozen == ("residual1.dense1.W", "residual1.dense1.b")
    model.unfreeze("residual1")
    assert model.frozen == ()
    assert model.params is params
    assert model.grads is grads
    assert list(params) == list(grads) == list(arrays)
    assert all(params[name] is array for name, array in arrays.items())
    assert not any(array.any() for array in grads.values())


def test_a_frozen_parameter_that_is_tied_is_frozen_at_both_places():
    """Neither of the two layers is checked for it."""
    model = autoencoder()
    model.freeze("dense1.W")
    reports = check_layers(model, INPUTS)
    assert set(reports["1 Dense"].parameters) == set(reports["6 Dense"].parameters) == {"b", "input"}
    loss, gradient = reconstruction(model)
    assert check_gradients(loss, model.params, gradient).ok


class Adding(nn.Sequential):
    """Gradients that accumulate from step to step."""

    def store(self, grads):
        for name, gradient in grads.items():
            self.grads[name] += gradient


class Thaw(Callback):
    """Unfreezes a layer once the first step is made."""

    def __init__(self, model):
        self.model = model

    def on_batch_end(self, state):
        if state.step == 1:
            self.model.unfreeze("dense1")


@pytest.mark.parametrize(("kind", "verdict"), [(nn.Sequential, Verdict.GOOD), (Adding, Verdict.WORRY)])
def test_a_layer_may_be_unfrozen_between_two_checks(kind, verdict):
    """The next check sees it, and buffers that were never set to zero are still found."""
    model = kind([nn.Dense(5, 4), nn.Tanh(), nn.Dense(4, 3)])
    model.freeze("dense1")
    hook = GradCheckHook(after=None, reporters=[], on_fail=lambda report: None)
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[hook, Thaw(model)])
    trainer.fit(INPUTS, LABELS, batch_size=6)
    first, second = hook.reports
    assert (first.verdict, second.verdict) == (Verdict.GOOD, verdict)
    assert set(first.parameters) < set(second.parameters) == set(model.params)


def test_a_layer_and_its_parameter_may_be_frozen_in_one_call():
    """What two names have in common is frozen once."""
    model = nn.Sequential([nn.Dense(5, 4), nn.Dense(4, 3)])
    model.freeze("dense1.W", "dense1")
    assert model.frozen == ("dense1.W", "dense1.b")


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("freeze", "no trained parameter or layer 'dense'.*Try residual1.dense1.W"),
        ("unfreeze", "no frozen parameter or layer 'dense'.*there are none"),
    ],
)
def test_a_name_that_fits_nothing_is_explained(verb, message):
    """What is there stands in the message."""
    with pytest.raises(InvalidProblem, match=message):
        getattr(residual(), verb)("dense")
