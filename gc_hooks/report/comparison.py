"""What is said of one parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from gc_hooks.report.verdict import Status, Verdict


class Basis(str, Enum):
    """What a parameter's difference rests on.

    ``EXACT``: every entry was measured. ``ESTIMATED``: random directions within the parameter; the bounds hold with
    99 %. ``BOUNDED``: directions through all parameters at once; the difference is an upper bound. ``PARTIAL``: some
    entries, because the budget was spent. ``NOTHING``: nothing was measured.
    """

    EXACT = "exact"
    ESTIMATED = "estimated"
    BOUNDED = "bounded"
    PARTIAL = "partial"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class EntryComparison:
    """One entry: where it is, what backprop says, what was measured, and how far the measurement can be off."""

    index: tuple[int, ...]
    backprop: float
    measured: float
    error: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One parameter: how far backprop's gradient is from the measured one.

    Attributes
    ----------
    name : str
    shape : tuple of int
    difference : float
        ``||g - n|| / (||g|| + ||n||)``, between 0 and 1; NaN where there is nothing to compare.
    error : float
        Its error bar: the difference is at most ``difference + error``. Measurement, the rounding of backprop's own
        arithmetic where that matters, and what the directions left open.
    at_least : float
        What the difference certainly is.
    verdict : Verdict
    sensitivity : float
        The smallest relative error ``||g - n|| / ||n||`` that this check would have seen with 99 % probability.
    basis : Basis
        All entries measured, estimated from directions, or bounded by directions through all parameters.
    measured : int
        Number of entries that were measured.
    directions : int
        Number of directions within the parameter.
    suspect : bool
        A direction that is shared with other parameters left its error bar: one of them is wrong.
    wrong : int
        Number of measured entries whose difference is certain.
    backprop_norm, measured_norm : float
        ``||g||`` and ``||n||``; over the measured entries where not all were, estimated where there are directions.
    penalty_share : float
        ``||penalty's part|| / ||n||``; 0 unless the penalty was handed in apart.
    status : Status
        The worst that happened to a measurement.
    worst : tuple of EntryComparison
        The measured entries that differ most.
    weight_norm : float
        ``||w||`` of the parameter itself; NaN outside a hook.
    moved : float
        How far it is from where the first check saw it, ``||w - w0|| / ||w0||``; NaN outside a hook.
    note : str
    """

    name: str
    shape: tuple[int, ...]
    difference: float
    error: float
    verdict: Verdict
    at_least: float = 0.0
    sensitivity: float = math.nan
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

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def exact(self) -> bool:
        """Whether every entry was measured."""
        return self.basis is Basis.EXACT

    @property
    def is_bound(self) -> bool:
        """Whether the difference is no more than an upper bound."""
        return self.basis is Basis.BOUNDED and self.at_least == 0 and self.difference + self.error > 0

    @property
    def is_one_sided(self) -> bool:
        """Whether it is wrong by an estimate from directions, whose bar reaches farther up than down."""
        estimated = self.basis is Basis.ESTIMATED and self.verdict > Verdict.INCONCLUSIVE
        return estimated and self.at_least != self.difference - self.error

    @property
    def stated(self) -> str:
        """The difference for a person, so that the verdict's rule can be read off; empty where there is none."""
        least = self.at_least if self.is_one_sided else None
        return state(self.difference, self.error, least, bound=self.is_bound)

    def noted(self, note: str, verdict: Verdict | None = None) -> Comparison:
        """The same with one more note, and another verdict if one is given."""
        return replace(
            self,
            note="; ".join(filter(None, (self.note, note))),
            verdict=self.verdict if verdict is None else verdict,
        )


def state(difference: float, error: float, at_least: float | None = None, *, bound: bool = False) -> str:
    """A difference with its bar, with what it certainly is where the bar is wider on the other side, or as a bound.

    Examples
    --------
    >>> state(2e-10, 1e-13), state(0.17, 0.3, 0.03), state(1.3e-12, 2e-24, bound=True)
    ('2.0e-10 ± 1e-13', '1.7e-01 (at least 3e-02)', 'at most 1.3e-12')
    """
    if not math.isfinite(difference):
        return ""
    if bound:
        return f"at most {difference + error:.1e}"
    return f"{difference:.1e} ± {error:.0e}" if at_least is None else f"{difference:.1e} (at least {at_least:.0e})"
