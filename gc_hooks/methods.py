"""How to measure: a method takes a line and returns the slope at its start, how far it can be off, and a status."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from numpy.exceptions import ComplexWarning

from gc_hooks.errors import InvalidProblem
from gc_hooks.measuring.estimate import EPS, SAFETY, Curve, Estimate, LineLike, Method, Status, noise_bar
from gc_hooks.measuring.ladder import Ladder

__all__ = [
    "Curve",
    "Estimate",
    "LineLike",
    "Method",
    "Status",
    "central",
    "complex_casts_refused",
    "complex_step",
    "fixed_step",
]


def complex_step(line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
    """The imaginary part of the loss a tiny imaginary step away: no cancellation, no kink crossed, one evaluation.

    Parameters
    ----------
    line : line
        Has to be analytic in NumPy's sense: no ``abs``, ``norm``, ``var``, casts or buffers of floats on the way.
        `check_gradients` uses this method only after it agreed with central differences along random directions.
    scale : float
        The unit of length of the parameters on the line.
    noise : float, optional
        Noise of the loss, in units of the loss; by default the rounding of its value.

    Returns
    -------
    Estimate
        With an error bar for rounding only, on the safe side; `check_gradients` replaces it by what it has measured of
        the rounding of slopes.

    Raises
    ------
    TypeError, ComplexWarning
        The loss refuses complex numbers.

    Notes
    -----
    ``phi'(0) = Im phi(ih) / h + O(h^2)`` [1]_. Here h = 2^-100 of the scale, so that the second term vanishes.

    .. [1] W. Squire, G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40
       (1998).

    Examples
    --------
    >>> import numpy as np
    >>> complex_step(Curve(np.exp)).value
    1.0
    """
    step = scale * 2.0**-100
    value = complex(line(complex(0.0, step)))
    slope = value.imag / step
    if not (math.isfinite(slope) and math.isfinite(value.real)):
        return Estimate(slope, math.inf, step, 1, Status.NONFINITE)
    rounding = 4 * EPS * abs(slope) + _noise_or_rounding(line, noise) / scale
    return Estimate(slope, SAFETY * rounding, step, 1)


def fixed_step(step: float = 1e-7) -> Method:
    """The textbook's formula to the letter, ``(J(theta + h) - J(theta - h)) / 2h``, for teaching and comparison.

    Parameters
    ----------
    step : float
        h, the same for every entry whatever its size.

    Returns
    -------
    Method
        Two evaluations a slope. Its error bar is the rounding of the two losses divided by 2h, plus half the
        difference between the slopes to the right and to the left (a bound on what a kink or curvature can do).

    Raises
    ------
    InvalidProblem
        The step is not a positive number.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(fixed_step(1e-3)(Curve(np.exp)).value), 9)
    1.000000167
    """
    if not (isinstance(step, (int, float)) and 0 < step < math.inf):
        raise InvalidProblem(f"fixed_step({step!r}): the step has to be a positive number. Try 1e-7, the textbooks'.")

    return _FixedStep(step)


@dataclass(frozen=True)
class _FixedStep:
    """A class and not a function inside a function, so that it can be sent to another process."""

    step: float

    def __call__(self, line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
        step = self.step
        above, below = line(step), line(-step)
        value = (above - below) / (2 * step)
        if not math.isfinite(value):
            return Estimate(value, math.inf, step, 2, Status.NONFINITE)
        asymmetry = abs((above - line.value) - (line.value - below)) / step
        rounding = noise_bar(_noise_or_rounding(line, noise), step)
        status = Status.NOISY if rounding > abs(value) else Status.OK
        return Estimate(value, rounding + asymmetry / 2, step, 2, status)

    def __repr__(self) -> str:
        return f"fixed_step({self.step:g})"


def central(line: LineLike, *, scale: float = 1.0, noise: float | None = None) -> Estimate:
    """Central differences with a step adapted to the loss, extrapolated, and an error bar that was measured.

    Parameters
    ----------
    line : line
        Any loss, smooth at its start or not.
    scale : float
        The unit of length of the parameters on the line; the first step is 2^-10 of it (more where the loss is noisy,
        see `gc_hooks.measuring.ladder.first_step`), each further one an eighth.
    noise : float, optional
        Standard deviation of the loss's noise (see `measure_noise`); by default the rounding of its value.

    Returns
    -------
    Estimate
        The bar is the sum of what the noise does to this step, what extrapolation still changes, and half the jump
        between the one-sided slopes, each with its safety.

    Notes
    -----
    Costs two evaluations a rung: 6 to 8 as a rule, at most 18. Richardson's extrapolation in Ridders' tableau [1]_,
    the step and order with the smallest bar; rungs are added until noise alone exceeds the best bar so far.

    .. [1] C. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4 (1982).

    Examples
    --------
    >>> import numpy as np
    >>> estimate = central(Curve(np.exp))
    >>> bool(abs(estimate.value - 1.0) < estimate.error < 1e-9)
    True
    """
    ladder = Ladder(line, scale, _noise_or_rounding(line, noise))
    while ladder.worth_another():
        ladder.descend()
    return ladder.estimate()


def _noise_or_rounding(line: LineLike, noise: float | None) -> float:
    return EPS * abs(line.value) if noise is None else noise


@contextmanager
def complex_casts_refused() -> Iterator[None]:
    """Make NumPy raise where it drops an imaginary part; in the main thread only, since warning filters are shared."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", ComplexWarning)
        yield
