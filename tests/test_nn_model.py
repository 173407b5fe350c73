"""The model: names, twin dicts, pure forward and backward; and the optimisers that update it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from gc_hooks.errors import InvalidProblem
from gc_hooks.nn import (
    SGD,
    Adam,
    Context,
    Dense,
    Dropout,
    LeakyReLU,
    Momentum,
    ReLU,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
)

INPUTS = np.random.default_rng(1).normal(size=(7, 5))
LABELS = np.array([0, 1, 2, 0, 1, 2, 1])


def network(**options) -> Sequential:
    layers = [Dense(5, 6), LeakyReLU(0.1), Dropout(0.3), Dense(6, 6), Tanh(), Dense(6, 4), Sigmoid(), Dense(4, 3)]
    return Sequential(layers, **options)


def training(seed: int = 5) -> Context:
    return Context(training=True, generator=np.random.default_rng(seed))


def loss_of(model: Sequential, params, context=None):
    return SoftmaxCrossEntropy().value(model.forward(INPUTS, context or training(), params)[0], LABELS)


def gradient_of(model: Sequential, params=None):
    outputs, caches = model.forward(INPUTS, training(), params)
    return model.backward(caches, SoftmaxCrossEntropy().gradient(outputs, LABELS), params)


def complex_slopes(model: Sequential, name: str, step: float = 1e-30):
    params = {key: array.astype(complex) for key, array in model.params.items()}
    slopes = np.zeros(params[name].shape)
    for index in np.ndindex(slopes.shape):
        params[name][index] += 1j * step
        slopes[index] = loss_of(model, params).imag / step
        params[name][index] = params[name][index].real
    return slopes


def central_slopes(model: Sequential, name: str, step: float = 1e-6):
    slopes = np.zeros(model.params[name].shape)
    for index in np.ndindex(slopes.shape):
        ahead, behind = copy.deepcopy(model.params), copy.deepcopy(model.params)
        ahead[name][index] += step
        behind[name][index] -= step
        slopes[index] = (loss_of(model, ahead) - loss_of(model, behind)) / (2 * step)
    return slopes


@pytest.mark.parametrize(("slopes", "tolerance"), [(complex_slopes, 1e-15), (central_slopes, 1e-9)])
def test_backward_is_the_slope_of_the_loss_through_the_whole_network(slopes, tolerance):
    model = network()
    grads = gradient_of(model)
    for name in model.params:
        np.testing.assert_allclose(grads[name], slopes(model, name), rtol=1e-9, atol=tolerance)


class ForgetfulDense(Dense):
    def backward(self, params, cache, upstream):
        inputs, grads = super().backward(params, cache, upstream)
        return inputs, {"W": grads["W"]}


class StuckDense(Dense):
    def backward(self, params, cache, upstream):
        _, grads = super().backward(params, cache, upstream)
        return np.ones_like(cache), grads


def test_a_wrong_layer_planted_by_subclass_spoils_the_layers_below_and_only_those():
    model = Sequential([Dense(5, 6), ReLU(), StuckDense(6, 4), ReLU(), Dense(4, 3)])
    assert list(model.params) == [f"{layer}.{kind}" for layer in ("dense1", "dense2", "dense3") for kind in "Wb"]
    wrong = {name: np.max(np.abs(gradient_of(model)[name] - complex_slopes(model, name))) for name in model.params}
    assert [name for name, error in wrong.items() if error > 1e-6] == ["dense1.W", "dense1.b"]


def test_a_gradient_that_a_layer_forgets_is_missing_and_its_buffer_untouched():
    model = Sequential([ForgetfulDense(5, 3)])
    grads = gradient_of(model)
    assert list(grads) == ["dense1.W"]
    model.store(grads)
    assert not model.grads["dense1.b"].any()


def test_parameters_are_named_by_class_and_number_among_layers_with_parameters():
    model = Sequential([ReLU(), Dense(5, 4), ReLU(), Dense(4, 3)])
    shapes = {name: array.shape for name, array in model.params.items()}
    assert shapes == {"dense1.W": (5, 4), "dense1.b": (4,), "dense2.W": (4, 3), "dense2.b": (3,)}


def test_one_layer_object_can_stand_in_two_places_with_parameters_of_its_own():
    layer = Dense(5, 5)
    model = Sequential([layer, layer])
    assert not np.array_equal(model.params["dense1.W"], model.params["dense2.W"])


def test_params_and_grads_are_twins_and_gradients_start_at_zero():
    model = network()
    assert list(model.params) == list(model.grads)
    for name, array in model.params.items():
        assert model.grads[name].shape == array.shape
        assert model.grads[name].dtype == array.dtype
        assert not model.grads[name].any()


def test_store_copies_into_the_live_buffers():
    model = network()
    buffers, grads = dict(model.grads), gradient_of(model)
    model.store(grads)
    model.store(grads)  # a second time: nothing accumulates
    for name, buffer in model.grads.items():
        assert buffer is buffers[name]
        assert not np.shares_memory(buffer, grads[name])
        np.testing.assert_array_equal(buffer, grads[name])


def test_forward_and_backward_write_nothing():
    model = network()
    before = pickle.dumps((model.params, model.grads, INPUTS))
    gradient_of(model)
    gradient_of(model, {name: 2 * array for name, array in model.params.items()})
    assert pickle.dumps((model.params, model.grads, INPUTS)) == before


def test_forward_defaults_to_evaluation_mode():
    model = network()
    np.testing.assert_array_equal(model(INPUTS), model.forward(INPUTS, Context(training=True))[0])
    assert not np.array_equal(model(INPUTS), model.forward(INPUTS, training())[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", [np.float32, np.float64, np.int64])
def test_everything_is_in_the_precision_of_the_parameters(dtype, given):
    model = network(dtype=dtype)
    outputs, caches = model.forward(INPUTS.astype(given), training())
    grads = model.backward(caches, SoftmaxCrossEntropy().gradient(outputs, LABELS))
    assert {array.dtype for array in (outputs, *grads.values(), *model.params.values())} == {np.dtype(dtype)}


def test_parameters_handed_in_decide_the_precision():
    model = network(dtype=np.float32)
    double = {name: array.astype(float) for name, array in model.params.items()}
    single = {name: array + 0j for name, array in model.params.items()}
    assert model.forward(INPUTS, params=double)[0].dtype == np.float64
    assert model.forward(INPUTS.astype(np.float32), params=single)[0].dtype == np.complex64


def test_one_complex_parameter_among_real_ones_is_enough():
    model = network()
    params = {**model.params, "dense2.b": model.params["dense2.b"] + 1e-30j}
    assert loss_of(model, params).imag != 0
    assert loss_of(model, params).real == pytest.approx(float(loss_of(model, model.params)))


def test_complex_inputs_are_kept():
    assert network().forward(INPUTS + 0j)[0].dtype == np.complex128


def test_a_model_without_parameters_works_in_its_own_precision():
    model = Sequential([ReLU()], dtype=np.float32)
    assert model(INPUTS).dtype == np.float32
    assert model.backward(model.forward(INPUTS)[1], INPUTS) == {}


def test_masks_are_the_same_in_both_precisions():
    model = network()
    fine, coarse = model.forward(INPUTS, training()), model.astype(np.float32).forward(INPUTS, training())
    np.testing.assert_allclose(coarse[0], fine[0], rtol=1e-4)
    np.testing.assert_array_equal(coarse[1][2] > 0, fine[1][2] > 0)


def test_astype_gives_a_new_model_with_converted_parameters_and_zero_gradients():
    model = network()
    model.store(gradient_of(model))
    twin = model.astype(np.float32)
    assert twin.layers == model.layers
    assert not any(array.any() for array in twin.grads.values())
    for name, array in twin.params.items():
        np.testing.assert_array_equal(array, model.params[name].astype(np.float32))
    twin = model.astype(np.float64)
    assert not any(np.shares_memory(twin.params[name], model.params[name]) for name in model.params)


def test_the_seed_decides_the_initial_parameters():
    one, same, other = (Sequential([Dense(3, 2)], seed=seed).params["dense1.W"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_model_survives_pickling():
    model = network()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(INPUTS), model(INPUTS))


def test_a_model_prints_its_layers():
    assert repr(Sequential([Dense(3, 2), ReLU()])) == "Sequential([Dense(3, 2), ReLU()], dtype=float64)"


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "got no layers"), ([Dense(2, 2), ReLU], "got <class .*ReLU'>, which is not a layer.*not classes.*Try")],
)
def test_a_model_without_proper_layers_is_refused(layers, message):
    with pytest.raises(InvalidProblem, match=message):
        Sequential(layers)


@pytest.mark.parametrize("dtype", ["flot32", np.int64, complex, object])
def test_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(InvalidProblem, match=r"got dtype=.*not a real floating-point type.*fractions.*Try"):
        Sequential([Dense(2, 2)], dtype=dtype)
    with pytest.raises(InvalidProblem, match="not a real floating-point type"):
        Sequential([Dense(2, 2)]).astype(dtype)


def steps(optimizer, gradients, start=1.0, dtype=np.float64):
    params = {"W": np.array([start], dtype)}
    for gradient in gradients:
        optimizer.step(params, {"W": np.array([gradient], dtype)})
    return params["W"]


def test_sgd_goes_down_the_gradient():
    assert steps(SGD(0.1), [2.0, 3.0])[0] == pytest.approx(1 - 0.2 - 0.3)
    assert SGD(0.1).state == {}


def test_momentum_keeps_a_share_of_its_velocity():
    assert steps(Momentum(0.1, 0.5), [2.0, 3.0])[0] == pytest.approx(1 - 0.2 - (0.1 + 0.3))


def test_adam_follows_its_paper():
    first, second, expected = 0.0, 0.0, 1.0
    for t, g in enumerate([2.0, -3.0, 0.5], start=1):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        expected -= 0.01 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    assert steps(Adam(0.01), [2.0, -3.0, 0.5])[0] == pytest.approx(expected, rel=1e-12)


OPTIMIZERS = [SGD, Momentum, Adam]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0.1, np.float64(0.1)])
def test_optimisers_update_in_place_keep_the_dtype_and_only_read_the_gradients(kind, rate):
    optimizer, model = kind(rate), network(dtype=np.float32)
    model.store(gradient_of(model))
    arrays, before, grads = dict(model.params), copy.deepcopy(model.params), copy.deepcopy(model.grads)
    for _ in range(2):
        optimizer.step(model.params, model.grads)
    for name, array in model.params.items():
        assert array is arrays[name]
        assert array.dtype == np.float32
        assert not np.array_equal(array, before[name])
        np.testing.assert_array_equal(model.grads[name], grads[name])
    assert {array.dtype for key, array in optimizer.state.items() if key != "steps"} <= {np.dtype(np.float32)}


def test_optimiser_state_is_a_plain_dict_of_arrays():
    momentum, adam = Momentum(0.1), Adam()
    steps(momentum, [1.0])
    steps(adam, [1.0, 1.0])
    assert list(momentum.state) == ["velocity.W"]
    assert list(adam.state) == ["steps", "first.W", "second.W"]
    assert all(isinstance(array, np.ndarray) for array in (*momentum.state.values(), *adam.state.values()))
    assert adam.state["steps"] == 2


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0, -0.1, float("nan"), float("inf")])
def test_a_learning_rate_that_is_not_positive_is_refused(kind, rate):
    with pytest.raises(InvalidProblem, match=rf"{kind.__name__} got learning_rate=.*must be positive.*climbs.*Try"):
        kind(rate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Momentum(0.1, 1.0), r"Momentum got momentum=1\.0, but it must be in \[0, 1\).*never fade.*Try 0\.9"),
        (lambda: Adam(beta1=-0.1), r"Adam got beta1=-0\.1"),
        (lambda: Adam(beta2=1), r"Adam got beta2=1"),
        (lambda: Adam(epsilon=0), r"Adam got epsilon=0, but it must be positive.*zero by zero.*Try 1e-8"),
    ],
)
def test_optimiser_settings_out_of_range_are_refused(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()
