"""The terminal: one line when all is well, a table when not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from gc_hooks.report import HEADER, CheckReport
from gc_hooks.report.verdict import Verdict
from gc_hooks.reporters.base import Reporter
from gc_hooks.terminal import load_rich, print_on, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_ROWS = 40
"""Rows of the table, the worst parameters first: about a screen."""

MOST_ENTRIES = 3
"""Rows that show a wrong entry: in a narrow window each takes four lines, and where more parameters are wrong, the
entries of three tell as much."""

STYLES = {
    Verdict.GOOD: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.DOUBLE_CHECK: "bold yellow",
    Verdict.WORRY: "bold red",
}


class ConsoleReporter(Reporter):
    """Print checks with Rich.

    Parameters
    ----------
    console : rich.console.Console, optional
        By default the one that Rich shares among all who print, so that lines appear above a running progress bar.

    Notes
    -----
    A note that was printed before is not printed again; a diagnosis is, in one sentence. A check that finds the bug of
    the one before it is one line.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._first_step: dict[str, int] = {}  # the step at which a sentence was printed in full

    def report(self, report: CheckReport) -> None:
        """Print one check."""
        self._print(f"gradient check, {report.headline}", STYLES[report.verdict])
        if report.as_at is not None:
            return
        if report.parameters and not report.ok:
            print_on(self._out, _table(report, self._out))
        for diagnosis, finding in zip(report.diagnoses, report.findings, strict=True):
            if finding in self._first_step:  # a table without its cause is a riddle: say it again, but briefly
                self._print(f"  as at step {self._first_step[finding]}: {diagnosis.code}: {diagnosis.message}")
        others = report.caveats if report.ok else report.circumstances
        for sentence in (*report.findings, *others):
            if sentence not in self._first_step:
                self._first_step[sentence] = report.step
                self._print(f"  {sentence}")

    def say(self, text: str) -> bool:
        """Print one line that is not a check."""
        self._print(text)
        return True

    @property
    def _out(self) -> Any:
        return self._console or load_rich().get_console()

    def _print(self, text: str, style: str = "") -> None:
        # One line stays one line, and what a name holds is not read as markup.
        console, options = self._out, {"markup": False, "highlight": False, "soft_wrap": True}
        print_on(console, printable(text, console.encoding), style=style, **options)


def _table(report: CheckReport, console: Console) -> Table:
    """Return the report's table for a console, each row in the colour of its verdict."""
    rich = load_rich()
    # What is too long is cut; an ellipsis is a sign that not every encoding has.
    overflow: Literal["crop", "ellipsis"] = "crop" if console.options.ascii_only else "ellipsis"
    table: Table = rich.table.Table(box=rich.box.SIMPLE, pad_edge=False)
    for title in HEADER:
        table.add_column(title, no_wrap=title != HEADER[-1], overflow=overflow)
    rows = zip(report.worst_first, report.rows(MOST_ENTRIES), strict=True)
    for comparison, row in list(rows)[:MOST_ROWS]:
        # As Text, because a name such as "[bold]" must not be read as markup.
        cells = [printable(cell, console.encoding) for cell in row]
        table.add_row(*(rich.text.Text(cell, style=STYLES[comparison.verdict]) for cell in cells))
    if len(report.parameters) > MOST_ROWS:
        table.caption = f"and {len(report.parameters) - MOST_ROWS} more parameters"
    return table
