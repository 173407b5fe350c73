"""Which gradient belongs to which parameter, and what is wrong with those that fit none."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gc_hooks import InvalidProblem, Verdict, check_gradients, check_layers
from gc_hooks.arrays.gradients import Matched, match_gradients
from gc_hooks.arrays.norms import norm, relative_difference

EPS = np.finfo(float).eps
POINT = {"W1": np.ones((2, 3)), "b1": np.ones(2)}


def grads_for(point):
    return {name: np.full(array.shape, 0.5) for name, array in point.items()}


@pytest.mark.parametrize("form", ["{}", "d{}", "grad_{}", "{}_grad", "d_{}", "g{}"])
def test_textbook_names_are_understood(form):
    """The gradient of W1 may be called dW1, grad_W1 and the like."""
    matched = match_gradients({form.format(name): grad for name, grad in grads_for(POINT).items()}, POINT)
    assert list(matched.grads) == ["W1", "b1"]
    assert (matched.issues, matched.notes) == ({}, ())


def test_only_the_last_part_of_a_path_is_renamed():
    """In nested parameters the gradient of layers.0.W is layers.0.dW."""
    point = {"layers.0.W": np.ones(2), "layers.1.W": np.ones(3)}
    matched = match_gradients({"layers": [{"dW": np.zeros(2)}, {"dW": np.zeros(3)}]}, point)
    assert {name: grad.shape for name, grad in matched.grads.items()} == {"layers.0.W": (2,), "layers.1.W": (3,)}


def test_own_name_comes_before_a_renamed_one():
    """Where both W1 and dW1 are there, W1 is the gradient and dW1 is noted as unknown."""
    matched = match_gradients({"dw": np.zeros(1), "w": np.ones(1)}, {"w": np.ones(1)})
    assert matched.grads["w"] == [1.0]
    assert matched.notes == ("Not parameters, ignored: dw.",)


def test_a_parameter_is_nobodys_gradient():
    """A parameter called dw is never taken for the gradient of w."""
    matched = match_gradients({"dw": np.ones(2)}, {"w": np.ones(2), "dw": np.ones(2)})
    assert list(matched.grads) == ["dw"]
    assert matched.issues["w"].code == "missing_gradient"


def test_further_entries_are_ignored_with_a_note():
    """What backward returns beside gradients of parameters is named and passed over, whatever it is."""
    extra = {f"dZ{k}": "anything" for k in range(10)}
    matched = match_gradients({**grads_for(POINT), **extra}, POINT)
    assert list(matched.grads) == ["W1", "b1"]
    assert matched.notes == ("Not parameters, ignored: dZ0, dZ1, dZ2, dZ3, dZ4, dZ5, dZ6, dZ7 and 2 more.",)


@pytest.mark.parametrize(
    ("grad", "code", "said"),
    [
        (None, "missing_gradient", "is None"),
        (np.ones(3), "wrong_shape", r"shape \(3,\), the parameter \(2, 3\)"),
        (np.ones((3, 2)), "wrong_shape", "its transpose"),
        (1.0, "wrong_shape", r"shape \(\)"),
        ("text", "not_numeric", "not real numbers"),
        (np.ones((2, 3), dtype=complex), "not_numeric", "complex128"),
        (np.full((2, 3), None), "not_numeric", "object"),
    ],
)
def test_unusable_gradient_is_a_flaw_of_its_parameter_only(grad, code, said):
    """One gradient that cannot be used is named, and the others are still there to be checked."""
    matched = match_gradients({**grads_for(POINT), "W1": grad}, POINT)
    assert matched.issues["W1"].code == code
    assert list(matched.issues) == ["W1"]
    assert list(matched.grads) == ["b1"]
    assert re.search(said, matched.issues["W1"].text)


@pytest.mark.parametrize(
    ("shape", "given", "updated"),
    [
        ((1, 3), (3,), None),
        ((3, 1), (1, 3), "has shape (3, 3)"),
        ((3,), (1, 3), "has shape (1, 3)"),
        ((2, 1, 3), (2, 3), "has shape (2, 2, 3)"),
        ((2, 3), (2, 3, 1), "is not possible"),
        ((1, 1, 1), (), None),
    ],
)
def test_axes_of_length_one_do_not_make_a_shape_wrong(shape, given, updated):
    """It is compared in the parameter's shape with a note, which also says what an update would make of it."""
    entries = np.arange(float(np.prod(given)))
    matched = match_gradients({"b": entries.reshape(given)}, {"b": np.ones(shape)})
    assert matched.grads["b"].tolist() == entries.reshape(shape).tolist()
    (note,) = matched.notes
    assert f"The gradient of b has shape {given}, the parameter {shape}: compared after a reshape." in note
    assert (updated or "compared after a reshape.") in note
    assert ("An update" in note) == bool(updated)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("factor", [1.0, 0.125])
def test_a_bias_row_with_a_flat_gradient_is_judged(axis, factor):
    """The sum without keepdims is right, the mean in its place is wrong, and both are said; in a layer alone, too."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    params = {"W": rng.normal(size=(3, 2)), "b": np.zeros((1, 2) if axis == 0 else (2, 1))}

    def grads(p):
        error = x @ p["W"] + p["b"].reshape(1, 2) - y
        return {"W": x.T @ error, "b": factor * error.sum(axis=0)}

    report = check_gradients(lambda p: 0.5 * np.sum((x @ p["W"] + p["b"].reshape(1, 2) - y) ** 2), params, grads)
    assert report.parameters["W"].verdict is Verdict.GOOD
    assert report.parameters["b"].verdict is (Verdict.GOOD if factor == 1.0 else Verdict.WORRY)
    assert "compared after a reshape" in report.notes[0]


class FlatBias:
    """A layer whose bias is a row, and its gradient flat; wrong where it takes no sum."""

    def __init__(self, reduce):
        self.params, self.grads, self.reduce = {"b": np.zeros((1, 3))}, {}, reduce

    def forward(self, inputs):
        return np.tanh(inputs + self.params["b"])

    def backward(self, upstream):
        delta = upstream * (1 - np.tanh(self.params["b"] + INPUTS) ** 2)
        self.grads = {"b": self.reduce(delta, axis=0)}
        return delta


INPUTS = np.random.default_rng(1).normal(size=(5, 3))


def test_a_flat_gradient_is_judged_in_a_layer_alone():
    """check_layers compares it in the same way."""
    (right,) = check_layers([FlatBias(np.sum)], INPUTS).values()
    (wrong,) = check_layers([FlatBias(np.max)], INPUTS).values()
    names = right.parameters.keys() - {"input"}
    assert {right.parameters[name].verdict for name in names} == {Verdict.GOOD}
    assert {wrong.parameters[name].verdict for name in names} == {Verdict.WORRY}


def test_the_gradients_of_lists_may_be_renamed_too():
    """Beside W, a list of arrays, stands dW, a list of gradients; both sides are still paired by position."""
    point = {"W.0": np.ones(2), "W.1": np.ones(3)}
    matched = match_gradients({"dW": [np.zeros(2), np.zeros(3)]}, point)
    assert {name: grad.shape for name, grad in matched.grads.items()} == {"W.0": (2,), "W.1": (3,)}


def test_missing_gradient_names_what_was_there_instead():
    """A misspelt key is shown next to the parameter that misses its gradient."""
    issue = match_gradients({"W1": np.ones((2, 3)), "bias": np.ones(2)}, POINT).issues["b1"]
    assert issue.code == "missing_gradient"
    assert "names without a parameter are bias" in issue.text


def test_no_gradients_at_all_are_refused():
    """A backward pass without return statement gets a message that says so."""
    with pytest.raises(InvalidProblem, match="no return statement"):
        match_gradients(None, POINT)


@pytest.mark.parametrize("grad", [2, 2.0, np.float32(2), np.array(2.0), np.array([[2.0]])])
def test_gradient_of_a_number_may_come_in_any_wrapping(grad):
    """A parameter that is one number takes a number or an array of one element."""
    matched = match_gradients(grad, {"theta": np.array(1.0)})
    assert matched.grads["theta"].shape == ()
    assert matched.grads["theta"] == 2.0


def test_gradients_are_copies_in_float64():
    """What the training does to its buffers afterwards does not reach the check."""
    buffer = np.ones(2, dtype=np.float32)
    matched = match_gradients({"w": buffer}, {"w": np.ones(2)})
    buffer[:] = 7
    assert matched.grads["w"].tolist() == [1.0, 1.0]
    assert matched.grads["w"].dtype == np.float64


@pytest.mark.parametrize(
    ("dtypes", "precision"),
    [((float, float), EPS), ((float, np.float32), 2.0**-23), ((np.float16, np.float32), 2.0**-10), ((int, int), 0.0)],
)
def test_precision_is_that_of_the_coarsest_gradient(dtypes, precision):
    """One buffer in float32 makes the whole gradient one of float32; integers (zeros) are exact."""
    grads = {name: np.zeros(array.shape, dtype) for (name, array), dtype in zip(POINT.items(), dtypes, strict=True)}
    assert match_gradients(grads, POINT).precision == precision


def test_a_second_call_that_differs_is_a_flaw():
    """Where two calls of backward differ, the parameter says so, in the order of the parameters; equal ones do not."""
    first = Matched({name: np.ones(3) for name in "dcba"})
    second = Matched({"d": np.full(3, 2.0), "c": np.ones(3), "b": np.full(3, np.nan), "a": np.ones(3) * (1 + EPS)})
    issues = first.compared_with(second).issues
    assert list(issues) == ["d", "b"]
    assert {issue.code for issue in issues.values()} == {"not_repeatable"}
    assert "differ by 3.3e-01" in issues["d"].text


def test_earlier_flaws_stay():
    """Comparing two calls adds flaws and loses none."""
    matched = match_gradients({"W1": np.ones((2, 3))}, POINT)
    assert matched.compared_with(matched).issues == matched.issues


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.0], [0.0], 0.0),
        ([0.0], [-0.0], 0.0),
        ([np.nan], [np.nan], 0.0),
        ([3.0], [1.0], 0.5),
        ([1.0], [-1.0], 1.0),
        ([1.0], [0.0], 1.0),
        ([np.nan], [1.0], np.inf),
        ([np.inf], [1.0], np.inf),
        ([3e-200], [1e-200], 0.5),
        ([3e200], [1e200], 0.5),
    ],
)
def test_classic_ratio(first, second, difference):
    """The ratio is between 0 (equal) and 1 (nothing in common), at any magnitude; one-sided NaN is no equality."""
    assert relative_difference(np.array(first), np.array(second)) == pytest.approx(difference, rel=1e-12)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-50, 1.0, 1e50, 1e160, 1e300])
def test_norm_neither_overflows_nor_underflows(size):
    """The norm of (3, 4) is 5 in any unit, also where the caller has NumPy raise."""
    with np.errstate(all="raise"):
        assert norm(size * np.array([3.0, 4.0])) == pytest.approx(5 * size, rel=1e-14)


@pytest.mark.parametrize(("array", "size"), [([], 0.0), ([0.0, 0.0], 0.0), ([np.inf, 1.0], np.inf)])
def test_norm_of_special_arrays(array, size):
    """Empty arrays and zeros have norm 0, infinite entries an infinite one."""
    assert norm(np.array(array)) == size
    assert np.isnan(norm(np.array([np.nan, 1.0])))
