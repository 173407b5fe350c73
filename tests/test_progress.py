"""The bar that long checks show."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import rich.console

from gc_hooks import check_gradients, entries

W = np.linspace(-1, 1, 40)


@pytest.fixture
def screen(monkeypatch):
    """What is written to a terminal; every check counts as long."""
    written = io.StringIO()
    real = rich.console.Console
    monkeypatch.setattr(rich.console, "Console", lambda **options: real(file=written, force_terminal=True, width=100))
    monkeypatch.setattr(sys.modules["gc_hooks.check"], "PATIENCE", -1.0)
    return written


def check(**options):
    return check_gradients(lambda w: np.sum(w * w), W, 2 * W, probes=entries, **options)


def test_a_long_check_shows_a_bar_on_a_terminal(screen):
    """With the number of entries of all."""
    assert check().ok
    assert "gradient check" in screen.getvalue()
    assert "40/40" in screen.getvalue()


def test_a_short_check_shows_nothing(screen, monkeypatch):
    """Before a moment has passed nothing is drawn."""
    monkeypatch.setattr(sys.modules["gc_hooks.check"], "PATIENCE", 60.0)
    assert check().ok
    assert screen.getvalue() == ""


def test_elsewhere_nothing_is_shown(capfd, monkeypatch):
    """A log file gets no bar."""
    monkeypatch.setattr(sys.modules["gc_hooks.check"], "PATIENCE", -1.0)
    assert check().ok
    assert capfd.readouterr() == ("", "")


def test_beside_another_bar_nothing_is_shown(screen):
    """A bar of the training's own goes on undisturbed."""
    from rich.progress import Progress

    with Progress(console=rich.console.Console()):
        assert check().ok


def test_a_function_of_ones_own_is_told_instead(screen):
    """And the bar stays away."""
    told = []
    check(progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (40, 40)
    assert screen.getvalue() == ""
