"""What is refused at the door, and with which words."""

from __future__ import annotations

import re
from collections import namedtuple
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from gc_hooks import GradCheckError, GradCheckHook, InvalidProblem, NondeterministicLoss, Verdict, check_gradients
from gc_hooks.problem.validate import build_problem, parameter_arrays

W = np.array([1.0, 2.0])


class Sequence:
    """An array of another library, with a shape and nothing else."""

    def __init__(self, length):
        self.shape = (length,)


def squares(w):
    return np.sum(w**2)


def refuse(said, loss=squares, params=W, grads=2 * W, error=InvalidProblem, **options):
    """Assert that a problem is refused with an error that says so."""
    with pytest.raises(error, match=said) as refused:
        build_problem(loss, params, grads, **options)
    assert isinstance(refused.value, GradCheckError)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (np.array([1, 2]), r"Parameter theta holds integers \(int64, shape \(2,\)\).*theta\.astype\(float\)"),
        ({"W1": W, "b1": np.zeros(2, dtype=bool)}, r"Parameter b1 holds integers \(bool"),
        (np.uint8(3), "Parameter theta holds integers"),
        (True, "Parameter theta holds integers"),
        ({}, "There are no parameters in {} of type dict.*print"),
        ([], r"There are no parameters in \[\] of type list"),
        (
            {"W": np.zeros((0, 3)), "b": np.zeros(0)},
            r"There are no parameters in a dict, only empty arrays \(W and b\)",
        ),
        ({"layers": [{}, ()]}, "There are no parameters"),
        ({"W": W, "b": None}, "Parameter b is None of type NoneType"),
        (None, "Parameter theta is None of type NoneType"),
        ({"name": "relu", "W": W}, "Parameter name is 'relu' of type str"),
        ({"W": W * 1j}, "Parameter W is an array of complex128"),
        (1j, "Parameter theta is 1j of type complex"),
        ({"model": 50 * b"x"}, "Parameter model is a bytes"),
        ({"W": np.array([None, 1.0])}, r"Parameter W is an array of object.*different lengths.*astype\(float\)"),
        ({"W": np.array([[1.0], [2.0, 3.0]], dtype=object)}, "Parameter W is an array of object.*list of arrays"),
        ([W, [W, "relu"]], r"Parameter params\[1\]\[1\] is 'relu' of type str.*leave it out"),
        (namedtuple("Net", "W")(None), r"Parameter params\[0\] is None"),
        (SimpleNamespace(W=W, b=W, name="net"), r"the model was handed in.*{'W': model\.W, 'b': model\.b}"),
        ({"a": {"b": W}, "a.b": W}, "both called 'a.b'"),
    ],
)
def test_parameters_that_cannot_be_moved_are_refused(params, said):
    """What is no floating-point array is refused by name, with what it is and what to try."""
    refuse(said, loss=lambda p: 0.0, params=params)


@pytest.mark.parametrize(
    "params",
    [
        3,
        3.0,
        Fraction(1, 2),
        np.float32(3),
        np.array(3.0),
        W,
        W.astype(np.float32),
        W.astype(np.float16),
        [W, (W, 1)],
        {"a": {"b": [W]}},
        namedtuple("P", "W b")(W, 1.0),
        [np.zeros((0, 3)), W],
    ],
)
def test_loss_gets_the_structure_that_was_handed_in(params):
    """A number stays a number, an array an array and a container its own kind, in float64."""
    seen = []
    build_problem(lambda p: seen.append(p) or 0.0, params, params)
    assert type(seen[0]) is type(params) or np.ndim(params) == 0 or isinstance(params, np.ndarray)
    arrays = parameter_arrays(seen[0])
    assert {array.dtype for array in arrays.values()} == {np.dtype(float)}
    assert all(np.array_equal(array, arrays[name]) for name, array in parameter_arrays(params).items())


def test_numbers_reach_the_loss_as_numbers():
    """A loss of one number may use ``if theta > 0`` and ``math.sin(theta)``."""
    seen = []
    build_problem(lambda theta: seen.append(theta) or 0.0, 4, 0.0)
    assert np.ndim(seen[0]) == 0
    assert isinstance(seen[0], float)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1.0, "cache"), r"returned a tuple of 2 items, not a number.*\(cost, cache\).*lambda p: loss\(p\)\[0\]"),
        ([1.0], "returned a list of 1 item"),
        (({"cache": W}, np.float64(2.0)), r"returned a tuple of 2 items.*lambda p: loss\(p\)\[1\]"),
        (None, "returned None.*return statement"),
        (W, r"returned an array of shape \(2,\), not a number.*mean"),
        (np.zeros(0), r"returned an array of shape \(0,\)"),
        ("0.5", "returned '0.5' of type str"),
        (True, "returned True of type bool"),
        (np.bool_(True), "returned True of type bool"),
        (1j, "returned 1j of type complex"),
        (np.array([1j]), "returned 1j of type complex"),
        ({"cost": 1.0}, r"returned {'cost': 1.0} of type dict.*lambda p: loss\(p\)\['cost'\]"),
        ({"W": np.ones(99), "b": W}, "returned a dict, not a number.*exchanged: the order is loss, params, grads"),
        (Sequence(3), r"returned an array of shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("what", ["loss", "penalty"])
def test_what_is_no_number_is_refused(what, value, said):
    """A loss, or a penalty, that returns anything but one real number gets a message that shows what it returned."""
    functions = {"loss": squares, "penalty": squares, what: lambda w: value}
    refuse(f"The {what} {said.replace('loss', what) if 'lambda' in said else said}", **functions)


@pytest.mark.parametrize("wrap", [float, np.float32, np.atleast_1d, np.atleast_2d, np.array, int, Fraction, Decimal])
def test_one_element_is_a_number(wrap):
    """A loss may return its number as a Python number, a NumPy scalar or an array with one element."""
    assert build_problem(lambda w: wrap(5.0), W, W).values == (5.0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_passes_the_door(value):
    """NaN twice is no contradiction; what it means is the report's business."""
    assert np.array_equal(build_problem(lambda w: value, W, W).values, (value,), equal_nan=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": 3.0}, "The loss must be a callable, got 3.0 of type float.*lambda p"),
        ({"loss": None}, "The loss must be a callable, got None"),
        ({"penalty": 0.1}, "The penalty must be a callable, got 0.1 of type float"),
        ({"loss": lambda p, x: 0.0}, r"The loss takes \(p, x\).*the parameters, as one argument.*'x'"),
        (
            {"loss": lambda: 0.0, "params": 3.0},
            "Parameter theta is 3.0.*a loss that takes nothing.*takes the parameters",
        ),
        ({"loss": lambda: 0.0, "grads": lambda p: W}, r"The gradient function takes \(p\).*lambda: backward\(p\)"),
        ({"loss": lambda p: 0.0, "in_place": True}, r"The loss takes \(p\).*nothing \(in_place=True\)"),
        ({"grads": lambda: W}, r"The gradient function takes \(\)"),
        ({"grads": lambda p: W, "loss": lambda: 0.0, "in_place": True}, r"The gradient function takes \(p\)"),
        ({"grads": lambda p: None}, "The gradient function returned None"),
        ({"grads": None}, "The gradients are None"),
    ],
)
def test_wrong_functions_are_refused(options, said):
    """A function that cannot be called as it will be is refused before it is called, with its signature."""
    refuse(said, **options)


def test_a_type_error_inside_the_loss_is_the_users_own():
    """Only the signature is judged at the door: what the loss raises itself is not dressed up."""
    with pytest.raises(TypeError, match=r"concatenate|ufunc"):
        build_problem(lambda w: "loss: " + w, 1.0, 1.0)


def test_functions_without_signature_are_called_all_the_same():
    """Functions written in C, such as a ufunc or ``max`` of an array, have no signature to judge."""
    assert build_problem(max, W, W).value == 2.0


def test_a_loss_that_changes_its_parameters_is_refused():
    """An update inside the loss is named; the user's own arrays were never in its reach."""
    mine = W.copy()

    def loss(w):
        w *= 0.5
        return squares(w)

    refuse("The loss changes the parameters that it is given.*copy", loss=loss, params=mine)
    assert mine.tolist() == W.tolist()


def test_a_loss_that_changes_them_in_place_is_refused_and_undone():
    """With in_place=True the user's arrays are what they were, also after the loss has changed them."""
    mine = {"w": W.copy(), "b": np.array([-0.0, np.nan])}
    before = {name: array.tobytes() for name, array in mine.items()}

    def loss():
        mine["w"][0] += 1
        return 1.0

    refuse("The loss changes the parameters", loss=loss, params=mine, grads=mine, in_place=True)
    assert {name: array.tobytes() for name, array in mine.items()} == before


@pytest.mark.parametrize("what", ["loss", "penalty"])
def test_two_values_for_the_same_parameters_are_refused(what):
    """An advancing batch is found by calling twice, and the message says both values."""
    values = iter([0.5, 0.75])
    functions = {"loss": squares, "penalty": squares, what: lambda w: next(values)}
    refuse(
        f"The {what} gave 0.5 and then 0.75 for the same parameters.*the iterator values.*one batch",
        error=NondeterministicLoss,
        **functions,
    )


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (3.0, "Parameter theta is 3.0 of type float, which cannot be changed in place"),
        ({"W": [1.0]}, r"Parameter W\[0\] is 1.0"),
        ({"W": np.float64(1)}, "cannot be changed in place"),
        ({"W": np.broadcast_to(1.0, (2,))}, r"Parameter W is an array of float64, shape \(2,\), read-only"),
        ({"W": np.array([1, 2])}, "holds integers"),
    ],
)
def test_what_cannot_be_written_to_is_refused_in_place(params, said):
    """With in_place=True every parameter has to be a writable array of floating-point numbers."""
    refuse(said, loss=lambda: 0.0, params=params, in_place=True)


def test_read_only_arrays_are_fine_when_the_loss_takes_them():
    """Without in_place nothing is ever written to what was handed in."""
    frozen = W.copy()
    frozen.flags.writeable = False
    assert build_problem(squares, frozen, 2 * frozen).value == 5.0


@pytest.mark.parametrize("in_place", [False, True])
def test_a_function_is_called_twice_and_gets_copies(in_place):
    """Backward is asked twice, and whatever it does to its parameters stays its own business."""
    mine, calls = W.copy(), []

    def backward(w=mine):
        calls.append(w.copy())
        w[0] = 99.0
        return 2 * calls[-1]

    grads = (lambda: backward()) if in_place else backward
    problem = build_problem((lambda: squares(mine)) if in_place else squares, mine, grads, in_place=in_place)
    assert [call.tolist() for call in calls] == [W.tolist()] * 2
    assert mine.tolist() == W.tolist()
    assert problem.grads["theta"].tolist() == [2.0, 4.0]
    assert not any(parameter.issue for parameter in problem)
    assert problem.meter.gradients == 2


def test_accumulated_gradients_are_a_flaw():
    """A buffer that is added to and never zeroed gives another gradient at the second call; its clean twin does not."""
    buffer = np.zeros(2)

    def accumulating(w):
        buffer[:] += 2 * w
        return buffer

    assert build_problem(squares, W, accumulating)["theta"].issue.code == "not_repeatable"
    assert build_problem(squares, W, lambda w: 2 * w)["theta"].issue is None


@pytest.mark.parametrize(
    ("params", "grads", "precision"),
    [
        (np.float64, np.float64, np.finfo(np.float64).eps),
        (np.float32, np.float32, np.finfo(np.float32).eps),
        (np.float32, np.float64, np.finfo(np.float32).eps),
        (np.float64, np.float32, np.finfo(np.float32).eps),
    ],
)
def test_buffers_are_as_precise_as_the_coarsest_array(params, grads, precision):
    """Buffers in float64 that came from float32 weights are float32's."""
    assert build_problem(squares, W.astype(params), (2 * W).astype(grads)).precision == precision


def test_a_function_is_judged_in_float64():
    """A gradient function of float32 parameters is run in float64, where its code shows."""
    problem = build_problem(squares, W.astype(np.float32), lambda w: 2 * w)
    assert problem.precision == np.finfo(float).eps
    assert problem.point["theta"].dtype == np.float64


def test_every_message_has_three_beats():
    """What was seen, what it usually means, and what to try: each message ends with an advice."""
    for params in ({}, np.array([1]), "text"):
        with pytest.raises(InvalidProblem) as refused:
            build_problem(squares, params, W)
        assert re.search(r"Try [^.]+", str(refused.value))


# --- arrays of other libraries ----------------------------------------------------------------------------------------


class OnTheGpu:
    """An array whose library converts it only when it is asked to, as CuPy does."""

    shape = (2,)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.\nPlease use .get()")

    def get(self):
        return W.copy()


class Elsewhere:
    """An array that NumPy can read, as JAX's are."""

    shape = (2,)

    def __array__(self, *_, **__):
        return W.copy()


def test_an_array_that_numpy_cannot_read_is_refused_by_name():
    """As a parameter, as a buffer and as what backward returns, with the name, what it is and the way to go."""
    gpu = OnTheGpu()
    said = r"The gradient of b is a OnTheGpu, which NumPy cannot read \(TypeError: Implicit [^\n]*\..*Try its \.get\(\)"
    refuse(r"Parameter b is a OnTheGpu.*\.get\(\)", lambda p: 0.0, {"b": gpu}, {"b": W})
    refuse(r"Parameter b is a OnTheGpu.*\.get\(\)", lambda: 0.0, {"b": gpu}, {"b": W})
    refuse(said, lambda p: squares(p["b"]), {"b": W}, {"b": gpu})
    refuse(said, lambda p: squares(p["b"]), {"b": W}, lambda p: {"b": gpu})
    taken = build_problem(lambda p: squares(p["b"]), {"b": gpu.get()}, {"b": 2 * gpu.get()})
    assert taken["b"].gradient.tolist() == [2.0, 4.0]


def test_an_array_that_numpy_can_read_is_taken():
    """What converts by itself is a parameter and a gradient like any other."""
    problem = build_problem(squares, Elsewhere(), lambda w: Elsewhere())
    assert problem["theta"].gradient.tolist() == [1.0, 2.0]


def test_tensors_of_pytorch_are_told_where_to_go():
    """As parameters, with and without requires_grad; a gradient and a loss are taken where they can be read."""
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(2), torch.ones(2, requires_grad=True)):
        for loss in (lambda p: 0.0, lambda: 0.0):
            refuse(r"Parameter w is a Tensor of torch.*TorchGradCheckHook, or \.detach\(\)\.numpy", loss, {"w": tensor})
    refuse(
        r"The gradient of w is a Tensor.*\.detach\(\)\.cpu\(\)\.numpy\(\)",
        grads={"w": tensor},
        params={"w": W},
        loss=lambda p: squares(p["w"]),
    )
    refuse(r"The loss returned an array of shape \(2,\)", loss=lambda w: tensor)
    problem = build_problem(lambda w: squares(w) * tensor.sum(), W, torch.ones(2, dtype=torch.float64))
    assert (problem.value, problem["theta"].gradient.tolist()) == (10.0, [1.0, 1.0])


# --- mistakes of the set-up -------------------------------------------------------------------------------------------

NET = {"W": np.array([[1.0, 2.0, 3.0]]), "b": W}


def loss_of_net(p):
    return np.sum(p["W"] ** 2) + np.sum(p["b"] ** 2)


def backward_of_net(p):
    return {"W": 2 * p["W"], "b": 2 * p["b"]}


def of_two(p):
    return np.sum(p[0] ** 2) + np.sum(p[1] ** 2)


MISTAKES = {
    "(loss, gradients)": lambda p: (loss_of_net(p), backward_of_net(p)),
    "(gradients, loss)": lambda p: (backward_of_net(p), loss_of_net(p)),
    "a list beside a dict": lambda p: list(backward_of_net(p).values()),
    "(loss, dW, db)": lambda p: (loss_of_net(p), *backward_of_net(p).values()),
    "one list too many": lambda p: [backward_of_net(p)],
}


@pytest.mark.parametrize("backward", MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("kind", ["function", "buffers", "in place"])
def test_gradients_in_a_wrong_form_are_told_and_the_advice_works(backward, kind):
    """The check is not set up yet, and nothing is said of the gradient; what the message writes out is then GOOD."""
    net = {name: array.copy() for name, array in NET.items()}
    loss, given, names = loss_of_net, backward, {"backward": backward}
    if kind == "buffers":
        given, names = backward(net), {"grads": backward(net)}
    elif kind == "in place":
        loss, given, names = (lambda: loss_of_net(net)), (lambda: backward(net)), {"backward": lambda: backward(net)}
    with pytest.raises(InvalidProblem) as refused:
        check_gradients(loss, net, given)
    advice = re.search(r"Try (.*?)(, if that is their order)?\.$", str(refused.value))
    assert check_gradients(loss, net, eval(advice[1], names)).ok


@pytest.mark.parametrize(
    ("params", "grads", "advised"),
    [
        (W, lambda w: (squares(w), 2 * w), "lambda p: backward(p)[1]"),
        (2.0, lambda w: (w**2, 2 * w), "lambda p: backward(p)[1]"),
        (W, lambda w: [2 * w], "lambda p: backward(p)[0]"),
        (W, lambda w: {"w": 2 * w}, "lambda p: backward(p)['w']"),
        ([W, 3.0], lambda p: (of_two(p), [2 * p[0], 2 * p[1]]), "lambda p: backward(p)[1]"),
        ([W, 3.0], lambda p: {"W": 2 * p[0], "b": 2 * p[1]}, "lambda p: list(backward(p).values())"),
    ],
)
def test_one_array_and_lists_too(params, grads, advised):
    """The same mistakes where parameters have no names of their own."""
    loss = of_two if isinstance(params, list) else squares
    with pytest.raises(InvalidProblem) as refused:
        check_gradients(loss, params, grads)
    assert f"Try {advised}." in str(refused.value)
    assert check_gradients(loss, params, eval(advised, {"backward": grads})).ok


@pytest.mark.parametrize(
    ("grads", "said"),
    [
        ({}, "There are no gradients, and the parameters are called W and b.*right after backward"),
        ({"V": 1.0, "c": 2.0}, "the gradients are called V and c, the parameters are called W and b.*dW for W"),
        (np.ones(5), "the gradients are a single array"),
        ([W], "a list of 1 item, and the parameters are called W and b.*Try a dict"),
    ],
)
def test_gradients_that_fit_no_parameter_are_refused(grads, said):
    """Where no name fits, the two sides do not belong together; one missing gradient among others is a finding."""
    refuse(said, loss_of_net, NET, grads)
    refuse(said.replace("The gradients are", ""), loss_of_net, NET, lambda p: grads)
    one = build_problem(loss_of_net, NET, {"b": 2 * W, "V": 1.0})
    assert (one["W"].issue.code, one["b"].issue) == ("missing_gradient", None)


def test_a_gradient_of_a_wrong_shape_in_a_list_stays_a_finding():
    """A list that has its entries in their places is no mistake of the set-up, whatever they hold."""
    problem = build_problem(of_two, [W, 3.0], [np.ones(3), 6.0])
    assert (problem["0"].issue.code, problem["1"].issue) == ("wrong_shape", None)


@pytest.mark.parametrize(
    "arguments",
    [
        (NET, loss_of_net, backward_of_net),
        (loss_of_net, backward_of_net, NET),
        (NET, backward_of_net(NET), loss_of_net),
        (backward_of_net, NET, loss_of_net),
    ],
)
def test_exchanged_arguments_are_told_with_their_order(arguments):
    """In every order but the right one; and no message prints a whole model."""
    with pytest.raises(InvalidProblem, match=r"exchanged.*loss, params, grads") as refused:
        check_gradients(*arguments)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_loss_that_takes_nothing_reads_your_own_arrays(factor):
    """in_place=True goes without saying, for buffers and functions, in a hook and with before_loss=."""
    mine, calls = {"w": W.copy()}, []
    verdict = Verdict.GOOD if factor == 1.0 else Verdict.WORRY
    for grads in ({"w": 2 * factor * W}, lambda: {"w": 2 * factor * mine["w"]}):
        assert check_gradients(lambda: squares(mine["w"]), mine, grads).verdict is verdict
    hook = GradCheckHook(after=None, reporters=[], on_fail=lambda report: None)
    hook.on_step(0, loss=lambda: squares(mine["w"]), params=mine, grads=grads, before_loss=lambda: calls.append(1))
    assert hook.reports[0].verdict is verdict
    assert calls
    assert mine["w"].tolist() == W.tolist()


def test_a_loss_with_defaults_takes_the_parameters():
    """Only a loss that cannot take anything is in place."""
    problem = build_problem(lambda p=W: squares(p), W, 2 * W)
    assert problem.live is None


# --- every advice, followed -------------------------------------------------------------------------------------------


class Model:
    """A model as people write it: the parameters are attributes."""

    def __init__(self):
        self.W = W.copy()


def halved(w):
    w *= 0.5
    return squares(w)


def quarter_of_squares(w):
    w = w.copy()
    w *= 0.5
    return squares(w)


def draws(rate):
    generator = np.random.default_rng(0)
    return lambda w: squares(w * (generator.random(2) >= rate))


MASKED, GPU, BATCHES = np.ma.masked_array(W, [False, False]), OnTheGpu(), iter("abc")
OBJECTS, WHOLE = np.array([1.0, 2.0], dtype=object), np.arange(4.0)
RAGGED = np.array([[1.0], [2.0, 3.0]], dtype=object)
PLAIN = (squares, W, 2 * W)
FOLLOWED = {
    "integers": ((squares, np.array([1, 2]), 2 * W), "theta = theta.astype(float)", PLAIN),
    "integers in a list": (
        (of_two, [W, np.array([3])], [2 * W, 6.0]),
        "params[1].astype(float)",
        (of_two, [W, 3.0], [2 * W, 6.0]),
    ),
    "a masked array": ((squares, MASKED, 2 * W), "numpy.asarray", (squares, np.asarray(MASKED), 2 * W)),
    "objects": ((squares, OBJECTS, 2 * W), ".astype(float)", (squares, OBJECTS.astype(float), 2 * W)),
    "ragged": (
        (squares, RAGGED, 0),
        "a list of arrays",
        (of_two, [np.array(row) for row in RAGGED], [np.array([2.0]), np.array([4.0, 6.0])]),
    ),
    "a text": ((loss_of_net, {**NET, "act": "relu"}, {}), "leave it out", (loss_of_net, NET, backward_of_net)),
    "a model": (
        (squares, Model(), 2 * W),
        "{'W': model.W}",
        (lambda p: squares(p["W"]), {"W": Model().W}, {"W": 2 * W}),
    ),
    "CuPy": ((squares, GPU, 2 * W), ".get()", (squares, GPU.get(), 2 * W)),
    "a number in place": ((lambda: 1.0, 3.0, 6.0), "a loss that takes the parameters", (lambda w: w**2, 3.0, 6.0)),
    "overlap": (
        (lambda: squares(WHOLE), {"a": WHOLE, "b": WHOLE[2:]}, 0),
        "the array, or its parts, once",
        (lambda: squares(WHOLE), {"a": WHOLE[:2], "b": WHOLE[2:]}, lambda: {"a": 2 * WHOLE[:2], "b": 2 * WHOLE[2:]}),
    ),
    "a value": ((squares(W), W, 2 * W), "loss=lambda p: compute_loss(p", (lambda p: squares(p), W, 2 * W)),
    "more arguments": ((lambda w, x: squares(w), W, 2 * W), "lambda p: loss(p, x)", PLAIN),
    "backward takes nothing": ((squares, W, lambda: 2 * W), "grads=backward()", PLAIN),
    "a cache": ((lambda w: ("cache", squares(w)), W, 2 * W), "lambda p: loss(p)[1]", PLAIN),
    "a cache in place": (
        (lambda: (squares(WHOLE), 0), WHOLE, 2 * WHOLE),
        "lambda: loss()[0]",
        (lambda: squares(WHOLE), WHOLE, 2 * WHOLE),
    ),
    "a dict": ((lambda w: {"loss": squares(w)}, W, 2 * W), "lambda p: loss(p)['loss']", PLAIN),
    "losses": ((lambda w: w**2, W, W), "lambda p: loss(p).mean()", (lambda w: (w**2).mean(), W, W)),
    "nothing returned": ((lambda w: None, W, 2 * W), "return loss", PLAIN),
    "an update inside": ((halved, W, W / 2), "a copy", (quarter_of_squares, W, W / 2)),
    "no gradients": ((squares, W, lambda w: None), "return the dictionary", (squares, W, lambda w: {"theta": 2 * w})),
    "dropout": ((draws(0.5), W, 2 * W), "set its rate to zero", (draws(0.0), W, 2 * W)),
    "the next batch": ((lambda w: squares(w) + ord(next(BATCHES)), W, 2 * W), "take one batch", PLAIN),
}


@pytest.mark.parametrize(("mistake", "advice", "followed"), FOLLOWED.values(), ids=FOLLOWED.keys())
def test_an_advice_that_is_followed_works(mistake, advice, followed):
    """Each message says what to write, and with that the check is GOOD."""
    with pytest.raises((InvalidProblem, NondeterministicLoss)) as refused:
        check_gradients(*mistake)
    seen, _, tried = str(refused.value).rpartition("Try ")
    assert advice in tried
    assert "This usually means" in seen
    assert check_gradients(*followed).ok


# --- one array under two names ----------------------------------------------------------------------------------------

FORMS = {
    "the same": lambda a: a,
    "transposed": lambda a: a.T,
    "axes moved": lambda a: a.transpose(1, 2, 0),
    "an axis more": lambda a: a[None],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("is_function", [True, False])
def test_gradients_of_one_array_under_two_names_are_summed(form, factor, is_function):
    """In place both names change together; the sum of their gradients is right, and wrong when one is doubled."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=(3, 3, 3))
    params = {"a": array, "b": form(array)}
    weights = rng.normal(size=params["b"].shape)

    def grads():
        return {"a": np.cos(array), "db": factor * weights}

    report = check_gradients(
        lambda: np.sum(np.sin(params["a"])) + np.sum(weights * params["b"]), params, grads if is_function else grads()
    )
    assert list(report.parameters) == ["a"]
    assert report.verdict is (Verdict.GOOD if factor == 1.0 else Verdict.WORRY)
    assert report.notes == ("a and b are one array in memory: their gradients are summed under a.",)


def test_a_loss_that_takes_them_sees_two_arrays():
    """Where the loss gets its parameters, one array under two names is two parameters, each with its own gradient."""
    report = check_gradients(lambda p: np.sum(p["a"] ** 2) + np.sum(p["b"]), {"a": W, "b": W}, {"a": 2 * W, "b": W / W})
    assert report.ok
    assert list(report.parameters) == ["a", "b"]


@pytest.mark.parametrize("part", [lambda a: a[2:], lambda a: a[::-1], lambda a: a.reshape(2, 3)])
def test_arrays_that_share_a_part_of_their_memory_are_refused_in_place(part):
    """They cannot be changed one by one; parts that do not meet can."""
    array = np.arange(6.0)
    both = {"a": array, "b": part(array)}
    refuse("Parameters a and b share a part of their memory.*once", lambda: squares(array), both, both)
    parts = {"even": array[::2], "odd": array[1::2]}
    assert check_gradients(lambda: squares(array), parts, {"even": 2 * array[::2], "odd": 2 * array[1::2]}).ok
