"""A rule for gradients that are a multiple of the true one, and the numbers that people multiply by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.norms import largest
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair, agree, of_gradients, sentence
from gc_hooks.rules.context import RuleContext

CLOSE, LEAST_CLOSE = 1e-5, 1e-3
"""How near, relatively, a fitted factor is to the number that it is taken for; the second, where the slopes are too
inexact for the first. Twice as wide, odd factors get a name they do not deserve; half, central differences miss it."""
LARGEST_WHOLE = 10_000
"""Largest whole number that is recognised (a batch size). From 1 / (2 CLOSE) on, every number is near a whole one."""
LARGEST_IN_FRACTION = 12
"""Largest number in a fraction that is written as one: 2/3 for 0.666667. Larger ones say less than the decimal."""
LARGEST_ROOT = 64
"""Largest whole number whose root is recognised (a dimension): roots lie denser than numbers, so that chance hits one
the more often, the larger they are."""
SPECIAL = {"ln 10": math.log(10), "ln 2": math.log(2), "pi": math.pi, "2 pi": 2 * math.pi}
SPECIAL |= {f"sqrt({whole})": math.sqrt(whole) for whole in range(2, LARGEST_ROOT) if math.isqrt(whole) ** 2 < whole}
SPECIAL |= {f"1 / ({name})" if " " in name else f"1 / {name}": 1 / value for name, value in SPECIAL.items()}
NO_PENALTY = np.zeros(())
ADVICE = {
    Code.SIGN: "This usually means target - output for output - target, or a minus of the loss that was left out. Try "
    "the other sign where backward begins.",
    Code.CLIPPED: "The gradient was clipped before it was handed in. Try to clip it afterwards.",
    Code.DROPOUT_SCALE: "This usually means a mask that is scaled in only one of forward and backward. Try the same "
    "scaled mask in both.",
    Code.SCALED: "This usually means a sum for a mean, the 2 of a squared error, or a doubled factor. Try to "
    "compare the two lines.",
}
SIGN_LOST_LATER = (
    "Other gradients have the right sign, so the first delta has it: this usually means a minus in the lines that "
    "compute these, or that hand delta down to them. Try the other sign there."
)

BESIDE_ONE = 1e-2
"""How near to 1 a factor is that is no count and no constant of a formula."""
NEARLY_ONE = (
    "A factor so near to 1 is usually an epsilon, a rounded constant, or a decay that is in one of the two only. Try "
    "to look for such a number."
)
ON_EVERYTHING = (
    "One odd factor on everything is usually clipping by norm, a loss scale, or a learning rate. Try to hand in the "
    "gradient before that."
)
ODD = (
    "This usually means log10 or log2 beside log (ln 10, ln 2), or the root of a dimension that is in one of the two "
    "only. Try to compare the two lines."
)

is_near = partial(math.isclose, rel_tol=CLOSE)


def scaled(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient points the right way but has the wrong length: a forgotten 1/m, a 2 too many, a wrong sign, a mask
    without its scale, a gradient that was clipped. Seen when it, or the data's part of it, passes after a division by
    one number, found by least squares; costs no slope."""
    fits: dict[str, tuple[Fit, Array]] = {}  # for each gradient its factor, and the penalty's part
    for name in context.failing:
        for penalty in _penalties(context, name):
            fit = fit_factor(context, name, penalty)
            if fit is not None:
                fits[name] = fit, penalty
                break
    # A bias has no penalty: if its factor is that of the data's part elsewhere, it is the same bug.
    for part in ("", "the data's part of "):
        for factor, names in _groups(context, fits).items():
            if any(np.ndim(fits[name][1]) for name in names) == bool(part):  # `NO_PENALTY` has no dimension
                yield _diagnosis(context, factor, {name: fits[name][1] for name in names}, part)


def _groups(context: RuleContext, fits: Mapping[str, tuple[Fit, Array]]) -> dict[float, list[str]]:
    """Return the factors, each with the gradients that it puts right.

    Numbers that people write come first: an inexact factor, and that of a single number, may be any of its neighbours.
    """
    groups: dict[float, list[str]] = {}
    left = dict(fits)
    for fit, _ in sorted(fits.values(), key=lambda found: (not found[0].is_known, not found[0].is_sure)):
        names = []
        for name, (own, penalty) in left.items():
            arrays = (context.gradient(name), penalty) if np.ndim(penalty) else (context.gradient(name),)
            repair = partial(_without_factor, fit.factor)
            if is_near(own.factor, fit.factor) or context.try_repair(name, *arrays, by=repair) is not None:
                names.append(name)
        # One number is a multiple of any other: an odd factor needs several numbers that agree on it.
        if names and (fit.is_sure or len(names) > 1):
            groups[fit.factor] = names
            for name in names:
                del left[name]
    return groups


def _without_factor(factor: float, gradient: Array, penalty: Array | float = 0.0) -> Array:
    return _divided(factor, gradient - penalty, penalty) if np.ndim(penalty) else gradient / factor


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
        if factor is not None and coefficient / (1 - 1 / factor) > 0:
            yield coefficient / (1 - 1 / factor) * value


def penalty_part(context: RuleContext, name: str) -> Array | None:
    """Return the gradient of a penalty that was handed in separately, where it is a multiple of the parameter."""
    slopes, value = context.penalty_slopes(name), context.value(name)
    if not np.any(slopes):
        return None
    part: Array = context.fit(name, slopes, value)[0] * value
    return part if np.allclose(context.slopes_of(part, name), slopes, rtol=1e-6) else None


LEAST_SURE = 3
"""Slopes that have to agree on an odd factor: of one number every factor is true, and of a bias before a softmax with
two classes too, whose gradients sum to zero."""


class Fit(NamedTuple):
    """How many times too large a gradient is."""

    factor: float
    is_known: bool  # whether it is a number that people write
    is_sure: bool  # whether one gradient alone shows it


def fit_factor(context: RuleContext, name: str, penalty: Array = NO_PENALTY) -> Fit | None:
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
        return Fit(known, True, True)
    fitted = context.try_repair(name, *arrays, by=partial(_divided, 1 / inverse))
    if fitted is None:
        return None
    # The factor is known as well as the difference is: a number that people write may be that far from it.
    within = min(max(CLOSE, 2 * fitted.error), LEAST_CLOSE)
    known = recognised(1 / inverse, context.constants, within)
    if known is not None and context.try_repair(name, *arrays, by=partial(_divided, known)) is not None:
        return Fit(known, True, True)
    count = np.count_nonzero(np.abs(predicted) > 1e-3 * largest(predicted))
    return Fit(1 / inverse, False, bool(count >= LEAST_SURE))


def factor_is_known(context: RuleContext, name: str) -> bool:
    """Return whether a gradient is a multiple of the true one by a number that people write."""
    fit = fit_factor(context, name)
    return fit is not None and fit.is_known


def _divided(factor: float, gradient: Array, penalty: Array | float = 0.0) -> Array:
    """Return a gradient with its data's part divided by a factor."""
    return gradient / factor + penalty if np.ndim(penalty) else gradient / factor


def recognised(factor: float, constants: Mapping[str, float], within: float = CLOSE) -> float | None:
    """Return the number that a factor stands for, if it is one that people write, else None; never 1.

    These are whole numbers, their inverses and roots, ln 2, ln 10 and pi, and what the problem's constants do to a
    gradient; ``within`` is how far, relatively, the factor may be from it.

    >>> recognised(1.9999999, {}), recognised(0.1234, {}), recognised(0.8000001, {"keep probability": 0.8})
    (2.0, None, 0.8)
    >>> recognised(1.0000001, {}), recognised(-1.0000001, {})
    (None, -1.0)
    """
    size, largest = abs(factor), LARGEST_WHOLE * CLOSE / within
    numbers = [*_by_constants(constants).values(), *SPECIAL.values()]
    if 1 <= size < largest:
        numbers.append(float(round(size)))
    elif 1 / largest < size < 1:
        numbers.append(1 / round(1 / size))
    nearest = min(numbers, key=lambda number: abs(size - number), default=math.nan)
    if abs(size - nearest) > within * nearest or (nearest == 1 and factor > 0):
        return None
    return math.copysign(nearest, factor)


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
    >>> in_words(0.66666667, {}), in_words(-1.5, {}), in_words(0.1234, {}), in_words(1.0000003, {})
    ('2/3 of', '-1.5 times', '0.1234 times', '1.0000003 times')
    >>> in_words(2.302585093, {})
    '2.30259 (ln 10) times'
    """
    if factor == -1:
        return "the opposite of"
    words, end, known = in_digits(factor), "times", recognised(factor, constants)
    fraction = Fraction(factor).limit_denominator(LARGEST_IN_FRACTION)
    has_no_end = 10**LARGEST_IN_FRACTION % fraction.denominator and abs(fraction.numerator) <= LARGEST_IN_FRACTION
    if abs(factor) < 1 and abs(1 / factor - round(1 / factor)) <= 1e-9:
        words, end = str(Fraction(1, round(1 / factor))), "of"
    elif has_no_end and is_near(factor, fraction):  # 2/3 says more than 0.666667
        words, end = str(fraction), "of"
    numbers = {**_by_constants(constants), **SPECIAL}
    names = " or ".join(name for name, value in numbers.items() if is_near(abs(factor), value))
    if names:
        words += f" ({names})"
    if known is not None and not any(is_near(abs(factor), value) for value in SPECIAL.values()):
        words = f"exactly {words}"
    return f"{words} {end}"


def in_digits(factor: float) -> str:
    """Return a factor with six digits, or with as many as show that it is not 1.

    >>> in_digits(0.123456789), in_digits(1.000003), in_digits(0.9999998)
    ('0.123457', '1.000003', '0.9999998')
    """
    beside_one = abs(factor - 1)
    if 0 < beside_one < 1e-4:
        return f"{factor:.{max(1, math.ceil(-math.log10(beside_one) - 1e-3))}f}"
    return f"{factor:.6g}"


def clipped_by_value(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient was clipped by value before it was handed in. Seen when all wrong entries have one size, and the
    slopes there are larger, of several sizes, and have the same signs; costs nothing."""
    names, bound = context.failing, 0.0
    for name in names:
        bound = max(bound, largest(context.gradient(name)))
    sizes: list[Array] = []
    for name in names:
        indices, slopes = context.wrong_entries(name)
        grads = context.gradient(name).flat[indices]
        is_at_bound = np.abs(np.abs(grads) - bound) <= CLOSE * bound
        if not len(indices) or not np.all(is_at_bound & (np.abs(slopes) > bound) & (slopes * grads > 0)):
            return
        sizes.append(np.abs(slopes))
    if not sizes:
        return
    every = np.concatenate(sizes)
    # Of one size it may be a factor as well: then the bound has to be one digit, and others have to be right below it.
    is_one_size = np.max(every) <= (1 + LEAST_CLOSE) * np.min(every)
    is_bound = is_near(bound, float(f"{bound:.0e}")) and any(map(context.is_partly_right, context.usable))
    if (is_one_size and not is_bound) or any(largest(context.gradient(name)) > bound for name in context.usable):
        return

    def attempt(name: str) -> tuple[Array, str]:
        indices, slopes = context.wrong_entries(name)
        repaired = context.gradient(name).copy()
        repaired.flat[indices] = slopes
        return repaired, "the measured values there"

    if all(context.try_repair(name, attempt(name)[0]) is not None for name in names):
        limit, count = f"{bound:.4g}", len(every)
        which = f"All {count} wrong entries" if count > 1 else "The wrong entry"
        verb, seen = ("is", "slope is") if count == 1 else ("are", "slopes are")
        message = f"{which} of {of_gradients(names)} {verb} {limit} or -{limit}, and the measured {seen} larger."
        advice = "This usually means a gradient that is clipped by value. Try to hand it in before it is clipped."
        yield context.with_repair(
            Diagnosis(Code.CLIPPED, tuple(names), message, advice=advice), Repair.ENTRIES, attempt
        )


def line_factors(context: RuleContext) -> Iterator[Diagnosis]:
    """Each row or column of my gradient has a factor of its own: a count, a mask, the weight of a sample. Seen when the
    gradient passes after each line is divided by its own number; costs no slope."""
    for name in context.unexplained:
        slopes, gradient = context.measured_gradient(name), context.gradient(name)
        if slopes is None or gradient.ndim != 2:
            continue
        for axis, what in enumerate(("column", "row")):
            norms, products = np.sum(gradient**2, axis=axis), np.sum(gradient * slopes, axis=axis)
            of_line = np.count_nonzero(gradient, axis=axis)
            telling = of_line >= LEAST_IN_LINE
            if np.count_nonzero(telling) < 2 or np.any(of_line[~telling]):
                continue
            inverse = np.divide(products, norms, out=np.ones(len(norms)), where=norms > 0)
            repaired = gradient * np.expand_dims(inverse, axis)
            if context.try_repair(name, repaired) is None:
                continue
            shown = ", ".join(map(in_digits, (1 / inverse[telling & (inverse != 0)])[:4]))
            own = of_gradients([name])
            diagnosis = Diagnosis(
                Code.LINE_FACTORS,
                (name,),
                sentence(f"{own} has a factor of its own in each {what}: {shown}, ..."),
                advice=f"This usually means a count, a mask or a weight for each {what} that is in one of loss and "
                "gradient only. Try to compare the two lines.",
            )
            yield context.with_repair(
                diagnosis, Repair.SCALE, {name: (repaired, f"each {what} of {own} divided by its own")}.__getitem__
            )
            break


def reparametrised(context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient is the derivative by another parameter: by the logarithm of it, or by its square. Seen when it passes
    after the chain rule for that, entry by entry; costs no slope."""
    names = context.unexplained
    for words, (usual, rate) in PARAMETRISATIONS.items():
        repaired: dict[str, Array] = {}
        entries = 0
        for name in names:
            with np.errstate(all="ignore"):
                candidate = np.asarray(context.gradient(name) / rate(context.value(name)))
            if np.all(np.isfinite(candidate)) and context.try_repair(name, candidate) is not None:
                repaired[name] = candidate
                entries += int(np.count_nonzero(candidate))
        if entries >= LEAST_IN_LINE:
            found = list(repaired)
            message = f"{of_gradients(found)} {agree(found, 'is', 'are')} the measured slopes {words}."
            advice = f"This usually means {usual}. Try the derivative by what the loss takes."
            diagnosis = Diagnosis(Code.REPARAMETRISED, tuple(found), sentence(message), advice=advice)
            yield context.with_repair(
                diagnosis, Repair.SCALE, {name: (repaired[name], "that taken back") for name in found}.__getitem__
            )
            return


LEAST_IN_LINE = 3
"""Entries of a line, or of all gradients, that have to agree: of one number every factor is true, of two many are."""
PARAMETRISATIONS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "times the parameter itself": ("the derivative by its logarithm, log(w)", lambda w: w),
    "divided by the parameter itself": (
        "the derivative by its exponential, of a w that the loss takes as log",
        lambda w: 1 / w,
    ),
    "times exp of the parameter": ("the derivative by exp(w), or a log that is not in the loss", np.exp),
    "divided by exp of the parameter": (
        "the derivative by the logarithm, where the loss takes exp(w)",
        lambda w: np.exp(-w),
    ),
    "times w * (1 - w)": ("the derivative by the logit of w", lambda w: w * (1 - w)),
    "divided by 2 w": ("the derivative by its square, w**2", lambda w: 1 / (2 * w)),
    "times 2 w": ("the derivative by its square root, of a w that the loss does not square", lambda w: 2 * w),
}


def _diagnosis(context: RuleContext, factor: float, penalties: Mapping[str, Array], part: str) -> Diagnosis:
    """Return the diagnosis of gradients, or of the data's part of them, that have one wrong factor."""
    names, keep = list(penalties), context.constants.get("keep probability")
    nonzero = set(context.nonzero)
    biases = {name for name in nonzero if context.is_bias(name)}
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
    is_odd = recognised(factor, context.constants) is None
    if code is Code.SCALED and is_odd and len(names) > 1 and nonzero <= set(names) and abs(factor - 1) > BESIDE_ONE:
        advice = ON_EVERYTHING
    elif code is Code.SCALED and abs(factor - 1) < BESIDE_ONE:
        advice = NEARLY_ONE
    elif code is Code.SCALED and any(is_near(abs(factor), value) for value in SPECIAL.values()):
        advice = ODD
    if code is Code.SIGN and any(map(context.is_right, nonzero)):
        advice = SIGN_LOST_LATER
    verb, slopes = agree(names, "is", "are"), agree(names, "slope", "slopes")
    words = in_words(factor, context.constants)
    message = f"{part}{of_gradients(names)} {verb} {words} the measured {slopes}{scope}."
    undone = f"/ {in_digits(factor)}" if abs(factor) > 1 else f"* {in_digits(1 / factor)}"

    def attempt(name: str) -> tuple[Array, str]:
        penalty = penalties[name]
        gradient = context.gradient(name) - penalty if np.ndim(penalty) else context.gradient(name)
        return _divided(factor, gradient, penalty), f"{'that part' if part else of_gradients([name])} {undone}"

    diagnosis = Diagnosis(code, tuple(names), sentence(message), advice=advice)
    return context.with_repair(diagnosis, Repair.SCALE, attempt, more)
