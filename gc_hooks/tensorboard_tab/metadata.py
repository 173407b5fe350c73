"""What the writer of a log and the tab that reads it have to agree on."""

from __future__ import annotations

PLUGIN = "gradcheck"
"""The name under which TensorBoard knows the tab, and the address of the page: ``#gradcheck``."""

TAB_NAME = "Gradient check"

CHECKS = "gradcheck/checks"
"""The tag of the reports: each a text in JSON, one a step."""

STOCK_QUERY = "?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries"
"""Where TensorBoard's own dashboard shows the difference values: as logarithms, for it has no logarithmic axis by
default, and without smoothing, which would turn a jump into a ramp."""


def tab_address(server: str = "http://localhost:6006") -> str:
    """Where the tab is.

    Examples
    --------
    >>> tab_address()
    'http://localhost:6006/#gradcheck'
    """
    return f"{server}/#{PLUGIN}"


def stock_address(server: str = "http://localhost:6006") -> str:
    """Where TensorBoard shows the difference values without the tab.

    Examples
    --------
    >>> stock_address()
    'http://localhost:6006/?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries'
    """
    return f"{server}/{STOCK_QUERY}"
