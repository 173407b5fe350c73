"""The gc-hooks command."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import urllib.request
import webbrowser
from contextlib import nullcontext

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
    printed = capsys.readouterr().out
    assert "http://localhost:6006/#gradcheck " in printed
    assert "http://localhost:6006/?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries" in printed


def test_view_takes_another_address(started, tmp_path, capsys):
    """Host and port are TensorBoard's and the printed address's."""
    cli.main(["view", str(tmp_path), "--port", "7007", "--host", "127.0.0.1"])
    assert started[0][-4:] == ["--host", "127.0.0.1", "--port", "7007"]
    assert " http://127.0.0.1:7007/#gradcheck " in capsys.readouterr().out


def test_view_takes_a_path_prefix(started, tmp_path, capsys):
    """Behind a proxy: TensorBoard gets the prefix, and so does the address."""
    cli.main(["view", str(tmp_path), "--path-prefix", "/my/tb"])
    assert started[0][-2:] == ["--path_prefix", "/my/tb"]
    assert " http://localhost:6006/my/tb/#gradcheck " in capsys.readouterr().out


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


def test_the_browser_is_opened_once_tensorboard_answers(monkeypatch, tmp_path):
    """--open waits for the server, opens the tab's address, and gives up quietly on one that never comes."""
    opened, answers, done = [], [OSError("not yet"), nullcontext()], threading.Event()

    def urlopen(url, timeout):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(webbrowser, "open", lambda address: (opened.append(address), done.set()))
    monkeypatch.setattr(subprocess, "call", lambda command: 0 if done.wait(30) else 1)
    assert cli.main(["view", str(tmp_path), "--open"]) == 0
    assert opened == ["http://localhost:6006/#gradcheck"]
    answers[:] = [OSError("never")] * 2
    monkeypatch.setattr(threading, "Event", lambda: type("Event", (), {"wait": lambda self, seconds: None})())
    cli._open_when_ready("http://localhost:1", "http://localhost:1/#gradcheck", attempts=2)
    assert len(opened) == 1
