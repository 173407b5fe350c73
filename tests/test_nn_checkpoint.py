"""A run that is stopped and resumed equals the run that was not, bit for bit, with a hook and without."""

from __future__ import annotations

import io
import json
import math
import os
import time
import zipfile

import numpy as np
import pytest

from gc_hooks import Callback, GradCheckHook, GradientMismatch, Verdict, every, nn
from gc_hooks.errors import InvalidProblem
from hunts import some
from interrupts import interrupted_at

RNG = np.random.default_rng(5)
LABELS = RNG.integers(3, size=44)
INPUTS = RNG.normal(size=(44, 4)) + np.eye(3, 4)[LABELS]
EPOCHS, BATCHES = 3, 6
OPTIMIZERS = {
    "sgd": lambda: nn.SGD(0.1),
    "momentum": lambda: nn.Momentum(0.05),
    "nesterov": lambda: nn.Nesterov(0.05),
    "adam": lambda: nn.Adam(0.01),
    "adamw": lambda: nn.AdamW(0.01),
    "rmsprop": lambda: nn.RMSProp(0.01),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


class SaveAt(Callback):
    """Save after so many updates, and stop there if asked to."""

    def __init__(self, path, step, stop):
        self.path, self.step, self.stop = path, step, stop

    def on_batch_end(self, state):
        if state.step == self.step:
            nn.save_training(self.trainer, self.path)
            if self.stop:
                state.stop("saved")


def trainer(*callbacks, optimizer="adam", seed=3, dtype=np.float64):
    layers = [nn.Dense(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Dense(6, 3)]
    model, made = nn.Sequential(layers, dtype=dtype, seed=seed), OPTIMIZERS[optimizer]()
    run = nn.Trainer(
        model,
        nn.SoftmaxCrossEntropy(smoothing=0.1),
        made,
        penalty=nn.L2(1e-3),
        clip=nn.clip_by_norm(0.5),
        callbacks=[nn.LearningRate(made, nn.cosine_decay(0.05, 30)), *callbacks],
        seed=seed,
    )
    for callback in callbacks:
        callback.trainer = run
    return run


def fit(run, epochs=EPOCHS, **options):
    run.fit(INPUTS, LABELS, epochs=epochs, **{"batch_size": 8, **options})
    return run


def traces(run):
    """All that a training leaves behind, the arrays as bytes."""
    arrays = [run.model.params, run.model.grads, run.optimizer.state]
    return (
        [{name: (a.dtype, a.shape, a.tobytes()) for name, a in held.items()} for held in arrays],
        [run._orders.bit_generator.state, run._masks.bit_generator.state],
        dict(run.history),
        run.history.batch_loss,
        (run.step, run.state.epoch, run.optimizer.learning_rate),
    )


def a_hook():
    return GradCheckHook(schedule=every(2), reporters=[])


def resumed(path, *callbacks, **options):
    """Another trainer, with other weights and random states, brought to where the first was saved and trained on."""
    run = trainer(*callbacks, **{**options, "seed": 77})
    nn.load_training(run, path)
    return fit(run, EPOCHS - run.state.epoch)


# Bit for bit


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("step", some([1, 4, BATCHES, BATCHES + 3, 2 * BATCHES], [BATCHES + 3]))
@each_optimizer
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, optimizer, step, hooked):
    """In the middle of an epoch and at its end, with dropout, clipping and a schedule, the hook on one side or both."""
    hooks = [a_hook(), a_hook()] if hooked else []
    whole = traces(fit(trainer(optimizer=optimizer)))
    fit(trainer(*hooks[:1], SaveAt(tmp_path / "run", step, stop=True), optimizer=optimizer))
    assert traces(resumed(tmp_path / "run", *hooks[1:], optimizer=optimizer)) == whole
    assert {report.verdict for hook in hooks for report in hook.reports} <= {Verdict.GOOD}
    assert sum(len(hook.reports) for hook in hooks) >= (9 if hooked else 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_precision_is_kept(tmp_path, dtype):
    whole = traces(fit(trainer(dtype=dtype, optimizer="momentum")))
    fit(trainer(SaveAt(tmp_path / "run", 5, stop=True), dtype=dtype, optimizer="momentum"))
    assert traces(resumed(tmp_path / "run", dtype=dtype, optimizer="momentum")) == whole


def test_saving_leaves_no_trace_in_the_run(tmp_path):
    saving = fit(trainer(SaveAt(tmp_path / "run", 4, stop=False)))
    assert traces(saving) == traces(fit(trainer()))
    assert traces(resumed(tmp_path / "run")) == traces(saving)


def test_a_run_can_be_saved_between_calls_of_fit(tmp_path):
    """Also before the first and, resumed twice, after each."""
    run = trainer()
    for _ in range(EPOCHS):
        nn.save_training(run, tmp_path / "run")
        run = trainer(seed=9)
        nn.load_training(run, tmp_path / "run")
        fit(run, 1)
    assert traces(run) == traces(fit(trainer()))


@pytest.mark.parametrize("point", ["on_batch_begin", "on_gradients", "on_batch_end"])
def test_a_run_that_an_exception_ended_is_saved_where_it_stood(tmp_path, point):
    """A batch that was broken off is made again, with the same masks; one that was finished is not."""

    class Failing(Callback):
        pass

    def fail(state):
        if state.step == 8:
            raise RuntimeError("planted")

    failing = Failing()
    setattr(failing, point, fail)
    run = trainer(failing)
    with pytest.raises(RuntimeError, match="planted"):
        fit(run)
    nn.save_training(run, tmp_path / "run")
    assert traces(resumed(tmp_path / "run")) == traces(fit(trainer()))


def test_a_run_that_the_hook_ended_can_be_saved_and_resumed(tmp_path):
    """The hook raises between backward and the update: the update is still to come."""

    class Late(nn.SoftmaxCrossEntropy):
        wrong = False

        def gradient(self, outputs, targets):
            return (2 if self.wrong else 1) * super().gradient(outputs, targets)

    class Break(Callback):
        def on_batch_begin(self, state):
            loss.wrong = state.step == 7

    loss = Late(smoothing=0.1)
    run = trainer(Break(), GradCheckHook(schedule=lambda call: call == 7, reporters=[], on_fail="raise"))
    run.loss = loss
    run.objective._loss = loss
    with pytest.raises(GradientMismatch):
        fit(run)
    nn.save_training(run, tmp_path / "run")
    assert traces(resumed(tmp_path / "run"))[0][0] == traces(fit(trainer()))[0][0]


def test_a_stopped_trainer_that_was_not_loaded_begins_a_new_epoch(tmp_path):
    """As ever: what is left of a broken epoch belongs to who loads it."""
    run = fit(trainer(SaveAt(tmp_path / "run", 4, stop=True)))
    assert (run.step, run.state.epoch) == (4, 0)
    fit(run, 1)
    assert (run.step, run.state.epoch) == (4 + BATCHES, 1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_of_the_samples_goes_on(tmp_path, shuffle):
    run = trainer(SaveAt(tmp_path / "run", 4, stop=True))
    fit(run, shuffle=shuffle)
    again = trainer(seed=8)
    nn.load_training(again, tmp_path / "run")
    fit(again, EPOCHS, shuffle=shuffle)
    assert traces(again) == traces(fit(trainer(), shuffle=shuffle))


@pytest.mark.parametrize(
    ("optimizer", "lost"), [("adam", "first.dense1.W"), ("momentum", "velocity.dense1.W"), ("adam", "steps")]
)
def test_the_comparison_sees_what_is_lost(tmp_path, optimizer, lost):
    """The planted bug: one array of the optimiser that does not come back is seen in the parameters."""
    fit(trainer(SaveAt(tmp_path / "run", 4, stop=True), optimizer=optimizer))
    run = trainer(optimizer=optimizer)
    nn.load_training(run, tmp_path / "run")
    del run.optimizer.state[lost]
    assert traces(fit(run))[0][0] != traces(fit(trainer(optimizer=optimizer)))[0][0]


def test_a_recurrent_training_with_all_of_the_hook_is_resumed_too(tmp_path, capsys):
    """Symbols, a truncated LSTM, frozen masks, the log for TensorBoard on both sides of the break."""

    def make(*callbacks, seed=0):
        layers = [nn.Embedding(5, 3), nn.Dropout(0.3), nn.LSTM(3, 4, truncation=2), nn.EachStep(nn.Dense(4, 5))]
        model, loss = nn.Sequential(layers, seed=seed), nn.SoftmaxCrossEntropy(ignore=-1)
        run = nn.Trainer(model, loss, nn.AdamW(0.01), callbacks=callbacks, seed=seed)
        for callback in callbacks:
            callback.trainer = run
        return run

    def hook():
        return GradCheckHook(every=2, dropout="frozen", log_dir=tmp_path / "log")

    ids = np.random.default_rng(0).integers(5, size=(20, 7))
    data = ids[:, :-1], nn.mask_labels(ids[:, 1:], np.arange(20) % 7, ignore=-1)
    whole, first, second = make(), make(hook(), SaveAt(tmp_path / "run", 4, stop=True)), make(hook(), seed=1)
    whole.fit(*data, epochs=3, batch_size=8)
    first.fit(*data, epochs=3, batch_size=8)
    nn.load_training(second, tmp_path / "run")
    second.fit(*data, epochs=2, batch_size=8)
    for run in (first, second):
        run.callbacks[0].close()
        assert {report.verdict for report in run.callbacks[0].reports} == {Verdict.GOOD}
    assert traces(second) == traces(whole)


# Models alone


def test_a_model_is_saved_with_its_state(tmp_path):
    """Parameters and running statistics come back into the arrays that are there."""
    layers = [nn.Dense(3, 2), nn.BatchNorm(2)]
    first, second = nn.Sequential(layers), nn.Sequential(layers, seed=1)
    for array in first.state.values():
        array[...] = 7
    held = {**second.params, **second.state}
    nn.save_model(first, tmp_path / "model")
    nn.load_model(second, tmp_path / "model")
    assert second.state
    assert all(np.all(array == 7) for array in second.state.values())
    assert np.array_equal(first.params["dense1.W"], second.params["dense1.W"])
    assert all({**second.params, **second.state}[name] is held[name] for name in held)


def test_running_statistics_are_resumed_bit_for_bit(tmp_path):
    """A network with batch norm that is stopped and goes on equals the one that was not, its statistics too."""

    def run(epochs, seed=0):
        model = nn.Sequential([nn.Dense(3, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dense(8, 2)], seed=seed)
        made = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.Momentum(0.1), seed=seed)
        return go_on(made, epochs)

    def go_on(made, epochs):
        rng = np.random.default_rng(0)
        made.fit(rng.normal(size=(40, 3)), rng.integers(2, size=40), epochs=epochs, batch_size=16)
        return made

    whole, half = run(4), run(2)
    nn.save_training(half, tmp_path / "run")
    other = run(1, seed=3)
    nn.load_training(other, tmp_path / "run")
    go_on(other, 2)
    for name, array in {**whole.model.params, **whole.model.state}.items():
        assert array.tobytes() == {**other.model.params, **other.model.state}[name].tobytes(), name


def test_a_model_can_be_loaded_from_the_file_of_its_training(tmp_path):
    run = fit(trainer())
    nn.save_training(run, tmp_path / "run")
    model = trainer(seed=1).model
    nn.load_model(model, tmp_path / "run")
    assert all(np.array_equal(model.params[name], run.model.params[name]) for name in model.params)


# The file


def test_the_file_is_plain_arrays_and_one_text_without_pickle(tmp_path):
    run = fit(trainer())
    nn.save_training(run, tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as file:
        assert all(array.dtype.kind in "fiu" for array in dict(file).values())
        assert json.loads(file["standing"].tobytes())["step"] == run.step
        np.testing.assert_array_equal(file["params/dense1.W"], run.model.params["dense1.W"])


def test_names_of_all_kinds_come_back(tmp_path):
    """A layer may call its parameters what it likes."""

    class Odd(nn.Dense):
        kind = "étage/1 'x' file"

    first, second = nn.Sequential([Odd(2, 2)]), nn.Sequential([Odd(2, 2)], seed=1)
    nn.save_model(first, tmp_path / "model")
    nn.load_model(second, tmp_path / "model")
    assert all(np.array_equal(first.params[name], second.params[name]) for name in first.params)


class Full(OSError):
    """No space left."""


@pytest.mark.parametrize("where", ["savez", "fsync", "replace"])
def test_what_was_saved_before_survives_a_failure(tmp_path, monkeypatch, where):
    """A disk that is full, at any point of the writing: the old file is whole, and nothing is left beside it."""
    path, run = tmp_path / "run", fit(trainer(), 1)
    nn.save_training(run, path)
    before = path.read_bytes()

    def fail(*arguments, **options):
        if where == "savez":
            arguments[0].write(b"half")
        raise Full

    home = {"savez": np, "fsync": os, "replace": type(path)}[where]
    monkeypatch.setattr(home, where, fail)
    fit(run, 1)
    with pytest.raises(Full):
        nn.save_training(run, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [0, 0.3, 0.9, 0.999])
def test_a_damaged_file_is_explained_and_changes_nothing(tmp_path, part):
    path, run = tmp_path / "run", fit(trainer(), 1)
    nn.save_training(run, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    before = traces(run)
    with pytest.raises(InvalidProblem, match=r"run cannot be read as a checkpoint.*broke off.*Try the file"):
        nn.load_training(run, path)
    assert traces(run) == before


def test_a_changed_byte_is_seen(tmp_path):
    path, run = tmp_path / "run", fit(trainer(), 1)
    nn.save_training(run, path)
    whole = bytearray(path.read_bytes())
    at = whole.find(run.model.params["dense1.W"].tobytes())
    whole[at] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(InvalidProblem, match="CRC"):
        nn.load_training(run, path)


def test_objects_are_never_unpickled(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "run", "w") as file:
        file.writestr("params/dense1.W.npy", buffer.getvalue())
    with pytest.raises(InvalidProblem, match="cannot be read as a checkpoint: Object arrays cannot be loaded"):
        nn.load_model(trainer().model, tmp_path / "run")


def test_a_missing_file_is_the_system_s_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        nn.load_training(trainer(), tmp_path / "run")


# What does not belong together


def wider():
    return nn.Trainer(nn.Sequential([nn.Dense(4, 7), nn.Tanh(), nn.Dense(7, 3)]), nn.SoftmaxCrossEntropy(), nn.Adam())


def deeper():
    layers = [nn.Dense(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Dense(6, 3), nn.Dense(3, 3)]
    return nn.Trainer(nn.Sequential(layers), nn.SoftmaxCrossEntropy(), nn.Adam())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wider, r"dense1\.W is float64 \(4, 6\) in the file and float64 \(4, 7\) in the model.*other layers.*Try"),
        (deeper, r"dense3\.W is missing in the file"),
        (lambda: trainer(dtype=np.float32), r"float64 \(4, 6\) in the file and float32 \(4, 6\)"),
        (
            lambda: trainer(optimizer="sgd"),
            r"saved with the optimiser Adam, and the trainer has SGD.*Try a trainer with",
        ),
    ],
)
def test_a_file_of_another_training_is_explained_and_changes_nothing(tmp_path, make, message):
    nn.save_training(fit(trainer()), tmp_path / "run")
    run = make()
    before = traces(run)
    with pytest.raises(InvalidProblem, match=message):
        nn.load_training(run, tmp_path / "run")
    assert traces(run) == before


def test_a_model_s_file_is_no_training(tmp_path):
    nn.save_model(trainer().model, tmp_path / "model")
    with pytest.raises(InvalidProblem, match=r"a model without its training.*save_model.*Try load_model"):
        nn.load_training(trainer(), tmp_path / "model")


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"shuffle": False}])
def test_a_broken_epoch_cannot_go_on_with_other_batches(tmp_path, options):
    fit(trainer(SaveAt(tmp_path / "run", 4, stop=True)))
    run = trainer()
    nn.load_training(run, tmp_path / "run")
    message = r"after 4 batches of an epoch with samples=44, batch_size=8, shuffle=1, and is to go on with .*Give fit"
    with pytest.raises(InvalidProblem, match=message):
        fit(run, **options)


# A file that was changed


def loaded(run):
    """What a file brings back: not the gradients."""
    (params, _, state), *_ = traces(run)
    return params, state, run.step, run.history.batch_loss


def text(change):
    """A change of the JSON text, as a change of the arrays."""

    def changed(arrays):
        standing = json.loads(arrays["standing"].tobytes())
        change(standing)
        arrays["standing"] = np.frombuffer(json.dumps(standing).encode(), np.uint8)

    return changed


def put(name, value):
    return lambda arrays: arrays.__setitem__(name, value)


MALFORMED = {
    **{f"no {key}": text(lambda s, key=key: s.pop(key)) for key in ("step", "epoch", "history", "under_way")},
    **{f"no {key}": text(lambda s, key=key: s.pop(key)) for key in ("learning_rate", "optimizer")},
    **{f"rate {value}": text(lambda s, value=value: s.update(learning_rate=value)) for value in ("x", [], math.nan)},
    "rate of 400 digits": text(lambda s: s.update(learning_rate=10**400)),
    **{f"step {value}": text(lambda s, value=value: s.update(step=value)) for value in (None, -1, 1.5, True)},
    "another step": text(lambda s: s.update(step=s["step"] + 1)),
    "a history of texts": text(lambda s: s.update(history={"loss": ["x"]})),
    "a history too long": text(lambda s: s["history"]["loss"].append(1.0)),
    "a generator of another kind": text(lambda s: s["under_way"]["masks"].update(bit_generator="MT19937")),
    "no generator": text(lambda s: s["under_way"].update(orders={})),
    "figures without sizes": text(lambda s: s["under_way"].update(sizes=[])),
    "more batches than samples": text(lambda s: s["under_way"].update(sizes=[10**6] * len(s["under_way"]["sizes"]))),
    "no JSON": put("standing", np.frombuffer(b"{", np.uint8)),
    "no text": put("standing", np.frombuffer(b"\xff\xfe", np.uint8)),
    "a list": put("standing", np.frombuffer(b"[1]", np.uint8)),
    "too deep": put("standing", np.frombuffer(b"[" * 100_000, np.uint8)),
    "no losses": lambda arrays: arrays.pop("batch_loss"),
    "losses of another shape": put("batch_loss", np.zeros((2, 2))),
    "losses that are texts": put("batch_loss", np.array(["x"])),
    "no moments": lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("optimizer/")],
    "a moment of another shape": put("optimizer/first.dense1.W", np.zeros(2)),
    "a moment of texts": put("optimizer/first.dense1.W", np.full((4, 6), "x")),
    "a moment of nobody": put("optimizer/first.other", np.zeros(2)),
    "something else": put("mine", np.zeros(2)),
}


@pytest.mark.parametrize("change", [*MALFORMED.values(), None], ids=[*MALFORMED, "clean twin"])
def test_a_changed_file_is_refused_before_anything_is_loaded(tmp_path, change):
    """All or nothing: whatever is missing, of another kind, or would fail in the next fit only."""
    path = tmp_path / "run.npz"
    source = trainer(SaveAt(path, BATCHES + 3, stop=True))
    fit(source)
    arrays = dict(np.load(path))
    if change is not None:
        change(arrays)
    np.savez(path, **arrays)
    run = fit(trainer(), 1)
    before = traces(run)
    if change is None:
        nn.load_training(run, path)
        assert loaded(run) == loaded(source) != before
    else:
        with pytest.raises(InvalidProblem, match=r"Try .*The trainer is as it was\.$"):
            nn.load_training(run, path)
        assert traces(run) == before


def test_ctrl_c_while_loading_comes_through_when_all_is_loaded(tmp_path):
    """At any line of what changes the trainer: the trainer is the old one or the new one, never half of each."""
    nn.save_training(fit(trainer()), tmp_path / "run")
    old, new = loaded(fit(trainer(), 1)), trainer()
    nn.load_training(new, tmp_path / "run")
    seen = set()
    names = ("_fill_model", "set_optimizer", "go_on_from", "run_all")
    for count in range(1, 40):
        run = fit(trainer(), 1)
        came = interrupted_at(
            lambda run=run: nn.load_training(run, tmp_path / "run"), count, lambda code: code.co_name in names
        )
        seen.add({repr(old): "old", repr(loaded(new)): "new"}.get(repr(loaded(run)), "half") if came else "end")
    assert "new" in seen
    assert "half" not in seen


def test_a_symbolic_link_stays_one(tmp_path):
    """What it leads to is written; what a killed save has left long ago goes."""
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "run[1]", tmp_path / "latest"
    target.write_bytes(b"old")
    link.symlink_to(target)
    for name, age in (("77", 7200), ("78", 0)):
        remains = target.with_name(f".run[1].{name}.partial")
        remains.write_bytes(b"half")
        os.utime(remains, (time.time() - age,) * 2)
    nn.save_training(fit(trainer(), 1), link)
    assert link.is_symlink()
    nn.load_training(trainer(), target)
    assert sorted(path.name for path in target.parent.iterdir()) == [".run[1].78.partial", "run[1]"]
