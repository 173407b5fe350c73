"""Rules for gradients that are right but for a constant factor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.problem import Problem
from gc_hooks.report.diagnosis import Diagnosis, of_gradients, sentence
from gc_hooks.report.verdict import Verdict
from gc_hooks.rules.context import RuleContext

CLOSE, LEAST_CLOSE = 1e-5, 1e-3
LARGEST_WHOLE = 10_000
LARGEST_OF_FRACTION = 12
NO_PART = np.zeros(())
ADVICE = {
    "sign": "This usually means target - output where output - target belongs, or a minus of the loss that was left "
    "out. Try the other sign where backward begins.",
    "clipped": "The gradient was clipped before it was handed in. Try to hand in what backward returns, and to clip "
    "afterwards.",
    "dropout_scale": "This usually means that the mask is scaled in one of forward and backward and not in the other. "
    "Try the same scaled mask in both.",
    "scaled": "This usually means a mean in the loss and a sum in backward or the other way round, a 2 or a 1/2 of a "
    "squared error, or a factor written twice. Try to compare the two lines.",
}
SIGN_LOST_LATER = (
    "Other gradients have the right sign, so the first delta has: this usually means a minus too many in the lines "
    "that compute these, or where delta is handed down to them. Try the other sign there."
)


def scaled(problem: Problem, context: RuleContext) -> Iterator[Diagnosis]:
    """My gradient points the right way but has the wrong length: a forgotten 1/m, a 2 too many, a wrong sign, a mask
    without its scale, a gradient that was clipped."""
    factors = {n: f for n in context.failing if (f := factor_of(context, n)) is not None}
    rest = {n: part for n in context.failing if n not in factors and (part := _part(context, n)) is not None}
    partly = {name: f for name, part in rest.items() if (f := factor_of(context, name, part)) is not None}
    for name, factor in factors.items():  # a bias has no penalty: its data's part is all of it
        if any(abs(factor - other) <= CLOSE * abs(other) for other in partly.values()):
            partly[name] = factor
    yield from _by_factor(context, {name: f for name, f in factors.items() if name not in partly}, "")
    yield from _by_factor(context, {n: partly[n] for n in context.failing if n in partly}, "the data's part of ")


def penalty_part(context: RuleContext, name: str) -> Array | None:
    """The gradient of a penalty that was handed in apart, where it is a multiple of the parameter."""
    shares = context.shares(name)
    if not np.any(shares):
        return None
    point = context.problem.point[name]
    part: Array = context.fit(name, shares, point)[0] * point
    return part if np.allclose(context.seen_through(name, part), shares, rtol=1e-6) else None


def _part(context: RuleContext, name: str) -> Array | None:
    """The penalty's gradient, as handed in apart, or as it would have to be inside the loss for the data's part to be
    off by a number that people write: with n = d + p and g = f d + p, n is g / f + (1 - 1/f) p."""
    if np.any(context.shares(name)):
        return penalty_part(context, name)
    point, slopes = context.problem.point[name], context.slopes(name)
    if len(slopes) < 4 or not np.any(context.seen_through(name, point)):
        return None
    inverse, multiple = (float(c) for c in context.fit(name, slopes, context.grad(name), point))
    factor = recognised(1 / inverse, context.constants) if inverse else None
    if factor is None or factor == 1 or multiple / (1 - 1 / factor) <= 0:
        return None
    part: Array = multiple / (1 - 1 / factor) * point
    return part


def factor_of(context: RuleContext, name: str, part: Array = NO_PART) -> float | None:
    """Backprop's gradient as a multiple of the true one (of what is left without a part); None where it is none."""
    grad = context.grad(name) - part
    slopes = context.slopes(name) - context.seen_through(name, np.broadcast_to(part, grad.shape))
    seen = np.abs(context.seen_through(name, grad))
    if not np.any(slopes) or not np.any(seen):
        return None
    inverse = float(context.fit(name, slopes, grad)[0])
    if not math.isfinite(inverse) or abs(inverse) < 1e-9:
        return None
    fitted = context.passes(name, grad * inverse + part)
    vague = 0.0 if fitted is None else 2 * fitted.error
    known = recognised(1 / inverse, context.constants, min(max(CLOSE, vague), LEAST_CLOSE))
    if known is not None and context.passes(name, grad / known + part) is not None:
        return known
    several = np.count_nonzero(seen > 1e-3 * np.max(seen)) > 1  # one number is a multiple of any other
    return 1 / inverse if several and fitted is not None else None


def recognised(factor: float, constants: Mapping[str, float], within: float = CLOSE) -> float | None:
    """The number that a factor stands for, if it is one that people write: a whole one, its inverse, or one that the
    problem knows; ``within`` is how far off it may be, relatively.

    Examples
    --------
    >>> recognised(1.9999999, {}), recognised(0.1234, {}), recognised(0.8000001, {"keep probability": 0.8})
    (2.0, None, 0.8)
    """
    size = abs(factor)
    candidates = [value for value, _ in _known(constants)]
    largest = LARGEST_WHOLE * CLOSE / within
    whole = round(size) if 1 < size < largest else round(1 / size) if 1 > size > 1 / largest else 1
    candidates += [float(whole), 1 / whole] if whole else []
    close = [value for value in candidates if abs(size - value) <= within * value]
    return math.copysign(min(close, key=lambda value: abs(size - value)), factor) if close else None


def _known(constants: Mapping[str, float]) -> Iterator[tuple[float, str]]:
    """What a problem's own numbers can do to a gradient."""
    for what, value in constants.items():
        yield value, what
        yield 1 / value, f"1 / {what}"
        if value > 1:
            yield value / (value - 1), f"m / (m - 1) with m the {what}"
            yield (value - 1) / value, f"(m - 1) / m with m the {what}"


def in_words(factor: float, constants: Mapping[str, float]) -> str:
    """A factor for a sentence.

    Examples
    --------
    >>> in_words(2.0, {}), in_words(0.25, {}), in_words(-1.0, {}), in_words(32.0, {"batch size": 32})
    ('exactly 2 times', 'exactly 1/4 of', 'the opposite of', 'exactly 32 (batch size) times')
    >>> in_words(0.66666667, {}), in_words(-1.5, {}), in_words(0.1234, {})
    ('2/3 of', '-1.5 times', '0.1234 times')
    """
    if factor == -1:
        return "the opposite of"
    names = [what for value, what in _known(constants) if abs(abs(factor) - value) <= CLOSE * value]
    explained = f" ({' or '.join(names)})" if names else ""
    exactly = "" if recognised(factor, constants) is None else "exactly "
    fraction = _as_fraction(factor)
    return f"{exactly}{fraction}{explained} of" if fraction else f"{exactly}{factor:.6g}{explained} times"


def _as_fraction(factor: float) -> str:
    """One over a whole number, or a fraction of two small ones that has no end as a decimal; empty where it is none."""
    sign, size = "-" if factor < 0 else "", abs(factor)
    if size < 1 and abs(1 / size - round(1 / size)) <= 1e-9:
        return f"{sign}1/{round(1 / size)}"
    near = Fraction(size).limit_denominator(LARGEST_OF_FRACTION)
    small = near.numerator <= LARGEST_OF_FRACTION and 10**LARGEST_OF_FRACTION % near.denominator
    return f"{sign}{near}" if small and abs(size - near) <= CLOSE * size else ""


def _by_factor(context: RuleContext, factors: dict[str, float], what: str) -> Iterator[Diagnosis]:
    while factors:
        first = next(iter(factors.values()))
        group = [name for name, factor in factors.items() if abs(factor - first) <= CLOSE * abs(first)]
        factors = {name: factor for name, factor in factors.items() if name not in group}
        yield _diagnosis(context, group, first, what)


def _diagnosis(context: RuleContext, group: list[str], factor: float, what: str) -> Diagnosis:
    limit = _clipping(context, group, factor)
    code = "clipped" if limit else "sign" if factor == -1 else _scale_code(factor, context.constants)
    words = in_words(factor, context.constants)
    message = f"{what}{of_gradients(group)} {'is' if len(group) == 1 else 'are'} {words} the measured slope"
    message = f"{message}{'' if len(group) == 1 else 's'}"
    repaired = {name: _repaired(context, name, factor, what) for name in group}
    worst = max(repaired, key=repaired.__getitem__)
    measurements = f"With {of_gradients([worst])} {_undone(factor)} the difference would be {repaired[worst]:.1g}."
    if limit:
        measurements += f" Its norm over all parameters is {limit:g}."
    advice = SIGN_LOST_LATER if code == "sign" and _right_beside(context) else ADVICE[code]
    return Diagnosis(code, tuple(group), sentence(f"{message}{_scope(context, group)}."), measurements, advice)


def _right_beside(context: RuleContext) -> bool:
    """Whether other parameters have a gradient that is right, so that the first delta is."""
    right = [name for name, c in context.items() if c.verdict is Verdict.GOOD and c.note != "no gradient"]
    return any(context.problem.grad_norms[name] > 0 for name in right)


def _repaired(context: RuleContext, name: str, factor: float, what: str) -> float:
    part = _part(context, name) if what else None
    part = np.zeros(()) if part is None else part
    return context.judged(name, (context.grad(name) - part) / factor + part).difference


def _scale_code(factor: float, constants: Mapping[str, float]) -> str:
    keep = constants.get("keep probability", 0.0)
    return "dropout_scale" if keep and any(abs(factor - v) <= CLOSE * v for v in (keep, 1 / keep)) else "scaled"


def _clipping(context: RuleContext, group: list[str], factor: float) -> float:
    """The round number that the whole gradient's norm was cut down to; 0 where it was not."""
    others = [name for name in context if name not in group and context.problem.grad_norms.get(name, 0.0) > 0]
    norm = math.hypot(*(context.problem.grad_norms[name] for name in group))
    limit = float(f"{norm:.1e}")
    clipped = 0 < factor < 1 and not others and len(group) > 1 and abs(norm - limit) <= 1e-7 * limit
    return limit if clipped else 0.0


def _undone(factor: float) -> str:
    return "* -1" if factor == -1 else f"/ {factor:.6g}" if abs(factor) >= 1 else f"* {1 / factor:.6g}"


def _scope(context: RuleContext, group: list[str]) -> str:
    """Whether these are all parameters, all weights, or all biases."""
    names = [name for name in context if context.problem.grad_norms.get(name, 0.0) > 0]
    if len(group) < 2:
        return ""
    if len(group) == len(names):
        return ", for all parameters"
    weights = [name for name in names if not is_bias(context.problem, name)]
    biases = [name for name in names if is_bias(context.problem, name)]
    return ", for all weights" if group == weights else ", for all biases" if group == biases else ""


def is_bias(problem: Problem, name: str) -> bool:
    """Whether a parameter looks like a bias: a vector, or a row or column, or a number."""
    return sum(1 for length in problem.point[name].shape if length > 1) <= 1
