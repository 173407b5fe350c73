"""The terminal: one line when all is well, a table when not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gc_hooks.report import HEADER, CheckReport
from gc_hooks.report.verdict import Verdict
from gc_hooks.terminal import load_rich

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_ROWS = 40
STYLES = {
    Verdict.GOOD: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.DOUBLE_CHECK: "bold yellow",
    Verdict.WORRY: "bold red",
}


class ConsoleReporter:
    """Prints checks with Rich.

    Parameters
    ----------
    console : rich.console.Console, optional
        By default the one that Rich shares among all who print, so that lines appear above a running progress bar.

    Notes
    -----
    A remark that was printed before (an ignored gradient, a refused complex step) is not printed again; a diagnosis is,
    in one sentence.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._told: dict[str, int] = {}  # at which step

    def report(self, report: CheckReport) -> None:
        """Print one check."""
        self._print(f"gradient check, {report.headline}", STYLES[report.verdict])
        if report.parameters and not report.ok:
            self._out.print(_table(report))
        for diagnosis, finding in zip(report.diagnoses, report.findings, strict=True):
            again = f"as at step {self._told.get(finding)}: {diagnosis.code}: {diagnosis.message}"
            self._tell_once(finding, report.step, again)
        for remark in report.circumstances if not report.ok else report.caveats:
            self._tell_once(remark, report.step)

    def say(self, text: str) -> None:
        """Print one line that is not a check."""
        self._print(text, "")

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def _out(self) -> Any:
        return self._console or load_rich().get_console()

    def _print(self, text: str, style: str) -> None:
        self._out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _tell_once(self, remark: str, step: int, again: str = "") -> None:
        told = again if remark in self._told else remark
        self._told.setdefault(remark, step)
        if told:
            self._print(f"  {told}", "")


def _table(report: CheckReport) -> Table:
    """The report's table, each row in the colour of its verdict; what names hold is not read as markup."""
    rich = load_rich()
    table: Table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False)
    for title in HEADER:
        table.add_column(title, no_wrap=title != HEADER[-1])
    for comparison, row in list(zip(report.worst_first, report.rows(), strict=True))[:MOST_ROWS]:
        table.add_row(*(rich.text.Text(cell, style=STYLES[comparison.verdict]) for cell in row))
    if len(report.parameters) > MOST_ROWS:
        table.caption = f"and {len(report.parameters) - MOST_ROWS} more parameters"
    return table
