"""What is said of one parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from gc_hooks.estimate import Status
from gc_hooks.verdict import Verdict


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

    def noted(self, note: str, verdict: Verdict | None = None) -> Comparison:
        """The same with one more note, and another verdict if one is given."""
        return replace(
            self,
            note="; ".join(filter(None, (self.note, note))),
            verdict=self.verdict if verdict is None else verdict,
        )
