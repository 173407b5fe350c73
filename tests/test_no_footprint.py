"""The run with the hook equals the run without it, bit for bit, also when a check fails or is interrupted."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import (
    Callback,
    GradCheckHook,
    GradCheckWarning,
    InvalidProblem,
    NondeterministicLoss,
    Verdict,
    adapters,
    central,
    check_gradients,
    every,
    first,
    nn,
)
from hunts import some

RNG = np.random.default_rng(5)
LABELS = RNG.integers(3, size=40)
INPUTS = RNG.normal(size=(40, 4)) + np.eye(3, 4)[LABELS]
OPTIMIZERS = {"sgd": lambda: nn.SGD(0.1), "momentum": lambda: nn.Momentum(0.05), "adam": lambda: nn.Adam(0.01)}
COUNTS = [1, 2, 3, 4]
"""Evaluations of the loss within a check at which it breaks off: at the door, in the trace, and in what confirms it."""
COUNTS_OF_SLOPES = [3, 5, 8, 13, 20]
"""The same where slopes are measured: in the self-test, and entry by entry."""
WAYS = [*((None, count) for count in COUNTS), *((central, count) for count in COUNTS_OF_SLOPES)]


class Fragile(nn.SoftmaxCrossEntropy):
    """A loss that breaks off at some calls from now."""

    calls, broken, error = 0, range(0), RuntimeError

    def break_at(self, broken, error):
        self.calls, self.broken, self.error = 0, broken, error

    def value(self, outputs, targets):
        self.calls += 1
        if self.calls in self.broken:
            raise self.error("planted")
        return super().value(outputs, targets)


class At(Callback):
    """Does something once, at the gradients of a step."""

    def __init__(self, action, step):
        self.action, self.step = action, step

    def on_gradients(self, state):
        if state.step == self.step:
            self.step = None
            self.action(state)


def trainer(*callbacks, dtype=np.float64, optimizer="momentum"):
    layers = [nn.Dense(4, 5), nn.ReLU(), nn.Dropout(0.3), nn.Dense(5, 3)]
    model, penalty = nn.Sequential(layers, dtype=dtype), nn.L2(1e-3)
    return nn.Trainer(model, Fragile(), OPTIMIZERS[optimizer](), penalty=penalty, callbacks=callbacks, seed=3)


def trained(run, fits=2):
    """Everything that a training leaves behind, as bytes."""
    random.seed(1)
    np.random.seed(1)
    for _ in range(fits):
        run.fit(INPUTS, LABELS, epochs=2, batch_size=8)
    return traces(run)


def traces(run):
    generators = run._orders.bit_generator.state, run._masks.bit_generator.state
    figures = dict(run.history), run.history.batch_loss, run.state.loss, run.state.metrics, run.step
    arrays = [{name: array.tobytes() for name, array in side.items()} for side in (run.model.params, run.model.grads)]
    memory = {name: array.tobytes() for name, array in run.optimizer.state.items()}
    return pickle.dumps((arrays, memory, generators, figures, global_states()))


def global_states():
    return np.random.get_state(legacy=False)["state"]["key"].tobytes(), np.random.get_state()[2:], random.getstate()


def a_hook(**options):
    return GradCheckHook(reporters=[], **{"schedule": every(3), **options})


LEAKS = {
    "parameter": lambda run, state: np.nextafter(run.model.params["dense1.b"], 1, out=run.model.params["dense1.b"]),
    # An update may round the gradient's last bit away: which bits it keeps depends on the processor.
    "gradient": lambda run, state: np.multiply(state.grads["dense2.b"], 1 + 1e-9, out=state.grads["dense2.b"]),
    "masks": lambda run, state: run._masks.random(),
    "orders": lambda run, state: run._orders.random(),
    "numpy": lambda run, state: np.random.rand(),
    "python": lambda run, state: random.random(),
    "velocity": lambda run, state: run.optimizer.state["velocity.dense1.b"].fill(0),
    "loss": lambda run, state: setattr(state, "loss", 0.0),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_the_comparison_sees_a_footprint(leak):
    """A callback that leaves the smallest trace in any of the places is told from one that leaves none."""
    run = trainer(At(lambda state: LEAKS[leak](run, state), 7))
    assert trained(run) != trained(trainer())


@pytest.mark.parametrize("dropout", ["off", "frozen"])
@pytest.mark.parametrize("optimizer", some(OPTIMIZERS, ["adam"]))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_run_with_checks_equals_one_without(dtype, optimizer, dropout):
    """Parameters, gradients, optimiser, generators and history are the same bits after fourteen checks."""
    hook = a_hook(dropout=dropout)
    assert trained(trainer(hook, dtype=dtype, optimizer=optimizer)) == trained(
        trainer(dtype=dtype, optimizer=optimizer)
    )
    assert [report.verdict for report in hook.reports] == [Verdict.GOOD] * 7


@pytest.mark.parametrize("frequent", [False, True])
def test_the_default_hook_with_all_its_reporters_leaves_no_trace(tmp_path, capsys, frequent):
    """Console and TensorBoard, the check at the end and the one at every step change nothing either."""
    hook = GradCheckHook(log_dir=tmp_path, every=1 if frequent else None)
    assert trained(trainer(hook)) == trained(trainer())
    hook.close()
    assert len(hook.reports) == (22 if frequent else 4)
    assert "GOOD" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_checks_of_a_wrong_gradient_leave_no_trace(dtype):
    """The second thoughts before an accusation move the point, and leave the run where it was."""

    class Doubled(nn.Dense):
        def backward(self, params, cache, upstream):
            upstream, grads = super().backward(params, cache, upstream)
            return upstream, {**grads, "b": 2 * grads["b"]}

    def run(*callbacks):
        model = nn.Sequential([Doubled(4, 5), nn.ReLU(), nn.Dense(5, 3)], dtype=dtype)
        return trained(nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.Adam(0.01), callbacks=callbacks))

    hook = a_hook(on_fail=lambda report: None)
    assert run(hook) == run()
    assert {report.verdict for report in hook.reports} == {Verdict.WORRY}


@pytest.mark.parametrize("count", COUNTS)
def test_a_check_whose_loss_raises_leaves_no_trace(count):
    """From whichever call in a check the loss raises (in the trace that is a refusal, and slopes are asked instead),
    the run goes on as if there had been no check."""
    hook = a_hook()
    breaks = At(lambda state: run.loss.break_at(range(count, 1000), RuntimeError), 3)
    run = trainer(breaks, hook, At(lambda state: run.loss.break_at(range(0), RuntimeError), 3))
    with pytest.warns(GradCheckWarning, match="RuntimeError: planted"):
        assert trained(run) == trained(trainer())
    verdicts = [report.verdict for report in hook.reports]
    assert verdicts == [Verdict.INCONCLUSIVE if report.step == 3 else Verdict.GOOD for report in hook.reports]


def test_a_reporter_that_raises_leaves_no_trace():
    """A reporter that draws from the global generators and then fails is forgotten without a trace."""

    class Broken:
        def report(self, report):
            np.random.rand()
            random.random()
            raise OSError("planted")

    with pytest.warns(GradCheckWarning, match="OSError: planted"):
        assert trained(trainer(GradCheckHook(schedule=first(2), reporters=[Broken()]))) == trained(trainer())


def interrupt(state):
    raise KeyboardInterrupt


def interrupted_and_continued(run):
    """Traces right after Ctrl-C ended a training, and after another one."""
    random.seed(1)
    np.random.seed(1)
    with pytest.raises(KeyboardInterrupt):
        run.fit(INPUTS, LABELS, epochs=2, batch_size=8)
    return traces(run), trained(run, fits=1)


@pytest.mark.parametrize("dropout", ["off", "frozen"])
@pytest.mark.parametrize("way", some(WAYS, [(None, 1), (None, 3), (None, 4), (central, 13)]))
@pytest.mark.parametrize("dtype", some([np.float64, np.float32], [np.float64]))
def test_an_interrupted_check_leaves_no_trace(way, dropout, dtype):
    """Ctrl-C in the middle of a check leaves what Ctrl-C without one leaves, and a later training goes on the same."""
    method, count = way
    hook = a_hook(dropout=dropout, method=method)
    breaks = At(lambda state: run.loss.break_at([count], KeyboardInterrupt), 3)
    run = trainer(breaks, hook, dtype=dtype)
    assert interrupted_and_continued(run) == interrupted_and_continued(trainer(At(interrupt, 3), dtype=dtype))
    assert [report.step for report in hook.reports] == [0, 5, 8, 11]
    assert all(report.ok for report in hook.reports)


def test_a_callback_that_raises_leaves_the_gradient_as_it_was():
    """What on_fail="raise" throws leaves everything as a callback without a check would."""

    class Doubled(nn.Dense):
        def backward(self, params, cache, upstream):
            upstream, grads = super().backward(params, cache, upstream)
            return upstream, {**grads, "b": 2 * grads["b"]}

    def run(callback):
        model = nn.Sequential([Doubled(4, 3)])
        training = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.Momentum(0.1), callbacks=[callback])
        with pytest.raises((AssertionError, KeyboardInterrupt)):
            trained(training)
        return traces(training)

    assert run(a_hook(on_fail="raise")) == run(At(interrupt, 0))


# A loop of one's own


class Own:
    """A model whose loss reads its own arrays; one of them is not contiguous, and there are zeros of either sign."""

    def __init__(self, dtype):
        rng = np.random.default_rng(2)
        self.params = {"W": rng.normal(size=(3, 4)).astype(dtype).T, "b": np.array([0.0, -0.0, 0.1], dtype)}
        self.calls, self.breaks_at, self.error = 0, 0, RuntimeError

    def loss(self):
        self.calls += 1
        if 0 < self.breaks_at <= self.calls:
            raise self.error("planted")
        return float(np.mean(np.tanh(INPUTS @ self.params["W"] + self.params["b"]) ** 2))

    def grads(self):
        outputs = np.tanh(INPUTS @ self.params["W"] + self.params["b"])
        upstream = 2 * outputs * (1 - outputs**2) / outputs.size
        return {"dW": INPUTS.T @ upstream, "db": upstream.sum(axis=0)}

    def bits(self):
        return [(array.tobytes(), array.strides) for array in self.params.values()]

    def check(self, hook):
        hook.on_step(0, loss=self.loss, params=self.params, grads=self.grads, in_place=True)


@pytest.mark.parametrize(("method", "last"), [(None, COUNTS[-1]), (central, COUNTS_OF_SLOPES[-1])])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_that_are_changed_in_place_are_restored(dtype, method, last):
    """A loss that reads the user's own arrays sees them moved, and they come back to the bit."""
    own, hook = Own(dtype), GradCheckHook(reporters=[], method=method)
    before = own.bits(), global_states()
    own.check(hook)
    assert (own.bits(), global_states()) == before
    assert own.calls > last
    assert hook.reports[0].verdict <= (Verdict.GOOD if dtype is np.float64 else Verdict.INCONCLUSIVE)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(("method", "count"), WAYS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_are_restored_when_the_loss_breaks_off(dtype, method, count, error):
    """From whichever evaluation the loss raises or Ctrl-C comes, the user's arrays come back to the bit."""
    own, hook = Own(dtype), GradCheckHook(reporters=[], method=method)
    own.breaks_at, own.error = count, error
    before = own.bits()
    with (
        pytest.raises(KeyboardInterrupt)
        if error is KeyboardInterrupt
        else pytest.warns(GradCheckWarning, match="planted")
    ):
        own.check(hook)
    assert own.bits() == before
    # Which is a refusal of the trace alone; in float32 the next value is traced as well.
    was_traced = method is None and error is RuntimeError and 3 <= count <= (3 if dtype is np.float64 else 4)
    assert own.calls == count + was_traced
    assert own.params["W"].__class__ is own.params["b"].__class__ is np.ndarray
    assert [report.verdict for report in hook.reports] == ([] if error is KeyboardInterrupt else [Verdict.INCONCLUSIVE])


@pytest.mark.parametrize("reseeds", [True, False])
def test_a_loss_may_draw_from_the_global_generators(reseeds):
    """Dropout drawn from np.random, seeded in the loss or not, leaves the user's streams alone."""

    def loss(w):
        if reseeds:
            np.random.seed(0)
            random.seed(0)
        return np.sum(np.random.rand(3) * w**2) + random.random()

    def loop(hook):
        np.random.seed(4)
        random.seed(4)
        drawn = []
        for step in range(4):
            if hook is not None:
                hook.on_step(step, loss=loss, params=np.ones(3), grads=np.ones(3))
            drawn.append((np.random.rand(), random.random()))
        return drawn

    hook = GradCheckHook(schedule=first(2), reporters=[], on_fail=lambda report: None)
    if reseeds:
        assert loop(hook) == loop(None)
        assert {report.verdict for report in hook.reports} == {Verdict.WORRY}
    else:
        with pytest.warns(GradCheckWarning, match="NondeterministicLoss"):
            assert loop(hook) == loop(None)


class Noted(nn.Dense):
    """A layer of the user's own that draws at every pass, and lets the loss be what it is."""

    def __init__(self, inputs, outputs, *, listed):
        super().__init__(inputs, outputs)
        self.rng = np.random.default_rng(0)
        self.more = [np.random.default_rng(1)] if listed else []

    def forward(self, params, inputs, context):
        for rng in (self.rng, *self.more):
            rng.random()
        return super().forward(params, inputs, context)


class Reseed(Callback):
    """Another generator in the same place, at every epoch."""

    def on_epoch_begin(self, state):
        layer = self.layer
        layer.rng, layer.more = np.random.default_rng(state.epoch), [np.random.default_rng(9) for _ in layer.more]


@pytest.mark.parametrize("listed", [False, True])
def test_a_generator_that_is_replaced_between_checks_is_put_back_too(listed):
    """Also by the cheap periodic checks, which look for generators anew where one does not stand where it stood."""
    drawn = []
    for hooks in ([], [GradCheckHook(after=None, every=2, reporters=[])]):
        layer, reseed = Noted(4, 3, listed=listed), Reseed()
        reseed.layer = layer
        run = nn.Trainer(nn.Sequential([layer]), nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[reseed, *hooks])
        run.fit(INPUTS, LABELS, epochs=4, batch_size=8)
        drawn.append([rng.random() for rng in (layer.rng, *layer.more)])
    assert [report.verdict for report in hooks[0].reports[2:]] == [Verdict.GOOD] * (len(hooks[0].reports) - 2)
    assert hooks[0].reports[-1].evaluations == 4
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "action",
    [
        # Each needs a process of its own, in which nothing has been used before.
        "gc_hooks.ConsoleReporter().report(gc_hooks.check_gradients(lambda w: w**2, 1.0, lambda w: 2 * w))",
        pytest.param("gc_hooks.terminal.load_rich()", marks=pytest.mark.slow),
        pytest.param(
            "nn.Trainer(nn.Sequential([nn.Dense(2, 1)]), nn.MeanSquaredError(), nn.SGD(0.1)).fit("
            "np.ones((4, 2)), np.ones((4, 1)), epochs=1)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_loaded_on_first_use_draws_no_random_number(action):
    """Rich draws from Python's global random state when it is imported; a fresh process shows that it is put back."""
    code = (
        "import random, numpy as np, gc_hooks, gc_hooks.terminal; from gc_hooks import nn; before = random.getstate(); "
        f"{action}; assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


# Anybody's trainer, through the adapters

TICKS = 0


def tick():
    global TICKS
    TICKS += 1


class Carrying:
    """Carries statistics, a hidden state, counters, lists that grow, a generator and the optimiser's slots.

    The loss uses none of them, unless ``refused``: then no two values are the same.
    """

    def __init__(self, refused):
        rng = np.random.default_rng(5)
        self.refused, self.rng = refused, np.random.default_rng(6)
        self.W, self.b = rng.normal(size=(3, 2)), rng.normal(size=2)
        self.params, self.grads = {"W": self.W, "b": self.b}, {"W": np.zeros((3, 2)), "b": np.zeros(2)}
        self.dW, self.db = self.grads.values()
        self.mean, self.hidden, self.calls, self.history, self.seen = np.zeros(2), np.zeros(2), 0, [], {}
        self.slots = {"W": np.zeros((3, 2)), "b": np.zeros(2)}
        self.optimizer = self

    def forward(self, W, b):
        tick()
        self.outputs = np.tanh(INPUTS[:, :3] @ W + b)
        self.calls += 1
        self.history.append(self.outputs)
        self.seen[self.calls] = self.rng.random()
        self.mean = 0.9 * self.mean + 0.1 * self.outputs.mean(axis=0)
        self.hidden += self.outputs[0]
        return np.sum(self.outputs**2) + (self.calls if self.refused else 0)

    def loss(self):
        return self.forward(**self.params)

    def gradients(self, W, b):
        self.forward(W, b)
        upstream = 2 * self.outputs * (1 - self.outputs**2)
        return {"W": INPUTS[:, :3].T @ upstream, "b": upstream.sum(axis=0)}

    def backward(self):
        for name, grad in self.gradients(**self.params).items():
            self.grads[name] += grad  # whoever calls it sets them to zero

    def filled(self):
        self.backward()
        return self.grads

    def update(self, param, grad):
        name = "W" if param is self.W else "b"
        self.slots[name] = 0.9 * self.slots[name] + grad
        param -= 0.1 * self.slots[name]
        return param

    def train(self):
        for name, grad in self.gradients(**self.params).items():
            self.optimizer.update(self.params[name], grad)

    def plain_train(self):
        for name, grad in self.gradients(**self.params).items():
            self.params[name] -= 0.1 * grad

    def get(self):
        return np.concatenate([self.W.ravel(), self.b])

    def put(self, theta):
        self.W[...], self.b[...] = theta[:6].reshape(3, 2), theta[6:]

    def grad(self):
        return np.concatenate([self.dW.ravel(), self.db])

    def marks(self):
        arrays = [self.W, self.b, self.mean, self.hidden, *self.grads.values(), *self.slots.values(), *self.history]
        here = self.calls, len(self.history), sorted(self.seen.items()), self.rng.bit_generator.state, TICKS
        return pickle.dumps(([array.tobytes() for array in arrays], here)), hasattr(self, "outputs") and id(
            self.outputs
        )


def in_two_lists(net):
    return [[net.W], [net.b]], [[net.dW], [net.db]]


ATTACHED = {
    "dicts": lambda n: adapters.dicts(n.params, n.grads, loss=lambda p: n.forward(**p)),
    "dicts, function": lambda n: adapters.dicts(n.params, lambda p: n.gradients(**p), loss=lambda p: n.forward(**p)),
    "dicts in place": lambda n: adapters.dicts(n.params, n.grads, loss=n.loss, in_place=True),
    "dicts in place, function": lambda n: adapters.dicts(n.params, n.filled, loss=lambda: n.loss()),
    "dicts in place, backward": lambda n: adapters.dicts(n.params, n.grads, loss=n.loss, backward=n.backward),
    "dicts in place, reader": lambda n: adapters.dicts(lambda: n.params, lambda: n.grads, loss=n.loss),
    "returned": lambda n: adapters.returned(lambda p: (n.forward(**p), n.gradients(**p)), n.params),
    "returned in place": lambda n: adapters.returned(lambda: (n.loss(), n.filled()), n.params),
    "parallel": lambda n: adapters.parallel([n.W, n.b], [n.dW, n.db], loss=n.loss),
    "parallel, lists": lambda n: adapters.parallel(*in_two_lists(n), loss=n.loss, backward=lambda: n.backward()),
    "flat": lambda n: adapters.flat(n.get, n.put, loss=n.loss, grad=n.grad),
    "flat, backward": lambda n: adapters.flat(n.get, n.put, loss=n.loss, grad=n.grad, backward=n.backward),
    "pure": lambda n: adapters.pure(
        lambda b: n.forward(n.W, b), lambda b: n.gradients(n.W, b)["b"], np.array(n.b), loss_factor=1.0
    ),
    "layers": lambda n: adapters.layers([n], loss=lambda: n.loss()),
    "layers, backward": lambda n: adapters.layers([n], loss=n.loss, backward=n.backward),
    "attributes": lambda n: adapters.attributes(n, ["W", "b"], loss=n.loss, backward=n.backward),
    "scalars": lambda n: adapters.scalars(
        [SimpleNamespace(data=n.W, grad=n.dW)], loss=lambda: n.loss(), backward=n.backward
    ),
    "recorded": lambda n: adapters.recorded(n, step=n.train, loss=n.loss, params=lambda: n.params),
    "recovered": lambda n: adapters.recovered(
        n, step=n.plain_train, loss=n.loss, params=lambda: n.params, learning_rate=0.1
    ),
}


@pytest.mark.parametrize("how", ATTACHED)
@pytest.mark.parametrize("refused", [False, True])
def test_an_adapter_puts_back_all_that_its_functions_reach(how, refused):
    """Nobody hands in ``state=``, and the model is as it was, whether it is checked or refused."""
    net = Carrying(refused)
    for _ in range(3):
        net.loss()
    net.backward()
    attachment, before = ATTACHED[how](net), net.marks()
    if refused:
        with pytest.raises(NondeterministicLoss):
            check_gradients(**attachment)
    elif how == "scalars":  # its node holds a copy of W, which the loss does not read
        check_gradients(**attachment)
    else:
        assert check_gradients(**attachment).ok
    assert net.marks() == before


@pytest.mark.parametrize("how", ["dicts in place, function", "layers, backward", "recorded", "flat"])
def test_a_hook_with_an_adapter_puts_back_all_of_it_too(how):
    """At whole checks and at glances, through a whole training."""

    def trained(*hooks):
        net = Carrying(False)
        for step in range(6):
            for grad in net.grads.values():
                grad[...] = 0
            net.backward()
            for hook in hooks:
                hook.on_step(step, **ATTACHED[how](net))
            net.train()
        return net.marks()[0]

    hook = GradCheckHook(every=1, reporters=[])
    global TICKS
    TICKS = 0
    with_hook = trained(hook)
    TICKS = 0
    assert with_hook == trained()
    assert [report.verdict for report in hook.reports] == [Verdict.GOOD] * 6


def test_variables_around_a_loss_are_put_back():
    """Those of the function around it and those of its module; one that it makes is gone again."""
    calls, last = 0, np.zeros(2)

    def loss():
        nonlocal calls, last
        global MADE_BY_A_LOSS
        MADE_BY_A_LOSS = calls = calls + 1
        last = last + 1
        return np.sum(w["w"] ** 2)

    w, before = {"w": np.ones(3)}, last
    assert check_gradients(**adapters.dicts(w, {"w": 2 * w["w"]}, loss=loss)).ok
    assert (calls, last is before, "MADE_BY_A_LOSS" in globals()) == (0, True, False)


@pytest.mark.parametrize("refused", [False, True])
def test_attributes_of_functions_and_classes_are_put_back(refused):
    """A counter of the function's own, and one of the class that all objects share."""

    class Net:
        calls, w = 0, np.ones(3)

        def loss(self):
            counted.calls += 1
            Net.calls += 1
            Net.made = Net.calls
            return np.sum(self.w**2) + refused * Net.calls

    def counted():
        return net.loss()

    counted.calls, net = 0, Net()
    attachment = adapters.parallel([Net.w], [2 * Net.w], loss=counted)
    if refused:
        with pytest.raises(NondeterministicLoss, match=r"changes Net\.calls, and"):
            check_gradients(**attachment)
    else:
        assert check_gradients(**attachment).ok
    assert (counted.calls, Net.calls, hasattr(Net, "made")) == (0, 0, False)


def test_what_a_plain_loss_in_place_leaves_is_told():
    """Without an adapter nothing of the model is put back: a note names what changes at each call, and no cache."""
    net = Carrying(False)
    net.backward()
    report = check_gradients(net.loss, net.params, net.grads, in_place=True)
    assert report.ok
    (note,) = [note for note in report.notes if "Each evaluation of the loss changes" in note]
    assert "changes TICKS, Carrying.mean, Carrying.calls, Carrying.hidden, Carrying.history and " in note
    assert "outputs" not in note
    assert "Try check_gradients(**adapters.dicts(params, grads, loss=loss))" in note
    advised = check_gradients(**adapters.dicts(net.params, net.grads, loss=net.loss))
    assert advised.ok
    assert not advised.notes
    assert not check_gradients(lambda: np.sum(net.W**2), [net.W], [2 * net.W], in_place=True).notes


@pytest.mark.parametrize("end", [1, 100])
def test_a_loss_that_takes_batches_is_told_how_many_are_lost(end):
    """An iterator cannot be put back: the message counts what the training will not see."""
    batches = iter([np.full(3, float(number)) for number in range(4 * end)])
    left = lambda: batches.__length_hint__()  # noqa: E731
    w, before = {"w": np.ones(3)}, left()
    for attach in (
        lambda loss: {"loss": loss, "params": w, "grads": w},
        lambda loss: adapters.dicts(w, w, loss=loss),
    ):
        with pytest.raises(NondeterministicLoss, match="refers to the iterator batches") as caught:
            check_gradients(**attach(lambda p: np.sum(next(batches) * p["w"])))
        assert f"has lost {before - left()} batches by it" in str(caught.value)
        before = left()
        if end == 1:
            break


def test_an_iterator_that_is_used_up_without_being_seen_in_the_loss_is_told():
    """The batches are alike, so that the check goes through: a note says what the training has lost."""
    batches, w = iter([INPUTS] * 100), {"w": np.ones(4)}
    right = {"w": 2 * INPUTS.T @ (INPUTS @ w["w"])}
    report = check_gradients(**adapters.dicts(w, right, loss=lambda: np.sum((next(batches) @ w["w"]) ** 2)))
    assert report.ok
    assert "refers to the iterator batches: what it gave during this check is lost to the training" in report.notes[-1]
    batch = next(batches)
    assert not check_gradients(**adapters.dicts(w, right, loss=lambda: np.sum((batch @ w["w"]) ** 2))).notes


def test_a_step_that_takes_batches_is_refused_and_its_advice_works():
    """The gradient of another batch at each call is no wrong gradient, but a mistake in attaching."""
    net = Carrying(False)
    batches = iter([1.0 + number for number in range(100)])

    def attach(draw):
        def grads():
            size = draw()
            return {name: size * grad for name, grad in net.gradients(**net.params).items()}

        return adapters.dicts(net.params, grads, loss=net.loss)

    with pytest.raises(InvalidProblem, match=r"Two calls.* differ.*the iterator batches.*Try to take one batch before"):
        check_gradients(**attach(lambda: next(batches)))
    batch = 1.0
    assert check_gradients(**attach(lambda: batch)).ok


MODULES_RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rng", [MODULES_RNG, random.Random(0)], ids=["module", "library"])
def test_a_generator_that_only_the_methods_of_a_model_reach_is_put_back(rng):
    """With fixed masks the check passes, and the training's draws are what they would be."""

    class Net:
        def __init__(self):
            self.W = np.ones((6, 4))
            self.dW = np.zeros((6, 4))

        def loss(self):
            draw = (
                rng.random
                if isinstance(rng, np.random.Generator)
                else lambda n: np.array([rng.random() for _ in range(n)])
            )
            self.mask = draw(4) > 0.3
            self.error = (X_OF_NET @ self.W * self.mask).sum(axis=1) - 1
            return np.mean(self.error**2)

        def backward(self):
            self.dW = X_OF_NET.T @ ((2 * self.error / len(self.error))[:, None] * self.mask)

    net = Net()
    net.loss()
    net.backward()
    before = rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng.getstate()
    hook = GradCheckHook(after=2, reporters=[])
    both = adapters.layers(net, loss=net.loss, backward=lambda: (net.loss(), net.backward()), frozen=True)
    hook.on_step(0, **both)
    assert hook.reports[0].ok
    assert before == (rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng.getstate())


X_OF_NET = np.random.default_rng(1).normal(size=(8, 6))


LOG_OF_CALLS, COUNTS, MEANS = [], {"n": 0}, np.zeros(3)


def test_what_a_method_changes_in_its_module_is_put_back():
    """A list that grows, a counter in a dictionary, an array: the method reaches them by their names alone."""

    class Net:
        def __init__(self):
            self.w, self.dw = np.ones(3), 2 * np.ones(3)

        def loss(self):
            LOG_OF_CALLS.append(1)
            COUNTS["n"] += 1
            MEANS[:] = 0.9 * MEANS + 0.1
            return float(np.sum(self.w**2))

    net = Net()
    for attachment in (adapters.layers(net, loss=net.loss), adapters.attributes(net, ["w"], loss=net.loss)):
        assert check_gradients(**attachment).ok
        assert (LOG_OF_CALLS, COUNTS, MEANS.tolist()) == ([], {"n": 0}, [0.0, 0.0, 0.0])
