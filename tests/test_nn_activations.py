"""More activations: stable, analytic, and with the right derivative."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gc_hooks import InvalidProblem, Verdict, check_layers, nn
from gc_hooks.nn.functions import normal_cdf, normal_pdf

INPUTS = np.random.default_rng(9).normal(0.0, 2.0, size=(6, 5))
EXTREME = [[-1e4, -1000, -88, -0.0, 0.0, 88, 1000, 1e4]]
LAYERS = [nn.GELU(), nn.TanhGELU(), nn.ELU(), nn.ELU(0.3), nn.Softplus(), nn.Softmax()]


def slopes(layer, inputs, upstream, step=1e-30):
    """By complex step, entry by entry."""
    found = np.zeros_like(inputs)
    for index in np.ndindex(inputs.shape):
        moved = inputs.astype(complex)
        moved[index] += 1j * step
        found[index] = np.sum(upstream * layer.forward({}, moved, nn.Context())[0]).imag / step
    return found


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_backward_is_the_slope_by_complex_step(layer):
    """To rounding; and the package's own check says so."""
    outputs, cache = layer.forward({}, INPUTS, nn.Context())
    upstream = np.random.default_rng(0).normal(size=outputs.shape)
    below, grads = layer.backward({}, cache, upstream)
    assert grads == {}
    np.testing.assert_allclose(below, slopes(layer, INPUTS, upstream), rtol=1e-12, atol=1e-14)
    (report,) = check_layers([Foreign(layer)], INPUTS).values()
    assert report.verdict is Verdict.GOOD
    assert report.method == "reference"


class Foreign:
    """A layer as anybody writes it."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, inputs):
        outputs, self.cache = self.layer.forward({}, inputs, nn.Context())
        return outputs

    def backward(self, upstream):
        return self.layer.backward({}, self.cache, upstream)[0]


class NoDensity(nn.GELU):
    def backward(self, params, cache, upstream):
        return upstream * cache[1], {}


class WrongCubic(nn.TanhGELU):
    def backward(self, params, cache, upstream):
        x, t = cache
        return upstream * ((1 + t) + x * (1 - t * t) * math.sqrt(2 / math.pi)) / 2, {}


class ShiftedELU(nn.ELU):
    def backward(self, params, cache, upstream):
        passed, exponential = cache
        return upstream * np.where(passed, 1, exponential - 1), {}


class Identity(nn.Softplus):
    def backward(self, params, cache, upstream):
        return upstream, {}


class DiagonalSoftmax(nn.Softmax):
    """Only p (1 - p): the derivative of each output by its own input."""

    def backward(self, params, cache, upstream):
        return upstream * cache * (1 - cache), {}


@pytest.mark.parametrize(
    "layer",
    [NoDensity(), WrongCubic(), ShiftedELU(), Identity(), DiagonalSoftmax()],
    ids=lambda layer: type(layer).__name__,
)
def test_a_planted_wrong_derivative_is_found(layer):
    """Its clean twins are good: see above."""
    (report,) = check_layers(nn.Sequential([layer]), INPUTS).values()
    assert report.verdict is Verdict.WORRY


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_extreme_inputs_stay_finite_in_their_precision_without_a_warning(layer, dtype):
    """Forward and backward."""
    outputs, cache = layer.forward({}, np.array(EXTREME, dtype), nn.Context())
    below, _ = layer.backward({}, cache, np.ones_like(outputs))
    assert outputs.dtype == below.dtype == dtype
    assert np.isfinite(outputs).all()
    assert np.isfinite(below).all()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_no_activation_hides_a_nan(layer):
    """Forward and backward."""
    outputs, cache = layer.forward({}, np.array([[np.nan, 1.0]]), nn.Context())
    assert np.isnan(outputs[0, 0])
    assert np.isnan(layer.backward({}, cache, np.ones((1, 2)))[0][0, 0])


def test_phi_is_right_in_both_tails():
    """To ten roundings where it is small, and to one where it is near 1."""
    points = np.concatenate([np.linspace(-37, 9, 2001), [0.0]])
    expected = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in points])
    np.testing.assert_allclose(normal_cdf(points), expected, rtol=1e-15 * 700)  # x^2 / 2 roundings, by the exponential
    np.testing.assert_allclose(normal_cdf(points), expected, rtol=0, atol=5e-16)
    assert normal_cdf(points.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(normal_cdf(points.astype(np.float32)), expected, rtol=0, atol=3e-7)


def test_phi_takes_a_complex_step_and_refuses_what_is_none():
    """The density is its slope; an imaginary part that would need higher orders gives NaN."""
    points = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(normal_cdf(points + 1e-30j).imag / 1e-30, normal_pdf(points), rtol=1e-14)
    assert np.isnan(normal_cdf(points + 0.1j).imag).all()


def test_the_two_forms_of_gelu_are_close():
    """Within 5e-4, and not the same."""
    x = np.linspace(-6, 6, 1001)[np.newaxis]
    exact, tanh = (layer.forward({}, x, nn.Context())[0] for layer in (nn.GELU(), nn.TanhGELU()))
    assert 1e-4 < np.max(np.abs(exact - tanh)) < 5e-4


def test_softmax_is_over_the_last_axis_whatever_stands_before():
    """Probabilities that do not change when a constant is added."""
    inputs = np.random.default_rng(0).normal(size=(3, 4, 5))
    outputs, _ = nn.Softmax().forward({}, inputs, nn.Context())
    np.testing.assert_allclose(outputs.sum(axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(nn.Softmax().forward({}, inputs + 500, nn.Context())[0], outputs, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_not_positive_is_refused(alpha):
    """It would be another activation."""
    with pytest.raises(InvalidProblem, match=r"ELU got alpha=.*limit on the far left.*Try 1\.0, or the layer ReLU"):
        nn.ELU(alpha)
