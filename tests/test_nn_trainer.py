"""The training loop, the objective and the history."""

from __future__ import annotations

import copy
import io
import pickle
import sys

import numpy as np
import pytest
import rich
from rich.console import Console

from gc_hooks.errors import InvalidProblem
from gc_hooks.nn import (
    L2,
    SGD,
    Adam,
    BinaryCrossEntropy,
    Context,
    Dense,
    Dropout,
    EarlyStopping,
    History,
    MeanSquaredError,
    Momentum,
    Objective,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Tanh,
    Trainer,
)
from gc_hooks.training import Callback

RNG = np.random.default_rng(2)
LABELS = RNG.integers(3, size=50)
INPUTS = RNG.normal(size=(50, 4)) + 2 * np.eye(3, 4)[LABELS]
POINTS = ("train_begin", "epoch_begin", "batch_begin", "gradients", "batch_end", "epoch_end", "train_end")


class Recorder(Callback):
    """Write down every call, and do something at one of them."""

    def __init__(self, point: str = "", action=None, at: int = 1) -> None:
        self.calls: list[str] = []
        self.point, self.action, self.at = point, action, at

    def heard(self, point, state):
        self.calls.append(point)
        if point == self.point and self.calls.count(point) == self.at:
            self.action(state)


for _point in POINTS:
    setattr(Recorder, f"on_{_point}", lambda self, state, point=_point: self.heard(point, state))


PENALTY = L2(1e-3)


def trainer(*callbacks, dropout=0.2, optimizer=None, seed=0, dtype=np.float64, penalty=PENALTY):
    model = Sequential([Dense(4, 8), ReLU(), Dropout(dropout), Dense(8, 3)], dtype=dtype)
    return Trainer(model, SoftmaxCrossEntropy(), optimizer or SGD(0.1), penalty=penalty, callbacks=callbacks, seed=seed)


def bits(*things) -> bytes:
    return pickle.dumps(things)


def raises(error):
    def action(state):
        raise error

    return action


# The objective


def state_of(seed: int):
    return np.random.default_rng(seed).bit_generator.state


@pytest.mark.parametrize("random_state", [None, state_of(3)], ids=["off", "frozen"])
def test_the_objective_is_the_loss_of_its_gradient(random_state):
    run = trainer()
    params, batch = run.model.params, (INPUTS[:9], LABELS[:9])
    grads = run.objective.gradient(params, batch, random_state)
    for name, array in params.items():
        direction = np.random.default_rng(1).normal(size=array.shape)
        moved = {**params, name: array + 1e-30j * direction}
        slope = run.objective(moved, batch, random_state).imag / 1e-30
        assert np.sum(grads[name] * direction) == pytest.approx(slope, rel=1e-12)


def test_the_objective_is_data_loss_plus_penalty():
    run = trainer()
    params, batch = run.model.params, (INPUTS, LABELS)
    parts = run.objective.data_loss(params, batch), run.objective.penalty(params)
    assert run.objective(params, batch) == parts[0] + parts[1]
    assert parts[1] > 0
    bare = Objective(run.model, run.loss)
    assert bare(params, batch) == bare.data_loss(params, batch) == parts[0]
    assert bare.penalty(params) == 0.0
    assert bare.gradient(params, batch).keys() == params.keys()


def test_the_random_state_fixes_the_masks_and_none_turns_dropout_off():
    run = trainer(dropout=0.5)
    params, batch = run.model.params, (INPUTS, LABELS)
    losses = [float(run.objective(params, batch, state)) for state in (None, state_of(1), state_of(1), state_of(2))]
    assert losses[1] == losses[2]
    assert len(set(losses)) == 3
    off, _ = run.model.forward(INPUTS, Context(training=False))
    assert losses[0] == pytest.approx(float(run.loss.value(off, LABELS) + run.objective.penalty(params)))


def test_a_random_state_of_another_kind_of_generator_is_understood():
    state = np.random.Generator(np.random.Philox(4)).bit_generator.state
    run = trainer(dropout=0.5)
    losses = [run.objective(run.model.params, (INPUTS, LABELS), state) for _ in range(2)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_objective_computes_in_the_precision_of_its_parameters(dtype):
    for run in (trainer(), trainer(penalty=None)):
        params = {name: array.astype(dtype) for name, array in run.model.params.items()}
        batch = INPUTS, LABELS
        assert run.objective(params, batch).dtype == dtype
        assert run.objective.data_loss(params, batch).dtype == dtype
        assert {array.dtype for array in run.objective.gradient(params, batch).values()} == {np.dtype(dtype)}
        mixed = {name: array + 0j for name, array in params.items()}
        assert run.objective(mixed, batch).dtype == np.result_type(dtype, np.complex64)


def test_asking_the_objective_changes_not_one_bit_of_the_training():
    run = trainer(optimizer=Adam(0.01), dropout=0.5)
    run.fit(INPUTS, LABELS, epochs=2)
    model, objective = run.model, run.objective

    def everything():
        generators = run._masks.bit_generator.state, run._orders.bit_generator.state, np.random.get_state()
        return bits(model.params, model.grads, run.optimizer.state, run.state.batch, *generators)

    before, random_state = everything(), copy.deepcopy(run.state.random_state)
    for state in (None, random_state):
        for params in (model.params, {name: array + 0j for name, array in model.params.items()}):
            objective(params, run.state.batch, state)
        objective.gradient(model.params, run.state.batch, state)
    assert everything() == before
    assert random_state == run.state.random_state


# The loop


def test_the_callback_points_come_in_their_order():
    recorder = Recorder()
    trainer(recorder).fit(INPUTS, LABELS, epochs=2, batch_size=25)
    batch = ["batch_begin", "gradients", "batch_end"]
    epoch = ["epoch_begin", *batch, *batch, "epoch_end"]
    assert recorder.calls == ["train_begin", *epoch, *epoch, "train_end"]


def test_callbacks_are_called_in_the_order_given():
    heard = []
    first, second = (Recorder("gradients", lambda state, name=name: heard.append(name)) for name in "ab")
    trainer(first, second).fit(INPUTS, LABELS)
    assert heard == ["a", "b"]


def test_the_gradients_shown_are_those_of_the_objective_on_this_batch_with_these_masks():
    class Check(Callback):
        seen = 0

        def on_gradients(self, state):
            fresh = state.objective.gradient(state.params, state.batch, state.random_state)
            assert bits(fresh) == bits(state.grads)
            assert state.loss == float(state.objective(state.params, state.batch, state.random_state))
            assert state.step == self.seen
            self.seen += 1

        def on_batch_end(self, state):
            assert state.step == self.seen

    run = trainer(check := Check(), dropout=0.5)
    run.fit(INPUTS, LABELS, epochs=2, batch_size=16)
    assert check.seen == run.step == 8
    assert run.state.params is run.model.params
    assert run.state.grads is run.model.grads


def test_the_random_state_shown_is_that_right_before_the_forward_pass():
    def spend(state):
        run._masks.random()  # a callback that draws between batch_begin and the forward pass

    def compare(state):
        again = state.objective(state.params, state.batch, state.random_state)
        compared.append((state.loss, float(again)))

    compared: list = []
    run = trainer(Recorder("batch_begin", spend), Recorder("gradients", compare), dropout=0.5)
    run.fit(INPUTS, LABELS, batch_size=50)
    [(loss, again)] = compared
    assert loss == again


def test_training_learns():
    run = trainer(optimizer=Momentum(0.1))
    history = run.fit(INPUTS, LABELS, epochs=40)
    assert history["loss"][-1] < history["loss"][0] / 2
    assert run.evaluate(INPUTS, LABELS)["accuracy"] > 0.9
    np.testing.assert_array_equal(run.predict(INPUTS), np.argmax(run.predict_proba(INPUTS), axis=1))


def test_a_regression_learns_and_has_no_accuracy():
    targets = INPUTS[:, :1] - 2 * INPUTS[:, 1:2]
    run = Trainer(Sequential([Dense(4, 1)]), MeanSquaredError(), SGD(0.1))
    history = run.fit(INPUTS, targets[:, 0], epochs=60, validation=(INPUTS, targets))
    assert list(history) == ["loss", "val_loss"]
    assert run.evaluate(INPUTS, targets).keys() == {"loss"}
    np.testing.assert_allclose(run.predict(INPUTS), targets, atol=1e-2)


def test_a_binary_classifier_learns():
    targets = INPUTS[:, 0] > 0.5
    run = Trainer(Sequential([Dense(4, 8), Tanh(), Dense(8, 1)]), BinaryCrossEntropy(), Adam(0.05))
    run.fit(INPUTS, targets, epochs=60)
    assert run.evaluate(INPUTS, targets)["accuracy"] > 0.95
    assert run.predict_proba(INPUTS).shape == run.predict(INPUTS).shape == (50,)


@pytest.mark.parametrize("optimizer", [SGD, Momentum, Adam])
def test_float32_is_kept_from_end_to_end(optimizer):
    class Check(Callback):
        def on_gradients(self, state):
            assert {array.dtype for array in (*state.params.values(), *state.grads.values())} == {np.dtype(np.float32)}
            assert state.batch[0].dtype == np.float32

        def on_batch_end(self, state):
            self.on_gradients(state)

    run = trainer(Check(), optimizer=optimizer(0.01), dtype=np.float32)
    run.fit(INPUTS, LABELS)
    assert run.predict_proba(INPUTS).dtype == np.float32


def test_floating_targets_are_brought_to_the_models_precision_and_labels_are_not():
    kinds = []
    for loss, width, targets in ((MeanSquaredError(), 1, INPUTS[:, 0]), (SoftmaxCrossEntropy(), 3, LABELS)):
        model = Sequential([Dense(4, width)], dtype=np.float32)
        callback = Recorder("gradients", lambda state: kinds.append(state.batch[1].dtype))
        Trainer(model, loss, SGD(0.01), callbacks=[callback]).fit(INPUTS, targets)
    assert kinds == [np.float32, LABELS.dtype]


def test_the_seed_decides_the_whole_run():
    runs = [trainer(seed=seed, dropout=0.5) for seed in (1, 1, 2)]
    for run in runs:
        run.fit(INPUTS, LABELS, epochs=3)
    assert bits(runs[0].model.params, runs[0].history) == bits(runs[1].model.params, runs[1].history)
    assert bits(runs[0].model.params) != bits(runs[2].model.params)


def test_no_global_random_state_is_used():
    before = bits(np.random.get_state())
    trainer().fit(INPUTS, LABELS, epochs=2)
    assert bits(np.random.get_state()) == before


def batches_of(run: Trainer, **options):
    seen: list = []
    run.callbacks = (Recorder("batch_begin", lambda state: seen.append(state.batch[0]), at=1),)
    run.fit(INPUTS, LABELS, batch_size=50, **options)
    return seen[0]


def test_turning_dropout_on_does_not_change_the_order_of_the_samples():
    np.testing.assert_array_equal(batches_of(trainer(dropout=0.5)), batches_of(trainer(dropout=0)))


def test_masks_and_order_come_from_different_streams():
    run = trainer()
    assert run._masks.bit_generator.state != run._orders.bit_generator.state


def test_shuffling_can_be_turned_off():
    np.testing.assert_array_equal(batches_of(trainer(), shuffle=False), INPUTS)
    shuffled = batches_of(trainer())
    assert not np.array_equal(shuffled, INPUTS)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(INPUTS, axis=0))


def test_every_epoch_has_an_order_of_its_own_and_every_sample_once():
    seen: list = []

    class Collect(Callback):
        def on_batch_begin(self, state):
            seen.append(state.batch[0][:, 0])

    trainer(Collect()).fit(INPUTS, LABELS, epochs=2, batch_size=20)
    assert [len(batch) for batch in seen] == [20, 20, 10] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


def test_a_second_fit_goes_on_where_the_first_ended():
    once, twice = trainer(optimizer=Adam(0.01)), trainer(optimizer=Adam(0.01))
    once.fit(INPUTS, LABELS, epochs=4)
    for _ in range(2):
        twice.fit(INPUTS, LABELS, epochs=2)
    assert bits(once.model.params, once.history) == bits(twice.model.params, twice.history)
    assert (twice.step, twice.state.epoch) == (8, 4)


class Accumulating(Sequential):
    def store(self, grads):
        for name, gradient in grads.items():
            self.grads[name] += gradient


def test_an_accumulation_bug_can_be_planted_in_store():
    wrong = []

    class Check(Callback):
        def on_gradients(self, state):
            fresh = state.objective.gradient(state.params, state.batch, state.random_state)
            wrong.append(bits(fresh) != bits(state.grads))

    Trainer(Accumulating([Dense(4, 3)]), SoftmaxCrossEntropy(), SGD(0.1), callbacks=[Check()]).fit(INPUTS, LABELS)
    assert wrong == [False, True]


# Stopping


@pytest.mark.parametrize(
    ("point", "calls"),
    [
        ("train_begin", ["train_begin", "train_end"]),
        ("epoch_begin", ["train_begin", "epoch_begin", "train_end"]),
        ("batch_begin", ["train_begin", "epoch_begin", "batch_begin", "gradients", "batch_end", "train_end"]),
        ("gradients", ["train_begin", "epoch_begin", "batch_begin", "gradients", "batch_end", "train_end"]),
        ("batch_end", ["train_begin", "epoch_begin", "batch_begin", "gradients", "batch_end", "train_end"]),
    ],
)
def test_stop_ends_after_the_batch_under_way_without_closing_a_partial_epoch(point, calls):
    recorder = Recorder(point, lambda state: state.stop("enough"))
    run = trainer(recorder)
    history = run.fit(INPUTS, LABELS, epochs=3, batch_size=10)
    assert recorder.calls == calls
    assert (run.state.stop_reason, run.state.interrupted, run.state.epoch) == ("enough", False, 0)
    assert history == {}
    assert len(history.batch_loss) == run.step == calls.count("batch_end")


def test_a_stop_in_the_last_batch_leaves_a_whole_epoch_that_is_closed():
    recorder = Recorder("batch_end", lambda state: state.stop(), at=2)
    run = trainer(recorder)
    run.fit(INPUTS, LABELS, epochs=3, batch_size=25)
    assert recorder.calls[-2:] == ["epoch_end", "train_end"]
    assert recorder.calls.count("epoch_begin") == run.state.epoch == len(run.history["loss"]) == 1


def test_a_stopped_trainer_can_be_started_again():
    run = trainer(Recorder("batch_end", lambda state: state.stop("enough")))
    run.fit(INPUTS, LABELS, batch_size=10)
    run.fit(INPUTS, LABELS, batch_size=10)
    assert (run.step, run.state.should_stop, run.state.stop_reason) == (6, False, "")


@pytest.mark.parametrize("point", POINTS[:-1])
@pytest.mark.parametrize("error", [ZeroDivisionError("planted"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_exception_at_any_point_ends_the_training_once_and_is_passed_on(point, error):
    recorder = Recorder(point, raises(error))
    run = trainer(recorder)
    with pytest.raises(type(error)):
        run.fit(INPUTS, LABELS)
    assert recorder.calls[-1] == "train_end"
    assert recorder.calls.count("train_end") == 1
    assert run.state.interrupted
    run.fit(INPUTS, LABELS)
    assert not run.state.interrupted


def test_an_exception_in_train_end_does_not_call_it_again():
    recorder = Recorder("train_end", raises(ZeroDivisionError("planted")))
    with pytest.raises(ZeroDivisionError):
        trainer(recorder).fit(INPUTS, LABELS)
    assert recorder.calls.count("train_end") == 1


# History and evaluation


def test_history_has_a_row_per_epoch_and_a_loss_per_step():
    run = trainer()
    history = run.fit(INPUTS, LABELS, epochs=3, batch_size=20, validation=(INPUTS, LABELS))
    assert history is run.history
    assert {name: len(figures) for name, figures in history.items()} == dict.fromkeys(
        ["loss", "accuracy", "val_loss", "val_accuracy"], 3
    )
    assert len(history.batch_loss) == 9
    sizes = [20, 20, 10]
    assert history["loss"][-1] == pytest.approx(np.average(history.batch_loss[-3:], weights=sizes))
    assert run.state.metrics == {name: figures[-1] for name, figures in history.items()}
    assert history["val_loss"][-1] == run.evaluate(INPUTS, LABELS)["loss"]


def test_history_keeps_its_rows_aligned_when_validation_comes_and_goes():
    run = trainer()
    run.fit(INPUTS, LABELS)
    run.fit(INPUTS, LABELS, validation=(INPUTS, LABELS))
    run.fit(INPUTS, LABELS)
    assert [len(figures) for figures in run.history.values()] == [3] * 4
    np.testing.assert_array_equal(np.isnan(run.history["val_loss"]), [True, False, True])


def test_history_survives_copying_and_pickling():
    history = History()
    history.record({"loss": 1.0})
    history.batch_loss.append(2.0)
    for twin in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert twin == history
        assert twin.batch_loss == [2.0]


def test_evaluation_is_in_evaluation_mode_with_the_penalty_and_changes_nothing():
    run = trainer(dropout=0.5)
    run.fit(INPUTS, LABELS)
    before = bits(run.model.params, run.model.grads, run._masks.bit_generator.state)
    found = run.evaluate(INPUTS, LABELS)
    assert found["loss"] == pytest.approx(float(run.objective(run.model.params, (INPUTS, LABELS))))
    assert found["accuracy"] == np.mean(run.predict(INPUTS) == LABELS)
    assert bits(run.model.params, run.model.grads, run._masks.bit_generator.state) == before


def test_plain_lists_are_accepted():
    run = trainer()
    run.fit(INPUTS.tolist(), LABELS.tolist(), validation=(INPUTS.tolist(), LABELS.tolist()))
    assert run.predict(INPUTS.tolist()).shape == (50,)


# Early stopping


class Script(Callback):
    """Replace the figures of each epoch, and note the parameters."""

    def __init__(self, name, values) -> None:
        self.name, self.values, self.params = name, list(values), []

    def on_epoch_end(self, state):
        state.metrics[self.name] = self.values[len(self.params)]
        self.params.append(copy.deepcopy(state.params))


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values", "epochs"),
    [
        ("val_loss", [3, 2, 2.5, 2.1, 1], 4),
        ("val_loss", [3, 2, 2.5, 1.9, 2, 2, 1], 6),
        ("val_accuracy", [0.5, 0.6, 0.6, 0.55, 0.9], 4),
        ("val_loss", [NAN, NAN, 1], 2),
        ("val_loss", [NAN, 2, NAN, 2, 1], 4),
        ("val_loss", [3, 2, 1], 3),
    ],
)
def test_early_stopping_waits_for_its_patience(name, values, epochs):
    stopping = EarlyStopping(name, patience=2)
    run = trainer(Script(name, values), stopping)
    run.fit(INPUTS, LABELS, epochs=len(values))
    assert run.state.epoch == epochs
    assert run.state.should_stop == (epochs < len(values))
    assert run.state.stop_reason.startswith(f"{name} has not improved" if epochs < len(values) else "")


@pytest.mark.parametrize(("restore", "epoch"), [(False, 3), (True, 1)])
def test_early_stopping_puts_the_best_parameters_back_only_when_asked(restore, epoch):
    script = Script("val_loss", [2, 1, 3, 3])
    run = trainer(script, EarlyStopping(patience=2, restore_best=restore))
    arrays = dict(run.model.params)
    run.fit(INPUTS, LABELS, epochs=9)
    assert bits(run.model.params) == bits(script.params[epoch])
    assert all(run.model.params[name] is arrays[name] for name in arrays)


def test_early_stopping_starts_afresh_with_each_fit():
    stopping = EarlyStopping(patience=1)
    run = trainer(Script("val_loss", [1, 2, 5, 4, 6]), stopping)
    run.fit(INPUTS, LABELS, epochs=9)
    run.fit(INPUTS, LABELS, epochs=9)
    assert (run.state.epoch, stopping.best) == (5, 4)


def test_early_stopping_without_its_figure_explains_itself():
    with pytest.raises(InvalidProblem, match=r"watches 'val_loss', but epoch 1 has only loss, accuracy.*validation="):
        trainer(EarlyStopping()).fit(INPUTS, LABELS)


def test_early_stopping_without_patience_is_refused():
    with pytest.raises(InvalidProblem, match=r"patience=0, but it must be at least 1.*stop at once"):
        EarlyStopping(patience=0)


# Messages


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (INPUTS, LABELS[:49], r"training data are .*\(50, 4\).*\(49,\): 50 and 49 samples.*transposed.*Try inputs\.T"),
        (INPUTS[:0], LABELS[:0], r"0 and 0 samples.*left nothing over"),
        (np.float64(1), LABELS, r"inputs of shape \(\)"),
    ],
)
def test_data_that_do_not_fit_are_explained(inputs, targets, message):
    with pytest.raises(InvalidProblem, match=message):
        trainer().fit(inputs, targets)
    with pytest.raises(InvalidProblem, match=r"The evaluation data are"):
        trainer().evaluate(inputs, targets)
    with pytest.raises(InvalidProblem, match=r"The validation data are"):
        trainer().fit(INPUTS, LABELS, validation=(inputs, targets))


@pytest.mark.parametrize("option", ["epochs", "batch_size"])
def test_counts_below_one_are_refused(option):
    with pytest.raises(InvalidProblem, match=rf"fit got {option}=0, but it must be at least 1\. Nothing.*trained"):
        trainer().fit(INPUTS, LABELS, **{option: 0})


# Progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def console(monkeypatch):
    """A console of rich's on a terminal that is a string."""
    console = Console(file=Screen(), force_terminal=True, width=120)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    return console


@pytest.mark.parametrize("progress", [None, True])
def test_a_terminal_gets_a_bar_and_what_others_print_on_the_console(console, progress):
    talker = Recorder("gradients", lambda state: console.print("a message from a callback"))
    trainer(talker).fit(INPUTS, LABELS, epochs=2, batch_size=25, progress=progress)
    written = console.file.getvalue()
    assert "4/4" in written
    assert "epoch 2" in written
    assert "accuracy" in written
    assert "a message from a callback" in written


def test_the_bar_is_closed_when_the_training_fails(console):
    with pytest.raises(ZeroDivisionError):
        trainer(Recorder("gradients", raises(ZeroDivisionError()))).fit(INPUTS, LABELS, progress=True)
    trainer().fit(INPUTS, LABELS, progress=True)


@pytest.mark.parametrize("progress", [False, None])
def test_nothing_is_shown_when_nothing_is_asked_for_or_nobody_looks(progress, capsys, monkeypatch):
    monkeypatch.setattr(rich, "get_console", lambda: Console(file=io.StringIO(), force_terminal=False))
    trainer().fit(INPUTS, LABELS, progress=progress)
    assert capsys.readouterr().out == ""


def test_false_silences_a_terminal_too(console):
    trainer().fit(INPUTS, LABELS, progress=False)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("installed", [True, False])
def test_true_prints_a_line_per_epoch_where_there_is_no_terminal_or_no_rich(installed, capsys, monkeypatch):
    monkeypatch.setattr(rich, "get_console", lambda: Console(file=io.StringIO(), force_terminal=False))
    if not installed:
        monkeypatch.setitem(sys.modules, "rich", None)
    run = trainer()
    run.fit(INPUTS, LABELS, epochs=2, progress=True)
    run.fit(INPUTS, LABELS, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2", "epoch 3/3"]
    assert "loss" in lines[0]


def test_progress_does_not_change_the_training(console):
    shown, silent = trainer(), trainer()
    shown.fit(INPUTS, LABELS, epochs=2, progress=True)
    silent.fit(INPUTS, LABELS, epochs=2, progress=False)
    assert bits(shown.model.params) == bits(silent.model.params)


def test_the_package_exports_what_it_says():
    import gc_hooks.nn as nn

    assert sorted(nn.__all__) == sorted(set(nn.__all__))
    assert all(hasattr(nn, name) for name in nn.__all__)
