"""The gc-hooks command."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from gc_hooks import cli


@pytest.fixture
def started(monkeypatch):
    """The commands that were started, in place of starting them."""
    commands = []

    def call(command):
        commands.append(command)
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    return commands


def test_view_starts_tensorboard_on_the_directory(started, tmp_path, capsys):
    """TensorBoard is started by this very Python, its exit status handed on, and the address printed before."""
    assert cli.main(["view", str(tmp_path)]) == 3
    arguments = ["--logdir", str(tmp_path), "--host", "localhost", "--port", "6006"]
    assert started == [[sys.executable, "-m", "tensorboard.main", *arguments]]
    assert "http://localhost:6006/?smoothing=0&tagFilter=gradcheck" in capsys.readouterr().out


def test_view_takes_another_address(started, tmp_path, capsys):
    """Host and port are TensorBoard's and the printed address's."""
    cli.main(["view", str(tmp_path), "--port", "7007", "--host", "127.0.0.1"])
    assert started[0][-4:] == ["--host", "127.0.0.1", "--port", "7007"]
    assert f" {cli.address('127.0.0.1', 7007)} " in capsys.readouterr().out


def test_the_address_asks_for_values_that_are_not_smoothed():
    """Smoothing, which turns a jump into a ramp, is off, and only the checks are shown."""
    assert cli.address(port=1).startswith("http://localhost:1/?smoothing=0&tagFilter=gradcheck%2F")


def test_a_directory_that_is_not_there_is_told(started, tmp_path, capsys):
    """A wrong path is an error message and status 2, not an empty TensorBoard."""
    assert cli.main(["view", str(tmp_path / "nowhere")]) == 2
    assert "there is no directory" in capsys.readouterr().err
    assert not started


def test_a_missing_tensorboard_is_told(started, tmp_path, capsys, monkeypatch):
    """Without TensorBoard the message says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["view", str(tmp_path)]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not started


def test_ctrl_c_is_how_one_leaves(monkeypatch, tmp_path):
    """Ctrl-C ends the command with status 0 and without a traceback."""

    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "call", interrupted)
    assert cli.main(["view", str(tmp_path)]) == 0


@pytest.mark.parametrize("arguments", [[], ["show"], ["view"], ["view", ".", "--port", "x"]])
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    """Without a command, a directory or a number for a port, the usage is printed and the status is 2."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: gc-hooks" in capsys.readouterr().err
