"""Containers as others lay them out, what an adapter refuses, and every advice followed to the letter."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import GradCheckHook, InvalidProblem, NondeterministicLoss, Verdict, adapters, check_gradients

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))


def weights():
    rng = np.random.default_rng(8)
    return [rng.normal(size=(3, 4)), rng.normal(size=(4, 2))], [rng.normal(size=4), rng.normal(size=2)]


def loss_of(Ws, bs):
    return 0.5 * np.sum((np.tanh(X @ Ws[0] + bs[0]) @ Ws[1] + bs[1] - Y) ** 2)


def grads_of(Ws, bs, factor=1.0):
    """In two lists; with a factor on the first bias."""
    hidden = np.tanh(X @ Ws[0] + bs[0])
    error = hidden @ Ws[1] + bs[1] - Y
    delta = error @ Ws[1].T * (1 - hidden**2)
    return [X.T @ delta, hidden.T @ error], [factor * delta.sum(axis=0), error.sum(axis=0)]


Ws, bs = weights()
IN_DICT = {"W": Ws, "b": bs}
NAMED = {"W1": Ws[0], "b1": bs[0], "W2": Ws[1], "b2": bs[1]}


def of_named(p):
    return loss_of([p["W1"], p["W2"]], [p["b1"], p["b2"]])


def in_order(factor):
    dWs, dbs = grads_of(Ws, bs, factor)
    return [dWs[0], dbs[0], dWs[1], dbs[1]]


def in_dict(factor, form="d{}"):
    return dict(zip(map(form.format, "Wb"), grads_of(Ws, bs, factor), strict=True))


LAYOUTS = {
    "lists of lists": lambda f: adapters.dicts([Ws, bs], grads_of(Ws, bs, f), loss=lambda p: loss_of(*p)),
    "lists of lists, function": lambda f: adapters.dicts(
        [Ws, bs], lambda p: grads_of(*p, f), loss=lambda p: loss_of(*p)
    ),
    "lists of lists in place": lambda f: adapters.dicts([Ws, bs], grads_of(Ws, bs, f), loss=lambda: loss_of(Ws, bs)),
    "parallel lists of lists": lambda f: adapters.parallel(
        [Ws, bs], grads_of(Ws, bs, f), loss=lambda: loss_of(Ws, bs), names=["W1", "W2", "b1", "b2"]
    ),
    "parallel dictionaries of lists": lambda f: adapters.parallel(IN_DICT, in_dict(f), loss=lambda: loss_of(Ws, bs)),
    "parallel, a generator of layers": lambda f: adapters.parallel(
        zip(Ws, bs, strict=True), zip(*grads_of(Ws, bs, f), strict=True), loss=lambda: loss_of(Ws, bs)
    ),
    "dictionaries of lists": lambda f: adapters.dicts(IN_DICT, in_dict(f), loss=lambda p: loss_of(p["W"], p["b"])),
    "dictionaries of lists, in place": lambda f: adapters.dicts(
        IN_DICT, in_dict(f, "{}_grad"), loss=lambda: loss_of(Ws, bs)
    ),
    "a list beside a dictionary": lambda f: adapters.dicts(NAMED, in_order(f), loss=of_named),
    "a list beside a dictionary, function": lambda f: adapters.dicts(
        NAMED, lambda: in_order(f), loss=lambda: of_named(NAMED)
    ),
    "returned lists of lists": lambda f: adapters.returned(
        lambda p: (loss_of(*p), *grads_of(*p, f)), [Ws, bs], grads=[1, 2]
    ),
    "returned beside a dictionary of lists": lambda f: adapters.returned(
        lambda: (loss_of(Ws, bs), *grads_of(Ws, bs, f)), IN_DICT, grads=slice(1, None)
    ),
    "returned, a list beside a dictionary": lambda f: adapters.returned(lambda: (of_named(NAMED), in_order(f)), NAMED),
    "returned, a model that takes nothing": lambda f: adapters.returned(lambda: (loss_of(Ws, bs), in_dict(f)), IN_DICT),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_attached_at_once_and_judged(layout):
    """Right gradients are GOOD, and a bias that is doubled is the only one found."""
    assert check_gradients(**LAYOUTS[layout](1.0)).verdict is Verdict.GOOD
    report = check_gradients(**LAYOUTS[layout](2.0))
    wrong = [name for name, comparison in report.parameters.items() if comparison.verdict is Verdict.WORRY]
    assert len(report.parameters) == 4
    assert [report.parameters[name].shape for name in wrong] == [(4,)]


# backward passes that add to their buffers


class Adding:
    """Adds to buffers, as micrograd does: somebody has to set them to zero."""

    def __init__(self, wrong=False):
        self.params = {"w": np.array([1.0, 2.0]), "b": np.array([0.5])}
        self.grads = {"w": np.zeros(2), "b": np.zeros(1)}
        self.wrong = wrong

    def loss(self):
        return 0.5 * np.sum((X[:, :2] @ self.params["w"] + self.params["b"] - Y[:, 0]) ** 2)

    def backward(self):
        error = X[:, :2] @ self.params["w"] + self.params["b"] - Y[:, 0]
        self.grads["w"] += X[:, :2].T @ error
        self.grads["b"] += (2 if self.wrong else 1) * error.sum()

    def filled(self):
        self.backward()
        return self.grads

    def fresh(self):
        self.zero()
        return self.backward()

    def zero(self):
        for grad in self.grads.values():
            grad[...] = 0

    def get(self):
        return np.concatenate(list(self.params.values()))

    def put(self, theta):
        self.params["w"][...], self.params["b"][...] = theta[:2], theta[2:]


def lists_of(net):
    return list(net.params.values()), list(net.grads.values())


BACKWARD = {
    "dicts": lambda n, backward: adapters.dicts(n.params, n.grads, loss=n.loss, backward=backward),
    "parallel": lambda n, backward: adapters.parallel(*lists_of(n), loss=n.loss, backward=backward),
    "layers": lambda n, backward: adapters.layers([n], loss=n.loss, backward=backward),
    "attributes": lambda n, backward: adapters.attributes(
        SimpleNamespace(**n.params, dw=n.grads["w"], db=n.grads["b"]), ["w", "b"], loss=n.loss, backward=backward
    ),
}
FUNCTIONS = {
    **BACKWARD,
    "function": lambda n, _: adapters.dicts(n.params, n.filled, loss=n.loss),
    "returned": lambda n, _: adapters.returned(lambda: (n.loss(), n.filled()), n.params),
    "flat": lambda n, backward: adapters.flat(
        n.get, n.put, loss=n.loss, grad=lambda: np.concatenate(list(n.grads.values())), backward=backward
    ),
}


@pytest.mark.parametrize("how", FUNCTIONS)
@pytest.mark.parametrize("wrong", [False, True])
def test_a_backward_pass_that_adds_is_asked_with_buffers_at_zero(how, wrong):
    """Whatever the loop has left in them; and they are left as they were."""
    net = Adding(wrong)
    net.backward()
    net.backward()
    before = [grad.tobytes() for grad in net.grads.values()]
    assert check_gradients(**FUNCTIONS[how](net, net.backward)).verdict is (Verdict.WORRY if wrong else Verdict.GOOD)
    assert [grad.tobytes() for grad in net.grads.values()] == before


def test_a_scalar_engine_that_adds_is_asked_with_its_nodes_at_zero():
    """The gradients are numbers, which are replaced."""
    a, b = SimpleNamespace(data=2.0, grad=0.0), SimpleNamespace(data=3.0, grad=0.0)

    def backward():
        a.grad, b.grad = a.grad + b.data, b.grad + a.data

    backward()
    assert check_gradients(**adapters.scalars([a, b], loss=lambda: a.data * b.data, backward=backward)).ok
    assert (a.grad, b.grad) == (3.0, 2.0)


def trained(how, backward, *, zeroes=True, calls=6, update=True, clips=False):
    net, hook = Adding(), GradCheckHook(every=2, reporters=[], on_fail=lambda report: None)
    for step in range(calls):
        if zeroes:
            net.zero()
        net.backward()
        if clips:
            for grad in net.grads.values():
                grad *= 0.5
        hook.on_step(step, **BACKWARD[how](net, getattr(net, backward)))
        for name in net.params if update else ():
            net.params[name] -= 1e-2 * net.grads[name]
    return hook.reports


@pytest.mark.parametrize("how", BACKWARD)
@pytest.mark.parametrize("backward", ["backward", "fresh"])
def test_buffers_that_are_never_zeroed_are_seen_beside_a_right_backward(how, backward):
    """From the second step on, at each check; with the zeroing in place the same loop is GOOD."""
    reports = trained(how, backward)
    assert [report.verdict for report in reports] == [Verdict.GOOD] * 4
    assert all("The buffers equal a fresh backward pass." in report.asked for report in reports)
    first, *others = trained(how, backward, zeroes=False)
    assert first.verdict is Verdict.GOOD
    assert [report.verdict for report in others] == [Verdict.WORRY] * 3
    assert {diagnosis.code for report in others for diagnosis in report.diagnoses} == {"accumulated"}


def test_buffers_that_differ_with_a_reason_are_not_accused():
    """Clipped ones, those of another batch, and sums over batches that are meant, between two updates."""
    for report in trained("layers", "fresh", clips=True):
        assert report.verdict is Verdict.GOOD
        assert "The buffers are not what a fresh backward pass gives" in " ".join(report.notes)
    assert all(report.ok for report in trained("layers", "fresh", zeroes=False, update=False))


def test_buffers_that_the_first_backward_pass_makes_are_not_asked_for_before_it():
    """A reader that raises until then is called only afterwards."""
    net = SimpleNamespace(w=np.array([1.0, 2.0]))

    def backward():
        net.made = [2 * net.w]

    attachment = adapters.parallel([net.w], lambda: net.made, loss=lambda: np.sum(net.w**2), backward=backward)
    assert check_gradients(**attachment).ok
    assert not hasattr(net, "made")
    hook = GradCheckHook(reporters=[])
    hook.on_step(0, **attachment)
    assert hook.reports[0].ok


# what is refused, and the advice


def both(p):
    return 0.5 * np.sum(p["w"] ** 2), {"dw": p["w"].copy()}


W, BUFFERS, NEWEST = {"w": np.array([1.0, 2.0])}, {"w": np.ones(2)}, SimpleNamespace()


def fill():
    BUFFERS["w"][...] = W["w"]
    NEWEST.grads = {"w": W["w"].copy()}


def replace():
    NEWEST.grads = {"w": W["w"].copy()}


fill()


@pytest.mark.parametrize(
    ("refused", "said", "advised"),
    [
        (
            lambda: adapters.dicts(W, both, loss=lambda p: both(p)[0]),
            r"returned a tuple: float64 and dict.*adapters\.returned\(function, params, loss=0, grads=1\)",
            lambda: adapters.returned(both, W, loss=0, grads=1),
        ),
        (
            lambda: adapters.dicts(W, lambda: both(W)[::-1], loss=lambda: both(W)[0]),
            r"returned a tuple: dict and float64.*adapters\.returned\(function, params, loss=1, grads=0\)",
            lambda: adapters.returned(lambda: both(W)[::-1], W, loss=1, grads=0),
        ),
        (
            lambda: adapters.dicts(W["w"], lambda w: (w @ w, 2 * w), loss=lambda w: w @ w),
            r"returned a tuple: float64 and ndarray.*adapters\.returned\(function, params, loss=0, grads=1\)",
            lambda: adapters.returned(lambda w: (w @ w, 2 * w), W["w"], loss=0, grads=1),
        ),
        (
            lambda: adapters.dicts(NAMED, lambda p: (of_named(p), *in_order(1.0)), loss=of_named),
            r"returned a tuple: float64, ndarray.*loss=0, grads=\[1, 2, 3, 4\]\)",
            lambda: adapters.returned(lambda p: (of_named(p), *in_order(1.0)), NAMED, loss=0, grads=[1, 2, 3, 4]),
        ),
        (
            lambda: adapters.dicts(NAMED, in_order(1.0)[::-1], loss=of_named),
            r"parameters are a dictionary \(W1, b1, W2 and b2\).*a list.*Try a dictionary.*same keys",
            lambda: adapters.dicts(NAMED, dict(zip(NAMED, in_order(1.0), strict=True)), loss=of_named),
        ),
        (
            lambda: adapters.dicts([Ws, bs], in_dict(1.0), loss=lambda p: loss_of(*p)),
            r"parameters are a list.*Try a list of the gradients, with the same order",
            lambda: adapters.dicts([Ws, bs], list(in_dict(1.0).values()), loss=lambda p: loss_of(*p)),
        ),
        (
            lambda: adapters.dicts(W, W, loss=lambda p: both(p)[0], backward=lambda: None),
            r"Try loss=lambda: loss\(params\)",
            lambda: adapters.dicts(W, BUFFERS, loss=lambda: both(W)[0], backward=fill),
        ),
        (
            lambda: adapters.dicts(W, W, loss=lambda p: both(p)[0], backward=lambda: None),
            r"without backward, grads= with a function of params",
            lambda: adapters.dicts(W, lambda p: both(p)[1], loss=lambda p: both(p)[0]),
        ),
        (
            lambda: adapters.dicts(W, fill, loss=lambda: both(W)[0]),
            r"grads\(\) returned None.*Try grads= with those buffers and backward= with this function",
            lambda: adapters.dicts(W, BUFFERS, loss=lambda: both(W)[0], backward=fill),
        ),
        (
            lambda: adapters.dicts(W, lambda p: None, loss=lambda p: both(p)[0]),
            "or let it return a dictionary",
            lambda: adapters.dicts(W, lambda p: both(p)[1], loss=lambda p: both(p)[0]),
        ),
        (
            lambda: adapters.dicts(W, NEWEST.grads, loss=lambda: both(W)[0], backward=replace),
            "still zero after it.*makes new arrays.*Try grads=lambda: ",
            lambda: adapters.dicts(W, lambda: NEWEST.grads, loss=lambda: both(W)[0], backward=replace),
        ),
        (
            lambda: adapters.returned(lambda p: (of_named(p), *in_order(1.0)), NAMED),
            r"one ndarray, beside 4 parameters.*Try all of them: grads=slice\(1, None\)",
            lambda: adapters.returned(lambda p: (of_named(p), *in_order(1.0)), NAMED, grads=slice(1, None)),
        ),
        (
            lambda: adapters.parallel([W["w"]], [W["w"]], loss=lambda: both(W)[0], names=["w", "b"]),
            "2 names for 1 parameters. Try to leave names out",
            lambda: adapters.parallel([W["w"]], [W["w"]], loss=lambda: both(W)[0]),
        ),
        (
            lambda: adapters.returned(lambda p: both(p)[::-1], W),
            "Try loss=1, grads=0",
            lambda: adapters.returned(lambda p: both(p)[::-1], W, loss=1, grads=0),
        ),
        (
            lambda: adapters.returned(both, W, loss=5),
            "Try print.*loss= and grads= with the positions",
            lambda: adapters.returned(both, W, loss=0, grads=1),
        ),
        (
            lambda: adapters.dicts(W, W, loss=lambda p: both(p)[0], frozen=True),
            "frozen=True needs backward=, or a gradient function",
            lambda: adapters.dicts(W, lambda p: both(p)[1], loss=lambda p: both(p)[0], frozen=True),
        ),
    ],
)
def test_a_mistake_in_attaching_is_refused_and_its_advice_works(refused, said, advised):
    """Never an accusation; the line that the message gives is GOOD."""
    with pytest.raises(InvalidProblem, match=said):
        check_gradients(**refused())
    assert check_gradients(**advised()).verdict is Verdict.GOOD


class Updating:
    """A trainer that hands its gradients to optimisers, of one kind or another."""

    def __init__(self, kind):
        self.kind, self.W, self.b = kind, np.array([1.0, 2.0]), np.array([3.0])
        self.W_opt = self.b_opt = self.optimizer = self
        self.copies = [SimpleNamespace(optimizer=self)]

    def apply(self, *arguments):
        if len(arguments) == 1:
            self.W, self.b = self.W - 0.1 * self.dW, self.b - 0.1 * self.db
        else:
            arguments[0][...] -= 0.1 * arguments[1]

    def train(self):
        self.dW, self.db = self.W.copy(), self.b.copy()
        if self.kind == "takes the layer":
            self.optimizer.apply(self)
        elif self.kind == "holds a copy":
            self.copies[0].optimizer.apply(self.W, self.dW)
            self.copies[0].optimizer.apply(self.b, self.db)
        elif self.kind == "two of them":
            self.W_opt.apply(self.W, self.dW)
            self.b_opt.apply(self.b, self.db)
        else:
            self.optimizer.apply(self.dW, self.W)
            self.optimizer.apply(self.db, self.b)

    def loss(self):
        return 0.5 * (np.sum(self.W**2) + np.sum(self.b**2))

    def now(self):
        return {"W": self.W, "b": self.b}

    def recorded(self, *attribute, owner=None, **positions):
        owner = owner or self
        return adapters.recorded(
            owner, *attribute, step=self.train, loss=self.loss, params=lambda: self.now(), **positions
        )

    def recovered(self):
        return adapters.recovered(self, step=self.train, loss=self.loss, params=self.now, learning_rate=0.1)


@pytest.mark.parametrize(
    ("kind", "said", "advised"),
    [
        (
            "takes the layer",
            r"recorded under optimizer: it was called with 1 argument \(Updating\).*adapters\.recovered",
            lambda net: net.recovered(),
        ),
        (
            "holds a copy",
            "recorded under optimizer: it was never called.*the objects that call it as owner",
            lambda net: net.recorded(owner=net.copies),
        ),
        ("holds a copy", "or adapters.recovered", lambda net: net.recovered()),
        (
            "other way round",
            "it got 2 gradients, and none for an array of params.*param= and grad= with their positions",
            lambda net: net.recorded(param=1, grad=0),
        ),
    ],
)
def test_an_optimiser_that_recorded_nothing_is_an_error_of_attaching(kind, said, advised):
    """It says what it saw, the gradient is not called missing, and the model is as it was."""
    net = Updating(kind)
    before = vars(net).copy()
    with pytest.raises(InvalidProblem, match=said):
        check_gradients(**net.recorded())
    assert vars(net) == before
    assert check_gradients(**advised(net)).verdict is Verdict.GOOD


def test_several_optimisers_are_recorded_together():
    """One for each parameter: all names in a list; with one name a note says which names to add."""
    net = Updating("two of them")
    assert check_gradients(**net.recorded(["W_opt", "b_opt"])).verdict is Verdict.GOOD
    report = check_gradients(**net.recorded("W_opt"))
    assert "Nothing was recorded for b under W_opt. Try the names of all optimisers" in " ".join(report.notes)
    with pytest.raises(InvalidProblem, match="There is no c_opt in "):
        net.recorded(["W_opt", "c_opt"])
    layers = [SimpleNamespace(W_opt=net, b_opt=net), SimpleNamespace(W_opt=net)]
    assert net.recorded(["W_opt", "b_opt"], owner=layers)


class Unsteady:
    """Draws, or carries something that its loss depends on."""

    def __init__(self, kind):
        self.kind, self.w, self.dw = kind, np.array([1.0, 2.0, 3.0]), np.zeros(3)
        self.rng, self.running_mean, self.h, self.rate = np.random.default_rng(3), 1.0, 1.0, 0.5

    def forward(self, w):
        if self.kind == "dropout":
            self.scale = (self.rng.random(3) >= self.rate).astype(float)
        elif self.kind == "global":
            self.scale = np.random.random(3)
        elif self.kind == "statistics":
            self.running_mean = 0.9 * self.running_mean + 0.3
            self.scale = np.full(3, self.running_mean)
        else:
            self.h = 0.5 * self.h + 1
            self.scale = np.full(3, self.h)
        return 0.5 * np.sum(self.scale * w**2)

    def loss(self):
        return self.forward(self.w)

    def backward(self):
        self.dw[...] = self.scale * self.w

    def again(self):
        self.loss()
        self.backward()

    def gradient(self, w):
        self.forward(w)
        return self.scale * w

    def reset(self):
        self.running_mean = self.h = 1.0


KINDS = ["dropout", "global", "statistics", "hidden"]
UNSTEADY = {
    "parallel": (
        lambda n: adapters.parallel([n.w], [n.dw], loss=n.loss),
        lambda n: adapters.parallel([n.w], [n.dw], loss=n.loss, backward=n.again, frozen=True),
    ),
    "dicts in place": (
        lambda n: adapters.dicts({"w": n.w}, {"w": n.dw}, loss=n.loss),
        lambda n: adapters.dicts({"w": n.w}, {"w": n.dw}, loss=n.loss, frozen=True, backward=n.again),
    ),
    "dicts": (
        lambda n: adapters.dicts({"w": n.w}, lambda p: {"w": n.gradient(p["w"])}, loss=lambda p: n.forward(p["w"])),
        lambda n: adapters.dicts(
            {"w": n.w}, lambda p: {"w": n.gradient(p["w"])}, loss=lambda p: n.forward(p["w"]), frozen=True
        ),
    ),
    "returned": (
        lambda n: adapters.returned(lambda: (n.loss(), n.scale * n.w), [n.w]),
        lambda n: adapters.returned(lambda: (n.loss(), n.scale * n.w), [n.w], frozen=True),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", UNSTEADY)
def test_the_advice_for_an_unsteady_loss_works_in_an_adapter(kind, how):
    """frozen=True, and with buffers a backward= that makes its own forward pass: GOOD, and nothing was used up."""
    net = Unsteady(kind)
    net.loss()
    net.backward()
    refused, advised = UNSTEADY[how]
    with pytest.raises(NondeterministicLoss, match=r"Try frozen=True in the adapter.*buffers.*backward=lambda"):
        check_gradients(**refused(net))
    before = net.rng.bit_generator.state, net.running_mean, net.h, net.dw.tobytes()
    assert check_gradients(**advised(net)).verdict is Verdict.GOOD
    assert (net.rng.bit_generator.state, net.running_mean, net.h, net.dw.tobytes()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_advice_for_an_unsteady_loss_works_without_an_adapter(kind):
    """The rate, the seed or the start is set in both functions, and the gradient is one of them."""
    net = Unsteady(kind)

    def fixed(function):
        def call(w):
            if kind == "dropout":
                net.rate = 0.0
            elif kind == "global":
                net.kind, net.rng = "dropout", np.random.default_rng(1)
            else:
                net.reset()
            return function(w)

        return call

    with pytest.raises(NondeterministicLoss, match=r"which has to be a function \(grads=\)"):
        check_gradients(net.forward, net.w, net.gradient)
    assert check_gradients(fixed(net.forward), net.w, fixed(net.gradient)).verdict is Verdict.GOOD
    hook = GradCheckHook(reporters=[])
    if kind in ("statistics", "hidden"):
        hook.on_step(0, loss=net.forward, params=net.w, grads=net.gradient, before_loss=net.reset)
        assert hook.reports[0].ok


def test_a_batch_that_is_taken_once_is_checked():
    """The advice for a loss that takes from an iterator."""
    batches, w = iter([X + number for number in range(20)]), {"w": np.ones(3)}
    with pytest.raises(NondeterministicLoss, match="Try to take one batch before the check"):
        check_gradients(lambda p: np.sum((next(batches) @ p["w"]) ** 2), w, w)
    batch = next(batches)
    grads = {"w": 2 * batch.T @ (batch @ w["w"])}
    assert check_gradients(lambda p: np.sum((batch @ p["w"]) ** 2), w, grads).ok
