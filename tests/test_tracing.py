"""The second opinion leaves nothing behind, and is right wherever a model keeps its arrays."""

from __future__ import annotations

import gc
import threading
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from gc_hooks import Verdict, adapters, check_gradients
from gc_hooks.report.verdict import Precision
from gc_hooks.tracing.box import CURRENT, Box
from gc_hooks.tracing.lending import TRACING, StandIn
from interrupts import interrupted_at

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))
W, B = RNG.normal(size=(3, 2)), RNG.normal(size=2)
KEPT = {}


def gradient(weights, bias, factor=1.0):
    """The gradient of the mean squared error of one layer, by hand."""
    hidden = np.tanh(X @ weights + bias)
    upstream = 2 * (hidden - Y) * (1 - hidden**2) / hidden.size
    return factor * (X.T @ upstream), upstream.sum(axis=0)


def assert_nothing_is_left():
    """No box exists, no stand-in is in its place, and no trace is under way."""
    assert CURRENT.trace is None
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: TRACING.acquire(blocking=False) and not TRACING.release()).result()
    for thing in gc.get_objects():
        assert type(thing) is not Box, [type(owner) for owner in gc.get_referrers(thing)]
    for thing in (np, *globals().values()):
        assert type(thing) is not StandIn


def traced(right, wrong=None):
    """Check a right gradient, by the reference and GOOD, and a wrong one, which is seen; then nothing is left."""
    report = right()
    assert (report.method, report.verdict) == ("reference", Verdict.GOOD), report
    if wrong is not None:
        assert wrong().verdict is Verdict.WORRY
    del report
    assert_nothing_is_left()


# --- caches -----------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: object
    y: object


class Slotted:
    __slots__ = ("h",)


class Caching:
    """A loss that keeps what it computes in every kind of place."""

    last = None

    def __init__(self):
        self.x, self.cache, self.history, self.few = None, {}, [], deque(maxlen=3)
        self.slotted, self.space, self.pair, self.count = Slotted(), SimpleNamespace(), (), 0
        self.cell = self.keeper()

    @staticmethod
    def keeper():
        kept = None

        def keep(value):
            nonlocal kept
            kept = value

        return keep

    def __call__(self, p):
        hidden = np.tanh(X @ p["W"] + p["b"])
        self.x, self.cache["h"], self.slotted.h, self.space.h = hidden, hidden, hidden, hidden
        self.pair = (X, (hidden, p["W"]), Point(hidden, [hidden]))
        self.history.append(hidden)
        self.history.append((X, hidden))
        self.few.append(hidden)
        self.cell(hidden)
        self.count += 1
        type(self).last, KEPT["hidden"] = hidden, hidden
        return np.mean((hidden - Y) ** 2)

    def all_kept(self):
        kept = [self.x, self.cache["h"], self.slotted.h, self.space.h, self.pair[1][0], self.pair[1][1], self.pair[2].x]
        kept += [self.pair[2].y[0], *self.history[::2], *(pair[1] for pair in self.history[1::2]), *self.few]
        return [*kept, self.cell.__closure__[0].cell_contents, self.last, KEPT["hidden"]]


def test_caches_hold_numbers_after_a_check():
    loss = Caching()
    params = {"W": W, "b": B}
    traced(
        lambda: check_gradients(loss, params, dict(zip("Wb", gradient(W, B), strict=True))),
        lambda: check_gradients(loss, params, dict(zip("Wb", gradient(W, B, 2.0), strict=True))),
    )
    assert {type(value) for value in loss.all_kept()} == {np.ndarray}


def test_a_loss_that_keeps_nothing_is_not_evaluated_again():
    """A check that passes takes two evaluations at the door, the trace and one along a direction."""
    calls = []

    def loss(p):
        calls.append(None)
        return np.mean((np.tanh(X @ p["W"] + p["b"]) - Y) ** 2)

    traced(lambda: check_gradients(loss, {"W": W, "b": B}, dict(zip("Wb", gradient(W, B), strict=True))))
    assert len(calls) == 4


def test_a_refused_trace_leaves_caches_as_numbers():
    class Refused(Caching):
        def __call__(self, p):
            value = super().__call__(p)
            return value + 0 * np.add.reduceat(p["b"], [0])[0]

    loss = Refused()
    report = check_gradients(loss, {"W": W, "b": B}, dict(zip("Wb", gradient(W, B), strict=True)))
    assert (report.method, report.verdict) == ("complex_step", Verdict.GOOD)
    assert "reduceat" in report.notes[0]
    assert_nothing_is_left()
    assert {type(value) for value in loss.all_kept()} == {np.ndarray}


def test_an_exception_of_the_loss_leaves_no_box():
    """Also where the loss fails at the traced evaluation alone, as it does with what is no array."""

    class Failing(Caching):
        def __call__(self, p):
            value = super().__call__(p)
            if type(p["W"]) is not np.ndarray:
                raise RuntimeError("planted")
            return value

    loss = Failing()
    report = check_gradients(loss, {"W": W, "b": B}, dict(zip("Wb", gradient(W, B), strict=True)))
    assert (report.method, report.verdict) == ("complex_step", Verdict.GOOD)
    assert "RuntimeError: planted" in report.notes[0]
    assert_nothing_is_left()


def test_a_class_and_a_slot_hold_numbers_after_ctrl_c_in_the_traced_loss():
    """There is no evaluation after it: what was kept is replaced where it stands, and Python is told of it."""

    class Impatient(Caching):
        def __call__(self, p):
            value = super().__call__(p)
            assert type(Impatient.last) is type(p["W"])  # fills the cache that Python has of a class
            if type(p["W"]) is not np.ndarray:
                raise KeyboardInterrupt
            return value

    loss = Impatient()
    with pytest.raises(KeyboardInterrupt):
        check_gradients(loss, {"W": W, "b": B}, dict(zip("Wb", gradient(W, B), strict=True)))
    assert {type(value) for value in (*loss.all_kept(), Impatient.last)} == {np.ndarray}
    gc.collect()
    assert_nothing_is_left()


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


SEARCH = {"find_places", "_places_in", "_ways", "_put", "_is_replaced", "stand_in", "<listcomp>"}
"""Functions that run for thousands of lines before anything is lent."""


def is_interrupted(code):
    is_ours = code.co_filename.startswith(str(ROOT / "gc_hooks" / "tracing"))
    return (is_ours or code is InPlace.__call__.__code__) and code.co_name not in SEARCH


def interrupted(check, count):
    """Whether a Ctrl-C at the n-th line that the tracer, or the loss in this file, runs came through."""
    return interrupted_at(check, count, is_interrupted)


class InPlace:
    """A loss that reads its own arrays in a dictionary, an attribute, a list and a slot, and keeps something."""

    def __init__(self):
        self.params, self.b, self.history = {"W": W.copy()}, B.copy(), []
        self.slotted, self.listed, self.pair = Slotted(), [X.copy(), "x"], (Y.copy(), "y")
        self.slotted.h = np.ones(2)

    def __call__(self):
        buffer = np.zeros((6, 2))
        buffer[...] = self.listed[0] @ self.params["W"] + self.b
        self.history.append(buffer)
        return np.mean((np.tanh(buffer) * self.slotted.h - self.pair[0]) ** 2)

    def places(self):
        return [self.params["W"], self.b, self.slotted.h, *self.listed, *self.pair]


@pytest.mark.parametrize(
    ("count", "stride"), [(1, 199), *(pytest.param(1 + 9 * k, 37, marks=pytest.mark.slow) for k in range(4))]
)
def test_ctrl_c_at_any_line_of_a_trace_leaves_every_place_as_it_was(count, stride):
    """The same objects stand where they stood, with the same bits; what was kept are numbers."""
    loss = InPlace()
    places = loss.places()
    bits = [place.tobytes() for place in places if type(place) is np.ndarray]
    variables = {name: globals()[name] for name in ("np", "X", "Y", "W", "B")}
    grads = dict(zip(("W", "b"), gradient(W, B), strict=True))
    first = count

    def check():
        check_gradients(loss, {"W": loss.params["W"], "b": loss.b}, grads, in_place=True)

    while interrupted(check, count):
        assert all(now is before for now, before in zip(loss.places(), places, strict=True))
        assert [place.tobytes() for place in places if type(place) is np.ndarray] == bits
        assert all(globals()[name] is thing for name, thing in variables.items())
        assert CURRENT.trace is None
        assert {type(kept) for kept in loss.history} <= {np.ndarray}
        loss.history.clear()
        count += stride
    assert count > first + 10 * stride
    gc.collect()
    assert_nothing_is_left()
    traced(check_again(loss, grads))


def check_again(loss, grads):
    return lambda: check_gradients(loss, {"W": loss.params["W"], "b": loss.b}, grads, in_place=True)


# --- wherever arrays live ---------------------------------------------------------------------------------------------


def value(weights, bias):
    return np.mean((np.tanh(X @ weights + bias) - Y) ** 2)


def in_attributes(kind):
    def attached(factor):
        net = kind()
        net.W, net.b = W.copy(), B.copy()
        net.dW, net.db = gradient(W, B, factor)
        return adapters.attributes(net, ["W", "b"], loss=lambda: value(net.W, net.b))

    return attached


def in_slots(factor):
    class Net:
        __slots__ = ("W", "b", "dW", "db")

    return in_attributes(Net)(factor)


def in_a_class(factor):
    class Net:
        W, b = W.copy(), B.copy()
        slopes = gradient(W, B, factor)

    Net.dW, Net.db = Net.slopes
    return adapters.attributes(Net, ["W", "b"], loss=lambda: value(Net().W, Net().b))


def as_a_number(factor):
    net = SimpleNamespace(a=0.75, da=factor * 2 * 0.75)
    return adapters.attributes(net, ["a"], loss=lambda: net.a**2)


def in_layers(factor):
    class Layer:
        def __init__(self):
            self.params = {"W": W.copy(), "b": B.copy()}
            self.grads = dict(zip("Wb", gradient(W, B, factor), strict=True))

        def forward(self, x):
            self.x = x
            self.h = np.tanh(x @ self.params["W"] + self.params["b"])
            return self.h

    layers = [Layer()]
    return adapters.layers(layers, loss=lambda: np.mean((layers[0].forward(X) - Y) ** 2))


def in_a_dictionary(factor):
    params = {"W": W.copy(), "b": B.copy()}
    grads = dict(zip("Wb", gradient(W, B, factor), strict=True))
    return adapters.dicts(params, grads, loss=lambda: value(params["W"], params["b"]), in_place=True)


def returned_beside_the_loss(factor):
    params = {"W": W.copy(), "b": B.copy()}

    def both():
        return value(params["W"], params["b"]), *gradient(params["W"], params["b"], factor)

    return adapters.returned(both, params, grads=[1, 2], in_place=True)


def in_a_list(factor):
    params = [W.copy(), B.copy()]
    return adapters.parallel(params, list(gradient(W, B, factor)), loss=lambda: value(*params))


def in_a_tuple(factor):
    params = (W.copy(), B.copy())
    return adapters.parallel(params, list(gradient(W, B, factor)), loss=lambda: value(*params))


def in_a_closure(factor):
    w, b = W.copy(), B.copy()
    return adapters.parallel([w, b], list(gradient(W, B, factor)), loss=lambda: value(w, b))


def in_default_arguments(factor):
    params = W.copy(), B.copy()

    def loss(weights=params[0], *, bias=params[1]):
        return value(weights, bias)

    return adapters.parallel(list(params), list(gradient(W, B, factor)), loss=lambda: loss())


def as_vector(arrays):
    return np.concatenate([array.ravel() for array in arrays])


def in_a_vector(factor):
    net = SimpleNamespace(theta=as_vector([W, B]))
    return adapters.flat(
        lambda: net.theta,
        lambda theta: setattr(net, "theta", theta),
        loss=lambda: value(net.theta[:6].reshape(3, 2), net.theta[6:]),
        grad=lambda: as_vector(gradient(W, B, factor)),
    )


def written_into_arrays(factor):
    net = SimpleNamespace(W=W.copy(), b=B.copy())

    def put(theta):
        net.W[...] = theta[:6].reshape(3, 2)
        np.copyto(net.b, theta[6:])

    return adapters.flat(
        lambda: as_vector([net.W, net.b]),
        put,
        loss=lambda: value(net.W, net.b),
        grad=lambda: as_vector(gradient(W, B, factor)),
    )


def written_into_a_vector_with_views(factor):
    theta = as_vector([W, B])
    net = SimpleNamespace(theta=theta, W=theta[:6].reshape(3, 2), b=theta[6:])

    def put(values):
        net.theta[:] = values

    return adapters.flat(
        lambda: net.theta,
        put,
        loss=lambda: value(net.W, net.b),
        grad=lambda: as_vector(gradient(W, B, factor)),
    )


def views_of_a_vector_that_is_read(factor):
    net = SimpleNamespace(theta=as_vector([W, B]))
    params = {"W": net.theta[:6].reshape(3, 2), "b": net.theta[6:]}
    loss = lambda: value(net.theta[:6].reshape(3, 2), net.theta[6:])  # noqa: E731
    grads = dict(zip("Wb", gradient(W, B, factor), strict=True))
    return {"loss": loss, "params": params, "grads": grads, "in_place": True}


def a_vector_whose_views_are_read(factor):
    theta = as_vector([W, B])
    weights, bias = theta[:6].reshape(3, 2), theta[6:]
    grads = {"theta": as_vector(gradient(W, B, factor))}
    return {"loss": lambda: value(weights, bias), "params": {"theta": theta}, "grads": grads, "in_place": True}


def tied_with_its_transpose(factor):
    net = SimpleNamespace(encoder=W.copy())
    net.decoder = net.encoder.T
    difference = 2 * (X @ W @ W.T - X)
    grads = [factor * (X.T @ difference @ W + difference.T @ X @ W)]
    return adapters.parallel([net.encoder], grads, loss=lambda: np.sum((X @ net.encoder @ net.decoder - X) ** 2))


def in_nodes_of_a_graph(factor):
    class Node:
        def __init__(self, data, grad=0.0):
            self.data, self.grad = data, grad

        def __mul__(self, other):
            product = Node(self.data * other.data)
            product.backward = lambda: product  # a node that refers to itself
            return product

    a, b = Node(2.0, factor * 12.0), Node(3.0, 4.0)
    return adapters.scalars([a, b], loss=lambda: a * b * a)


def recorded_on_the_way_to_the_optimiser(factor):
    class Net:
        def __init__(self):
            self.W, self.optimizer = W.copy(), SimpleNamespace(step=lambda params, grads: None)

        def train(self):
            self.optimizer.step({"W": self.W}, {"W": gradient(self.W, B, factor)[0]})

    net = Net()
    params = lambda: {"W": net.W}  # noqa: E731
    return adapters.recorded(net, step=net.train, loss=lambda: value(net.W, B), params=params)


def of_another_order(factor):
    large = np.zeros((6, 4))
    large[::2, ::2] = W
    params = {"W": large[::2, ::2], "F": np.asfortranarray(W)}
    grads = {"W": factor * gradient(W, B)[0], "F": 2 * W}
    loss = lambda: value(params["W"], B) + np.sum(params["F"] ** 2)  # noqa: E731
    return {"loss": loss, "params": params, "grads": grads, "in_place": True}


PLACES = [
    in_attributes(SimpleNamespace),
    in_slots,
    in_a_class,
    as_a_number,
    in_layers,
    in_a_dictionary,
    returned_beside_the_loss,
    in_a_list,
    in_a_tuple,
    in_a_closure,
    in_default_arguments,
    in_a_vector,
    written_into_arrays,
    written_into_a_vector_with_views,
    views_of_a_vector_that_is_read,
    a_vector_whose_views_are_read,
    tied_with_its_transpose,
    in_nodes_of_a_graph,
    recorded_on_the_way_to_the_optimiser,
    of_another_order,
]


@pytest.mark.parametrize("attached", PLACES, ids=lambda attached: attached.__name__)
def test_a_gradient_is_traced_wherever_the_arrays_stand(attached):
    traced(lambda: check_gradients(**attached(1.0)), lambda: check_gradients(**attached(2.0)))


# --- odd losses and parameters ----------------------------------------------------------------------------------------


def of_a_buffer(w):
    buffer = np.zeros(3, dtype=np.float32)
    buffer[:] = w
    return np.sum(buffer**2)


def of_itself(w, times):
    return w if times == 0 else of_itself(w, times - 1) * w


V = np.array([1.0, 2.0, -1.5])
ODD = {
    "a parameter without axes": (lambda p: p["a"] ** 2 * np.sum(p["w"]), {"a": np.array(2.0), "w": V}, 4 * V.sum()),
    "a number": (lambda p: p["a"] ** 2 * np.sum(p["w"]), {"a": 2.0, "w": V}, 4 * V.sum()),
    "an array without entries": (
        lambda p: np.sum(p["w"] ** 2) + np.sum(p["e"]),
        {"w": V, "e": np.zeros((0, 3))},
        2 * V,
    ),
    "a parameter that is not used": (lambda p: np.sum(p["w"] ** 2), {"w": V, "u": np.zeros(2)}, 2 * V),
    "one array under two names": (lambda p: np.sum(p["w"] * p["v"]), {"w": V, "v": V}, V),
    "a value with axes": (lambda p: (p["w"] ** 2).reshape(1, -1) @ np.ones((3, 1)), {"w": V}, 2 * V),
    "a value of float32": (lambda p: np.float32(np.sum(p["w"] ** 2)), {"w": V}, 2 * V),
    "a plain number": (lambda p: float(np.sum(p["w"] ** 2)), {"w": V}, 2 * V),
    "a cast": (lambda p: np.sum(p["w"].astype(np.float32) ** 2), {"w": V}, 2 * V),
    "a buffer of float32": (lambda p: of_a_buffer(p["w"]), {"w": V}, 2 * V),
    "parameters of float32": (lambda p: np.sum(p["w"] ** 2), {"w": V.astype(np.float32)}, 2 * V),
    "a recursion": (lambda p: np.sum(of_itself(p["w"], 3)), {"w": V}, 4 * V**3),
    "a generator of its own": (
        lambda p: np.sum(p["w"] * np.random.default_rng(3).random(3)),
        {"w": V},
        np.random.default_rng(3).random(3),
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_loss_is_traced(odd):
    """A right gradient of it is GOOD and a doubled one is seen."""
    loss, params, first = ODD[odd]
    grads = {name: np.zeros(np.shape(param)) for name, param in params.items()}
    if "a" in params or "v" in params:
        grads = {"w": np.full(3, 4.0) if "a" in params else V, "v": V}
    named = {name: grads[name] for name in params if name in grads}
    key = next(iter(params))
    traced(
        lambda: check_gradients(loss, params, {**named, key: first}),
        lambda: check_gradients(loss, params, {**named, key: 2 * first}),
    )


@pytest.mark.parametrize(
    ("odd", "precision"),
    [
        ("a cast", Precision.SINGLE),
        ("a buffer of float32", Precision.SINGLE),
        ("a plain number", Precision.DOUBLE),
        ("parameters of float32", Precision.DOUBLE),
    ],
)
def test_a_cast_says_in_which_precision_the_verdict_holds(odd, precision):
    """Parameters of float32 are traced in float64; what the loss itself computes in float32 is not."""
    loss, params, _ = ODD[odd]
    assert check_gradients(loss, params, lambda p: {"w": 2 * p["w"]}).parameters["w"].precision is precision


def swallows_a_refusal(p):
    try:
        factor = np.add.reduceat(p, [0])[0]
    except Exception:
        factor = 1.0
    return factor * np.sum(p**2)


def swallows_what_a_box_lacks(p):
    try:
        return p.ctypes and np.sum(p**3)
    except AttributeError:
        return np.sum(p**2)


REFUSED = {
    "a refusal that the loss swallows": (swallows_a_refusal, 2 * V * V.sum() + np.sum(V**2), "reduceat"),
    "an error that the loss swallows": (swallows_what_a_box_lacks, 3 * V**2, "along one direction"),
    "a parameter that is not used": (lambda p: np.sum(X**2), np.zeros(3), "does not depend"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_cannot_be_traced_is_measured(refused):
    """And never judged by what the loss did with a box instead."""
    loss, right, why = REFUSED[refused]
    for gradient_now, is_right in ((right, True), (right + 1.0, False)):
        report = check_gradients(loss, V, gradient_now)
        assert report.method != "reference"
        assert (report.verdict is Verdict.GOOD) == is_right
        assert why in report.notes[0]
    del report
    assert_nothing_is_left()


def test_a_loss_may_warn():
    def loss(p):
        warnings.warn("planted", UserWarning, stacklevel=1)
        return np.sum(p**2)

    with pytest.warns(UserWarning, match="planted"):
        traced(lambda: check_gradients(loss, V, 2 * V))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="planted"):
            check_gradients(loss, V, 2 * V)
    assert_nothing_is_left()


@pytest.mark.parametrize("most", range(1, 8))
def test_a_budget_that_ends_at_the_trace_accuses_nobody(most):
    """Nor does it leave anything."""
    loss = Caching()
    for factor in (1.0, 2.0):
        grads = dict(zip("Wb", gradient(W, B, factor), strict=True))
        report = check_gradients(loss, {"W": W, "b": B}, grads, max_evaluations=most)
        assert report.verdict in (Verdict.INCONCLUSIVE, Verdict.GOOD if factor == 1.0 else Verdict.WORRY)
        assert report.evaluations <= max(2, most)
    del report
    assert_nothing_is_left()


# --- others in the same process ---------------------------------------------------------------------------------------


def test_a_check_inside_of_a_loss_that_is_traced_is_right():
    reports = []

    def loss(p):
        inside = np.array([0.5, 2.0])
        reports.append(check_gradients(lambda q: np.sum(np.tanh(q)), inside, 1 - np.tanh(inside) ** 2))
        return np.sum(np.tanh(p) ** 2)

    right = 2 * np.tanh(V) * (1 - np.tanh(V) ** 2)
    assert check_gradients(loss, V, right).verdict is Verdict.GOOD
    assert check_gradients(loss, V, 2 * right).verdict is Verdict.WORRY
    assert {report.verdict for report in reports} == {Verdict.GOOD}
    reports.clear()
    assert_nothing_is_left()


def test_several_threads_check_at_once():
    """Each gets its own answer, by the reference, although all of them lend the same variables."""

    def check(seed):
        rng = np.random.default_rng(seed)
        weights, bias = rng.normal(size=(3, 2)), rng.normal(size=2)

        def loss(p):
            buffer = np.zeros((6, 2))
            buffer[...] = X @ p["W"]
            return np.mean((np.tanh(buffer + p["b"]) - Y) ** 2)

        found = []
        for factor in (1.0, 2.0):
            grads = dict(zip("Wb", gradient(weights, bias, factor), strict=True))
            report = check_gradients(loss, {"W": weights, "b": bias}, grads)
            found.append((report.method, report.verdict))
        return tuple(found)

    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # filters are shared: not changed in threads
        found = set(pool.map(check, range(12)))
    assert found == {(("reference", Verdict.GOOD), ("reference", Verdict.WORRY))}
    assert_nothing_is_left()


def test_another_thread_gets_numbers_while_a_loss_is_traced():
    """It runs the same module's functions and reads the same arrays, in the very moment in which boxes stand there."""
    net = SimpleNamespace(W=W.copy())
    queue = SimpleQueue()  # a list that the loss reaches would be put back

    def elsewhere():
        buffer = np.zeros((6, 2))
        buffer[...] = X @ net.W
        queue.put((type(buffer), type(X @ net.W), type(np.sum(X)), net.W.sum() + 0.0, buffer.sum()))

    def loss():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return value(net.W, B)

    attachment = adapters.attributes(net, ["W"], loss=loss, naming={"W": "dW"})
    net.dW = gradient(W, B)[0]
    traced(lambda: check_gradients(**attachment))
    seen = [queue.get() for _ in range(queue.qsize())]
    assert {found[:3] for found in seen} == {(np.ndarray, np.ndarray, np.float64)}
    assert len(seen) >= 4
    assert seen[2][3:] == seen[0][3:]  # the traced evaluation, and the first one


def test_a_users_own_autograd_works_before_inside_and_after():
    from autograd import grad
    from autograd import numpy as anp

    def loss(p):
        return anp.sum(anp.tanh(p) ** 2)

    def with_a_gradient(p):
        return anp.sum(grad(lambda q: anp.sum(q**3))(p) ** 2)

    before = grad(loss)(V)
    traced(lambda: check_gradients(loss, V, before), lambda: check_gradients(loss, V, 2 * before))
    for factor, verdict in ((1.0, Verdict.GOOD), (2.0, Verdict.WORRY)):
        assert check_gradients(with_a_gradient, V, factor * 36 * V**3).verdict is verdict
        assert check_gradients(loss, V, lambda p, factor=factor: factor * grad(loss)(p)).verdict is verdict
    np.testing.assert_array_equal(grad(loss)(V), before)
    assert_nothing_is_left()


# --- strangers' code --------------------------------------------------------------------------------------------------


def lost(p, is_lost):
    """A loss that regularises what it takes for numbers; backprop has forgotten it."""
    total = np.mean(np.tanh(X @ p["w"]) ** 2)
    return total + sum(0.1 * v**2 + 0.2 * v for v in p["w"] if is_lost(v)) + (p["g"] ** 3 if is_lost(p["g"]) else 0.0)


def of_the_data(p):
    hidden = np.tanh(X @ p["w"])
    return {"w": X.T @ (2 * hidden * (1 - hidden**2)) / hidden.size, "g": 0.0}


@pytest.mark.parametrize(
    "is_lost",
    [
        lambda v: isinstance(v, float),
        np.isscalar,
        lambda v: not isinstance(v, np.ndarray),
        lambda v: type(v) is np.float64,
    ],
)
def test_a_term_that_only_floats_have_is_missed_in_backprop(is_lost):
    params = {"w": W[:, 0], "g": 0.5}
    report = check_gradients(lambda p: lost(p, is_lost), params, of_the_data)
    assert {name: one.verdict for name, one in report.parameters.items()} == {"w": Verdict.WORRY, "g": Verdict.WORRY}


def masks(w):
    mask, total = np.zeros(3, bool), w * 1.0
    for t in range(3):
        mask[:] = False
        mask[t] = True
        total = total + t * mask * w**2
        total[mask] = total[mask] ** 2
    return np.sum(total)


def positions(w):
    where, total = np.zeros(2, int), 0.0
    for t in range(3):
        where[0], where[1] = t, (t + 1) % 3
        total = total + np.prod(w[where]) * (t + 1)
    return total


def counts(w):
    count = np.ones(3, int)
    first = np.sum(count * w**2)
    count *= 5
    return first + np.sum(np.where(count > 3, w, w**2))


def twice(w):
    buffer = np.zeros(3)
    buffer[[0, 0, 1]] = w
    return np.sum(buffer**2)


def rotation(w):
    matrix = np.zeros((2, 2))
    matrix[0] = [np.cos(w[0]), -np.sin(w[0])]
    matrix[1] = (w[1], 1.0)
    return np.sum((matrix @ w[:2]) ** 2)


def choose(w):
    return np.sum(np.choose([0, 1, 0], [w, w**2]))


@pytest.mark.parametrize("loss", [masks, positions, counts, twice, rotation, choose])
def test_masks_and_positions_count_as_they_were_when_they_were_used(loss):
    w = np.array([0.3, -0.7, 1.1])

    far, near = [[loss(w + h * unit) - loss(w - h * unit) for unit in np.eye(3)] for h in (2e-3, 1e-3)]
    gradient = (8 * np.array(near) - far) / 12e-3
    traced(lambda: check_gradients(loss, w, gradient), lambda: check_gradients(loss, w, 1.01 * gradient))


class KeepsItsPenalty:
    """A loss that computes its penalty again only where the weights are others than the last ones."""

    def __init__(self):
        self.last, self.penalty = None, 0.0

    def __call__(self, w):
        if self.last is None or not np.array_equal(self.last, w):
            self.last, self.penalty = w.copy(), 0.1 * np.sum(w**2)
        return np.mean(np.tanh(X @ w) ** 2) + self.penalty


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_penalty_that_is_kept_from_an_earlier_call_is_not_lost(factor):
    """The reference at the point lacks it, and the one a hair away, which is confirmed, does not."""
    report = check_gradients(KeepsItsPenalty(), W[:, 0], of_the_data({"w": W[:, 0]})["w"] + factor * 0.2 * W[:, 0])
    assert report.verdict is (Verdict.GOOD if factor else Verdict.WORRY)


def test_a_write_into_a_buffer_rounds_nothing_and_copies_no_more_than_it_writes():
    """In float32 a buffer that is filled entry by entry is judged about as sharply as an array made at once."""
    w = np.array([0.1, 0.2, 0.3], np.float32)
    gradient = ((1 - np.tanh(w) ** 2) / 3).astype(np.float32)

    def filled():
        buffer = np.zeros(900, np.float32)
        for t in range(900):
            buffer[t] = w[t % 3]
        return np.mean(np.tanh(buffer))

    def at_once():
        return np.mean(np.tanh(w[np.arange(900) % 3]))

    reports = [check_gradients(loss, w, gradient, in_place=True) for loss in (filled, at_once)]
    assert [(report.method, report.verdict) for report in reports] == [("reference", Verdict.GOOD)] * 2
    slow, fast = (next(iter(report.parameters.values())).sensitivity for report in reports)
    assert slow < 4 * fast
