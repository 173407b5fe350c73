"""Jacobians: a right one of every kind is GOOD at the price that is promised, a wrong one is named."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.integrate import solve_ivp
from scipy.sparse.linalg import LinearOperator

from gc_hooks import (
    InvalidProblem,
    NondeterministicLoss,
    Tolerance,
    Verdict,
    check_gradients,
    check_hessian,
    check_jacobian,
)

T = np.linspace(0, 1, 25)
DATA = np.random.default_rng(0).normal(size=25)
X = np.array([2.0, 1.3, 0.4])
N = 2000
U = np.random.default_rng(1).normal(size=N)


def residuals(p):
    return p[0] * np.exp(-p[1] * T) + p[2] - DATA


def jacobian(p):
    decay = np.exp(-p[1] * T)
    return np.stack([decay, -p[0] * T * decay, np.ones(25)], axis=1)


def one_entry(p):
    wrong = jacobian(p)
    wrong[7, 1] *= 1.1
    return wrong


def diffusion(u):
    return np.concatenate([u[1:], [0]]) - 2 * u + np.concatenate([[0], u[:-1]]) + u**3


def banded(u):
    return sparse.diags([np.ones(N - 1), -2 + 3 * u**2, np.ones(N - 1)], [-1, 0, 1]).tocsr()


def banded_with(row, column, value):
    def wrong(u):
        matrix = banded(u).tolil()
        matrix[row, column] = value
        matrix = matrix.tocsr()
        matrix.eliminate_zeros()
        return matrix

    return wrong


def operator(forward, backward):
    return lambda u: LinearOperator((N, N), matvec=lambda v: forward(u) @ v, rmatvec=lambda v: backward(u).T @ v)


def no_complex(function):
    def real_only(p):
        if np.iscomplexobj(p):
            raise TypeError("no complex numbers")
        return function(p)

    return real_only


def codes(report):
    return [diagnosis.code for diagnosis in report.diagnoses]


def told(report):
    return " ".join(map(str, report.diagnoses))


# Right ones


@pytest.mark.parametrize(
    ("function", "point", "given"),
    [
        (residuals, X, jacobian),
        (residuals, X, jacobian(X)),
        (residuals, X, jacobian(X).astype(np.float32)),
        (residuals, X, lambda p: sparse.csc_array(jacobian(p))),
        (residuals, X, lambda p: sparse.coo_matrix(jacobian(p))),
        (residuals, X, lambda p: LinearOperator((25, 3), matvec=lambda v: jacobian(p) @ v)),
        (residuals, X, (lambda u: jacobian(X).T @ u, lambda v: jacobian(X) @ v)),
        (residuals, X, (lambda p, u: jacobian(p).T @ u, None)),
        (residuals, X, (None, lambda p, v: jacobian(p) @ v)),
        (lambda p: residuals(p["x"]), {"x": X}, lambda p: {"x": jacobian(p["x"])}),
        (lambda p: np.concatenate([p**2, 0 * p]), X, lambda p: np.vstack([np.diag(2 * p), np.zeros((3, 3))])),
        (lambda p: p @ p, X, lambda p: 2 * p),
        (diffusion, U, banded),
        (diffusion, U, operator(banded, banded)),
    ],
)
def test_a_right_jacobian_costs_four_evaluations(function, point, given):
    """Of whatever form and size."""
    report = check_jacobian(function, point, given)
    assert (report.verdict, report.diagnoses) == (Verdict.GOOD, ())
    assert report.evaluations <= 4
    assert "would show" in " ".join(report.notes)


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_lists_of_numbers_are_vectors(wrong):
    """As people write them for `root`: a list of equations; a list of lists, of arrays or a tuple for its slopes."""
    point = np.array([0.3, 0.7])
    rows = [[2 * point[0], 1.0], [wrong, 3 * point[1] ** 2]]
    for given in (rows, [np.array(row) for row in rows], tuple(map(tuple, rows)), lambda p: rows):
        report = check_jacobian(lambda p: [p[0] ** 2 + p[1], p[1] ** 3], point, given)
        assert report.verdict is (Verdict.WORRY if wrong else Verdict.GOOD)
        assert list(report.parameters) == ["theta"]
        if wrong:
            assert "output 1 by theta[0]" in told(report)


@pytest.mark.parametrize("seed", range(6))
def test_right_ones_are_good_in_every_direction(seed):
    """Dense, sparse, in central differences, in float32, in units far apart, after a fit, with abs in some outputs."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(30, 12))
    w = random.normal(size=12)

    def smooth(p):
        return np.tanh(a @ p) * (a @ p)

    def slope(p):
        z = a @ p
        return ((1 - np.tanh(z) ** 2) * z + np.tanh(z))[:, None] * a

    units = 10.0 ** random.integers(-6, 6, size=12)
    cases = [
        (smooth, w, slope),
        (no_complex(smooth), w, slope),
        (lambda p: smooth(p) - smooth(w), w, slope),
        (lambda p: np.abs(a @ p), w, lambda p: np.sign(a @ p)[:, None] * a),
        (lambda p: np.where(np.arange(30) < 5, np.abs(a @ p), a @ p), w,
         lambda p: np.where(np.arange(30)[:, None] < 5, np.sign(a @ p)[:, None] * a, a)),
        (lambda p: (a.astype(np.float32) @ p.astype(np.float32)) ** 2, w, lambda p: 2 * (a @ p)[:, None] * a),
        (lambda p: smooth(p / units), w * units, lambda p: slope(p / units) / units),
        (lambda p: units[:, None] * np.stack([p, p**2]).T, w, lambda p: np.einsum(
            "i,ijk->ijk", units, np.stack([np.diag(np.ones(12)), np.diag(2 * p)], axis=1))),
    ]  # fmt: skip
    for number, (function, point, given) in enumerate(cases):
        report = check_jacobian(function, point, given, seed=seed)
        assert report.verdict is Verdict.GOOD, (number, str(report))


def relu(p):
    return np.maximum(p, 0) * np.arange(1.0, 7)


def relu_slope(p):
    return np.diag((p > 0) * np.arange(1.0, 7))


AT_KINK = np.array([1.0, 0, -1, 0, 2, 0])


def test_a_kink_accuses_nothing():
    """A function is judged beside it, arrays are INCONCLUSIVE, and a wrong one is still seen."""
    for seed in range(10):
        assert check_jacobian(relu, AT_KINK, relu_slope, seed=seed).verdict is Verdict.GOOD
        assert check_jacobian(relu, AT_KINK, relu_slope(AT_KINK), seed=seed).verdict <= Verdict.INCONCLUSIVE
        wrong = check_jacobian(relu, AT_KINK, lambda p: 2 * relu_slope(p), seed=seed)
        assert codes(wrong) == ["scaled"]


@pytest.mark.parametrize(
    "noise",
    [
        lambda values: np.round(values, 3),
        lambda values: values + 1e-4 * np.sin(1e15 * values),
        lambda values: values.astype(np.float16).astype(float),
    ],
)
def test_what_is_too_noisy_is_inconclusive(noise):
    """Noise that repeats itself hides the slope: nothing is called good, and nothing wrong."""
    for seed in range(5):
        report = check_jacobian(no_complex(lambda p: noise(residuals(p))), X, jacobian, seed=seed)
        assert report.verdict is Verdict.INCONCLUSIVE


# Wrong ones


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (lambda p: jacobian(p) * [1, -1, 1], "columns", "theta[1]"),
        (lambda p: jacobian(p) * [1, 1, 0], "columns", "zero"),
        (lambda p: -jacobian(p), "sign", "The Jacobian has the wrong sign"),
        (lambda p: jacobian(p) / 25, "scaled", "0.04 times"),
        (
            lambda p: jacobian(p) * np.where(np.arange(25) > 20, 2.0, 1.0)[:, None],
            "scaled",
            "outputs 21, 22, 23 and 24",
        ),
        (lambda p: jacobian(p) * np.linspace(1, 2, 25)[:, None], "line_factors", "weights"),
        (lambda p: np.roll(jacobian(p), 1, axis=0), "shifted", "one place later"),
        (lambda p: np.roll(jacobian(p), -1, axis=0), "shifted", "one place earlier"),
        (lambda p: jacobian(p)[:, [1, 0, 2]], "swapped", "columns of theta[0] and theta[1] are exchanged"),
        (lambda p: jacobian(p)[[*range(20), 22, 20, 21, 23, 24]], "swapped", "outputs 20, 21 and 22 are exchanged"),
        (lambda p: jacobian(p).T, "transposed", "transpose is right"),
        (lambda p: jacobian(p)[:, :2], "wrong_shape", "(25, 2)"),
        (lambda p: np.where(np.arange(25)[:, None] == 3, np.nan, jacobian(p)), "not_finite", "output 3"),
        (one_entry, "single_entries", "output 7 by theta[1]"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, no_complex])
def test_a_bug_of_a_small_jacobian_is_named(given, code, words, wrap):
    """By complex step and by central differences."""
    report = check_jacobian(wrap(residuals), X, given)
    assert report.verdict > Verdict.INCONCLUSIVE
    assert codes(report) == [code]
    assert words in told(report)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (banded_with(701, 700, 0.5), "single_entries", "output 701 by theta[700]"),
        (banded_with(701, 700, 0.0), "pattern", "has no entry at 1 place"),
        (banded_with(701, 1500, 0.7), "pattern", "output 701 by theta[1500] is 0.7, and measured as zero"),
        (lambda u: banded(u) - sparse.diags([2 * u**2], [0]), "single_entries", "on the diagonal"),
        (lambda u: (sparse.diags([np.ones(N - 2)], [2]) + banded(u)).tocsr(), "pattern", "should be zero"),
    ],
)
def test_a_bug_of_a_large_sparse_jacobian_is_named_within_60_evaluations(given, code, words):
    """The entry, and whether it is missing in the pattern or should not be there."""
    report = check_jacobian(diffusion, U, given)
    assert report.verdict is Verdict.WORRY
    assert code in codes(report)
    assert words in told(report)
    assert report.evaluations <= 60


def test_central_differences_name_the_entry_too():
    """Within the same 60 evaluations."""
    report = check_jacobian(no_complex(diffusion), U, banded_with(701, 700, 0.5))
    assert codes(report) == ["single_entries"]
    assert "output 701 by theta[700]" in told(report)
    assert report.evaluations <= 60


def test_a_square_one_that_is_transposed():
    """Of the right shape, so that only its slopes tell."""
    weights = np.arange(25.0).reshape(5, 5)
    report = check_jacobian(lambda p: np.tanh(weights @ p), X[0] * np.ones(5) / 50, lambda p: (
        (1 - np.tanh(weights @ p) ** 2)[:, None] * weights).T)  # fmt: skip
    assert codes(report) == ["transposed"]


def test_the_products_are_compared_with_each_other_and_with_the_slopes():
    """Which of matvec and rmatvec is wrong, and where; neither of them costs an evaluation."""
    wrong = banded_with(701, 700, 0.5)
    backward = check_jacobian(diffusion, U, operator(banded, wrong))
    assert codes(backward) == ["not_adjoint"]
    assert "theta[700]" in told(backward)
    assert backward.verdict is Verdict.WORRY
    assert backward.evaluations <= 4
    forward = check_jacobian(diffusion, U, operator(wrong, banded))
    assert codes(forward) == ["not_adjoint", "single_entries"]
    assert "rmatvec (vjp) is right" in told(forward)
    assert codes(check_jacobian(diffusion, U, operator(wrong, wrong))) == ["single_entries"]


def test_blocks_have_names():
    """Of several outputs and several parameters; only the block that is wrong is accused."""

    def function(p):
        return {"a": p["w"] ** 2, "b": p["w"].sum() * p["c"]}

    def blocks(p, factor=1):
        of_b = {"w": np.full(3, factor * p["c"]), "c": p["w"].sum()}
        return {"a": {"w": np.diag(2 * p["w"]), "c": np.zeros(3)}, "b": of_b}

    point = {"w": np.arange(1.0, 4), "c": 2.0}
    assert check_jacobian(function, point, blocks).verdict is Verdict.GOOD
    report = check_jacobian(function, point, lambda p: blocks(p, 2))
    assert report.failing == ["b/w"]
    lacking = check_jacobian(function, point, lambda p: {"a": blocks(p)["a"]})
    assert codes(lacking) == ["wrong_shape"]


def test_a_layer_by_its_vjp():
    """The structure of the parameters; a gradient of b that is doubled is found in b alone."""
    random = np.random.default_rng(2)
    point = {"x": random.normal(size=(5, 3)), "W": random.normal(size=(4, 3)), "b": random.normal(size=4)}

    def layer(p):
        return np.tanh(p["x"] @ p["W"].T + p["b"])

    def vjp(p, upstream, factor=1):
        delta = upstream * (1 - layer(p) ** 2)
        return {"x": delta @ p["W"], "W": delta.T @ p["x"], "b": factor * delta.sum(axis=0)}

    assert check_jacobian(layer, point, (vjp, None)).verdict is Verdict.GOOD
    report = check_jacobian(layer, point, (lambda p, u: vjp(p, u, 2), None))
    assert report.failing == ["b"]
    assert "2 times" in told(report)


def test_limits_leave_it_inconclusive():
    """A budget that ends before anything is measured, and a function that is not finite."""
    report = check_jacobian(residuals, X, jacobian, max_evaluations=1)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert check_jacobian(lambda p: np.log(p - 2), X, lambda p: np.diag(1 / (p - 2))).verdict is Verdict.INCONCLUSIVE


def test_the_bands_are_the_tolerance():
    """A looser one bears a small error."""
    slightly = jacobian(X) * (1 + 1e-5)
    assert check_jacobian(residuals, X, slightly).verdict is Verdict.DOUBLE_CHECK
    loose = Tolerance(good=1e-4, certain=1e-2, worry=1e-2)
    assert check_jacobian(residuals, X, slightly, tolerance=loose).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((residuals(X), X, jacobian), "its value was handed in"),
        ((residuals, jacobian, X), "in this order"),
        ((residuals, X, "2-point"), "option of scipy"),
        ((residuals, X, lambda p: None), "not an array of real numbers"),
        ((lambda p: None, X, jacobian), "not numbers"),
        ((residuals, np.array([2, 1, 0]), jacobian), "integers"),
    ],
)
def test_what_cannot_be_checked_is_refused_with_advice(arguments, words):
    with pytest.raises(InvalidProblem, match=words):
        check_jacobian(*arguments)


def test_a_function_that_does_not_repeat_itself_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(NondeterministicLoss, match="two results"):
        check_jacobian(lambda p: residuals(p) + random.normal(), X, jacobian)


def test_a_jacobian_in_one_buffer_is_judged_as_what_it_was():
    """A function that fills the same array at each call."""
    for make in (np.array, sparse.csr_array):
        buffer = make(jacobian(X))

        def filled(p, buffer=buffer):
            new = jacobian(p) * [1, 1.1, 1]
            if sparse.issparse(buffer):
                buffer.data[:] = new[buffer.nonzero()]
            else:
                buffer[:] = new
            return buffer

        report = check_jacobian(residuals, X, filled)
        assert codes(report) == ["columns"]
        assert "1.1 times" in told(report)


def test_nothing_is_changed():
    """Neither the parameters nor a global random state."""
    before, state = X.copy(), np.random.get_state()[1].copy()
    check_jacobian(lambda p: residuals(p) + 0 * np.random.rand(), X, one_entry)
    assert np.array_equal(before, X)
    assert np.array_equal(state, np.random.get_state()[1])


# Hessians


def rosenbrock_residuals(p):
    return np.concatenate([10 * (p[1:] - p[:-1] ** 2), 1 - p[:-1]])


def rosenbrock_gradient(p):
    slope = np.zeros_like(p)
    inner = p[1:] - p[:-1] ** 2
    slope[:-1] = -400 * p[:-1] * inner - 2 * (1 - p[:-1])
    slope[1:] += 200 * inner
    return slope


def newton(p):
    hessian = np.diag(np.concatenate([1200 * p[:-1] ** 2 - 400 * p[1:] + 2, [0.0]]))
    hessian[1:, 1:] += 200 * np.eye(len(p) - 1)
    off = np.diag(-400 * p[:-1], 1)
    return hessian + off + off.T


def gauss_newton(p):
    slopes = np.zeros((2 * len(p) - 2, len(p)))
    for k in range(len(p) - 1):
        slopes[k, k], slopes[k, k + 1], slopes[len(p) - 1 + k, k] = -20 * p[k], 10, -1
    return 2 * slopes.T @ slopes


P = np.random.default_rng(3).normal(size=50)


@pytest.mark.parametrize(
    "given",
    [
        newton,
        newton(P),
        lambda p, v: newton(p) @ v,
        lambda p: sparse.csr_array(newton(p)),
        lambda p: LinearOperator((50, 50), matvec=lambda v: newton(p) @ v),
    ],
)
def test_a_right_hessian_is_good_for_four_gradients(given):
    """As a matrix or as products with vectors."""
    report = check_hessian(rosenbrock_gradient, P, given)
    assert (report.verdict, report.diagnoses) == (Verdict.GOOD, ())
    assert report.evaluations <= 4


@pytest.mark.parametrize("point", [P, P[:5]])
def test_gauss_newton_is_told_from_newton(point):
    """With the residuals, also as products; without them it is just a wrong Hessian."""
    for given in (gauss_newton, lambda p, v: gauss_newton(p) @ v):
        report = check_hessian(rosenbrock_gradient, point, given, residuals=rosenbrock_residuals)
        assert report.verdict is Verdict.WORRY
        assert codes(report) == ["gauss_newton"]
        assert "2 J^T J" in told(report)
    assert "gauss_newton" not in codes(check_hessian(rosenbrock_gradient, point, gauss_newton))
    other = check_hessian(rosenbrock_gradient, point, lambda p: 2 * newton(p), residuals=rosenbrock_residuals)
    assert codes(other) == ["scaled"]


def test_a_hessian_has_to_be_symmetric():
    """A triangle, products of one, and a Hessian that was derived from a gradient that is none."""
    assert "only a triangle" in told(check_hessian(rosenbrock_gradient, P, lambda p: np.triu(newton(p))))
    assert "not_symmetric" in codes(check_hessian(rosenbrock_gradient, P, lambda p, v: np.tril(newton(p)) @ v))
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    report = check_hessian(lambda p: turn @ p, P[:2], turn)
    assert report.verdict is Verdict.WORRY
    assert codes(report) == ["not_symmetric"]
    assert "check_gradients" in told(report)


# Who comes from check_gradients


@pytest.mark.parametrize(
    "returned", [residuals(X), list(residuals(X)), [residuals(X), X], (X, X), sparse.coo_array(jacobian(X))]
)
def test_check_gradients_says_who_takes_a_vector(returned):
    """By its name: an array, a list of numbers, of arrays, a sparse matrix."""
    with pytest.raises(InvalidProblem, match=r"check_jacobian\(function, params, jacobian\)"):
        check_gradients(lambda p: returned, X, jacobian)


@pytest.mark.parametrize("returned", [(1.0, {}), (1.0, X), [1.0, X], (1.0, 0.5, 0.1)])
def test_a_loss_with_its_cache_is_no_vector(returned):
    """It is still told to take the first item."""
    with pytest.raises(InvalidProblem, match=r"Try lambda p: loss\(p\)\[0\]"):
        check_gradients(lambda p: returned, X, jacobian)


# Inexact functions


def predator_and_prey(p, rtol, slope_factor=1.0):
    """Return the prey at 20 times, and its slopes by two parameters from the equations of sensitivity."""

    def both(t, state):
        x, y = state[:2]
        slopes = state[2:].reshape(2, 2)
        by_state = np.array([[p[0] - y, -x], [p[1] * y, p[1] * x - 1]])
        by_p = np.array([[x, 0], [0, x * y]])
        return np.concatenate([[p[0] * x - x * y, p[1] * x * y - y], (by_state @ slopes + by_p).ravel()])

    times = np.linspace(0, 4, 20)
    start = np.array([1.0, 1, 0, 0, 0, 0])
    found = solve_ivp(both, (0, 4), start, t_eval=times, rtol=rtol, atol=1e-2 * rtol).y
    alone = solve_ivp(lambda t, s: both(t, np.concatenate([s, np.zeros(4)]))[:2], (0, 4), start[:2], t_eval=times,
                      rtol=rtol, atol=1e-2 * rtol).y  # fmt: skip
    return alone[0], np.stack([found[2], slope_factor * found[3]], axis=1)


@pytest.mark.parametrize("rtol", [1e-5, pytest.param(1e-6, marks=pytest.mark.slow)])
def test_sensitivities_of_an_integrator_are_judged_by_its_tolerance(rtol):
    """A right gradient and a right Jacobian are not accused; five percent in one column are seen."""
    point, wanted = np.array([1.0, 0.9]), predator_and_prey([1.2, 0.7], 1e-8)[0]
    tolerance = Tolerance.for_solver(rtol)

    def outputs(p):
        return predator_and_prey(p, rtol)[0] - wanted

    for factor, verdict in ((1.0, Verdict.GOOD), (1.05, Verdict.WORRY)):

        def jacobian(p, factor=factor):
            return predator_and_prey(p, rtol, factor)[1]

        def gradient(p, jacobian=jacobian):
            return outputs(p) @ jacobian(p)

        of_outputs = check_jacobian(outputs, point, jacobian, tolerance=tolerance)
        of_loss = check_gradients(lambda p: 0.5 * np.sum(outputs(p) ** 2), point, gradient, tolerance=tolerance)
        assert (of_outputs.verdict, of_loss.verdict) == (verdict, verdict)
        assert "l2_missing" not in codes(of_loss)


@pytest.mark.parametrize("rtol", [0.0, 1e-3, -1e-6, float("nan")])
def test_a_solver_that_is_too_inexact_is_refused(rtol):
    with pytest.raises(InvalidProblem, match="Try 1e-6"):
        Tolerance.for_solver(rtol)
