"""Arrays of millions of entries, here of some hundreds: they are looked at where they are, and judged as others are."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gc_hooks import GradCheckHook, Verdict, check, check_gradients, drift, joint, per_parameter
from gc_hooks import problem as problem_module
from gc_hooks.arrays import large
from gc_hooks.arrays.large import Normals, inner, jittered, normals, sampled, scrambled, shifted_within, view_or_copy
from gc_hooks.problem import validate
from gc_hooks.slopes import instrument, probes
from gc_hooks.verdicts import localize
from hunts import some
from zoo import network


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """From twelve entries on, in blocks of five."""
    for module in (large, problem_module, validate, probes, instrument, localize, check):
        monkeypatch.setattr(module, "LARGE", 12)
    monkeypatch.setattr(large, "BLOCK", 5)
    monkeypatch.setattr(large, "SAMPLE", 6)


@pytest.fixture
def drawn(rng) -> Normals:
    return normals(rng, (4, 8), 2.0)


def test_a_direction_is_the_same_at_every_look(drawn):
    """Drawn anew from its seed, in another process too; its opposite is its opposite."""
    whole = np.asarray(drawn)
    assert whole.shape == (4, 8)
    assert np.array_equal(whole, np.asarray(pickle.loads(pickle.dumps(drawn))))
    assert np.array_equal(-whole, np.asarray(-drawn))
    assert 0.5 < np.std(whole) < 4


def test_small_arrays_get_a_direction_that_is_there(rng):
    """Nothing is drawn twice that need not be."""
    assert isinstance(normals(rng, (2, 5)), np.ndarray)


@pytest.mark.parametrize("t", [1e-3, 1e-30j])
@pytest.mark.parametrize("order", ["C", "F"])
def test_going_along_a_direction_and_its_slope_are_those_of_the_whole_vector(drawn, rng, t, order):
    """Block by block, in whatever order the array lies."""
    array, v = np.asarray(rng.standard_normal((4, 8)), order=order), np.asarray(drawn)
    assert np.array_equal(shifted_within(array, t, drawn), array + t * v)
    assert inner(drawn, array) == pytest.approx(np.vdot(v, array), rel=1e-13)


def test_a_jitter_moves_every_entry_by_a_share_of_itself(rng):
    """And the large array that was moved is nobody's to write to."""
    array = rng.standard_normal((4, 8))
    moved = jittered(array, 1e-3, rng)
    assert 0 < np.max(np.abs(moved / array - 1)) < 1e-2
    assert not moved.flags.writeable


def test_a_jitter_moves_a_bias_that_is_zero_by_the_rounding_of_its_unit(rng):
    point = {"W": 10 * np.ones((2, 2)), "b": np.zeros(3)}
    moved = validate.build_problem(lambda p: np.sum(p["W"]), point, point).jittered(rng).point
    assert 0 < np.max(np.abs(moved["W"] / 10 - 1)) < 1e-14
    assert np.all(moved["b"] != 0)
    assert np.max(np.abs(moved["b"])) < 1e-13


def test_scrambled_entries_have_the_same_sizes_block_by_block(rng):
    """Of a large array; a small one is scrambled as a whole."""
    array = np.arange(1.0, 33).reshape(4, 8)
    moved = scrambled(array, rng)
    assert not np.array_equal(moved, array)
    assert np.array_equal(np.sort(np.abs(moved.reshape(-1)[:5])), array.reshape(-1)[:5])
    assert np.array_equal(np.sort(np.abs(scrambled(array[:1], rng)), axis=None), array[0])


def test_a_large_array_of_float64_is_not_copied():
    """It cannot be written to through what the loss gets; all others are copied."""
    array = np.ones(20)
    view = view_or_copy(array)
    assert np.shares_memory(view, array)
    assert not view.flags.writeable
    assert array.flags.writeable
    for other in (np.ones(3), np.ones(20, np.float32), np.ones(20, ">f8")):
        assert not np.shares_memory(view_or_copy(other), other)


def test_a_sample_has_the_norm_of_the_whole(rng):
    """About; and of a small array the sample is all."""
    array = rng.standard_normal(4000)
    assert np.linalg.norm(sampled(array)) == pytest.approx(np.linalg.norm(array), rel=1)
    assert sampled(array[:3]) is not None
    assert np.array_equal(sampled(array[:3]), array[:3])


@pytest.mark.parametrize("activation", some(["tanh", "relu", "sigmoid"], ["relu"]))
@pytest.mark.parametrize("probes", [None, per_parameter, joint])
@pytest.mark.parametrize("way", ["function", "buffers", "in place"])
@pytest.mark.parametrize("seed", some(range(3), [0]))
def test_large_arrays_are_judged_as_others_are(activation, probes, way, seed):
    """A correct network is never accused, one with a wrong weight matrix is, and both are left as they were."""
    right = network(seed, activation)
    wrong = network(seed, activation, edits={"dW2": lambda grad, params, net: 1.01 * grad})
    before = {name: array.tobytes() for name, array in right.params.items()}
    assert verdict_of(right, way, probes) <= Verdict.INCONCLUSIVE
    assert verdict_of(wrong, way, probes) >= Verdict.DOUBLE_CHECK
    for net in (right, wrong):
        assert {name: array.tobytes() for name, array in net.params.items()} == before


def verdict_of(net, way, probes):
    p = net.params
    loss = (lambda: net.loss(p)) if way == "in place" else net.loss
    grads = net.backward if way == "function" else net.backward(p)
    return check_gradients(loss, p, grads, in_place=way == "in place", probes=probes).verdict


def test_it_is_said_that_neither_a_trace_nor_complex_numbers_were_asked_for():
    """A copy of complex numbers would be two more, and a trace holds what forward makes."""
    report = check_gradients(lambda w: np.sum(w * w), np.ones(20), np.full(20, 2.0))
    assert report.ok
    assert report.method == "central"
    assert any("so large" in note for note in report.notes)
    assert any("more than four million entries" in note for note in report.notes)


def test_a_loss_that_writes_into_a_large_array_is_told_by_numpy():
    """It is the training's own, and stays as it is."""
    w = np.ones(20)

    def careless(w):
        w *= 2
        return np.sum(w)

    with pytest.raises(ValueError, match="read-only"):
        check_gradients(careless, w, np.ones(20))
    assert np.array_equal(w, np.ones(20))


def test_movement_is_seen_in_a_sample():
    """How far the weights have gone, for the report and for a schedule that looks at them."""
    hook = GradCheckHook(reporters=[], schedule=drift(0.25))
    for step in range(6):
        w = np.full(400, 1 + 0.1 * step)
        hook.on_step(step, loss=lambda w: np.sum(w * w), params=w, grads=2 * w)
    assert [report.step for report in hook.reports] == [0, 3]
    assert hook.reports[1].moved == pytest.approx(0.3)
    assert hook.reports[1].parameters["theta"].weight_norm == pytest.approx(1.3 * 20)
