"""The law of `gc_hooks.nn`: every public layer, activation, loss and penalty passes a gradient check, new ones too."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from gc_hooks import Verdict, check_gradients, nn

RNG = np.random.default_rng(11)
ROWS, STEPS, IMAGES = RNG.normal(size=(5, 4)), RNG.normal(size=(3, 4, 4)), RNG.normal(size=(2, 5, 6, 2))
IDS, UNKNOWN = np.array([[0, 2, 2], [1, 0, 2]]), np.where(RNG.random((5, 4)) < 0.3, np.nan, 1.0)
WEIGHTS = {"dense1.W": RNG.normal(size=(3, 4)), "gru1.U": RNG.normal(size=(4, 12))}

CASES = {
    # A layer: how it is made, and its inputs.
    "AveragePool2D": (nn.AveragePool2D(3, stride=2), IMAGES),
    "BatchNorm": (nn.BatchNorm(4), ROWS),
    "Conv2D": (nn.Conv2D(2, 3, (2, 3), stride=(1, 2), padding=1), IMAGES),
    "Dense": (nn.Dense(4, 3), ROWS),
    "Dropout": (nn.Dropout(0.4), ROWS),
    "EachStep": (nn.EachStep(nn.Dense(4, 3)), STEPS),
    "ELU": (nn.ELU(0.7), ROWS),
    "Embedding": (nn.Embedding(3, 4), IDS),
    "Flatten": (nn.Flatten(), IMAGES),
    "GELU": (nn.GELU(), ROWS),
    "GRU": (nn.GRU(4, 3), STEPS),
    "LayerNorm": (nn.LayerNorm(4), STEPS),
    "LeakyReLU": (nn.LeakyReLU(0.1), ROWS),
    "LSTM": (nn.LSTM(4, 3), STEPS),
    "MaxPool2D": (nn.MaxPool2D(3, stride=2), IMAGES),
    "ReLU": (nn.ReLU(), ROWS),
    "Residual": (nn.Residual([nn.Dense(4, 3), nn.Tanh()], shortcut=[nn.Dense(4, 3)]), ROWS),
    "RNN": (nn.RNN(4, 3, last_step=True), STEPS),
    "Sigmoid": (nn.Sigmoid(), ROWS),
    "Softmax": (nn.Softmax(), ROWS),
    "Softplus": (nn.Softplus(), ROWS),
    "Tanh": (nn.Tanh(), ROWS),
    "TanhGELU": (nn.TanhGELU(), ROWS),
    # A loss: how it is made, outputs, targets.
    "BinaryCrossEntropy": (nn.BinaryCrossEntropy(), ROWS[:, 0], np.array([0, 1, 1, 0.3, 0])),
    "Huber": (nn.Huber(0.8), ROWS, ROWS[::-1]),
    "Masked": (nn.Masked(nn.MeanSquaredError()), ROWS, UNKNOWN),
    "MeanSquaredError": (nn.MeanSquaredError(), ROWS, ROWS[::-1]),
    "SoftmaxCrossEntropy": (nn.SoftmaxCrossEntropy(smoothing=0.1, ignore=-1), ROWS, np.array([0, 3, -1, 1, 2])),
    # A penalty: how it is made, parameters.
    "L2": (nn.L2(0.1), WEIGHTS),
}
"""What is checked, by the public name of its class."""


def parts():
    """Return the public names of classes with a gradient of their own: layers, and what has a value and a gradient."""
    found = []
    for name in nn.__all__:
        kind = getattr(nn, name)
        differentiable = inspect.isclass(kind) and (
            issubclass(kind, nn.Layer) or (hasattr(kind, "value") and hasattr(kind, "gradient"))
        )
        if differentiable and not inspect.isabstract(kind):
            found.append(name)
    return found


def case(name):
    """Return the row of the table for this public name."""
    if name not in CASES:
        pytest.fail(
            f"nn.{name} is public, and nothing checks its gradient: add a row to CASES in {__file__}, such as "
            f'"{name}": (nn.{name}(...), ROWS) for a layer or "{name}": (nn.{name}(...), outputs, targets) for a loss.'
        )
    return CASES[name]


def check(part, inputs, *targets):
    """Check the gradient of a layer for its inputs and parameters, of a loss for the outputs, or of a penalty."""
    if isinstance(part, nn.Layer):
        return check_layer(part, inputs)
    if targets:
        return check_gradients(
            lambda p: part.value(p["outputs"], *targets),
            {"outputs": inputs},
            lambda p: {"outputs": part.gradient(p["outputs"], *targets)},
        )
    return check_gradients(part.value, inputs, part.gradient)


def check_layer(layer, inputs):
    """Check a layer under a linear loss ``sum of U * Y``, whose gradient for the outputs Y is U.

    The layer runs in training mode with the same dropout masks at each call.
    """
    state, context = layer.init_state(np.float64), nn.Context(training=True, generator=np.random.default_rng(1))
    point = layer.init(np.random.default_rng(0), np.float64)
    if not layer.discrete:
        point["inputs"] = inputs

    def run(p):
        return layer.forward({**state, **p}, p.get("inputs", inputs), context.again())

    U = np.random.default_rng(2).normal(size=run(point)[0].shape)

    def gradient(p):
        below, grads = layer.backward({**state, **p}, run(p)[1], U)
        return {**grads, "inputs": below}

    return check_gradients(lambda p: np.sum(U * run(p)[0]), point, gradient)


@pytest.mark.parametrize("name", parts())
def test_every_public_part_passes_a_gradient_check(name):
    """Each parameter, and the inputs, are GOOD: measured, and right."""
    part, *arguments = case(name)
    report = check(part, *arguments)
    assert type(part) is getattr(nn, name)
    assert {parameter: c.verdict for parameter, c in report.parameters.items()} == dict.fromkeys(
        report.parameters, Verdict.GOOD
    )


def test_the_table_has_no_row_for_what_is_not_public():
    assert not set(CASES) - set(parts())


class SiLU(nn.Layer):
    """A layer that somebody adds."""

    def forward(self, params, inputs, context):
        s = 1 / (1 + np.exp(-inputs))
        return inputs * s, (inputs, s)

    def backward(self, params, cache, upstream):
        x, s = cache
        return upstream * (s + x * s * (1 - s)), {}


class WrongSiLU(SiLU):
    """The product rule with one of its two terms."""

    def backward(self, params, cache, upstream):
        return upstream * cache[1], {}


class WrongHuber(nn.Huber):
    """Without the division by the number of entries."""

    def gradient(self, outputs, targets):
        return super().gradient(outputs, targets) * outputs.size


def test_a_new_public_layer_without_a_row_fails_and_is_told_what_to_add(monkeypatch):
    monkeypatch.setattr(nn, "Newcomer", SiLU, raising=False)
    monkeypatch.setattr(nn, "__all__", [*nn.__all__, "Newcomer"])
    assert "Newcomer" in parts()
    with pytest.raises(
        pytest.fail.Exception, match=r"nn\.Newcomer is public.*add a row to CASES in .*test_nn_laws\.py"
    ):
        case("Newcomer")


@pytest.mark.parametrize(
    ("wrong", "clean", "arguments"),
    [(WrongSiLU(), SiLU(), [ROWS]), (WrongHuber(), nn.Huber(), [ROWS, ROWS[::-1]])],
)
def test_a_wrong_part_breaks_the_law(wrong, clean, arguments):
    """The law can fail: a planted bug is WORRY, and its clean twin GOOD."""
    assert check(wrong, *arguments).verdict is Verdict.WORRY
    assert check(clean, *arguments).verdict is Verdict.GOOD
