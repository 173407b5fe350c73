"""What `make test` leaves to `make test-all`: the same tests on many more networks, seeds and combinations."""

from __future__ import annotations

import pytest


def some(values, quick):
    """Return the values for a parametrisation, of which all but the quick ones are left to the long hunts."""
    unknown = [value for value in quick if value not in values]
    assert not unknown, unknown
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def seeds(quick, total):
    """Parametrise ``seeds``: the first few are always tried, the others up to the total in the long hunts."""
    more = pytest.param(range(quick, total), marks=pytest.mark.slow)
    return pytest.mark.parametrize("seeds", [range(quick), more], ids=["few", "more"])
