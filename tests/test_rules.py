"""Naming the bug: each rule has a bug that it names and a clean twin of which it says nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gc_hooks import Diagnosis, Verdict, central, check_gradients, complex_step
from gc_hooks.report.diagnosis import agree, listed, plural, sentence
from gc_hooks.rules import RULES, diagnose
from gc_hooks.slopes.probes import automatic

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
    "wrong_shape": ({**CLEAN, "W": CLEAN["W"][:, :2]}, "shape (1, 2), the parameter (1, 3)", "both factors"),
    "not_numeric": ({**CLEAN, "W": np.array([["a", "b", "c"]])}, "not real numbers", "dtype"),
    "not_repeatable": (Accumulating(), "two calls of the gradient function", "+="),
    "not_finite": ({**CLEAN, "W": CLEAN["W"] * np.nan}, "", "0/0"),
}


@pytest.mark.parametrize("code", BUGS)
def test_a_bug_is_named_with_its_evidence_and_an_advice(code):
    """The diagnosis names the bug, the parameter, what was seen and what to try; the other parameter is left alone."""
    grads, measurements, advice = BUGS[code]
    (diagnosis,) = check_gradients(loss, POINT, grads).diagnoses
    assert (diagnosis.code, diagnosis.parameters) == (code, ("W",))
    assert measurements in diagnosis.evidence
    assert advice in diagnosis.advice
    assert "W" in diagnosis.message


def test_the_clean_twin_has_no_diagnosis():
    """Nothing is named where nothing is wrong, with buffers and with a function."""
    assert check_gradients(loss, POINT, CLEAN).diagnoses == ()
    assert check_gradients(loss, POINT, lambda p: {"W": 2 * p["W"], "b": 2 * p["b"]}).diagnoses == ()


def test_several_bugs_are_named_each():
    """Two bugs at two parameters are two diagnoses; one bug at two parameters is one."""
    assert [d.code for d in check_gradients(loss, POINT, {"W": CLEAN["W"][:, :2]}).diagnoses] == [
        "missing_gradient",
        "wrong_shape",
    ]
    (both,) = check_gradients(loss, POINT, {name: grad * np.inf for name, grad in CLEAN.items()}).diagnoses
    assert both.parameters == ("W", "b")


def test_rules_are_not_asked_when_nothing_failed(monkeypatch):
    """A passing check costs no diagnosis."""
    monkeypatch.setattr("gc_hooks.rules.RULES", [lambda *_: pytest.fail("a rule was asked")])
    assert check_gradients(loss, POINT, CLEAN).ok
    assert diagnose(None, {}) == ()  # where nothing was compared, the session is not looked at


def test_a_wrong_gradient_without_a_known_name_gets_none():
    """No rule guesses: what matches no bug is reported without a diagnosis."""
    report = check_gradients(loss, POINT, {**CLEAN, "W": np.array([[1.0, -7.0, 0.3]])})
    assert not report.ok
    assert not {d.code for d in report.diagnoses} & set(BUGS)


def test_a_diagnosis_prints_what_it_knows():
    """Message, evidence and advice in one line; what is missing leaves no gap."""
    assert str(Diagnosis("code", ("W",), "Seen.", "Figures.", "Advice.")) == "Seen. Figures. Advice."
    assert str(Diagnosis("code", ("W",), "Seen.", advice="Advice.")) == "Seen. Advice."


def test_names_and_counts_are_written_as_in_a_sentence():
    """None, one, several, too many; a symbol keeps its small letter."""
    assert [listed(names) for names in ([], ["W1"], ["W1", "b1"], ["W1", "b1", "W2"])] == [
        "",
        "W1",
        "W1 and b1",
        "W1, b1 and W2",
    ]
    assert listed("abcd", most=2) == "a, b and 2 more"
    assert (plural(1, "check"), plural(2, "check"), plural(0, "check")) == ("1 check", "2 checks", "0 checks")
    assert (agree(["W1"], "is", "are"), agree(["W1", "b1"], "is", "are")) == ("is", "are")
    assert sentence("the gradient of dense1.W is zero.") == "The gradient of dense1.W is zero."
    assert sentence("dW1 is zero.") == "dW1 is zero."


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
@pytest.mark.parametrize(
    ("words", "samples", "probes"),
    [(7, 16, None), (50, 16, None), (200, 30, None), (7, 16, automatic), (50, 16, automatic)],
)
def test_an_index_that_occurs_twice_is_named_in_small_and_large_tables(words, samples, right, probes):
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

    diagnoses = check_gradients(table_loss, {"E": table}, backward, probes=probes).diagnoses
    assert [diagnosis.code for diagnosis in diagnoses] == ([] if right else ["rows"])
    twice = [str(row) for row in range(words) if np.count_nonzero(index == row) > 1]
    assert all(row in diagnosis.message and "np.add.at" in diagnosis.advice for row in twice for diagnosis in diagnoses)


@pytest.mark.parametrize(
    ("place", "code"),
    [((17, 123), "single_entries"), ((17, slice(None)), "rows"), ((slice(None), 123), "columns")],
)
def test_few_entries_of_a_large_matrix_are_named(place, code):
    """Wherever they lie, also where a sample of its entries would meet none of them."""
    rng = np.random.default_rng(0)
    x, y, point = rng.normal(size=(8, 100)), rng.normal(size=(8, 300)), {"W": rng.normal(size=(100, 300)) / 10}

    def backward(p):
        outputs = np.tanh(x @ p["W"])
        grad = x.T @ ((outputs - y) * (1 - outputs**2)) / y.size  # divided last, so that its rounding is its own
        grad[place] *= rng.uniform(1.2, 3.0, grad[place].shape)
        return {"W": grad}

    grads = backward(point)
    (diagnosis,) = check_gradients(lambda p: 0.5 * np.mean((np.tanh(x @ p["W"]) - y) ** 2), point, grads).diagnoses
    assert diagnosis.code == code


def test_rows_of_zeros_are_no_right_ones():
    """Where all that has a gradient is wrong, no row is told apart from another."""
    grads = {"W": np.array([[3.0, -1.0, 4.0], [1.0, 5.0, -9.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])}
    point = {"W": np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 5.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])}
    report = check_gradients(lambda p: np.sum(p["W"][:2] ** 2), point, grads)
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["unexplained"]


INPUTS, TARGETS = np.random.default_rng(2).normal(size=(32, 5)), np.random.default_rng(3).normal(size=(32, 4))
NETWORK = {
    name: np.random.default_rng(k).normal(size=shape) / 2
    for k, (name, shape) in enumerate({"W1": (5, 6), "b1": (6,), "W2": (6, 4), "b2": (4,)}.items())
}


def network_loss(p):
    hidden = np.tanh(INPUTS @ p["W1"] + p["b1"])
    return 0.5 * np.sum((hidden @ p["W2"] + p["b2"] - TARGETS) ** 2) / len(INPUTS)


def network_grads(p):
    hidden = np.tanh(INPUTS @ p["W1"] + p["b1"])
    error = (hidden @ p["W2"] + p["b2"] - TARGETS) / len(INPUTS)
    delta = (error @ p["W2"].T) * (1 - hidden**2)
    return {"W1": INPUTS.T @ delta, "b1": delta.sum(axis=0), "W2": hidden.T @ error, "b2": error.sum(axis=0)}


@pytest.mark.parametrize("factor", [1.0, 1.01, 2.0, -1.0])
def test_a_factor_is_named_in_a_loss_that_computes_in_float32(factor):
    """Its bars are too wide for any gradient to pass; a repair that lies within them is one, if they are short against
    what was wrong."""
    x, y = INPUTS[:, :3].astype(np.float32), TARGETS[:, 0].astype(np.float32)
    w = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    grad = np.float32(factor) * (2 * x.T @ (x @ w - y) / np.float32(32))
    report = check_gradients(lambda: float(np.mean((x @ w - y) ** 2)), {"w": w}, {"w": grad}, in_place=True)
    expected = {1.0: [], -1.0: ["sign"]}.get(factor, ["scaled"])
    assert [diagnosis.code for diagnosis in report.diagnoses] == expected
    assert ("dw is exactly 2 times the measured slope" in str(report)) == (factor == 2)


def test_a_factor_alone_explains_a_gradient_that_is_a_multiple_of_its_parameter():
    """Ten times 2 w is no L2 term that is missing in the loss; where no factor fits, it may be one."""
    w = np.array([1.0, -2.0, 0.5, 3.0])
    (found,) = check_gradients(lambda p: np.sum(p["W"] ** 2), {"W": w}, {"W": 20 * w}).diagnoses
    assert (found.code, "exactly 10 times" in found.message) == ("scaled", True)
    for name, code in (("W", "l2_factor"), ("b", "l2_on_bias")):  # a vector is a bias by its name
        report = check_gradients(lambda p, name=name: np.sum(p[name] ** 2), {name: w}, {name: 2.0123 * w})
        assert code in {diagnosis.code for diagnosis in report.diagnoses}


@pytest.mark.parametrize(
    ("factor", "said"), [(2 / 3, "2/3 of"), (4 / 3, "4/3 of"), (1.5, "1.5 times"), (3, "exactly 3")]
)
def test_fractions_are_written_as_people_write_them(factor, said):
    """And not as 0.666667."""
    grads = network_grads(NETWORK)
    (found,) = check_gradients(network_loss, NETWORK, {**grads, "W1": factor * grads["W1"]}).diagnoses
    assert f"dW1 is {said}" in found.message


@pytest.mark.parametrize("wrong", [["b1", "b2"], ["W1", "b1", "W2", "b2"]])
def test_a_sign_that_others_do_not_share_was_not_lost_where_backward_begins(wrong):
    """All biases have the wrong sign while the weights are right: the first delta is."""
    grads = network_grads(NETWORK)
    (found,) = check_gradients(network_loss, NETWORK, {**grads, **{name: -grads[name] for name in wrong}}).diagnoses
    assert (found.code, set(found.parameters)) == ("sign", set(wrong))
    assert ("where backward begins" in found.advice) == (len(wrong) == 4)
    assert ("in the lines that compute these" in found.advice) == (len(wrong) == 2)


def test_a_nameless_error_is_told_with_what_is_right():
    """Of one parameter and from a layer down; nobody is sent to check_layers who may have no layers."""
    grads = network_grads(NETWORK)
    nonsense = {**grads, "W1": np.tanh(grads["W1"]) + grads["W1"] ** 2}
    below = {**nonsense, "b1": grads["b1"] ** 2}
    (alone,) = check_gradients(network_loss, NETWORK, nonsense).diagnoses
    assert (alone.code, alone.message.startswith("Right: b1, W2 and b2. Wrong: W1,")) == ("unexplained", True)
    assert "in all 30 entries" in alone.evidence
    (lower,) = check_gradients(network_loss, NETWORK, below).diagnoses
    assert (lower.code, lower.message) == ("wrong_below", "Wrong from W1 and b1 down, and right from W2 on.")
    assert "check_layers" not in str(alone) + str(lower)


def lists_of(weights, biases):
    return {
        "[Ws, bs]": [weights, biases],
        "{W: [...], b: [...]}": {"W": weights, "b": biases},
        "[(W, b), ...]": list(zip(weights, biases, strict=True)),
        "[W, b, W, b, ...]": [array for pair in zip(weights, biases, strict=True) for array in pair],
    }


@pytest.mark.parametrize("layout", lists_of([], []))
@pytest.mark.parametrize("is_wrong", [True, False])
def test_layers_are_told_apart_in_every_layout_of_lists(layout, is_wrong):
    """A derivative that is wrong from the second of three layers down is told so wherever the arrays stand."""
    rng = np.random.default_rng(0)
    sizes = [4, 6, 5, 3]
    weights = [0.5 * rng.normal(size=size) for size in pairwise(sizes)]
    biases = [0.1 * rng.normal(size=(1, size)) for size in sizes[1:]]
    x, y = rng.normal(size=(16, 4)), rng.normal(size=(16, 3))
    hidden = [x]
    for weight, bias in zip(weights, biases, strict=True):
        hidden.append(np.tanh(hidden[-1] @ weight + bias))
    delta, of_weights, of_biases = hidden[-1] - y, [], []
    for k in (2, 1, 0):
        slope = 1 - np.tanh(hidden[k + 1]) ** 2 if is_wrong and k < 2 else 1 - hidden[k + 1] ** 2
        delta = delta * slope
        of_weights, of_biases = [hidden[k].T @ delta, *of_weights], [delta.sum(0, keepdims=True), *of_biases]
        delta = delta @ weights[k].T

    def loss():
        a = x
        for weight, bias in zip(weights, biases, strict=True):
            a = np.tanh(a @ weight + bias)
        return 0.5 * np.sum((a - y) ** 2)

    report = check_gradients(loss, lists_of(weights, biases)[layout], lists_of(of_weights, of_biases)[layout])
    assert [diagnosis.code for diagnosis in report.diagnoses] == (["wrong_below"] if is_wrong else [])
    assert report.ok is not is_wrong


DEEP_RNG = np.random.default_rng(0)
DEEP_INPUTS, DEEP = DEEP_RNG.normal(size=(16, 6)), {}
for depth in range(4):
    DEEP[f"l{depth}.W"] = 0.5 * DEEP_RNG.normal(size=(6, 6))
    DEEP[f"l{depth}.b"] = 0.1 * DEEP_RNG.normal(size=6)


@pytest.mark.parametrize("limit", [60, 120, 200, 300, 400, 600, None])
@pytest.mark.parametrize("method", [complex_step, central])
def test_what_was_not_judged_is_no_evidence(limit, method):
    """Every layer is wrong. Whatever the budget leaves open, no parameter is called right, and not all are called
    wrong where some could not be judged."""

    def outputs(p):
        hidden = [DEEP_INPUTS]
        for k in range(4):
            hidden.append(np.tanh(hidden[-1] @ p[f"l{k}.W"] + p[f"l{k}.b"]))
        return hidden

    hidden, grads = outputs(DEEP), {}
    delta = hidden[-1]
    for k in reversed(range(4)):
        delta = delta * (1 - hidden[k + 1])  # without the square
        grads |= {f"l{k}.W": hidden[k].T @ delta, f"l{k}.b": delta.sum(0)}
        delta = delta @ DEEP[f"l{k}.W"].T
    report = check_gradients(
        lambda p: 0.5 * np.sum(outputs(p)[-1] ** 2), DEEP, grads, method=method, max_evaluations=limit
    )
    found = {diagnosis.code: diagnosis.message for diagnosis in report.diagnoses}
    assert "wrong_below" not in found
    unclear = any(c.verdict is Verdict.INCONCLUSIVE for c in report.parameters.values())
    assert ("that could be judged" in found.get("other_loss", "")) == (unclear and "other_loss" in found)
    assert unclear == (limit is not None)


def test_slopes_beyond_the_range_of_numbers_end_no_check():
    """Where a gradient is measured against slopes of zero, no fit is possible: that is told, and nobody raises."""
    point = {"unused": np.arange(1.0, 7.0), "W": np.ones(6)}
    grads = {"unused": np.full(6, 1e11), "W": 2 * np.ones(6)}
    report = check_gradients(lambda p: np.sum(0.0 * p["unused"]) + np.sum(p["W"] ** 2), point, grads, probes=automatic)
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["parameter_unused"]


def test_a_constant_error_is_no_penalty_of_a_parameter_that_cannot_tell():
    """A gamma of ones is a multiple of any constant; one of several sizes, and of both signs, can tell."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)), rng.normal(size=20)
    for gamma, named in ((np.ones(6), False), (rng.normal(size=6), True)):
        error = 0.05 * gamma

        def backward(p, error=error):
            h = np.tanh(x * p["gamma"])
            delta = 2 * (h @ p["v"] - y) / 20
            return {"gamma": (np.outer(delta, p["v"]) * (1 - h**2) * x).sum(0) + error, "v": h.T @ delta}

        point = {"gamma": gamma, "v": rng.normal(size=6)}
        report = check_gradients(lambda p: np.mean((np.tanh(x * p["gamma"]) @ p["v"] - y) ** 2), point, backward)
        codes = {diagnosis.code for diagnosis in report.diagnoses}
        assert bool(codes & {"l2_factor", "l2_on_bias", "l1"}) == named


def test_predictions_behind_a_threshold_are_no_old_caches():
    """They do not move with the parameters a hair away, and farther they do."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(20, 4)), (rng.random(20) > 0.5) * 1.0

    def predicted(w):
        return 1 / (1 + np.exp(-x @ w))

    def loss(w):
        return -np.mean(t * np.log(predicted(w)) + (1 - t) * np.log(1 - predicted(w)))

    report = check_gradients(loss, rng.normal(size=4), lambda w: x.T @ ((predicted(w) > 0.5) - t) / 20)
    assert "old_caches" not in {diagnosis.code for diagnosis in report.diagnoses}


def test_two_numbers_that_sum_to_zero_prove_no_odd_factor():
    """The bias before a softmax with two classes: of any wrong gradient its two numbers are a multiple."""
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(20, 3)), np.eye(2)[rng.integers(2, size=20)]
    params = {"W": rng.normal(size=(3, 2)), "c": np.zeros(2)}

    def outputs(p):
        e = np.exp(x @ p["W"] + p["c"])
        return e / e.sum(axis=1, keepdims=True)

    def backward(p):
        delta = (outputs(p) - targets) * outputs(p) * (1 - outputs(p)) / 20
        return {"W": x.T @ delta, "c": delta.sum(axis=0)}

    report = check_gradients(lambda p: -np.mean(np.sum(targets * np.log(outputs(p)), axis=1)), params, backward)
    assert "scaled" not in {diagnosis.code for diagnosis in report.diagnoses}
