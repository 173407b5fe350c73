"""What the writer of a log and the tab that reads it have to agree on."""

from __future__ import annotations

PLUGIN = "gradcheck"
"""The name under which TensorBoard knows the tab, and the address of the page: ``#gradcheck``."""

TAB_NAME = "Gradient check"

CHECKS = "gradcheck/checks"
"""The tag of the reports: one text in JSON for each step."""


def tab_address(server: str = "http://localhost:6006") -> str:
    """Return the address of the tab.

    >>> tab_address()
    'http://localhost:6006/#gradcheck'
    """
    return f"{server}/#{PLUGIN}"


def stock_address(server: str = "http://localhost:6006") -> str:
    """Return the address at which TensorBoard's own dashboard shows the differences.

    They are logarithms, because its axis is not logarithmic, without smoothing, which would turn a jump into a ramp.
    """
    return f"{server}/?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries"
