"""Check a hand-written Jacobian against its function, and a Hessian against its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from gc_hooks.arrays.foreign import describe
from gc_hooks.derivatives.hessian import HessianJudgement
from gc_hooks.derivatives.jacobian import JacobianCheck
from gc_hooks.derivatives.judgement import Judgement
from gc_hooks.derivatives.linear import needed_arguments
from gc_hooks.derivatives.point import Function, Point
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.rng import preserve_global_random_state
from gc_hooks.problem import Meter
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance


def check_jacobian(
    function: Function,
    params: object,
    jacobian: object,
    *,
    tolerance: Tolerance = Tolerance(),
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    step: int = 0,
) -> CheckReport:
    """Compare a Jacobian with the slopes of its function, output by output.

    Parameters
    ----------
    function : callable
        ``function(params)`` returns an array, or nested dicts, lists and tuples of arrays: residuals, constraints, the
        outputs of a layer. It has to give the same values for the same parameters.
    params : number, array, or nested dicts, lists and tuples of them
        Where the Jacobian is checked.
    jacobian : array, sparse matrix, LinearOperator, (vjp, jvp), nested blocks, or callable
        What is judged: the value at ``params``, or ``jacobian(params)`` that returns it; hand in the function when you
        can. A matrix has a row for each output and a column for each parameter, in the order of the arrays. Blocks
        stand in the structure of the parameters, of the outputs, or of both, as ``jax.jacobian`` returns them.
        ``vjp(u)`` and ``jvp(v)``, or ``vjp(params, u)`` and ``jvp(params, v)``, are products with vectors; either may
        be None.
    tolerance : Tolerance
        The bands of the verdicts. A row is judged by ``|(J - N) v| / (|J v| + |N v|)`` along random directions v.
    max_evaluations : int, optional
        Stop measuring after this many evaluations of the function.
    max_seconds : float, optional
        Stop measuring after this many seconds.
    seed : int
        Seed of the random directions.
    step : int
        The step, for the report.

    Returns
    -------
    CheckReport
        A verdict for each parameter, or for each pair of an output and a parameter (``"output/parameter"``) where the
        function returns several arrays. ``difference`` is that of the row that differs most, and the entries in
        ``worst`` have the index of the output in front of that of the parameter.

    Raises
    ------
    InvalidProblem
        The function, the parameters or the Jacobian cannot be used as they are; the message says what to try.

    Notes
    -----
    One complex evaluation gives the slopes of all outputs along a random direction. Two real ones confirm it, so that
    a right Jacobian of any size costs four evaluations of the function. Outputs for which complex step cannot be
    trusted are measured by central differences, whose steps all outputs share: about 20 evaluations more.

    A row that seems wrong is measured in another way, with its parameters moved by their rounding, and along two
    directions more. Then every column of up to 32 parameters is measured; of more, the wrong entries are found from the
    residuals along three to eight directions where there are few in each row. A product with the transpose is compared
    with the slopes and with the other product, which needs no evaluation.

    Where outputs have a kink at the point, the check is made again a hair away from it, if the Jacobian is a function;
    otherwise those outputs are INCONCLUSIVE.

    Examples
    --------
    >>> t = np.linspace(0, 1, 5)
    >>> residuals = lambda p: p[0] * np.exp(p[1] * t) - 1
    >>> jacobian = lambda p: np.stack([np.exp(p[1] * t), p[0] * t * np.exp(p[1] * t)], axis=1)
    >>> report = check_jacobian(residuals, np.array([2.0, -1.0]), jacobian)
    >>> report.verdict, report.evaluations
    (<Verdict.GOOD: 0>, 4)
    >>> forgotten = lambda p: jacobian(p) * [1.0, 0.0]
    >>> check_jacobian(residuals, np.array([2.0, -1.0]), forgotten).diagnoses[0].message
    'The column of theta[1] is wrong, in outputs 1, 2, 3 and 4.'
    """
    _require_functions(("check_jacobian", "function", "Jacobian"), function, params, jacobian)
    meter = Meter(max_evaluations, max_seconds)
    return _checked(function, params, jacobian, Judgement, "Jacobian", tolerance, meter, seed, step)


def check_hessian(
    gradient: Function,
    params: object,
    hessian: object,
    *,
    residuals: Function | None = None,
    tolerance: Tolerance = Tolerance(),
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    step: int = 0,
) -> CheckReport:
    """Compare a Hessian with the slopes of its gradient, row by row, and judge its symmetry.

    Parameters
    ----------
    gradient : callable
        ``gradient(params)``, in the structure of the parameters. It is taken to be right: check it with
        `check_gradients` first.
    params : number, array, or nested dicts, lists and tuples of them
        Where the Hessian is checked.
    hessian : array, sparse matrix, LinearOperator, nested blocks, or callable
        What is judged: the value at ``params``, ``hessian(params)`` that returns it, or ``hessp(params, v)`` that
        returns its product with a vector, as ``scipy.optimize.minimize`` takes it.
    residuals : callable, optional
        ``residuals(params)`` of a sum of squares. With them a Hessian that is Gauss-Newton's is told from one that is
        wrong; three evaluations of them for each direction of a check that fails.
    tolerance, max_evaluations, max_seconds, seed, step
        As for `check_jacobian`; evaluations are those of the gradient.

    Returns
    -------
    CheckReport
        As of `check_jacobian`.

    Examples
    --------
    >>> gradient = lambda p: np.array([4 * p[0] ** 3 + p[1], p[0] + 2 * p[1]])
    >>> hessian = lambda p: np.array([[12 * p[0] ** 2, 1.0], [1.0, 2.0]])
    >>> check_hessian(gradient, np.array([1.0, 2.0]), hessian).verdict
    <Verdict.GOOD: 0>
    >>> print(check_hessian(gradient, np.array([1.0, 2.0]), lambda p: np.triu(hessian(p))).diagnoses[0].message)
    The Hessian is not symmetric.
    """
    _require_functions(("check_hessian", "gradient", "Hessian"), gradient, params, hessian)
    if callable(hessian) and not hasattr(hessian, "matvec") and needed_arguments(hessian) >= 2:
        hessian = (None, hessian)
    judged_as = partial(HessianJudgement, residuals=residuals)
    meter = Meter(max_evaluations, max_seconds)
    return _checked(gradient, params, hessian, judged_as, "Hessian", tolerance, meter, seed, step)


def _checked(
    function: Function,
    params: object,
    given: object,
    judged_as: Callable[..., Judgement],
    what: str,
    tolerance: Tolerance,
    meter: Meter,
    seed: int,
    step: int,
) -> CheckReport:
    kept = find_generators(function, given).preserve()
    with np.errstate(all="ignore"), preserve_global_random_state(), kept as lost:
        point = Point.of(function, params, given, meter)
        report = JacobianCheck(point, tolerance, np.random.default_rng(seed), seed, what, judged_as).report()
    return replace(report, step=step, notes=(*report.notes, *lost))


def _require_functions(names: tuple[str, str, str], function: object, params: object, given: object) -> None:
    call, called, what = names
    order = f"Try {call}({called}, params, {what.lower()}), in this order."
    if not callable(function):
        raise InvalidProblem(
            f"The {called} must be a callable, got {describe(function)}. This usually means that its value was handed "
            f"in. {order}"
        )
    if callable(params):
        raise InvalidProblem(
            f"The parameters are {describe(params)}. This usually means that arguments are exchanged. {order}"
        )
    if given is None or isinstance(given, (bool, str)):
        raise InvalidProblem(
            f"The {what} is {given!r}. This usually means an option of scipy in its place. Try the function that you "
            "wrote for it."
        )
