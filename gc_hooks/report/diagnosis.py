"""A named bug: its code, its evidence, the repair that was tried; and how names and counts are written in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

Form = TypeVar("Form")


class _Text(str, Enum):
    """An enum whose members are printed, sorted and written to JSON as their text, on every version of Python."""

    # Without these, str() and format() give other results on Python 3.10, 3.11 and 3.12.
    __str__ = str.__str__
    __repr__ = str.__repr__

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


class Code(_Text):
    """The bugs that can be named; tests/test_rules_laws.py says what each of them needs."""

    # The gradient cannot be used, before any slope is measured.
    MISSING_GRADIENT, WRONG_SHAPE, NOT_NUMERIC = "missing_gradient", "wrong_shape", "not_numeric"
    NOT_REPEATABLE, NOT_FINITE = "not_repeatable", "not_finite"
    # One of backprop's gradient and the measured slopes is zero.
    GRADIENT_LOST, PARAMETER_UNUSED = "gradient_lost", "parameter_unused"
    # The gradient is a multiple of the true one.
    SCALED, SIGN, DROPOUT_SCALE, CLIPPED = "scaled", "sign", "dropout_scale", "clipped"
    LINE_FACTORS, REPARAMETRISED = "line_factors", "reparametrised"
    # The gradient is wrong with dropout on alone.
    DROPOUT_MASK = "dropout_mask"
    # The penalty's part of the gradient is wrong.
    L2_MISSING, L2_FACTOR, L2_SIGN, L2_ON_BIAS = "l2_missing", "l2_factor", "l2_sign", "l2_on_bias"
    L1 = "l1"
    # The right numbers stand in the wrong place, or were summed over the wrong axis.
    TRANSPOSED, SWAPPED, OUT_OF_STEP = "transposed", "swapped", "out_of_step"
    FLIPPED, SHIFTED, COPIED = "flipped", "shifted", "copied"
    SUMMED_OVER_WRONG_AXIS = "summed_over_wrong_axis"
    # Some entries are wrong.
    SINGLE_ENTRIES, ROWS, COLUMNS, REPEATED_INDICES = "single_entries", "rows", "columns", "repeated_indices"
    # Something is wrong between the parameters.
    WRONG_BELOW, OTHER_LOSS, LAYER = "wrong_below", "other_loss", "layer"
    # One place of backward is wrong, and its line of forward is known.
    PATH_LOST, PATH_SCALED, ACTIVATION_DERIVATIVE = "path_lost", "path_scaled", "activation_derivative"
    NOT_TRANSPOSED, OTHER_WEIGHT, UPDATED_BEFORE = "not_transposed", "other_weight", "updated_before"
    OTHER_INPUT, USES_LOST, SAMPLES_LOST = "other_input", "uses_lost", "samples_lost"
    # Loss and gradient do not belong together.
    OTHER_SAMPLES, AFTER_THE_UPDATE = "other_samples", "after_the_update"
    MOMENTUM, OLD_CACHES = "momentum", "old_caches"
    # The optimiser's buffers differ from a fresh backward pass.
    ACCUMULATED, STALE, BUFFERS_DIFFER = "accumulated", "stale", "buffers_differ"
    # What holds for the loss does not hold for its gradient.
    ORDER_MATTERS, BATCH_SIZE_MATTERS, SAMPLES_MIXED = "order_matters", "batch_size_matters", "samples_mixed"
    NOT_LINEAR = "not_linear"
    # A Jacobian or a Hessian is wrong.
    PATTERN, NOT_ADJOINT = "pattern", "not_adjoint"
    NOT_SYMMETRIC, GAUSS_NEWTON = "not_symmetric", "gauss_newton"
    UNEXPLAINED = "unexplained"


class Repair(_Text):
    """What was done to a gradient so that it agrees with the measured slopes."""

    SCALE = "scale"  # divided by a number
    PENALTY = "penalty"  # a multiple of the parameter added or taken off
    REORDER = "reorder"  # transposed or reshaped
    MOVE = "move"  # handed in under another parameter's name
    ENTRIES = "entries"  # some entries replaced by the measured values
    BACKWARD = "backward"  # made by a backward pass without one mistake


@dataclass(frozen=True)
class Diagnosis:
    """Which bug it is.

    Attributes
    ----------
    code : str
        A word for programs to act on: a `Code`, or a word of your own.
    parameters : tuple of str
        Where it was seen.
    message, evidence, advice : str
        What was seen, in one sentence; the figures behind it; what it usually means and what to try.
    repair : str
        What makes the check pass: a `Repair`, or empty.
    residual : float or None
        The largest difference that remains with the repair, between 0 and 1; None where none was tried.
    layer : str
        The layer or loss that is at fault, where that is known.
    place : str
        File and line of the forward code whose way back is wrong, where that is known, such as "net.py:41".
    """

    code: str
    parameters: tuple[str, ...]
    message: str
    evidence: str = ""
    advice: str = ""
    repair: str = ""
    residual: float | None = None
    layer: str = ""
    place: str = ""

    @property
    def named(self) -> str:
        """Return the code, with the layer that is at fault."""
        return f"{self.code} {self.layer}".rstrip()

    def __str__(self) -> str:
        return " ".join(filter(None, (self.message, self.evidence, self.advice)))


def joined(words: Iterable[str], most: int = 6) -> str:
    """Return words for a sentence: "3, 4 and 7", or "3, 4 and 5 more" where there are too many."""
    words = list(words)
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def listed(names: Iterable[str], most: int = 6) -> str:
    """Return names for a sentence as they are `spoken`: "W1, b1 and W[2]", or "W1, b1 and 4 more"."""
    return joined(map(spoken, names), most)


def spoken(name: str) -> str:
    """Return the name of a parameter for a sentence: numbers at its end are positions in a list.

    >>> spoken("W1"), spoken("0"), spoken("1.0"), spoken("W.0"), spoken("layers.0.W")
    ('W1', 'params[0]', 'params[1][0]', 'W[0]', 'layers.0.W')
    """
    parts, positions = name.split("."), ""
    while parts and parts[-1].isdecimal():
        positions = f"[{parts.pop()}]{positions}"
    return (".".join(parts) or "params") + positions if positions else name


def plural(count: int, word: str) -> str:
    """Return a count with its word: "1 check", "2 checks"."""
    return f"{count} {word}s" if count != 1 else f"1 {word}"


def agree(names: Sized, singular: Form, plural: Form) -> Form:
    """Return the form of a word that agrees with the number of names: "is" or "are"."""
    return singular if len(names) == 1 else plural


def of_gradients(names: Iterable[str]) -> str:
    """Return what the gradients of parameters are called in a sentence.

    >>> of_gradients(["W1", "b1"]), of_gradients(["dense1.W"]), of_gradients(["W.0", "b.0"])
    ('dW1 and db1', 'the gradient of dense1.W', 'the gradients of W[0] and b[0]')
    """
    names = list(map(spoken, names))
    if any("." in name or "[" in name for name in names):
        return f"the {agree(names, 'gradient', 'gradients')} of {listed(names)}"
    return listed(map("d{}".format, names))


def sentence(text: str) -> str:
    """Return the text with a capital "The"; a symbol at its beginning, such as dW1, stays as it is."""
    return re.sub("^the ", "The ", text)
