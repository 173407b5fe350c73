"""Every bug of the zoo is named, at small sizes and at large ones, and nothing is named on a clean twin."""

from __future__ import annotations

import pytest

from bug_zoo import BUGS, Bug
from gc_hooks import Verdict, central, check_gradients, joint, per_parameter
from gc_hooks.slopes.probes import automatic
from hunts import some

SMALL, LARGE = 6, 80
FEW = ("W2 twice", "L2 missing, apart", "one entry of W2", "derivative of layer 3")
"""Bugs of four kinds, which are tried in every way also where the others are left to the long hunts."""
PATTERNS = ("a row of W3", "a column of W3", "rows of a repeated index")
"""Bugs that only the entries show."""
ONE_OF_EACH = list({bug.codes: name for name, bug in BUGS.items()}.values())
"""A bug for each code."""


def named(bug, activation, width, **settings):
    """The codes of the diagnoses, and the parameters that they are about."""
    loss, params, gradient, options = bug.case(activation, width)
    report = check_gradients(loss, params, gradient, **options, **settings)
    codes = sorted(diagnosis.code for diagnosis in report.diagnoses)
    return codes, {name for diagnosis in report.diagnoses for name in diagnosis.parameters}, report


@pytest.mark.parametrize("activation", some(["tanh", "sigmoid", "relu"], ["tanh"]))
@pytest.mark.parametrize("bug", some(BUGS, ONE_OF_EACH))
def test_a_bug_is_named_where_everything_is_measured(bug, activation):
    """The right code, for exactly the wrong parameters, and nothing beside it."""
    codes, parameters, _ = named(BUGS[bug], activation, SMALL)
    assert codes == sorted(BUGS[bug].codes)
    assert parameters == set(BUGS[bug].parameters)


@pytest.mark.parametrize("probes", [None, automatic])
@pytest.mark.parametrize("bug", some(BUGS, FEW))
def test_a_bug_is_named_in_a_large_network(bug, probes):
    """The same answer from all entries and from a few random directions."""
    codes, parameters, report = named(BUGS[bug], "tanh", LARGE, probes=probes)
    assert (report.method == "reference") == (probes is None)
    is_hidden = probes is not None and bug in PATTERNS  # a sample does not show it
    assert codes == (["unexplained"] if is_hidden else sorted(BUGS[bug].codes))
    assert parameters == set(BUGS[bug].parameters)


@pytest.mark.parametrize(
    "settings", [{"probes": automatic}, {"probes": per_parameter}, {"probes": joint}, {"method": central}]
)
@pytest.mark.parametrize("bug", some(BUGS, FEW))
def test_a_bug_is_named_however_it_was_found(bug, settings):
    """Whatever the depth and the method."""
    codes, parameters, _ = named(BUGS[bug], "sigmoid", SMALL, **settings)
    assert codes == sorted(BUGS[bug].codes)
    assert parameters == set(BUGS[bug].parameters)


def clean_twins():
    """Return the twin of each bug without its edit and its faulty lines; twins that are alike count once."""
    twins = {}
    for name, bug in BUGS.items():
        faults = tuple(fault for fault in bug.faults if fault == "dropout")
        twins.setdefault((faults, bug.apart), pytest.param(Bug((), (), faults=faults, apart=bug.apart), id=name))
    return list(twins.values())


@pytest.mark.parametrize("twin", clean_twins())
def test_the_clean_twin_is_given_no_name(twin):
    """Without the edit and the faulty lines of backward all is good, and nothing is said."""
    codes, _, report = named(twin, "tanh", SMALL)
    assert (report.verdict, codes) == (Verdict.GOOD, [])


def test_a_diagnosis_has_three_beats():
    """What was seen with its numbers, what it usually means, what to try."""
    for bug in ("W2 twice", "L2 missing", "derivative of layer 2"):
        for diagnosis in named(BUGS[bug], "tanh", SMALL)[2].diagnoses:
            assert any(name in diagnosis.message for name in diagnosis.parameters)
            assert any(digit in diagnosis.evidence for digit in "0123456789")
            assert "Try" in diagnosis.advice


def test_a_constant_is_recognised_by_the_name_that_the_problem_gives_it():
    """Seven samples, three classes."""
    ((by_batch,), (by_classes,)) = (
        named(BUGS[bug], "tanh", SMALL)[2].diagnoses
        for bug in ("everything without 1/m", "everything by the number of classes")
    )
    assert "7 (batch size) times" in by_batch.message
    assert "3 (number of classes) times" in by_classes.message
    assert "for all parameters" in by_batch.message


def test_a_missing_penalty_is_named_with_its_strength():
    """To three digits."""
    (diagnosis,) = named(BUGS["L2 missing"], "tanh", SMALL)[2].diagnoses
    assert "0.01 times the parameter" in diagnosis.message


def test_diagnosing_costs_next_to_nothing():
    """At most a slope or two beyond what finding the wrong entries has cost."""
    for bug in ("W2 twice", "a row of W3", "derivative of layer 3"):
        loss, params, gradient, options = BUGS[bug].case("tanh", LARGE)
        report = check_gradients(loss, params, gradient, **options)
        assert report.evaluations < 2000
