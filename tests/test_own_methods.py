"""A method of one's own: as safe as those of the package, and no dearer than what it calls.

A method is a plain function, or a subclass of `gc_hooks.Method` whose traits say what a check has to do for it.
"""

from __future__ import annotations

import numpy as np
import pytest

import gc_hooks
from gc_hooks import (
    Basis,
    Estimate,
    Method,
    Status,
    Verdict,
    central,
    check_gradients,
    fixed_step,
    joint,
    per_parameter,
)
from gc_hooks.slopes.methods import Curve
from test_methods import SMOOTH, STARTS, covers

EPS = float(np.finfo(float).eps)


def five_point(line, *, scale=1.0, noise=None):
    """Measure with the five-point stencil ``(f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h``, whose truncation is h^4."""
    step = 1e-3 * scale
    a, b, c, d = (float(line(k * step)) for k in (-2, -1, 1, 2))
    value = (a - 8 * b + 8 * c - d) / (12 * step)
    rounding = 2 * (EPS * abs(line.value) if noise is None else noise) / step
    return Estimate(value, rounding + 1e-3 * abs(value - (c - b) / (2 * step)), step, 4)


class FivePoint(Method):
    """The same as a class, which notes the noise that it gets and how often it is called."""

    __name__ = "five_point"

    def __init__(self):
        self.noises = []

    def slope(self, line, *, scale, noise):
        self.noises.append(noise)
        return five_point(line, scale=scale, noise=noise)


class OwnSteps(FivePoint):
    """Its step suits one entry, and no direction."""

    adapts_step = False


class WithoutNoise(FivePoint):
    """It has its own idea of the noise."""

    needs_noise = False


class Exact(FivePoint):
    """Its only error is rounding (which is nearly so for the losses below)."""

    is_exact = True


class SeesKinks(FivePoint):
    """It compares the slopes to both sides, and says where they differ."""

    sees_kinks = True

    def slope(self, line, *, scale, noise):
        found = super().slope(line, scale=scale, noise=noise)
        right, left = (float(line(found.step)) - line.value, line.value - float(line(-found.step)))
        kink = abs(right - left) > 0.1 * (abs(right) + abs(left))
        jump = abs(right - left) / found.step
        return Estimate(found.value, found.error + kink * jump, found.step, 6, Status.KINK if kink else Status.OK)


KINDS = [FivePoint, OwnSteps, WithoutNoise, Exact, SeesKinks]
each_kind = pytest.mark.parametrize("kind", KINDS)


class Network:
    """A tanh network with a squared error, 6-5-1 by default; with ``single`` its loss computes in float32."""

    def __init__(self, seed, *, inputs=6, hidden=5, samples=8, single=False):
        rng = np.random.default_rng(seed)
        self.params = {
            "W1": rng.normal(size=(inputs, hidden)),
            "b1": rng.normal(size=hidden),
            "W2": rng.normal(size=(hidden, 1)),
        }
        self.x, self.y = rng.normal(size=(samples, inputs)), rng.normal(size=(samples, 1))
        self.single = single
        if single:
            self.x, self.y = self.x.astype(np.float32), self.y.astype(np.float32)

    def loss(self, p):
        if self.single:
            p = {name: array.astype(np.float32) for name, array in p.items()}
        value = 0.5 * np.mean((np.tanh(self.x @ p["W1"] + p["b1"]) @ p["W2"] - self.y) ** 2)
        return float(value) if self.single else value

    def backward(self, p):
        a = np.tanh(self.x @ p["W1"] + p["b1"])
        d = (a @ p["W2"] - self.y) / len(self.y)
        h = (d @ p["W2"].T) * (1 - a * a)
        return {"W1": self.x.T @ h, "b1": h.sum(axis=0), "W2": a.T @ d}

    def doubled(self, p):
        grads = self.backward(p)
        return {**grads, "W1": 2 * grads["W1"]}


def checked(network, method, *, wrong=False, **options):
    gradient = network.doubled if wrong else network.backward
    return check_gradients(network.loss, network.params, gradient, method=method, **options)


# No false alarm, no silent miss


@pytest.mark.parametrize("method", [five_point, FivePoint(), SeesKinks(), central])  # WithoutNoise has to know better
@pytest.mark.parametrize("seed", range(4))
def test_a_loss_in_float32_accuses_nobody(seed, method):
    """Its gradient in float64 is right: INCONCLUSIVE, and never an accusation, though the loss is a thousand million
    times as noisy as its type says."""
    network = Network(seed, inputs=20, hidden=30, samples=16, single=True)
    assert checked(network, method, probes=per_parameter).verdict <= Verdict.INCONCLUSIVE


@pytest.mark.parametrize("step", [1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("seed", range(4))
def test_a_fixed_step_accuses_nobody(seed, step):
    """Entry by entry, with the noise of the loss measured: also for a loss in float32."""
    assert checked(Network(seed, single=True), fixed_step(step)).verdict <= Verdict.INCONCLUSIVE


@pytest.mark.slow
@pytest.mark.parametrize("step", [1e-4, 1e-5, 1e-6])
def test_a_fixed_step_accuses_nobody_whatever_the_seed(step):
    """Sixty networks for each step. Twelve of these 180 were accused while the noise of the loss was not measured."""
    verdicts = [checked(Network(seed, single=True), fixed_step(step)).verdict for seed in range(60)]
    assert max(verdicts) <= Verdict.INCONCLUSIVE


@each_kind
@pytest.mark.parametrize("probes", [None, per_parameter, joint])
def test_a_right_gradient_is_good_and_a_doubled_one_is_found(kind, probes):
    """Whatever the traits, and wherever the check looks."""
    network = Network(0)
    assert checked(network, kind(), probes=probes).verdict is Verdict.GOOD
    report = checked(network, kind(), probes=probes, wrong=True)
    assert report.verdict is Verdict.WORRY
    assert [name for name, c in report.parameters.items() if c.is_accused] == ["W1"]
    assert [d.code for d in report.diagnoses] == ["scaled"]


# What it costs


@pytest.mark.parametrize("probes", [None, per_parameter, joint])
def test_a_function_that_calls_central_costs_what_central_costs(probes):
    """At most a fifth more evaluations, and the same depth."""

    def mine(line, *, scale, noise):
        return central(line, scale=scale, noise=noise)

    network = Network(0, inputs=20, hidden=30, samples=16)
    own, ours = (checked(network, method, probes=probes) for method in (mine, central))
    assert own.verdict is ours.verdict is Verdict.GOOD
    assert own.evaluations <= 1.2 * ours.evaluations
    assert {n: c.basis for n, c in own.parameters.items()} == {n: c.basis for n, c in ours.parameters.items()}


# The traits


def test_a_plain_function_has_the_default_traits():
    """It is measured along directions, it is handed the noise, and a class that adds nothing is measured alike."""
    seen = []

    def mine(line, *, scale, noise):
        seen.append(noise)
        return five_point(line, scale=scale, noise=noise)

    network = Network(0, inputs=20, hidden=30, samples=16)
    function, method = checked(network, mine), checked(network, FivePoint())
    assert (function.evaluations, function.difference) == (method.evaluations, method.difference)
    assert all(0 < noise < 1e-12 for noise in seen)
    assert function.parameters["W1"].basis is Basis.ESTIMATED


def test_a_method_that_does_not_adapt_its_step_measures_every_entry():
    """So that its step is never taken along a direction for which it is too long; and every difference is exact."""
    network = Network(0, inputs=20, hidden=30, samples=16)
    method, other = OwnSteps(), FivePoint()
    assert {c.basis for c in checked(network, method).parameters.values()} == {Basis.EXACT}
    assert Basis.EXACT not in {checked(network, other).parameters["W1"].basis}
    assert len(method.noises) == 20 * 30 + 30 + 30


def test_a_method_that_does_not_need_the_noise_is_handed_none_and_costs_less():
    """The evaluations in which it would be measured, 8 to 16, are saved."""
    network, without, needs = Network(0), WithoutNoise(), FivePoint()
    saved = checked(network, needs).evaluations - checked(network, without).evaluations
    assert 8 <= saved <= 16
    assert set(without.noises) == {None}
    assert None not in needs.noises


def test_an_accusation_of_a_method_that_is_exact_is_tried_at_fewer_steps():
    """Its slopes were not misled by a step, so a doubled gradient is WORRY after fewer evaluations."""
    network = Network(0)
    exact, other = (checked(network, kind(), wrong=True) for kind in (Exact, FivePoint))
    assert exact.verdict is other.verdict is Verdict.WORRY
    assert exact.evaluations < other.evaluations


def kinked(p):
    return np.sum(np.maximum(p["b"], 0.0) * np.array([1.0, -2.0, 3.0]))


@pytest.mark.parametrize("method", [five_point, FivePoint(), WithoutNoise(), SeesKinks(), central])
@pytest.mark.parametrize("at_zero", [0.0, 1.0])
def test_a_kink_accuses_nobody_whoever_sees_it(method, at_zero):
    """A method that sees kinks says so; for one that does not the check looks for itself, on each side apart: the
    stencil is symmetric, and gives the same slope along a line and against it."""
    grads = {"b": np.array([at_zero, -2.0 * at_zero, 3.0])}
    report = check_gradients(kinked, {"b": np.array([0.0, 0.0, 0.5])}, grads, method=method)
    assert report.verdict <= Verdict.INCONCLUSIVE


def test_a_kink_that_was_not_reported_costs_a_second_look():
    """One that does not see kinks pays for a slope to the other side, before it accuses."""
    grads, found = {"b": np.array([0.0, 0.0, 6.0])}, {}
    for kind in (FivePoint, SeesKinks):
        method = kind()
        report = check_gradients(kinked, {"b": np.array([0.2, 0.3, 0.5])}, grads, method=method)
        assert report.verdict is Verdict.WORRY
        found[kind] = len(method.noises)
    assert found[SeesKinks] < found[FivePoint]


# Every method that the package makes


def public_methods():
    """Return the methods that users import from gc_hooks: the objects, and what its functions make by themselves."""
    found = {}
    for name in gc_hooks.__all__:
        thing = getattr(gc_hooks, name)
        if getattr(thing, "__annotations__", {}).get("return") == "Method":
            thing = thing()
        if isinstance(thing, Method):
            found[name] = thing
    return found


each_method = pytest.mark.parametrize("method", public_methods().values(), ids=public_methods())


@each_method
def test_every_public_method_bounds_its_error(method):
    """For smooth functions of any magnitude, wherever they are measured: a new method too."""
    for function, slope in SMOOTH.values():
        for start in STARTS:
            assert covers(method(Curve(function, start)), slope(start))


@each_method
@pytest.mark.parametrize("probes", [None, per_parameter, joint])
def test_every_public_method_finds_a_doubled_gradient_and_accuses_no_right_one(method, probes):
    """A new method too, and it says its name in the report."""
    report = checked(Network(1), method, probes=probes)
    assert report.verdict <= Verdict.INCONCLUSIVE
    assert report.method == repr(method)
    assert checked(Network(1), method, probes=probes, wrong=True).verdict is Verdict.WORRY


def test_the_methods_of_today_are_among_them():
    assert {"central", "complex_step", "fixed_step"} <= set(public_methods())
