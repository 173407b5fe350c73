"""Optimisers, learning rates and clipping: what they do, and what a check says of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_hooks import Callback, GradCheckHook, GradCheckWarning, Verdict, nn
from gc_hooks.errors import InvalidProblem

RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=40)
INPUTS = RNG.normal(size=(40, 4)) + 2 * np.eye(3, 4)[LABELS]
MAKERS = {
    "nesterov": lambda: nn.Nesterov(0.05),
    "rmsprop": lambda: nn.RMSProp(0.01),
    "adamw": lambda: nn.AdamW(0.01),
}
each_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def trainer(optimizer, *callbacks, dtype=np.float64, clip=None):
    model = nn.Sequential([nn.Dense(4, 6), nn.Tanh(), nn.Dense(6, 3)], dtype=dtype)
    return nn.Trainer(model, nn.SoftmaxCrossEntropy(), optimizer, callbacks=callbacks, clip=clip)


class Doubled(nn.Dense):
    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        return below, {**grads, "W": 2 * grads["W"]}


@each_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_learns_in_the_model_s_precision(make, dtype):
    run = trainer(make(), dtype=dtype)
    history = run.fit(INPUTS, LABELS, epochs=30, batch_size=8)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert {array.dtype for array in run.model.params.values()} == {np.dtype(dtype)}
    assert {array.dtype for array in run.optimizer.state.values()} - {np.dtype(np.int64)} == {np.dtype(dtype)}


@each_optimizer
def test_gradients_are_only_read_and_parameters_stay_the_same_arrays(make):
    params, grads = {"W": np.ones((2, 3)), "b": np.ones(3)}, {"W": np.full((2, 3), 0.5), "b": np.zeros(3)}
    for gradient in grads.values():
        gradient.flags.writeable = False
    before = dict(params)
    make().step(params, grads)
    assert all(params[name] is before[name] for name in params)
    assert (params["W"] < 1).all()
    np.testing.assert_array_equal(params["b"], 1)  # no gradient, and no decay of a bias


def test_nesterov_looks_ahead_of_the_heavy_ball():
    """Two steps with the same gradient: momentum goes 1 and 1.5 rates far, Nesterov 1.5 and 1.75."""
    places = {}
    for kind in (nn.Momentum, nn.Nesterov):
        optimizer, params = kind(1.0, momentum=0.5), {"W": np.zeros(1)}
        for _ in range(2):
            optimizer.step(params, {"W": np.ones(1)})
        places[kind] = params["W"][0]
    assert places == {nn.Momentum: -2.5, nn.Nesterov: -3.25}


def test_adamw_without_decay_is_adam():
    params = [{"W": np.ones((2, 2))}, {"W": np.ones((2, 2))}]
    for optimizer, held in zip((nn.AdamW(0.1, decay=0), nn.Adam(0.1)), params, strict=True):
        optimizer.step(held, {"W": np.full((2, 2), 0.3)})
    np.testing.assert_array_equal(params[0]["W"], params[1]["W"])


# What a check says


def reports_of(optimizer, *, layer=nn.Dense, **options):
    hook = GradCheckHook(after=5, reporters=[])
    model = nn.Sequential([layer(4, 6), nn.Tanh(), nn.Dense(6, 3)])
    made = nn.Trainer(model, nn.SoftmaxCrossEntropy(), optimizer, penalty=nn.L2(1e-3), callbacks=[hook], **options)
    made.fit(INPUTS, LABELS, epochs=2, batch_size=8)
    return hook.reports


def test_decoupled_decay_is_no_part_of_the_loss_and_the_report_says_so():
    reports = reports_of(nn.AdamW(0.01, decay=0.1))
    assert [report.verdict for report in reports] == [Verdict.GOOD] * 3
    assert all(any("decay=0.1" in note and "not checked" in note for note in report.notes) for report in reports)
    for optimizer in (nn.AdamW(0.01, decay=0), nn.Adam(0.01)):
        assert not any("decay" in note for report in reports_of(optimizer) for note in report.notes)


@pytest.mark.parametrize("clip", [nn.clip_by_norm(1e-3), nn.clip_by_value(1e-3)])
def test_a_check_sees_the_gradient_before_it_is_clipped(clip):
    """However much is clipped away the checks are GOOD, and say that it is; a planted bug is still seen."""
    reports = reports_of(nn.SGD(0.1), clip=clip)
    assert [report.verdict for report in reports] == [Verdict.GOOD] * 3
    assert all(any("clipped" in note for note in report.notes) for report in reports)
    with pytest.warns(GradCheckWarning, match="WORRY"):
        wrong = reports_of(nn.SGD(0.1), layer=Doubled, clip=clip)
    assert [report.verdict for report in wrong] == [Verdict.WORRY] * 3


# Clipping


@given(
    entries=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5),
    limit=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_clipping_keeps_the_limit_the_direction_and_the_dtype(entries, limit, dtype):
    grads = {"W": np.array(entries, dtype), "b": np.ones(2, dtype)}
    whole = np.concatenate(list(grads.values())).astype(float)
    by_value, by_norm = nn.clip_by_value(limit)(grads), nn.clip_by_norm(limit)(grads)
    assert {array.dtype for clipped in (by_value, by_norm) for array in clipped.values()} == {np.dtype(dtype)}
    assert all((abs(array) <= dtype(limit)).all() for array in by_value.values())
    clipped = np.concatenate(list(by_norm.values()))
    scale = min(1, limit / np.linalg.norm(whole))
    np.testing.assert_allclose(clipped, scale * whole, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden_by_clipping(wrong):
    grads = {"W": np.array([wrong, 1.0])}
    np.testing.assert_array_equal(nn.clip_by_norm(1)(grads)["W"], grads["W"])
    assert nn.clip_by_value(1)({"W": np.array([wrong])})["W"][0] == 1 or np.isnan(wrong)


def test_the_buffers_are_not_clipped_and_the_update_is():
    seen = []

    class Look(Callback):
        def on_batch_end(self, state):
            seen.append({name: array.copy() for name, array in state.grads.items()})

    run = trainer(nn.SGD(1.0), Look(), clip=nn.clip_by_norm(1e-3))
    before = {name: array.copy() for name, array in run.model.params.items()}
    run.fit(INPUTS, LABELS, batch_size=40)
    moved = np.sqrt(sum(np.sum((run.model.params[name] - before[name]) ** 2) for name in before))
    assert moved == pytest.approx(1e-3)
    assert np.sqrt(sum(np.sum(array**2) for array in seen[0].values())) > 1e-2


# Learning rates


def test_a_schedule_sets_the_rate_of_every_update():
    rates = []

    class Look(Callback):
        def on_gradients(self, state):
            rates.append(optimizer.learning_rate)

    optimizer = nn.SGD(1.0)
    rate = nn.warm_up(2, nn.cosine_decay(0.1, 8))
    trainer(optimizer, nn.LearningRate(optimizer, rate), Look()).fit(INPUTS, LABELS, epochs=2, batch_size=10)
    assert rates == [rate(step) for step in range(8)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[7] > 0


# What cannot be used


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Nesterov(0.1, momentum=1), r"Nesterov got momentum=1, but it must be in \[0, 1\).*Try 0\.9"),
        (lambda: nn.RMSProp(decay=1.5), r"RMSProp got decay=1\.5"),
        (lambda: nn.RMSProp(epsilon=0), r"RMSProp got epsilon=0.*divide zero by zero.*1e-8"),
        (lambda: nn.AdamW(decay=-1), r"AdamW got decay=-1.*zero or more.*grow without end.*Try"),
        (lambda: nn.AdamW(-1), r"AdamW got learning_rate=-1"),
        (lambda: nn.clip_by_norm(0), r"clip_by_norm got limit=0, but it must be positive.*nothing would be left.*Try"),
        (lambda: nn.clip_by_value(np.nan), r"clip_by_value got limit=nan"),
        (lambda: nn.step_decay(0.1, every=0), r"step_decay got every=0, but it must be positive.*rounded to zero.*Try"),
        (lambda: nn.exponential_decay(-0.1, 0.9), r"exponential_decay got rate=-0\.1"),
        (
            lambda: nn.cosine_decay(0.1, 10, floor=0.2),
            r"floor=0\.2 with rate=0\.1.*falls to.*Try floor=0",
        ),
        (lambda: nn.warm_up(3, 0.1), r"warm_up got after=0\.1.*not a function of the step.*lambda step: 0\.1"),
        (lambda: nn.warm_up(0, lambda step: 0.1), r"warm_up got steps=0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()
