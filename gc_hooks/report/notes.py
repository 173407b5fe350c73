"""The sentences that a check writes beside a verdict: made here from names and numbers, and never read back."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from enum import Enum

from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.report.diagnosis import agree, listed
from gc_hooks.report.verdict import Precision, Verdict


class Refusal(Enum):
    """Why complex step cannot be used for a loss; the value is the sentence for a person."""

    COMPLEX_TYPE = "the loss does not take complex numbers ({0})"
    NOT_FINITE = "it gave a value that is not finite"
    DISAGREES = "{0} where central differences gave {1}"
    TOO_VAGUE = "central differences were too vague to confirm it"


def refused(refusal: Refusal, *details: str) -> str:
    """Say why a check uses central differences and not complex step."""
    return f"Complex step was refused: {refusal.value.format(*details)}. Measured by central differences."


LARGE_ARRAY = "An array is so large that complex numbers in its place are not asked for: central differences."
COMPLEX_IN_PLACE = "Complex step cannot be written into arrays of real numbers; measured by central differences."

NO_ENTRIES = "no entries"
NO_GRADIENT = "no gradient"
PERHAPS_NO_GRADIENT = "no gradient, but the error of the measurement is too large to be sure"
NEAR_LOSS_NOT_FINITE = "the loss is not finite next to this point"
GRADIENT_NOT_FINITE = "backprop's gradient is not finite, the loss and its slope are"
NOISY_LOSS = "the loss is too noisy to be sure"
KINK_HERE = "a kink at this very point, where each side has its own slope: hand in the gradient as a function"
KINK_CLOSER_THAN_STEPS = "a kink was met, closer than the steps that so noisy a loss needs"
MOVED_OFF_KINK = "a kink was met: compared a hair away from it"
OUT_OF_RANGE = "numbers on the way to it are too large for this precision, or too small"
OTHER_STEP_AGREES = "another step size agrees with backprop"

# Sentences with places for figures; each is called with the values for them.
no_gradient_above = "no gradient above {:.0e} of the whole".format
not_measured = "not measured: {} was spent before".format
partly_measured = "{} of {} entries measured: {} was spent".format
not_certain = "{} was spent before it was certain".format
backprop_rounding = "backprop's own rounding may be {:.0e} of it".format
not_traced = "The reference gradient could not be used: {}. Slopes were measured instead.".format
outside_domain = (
    "The loss raised {} at {} of the points at which it was evaluated, taken to be outside of its domain."
).format


class Coarse(Enum):
    """What computes in a lower precision than float64: what was seen, and what to try."""

    PARAMETERS = "The loss reads arrays of {0} in place", "functions that take the parameters: they get float64"
    LOSS = "The loss computes in {0}", "to compute it in float64"
    BUFFERS = "The gradient was handed in as arrays of {0}", "a function that computes it: it is judged in float64"
    GRADIENT = "The gradient function returns numbers of {0}", "to compute it in float64, in which it is asked"


def in_precision(precision: Precision, cause: Coarse, comparisons: Collection[Comparison]) -> str:
    """Say in which precision verdicts hold and why, what they leave open, and what to try."""
    seen, advice = cause.value
    sentences = [f"{seen.format(precision)}."]
    good = [
        one.sensitivity for one in comparisons if one.verdict is Verdict.GOOD and one.reason is not Reason.NO_GRADIENT
    ]
    unclear = [comparison.error for comparison in comparisons if comparison.verdict is Verdict.INCONCLUSIVE]
    good, unclear = list(filter(math.isfinite, good)), list(filter(math.isfinite, unclear))
    if good:
        sentences.append(f"GOOD in {precision}: a relative error above {max(good):.0e} would have been seen.")
    if unclear:
        sentences.append(f"INCONCLUSIVE in {precision}: {nothing_below(min(unclear))}.")
    return " ".join([*sentences, f"Try {advice}."])


def nothing_below(error: float) -> str:
    """Say which difference cannot be seen, with an error that large."""
    return f"no difference below {error:.0e} can be seen" if error < 0.5 else "no difference can be seen"


def loss_not_finite(value: float, not_finite: Sequence[str]) -> str:
    """Say that the loss is not finite, and which parameters are not finite already."""
    if not not_finite:
        return f"the loss is {value}, although all parameters are finite: look for log(0), 0/0 or an overflow"
    verb = agree(not_finite, "is", "are")
    return f"the loss is {value}, and {listed(not_finite)} {verb} not finite already: look at the steps before"


def nothing_tested(names: Sequence[str]) -> str:
    """Say that the loss gives some parameters no gradient, so that nothing is known of their backward."""
    its, it = agree(names, ("Its", "it"), ("Their", "them"))
    return (
        f"Nothing was tested of {listed(names)}: the loss does not depend on {it} here. {its} gradient is zero on both "
        f"sides, so that a wrong backward could not show. This usually means inputs of zeros, a mask that hides "
        f"everything, weights of zero behind {it}, or a loss such as the sum of normalised outputs. Try to look at the "
        "inputs, or, for one layer alone, the loss np.sum(R * outputs) with random numbers R."
    )


def loss_never_changes(value: float, in_place: bool) -> str:
    """Say that the loss does not depend on its parameters, and what to try."""
    cause = (
        "those that it is given, or a function that should set them does not. Try loss=lambda p: ... that uses p, or "
        "in_place=True where it reads the arrays that were handed in."
    )
    if in_place:
        cause = "those that were handed in: copies, or older ones. Try params= with the arrays that the loss reads."
    seen = f"The loss was {value:.6g} to the last bit wherever every parameter was changed."
    return f"{seen} It probably reads other arrays than {cause}"
