"""The problem: what is evaluated where, what it costs, and that the user's own arrays come back to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks import Verdict, central, check_gradients, complex_step
from gc_hooks.arrays.norms import root_mean_square
from gc_hooks.problem import Meter, as_number, parameter_scales, rebuild_params, written
from gc_hooks.problem.validate import build_problem

W = np.array([1.0, 2.0, 3.0])


def squares(w):
    return float(np.sum(w**2))


@pytest.mark.parametrize(
    ("limits", "exhausted"),
    [({}, False), ({"max_evaluations": 5}, True), ({"max_evaluations": 6}, False), ({"max_seconds": 0}, True)],
)
def test_meter_knows_when_a_limit_is_reached(limits, exhausted):
    """Either limit ends the measuring; without one there is none."""
    assert Meter(**limits, evaluations=5).exhausted is exhausted


def test_evaluations_of_the_loss_are_counted_and_those_of_a_penalty_are_not():
    """The meter counts what costs a forward pass; a penalty that is handed in apart costs next to nothing."""
    problem = build_problem(squares, W, 2 * W, penalty=squares)
    assert problem.meter.evaluations == 2
    problem.evaluate(0, {})
    problem.evaluate(1, {})
    assert problem.meter.evaluations == 3


def test_value_is_the_sum_of_the_terms():
    """The loss that is reported has its penalty in it."""
    assert build_problem(squares, W, W, penalty=lambda w: 0.5).value == 14.5


@pytest.mark.parametrize("in_place", [False, True])
def test_evaluate_replaces_some_parameters(in_place):
    """What is not changed stays at the point, and nothing stays changed."""
    mine = {"a": np.array([1.0, 2.0]), "b": np.array([3.0])}

    def loss(p=mine):
        return p["a"].sum() + 10 * p["b"].sum()

    problem = build_problem((lambda: loss()) if in_place else loss, mine, mine, in_place=in_place)
    assert problem.evaluate(0, {"b": np.array([5.0])}) == 53.0
    assert problem.evaluate(0, {}) == 33.0
    assert mine["b"] == [3.0]


@pytest.mark.parametrize("in_place", [False, True])
def test_at_another_point(in_place):
    """A moved problem evaluates loss and gradient over there, changes included, and leaves the user's arrays alone."""
    mine = W.copy()
    loss, grads = ((lambda: squares(mine)), (lambda: 2 * mine)) if in_place else (squares, lambda w: 2 * w)
    moved = build_problem(loss, mine, grads, in_place=in_place).at({"theta": np.array([1.0, 0.0, 0.0])})
    assert moved.value == 1.0
    assert moved.grads["theta"].tolist() == [2.0, 0.0, 0.0]
    assert moved.evaluate(0, {}) == 1.0
    assert mine.tolist() == W.tolist()


def test_at_another_point_without_a_function_there_is_no_gradient():
    """Buffers say nothing of other points, and no gradient is made up."""
    assert build_problem(squares, W, 2 * W).at({"theta": W + 1}).grads == {}
    assert build_problem(squares, W, lambda w: 2 * w).at({"theta": W + 1}, {}).grads == {}


@pytest.mark.parametrize(
    ("value", "number"), [(np.float32(0.5), 0.5), (np.ones((1, 1)), 1.0), (3, 3), ("text", "text"), (None, None)]
)
def test_as_number_unwraps_one_element(value, number):
    """One element becomes a Python number; whatever else comes is handed on for the message that names it."""
    assert as_number(value) == number
    assert not isinstance(as_number(value), (np.generic, np.ndarray))


def test_as_number_hands_on_several_elements():
    """An array of several elements is no number."""
    assert as_number(W) is W


def test_rebuild_params_gives_numbers_where_numbers_were():
    """A 0-dimensional array becomes a scalar inside the user's structure."""
    rebuilt = rebuild_params([0.0, (W,)], {"0": np.array(2.0), "1.0": W})
    assert isinstance(rebuilt[0], float)
    assert rebuilt[1][0] is W


HOSTILE = np.array([-0.0, np.nan, np.inf, 5e-324, 0.1])
VIEWS = {
    "whole": lambda: HOSTILE.copy(),
    "every other": lambda: np.repeat(HOSTILE, 2)[::2],
    "reversed": lambda: HOSTILE[::-1].copy()[::-1],
    "column": lambda: np.tile(HOSTILE, (3, 1)).T[:, 1],
    "Fortran": lambda: np.asfortranarray(np.tile(HOSTILE, (3, 1))),
    "float32": lambda: HOSTILE.astype(np.float32),
    "0-d": lambda: np.array(-0.0),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_written_arrays_are_restored_to_the_bit(make, error):
    """Negative zeros, NaN and neighbours in views come back, also when the evaluation is interrupted."""
    array = make()
    whole = array if array.base is None else array.base
    before = whole.tobytes()
    try:
        with written({"w": array}, {"w": np.full(array.shape, 7.0)}):
            assert (array == 7.0).all()
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error is not None
    assert whole.tobytes() == before


@pytest.mark.parametrize("make", [lambda: np.tile([1.0, -2.0], 3)[::2], lambda: np.asfortranarray(np.ones((2, 3)))])
@pytest.mark.parametrize("call", [3, 8, 30])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_check_that_is_interrupted_leaves_the_arrays_as_they_were(make, call, error):
    """An exception or Ctrl-C in the middle of an evaluation leaves the check, and every parameter is restored."""
    mine, calls = {"w": make(), "b": np.array([-0.0, 1.0])}, []
    before = {name: array.tobytes() for name, array in mine.items()}

    def loss():
        calls.append(1)
        if len(calls) >= call:  # a trace that raises is a refusal: the check goes on by slopes
            raise error
        return squares(mine["w"]) + squares(mine["b"])

    with pytest.raises(error):
        check_gradients(loss, mine, {name: 2 * array for name, array in mine.items()}, in_place=True)
    assert {name: array.tobytes() for name, array in mine.items()} == before


@pytest.mark.parametrize(
    ("array", "size"),
    [([3.0, -4.0], np.sqrt(12.5)), ([], 0.0), ([0.0], 0.0), ([1e200, 1e200], 1e200), ([1e-200], 1e-200)],
)
def test_root_mean_square(array, size):
    """The unit of a parameter, at any magnitude and in float64 whatever the array's type."""
    assert root_mean_square(np.array(array)) == pytest.approx(size, rel=1e-14)


def test_root_mean_square_of_half_precision_does_not_overflow():
    """Squares of half-precision numbers are taken in float64."""
    assert root_mean_square(np.full(3, 6e4, dtype=np.float16)) == pytest.approx(6e4, rel=1e-3)


@pytest.mark.parametrize(
    ("point", "scales"),
    [
        ({"a": [2.0, 2.0], "b": [0.0]}, {"a": 2.0, "b": 2.0}),
        ({"a": [3.0], "b": [4.0], "c": [0.0]}, {"a": 3.0, "b": 4.0, "c": np.sqrt(12.5)}),
        ({"a": [0.0]}, {"a": 1.0}),
        ({"a": [np.nan], "b": [np.inf], "c": [5.0]}, {"a": 5.0, "b": 5.0, "c": 5.0}),
    ],
)
def test_a_parameter_of_zeros_is_measured_in_the_unit_of_the_others(point, scales):
    """Biases start at zero, which is no unit of length; without any other the unit is 1."""
    point = {name: np.array(array) for name, array in point.items()}
    assert parameter_scales(point) == pytest.approx(scales)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1)])
@pytest.mark.parametrize(("factor", "size"), [(1.0, 1e-8), (2.0, 0.1)])
def test_a_bias_is_measured_in_the_same_unit_whatever_its_shape(shape, factor, size):
    """A row or a column of tiny numbers is a vector: its steps are as long as those of a plain one. The bias before a
    normalisation has no gradient; the one behind it is doubled, and its twin is right."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6)), rng.normal(size=(16, 7))
    p = {"w": rng.normal(size=(6, 7)), "b": 1e-12 * rng.normal(size=shape), "c": size * rng.normal(size=shape)}

    def run():
        z = x @ p["w"] + p["b"].reshape(1, 7)
        h = np.tanh(z - z.mean(0) + p["c"].reshape(1, 7))
        d = (h - y) * (1 - h**2)
        e = d - d.mean(0)
        grads = {"w": x.T @ e, "b": e.sum(0).reshape(shape), "c": factor * d.sum(0).reshape(shape)}
        return 0.5 * np.sum((h - y) ** 2), grads

    report = check_gradients(lambda: run()[0], p, run()[1], in_place=True)
    verdicts = {name: comparison.verdict for name, comparison in report.parameters.items()}
    assert verdicts == {"w": Verdict.GOOD, "b": Verdict.GOOD, "c": Verdict.GOOD if factor == 1.0 else Verdict.WORRY}


def test_a_loss_whose_domain_ends_nearby_is_checked_where_it_can_be():
    """What it raises outside of its domain is a value that is not finite there, told in the report; at the point itself
    the error is the caller's own."""

    def loss(w):
        if np.any(np.real(w) <= 0.8):
            raise ValueError("the logarithm of something negative")
        return np.sum(np.log(w - 0.8))

    point = np.array([1.0, 1.1, 0.9] * 10)
    for factor, verdict in ((1.0, Verdict.GOOD), (2.0, Verdict.WORRY)):
        report = check_gradients(loss, point, factor / (point - 0.8))
        assert (report.verdict, report.method, report.notes) == (verdict, "reference", ())  # which stays at the point
        for method in (complex_step, central):
            report = check_gradients(loss, point, factor / (point - 0.8), method=method)
            assert report.verdict is verdict
            assert verdict is Verdict.GOOD or "the logarithm of something negative at" in report.notes[-1]
    with pytest.raises(ValueError, match="the logarithm of something negative"):
        check_gradients(loss, np.zeros(3), np.zeros(3))
