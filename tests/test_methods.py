"""How slopes and noise are measured: values lie within their error bars, and the bars are no wider than need be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_hooks import InvalidProblem, central, complex_step, fixed_step
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.methods import Curve, Estimate
from gc_hooks.slopes.noise import measure_noise

SMOOTH = {
    "sin": (np.sin, np.cos),
    "exp": (np.exp, np.exp),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "runge": (lambda x: 1 / (1 + 25 * x**2), lambda x: -50 * x / (1 + 25 * x**2) ** 2),
    "softplus": (lambda x: np.log(1 + np.exp(x)), lambda x: 1 / (1 + np.exp(-x))),
    "wave": (lambda x: np.sin(20 * x) / 20, lambda x: np.cos(20 * x)),
    "tiny": (lambda x: 1e-6 * np.sin(x), lambda x: 1e-6 * np.cos(x)),
    "huge": (lambda x: 1e6 * np.sin(x), lambda x: 1e6 * np.cos(x)),
    "on a hill": (lambda x: 1e3 + np.sin(x), np.cos),
    "linear": (lambda x: 3 * x - 2, lambda x: 3.0),
    "constant": (lambda x: 2.0 + 0 * x, lambda x: 0.0),
}
STARTS = np.random.default_rng(0).normal(size=25)
smooth = pytest.mark.parametrize(("function", "slope"), SMOOTH.values(), ids=SMOOTH.keys())


def single(function):
    """The function as arithmetic in float32 gives it."""
    return lambda x: float(np.float32(function(np.float32(x))))


def rounded(function):
    """The function, its value rounded to float32: it moves in jumps."""
    return lambda x: float(np.float32(function(x)))


def noise_of(function, start):
    """The noise as a check measures it: in a unit that is no power of two, and infinite where nothing is known."""
    noise = measure_noise(Curve(lambda t: function(start + 0.7310585786 * t)))
    return math.inf if math.isnan(noise) else noise


def covers(estimate, truth):
    return abs(estimate.value - truth) <= estimate.error


@smooth
@pytest.mark.parametrize("method", [central, complex_step, fixed_step(1e-7), fixed_step(1e-4)])
def test_the_true_slope_lies_within_the_bar(method, function, slope):
    """Whatever the function, its magnitude and the place, the error bar is a bound."""
    for start in STARTS:
        assert covers(method(Curve(function, start)), slope(start))


@smooth
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_central_covers_in_any_unit(function, slope, scale):
    """The unit that a parameter brings along may be a bad one; the bar is still a bound."""
    for start in STARTS:
        assert covers(central(Curve(function, start), scale=scale, noise=noise_of(function, start)), slope(start))


@pytest.mark.parametrize("name", ["sin", "exp", "tanh", "cube", "softplus", "tiny", "huge", "linear"])
def test_central_is_far_better_than_a_fixed_step(name):
    """For well-behaved functions nine digits are certain, where a fixed step of 1e-7 knows seven."""
    function, slope = SMOOTH[name]
    for start in STARTS:
        assert central(Curve(function, start)).error < 1e-9 * max(abs(slope(start)), abs(function(start)))


@smooth
def test_complex_step_is_exact_to_rounding(function, slope):
    """One complex evaluation is as accurate as the derivative written down by hand."""
    for start in STARTS:
        estimate = complex_step(Curve(function, start))
        assert estimate.value == pytest.approx(slope(start), rel=1e-13, abs=1e-20)
        assert estimate.evaluations == 1


@pytest.mark.parametrize("function", [np.abs, lambda x: x.real**2, lambda x: np.float64(abs(x))])
def test_complex_step_alone_is_blind_to_what_is_not_analytic(function):
    """Absolute values lose the imaginary part silently: the reason why this method is put to the test first."""
    assert complex_step(Curve(function, 1.5)).value == 0.0
    assert central(Curve(function, 1.5)).value != 0.0


@pytest.mark.parametrize("function", [lambda x: np.log(x - x), lambda x: complex(math.nan), lambda x: 1j * math.inf])
def test_complex_step_reports_what_is_not_finite(function):
    """NaN and infinity have no slope, and no bar that covers it."""
    with np.errstate(all="ignore"):
        estimate = complex_step(Curve(lambda x: function(x) if isinstance(x, complex) else 1.0, 1.0))
    assert estimate.status is Status.NONFINITE
    assert estimate.error == math.inf


@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7, 2.0**-20])
def test_fixed_step_is_the_formula_to_the_letter(step):
    """(J(theta + h) - J(theta - h)) / 2h, bit for bit, whatever the unit."""
    for start in STARTS:
        expected = (math.sin(start + step) - math.sin(start - step)) / (2 * step)
        estimate = fixed_step(step)(Curve(math.sin, start), scale=17.0)
        assert (estimate.value, estimate.step, estimate.evaluations) == (expected, step, 2)


@pytest.mark.parametrize("step", [0, -1e-7, math.inf, math.nan, "1e-7", None, 1e-7j])
def test_fixed_step_refuses_what_is_no_step(step):
    """A step is a positive number, and the message says which one to try."""
    with pytest.raises(InvalidProblem, match="Try 1e-7"):
        fixed_step(step)


def test_fixed_step_says_its_step():
    """The name of the method is what the report states."""
    assert repr(fixed_step(1e-5)) == "fixed_step(1e-05)"


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (lambda x: x, Status.OK),
        (lambda x: 1e9 + 1e-6 * x, Status.NOISY),
        (lambda x: math.nan, Status.NONFINITE),
        (lambda x: math.inf, Status.NONFINITE),
    ],
)
def test_fixed_step_has_a_status(function, status):
    """A slope that drowns in rounding is noisy, and one of NaN is none."""
    assert fixed_step(1e-7)(Curve(function, 1.0)).status is status


@pytest.mark.parametrize("away", [10.0**-k for k in range(1, 10)])
@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("jump", [3.0, -0.1])
def test_a_kink_inside_the_step_widens_the_bar(away, side, jump):
    """A ReLU that switches next to the point spoils large steps; the bar covers the slope on the point's own side."""
    kink = 0.3 + side * away
    estimate = central(Curve(lambda x: np.sin(x) + jump * np.maximum(x - kink, 0), 0.3))
    assert covers(estimate, np.cos(0.3) + (jump if side < 0 else 0))


@pytest.mark.parametrize(
    ("function", "left", "right"),
    [
        (lambda x: 1 + np.abs(x), -1.0, 1.0),
        (lambda x: 1 + np.maximum(x, 0), 0.0, 1.0),
        (lambda x: 1 + np.where(x > 0, x, 0.1 * x), 0.1, 1.0),
        (lambda x: 1 + np.sin(x) + 1e-3 * np.abs(x), 1 - 1e-3, 1 + 1e-3),
        (lambda x: 5 + x + np.maximum(0, x) ** 2 + np.maximum(-x, 0), 0.0, 1.0),
    ],
)
def test_a_kink_at_the_point_is_seen_and_covers_both_sides(function, left, right):
    """Where the slopes to the left and to the right differ, the status says so and either lies within the bar."""
    estimate = central(Curve(function, 0.0))
    assert estimate.status is Status.KINK
    assert covers(estimate, left)
    assert covers(estimate, right)


@smooth
def test_a_smooth_function_is_no_kink(function, slope):
    """Curvature is not taken for a kink."""
    assert {central(Curve(function, start)).status for start in STARTS} <= {Status.OK, Status.NOISY}


@pytest.mark.parametrize("name", ["sin", "exp", "cube", "softplus", "on a hill", "linear", "tiny"])
@pytest.mark.parametrize("precision", [single, rounded])
def test_a_loss_in_float32_widens_the_bar(name, precision):
    """Where the loss computes in float32 on the way, its measured noise goes into the bar, which still is a bound."""
    function, slope = SMOOTH[name]
    for start in STARTS:
        line = Curve(precision(function), start)
        assert covers(central(line, scale=1.1, noise=noise_of(line.function, start)), slope(start))


def test_jumps_are_seen_on_the_way_down():
    """A loss that moves in jumps and whose noise nobody measured: a rung without any change gives it away."""
    line = Curve(lambda x: round(math.sin(x), 7), 0.3)
    assert covers(central(line), math.cos(0.3))


@pytest.mark.parametrize("limit", [0.3, 1e-2, 1e-4, 1e-6])
def test_steps_that_leave_the_domain_are_passed_over(limit):
    """Next to the edge of a logarithm's domain the larger steps give NaN; smaller ones measure the slope."""
    with np.errstate(all="ignore"):
        estimate = central(Curve(np.log, limit))
    assert estimate.status is not Status.NONFINITE
    assert covers(estimate, 1 / limit)


@pytest.mark.parametrize("function", [lambda x: math.nan, lambda x: math.inf, lambda x: 1.0 if x == 0 else math.nan])
def test_central_gives_up_where_nothing_is_finite(function):
    """No finite value next to the point: no slope, an infinite bar, and at most 18 evaluations spent."""
    estimate = central(Curve(function))
    assert (estimate.status, estimate.error) == (Status.NONFINITE, math.inf)
    assert math.isnan(estimate.value)
    assert estimate.evaluations <= 18


def test_a_step_that_is_lost_in_rounding_is_no_slope():
    """Where start + t is start, nothing is divided by zero."""
    assert central(Curve(lambda x: 1.0, 1e20)).status is Status.NONFINITE


@smooth
def test_central_spends_what_it_says(function, slope):
    """Two evaluations a rung, 18 at most, and each is counted."""
    for start in STARTS:
        calls = []
        estimate = central(Curve(lambda x, calls=calls: (calls.append(x), function(x))[1], start))
        spent = [x for x in calls if x != start]
        assert estimate.evaluations == len(spent) <= 18


def test_central_in_pure_noise_says_so():
    """A slope far below the noise is called noisy, with a bar that covers it."""
    rng = np.random.default_rng(0)
    estimate = central(Curve(lambda x: 1.0 + 1e-6 * x + 1e-4 * rng.standard_normal(), 1.0), noise=1e-4)
    assert estimate.status is Status.NOISY
    assert covers(estimate, 1e-6)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(-1e3, 1e3), st.floats(0, 1e3), st.sampled_from(list(Status)))
def test_estimates_add_up(a, u, b, v, status):
    """The slope of a sum is the sum of the slopes, its bar that of the bars, its status the worse one."""
    first, second = Estimate(a, u, 0.1, 3), Estimate(b, v, 0.2, 4, status)
    for total in (first + second, second + first):
        assert (total.value, total.error, total.evaluations, total.status) == (a + b, u + v, 7, status)


@pytest.mark.parametrize("sigma", [1e-9, 1e-6, 1e-3])
def test_noise_is_measured(sigma):
    """The standard deviation of added noise is found within a factor of three, nine times in ten."""
    rng = np.random.default_rng(0)
    found = [
        measure_noise(Curve(lambda x: np.sin(x) + sigma * rng.standard_normal(), start)) / sigma for start in STARTS
    ]
    assert np.mean([1 / 3 < ratio < 3 for ratio in found]) >= 0.9


@pytest.mark.parametrize(("function", "slope"), [SMOOTH[name] for name in SMOOTH if name != "constant"])
def test_a_smooth_function_has_the_noise_of_rounding(function, slope):
    """Without added noise what is measured is some roundings of the value."""
    for start in STARTS:
        line = Curve(function, start)
        size = max(abs(line.value), abs(slope(start)))
        assert 0.3 * 2.0**-52 * abs(line.value) <= measure_noise(line) <= 50 * 2.0**-52 * size


@pytest.mark.parametrize("function", [lambda x: 3.0, lambda x: math.nan, lambda x: math.inf, lambda x: np.log(x - x)])
def test_nothing_is_known_of_the_noise_of_a_flat_loss(function):
    """A loss that does not change at all, or is not finite, has no noise that could be measured: NaN, not zero."""
    with np.errstate(all="ignore"):
        assert math.isnan(measure_noise(Curve(function, 0.5)))


def test_noise_of_a_quantised_loss_is_at_least_its_quantum():
    """A loss that moves in jumps is at least as noisy as one jump."""
    assert measure_noise(Curve(lambda x: round(x * 1e6) / 1e6, 0.3), precision=1e-9) >= 0.99e-6


@pytest.mark.parametrize("function", [lambda x: np.float32(x), lambda x: np.float32(np.exp(x)), lambda x: round(x, 8)])
def test_rounding_that_hits_the_grid_is_seen_all_the_same(function):
    """Where a step along the line is just a whole number of the units in which the loss is rounded, a table of
    differences is empty; the noise is that of the rounding nevertheless."""
    for start in (0.5, 0.947081, 1.0, -0.25):
        value = float(function(start))
        unit = 1e-8 if isinstance(function(start), float) else float(np.spacing(np.float32(abs(value))))
        assert measure_noise(Curve(lambda x: float(function(x)), start)) >= 0.29 * unit


def test_noise_of_one_term_hides_behind_the_other():
    """A loss in float32 with a penalty in float64: small steps are lost on the first term, and none is believed."""
    wrong = []
    for start in STARTS:
        line = Curve(lambda x: float(np.float32(np.sin(x))) + 0.05 * x * x, start)
        estimate = central(line, scale=1.1, noise=noise_of(line.function, start))
        wrong.append(not covers(estimate, math.cos(start) + 0.1 * start))
    assert not any(wrong)


def test_noise_of_a_smooth_loss_costs_eight_evaluations():
    """Four evaluations to either side; the value at the point is known."""
    calls = []
    measure_noise(Curve(lambda x: (calls.append(x), np.sin(x))[1], 0.5))
    assert sum(x != 0.5 for x in calls) == 8
