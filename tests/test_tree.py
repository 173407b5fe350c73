"""Nested parameters as flat ones and back."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_hooks import InvalidProblem
from gc_hooks.arrays.tree import ROOT, flatten, is_container, rebuild

Layer = namedtuple("Layer", ["W", "b"])
KEYS = st.text("abW1", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers() | st.none(), lambda trees: st.lists(trees) | st.dictionaries(KEYS, trees) | st.tuples(trees, trees)
)


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (1.0, [ROOT]),
        ({"W1": 1.0, "b1": 2.0}, ["W1", "b1"]),
        ([1.0, (2.0, 3.0)], ["0", "1.0", "1.1"]),
        ({"layers": [{"W": 1.0}, {"W": 2.0}], "scale": 3.0}, ["layers.0.W", "layers.1.W", "scale"]),
        ({7: {"W": 1.0}}, ["7.W"]),
        ({"b": 1.0, "a": 2.0}, ["b", "a"]),
        (Layer(1.0, [2.0]), ["0", "1.0"]),
        ({"none": None, "text": "x"}, ["none", "text"]),
        ({"empty": {}, "W": 1.0}, ["W"]),
        ({}, []),
        ([], []),
    ],
)
def test_names_are_paths(tree, names):
    """Every leaf is named by its path, in the order of the containers; empty branches have no leaves."""
    assert list(flatten(tree)) == names


@pytest.mark.parametrize(
    ("tree", "name"), [({"a": {"b": 1}, "a.b": 2}, "a.b"), ({1: 1, "1": 2}, "1"), ({"a": [1], "a.0": 2}, "a.0")]
)
def test_two_leaves_of_one_name_are_refused(tree, name):
    """A collision of names is an error that says the name, and never loses a parameter silently."""
    with pytest.raises(InvalidProblem, match=f"both called '{name}'"):
        flatten(tree)


@given(TREES)
def test_rebuild_inverts_flatten(tree):
    """A tree that is taken apart and put together again is the same tree, types and all."""
    again = rebuild(tree, flatten(tree))
    assert again == tree
    assert type(again) is type(tree)


def test_rebuild_takes_the_new_leaves():
    """The structure comes from the tree, the leaves from the dictionary."""
    assert rebuild({"a": [0, (0,)]}, {"a.0": 1, "a.1.0": 2}) == {"a": [1, (2,)]}


def test_named_tuples_keep_their_type():
    """A loss that reads ``params.W`` gets a tuple with that name back."""
    again = rebuild({"dense": Layer(1, (2, 3))}, {"dense.0": 4, "dense.1.0": 5, "dense.1.1": 6})
    assert again["dense"].W == 4
    assert again["dense"].b == (5, 6)


def test_keys_keep_their_type():
    """A dictionary with numbers as keys is rebuilt with numbers as keys."""
    assert rebuild({1: 0, 2: 0}, {"1": "one", "2": "two"}) == {1: "one", 2: "two"}


@pytest.mark.parametrize(
    ("tree", "answer"), [({}, True), (OrderedDict(), True), ([], True), ((), True), (1.0, False), ("text", False)]
)
def test_only_mappings_lists_and_tuples_have_branches(tree, answer):
    """A string is a leaf although it can be indexed."""
    assert is_container(type(tree)) is answer
