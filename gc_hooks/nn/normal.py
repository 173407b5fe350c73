"""The normal distribution, vectorised in NumPy alone."""

from __future__ import annotations

import math

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.nn.functions import magnitude

ERFC = (
    *(-0.6513268598908547, 0.6419697923564902, 0.019476473204185836, -0.009561514786808632, -0.0009465953444820369),
    *(0.00036683949785276145, 4.252332480690777e-05, -2.0278578112534242e-05, -1.6242900046470256e-06),
    *(1.3036558355805232e-06, 1.5626441722066142e-08, -8.523809591492654e-08, 6.5290544390988515e-09),
    *(5.059343495551469e-09, -9.91364156493033e-10, -2.273651222931836e-10, 9.646791102015527e-11),
    *(2.3940380830391146e-12, -6.886027526497553e-12, 8.944879273090725e-13, 3.130921399342958e-13),
    *(-1.1270822361367252e-13, 3.810905255189232e-16, 7.106097613609237e-15, -1.5230282014571043e-15),
    *(-9.457494571291233e-17, 1.210237189224279e-16),
)
"""Chebyshev coefficients, over t = 2 / (2 + x) in [0, 1], of ``log(erfc(x) exp(x^2) / t)``; computed with 40 digits."""

SMALL = 1e-8
"""An imaginary part whose square is lost beside 1."""

FAR = 60.0
"""Where nothing is left of either tail, and x^2 is far from overflow."""


def normal_pdf(x: Array) -> Array:
    """``exp(-x^2 / 2) / sqrt(2 pi)``."""
    density: Array = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return density


def normal_cdf(x: Array) -> Array:
    """``Phi(x)``, to about ten roundings in either tail.

    From ``Phi(-x) = erfc(x / sqrt 2) / 2`` and a Chebyshev series for erfc, as in Press et al., "Numerical recipes"
    (2007), section 6.2. A complex x is taken for a complex step: its imaginary part enters to first order,
    ``Phi(x) + ih phi(x)``, and gives NaN where it is too large for that (above 1e-8), so that a check that came here
    with one refuses it and uses central differences.

    Examples
    --------
    >>> normal_cdf(np.array([-40.0, 0.0, 1.0]))
    array([0.        , 0.5       , 0.84134475])
    """
    if np.iscomplexobj(x):
        step = np.where(magnitude(x.imag) <= SMALL, x.imag, np.nan)
        result: Array = normal_cdf(x.real) + 1j * step * normal_pdf(x.real)
        return result
    tail = _erfc(np.minimum(magnitude(x), FAR) / math.sqrt(2)) / 2
    return np.where(x < 0, tail, 1 - tail)


def _erfc(x: Array) -> Array:
    """``1 - erf(x)`` for x of zero or more, by Clenshaw's recurrence; as many terms as the precision can see."""
    t = 2 / (2 + x)
    twice, eps = 4 * t - 2, np.finfo(x.dtype).eps
    first, *others = [c for c in ERFC if abs(c) > eps / 16]
    above = before = np.zeros_like(t)
    for c in reversed(others):
        above, before = c + twice * above - before, above
    result: Array = t * np.exp(first + twice * above / 2 - before - x * x)
    return result
