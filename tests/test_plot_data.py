"""What a check keeps for the eye, and that no verdict depends on it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from gc_hooks import CheckReport, Verdict, central, check_gradients, complex_step, entries, joint
from gc_hooks.report.plots import SIDE, histogram, worst_of_cells
from gc_hooks.slopes.probes import automatic


class Network:
    """tanh, 20-30-5, mean squared error; a factor may be planted on the first weights' gradient."""

    def __init__(self, factor=1.0, wrong_entry=None):
        rng = np.random.default_rng(0)
        self.factor, self.wrong_entry = factor, wrong_entry
        self.x, self.y = rng.standard_normal((16, 20)), rng.standard_normal((16, 5))
        self.params = {
            "W1": 0.3 * rng.standard_normal((20, 30)),
            "b1": np.zeros(30),
            "W2": 0.3 * rng.standard_normal((30, 5)),
        }

    def loss(self, p):
        return 0.5 * np.mean(np.sum((np.tanh(self.x @ p["W1"] + p["b1"]) @ p["W2"] - self.y) ** 2, axis=1))

    def grads(self, p):
        hidden = np.tanh(self.x @ p["W1"] + p["b1"])
        delta = (hidden @ p["W2"] - self.y) / len(self.x)
        below = (delta @ p["W2"].T) * (1 - hidden**2)
        d_weights = self.factor * self.x.T @ below
        if self.wrong_entry:
            d_weights[self.wrong_entry] *= 1.5
        return {"W1": d_weights, "b1": below.sum(axis=0), "W2": hidden.T @ delta}

    def check(self, **options):
        return check_gradients(self.loss, self.params, self.grads, **options)


def without_pictures(report):
    """What is left of a report when the pictures and their cost are taken away."""
    bare = dataclasses.replace(report, pictures={}, curve=None, seconds=0.0, evaluations=0, complex_evaluations=0)
    return bare.to_json()


@pytest.mark.parametrize("method", [None, complex_step, central])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_pictures_change_no_verdict(method, factor):
    """The same report to the last digit with and without them, for a right and for a wrong gradient."""
    plain, drawn = (Network(factor).check(method=method, pictures=pictures) for pictures in (False, True))
    assert without_pictures(drawn) == without_pictures(plain)
    assert not plain.pictures
    assert drawn.evaluations > plain.evaluations


@pytest.mark.parametrize(("probes", "shown"), [(None, "entries"), (automatic, "directions")])
def test_a_passing_check_draws_for_two_dozen_evaluations(probes, shown):
    """One curve through all parameters; nothing else is measured that was not measured anyhow."""
    plain, drawn = (Network().check(probes=probes, pictures=pictures) for pictures in (False, True))
    assert drawn.evaluations - plain.evaluations <= 26
    assert set(drawn.pictures) == {"W1", "b1", "W2"}
    assert all(getattr(picture, shown) and picture.curve is None for picture in drawn.pictures.values())


def test_no_entry_is_measured_for_a_picture_where_all_are_known():
    """Two curves, the one through the failing parameter with it, and every entry of its gradient."""
    plain, drawn = (Network(factor=2.0).check(pictures=pictures) for pictures in (False, True))
    assert drawn.method == "reference"
    assert drawn.evaluations - plain.evaluations <= 2 * 26
    assert len(drawn.pictures["W1"].entries) == 600


def test_a_good_periodic_check_draws_nothing():
    """What is made every hundred steps stays as cheap as it is."""
    plain, drawn = (Network().check(probes=joint, pictures=pictures) for pictures in (False, True))
    assert (drawn.evaluations, drawn.pictures, drawn.curve) == (plain.evaluations, {}, None)


@pytest.mark.parametrize("method", [None, complex_step, central])
def test_a_failing_parameter_is_shown_all_over(method):
    """Some 256 entries from one end to the other, each with what backprop says, how far it is off, and the bar."""
    network = Network(factor=2.0)
    picture = network.check(method=method, pictures=True).pictures["W1"]
    true = Network().grads(network.params)["W1"].reshape(-1)
    positions = [int(row[0]) for row in picture.entries]
    assert len(positions) == len(set(positions)) > 250
    assert positions == sorted(positions)
    assert np.max(np.diff(positions)) < 12
    for position, backprop, away, error in picture.entries:
        assert backprop == pytest.approx(2 * true[position], rel=1e-6)
        assert away == pytest.approx(true[position], rel=1e-5, abs=2 * error)


def test_a_single_wrong_entry_is_in_the_picture():
    """It is the one that is off; the others are shown to be right."""
    picture = Network(wrong_entry=(7, 11)).check(pictures=True).pictures["W1"]
    off = [row[0] for row in picture.entries if abs(row[2]) > 1e-6 * abs(row[1])]
    assert off == [7 * 30 + 11]


def test_limits_hold_for_pictures_too():
    """No evaluation is made beyond the check's own limit."""
    report = Network(factor=2.0).check(max_evaluations=60, pictures=True)
    assert report.evaluations <= 60


def test_pictures_take_no_longer_than_the_check(monkeypatch):
    """Where the loss is slow, failing parameters are drawn with what was measured anyhow."""
    network = Network(factor=2.0)
    monkeypatch.setattr("gc_hooks.verdicts.plot_data.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("gc_hooks.problem.Meter.seconds", 1e9)  # stands still: the deadline is never reached
    assert len(network.check(probes=automatic, pictures=True).pictures["W1"].entries) > 250
    ticks = iter(2.0**k for k in range(1000))
    monkeypatch.setattr("gc_hooks.problem.Meter.seconds", property(lambda meter: next(ticks)))
    assert len(network.check(probes=automatic, pictures=True).pictures["W1"].entries) < 30


def test_the_curve_is_a_v_with_backprop_beside_it():
    """Truncation to one side, rounding to the other; a right gradient lies below it and a wrong one above."""
    good, wrong = (Network(factor).check(pictures=True) for factor in (1.0, 2.0))
    errors = good.curve.errors
    lowest = int(np.argmin(errors))
    assert 2 < lowest < len(errors) - 3
    assert errors[0] > 1e4 * errors[lowest] < errors[-1]
    assert good.curve.backprop < 1e-12
    assert wrong.pictures["W1"].curve.backprop == pytest.approx(1.0)
    assert wrong.pictures["b1"].curve is None


def test_the_chosen_step_is_marked_where_there_is_one():
    """Central differences choose one near the bottom of the V; complex step has none."""
    by_steps, by_complex_step = (Network().check(method=m, pictures=True).curve for m in (central, complex_step))
    bottom = by_steps.steps[int(np.argmin(by_steps.errors))]
    assert bottom / 100 < by_steps.chosen < 100 * bottom
    assert math.isnan(by_complex_step.chosen)
    assert 1e-17 < by_steps.noise < 1e-14


def test_a_loss_that_is_not_finite_draws_nothing():
    """There is nothing to measure, and no error."""
    report = check_gradients(lambda w: np.sum(w) * np.nan, np.ones(3), np.ones(3), pictures=True)
    assert (report.verdict, report.pictures, report.curve) == (Verdict.INCONCLUSIVE, {}, None)


def test_a_loss_that_raises_away_from_the_point_costs_no_verdict():
    """The large steps of the curve may leave the domain of the loss: they are left out, and the check stands."""

    def loss(w):
        if np.any(np.real(w) <= 0.8):
            raise ValueError("outside of the domain")
        return np.sum(np.log(w - 0.8))

    point = np.array([1.0, 1.1, 0.9] * 10)
    for factor, verdict in ((1.0, Verdict.GOOD), (2.0, Verdict.WORRY)):
        report = check_gradients(loss, point, lambda w, factor=factor: factor / (w - 0.8), pictures=True)
        assert report.verdict is verdict
        assert math.isnan(report.curve.errors[0])
        assert min(report.curve.errors[3:]) < 1e-6


def test_flat_and_empty_parameters_draw_what_there_is():
    """No slope, no curve; no entries, no histogram."""
    report = check_gradients(
        lambda p: 0.0 * np.sum(p["w"]),
        {"w": np.ones(3), "none": np.ones((0, 2))},
        {"w": np.zeros(3), "none": np.ones((0, 2))},
        pictures=True,
    )
    assert report.curve is None
    assert report.pictures["none"].weights == ()
    assert report.pictures["w"].weights == (3,)


def test_reports_with_pictures_survive_json():
    """Every figure comes back as it was, and an old report without pictures is read."""
    for factor in (1.0, 2.0):
        report = Network(factor).check(pictures=True, probes=entries)
        assert repr(CheckReport.from_json(report.to_json())) == repr(report)
    assert CheckReport.from_json('{"schema": 1, "parameters": {}, "diagnoses": []}').pictures == {}


def test_of_a_large_parameter_the_worst_of_each_cell_is_kept():
    """A picture holds 64 x 64 entries at most, and the single wrong one is always among them."""
    shape = (100, 130)
    positions = np.arange(math.prod(shape))
    away = np.zeros(len(positions))
    away[77 * 130 + 99] = 1.0
    kept = worst_of_cells(positions, away, shape)
    assert len(kept) == SIDE * SIDE
    assert 77 * 130 + 99 in kept
    assert len(worst_of_cells(positions, away, (len(positions),))) <= SIDE * SIDE


def test_histograms_leave_out_what_is_not_finite():
    """NaN and infinity have no bin; an array of nothing else has no histogram; one value is one bin."""
    counts, low, high = histogram(np.array([1.0, np.nan, np.inf, 2.0]))
    assert (sum(counts), low, high) == (2, 1.0, 2.0)
    assert histogram(np.array([np.nan]))[0] == ()
    assert histogram(np.full(5, 3.0)) == ((5,), 3.0, 3.0)
    assert 50_000 < sum(histogram(np.random.default_rng(0).standard_normal(150_000))[0]) <= 100_000
