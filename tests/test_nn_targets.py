"""Losses over sequences: weights, smoothing, labels and targets that do not count, and outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_hooks import Verdict, central, check_gradients, nn
from gc_hooks.errors import InvalidProblem

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 4, 5))
LABELS = RNG.integers(5, size=(3, 4))
NUMBERS = RNG.normal(size=(3, 4))
HOLES = np.where(RNG.random((3, 4)) < 0.4, np.nan, NUMBERS + 3 * RNG.normal(size=(3, 4)))
SOFT = RNG.dirichlet(np.ones(5), size=(3, 4))
WEIGHTS = [0.5, 2, 1, 0, 3]

CASES = {
    "sequences": (nn.SoftmaxCrossEntropy(), LOGITS, LABELS),
    "rows": (nn.SoftmaxCrossEntropy(weights=WEIGHTS, smoothing=0.2), LOGITS, SOFT),
    "weights": (nn.SoftmaxCrossEntropy(weights=WEIGHTS), LOGITS, LABELS),
    "smoothing": (nn.SoftmaxCrossEntropy(smoothing=0.3), LOGITS, LABELS),
    "ignore": (nn.SoftmaxCrossEntropy(ignore=2), LOGITS, LABELS),
    "all": (nn.SoftmaxCrossEntropy(weights=WEIGHTS, smoothing=0.1, ignore=2), LOGITS, LABELS),
    "huber": (nn.Huber(0.7), NUMBERS, np.nan_to_num(HOLES)),
    "masked": (nn.Masked(nn.MeanSquaredError()), NUMBERS, HOLES),
    "masked huber": (nn.Masked(nn.Huber()), NUMBERS[..., np.newaxis], HOLES),
    "masked binary": (nn.Masked(nn.BinaryCrossEntropy()), NUMBERS, HOLES > 0),
}
every_case = pytest.mark.parametrize(("loss", "outputs", "targets"), CASES.values(), ids=CASES.keys())


def judged(loss, outputs, targets, gradient=None, **options):
    return check_gradients(
        lambda y: loss.value(y, targets), outputs, gradient or (lambda y: loss.gradient(y, targets)), **options
    ).verdict


@every_case
@pytest.mark.parametrize("method", [None, central])
def test_the_gradient_is_the_slope(loss, outputs, targets, method):
    """By the package's own check, by complex step and by central differences."""
    assert judged(loss, outputs, targets, method=method) is Verdict.GOOD


@every_case
def test_a_gradient_that_knows_nothing_of_the_option_is_seen(loss, outputs, targets):
    """The planted bugs: the unweighted, unsmoothed, unmasked gradient; the plain loss is the clean twin."""
    plain = nn.SoftmaxCrossEntropy() if outputs.ndim == 3 and outputs.shape[2] > 1 else nn.MeanSquaredError()
    known = np.nan_to_num(np.reshape(targets, outputs.shape) if isinstance(plain, nn.MeanSquaredError) else targets)
    expected = Verdict.GOOD if repr(loss) == repr(plain) else Verdict.WORRY
    assert judged(loss, outputs, targets, lambda y: plain.gradient(y, known)) is expected
    assert judged(plain, outputs, known) is Verdict.GOOD


@every_case
def test_float32_is_kept(loss, outputs, targets):
    outputs = outputs.astype(np.float32)
    assert loss.value(outputs, targets).dtype == np.float32
    assert loss.gradient(outputs, targets).dtype == np.float32
    assert loss.value(outputs + 0j, targets).dtype == np.complex64


def test_a_numpy_number_as_an_option_changes_no_precision():
    y, t = NUMBERS.astype(np.float32), np.zeros_like(NUMBERS, dtype=np.float32)
    loss = nn.Huber(np.float64(0.5))
    assert loss.gradient(y, t).dtype == loss.value(y, t).dtype == np.float32
    smoothed = nn.SoftmaxCrossEntropy(smoothing=np.float64(0.5))
    assert smoothed.value(LOGITS.astype(np.float32), LABELS).dtype == np.float32


def test_many_steps_in_half_precision_overflow_nothing():
    z, labels = np.zeros((200, 300, 8), np.float16), np.zeros((200, 300), int)
    for loss in (nn.SoftmaxCrossEntropy(weights=np.arange(1, 9)), nn.SoftmaxCrossEntropy(smoothing=0.1)):
        assert float(loss.value(z, labels)) == pytest.approx(np.log(8), rel=1e-2)
        assert np.isfinite(loss.gradient(z, labels)).all()


# What does not count


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_padded_sequences_give_the_loss_of_their_steps_alone(lengths):
    """Whatever stands after the end, NaN too, changes neither loss nor gradient nor accuracy."""
    inside = np.arange(4) < np.array(lengths)[:, np.newaxis]
    loss, labels = nn.SoftmaxCrossEntropy(ignore=-1), nn.mask_labels(LABELS, lengths, ignore=-1)
    np.testing.assert_array_equal(labels == -1, ~inside)
    padded = np.where(inside[..., np.newaxis], LOGITS, np.nan)
    gradient = loss.gradient(padded, labels)
    assert not gradient[~inside].any()
    if inside.any():
        assert loss.value(padded, labels) == nn.SoftmaxCrossEntropy().value(LOGITS[inside], LABELS[inside])
        expected = nn.SoftmaxCrossEntropy().gradient(LOGITS[inside], LABELS[inside])
        np.testing.assert_array_equal(gradient[inside], expected)
        assert loss.accuracy(padded, labels) == nn.SoftmaxCrossEntropy().accuracy(LOGITS[inside], LABELS[inside])
    else:
        assert loss.value(padded, labels) == 0


def test_where_nothing_counts_the_loss_is_zero_and_the_accuracy_unknown():
    loss = nn.SoftmaxCrossEntropy(ignore=-1)
    nothing = np.full((3, 4), -1)
    assert loss.value(LOGITS, nothing) == 0
    assert not loss.gradient(LOGITS, nothing).any()
    assert np.isnan(loss.accuracy(LOGITS, nothing))
    zero = nn.SoftmaxCrossEntropy(weights=[0, 1])
    assert zero.value(np.ones((2, 2)), np.array([0, 0])) == 0
    masked = nn.Masked(nn.BinaryCrossEntropy())
    unknown = np.full((2, 3), np.nan)
    assert masked.value(np.ones((2, 3)), unknown) == 0
    assert not masked.gradient(np.ones((2, 3)), unknown).any()
    assert np.isnan(masked.metrics(np.ones((2, 3)), unknown)["accuracy"])


def test_a_masked_loss_has_the_figures_and_predictions_of_its_loss():
    loss = nn.Masked(nn.BinaryCrossEntropy())
    outputs, targets = np.array([[1.0, -1.0, 2.0]]), np.array([[1, np.nan, 0]])
    assert loss.metrics(outputs, targets) == {"accuracy": 0.5}
    np.testing.assert_array_equal(loss.predict(outputs), [1, 0, 1])
    assert loss.predict_proba(outputs).shape == (3,)


# By hand


def test_class_weights_are_a_weighted_mean():
    each = np.array(
        [float(nn.SoftmaxCrossEntropy().value(LOGITS[0, k : k + 1], LABELS[0, k : k + 1])) for k in range(4)]
    )
    weights = np.array(WEIGHTS)[LABELS[0]]
    value = nn.SoftmaxCrossEntropy(weights=WEIGHTS).value(LOGITS[0], LABELS[0])
    assert float(value) == pytest.approx(np.sum(weights * each) / weights.sum(), rel=1e-14)


def test_label_smoothing_is_the_loss_of_smoothed_rows():
    rows = 0.9 * np.eye(5)[LABELS] + 0.1 / 5
    smoothed = nn.SoftmaxCrossEntropy(smoothing=0.1)
    assert float(smoothed.value(LOGITS, LABELS)) == pytest.approx(float(nn.SoftmaxCrossEntropy().value(LOGITS, rows)))
    assert smoothed.accuracy(LOGITS, LABELS) == nn.SoftmaxCrossEntropy().accuracy(LOGITS, LABELS)


def test_predictions_of_sequences_have_their_shape():
    loss = nn.SoftmaxCrossEntropy()
    assert loss.predict(LOGITS).shape == (3, 4)
    np.testing.assert_allclose(loss.predict_proba(LOGITS).sum(axis=-1), 1)


def test_huber_is_a_parabola_near_and_a_line_far():
    y = np.array([[0.5], [-0.5], [3.0], [-3.0]])
    assert float(nn.Huber(2).value(y, np.zeros((4, 1)))) == pytest.approx((0.125 + 0.125 + 4 + 4) / 4)
    np.testing.assert_array_equal(nn.Huber(2).gradient(y, np.zeros(4)), [[0.125], [-0.125], [0.5], [-0.5]])


# What cannot be used


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.SoftmaxCrossEntropy(smoothing=1), r"smoothing=1, but it must be in \[0, 1\).*fraction.*Try 0\.1"),
        (lambda: nn.SoftmaxCrossEntropy(smoothing=np.nan), r"smoothing=nan"),
        (lambda: nn.SoftmaxCrossEntropy(weights=[1, -1]), r"weights=\[1\.0, -1\.0\].*reward mistakes.*bincount"),
        (lambda: nn.SoftmaxCrossEntropy(weights=[0, 0]), r"with zeros alone nothing counts"),
        (lambda: nn.SoftmaxCrossEntropy(weights=[[1, 2]]), r"weights=\[\[1\.0, 2\.0\]\]"),
        (
            lambda: nn.SoftmaxCrossEntropy(weights=[1, 2]).value(LOGITS, LABELS),
            r"2 class weights.*5 columns.*minlength=5",
        ),
        (lambda: nn.SoftmaxCrossEntropy(ignore=-1).value(LOGITS, LABELS - 2), r"such as -2.*ignore="),
        (lambda: nn.SoftmaxCrossEntropy().value(LOGITS, LABELS[:, :3]), r"\(3, 4, 5\) and targets of shape \(3, 3\)"),
        (lambda: nn.Huber(0), r"Huber got delta=0, but it must be positive.*grows in a line.*Try"),
        (lambda: nn.Huber().value(np.ones((2, 1)), np.ones(3)), r"Huber\(1\) got outputs of shape"),
        (lambda: nn.Masked(nn.SoftmaxCrossEntropy()), r"Masked got SoftmaxCrossEntropy\(\).*ignore=-1"),
        (lambda: nn.Masked(nn.Huber()).value(np.ones((2, 3)), np.ones(2)), r"Masked\(Huber\(1\)\) got outputs.*or NaN"),
        (
            lambda: nn.mask_labels(LABELS, [1, 2], -1),
            r"shape \(3, 4\) and lengths of shape \(2,\).*before the.*minimum",
        ),
        (lambda: nn.mask_labels(LABELS, [1, 2, 5], -1), r"\[1, 2, 5\]"),
    ],
)
def test_what_cannot_be_used_is_explained(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()


def test_a_loss_prints_its_options():
    loss = nn.SoftmaxCrossEntropy(weights=[1, 2], smoothing=0.1, ignore=-1)
    assert repr(loss) == "SoftmaxCrossEntropy(weights=[1.0, 2.0], smoothing=0.1, ignore=-1)"
