"""Layers over sequences: backward is the slope of forward, and truncation is said and never accused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_hooks import GradCheckHook, GradCheckWarning, Verdict, central, check_gradients, check_layers, nn
from gc_hooks.errors import InvalidProblem
from hunts import some

CELLS = [nn.RNN, nn.LSTM, nn.GRU]
every_cell = pytest.mark.parametrize("cell", CELLS)
SYMBOLS = 5
IDS = np.random.default_rng(0).integers(SYMBOLS, size=(4, 7))


def model(*layers, seed=0, dtype=np.float64):
    """A model whose parameters are all away from zero."""
    made = nn.Sequential(layers, seed=seed, dtype=dtype)
    generator = np.random.default_rng(seed)
    for array in made.params.values():
        array += 0.3 * generator.normal(size=array.shape)
    return made


def verdicts(made, inputs, **options):
    return {name: report.verdict for name, report in check_layers(made, inputs, **options).items()}


# Backward against slopes


@settings(max_examples=25)
@given(
    cell=st.sampled_from(CELLS),
    shape=st.tuples(*[st.integers(1, 4)] * 2, st.integers(1, 6), st.integers(1, 4)),
    last=st.booleans(),
    truncation=st.one_of(st.none(), st.integers(1, 7)),
    seed=st.integers(0, 2**32),
)
def test_backward_is_the_slope_for_any_shape(cell, shape, last, truncation, seed):
    """For W, U, biases and inputs, at all steps or the last, cut or not: the package's own check says GOOD."""
    samples, inputs, steps, units = shape
    layer = cell(inputs, units, last_step=last, truncation=truncation)
    data = np.random.default_rng(seed).normal(size=(samples, steps, inputs))
    (report,) = check_layers(model(layer, seed=seed), data).values()
    assert report.verdict is Verdict.GOOD, str(report)


@every_cell
def test_backward_is_the_slope_by_central_differences_too(cell):
    data = np.random.default_rng(1).normal(size=(3, 5, 2))
    assert verdicts(model(cell(2, 3)), data, method=central) == {f"1 {cell.__name__}": Verdict.GOOD}


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 99))
def test_an_embedding_sums_over_the_places_where_a_symbol_stands(symbols, features, ids, seed):
    ids = np.array([ids]) % symbols
    (report,) = check_layers(model(nn.Embedding(symbols, features), seed=seed), ids).values()
    assert report.verdict is Verdict.GOOD, str(report)
    assert list(report.parameters) == ["W"]


def test_a_whole_model_is_good_layer_by_layer():
    made = model(
        nn.Embedding(SYMBOLS, 3), nn.GRU(3, 4), nn.LSTM(4, 4), nn.EachStep(nn.Dense(4, 2)), nn.EachStep(nn.ReLU())
    )
    assert set(verdicts(made, IDS).values()) == {Verdict.GOOD}
    assert [name for name in made.params if name.endswith("W")] == ["embedding1.W", "gru1.W", "lstm1.W", "dense1.W"]


class LastGradientEmbedding(nn.Embedding):
    """``gradient[ids] += dY`` keeps the last of what a repeated index gets."""

    def backward(self, params, cache, upstream):
        below, grads = super().backward(params, cache, upstream)
        gradient = np.zeros_like(grads["W"])
        gradient[cache.ravel()] += upstream.reshape(-1, self.features)
        return below, {"W": gradient}


class StatelessRNN(nn.RNN):
    """What the state hands back is forgotten."""

    def _is_cut(self, t):
        return True


class LeakyLSTM(nn.LSTM):
    """The cell's own path through the forget gate is forgotten."""

    def cell_backward(self, cache, upstream):
        dA, dR, (dh, dc) = super().cell_backward(cache, upstream)
        return dA, dR, (dh, np.zeros_like(dc))


class UnresetGRU(nn.GRU):
    """The reset gate is forgotten on the way back to the state."""

    def cell_backward(self, cache, upstream):
        dA, _, state = super().cell_backward(cache, upstream)
        return dA, dA, state


class HalfOwnGRU(nn.GRU):
    def own_grads(self, dR):
        return {"c": super().own_grads(dR)["c"] / 2}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (LastGradientEmbedding(SYMBOLS, 3), nn.Embedding(SYMBOLS, 3)),
        (StatelessRNN(2, 3), nn.RNN(2, 3)),
        (LeakyLSTM(2, 3), nn.LSTM(2, 3)),
        (UnresetGRU(2, 3), nn.GRU(2, 3)),
        (HalfOwnGRU(2, 3), nn.GRU(2, 3)),
    ],
)
def test_a_planted_wrong_backward_is_seen_and_its_clean_twin_is_good(wrong, right):
    data = IDS if right.discrete else np.random.default_rng(2).normal(size=(4, 5, 2))
    assert list(verdicts(model(wrong), data).values()) == [Verdict.WORRY]
    assert list(verdicts(model(right), data).values()) == [Verdict.GOOD]


# What forward does


@every_cell
def test_the_last_step_is_the_last_of_all_steps_and_the_batch_is_no_loop(cell):
    """Samples do not see each other: one at a time gives the same."""
    data = np.random.default_rng(3).normal(size=(3, 4, 2))
    whole, last = model(cell(2, 3)), model(cell(2, 3, last_step=True))
    np.testing.assert_array_equal(whole(data)[:, -1], last(data))
    singles = np.concatenate([whole(data[k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(whole(data), singles, rtol=1e-14, atol=1e-15)


@every_cell
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_precision_is_kept_forward_and_backward(cell, dtype):
    made = model(nn.Embedding(SYMBOLS, 2), cell(2, 3, truncation=2), dtype=dtype)
    outputs, caches = made.forward(IDS)
    grads = made.backward(caches, np.ones_like(outputs))
    assert {outputs.dtype, *(gradient.dtype for gradient in grads.values())} == {np.dtype(dtype)}
    assert made.detached(IDS)(IDS).dtype == dtype


@every_cell
def test_fresh_weights_are_drawn_block_by_block(cell):
    """U is orthogonal in each block, so that a state keeps its length; the draws are the same in both precisions."""
    fine, coarse = (cell(3, 4).init(np.random.default_rng(0), dtype) for dtype in (np.float64, np.float32))
    for block in np.split(fine["U"], cell.gates, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(4), atol=1e-14)
    np.testing.assert_array_equal(fine["W"].astype(np.float32), coarse["W"])
    assert nn.orthogonal(np.random.default_rng(0), 2, 5).shape == (2, 5)
    assert nn.orthogonal(np.random.default_rng(0), 5, 2).shape == (5, 2)


def test_the_penalty_sees_both_kinds_of_weights():
    made = model(nn.GRU(2, 3))
    assert nn.L2(0.1).gradient(made.params).keys() == {"gru1.W", "gru1.U"}


# Truncation


@every_cell
def test_a_truncated_gradient_is_that_of_the_loss_with_the_states_held(cell):
    """It is not the slope of the plain loss, which would be accused; against that of the held one it is GOOD."""
    made = model(cell(2, 3, truncation=2), nn.EachStep(nn.Dense(3, 1)))
    data = np.random.default_rng(4).normal(size=(3, 5, 2))
    plain = nn.Objective(made, nn.MeanSquaredError())
    batch = data, np.ones((3, 5, 1))
    held = plain.detached(made.params, batch)
    assert held.data_loss(made.params, batch) == plain.data_loss(made.params, batch)
    for objective, verdict in ((plain, Verdict.WORRY), (held, Verdict.GOOD)):
        report = check_gradients(
            lambda p, it=objective: it.data_loss(p, batch), made.params, lambda p: plain.gradient(p, batch)
        )
        assert report.verdict is verdict
        assert report.parameters["dense1.W"].verdict is Verdict.GOOD


@every_cell
def test_a_truncation_as_long_as_the_sequence_changes_nothing(cell):
    whole, cut = model(cell(2, 3)), model(cell(2, 3, truncation=5))
    data = np.random.default_rng(5).normal(size=(3, 5, 2))
    grads = []
    for made in (whole, cut):
        outputs, caches = made.forward(data)
        grads.append(made.backward(caches, outputs))
    for name in whole.params:
        np.testing.assert_array_equal(grads[0][name], grads[1][name])


def test_without_truncation_nothing_is_held_and_nothing_is_said():
    made = model(nn.RNN(2, 3))
    objective = nn.Objective(made, nn.MeanSquaredError())
    assert objective.detached(made.params, (np.ones((1, 2, 2)), np.ones((1, 2, 3)))) is objective
    assert made.notes == ()


def reports_of(layer, *, dtype=np.float64, steps=8, dropout="off"):
    """The reports of a short training on sequences, with a check at every second step."""
    hook = GradCheckHook(reporters=[], schedule=lambda call: call % 2 == 0, dropout=dropout)
    layers = [nn.Embedding(SYMBOLS, 3), nn.Dropout(0.3), layer, nn.EachStep(nn.Dense(4, SYMBOLS))]
    made, penalty = nn.Sequential(layers, dtype=dtype), nn.L2(1e-3)
    trainer = nn.Trainer(made, nn.SoftmaxCrossEntropy(), nn.SGD(0.5), penalty=penalty, callbacks=[hook])
    trainer.fit(IDS[:, :-1], IDS[:, 1:], epochs=steps, batch_size=4)
    return hook.reports


@every_cell
@pytest.mark.parametrize("dtype", some([np.float64, np.float32], [np.float64]))
@pytest.mark.parametrize("dropout", some(["off", "frozen"], ["off"]))
def test_the_hook_knows_of_the_truncation(cell, dtype, dropout):
    """GOOD at every check, and each report says where the gradient was cut."""
    reports = reports_of(cell(3, 4, truncation=2), dtype=dtype, dropout=dropout)
    assert [report.verdict for report in reports] == [Verdict.GOOD] * 4
    for report in reports:
        assert any("truncates back-propagation" in note and "once in 2 step(s)" in note for note in report.notes)


def test_a_glance_and_the_check_at_the_end_know_of_it_too():
    hook = GradCheckHook(reporters=[], every=2)
    layers = [nn.Embedding(SYMBOLS, 3), nn.LSTM(3, 4, last_step=True, truncation=2), nn.Dense(4, SYMBOLS)]
    trainer = nn.Trainer(nn.Sequential(layers), nn.SoftmaxCrossEntropy(), nn.SGD(0.5), callbacks=[hook])
    trainer.fit(IDS[:, :-1], IDS[:, -1], epochs=8)
    assert len(hook.reports) >= 5
    assert {report.verdict for report in hook.reports} == {Verdict.GOOD}
    assert all(any("truncates" in note for note in report.notes) for report in hook.reports)


@every_cell
def test_sequences_of_sequences_are_cut_within(cell):
    """A truncated layer inside of another is held, and said, too."""
    made = model(nn.EachStep(cell(2, 3, last_step=True, truncation=2)), nn.GRU(3, 2, truncation=1))
    reports = check_layers(made, np.random.default_rng(6).normal(size=(2, 3, 5, 2)))
    assert [report.verdict for report in reports.values()] == [Verdict.GOOD] * 2
    assert all(any("truncates" in note for note in report.notes) for report in reports.values())


def test_a_bug_in_a_truncated_layer_is_still_found():
    """Holding the states hides nothing else; the layer at fault is named."""
    with pytest.warns(GradCheckWarning, match="WORRY"):
        reports = reports_of(UnresetGRU(3, 4, truncation=3), steps=1)
    assert reports[0].verdict is Verdict.WORRY
    assert any(diagnosis.code == "layer" and "UnresetGRU" in diagnosis.message for diagnosis in reports[0].diagnoses)


def test_each_step_passes_on_the_state_of_its_layer():
    """Batch norm at each step has running averages, which a training moves and evaluation mode reads."""
    model = nn.Sequential([nn.EachStep(nn.BatchNorm(3)), nn.EachStep(nn.Dense(3, 2))])
    inputs = np.random.default_rng(0).normal(5.0, 1.0, size=(4, 6, 3))
    nn.Trainer(model, nn.MeanSquaredError(), nn.SGD(0.1)).fit(inputs, np.zeros((4, 6, 2)), epochs=100)
    np.testing.assert_allclose(model.state["batchnorm1.mean"], inputs.mean(axis=(0, 1)), rtol=1e-3)
    assert model(inputs).shape == (4, 6, 2)


# What cannot be used


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.RNN(0, 3), r"RNN got inputs=0, but it must be at least 1.*passed on"),
        (lambda: nn.LSTM(3, 0), r"LSTM got units=0"),
        (lambda: nn.GRU(3, 3, truncation=0), r"GRU got truncation=0.*truncation=None"),
        (lambda: nn.Embedding(0, 3), r"Embedding got symbols=0, but it must be at least 1.*empty text.*Try"),
    ],
)
def test_a_layer_without_units_is_refused(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 5), (4, 0, 3), (3,)])
def test_inputs_that_are_no_sequences_are_explained(shape):
    message = r"LSTM\(3, 2, last_step=True, truncation=4\) got inputs of shape .*\(samples, steps, 3\).*Embedding.*Try"
    with pytest.raises(InvalidProblem, match=message):
        model(nn.LSTM(3, 2, last_step=True, truncation=4))(np.ones(shape))


@pytest.mark.parametrize("wrong", [-1, SYMBOLS, 0.5, np.nan])
def test_ids_that_stand_for_nothing_are_explained(wrong):
    ids = np.where(np.arange(7) == 3, wrong, 0.0)[np.newaxis]
    with pytest.raises(InvalidProblem, match=r"1 input\(s\) that are not ids from 0 to 4, such as .*alphabet.*Try"):
        model(nn.Embedding(SYMBOLS, 2))(ids)


def test_a_precision_too_coarse_for_the_alphabet_is_refused():
    model(nn.Embedding(2048, 1), dtype=np.float16)(np.array([[2047]]))
    with pytest.raises(InvalidProblem, match=r"float16.*not every number below 2049 exists.*float32"):
        model(nn.Embedding(2049, 1), dtype=np.float16)(np.array([[2047]]))


def test_a_layer_at_each_step_needs_steps():
    with pytest.raises(
        InvalidProblem, match=r"EachStep\(Dense\(3, 2\)\) got inputs of shape \(4, 3\).*last_step=False"
    ):
        model(nn.EachStep(nn.Dense(3, 2)))(np.ones((4, 3)))
