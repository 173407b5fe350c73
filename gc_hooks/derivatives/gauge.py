"""The slopes of all outputs along one direction: one complex evaluation, or central differences that outputs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.arrays.norms import root_mean_square
from gc_hooks.derivatives.linear import Layout, Linear
from gc_hooks.numerics import (
    ASSUMED_ROUNDING,
    EPS,
    EPS_OF_FLOAT32,
    FINEST_TOP,
    JITTERED_SLOPES,
    RATIO,
    SLOPE_ROUNDINGS,
    TRIAL_STEPS,
    TRUNCATION,
)
from gc_hooks.problem import BudgetSpent, Problem
from gc_hooks.report.notes import Refusal, refused
from gc_hooks.report.verdict import Status
from gc_hooks.slopes.instrument import beside
from gc_hooks.slopes.methods import Ladder, is_rough, noise_error
from gc_hooks.slopes.noise import measure_noise
from gc_hooks.slopes.probes import Direction

FIRST_DIGITS = 1e-2
"""Relative to a row's slope. Where complex step is wrong (``abs``, a cast) it is wrong in the first digit, so that a
central difference of two digits that agrees with it confirms it."""

LEAST_JUMP = 1e-5
"""Relative to a slope: smaller jumps between its two sides change no verdict, and rounding makes them."""

NEARBY = 2.0**-14
"""In units of the scales. Where rounding is measured of a Jacobian that is a function: near enough for a mistake to be
nearly the same there, and far enough for every number on the way to be rounded anew."""

NEARLY, ROUGHLY = 1e-5, 0.1
"""Relative: a central difference that is roughly complex step, with which the Jacobian nearly agrees, is noisy."""

COMPLEX_STEP = 2.0**-100


class Values:
    """The outputs along a line; evaluations at the same step are shared by all of them."""

    def __init__(self, problem: Problem, here: Array, inputs: Layout, vector: Array) -> None:
        self.problem = problem
        self.here = here
        self.direction = Direction(inputs.split(vector))
        self.known: dict[complex, Array] = {}

    def at(self, step: complex) -> Array:
        """Return all outputs at a step; NaN where the function is not defined."""
        if step not in self.known:
            values = np.reshape(self.problem.evaluate(0, self.direction.changes(self.problem.point, step)), -1)
            if values.shape != self.here.shape:
                values = np.full(self.here.shape, math.nan)
            self.known[step] = values
        return self.known[step]

    def central_difference(self, step: float) -> Array:
        """Return the central differences of all outputs at one step."""
        return np.asarray((self.at(step) - self.at(-step)) / (2 * step))

    def row(self, row: int) -> _Row:
        return _Row(self, row)


@dataclass(frozen=True)
class _Row:
    """One output along a line, for the methods of a scalar loss."""

    values: Values
    row: int

    @property
    def value(self) -> float:
        return float(self.values.here[self.row])

    def __call__(self, t: complex) -> float:
        return float(self.values.at(t)[self.row])

    def realised(self, t: float) -> float:
        return t  # the rounding of single entries averages out


class _SharedLadder(Ladder):
    """A ladder whose steps are those of every other one, so that all outputs use the same evaluations."""

    def __init__(self, line: _Row, noise: float) -> None:
        super().__init__(line, 1.0, noise)
        rungs = math.ceil(math.log(self.step / FINEST_TOP, RATIO) - 1e-9)
        self.step = FINEST_TOP * RATIO**rungs


@dataclass(frozen=True, eq=False)
class Along:
    """What was measured along one direction, for every output."""

    vector: Array
    given: Array  # the product of the Jacobian that is judged
    sizes: Array  # what its terms add up to
    slopes: Array
    errors: Array
    kinks: Array  # where the slopes to both sides differ
    values: Values

    @property
    def residuals(self) -> Array:
        return np.asarray(self.given - self.slopes)


@dataclass(eq=False)
class Gauge:
    """A function at a point, the Jacobian that is judged there, and how each output is measured."""

    problem: Problem
    here: Array  # the outputs at the point
    inputs: Layout
    linear: Linear
    precision: float  # machine epsilon of the arithmetic that made the Jacobian
    precision_of_values: float = EPS  # that of the outputs
    elsewhere: Callable[[Problem], Linear] | None = None  # the Jacobian at another point, where it is a function
    exact: Array | None = None  # the outputs of which complex step can be trusted; None before the first direction
    noise: Array = field(init=False)
    typical: Array = field(init=False)  # the size of each output's slopes
    rounding: Array = field(init=False)  # of both sides along such directions, where terms cancel; zero until measured
    refusal: str = ""

    def __post_init__(self) -> None:
        self.noise = np.full(self.here.shape, math.nan)
        self.typical, self.rounding = np.zeros(self.here.shape), np.zeros(self.here.shape)

    @property
    def method(self) -> str:
        """Return the name of the method, or of both."""
        if self.exact is None:
            return ""
        names = ["complex_step"] * bool(np.any(self.exact)) + ["central"] * (not np.all(self.exact))
        return " + ".join(names)

    def measure(self, vector: Array) -> Along:
        """Measure the slopes along a direction, whose entries carry the parameters' scales."""
        values = Values(self.problem, self.here, self.inputs, vector)
        given, sizes = self.linear.times(vector), self.linear.sizes(vector)
        trial, exact = self.exact is None, self.exact
        slopes = np.full(self.here.shape, math.nan)
        if trial or np.any(exact):
            slopes = self._complex(values)
        typical = np.maximum(np.maximum(np.abs(slopes), np.abs(given)), sizes)
        errors = ASSUMED_ROUNDING * typical
        if trial:
            exact = self._confirmed(values, slopes, errors, typical)
        kinks = np.zeros(self.here.shape, dtype=bool)
        others = np.flatnonzero(~(exact & np.isfinite(slopes)))
        if len(others):
            found, bars, kinks = self.ladders(values, others)
            agree = np.abs(slopes - found) <= bars + errors
            confirmed = agree & (bars <= FIRST_DIGITS * np.abs(slopes))
            both = np.abs(given - slopes) <= NEARLY * np.abs(slopes)
            confirmed |= both & (np.abs(slopes - found) <= ROUGHLY * np.abs(slopes))
            confirmed &= ~kinks & trial
            exact = exact | confirmed
            replaced = np.isin(np.arange(len(slopes)), others) & ~confirmed
            if trial and np.any(replaced & np.isfinite(slopes) & ~agree) and not self.refusal:
                worst = int(np.argmax(np.where(replaced & ~agree, np.nan_to_num(np.abs(slopes - found)), -1.0)))
                self.refusal = refused(Refusal.DISAGREES, f"{slopes[worst]:.6g}", f"{found[worst]:.6g}")
            slopes, errors = np.where(replaced, found, slopes), np.where(replaced, bars, errors)
            kinks &= replaced
        if self.roughly:
            self.precision = max(self.precision, EPS_OF_FLOAT32)
        if trial:
            self.exact, self.typical = np.asarray(exact), np.nan_to_num(typical)
        errors = np.where((given == 0) & (slopes == 0) & np.isfinite(errors), 0.0, errors)
        errors = errors + self.rounding + ASSUMED_ROUNDING / EPS * self.precision * np.maximum(sizes, np.abs(given))
        return Along(vector, given, sizes, slopes, errors, kinks, values)

    def _complex(self, values: Values) -> Array:
        """Return the slopes by complex step; NaN where the function refuses it."""
        try:
            shifted = values.at(complex(0.0, COMPLEX_STEP))
        except BudgetSpent:
            raise
        except Exception as error:  # whatever a function does with a complex number is a refusal
            self.refusal = refused(Refusal.COMPLEX_TYPE, type(error).__name__)
            return np.full(self.here.shape, math.nan)
        slopes = np.imag(shifted) / COMPLEX_STEP
        return np.where(np.isfinite(shifted), slopes, math.nan)

    def _confirmed(self, values: Values, slopes: Array, errors: Array, typical: Array) -> Array:
        """Return for which outputs a central difference at one small step agrees with complex step."""
        if not np.any(np.isfinite(slopes)):
            return np.zeros(self.here.shape, dtype=bool)
        step = TRIAL_STEPS[0]
        alike = typical
        if self.linear.matrix is None:  # one product may be small by chance: the other rows tell what is typical
            alike = np.maximum(typical, root_mean_square(typical[np.isfinite(typical)]))
        bars = noise_error(2 * self.precision_of_values, step) * np.abs(self.here) + TRUNCATION * alike
        found = values.central_difference(step)
        agrees = np.abs(slopes - found) <= bars + errors
        flat = (slopes == 0) & (found == 0)
        return np.asarray(agrees & ((bars <= FIRST_DIGITS * typical) | flat))

    def ladders(self, values: Values, rows: Iterable[int]) -> tuple[Array, Array, Array]:
        """Return slopes, errors and kinks by central differences, for some outputs; NaN for the others."""
        slopes, errors = np.full(self.here.shape, math.nan), np.full(self.here.shape, math.inf)
        kinks = np.zeros(self.here.shape, dtype=bool)
        for row in rows:
            line = values.row(row)
            noise = self.noise[row]
            if math.isnan(noise):
                self.noise[row] = noise = measure_noise(line)
            if math.isnan(noise):  # an output that does not change at all: what float32 may hide of a slope
                slopes[row], errors[row] = 0.0, 4 * EPS_OF_FLOAT32 * root_mean_square(self.here)
                continue
            ladder = _SharedLadder(line, noise)
            while ladder.worth_another():
                ladder.descend()
            estimate = ladder.estimate()
            # An output that changes by less than its last place is rounded alike at all steps.
            least = noise_error(EPS, estimate.step) * abs(line.value)
            slopes[row], errors[row] = estimate.value, max(estimate.error, least)
            kinks[row] = estimate.status is Status.KINK
        return slopes, errors, kinks

    def looked_at_again(self, along: Along, rows: Array, generator: Generator) -> Along:
        """Return the measurement with what may excuse some rows: rounding, a kink, a central difference that differs.

        Costs two complex evaluations and two real ones; a ladder only for rows whose residual noise may hide.
        """
        assert self.exact is not None
        exact = rows[self.exact[rows]]
        if not len(exact):
            return along
        slopes, errors, kinks = along.slopes.copy(), along.errors.copy(), along.kinks.copy()
        jumps, noise = self._jumps(along.values)
        kinks[exact] = (jumps > noise + LEAST_JUMP * np.abs(slopes))[exact]
        # A slope of zero may be an output that moves in jumps, or one that complex step takes for a constant.
        found = along.values.central_difference(TRIAL_STEPS[0])
        is_nearer = np.abs(found - along.given) < np.abs(found - slopes)
        hidden = (np.abs(along.residuals) <= noise) | (slopes == 0) | is_nearer
        unclear = exact[(hidden & ~kinks)[exact]]
        if len(unclear):
            found, bars, met = self.ladders(along.values, unclear)
            kinks |= met
            # A function that complex step gets wrong without a trace is one that central differences get right.
            doubted = np.isfinite(found) & (np.abs(found - slopes) > bars + errors)
            self.exact = self.exact & ~doubted
            slopes[doubted], errors[doubted] = found[doubted], bars[doubted]
        moves = np.zeros(self.here.shape)
        for _ in range(JITTERED_SLOPES):
            if self.elsewhere is None:
                place, given = self.problem.jittered(generator), along.given
            else:
                place = beside(self.problem, generator, NEARBY)
                given = self.elsewhere(place).times(along.vector)
            near = Values(place, self.here, self.inputs, along.vector)
            moves = np.hypot(moves, np.nan_to_num(given - self._complex(near) - along.residuals))
        rounding = SLOPE_ROUNDINGS * moves / math.sqrt(JITTERED_SLOPES) * max(1.0, self.precision / EPS)
        self.rounding = np.maximum(self.rounding, np.where(self.exact, rounding, 0.0))
        errors += self.rounding
        return replace(along, slopes=slopes, errors=errors, kinks=kinks)

    def _jumps(self, values: Values) -> tuple[Array, Array]:
        """Return how far the slopes to both sides differ, and the noise of that: without a kink it falls with the step.

        Steps of the trial are small enough to meet no kink but those at the point.
        """
        asymmetries = []
        for step in TRIAL_STEPS:
            asymmetries.append((values.at(step) - 2 * self.here + values.at(-step)) / step)
        ratio = TRIAL_STEPS[0] / TRIAL_STEPS[1]
        jumps = np.abs(ratio * asymmetries[1] - asymmetries[0]) / (ratio - 1)
        return jumps, 4 * noise_error(2 * self.precision_of_values, TRIAL_STEPS[1]) * np.abs(self.here)

    @property
    def roughly(self) -> bool:
        """Return whether the function computes in float32 somewhere, as far as its noise was measured.

        Outputs whose terms cancel are noisy for their size, and not for that of the others.
        """
        known = np.isfinite(self.noise)
        sizes = np.hypot(self.here, self.typical)[known]
        return is_rough(root_mean_square(self.noise[known]), root_mean_square(sizes))
