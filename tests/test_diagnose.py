"""Naming the bug: each rule has a bug that it names and a clean twin of which it says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks import Diagnosis, check_gradients
from gc_hooks.diagnose import RULES, diagnose
from gc_hooks.door import pose

POINT = {"W": np.array([[1.0, 2.0, 3.0]]), "b": np.array([0.5])}
CLEAN = {"W": 2 * POINT["W"], "b": 2 * POINT["b"]}


def loss(p):
    return np.sum(p["W"] ** 2) + np.sum(p["b"] ** 2)


class Accumulating:
    """A backward pass with a buffer that is never set to zero."""

    def __init__(self):
        self.buffer = np.zeros((1, 3))

    def __call__(self, p):
        self.buffer += 2 * p["W"]
        return {"W": self.buffer, "b": 2 * p["b"]}


BUGS = {
    "missing_gradient": ({"b": CLEAN["b"]}, "no gradient was handed in for W", "dW1 for W1"),
    "wrong_shape": ({**CLEAN, "W": CLEAN["W"].T}, "(3, 1), its transpose, the parameter (1, 3)", "keepdims=True"),
    "not_numeric": ({**CLEAN, "W": np.array([["a", "b", "c"]])}, "not real numbers", "dtype"),
    "not_repeatable": (Accumulating(), "two calls of the gradient function", "+="),
    "not_finite": ({**CLEAN, "W": CLEAN["W"] * np.nan}, "", "0/0"),
}


@pytest.mark.parametrize("code", BUGS)
def test_a_bug_is_named_with_its_evidence_and_an_advice(code):
    """The diagnosis names the bug, the parameter, what was seen and what to try; the other parameter is left alone."""
    grads, evidence, advice = BUGS[code]
    (diagnosis,) = check_gradients(loss, POINT, grads).diagnoses
    assert (diagnosis.code, diagnosis.parameters) == (code, ("W",))
    assert evidence in diagnosis.evidence
    assert advice in diagnosis.advice
    assert "W" in diagnosis.message


def test_the_clean_twin_has_no_diagnosis():
    """Nothing is named where nothing is wrong, with buffers and with a function."""
    assert check_gradients(loss, POINT, CLEAN).diagnoses == ()
    assert check_gradients(loss, POINT, lambda p: {"W": 2 * p["W"], "b": 2 * p["b"]}).diagnoses == ()


def test_several_bugs_are_named_each():
    """Two bugs at two parameters are two diagnoses; one bug at two parameters is one."""
    assert [d.code for d in check_gradients(loss, POINT, {"W": CLEAN["W"].T}).diagnoses] == [
        "missing_gradient",
        "wrong_shape",
    ]
    (both,) = check_gradients(loss, POINT, {name: grad * np.inf for name, grad in CLEAN.items()}).diagnoses
    assert both.parameters == ("W", "b")


def test_rules_are_not_asked_when_nothing_failed(monkeypatch):
    """A passing check costs no diagnosis."""
    monkeypatch.setattr("gc_hooks.diagnose.RULES", [lambda *_: pytest.fail("a rule was asked")])
    assert check_gradients(loss, POINT, CLEAN).ok
    assert diagnose(pose(loss, POINT, CLEAN), {}) == ()


def test_a_wrong_gradient_without_a_known_name_gets_none():
    """No rule guesses: what matches no bug is reported without a diagnosis."""
    report = check_gradients(loss, POINT, {**CLEAN, "W": np.array([[1.0, -7.0, 0.3]])})
    assert not report.ok
    assert not {d.code for d in report.diagnoses} & set(BUGS)


def test_a_diagnosis_prints_what_it_knows():
    """Message, evidence and advice in one line; what is missing leaves no gap."""
    assert str(Diagnosis("code", ("W",), "Seen.", "Figures.", "Advice.")) == "Seen. Figures. Advice."
    assert str(Diagnosis("code", ("W",), "Seen.", advice="Advice.")) == "Seen. Advice."


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_says_in_its_docstring_which_bug_it_knows(rule):
    """The docstring is the bug in the words of the person who has it."""
    assert len(rule.__doc__.splitlines()[0]) > 20


def test_of_a_single_number_no_entry_is_named():
    """It has none: a factor that people write is named, and of any other number that nothing fits, with both values."""
    for factor in (2.0, -1.0, 0.25):
        (named,) = check_gradients(lambda w: w**3, 2.0, 12 * factor).diagnoses
        assert named.code == ("sign" if factor < 0 else "scaled")
    report = check_gradients(lambda w: w**3, 2.0, 13.0)
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["unexplained"]
    assert "backprop 13, measured 12" in str(report)
    assert "[]" not in str(report)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(("words", "samples"), [(7, 16), (50, 16), (200, 30)])
def test_an_index_that_occurs_twice_is_named_in_small_and_large_tables(words, samples, right):
    """The rows whose index occurs twice are wrong by no common factor, most rows of a small table and few of a large
    one; with np.add.at all is good."""
    rng = np.random.default_rng(0)
    table, weights = rng.normal(size=(words, 5)), rng.normal(size=5)
    index, targets = rng.integers(0, words, samples), rng.normal(size=samples)

    def table_loss(p):
        return 0.5 * np.mean((np.tanh(p["E"][index]) @ weights - targets) ** 2)

    def backward(p):
        hidden, grad = np.tanh(p["E"][index]), np.zeros_like(p["E"])
        delta = np.outer((hidden @ weights - targets) / samples, weights) * (1 - hidden**2)
        if right:
            np.add.at(grad, index, delta)
        else:
            grad[index] += delta
        return {"dE": grad}

    diagnoses = check_gradients(table_loss, {"E": table}, backward).diagnoses
    assert [diagnosis.code for diagnosis in diagnoses] == ([] if right else ["rows"])
    twice = [str(row) for row in range(words) if np.count_nonzero(index == row) > 1]
    assert all(row in diagnosis.message and "np.add.at" in diagnosis.advice for row in twice for diagnosis in diagnoses)


def test_rows_of_zeros_are_no_right_ones():
    """Where all that has a gradient is wrong, no row is told apart from another."""
    grads = {"W": np.array([[3.0, -1.0, 4.0], [1.0, 5.0, -9.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])}
    point = {"W": np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 5.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])}
    report = check_gradients(lambda p: np.sum(p["W"][:2] ** 2), point, grads)
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["unexplained"]
