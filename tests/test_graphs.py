"""The operations of the expression graphs are what the textbook says: each alone, and behind one another."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from graphs import FAMILIES, Graph, Layer, add, check_graph, disagreements, is_missed, random_graph
from operations import LAYERS, LOSSES, PENALTIES

from hunts import some


def alone(name, seed):
    """A graph of one layer, behind a product so that the gradient of its input is seen too."""
    rng = np.random.default_rng(seed)
    first, entry, params = add(rng, "linear", rng.normal(size=(4, 3)), 0, skips=False)
    if not LAYERS[name].fits(first.shape):
        return alone(name, seed + 1000)
    h, layer, own = add(rng, name, first, 1)
    end = LOSSES["squared"]
    return Graph(rng.normal(size=(4, 3)), [entry, layer], Layer(end, end.draw(rng, h.shape)[1]), params | own)


@pytest.mark.parametrize("name", LAYERS)
def test_the_backward_pass_of_each_operation_is_its_slope(name):
    found = [disagreements(alone(name, seed)) for seed in range(5)]
    assert [] in found
    assert not any(found)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_each_loss_is_its_slope(name):
    graph, operation, found = alone("tanh", 0), LOSSES[name], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        shape = 4, graph.params["linear0_W"].shape[1]
        found.append(disagreements(replace(graph, end=Layer(operation, operation.draw(rng, shape)[1]))))
    assert [] in found
    assert not any(found)


@pytest.mark.parametrize("kind", PENALTIES)
def test_the_gradient_of_each_penalty_is_its_slope(kind):
    graph = alone("residual", 0)
    name = next(name for name in graph.params if name.startswith("residual"))
    assert disagreements(replace(graph, penalties=((name, kind, 0.1),))) == []


@pytest.mark.parametrize("name", some(LAYERS, list(LAYERS)[::4]))
def test_a_wrong_backward_pass_is_seen(name):
    """What verifies the operations can fail: a share of 1e-4 too much is seen."""
    graphs = [alone(name, seed) for seed in range(5)]
    assert any(disagreements(with_wrong_backward(graph)) for graph in graphs)


def with_wrong_backward(graph):
    entry, layer = graph.layers
    operation = layer.operation

    def backward(h, p, c, dy):
        dh, own = operation.backward(h, p, c, dy)
        return 1.0001 * dh, own

    return replace(graph, layers=[entry, replace(layer, operation=replace(operation, backward=backward))])


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_all_is_computed_in_the_precision_that_is_asked_for(dtype):
    for name in LAYERS:
        graph = alone(name, 0)
        near, rough = graph.gradient(graph.params), graph.cast(dtype).gradient(graph.cast(dtype).params)
        away = {key: float(np.max(np.abs(rough[key] - near[key]))) for key in near}
        assert all(g.dtype == dtype for g in rough.values()), name
        assert max(away.values()) < 1e-4, name
        if dtype is np.float32:
            assert max(away.values()) > 1e-12 or not any(np.any(g) for g in near.values()), name


def test_a_seed_makes_the_same_graph():
    for seed in range(5):
        first, second = random_graph(seed), random_graph(seed)
        assert str(first) == str(second)
        assert all(np.array_equal(first.params[name], second.params[name]) for name in first.params)


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_of_each_family_have_the_gradient_that_they_claim(family):
    """But for kinks and saturation, where differences tell nothing: most of them."""
    found = [disagreements(FAMILIES[family](seed)) for seed in range(20)]
    assert sum(lines == [] for lines in found) >= 10
    assert not any(found)


def test_a_miss_is_told_from_what_is_below_the_sensitivity():
    assert is_missed(1e-3, 1.0, 1.0, 1e-4, np.float64, lambda: (0.0, 0.0))
    assert not is_missed(1e-5, 1.0, 1.0, 1e-4, np.float64, lambda: (0.0, 0.0))
    assert is_missed(np.nan, 1.0, 1.0, 1e-4, np.float64, lambda: (0.0, 0.0))
    assert not is_missed(1e-7, 0.0, 1.0, np.nan, np.float64, lambda: (0.0, 0.0))


def test_a_graph_is_checked_right_and_wrong():
    tally, lines = check_graph(0, "l1", wrong=True)
    assert tally["checks"] == 2
    assert tally["right", "GOOD"] + tally["wrong", "WORRY"] >= 1
    assert isinstance(lines, list)
