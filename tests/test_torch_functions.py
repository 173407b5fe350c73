"""Hand-written `torch.autograd.Function`s in small trainings: the reference is made from their forward."""

from __future__ import annotations

import contextlib
import re
import threading

import pytest

from gc_hooks import InvalidProblem, Verdict, central
from gc_hooks.adapters import TorchGradCheckHook

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small networks on a shared machine

from hunts import some  # noqa: E402
from torch_operators import PAIRS, model_of, train  # noqa: E402

nn = torch.nn
GOOD, INCONCLUSIVE, WORRY = Verdict.GOOD, Verdict.INCONCLUSIVE, Verdict.WORRY
BY_DESIGN = "FakeQuantised"
JUDGED = sorted(PAIRS.keys() - {BY_DESIGN})


def checked(model, steps=1, **options):
    """Train with a check at each of the steps; return the reports."""
    hook = TorchGradCheckHook(model, **{"reporters": [], "on_fail": lambda report: None, **options})
    train(model, hook, steps)
    hook.close()
    return hook.reports


def one_layer(function, bug=""):
    """Return a model of the two-input Function between two layers."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.scale, self.last = nn.Linear(4, 5), nn.Parameter(torch.rand(5) + 0.5), nn.Linear(5, 1)

        def forward(self, x):
            return self.last(function(torch.tanh(self.first(x)), self.scale)).pow(2).mean()

        @staticmethod
        def batch(generator):
            return torch.randn(6, 4, generator=generator)

    return Model()


def classes_as_they_are():
    return [dict(vars(cls)) for pair in PAIRS.values() for cls in pair.values()]


WRONG_INPUTS = {
    "Attention": ("input 0 (q)", "input 1 (k)", "input 2 (v)"),
    "Convolution": ("input 1 (weight) it is exactly 1/3 (1 / batch size) of",),
    "Embedding": ("input 0 (weight)", "positions along axis 0"),
    "FusedCE": ("input 0 (logits) it is 7/9 of what it should be",),
    "GroupNorm": ("input 0 (x)", "Right for input 1 (weight)"),
    "LayerNorm": ("input 0 (x)", "Right for input 1 (weight) and input 2 (bias)"),
    "LinearGELU": ("input 0 (x)", "input 1 (weight)", "input 2 (bias)"),
    "Neighbours": ("input 1 (x)",),
    "RMSNorm": ("input 0 (x)", "Right for input 1 (weight)"),
    "Rotary": ("input 0 (x)", "only at 1, 2, 3, 4 and 5 of the 6 positions along axis 1"),
    "Scan": ("input 0 (a)", "input 1 (x)"),
    "SwiGLU": ("input 0 (gate)", "Right for input 1 (up)"),
}
"""What the diagnosis says of the wrong twin."""


@pytest.mark.parametrize("name", some(JUDGED, ["LayerNorm", "Embedding", "GroupNorm", "Neighbours"]))
def test_the_right_operator_is_good_and_the_wrong_one_is_seen(name):
    """Every entry is compared, at the same cost; in float64, in a float32 training. The operator is named."""
    (right,), (wrong,) = (checked(model_of(name, w), after=None) for w in (False, True))
    assert (right.verdict, right.method, right.difference < 1e-12) == (GOOD, "reference", True)
    assert (wrong.verdict > Verdict.INCONCLUSIVE, wrong.method) == (True, "reference")
    assert (right.evaluations, right.gradients) == (6, 4)
    assert wrong.evaluations <= 13
    assert wrong.gradients == 4
    assert all(c.basis.name == "EXACT" for c in right.parameters.values())
    (diagnosis,) = wrong.diagnoses
    cls = PAIRS[name][True]
    line = cls.backward.__code__.co_firstlineno + 1
    assert (diagnosis.code, diagnosis.layer) == ("operator", cls.__name__)
    assert diagnosis.place == f"torch_operators.py:{line}"
    assert [words for words in WRONG_INPUTS[name] if words not in str(diagnosis)] == []
    assert sorted(diagnosis.parameters) == sorted(wrong.failing)


@pytest.mark.parametrize("name", some(["RMSNorm", "LayerNorm", "Convolution", "Scan"], ["Convolution"]))
def test_the_cost_does_not_depend_on_the_number_of_tensors(name):
    """One layer or four: the same number of evaluations."""
    for wrong in (False, True):
        counts = [checked(model_of(name, wrong, layers), after=None)[0].evaluations for layers in (1, 4)]
        assert counts[0] == counts[1] <= 8


@pytest.mark.parametrize("name", some(sorted(PAIRS), ["RMSNorm", "LayerNorm"]))
def test_a_training_is_the_same_with_and_without_checks(name):
    """To the bit: losses and weights; and the classes are what they were."""
    before = classes_as_they_are()
    for wrong in (False, True):
        plain, watched = model_of(name, wrong, 1), model_of(name, wrong, 1)
        hook = TorchGradCheckHook(watched, reporters=[], on_fail=lambda report: None, after=None, every=2)
        assert train(plain, steps=3) == train(watched, hook, steps=3)
        for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
            assert torch.equal(one, other)
    assert classes_as_they_are() == before


class Product(torch.autograd.Function):
    """Its backward is right; forward goes where torch's autograd cannot follow."""

    way = "numpy"

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        if Product.way == "numpy":
            return torch.from_numpy(x.numpy() * scale.numpy())
        if Product.way == "data":
            return x.data * scale.data
        if Product.way == "half of it in data":
            return x.data * scale
        return x * scale

    @staticmethod
    def backward(ctx, upstream):
        x, scale = ctx.saved_tensors
        return upstream * scale, (upstream * x).sum(0)


@pytest.mark.parametrize(
    ("way", "seen"),
    [
        ("numpy", r"Product.forward raised RuntimeError under torch's autograd: .* in test_torch_functions.py:\d+"),
        ("data", r"the result of Product.forward has no graph of torch's autograd .* in test_torch_functions.py:\d+"),
        ("half of it in data", "along one direction it is .*, and the measured slope"),
    ],
)
def test_a_body_that_cannot_serve_is_refused_and_slopes_are_measured(way, seen, monkeypatch):
    """In one line, with the place; the right backward is good all the same."""
    monkeypatch.setattr(Product, "way", way)
    (report,) = checked(one_layer(Product.apply), after=None)
    assert (report.verdict, report.method) == (GOOD, "central")
    (note,) = [note for note in report.notes if "reference gradient could not be used" in note]
    assert re.search(seen, note)


class InPlace(torch.autograd.Function):
    """Writes into its input, and draws a mask."""

    wrong = False

    @staticmethod
    def forward(ctx, x, scale):
        mask = torch.randint(2, x.shape).to(x.dtype)  # which draws the same in float64
        ctx.save_for_backward(x.clone(), scale, mask)
        ctx.mark_dirty(x)
        return x.mul_(mask * scale)

    @staticmethod
    def backward(ctx, upstream):
        x, scale, mask = ctx.saved_tensors
        return upstream * mask * scale * (2 if InPlace.wrong else 1), (upstream * mask * x).sum(0)


class Captures(torch.autograd.Function):
    """Reads a weight that it was not handed in: training never changes it."""

    weight = None

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale * (1.0 if Captures.weight is None else Captures.weight())

    @staticmethod
    def backward(ctx, upstream):
        x, scale = ctx.saved_tensors
        more = 1.0 if Captures.weight is None else Captures.weight().detach()
        return upstream * scale * more, (upstream * x * more).sum(0)


def test_a_body_may_write_in_place_and_draw(monkeypatch):
    """As in the training, both."""
    (report,) = checked(one_layer(lambda x, s: InPlace.apply(x * 1, s)), after=None)
    assert (report.verdict, report.method) == (GOOD, "reference")
    monkeypatch.setattr(InPlace, "wrong", True)
    (report,) = checked(one_layer(lambda x, s: InPlace.apply(x * 1, s)), after=None)
    assert (report.verdict, report.failing) == (WORRY, ["first.weight", "first.bias"])


def test_a_weight_that_is_not_handed_in_has_no_gradient(monkeypatch):
    """The reference has one, as the loss depends on it."""
    model = one_layer(Captures.apply)
    model.hidden = nn.Parameter(torch.tensor(0.7))
    monkeypatch.setattr(Captures, "weight", staticmethod(lambda: model.hidden))
    (report,) = checked(model, after=None)
    assert (report.method, report.failing) == ("reference", ["hidden"])
    assert [d.code for d in report.diagnoses] == ["gradient_lost"]


@pytest.mark.parametrize("when", range(2, 12))
def test_no_stand_in_outlives_a_check(when, monkeypatch):
    """Wherever Ctrl-C comes: in a forward pass of the training's own, or in a body."""
    cls, calls, rsqrt = PAIRS["RMSNorm"][False], [], torch.rsqrt

    def interrupted(x):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return rsqrt(x)

    before = dict(vars(cls))
    monkeypatch.setattr(torch, "rsqrt", interrupted)
    model = model_of("RMSNorm", layers=1)
    hook = TorchGradCheckHook(model, reporters=[], after=None)
    with contextlib.suppress(KeyboardInterrupt):
        train(model, hook, 1)
    assert dict(vars(cls)) == before
    assert len(calls) >= when


def test_other_threads_get_what_they_always_get():
    """A thread that runs the same Function while a check does gets its own backward."""
    cls, found = PAIRS["RMSNorm"][True], []
    x = torch.randn(3, 4, dtype=torch.float64)

    def elsewhere():
        given, weight = x.clone().requires_grad_(), torch.ones(4, dtype=torch.float64, requires_grad=True)
        cls.apply(given, weight).pow(3).sum().backward()
        found.append(given.grad)

    elsewhere()
    from gc_hooks.adapters.pytorch.functions import StandIns

    functions = StandIns()
    functions.put()
    try:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        elsewhere()
    finally:
        functions.take_away()
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])  # here it is the reference


def test_a_method_that_was_asked_for_is_used():
    """Central differences, as before."""
    (report,) = checked(model_of("RMSNorm", layers=1), after=None, method=central, max_evaluations=60)
    assert report.method == "central"


def notes_on(report, words):
    return [note for note in report.notes if words in note]


@pytest.mark.parametrize("wrong", [False, True])
def test_a_straight_through_estimator_is_explained_and_not_accused(wrong):
    """At each check; named in by_design it is good, and all else is judged."""
    cls = PAIRS[BY_DESIGN][wrong]
    for report in checked(model_of(BY_DESIGN, wrong), 3, after=None, every=2):
        assert (report.verdict, report.method, report.diagnoses) == (INCONCLUSIVE, "reference", ())
        assert report.unjudged == (f"{cls.__name__}.backward",)
        assert notes_on(report, f"Try by_design={cls.__name__}.") or notes_on(report, f"try by_design={cls.__name__}.")
    for report in checked(model_of(BY_DESIGN, wrong), 3, after=None, every=2, by_design=cls):
        assert (report.verdict, report.method, report.unjudged) == (GOOD, "reference", ())
        assert notes_on(report, f"By design, not judged: {cls.__name__}.")


@pytest.mark.parametrize("named", [True, False])
def test_a_bug_beside_a_straight_through_estimator_is_seen(named):
    """Also in a weight that is behind it."""
    model = model_of(BY_DESIGN)
    for block in model.blocks:
        block.by_hand["RMSNorm"] = PAIRS["RMSNorm"][True].apply
    options = {"by_design": PAIRS[BY_DESIGN][False]} if named else {}
    (report,) = checked(model, after=None, **options)
    assert (report.verdict, report.method) == (WORRY, "reference")
    assert [d.layer for d in report.diagnoses] == ["WrongRMSNorm"]
    assert {"blocks.1.qkv.weight", "blocks.0.hidden.weight"} & set(report.failing) == {"blocks.0.hidden.weight"}


class Rounded(nn.Module):
    """Straight through by detach."""

    def forward(self, x):
        return x + (torch.round(4 * x) / 4 - x).detach()


def test_a_module_and_a_parameter_may_be_by_design():
    """By the module or its name, in a list too."""
    model = one_layer(lambda x, scale: model.rounded(x) * scale)
    model.rounded = Rounded()
    (report,) = checked(model, after=None)
    assert report.verdict is WORRY  # no Function to be recognised
    for named in ("rounded", model.rounded, [model.rounded, "first.bias"]):
        (report,) = checked(model, after=None, by_design=named)
        assert (report.verdict, report.method) == (GOOD, "reference")
        assert ("first.bias" in report.parameters) is not isinstance(named, list)
    with pytest.raises(InvalidProblem, match="no module or parameter of the model"):
        TorchGradCheckHook(model, by_design="roundet")


def test_by_design_beside_a_body_that_cannot_serve(monkeypatch):
    """Slopes are measured, and nothing of what is by design is in them, or in the gradient."""
    monkeypatch.setattr(Product, "way", "numpy")
    model = one_layer(lambda x, scale: Product.apply(model.rounded(x), scale))
    model.rounded = Rounded()
    (report,) = checked(model, after=None, by_design="rounded")
    assert (report.verdict, report.method) == (GOOD, "central")
    assert notes_on(report, "reference gradient could not be used")
