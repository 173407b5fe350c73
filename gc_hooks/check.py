"""The whole pipeline on one screen: start reading here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.object_graph import generators_kept
from gc_hooks.isolation.rng import global_random_state_kept
from gc_hooks.problem import Meter, Problem, put_back
from gc_hooks.problem.validate import build_problem
from gc_hooks.report import CheckReport
from gc_hooks.report.verdict import Tolerance
from gc_hooks.rules import diagnose
from gc_hooks.slopes.estimate import Method
from gc_hooks.slopes.measure import gather
from gc_hooks.slopes.methods import central, complex_step, fixed_step
from gc_hooks.slopes.probes import Depth, automatic, entries
from gc_hooks.slopes.progress import Progress
from gc_hooks.verdicts.escalate import escalate
from gc_hooks.verdicts.plot_data import collect_plot_data
from gc_hooks.verdicts.session import Session
from gc_hooks.verdicts.summary import write_report


def check_gradients(
    loss: Loss,
    params: Any,
    grads: Any,
    *,
    in_place: bool = False,
    penalty: Loss | None = None,
    method: Method | None = None,
    probes: Depth | None = None,
    tolerance: Tolerance = Tolerance(),
    executor: Executor | None = None,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    step: int = 0,
    progress: Progress | None = None,
    constants: Mapping[str, float] | None = None,
    pictures: bool = False,
) -> CheckReport:
    """Compare backprop's gradient with the slope of the loss, parameter by parameter.

    Parameters
    ----------
    loss : callable
        ``loss(params)`` gets the parameters in the structure in which you hand them in (as float64 copies) and returns
        a number; an array with one element will do. It must give the same value for the same parameters. With
        ``in_place=True`` it takes nothing and reads your own arrays.
    params : number, array, or nested dicts, lists and tuples of them
        Where the gradient is checked. Names are built from the path, such as ``layers.0.W``.
    grads : like params, or callable
        The gradient to be judged. ``dW1`` is understood as the gradient of ``W1``, further entries are ignored with a
        note. A function takes what the loss takes; it is called twice and has to repeat itself, and it may be asked
        at other points. Hand in a function when you can: it is then judged in float64.
    in_place : bool
        The loss reads your own arrays. They are changed entry by entry and restored to the bit, whatever happens.
    penalty : callable, optional
        A regularisation term, a function like the loss. ``loss`` is then the data's part alone, and ``grads`` the
        gradient of the sum; each part is measured on its own and the report states the penalty's share.
    method : callable, optional
        `complex_step`, `central`, `fixed_step(h)`, or your own. By default complex step where it can be trusted, and
        central differences elsewhere.
    probes : callable, optional
        Where to look: `entries`, `per_parameter` or `joint`. By default parameters of up to 16 entries are measured
        entry by entry, and larger ones along random directions; more than 500 parameters along a joint one first.
    tolerance : Tolerance
        The bands of the verdicts.
    executor : concurrent.futures.Executor, optional
        Spread an entry-by-entry check over threads, processes (the loss has to be picklable), or an existing cluster,
        such as Dask's ``client.get_executor()``. Not for losses that read your own arrays.
    max_evaluations : int, optional
        Stop measuring after so many evaluations of the loss; what was not looked at is INCONCLUSIVE.
    max_seconds : float, optional
        The same in seconds.
    seed : int
        Of the directions along which complex step is put to the test, and of the order of the entries.
    step : int
        Written into the report.
    progress : callable, optional
        Called with the number of entries measured so far and the number of all. By default a check that takes longer
        than a second shows a bar on a terminal, with an estimate of the time left.
    constants : mapping of str to float, optional
        Numbers by which a gradient may be off, with their names, for the diagnosis: ``{"batch size": 32}``.
    pictures : bool
        Also keep, and where it takes little time measure, what the TensorBoard tab draws: ``report.pictures`` and
        ``report.curve``.

    Returns
    -------
    CheckReport
        A verdict, a difference and an error bar for every parameter.

    Raises
    ------
    InvalidProblem
        The loss, the parameters or an argument cannot be used as they are; the message says what to try.
    NondeterministicLoss
        The loss gave two values for the same parameters.

    Notes
    -----
    Costs, for a check that passes: two evaluations of the loss at the door, four to make complex step ready; then an
    evaluation for each entry or direction (6 to 12 with central differences). What looks wrong costs more: up to 16
    directions, about 50 evaluations of second thoughts, and the search for the wrong entries. A missing gradient, or
    one of the wrong shape, is a finding on that parameter and not an error.

    Put back afterwards are the parameters that are changed in place and all random generators that the functions can
    reach: the global ones, and NumPy's, Python's and torch's in variables, defaults, attributes, containers and modules
    of the user's. One that cannot be put back is named in the report's notes.

    An array of float64 with more than four million entries is not copied: the loss gets a view that cannot be written
    to, and slopes are measured by central differences unless `complex_step` is asked for. A check that passes needs two
    copies of it beyond the training's own arrays, three in place.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 0.0])
    >>> loss = lambda p: 0.5 * np.mean((x @ p["w"] - y) ** 2)
    >>> params = {"w": np.array([0.1, -0.2])}
    >>> grads = {"dw": x.T @ (x @ params["w"] - y) / 2}
    >>> check_gradients(loss, params, grads).verdict
    <Verdict.GOOD: 0>
    >>> print(check_gradients(loss, params, {"dw": 2 * grads["dw"]}).parameters["w"].verdict)
    WORRY
    """
    check_options(method, tolerance, max_evaluations, max_seconds, probes)
    kept = generators_kept(loss, grads, penalty)
    with np.errstate(all="ignore"), global_random_state_kept(), kept as lost:  # all of it is meant for the training
        meter = Meter(max_evaluations, max_seconds)
        problem = build_problem(loss, params, grads, in_place=in_place, penalty=penalty, meter=meter)
        try:
            report = check_problem(
                problem,
                method=method,
                probes=probes,
                tolerance=tolerance,
                executor=executor,
                seed=seed,
                step=step,
                progress=progress,
                constants=constants,
                pictures=pictures,
            )
        finally:  # wherever a Ctrl-C came
            put_back(problem.live or {}, problem.home or {})
    return report.noted(*lost)


def check_problem(
    problem: Problem,
    *,
    method: Method | None = None,
    probes: Depth | None = None,
    tolerance: Tolerance = Tolerance(),
    executor: Executor | None = None,
    seed: int = 0,
    step: int = 0,
    progress: Progress | None = None,
    constants: Mapping[str, float] | None = None,
    pictures: bool = False,
) -> CheckReport:
    """The same for a problem that has come through the door."""
    generator = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        plan = (probes or _default_depth(method))(problem, generator)
        instruments, measurements = gather(problem, plan, method, generator, executor, progress)
        session = Session(problem, instruments, measurements, tolerance, generator)
        comparisons = escalate(session, session.compare_all())
        diagnoses = diagnose(problem, comparisons, session, constants)
        plot_data = collect_plot_data(session, comparisons) if pictures else None
        return write_report(session, comparisons, diagnoses, step=step, seed=seed, plot_data=plot_data)


def check_options(
    method: Any, tolerance: Any, max_evaluations: Any = None, max_seconds: Any = None, probes: Any = None
) -> None:
    """Refuse what is no method, no tolerance, no limit and no depth, before anything is measured.

    Raises
    ------
    InvalidProblem
    """
    if method is fixed_step:
        raise InvalidProblem("method=fixed_step lacks the step. Try method=fixed_step(1e-7), the textbooks' one.")
    if not (method is None or callable(method)):
        raise InvalidProblem(f"method={method!r} is no function. Try central, complex_step or fixed_step(1e-7).")
    if not (probes is None or callable(probes)):
        raise InvalidProblem(f"probes={probes!r} is no function. Try entries, per_parameter or joint.")
    if not isinstance(tolerance, Tolerance):
        raise InvalidProblem(f"tolerance={tolerance!r} has to be a Tolerance. Try Tolerance(good=1e-7).")
    for name, limit in (("max_evaluations", max_evaluations), ("max_seconds", max_seconds)):
        if limit is not None and not (isinstance(limit, (int, float, np.number)) and limit >= 0):
            raise InvalidProblem(f"{name}={limit!r}: a limit is a number, zero or more. Leave it out for no limit.")


def _default_depth(method: Method | None) -> Depth:
    """Entry by entry for methods that do not adapt to a direction, such as the textbook's."""
    return automatic if method in (None, central, complex_step) else entries
