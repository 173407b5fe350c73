"""What is refused at the door, and with which words."""

from __future__ import annotations

import re
from collections import namedtuple
from fractions import Fraction

import numpy as np
import pytest

from gc_hooks import GradCheckError, InvalidProblem, NondeterministicLoss
from gc_hooks.problem.validate import build_problem, parameter_arrays

W = np.array([1.0, 2.0])


def squares(w):
    return np.sum(w**2)


def refuse(said, loss=squares, params=W, grads=2 * W, error=InvalidProblem, **options):
    """Assert that a problem is refused with an error that says so."""
    with pytest.raises(error, match=said) as refused:
        build_problem(loss, params, grads, **options)
    assert isinstance(refused.value, GradCheckError)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (np.array([1, 2]), r"Parameter theta holds integers \(int64, shape \(2,\)\).*theta\.astype\(float\)"),
        ({"W1": W, "b1": np.zeros(2, dtype=bool)}, r"Parameter b1 holds integers \(bool"),
        (np.uint8(3), "Parameter theta holds integers"),
        (True, "Parameter theta holds integers"),
        ({}, "There are no parameters in dict {}.*print"),
        ([], "There are no parameters in list"),
        ({"layers": [{}, ()]}, "There are no parameters"),
        ({"W": W, "b": None}, "Parameter b is None of type NoneType"),
        (None, "Parameter theta is None of type NoneType"),
        ({"name": "relu", "W": W}, "Parameter name is 'relu' of type str"),
        ({"W": W * 1j}, "Parameter W is an array of complex128"),
        (1j, "Parameter theta is 1j of type complex"),
        ({"model": 50 * b"x"}, "Parameter model is a bytes"),
        ({"W": np.array([None, 1.0])}, "Parameter W is an array of object"),
        ({"a": {"b": W}, "a.b": W}, "both called 'a.b'"),
    ],
)
def test_parameters_that_cannot_be_moved_are_refused(params, said):
    """What is no floating-point array is refused by name, with what it is and what to try."""
    refuse(said, loss=lambda p: 0.0, params=params)


@pytest.mark.parametrize(
    "params",
    [
        3,
        3.0,
        Fraction(1, 2),
        np.float32(3),
        np.array(3.0),
        W,
        W.astype(np.float32),
        W.astype(np.float16),
        [W, (W, 1)],
        {"a": {"b": [W]}},
        namedtuple("P", "W b")(W, 1.0),
        np.zeros((0, 3)),
    ],
)
def test_loss_gets_the_structure_that_was_handed_in(params):
    """A number stays a number, an array an array and a container its own kind, in float64."""
    seen = []
    build_problem(lambda p: seen.append(p) or 0.0, params, params)
    assert type(seen[0]) is type(params) or np.ndim(params) == 0 or isinstance(params, np.ndarray)
    arrays = parameter_arrays(seen[0])
    assert {array.dtype for array in arrays.values()} == {np.dtype(float)}
    assert all(np.array_equal(array, arrays[name]) for name, array in parameter_arrays(params).items())


def test_numbers_reach_the_loss_as_numbers():
    """A loss of one number may use ``if theta > 0`` and ``math.sin(theta)``."""
    seen = []
    build_problem(lambda theta: seen.append(theta) or 0.0, 4, 0.0)
    assert np.ndim(seen[0]) == 0
    assert isinstance(seen[0], float)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1.0, "cache"), r"returned a tuple of 2 items, not a number.*\(cost, cache\).*lambda p: loss\(p\)\[0\]"),
        ([1.0], "returned a list of 1 items"),
        (None, "returned None.*return statement"),
        (W, r"returned an array of shape \(2,\), not a number.*mean"),
        (np.zeros(0), r"returned an array of shape \(0,\)"),
        ("0.5", "returned '0.5' of type str"),
        (True, "returned True of type bool"),
        (np.bool_(True), "returned True of type bool"),
        (1j, "returned 1j of type complex"),
        (np.array([1j]), "returned 1j of type complex"),
        ({"loss": 1.0}, "returned {'loss': 1.0} of type dict"),
    ],
)
@pytest.mark.parametrize("what", ["loss", "penalty"])
def test_what_is_no_number_is_refused(what, value, said):
    """A loss, or a penalty, that returns anything but one real number gets a message that shows what it returned."""
    functions = {"loss": squares, "penalty": squares, what: lambda w: value}
    refuse(f"The {what} {said.replace('loss', what) if 'lambda' in said else said}", **functions)


@pytest.mark.parametrize("wrap", [float, np.float32, np.atleast_1d, np.atleast_2d, np.array, int])
def test_one_element_is_a_number(wrap):
    """A loss may return its number as a Python number, a NumPy scalar or an array with one element."""
    assert build_problem(lambda w: wrap(5.0), W, W).values == (5.0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_passes_the_door(value):
    """NaN twice is no contradiction; what it means is the report's business."""
    assert np.array_equal(build_problem(lambda w: value, W, W).values, (value,), equal_nan=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": 3.0}, "The loss must be a callable, got 3.0 of type float.*lambda p"),
        ({"loss": None}, "The loss must be a callable, got None"),
        ({"penalty": 0.1}, "The penalty must be a callable, got 0.1 of type float"),
        ({"loss": lambda p, x: 0.0}, r"The loss takes \(p, x\).*the parameters, as one argument.*'x'"),
        ({"loss": lambda: 0.0}, r"The loss takes \(\).*in_place=True"),
        ({"loss": lambda p: 0.0, "in_place": True}, r"The loss takes \(p\).*nothing \(in_place=True\)"),
        ({"grads": lambda: W}, r"The gradient function takes \(\)"),
        ({"grads": lambda p: W, "loss": lambda: 0.0, "in_place": True}, r"The gradient function takes \(p\)"),
        ({"grads": lambda p: None}, "The gradients are None"),
        ({"grads": None}, "The gradients are None"),
    ],
)
def test_wrong_functions_are_refused(options, said):
    """A function that cannot be called as it will be is refused before it is called, with its signature."""
    refuse(said, **options)


def test_a_type_error_inside_the_loss_is_the_users_own():
    """Only the signature is judged at the door: what the loss raises itself is not dressed up."""
    with pytest.raises(TypeError, match=r"concatenate|ufunc"):
        build_problem(lambda w: "loss: " + w, 1.0, 1.0)


def test_functions_without_signature_are_called_all_the_same():
    """Functions written in C, such as a ufunc or ``max`` of an array, have no signature to judge."""
    assert build_problem(max, W, W).value == 2.0


def test_a_loss_that_changes_its_parameters_is_refused():
    """An update inside the loss is named; the user's own arrays were never in its reach."""
    mine = W.copy()

    def loss(w):
        w *= 0.5
        return squares(w)

    refuse("The loss changes the parameters that it is given.*copy", loss=loss, params=mine)
    assert mine.tolist() == W.tolist()


def test_a_loss_that_changes_them_in_place_is_refused_and_undone():
    """With in_place=True the user's arrays are what they were, also after the loss has changed them."""
    mine = {"w": W.copy(), "b": np.array([-0.0, np.nan])}
    before = {name: array.tobytes() for name, array in mine.items()}

    def loss():
        mine["w"][0] += 1
        return 1.0

    refuse("The loss changes the parameters", loss=loss, params=mine, grads=mine, in_place=True)
    assert {name: array.tobytes() for name, array in mine.items()} == before


@pytest.mark.parametrize("what", ["loss", "penalty"])
def test_two_values_for_the_same_parameters_are_refused(what):
    """An advancing batch is found by calling twice, and the message says both values."""
    values = iter([0.5, 0.75])
    functions = {"loss": squares, "penalty": squares, what: lambda w: next(values)}
    refuse(
        f"The {what} gave 0.5 and then 0.75 for the same parameters.*the iterator values.*one batch",
        error=NondeterministicLoss,
        **functions,
    )


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (3.0, "Parameter theta is 3.0 of type float, which cannot be changed in place"),
        ({"W": [1.0]}, "Parameter W.0 is 1.0"),
        ({"W": np.float64(1)}, "cannot be changed in place"),
        ({"W": np.broadcast_to(1.0, (2,))}, r"Parameter W is an array of float64, shape \(2,\), read-only"),
        ({"W": np.array([1, 2])}, "holds integers"),
    ],
)
def test_what_cannot_be_written_to_is_refused_in_place(params, said):
    """With in_place=True every parameter has to be a writable array of floating-point numbers."""
    refuse(said, loss=lambda: 0.0, params=params, in_place=True)


def test_read_only_arrays_are_fine_when_the_loss_takes_them():
    """Without in_place nothing is ever written to what was handed in."""
    frozen = W.copy()
    frozen.flags.writeable = False
    assert build_problem(squares, frozen, 2 * frozen).value == 5.0


@pytest.mark.parametrize("in_place", [False, True])
def test_a_function_is_called_twice_and_gets_copies(in_place):
    """Backward is asked twice, and whatever it does to its parameters stays its own business."""
    mine, calls = W.copy(), []

    def backward(w=mine):
        calls.append(w.copy())
        w[0] = 99.0
        return 2 * calls[-1]

    grads = (lambda: backward()) if in_place else backward
    problem = build_problem((lambda: squares(mine)) if in_place else squares, mine, grads, in_place=in_place)
    assert [call.tolist() for call in calls] == [W.tolist()] * 2
    assert mine.tolist() == W.tolist()
    assert problem.grads["theta"].tolist() == [2.0, 4.0]
    assert not any(parameter.issue for parameter in problem)
    assert problem.meter.gradients == 2


def test_accumulated_gradients_are_a_flaw():
    """A buffer that is added to and never zeroed gives another gradient at the second call; its clean twin does not."""
    buffer = np.zeros(2)

    def accumulating(w):
        buffer[:] += 2 * w
        return buffer

    assert build_problem(squares, W, accumulating)["theta"].issue.code == "not_repeatable"
    assert build_problem(squares, W, lambda w: 2 * w)["theta"].issue is None


@pytest.mark.parametrize(
    ("params", "grads", "precision"),
    [
        (np.float64, np.float64, np.finfo(np.float64).eps),
        (np.float32, np.float32, np.finfo(np.float32).eps),
        (np.float32, np.float64, np.finfo(np.float32).eps),
        (np.float64, np.float32, np.finfo(np.float32).eps),
    ],
)
def test_buffers_are_as_precise_as_the_coarsest_array(params, grads, precision):
    """Buffers in float64 that came from float32 weights are float32's."""
    assert build_problem(squares, W.astype(params), (2 * W).astype(grads)).precision == precision


def test_a_function_is_judged_in_float64():
    """A gradient function of float32 parameters is run in float64, where its code shows."""
    problem = build_problem(squares, W.astype(np.float32), lambda w: 2 * w)
    assert problem.precision == np.finfo(float).eps
    assert problem.point["theta"].dtype == np.float64


def test_every_message_has_three_beats():
    """What was seen, what it usually means, and what to try: each message ends with an advice."""
    for params in ({}, np.array([1]), "text"):
        with pytest.raises(InvalidProblem) as refused:
            build_problem(squares, params, W)
        assert re.search(r"Try [^.]+", str(refused.value))
