"""The one mistake in a backward pass: found exactly, told with the line of forward, and never of a right one."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from bug_zoo import attention, normalised, recurrent, residual
from gc_hooks import check_gradients


def line_of(network, text):
    """Return "file:line" of the first line of a network's source that holds a text."""
    lines, first = inspect.getsourcelines(network)
    return f"bug_zoo.py:{first + next(number for number, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize(
    ("network", "settings", "line"),
    [
        (recurrent, ("tanh of the output",), "np.tanh(x[t]"),
        (recurrent, ("untransposed",), "np.tanh(x[t]"),
        (recurrent, ("no path through time",), "np.tanh(x[t]"),
        (normalised, ("no mean", 0), "centred = z"),
        (normalised, ("no variance", 1), "scale = 1"),
        (attention, ("scores untransposed",), "q @ k.T"),
        (residual, ("updated before",), 'a @ p["W2"]'),
        (residual, ("last sample",), 'a @ p["W2"]'),
    ],
)
def test_the_line_of_forward_is_told(network, settings, line):
    """In the message and as a field, for programs; and it comes back from JSON."""
    report = check_gradients(*network(*settings))
    (found,) = report.diagnoses
    assert found.place == line_of(network, line)
    assert found.place in found.message
    assert found.repair == "backward"
    assert found.residual < 1e-9
    assert type(report).from_json(report.to_json()).diagnoses == report.diagnoses


def test_a_wrong_gradient_that_no_slip_gives_gets_no_line():
    """Noise in every entry is no slip, whatever is tried."""
    loss, params, backward = recurrent("")
    rng = np.random.default_rng(0)
    grads = {name: grad + 0.1 * rng.normal(size=grad.shape) for name, grad in backward(params).items()}
    (found,) = check_gradients(loss, params, grads).diagnoses
    assert (found.code, found.place) == ("other_loss", "")


def test_one_number_proves_no_path():
    """Of a single wrong number every path has some weight."""
    (found,) = check_gradients(lambda w: np.sin(w) * w, 1.3, 0.77).diagnoses
    assert (found.code, found.place) == ("unexplained", "")


def test_two_slips_are_not_told_as_one():
    """A derivative and a weight: neither alone gives the gradient."""
    loss, params, _ = residual("")
    grads = {**residual("no path around")[2](params), "W2": residual("input before tanh")[2](params)["W2"]}
    found = check_gradients(loss, params, grads).diagnoses
    assert not [diagnosis for diagnosis in found if diagnosis.place]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_slip_is_found_in_buffers_of_either_precision(dtype):
    """Backprop's own rounding does not hide it."""
    loss, params, backward = normalised("no mean", 0)
    grads = {name: grad.astype(dtype) for name, grad in backward(params).items()}
    params = {name: array.astype(dtype) for name, array in params.items()}
    (found,) = check_gradients(loss, params, grads).diagnoses
    assert found.code == "path_lost"


def test_the_loss_is_left_as_it_was():
    """Caches hold numbers again, and no box is left in them."""
    loss, params, backward = recurrent("untransposed")
    cache = []

    def keeping(p):
        cache[:] = [p["Wh"], loss(p)]
        return cache[1]

    (found,) = check_gradients(keeping, params, backward).diagnoses
    assert found.code == "wrong_below"
    assert [type(kept) for kept in cache] == [np.ndarray, np.float64]


@pytest.mark.parametrize("lost", ["mean", "variance"])
def test_a_bias_that_an_invariance_makes_vanish_is_in_nobodys_way(lost):
    """In front of a batch norm it has no gradient, right or wrong; the lost path is named all the same."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    params = {"W": rng.normal(size=(3, 5)), "b": rng.normal(size=5), "V": rng.normal(size=(5, 2))}

    def forward(p):
        z = x @ p["W"] + p["b"]
        centred = z - np.mean(z, axis=0)
        scale = 1 / np.sqrt(np.mean(centred**2, axis=0) + 1e-5)
        return centred * scale, scale

    def backward(p):
        n, scale = forward(p)
        delta = 2 * (np.tanh(n) @ p["V"] - y) / y.size
        above = delta @ p["V"].T * (1 - np.tanh(n) ** 2)
        of_mean = 0 if lost == "mean" else above.mean(axis=0)
        of_variance = 0 if lost == "variance" else n * (above * n).mean(axis=0)
        below = (above - of_mean - of_variance) * scale
        return {"W": x.T @ below, "b": below.sum(axis=0), "V": np.tanh(n).T @ delta}

    found = check_gradients(lambda p: np.mean((np.tanh(forward(p)[0]) @ p["V"] - y) ** 2), params, backward).diagnoses
    assert [diagnosis.code for diagnosis in found] in (["path_lost"], ["wrong_below"])
    assert found[0].place.startswith("test_slips.py")


@pytest.mark.parametrize("activation", [np.tanh, lambda z: 1 / (1 + np.exp(-z))])
def test_the_derivative_of_the_outputs_is_missed_where_it_belongs(activation):
    """And not in the line of the error, whose own derivative is 1."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))

    def loss(w):
        outputs = activation(x @ w)
        error = outputs - y
        return np.mean(error**2)

    (found,) = check_gradients(
        loss, rng.normal(size=(3, 2)), lambda w: x.T @ (2 * (activation(x @ w) - y) / y.size)
    ).diagnoses
    assert (found.code, "is left out" in found.message) == ("activation_derivative", True)
    line = inspect.getsourcelines(loss)[1] + 1 if activation is np.tanh else inspect.getsourcelines(activation)[1]
    assert found.place == f"test_slips.py:{line}"
