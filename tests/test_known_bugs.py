"""What a hook does after its first checks: it asks at little cost whether all is as it was, and is brief if so."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from gc_hooks import GradCheckHook, GradCheckWarning, GradientMismatch, Verdict, at, central, nn
from gc_hooks.numerics import KNOWN_MOST

GOOD, WORRY = Verdict.GOOD, Verdict.WORRY
RNG = np.random.default_rng(6)
LABELS = RNG.integers(3, size=60)
INPUTS = RNG.normal(size=(60, 5)) + np.eye(3, 5)[LABELS]
STYLES = ["pure", "nested", "refuses complex", "in place", "buffers", "buffers in place"]


def net_loss(p, kind=np.asarray):
    hidden = np.tanh(kind(INPUTS @ p["W1"] + p["b1"]))
    scores = hidden @ p["W2"] + p["b2"]
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(60), LABELS])


def net_gradient(p):
    hidden = np.tanh(INPUTS @ p["W1"] + p["b1"])
    scores = hidden @ p["W2"] + p["b2"]
    delta = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) - np.eye(3)[LABELS]) / 60
    below = delta @ p["W2"].T * (1 - hidden**2)
    return {"W1": INPUTS.T @ below, "b1": below.sum(axis=0), "W2": hidden.T @ delta, "b2": delta.sum(axis=0)}


class Loop:
    """A loop of one's own in one of the styles; ``factors(step)`` are what is wrong with which gradient then."""

    def __init__(self, style, factors, loss=net_loss):
        self.style, self.factors, self.loss, self.step = style, factors, loss, 0
        rng = np.random.default_rng(1)
        self.params = {
            "W1": 0.5 * rng.normal(size=(5, 6)),
            "b1": np.zeros(6),
            "W2": 0.5 * rng.normal(size=(6, 3)),
            "b2": np.zeros(3),
        }
        self.calls = Counter()

    def cost(self, *arguments):
        self.calls["loss"] += 1
        if self.style == "nested":
            (pairs,) = arguments
            return self.loss({f"{key}{k}": array for k, pair in enumerate(pairs, 1) for key, array in pair.items()})
        params = arguments[0] if arguments else self.params
        if self.style == "refuses complex":
            return self.loss(params, lambda array: array.astype(np.float64))
        return self.loss(params)

    def gradient(self, *arguments):
        self.calls["gradient"] += 1
        params = arguments[0] if arguments else self.params
        if self.style == "nested":
            params = {f"{key}{k}": array for k, pair in enumerate(params, 1) for key, array in pair.items()}
        grads = net_gradient(params)
        for name, factor in self.factors(self.step).items():
            grads[name] = factor * grads[name]
        return self.paired(grads) if self.style == "nested" else grads

    def paired(self, named):
        return [{key: named[f"{key}{k}"] for key in "Wb"} for k in (1, 2)]

    def run(self, hook, steps):
        """Return how often loss and gradient function were called at each step."""
        spent = []
        for self.step in range(steps):
            self.calls.clear()
            params = self.paired(self.params) if self.style == "nested" else self.params
            grads = self.gradient
            if "buffers" in self.style:
                grads = self.gradient(self.params)
                self.calls.clear()
            before = {name: array.copy() for name, array in self.params.items()}
            hook.on_step(self.step, loss=self.cost, params=params, grads=grads, in_place="in place" in self.style)
            spent.append((self.calls["loss"], self.calls["gradient"]))
            for name, array in self.params.items():
                assert np.array_equal(array, before[name])
                array -= 0.1 * net_gradient(before)[name]
        hook.close()
        return spent


def a_hook(**options):
    return GradCheckHook(**{"reporters": [], "after": None, **options})


def wrong_from(start, stop=math.inf, **factors):
    return lambda step: factors if start <= step < stop else {}


def told(hook):
    return [(report.step, report.verdict, report.as_at) for report in hook.reports]


# A glance after a good check


@pytest.mark.parametrize("style", STYLES)
def test_a_periodic_check_after_a_good_one_costs_three_evaluations_and_two_gradients(style):
    """One more at the first, where complex numbers are refused; live buffers need no gradient."""
    hook = a_hook(every=2)
    spent = Loop(style, wrong_from(99)).run(hook, 9)
    gradients = 0 if "buffers" in style else 2
    assert spent[2] == (4 if style == "refuses complex" else 3, gradients)
    assert spent[4::2] == [(3, gradients)] * 3
    assert spent[3::2] == [(0, 0)] * 3
    assert [report.verdict for report in hook.reports] == [GOOD] * 6
    assert hook.reports[-1].evaluations == 3
    assert all(comparison.sensitivity < 1e-4 for comparison in hook.reports[-1].parameters.values())


@pytest.mark.parametrize("style", STYLES)
def test_a_bug_that_sets_in_later_is_found(style):
    """The glance leaves it to the pipeline, which names the parameter and the bug."""
    hook = a_hook(every=2, on_fail=lambda report: None)
    Loop(style, wrong_from(3, b1=1.01)).run(hook, 6)
    assert told(hook) == [(0, GOOD, None), (1, GOOD, None), (2, GOOD, None), (4, WORRY, None)]
    assert len(hook.reports[-1].failing) == 1
    assert hook.reports[-1].diagnoses[0].code == "scaled"


@pytest.mark.parametrize("style", ["pure", "in place", "buffers"])
def test_a_gradient_that_gets_lost_or_is_no_number_is_found(style):
    """Missing, of another shape, NaN, and one that changes from call to call."""
    for factor in (math.nan, 0.0, np.ones((2, 1, 1))):
        hook = a_hook(every=2, on_fail=lambda report: None)
        Loop(style, wrong_from(3, b1=factor)).run(hook, 5)
        assert (hook.reports[-1].verdict, hook.reports[-1].failing) == (WORRY, ["b1"])


def test_a_gradient_function_that_does_not_repeat_itself_is_found():
    count = Counter()

    def factors(step):
        count["calls"] += step > 3
        return {"W2": 1 + count["calls"]}

    hook = a_hook(every=2, on_fail=lambda report: None)
    Loop("pure", factors).run(hook, 5)
    assert [diagnosis.code for diagnosis in hook.reports[-1].diagnoses] == ["not_repeatable"]


def test_a_method_of_the_users_choice_makes_every_check():
    hook = a_hook(every=2, method=central)
    spent = Loop("pure", wrong_from(99)).run(hook, 5)
    assert spent[4][0] > 5
    assert [report.verdict for report in hook.reports] == [GOOD] * 4


# A known bug


@pytest.mark.parametrize("style", STYLES)
def test_a_known_bug_is_told_once_and_measured_again_at_little_cost(style):
    """The same verdict, parameter and diagnosis, with what the difference is now; no warning and no search."""
    hook = a_hook(every=2)
    with pytest.warns(GradCheckWarning, match="looks wrong. step 0: WORRY") as caught:
        spent = Loop(style, wrong_from(0, W2=3.0)).run(hook, 7)
    assert len(caught) == 1
    assert told(hook) == [(0, WORRY, None), *((step, WORRY, 0) for step in (1, 2, 4, 6))]
    first, *others = hook.reports
    for report in others:
        assert (report.failing, report.diagnoses) == (first.failing, first.diagnoses)
        assert 0.1 < report.difference / first.difference < 10
        said = f"WORRY as at step 0, now {report.difference:.1e}: scaled in {report.failing[0]}"
        assert report.headline == f"step {report.step}: {said}"
    # Three for the direction through the right ones; four directions in the wrong one, by two central differences each.
    most = 3 + (4 if style in ("pure", "nested") else 16)
    for number in (2, 4, 6):
        assert spent[number][0] <= most
        assert spent[number][1] <= 2


@pytest.mark.parametrize("style", STYLES)
def test_a_second_bug_beside_a_known_one_is_told(style):
    hook = a_hook(every=2, on_fail=lambda report: None)
    Loop(style, lambda step: {"W2": 3.0, **({"b1": 1.01} if step > 3 else {})}).run(hook, 7)
    assert told(hook)[-3:] == [(2, WORRY, 0), (4, WORRY, None), (6, WORRY, 4)]
    assert [len(report.failing) for report in hook.reports[-3:]] == [1, 2, 2]


@pytest.mark.parametrize("style", STYLES)
def test_a_bug_that_is_repaired_is_good_and_told_anew_when_it_comes_back(style):
    hook = a_hook(every=2, on_fail=lambda report: None)
    Loop(style, lambda step: {"W2": 3.0} if step < 3 or step > 5 else {}).run(hook, 9)
    assert told(hook)[-4:] == [(2, WORRY, 0), (4, GOOD, None), (6, WORRY, None), (8, WORRY, 6)]


@pytest.mark.parametrize("style", STYLES)
def test_one_of_two_that_is_repaired_is_told(style):
    hook = a_hook(every=2, on_fail=lambda report: None)
    Loop(style, lambda step: {"W2": 3.0, "b1": 0.5} if step < 3 else {"W2": 3.0}).run(hook, 7)
    assert told(hook)[-3:] == [(2, WORRY, 0), (4, WORRY, None), (6, WORRY, 4)]
    assert [len(report.failing) for report in hook.reports[-3:]] == [2, 1, 1]


@pytest.mark.parametrize("style", STYLES)
def test_a_difference_that_grows_tenfold_is_told_in_full(style):
    hook = a_hook(every=2, on_fail=lambda report: None)
    Loop(style, lambda step: {"W2": 1.05 if step < 3 else 2.5}).run(hook, 7)
    assert told(hook)[-3:] == [(2, WORRY, 0), (4, WORRY, None), (6, WORRY, 4)]


def test_a_difference_that_only_seems_another_one_is_measured_again():
    """One bias alone: along a few directions a difference is short by chance, and nobody may be told so."""
    for seed in range(30):
        hook = a_hook(every=1, seed=seed, on_fail=lambda report: None)
        Loop("pure", wrong_from(0, W1=3.0, b1=1.01, W2=2.0)).run(hook, 5)
        assert [report.as_at for report in hook.reports] == [None, 0, 0, 0, 0], seed


def test_what_to_do_about_a_known_bug_is_done_at_every_check():
    """A function gets each report, "stop" stops; "raise" raises."""
    seen = []
    hook = a_hook(every=2, on_fail=seen.append)
    Loop("pure", wrong_from(0, W2=3.0)).run(hook, 5)
    assert seen == hook.reports
    hook, loop = a_hook(on_fail="raise"), Loop("pure", wrong_from(0, W2=3.0))
    for _ in range(2):
        with pytest.raises(GradientMismatch):
            hook.on_step(0, loss=loop.cost, params=loop.params, grads=loop.gradient)


@pytest.mark.parametrize("wrong", [math.nan, np.ones((2, 1, 1))])
def test_a_gradient_that_cannot_be_used_is_told_once(wrong):
    hook = a_hook(every=2, on_fail=lambda report: None)
    spent = Loop("pure", wrong_from(0, b1=wrong)).run(hook, 7)
    assert told(hook)[1:] == [(step, WORRY, 0) for step in (1, 2, 4, 6)]
    assert spent[6] == (3, 2)


def test_of_many_wrong_arrays_some_are_measured_at_each_check():
    """The cost stays small, and the one that is repaired is found when its turn comes."""
    calls, names = Counter(), [f"W{k}" for k in range(20)]
    params = {name: RNG.normal(size=30) for name in names}

    def loss(p):
        calls["loss"] += 1
        return sum(np.sum(np.cos(w)) for w in p.values())

    hook = a_hook(every=1, on_fail=lambda report: None)
    for step in range(40):
        calls.clear()
        right = {"W7"} if step > 4 else set()
        hook.on_step(
            step,
            loss=loss,
            params=params,
            grads=lambda p, right=right: {n: -np.sin(w) * (1.0 if n in right else 1.5) for n, w in p.items()},
        )
        if 0 < step < 5:
            assert calls["loss"] <= 3 + KNOWN_MOST
            assert sorted(hook.reports[-1].failing) == sorted(names)
        params = {name: 0.99 * w for name, w in params.items()}
    assert {report.as_at for report in hook.reports[1:5]} == {0}
    loud = [report for report in hook.reports[5:] if report.as_at is None]
    assert len(loud) == 1
    assert "W7" not in loud[0].failing


def test_a_loss_that_computes_in_float32_is_not_called_wrong_when_it_is_repaired():
    """Its slopes are noise at the steps of a glance."""
    narrow = lambda p: float(np.float32(net_loss(p)))  # noqa: E731
    for seed in range(10):
        hook = a_hook(every=2, seed=seed, on_fail=lambda report: None)
        Loop("in place", wrong_from(0, 3, W2=1.5), loss=narrow).run(hook, 9)
        assert [report.verdict for report in hook.reports[:3]] == [WORRY] * 3
        assert all(report.verdict < Verdict.DOUBLE_CHECK for report in hook.reports[3:])


# In our trainer


class Changed(nn.Dense):
    """A layer whose backward is wrong in the steps that it is told."""

    wrong_steps: range = range(1000)
    state = None

    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        if self.state.step in self.wrong_steps:
            grads = {**grads, "W": 1.5 * grads["W"]}
        return upstream, grads


def fit(hook, steps, wrong_steps, **changes):
    kind = type("Changed", (Changed,), {"wrong_steps": wrong_steps})
    model = nn.Sequential([kind(5, 6), nn.Tanh(), nn.Dense(6, 3)])
    run = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.1), penalty=nn.L2(1e-3), callbacks=[hook], **changes)
    kind.state = run.state
    run.fit(INPUTS, LABELS, batch_size=60 // steps)
    return run


def test_in_the_trainer_a_known_bug_is_brief_and_a_repair_is_good():
    hook = a_hook(every=2, on_fail=lambda report: None)
    fit(hook, 10, range(2, 7))
    assert told(hook) == [
        (0, GOOD, None),
        (1, GOOD, None),
        (2, WORRY, None),
        (4, WORRY, 2),
        (6, WORRY, 2),
        (8, GOOD, None),
    ]
    known = hook.reports[4]
    assert (known.evaluations, known.complex_evaluations) == (8, 5)
    assert known.diagnoses == hook.reports[2].diagnoses
    assert "The diagnoses are those of the check at step 2." in known.notes


def test_a_check_at_the_end_is_in_full():
    """What was brief during the training is told once more."""
    hook = a_hook(after=100, schedule=None, every=2, on_fail=lambda report: None)
    fit(hook, 6, range(100))
    assert told(hook)[-2:] == [(4, WORRY, 0), (6, WORRY, None)]
    assert not any("diagnoses are those of" in note for note in hook.reports[-1].notes)


class NeverZeroed(nn.Sequential):
    def store(self, grads):
        for name, gradient in grads.items():
            self.grads[name] += gradient


def test_buffers_that_accumulate_are_told_once():
    """At step 1 it is seen that they do, and later that they differ: one bug."""
    hook = a_hook(schedule=at(0, 1, 5, 9), on_fail=lambda report: None)
    model = NeverZeroed([nn.Dense(5, 6), nn.Tanh(), nn.Dense(6, 3)])
    nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.001), callbacks=[hook]).fit(INPUTS, LABELS, batch_size=6)
    assert told(hook) == [(0, GOOD, None), (1, WORRY, None), (5, WORRY, 1), (9, WORRY, 1)]
    assert {diagnosis.code for diagnosis in hook.reports[-1].diagnoses} == {"accumulated"}


def test_another_model_is_told_of_in_full():
    hook = a_hook(on_fail=lambda report: None)
    for _ in range(2):
        fit(hook, 6, range(100))
    assert told(hook) == [(0, WORRY, None), (1, WORRY, 0)] * 2
