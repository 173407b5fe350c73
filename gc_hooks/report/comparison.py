"""The result for one parameter: its difference, how far that can be off, and its verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from gc_hooks.report.verdict import Precision, Status, Verdict


class Basis(str, Enum):
    """What was measured of a parameter."""

    EXACT = "exact"  # every entry
    ESTIMATED = "estimated"  # random directions within the parameter; the bounds hold with 99 %
    BOUNDED = "bounded"  # directions through all parameters at once; the difference is an upper bound
    PARTIAL = "partial"  # some entries, because the budget was spent
    NOTHING = "nothing"  # no slope


class Reason(str, Enum):
    """Why a comparison has its verdict. Decisions are made on this value; `Comparison.note` is for a person alone."""

    DIFFERENCE = "difference"  # the difference and its error decided, as `Tolerance.judge` says
    ISSUE = "issue"  # the gradient cannot be used: missing, of another shape, not repeatable (`GradientIssue`)
    NO_ENTRIES = "no_entries"  # the parameter is an empty array
    NO_GRADIENT = "no_gradient"  # backprop's gradient and the measured one both vanish
    PERHAPS_NO_GRADIENT = "perhaps_no_gradient"  # backprop's does, and the error of the measured one is too large
    LOSS_NOT_FINITE = "loss_not_finite"
    NEAR_LOSS_NOT_FINITE = "near_loss_not_finite"  # the loss is finite at the point, and not finite next to it
    GRADIENT_NOT_FINITE = "gradient_not_finite"
    BUDGET = "budget"  # a limit was reached before the verdict was certain
    NOISY_LOSS = "noisy_loss"
    BACKPROP_ROUNDING = "backprop_rounding"  # the rounding of backprop's own arithmetic may explain the difference
    KINK = "kink"  # a kink lies at this point, and its two sides could not be distinguished
    MOVED_OFF_KINK = "moved_off_kink"  # compared a tiny step away from a kink
    OTHER_STEP_AGREES = "other_step_agrees"  # the slope at another step size agrees with backprop
    HOOK = "hook"  # a question of the hook decided: the optimiser's buffers, the penalty, a backward that varies


@dataclass(frozen=True, slots=True)
class EntryComparison:
    """One entry of a parameter."""

    index: tuple[int, ...]
    backprop: float
    measured: float
    error: float  # of the measured slope


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far backprop's gradient g of one parameter is from the measured gradient n.

    Attributes
    ----------
    name : str
    shape : tuple of int
    difference : float
        ``||g - n|| / (||g|| + ||n||)``, between 0 and 1; NaN where there is nothing to compare.
    error, at_least : float
        The difference is at least ``at_least`` and at most ``difference + error``. The error contains that of the
        measurement, the rounding of backprop's own arithmetic where that matters, and what directions leave open.
    verdict : Verdict
    sensitivity : float
        The smallest relative error ``||g - n|| / ||n||`` that this check would have detected with 99 % probability.
    precision : Precision
        The arithmetic in which the verdict holds.
    basis : Basis
    measured, directions : int
        Number of measured entries, and of random directions within the parameter.
    suspect : bool
        Directions that are shared with other parameters show that one of these is wrong.
    wrong : int
        Number of measured entries whose difference is certain.
    backprop_norm, measured_norm : float
        ``||g||`` and ``||n||``: over all entries or over the measured ones, or estimated from directions.
    penalty_share : float
        ``||penalty's part of n|| / ||n||``; 0 unless the penalty was handed in separately.
    status : Status
        The worst status of its measurements.
    worst : tuple of EntryComparison
        The measured entries that differ most.
    weight_norm, moved : float
        ``||w||``, and ``||w - w0|| / ||w0||`` against the first check of this hook; NaN outside a hook.
    note : str
        Sentences for a person.
    reason : Reason
        What decided the verdict.
    """

    name: str
    shape: tuple[int, ...]
    difference: float = math.nan
    error: float = math.nan
    verdict: Verdict = Verdict.INCONCLUSIVE
    at_least: float = 0.0
    sensitivity: float = math.nan
    precision: Precision = Precision.DOUBLE
    basis: Basis = Basis.NOTHING
    measured: int = 0
    directions: int = 0
    suspect: bool = False
    wrong: int = 0
    backprop_norm: float = math.nan
    measured_norm: float = math.nan
    penalty_share: float = 0.0
    status: Status = Status.OK
    worst: tuple[EntryComparison, ...] = ()
    weight_norm: float = math.nan
    moved: float = math.nan
    note: str = ""
    reason: Reason = Reason.DIFFERENCE

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return math.prod(self.shape)

    @property
    def is_vector(self) -> bool:
        """Return whether at most one axis is longer than one."""
        return self.size == max(self.shape, default=1)

    @property
    def exact(self) -> bool:
        """Return whether every entry was measured."""
        return self.basis is Basis.EXACT

    @property
    def is_accused(self) -> bool:
        """Return whether the measured slopes speak against backprop."""
        return self.verdict > Verdict.INCONCLUSIVE and math.isfinite(self.difference)

    @property
    def is_bound(self) -> bool:
        """Return whether the difference is only an upper bound."""
        return self.basis is Basis.BOUNDED and self.at_least == 0 and self.difference + self.error > 0

    @property
    def is_one_sided(self) -> bool:
        """Return whether it is wrong by an estimate from directions, whose error reaches farther up than down."""
        estimated = self.basis is Basis.ESTIMATED and self.verdict > Verdict.INCONCLUSIVE
        return estimated and self.at_least != self.difference - self.error

    @property
    def stated(self) -> str:
        """Return the difference for a person, so that the verdict can be read off; empty where there is none."""
        least = self.at_least if self.is_one_sided else None
        return state(self.difference, self.error, least, bound=self.is_bound)

    def noted(self, note: str, verdict: Verdict | None = None, reason: Reason | None = None) -> Comparison:
        """Return a copy with one more note, and with another verdict and its reason where they are given."""
        if verdict is None:
            verdict = self.verdict
        note = "; ".join(filter(None, (self.note, note)))
        return replace(self, note=note, verdict=verdict, reason=reason or self.reason)


def state(difference: float, error: float, at_least: float | None = None, *, bound: bool = False) -> str:
    """Write a difference with its error; or with the least that it can be, where that is given; or as a bound.

    >>> state(2e-10, 1e-13), state(0.17, 0.3, 0.03), state(1.3e-12, 2e-24, bound=True)
    ('2.0e-10 ± 1e-13', '1.7e-01 (at least 3e-02)', 'at most 1.3e-12')
    """
    if not math.isfinite(difference):
        return ""
    if bound:
        return f"at most {difference + error:.1e}"
    if at_least is not None:
        return f"{difference:.1e} (at least {at_least:.0e})"
    return f"{difference:.1e} ± {error:.0e}"
