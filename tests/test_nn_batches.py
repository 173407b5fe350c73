"""The batches of a data set: every sample once an epoch, in an order of the seed's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_hooks.errors import InvalidProblem
from gc_hooks.nn import Batches


def rows(batches):
    return [inputs.tolist() for inputs, _ in batches]


@given(samples=st.integers(1, 30), size=st.integers(1, 12), shuffle=st.booleans(), seed=st.integers(0, 9))
def test_every_sample_comes_once_an_epoch_and_the_last_batch_may_be_smaller(samples, size, shuffle, seed):
    batches = Batches(np.arange(samples), -np.arange(samples), size, shuffle=shuffle, seed=seed)
    for _ in range(2):
        seen = list(batches)
        assert len(seen) == len(batches)
        assert [len(inputs) for inputs, _ in seen[:-1]] == [size] * (len(seen) - 1)
        assert 1 <= len(seen[-1][0]) <= size
        whole = np.concatenate([inputs for inputs, _ in seen])
        assert sorted(whole) == list(range(samples))
        np.testing.assert_array_equal(whole, -np.concatenate([targets for _, targets in seen]))
        assert shuffle or list(whole) == list(range(samples))


def test_the_seed_decides_the_orders_and_each_epoch_has_its_own():
    first, second, other = (Batches(np.arange(20), np.arange(20), 8, seed=seed) for seed in (1, 1, 2))
    epochs = [rows(first), rows(first)]
    assert epochs == [rows(second), rows(second)]
    assert epochs[0] != epochs[1]
    assert rows(other) not in epochs


@given(done=st.integers(0, 3))
def test_a_broken_epoch_goes_on_from_its_random_state(done):
    batches = Batches(np.arange(20), np.arange(20), 8)
    rows(batches)
    generator = copy.deepcopy(batches.generator)
    whole, later = rows(batches), rows(batches)
    again = Batches(np.arange(20), np.arange(20), 8, seed=generator)
    assert rows(again.epoch(skip=done)) == whole[done:]
    assert rows(again) == later


@pytest.mark.parametrize(
    ("inputs", "targets", "size", "message"),
    [
        ([1, 2], [1], 1, r"inputs of shape \(2,\) and targets of shape \(1,\): 2 and 1 samples.*Try inputs\.T"),
        ([], [], 1, r"0 and 0 samples"),
        ([1], [1], 0, r"Batches got batch_size=0, but it must be at least 1.*rounded to zero"),
    ],
)
def test_data_that_do_not_fit_are_explained(inputs, targets, size, message):
    with pytest.raises(InvalidProblem, match=message):
        Batches(inputs, targets, size)
