"""What a Hessian is beyond the Jacobian of a gradient: symmetric, and not Gauss-Newton's."""

from __future__ import annotations

from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.derivatives.gauge import Gauge
from gc_hooks.derivatives.judgement import Judgement
from gc_hooks.derivatives.linear import Linear
from gc_hooks.derivatives.point import Function, Point
from gc_hooks.numerics import EPS
from gc_hooks.problem import BudgetSpent, Meter, rebuild_params
from gc_hooks.report.diagnosis import Code, Diagnosis

FITS = 1e-6
"""Relative: how near Gauss-Newton's products have to come to those of the Hessian, all with one factor."""


class HessianJudgement(Judgement):
    """A Jacobian of a gradient that also has to be symmetric."""

    def __init__(self, *arguments: Any, residuals: Function | None = None) -> None:
        super().__init__(*arguments)
        self.residuals = residuals

    def judge(self) -> None:
        """Judge it as a Jacobian, then its symmetry, and whether it is Gauss-Newton's."""
        super().judge()
        if self.judged is None or self.gauge.linear.shape[0] != self.gauge.linear.shape[1]:
            return
        try:
            approximation = self._gauss_newton()
        except BudgetSpent:
            approximation = None
        if approximation is not None:
            self.diagnoses = [approximation]
        elif self._is_asymmetric():
            self._name_asymmetry()

    def _is_asymmetric(self) -> bool:
        """Compare the products with two random vectors from both sides; nothing is evaluated."""
        linear = self.gauge.linear
        first, second = self.weights * self.generator.standard_normal((2, self.weights.size))
        one, other = second * linear.times(first), first * linear.times(second)
        terms = float(np.linalg.norm(one) + np.linalg.norm(other))
        return bool(abs(one.sum() - other.sum()) > 2 * max(self.tolerance.good, 1e3 * self.gauge.precision) * terms)

    def _name_asymmetry(self) -> None:
        """Say which of two entries is wrong; where the slopes agree with it, no function has this gradient."""
        assert self.judged is not None
        whole = tuple(self.point.inputs.shapes)
        if not len(self.judged.wrong):
            self.accused_by = dict.fromkeys(whole, "not symmetric")
            message = "The Hessian agrees with the slopes of the gradient, and is not symmetric."
            advice = "This usually means a gradient that is wrong, and a Hessian that was derived from it: no function "
            advice += "has this gradient. Try check_gradients(loss, params, gradient)."
            self.diagnoses.append(Diagnosis(Code.NOT_SYMMETRIC, whole, message, advice=advice))
            return
        matrix = self.gauge.linear.matrix
        message = "The Hessian is not symmetric."
        advice = "This usually means that an entry was derived twice, in two ways. Try np.allclose(H, H.T) in its code."
        evidence = ""
        if matrix is not None:
            apart = abs(matrix - matrix.T)
            row, column = np.unravel_index(int(apart.argmax()), apart.shape)
            first, second = float(matrix[row, column]), float(matrix[column, row])
            places = self.names.column(int(row)), self.names.column(int(column))
            evidence = (
                f"By {places[0]} and {places[1]} it is {first:.6g}, and by {places[1]} and {places[0]} {second:.6g}."
            )
            if _is_triangle(matrix):
                advice = "All entries on one side of the diagonal are zero: only a triangle was filled. Try H + H.T - "
                advice += "np.diag(np.diag(H))."
        self.diagnoses.insert(0, Diagnosis(Code.NOT_SYMMETRIC, whole, message, evidence, advice))

    def _gauss_newton(self) -> Diagnosis | None:
        """Return whether a wrong Hessian is J^T J of the residuals' Jacobian J, times a number.

        Only slopes of the residuals are needed: ``u.(J^T J v)`` is ``(J u).(J v)``.
        """
        assert self.judged is not None
        if self.residuals is None or not len(self.judged.wrong) or len(self.alongs) < 3:
            return None
        problem = self.point.problem
        place = Point.of(self.residuals, rebuild_params(problem.structure, problem.point), None, Meter())
        size = place.here.size
        nothing = Linear((size, self.weights.size), forward=lambda vector: np.zeros(size))
        gauge = Gauge(place.problem, place.here.astype(np.float64), place.inputs, nothing, EPS)
        slopes = np.stack([gauge.measure(along.vector).slopes for along in self.alongs[:3]])
        expected = slopes @ slopes.T
        given = np.stack([along.vector for along in self.alongs[:3]]) @ np.stack([a.given for a in self.alongs[:3]]).T
        square = float(np.sum(expected * expected))
        factor = float(np.sum(given * expected)) / square if square else 0.0
        if not factor or np.linalg.norm(given - factor * expected) > FITS * np.linalg.norm(given):
            return None
        message = f"The Hessian is Gauss-Newton's, {factor:.6g} J^T J: the second derivatives of the residuals are "
        message += "missing in it."
        advice = "This usually means an approximation that is meant: it is near the Hessian where the residuals are "
        advice += "small. Try to add sum(r_i * second derivatives of r_i) where Newton's is wanted."
        return Diagnosis(Code.GAUSS_NEWTON, tuple(self.point.inputs.shapes), message, advice=advice)


def _is_triangle(matrix: Any) -> bool:
    """Return whether all entries on one side of the diagonal are zero."""
    array: Array = matrix.toarray() if hasattr(matrix, "toarray") else matrix
    return not np.any(np.tril(array, -1)) or not np.any(np.triu(array, 1))
