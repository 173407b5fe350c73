"""Rows of text as a table: plain for a terminal or a log, markdown for TensorBoard, HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[str]]


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Aligned columns.

    Examples
    --------
    >>> print(text_table(["parameter", "difference"], [["W1", "3e-11"]]))
    parameter  difference
    W1         3e-11
    """
    lines = [[" ".join(cell.splitlines()) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    """A table that markdown readers draw; what a cell holds cannot break it.

    Examples
    --------
    >>> print(markdown_table(["parameter"], [["a|b"]]))
    | parameter |
    | --- |
    | a&#124;b |
    """
    lines = [header, ["---"] * len(header), *([markdown_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_list(texts: Sequence[str]) -> str:
    """Sentences as a list.

    Examples
    --------
    >>> markdown_list(["a", "b"])
    '* a\\n* b'
    """
    return "\n".join(f"* {markdown_text(text)}" for text in texts)


def markdown_text(text: str) -> str:
    """Text that markdown shows as it is, on one line.

    Examples
    --------
    >>> markdown_text("W_1 <b>")
    'W&#95;1 &lt;b&gt;'
    """
    escaped = escape(" ".join(text.splitlines()), quote=False)
    for mark, code in (("|", "&#124;"), ("*", "&#42;"), ("_", "&#95;"), ("`", "&#96;"), ("[", "&#91;")):
        escaped = escaped.replace(mark, code)
    return escaped


def html_table(header: Sequence[str], rows: Rows) -> str:
    """An HTML table with every cell escaped.

    Examples
    --------
    >>> html_table(["parameter"], [["<b>"]])
    '<table><tr><th>parameter</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
