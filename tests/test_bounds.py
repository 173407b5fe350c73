"""What a few random directions leave open: the quantiles, against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from gc_hooks.verdicts.bounds import HIGHEST, LOWEST, escape_factor, lower_factor, upper_factor

DRAWS = 200_000


@pytest.mark.parametrize("count", sorted(LOWEST))
def test_the_factors_are_the_quantiles_of_chi(count):
    """One root mean square in a hundred of normal residuals lies below, and one above."""
    residuals = np.random.default_rng(count).standard_normal((DRAWS, count))
    size = np.sqrt(np.mean(residuals**2, axis=1))
    assert np.mean(size * upper_factor(count) < 1) == pytest.approx(0.01, abs=0.001)
    assert np.mean(size * lower_factor(count) > 1) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 16])
def test_an_error_beyond_the_escape_factor_leaves_the_bar(count):
    """Along at least one direction, 99 times in a hundred."""
    residuals = escape_factor(count) * np.abs(np.random.default_rng(count).standard_normal((DRAWS, count)))
    assert np.mean(residuals.max(axis=1) <= 1.0) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("count", [5, 7, 9, 15, 17, 100])
def test_between_tabulated_numbers_the_smaller_one_counts(count):
    """Fewer directions than there are leave more open, which is on the safe side."""
    known = max(k for k in HIGHEST if k <= count)
    assert (upper_factor(count), lower_factor(count)) == (upper_factor(known), lower_factor(known))


@pytest.mark.parametrize("shape", ["dense", "one entry", "two equal", "two exchanged"])
def test_the_residual_does_not_depend_on_the_shape_of_the_error(shape):
    """Along normal directions an error of norm 1 has a residual of standard deviation 1, whatever its shape."""
    error = {
        "dense": np.full(64, 0.125),
        "one entry": np.eye(64)[3],
        "two equal": (np.eye(64)[3] + np.eye(64)[9]) / np.sqrt(2),
        "two exchanged": (np.eye(64)[3] - np.eye(64)[9]) / np.sqrt(2),
    }[shape]
    residuals = np.random.default_rng(0).standard_normal((20_000, 64)) @ error
    assert np.std(residuals) == pytest.approx(1.0, abs=0.02)
    assert np.mean(np.abs(residuals) < 0.01253) == pytest.approx(0.01, abs=0.003)
