"""The hook, on our trainer and in a loop of one's own."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from gc_hooks import (
    Callback,
    GradCheckHook,
    GradCheckWarning,
    GradientMismatch,
    InvalidProblem,
    Verdict,
    any_of,
    at,
    drift,
    every,
    fixed_step,
    nn,
)

GOOD, INCONCLUSIVE, WORRY = Verdict.GOOD, Verdict.INCONCLUSIVE, Verdict.WORRY
RNG = np.random.default_rng(6)
LABELS = RNG.integers(3, size=40)
INPUTS = RNG.normal(size=(40, 4)) + np.eye(3, 4)[LABELS]
PARAMS = {"W": np.full((4, 1), 0.1), "b": np.zeros(1)}
NAMES = {"dense1.W", "dense1.b", "dense2.W", "dense2.b"}


# What is trained


class DoubledBias(nn.Dense):
    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        return upstream, {**grads, "b": 2 * grads["b"]}


class Listener:
    """A reporter that writes down what it is told."""

    def __init__(self):
        self.reports, self.said, self.closed = [], [], 0

    def report(self, report):
        self.reports.append(report)

    def say(self, text):
        self.said.append(text)

    def close(self):
        self.closed += 1


def a_hook(**options):
    return GradCheckHook(**{"reporters": [], **options})


def trainer(*callbacks, dense=nn.Dense, dropout=nn.Dropout, chain=nn.Sequential, optimizer=None, dtype=np.float64):
    model = chain([dense(4, 5), nn.Tanh(), dropout(0.4), nn.Dense(5, 3)], dtype=dtype)
    loss, penalty = nn.SoftmaxCrossEntropy(), nn.L2(1e-2)
    return nn.Trainer(model, loss, optimizer or nn.SGD(0.1), penalty=penalty, callbacks=callbacks)


def fit(hook, steps, **parts):
    """Train for that many steps with a hook on our trainer."""
    run = trainer(hook, **parts)
    run.fit(INPUTS[: 4 * steps], LABELS[: 4 * steps], batch_size=4)
    return run


def cost(p):
    return np.mean((INPUTS @ p["W"] + p["b"] - LABELS[:, np.newaxis]) ** 2)


def gradient(p, factor=1.0):
    upstream = 2 * (INPUTS @ p["W"] + p["b"] - LABELS[:, np.newaxis]) / len(INPUTS)
    return {"W": INPUTS.T @ upstream, "b": factor * upstream.sum(axis=0)}


def doubled(p):
    return gradient(p, 2.0)


def loop(hook, steps, *, backward=gradient, buffers=False, start=0, loss=cost, close=True):
    """A loop of one's own, which hands in live buffers or a function."""
    params = copy.deepcopy(PARAMS)
    for step in range(start, start + steps):
        grads = backward(params)
        hook.on_step(step, loss=loss, params=params, grads=grads if buffers else backward)
        if hook.should_stop:
            break
        for name, array in params.items():
            array -= 0.05 * grads[name]
    if close:
        hook.close()
    return step + 1 - start


def train_right(hook, steps, path):
    return fit(hook, steps).step if path == "trainer" else loop(hook, steps)


def train_wrong(hook, steps, path):
    return fit(hook, steps, dense=DoubledBias).step if path == "trainer" else loop(hook, steps, backward=doubled)


both_paths = pytest.mark.parametrize("path", ["trainer", "on_step"])


def steps_of(hook):
    return [report.step for report in hook.reports]


def verdicts_of(hook):
    return [report.verdict for report in hook.reports]


def failing(report):
    return {name for name, comparison in report.parameters.items() if comparison.verdict >= Verdict.DOUBLE_CHECK}


# When


@both_paths
def test_checks_are_made_at_calls_0_1_and_n(path):
    """By default the hook checks at initialisation, one step later and after N."""
    hook = a_hook(after=6)
    train_right(hook, 9, path)
    assert steps_of(hook) == [0, 1, 6]
    assert verdicts_of(hook) == [GOOD] * 3
    assert hook.calls == 9


@both_paths
def test_every_adds_a_period(path):
    """Once in so many calls comes on top of 0, 1 and N."""
    hook = a_hook(after=6, every=4)
    train_right(hook, 10, path)
    assert steps_of(hook) == [0, 1, 4, 6, 8]


class DoubledLater(nn.Dense):
    """Right in its first calls, as a schedule or a counter makes it, and wrong afterwards."""

    calls = 0

    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        type(self).calls += 1
        return upstream, {**grads, "b": (1 + (type(self).calls > 30)) * grads["b"]}


def test_a_periodic_check_after_a_good_one_is_cheap():
    """It asks neither the loss nor the gradient twice, and both in one pass: three evaluations beside it, one of
    them complex, and two backward passes; the whole ones do."""
    hook = a_hook(after=None, every=4)
    fit(hook, 9)
    first, *_, last = hook.reports
    assert [report.verdict for report in hook.reports] == [GOOD] * 4
    assert (last.evaluations, last.complex_evaluations, last.gradients) == (4, 1, 2)
    assert first.gradients >= 4


def test_a_periodic_check_that_fails_opens_up(monkeypatch):
    """A bug that sets in later is seen by the next periodic check, which names the parameter."""
    monkeypatch.setattr(DoubledLater, "calls", 0)
    hook = a_hook(after=None, every=40, on_fail=lambda report: None)
    run = trainer(hook, dense=DoubledLater)
    run.fit(INPUTS, LABELS, batch_size=4, epochs=9)
    assert [report.verdict for report in hook.reports] == [GOOD, GOOD, WORRY, WORRY]
    assert all(hook.reports[2].parameters[name].verdict is GOOD for name in NAMES - {"dense1.b"})


@both_paths
def test_a_schedule_replaces_all_of_it(path):
    """With a schedule neither `after` nor `every` counts, and nothing is checked at the end."""
    hook = a_hook(schedule=at(3), after=100, every=2)
    train_right(hook, 6, path)
    assert steps_of(hook) == [3]


def walk(hook, positions, names=("w",)):
    """Hand in one number at these positions, under the next of these names."""
    for step, position in enumerate(positions):
        params = {names[min(step, len(names) - 1)]: np.array([position])}
        hook.on_step(
            step,
            loss=lambda p: sum(np.sum(w**2) for w in p.values()),
            params=params,
            grads=lambda p: {name: 2 * w for name, w in p.items()},
        )


def test_drift_checks_again_when_the_weights_have_moved():
    """At the first call, and then at each call that finds them a quarter of their norm away from the last check."""
    hook = a_hook(schedule=drift(0.25))
    walk(hook, [4.0, 4.5, 4.9, 5.1, 5.5, 6.0, 6.5, 4.0, 4.0])
    assert steps_of(hook) == [0, 3, 6, 7]
    assert verdicts_of(hook) == [GOOD] * 4


def test_drift_counts_from_any_check():
    """What another schedule set off moves the place from which drift measures."""
    hook = a_hook(schedule=any_of(at(0, 2), drift(0.25)))
    walk(hook, [4.0, 4.5, 4.9, 5.1, 5.5, 6.0, 6.2])
    assert steps_of(hook) == [0, 2, 6]


def test_drift_tries_a_failed_check_only_once():
    """A loss that cannot be evaluated is not asked again at every step."""

    def broken(p):
        raise ZeroDivisionError

    hook = a_hook(schedule=drift(1e6))
    with pytest.warns(GradCheckWarning, match="ZeroDivisionError") as caught:
        loop(hook, 3, loss=broken)
    assert len(caught) == 1


def test_drift_works_on_our_trainer():
    """Checks follow the weights there too, and more of them when these have farther to go."""
    counts = []
    for rate in (0.01, 0.3):
        hook = a_hook(schedule=drift(0.05))
        trainer(hook, optimizer=nn.SGD(rate)).fit(INPUTS, LABELS, batch_size=4, epochs=3)
        counts.append(len(hook.reports))
        assert all(report.ok for report in hook.reports)
    assert 1 <= counts[0] < counts[1] < 30


@both_paths
def test_without_n_there_is_no_check_at_the_end(path):
    """With after=None the first two calls are checked, and no more."""
    hook = a_hook(after=None)
    train_right(hook, 6, path)
    assert steps_of(hook) == [0, 1]


def test_calls_are_counted_and_steps_are_logged():
    """A resumed job that goes on at step 5000 is checked at its first calls, under its own step numbers."""
    hook = a_hook(after=4)
    loop(hook, 6, start=5000)
    assert steps_of(hook) == [5000, 5001, 5004]
    run, late = fit(a_hook(), 5), a_hook(after=4)
    run.callbacks = (late,)
    run.fit(INPUTS, LABELS, batch_size=4)
    assert steps_of(late) == [5, 6, 9]


def test_a_call_that_is_not_due_evaluates_nothing():
    """Between the checks neither the loss nor the gradient function is called."""

    def never(*arguments):
        raise AssertionError("called")

    hook = a_hook(schedule=at(5))
    for step in range(5):
        hook.on_step(step, loss=never, params=never, grads=never)
    hook.close()
    assert (hook.calls, hook.reports) == (5, [])


@both_paths
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_training_that_ends_before_n_is_checked_at_its_end(path, steps):
    """When N was never reached the check is made at the end, and says so."""
    hook = a_hook(after=6)
    train_right(hook, steps, path)
    assert steps_of(hook) == [*range(min(steps, 2)), steps if path == "trainer" else steps - 1]
    assert verdicts_of(hook)[-1] is GOOD
    assert (
        f"The training ended after {steps} step{'s' * (steps > 1)}, before the check after 6: checked at the end."
        in hook.reports[-1].notes
    )


def test_the_check_at_the_end_asks_what_can_still_be_asked():
    """After the last update the buffers belong to other parameters: that question is listed as not asked."""
    hook = a_hook(after=100)
    fit(hook, 3)
    assert any("fresh backward pass" in answer for answer in hook.reports[1].asked)
    assert [question for question in hook.reports[-1].unasked if "The last update has been made" in question]


def test_buffers_cannot_be_checked_at_the_end():
    """In a loop of one's own that hands in buffers, N out of reach is a warning that says what to do."""
    hook = a_hook(after=100)
    with pytest.warns(GradCheckWarning, match="ended after 3 steps, before the check after 100.*smaller after="):
        loop(hook, 3, buffers=True)
    assert steps_of(hook) == [0, 1]


# Closing


def test_the_context_manager_closes():
    """Leaving the block checks at the end and closes the reporters; closing again does nothing more."""
    listener = Listener()
    with a_hook(after=100, reporters=[listener]) as hook:
        loop(hook, 3, close=False)
        assert listener.closed == 0
    assert (steps_of(hook), listener.closed) == ([0, 1, 2], 1)
    hook.close()
    assert steps_of(hook) == [0, 1, 2]


def test_an_exception_in_the_block_is_not_held_up_by_a_check():
    """On the way out of an exception the reporters are closed and nothing is checked."""
    listener = Listener()
    hook = a_hook(reporters=[listener])

    def broken():
        with hook:
            loop(hook, 3, close=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert steps_of(hook) == [0, 1]
    assert listener.closed == 1


def test_an_interrupted_fit_is_not_held_up_by_a_check():
    """After Ctrl-C our trainer's hook makes no check at the end."""

    class Interrupt(Callback):
        def on_batch_end(self, state):
            if state.step == 3:
                raise KeyboardInterrupt

    hook = a_hook(after=100)
    with pytest.raises(KeyboardInterrupt):
        trainer(hook, Interrupt()).fit(INPUTS, LABELS, batch_size=4)
    assert steps_of(hook) == [0, 1]


def test_reporters_are_closed_when_the_check_at_the_end_fails():
    """What on_fail raises at the end leaves nothing open."""
    listener = Listener()
    hook = a_hook(after=2, on_fail="raise", reporters=[listener])
    factors = [1.0]
    hook.on_step(0, loss=cost, params=PARAMS, grads=lambda p: gradient(p, *factors))
    factors[0] = 2.0
    with pytest.raises(GradientMismatch):
        hook.close()
    assert listener.closed == 1


def test_closing_a_hook_that_was_never_called_is_fine():
    """Without a call there is nothing to check and nothing to say."""
    listener = Listener()
    with a_hook(reporters=[listener]) as hook:
        pass
    assert (hook.reports, listener.said, listener.closed, hook.share) == ([], [], 1, 0.0)


@both_paths
def test_the_end_is_summed_up(path):
    """How many checks there were, how they went and what they cost is said once, at the end."""
    listener = Listener()
    hook = a_hook(after=3, reporters=[listener])
    train_right(hook, 5, path)
    (said,) = listener.said
    assert said.startswith("gradient check: 3 checks (GOOD at 0, GOOD at 1, GOOD at 3), ")
    assert "% of the training time" in said
    assert 0 < hook.share < 1


# What a wrong gradient sets off


@both_paths
def test_on_fail_warns_by_default(path):
    """A wrong gradient is one warning as long as it is the same, and the training goes on to its end."""
    hook = a_hook(after=2)
    with pytest.warns(GradCheckWarning, match=r"looks wrong. step 0: WORRY.*b") as caught:
        assert train_wrong(hook, 4, path) == 4
    assert len(caught) == 1
    assert verdicts_of(hook) == [WORRY] * 3
    assert {frozenset(failing(report)) for report in hook.reports} == {
        frozenset({"dense1.b"} if path == "trainer" else "b")
    }


@both_paths
def test_on_fail_may_raise(path):
    """With "raise" the run ends at once, by an assertion error that holds the report; reporters have been told."""
    listener = Listener()
    hook = a_hook(on_fail="raise", reporters=[listener])
    with pytest.raises(GradientMismatch, match="WORRY") as caught:
        train_wrong(hook, 4, path)
    assert isinstance(caught.value, AssertionError)
    assert [caught.value.report] == hook.reports == listener.reports


@both_paths
def test_on_fail_may_stop_the_training(path):
    """With "stop" our trainer ends cleanly after the batch, and a loop of one's own is told to."""
    hook = a_hook(on_fail="stop", after=None)
    if path == "trainer":
        run = fit(hook, 4, dense=DoubledBias)
        assert run.step == 1
        assert run.state.stop_reason.startswith("gradient check, step 0: WORRY")
    else:
        assert loop(hook, 4, backward=doubled) == 1
        assert hook.should_stop
    assert verdicts_of(hook) == [WORRY]


@both_paths
def test_on_fail_may_be_a_function(path):
    """A callable gets the report of each failing check, and what it raises leaves the hook."""
    seen = []
    train_wrong(a_hook(after=2, on_fail=seen.append), 4, path)
    assert [report.step for report in seen] == [0, 1, 2]

    def give_up(report):
        raise LookupError(report.step)

    with pytest.raises(LookupError):
        train_wrong(a_hook(on_fail=give_up), 4, path)


@both_paths
@pytest.mark.parametrize("on_fail", ["warn", "raise", "stop", pytest.fail])
def test_what_cannot_be_told_sets_off_nothing(path, on_fail):
    """An INCONCLUSIVE check neither warns, raises, stops nor calls, and is no GOOD either."""
    hook = a_hook(after=2, on_fail=on_fail, max_evaluations=1)
    assert train_wrong(hook, 4, path) == 4
    assert verdicts_of(hook) == [INCONCLUSIVE] * 3
    assert not hook.should_stop


# What goes wrong inside the hook


@both_paths
def test_a_schedule_that_raises_is_not_asked_again(path):
    """One warning, one INCONCLUSIVE record with the reason, and no further check."""

    def schedule(calls):
        raise LookupError("no calendar")

    hook = a_hook(schedule=schedule)
    with pytest.warns(GradCheckWarning, match="The schedule .*step 0 failed with LookupError: no calendar") as caught:
        assert train_right(hook, 4, path) == 4
    assert len(caught) == 1
    assert verdicts_of(hook) == [INCONCLUSIVE]
    assert "no calendar" in hook.reports[0].notes[0]


@pytest.mark.parametrize("part", ["loss", "backward", "before_loss"])
def test_a_loss_or_backward_that_raises_is_recorded(part):
    """What the user's functions raise in a check is one warning and an INCONCLUSIVE record; the next check is made."""

    def broken(*arguments):
        raise FloatingPointError("by hand")

    parts = {"loss": cost, "grads": gradient, "before_loss": None}
    hook = a_hook(after=None)
    planted = {"grads" if part == "backward" else part: broken}
    with pytest.warns(GradCheckWarning, match="Nothing was checked.*step 0 .*FloatingPointError: by hand") as caught:
        hook.on_step(0, params=PARAMS, **{**parts, **planted})
    hook.on_step(1, params=PARAMS, **parts)
    assert len(caught) == 1
    assert verdicts_of(hook) == [INCONCLUSIVE, GOOD]
    assert "by hand" in hook.reports[0].notes[0]


def test_a_layer_that_raises_inside_the_check_is_recorded():
    """On our trainer, a layer that cannot be run on other parameters does not end the training."""

    class Stubborn(nn.Dense):
        def forward(self, params, inputs, context):
            if inputs.dtype != np.float32:
                raise TypeError("float32 only")
            return super().forward(params, inputs, context)

    hook = a_hook(after=2)
    with pytest.warns(GradCheckWarning, match="TypeError: float32 only") as caught:
        assert fit(hook, 4, dense=Stubborn, dtype=np.float32).step == 4
    assert len(caught) == 3
    assert verdicts_of(hook) == [INCONCLUSIVE] * 3


@both_paths
def test_a_reporter_that_raises_is_dropped(path):
    """A reporter that fails is one warning; the checks stay what they are and the others are told."""

    class Broken:
        def report(self, report):
            raise OSError("disk full")

    listener = Listener()
    hook = a_hook(after=2, reporters=[Broken(), listener])
    with pytest.warns(GradCheckWarning, match="Broken failed with OSError: disk full") as caught:
        train_right(hook, 4, path)
    assert len(caught) == 1
    assert verdicts_of(hook) == [GOOD] * 3
    assert listener.reports == hook.reports


@both_paths
@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_log_directory_that_cannot_be_made_is_one_warning(tmp_path, path, below, capsys):
    """With a file in the way nothing is written, the checks are made, and the training goes on."""
    (tmp_path / "taken").write_text("a file")
    hook = GradCheckHook(after=2, log_dir=tmp_path / "taken" / below)
    with pytest.warns(
        GradCheckWarning,
        match=r"TensorBoardReporter failed with NotADirectoryError: .*taken.* a file stands there.*Try the name",
    ) as caught:
        assert train_right(hook, 4, path) == 4
    assert len(caught) == 1
    assert verdicts_of(hook) == [GOOD] * 3
    assert (tmp_path / "taken").read_text() == "a file"
    assert capsys.readouterr().out.count("GOOD, difference") == 3


def test_a_diverged_training_is_inconclusive():
    """Infinite weights are no noise of NumPy's and no GOOD; a check at them does not claim to have seen them before."""
    hook = a_hook(after=None)
    for step in range(2):
        hook.on_step(step, loss=lambda w: np.sum(w**2), params=np.array([np.inf, 1.0]), grads=lambda w: 2 * w)
    assert verdicts_of(hook) == [INCONCLUSIVE] * 2
    assert not any("nothing new" in note for report in hook.reports for note in report.notes)


def test_checks_go_to_the_console_by_default(capsys, tmp_path, monkeypatch):
    """Without a log directory each check is a line in the terminal, and no file is made."""
    monkeypatch.chdir(tmp_path)
    loop(GradCheckHook(after=None), 3)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:29] for line in lines if "step" in line] == [f"gradient check, step {k}: GOOD,"[:29] for k in (0, 1)]
    assert not list(tmp_path.iterdir())


def test_reporters_and_a_log_directory_are_both_told(tmp_path, capsys):
    """Reporters of one's own replace the console, and what is written for TensorBoard is written all the same."""
    listener = Listener()
    loop(GradCheckHook(after=None, reporters=[listener], log_dir=tmp_path), 2)
    assert len(listener.reports) == 2
    assert list((tmp_path / "gradcheck").glob("*tfevents*"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"dropout": "on"}, r"dropout='on' is not known. Try one of 'off', 'frozen'"),
        ({"on_fail": "explode"}, r"on_fail='explode' is not known. Try one of 'warn', 'raise', 'stop'"),
        ({"log_dir": "runs", "writer": object()}, "both log_dir and writer"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 2.0}, r"batch_size=2.0"),
        ({"after": -1}, "after needs a whole number, 0 or more, got -1"),
        ({"after": 10.0}, "after needs a whole number, 0 or more, got 10.0"),
        ({"every": 0}, "every needs a whole number, 1 or more, got 0"),
        ({"schedule": 500}, "A schedule must be a function of the number of calls, got 500"),
        ({"reporters": [Listener(), print]}, r"print.*has no method report\(report\).*Try ConsoleReporter\(\)"),
        ({"reporters": [Listener]}, r"the class Listener. Try an object: Listener\(\)"),
        ({"reporters": Listener()}, "must be a list, got .*Try reporters="),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options, seen):
    """A wrong argument is refused where it is written, with its value and what to try."""
    with pytest.raises(InvalidProblem, match=seen):
        GradCheckHook(**options)


def test_options_reach_the_check():
    """Method, seed and limits are those of `check_gradients`."""
    hook = a_hook(method=fixed_step(1e-4), seed=3, after=None)
    loop(hook, 2)
    assert {report.method for report in hook.reports} == {"fixed_step(0.0001)"}
    again = a_hook(method=fixed_step(1e-4), seed=3, after=None)
    loop(again, 2)
    assert [report.seed for report in hook.reports] == [report.seed for report in again.reports]


# Our trainer: buffers, dropout, penalty, movement


class Accumulating(nn.Sequential):
    """+= where = should stand."""

    def store(self, grads):
        for name, grad in grads.items():
            self.grads[name] += grad


class Stale(nn.Sequential):
    """The buffers are written once and never again."""

    def store(self, grads):
        if not any(array.any() for array in self.grads.values()):
            super().store(grads)


class Clipped(nn.Sequential):
    """The buffers are changed before the optimiser uses them."""

    def store(self, grads):
        super().store({name: np.clip(grad, -1e-3, 1e-3) for name, grad in grads.items()})


@pytest.mark.parametrize(
    ("chain", "codes"),
    [
        (nn.Sequential, [None, None, None]),
        (Accumulating, [None, "accumulated", "accumulated"]),
        (Stale, [None, "stale", "stale"]),
        (Clipped, ["buffers_differ"] * 3),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_buffers_are_compared_with_a_fresh_pass(chain, codes, dtype):
    """Accumulated and stale buffers are right at step 0 and told by name at step 1, on all parameters.

    Later only that they differ can be seen: that is the bug that is known.
    """
    told = []
    hook = a_hook(after=4, on_fail=told.append)
    fit(hook, 6, chain=chain, dtype=dtype)
    assert [r.diagnoses[0].code if r.diagnoses else None for r in hook.reports] == codes
    assert [failing(report) for report in hook.reports] == [NAMES if code else set() for code in codes]
    assert [report.step for report in told] == [report.step for report in hook.reports if not report.ok]


def test_a_clean_run_says_what_was_asked():
    """A good report lists all answers and leaves no question open."""
    hook = a_hook(after=None)
    fit(hook, 2)
    assert hook.reports[0].asked == (
        "Slopes on 4 samples in float64, dropout off.",
        "With dropout on and its masks held fixed, a slope agrees with the gradient.",
        "The optimiser's buffers equal a fresh backward pass, run twice.",
    )
    assert hook.reports[0].unasked == ()


def test_a_backward_pass_that_does_not_repeat_itself_is_told():
    """A layer that carries its gradient from call to call is WORRY on its own parameter."""

    class Unsteady(nn.Dense):
        total = 0.0

        def backward(self, params, cache, upstream):
            upstream, grads = super().backward(params, cache, upstream)
            self.total = self.total + grads["W"]
            return upstream, {**grads, "W": self.total}

    hook = a_hook(after=None, on_fail=lambda report: None)
    fit(hook, 2, dense=Unsteady)
    assert [failing(report) for report in hook.reports] == [{"dense1.W"}] * 2
    assert {diagnosis.code for report in hook.reports for diagnosis in report.diagnoses} == {"not_repeatable"}


def test_a_gradient_that_a_layer_does_not_return_is_told():
    """A parameter without a gradient is WORRY; the others are judged."""

    class WithoutBias(nn.Dense):
        def backward(self, params, cache, upstream):
            upstream, grads = super().backward(params, cache, upstream)
            return upstream, {"W": grads["W"]}

    hook = a_hook(after=None, on_fail=lambda report: None)
    fit(hook, 2, dense=WithoutBias)
    assert [failing(report) for report in hook.reports] == [{"dense1.b"}] * 2
    assert [d.code for report in hook.reports for d in report.diagnoses] == ["missing_gradient"] * 2


class Unscaled(nn.Dropout):
    """Backward lacks the division by the keep probability."""

    def backward(self, params, cache, upstream):
        return (upstream if cache is None else upstream * (cache > 0)), {}


class DrawnAgain(nn.Dropout):
    """Backward draws from the generator that forward has drawn from, or from one that only it has."""

    own = None

    def forward(self, params, inputs, context):
        return super().forward(params, inputs, context)[0], context

    def backward(self, params, cache, upstream):
        if self.own is not None and cache.generator is not None:
            cache = replace(cache, generator=self.own)
        return super().forward(params, upstream, cache)[0], {}


class DrawnElsewhere(DrawnAgain):
    own = np.random.default_rng(1)


@pytest.mark.parametrize("dropout", ["off", "frozen"])
@pytest.mark.parametrize("layer", [nn.Dropout, Unscaled, DrawnAgain, DrawnElsewhere])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_bug_in_dropout_is_seen_with_fixed_masks(dropout, layer, dtype):
    """Also by default, after the check with a rate of zero, which does not see it; the clean twin is GOOD in both."""
    hook = a_hook(after=3, dropout=dropout, on_fail=lambda report: None)
    fit(hook, 5, dropout=layer, dtype=dtype)
    seen = set() if layer is nn.Dropout else {"dense1.W", "dense1.b"}
    assert [failing(report) for report in hook.reports] == [seen] * 3
    if seen and dropout == "off":
        codes = {diagnosis.code for diagnosis in hook.reports[0].diagnoses}
        assert codes & {"dropout_mask", "not_repeatable"}
        assert ("not_repeatable" in codes) == (layer is DrawnElsewhere)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_costs_a_slope_more(rate):
    """One evaluation where there is none, and five with two gradients where there is; a glance does not ask."""
    hook = a_hook(every=2, after=None)
    fit(hook, 5, dropout=lambda _: nn.Dropout(rate))
    without = a_hook(every=2, after=None, dropout="frozen")
    fit(without, 5, dropout=lambda _: nn.Dropout(rate))
    more = [now.evaluations - then.evaluations for now, then in zip(hook.reports, without.reports, strict=True)]
    gradients = [now.gradients - then.gradients for now, then in zip(hook.reports, without.reports, strict=True)]
    assert more == [5 if rate else 1] * 2 + [0] * 2
    assert gradients == [2 if rate else 0] * 2 + [0] * 2


def test_a_mask_that_cannot_be_held_is_told():
    """A layer that draws from a generator of its own while dropout is on is no finding, and is named as not asked."""

    class FromElsewhere(nn.Dropout):
        own = np.random.default_rng(1)

        def forward(self, params, inputs, context):
            if context.generator is not None:
                context = replace(context, generator=self.own)
            return super().forward(params, inputs, context)

    hook = a_hook(after=None, on_fail=lambda report: None)
    fit(hook, 1, dropout=FromElsewhere)
    (report,) = hook.reports
    assert "dropout_mask" not in {diagnosis.code for diagnosis in report.diagnoses}
    assert any("right with dropout on? The loss draws" in unasked for unasked in report.unasked)


@pytest.mark.parametrize("limit", [3, 5, 6])
def test_a_spent_budget_leaves_the_masks_unasked(limit):
    """The check with dropout off has what there is; what is left over for the masks does not accuse them."""
    hook = a_hook(after=None, max_evaluations=limit)
    fit(hook, 1)
    (report,) = hook.reports
    assert report.verdict <= INCONCLUSIVE
    assert report.evaluations <= limit + 2
    assert any("budget" in unasked for unasked in report.unasked)


def test_float32_training_is_judged_good():
    """A right network that trains in float32 is GOOD at about the accuracy of float64."""
    hook = a_hook(after=40)
    trainer(hook, dtype=np.float32, optimizer=nn.Adam(0.05)).fit(INPUTS, LABELS, batch_size=8, epochs=10)
    assert verdicts_of(hook) == [GOOD] * 3
    assert max(report.difference for report in hook.reports) < 1e-12


def test_the_share_of_the_penalty_is_told():
    """The report of a trainer with L2 says how much of the gradient is the penalty's."""
    hook = a_hook(after=None)
    fit(hook, 2)
    assert all(0 < report.penalty_share < 1 for report in hook.reports)
    assert any("The penalty makes up" in remark for remark in hook.reports[0].remarks)


class Still(nn.SGD):
    """An optimiser that does nothing."""

    def step(self, params, grads):
        pass


def test_movement_since_initialisation_is_told():
    """Every report says how far the weights are from where the first check saw them, in units of their norm."""
    hook = a_hook(after=5)
    run = trainer(hook)
    start = {name: array.copy() for name, array in run.model.params.items()}
    run.fit(INPUTS[:20], LABELS[:20], batch_size=4)
    distance = math.hypot(*(np.linalg.norm(run.model.params[name] - start[name]) for name in start))
    assert hook.reports[0].moved == 0.0 < hook.reports[1].moved
    assert hook.reports[-1].moved == pytest.approx(distance / math.hypot(*map(np.linalg.norm, start.values())))


def test_a_check_with_nothing_new_to_see_says_so():
    """Where the optimiser did nothing between two checks, the second says that it has nothing new to see."""
    for optimizer, noted in ((Still(1.0), [False, True, True]), (nn.SGD(0.1), [False, False, False])):
        hook = a_hook(after=2)
        fit(hook, 4, optimizer=optimizer)
        assert [any("nothing new to see" in note for note in report.notes) for report in hook.reports] == noted


@pytest.mark.parametrize(("batch_size", "samples"), [(3, 3), (8, 8), (100, 8)])
def test_the_check_batch_is_small_and_stays_the_same(batch_size, samples):
    """The first samples of the first batch are kept, as many as there are, so that checks compare."""
    hook = a_hook(after=4, batch_size=batch_size)
    trainer(hook, optimizer=Still(1.0)).fit(INPUTS, LABELS, batch_size=8, epochs=2)
    assert len({report.loss for report in hook.reports}) == 1
    assert all(f"Slopes on {samples} samples" in report.asked[0] for report in hook.reports)


def test_two_hooks_on_one_trainer_do_not_see_each_other():
    """Each keeps its own schedule and reports."""
    hooks = a_hook(after=3), a_hook(schedule=every(2), dropout="frozen")
    trainer(*hooks).fit(INPUTS[:20], LABELS[:20], batch_size=4)
    assert [steps_of(hook) for hook in hooks] == [[0, 1, 3], [0, 2, 4]]
    assert all(report.ok for hook in hooks for report in hook.reports)


def test_a_hook_goes_on_in_a_second_fit():
    """Calls are counted on, steps too, and N may be reached there."""
    hook = a_hook(after=7)
    run = fit(hook, 5)
    run.fit(INPUTS[:20], LABELS[:20], batch_size=4)
    assert steps_of(hook) == [0, 1, 5, 7]
    assert verdicts_of(hook) == [GOOD] * 4
    assert hook.calls == 10


def test_another_model_is_checked_from_its_own_beginning():
    """A hook that goes on to a trainer of another model keeps neither the batch nor the weights of the first one."""
    listener = Listener()
    hook = a_hook(after=3, reporters=[listener])
    fit(hook, 5)
    other = trainer(hook)
    other.fit(INPUTS[20:], LABELS[20:], batch_size=5)
    alone = a_hook(after=3)
    trainer(alone).fit(INPUTS[20:], LABELS[20:], batch_size=5)
    assert steps_of(hook) == [0, 1, 3, 0, 1, 3]
    assert [(r.moved, r.loss) for r in hook.reports[3:]] == [(r.moved, r.loss) for r in alone.reports]
    assert sum("another model" in said for said in listener.said) == 1
    assert 0 < hook.share < 1


def test_other_parameters_in_a_loop_of_ones_own_are_noted():
    """What moved is not measured from the weights of another model; the same ones are told apart from them by name."""
    hook = a_hook(schedule=every(1))
    walk(hook, [4.0, 5.0, 5.0, 6.0], names=("w", "w", "other"))
    assert [report.moved for report in hook.reports] == [0.0, 0.25, 0.0, 0.2]
    noted = [any("not the parameters of the last check" in note for note in report.notes) for report in hook.reports]
    assert noted == [False, False, True, False]


def test_a_call_that_is_not_due_asks_for_nothing():
    """Neither the loss nor the gradient is called, nor are the parameters looked at; what it costs is a benchmark's."""
    hook = a_hook(after=None)
    loop(hook, 2, close=False)
    untouchable = object()
    hook.on_step(7, loss=pytest.fail, params=untouchable, grads=pytest.fail)
    assert steps_of(hook) == [0, 1]


# A loop of one's own


@pytest.mark.parametrize("buffers", [False, True])
def test_questions_that_could_not_be_asked_are_listed(buffers):
    """A function does not show the buffers, and buffers do not show whether backward repeats itself."""
    hook = a_hook(after=1)
    loop(hook, 2, buffers=buffers)
    (question,) = hook.reports[0].unasked
    assert ("repeat itself" in question, "optimiser's buffers equal" in question) == (buffers, not buffers)
    assert hook.reports[0].ok


def test_buffers_that_are_never_zeroed_are_seen_at_step_1():
    """Live buffers that accumulate are right at step 0 and wrong on every parameter at step 1; the twin is right."""
    for zeroed in (True, False):
        buffers = {"W": np.zeros((4, 1)), "b": np.zeros(1)}

        def backward(params, buffers=buffers, zeroed=zeroed):
            for name, grad in gradient(params).items():
                buffers[name][...] = grad if zeroed else buffers[name] + grad
            return buffers

        hook = a_hook(after=1, on_fail=lambda report: None)
        loop(hook, 3, backward=backward, buffers=True)
        assert [failing(report) for report in hook.reports] == [set(), set() if zeroed else {"W", "b"}]


class Recurrent:
    """A model that carries its state from call to call."""

    state = 0.0

    def reset(self):
        self.state = 0.0

    def loss(self, w):
        for x in (1.0, -0.5):
            self.state = np.tanh(w * x + self.state)
        return self.state**2

    def grads(self, w):
        start = self.state
        first = np.tanh(w + start)
        self.state = np.tanh(first - 0.5 * w)
        return 2 * self.state * (1 - self.state**2) * ((1 - first**2) - 0.5)


def test_before_loss_resets_what_the_model_carries():
    """With the reset the loss repeats itself and is GOOD; without it the check says that it does not."""
    hook = a_hook(after=None)
    model, forgotten = Recurrent(), Recurrent()
    hook.on_step(0, loss=model.loss, params=0.7, grads=model.grads, before_loss=model.reset)
    with pytest.warns(GradCheckWarning, match="NondeterministicLoss.*reset what it carries"):
        hook.on_step(1, loss=forgotten.loss, params=0.7, grads=forgotten.grads)
    assert verdicts_of(hook) == [GOOD, INCONCLUSIVE]


@pytest.mark.parametrize("breaks_at", [None, 3, 4])
def test_before_loss_leaves_the_model_where_it_was(breaks_at):
    """What the model carries is put back after the check too, also when it fails: the training goes on from there."""
    model, calls = Recurrent(), 0
    model.loss(0.3)
    carried = model.state

    def loss(w):
        nonlocal calls
        calls += 1
        if breaks_at is not None and calls >= breaks_at:
            raise RuntimeError
        return model.loss(w)

    def restore():
        model.state = carried

    hook = a_hook(after=None)
    options = {"params": 0.7, "grads": model.grads, "before_loss": restore}
    with contextlib.nullcontext() if breaks_at is None else pytest.warns(GradCheckWarning, match="RuntimeError"):
        hook.on_step(0, loss=loss, **options)
    assert model.state == carried
    assert isinstance(model.state, float)
    assert verdicts_of(hook) == [GOOD if breaks_at is None else INCONCLUSIVE]


def test_parameters_may_be_numbers_and_new_at_each_step():
    """Python numbers, and arrays that are rebound instead of updated, are followed."""
    hook, theta, w = a_hook(after=3), 4.0, np.ones(3)
    for step in range(5):
        grads = {"theta": 2 * theta, "w": [2 * x for x in w]}
        params = {"theta": theta, "w": [float(x) for x in w]}
        hook.on_step(step, loss=lambda p: p["theta"] ** 2 + sum(x**2 for x in p["w"]), params=params, grads=grads)
        theta, w = theta - 0.2 * theta, w - 0.1 * w
    hook.close()
    assert verdicts_of(hook) == [GOOD] * 3
    assert 0 == hook.reports[0].moved < hook.reports[1].moved < hook.reports[2].moved
    assert list(hook.reports[0].parameters) == ["theta", "w.0", "w.1", "w.2"]


def test_a_loss_that_reads_its_own_arrays_is_checked_in_place():
    """With in_place=True neither loss nor gradient takes an argument; a wrong gradient is found there too."""
    params, told = copy.deepcopy(PARAMS), []
    for backward in (gradient, doubled):
        hook = a_hook(after=None, on_fail=told.append)
        options = {"loss": lambda: cost(params), "grads": lambda backward=backward: backward(params)}
        hook.on_step(0, params=params, in_place=True, **options)
    assert [failing(report) for report in told] == [{"b"}]


def test_the_share_of_the_time_is_a_share():
    """The hook's share of the time since its first call is zero before it, and between 0 and 1 after it."""
    hook = a_hook(schedule=every(1))
    assert hook.share == 0.0
    loop(hook, 5)
    assert 0 < hook.share < 1


# What was handed in wrongly


@pytest.mark.parametrize("thing", [500, "runs/mine", object()])
def test_an_argument_without_a_name_is_told_where_it_belongs(thing):
    """The hook takes no model: that comes with the trainer or with on_step."""
    with pytest.raises(InvalidProblem, match=rf"takes no {type(thing).__name__}.*callbacks=\[hook\].*hook.on_step\("):
        GradCheckHook(thing)


def test_a_torch_module_is_sent_to_its_own_hook():
    """Without an import of torch, by the name of its base class."""
    base = type("Module", (), {"__module__": "torch.nn.modules.module"})
    with pytest.raises(InvalidProblem, match=r"takes no Net.*adapters.TorchGradCheckHook\(model\)"):
        GradCheckHook(type("Net", (base,), {})())


def test_a_mistake_is_told_once_and_the_end_says_that_nothing_was_checked():
    """Where one check of the run was made, the end sums up as always."""
    for heals in (False, True):
        listener = Listener()
        hook = a_hook(schedule=every(1), reporters=[listener])
        seen = "InvalidProblem: The loss must be a callable"
        with pytest.warns(GradCheckWarning, match=seen) as caught:  # noqa: PT031 - one in all of this
            for step in range(4):
                loss = cost if heals and step == 3 else 0.5
                hook.on_step(step, loss=loss, params=PARAMS, grads=gradient)
        hook.close()
        assert len(caught) == 1
        assert verdicts_of(hook) == [*[INCONCLUSIVE] * 3, GOOD if heals else INCONCLUSIVE]
        assert ("nothing was checked in this run (4 checks)" in listener.said[-1]) == (not heals)


@pytest.mark.parametrize("zeros", [True, False])
def test_a_matrix_whose_input_is_zero_in_every_check_is_told(zeros):
    """The loader's fault hides a wrong backward from every check: the third one says so."""
    hook = a_hook(schedule=every(1))
    run = trainer(hook)  # with a penalty, whose part W has
    run.fit(INPUTS * (not zeros), LABELS, batch_size=10)
    noted = [any("dense1.W has had no gradient in" in note for note in report.notes) for report in hook.reports]
    assert noted == [False, False, zeros, zeros]


# Copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize("schedule", [None, drift(1e-3)])
def test_a_trainer_with_its_hook_can_be_copied(copied, schedule, tmp_path):
    """The copy goes on with checks of its own, in a folder of its own, and leaves the original alone."""
    hook = GradCheckHook(after=2, schedule=schedule, reporters=[], log_dir=tmp_path)
    run = fit(hook, 4)
    again = copied(run)
    (twin,) = again.callbacks
    assert [report.to_json() for report in twin.reports] == [report.to_json() for report in hook.reports]
    again.fit(INPUTS, LABELS, batch_size=4)
    assert len(hook.reports) == len(run.callbacks[0].reports) < 10
    assert (len(twin.reports) > len(hook.reports)) == (schedule is not None)
    if schedule is not None:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["gradcheck", "gradcheck-2"]


# Dropout in a loop of one's own


class OwnNet:
    """Dense, dropout, dense, with a mask that backward keeps or draws again, from its own generator or NumPy's."""

    def __init__(self, again=False, rng=None):
        start = np.random.default_rng(0)
        self.params = {"W1": start.normal(size=(4, 6)), "W2": start.normal(size=(6, 1))}
        self.again, self.rng = again, np.random.default_rng(5) if rng is None else rng

    def mask(self, shape):
        return (self.rng.random(shape) < 0.6) / 0.6

    def loss(self, p):
        self.hidden = np.tanh(INPUTS @ p["W1"])
        self.drawn = self.mask(self.hidden.shape)
        self.error = (self.hidden * self.drawn @ p["W2"])[:, 0] - LABELS
        return np.mean(self.error**2)

    def backward(self, p):
        upstream = 2 * self.error[:, np.newaxis] / len(LABELS)
        grads = {"W2": (self.hidden * self.drawn).T @ upstream}
        if self.again:
            self.drawn = self.mask(self.hidden.shape)
        return {**grads, "W1": INPUTS.T @ (upstream @ p["W2"].T * self.drawn * (1 - self.hidden**2))}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("rng", [None, np.random])
@pytest.mark.parametrize("passes", [1, 2])
def test_masks_are_held_in_a_loop_of_ones_own(again, rng, passes):
    """A loss and a gradient function that draw from the same generators are judged with these put back, whether
    backward begins with one forward pass or with two; a mask that is drawn again in backward is named."""
    net = OwnNet(again, rng)

    def backward(p):
        for _ in range(passes):
            net.loss(p)
        return net.backward(p)

    hook = a_hook(schedule=every(1), on_fail=lambda report: None)
    own, shared = copy.deepcopy(net.rng) if rng is None else None, np.random.get_state()[1].copy()
    for step in range(2):
        hook.on_step(step, loss=net.loss, params=net.params, grads=backward)
    assert np.array_equal(np.random.get_state()[1], shared)
    assert own is None or net.rng.random() == own.random()
    assert verdicts_of(hook) == [WORRY if again else GOOD] * 2
    for report in hook.reports:
        assert failing(report) == ({"W1"} if again and passes == 1 else failing(report))
        assert ("dropout_mask" in {diagnosis.code for diagnosis in report.diagnoses}) == again
        assert any("its masks held fixed" in answer for answer in report.asked)


@pytest.mark.parametrize("reason", ["cached", "buffers", "state"])
def test_what_is_no_mask_that_can_be_held_is_refused(reason):
    """A gradient of an earlier forward pass, buffers, and a state that is carried: told with the cause, and no GOOD."""
    net, calls = OwnNet(), []

    def with_state(p):
        calls.append(0)
        return net.loss(p) + len(calls)

    net.loss(net.params)
    loss = with_state if reason == "state" else net.loss
    grads = net.backward(net.params) if reason == "buffers" else net.backward
    hook = a_hook(schedule=every(1))
    with pytest.warns(GradCheckWarning, match="NondeterministicLoss"):
        hook.on_step(0, loss=loss, params=net.params, grads=grads)
    assert verdicts_of(hook) == [INCONCLUSIVE]
