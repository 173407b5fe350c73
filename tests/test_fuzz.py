"""Whatever the problem: correct code is never accused, no error above the stated sensitivity is called good, nothing is
left behind, and what comes out is a report or one of the package's own errors."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzzing import Drawn, Error, Leaf, accused, checked, drawn, errors, missed
from gc_hooks import CheckReport, GradCheckError, check_gradients

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "3"))
"""How many problems each test draws, beside those that were found before. Who asks for more is on a long hunt."""

pytestmark = [pytest.mark.slow] if "FUZZ_EXAMPLES" in os.environ else []
SEEDS = range(1, 4)
"""A bound along random directions holds with 99 %: what a check misses by chance, three others do not."""

fuzz = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


UNITS = Leaf((), scale=1e-5), Leaf((), scale=1e6)
"""Parameters in very different units: steps chosen by the others reach too far."""


@fuzz
@given(drawn())
@example(Drawn({"a": Leaf(()), "b": [Leaf(()), *UNITS]}, curves=("linear", "sin")))
@example(Drawn((Leaf((), scale=1e-3, zeros=True), Leaf((), scale=1e6)), curves=("sin",)))
@example(Drawn((Leaf((), scale=1e7), Leaf((), "float32", 0.1)), curves=("linear", "sin"), in_place=True))
@example(Drawn(Leaf((), "float16", 100.0), curves=("linear",), size=1e-5, buffers=True))
@example(Drawn([Leaf((), "float32", zeros=True)], size=0.01, buffers=True, rounded=True, seed=10000))
def test_a_correct_gradient_is_never_accused(problem):
    """GOOD or INCONCLUSIVE, whatever the loss, its noise and kinks, the scales, dtypes and layouts; and no trace."""
    assert accused(checked(problem)) == {}


@fuzz
@given(drawn(), errors)
@example(Drawn([Leaf((2, 3, 2, 2), "longdouble")], curves=("linear",), in_place=True), Error("scaled", 1.0))
@example(Drawn(Leaf((2, 3, 2, 2), "float32", 1e-7), curves=("linear",), in_place=True, seed=105), Error("scaled", 1.0))
@example(Drawn({"0": Leaf((), scale=1e5, zeros=True)}, curves=("linear",), noise="float32"), Error("one entry", 1.0))
@example(
    Drawn(
        {
            "0": (Leaf((), scale=1e-4, zeros=True), Leaf((), scale=1e8)),
            "1": Leaf(()),
            "00": (Leaf(()), Leaf((), scale=1e-5)),
        },
        curves=("exp",),
    ),
    Error("scaled", 1.0, 2),
)
def test_an_error_above_the_stated_sensitivity_is_never_good(problem, error):
    """A planted error is called good only where it is smaller than the smallest one that the check would have seen."""
    assert not missed(problem, error) or not all(missed(problem, error, seed) for seed in SEEDS)


class Strange(np.ndarray):
    """An array type of one's own, with a product of its own."""

    def __mul__(self, other):
        return 0


ODD = [
    None, True, 3, -0.0, 1e308, float("nan"), float("inf"), 1j, "W", b"W", object(), {1, 2}, range(3), ..., lambda: 0,
    np.float32(2), np.int8(3), np.array(1.5), np.array([]), np.zeros((0, 3)), np.array([1, 2]), np.array([True]),
    np.array([1j]), np.array(["W"]), np.array([None]), np.array([(1, 2.0)], dtype="i4,f8"), np.array(["2001"], "M8[Y]"),
    np.array([np.nan, np.inf, -np.inf]), np.full(3, 1e308), np.full(3, 5e-324), np.ones(3), np.ones(3, ">f8"),
    np.ones((1, 2)).view(np.matrix), np.ma.array([1.0, 2.0], mask=[0, 1]), np.ones(3).view(Strange),
    np.broadcast_to(1.0, (2, 2)), np.ones(3, np.float16), np.ones(3, np.longdouble), np.zeros(3), [], {}, (), [[]],
]  # fmt: skip
things = st.recursive(
    st.sampled_from(ODD),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from(["W", "dW", "b", "", 0, 1.5, None, "a.b", "\ud800"]), inner, max_size=3),
    ),
    max_leaves=4,
)


@fuzz
@given(things, things, things, st.booleans(), st.booleans())
def test_whatever_is_handed_in_there_is_a_report_or_an_error_of_our_own(params, grads, value, in_place, as_function):
    """No argument, however strange, ends in somebody else's exception; and a report of it can be written and read."""
    given_grads = (lambda *point: grads) if as_function else grads
    with contextlib.suppress(GradCheckError):
        report = check_gradients(lambda *point: value, params, given_grads, in_place=in_place)
        assert CheckReport.from_json(report.to_json()).verdict is report.verdict
        assert all([str(report), report.to_markdown(), report._repr_html_()])
