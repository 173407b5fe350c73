"""A rule for gradients that are a multiple of the true one, and the numbers that people multiply by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import is_vector, largest
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, of_gradients, sentence
from gc_hooks.rules.context import RuleContext, is_several

CLOSE, LEAST_CLOSE = 1e-5, 1e-3
"""How near, relatively, a fitted factor is to the number that it is taken for; the second, where the slopes are too
inexact for the first. Twice as wide, odd factors get a name they do not deserve; half, central differences miss it."""
LARGEST_WHOLE = 10_000
"""Largest whole number that is recognised (a batch size). From 1 / (2 CLOSE) on, every number is near a whole one."""
LARGEST_IN_FRACTION = 12
"""Largest number in a fraction that is written as one: 2/3 for 0.666667. Larger ones say less than the decimal."""
NO_PENALTY = np.zeros(())
ADVICE = {
    Code.SIGN: "This usually means target - output for output - target, or a minus of the loss that was left out. Try "
    "the other sign where backward begins.",
    Code.CLIPPED: "The gradient was clipped before it was handed in. Try to clip it afterwards.",
    Code.DROPOUT_SCALE: "This usually means a mask that is scaled in only one of forward and backward. Try the same "
    "scaled mask in both.",
    Code.SCALED: "This usually means a mean in one of loss and backward and a sum in the other, a 2 or a 1/2 of a "
    "squared error, or a factor written twice. Try to compare the two lines.",
}
SIGN_LOST_LATER = (
    "Other gradients have the right sign, so the first delta has it: this usually means a minus in the lines that "
    "compute these, or that hand delta down to them. Try the other sign there."
)

is_near = partial(math.isclose, rel_tol=CLOSE)


def scaled(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient points the right way but has the wrong length: a forgotten 1/m, a 2 too many, a wrong sign, a mask
    without its scale, a gradient that was clipped. Seen when it, or the data's part of it, passes after a division by
    one number, found by least squares; costs no slope."""
    groups: dict[float, dict[str, Array]] = {}  # by the factor: the gradients that have it, and the penalty's part
    for name in context.failing:
        for penalty in _penalties(context, name):
            factor = factor_of(context, name, penalty)
            if factor is not None:
                known = list(filter(partial(is_near, factor), groups))
                groups.setdefault([*known, factor][0], {})[name] = penalty
                break
    # A bias has no penalty: if its factor is that of the data's part elsewhere, it is the same bug.
    for part in ("", "the data's part of "):
        for factor, penalties in groups.items():
            if any(map(np.ndim, penalties.values())) == bool(part):  # `NO_PENALTY` has no dimension
                yield _diagnosis(context, factor, penalties, part)


def _penalties(context: RuleContext, name: str) -> Iterator[Array]:
    """Yield what may be the penalty's part of a gradient: nothing at first, then an L2 term where one is possible."""
    yield NO_PENALTY
    value, slopes = context.value(name), context.slopes(name)
    if np.any(context.penalty_slopes(name)):
        part = penalty_part(context, name)
        if part is not None:
            yield part
    elif len(slopes) >= 4 and np.any(context.slopes_of(value, name)):  # the fit has two unknowns
        # With data d and penalty p the true gradient is n = d + p, and backprop has g = f d + p. So n is
        # g / f + (1 - 1/f) p: a fit of n by g and the parameter gives 1/f and, by the parameter's coefficient, p.
        inverse, coefficient = map(float, context.fit(name, slopes, context.gradient(name), value))
        factor = recognised(1 / inverse, context.constants) if inverse else None
        if factor not in (None, 1.0) and coefficient / (1 - 1 / factor) > 0:
            yield coefficient / (1 - 1 / factor) * value


def penalty_part(context: RuleContext, name: str) -> Array | None:
    """Return the gradient of a penalty that was handed in separately, where it is a multiple of the parameter."""
    slopes, value = context.penalty_slopes(name), context.value(name)
    if not np.any(slopes):
        return None
    part: Array = context.fit(name, slopes, value)[0] * value
    return part if np.allclose(context.slopes_of(part, name), slopes, rtol=1e-6) else None


def factor_of(context: RuleContext, name: str, penalty: Array = NO_PENALTY) -> float | None:
    """Return how many times too large the gradient without the penalty's part is; None where it is not a multiple."""
    gradient, slopes, part = context.gradient(name), context.slopes(name), None
    if np.ndim(penalty):
        gradient, part = gradient - penalty, context.slopes_of(penalty, name)
    predicted = context.slopes_of(gradient, name)
    if not np.any(predicted) or not np.any(slopes if part is None else slopes - part):
        return None
    inverse = float(context.fit(name, slopes, gradient, less=part)[0])
    if not math.isfinite(inverse) or abs(inverse) < 1e-9:  # the slopes have nothing to do with the gradient
        return None
    arrays = (gradient, penalty) if np.ndim(penalty) else (gradient,)
    known = recognised(1 / inverse, context.constants)
    if known is not None and context.try_repair(name, *arrays, by=partial(_divided, known)) is not None:
        return known
    fitted = context.try_repair(name, *arrays, by=partial(_divided, 1 / inverse))
    if fitted is None:
        return None
    # The factor is known as well as the difference is: a number that people write may be that far from it.
    within = min(max(CLOSE, 2 * fitted.error), LEAST_CLOSE)
    known = recognised(1 / inverse, context.constants, within)
    if known is not None and context.try_repair(name, *arrays, by=partial(_divided, known)) is not None:
        return known
    # One number is a multiple of any other: an odd factor needs several slopes that agree on it.
    several = is_several(np.abs(predicted) > 1e-3 * largest(predicted))
    return 1 / inverse if several else None


def _divided(factor: float, gradient: Array, penalty: Array | float = 0.0) -> Array:
    """Return a gradient with its data's part divided by a factor."""
    return gradient / factor + penalty if np.ndim(penalty) else gradient / factor


def recognised(factor: float, constants: Mapping[str, float], within: float = CLOSE) -> float | None:
    """Return the number that a factor stands for, if it is one that people write, else None.

    These are whole numbers, their inverses, and what the problem's constants do to a gradient; ``within`` is how far,
    relatively, the factor may be from it.

    >>> recognised(1.9999999, {}), recognised(0.1234, {}), recognised(0.8000001, {"keep probability": 0.8})
    (2.0, None, 0.8)
    """
    size, largest = abs(factor), LARGEST_WHOLE * CLOSE / within
    numbers = list(_by_constants(constants).values())
    if 1 <= size < largest:
        numbers.append(float(round(size)))
    elif 1 / largest < size < 1:
        numbers.append(1 / round(1 / size))
    nearest = min(numbers, key=lambda number: abs(size - number), default=math.nan)
    return math.copysign(nearest, factor) if abs(size - nearest) <= within * nearest else None


def _by_constants(constants: Mapping[str, float]) -> dict[str, float]:
    """Return the factors that a wrong use of the problem's constants makes, by what they are called."""
    factors = {}
    for name, value in constants.items():
        factors.update({name: value, f"1 / {name}": 1 / value})
        if value > 1:
            factors[f"m / (m - 1) with m the {name}"] = value / (value - 1)
            factors[f"(m - 1) / m with m the {name}"] = (value - 1) / value
    return factors


def in_words(factor: float, constants: Mapping[str, float]) -> str:
    """Return a factor for a sentence.

    >>> in_words(2.0, {}), in_words(0.25, {}), in_words(-1.0, {}), in_words(32.0, {"batch size": 32})
    ('exactly 2 times', 'exactly 1/4 of', 'the opposite of', 'exactly 32 (batch size) times')
    >>> in_words(0.66666667, {}), in_words(-1.5, {}), in_words(0.1234, {})
    ('2/3 of', '-1.5 times', '0.1234 times')
    """
    if factor == -1:
        return "the opposite of"
    words, end = f"{factor:.6g}", "times"
    fraction = Fraction(factor).limit_denominator(LARGEST_IN_FRACTION)
    has_no_end = 10**LARGEST_IN_FRACTION % fraction.denominator and abs(fraction.numerator) <= LARGEST_IN_FRACTION
    if abs(factor) < 1 and abs(1 / factor - round(1 / factor)) <= 1e-9:
        words, end = str(Fraction(1, round(1 / factor))), "of"
    elif has_no_end and is_near(factor, fraction):  # 2/3 says more than 0.666667
        words, end = str(fraction), "of"
    names = " or ".join(name for name, value in _by_constants(constants).items() if is_near(abs(factor), value))
    if names:
        words += f" ({names})"
    if recognised(factor, constants) is not None:
        words = f"exactly {words}"
    return f"{words} {end}"


def _diagnosis(context: RuleContext, factor: float, penalties: Mapping[str, Array], part: str) -> Diagnosis:
    """Return the diagnosis of gradients, or of the data's part of them, that have one wrong factor."""
    names, keep = list(penalties), context.constants.get("keep probability")
    nonzero = set(context.nonzero)
    biases = {name for name in nonzero if is_vector(context.value(name))}
    scope = ""
    for kind, members in {"parameters": nonzero, "weights": nonzero - biases, "biases": biases}.items():
        if len(names) > 1 and set(names) == members:
            scope = scope or f", for all {kind}"
    code, more = Code.SCALED, ""
    # Clipping cuts the norm of the whole gradient down to a round number.
    total_norm = math.hypot(*map(context.gradient_norm, names))
    limit = float(f"{total_norm:.1e}")
    if 0 < factor < 1 and len(names) > 1 and nonzero <= set(names) and abs(total_norm - limit) <= 1e-7 * limit:
        code, more = Code.CLIPPED, f" Its norm over all parameters is {limit:g}."
    elif factor == -1:
        code = Code.SIGN
    elif keep and (is_near(factor, keep) or is_near(factor, 1 / keep)):
        code = Code.DROPOUT_SCALE
    advice = ADVICE[code]
    if code is Code.SIGN and any(map(context.is_right, nonzero)):
        advice = SIGN_LOST_LATER
    verb, slopes = agree(names, "is", "are"), agree(names, "slope", "slopes")
    words = in_words(factor, context.constants)
    message = f"{part}{of_gradients(names)} {verb} {words} the measured {slopes}{scope}."
    undone = f"/ {factor:.6g}" if abs(factor) > 1 else f"* {1 / factor:.6g}"

    def attempt(name: str) -> tuple[Array, str]:
        penalty = penalties[name]
        gradient = context.gradient(name) - penalty if np.ndim(penalty) else context.gradient(name)
        return _divided(factor, gradient, penalty), f"{of_gradients([name])} {undone}"

    diagnosis = Diagnosis(code, tuple(names), sentence(message), advice=advice)
    return context.with_repair(diagnosis, Repair.SCALE, attempt, more)
