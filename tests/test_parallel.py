"""Exhaustive checks over an executor: the same report, a clear end when a worker cannot go on."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest

from gc_hooks import GradCheckError, InvalidProblem, Verdict, central, check_gradients, entries, fixed_step
from hunts import some

POINT = {"W": np.linspace(-1, 1, 60).reshape(6, 10), "b": np.linspace(0.1, 1, 10)}
X = np.linspace(-1, 1, 24).reshape(4, 6)


def loss(x, p):
    return np.mean(np.sum(np.tanh(x @ p["W"] + p["b"]) ** 2, axis=1))


def gradient(p):
    a = np.tanh(X @ p["W"] + p["b"])
    delta = 2 * a * (1 - a * a) / len(X)
    return {"W": X.T @ delta, "b": delta.sum(axis=0)}


def deadly(parent, p):
    if os.getpid() != parent:
        os._exit(3)
    return loss(X, p)


def failing(parent, p):
    if os.getpid() != parent:
        raise RuntimeError("planted")
    return loss(X, p)


def processes():
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def checked(executor=None, function=None, grads=None, **options):
    grads = gradient(POINT) if grads is None else grads
    function = partial(loss, X) if function is None else function
    return check_gradients(function, POINT, grads, probes=entries, executor=executor, **options)


def timeless(report):
    """All that a report says but its time; as text, in which NaN equals NaN."""
    return replace(report, seconds=0.0).to_json()


@pytest.mark.parametrize("method", some([None, central, fixed_step(1e-5)], [None]))
@pytest.mark.parametrize("executor", [lambda: ThreadPoolExecutor(3), processes], ids=["threads", "processes"])
def test_the_report_is_the_serial_one(executor, method):
    """Whoever measured what, right and wrong gradients are judged alike, to the last bit."""
    wrong = {**gradient(POINT), "b": 2 * gradient(POINT)["b"]}
    with executor() as pool:
        for grads in (gradient(POINT), gradient, wrong):
            assert timeless(checked(pool, grads=grads, method=method)) == timeless(checked(grads=grads, method=method))


@pytest.mark.slow
def test_a_cluster_is_an_executor_too():
    """Dask's client hands out one."""
    distributed = pytest.importorskip("distributed", reason="needs the extra 'distributed'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cluster's own, about its ports and its dashboard
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
            client.get_executor() as pool,
        ):
            report = checked(pool)
    assert report.ok
    assert timeless(report) == timeless(checked())


def test_arrays_of_ones_own_are_not_shared_out():
    """There is one set of them, and workers would change it under each other's hands."""
    mine = np.ones(3)
    with ThreadPoolExecutor(2) as pool, pytest.raises(InvalidProblem, match="in_place=True"):
        check_gradients(lambda: np.sum(mine**2), mine, 2 * mine, in_place=True, probes=entries, executor=pool)


def test_a_loss_that_cannot_be_sent_says_so():
    """A lambda does not travel to another process; the message says what does."""
    with processes() as pool, pytest.raises(InvalidProblem, match="cannot be sent to another process"):
        checked(pool, lambda p: loss(X, p))


def test_a_worker_that_dies_leaves_no_report():
    """No partial report is passed off as a whole one."""
    with processes() as pool, pytest.raises(GradCheckError, match="died"):
        checked(pool, partial(deadly, os.getpid()), method=central)


def test_an_error_in_the_loss_is_the_users_own():
    """It comes through as it was raised."""
    with processes() as pool, pytest.raises(RuntimeError, match="planted"):
        checked(pool, partial(failing, os.getpid()), method=central)


def test_a_cancelled_check_ends_soon():
    """What is not yet handed out is never begun when the caller gives up: four chunks of 16 of the thousand entries."""
    calls, w = [], np.linspace(-1, 1, 1000)

    def counted(w):
        calls.append(1)
        return np.sum(w**2)

    def give_up(done, total):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        check_gradients(counted, w, 2 * w, probes=entries, executor=pool, method=central, progress=give_up)
    assert len(calls) < 1000  # which is less than one for each entry


def test_a_budget_holds_there_too():
    """What was not looked at is inconclusive, and progress is told on the way."""
    told = []
    with ThreadPoolExecutor(2) as pool:
        report = checked(pool, max_evaluations=40, progress=lambda done, total: told.append((done, total)))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert told
    assert told[-1][1] == 70


def test_threads_leave_the_warning_filters_alone():
    """Filters are the process's, and workers do not touch them."""
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        checked(pool)
    assert warnings.filters == before
