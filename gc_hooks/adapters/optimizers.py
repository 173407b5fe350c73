"""Check the derivatives that an optimiser or a solver of equations is given: SciPy's, and others called like them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Schedule
from gc_hooks.arrays.foreign import describe
from gc_hooks.check import CheckOptions, check_gradients
from gc_hooks.derivatives import check_jacobian
from gc_hooks.errors import InvalidProblem
from gc_hooks.hooks.base import FULL, CheckPlan, HookBase
from gc_hooks.hooks.options import HookOptions
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance

FUNCTIONS, DERIVATIVES = ("fun", "func", "f"), ("jac", "fprime", "Dfun")
"""What the arguments are called: of ``minimize``, ``root`` and ``least_squares``; of ``fsolve``, ``fmin_bfgs`` and
``curve_fit``; of ``leastsq``."""


class ScipyGradCheckHook(HookBase):
    """Check the gradient or the Jacobian that an optimiser of SciPy is given, while it runs.

    Parameters
    ----------
    after : int or None
        N. Checks are made when the optimiser asks for the derivative for the first, the second and the N-th time after
        that; at the end where it never comes to N.
    every, schedule, log_dir, writer, reporters, tolerance, on_fail, max_evaluations, max_seconds, seed
        As for `gc_hooks.GradCheckHook`.

    Attributes
    ----------
    reports : list of CheckReport
        Of all checks so far.

    Notes
    -----
    Function and derivative are called at other points during a check, and then at the present one again, so that
    functions that keep what the other one needs go on as without it. The optimiser gets the same numbers as without the
    hook.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> hook = ScipyGradCheckHook(after=20, reporters=[])
    >>> result = hook.run(minimize, rosen, [1.3, 0.7, 0.8], jac=rosen_der)
    >>> [report.verdict.name for report in hook.reports]
    ['GOOD', 'GOOD', 'GOOD']
    """

    def __init__(
        self,
        *,
        after: int | None = 20,
        every: int | None = None,
        schedule: Schedule | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        writer: object = None,
        reporters: Sequence[Any] | None = None,
        tolerance: Tolerance = Tolerance(),
        on_fail: str | Callable[[CheckReport], object] = "warn",
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        options = HookOptions(
            after=after,
            every=every,
            schedule=schedule,
            log_dir=log_dir,
            writer=writer,
            reporters=reporters,
            tolerance=tolerance,
            on_fail=on_fail,
            max_evaluations=max_evaluations,
            max_seconds=max_seconds,
            seed=seed,
        )
        super().__init__(options)

    def _current_params(self) -> Any:
        return self._latest[0]

    def run(self, optimizer: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call an optimiser as you would, ``hook.run(minimize, f, x0, jac=g)``, and return what it returns.

        Parameters
        ----------
        optimizer : callable
            ``minimize``, ``least_squares``, ``root``, ``fsolve``, ``curve_fit`` or another one that takes a function
            and its derivative under these names: ``fun``, ``func`` or ``f``, and ``jac``, ``fprime`` or ``Dfun``.
        *arguments, **keywords
            As for the optimiser, with ``args``, ``kwargs`` and ``jac=True``.

        Raises
        ------
        InvalidProblem
            There is no derivative of your own among the arguments.
        """
        given = inspect.signature(optimizer).bind(*arguments, **keywords).arguments
        name = next((key for key in DERIVATIVES if key in given), "")
        of_function = next((key for key in FUNCTIONS if key in given), "")
        derivative = given.get(name)
        shares = derivative is True
        if not of_function or not (shares or callable(derivative)):
            called = getattr(optimizer, "__name__", "the optimiser")
            raise InvalidProblem(
                f"Among the arguments of {called} there is no derivative of your own ({name or 'jac'} is "
                f"{describe(derivative)}). This usually means that the optimiser measures it by itself, so that "
                "there is nothing to check. Try jac=your_function, or jac=True."
            )
        question = _Question(given[of_function], derivative, given)
        replaced = of_function if shares else name
        watched = given[replaced]

        def watching(x: Any, *others: Any, **more: Any) -> Any:
            where = question.point(x, others)
            value = watched(x, *others, **more)
            plan = self._due(self.calls)
            self._latest = (where, question)
            if plan is not None:
                self._check(plan)
                value = watched(x, *others, **more)  # what it keeps for the other function is that of this point again
            return value

        if replaced in keywords:
            keywords[replaced] = watching
        else:
            place = list(inspect.signature(optimizer).parameters).index(replaced)
            arguments = (*arguments[:place], watching, *arguments[place + 1 :])
        try:
            result = optimizer(*arguments, **keywords)
            if self._latest is not None and self._is_early_end():
                self._check(FULL, self._early_end_note)
            self._sum_up()
        finally:
            self._latest = None
        return result

    def _check(self, plan: CheckPlan, *notes: str) -> None:
        """Check at the last point."""
        where, question = self._latest
        step = self.calls - 1
        with self._recorder.record(step) as check:
            check.protect(where, question.functions)
            try:
                report = question.asked(where, self._options_for(plan, step, check.seed))
            finally:
                question.function(where)
            check.report = self._compared(report.noted(*notes))
        self._act_on(check.report)


class _Question:
    """A function and its derivative as functions of the parameters alone."""

    def __init__(self, function: Callable[..., Any], derivative: Any, given: dict[str, Any]) -> None:
        self.functions = (function,) if derivative is True else (function, derivative)
        others = given.get("args", ())
        self._others = others if isinstance(others, tuple) else (others,)
        self._keywords = dict(given.get("kwargs") or {}) if "xdata" not in given else {}
        self._data = given.get("xdata")
        self._fits_a_curve = "xdata" in given
        self._is_transposed = bool(given.get("col_deriv"))

    def point(self, x: Any, others: tuple[Any, ...]) -> Array:
        """Return the parameters of a call; a curve's come one by one after its data."""
        return np.array(others if self._fits_a_curve else x, dtype=np.float64)

    def function(self, x: Any) -> Any:
        """Return the value of the function, alone."""
        value = self._call(self.functions[0], x)
        return value if len(self.functions) == 2 else value[0]

    def derivative(self, x: Any) -> Any:
        """Return the derivative; the function goes first, as in an optimiser, because it may keep what is needed."""
        value = self._call(self.functions[0], x)
        derivative = value[1] if len(self.functions) == 1 else self._call(self.functions[1], x)
        return np.transpose(derivative) if self._is_transposed else derivative

    def _call(self, function: Callable[..., Any], x: Any) -> Any:
        if self._fits_a_curve:
            return function(self._data, *x)
        return function(x, *self._others, **self._keywords)

    def asked(self, where: Array, options: CheckOptions) -> CheckReport:
        """Return a check of the gradient where the function is a number, and of the Jacobian elsewhere."""
        if np.ndim(self.function(where)) == 0:
            return check_gradients(self.function, where, self.derivative, **vars(options))
        return check_jacobian(
            self.function,
            where,
            self.derivative,
            tolerance=options.tolerance,
            max_evaluations=options.max_evaluations,
            max_seconds=options.max_seconds,
            seed=options.seed,
            step=options.step,
        )
