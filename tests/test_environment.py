"""Environment variables that override a hook's arguments."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from gc_hooks import ConsoleReporter, GradCheckHook, GradCheckWarning, InvalidProblem
from gc_hooks.hooks.environment import EnvironmentSettings, read_environment


class Listener:
    def __init__(self):
        self.said, self.steps = [], []

    def report(self, report):
        self.steps.append(report.step)

    def say(self, text):
        self.said.append(text)


def loop(hook, steps):
    """A loop of one's own on a parabola."""
    w = np.array([1.0, -2.0])
    for step in range(steps):
        hook.on_step(step, loss=lambda p: np.sum(p**2), params=w, grads=lambda p: 2 * p)
        w = 0.9 * w
    hook.close()
    return [report.step for report in hook.reports]


def test_nothing_set_is_nothing_overridden():
    """Without variables, and with empty ones, the switches are what the code says."""
    assert (
        read_environment({})
        == EnvironmentSettings()
        == read_environment({"GC_HOOKS": " ", "GC_HOOKS_AT": "", "GC_HOOKS_LOG_DIR": ""})
    )
    assert EnvironmentSettings().message == ""


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false", "no", " off "])
def test_off_means_that_nothing_is_done(monkeypatch, tmp_path, value):
    """No check is made, not at the end either, no directory appears, and it is said once."""
    monkeypatch.setenv("GC_HOOKS", value)
    listener = Listener()
    hook = GradCheckHook(after=4, every=1, log_dir=tmp_path / "runs", reporters=[listener])
    assert loop(hook, 3) == []
    assert listener.said == ["GC_HOOKS=off: gradients are not checked."]
    assert list(tmp_path.iterdir()) == []
    assert hook.calls == 3


@pytest.mark.parametrize("value", ["on", "1", "true", "yes"])
def test_on_is_what_there_is_without(monkeypatch, value):
    """It changes nothing, and nothing is said of it."""
    monkeypatch.setenv("GC_HOOKS", value)
    listener = Listener()
    assert loop(GradCheckHook(after=2, reporters=[listener]), 4) == [0, 1, 2]
    assert len(listener.said) == 1  # the sum at the end


@pytest.mark.parametrize("options", [{"after": 2}, {"after": 100}, {"every": 2}, {"schedule": lambda calls: True}])
def test_at_replaces_the_schedule(monkeypatch, options):
    """Whatever the code says, checks are made at these calls, and none at the end."""
    monkeypatch.setenv("GC_HOOKS_AT", "0, 3,4")
    listener = Listener()
    assert loop(GradCheckHook(**options, reporters=[listener]), 6) == [0, 3, 4]
    assert listener.said[0] == "GC_HOOKS_AT=0,3,4: checks are made at these calls, whatever the code says."


@pytest.mark.parametrize(("calls", "missed"), [("5000", "5000"), ("0,5000,9000", "5000, 9000"), ("0,2", "")])
def test_checks_that_were_never_reached_are_a_warning(monkeypatch, calls, missed):
    """As they are where after= is too large."""
    monkeypatch.setenv("GC_HOOKS_AT", calls)
    seen = f"after 3 steps, and GC_HOOKS_AT asks for checks at {missed}: they were not made. Try"
    with pytest.warns(GradCheckWarning, match=seen) if missed else contextlib.nullcontext():
        loop(GradCheckHook(reporters=[Listener()]), 3)


@pytest.mark.parametrize("given", ["nothing", "log_dir", "writer"])
def test_the_log_directory_is_replaced(monkeypatch, tmp_path, given):
    """Checks go to the variable's directory and to no other place, also where the code has none or a writer."""
    monkeypatch.setenv("GC_HOOKS_LOG_DIR", str(tmp_path / "there"))
    options = {"nothing": {}, "log_dir": {"log_dir": tmp_path / "here"}, "writer": {"writer": object()}}[given]
    listener = Listener()
    loop(GradCheckHook(after=None, reporters=[listener], **options), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there" / "gradcheck").glob("*tfevents*"))
    assert listener.said[0] == f"GC_HOOKS_LOG_DIR={tmp_path / 'there'}: checks are written there."
    assert listener.steps == [0, 1]


def test_the_console_says_it_once(monkeypatch, capsys):
    """One line, before the first check, however many checks there are."""
    monkeypatch.setenv("GC_HOOKS_AT", "1")
    loop(GradCheckHook(reporters=[ConsoleReporter()]), 3)
    assert capsys.readouterr().out.count("GC_HOOKS_AT=1") == 1


def test_without_a_reporter_that_talks_it_is_a_warning(monkeypatch):
    """An override is never silent."""
    monkeypatch.setenv("GC_HOOKS", "off")
    with pytest.warns(GradCheckWarning, match="GC_HOOKS=off: gradients are not checked") as caught:
        GradCheckHook(reporters=[])
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("GC_HOOKS", "perhaps", r"GC_HOOKS='perhaps' is not understood, and is ignored. Try GC_HOOKS=off"),
        ("GC_HOOKS_AT", "0,x", r"GC_HOOKS_AT='0,x' is ignored: 'x' is not a number of calls.*Try GC_HOOKS_AT=0,1,500"),
        ("GC_HOOKS_AT", "-1", "'-1' is not a number"),
        ("GC_HOOKS_AT", "1;2", "'1;2' is not a number"),
        ("GC_HOOKS_AT", "0,,2", "'' is not a number"),
        ("GC_HOOKS_AT", "1.5", "'1.5' is not a number"),
    ],
)
def test_what_cannot_be_understood_is_ignored_with_a_warning(monkeypatch, name, value, seen):
    """No training ends for a switch with a typing error: the code's own arguments count."""
    monkeypatch.setenv(name, value)
    with pytest.warns(GradCheckWarning, match=seen) as caught:
        hook = GradCheckHook(after=2, reporters=[])
    assert len(caught) == 1
    assert loop(hook, 4) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GC_HOOKS_LOGDIR", "GC_HOOKS_LOG_DIR"),
        ("GC_HOOKS_EVERY", "GC_HOOKS"),
        ("GC_HOOK", "GC_HOOKS"),
        ("GC_HOOKS_ATT", "GC_HOOKS_AT"),
        ("gc_hooks_log_dir", "GC_HOOKS_LOG_DIR"),
    ],
)
def test_a_name_that_is_not_known_is_told_with_the_nearest(monkeypatch, name, nearest):
    """A typing error is not silent; a name of others is, and so is an empty one."""
    monkeypatch.setenv("GCC_HOOKS_AT", "1")
    monkeypatch.setenv("GC_HOOKS_OLD", "")
    monkeypatch.setenv(name, "10")
    with pytest.warns(GradCheckWarning, match=f"{name} is not known, and is ignored.*Try {nearest}, which") as caught:
        GradCheckHook(after=2, reporters=[])
    assert len(caught) == 1


def test_a_number_that_is_too_long_is_ignored(monkeypatch):
    """Python refuses to read numbers of thousands of digits."""
    monkeypatch.setenv("GC_HOOKS_AT", "9" * 5000)
    with pytest.warns(GradCheckWarning, match="is not a number of calls"):
        GradCheckHook(reporters=[])


def test_an_address_as_the_log_directory_is_ignored_with_a_warning(monkeypatch, tmp_path):
    """Nothing is written to a directory "s3:", and the training goes on with what its code says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GC_HOOKS_LOG_DIR", "s3://bucket/runs")
    with pytest.warns(GradCheckWarning, match="'s3://bucket/runs' is an address.*The variable is ignored"):
        hook = GradCheckHook(reporters=[], log_dir="here")
    loop(hook, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_wrong_arguments_are_refused_all_the_same(monkeypatch):
    """A switch hides no mistake in the code."""
    monkeypatch.setenv("GC_HOOKS_AT", "0")
    with pytest.raises(InvalidProblem, match="A schedule must be a function of the number of calls, got 500"):
        GradCheckHook(schedule=500)
