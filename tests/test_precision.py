"""The precision in which a verdict holds: what a gradient or a loss of float32 leaves open is said as a number."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gc_hooks import CheckReport, Tolerance, Verdict, check_gradients
from gc_hooks.arrays.gradients import match_gradients
from gc_hooks.problem.validate import build_problem
from gc_hooks.report.text import parameter_facts
from gc_hooks.report.verdict import Precision
from gc_hooks.slopes.probes import automatic

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 4)), RNG.normal(size=(16, 3))
POINT = {"w": RNG.normal(size=(4, 5)), "b": 0.1 * RNG.normal(size=5), "v": RNG.normal(size=(5, 3))}
SINGLE, DOUBLE = np.float32, np.float64
by_reference_and_by_slopes = pytest.mark.parametrize("probes", [None, automatic], ids=["reference", "slopes"])


def forward(p, dtype, error=None):
    """Return the loss of a tanh network and its gradient, rounded to a precision; one array may be wrong."""
    p, x, y = {name: np.asarray(array, dtype) for name, array in p.items()}, X.astype(dtype), Y.astype(dtype)
    h = np.tanh(x @ p["w"] + p["b"])
    e = (h @ p["v"] - y) / dtype(y.size)
    d = e @ p["v"].T * (1 - h**2)
    grads = {"w": x.T @ d, "b": d.sum(axis=0), "v": h.T @ e}
    if error:
        grads["w"] = grads["w"] * dtype(error)
    return np.sum(e * e) * dtype(y.size / 2), grads


def loss_casts(error, **options):
    """A loss that casts to float32, as JAX does; the gradient is a function that casts as well."""
    return check_gradients(lambda p: forward(p, SINGLE)[0], POINT, lambda p: forward(p, SINGLE, error)[1], **options)


def loss_casts_buffers(error, **options):
    """The same loss, with the gradient as arrays."""
    return check_gradients(lambda p: forward(p, SINGLE)[0], POINT, forward(POINT, SINGLE, error)[1], **options)


def in_place(error, **options):
    """Arrays of float32 that the loss reads where they are."""
    mine = {name: array.astype(SINGLE) for name, array in POINT.items()}
    return check_gradients(
        lambda: forward(mine, SINGLE)[0], mine, lambda: forward(mine, SINGLE, error)[1], in_place=True, **options
    )


def buffers(error, **options):
    """Arrays of float32 beside a loss in float64."""
    return check_gradients(
        lambda p: forward(p, p["w"].dtype.type)[0], POINT, forward(POINT, SINGLE, error)[1], **options
    )


def hidden_buffers(error, **options):
    """Arrays of float64 that hold what was computed in float32."""
    grads = {name: array.astype(DOUBLE) for name, array in forward(POINT, SINGLE, error)[1].items()}
    return check_gradients(lambda p: forward(p, p["w"].dtype.type)[0], POINT, grads, **options)


def function(error, **options):
    """A gradient function that casts to float32 beside a loss in float64."""
    return check_gradients(
        lambda p: forward(p, p["w"].dtype.type)[0], POINT, lambda p: forward(p, SINGLE, error)[1], **options
    )


WAYS = {
    loss_casts: "The loss computes in float32.",
    loss_casts_buffers: "The loss computes in float32.",
    in_place: "The loss reads arrays of float32 in place.",
    buffers: "The gradient was handed in as arrays of float32.",
    hidden_buffers: "The gradient was handed in as arrays of float32.",
    function: "The gradient function returns numbers of float32.",
}


@by_reference_and_by_slopes
@pytest.mark.parametrize("way", WAYS)
def test_a_right_gradient_in_float32_is_good_and_says_in_what(way, probes):
    """The report names what computes in float32, which error would have been seen, and what to change."""
    report = way(None, probes=probes)
    assert (report.method == "reference") == (probes is None)
    assert report.ok
    assert {comparison.precision for comparison in report.parameters.values()} == {Precision.SINGLE}
    (note,) = [note for note in report.notes if note.startswith(WAYS[way])]
    seen = max(comparison.sensitivity for comparison in report.parameters.values())
    assert f"GOOD in float32: a relative error above {seen:.0e} would have been seen." in note
    assert "Try " in note


@by_reference_and_by_slopes
@pytest.mark.parametrize("error", [2.0, -1.0, 1.1, 0.9])
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_gradient_in_float32_is_accused(way, error, probes):
    """The wider band of certainty lets no array pass that is wrong by a tenth, and accuses no other one."""
    verdicts = {name: comparison.verdict for name, comparison in way(error, probes=probes).parameters.items()}
    assert verdicts == {"w": WORRY, "b": GOOD, "v": GOOD}


@by_reference_and_by_slopes
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [1.003, 1.0003, 1.00003])
def test_what_passes_in_float32_lies_below_the_stated_sensitivity(way, error, probes):
    """A small error that float32 cannot tell from rounding is no larger than what the report says it would see."""
    comparison = way(error, probes=probes).parameters["w"]
    assert comparison.verdict is not GOOD or error - 1 < comparison.sensitivity


def test_float64_keeps_its_bands_and_says_nothing_of_precision():
    """Nothing changes where nothing computes in float32, round numbers among the gradients included."""
    report = check_gradients(lambda p: forward(p, p["w"].dtype.type)[0], POINT, lambda p: forward(p, DOUBLE)[1])
    assert report.ok
    assert not [note for note in report.notes if "float32" in note]
    squares = check_gradients(lambda w: np.sum(w**2), np.array([3.0, 0.5]), np.array([6.0, 1.0]))
    assert squares.parameters["theta"].precision is Precision.DOUBLE


def test_a_loss_whose_terms_cancel_is_not_one_of_float32():
    """Its noise is large for its value, and not for what its parameters do to it."""
    w = np.array([0.3, 0.7])
    offset = np.sum(np.sin(w)) - 1e-12
    report = check_gradients(lambda p: np.sum(np.sin(p)) - offset, w, np.cos(w))
    assert report.ok
    assert report.parameters["theta"].precision is Precision.DOUBLE


def test_what_stays_inconclusive_says_what_can_be_seen_and_what_to_change():
    """A band of the user's own is kept: what float32 cannot tell then is said in words, in the row and below."""
    report = check_gradients(
        lambda p: forward(p, SINGLE)[0],
        POINT,
        lambda p: forward(p, SINGLE)[1],
        tolerance=Tolerance(certain=2e-6),
        probes=automatic,  # slopes: a reference tells more
    )
    unclear = [comparison for comparison in report.parameters.values() if comparison.verdict is INCONCLUSIVE]
    assert unclear
    for comparison in unclear:
        assert f"no difference below {comparison.error:.0e} can be seen" in comparison.note
    least = min(comparison.error for comparison in unclear)
    (note,) = [note for note in report.notes if note.startswith("The loss computes in float32.")]
    assert f"INCONCLUSIVE in float32: no difference below {least:.0e} can be seen." in note
    assert note.endswith("Try to compute it in float64.")


@pytest.mark.parametrize(
    ("precision", "difference", "error", "verdict"),
    [
        (Precision.DOUBLE, 0.0, 1.1e-5, INCONCLUSIVE),
        (Precision.SINGLE, 0.0, 1.1e-5, GOOD),
        (Precision.SINGLE, 3e-3, 6e-3, GOOD),
        (Precision.SINGLE, 0.0, 1.1e-2, INCONCLUSIVE),
        (Precision.HALF, 0.0, 2e-2, GOOD),
        (Precision.HALF, 4.8e-2, 4.8e-2, INCONCLUSIVE),
        (Precision.HALF, 4.8e-2, 1e-2, WORRY),
        (Precision.SINGLE, 2e-7, 0.0, DOUBLE_CHECK),
        (Precision.SINGLE, 2e-3, 1e-3, WORRY),
        (Precision.SINGLE, float("nan"), 0.0, INCONCLUSIVE),
    ],
)
def test_only_the_band_of_certainty_depends_on_the_precision(precision, difference, error, verdict):
    """What is certainly wrong is wrong in every precision."""
    assert Tolerance().judge(difference, error, precision=precision) is verdict
    if verdict is GOOD:
        assert Tolerance(certain=9e-6).judge(difference, error, precision=precision) is INCONCLUSIVE


@pytest.mark.parametrize(
    ("gradient", "eps"),
    [
        (np.array([0.1, 0.2]), 2.0**-52),
        (np.array([0.1, 0.2]).astype(SINGLE).astype(DOUBLE), 2.0**-23),
        (np.array([0.1, np.nan, np.inf]).astype(SINGLE).astype(DOUBLE), 2.0**-23),
        (np.array([1e-39, 3e30]).astype(SINGLE).astype(DOUBLE), 2.0**-23),
        (np.array([0.0, 6.25, -1024.0]), 2.0**-52),
        (np.append(np.zeros(5000), 0.1), 2.0**-52),
        (np.append(0.1, np.zeros(5000)), 2.0**-52),
    ],
)
def test_numbers_of_float32_are_known_in_float64(gradient, eps):
    """By their digits: all fit into float32, and some need most of it. Round numbers and zeros say nothing."""
    assert match_gradients({"w": gradient}, {"w": gradient}).with_precision_of_numbers().precision == eps


SAMPLES = np.array([[6.0, 0.5], [0.1, -0.2], [-0.1, 0.1]])


def steep(p):
    """A sigmoid that is written with a tanh, which never overflows."""
    return np.mean((0.5 * (1 + np.tanh(12.5 * (SAMPLES @ p["w"]))) - 1) ** 2) + np.sum(p["b"] ** 2)


def overflowing(p):
    """Its gradient with exp(-z), which overflows in float32."""
    dtype = p["w"].dtype.type
    x = SAMPLES.astype(dtype)
    e = np.exp(dtype(-25) * (x @ p["w"]))
    slopes = dtype(50) * e / (1 + e) ** 2 * (1 / (1 + e) - 1)
    return {"w": x.T @ slopes / dtype(len(x)), "b": 2 * p["b"]}


@pytest.mark.parametrize("dtype", [np.float16, SINGLE, DOUBLE])
@pytest.mark.parametrize("as_function", [False, True])
def test_a_gradient_that_is_not_finite_in_the_trainings_precision_is_not_good(dtype, as_function):
    """The training uses what it computes there, and not what float64 would give; with float64 all is well."""
    p = {"w": np.array([-0.7, 0.1], dtype), "b": np.ones(2, dtype)}
    with np.errstate(all="ignore"):
        report = check_gradients(steep, p, overflowing if as_function else overflowing(p))
    verdicts = {name: comparison.verdict for name, comparison in report.parameters.items()}
    assert verdicts == {"w": GOOD if dtype is DOUBLE else WORRY, "b": GOOD}
    assert [diagnosis.code for diagnosis in report.diagnoses] == ([] if dtype is DOUBLE else ["not_finite"])
    told = [note for note in report.notes if note.startswith("The gradient of w is finite in float64, and not in")]
    assert len(told) == (as_function and dtype is not DOUBLE)


@pytest.mark.parametrize(("dtype", "gradients"), [(DOUBLE, 2), (SINGLE, 3)])
def test_a_gradient_function_is_asked_once_in_the_trainings_precision(dtype, gradients):
    """It is called at the user's own parameters, in their structure and type; float64 costs nothing more."""
    asked = []

    def grads(p):
        asked.append(p["w"].dtype)
        return {"w": 2 * p["w"]}

    problem = build_problem(lambda p: np.sum(p["w"] ** 2), {"w": np.array([0.1, 0.2], dtype)}, grads)
    assert problem.meter.gradients == gradients
    assert set(asked) == {np.dtype(dtype), np.dtype(DOUBLE)}
    assert problem.precision == np.finfo(DOUBLE).eps


def test_the_precision_is_kept_in_json_and_documents_without_it_are_read():
    """A document that was written before there was a precision holds in float64."""
    text = loss_casts(None).to_json()
    assert CheckReport.from_json(text).parameters["w"].precision is Precision.SINGLE
    document = json.loads(text)
    assert document["parameters"]["w"].pop("precision") == "float32"
    assert CheckReport.from_json(json.dumps(document)).parameters["w"].precision is Precision.DOUBLE


def test_the_page_states_the_precision_of_a_parameter():
    """Where it is not float64."""
    comparison = loss_casts(None).parameters["w"]
    assert dict(parameter_facts(comparison))["sensitivity"].startswith("in float32, a relative error above")
