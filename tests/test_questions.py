"""The three questions that a hook asks of a trainer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gc_hooks import Callback, TrainState, Verdict, entries, nn, training
from gc_hooks.check import CheckOptions
from gc_hooks.hooks.questions import check_slopes, compare_buffers, differ, glance_at_slopes, with_buffers
from gc_hooks.quick_check import Glance
from gc_hooks.report.comparison import Reason

RNG = np.random.default_rng(4)
INPUTS, LABELS = RNG.normal(size=(12, 4)), RNG.integers(3, size=12)
MASKS = np.random.default_rng(9).bit_generator.state


class Captured(Exception):
    """Ends a training at the point where the hook would look."""


class Capture(Callback):
    def on_gradients(self, state):
        raise Captured


def state_at_gradients(dense=nn.Dense, dropout=nn.Dropout, penalty=None, dtype=np.float64):
    """What a trainer shows to its callbacks at the first step."""
    layers = [dense(4, 5), nn.Tanh(), dropout(0.4), nn.Dense(5, 3)]
    model, loss = nn.Sequential(layers, dtype=dtype), nn.SoftmaxCrossEntropy()
    return stopped_at_gradients(nn.Trainer(model, loss, nn.SGD(0.1), penalty=penalty, callbacks=[Capture()]), LABELS)


def stopped_at_gradients(trainer, targets):
    with pytest.raises(Captured):
        trainer.fit(INPUTS, targets, batch_size=6)
    return trainer.state


def ask(state, random_state=None, **options):
    return check_slopes(state, state.batch, random_state, CheckOptions(**options))


def verdicts(report):
    return {name: comparison.verdict for name, comparison in report.parameters.items()}


class Unscaled(nn.Dropout):
    """The mask of backward lacks the division by the keep probability."""

    def backward(self, params, cache, upstream):
        return (upstream if cache is None else upstream * (cache > 0)), {}


class ForgottenPenalty(nn.L2):
    def gradient(self, params):
        return {name: 0 * gradient for name, gradient in super().gradient(params).items()}


class Unsteady(nn.Dense):
    """Every backward pass adds to a buffer."""

    total = 0.0

    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        self.total = self.total + grads["W"]
        return upstream, {**grads, "W": self.total}


class WithoutBias(nn.Dense):
    def backward(self, params, cache, upstream):
        upstream, grads = super().backward(params, cache, upstream)
        return upstream, {"W": grads["W"]}


# Does the gradient equal the slope?


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("random_state", [None, MASKS], ids=["off", "frozen"])
def test_slopes_of_a_right_network_are_good_in_either_precision(dtype, random_state):
    """The code is judged in float64 whatever it trains in, with dropout off or its masks fixed."""
    report = ask(state_at_gradients(dtype=dtype), random_state)
    assert report.ok
    assert report.difference < 1e-14
    assert report.asked == (
        f"Slopes on 6 samples in float64, dropout {'on, with fixed masks' if random_state else 'off'}.",
    )


def test_dropout_off_and_frozen_are_different_losses():
    """Frozen masks drop units, a rate of zero drops none, and each gives its own loss again."""
    state = state_at_gradients()
    off, frozen, again = (ask(state, random_state).loss for random_state in (None, MASKS, MASKS))
    assert frozen == again != off


@pytest.mark.parametrize("dropout", [nn.Dropout, Unscaled])
def test_only_frozen_masks_see_a_bug_in_dropout(dropout):
    """Backward without the scale passes with dropout off; with fixed masks everything below the layer is wrong."""
    state = state_at_gradients(dropout=dropout)
    assert ask(state).ok
    frozen = verdicts(ask(state, MASKS))
    below = Verdict.WORRY if dropout is Unscaled else Verdict.GOOD
    assert frozen == {"dense1.W": below, "dense1.b": below, "dense2.W": Verdict.GOOD, "dense2.b": Verdict.GOOD}


@pytest.mark.parametrize("penalty", [nn.L2, ForgottenPenalty])
@pytest.mark.parametrize("strength", [1e-1, 1e-6])
def test_a_forgotten_penalty_is_seen_at_any_strength(penalty, strength):
    """Measured apart, a penalty far below the slopes' own accuracy is missed where it is missing, on weights only."""
    report = ask(state_at_gradients(penalty=penalty(strength)))
    suspects = {name for name, verdict in verdicts(report).items() if verdict >= Verdict.DOUBLE_CHECK}
    assert suspects == ({"dense1.W", "dense2.W"} if penalty is ForgottenPenalty else set())


class OppositePenalty(nn.L2):
    def gradient(self, params):
        return {name: -g for name, g in super().gradient(params).items()}


class DoubledPenalty(nn.L2):
    def gradient(self, params):
        return {name: 2 * g for name, g in super().gradient(params).items()}


class PenaltyOnBiases(nn.L2):
    def gradient(self, params):
        return {name: self.strength * array for name, array in params.items()}


@pytest.mark.parametrize("strength", [1e-1, 1e-4, 1e-6])
@pytest.mark.parametrize(
    ("penalty", "code"),
    [(ForgottenPenalty, "l2_missing"), (OppositePenalty, "l2_sign"), (DoubledPenalty, "l2_factor")],
)
def test_what_is_wrong_with_the_penalty_is_named(penalty, code, strength):
    """At any strength, and a missing one with its strength to three digits."""
    (diagnosis,) = ask(state_at_gradients(penalty=penalty(strength))).diagnoses
    assert (diagnosis.code, diagnosis.parameters) == (code, ("dense1.W", "dense2.W"))
    if code == "l2_missing":
        assert f"{strength:.3g} times the parameter" in diagnosis.message


@pytest.mark.parametrize("strength", [1e-1, 1e-6])
def test_a_penalty_on_the_biases_is_named(strength):
    """It is in the gradient and not in the loss."""
    state = state_at_gradients(penalty=PenaltyOnBiases(strength))
    for name in ("dense1.b", "dense2.b"):
        state.params[name][...] = RNG.standard_normal(state.params[name].shape)
    (diagnosis,) = ask(state).diagnoses
    assert (diagnosis.code, diagnosis.parameters) == ("l2_on_bias", ("dense1.b", "dense2.b"))


def test_the_share_of_the_penalty_is_reported():
    """The share is the norm of the penalty's gradient in that of the whole; without a penalty there is none."""
    state = state_at_gradients(penalty=nn.L2(0.1))
    whole = state.objective.gradient(state.params, state.batch)
    part = nn.L2(0.1).gradient(state.params)
    share = math.hypot(*map(np.linalg.norm, part.values())) / math.hypot(*map(np.linalg.norm, whole.values()))
    assert ask(state, probes=entries).penalty_share == pytest.approx(share, rel=1e-9)
    assert math.isnan(ask(state_at_gradients()).penalty_share)


def test_targets_of_a_regression_are_used_as_they_are():
    """Float32 targets are raised with the inputs, so that a float32 regression is judged on its own data."""

    class Squares(nn.MeanSquaredError):
        def gradient(self, outputs, targets):
            assert outputs.dtype == targets.dtype
            return super().gradient(outputs, targets)

    model = nn.Sequential([nn.Dense(4, 1)], dtype=np.float32)
    state = stopped_at_gradients(nn.Trainer(model, Squares(), nn.SGD(0.1), callbacks=[Capture()]), INPUTS[:, :1])
    assert state.batch[1].dtype == np.float32
    assert ask(state).ok


def test_a_gradient_that_a_layer_does_not_return_is_a_finding():
    """A missing gradient is WORRY on that parameter alone, the buffers' comparison included."""
    state = state_at_gradients(dense=WithoutBias)
    report = with_buffers(ask(state), state, None)
    assert {name for name, verdict in verdicts(report).items() if verdict > Verdict.GOOD} == {"dense1.b"}
    assert report.parameters["dense1.b"].verdict is Verdict.WORRY
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["missing_gradient"]


class OwnLine:
    """The least that an objective has: a loss and its gradient, which may be wrong by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def data_loss(self, params, batch, random_state=None):
        return np.mean((batch[0] @ params["w"] - batch[1]) ** 2)

    def data_gradient(self, params, batch, random_state=None):
        inputs, targets = batch
        return {"w": self.factor * 2 * inputs.T @ (inputs @ params["w"] - targets) / len(targets)}


class Line(OwnLine, training.Objective):
    """The same, with the base class."""


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, Verdict.GOOD), (2.0, Verdict.WORRY)])
@pytest.mark.parametrize("kind", [Line, OwnLine])
def test_an_objective_needs_a_loss_and_its_gradient(factor, verdict, kind):
    """Everything else has a default: no penalty, no notes, no constants, no layers, nothing that is truncated."""
    params, batch = {"w": np.ones(4)}, (INPUTS, LABELS.astype(float))
    objective = kind(factor)
    state = TrainState(objective, params, objective.data_gradient(params, batch), batch=batch)
    glanced = glance_at_slopes(state, batch, None, CheckOptions(), Glance())
    assert glanced.ok if factor == 1 else glanced is None
    report = with_buffers(check_slopes(state, batch, None, CheckOptions()), state, None)
    assert report.verdict is verdict
    assert report.parameters["w"].difference == pytest.approx(0.0 if factor == 1 else 1 / 3, abs=1e-9)


def test_an_objective_without_a_loss_is_refused():
    """The base class names what is missing when the object is made, not in the middle of a training."""
    with pytest.raises(TypeError, match="data_loss"):
        type("Empty", (training.Objective,), {})()


# Do the buffers equal a fresh pass, twice?


def test_buffers_of_a_right_network_equal_a_fresh_pass():
    """Nothing is added to a good report but the answer, with dropout's own masks drawn again."""
    state = state_at_gradients()
    slopes = ask(state)
    report = with_buffers(slopes, state, None)
    assert report.ok
    assert report.asked == (*slopes.asked, "The optimiser's buffers equal a fresh backward pass, run twice.")
    assert (report.diagnoses, report.gradients, report.parameters) == ((), slopes.gradients + 2, slopes.parameters)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda fresh, previous: fresh + previous, "accumulated"),
        (lambda fresh, previous: previous, "stale"),
        (lambda fresh, previous: np.clip(fresh, -1e-3, 1e-3), "buffers_differ"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_the_buffers_hold_instead_is_named(change, code, dtype):
    """This step's gradient plus the last one's, the last one's alone, and anything else have names of their own."""
    state = state_at_gradients(dtype=dtype)
    slopes, name = ask(state), "dense2.W"
    previous = {n: gradient + 1 for n, gradient in state.grads.items()}
    state.grads[name][...] = change(state.grads[name], previous[name])
    report = with_buffers(slopes, state, previous)
    (diagnosis,) = report.diagnoses
    assert (diagnosis.code, diagnosis.parameters) == (code, (name,))
    assert {n for n, verdict in verdicts(report).items() if verdict > Verdict.GOOD} == {name}
    assert report.parameters[name].verdict is Verdict.WORRY
    assert "off a fresh backward pass by" in report.parameters[name].note
    assert report.parameters[name].reason is Reason.HOOK
    assert report.difference > 1e-3
    assert report.asked == slopes.asked


def test_without_the_last_buffers_nothing_is_claimed_of_them():
    """Where the step before was not looked at, doubled buffers are different and no more is said."""
    state = state_at_gradients()
    slopes = ask(state)
    for gradient in state.grads.values():
        gradient *= 2
    report = with_buffers(slopes, state, None)
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["buffers_differ"]
    assert set(verdicts(report).values()) == {Verdict.WORRY}
    assert report.difference == pytest.approx(1 / 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounding_is_no_difference(dtype):
    """Buffers a rounding away, as another order of summation gives, are the same."""
    state = state_at_gradients(dtype=dtype)
    slopes = ask(state)
    for gradient in state.grads.values():
        gradient *= 1 + 4 * np.finfo(dtype).eps
    assert with_buffers(slopes, state, None).ok


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_a_buffer_that_is_not_finite_is_wrong_where_a_fresh_pass_is_finite(entry):
    """NaN in a buffer never passes."""
    state = state_at_gradients()
    slopes = ask(state)
    state.grads["dense1.b"][0] = entry
    report = with_buffers(slopes, state, None)
    assert report.parameters["dense1.b"].verdict is Verdict.WORRY
    assert report.verdict is Verdict.WORRY


@pytest.mark.parametrize("entry", [np.nan, np.inf])
@pytest.mark.parametrize("fresh_too", [False, True])
def test_buffers_that_are_not_finite_are_named(entry, fresh_too):
    """Also where a fresh backward pass is just as little finite: NaN is equal to nothing."""
    state = state_at_gradients(dtype=np.float32)
    slopes, objective = ask(state), state.objective
    state.grads["dense1.W"][1, 2] = entry

    class Same:
        data_loss = staticmethod(objective.data_loss)

        def gradient(self, *arguments):
            return {n: g.copy() for n, g in state.grads.items()} if fresh_too else objective.gradient(*arguments)

    state.objective = Same()
    report = with_buffers(slopes, state, None)
    (diagnosis,) = report.diagnoses
    assert (diagnosis.code, diagnosis.parameters) == ("not_finite", ("dense1.W",))
    assert diagnosis.evidence == f"dense1.W[1, 2] is {entry}."
    assert {name for name, verdict in verdicts(report).items() if verdict > Verdict.GOOD} == {"dense1.W"}
    assert report.asked == slopes.asked  # nothing equals it


def test_buffers_of_a_batch_whose_loss_is_not_finite_are_no_finding():
    """They hold what such a loss gives: nothing was compared, and nothing is accused."""
    state = state_at_gradients()
    slopes = ask(state)
    state.batch[0][0, 0] = np.nan
    state.grads.update(state.objective.gradient(state.params, state.batch, state.random_state))
    report = with_buffers(slopes, state, None)
    assert report.diagnoses == ()
    assert set(verdicts(report).values()) == {Verdict.INCONCLUSIVE}
    assert {comparison.reason for comparison in report.parameters.values()} == {Reason.LOSS_NOT_FINITE}
    assert report.asked == slopes.asked


@pytest.mark.parametrize("loss", [0.5, np.nan])
def test_a_buffer_that_is_not_finite_equals_nothing(loss):
    """Not even a fresh pass that is not finite either; where the loss is not finite, that is what is told."""
    state = state_at_gradients()
    slopes = replace(ask(state), loss=loss)
    fresh = {name: gradient.copy() for name, gradient in state.grads.items()}
    fresh["dense1.b"][0] = np.nan
    report = compare_buffers(slopes, fresh, [fresh, fresh], None)
    if np.isnan(loss):
        assert report.parameters == slopes.parameters
        return
    (found,) = report.diagnoses
    assert (found.code, found.parameters) == ("not_finite", ("dense1.b",))
    assert {name for name, verdict in verdicts(report).items() if verdict is Verdict.WORRY} == {"dense1.b"}
    assert report.asked == slopes.asked  # and nothing equals a fresh pass


def test_a_backward_pass_that_does_not_repeat_itself_is_told():
    """Two passes that differ are WORRY on the parameters that differ, and not taken for a wrong buffer."""
    state = state_at_gradients(dense=Unsteady)
    report = with_buffers(ask(state), state, None)
    assert {name for name, verdict in verdicts(report).items() if verdict > Verdict.GOOD} == {"dense1.W"}
    assert {diagnosis.code for diagnosis in report.diagnoses} == {"not_repeatable"}


def test_passes_that_differ_only_on_the_training_batch_are_told():
    """A backward pass may repeat itself on the check batch and not on the real one."""
    state = state_at_gradients()
    slopes, objective = ask(state), state.objective

    class Drifting:
        passes = 0

        def gradient(self, *arguments):
            self.passes += 1
            return {name: self.passes * gradient for name, gradient in objective.gradient(*arguments).items()}

    state.objective = Drifting()
    report = with_buffers(slopes, state, None)
    assert [diagnosis.code for diagnosis in report.diagnoses] == ["not_repeatable"]
    assert set(verdicts(report).values()) == {Verdict.WORRY}
    assert "not repeatable: off by 3.3e-01" in report.parameters["dense1.W"].note


def test_a_remainder_where_the_gradient_is_zero_is_no_difference():
    """Sums in another order leave another remainder of the whole gradient's size times the rounding; more is seen."""
    whole = {"W": np.ones(4), "b": np.array([1e-16])}
    for other, apart in ((-1e-16, False), (1e-12, True)):
        assert bool(differ(whole, {"W": np.ones(4), "b": np.array([other])})) == apart
