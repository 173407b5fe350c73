"""The pipeline of `check_jacobian`: judge at the point, and beside it where outputs have a kink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gc_hooks._typing import Generator
from gc_hooks.derivatives.judgement import Judgement
from gc_hooks.derivatives.linear import Linear, WrongShape
from gc_hooks.derivatives.naming import Names
from gc_hooks.derivatives.point import Point
from gc_hooks.derivatives.summary import report_of, written
from gc_hooks.problem import BudgetSpent
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import Code, Diagnosis
from gc_hooks.report.verdict import Tolerance, Verdict


@dataclass
class JacobianCheck:
    """One check of a Jacobian, and what its report will say."""

    point: Point
    tolerance: Tolerance
    generator: Generator
    seed: int
    what: str = "Jacobian"
    judged_as: Callable[..., Judgement] = Judgement

    def report(self) -> CheckReport:
        """Judge the Jacobian at the point, and once more a small step away where outputs have a kink."""
        if not np.all(np.isfinite(self.point.here)):
            return self._not_finite()
        try:
            linear = self.point.linear()
        except WrongShape as found:
            return self._wrong_shape(str(found), self._transpose_is_right())
        judgement = self._judgement(self.point, linear)
        if judgement.has_kinks and self.point.is_function:
            try:
                apart = self.point.apart(self.generator)
                judgement = self._judgement(apart, apart.linear())
            except BudgetSpent:
                pass
        return report_of(judgement, self.seed)

    def _judgement(self, point: Point, linear: Linear) -> Judgement:
        judgement = self.judged_as(point, linear, self.tolerance, self.generator, self.what)
        judgement.judge()
        return judgement

    def _not_finite(self) -> CheckReport:
        rows = np.flatnonzero(~np.isfinite(self.point.here))
        names = Names(self.point.outputs, self.point.inputs)
        reason = Reason.LOSS_NOT_FINITE
        compared = {
            name: Comparison(name, (*self._output_shape(None), *shape), reason=reason, note="not measured")
            for name, shape in self.point.inputs.shapes.items()
        }
        note = f"The function is not finite in {names.rows(rows)}. Try to check at a point where it is."
        return written(self.point, self.tolerance, self.seed, compared, (), note)

    def _transpose_is_right(self) -> bool:
        """Return whether what has the wrong shape is the transpose of the right Jacobian."""
        turned = self.point.value().T if hasattr(self.point.value(), "T") else None
        if turned is None or tuple(turned.shape) != (self.point.outputs.size, self.point.inputs.size):
            return False
        turned_check = replace(self, point=replace(self.point, jacobian=turned))
        return turned_check.report().verdict is Verdict.GOOD

    def _wrong_shape(self, what: str, transpose_is_right: bool) -> CheckReport:
        compared = {}
        for name, shape in self.point.inputs.shapes.items():
            full = (*self._output_shape(None), *shape)
            compared[name] = Comparison(name, full, verdict=Verdict.WORRY, note=what, reason=Reason.ISSUE)
        advice = (
            "This usually means rows and columns exchanged, or a block that is left out. Try a row for each output "
        )
        advice += "and a column for each parameter."
        if transpose_is_right:
            what = f"{what} Its transpose is right."
            advice = f"Try {self.what.lower()}.T: a row for each output, and a column for each parameter."
            return written(
                self.point,
                self.tolerance,
                self.seed,
                compared,
                (Diagnosis(Code.TRANSPOSED, tuple(compared), what, advice=advice),),
            )
        return written(
            self.point,
            self.tolerance,
            self.seed,
            compared,
            (Diagnosis(Code.WRONG_SHAPE, tuple(compared), what, advice=advice),),
        )

    def _output_shape(self, name: str | None) -> tuple[int, ...]:
        shapes = self.point.outputs.shapes
        if name is None:
            return next(iter(shapes.values())) if len(shapes) == 1 else (self.point.outputs.size,)
        return shapes[name]
