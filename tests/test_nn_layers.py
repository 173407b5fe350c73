"""Each layer's forward is analytic and stable, and its backward is the derivative of its forward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gc_hooks.errors import InvalidProblem
from gc_hooks.nn import Context, Dense, Dropout, Layer, LeakyReLU, ReLU, Sigmoid, Tanh, glorot, he
from gc_hooks.nn.functions import log1p, log_softmax, sigmoid, softmax, softplus

SAMPLES, FEATURES = 5, 4


def complex_slopes(function, point, step=1e-30):
    """Derivative of a real-valued analytic function for every entry of an array."""
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


class Probe:
    """One layer at a random point, seen through the scalar sum(upstream * outputs)."""

    def __init__(self, layer: Layer, seed: int = 0, training: bool = True) -> None:
        generator = np.random.default_rng(seed)
        self.layer, self.training = layer, training
        self.params = layer.init(generator, np.float64)
        for array in self.params.values():
            array += generator.normal(size=array.shape)
        self.inputs = generator.normal(size=(SAMPLES, FEATURES))
        outputs, self.cache = self.run(self.params, self.inputs)
        self.upstream = generator.normal(size=outputs.shape)

    def run(self, params, inputs):
        return self.layer.forward(params, inputs, Context(self.training, np.random.default_rng(7)))

    def scalar(self, params, inputs):
        return np.sum(self.upstream * self.run(params, inputs)[0])

    def backward(self):
        for_inputs, for_params = self.layer.backward(self.params, self.cache, self.upstream)
        return {"inputs": for_inputs, **for_params}

    def measured(self, slopes):
        found = {"inputs": slopes(lambda x: self.scalar(self.params, x), self.inputs)}
        for name, array in self.params.items():
            found[name] = slopes(lambda p, name=name: self.scalar({**self.params, name: p}, self.inputs), array)
        return found


def disagreement(layer: Layer, slopes=complex_slopes, training: bool = True) -> float:
    """Largest difference between backward and measured slopes."""
    probe = Probe(layer, training=training)
    backward, measured = probe.backward(), probe.measured(slopes)
    assert backward.keys() == measured.keys()
    return max(float(np.max(np.abs(backward[name] - measured[name]))) for name in measured)


LAYERS = [
    Dense(FEATURES, 3),
    Dense(FEATURES, 3, init=glorot),
    ReLU(),
    LeakyReLU(),
    LeakyReLU(0.3),
    Tanh(),
    Sigmoid(),
    Dropout(0.4),
    Dropout(0.0),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_slope_by_complex_step(layer, training):
    assert disagreement(layer, complex_slopes, training) < 1e-14


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_backward_is_the_slope_by_central_differences(layer):
    assert disagreement(layer, central_slopes) < 1e-7


class TransposedDense(Dense):
    def backward(self, params, cache, upstream):
        return upstream @ params["W"].T, {"W": np.full_like(params["W"], 0.1), "b": upstream.sum(axis=0)}


class MeanBiasDense(Dense):
    def backward(self, params, cache, upstream):
        inputs, grads = super().backward(params, cache, upstream)
        return inputs, {**grads, "b": upstream.mean(axis=0)}


class UnmaskedReLU(ReLU):
    def backward(self, params, cache, upstream):
        return upstream, {}


class FlatLeakyReLU(LeakyReLU):
    def backward(self, params, cache, upstream):
        return upstream * cache, {}


class LinearTanh(Tanh):
    def backward(self, params, cache, upstream):
        return upstream * (1 - cache), {}


class HalfSigmoid(Sigmoid):
    def backward(self, params, cache, upstream):
        return upstream * cache, {}


@dataclass(frozen=True)
class UnscaledDropout(Dropout):
    def backward(self, params, cache, upstream):
        return upstream * (cache > 0), {}


@pytest.mark.parametrize(
    "layer",
    [
        TransposedDense(FEATURES, 3),
        MeanBiasDense(FEATURES, 3),
        UnmaskedReLU(),
        FlatLeakyReLU(),
        LinearTanh(),
        HalfSigmoid(),
        UnscaledDropout(0.4),
    ],
    ids=repr,
)
@pytest.mark.parametrize("slopes", [complex_slopes, central_slopes])
def test_a_planted_wrong_backward_is_seen(layer, slopes):
    assert disagreement(layer, slopes) > 1e-3


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_preserved_forward_and_backward(layer, dtype):
    generator = np.random.default_rng(0)
    params = layer.init(generator, dtype)
    inputs = generator.normal(size=(SAMPLES, FEATURES)).astype(dtype)
    outputs, cache = layer.forward(params, inputs, Context(training=True, generator=generator))
    upstream, grads = layer.backward(params, cache, np.ones_like(outputs))
    assert {array.dtype for array in (outputs, upstream, *params.values(), *grads.values())} == {np.dtype(dtype)}


@pytest.mark.parametrize("layer", [LeakyReLU(np.float64(0.1)), Dropout(np.float64(0.1))], ids=repr)
def test_a_numpy_number_in_the_configuration_does_not_raise_float32_to_float64(layer):
    inputs = np.ones((3, 2), np.float32)
    outputs, cache = layer.forward({}, inputs, Context(training=True, generator=np.random.default_rng(0)))
    assert outputs.dtype == np.float32
    assert layer.backward({}, cache, inputs)[0].dtype == np.float32


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_complex_forward_equals_real_forward(layer):
    probe = Probe(layer)
    real, _ = probe.run(probe.params, probe.inputs)
    mixed, _ = probe.run({name: array.astype(complex) for name, array in probe.params.items()}, probe.inputs + 0j)
    assert np.iscomplexobj(mixed)
    np.testing.assert_allclose(mixed.real, real, rtol=1e-14, atol=1e-15)
    assert not mixed.imag.any()


@pytest.mark.parametrize("layer", [ReLU(), LeakyReLU(), Tanh(), Sigmoid()], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_extreme_inputs_stay_finite_without_a_warning(layer, dtype):
    inputs = np.array([[-1e4, -1000, -88, -0.0, 0.0, 88, 1000, 1e4]], dtype)
    outputs, cache = layer.forward({}, inputs, Context())
    slopes, _ = layer.backward({}, cache, np.ones_like(outputs))
    assert outputs.dtype == slopes.dtype == dtype
    assert np.isfinite(outputs).all()
    assert np.isfinite(slopes).all()


def test_relu_at_exactly_zero_has_slope_zero_forward_and_backward():
    inputs = np.array([[-0.0, 0.0]])
    outputs, cache = ReLU().forward({}, inputs + 1e-20j, Context())
    assert not outputs.any()
    assert not ReLU().backward({}, cache, np.ones((1, 2)))[0].any()


def test_leaky_relu_at_exactly_zero_takes_the_negative_side_forward_and_backward():
    outputs, cache = LeakyReLU(0.25).forward({}, np.array([[1e-20j]]), Context())
    assert outputs[0, 0].imag == 0.25e-20
    assert LeakyReLU(0.25).backward({}, cache, np.ones((1, 1)))[0][0, 0] == 0.25


@pytest.mark.parametrize("layer", [ReLU(), LeakyReLU(), Tanh(), Sigmoid()], ids=repr)
def test_no_activation_hides_a_nan(layer):
    outputs, cache = layer.forward({}, np.array([[np.nan]]), Context())
    assert np.isnan(outputs).all()
    assert np.isnan(layer.backward({}, cache, np.array([[np.nan]]))[0]).all()


def test_dropout_drops_by_rate_and_keeps_the_mean():
    inputs = np.ones((1000, 100))
    outputs, mask = Dropout(0.2).forward({}, inputs, Context(training=True, generator=np.random.default_rng(0)))
    assert np.mean(outputs == 0) == pytest.approx(0.2, abs=0.01)
    assert np.mean(outputs) == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(outputs, mask)


def test_dropout_is_the_identity_in_evaluation_mode_and_draws_nothing():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    inputs = np.ones((3, 3))
    outputs, cache = Dropout(0.5).forward({}, inputs, Context(training=False, generator=generator))
    np.testing.assert_array_equal(outputs, inputs)
    np.testing.assert_array_equal(Dropout(0.5).backward({}, cache, inputs)[0], inputs)
    assert generator.bit_generator.state == before


def test_training_mode_without_a_generator_forces_the_rate_to_zero():
    inputs = np.ones((3, 3))
    np.testing.assert_array_equal(Dropout(0.5).forward({}, inputs, Context(training=True))[0], inputs)


def test_float32_and_float64_see_the_same_masks_and_leave_the_generator_in_the_same_state():
    generators = np.random.default_rng(3), np.random.default_rng(3)
    masks = [
        Dropout(0.5).forward({}, np.ones((50, 20), dtype), Context(True, generator))[1]
        for dtype, generator in zip((np.float32, np.float64), generators, strict=True)
    ]
    np.testing.assert_array_equal(*masks)
    assert generators[0].bit_generator.state == generators[1].bit_generator.state


def test_he_has_variance_two_over_fan_in():
    assert np.var(he(np.random.default_rng(0), 200, 300)) == pytest.approx(2 / 200, rel=0.02)


def test_glorot_fills_its_interval():
    weights, limit = glorot(np.random.default_rng(0), 200, 300), np.sqrt(6 / 500)
    assert limit * 0.99 < weights.max() <= limit
    assert np.var(weights) == pytest.approx(limit**2 / 3, rel=0.02)


def test_dense_draws_the_same_weights_in_both_precisions():
    fine, coarse = (Dense(3, 4).init(np.random.default_rng(5), dtype) for dtype in (np.float64, np.float32))
    np.testing.assert_array_equal(fine["W"].astype(np.float32), coarse["W"])
    assert not fine["b"].any()


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Dense(3, 2), "Dense(3, 2)"),
        (ReLU(), "ReLU()"),
        (LeakyReLU(0.1), "LeakyReLU(slope=0.1)"),
        (Dropout(0.5), "Dropout(rate=0.5)"),
    ],
)
def test_a_layer_prints_its_configuration(layer, text):
    assert repr(layer) == text


@pytest.mark.parametrize("sides", [(0, 3), (3, 0), (-1, 3)])
def test_a_dense_layer_without_units_is_refused(sides):
    with pytest.raises(InvalidProblem, match=r"Dense got .*must be at least 1.*without units.*empty array.*Try Dense"):
        Dense(*sides)


@pytest.mark.parametrize("shape", [(5, 3), (4,), (5, 2, 2), ()])
def test_a_wrong_number_of_features_is_explained(shape):
    layer = Dense(4, 2)
    with pytest.raises(InvalidProblem, match=r"Dense\(4, 2\) got inputs of shape .*\(samples, 4\).*Rows are.*Try"):
        layer.forward(layer.init(np.random.default_rng(0), np.float64), np.ones(shape), Context())


@pytest.mark.parametrize("rate", [1, -0.1, 20, float("nan")])
def test_a_dropout_rate_outside_its_range_is_refused(rate):
    with pytest.raises(InvalidProblem, match=r"Dropout got rate=.*probability of dropping.*Try Dropout\(0\.2\)"):
        Dropout(rate)


POINTS = np.array([-1000, -30, -1, 0, 1e-20, 1, 30, 1000])


def test_sigmoid_and_softplus_have_the_right_slope_everywhere():
    np.testing.assert_allclose(complex_slopes(lambda z: np.sum(softplus(z)), POINTS), sigmoid(POINTS), rtol=1e-14)
    expected = sigmoid(POINTS) * sigmoid(-POINTS)
    np.testing.assert_allclose(complex_slopes(lambda z: np.sum(sigmoid(z)), POINTS), expected, rtol=1e-14)


def test_softplus_keeps_the_digits_of_tiny_values():
    np.testing.assert_allclose(softplus(np.array([-50.0])), np.exp(-50.0), rtol=1e-15)
    np.testing.assert_allclose(softplus(np.array([-50.0 + 0j])), np.exp(-50.0), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_log1p_is_accurate_and_keeps_the_precision_for_complex_numbers(dtype):
    points = np.array([0, 1e-18, 0.5 + 0.25j, 3 - 2j], dtype)
    assert log1p(points).dtype == dtype
    np.testing.assert_allclose(log1p(points)[2:], np.log(1 + points)[2:], rtol=1e-6)
    assert log1p(points)[1].real == dtype(1e-18).real


def test_softmax_sums_to_one_and_its_complement_has_no_cancellation():
    logits = np.array([[40.0, 0.0, 0.0], [1000.0, -1000.0, 1000.0], [0.0, 0.0, 0.0]])
    p, complement = softmax(logits)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(p + complement, 1, rtol=1e-15)
    np.testing.assert_allclose(complement[0, 0], 2 * np.exp(-40), rtol=1e-14)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), p, rtol=1e-15)
