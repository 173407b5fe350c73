"""Check a hand-written Jacobian against its function: `check_jacobian`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks.arrays.foreign import describe
from gc_hooks.derivatives.jacobian import JacobianCheck
from gc_hooks.derivatives.point import Point
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.rng import preserve_global_random_state
from gc_hooks.problem import Meter
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance

Function = Callable[[Any], Any]


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
    _require_functions(function, jacobian, params)
    kept = find_generators(function, jacobian).preserve()
    with np.errstate(all="ignore"), preserve_global_random_state(), kept as lost:
        point = Point.of(function, params, jacobian, Meter(max_evaluations, max_seconds))
        report = JacobianCheck(point, tolerance, np.random.default_rng(seed), seed).report()
    return replace(report, step=step, notes=(*report.notes, *lost))


def _require_functions(function: object, jacobian: object, params: object) -> None:
    if not callable(function):
        raise InvalidProblem(
            f"The function must be a callable, got {describe(function)}. This usually means that its value was handed "
            "in. Try check_jacobian(function, params, jacobian), in this order."
        )
    if callable(params):
        raise InvalidProblem(
            f"The parameters are {describe(params)}. This usually means that arguments are exchanged. Try "
            "check_jacobian(function, params, jacobian), in this order."
        )
    if jacobian is None or isinstance(jacobian, (bool, str)):
        raise InvalidProblem(
            f"The Jacobian is {jacobian!r}. This usually means an option of scipy in its place. Try the function that "
            "you wrote for it."
        )
