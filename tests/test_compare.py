"""Differences, error bars and verdicts."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gc_hooks import InvalidProblem, Status, Tolerance, Verdict, check_gradients
from gc_hooks.problem.validate import build_problem
from gc_hooks.report.comparison import Basis
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Estimate
from gc_hooks.slopes.probes import Entry
from gc_hooks.verdicts.compare import compare, whole_norm
from gc_hooks.verdicts.summary import overall_difference, penalty_share

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
NUMBERS = st.floats(-1e3, 1e3)


def test_verdicts_are_ordered_from_good_to_bad():
    """The worst of several verdicts is their maximum, and each prints as its name."""
    assert GOOD < INCONCLUSIVE < DOUBLE_CHECK < WORRY
    assert [str(verdict) for verdict in Verdict] == ["GOOD", "INCONCLUSIVE", "DOUBLE_CHECK", "WORRY"]


@pytest.mark.parametrize(
    "bands",
    [
        {"good": 0},
        {"good": -1e-7},
        {"good": 1e-4},
        {"certain": 1e-8},
        {"certain": 1e-2},
        {"worry": 1e-6},
        {"worry": 1.0},
        {"worry": 2.0},
        {"good": math.nan},
        {"worry": math.inf},
    ],
)
def test_bands_out_of_order_are_refused(bands):
    """0 < good <= certain <= worry < 1, or a message that says so."""
    with pytest.raises(InvalidProblem, match="0 < good <= certain <= worry < 1"):
        Tolerance(**bands)


@pytest.mark.parametrize("bands", [{}, {"good": 1e-5}, {"certain": 1e-7}, {"worry": 1e-5}, {"good": 1e-9}])
def test_bands_may_touch(bands):
    """Neighbouring bands may coincide."""
    assert Tolerance(**bands).good <= Tolerance(**bands).worry


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [
        (0.0, 0.0, GOOD),
        (1e-7, 0.0, GOOD),
        (1.01e-7, 0.0, DOUBLE_CHECK),
        (9e-4, 1e-5, DOUBLE_CHECK),
        (1e-3, 1e-5, WORRY),
        (1.0, 0.0, WORRY),
        (0.0, 1e-5, GOOD),
        (0.0, 1.1e-5, INCONCLUSIVE),
        (5e-6, 6e-6, INCONCLUSIVE),
        (4e-6, 6e-6, GOOD),
        (1e-3, 1e-3, INCONCLUSIVE),
        (2e-3, 1e-3, WORRY),
        (1.0, 1.0, INCONCLUSIVE),
        (math.nan, 0.0, INCONCLUSIVE),
        (0.0, math.nan, INCONCLUSIVE),
        (0.0, math.inf, INCONCLUSIVE),
        (math.nan, math.nan, INCONCLUSIVE),
        (math.inf, 0.0, WORRY),
    ],
)
def test_the_rule_of_the_bands(difference, error, verdict):
    """Certainly above good is accused, certainly below certain is good, and what cannot be told is said to be so."""
    assert Tolerance().judge(difference, error) is verdict


@given(st.floats(0, 1) | st.just(math.nan), st.floats(0, 2) | st.just(math.nan))
def test_a_wider_bar_never_turns_good_into_bad_or_bad_into_good(difference, error):
    """More uncertainty leads to INCONCLUSIVE and nowhere else; NaN is never good."""
    sharp, vague = Tolerance().judge(difference, 0.0), Tolerance().judge(difference, error)
    assert vague in (sharp, INCONCLUSIVE) or (sharp is DOUBLE_CHECK and vague is GOOD and difference <= 1e-5)
    assert not (vague is GOOD and (math.isnan(difference) or math.isnan(error)))


@given(*[arrays(float, 3, elements=NUMBERS) for _ in range(3)], st.floats(1e-9, 10))
def test_the_bar_of_the_ratio_covers_whatever_the_slopes_may_be(grad, slopes, shift, bar):
    """Wherever the true slopes lie within their bar, the ratio lies within its own."""
    size = np.linalg.norm(shift)
    true = slopes + (shift / size * bar * 0.999 if size > 1e-100 else 0)
    comparison = judged({"w": grad}, {"w": slopes}, bar)[2]["w"]
    total = np.linalg.norm(grad) + np.linalg.norm(true)
    if total == 0 or comparison.note:
        return
    ratio = np.linalg.norm(grad - true) / total
    assert 0 <= comparison.difference <= 1
    assert comparison.at_least - 1e-12 <= ratio <= comparison.difference + comparison.error + 1e-12


def judged(grads, slopes, errors=1e-12, *, tolerance=None, loss=1.0, seen=True, shares=0.0, status=Status.OK):
    """Comparisons of gradients with made-up measurements."""
    point = {name: np.ones(np.shape(slope)) for name, slope in slopes.items()}
    problem = build_problem(lambda p: loss, point, {name: np.asarray(grad) for name, grad in grads.items()})
    measurements = Measurements.empty(problem)
    for name in measurements.parameters:
        looked_at = np.broadcast_to(seen, np.shape(slopes[name])).reshape(-1)
        for index, slope in enumerate(np.ravel(slopes[name])):
            if looked_at[index]:
                estimate = Estimate(float(slope), errors, 1e-3, 1, status)
                measurements.add(problem, Entry(name, index, 1.0), estimate, shares)
    with np.errstate(all="ignore"):  # as in a check
        return problem, measurements, compare(problem, measurements, tolerance or Tolerance())


@pytest.mark.parametrize(
    ("grad", "verdict", "wrong"),
    [
        ([1.0, 2.0], GOOD, 0),
        ([1.0, 2.0 + 1e-6], DOUBLE_CHECK, 1),
        ([1.0, 4.0], WORRY, 1),
        ([2.0, 4.0], WORRY, 2),
        ([-1.0, -2.0], WORRY, 2),
        ([0.0, 0.0], WORRY, 2),
    ],
)
def test_a_parameter_is_judged_and_its_wrong_entries_are_counted(grad, verdict, wrong):
    """The verdict is that of the whole array, ``wrong`` the number of entries that certainly differ."""
    comparison = judged({"w": grad}, {"w": [1.0, 2.0]})[2]["w"]
    assert (comparison.verdict, comparison.wrong) == (verdict, wrong)
    assert (comparison.basis, comparison.exact, comparison.measured) == (Basis.EXACT, True, 2)


def test_the_worst_entries_come_first():
    """At most five entries, those that differ most, with index, both slopes and the bar."""
    slopes = np.zeros((3, 4))
    grad = slopes.copy()
    grad[2, 1], grad[0, 3], grad[1, 1] = 5.0, -7.0, 1.0
    worst = judged({"w": grad}, {"w": slopes})[2]["w"].worst
    assert [entry.index for entry in worst] == [(0, 3), (2, 1), (1, 1)]
    assert (worst[0].backprop, worst[0].measured, worst[0].error) == (-7.0, 0.0, 1e-12)
    assert len(judged({"w": np.ones(9)}, {"w": np.zeros(9)})[2]["w"].worst) == 5
    assert judged({"w": [0.0]}, {"w": [0.0]})[2]["w"].worst == ()


@pytest.mark.parametrize("error", [1e-15, 1e-9, 1e-6, 1e-4])
def test_sensitivity_is_the_smallest_error_that_would_have_been_seen(error):
    """A relative error a little above the stated sensitivity is accused at the same bar."""
    comparison = judged({"w": [1.0]}, {"w": [1.0]}, error)[2]["w"]
    assert comparison.sensitivity > 1e-7
    factor = 1 + 1.1 * comparison.sensitivity
    assert judged({"w": [factor]}, {"w": [1.0]}, error)[2]["w"].verdict > INCONCLUSIVE
    assert judged({"w": [1 + 1e-8]}, {"w": [1.0]}, error)[2]["w"].verdict <= INCONCLUSIVE


def test_a_bar_without_end_sees_nothing():
    """Where nothing could be measured, no error would have been seen."""
    comparison = judged({"w": [1.0]}, {"w": [1.0]}, math.inf)[2]["w"]
    assert (comparison.verdict, comparison.sensitivity) == (INCONCLUSIVE, math.inf)


@pytest.mark.parametrize(
    ("grad", "slope", "error", "verdict", "note"),
    [
        (0.0, 0.0, 1e-9, GOOD, "no gradient"),
        (1e-15, 0.0, 1e-9, GOOD, "no gradient"),
        (1e-15, 1e-10, 1e-9, GOOD, "no gradient"),
        (0.0, 0.0, 1e-3, INCONCLUSIVE, "no gradient, but the error of the measurement is too large to be sure"),
        (1e-3, 0.0, 1e-9, WORRY, ""),
        (0.0, 1e-3, 1e-9, WORRY, ""),
        (0.0, 1e-5, 1e-9, WORRY, ""),
    ],
)
def test_a_vanishing_gradient_is_judged_against_the_whole_one(grad, slope, error, verdict, note):
    """A bias in front of batch norm: zero on both sides, within rounding of the other gradients, is good."""
    comparison = judged({"b": [grad], "w": [1.0]}, {"b": [slope], "w": [1.0]}, error)[2]["b"]
    assert (comparison.verdict, comparison.note) == (verdict, note)


def test_all_zero_is_good():
    """Where both gradients vanish everywhere there is nothing wrong, and it is said."""
    comparison = judged({"w": [0.0]}, {"w": [0.0]}, math.inf)[2]["w"]
    assert (comparison.verdict, comparison.difference, comparison.note) == (GOOD, 0.0, "no gradient")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_inconclusive_with_its_value(loss):
    """The value of the loss is the note; no number is made up."""
    comparison = judged({"w": [1.0]}, {"w": [1.0]}, loss=loss)[2]["w"]
    assert comparison.verdict is INCONCLUSIVE
    assert comparison.note.startswith(f"the loss is {loss}, although all parameters are finite: look for log(0)")
    assert math.isnan(comparison.difference)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_whose_side_is_not_finite_decides(bad):
    """Only backprop's side: WORRY on that parameter alone. The measured side, or both: INCONCLUSIVE. Never good."""
    one = judged({"w": [bad, 1.0], "b": [1.0]}, {"w": [1.0, 1.0], "b": [1.0]})[2]
    assert (one["w"].verdict, one["b"].verdict) == (WORRY, GOOD)
    assert "backprop's gradient is not finite" in one["w"].note
    for grad in (bad, 1.0):
        assert judged({"w": [grad]}, {"w": [bad]})[2]["w"].verdict is INCONCLUSIVE


@pytest.mark.parametrize(("grad", "verdict"), [(1.0, INCONCLUSIVE), (2.0, WORRY)])
def test_what_was_not_looked_at_is_never_good(grad, verdict):
    """Half of the entries measured: good becomes inconclusive, wrong stays wrong, and the note says how many."""
    comparison = judged({"w": [grad, 1.0]}, {"w": [1.0, math.nan]}, seen=[True, False])[2]["w"]
    assert (comparison.verdict, comparison.exact, comparison.measured) == (verdict, False, 1)
    assert comparison.note == "1 of 2 entries measured: the budget was spent"


def test_nothing_measured_is_inconclusive():
    """Without a single entry there is no difference to state."""
    comparison = judged({"w": [1.0]}, {"w": [math.nan]}, seen=False)[2]["w"]
    assert (comparison.verdict, comparison.note) == (INCONCLUSIVE, "not measured: the budget was spent before")


def test_no_entries_are_good():
    """An empty array has nothing that could be wrong, whatever the budget."""
    slopes = {"w": np.zeros((0, 3)), "b": np.ones(1)}
    comparison = judged(slopes, slopes)[2]["w"]
    assert (comparison.verdict, comparison.note, comparison.exact) == (GOOD, "no entries", True)


def test_a_gradient_that_cannot_be_compared_is_worry():
    """A missing gradient is a finding on its parameter; the order of the parameters is the user's."""
    comparisons = judged({"b": [1.0]}, {"w": [1.0], "b": [1.0]})[2]
    assert list(comparisons) == ["w", "b"]
    assert (comparisons["w"].verdict, comparisons["b"].verdict) == (WORRY, GOOD)
    assert comparisons["w"].note.startswith("no gradient was handed in for w")
    assert math.isnan(comparisons["w"].difference)


def test_a_small_bias_is_not_diluted_by_a_large_matrix():
    """The verdict is per parameter; the overall ratio alone would have passed."""
    _, _, comparisons = judged({"W": np.ones(9), "b": [2e-9]}, {"W": np.ones(9), "b": [1e-9]}, 1e-20)
    assert comparisons["b"].verdict is WORRY
    assert overall_difference(comparisons)[0] < 1e-7


def test_the_overall_difference_is_the_classic_ratio():
    """||g - n|| / (||g|| + ||n||) over all parameters at once; NaN where nothing was measured."""
    problem, measured, comparisons = judged({"W": [3.0, 0.0], "b": [4.0]}, {"W": [0.0, 0.0], "b": [4.0]}, 0.0)
    assert overall_difference(comparisons) == pytest.approx((3 / 9, 0.0))
    assert all(map(math.isnan, overall_difference({})))
    assert whole_norm(problem, measured) == pytest.approx(5.0)


@pytest.mark.parametrize("error", [1e-9, 1e-3, 0.5])
def test_the_bar_of_the_overall_difference_is_no_smaller_than_the_parameters(error):
    """With a single parameter the two bars agree; NaN and infinity are left to the verdicts."""
    _, _, comparisons = judged({"w": [1.0, 2.0]}, {"w": [1.0, 2.0]}, error)
    assert overall_difference(comparisons)[1] >= 0.99 * comparisons["w"].error


def test_the_penaltys_share_is_a_ratio_of_norms():
    """What the penalty contributes, per parameter and over all; without any slope it is unknown."""
    _, _, comparisons = judged({"W": [3.0], "b": [4.0]}, {"W": [3.0], "b": [4.0]}, shares=0.5)
    assert comparisons["W"].penalty_share == pytest.approx(0.5 / 3)
    assert penalty_share(comparisons) == pytest.approx(math.sqrt(0.5) / 5)
    assert math.isnan(penalty_share(judged({"W": [0.0]}, {"W": [0.0]})[2]))


def test_notes_add_up():
    """A note is added to those that are there, and the verdict stays unless another one is given."""
    comparison = judged({"w": [1.0]}, {"w": [1.0]})[2]["w"].noted("first")
    assert comparison.noted("second").note == "first; second"
    assert comparison.noted("second").verdict is GOOD
    assert comparison.noted("second", WORRY).verdict is WORRY


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-30, 1.0, 1e30, 1e150])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, GOOD), (2.0, WORRY), (1 + 3e-6, DOUBLE_CHECK)])
def test_verdicts_do_not_depend_on_the_unit_of_the_loss(size, factor, verdict):
    """A loss in tiny or huge units is judged like any other, neither overflowing nor taken for zero."""
    w = np.array([0.5, -1.5])
    report = check_gradients(lambda w: size * np.sum(w**2), w, factor * 2 * size * w)
    assert report.verdict is verdict


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([Status.OK], Status.OK),
        ([Status.OK, Status.NOISY], Status.NOISY),
        ([Status.KINK, Status.NOISY], Status.KINK),
        ([Status.KINK, Status.NONFINITE], Status.NONFINITE),
    ],
)
def test_the_worst_status_is_kept(statuses, status):
    """What went wrong with a single entry is what the parameter says."""
    problem, measurements, _ = judged({"w": [1.0]}, {"w": [1.0]})
    measurements.parameters["w"].statuses = Counter(statuses)
    assert compare(problem, measurements, Tolerance())["w"].status is status
