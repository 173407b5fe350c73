"""Convolution, pooling and flattening: shapes, their own checks, and what a wrong backward looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_hooks import InvalidProblem, Verdict, check_layers, nn

RNG = np.random.default_rng(8)
IMAGES = RNG.normal(size=(4, 7, 6, 3))
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def verdicts(layer, inputs=IMAGES):
    """On the gradient for the layer's inputs, and on those for its parameters."""
    (report,) = check_layers(nn.Sequential([layer]), inputs).values()
    return {name: comparison.verdict for name, comparison in report.parameters.items()}


LAYERS = [
    nn.Conv2D(3, 4),
    nn.Conv2D(3, 2, (2, 3), stride=(2, 1), padding=(0, 2)),
    nn.Conv2D(3, 2, 2, stride=3, padding=1, init=nn.glorot),
    nn.Conv2D(3, 2, 1),
    nn.MaxPool2D(),
    nn.MaxPool2D(3, stride=1),
    nn.MaxPool2D((2, 3), stride=(3, 1)),
    nn.AveragePool2D(),
    nn.AveragePool2D(3, stride=2),
    nn.AveragePool2D((1, 2), stride=(2, 1)),
    nn.Flatten(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_of_images_passes_its_own_check(layer):
    """For its parameters and its inputs, with overlapping windows, gaps between them and edges that are left over."""
    assert set(verdicts(layer).values()) == {Verdict.GOOD}


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_dtypes_and_the_values_of_a_complex_pass_are_kept(layer):
    """float32 stays float32, forward and backward; a complex pass has the real one's values and no imaginary part."""
    params = layer.init(np.random.default_rng(0), np.float32)
    outputs, cache = layer.forward(params, IMAGES.astype(np.float32), nn.Context())
    below, grads = layer.backward(params, cache, np.ones_like(outputs))
    assert {a.dtype for a in (outputs, below, *grads.values())} == {np.dtype(np.float32)}
    assert below.shape == IMAGES.shape
    params = layer.init(np.random.default_rng(0), np.float64)
    real, mixed = (layer.forward(params, x, nn.Context())[0] for x in (IMAGES, IMAGES + 0j))
    np.testing.assert_allclose(mixed.real, real, rtol=1e-13, atol=1e-14)
    assert not mixed.imag.any()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_nothing_that_came_in_is_written(layer):
    """Inputs, parameters and upstream gradients are read only, and need not be contiguous."""
    params = layer.init(np.random.default_rng(0), np.float64)
    images = np.asfortranarray(IMAGES)
    outputs, cache = layer.forward(params, images, nn.Context())
    upstream = np.asfortranarray(RNG.normal(size=outputs.shape))
    for array in (images, upstream, *params.values()):
        array.flags.writeable = False
    again, cache = layer.forward(params, images, nn.Context())
    layer.backward(params, cache, upstream)
    np.testing.assert_array_equal(again, outputs)


@pytest.mark.parametrize("name", ["W", "b"])
def test_one_complex_parameter_is_enough(name):
    """The step of a complex step may be in either of them alone."""
    layer = nn.Conv2D(3, 2)
    params = layer.init(np.random.default_rng(0), np.float64)
    outputs, _ = layer.forward({**params, name: params[name] + 1e-30j}, IMAGES, nn.Context())
    assert (outputs.imag != 0).all()


def plain_convolution(x, W, b, stride, padding):
    """The formula, sum by sum."""
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    rows, columns = ((side - k) // s + 1 for side, k, s in zip(x.shape[1:3], W.shape, stride, strict=False))
    y = np.zeros((len(x), rows, columns, W.shape[3]))
    for i, j in np.ndindex(rows, columns):
        seen = x[:, i * stride[0] : i * stride[0] + W.shape[0], j * stride[1] : j * stride[1] + W.shape[1]]
        y[:, i, j] = np.einsum("nuvc,uvcf->nf", seen, W) + b
    return y


@settings(max_examples=30)
@given(PAIRS, PAIRS, st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(0, 2**32 - 1))
def test_a_convolution_is_its_formula(size, stride, padding, seed):
    """For any window, stride and padding."""
    generator = np.random.default_rng(seed)
    layer = nn.Conv2D(3, 2, size, stride=stride, padding=padding)
    params = layer.init(generator, np.float64)
    params["b"] += generator.normal(size=2)
    outputs, _ = layer.forward(params, IMAGES, nn.Context())
    expected = plain_convolution(IMAGES, params["W"], params["b"], stride, padding)
    np.testing.assert_allclose(outputs, expected, rtol=1e-11, atol=1e-13)


@settings(max_examples=30)
@given(PAIRS, PAIRS, st.integers(0, 2**32 - 1))
def test_pooling_is_its_formula(size, stride, seed):
    """The largest number of each window, or their mean, seen window by window."""
    images = np.random.default_rng(seed).integers(-2, 3, size=(2, 6, 5, 2)).astype(float)
    rows, columns = ((side - k) // s + 1 for side, k, s in zip((6, 5), size, stride, strict=True))
    for layer, function in ((nn.MaxPool2D, np.max), (nn.AveragePool2D, np.mean)):
        outputs, _ = layer(size, stride=stride).forward({}, images, nn.Context())
        assert outputs.shape == (2, rows, columns, 2)
        for i, j in np.ndindex(rows, columns):
            top, left = i * stride[0], j * stride[1]
            seen = images[:, top : top + size[0], left : left + size[1]]
            np.testing.assert_allclose(outputs[:, i, j], function(seen, axis=(1, 2)), rtol=1e-14, atol=1e-15)


def test_of_equal_numbers_the_first_gets_the_gradient():
    """Row by row inside of each window; a number that is first in two windows gets both shares."""
    layer = nn.MaxPool2D(2, stride=1)
    outputs, cache = layer.forward({}, np.ones((1, 3, 3, 1)), nn.Context())
    below, _ = layer.backward({}, cache, np.arange(1.0, 5.0).reshape(outputs.shape))
    np.testing.assert_array_equal(below[0, :, :, 0], [[1, 2, 0], [3, 4, 0], [0, 0, 0]])
    peak = np.zeros((1, 3, 3, 1))
    peak[0, 1, 1] = 1
    below, _ = layer.backward({}, layer.forward({}, peak, nn.Context())[1], np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(below, 4 * peak)


def test_a_tie_goes_to_the_first_along_a_complex_step_too():
    """The imaginary part of the loser, however large, does not decide."""
    image = np.array([1 + 1e-30j, 1 + 5e-30j, 1, 0.5]).reshape(1, 2, 2, 1)
    assert nn.MaxPool2D().forward({}, image, nn.Context())[0][0, 0, 0, 0].imag == 1e-30


@pytest.mark.parametrize("layer", [nn.MaxPool2D(), nn.AveragePool2D(), nn.Conv2D(1, 1, 2)], ids=repr)
@pytest.mark.parametrize("place", range(4))
def test_no_layer_hides_a_nan(layer, place):
    """Wherever in the window it stands, and whatever stands before or after it."""
    image = np.arange(4.0)
    image[place] = np.nan
    params = layer.init(np.random.default_rng(0), np.float64)
    assert np.isnan(layer.forward(params, image.reshape(1, 2, 2, 1), nn.Context())[0]).all()


def test_ties_of_a_training_are_no_alarm():
    """Images that are mostly paper, and a ReLU before the pooling: maxima are equal everywhere."""
    paper = np.maximum(RNG.normal(-1.0, 1.0, size=(6, 8, 8, 1)), 0)
    model = nn.Sequential([nn.Conv2D(1, 3, padding=1), nn.ReLU(), nn.MaxPool2D(3, stride=2), nn.Flatten()])
    assert max(report.verdict for report in check_layers(model, paper).values()) <= Verdict.INCONCLUSIVE


class Turned(nn.Conv2D):
    """W is turned around on the way down."""

    def backward(self, params, cache, upstream):
        _, grads = super().backward(params, cache, upstream)
        return super().backward({**params, "W": params["W"][::-1, ::-1]}, cache, upstream)[0], grads


class OneBack(nn.Conv2D):
    """The gradient for the inputs is cut out without regard to the padding."""

    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        return np.roll(below, 1, axis=1), grads


class MeanBias(nn.Conv2D):
    """The mean over pixels in the bias, where the sum is meant."""

    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        return below, {**grads, "b": upstream.mean(axis=(1, 2)).sum(axis=0)}


class CappedShares(nn.AveragePool2D):
    """Where windows overlap, no more than one of them counts."""

    def backward(self, params, cache, upstream):
        below, _ = super().backward(params, cache, upstream)
        return np.minimum(below, upstream.max() / 9), {}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (Turned(3, 2, padding=1), {"input"}),
        (OneBack(3, 2, padding=1), {"input"}),
        (MeanBias(3, 2), {"b"}),
        (CappedShares(3, stride=1), {"input"}),
    ],
)
def test_a_planted_bug_is_found_where_it_is(layer, wrong):
    """The clean twins are good: see above."""
    assert {name for name, verdict in verdicts(layer).items() if verdict is not Verdict.GOOD} == wrong


def test_flatten_keeps_samples_apart():
    """Rows are samples, and backward undoes it; an empty batch too."""
    outputs, cache = nn.Flatten().forward({}, IMAGES, nn.Context())
    np.testing.assert_array_equal(outputs[2], IMAGES[2].ravel())
    np.testing.assert_array_equal(nn.Flatten().backward({}, cache, outputs)[0], IMAGES)
    assert nn.Flatten().forward({}, IMAGES[:0], nn.Context())[0].shape == (0, 126)


def test_both_precisions_draw_the_same_filters():
    """With the variance of the initializer: 2 over the numbers in a window."""
    layer = nn.Conv2D(16, 64, 3)
    fine, coarse = (layer.init(np.random.default_rng(5), dtype) for dtype in (np.float64, np.float32))
    np.testing.assert_array_equal(fine["W"].astype(np.float32), coarse["W"])
    assert np.var(fine["W"]) == pytest.approx(2 / (9 * 16), rel=0.05)
    assert not fine["b"].any()


def test_a_layer_prints_its_configuration():
    """With both directions."""
    assert repr(nn.Conv2D(1, 8, 3, padding=1)) == "Conv2D(1, 8, (3, 3), stride=(1, 1), padding=(1, 1))"
    assert repr(nn.MaxPool2D(3, stride=(2, 1))) == "MaxPool2D((3, 3), stride=(2, 1))"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2D(0, 3), r"Conv2D got inputs=0, but it must be at least 1.*channels.*Try Conv2D\(1, 8\)"),
        (lambda: nn.Conv2D(1, 3, 0), r"size=0 is neither a whole number of at least 1.*Try size=1"),
        (lambda: nn.Conv2D(1, 3, stride=(1, 2, 3)), r"stride=\(1, 2, 3\) is neither"),
        (lambda: nn.Conv2D(1, 3, padding=-1), r"padding=-1 is neither a whole number of at least 0"),
        (lambda: nn.MaxPool2D(1.5), r"size=1\.5 is neither"),
        (lambda: nn.AveragePool2D(stride=0), r"stride=0 is neither"),
    ],
)
def test_a_setting_out_of_range_is_explained(make, message):
    """The number, what is meant, and what to try."""
    with pytest.raises(InvalidProblem, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2D(1, 2), (5, 64), r"got inputs of shape \(5, 64\) where \(samples, height, width, 1\).*reshape"),
        (nn.Conv2D(1, 2), (5, 1, 8, 8), r"channels first.*transpose\(0, 2, 3, 1\)"),
        (nn.MaxPool2D(), (8, 8, 3), r"\(samples, height, width, channels\)"),
        (nn.MaxPool2D(3), (5, 2, 9, 3), r"\(5, 2, 9, 3\) where room for a window of 3x3 is needed.*Try fewer"),
        (nn.Conv2D(3, 2, 5), (5, 4, 4, 3), "room for a window of 5x5 is needed"),
    ],
)
def test_images_that_do_not_fit_are_explained(layer, shape, message):
    """Flat ones, channels first, and those that are smaller than a window."""
    with pytest.raises(InvalidProblem, match=message):
        nn.Sequential([layer])(np.ones(shape))
