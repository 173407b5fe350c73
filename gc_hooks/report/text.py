"""What a report says of one parameter, and its tables for the console, markdown and a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.diagnosis import plural
from gc_hooks.report.verdict import Precision, Verdict

MARKDOWN = str.maketrans({"|": "&#124;", "*": "&#42;", "_": "&#95;", "`": "&#96;", "[": "&#91;"})
"""The characters to which markdown gives a meaning, as entities."""


def spelt_out(text: str) -> str:
    r"""Return a text that every file takes: half a character, as undecodable file names have it, is spelt out.

    >>> spelt_out("W\ud800"), spelt_out("重み")
    ('W\\ud800', '重み')
    """
    return text.encode(errors="backslashreplace").decode()


def parameter_facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what the page shows of one parameter: pairs of a term and its text."""
    rests_on = {
        Basis.EXACT: f"all entries measured ({comparison.size})",
        Basis.ESTIMATED: f"estimated from {plural(comparison.directions, 'random direction')}",
        Basis.BOUNDED: "an upper bound, from directions through all parameters at once",
        Basis.PARTIAL: f"{comparison.measured} entries measured, then the budget was spent",
        Basis.NOTHING: "nothing measured",
    }
    facts = [("difference", ", ".join(filter(None, (comparison.stated, rests_on[comparison.basis]))))]
    if math.isfinite(comparison.sensitivity):
        seen = f"a relative error above {comparison.sensitivity:.0e} would have been seen"
        if comparison.precision is not Precision.DOUBLE:
            seen = f"in {comparison.precision}, {seen}"
        facts.append(("sensitivity", seen))
    norms = f"norm {comparison.backprop_norm:.3g} by backprop"
    if comparison.basis in (Basis.EXACT, Basis.PARTIAL):  # a few directions leave the measured norm to chance
        norms += f", {comparison.measured_norm:.3g} measured"
    facts.append(("gradient", norms))
    if comparison.penalty_share > 0:
        facts.append(("penalty", f"{comparison.penalty_share:.2g} of the gradient"))
    if math.isfinite(comparison.weight_norm):
        weights = f"norm {comparison.weight_norm:.3g}"
        if comparison.moved == 0:
            weights += ", where the first check saw them"
        elif comparison.moved > 0:
            weights += f", moved by {comparison.moved:.2g} of their norm since the first check"
        facts.append(("weights", weights))
    if comparison.note:
        facts.append(("noted", comparison.note))
    return facts


def worst_entry(comparison: Comparison) -> str:
    """Return how many entries are wrong, and the one that differs most; empty where no entry is accused."""
    if comparison.verdict is Verdict.GOOD or not comparison.worst:
        return ""
    worst = comparison.worst[0]
    values = f"backprop {worst.backprop:.4g}, measured {worst.measured:.4g}"
    if comparison.size == 1:
        return values
    entry = f"most {list(worst.index)} {values}"
    if comparison.wrong:
        looked_at = f"{comparison.measured} entries looked at"
        if comparison.exact:
            looked_at = str(comparison.size)
        return f"{comparison.wrong} of {looked_at} wrong, {entry}"
    if comparison.verdict is Verdict.INCONCLUSIVE:
        return f"{entry} ± {worst.error:.0e}"
    return ""


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with aligned columns, one line a row."""
    lines = [list(map(_on_one_line, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown; no text in a cell can break it."""
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for row in rows:
        lines.append(" | ".join(map(markdown_text, row)))
    return "\n".join(map("| {} |".format, lines))


def markdown_list(texts: Iterable[str]) -> str:
    """Return sentences as a list in markdown."""
    return "\n".join(map("* {}".format, map(markdown_text, texts)))


def markdown_text(text: str) -> str:
    """Return text on one line that markdown shows letter by letter.

    >>> markdown_text("W_1 <b>")
    'W&#95;1 &lt;b&gt;'
    """
    return escape(_on_one_line(text), quote=False).translate(MARKDOWN)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in HTML with every cell escaped."""
    lines = [html_cells("th", header)]
    for row in rows:
        lines.append(html_cells("td", row))
    return f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"


def html_cells(tag: str, texts: Iterable[str]) -> str:
    """Return each text, escaped, in an element."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
