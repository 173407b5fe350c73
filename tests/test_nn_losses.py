"""Losses and penalties: values against their formulas, gradients against measured slopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_hooks.errors import InvalidProblem
from gc_hooks.nn import L2, BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4))
LABELS = np.array([0, 3, 1, 2, 2, 0])
ONE_HOT = np.eye(4)[LABELS]
SOFT = RNG.dirichlet(np.ones(4), size=6)
COLUMN = RNG.normal(size=(6, 1))
BINARY = np.array([0, 1, 1, 0, 1, 0])

CASES = {
    "labels": (SoftmaxCrossEntropy(), LOGITS, LABELS),
    "one-hot": (SoftmaxCrossEntropy(), LOGITS, ONE_HOT),
    "soft": (SoftmaxCrossEntropy(), LOGITS, SOFT),
    "float32 rows": (SoftmaxCrossEntropy(), LOGITS, SOFT.astype(np.float32)),
    "binary column": (BinaryCrossEntropy(), COLUMN, BINARY),
    "binary columns": (BinaryCrossEntropy(), COLUMN, BINARY[:, np.newaxis]),
    "binary rows": (BinaryCrossEntropy(), COLUMN[:, 0], BINARY),
    "binary soft": (BinaryCrossEntropy(), COLUMN, SOFT[:, 0]),
    "binary flags": (BinaryCrossEntropy(), COLUMN, BINARY.astype(bool)),
    "binary at zero": (BinaryCrossEntropy(), np.zeros((6, 1)), BINARY),
    "regression": (MeanSquaredError(), LOGITS, SOFT),
    "regression column": (MeanSquaredError(), COLUMN, SOFT[:, 0]),
    "regression integers": (MeanSquaredError(), COLUMN, LABELS),
}
every_case = pytest.mark.parametrize(("loss", "outputs", "targets"), CASES.values(), ids=CASES.keys())


def complex_slopes(function, point, step=1e-30):
    slopes = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        moved = point.astype(complex)
        moved[index] += 1j * step
        slopes[index] = function(moved).imag / step
    return slopes


def central_slopes(function, point, step=1e-6):
    slopes = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += step
        behind[index] -= step
        slopes[index] = (function(ahead) - function(behind)) / (2 * step)
    return slopes


@every_case
def test_gradient_is_the_slope_by_complex_step(loss, outputs, targets):
    measured = complex_slopes(lambda y: loss.value(y, targets), outputs)
    np.testing.assert_allclose(loss.gradient(outputs, targets), measured, rtol=1e-13, atol=1e-16)


@every_case
def test_gradient_is_the_slope_by_central_differences(loss, outputs, targets):
    measured = central_slopes(lambda y: loss.value(y, targets), outputs)
    np.testing.assert_allclose(loss.gradient(outputs, targets), measured, atol=1e-9)


class SummedSoftmax(SoftmaxCrossEntropy):
    def gradient(self, outputs, targets):
        return super().gradient(outputs, targets) * len(outputs)


class FlippedBinary(BinaryCrossEntropy):
    def gradient(self, outputs, targets):
        return -super().gradient(outputs, targets)


class HalvedSquaredError(MeanSquaredError):
    def gradient(self, outputs, targets):
        return super().gradient(outputs, targets) / 2


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (SummedSoftmax(), LOGITS, LABELS),
        (FlippedBinary(), COLUMN, BINARY),
        (HalvedSquaredError(), LOGITS, SOFT),
    ],
)
@pytest.mark.parametrize("slopes", [complex_slopes, central_slopes])
def test_a_planted_wrong_gradient_is_seen(loss, outputs, targets, slopes):
    measured = slopes(lambda y: loss.value(y, targets), outputs)
    assert np.max(np.abs(loss.gradient(outputs, targets) - measured)) > 1e-3


@every_case
def test_complex_value_equals_real_value(loss, outputs, targets):
    value = loss.value(outputs + 0j, targets)
    assert value.real == pytest.approx(float(loss.value(outputs, targets)), rel=1e-14)
    assert value.imag == 0


@every_case
def test_float32_is_preserved(loss, outputs, targets):
    outputs = outputs.astype(np.float32)
    assert loss.value(outputs, targets).dtype == np.float32
    assert loss.value(outputs.astype(np.complex64), targets).dtype == np.complex64
    assert loss.gradient(outputs, targets).dtype == np.float32
    assert loss.gradient(outputs, targets).shape == outputs.shape


@every_case
def test_losses_are_means_over_samples(loss, outputs, targets):
    twice = loss.value(np.concatenate([outputs, outputs]), np.concatenate([targets, targets]))
    assert float(twice) == pytest.approx(float(loss.value(outputs, targets)), rel=1e-14)


def test_softmax_loss_is_the_negative_log_likelihood():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(p[np.arange(6), LABELS]))
    assert float(SoftmaxCrossEntropy().value(LOGITS, LABELS)) == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(SoftmaxCrossEntropy().predict_proba(LOGITS), p, rtol=1e-14)


def test_softmax_gradient_is_the_textbook_formula():
    expected = (SoftmaxCrossEntropy().predict_proba(LOGITS) - SOFT) / 6
    np.testing.assert_allclose(SoftmaxCrossEntropy().gradient(LOGITS, SOFT), expected, rtol=1e-13, atol=1e-16)


def test_binary_loss_is_that_of_two_classes_by_softmax():
    two = np.column_stack([np.zeros(6), COLUMN[:, 0]])
    expected = float(SoftmaxCrossEntropy().value(two, BINARY))
    assert float(BinaryCrossEntropy().value(COLUMN, BINARY)) == pytest.approx(expected, rel=1e-14)


def test_squared_error_is_a_mean_over_all_entries():
    assert float(MeanSquaredError().value(LOGITS, SOFT)) == pytest.approx(np.mean((LOGITS - SOFT) ** 2))


def test_a_column_of_outputs_and_a_row_of_targets_do_not_broadcast():
    column, row = np.arange(3.0)[:, np.newaxis], np.arange(3.0)
    assert MeanSquaredError().value(column, row) == 0
    assert MeanSquaredError().gradient(column, row).shape == (3, 1)


EXTREME = np.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 1000.0], [1e4, 1e4, 1e4]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [2, 2, 2]])
def test_extreme_logits_give_a_finite_loss_gradient_and_slope(dtype, labels):
    loss, outputs, labels = SoftmaxCrossEntropy(), EXTREME.astype(dtype), np.array(labels)
    assert np.isfinite(loss.value(outputs, labels))
    assert np.isfinite(loss.gradient(outputs, labels)).all()
    measured = complex_slopes(lambda z: loss.value(z, labels), EXTREME)
    np.testing.assert_allclose(loss.gradient(EXTREME, labels), measured, rtol=1e-13)


@pytest.mark.parametrize("target", [0, 1, 0.5])
def test_extreme_binary_logits_give_a_finite_loss_gradient_and_slope(target):
    loss, outputs, targets = BinaryCrossEntropy(), np.array([-1000.0, -50, 0, 50, 1000]), np.full(5, target)
    assert np.isfinite(loss.value(outputs.astype(np.float32), targets))
    measured = complex_slopes(lambda z: loss.value(z, targets), outputs)
    np.testing.assert_allclose(loss.gradient(outputs, targets), measured, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_a_tiny_loss_and_its_gradient_keep_their_digits(dtype):
    outputs, labels = np.array([[40.0, 0.0]], dtype), np.array([0])
    tiny = pytest.approx(np.exp(-40), rel=1e-6)
    assert SoftmaxCrossEntropy().value(outputs, labels).real == tiny
    assert BinaryCrossEntropy().value(outputs[:, :1], labels + 1).real == tiny
    np.testing.assert_allclose(
        SoftmaxCrossEntropy().gradient(outputs.real, labels), [[-np.exp(-40), np.exp(-40)]], rtol=1e-6
    )
    np.testing.assert_allclose(
        BinaryCrossEntropy().gradient(outputs.real[:, :1], labels + 1), [[-np.exp(-40)]], rtol=1e-6
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.data())
def test_softmax_gradient_sums_to_zero_and_loss_is_not_negative(logits, data):
    outputs, label = np.array([logits]), np.array([data.draw(st.integers(0, len(logits) - 1))])
    assert SoftmaxCrossEntropy().value(outputs, label) >= 0
    assert abs(SoftmaxCrossEntropy().gradient(outputs, label).sum()) < 1e-15


def test_predictions_and_accuracy_of_the_classifiers():
    softmax, binary = SoftmaxCrossEntropy(), BinaryCrossEntropy()
    outputs = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    np.testing.assert_array_equal(softmax.predict(outputs), [0, 1, 0])
    assert softmax.accuracy(outputs, np.array([0, 1, 1])) == pytest.approx(2 / 3)
    assert softmax.accuracy(outputs, np.eye(2)[[0, 1, 0]]) == 1
    column = np.array([[-1.0], [2.0], [0.5]])
    np.testing.assert_array_equal(binary.predict(column), [0, 1, 1])
    np.testing.assert_allclose(binary.predict_proba(column), 1 / (1 + np.exp([1.0, -2.0, -0.5])))
    assert binary.accuracy(column, np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert softmax.metrics(outputs, np.array([0, 1, 0])) == {"accuracy": 1.0}


def test_a_regression_predicts_its_outputs_and_has_no_metrics():
    assert MeanSquaredError().predict(COLUMN) is COLUMN
    assert MeanSquaredError().metrics(COLUMN, COLUMN) == {}
    with pytest.raises(InvalidProblem, match=r"no probabilities.*numbers, not classes.*Try predict"):
        MeanSquaredError().predict_proba(COLUMN)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([0.0, 1.0]), r"labels of type float64.*must be integers.*Try labels\.astype"),
        (np.array([0, 3]), r"1 label\(s\) outside 0 to 2, such as 3.*count from 1.*Try labels - 1"),
        (np.array([-1, 5]), r"2 label\(s\) outside 0 to 2, such as -1"),
        (np.array([0, 1, 2]), r"outputs of shape \(2, 3\) and targets of shape \(3,\).*a row of logits.*Try"),
        (np.array([[0], [1]]), r"targets of shape \(2, 1\).*Try targets\.ravel"),
        (np.array([[1.0, 2, 3], [1, 0, 0]]), r"1 target row\(s\) .*row 0 sums to 6.*counts or logits.*Try dividing"),
        (np.array([[1.0, 0, 0], [2, -1, 0]]), r"row 1 sums to 1, its smallest entry is -1"),
        (np.array([[np.nan, 0, 0], [1, 0, 0]]), r"row 0 sums to nan"),
    ],
)
def test_softmax_explains_targets_that_it_cannot_use(targets, message):
    with pytest.raises(InvalidProblem, match=message):
        SoftmaxCrossEntropy().value(np.zeros((2, 3)), targets)


def test_softmax_explains_outputs_that_are_no_rows():
    with pytest.raises(InvalidProblem, match=r"outputs of shape \(2,\)"):
        SoftmaxCrossEntropy().gradient(np.zeros(2), np.zeros(2, int))


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (np.zeros((2, 2)), [0, 1], r"outputs of shape \(2, 2\).*one logit and one target.*Try Dense\(\.\.\., 1\)"),
        (np.zeros((2, 1)), [0, 1, 1], r"targets of shape \(3,\)"),
        (np.zeros((2, 1)), [[0, 1], [1, 0]], r"targets of shape \(2, 2\)"),
        (np.zeros((2, 1)), [-1, 1], r"1 target\(s\) outside \[0, 1\], such as -1.*classes may be -1 and 1.*Try"),
        (np.zeros((2, 1)), [np.nan, 1], r"such as nan"),
    ],
)
def test_binary_loss_explains_what_it_cannot_use(outputs, targets, message):
    with pytest.raises(InvalidProblem, match=message):
        BinaryCrossEntropy().value(outputs, np.array(targets))


@pytest.mark.parametrize("targets", [np.zeros(3), np.zeros((2, 3)), np.zeros((2, 1))])
def test_squared_error_explains_shapes_that_do_not_fit(targets):
    with pytest.raises(InvalidProblem, match=r"outputs of shape \(2, 2\).*broadcast.*Try a last layer"):
        MeanSquaredError().value(np.zeros((2, 2)), targets)


PARAMS = {"dense1.W": LOGITS, "dense1.b": np.ones(4), "W": COLUMN, "Wb": np.ones(2)}


def test_l2_sees_weights_and_never_biases():
    expected = 0.05 * (np.sum(LOGITS**2) + np.sum(COLUMN**2))
    assert float(L2(0.1).value(PARAMS)) == pytest.approx(expected, rel=1e-14)
    assert L2(0.1).gradient(PARAMS).keys() == {"dense1.W", "W"}


def test_l2_gradient_is_the_slope_of_its_value():
    for slopes, tolerance in ((complex_slopes, 1e-15), (central_slopes, 1e-8)):
        measured = slopes(lambda W: L2(0.3).value({**PARAMS, "dense1.W": W}), LOGITS)
        np.testing.assert_allclose(L2(0.3).gradient(PARAMS)["dense1.W"], measured, atol=tolerance)
        assert np.max(np.abs(2 * L2(0.3).gradient(PARAMS)["dense1.W"] - measured)) > 1e-3  # the planted factor of two


@pytest.mark.parametrize("strength", [0.1, np.float64(0.1)])
def test_l2_preserves_float32(strength):
    params = {name: array.astype(np.float32) for name, array in PARAMS.items()}
    assert L2(strength).value(params).dtype == np.float32
    assert L2(strength).gradient(params)["W"].dtype == np.float32


def test_l2_of_no_weights_is_zero():
    assert L2(0.1).value({"b": np.ones(2)}) == 0
    assert L2(0.1).gradient({"b": np.ones(2)}) == {}


@pytest.mark.parametrize("strength", [-1e-4, float("nan"), float("inf")])
def test_a_negative_or_infinite_penalty_is_refused(strength):
    with pytest.raises(InvalidProblem, match=r"L2 got strength=.*zero or more.*rewards large weights.*Try L2"):
        L2(strength)


def test_losses_print_their_name():
    assert repr(SoftmaxCrossEntropy()) == "SoftmaxCrossEntropy()"
