"""The assertion for people's own tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gc_hooks import GradCheckError, GradientMismatch, Verdict, assert_gradients, fixed_step

W = np.array([0.5, -1.5])


def squares(w):
    return np.sum(w**2)


def test_a_good_gradient_passes_and_returns_its_report():
    """The report can be looked at further."""
    report = assert_gradients(squares, W, 2 * W, seed=4)
    assert (report.verdict, report.seed) == (Verdict.GOOD, 4)


@pytest.mark.parametrize(
    ("loss", "grads", "options", "verdict"),
    [
        (squares, 4 * W, {}, Verdict.WORRY),
        (squares, 2 * W * (1 + 1e-5), {}, Verdict.DOUBLE_CHECK),
        (squares, {"theta": None}, {}, Verdict.WORRY),
        (lambda w: math.nan, 2 * W, {}, Verdict.INCONCLUSIVE),
        (squares, 2 * W, {"max_evaluations": 1}, Verdict.INCONCLUSIVE),
        (lambda w: 1e9 + squares(w), 2 * W, {"method": fixed_step(1e-7)}, Verdict.INCONCLUSIVE),
    ],
)
def test_everything_else_fails(loss, grads, options, verdict):
    """Wrong, doubtful and inconclusive alike: a test must not take what could not be told for a pass."""
    with pytest.raises(GradientMismatch) as failed:
        assert_gradients(loss, W, grads, **options)
    assert failed.value.report.verdict is verdict
    assert str(failed.value) == str(failed.value.report)


def test_the_failure_is_an_assertion_error():
    """Test runners show it as a failure, and it can be caught as one of this package's errors."""
    assert issubclass(GradientMismatch, AssertionError)
    assert issubclass(GradientMismatch, GradCheckError)
    assert GradientMismatch("text").report is None


def test_pytest_shows_the_line_of_the_test():
    """The frame of the assertion itself is hidden from the traceback."""
    with pytest.raises(GradientMismatch) as failed:
        assert_gradients(squares, W, 4 * W)
    assert failed.traceback[-1].frame.f_locals["__tracebackhide__"] is True
