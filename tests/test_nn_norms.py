"""Batch norm and layer norm; and the state of a model, which a training moves and a check does not."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gc_hooks import Callback, GradCheckHook, InvalidProblem, Verdict, check_layers, every, nn

RNG = np.random.default_rng(6)
LABELS = RNG.integers(3, size=40)
INPUTS = RNG.normal(size=(40, 4)) + 2 * np.eye(3, 4)[LABELS]
IMAGES = RNG.normal(3.0, 2.0, size=(5, 4, 3, 2))
TRAINING = nn.Context(training=True)


def point_of(layer):
    """Parameters that are not ones and zeros, and the state."""
    params = layer.init(np.random.default_rng(0), np.float64)
    params = {name: array + RNG.normal(size=array.shape) for name, array in params.items()}
    return {**params, **layer.init_state(np.float64)}


def verdicts(layer, inputs):
    (report,) = check_layers(nn.Sequential([layer]), inputs).values()
    return {name: comparison.verdict for name, comparison in report.parameters.items()}


class NoMeanPath(nn.BatchNorm):
    """The mean's dependence on x is left out."""

    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        return below + params["gamma"] / cache.deviation * upstream.mean(axis=0), grads


class ConstantMoments(nn.BatchNorm):
    """Both moments are taken for constants, as in evaluation mode."""

    def backward(self, params, cache, upstream):
        return super().backward(params, cache._replace(moments=None), upstream)


class SamplesOnly(nn.BatchNorm):
    """Of images, the number of samples in place of that of samples and pixels."""

    def backward(self, params, cache, upstream):
        return super().backward(params, cache._replace(moments=cache.moments._replace(size=len(upstream))), upstream)


class NoGamma(nn.LayerNorm):
    """gamma is forgotten on the way down."""

    def backward(self, params, cache, upstream):
        _, grads = super().backward(params, cache, upstream)
        return super().backward({**params, "gamma": np.ones(self.features)}, cache, upstream)[0], grads


CLEAN = [
    (nn.BatchNorm(4), INPUTS),
    (nn.BatchNorm(2, epsilon=0.1, momentum=1), IMAGES),
    (nn.BatchNorm(2), INPUTS.reshape(40, 2, 2)),
    (nn.LayerNorm(4), INPUTS),
    (nn.LayerNorm(2), IMAGES),
]


@pytest.mark.parametrize(("layer", "inputs"), CLEAN, ids=repr)
def test_a_norm_passes_its_own_check(layer, inputs):
    """For gamma, beta and the inputs; the running statistics are no parameters."""
    assert verdicts(layer, inputs) == dict.fromkeys(("gamma", "beta", "input"), Verdict.GOOD)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [(NoMeanPath(4), INPUTS), (ConstantMoments(4), INPUTS), (SamplesOnly(2), IMAGES), (ConstantMoments(2), IMAGES)],
    ids=repr,
)
def test_a_path_that_is_left_out_is_found(layer, inputs):
    """Wrong for the inputs, right for gamma and beta."""
    assert verdicts(layer, inputs) == {"gamma": Verdict.GOOD, "beta": Verdict.GOOD, "input": Verdict.WORRY}


def test_a_forgotten_gamma_is_found():
    """As soon as it is no longer one."""
    model, clean = nn.Sequential([NoGamma(4)]), nn.Sequential([nn.LayerNorm(4)])
    for each in (model, clean):
        each.params["layernorm1.gamma"][...] = [1, 2, 3, 4]
    assert check_layers(model, INPUTS)["1 NoGamma"].parameters["input"].verdict is Verdict.WORRY
    assert check_layers(clean, INPUTS)["1 LayerNorm"].ok


@pytest.mark.parametrize(("layer", "inputs"), CLEAN, ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_dtypes_and_the_values_of_a_complex_pass_are_kept(layer, inputs, training):
    """float32 stays float32, forward and backward; a complex pass has the real one's values."""
    context = nn.Context(training)
    point = {name: array.astype(np.float32) for name, array in point_of(layer).items()}
    outputs, cache = layer.forward(point, inputs.astype(np.float32), context)
    below, grads = layer.backward(point, cache, np.ones_like(outputs))
    assert {a.dtype for a in (outputs, below, *grads.values())} == {np.dtype(np.float32)}
    point = point_of(layer)
    real, mixed = (layer.forward(point, x, context)[0] for x in (inputs, inputs + 0j))
    np.testing.assert_allclose(mixed.real, real, rtol=1e-13)
    assert not mixed.imag.any()


def test_the_moments_are_one_and_zero_after_normalising():
    """Of each feature over samples and pixels, or of each sample over features."""
    for layer, inputs, axes in ((nn.BatchNorm(2), IMAGES, (0, 1, 2)), (nn.LayerNorm(4), INPUTS, 1)):
        point = {**layer.init(np.random.default_rng(0), np.float64), **layer.init_state(np.float64)}
        outputs, _ = layer.forward(point, inputs, TRAINING)
        np.testing.assert_allclose(outputs.mean(axis=axes), 0, atol=1e-14)
        np.testing.assert_allclose(outputs.var(axis=axes), 1, rtol=1e-3)


def test_evaluation_mode_uses_the_running_averages_forward_and_backward():
    """A sample's outputs no longer depend on the others, and backward is the slope of that."""
    layer = nn.BatchNorm(4)
    point = {**point_of(layer), "mean": np.arange(4.0), "variance": np.array([1.0, 4.0, 9.0, 16.0])}
    whole, cache = layer.forward(point, INPUTS, nn.Context())
    np.testing.assert_array_equal(whole[:1], layer.forward(point, INPUTS[:1], nn.Context())[0])
    expected = point["gamma"] * (INPUTS - point["mean"]) / np.sqrt(point["variance"] + 1e-5) + point["beta"]
    np.testing.assert_allclose(whole, expected, rtol=1e-14)
    below, _ = layer.backward(point, cache, np.ones_like(whole))
    moved, _ = layer.forward(point, INPUTS + 1e-30j, nn.Context())
    np.testing.assert_allclose(below, moved.imag / 1e-30, rtol=1e-14)
    assert layer.observed(point, cache) == {}


def test_a_batch_of_one_sample_becomes_beta_and_stays_finite():
    """The unbiased variance of one number is taken as it is."""
    layer = nn.BatchNorm(4)
    point = point_of(layer)
    outputs, cache = layer.forward(point, INPUTS[:1], TRAINING)
    np.testing.assert_array_equal(outputs[0], point["beta"])
    assert not layer.backward(point, cache, np.ones_like(outputs))[0].any()
    assert all(np.isfinite(array).all() for array in layer.observed(point, cache).values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.BatchNorm(0), r"BatchNorm got features=0, but it must be at least 1.*last axis"),
        (
            lambda: nn.LayerNorm(3, epsilon=0),
            r"got epsilon=0, but it must be positive.*zero by zero.*Try 1e-5",
        ),
        (lambda: nn.BatchNorm(3, momentum=0), r"momentum=0, outside \(0, 1\].*weight of the newest.*Try 0\.1"),
        (
            lambda: nn.Sequential([nn.LayerNorm(3)])(INPUTS),
            r"LayerNorm\(3\) got inputs.*\(40, 4\) where.*\.\.\., 3\) is",
        ),
        (lambda: nn.Sequential([nn.BatchNorm(4)])(np.ones((2, 4, 5, 5))), r"Try .*transpose\(0, 2, 3, 1\)"),
    ],
)
def test_what_cannot_be_normalised_is_explained(make, message):
    """Numbers, what they mean, and what to try."""
    with pytest.raises(InvalidProblem, match=message):
        make()


def test_blank_pixels_at_initialisation_are_no_alarm():
    """Layer norm of channels that are all zero is steep, and the ReLU behind it on its kink: it is never accused."""
    images = IMAGES[..., :1] * (np.arange(4) > 1)[:, np.newaxis, np.newaxis]
    model = nn.Sequential([nn.Conv2D(1, 4, padding=1), nn.LayerNorm(4), nn.ReLU(), nn.Flatten(), nn.Dense(48, 3)])
    hook = GradCheckHook(after=None, reporters=[], on_fail="raise")
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[hook])
    trainer.fit(images, LABELS[:5], epochs=2)
    assert max(report.verdict for report in hook.reports) <= Verdict.INCONCLUSIVE


# The state


def normed(dtype=np.float64):
    inner = nn.Residual([nn.Dense(6, 6), nn.BatchNorm(6), nn.ReLU(), nn.Dropout(0.2)])
    return nn.Sequential([nn.Dense(4, 6), nn.BatchNorm(6), nn.ReLU(), inner, nn.Dense(6, 3)], dtype=dtype)


def fitted(*callbacks, dtype=np.float64, epochs=3):
    trainer = nn.Trainer(normed(dtype), nn.SoftmaxCrossEntropy(), nn.Momentum(0.05), callbacks=callbacks)
    trainer.fit(INPUTS, LABELS, epochs=epochs, batch_size=8)
    return trainer


def bits(model):
    return pickle.dumps(
        [{n: a.tobytes() for n, a in side.items()} for side in (model.params, model.grads, model.state)]
    )


def test_the_state_is_named_like_the_parameters_and_is_none_of_them():
    """A third dict of arrays, in the model's precision, beside params and grads; empty where there is nothing."""
    model = normed(np.float32)
    labels = ("batchnorm1", "residual1.batchnorm1")
    assert list(model.state) == [f"{label}.{name}" for label in labels for name in ("mean", "variance")]
    assert {array.dtype for array in model.state.values()} == {np.dtype(np.float32)}
    assert not model.state.keys() & model.params.keys()
    assert {array.dtype for array in model.astype(np.float64).state.values()} == {np.dtype(np.float64)}
    assert nn.Sequential([nn.Dense(4, 3)]).state == {}


def test_running_statistics_follow_the_batches():
    """One tenth of each batch's mean and unbiased variance, in the arrays that were there before."""
    model = nn.Sequential([nn.BatchNorm(4)])
    arrays = dict(model.state)
    for rows in (slice(0, 20), slice(20, 40)):
        model.observe(model.forward(INPUTS[rows], TRAINING)[1])
    expected = {"mean": np.zeros(4), "variance": np.ones(4)}
    for rows in (slice(0, 20), slice(20, 40)):
        expected["mean"] = 0.9 * expected["mean"] + 0.1 * INPUTS[rows].mean(axis=0)
        expected["variance"] = 0.9 * expected["variance"] + 0.1 * INPUTS[rows].var(axis=0, ddof=1)
    for name, array in expected.items():
        assert model.state[f"batchnorm1.{name}"] is arrays[f"batchnorm1.{name}"]
        np.testing.assert_allclose(model.state[f"batchnorm1.{name}"], array, rtol=1e-13)


def test_only_a_training_step_moves_the_state():
    """Forward in either mode, backward, a check of the layers and an evaluation do not."""
    trainer = fitted(epochs=1)
    model, before = trainer.model, bits(trainer.model)
    outputs, caches = model.forward(INPUTS, TRAINING)
    model.backward(caches, np.ones_like(outputs))
    trainer.evaluate(INPUTS, LABELS)
    check_layers(model, INPUTS)
    assert bits(model) == before
    trainer.fit(INPUTS, LABELS, batch_size=40)
    assert bits(model) != before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dropout", ["off", "frozen"])
def test_a_training_with_checks_ends_at_the_same_bits(dtype, dropout):
    """Parameters, gradients and running statistics; and every check is GOOD."""
    hook = GradCheckHook(schedule=every(3), reporters=[], dropout=dropout)
    assert bits(fitted(hook, dtype=dtype).model) == bits(fitted(dtype=dtype).model)
    assert [report.verdict for report in hook.reports] == [Verdict.GOOD] * 5


class Meddler(Callback):
    """A callback that observes a batch once more."""

    def on_gradients(self, state):
        state.model_state["batchnorm1.mean"] *= 1 + 1e-12


def test_the_comparison_sees_a_state_that_was_moved():
    """The smallest change of a running average is told from none."""
    assert bits(fitted(Meddler()).model) != bits(fitted().model)


def test_a_step_that_is_broken_off_moves_neither_parameters_nor_state():
    """Both are moved after the callbacks have seen the gradients."""

    class BreakOff(Callback):
        def on_gradients(self, state):
            raise KeyboardInterrupt

    trainer = nn.Trainer(normed(), nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[BreakOff()])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(INPUTS, LABELS)
    fresh = normed()
    for side in ("params", "state"):
        for name, array in getattr(fresh, side).items():
            np.testing.assert_array_equal(getattr(trainer.model, side)[name], array)


def test_the_best_epoch_is_restored_with_its_running_statistics():
    """The evaluation at the end is that of the best epoch."""
    stopping = nn.EarlyStopping("val_loss", patience=4, restore_best=True)
    trainer = nn.Trainer(normed(), nn.SoftmaxCrossEntropy(), nn.SGD(2.0), callbacks=[stopping])
    history = trainer.fit(INPUTS[:20], LABELS[:20], epochs=30, batch_size=5, validation=(INPUTS[20:], LABELS[20:]))
    assert min(history["val_loss"]) < history["val_loss"][-1]
    assert trainer.evaluate(INPUTS[20:], LABELS[20:])["loss"] == min(history["val_loss"]) == stopping.best


def test_a_network_with_wrong_batch_norm_is_accused_below_it_and_the_layer_named():
    """The hook's report says which backward it is, inside of a training."""
    layers = [nn.Dense(4, 6), NoMeanPath(6), nn.Tanh(), nn.Dense(6, 3)]
    hook = GradCheckHook(after=None, reporters=[], on_fail=lambda report: None)
    nn.Trainer(nn.Sequential(layers), nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[hook]).fit(INPUTS, LABELS)
    report = hook.reports[0]
    wrong = {name for name, comparison in report.parameters.items() if comparison.verdict > Verdict.INCONCLUSIVE}
    assert wrong == {"dense1.W", "dense1.b"}
    assert any("layer 2 NoMeanPath" in d.message for d in report.diagnoses)
