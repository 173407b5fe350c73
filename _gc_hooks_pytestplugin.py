"""The fixture ``gradcheck``, for everybody who has gc_hooks installed beside pytest.

It stands outside of the package because pytest imports it in every run: this way neither gc_hooks nor NumPy is loaded
before a test asks for the fixture.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def gradcheck(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``gradcheck(loss, params, grads, **options)``: `gc_hooks.assert_gradients` with a seed of this test's own.

    The seed comes from the test's name, so that it is the same in every run and in any order; ``seed=`` sets another.
    The test fails with the report.
    """
    from gc_hooks import GradCheckError, assert_gradients

    own_seed = zlib.crc32(request.node.nodeid.encode())

    def check(loss: Any, params: Any, grads: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        try:
            return assert_gradients(loss, params, grads, **{"seed": own_seed, **options})
        except GradCheckError as error:
            raise error.with_traceback(None) from None  # the report says it all; the way to it tells nobody anything

    return check
