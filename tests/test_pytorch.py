"""The hook on PyTorch trainings."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest

from gc_hooks import GradCheckWarning, GradientMismatch, InvalidProblem, MissingDependency, Verdict, drift, every
from gc_hooks.adapters import TorchGradCheckHook
from hunts import some

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional
torch.set_num_threads(1)  # small networks on a shared machine

GOOD, INCONCLUSIVE, WORRY = Verdict.GOOD, Verdict.INCONCLUSIVE, Verdict.WORRY
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
RNG = np.random.default_rng(0)
LABELS = torch.tensor(RNG.integers(3, size=48))
INPUTS = torch.tensor(RNG.normal(size=(48, 6)) + np.eye(3, 6)[LABELS], dtype=torch.float32)


# What is trained


class Affine(torch.autograd.Function):
    """x @ W.T + b with a backward by hand; the class attribute plants a bug in it."""

    @staticmethod
    def forward(ctx, inputs, weight, bias, bug):
        ctx.save_for_backward(inputs, weight)
        ctx.bug = bug
        return inputs @ weight.T + bias

    @staticmethod
    def backward(ctx, upstream):
        inputs, weight = ctx.saved_tensors
        bias_grad = upstream.sum(dim=0)
        weight_grad = upstream.T @ inputs
        below = upstream @ weight
        if ctx.bug == "bias doubled":
            bias_grad = 2 * bias_grad
        elif ctx.bug == "weights negative":
            weight_grad = -weight_grad
        elif ctx.bug == "weights lost":
            weight_grad = None
        elif ctx.bug == "bias averaged":
            bias_grad = bias_grad / len(inputs)
        elif ctx.bug == "below":
            below = upstream @ weight.abs()
        return below, weight_grad, bias_grad, None


class ByHand(nn.Module):
    """A dense layer on it."""

    def __init__(self, inputs, outputs, bug=""):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.bug = bug

    def forward(self, inputs):
        return Affine.apply(inputs, self.weight, self.bias, self.bug)


def network(bug="", *, dropout=0.0, norm=False, dtype=torch.float32, device="cpu"):
    torch.manual_seed(3)
    layers = {
        "first": nn.Linear(6, 8),
        "norm": nn.BatchNorm1d(8) if norm else nn.Identity(),
        "tanh": nn.Tanh(),
        "dropout": nn.Dropout(dropout),
        "last": ByHand(8, 3, bug),
    }
    return nn.Sequential(OrderedDict(layers)).to(dtype=dtype, device=device)


def cross_entropy(model, inputs, labels):
    return functional.cross_entropy(model(inputs.to(next(model.parameters()).dtype)), labels)


def a_hook(model, **options):
    return TorchGradCheckHook(model, **{"reporters": [], **options})


def train(
    model, hook=None, steps=4, *, zeroed=True, optimizer=None, cost=cross_entropy, batch=12, fixed=False, pieces=1
):
    """A loop as people write it; ``pieces`` are micro-batches whose gradients are added up."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    device = next(model.parameters()).device
    inputs, labels = INPUTS.to(device), LABELS.to(device)
    for step in range(steps):
        if zeroed:
            optimizer.zero_grad()
        for piece in range(pieces):
            rows = torch.arange(batch) + batch * ((step + piece) % 4)
            cost(model, inputs[rows], labels[rows]).backward()
        if hook is not None:
            shown = torch.arange(10) if fixed else rows
            hook.on_step(step, loss=lambda shown=shown: cost(model, inputs[shown], labels[shown]))
            if hook.should_stop:
                break
        optimizer.step()
    return optimizer


def verdicts_of(hook):
    return [report.verdict for report in hook.reports]


def failing(report):
    return {name for name, comparison in report.parameters.items() if comparison.verdict > INCONCLUSIVE}


def codes(report):
    return {diagnosis.code for diagnosis in report.diagnoses}


# Right and wrong gradients


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dropout", "norm"), [(0.0, False), (0.5, False), (0.5, True)])
def test_a_right_module_is_good(device, dtype, dropout, norm):
    """A backward by hand is judged in float64, also in a float32 training with dropout and batch norm; all questions
    are asked."""
    model = network(dropout=dropout, norm=norm, dtype=dtype, device=device)
    hook = a_hook(model, after=3)
    train(model, hook, 5)
    hook.close()
    assert verdicts_of(hook) == [GOOD] * 3
    assert max(report.difference for report in hook.reports) < 1e-8
    with_dropout = ("With dropout on and its masks held fixed, a slope agrees with the gradient.",) if dropout else ()
    assert hook.reports[0].asked == (
        "Slopes in float64, dropout off.",
        *with_dropout,
        "The optimiser's buffers equal a fresh backward pass, run twice.",
    )
    assert all(report.unasked == () for report in hook.reports)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("bug", "wrong", "seen"),
    [
        ("bias doubled", {"last.bias"}, "input 2 (bias) it is exactly 2 times what it should be"),
        ("weights negative", {"last.weight"}, "input 1 (weight) it is the opposite of what it should be"),
        ("weights lost", {"last.weight"}, "input 1 (weight) it is None, and forward depends on it"),
        ("bias averaged", {"last.bias"}, "input 2 (bias) it is exactly 1/12 (1 / batch size) of what it should be"),
        ("below", {"first.weight", "first.bias", "norm.weight", "norm.bias"}, "input 0 (inputs) it is wrong"),
        ("", set(), None),
    ],
)
def test_a_bug_in_a_backward_by_hand_is_named(device, bug, wrong, seen):
    """The parameters that are wrong, and what is wrong with them; its clean twin is good."""
    model = network(bug, norm=True, dropout=0.2, device=device)
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 2)
    for report in hook.reports:
        assert failing(report) - {"first.bias"} == wrong - {"first.bias"}  # in front of batch norm its gradient is zero
        assert codes(report) - {"gradient_lost"} == ({"operator"} if bug else set())
        if bug:
            assert (report.diagnoses[0].layer, seen in report.diagnoses[0].message) == ("Affine", True)


def test_a_constant_that_is_the_batch_size_is_named():
    """The number by which a gradient is off is told by its name."""
    model = network("bias averaged")
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 1)
    assert "batch size" in str(hook.reports[0])


@pytest.mark.parametrize(("zeroed", "seen"), [(True, set()), (False, {"accumulated"})])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_gradient_that_is_never_zeroed_is_seen_at_step_1(zeroed, seen, dropout):
    """Right at step 0; at step 1 the buffers hold both gradients, dropout or not. With zero_grad all is good."""
    model = network(dropout=dropout)
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 2, zeroed=zeroed)
    assert [codes(report) for report in hook.reports] == [set(), seen]
    assert (verdicts_of(hook)[1] is WORRY) == bool(seen)


def test_gradients_that_were_changed_are_told_and_how_to_attach():
    """Clipped before the hook, they are not what backward gave; the note says where the call belongs."""
    model = network()
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    cross_entropy(model, INPUTS, LABELS).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    hook.on_step(0, loss=lambda: cross_entropy(model, INPUTS, LABELS))
    assert codes(hook.reports[0]) == {"buffers_differ"}
    assert any("before gradients are clipped" in note for note in hook.reports[0].notes)


class NumpyMask(nn.Module):
    """Dropout by hand, with NumPy's global generator."""

    def forward(self, inputs):
        return inputs * torch.tensor(2.0 * (np.random.rand(*inputs.shape) < 0.5), dtype=inputs.dtype)


def test_masks_of_ones_own_are_drawn_again():
    """A layer that draws from NumPy's global state is the same function at each evaluation, and in the comparison."""
    model = nn.Sequential(nn.Linear(6, 8), NumpyMask(), ByHand(8, 3))
    hook = a_hook(model, after=None)
    train(model, hook, 2)
    assert verdicts_of(hook) == [GOOD] * 2
    assert len(hook.reports[1].asked) == 2


@pytest.mark.parametrize("dropout", ["off", "frozen"])
def test_fixed_masks_show_a_wrong_dropout(dropout):
    """With a rate of zero a wrong scale of the mask does not show; with fixed masks, which are tried too, it does."""

    class Wrong(nn.Dropout):
        def forward(self, inputs):
            kept = super().forward(inputs)
            return (
                kept.detach()
                + (inputs - inputs.detach()) * (self.p == 0 or self.wrong)
                + (kept - kept.detach()) * (self.p > 0 and not self.wrong)
            )

    for wrong, verdict in ((True, WORRY), (False, GOOD)):
        layer = Wrong(0.5)
        layer.wrong = wrong
        model = nn.Sequential(nn.Linear(6, 8), layer, ByHand(8, 3))
        hook = a_hook(model, after=None, dropout=dropout, on_fail=lambda report: None)
        train(model, hook, 1)
        assert verdicts_of(hook) == [verdict]
        if wrong and dropout == "off":
            assert codes(hook.reports[0]) == {"dropout_mask"}


class Checkpointed(nn.Module):
    """A block that is run again in backward, with the same masks or, where the state is not kept, with others."""

    def __init__(self, keeps):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.4), nn.Linear(4, 4))
        self.keeps = keeps

    def forward(self, inputs):
        again = torch.utils.checkpoint.checkpoint
        return again(self.block, inputs, use_reentrant=False, preserve_rng_state=self.keeps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_mask_that_is_drawn_again_in_backward_is_seen(keeps, dtype):
    """With the hook's default; torch's own checkpoint, which keeps the random state if it is asked to, is GOOD."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), Checkpointed(keeps), nn.Linear(4, 3)).to(dtype)
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 1)
    (report,) = hook.reports
    assert report.verdict is (GOOD if keeps else WORRY)
    assert codes(report) == (set() if keeps else {"dropout_mask"})
    assert failing(report) <= {"0.weight", "0.bias", "1.block.0.weight", "1.block.0.bias", "1.block.3.weight"}


# Which parameters


class Tied(nn.Module):
    """One matrix used twice, one parameter that is frozen, one that the loss does not depend on, one table of words."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.first.weight
        self.words = nn.Embedding(3, 6, sparse=True)
        self.last = ByHand(6, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)

    def forward(self, inputs):
        hidden = self.again(torch.tanh(self.first(self.frozen(inputs)))) + self.words(LABELS[: len(inputs)])
        return self.last(hidden)


def test_tied_frozen_unused_and_sparse_parameters():
    """Tied ones appear once, under their first name, frozen ones not at all; what the loss does not use is good."""
    model = Tied()
    hook = a_hook(model, after=None)
    train(model, hook, 2, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert list(hook.reports[0].parameters) == ["unused", "first.weight", "words.weight", "last.weight", "last.bias"]
    assert verdicts_of(hook) == [GOOD] * 2
    assert model.unused.grad is None


# Which question can be asked


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fixed": True}, "does not run the module on just what"),
        ({"pieces": 2}, "does not run the module on just what"),
    ],
)
def test_a_closure_on_another_batch_raises_no_alarm(options, reason):
    """On a fixed batch, or with gradients of several micro-batches, .grad cannot be compared, and that is said."""
    model = network(dropout=0.3)
    hook = a_hook(model, after=None)
    train(model, hook, 2, **options)
    assert verdicts_of(hook) == [GOOD] * 2
    assert all(reason in report.unasked[0] for report in hook.reports)


class Choosy(nn.Module):
    """Takes its inputs in containers and by name."""

    def __init__(self):
        super().__init__()
        self.dense = ByHand(6, 3)

    def forward(self, parts, *, scale=1.0, more=None, name="a"):
        return self.dense(parts[0] * scale + more["shift"])


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, True),
        ({"parts": [INPUTS.clone()]}, True),
        ({"more": {"shift": torch.ones(6)}}, True),
        ({"scale": 0.5}, False),
        ({"name": "b"}, False),
        ({"more": {"shift": torch.zeros(6)}}, False),
        ({"more": {"shift": torch.ones(6), "other": 1}}, False),
        ({"parts": (INPUTS,)}, False),
        ({"parts": [INPUTS, INPUTS]}, False),
        ({"parts": [INPUTS + 1]}, False),
    ],
)
def test_what_the_module_is_run_on_is_compared_wherever_it_stands(change, asked):
    """The same numbers in the same containers are the same batch; anything else is another one."""
    model = Choosy()
    given = {"parts": [INPUTS], "scale": 2.0, "more": {"shift": torch.ones(6)}, "name": "a"}

    def cost(**changed):
        return functional.cross_entropy(model(**{**given, **changed}).float(), LABELS)

    hook = a_hook(model, after=None)
    cost().backward()
    hook.on_step(0, loss=lambda: cost(**change))
    assert verdicts_of(hook) == [GOOD]
    assert (hook.reports[0].unasked == ()) == asked


def test_a_closure_that_runs_the_module_more_often_raises_no_alarm():
    """Twice in the closure and once in the training are two different losses."""
    model = network()
    hook = a_hook(model, after=None)
    cross_entropy(model, INPUTS, LABELS).backward()
    hook.on_step(0, loss=lambda: cross_entropy(model, INPUTS, LABELS) + cross_entropy(model, -INPUTS, LABELS))
    assert verdicts_of(hook) == [GOOD]
    assert "does not run the module on just what" in hook.reports[0].unasked[0]


def test_without_gradients_there_is_nothing_to_compare():
    """Called before anything was run (an optimiser with a closure): the slopes are checked, the other question is not
    asked."""
    model = network()
    hook = a_hook(model, after=None)
    hook.on_step(0, loss=lambda: cross_entropy(model, INPUTS, LABELS))
    assert verdicts_of(hook) == [GOOD]
    assert "There is no .grad" in hook.reports[0].unasked[0]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("forgotten", [False, True])
def test_a_forgotten_backward_is_a_finding(forgotten, fixed):
    """Run, and no .grad anywhere: WORRY for each parameter that has a gradient, also on another batch."""
    model = network()
    model.unused = nn.Parameter(torch.ones(2))
    hook = a_hook(model, after=3, on_fail=lambda report: None)
    for step in range(4):
        loss = cross_entropy(model, INPUTS, LABELS)
        if not forgotten:
            model.zero_grad()
            loss.backward()
        hook.on_step(
            step, loss=lambda: cross_entropy(model, INPUTS[: 10 if fixed else None], LABELS[: 10 if fixed else None])
        )
    used = set(hook.reports[0].parameters) - {"unused"}
    assert [failing(report) for report in hook.reports] == [used if forgotten else set()] * 3
    assert [codes(report) for report in hook.reports] == [{"missing_gradient"} if forgotten else set()] * 3
    assert all("was backward() called before on_step?" in str(report) for report in hook.reports) == forgotten


def test_an_optimiser_that_calls_backward_itself_raises_no_alarm():
    """LBFGS begins its first step before there is a gradient."""
    model = network(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    hook = a_hook(model, after=2)
    hook.attach(optimizer, loss=lambda: cross_entropy(model, INPUTS, LABELS))

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model, INPUTS, LABELS)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert verdicts_of(hook) == [GOOD]
    assert "There is no .grad" in hook.reports[0].unasked[0]


class Carrying(nn.Module):
    """A hidden state that goes from batch to batch, kept as a plain attribute, and a log in a list."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Linear(14, 8), ByHand(8, 3)
        self.hidden = torch.zeros(1, 8)
        self.log = []
        self.means = np.zeros(8)

    def forward(self, inputs):
        hidden = torch.tanh(self.cell(torch.cat([inputs, self.hidden.expand(len(inputs), 8)], dim=1)))
        self.hidden = hidden.detach().mean(dim=0, keepdim=True)
        self.log.append(1)
        self.means += self.hidden.numpy()[0]
        return self.out(hidden)


def test_a_state_that_is_carried_is_put_back_and_told():
    """The slopes are taken from one and the same state; .grad, made from another, is not compared, and not accused."""
    model = Carrying()
    hook = a_hook(model, after=None)
    train(model, hook, 3)
    assert verdicts_of(hook) == [GOOD] * 2
    assert "carries a state" in hook.reports[1].unasked[0]
    assert len(model.log) == 3


class Single(nn.Module):
    """A kernel that knows float32 alone: refuses the rest, or reads it as rubbish."""

    def __init__(self, bug, manner):
        super().__init__()
        self.inner, self.manner = ByHand(6, 3, bug), manner

    def forward(self, inputs):
        if self.manner == "refuses" and self.inner.weight.dtype != torch.float32:
            raise TypeError("float32 only")
        rubbish = self.manner == "rubbish" and self.inner.weight.dtype != torch.float32
        return self.inner(inputs) * (7 if rubbish else 1)


@pytest.mark.parametrize("manner", ["refuses", "rubbish"])
@pytest.mark.parametrize("bug", ["", "bias doubled"])
def test_a_module_that_knows_float32_alone(manner, bug):
    """It is measured in float32, with wide bars and a note; what is right is not accused, a doubled bias is found."""
    model = Single(bug, manner)
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 1)
    (report,) = hook.reports
    assert failing(report) == ({"inner.bias"} if bug else set())
    assert any("cannot be run in float64" in note for note in report.notes)
    assert "the module's own precision" in report.asked[0]


@pytest.mark.parametrize("dropout", some(["off", "frozen"], ["frozen"]))
@pytest.mark.parametrize("noise", ["loss", "mask", ""])
def test_a_loss_that_draws_is_called_random(noise, dropout):
    """Noise in the closure or a mask by hand is no fault of the module's; without it there is nothing to say."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), ByHand(8, 3))
    hook = a_hook(model, after=None, dropout=dropout)

    def cost(model, inputs, labels):
        if noise:
            drawn = torch.randn_like(inputs) if noise == "loss" else 2.0 * (torch.rand_like(inputs) < 0.5)
            inputs = inputs + drawn
        return cross_entropy(model, inputs, labels)

    train(model, hook, 2, cost=cost)
    notes = " ".join(note for report in hook.reports for note in report.notes)
    assert ("The loss is random" in notes) == ("draw it once" in notes) == bool(noise)
    assert "cannot be run" not in notes
    assert max(verdicts_of(hook)) == (INCONCLUSIVE if noise else GOOD)


class Upcast(nn.Module):
    """Casts by itself, as modules written for mixed precision do, and makes float32 tensors of its own."""

    def forward(self, inputs):
        wide = inputs.float()
        return (wide / wide.pow(2).mean(dim=1, keepdim=True).sqrt()).to(torch.float32) + torch.zeros(
            1, dtype=torch.float
        )


def test_casts_inside_of_a_module_do_not_blur_it():
    """The float64 pass is one throughout."""
    model = nn.Sequential(nn.Linear(6, 8), Upcast(), ByHand(8, 3))
    hook = a_hook(model, after=None)
    train(model, hook, 1)
    assert verdicts_of(hook) == [GOOD]
    assert hook.reports[0].difference < 1e-9


class PassedOn(torch.autograd.Function):
    """The identity, whose backward multiplies by a factor."""

    @staticmethod
    def forward(ctx, inputs, factor):
        ctx.factor = factor
        return inputs.clone()

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.factor, None


@pytest.mark.parametrize("factor", [1, 2])
def test_autocast_in_the_closure_raises_no_alarm_and_hides_no_bug(factor):
    """In mixed precision a wrong backward is found, and its right twin is not accused."""
    model = nn.Linear(6, 3)
    hook = a_hook(model, after=None, on_fail=lambda report: None)

    def cost(model, inputs, labels):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return functional.cross_entropy(PassedOn.apply(model(inputs), factor).float(), labels)

    train(model, hook, 1, cost=cost)
    (report,) = hook.reports
    assert failing(report) == ({"weight", "bias"} if factor == 2 else set())


class Recomputed(nn.Module):
    """Runs its hidden layer once more in the backward pass, on what it has kept, and multiplies by a float32 table."""

    def __init__(self, bug):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), ByHand(8, 3, bug)

    def forward(self, inputs):
        run = torch.utils.checkpoint.checkpoint
        return self.last(run(lambda x: torch.tanh(self.first(x)) @ TABLE, inputs, use_reentrant=False))


TABLE = torch.randn(8, 8)


@pytest.mark.parametrize("bug", ["", "bias doubled"])
def test_what_backward_runs_in_another_precision_is_no_reason_to_fail(bug):
    """A backward pass that cannot be made in float64 is made, and judged, in float32."""
    model = Recomputed(bug)
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 1)
    assert failing(hook.reports[0]) == ({"last.bias"} if bug else set())
    assert any("cannot be run in float64" in note for note in hook.reports[0].notes)


def test_half_precision_is_judged_in_float64():
    """A module in bfloat16 runs in float64 for the slopes; its .grad is too coarse to be compared, which is said."""
    model = network(dtype=torch.bfloat16)
    hook = a_hook(model, after=None)
    train(model, hook, 1)
    assert verdicts_of(hook) == [GOOD]
    assert "half precision" in hook.reports[0].unasked[0]


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lambda loss: loss.item(), "without .item"),
        (lambda loss: loss.detach(), "without a graph"),
        (lambda loss: loss * torch.ones(2), r"shape \(2,\), not one number"),
        (lambda loss: loss.backward() or loss, "calls backward"),
        (lambda loss: 1 / 0, "ZeroDivisionError"),
        (None, "loss must be a function, got None"),
    ],
)
def test_a_closure_that_cannot_be_used_ends_no_training(spoil, seen):
    """One warning that says what is wrong, an INCONCLUSIVE report, and .grad as it was."""
    model = network()
    hook = a_hook(model, after=None)
    cross_entropy(model, INPUTS, LABELS).backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    closure = spoil and (lambda: spoil(cross_entropy(model, INPUTS, LABELS)))
    with pytest.warns(GradCheckWarning, match=seen):
        hook.on_step(0, loss=closure)
    assert verdicts_of(hook) == [INCONCLUSIVE]
    assert all(torch.equal(old, p.grad) for old, p in zip(before, model.parameters(), strict=True))


# No footprint


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, dropout=0.3, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, inputs):
        return self.out(self.lstm(inputs.reshape(len(inputs), 2, 3))[0][:, -1])


MODELS = {
    "dense": lambda: network(dropout=0.4, norm=True),
    "wrong": lambda: network("bias doubled", dropout=0.4, norm=True),
    "double": lambda: network(norm=True, dtype=torch.float64),
    "recurrent": Recurrent,
    "carrying": Carrying,
    "single": lambda: Single("", "refuses"),
    "numpy": lambda: nn.Sequential(nn.Linear(6, 8), NumpyMask(), ByHand(8, 3)),
}
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def traces(kind, optimizer, make_hook=None):
    """Everything that a training leaves behind, as bytes."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5)
    model = MODELS[kind]()
    memory = OPTIMIZERS[optimizer](model.parameters())
    hook = make_hook and make_hook(model)
    train(model, hook, 8, optimizer=memory)
    if hook:
        hook.close()
    state = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    grads = [parameter.grad.numpy().tobytes() for parameter in model.parameters()]
    slots = [(k, v.numpy().tobytes()) for s in memory.state.values() for k, v in sorted(s.items()) if v is not None]
    states = torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()
    hidden = (model.hidden.numpy().tobytes(), model.means.tobytes()) if kind == "carrying" else b""
    return pickle.dumps((state, grads, slots, states, hidden, model.training))


@pytest.mark.parametrize("optimizer", some(OPTIMIZERS, ["adam"]))
@pytest.mark.parametrize("kind", MODELS)
def test_a_training_with_checks_equals_one_without(kind, optimizer):
    """Parameters, gradients, optimiser, buffers, attributes and random states are the same bits, right or wrong."""
    made = []

    def make(model):
        made.append(a_hook(model, schedule=every(2), on_fail=lambda report: None))
        return made[0]

    assert traces(kind, optimizer, make) == traces(kind, optimizer)
    assert len(made[0].reports) == 4
    assert verdicts_of(made[0]) == [WORRY if kind == "wrong" else GOOD] * 4 or kind == "single"


def test_the_comparison_sees_a_footprint():
    """A single draw, or one bit of a weight, is told."""

    def drawing(model):
        torch.rand(1)

    def nudging(model):
        with torch.no_grad():
            model[0].weight[0, 0] = torch.nextafter(model[0].weight[0, 0], torch.tensor(1.0))

    for leak in (drawing, nudging):
        assert traces("dense", "sgd", leak) != traces("dense", "sgd")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("count", some([1, 2, 3, 5, 7], [1, 5]))
def test_a_check_that_breaks_off_leaves_no_trace(count, error):
    """Wherever in a check the closure raises, the module is as it was."""
    model = network(dropout=0.4, norm=True)
    hook = a_hook(model, after=None)
    cross_entropy(model, INPUTS, LABELS).backward()
    before = pickle.dumps([(p.data, p.grad) for p in model.parameters()] + list(model.buffers()))
    kept = [(parameter.data_ptr(), parameter.grad) for parameter in model.parameters()]
    left = [count]

    def closure():
        left[0] -= 1
        if left[0] == 0:
            raise error("planted")
        return cross_entropy(model, INPUTS, LABELS)

    seen = pytest.raises(error) if error is KeyboardInterrupt else pytest.warns(GradCheckWarning, match="planted")
    with (
        seen if count > 2 or error is KeyboardInterrupt else contextlib.nullcontext()
    ):  # float32 is tried after float64
        hook.on_step(0, loss=closure)
    assert pickle.dumps([(p.data, p.grad) for p in model.parameters()] + list(model.buffers())) == before
    assert all(
        p.data_ptr() == address and p.grad is grad for p, (address, grad) in zip(model.parameters(), kept, strict=True)
    )
    assert torch.get_default_dtype() is torch.float32
    assert model.dropout.p == 0.4


def test_copies_and_pickles_of_the_module_know_nothing_of_the_hook():
    """A copy (an average of the weights, a checkpoint of the whole module) has no part of the hook in it."""
    model = network()
    hook = a_hook(model, after=None, reporters=[])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        cross_entropy(twin, INPUTS, LABELS).backward()
    train(model, hook, 2)
    assert verdicts_of(hook) == [GOOD] * 2
    assert list(model.state_dict()) == list(network().state_dict())


# Attaching


def test_the_optimiser_may_call_the_hook():
    """Attached, it checks at the beginning of the optimiser's steps, until it is closed; nothing is left behind."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hook = a_hook(model, after=2)
    inputs, labels = INPUTS, LABELS
    hook.attach(optimizer, loss=lambda: cross_entropy(model, inputs, labels))
    for step in range(4):
        inputs, labels = INPUTS[step::4], LABELS[step::4]
        train_step(model, optimizer, inputs, labels)
    hook.close()
    train_step(model, optimizer, inputs, labels)
    assert [report.step for report in hook.reports] == [0, 1, 2]
    assert [len(report.asked) for report in hook.reports] == [2] * 3
    assert hook.calls == 4
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("attached", [True, False])
def test_a_gradient_scaler_is_seen_through_where_the_hook_is_attached(attached):
    """The optimiser's own step comes after the unscaling; a call before it sees scaled gradients, which is noted."""
    model = network()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    if attached:
        hook.attach(optimizer, loss=lambda: cross_entropy(model, INPUTS, LABELS))
    scaler.scale(cross_entropy(model, INPUTS, LABELS)).backward()
    if not attached:
        hook.on_step(0, loss=lambda: cross_entropy(model, INPUTS, LABELS))
    scaler.step(optimizer)
    (report,) = hook.reports
    assert codes(report) == (set() if attached else {"buffers_differ"})
    assert any("scaler.unscale_(optimizer)" in note for note in report.notes) != attached


def train_step(model, optimizer, inputs, labels):
    optimizer.zero_grad()
    cross_entropy(model, inputs, labels).backward()
    optimizer.step()


def test_a_training_that_ends_before_n_is_checked_at_its_end():
    """As with the other hooks; and the sum is told."""
    model = network()
    with a_hook(model, after=100) as hook:
        train(model, hook, 3)
    assert [report.step for report in hook.reports] == [0, 1, 2]
    assert "The training ended after 3 steps" in hook.reports[-1].notes[-1]
    assert "last update" in hook.reports[-1].unasked[0]
    broken = a_hook(model, after=100)
    broken.on_step(0, loss=lambda: cross_entropy(model, INPUTS, LABELS))
    broken.__exit__(ZeroDivisionError, None, None)
    assert len(broken.reports) == 1


def test_on_fail_and_drift_are_those_of_the_other_hooks():
    """A wrong gradient raises or stops, and a schedule may look at the weights."""
    model = network("bias doubled")
    with pytest.raises(GradientMismatch, match=r"last.bias"):
        train(model, a_hook(model, on_fail="raise"), 2)
    stopping = a_hook(model, on_fail="stop")
    train(model, stopping, 5)
    assert (len(stopping.reports), stopping.should_stop) == (1, True)
    right = network()
    hook = a_hook(right, schedule=drift(0.2))
    train(right, hook, 20)
    assert 2 <= len(hook.reports) < 10


def test_periodic_checks_go_along_one_direction():
    """Once in so many calls, at the cost of three evaluations: beside them two gradients, and one pass for .grad."""
    model, passes = network(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    hook = a_hook(model, after=None, every=3)
    train(model, hook, 6)
    passes.clear()
    train(model, hook, 1)
    assert [report.step for report in hook.reports] == [0, 1, 3, 0]
    assert (hook.reports[-1].evaluations, hook.reports[-1].gradients) == (3, 3)
    assert len(passes) == 7  # the training's own is one of them
    assert verdicts_of(hook) == [GOOD] * 4
    assert all(comparison.sensitivity < 1e-4 for comparison in hook.reports[-1].parameters.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_known_bug_is_told_once_until_it_is_repaired_or_another_one_comes(dtype):
    """At the price of a few evaluations, without a warning."""
    model = network(dtype=dtype)
    hook = a_hook(model, after=None, every=3)
    train(model, hook, 4)
    model.last.bug = "bias doubled"
    with pytest.warns(GradCheckWarning, match="looks wrong. step 2: WORRY") as caught:
        train(model, hook, 6)
    assert len(caught) == 1
    model.last.bug = "weights negative"
    with pytest.warns(GradCheckWarning, match="last.weight"):
        train(model, hook, 6)
    model.last.bug = ""
    train(model, hook, 3)
    found = [(report.verdict, report.as_at) for report in hook.reports]
    assert found == [(GOOD, None)] * 3 + [(WORRY, None), (WORRY, 2)] + [(WORRY, None), (WORRY, 2)] + [(GOOD, None)]
    assert hook.reports[4].evaluations <= 3 + 4 * 4
    assert hook.reports[4].diagnoses == hook.reports[3].diagnoses
    assert hook.reports[5].failing == ["last.weight"]


def test_torchs_own_writer_is_shared(tmp_path):
    """The checks stand in the same file as the training's own scalars."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = network("bias doubled")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        hook = a_hook(model, after=None, writer=writer, on_fail=lambda report: None)
        train(model, hook, 2)
        writer.add_scalar("loss", 1.0, 0)
        hook.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"loss", "gradcheck/difference", "gradcheck/difference/last.bias", "gradcheck/verdict"} <= set(tags)
    assert [event.value for event in events.Scalars("gradcheck/verdict")] == [float(WORRY)] * 2


def test_switched_off_the_hook_does_not_touch_the_module(monkeypatch):
    """GC_HOOKS=off: nothing stands at the module's entrance, nothing is checked."""
    monkeypatch.setenv("GC_HOOKS", "off")
    model = network()
    with pytest.warns(GradCheckWarning, match="GC_HOOKS=off"):
        hook = a_hook(model)
    assert not model._forward_pre_hooks
    train(model, hook, 3)
    assert (hook.calls, hook.reports) == (3, [])


@pytest.mark.parametrize(
    ("model", "options", "seen"),
    [
        (list, {}, r"needs a torch.nn.Module, got \[\] of type list. Try TorchGradCheckHook\(model\)"),
        (nn.Tanh, {}, "Tanh has no parameter that is trained"),
        (lambda: nn.Linear(2, 2), {"dropout": "on"}, "dropout='on' is not known"),
        (lambda: nn.Linear(2, 2), {"on_fail": "explode"}, "on_fail='explode'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(model, options, seen):
    """Where they are written, and before anything is attached."""
    with pytest.raises(InvalidProblem, match=seen):
        TorchGradCheckHook(model(), **options)


def test_without_pytorch_the_extra_is_named(monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"pip install gc_hooks\[torch\]"):
        TorchGradCheckHook(object())


class Steep(torch.autograd.Function):
    """A steep sigmoid, whose backward divides infinity by infinity in float32."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return torch.sigmoid(25 * inputs)

    @staticmethod
    def backward(ctx, upstream):
        (inputs,) = ctx.saved_tensors
        power = torch.exp(-25 * inputs)
        return upstream * 25 * power / (1 + power) ** 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grad_that_holds_nan_equals_nothing(dtype):
    """The optimiser is about to use it, and a fresh pass in float32 gives it again; in float64 all is right."""

    class Layer(nn.Module):
        def forward(self, inputs):
            return Steep.apply(inputs)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), Layer(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        model[0].weight *= 10
    hook = a_hook(model, after=None, on_fail=lambda report: None)
    train(model, hook, 1)
    (report,) = hook.reports
    is_finite = all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    assert is_finite == (dtype == torch.float64)
    assert codes(report) == (set() if is_finite else {"not_finite"})
    assert report.verdict is (GOOD if is_finite else WORRY)
    assert any("equal a fresh backward pass" in answer for answer in report.asked) == is_finite


def test_a_mistake_in_attaching_is_told_once():
    """Not as a wrong gradient, and the end says that nothing was checked."""
    said = []

    class Speaker:
        def report(self, report):
            pass

        def say(self, text):
            said.append(text)

    model = network()
    hook = a_hook(model, schedule=every(1), reporters=[Speaker()])
    seen = "of type float. Try to return the tensor"
    with pytest.warns(GradCheckWarning, match=seen) as caught:  # noqa: PT031 - one in all of this
        for step in range(3):
            hook.on_step(step, loss=lambda: cross_entropy(model, INPUTS, LABELS).item())
    hook.close()
    assert len(caught) == 1
    assert verdicts_of(hook) == [INCONCLUSIVE] * 3
    assert ["nothing was checked in this run (3 checks)" in text for text in said] == [True]


# What people do around a module


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def watched(model, cost, training_cost=None, **options):
    """Train for two steps with a check at each; return the reports."""
    hook = a_hook(model, after=None, every=1, on_fail=lambda report: None, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        (training_cost or cost)().backward()
        hook.on_step(step, loss=cost)
        optimizer.step()
    hook.close()
    return hook.reports


@pytest.mark.parametrize("how", ["the module inside", "in place", "after the hook"])
def test_a_compiled_module_is_recorded(how, monkeypatch):
    """The hook is on the module inside; where the compiler comes later, .grad is left unasked."""
    model = small_network()
    if how == "in place":
        model.compile(backend="aot_eager")
    elif how == "the module inside":
        compiled = torch.compile(model, backend="aot_eager")
    else:
        from gc_hooks.adapters.pytorch import forward_recorder

        monkeypatch.setattr(forward_recorder, "_keep_out_of_graphs", lambda: None)
        call = forward_recorder.ForwardRecorder.__call__
        own = getattr(call, "_torchdynamo_orig_callable", call)
        monkeypatch.setattr(forward_recorder.ForwardRecorder, "__call__", own)
    hook = a_hook(model, after=None)
    if how == "after the hook":
        compiled = torch.compile(model, backend="aot_eager")
    run = model if how == "in place" else compiled
    functional.cross_entropy(run(INPUTS), LABELS).backward()
    hook.on_step(0, loss=lambda: functional.cross_entropy(run(INPUTS), LABELS))
    assert verdicts_of(hook) == [GOOD]
    assert bool(hook.reports[0].unasked) is (how == "after the hook")


def test_a_sharded_module_is_refused():
    """Its parameters are no arrays; said where the hook is made."""
    tensors = pytest.importorskip("torch.distributed.tensor")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, model = tensors.init_device_mesh("cpu", (1,)), small_network()
        sharded = tensors.distribute_tensor(model[0].weight.data, mesh, [tensors.Shard(0)])
        model[0].weight = nn.Parameter(sharded)
        with pytest.raises(InvalidProblem, match=r"0\.weight is a DTensor, .* before it is sharded"):
            a_hook(model)
    finally:
        torch.distributed.destroy_process_group()


class Checkpoints(nn.Module):
    """A part is run again in backward, by the way that knows loss.backward() alone."""

    def __init__(self, bug=""):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = ByHand(6, 5, bug), nn.Linear(5, 3)

    def forward(self, inputs):
        checkpoint = torch.utils.checkpoint.checkpoint
        return self.last(torch.tanh(checkpoint(self.first, inputs, use_reentrant=True)))


@pytest.mark.parametrize("bug", ["", "bias doubled"])
def test_reentrant_checkpoints(bug):
    """What they run again is judged, and the inputs' own gradient is left as it was."""
    model, inputs = Checkpoints(bug), INPUTS[:8].clone().requires_grad_()
    inputs.grad = torch.ones_like(inputs)
    kept = inputs.grad

    def cost():
        return functional.cross_entropy(model(inputs), LABELS[:8])

    hook = a_hook(model, after=None, on_fail=lambda report: None)
    cost().backward()
    before = inputs.grad.clone()
    hook.on_step(0, loss=cost)
    (report,) = hook.reports
    assert (report.verdict, report.method) == (WORRY if bug else GOOD, "reference")
    assert failing(report) == ({"first.bias"} if bug else set())
    assert inputs.grad is kept
    assert torch.equal(inputs.grad, before)


def test_complex_parameters_are_named():
    """They are not judged, and what is not judged is not good."""
    model = small_network()
    model.phases = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    (report, _) = watched(model, lambda: (model(INPUTS) * model.phases).abs().mean())
    assert (report.verdict, report.unjudged) == (INCONCLUSIVE, ("phases",))
    (report, _) = watched(model, lambda: (model(INPUTS) * model.phases).abs().mean(), by_design="phases")
    assert (report.verdict, report.unjudged) == (GOOD, ())


class Tokens(nn.Module):
    """An embedding with a row for padding, which the head may use again."""

    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        nn.init.normal_(self.embedding.weight)  # also of padding: without that its row is zero
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens).mean(1)))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("wrong", [False, True])
def test_a_row_of_padding_has_no_gradient_by_design(tied, wrong):
    """Also in the loss; the rest of the embedding is judged."""
    model, tokens, labels = Tokens(tied), torch.tensor([[0, 1, 2], [3, 0, 0], [4, 5, 1]]), torch.tensor([1, 0, 3])
    if wrong:
        model.embedding.weight.register_hook(lambda grad: grad * torch.linspace(1, 2, 7)[:, None].to(grad.dtype))
    reports = watched(model, lambda: functional.cross_entropy(model(tokens), labels))
    assert [report.verdict for report in reports] == [WORRY if wrong else GOOD] * 2
    assert "The row of padding_idx in an embedding is held fixed" in str(reports[0])


def test_a_training_in_another_autocast_raises_no_alarm():
    """Its .grad cannot be compared, and the report says what to try."""
    model = small_network()

    def cost():
        return functional.cross_entropy(model(INPUTS).float(), LABELS)

    def trained():
        with torch.autocast("cpu", torch.bfloat16):
            return cost()

    for report in watched(model, cost, trained):
        assert report.verdict is GOOD
        assert "Try torch.autocast in loss=, too" in report.unasked[0]
    for report in watched(model, trained):
        assert (report.verdict, report.unasked) == (GOOD, ())


@pytest.mark.parametrize("bug", ["", "bias doubled"])
def test_a_loss_in_bfloat16_is_judged_in_float64(bug):
    """It is off by that precision, and that is no sign of a module that cannot be run in float64."""
    model = network(bug)
    for report in watched(model, lambda: cross_entropy(model, INPUTS, LABELS).to(torch.bfloat16)):
        assert report.method == "reference"
        assert report.verdict is (WORRY if bug else GOOD)


def test_an_optimiser_that_steps_in_backward_raises_no_alarm():
    """There is no .grad left to compare."""
    model = small_network()

    def step(parameter):
        with torch.no_grad():
            parameter -= 0.1 * parameter.grad
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for report in watched(model, lambda: functional.cross_entropy(model(INPUTS), LABELS)):
        assert report.verdict is GOOD
        assert "register_post_accumulate_grad_hook" in report.unasked[0]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_is_judged_with_its_vectors_fixed(norm):
    """They are constants in backward; each pass of the training goes on improving them as without a check."""
    ends = []
    for checks in (True, False):
        model = small_network()
        norm(model[0])

        def cost(model=model):
            return functional.cross_entropy(model(INPUTS), LABELS)

        if checks:
            assert [report.verdict for report in watched(model, cost)] == [GOOD, GOOD]
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                optimizer.zero_grad()
                cost().backward()
                optimizer.step()
        ends.append(model.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
