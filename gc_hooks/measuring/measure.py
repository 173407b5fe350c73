"""Spending the evaluations: every probe goes through the instrument, and what comes out is written down."""

from __future__ import annotations

from collections.abc import Iterable

from gc_hooks.measuring.calibrate import Instrument
from gc_hooks.measuring.evidence import Evidence
from gc_hooks.measuring.waiting import Progress
from gc_hooks.methods import complex_casts_refused
from gc_hooks.probes import Probe
from gc_hooks.problem import BudgetSpent, Problem


def measure(
    problem: Problem,
    probes: Iterable[Probe],
    instruments: list[Instrument],
    evidence: Evidence,
    progress: Progress | None = None,
) -> Evidence:
    """Measure probes until there are no more or the budget is spent.

    Parameters
    ----------
    problem, probes, instruments
    evidence : Evidence
        What to add to.
    progress : callable, optional
        Told the number of probes so far and how many entries there are in all.

    Returns
    -------
    Evidence
        The one that was handed in.
    """
    total = sum(measured.size for measured in evidence.parameters.values())
    with complex_casts_refused():
        for done, probe in enumerate(probes, start=1):
            try:
                evidence.add(
                    problem, probe, [tool.measure(problem, probe, term) for term, tool in enumerate(instruments)]
                )
            except BudgetSpent:
                break
            if progress is not None:
                progress(done, total)
    return evidence
