"""The whole pipeline: correct gradients are never accused, wrong ones are never good, and every option works."""

from __future__ import annotations

import math
import runpy
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from gc_hooks import (
    InvalidProblem,
    NondeterministicLoss,
    Tolerance,
    Verdict,
    central,
    check_gradients,
    complex_step,
    entries,
    fixed_step,
)
from gc_hooks.slopes.probes import automatic
from hunts import seeds, some
from zoo import EDITS, WRONG_DERIVATIVES, network

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
W = np.array([0.5, -1.5, 2.0])
EXERCISE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "01_first_check.py"))
methods = pytest.mark.parametrize("method", [None, complex_step, central], ids=["default", "complex step", "central"])


def squares(w):
    return np.sum(w**2)


def verdicts(report):
    return {name: comparison.verdict for name, comparison in report.parameters.items()}


def test_the_one_parameter_exercise_gives_the_textbooks_number():
    """J(theta) = theta * x at x = 2, theta = 4: the difference that every course prints."""
    report = check_gradients(lambda theta: theta * 2.0, 4.0, 2.0, method=fixed_step(1e-7))
    assert report.loss == 8.0
    assert report.difference == pytest.approx(2.919335883291695e-10, rel=1e-12)


@pytest.mark.parametrize(("bugs", "difference"), [(True, 0.2850931567761624), (False, 1.189e-07)])
def test_the_three_layer_exercise(bugs, difference):
    """The textbook's step calls the repaired network a mistake by its own threshold; the default names the truth."""
    x, y, params = EXERCISE["exercise"]()
    grads = EXERCISE["backward"](params, x, y, bugs=bugs)

    def loss(p):
        return EXERCISE["forward"](p, x, y)[0]

    textbook = check_gradients(loss, params, grads, method=fixed_step(1e-7))
    # The last bit of the loss, 1e-16, is divided by the step: each processor has its own digits after the ninth, and a
    # difference of 1e-7 has two that all share.
    assert textbook.difference == pytest.approx(difference, rel=1e-9 if bugs else 0.05)
    report = check_gradients(loss, params, grads)
    assert {name for name, verdict in verdicts(report).items() if verdict > GOOD} == ({"W2", "b1"} if bugs else set())
    assert bugs or report.difference < 1e-13


@pytest.mark.parametrize("activation", some(WRONG_DERIVATIVES, ["relu", "tanh"]))
@seeds(1, 12)
@methods
def test_clean_networks_are_never_accused(activation, method, seeds):
    """Weights from tiny to saturating, losses from 1e-6 to 1e6, with and without L2, buffers and functions."""
    for seed in seeds:
        for size in (0.01, 0.3, 1.0, 10.0):
            for factor in (1e-6, 1.0, 1e6):
                net = network(seed, activation, size=size, factor=factor, strength=0.1 * (seed % 2))
                grads = net.backward if seed % 3 else net.backward(net.params)
                report = check_gradients(net.loss, net.params, grads, method=method, seed=seed)
                assert report.verdict <= INCONCLUSIVE
                if 0.1 < size < 2:
                    assert report.verdict is GOOD


@pytest.mark.parametrize("bug", some(EDITS, ["scaled", "last sample only", "L2 missing"]))
@pytest.mark.parametrize("activation", some(["relu", "tanh"], ["tanh"]))
@seeds(1, 6)
@methods
def test_planted_bugs_are_found_where_they_are(bug, activation, method, seeds):
    """A spoilt gradient is accused and all others are good, at any magnitude of the loss."""
    (name,) = EDITS[bug]
    for seed in seeds:
        for factor in (1e-6, 1.0, 1e6):
            net = network(seed, activation, strength=0.1, factor=factor, edits=EDITS[bug])
            for grads in (net.backward, net.backward(net.params)):
                report = check_gradients(net.loss, net.params, grads, method=method, seed=seed)
                assert {key for key, verdict in verdicts(report).items() if verdict > GOOD} == {name[1:]}
                assert report.verdict > INCONCLUSIVE


@pytest.mark.parametrize("activation", WRONG_DERIVATIVES)
@seeds(1, 6)
@methods
def test_a_wrong_activation_derivative_shows_below(activation, method, seeds):
    """The layers below the wrong derivative are accused, the one above is good."""
    for seed in seeds:
        net = network(seed, activation, derivative=WRONG_DERIVATIVES[activation])
        found = verdicts(check_gradients(net.loss, net.params, net.backward, method=method, seed=seed))
        assert found["W3"] is found["b3"] is GOOD
        assert min(found[name] for name in ("W1", "b1", "W2", "b2")) > INCONCLUSIVE


@pytest.mark.parametrize("size", [0.01, 10.0])
@pytest.mark.parametrize("bug", EDITS)
@seeds(1, 4)
def test_planted_bugs_are_never_good_in_extreme_networks(bug, size, seeds):
    """Where weights are tiny or units saturated a bug may be hard to see; it is never called good."""
    for activation in ("relu", "tanh", "sigmoid"):
        for seed in seeds:
            net = network(seed, activation, size=size, strength=0.1, edits=EDITS[bug])
            (name,) = EDITS[bug]
            clean = network(seed, activation, size=size, strength=0.1).backward(net.params)[name]
            if np.linalg.norm(net.backward(net.params)[name] - clean) < 1e-6 * np.linalg.norm(clean):
                continue  # the bug changes nothing here
            assert check_gradients(net.loss, net.params, net.backward).parameters[name[1:]].verdict > GOOD


@methods
@pytest.mark.parametrize(
    ("params", "loss", "grads"),
    [
        (3.0, lambda w: w**2, 6.0),
        (np.float64(3.0), lambda w: w**2, np.float64(6.0)),
        (np.array(3.0), lambda w: w**2, np.array(6.0)),
        (W, squares, 2 * W),
        ([W, (W, 2.0)], lambda p: squares(p[0]) + p[1][1] * squares(p[1][0]), [2 * W, (4 * W, squares(W))]),
        (
            {"layers": [{"W": W}, {"W": W}]},
            lambda p: sum(squares(layer["W"]) for layer in p["layers"]),
            {"layers": [{"dW": 2 * W}, {"grad_W": 2 * W}]},
        ),
        (namedtuple("P", "W b")(W, 1.0), lambda p: squares(p.W) + p.b**3, (2 * W, 3.0)),
        ({1: W, 2: W}, lambda p: squares(p[1]) + squares(p[2]), {1: 2 * W, 2: 2 * W}),
    ],
    ids=["number", "numpy scalar", "0-d", "array", "lists and tuples", "nested dicts", "named tuple", "number keys"],
)
def test_params_of_any_structure(params, loss, grads, method):
    """Numbers, arrays and any nesting of dicts, lists and tuples are checked, and a wrong gradient shows in each."""
    assert check_gradients(loss, params, grads, method=method).ok
    assert check_gradients(loss, params, lambda p: grads, method=method).ok
    wrong = check_gradients(lambda p: 2 * loss(p), params, grads, method=method)
    assert set(verdicts(wrong).values()) == {WORRY}


def test_findings_at_the_door_are_findings_on_one_parameter():
    """Missing, None, wrong shape and no number: WORRY there, with the reason, and the others are checked."""
    params = dict.fromkeys(("good", "missing", "none", "shape", "text", "nan", "wrong"), W)
    grads = dict.fromkeys(params, 2 * W) | {
        "none": None,
        "shape": W[:2],
        "text": np.array(["a", "b", "c"]),
        "nan": np.array([1.0, np.nan, 4.0]),
        "wrong": W,
        "dZ": W,
    }
    del grads["missing"]
    report = check_gradients(lambda p: sum(squares(w) for w in p.values()), params, grads)
    assert verdicts(report) == {name: GOOD if name == "good" else WORRY for name in params}
    assert "Not parameters, ignored: dZ." in report.notes
    assert all(c.note for name, c in report.parameters.items() if name not in ("good", "wrong"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@methods
def test_a_loss_that_is_not_finite_is_inconclusive(value, method):
    """No exception from NumPy, no pass: the report states the value, whatever the gradient."""
    for grads in (2 * W, W * np.nan, lambda w: 2 * w):
        report = check_gradients(lambda w: squares(w) * value, W, grads, method=method)
        assert report.verdict is INCONCLUSIVE
        assert report.parameters["theta"].note.startswith(f"the loss is {value}, although all parameters are finite")


def test_which_parameter_was_not_finite_before_the_loss_is_said():
    """The weights are the trouble, and not the loss."""
    params = {"W": np.array([1.0, np.nan]), "b": np.ones(2), "c": np.array([np.inf])}
    report = check_gradients(lambda p: sum(map(squares, p.values())), params, {n: 2 * a for n, a in params.items()})
    assert {c.note for c in report.parameters.values()} == {
        "the loss is nan, and W and c are not finite already: look at the steps before"
    }


def test_a_gradient_that_is_not_finite_is_shown_where():
    """The first entries, and how many there are."""
    grads = np.full((2, 3), np.inf)
    grads[0, 1], grads[1] = 2.0, [2.0, np.nan, -np.inf]
    (found,) = check_gradients(squares, np.ones((2, 3)), grads).diagnoses
    assert found.evidence == "dtheta: 4 of 6 entries, [0, 0] is inf, [0, 2] is inf, [1, 1] is nan and 1 more."


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", [None, central, complex_step, fixed_step(1e-7)])
def test_nan_never_passes(bad, method):
    """One NaN in a gradient is WORRY when the loss is fine, with buffers and with a function."""
    grads = 2 * W + np.array([0, bad, 0])
    for handed_in in (grads, lambda w: grads):
        assert check_gradients(squares, W, handed_in, method=method).verdict is WORRY


@methods
def test_no_gradient_on_either_side_is_good(method):
    """A parameter that the loss does not use, with a gradient of zero, is good and says so."""
    report = check_gradients(
        lambda p: squares(p["w"]), {"w": W, "unused": W}, {"w": 2 * W, "unused": 0 * W}, method=method
    )
    assert report.ok
    assert report.parameters["unused"].note == "no gradient"
    assert check_gradients(lambda w: 3.0, W, 0 * W, method=method).ok


@methods
def test_a_loss_that_ignores_its_parameters_is_never_good(method):
    """A loss that reads other arrays than those it is given has no slope; a gradient that is not zero is not good."""
    assert check_gradients(lambda w: squares(W), W, 2 * W, method=method).verdict > GOOD


@pytest.mark.parametrize("strength", [1e-8, 1e-5, 1e-2])
@pytest.mark.parametrize("as_function", [False, True])
def test_a_penalty_apart_is_seen_at_any_strength(strength, as_function):
    """A forgotten penalty shows in the share that the report states, and is accused as far as its share can be seen."""
    net = network(0, "tanh", strength=strength)
    data, penalty = net.data_loss, net.penalty
    clean = net.backward if as_function else net.backward(net.params)
    report = check_gradients(data, net.params, clean, penalty=penalty)
    assert report.ok
    assert report.loss == pytest.approx(net.loss(net.params))
    forgotten = network(0, "tanh")
    without = forgotten.backward if as_function else forgotten.backward(net.params)
    wrong = check_gradients(data, net.params, without, penalty=penalty)
    assert wrong.penalty_share == pytest.approx(report.penalty_share, rel=1e-6)
    share = {name: c.penalty_share for name, c in report.parameters.items()}
    assert {n for n, verdict in verdicts(wrong).items() if verdict > GOOD} == {n for n in share if share[n] > 2.1e-7}
    assert 0 < report.penalty_share < strength * 100
    assert share["b1"] == 0


def test_without_a_penalty_there_is_no_share():
    """The share is unknown, not zero, when the penalty is inside the loss."""
    assert math.isnan(check_gradients(squares, W, 2 * W).penalty_share)


@pytest.mark.parametrize("limit", [{"max_evaluations": 1}, {"max_evaluations": 30}, {"max_seconds": 0}])
@pytest.mark.parametrize("wrong", [1, 2])
def test_what_the_budget_did_not_allow_is_said(limit, wrong):
    """Entries that were not looked at make a parameter inconclusive, with a note; nothing is good unseen."""
    params = {"W": np.linspace(-1, 1, 50), "b": W}
    grads = {n: wrong * 2 * a for n, a in params.items()}
    report = check_gradients(lambda p: squares(p["W"]) + squares(p["b"]), params, grads, probes=entries, **limit)
    assert report.verdict > GOOD
    assert report.parameters["W"].verdict > GOOD
    (spent,) = (f"the budget ({name}={value}) was spent" for name, value in limit.items())
    assert spent in report.parameters["W"].note
    assert not report.parameters["W"].exact


def test_a_budget_that_suffices_changes_nothing():
    """A limit that is not reached leaves the result as it is."""
    free = check_gradients(squares, W, 2 * W)
    limited = check_gradients(squares, W, 2 * W, max_evaluations=free.evaluations + 1, max_seconds=1e6)
    assert repr(limited.parameters) == repr(free.parameters)


@pytest.mark.parametrize(
    ("probes", "gradients"),
    [
        (None, 2),  # at the door
        (automatic, 7),  # and five times to see what rounding does to it
    ],
)
def test_evaluations_are_counted(probes, gradients):
    """The report states how often the loss and the gradient were called."""
    calls = {"loss": 0, "gradient": 0}

    def loss(w):
        calls["loss"] += 1
        return squares(w)

    def gradient(w):
        calls["gradient"] += 1
        return 2 * w

    report = check_gradients(loss, W, gradient, probes=probes)
    assert (report.evaluations, report.gradients) == (calls["loss"], calls["gradient"])
    assert report.gradients == gradients
    assert report.seconds > 0


@methods
def test_the_same_seed_gives_the_same_report(method):
    """A check can be repeated to the bit, and another seed looks in another order."""
    net = network(0, "relu")
    first, again, other = (
        check_gradients(net.loss, net.params, net.backward, method=method, seed=seed) for seed in (1, 1, 2)
    )
    assert repr(first.parameters) == repr(again.parameters)
    assert (first.seed, first.evaluations) == (1, again.evaluations)
    assert verdicts(first) == verdicts(other)


def test_the_global_random_state_is_left_alone():
    """No check draws from NumPy's global stream."""
    before = np.random.get_state()[1].tobytes()
    check_gradients(squares, W, 3 * W)
    assert np.random.get_state()[1].tobytes() == before


@pytest.mark.parametrize("point", [W, np.array([1e-170, 2e-170]), np.array([1e200, -3e200])])
@methods
def test_callers_who_have_numpy_raise_are_not_disturbed(point, method):
    """np.seterr(all="raise") is meant for the training: the check neither trips over it nor changes it."""
    with np.errstate(all="raise"):
        settings = np.geterr()
        size = np.abs(point).max()
        for factor, expected in ((1, GOOD), (3, WORRY)):
            grads = factor * 2 * (point / size)
            assert check_gradients(lambda w: size * squares(w / size), point, grads, method=method).verdict is expected
        assert np.geterr() == settings


@methods
def test_overflow_inside_the_loss_is_no_crash(method):
    """exp of a large number next to the point: no warning reaches the caller, and no verdict is made up."""
    w = np.array([709.7])
    assert check_gradients(lambda w: np.sum(np.exp(w)), w, np.exp(w), method=method).verdict <= INCONCLUSIVE


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("make", [np.array, np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]])
@methods
def test_in_place(dtype, make, method):
    """The loss reads the user's own arrays, views included: clean is not accused, doubled is, every bit comes back."""
    net = network(0, "tanh", dtype=dtype)
    mine = {name: make(array) if array.ndim == 2 else array for name, array in net.params.items()}
    before = {name: array.tobytes() for name, array in mine.items()}
    for grads in (net.backward(mine), lambda: net.backward(mine)):
        report = check_gradients(lambda: net.loss(mine), mine, grads, in_place=True, method=method)
        assert report.verdict is (GOOD if dtype is np.float64 else report.verdict)
        assert report.verdict <= INCONCLUSIVE
    wrong = {name: 2 * grad if name == "dW3" else grad for name, grad in net.backward(mine).items()}
    found = verdicts(check_gradients(lambda: net.loss(mine), mine, wrong, in_place=True, method=method))
    assert found["W3"] is WORRY
    assert {name: array.tobytes() for name, array in mine.items()} == before


def test_accumulating_gradients_are_found():
    """A gradient function that adds to its buffer is WORRY although its first answer is right; its twin is good."""

    def accumulating(w, buffer=np.zeros(3)):  # noqa: B008 - the bug
        buffer += 2 * w
        return buffer

    report = check_gradients(squares, W, accumulating)
    assert report.verdict is WORRY
    assert [d.code for d in report.diagnoses] == ["not_repeatable"]
    assert check_gradients(squares, W, lambda w: 2 * w).ok


def test_a_nondeterministic_loss_is_refused():
    """Dropout in the loss has no slope to measure."""
    rng = np.random.default_rng(0)
    with pytest.raises(NondeterministicLoss, match="dropout"):
        check_gradients(lambda w: squares(w * (rng.random(3) < 0.5)), W, 2 * W)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "central"}, "method must be a callable, got 'central'.*central, complex_step or fixed_step"),
        ({"method": 1e-7}, "method must be a callable, got 1e-07"),
        ({"method": fixed_step}, r"fixed_step lacks the step.*fixed_step\(1e-7\)"),
        ({"probes": "entries"}, "probes must be a callable, got 'entries'"),
        ({"tolerance": 1e-7}, r"tolerance must be a Tolerance, got 1e-07.*Tolerance\(good=1e-7\)"),
        ({"tolerance": None}, "tolerance must be a Tolerance, got None"),
    ],
)
def test_wrong_options_are_refused(options, said):
    """A string, a number or a function without its step is refused before the loss is called, with the right one."""
    with pytest.raises(InvalidProblem, match=said):
        check_gradients(lambda w: pytest.fail("the loss was called"), W, W, **options)


def test_a_method_of_ones_own():
    """Any callable that returns an estimate measures; its name is in the report."""

    def mine(line, *, scale, noise):
        return central(line, scale=scale, noise=noise)

    report = check_gradients(squares, W, 2 * W, method=mine)
    assert (report.verdict, report.method) == (GOOD, "mine")


def test_a_depth_of_ones_own():
    """Any callable that yields probes decides where to look; what it leaves out is not good."""

    def first_only(problem, generator):
        return [probe for probe in entries(problem, generator) if probe.index == 0]

    comparison = check_gradients(squares, W, 2 * W, probes=first_only).parameters["theta"]
    assert (comparison.verdict, comparison.measured) == (INCONCLUSIVE, 1)


@pytest.mark.parametrize(
    ("tolerance", "verdict"),
    [
        (Tolerance(), DOUBLE_CHECK),
        (Tolerance(worry=1e-5), WORRY),
        (Tolerance(good=1e-3, certain=1e-3, worry=1e-2), GOOD),
    ],
)
def test_the_bands_can_be_moved(tolerance, verdict):
    """A difference of about 5e-5 is what the tolerance says."""
    assert check_gradients(squares, W, 2 * W * (1 + 1e-4), tolerance=tolerance).verdict is verdict


def test_step_and_seed_are_written_down():
    """What the caller says is what the report repeats."""
    report = check_gradients(squares, W, 2 * W, step=17, seed=5)
    assert (report.step, report.seed, report.method) == (17, 5, "reference")


def test_each_term_is_measured_by_its_own_method():
    """A penalty that takes no complex numbers leaves complex step to the loss; a reference is one for both."""
    grads, penalty = 2 * W + 1, lambda w: np.abs(w).sum() - 2 * (w < 0) @ np.abs(w)
    for probes, method in ((automatic, "complex_step + central"), (None, "reference")):
        report = check_gradients(squares, W, grads, penalty=penalty, probes=probes)
        assert (report.ok, report.method) == (True, method)


def test_empty_arrays_are_good():
    """A parameter without entries has no gradient to be wrong."""
    empty = np.zeros((0, 2))
    report = check_gradients(lambda p: squares(p["w"]), {"w": W, "e": empty}, {"w": 2 * W, "e": empty})
    assert report.ok
    assert report.parameters["e"].note == "no entries"


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_a_loss_that_drops_imaginary_parts_of_its_own_is_checked():
    """A spectral loss casts complex numbers to real ones; only in a complex evaluation is that a refusal."""

    def spectral(w):
        return float(np.sum(np.fft.ifft(2 * np.fft.fft(w)).astype(float) ** 2))

    w = np.linspace(1, 2, 40)
    report = check_gradients(spectral, w, 8 * w)
    assert report.ok
    assert report.method == "central"
    assert check_gradients(spectral, w, 4 * w).verdict is Verdict.WORRY
