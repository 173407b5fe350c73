"""Is it the gradient at all? A hook in the wrong place is told as that, with a backward pass that is right."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks import GradCheckHook, Verdict, adapters

SHAPES = {"W1": (6, 8), "b1": (8,), "W2": (8, 3), "b2": (3,)}
MISTAKES = {
    "": None,
    "after the update": "after_the_update",
    "before backward": "stale",
    "buffers never zeroed": "accumulated",
    "velocity": "momentum",
}


def probabilities(p, x):
    hidden = np.tanh(x @ p["W1"] + p["b1"])
    z = hidden @ p["W2"] + p["b2"]
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    return hidden, e / np.sum(e, axis=1, keepdims=True)


def cost(p, x, y):
    return -np.mean(np.log(probabilities(p, x)[1][np.arange(len(y)), y]))


def backward(p, x, y):
    hidden, delta = probabilities(p, x)
    delta = delta.copy()
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    below = (delta @ p["W2"].T) * (1 - hidden**2)
    return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ delta, "b2": delta.sum(axis=0)}


class Net:
    """The same as a class that keeps its arrays and changes them in place."""

    def __init__(self, params):
        self.__dict__.update(params)

    @property
    def params(self):
        return {name: getattr(self, name) for name in SHAPES}


def train(mistake, how="dicts", dtype=float, steps=4):
    """Train by hand, with a hook in the right place or a wrong one; return its reports."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.normal(size=(90, 6)).astype(dtype), rng.integers(3, size=90)
    params = {name: (rng.normal(size=shape) / 2).astype(dtype) for name, shape in SHAPES.items()}
    net = Net(params)
    hook = GradCheckHook(after=3, reporters=[], on_fail=lambda report: None)
    grads = {name: np.zeros_like(array) for name, array in params.items()}
    velocity = dict(grads)

    def call(step, x, y, grads):
        if how == "dicts":
            hook.on_step(step, loss=lambda p: cost(p, x, y), params=params, grads=grads)
        elif how == "in place":
            hook.on_step(step, loss=lambda: cost(net.params, x, y), params=net.params, grads=grads, in_place=True)
        else:
            attachment = adapters.dicts(net.params, grads, loss=lambda: cost(net.params, x, y), in_place=True)
            hook.on_step(step, **attachment)

    for step in range(steps):
        rows = rng.permutation(90)[:32]
        x, y = inputs[rows], labels[rows]
        if mistake == "before backward":
            call(step, x, y, grads)
        fresh = {name: grad.astype(dtype) for name, grad in backward(params, x, y).items()}
        if mistake == "buffers never zeroed":
            fresh = {name: grad + grads[name] for name, grad in fresh.items()}
        grads = fresh
        velocity = {name: (0.9 * velocity[name] + grad).astype(dtype) for name, grad in grads.items()}
        if mistake in ("", "buffers never zeroed", "velocity"):
            call(step, x, y, velocity if mistake == "velocity" else grads)
        for name, array in params.items():
            array -= 0.1 * (velocity if mistake == "velocity" else grads)[name]
        if mistake == "after the update":
            call(step, x, y, grads)
    hook.close()
    return hook.reports


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("how", ["dicts", "in place", "adapter"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_hook_in_the_wrong_place_is_told_as_that(mistake, how, dtype):
    """From the second call on, and again at the third check, which does not see the call before; a right loop never."""
    reports = train(mistake, how, dtype)
    assert [report.step for report in reports] == [0, 1, 3]
    if not mistake:
        assert [(report.verdict, report.diagnoses) for report in reports] == [(Verdict.GOOD, ())] * 3
        return
    for report in reports[1:]:
        (found,) = report.diagnoses
        assert (report.verdict, found.code) == (Verdict.WORRY, MISTAKES[mistake])
        assert set(found.parameters) == set(SHAPES)
    assert [report.as_at for report in reports[1:]] == [None, 1]  # told once


def test_a_wrong_backward_is_not_taken_for_a_wrong_place():
    """The first delta is wrong at each call, and the parameters move in between."""
    rng, hook = np.random.default_rng(2), GradCheckHook(after=3, reporters=[], on_fail=lambda report: None)
    x, y = rng.normal(size=(32, 6)), rng.integers(3, size=32)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    for step in range(4):
        grads = {name: np.sign(grad) for name, grad in backward(params, x, y).items()}
        hook.on_step(step, loss=lambda p: cost(p, x, y), params=params, grads=grads)
        params = {name: array - 0.01 * grads[name] for name, array in params.items()}
    for report in hook.reports:
        assert not {diagnosis.code for diagnosis in report.diagnoses} & set(MISTAKES.values())


def test_the_parameters_are_what_they_were():
    """Those of the call before are set for the question, and put back to the bit, in place too."""
    seen = []
    rng = np.random.default_rng(3)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    x, y = rng.normal(size=(32, 6)), rng.integers(3, size=32)
    hook = GradCheckHook(after=3, reporters=[], on_fail=lambda report: None)
    for step in range(2):
        grads = backward(params, x, y)
        for name, array in params.items():
            array -= 0.1 * grads[name]
        before = {name: array.copy() for name, array in params.items()}
        hook.on_step(step, loss=lambda: cost(params, x, y), params=params, grads=grads, in_place=True)
        seen.append(all(np.array_equal(before[name], params[name]) for name in params))
    assert hook.reports[-1].diagnoses[0].code == "after_the_update"
    assert seen == [True, True]


@pytest.mark.parametrize("strength", [0.01, 0.02])
def test_a_penalty_of_its_own_is_told_apart(strength):
    """Handed in apart, a term twice as strong is named as that; the right one is GOOD, with its share."""
    rng, hook = np.random.default_rng(4), GradCheckHook(after=None, reporters=[], on_fail=lambda report: None)
    x, y = rng.normal(size=(32, 6)), rng.integers(3, size=32)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    grads = backward(params, x, y)
    for name in ("W1", "W2"):
        grads[name] += strength * params[name]

    def penalty(p):
        return 0.005 * (np.sum(p["W1"] ** 2) + np.sum(p["W2"] ** 2))

    hook.on_step(0, loss=lambda p: cost(p, x, y), params=params, grads=grads, penalty=penalty)
    report = hook.reports[0]
    assert [diagnosis.code for diagnosis in report.diagnoses] == (["l2_factor"] if strength > 0.01 else [])
    assert report.ok == (strength == 0.01)
    assert 0 < report.penalty_share < 1


@pytest.mark.parametrize("factor", [2.0, 1.5, 1 + 5e-6])
def test_a_multiple_of_this_call_s_own_gradient_is_no_momentum(factor):
    """With one batch and a small step the gradients of two calls are nearly one, and tell nothing."""
    rng = np.random.default_rng(5)
    x, y, hook = rng.normal(size=(20, 4)), rng.normal(size=20), GradCheckHook(reporters=[], on_fail=lambda report: None)
    w = np.full(4, 0.5)
    for step in range(2):
        outputs = np.tanh(x @ w)
        grads = factor * x.T @ ((outputs - y) * (1 - outputs**2)) / 20
        hook.on_step(step, loss=lambda w: 0.5 * np.mean((np.tanh(x @ w) - y) ** 2), params=w, grads=grads)
        w = w - 1e-7 * grads
    assert [[diagnosis.code for diagnosis in report.diagnoses] for report in hook.reports] == [["scaled"]] * 2
