"""The whole pipeline on one screen: start reading here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain

import numpy as np

from gc_hooks._typing import Loss
from gc_hooks.arrays.large import LARGE
from gc_hooks.errors import InvalidProblem
from gc_hooks.isolation.evaluation import found_once
from gc_hooks.isolation.generators import find_generators
from gc_hooks.isolation.rng import preserve_global_random_state
from gc_hooks.problem import BudgetSpent, Meter, Problem, put_back
from gc_hooks.problem.validate import build_problem
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.diagnosis import Code, Diagnosis
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.rules import OF_ONE_PARAMETER, diagnose
from gc_hooks.slopes import Slopes
from gc_hooks.slopes.measurements import Measurements
from gc_hooks.slopes.methods import Estimate, Method, fixed_step
from gc_hooks.slopes.parallel import measure_on
from gc_hooks.slopes.probes import Depth, Direction, automatic, entries
from gc_hooks.slopes.progress import PATIENCE, Progress
from gc_hooks.tracing import Tracer
from gc_hooks.tracing.box import NotTraceable
from gc_hooks.tracing.confirm import confirmed_reference
from gc_hooks.verdicts.escalate import escalate
from gc_hooks.verdicts.plot_data import collect_plot_data
from gc_hooks.verdicts.second_look import look_again
from gc_hooks.verdicts.session import Session
from gc_hooks.verdicts.summary import write_report


def check_problem(
    problem: Problem, options: CheckOptions, trace_with: Callable[[Problem], Tracer] | None = None
) -> CheckReport:
    """Prepare, measure, compare, look closer where it is not clear, diagnose, and report.

    An adapter may have its own way to a reference, ``trace_with``: the method in the options is then for slopes.
    """
    if trace_with is None and options.wants_reference:
        trace_with = Tracer
    generator = np.random.default_rng(options.seed)
    with np.errstate(all="ignore"):
        try:
            session, comparisons = _by_reference(problem, options, trace_with, generator)
        except NotTraceable as refusal:
            session, comparisons = _by_slopes(problem.noted(*refusal.notes), options, generator)
        diagnoses: tuple[Diagnosis, ...] = ()
        wrong = [name for name, comparison in comparisons.items() if comparison.verdict > Verdict.INCONCLUSIVE]
        if wrong:
            if session.reference is not None:
                diagnoses = session.reference.tracer.named(wrong, options.tolerance, options.constants or {})
            rules = OF_ONE_PARAMETER if diagnoses else None
            diagnoses += diagnose(session, comparisons, options.constants, rules)
        plot_data = collect_plot_data(session, comparisons) if options.pictures else None
        return write_report(session, comparisons, diagnoses, step=options.step, seed=options.seed, plot_data=plot_data)


def _by_reference(
    problem: Problem,
    options: CheckOptions,
    trace_with: Callable[[Problem], Tracer] | None,
    generator: np.random.Generator,
) -> tuple[Session, dict[str, Comparison]]:
    """Compare every entry with the gradient that is traced from the loss; raise `NotTraceable` where there is none."""
    if trace_with is None:
        raise NotTraceable
    tracer = trace_with(problem)
    if tracer.has_tape and any(parameter.value.size >= LARGE for parameter in problem):  # it would hold many copies
        raise NotTraceable("an array has more than four million entries", "")
    try:
        confirmed, slopes, vagueness = confirmed_reference(tracer, generator)
        if not vagueness <= tracer.most_vague:
            raise NotTraceable("no slope is precise enough to confirm it", "")
        traced = tracer.judged(confirmed)
    except BudgetSpent:
        raise NotTraceable from None
    if traced is not confirmed:  # no slope is that of what it adds
        vagueness = 0.0
    problem = problem.known_to_be_double(traced.gradients)
    slopes = slopes.at(problem)
    measurements = Measurements.of_all_entries(problem, traced.gradients, traced.penalties, traced.precision)
    session = Session(slopes, measurements, options.tolerance, generator, True, traced, vagueness, traced.at_kink)
    return session, look_again(session, session.compare_all())


def _by_slopes(
    problem: Problem, options: CheckOptions, generator: np.random.Generator
) -> tuple[Session, dict[str, Comparison]]:
    """Measure slopes along the probes that the depth chooses, compare, and look closer where it is not clear."""
    probes = iter(options.depth(problem, generator))
    first = next(probes, None)
    # A direction through all parameters, where a depth begins with one, also serves to try complex step on.
    along = first if isinstance(first, Direction) and first.name is None else None
    slopes = Slopes.prepare(problem, options.slope_method, generator, along)
    rounding = slopes.rounding(generator) if along is None else slopes.assumed_rounding
    measurements = Measurements.empty(problem, rounding)
    if slopes.instruments and first is not None:
        every = chain([first], probes)
        if options.executor is None:
            slopes.measure(every, measurements, options.progress, PATIENCE)
        else:
            measure_on(options.executor, slopes, every, measurements, options.progress)
    session = Session(slopes, measurements, options.tolerance, generator)
    comparisons = session.compare_all()
    if not all(c.basis is Basis.EXACT and c.verdict is Verdict.GOOD for c in comparisons.values()):
        comparisons = escalate(session, comparisons)
    return session, comparisons


def check_gradients(
    loss: Loss,
    params: object,
    grads: object,
    *,
    in_place: bool = False,
    penalty: Loss | None = None,
    method: Method | Callable[..., Estimate] | None = None,
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
    """Compare backprop's gradient with the gradient of the loss, parameter by parameter.

    The check first derives the gradient of every entry from the code of your loss (the reference), and uses it if one
    measured slope confirms it. Where that is not possible, it measures slopes of the loss instead, and the report says
    why. A ``method``, ``probes`` or an ``executor`` that you name replaces this choice.

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
        note. An axis of length one more or less is compared after a reshape, with a note. A function takes what the
        loss takes; it is called twice and has to repeat itself, and it may be asked at other points. Hand in a function
        when you can: it is then judged in float64.
    in_place : bool
        The loss reads your own arrays; for a loss that takes nothing this goes without saying. They are changed entry
        by entry and restored to the bit, whatever happens. One array under several names is one parameter here: the
        gradients are summed under the first name.
    penalty : callable, optional
        A regularisation term, a function like the loss. ``loss`` is then the data's part alone, and ``grads`` the
        gradient of the sum; each part is measured on its own and the report states the penalty's share.
    method : Method or callable, optional
        `reference`, which is the default by its name; or a way to measure slopes: `complex_step`, `central`,
        `fixed_step(h)`, or your own, a function ``(line, *, scale, noise) -> Estimate`` or a `Method`. Where there is
        no reference: complex step where it can be trusted, and central differences elsewhere.
    probes : callable, optional
        Where to measure slopes: `entries`, `per_parameter` or `joint`. If it is named, the check makes no reference,
        unless ``method=reference`` asks for it. By default parameters of up to 16 entries are measured entry by entry,
        and larger ones along random directions; more than 500 parameters along a joint one first.
    tolerance : Tolerance
        The bands of the verdicts.
    executor : concurrent.futures.Executor, optional
        Spread an entry-by-entry check over threads, processes (the loss has to be picklable), or an existing cluster,
        such as Dask's ``client.get_executor()``. With it the check measures slopes. Not for losses that read your own
        arrays.
    max_evaluations : int, optional
        Stop measuring after this many evaluations of the loss; a traced one counts as one. What looks worst is measured
        first. A parameter that was not measured is INCONCLUSIVE; an accusation that has passed the second look stands.
    max_seconds : float, optional
        Stop measuring after this many seconds.
    seed : int
        Seed of the random directions and of the order of the entries.
    step : int
        The training step, for the report.
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
    With a reference, a check that passes costs two evaluations of the loss and two gradients to validate them; one
    evaluation that is traced, and the pass back over it; and the slope that confirms it, one complex evaluation or two
    real ones. A check that fails, or that holds in float32, traces one to four evaluations more. It needs no search,
    because every entry is known. At a kink the comparison is made again a tiny step away: up to six traced evaluations
    more with three gradients, and up to 48 where the gradient is no function.

    Where slopes are measured, a check that passes costs two evaluations to validate the loss, four to prepare complex
    step, and one for each entry or direction (6 to 12 with central differences). A parameter that looks wrong costs
    more: up to 16 directions, about 50 evaluations to measure it in other ways, and the search for the wrong entries. A
    missing gradient, or one of the wrong shape, is a finding on that parameter and not an error.

    A loss and a gradient function that take the parameters get them in float64. Where something computes in float32 all
    the same, or your own arrays of float32 are read, the verdict holds in float32 (``Comparison.precision``): the band
    of GOOD is wider there, and the report says which error would have been seen. A gradient that is finite in float64
    and not in the training's float32 is WORRY.

    Put back afterwards are the parameters that are changed in place and all random generators that the functions can
    reach: the global ones, and NumPy's, Python's and torch's in variables, defaults, attributes, containers and modules
    of the user's. One that cannot be put back is named in the report's notes. While the loss is traced, boxes stand in
    for the arrays that it can reach, and stand-ins for NumPy and `math` in your modules. Both are taken away again,
    whatever is raised, Ctrl-C included, and caches of the loss hold numbers again. NumPy itself is never changed.

    With an array of more than four million entries nothing is traced. If it is one of float64, it is not copied: the
    loss gets a view that cannot be written to, and slopes are measured by central differences unless `complex_step` is
    asked for. A check that passes needs two copies of it beyond the training's own arrays, three in place.

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
    options = CheckOptions(
        method, probes, tolerance, executor, max_evaluations, max_seconds, seed, step, progress, constants, pictures
    )
    return check(loss, params, grads, options, in_place=in_place, penalty=penalty)


def check(
    loss: Loss,
    params: object,
    grads: object,
    options: CheckOptions,
    *,
    in_place: bool = False,
    penalty: Loss | None = None,
    trace_with: Callable[[Problem], Tracer] | None = None,
    is_protected: bool = False,
) -> CheckReport:
    """Make the check of `check_gradients` with options that were validated, and with an adapter's own reference.

    Where the functions put everything back themselves (``is_protected``), their generators are not looked for.
    """
    kept = find_generators(*(() if is_protected else (loss, grads, penalty))).preserve()
    # All errors of floating point are expected, and all random numbers are meant for the training.
    with np.errstate(all="ignore"), preserve_global_random_state(), kept as lost, found_once(loss, grads) as used_up:
        meter = Meter(options.max_evaluations, options.max_seconds)
        problem = build_problem(loss, params, grads, in_place=in_place, penalty=penalty, meter=meter)
        issues = [parameter.issue.code for parameter in problem if parameter.issue is not None]
        if used_up and Code.NOT_REPEATABLE in issues:
            raise InvalidProblem(f"Two calls of the gradient function differ. {used_up[0]}")
        try:
            report = check_problem(problem, options, trace_with)
        finally:  # also after Ctrl-C
            put_back(problem.live or {}, problem.home or {})
    return report.noted(*lost, *used_up) if lost or used_up else report


@dataclass(frozen=True)
class CheckOptions:
    """The keywords of `check_gradients`, validated before anything is measured."""

    method: Method | Callable[..., Estimate] | None = None
    probes: Depth | None = None
    tolerance: Tolerance = Tolerance()
    executor: Executor | None = None
    max_evaluations: int | None = None
    max_seconds: float | None = None
    seed: int = 0
    step: int = 0
    progress: Progress | None = None
    constants: Mapping[str, float] | None = None
    pictures: bool = False

    def __post_init__(self) -> None:
        method: object = self.method
        if method is fixed_step:
            raise InvalidProblem("method=fixed_step lacks the step. Try method=fixed_step(1e-7), the textbooks' one.")
        if not (method is None or callable(method)):
            raise InvalidProblem(
                f"method must be a callable, got {method!r}. Try central, complex_step or fixed_step(1e-7)."
            )
        if not (self.probes is None or callable(self.probes)):
            raise InvalidProblem(
                f"probes must be a callable, got {self.probes!r}. Try entries, per_parameter or joint."
            )
        if not isinstance(self.tolerance, Tolerance):
            raise InvalidProblem(f"tolerance must be a Tolerance, got {self.tolerance!r}. Try Tolerance(good=1e-7).")
        for name, limit in (("max_evaluations", self.max_evaluations), ("max_seconds", self.max_seconds)):
            if limit is not None and not (isinstance(limit, (int, float, np.number)) and limit >= 0):
                raise InvalidProblem(
                    f"{name} must be a number, zero or more, got {limit!r}. Leave it out for no limit."
                )

    @property
    def wants_reference(self) -> bool:
        """Return whether the gradient is traced first: by default, and not where a way to measure was chosen."""
        if self.method is None:
            return self.probes is None and self.executor is None
        return Method.of(self.method).is_traced

    @property
    def slope_method(self) -> Method | Callable[..., Estimate] | None:
        """Return how slopes are measured where there is no reference; None for the best that can be trusted."""
        return None if self.wants_reference else self.method

    @property
    def depth(self) -> Depth:
        """Return where to measure: entry by entry for a method whose step suits no random direction."""
        if self.probes is not None:
            return self.probes
        return automatic if self.method is None or Method.of(self.method).adapts_step else entries
