"""SciPy's optimisers and solvers with a hook around them: right derivatives are good, wrong ones named."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from gc_hooks import GradCheckWarning, GradientMismatch, InvalidProblem, Verdict
from gc_hooks.adapters import ScipyGradCheckHook

T = np.linspace(0, 1, 25)
DATA = 2 * np.exp(-1.3 * T) + 0.01 * np.sin(40 * T)
START = [1.0, 0.5]


def model(t, a, b):
    return a * np.exp(-b * t)


def model_slope(t, a, b):
    return np.stack([np.exp(-b * t), -a * t * np.exp(-b * t)], axis=1)


def residuals(p, scale=1.0):
    return scale * (model(T, *p) - DATA)


def slope(p, scale=1.0):
    return scale * model_slope(T, *p)


def loss(p, scale=1.0):
    return 0.5 * np.sum(residuals(p, scale) ** 2)


def gradient(p, scale=1.0):
    return slope(p, scale).T @ residuals(p, scale)


def equations(p):
    return np.array([p[0] + 0.5 * (p[0] - p[1]) ** 3 - 1.0, 0.5 * (p[1] - p[0]) ** 3 + p[1]])


def of_equations(p):
    square = 1.5 * (p[0] - p[1]) ** 2
    return np.array([[1 + square, -square], [-square, 1 + square]])


def halved(function):
    return lambda *arguments, **keywords: np.asarray(function(*arguments, **keywords)) * [1.0, 0.5]


CALLS = {
    "minimize": lambda run, bug: run(optimize.minimize, loss, START, jac=bug(gradient)),
    "by position": lambda run, bug: run(optimize.minimize, loss, START, (2.0,), "BFGS", bug(gradient)),
    "args": lambda run, bug: run(optimize.minimize, loss, START, args=(2.0,), jac=bug(gradient), method="L-BFGS-B"),
    "jac=True": lambda run, bug: run(optimize.minimize, lambda p: (loss(p), bug(gradient)(p)), START, jac=True),
    "fmin_bfgs": lambda run, bug: run(optimize.fmin_bfgs, loss, START, fprime=bug(gradient), disp=False),
    "least_squares": lambda run, bug: run(optimize.least_squares, residuals, START, bug(slope)),
    "kwargs": lambda run, bug: run(
        optimize.least_squares, residuals, START, jac=bug(slope), kwargs={"scale": 3.0}, method="lm"
    ),
    "leastsq": lambda run, bug: run(optimize.leastsq, residuals, START, Dfun=bug(slope)),
    "col_deriv": lambda run, bug: run(
        optimize.leastsq, residuals, START, Dfun=lambda p: bug(slope)(p).T, col_deriv=True
    ),
    "curve_fit": lambda run, bug: run(optimize.curve_fit, model, T, DATA, p0=START, jac=bug(model_slope)),
    "root": lambda run, bug: run(optimize.root, equations, [0.0, 0.0], jac=bug(of_equations)),
    "fsolve": lambda run, bug: run(optimize.fsolve, equations, [0.0, 0.0], fprime=bug(of_equations)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_right_ones_are_good_and_wrong_ones_named(call):
    """At the first, the second and a later request; the bug is in the second parameter."""
    hook = ScipyGradCheckHook(after=3, reporters=[])
    call(hook.run, lambda derivative: derivative)
    assert {report.verdict for report in hook.reports} == {Verdict.GOOD}
    assert len(hook.reports) >= 2
    hook = ScipyGradCheckHook(after=3, reporters=[])
    with pytest.warns(GradCheckWarning, match="looks wrong"):
        call(hook.run, halved)
    assert hook.reports[0].verdict is Verdict.WORRY
    assert hook.reports[0].parameters["theta"].worst[0].index[-1] == 1


@pytest.mark.parametrize("name", ["minimize", "least_squares", "root", "jac=True"])
def test_the_run_is_the_same_to_the_bit(name):
    """The hook changes nothing of what the optimiser sees."""
    without = CALLS[name](lambda optimizer, *a, **k: optimizer(*a, **k), lambda derivative: derivative)
    with_hook = CALLS[name](ScipyGradCheckHook(after=2, reporters=[]).run, lambda derivative: derivative)
    assert np.array_equal(without.x, with_hook.x)
    assert without.nfev == with_hook.nfev


def test_functions_that_keep_what_the_other_needs():
    """A derivative that reads what the function has left there, as adjoints do."""
    kept = {}

    def forward(p):
        kept["residuals"] = residuals(p)
        return 0.5 * np.sum(kept["residuals"] ** 2)

    def backward(p):
        return slope(p).T @ kept["residuals"]

    without = optimize.minimize(forward, START, jac=backward)
    hook = ScipyGradCheckHook(after=2, reporters=[])
    assert np.array_equal(without.x, hook.run(optimize.minimize, forward, START, jac=backward).x)
    assert {report.verdict for report in hook.reports} == {Verdict.GOOD}


def test_a_short_run_is_checked_at_its_end():
    """Where the optimiser ends before N."""
    hook = ScipyGradCheckHook(after=10_000, reporters=[])
    hook.run(optimize.minimize, loss, START, jac=gradient)
    assert "checked at the end" in " ".join(hook.reports[-1].notes)


def test_what_is_asked_for_on_failure_is_done():
    """An exception leaves the optimiser."""
    hook = ScipyGradCheckHook(on_fail="raise", reporters=[])
    with pytest.raises(GradientMismatch):
        hook.run(optimize.minimize, loss, START, jac=halved(gradient))


@pytest.mark.parametrize("jac", [{}, {"jac": "2-point"}, {"jac": None}])
def test_without_a_derivative_there_is_nothing_to_check(jac):
    with pytest.raises(InvalidProblem, match="nothing to check"):
        ScipyGradCheckHook().run(optimize.minimize, loss, START, **jac)
