"""When a check is due."""

from __future__ import annotations

import math

import pytest

from gc_hooks import InvalidProblem, any_of, at, drift, every, first, logspaced


def due(schedule, calls=1100):
    return [call for call in range(calls) if schedule(call)]


def test_at_names_the_calls():
    """`at` is due at the calls that it was given, in any order and more than once, and at no other."""
    assert due(at(1000, 0, 1, 1)) == [0, 1, 1000]
    assert due(at()) == []


def test_first_is_the_beginning():
    """`first` is due at so many calls from the first on."""
    assert due(first(3)) == [0, 1, 2]
    assert due(first(0)) == []


def test_every_is_a_period():
    """`every` begins with the first call and comes back once a period."""
    assert due(every(400)) == [0, 400, 800]
    assert due(every(1), 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("per_decade", [1, 2, 5])
def test_logspaced_makes_so_many_checks_for_each_tenfold(per_decade):
    """`logspaced` is due at the first two calls and equally often between 10 and 100 as between 100 and 1000."""
    calls = due(logspaced(per_decade))
    assert calls[:2] == [0, 1]
    assert {10, 100, 1000} <= set(calls)
    assert sum(10 <= call < 100 for call in calls) == sum(100 <= call < 1000 for call in calls) == per_decade


def test_any_of_is_the_union():
    """`any_of` is due where one of its schedules is, a plain function among them; with none it is never due."""
    assert due(any_of(at(3), every(500), lambda calls: calls == 7)) == [0, 3, 7, 500, 1000]
    assert due(any_of()) == []


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda: at(0, -1), "at needs a whole number, 0 or more, got -1. Try"),
        (lambda: at(True), "at needs .*, got True"),
        (lambda: first(2.5), "first needs a whole number, 0 or more, got 2.5"),
        (lambda: every(0), "every needs a whole number, 1 or more, got 0"),
        (lambda: logspaced(0), "logspaced needs a whole number, 1 or more, got 0"),
        (
            lambda: any_of(at(1), 500),
            r"A schedule must be a function of the number of calls, got 500..*every\(500\)",
        ),
    ],
)
def test_what_is_no_number_of_calls_is_refused(make, seen):
    """A number that cannot count calls, and a schedule that cannot be asked, are refused where they are written."""
    with pytest.raises(InvalidProblem, match=seen):
        make()


def test_drift_asks_for_the_movement():
    """`drift` is due from its share on; a training that has diverged is not checked at every call for it."""
    schedule = drift(0.25)
    assert [schedule(7, lambda moved=moved: moved) for moved in (0.0, 0.2, 0.25, math.inf, math.nan)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_drift_with_others_is_asked_last():
    """In a union the counting schedules decide first, and the smallest share counts."""
    schedule = any_of(drift(0.5), at(3), any_of(drift(0.1), every(10)))
    assert due(lambda call: schedule(call, lambda: 0.05), 25) == [0, 3, 10, 20]
    assert schedule(4, lambda: 0.2)
    assert due(schedule, 25) == [0, 3, 10, 20]  # nobody measures


@pytest.mark.parametrize("share", [0, -0.1, True, "a tenth", math.inf, math.nan])
def test_what_is_no_share_is_refused(share):
    """A share is a positive number."""
    with pytest.raises(InvalidProblem, match=r"drift needs a share of the weights' norm.*Try drift\(0.1\)"):
        drift(share)
