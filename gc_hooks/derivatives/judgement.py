"""What is measured of a Jacobian at one point: directions, a second look at what seems wrong, and the wrong entries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gc_hooks._typing import Array, Generator
from gc_hooks.arrays.gradients import computed_in_float32
from gc_hooks.derivatives.gauge import Along, Gauge
from gc_hooks.derivatives.linear import Linear
from gc_hooks.derivatives.naming import Names, diagnose
from gc_hooks.derivatives.point import Point
from gc_hooks.derivatives.rows import (
    MORE_DIRECTIONS,
    MOST_DIRECTIONS,
    WRITTEN_OUT,
    WRITTEN_OUT_BY_CENTRAL,
    Judged,
    Located,
    along_parameters,
    few_in_each_row,
    judge,
    write_out,
)
from gc_hooks.numerics import EPS_OF_FLOAT32
from gc_hooks.problem import BudgetSpent
from gc_hooks.report.diagnosis import Code, Diagnosis
from gc_hooks.report.verdict import Precision, Tolerance, Verdict

LEAST_WEIGHT, MOST_WEIGHT = 2.0**-10, 8.0
"""How far a direction goes along a parameter: at least a part of its own size, so that steps are not lost in rounding,
and at most eight times it or its array's scale."""

LARGEST_COMPARED = 4096
"""Columns up to which two products are compared column by column."""


class Judgement:
    """What was measured of a Jacobian at one point."""

    def __init__(
        self, point: Point, linear: Linear, tolerance: Tolerance, generator: Generator, what: str = "Jacobian"
    ) -> None:
        self.point, self.tolerance, self.generator, self.what = point, tolerance, generator, what
        of_values = float(np.finfo(point.here.dtype).eps)
        if computed_in_float32(point.here):
            of_values = max(of_values, EPS_OF_FLOAT32)
        precision = max(linear.precision(), point.problem.precision, of_values)
        here = point.here.astype(np.float64)
        elsewhere = (lambda problem: replace(point, problem=problem).linear()) if point.is_function else None
        self.gauge = Gauge(point.problem, here, point.inputs, linear, precision, of_values, elsewhere)
        self.names = Names(point.outputs, point.inputs, what)
        self.weights = self._weights(linear)
        self.alongs: list[Along] = []
        self.judged: Judged | None = None
        self.located = Located((), np.array([], dtype=int))
        self.in_parameter: dict[str, Array] = {}
        self.accused_by: dict[str, str] = {}  # parameters that are wrong beside their slopes, each with the reason
        self.diagnoses: list[Diagnosis] = []
        self.noted: list[str] = list(point.notes)

    def _weights(self, linear: Linear) -> Array:
        """Return how far directions go along each parameter, so that every column counts alike.

        Parameters in one array may have other units, which their scale does not show; the columns do. What all of them
        change the outputs by is what is typical of a parameter that is changed by its own size.
        """
        scales, sizes = np.empty(self.point.inputs.size), np.empty(self.point.inputs.size)
        for name, place in self.point.inputs.slices():
            parameter = self.point.problem.by_name[name]
            scales[place], sizes[place] = parameter.scale, np.abs(parameter.value).reshape(-1)
        columns = linear.column_sizes()
        if not np.all(np.isfinite(columns)):
            return scales
        sizes = np.where(sizes > 0, sizes, scales)
        natural = columns * sizes
        if not np.any(natural > 0):
            return scales
        unknown = np.maximum(sizes, np.minimum(np.median(sizes), scales))
        target = float(np.median(natural[natural > 0]))
        weights = np.divide(target, columns, out=unknown, where=columns > 0)
        return np.asarray(np.clip(weights, LEAST_WEIGHT * sizes, MOST_WEIGHT * np.maximum(sizes, scales)))

    @property
    def precision(self) -> Precision:
        """Return the arithmetic in which the verdicts hold."""
        return Precision.of(self.gauge.precision)

    @property
    def kinks(self) -> Array:
        """Return which outputs have a kink at the point."""
        return np.asarray(np.any([along.kinks for along in self.alongs], axis=0))

    @property
    def has_kinks(self) -> bool:
        """Return whether a kink keeps an output from being judged."""
        return self.judged is not None and bool(np.any(self.kinks & (self.judged.verdicts != Verdict.GOOD)))

    def judge(self) -> None:
        """Measure until every row is judged or the budget is spent, and name what is wrong."""
        try:
            self._measure()
            self._products()
            if len(self._judge().wrong):
                self._locate()
        except BudgetSpent:
            self.noted.append(
                f"{self.point.problem.meter.budget.capitalize()} was spent before the check was complete."
            )
        if self.judged is not None and len(self.judged.wrong):
            self.diagnoses += diagnose(self.gauge, self.alongs, self.judged, self.located, self.names)

    def _judge(self) -> Judged:
        norms = 2 * self.gauge.linear.row_norms(self.weights)
        self.judged = judge(self.alongs, norms / 2, self.tolerance, self.precision)
        return self.judged

    def _another(self) -> Along:
        vector = self.weights * self.generator.standard_normal(self.weights.size)
        along = self.gauge.measure(vector)
        self.alongs.append(along)
        return along

    def _measure(self) -> None:
        """Measure one direction; look again at rows that seem wrong, and measure more where it is too vague."""
        self._another()
        judged = self._judge()
        if not np.all(self.gauge.exact):
            self.point.require_deterministic()
        has_looked = len(judged.wrong) > 0
        if has_looked:
            if np.all(self.gauge.exact):
                self.point.require_deterministic()
            judged = self._look_again(judged)
        while len(self.alongs) <= MORE_DIRECTIONS and not len(judged.wrong) and not self.has_kinks:
            vague = (judged.verdicts == Verdict.INCONCLUSIVE) & np.isfinite(self.alongs[0].errors)
            if not np.any(vague):
                break
            self._another()
            judged = self._judge()
        if len(judged.wrong) and not has_looked:
            self._look_again(judged)

    def _look_again(self, judged: Judged) -> Judged:
        """Measure rows that seem wrong in another way, along every direction so far."""
        again = [self.gauge.looked_at_again(along, judged.wrong, self.generator) for along in self.alongs]
        self.alongs = again
        return self._judge()

    def _locate(self) -> None:
        """Find the wrong entries: column by column, or from residuals along random directions."""
        gauge = self.gauge
        looked_at = self._judge().wrong
        while len(self.alongs) <= MORE_DIRECTIONS:
            self._another()
        judged = self._judge()
        if len(np.setdiff1d(judged.wrong, looked_at)):  # rows that only these directions accuse
            judged = self._look_again(judged)
        if not len(judged.wrong):
            return
        is_exact = bool(np.all(gauge.exact))
        if self.weights.size <= (WRITTEN_OUT if is_exact else WRITTEN_OUT_BY_CENTRAL):
            self.located = write_out(gauge, self.weights, judged, self.tolerance)
            return
        self.located = few_in_each_row(gauge, self.alongs, judged.wrong)
        while is_exact and len(self.located.unexplained) and len(self.alongs) < MOST_DIRECTIONS:
            self._another()
            self.located = few_in_each_row(gauge, self.alongs, judged.wrong)
        unexplained = self.located.unexplained
        if len(unexplained) and len(self.point.inputs.shapes) > 1:
            self.in_parameter = along_parameters(
                gauge, unexplained, self.weights, judged, self.tolerance, self.generator
            )

    def _products(self) -> None:
        """Compare the product with the transpose with the slopes, and with the other product; nothing is evaluated."""
        linear, along = self.gauge.linear, self.alongs[0]
        if linear.backward is None or linear.forward is None:
            return
        upstream = self.generator.standard_normal(linear.shape[0])
        gradient = linear.backward(upstream)
        terms = math.sqrt(float(np.sum(np.square(upstream * along.given)))) + float(
            np.linalg.norm(gradient * self.weights)
        )
        forward, backward = float(upstream @ along.given), float(gradient @ along.vector)
        if abs(forward - backward) <= 2 * self.tolerance.good * terms or not math.isfinite(terms):
            return
        measured = float(upstream @ along.slopes)
        bar = float(np.sum(np.abs(upstream) * along.errors)) + 2 * self.tolerance.good * terms
        message = f"The two products are not of one matrix: u.(J v) is {forward:.6g}, (J^T u).v is {backward:.6g}."
        right = "rmatvec (vjp)" if abs(backward - measured) <= bar else ""
        right = "matvec (jvp)" if abs(forward - measured) <= bar else right
        evidence = f"The slope is {measured:.6g}"
        evidence += f", so that {right} is right." if right else ", so that both are wrong."
        columns: list[int] = []
        if abs(forward - measured) <= bar and linear.shape[1] <= LARGEST_COMPARED:
            expected = upstream @ linear.columns(range(linear.shape[1]))
            beyond = np.abs(expected - gradient) * self.weights > 2 * self.tolerance.good * terms
            columns = [int(column) for column in np.flatnonzero(beyond)]
            evidence += f" They differ in {self.names.columns(columns)}." if columns else ""
        advice = "This usually means a transpose that is missing in one. Try rmatvec(u) = A.T @ u for each factor A of "
        advice += "matvec, in the opposite order."
        where = self.names.parameters(columns) or tuple(self.point.inputs.shapes)
        if abs(backward - measured) > bar:
            self.accused_by = dict.fromkeys(where, "its product with the transpose is wrong")
        self.diagnoses.append(Diagnosis(Code.NOT_ADJOINT, where, message, evidence, advice))
