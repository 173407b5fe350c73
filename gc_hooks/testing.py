"""For test suites: a gradient check that fails with its report."""

from __future__ import annotations

from typing import Any

from gc_hooks._typing import Loss
from gc_hooks.check import check_gradients
from gc_hooks.errors import GradientMismatch
from gc_hooks.report import CheckReport


def assert_gradients(loss: Loss, params: object, grads: object, **options: Any) -> CheckReport:
    """Assert that backprop's gradient is the slope of the loss.

    Parameters
    ----------
    loss, params, grads, **options
        As for `check_gradients`.

    Returns
    -------
    CheckReport
        With verdict GOOD.

    Raises
    ------
    GradientMismatch
        The verdict is not GOOD: wrong, or INCONCLUSIVE, which a test must not take for a pass. It is an
        ``AssertionError``; its message is the report, which ``.report`` holds.

    Examples
    --------
    >>> assert_gradients(lambda w: w**2, 3.0, 6.0).verdict.name
    'GOOD'
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not this one
    report = check_gradients(loss, params, grads, **options)
    if not report.ok:
        raise GradientMismatch(str(report), report)
    return report
