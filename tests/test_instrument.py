"""Making the instrument ready: which method is trusted with which loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gc_hooks import Verdict, central, check_gradients, complex_step, entries, fixed_step
from gc_hooks.problem.validate import build_problem
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.instrument import untrained
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Estimate
from gc_hooks.slopes.probes import automatic

W = np.array([0.7, -1.3, 0.4, 2.1])
B = np.array([[0.3, -0.8], [1.2, 0.5]])
POINT = {"w": W, "B": B}


def softmax_loss(p):
    z = p["w"].reshape(2, 2) @ p["B"]
    z = z - z.max()
    return np.mean(np.log(np.exp(z).sum(axis=1)) - z[:, 0])


def buffered(p):
    buffer = np.zeros(4)
    buffer[:] = p["w"]
    return np.sum(buffer**2) + np.sum(p["B"] ** 2)


ANALYTIC = {
    "polynomial": lambda p: np.sum(p["w"] ** 3) + p["w"][0] * np.sum(p["B"] ** 2),
    "exp, log, tanh": lambda p: np.sum(np.tanh(p["w"])) + np.log(np.sum(np.exp(p["B"]))),
    "softmax": softmax_loss,
    "relu": lambda p: np.sum(np.maximum(p["w"], 0) ** 2) + np.sum(p["B"] @ p["B"]),
    "where": lambda p: np.sum(np.where(p["w"] > 0, p["w"], 0.1 * p["w"])) + np.sum(p["B"] ** 2),
    "sort": lambda p: np.sort(p["w"])[-1] ** 2 + np.sum(p["B"] ** 3),
    "max": lambda p: max(p["w"]) ** 2 + np.max(p["B"]) ** 2 + np.clip(p["w"][0], 0.0, 1.0),
    "einsum": lambda p: np.einsum("ij,jk->", p["B"], p["B"]) + np.sum(p["w"] ** 2),
    "scaled by 1e-6": lambda p: 1e-6 * (np.sum(p["w"] ** 3) + np.sum(np.sin(p["B"]))),
    "scaled by 1e6": lambda p: 1e6 * (np.sum(p["w"] ** 3) + np.sum(np.sin(p["B"]))),
}
NOT_ANALYTIC = {
    "abs": lambda p: np.sum(np.abs(p["w"])) + np.sum(p["B"] ** 2),
    "norm": lambda p: np.linalg.norm(p["w"]) + np.sum(p["B"] ** 2),
    "var": lambda p: np.var(p["w"]) + np.sum(p["B"] ** 2),
    "std": lambda p: np.std(p["B"]) + np.sum(p["w"] ** 2),
    "float cast": lambda p: np.sum(p["w"].astype(float) ** 2) + np.sum(p["B"] ** 2),
    "float buffer": buffered,
    "float()": lambda p: float(np.sum(p["w"] ** 2)) + np.sum(p["B"] ** 2),
    "real": lambda p: np.sum(p["w"].real ** 2) + np.sum(p["B"] ** 2),
    "math": lambda p: math.sin(p["w"][0]) + np.sum(p["B"] ** 2),
    "vdot": lambda p: np.vdot(p["w"], p["w"]).real + np.sum(p["B"] ** 2),
    "abs squared": lambda p: np.sum(np.abs(p["w"]) ** 2) + np.sum(p["B"] ** 2),
    "conjugate": lambda p: np.sum(p["w"].conj() * p["w"]).real + np.sum(p["B"] ** 2),
    "logaddexp": lambda p: np.sum(np.logaddexp(0, p["w"])) + np.sum(p["B"] ** 2),
    "small share": lambda p: 1e-4 * np.sum(np.abs(p["w"])) + np.sum(p["B"] ** 2),
    "real only": lambda p: np.sum(p["w"] ** 2 if np.isrealobj(p["w"]) else p["w"] * np.nan) + np.sum(p["B"] ** 2),
}


def slopes(loss, point=POINT):
    """The slopes by a plain central difference, good to about nine digits."""
    grads = {}
    for name, array in point.items():
        grads[name] = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            ahead, behind = ({**point, name: array.copy()} for _ in range(2))
            ahead[name][index] += 1e-6
            behind[name][index] -= 1e-6
            grads[name][index] = (loss(ahead) - loss(behind)) / 2e-6
    return grads


def instrument(loss, method=None, params=POINT, seed=0, **options):
    problem = build_problem(loss, params, params, **options)
    return Slopes.prepare(problem, method, np.random.default_rng(seed)).instruments[0]


def measured_entries(problem, method, rng):
    """Return the slopes with every entry measured."""
    slopes = Slopes.prepare(problem, method, rng)
    measurements = Measurements.empty(problem, slopes.rounding(rng))
    slopes.measure(entries(problem, rng), measurements)
    return measurements


@pytest.mark.parametrize("loss", ANALYTIC.values(), ids=ANALYTIC.keys())
@pytest.mark.parametrize("method", [None, complex_step])
def test_complex_step_is_used_where_it_can_be_trusted(loss, method):
    """A loss that is analytic in NumPy's sense is measured by complex step, whatever the directions of its test."""
    tools = [instrument(loss, method, seed=seed) for seed in range(10)]
    assert {(tool.method.__name__, tool.notes) for tool in tools} == {("complex_step", ())}


@pytest.mark.parametrize("loss", NOT_ANALYTIC.values(), ids=NOT_ANALYTIC.keys())
@pytest.mark.parametrize("method", [None, complex_step])
def test_complex_step_is_refused_where_it_fails_silently(loss, method):
    """Absolute values, casts and buffers of floats are found by the self-test, and the note says what is used."""
    for seed in range(10):
        tool = instrument(loss, method, seed=seed)
        assert tool.method is central
        assert tool.notes[0].startswith("Complex step was refused: ")
        assert tool.notes[0].endswith("Measured by central differences.")


@pytest.mark.parametrize("loss", [*ANALYTIC.values(), *NOT_ANALYTIC.values()], ids=[*ANALYTIC, *NOT_ANALYTIC])
def test_either_way_the_measured_slopes_are_right(loss):
    """With the method that was chosen, every slope lies within its bar of the truth."""
    problem, rng = build_problem(loss, POINT, POINT), np.random.default_rng(0)
    measurements = measured_entries(problem, None, rng)
    for name, truth in slopes(loss).items():
        found = measurements.parameters[name].entries(truth)
        assert np.all(found.residuals <= found.errors + 1e-8 * np.abs(truth).max() + 1e-9 * abs(problem.value))


def flat_here(penalty):
    """A loss that is exactly zero, with its surroundings, where all weights are negative."""
    return lambda w: penalty(np.maximum(w, 0))


@pytest.mark.parametrize(
    ("penalty", "name"),
    [(lambda a: np.sum(a**2), "complex_step"), (lambda a: np.sum(a * np.abs(a)), "central")],
)
def test_on_flat_ground_the_code_is_tried_elsewhere(penalty, name):
    """Where nothing moves, blindness and a slope of zero look alike: the self-test goes where there is a slope."""
    assert instrument(flat_here(penalty), params=-np.abs(W)).method.__name__ == name


def test_a_loss_that_is_flat_everywhere_is_left_to_central_differences():
    """Without any slope to agree on, complex step is not trusted."""
    tool = instrument(lambda p: 3.0)
    assert tool.method is central
    assert "too vague" in tool.notes[0]
    assert tool.noise == math.inf


def test_untrained_keeps_the_scales_and_nothing_else():
    """The reference network has the same entries, shuffled and with signs drawn anew."""
    problem = build_problem(ANALYTIC["polynomial"], {"w": np.arange(1.0, 101), "B": B}, POINT)
    moved = untrained(problem, np.random.default_rng(0)).point["w"]
    assert np.sort(np.abs(moved)).tolist() == problem.point["w"].tolist()
    assert 20 < np.sum(moved < 0) < 80
    assert np.abs(moved).tolist() != problem.point["w"].tolist()


@pytest.mark.parametrize(
    "method", [central, fixed_step(1e-5), lambda line, *, scale, noise: Estimate(1.0, 0.0, 0.1, 0)]
)
def test_the_method_that_was_asked_for_is_used(method):
    """Central differences, a fixed step and a user's own method are taken without a word."""
    tool = instrument(ANALYTIC["softmax"], method)
    assert getattr(tool.method, "function", tool.method) is method
    assert tool.notes == ()
    assert tool.method.__name__ == getattr(method, "__name__", repr(method))


def test_a_method_without_a_name_is_called_by_its_looks():
    """Any callable is a method; the report names it as well as it can."""

    class Mine:
        def __call__(self, line, *, scale, noise):
            return Estimate(1.0, 0.0, 0.1, 0)

        def __repr__(self):
            return "Mine()"

    assert instrument(ANALYTIC["softmax"], Mine()).method.__name__ == "Mine()"


@pytest.mark.parametrize(("method", "notes"), [(None, 0), (central, 0), (complex_step, 1)])
def test_in_place_arrays_are_measured_by_central_differences(method, notes):
    """Real arrays hold no complex steps; who asked for them is told."""
    mine = W.copy()
    tool = instrument(lambda: np.sum(mine**2), method, params=mine, in_place=True)
    assert tool.method is central
    assert len(tool.notes) == notes


def test_each_term_has_its_own_instrument():
    """A penalty that is not analytic does not take complex step away from the data's part."""
    problem = build_problem(ANALYTIC["polynomial"], POINT, POINT, penalty=NOT_ANALYTIC["norm"])
    slopes = Slopes.prepare(problem, None, np.random.default_rng(0))
    assert [tool.method for tool in slopes.instruments] == [complex_step, central]
    assert slopes.method == "complex_step + central"


@pytest.mark.parametrize(
    "branch",
    [
        lambda w: 1 / 0,
        lambda w: w * np.nan,
        lambda w: w.astype(float) ** 2,
        lambda w: np.logaddexp(w, w),
    ],
)
def test_a_line_on_which_complex_step_fails_is_measured_by_central_differences(branch):
    """The self-test is passed and a single entry later meets code that takes no complex numbers: no error, no NaN."""

    def loss(w):
        late = np.iscomplexobj(w) and np.count_nonzero(w.imag) == 1
        return np.sum(branch(w) if late else w**2)

    report = check_gradients(loss, W, 2 * W, probes=automatic)
    assert report.method == "complex_step"
    assert report.ok


def test_an_interrupt_does_not_hide_in_the_self_test():
    """An interrupt in the middle of the self-test is no refusal of complex step."""

    def loss(p):
        if np.iscomplexobj(p["w"]):
            raise KeyboardInterrupt
        return np.sum(p["w"] ** 2)

    with pytest.raises(KeyboardInterrupt):
        check_gradients(loss, POINT, POINT)


def test_what_rounding_leaves_of_a_network_fitted_to_the_last_digit_is_no_slope():
    """Its gradient moves by itself when the parameters move by their own rounding: the bars are as wide, and nothing is
    good or accused; a single parameter that jumps stands at a kink and says nothing of rounding."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((9, 6)), rng.standard_normal((6, 4))
    y = np.tanh(x @ w)

    def loss(p):
        return np.sum((np.tanh(x @ p["w"]) - y) ** 2)

    def gradient(p):
        h = np.tanh(x @ p["w"])
        return {"w": x.T @ (2 * (h - y) * (1 - h**2))}

    fitted = {"w": w * (1 + 1e-16 * rng.standard_normal(w.shape))}
    problem = build_problem(loss, fitted, gradient)
    rounding = Slopes.prepare(problem, complex_step, rng).rounding(rng)
    assert rounding.floors.get("w", 0.0) > 1e-2 * problem["w"].gradient_norm
    report = check_gradients(loss, fitted, gradient)
    assert report.verdict in (Verdict.INCONCLUSIVE, Verdict.GOOD)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long double is no longer than double here")
@pytest.mark.parametrize(("as_function", "widest"), [(True, 80), (False, 400)])
def test_bars_of_complex_step_hold_and_are_not_much_wider_than_the_errors(as_function, widest):
    """Against slopes in extended precision, in a network whose biases are still zero.

    The median is 23 with NumPy 2 and 41 with NumPy 1.26, whose own functions are more exact.
    """
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((16, 5)), rng.standard_normal((16, 2))
    point = {"V": rng.standard_normal((5, 7)), "b": np.zeros(7), "W": rng.standard_normal((7, 2))}

    def loss(p):
        return np.mean((np.tanh(x @ p["V"] + p["b"]) @ p["W"] - y) ** 2)

    def gradient(p):
        h = np.tanh(x @ p["V"] + p["b"])
        d = 2 * (h @ p["W"] - y) / y.size
        below = d @ p["W"].T * (1 - h**2)
        return {"V": x.T @ below, "b": below.sum(axis=0), "W": h.T @ d}

    exact = {name: [exact_slope(loss, point, name, k) for k in range(a.size)] for name, a in point.items()}
    problem = build_problem(loss, point, gradient if as_function else gradient(point))
    ratios = []
    for _ in range(9):  # a single draw of jitters moves the median by a factor of two
        measurements = measured_entries(problem, complex_step, rng)
        for name, truth in exact.items():
            measured = measurements.parameters[name].entries(problem.grads[name])
            floor = measurements.rounding.floors.get(name, 0.0) / np.sqrt(len(truth))
            errors = measured.total_errors(measurements.rounding, floor)
            ratios.extend(errors / np.maximum(abs(measured.slopes - truth), 1e-30))
    assert min(ratios) > 1
    assert np.median(ratios) < widest


def exact_slope(loss, point, name, index):
    point = {other: array.astype(np.clongdouble) for other, array in point.items()}
    point[name].flat[index] += np.clongdouble(1j) * np.longdouble(2.0) ** -200
    return float(np.imag(loss(point)) / np.longdouble(2.0) ** -200)
