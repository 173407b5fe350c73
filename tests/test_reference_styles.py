"""Every forward style of the benchmark ``coverage.py``: no wrong verdict, and a reason where it is not traced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.coverage import STYLES, Unsure, examine, true_gradient
from benchmarks.styles.collection import PURE, Style
from gc_hooks import Verdict, check_gradients
from hunts import some


def examined(style):
    try:
        return examine(style)
    except ModuleNotFoundError as error:  # SciPy, which the extra `test` brings
        pytest.skip(str(error))


@pytest.mark.parametrize("style", some(STYLES, list(STYLES)[::4]))
def test_a_style_gets_no_wrong_verdict_and_a_reason_where_it_is_not_traced(style):
    result = examined(STYLES[style])
    assert list(result.faults) == []
    assert result.traced or (result.why_not and STYLES[style].group != "nn")


# --- the examination itself can fail ----------------------------------------------------------------------------------


def style_of(loss, params):
    return Style("planted", "planted", lambda rng: (loss, params, PURE))


def clean(p):
    return np.sum(np.sin(p["a"])) * np.sum(p["b"] ** 2)


POINT = {"a": np.array([0.5, -0.25]), "b": np.array([1.0, 2.0, -1.5])}


def test_the_truth_is_the_gradient_by_hand():
    found, way = true_gradient(style_of(clean, POINT))
    by_hand = np.concatenate(
        [np.cos(POINT["a"]) * np.sum(POINT["b"] ** 2), 2 * POINT["b"] * np.sum(np.sin(POINT["a"]))]
    )
    assert way == "complex step"
    np.testing.assert_allclose(found, by_hand, rtol=1e-14)


def test_a_loss_that_hides_complex_numbers_is_not_measured_by_them():
    """np.abs() makes a complex number real: complex step alone would say zero."""
    found, way = true_gradient(style_of(lambda p: np.sum(np.abs(p) ** 2), np.array([0.5, -2.0])))
    assert way == "central"
    np.testing.assert_allclose(found, [1.0, -4.0], rtol=1e-9)


def test_a_style_on_a_kink_is_refused():
    with pytest.raises(Unsure, match="two ways to the truth"):
        true_gradient(style_of(lambda p: np.sum(np.abs(p)) + p[0] ** 2, np.array([1e-4, 1.0])))


@pytest.mark.parametrize(
    ("verdicts", "fault"),
    [
        ({"right": Verdict.WORRY}, "accused although right: b"),
        ({"doubled": Verdict.GOOD}, "GOOD although doubled: b"),
    ],
)
def test_a_wrong_verdict_is_a_fault(verdicts, fault):
    result = examine(style_of(clean, POINT))
    assert list(result.faults) == []
    for side, verdict in verdicts.items():
        report = getattr(result, side)
        comparisons = {**report.parameters, "b": replace(report.parameters["b"], verdict=verdict)}
        result = replace(result, **{side: replace(report, parameters=comparisons)})
    (seen,) = result.faults
    assert seen.startswith(fault)


def test_a_changed_parameter_is_a_fault(monkeypatch):
    """The examination sees what a check leaves behind: here it moves the user's array by one bit."""
    point = {"a": np.array([0.5]), "b": np.array([1.0])}

    def and_move(loss, params, grads, in_place):
        report = check_gradients(loss, params, grads, in_place=in_place)
        params["a"][...] = np.nextafter(params["a"], 1)
        return report

    assert list(examine(style_of(clean, point)).faults) == []
    monkeypatch.setattr("benchmarks.coverage.check_gradients", and_move)
    assert any("not what they were" in fault for fault in examine(style_of(clean, point)).faults)
