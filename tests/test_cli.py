"""The gc-hooks command."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import webbrowser
from contextlib import nullcontext

import pytest

import gc_hooks
from gc_hooks import cli
from servers import ROOT, SAFETY_LIMIT, a_process, fetch, patiently, run_python


@pytest.fixture
def started(monkeypatch):
    """The commands that were started, in place of starting them."""
    commands = []

    def call(command):
        commands.append(command)
        return 3

    monkeypatch.setattr(cli, "_run", call)
    monkeypatch.setattr(cli, "_is_free", lambda host, port: port not in TAKEN)
    return commands


TAKEN = {6006, 6007, 9009}
"""Ports on which somebody listens."""


def test_view_starts_tensorboard_on_the_directory(started, tmp_path, capsys):
    """TensorBoard is started by this very Python on a free port, its status handed on, the address printed before."""
    assert cli.main(["view", str(tmp_path)]) == 3
    arguments = ["--logdir", str(tmp_path), "--host", "localhost", "--port", "6008"]
    assert started == [[sys.executable, "-m", "tensorboard.main", *arguments]]
    printed = capsys.readouterr().out
    assert "http://localhost:6008/#gradcheck " in printed
    assert "http://localhost:6008/?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries" in printed


def test_view_takes_another_address(started, tmp_path, capsys):
    """Host and port are TensorBoard's and the printed address's."""
    cli.main(["view", str(tmp_path), "--port", "7007", "--host", "127.0.0.1"])
    assert started[0][-4:] == ["--host", "127.0.0.1", "--port", "7007"]
    assert " http://127.0.0.1:7007/#gradcheck " in capsys.readouterr().out


def test_view_takes_a_path_prefix(started, tmp_path, capsys):
    """Behind a proxy: TensorBoard gets the prefix, and so does the address."""
    cli.main(["view", str(tmp_path), "--path-prefix", "/my/tb"])
    assert started[0][-2:] == ["--path_prefix", "/my/tb"]
    assert " http://localhost:6008/my/tb/#gradcheck " in capsys.readouterr().out


def test_a_directory_that_is_not_there_is_told(started, tmp_path, capsys):
    """A wrong path is an error message and status 2, not an empty TensorBoard."""
    assert cli.main(["view", str(tmp_path / "nowhere")]) == 2
    assert "There is no directory" in capsys.readouterr().err
    assert not started


def test_a_missing_tensorboard_is_told(started, tmp_path, capsys, monkeypatch):
    """Without TensorBoard the message says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["view", str(tmp_path)]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not started


def test_a_port_that_is_taken_is_told(started, tmp_path, capsys):
    """The address that is printed is never that of somebody else's TensorBoard."""
    assert cli.main(["view", str(tmp_path), "--port", "9009"]) == 2
    told = capsys.readouterr()
    assert "Port 9009 of localhost is taken" in told.err
    assert (told.out, started) == ("", [])


def test_a_port_is_taken_when_somebody_listens():
    """And free afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not cli._is_free("127.0.0.1", port)
    assert cli._is_free("127.0.0.1", port)


def view_until(signal_number, tmp_path):
    """``gc-hooks view`` as a process that is sent a signal once TensorBoard answers: its status, and the port."""
    code = "import sys; from gc_hooks.cli import main; sys.exit(main(sys.argv[1:]))"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["view", str(tmp_path), "--host", "127.0.0.1", "--port", str(port)]
    with a_process("-c", code, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        patiently(lambda: fetch(f"http://127.0.0.1:{port}", "environment"))
        process.send_signal(signal_number)
        return process.wait(SAFETY_LIMIT), port


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 0),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(getattr(signal, "SIGHUP", None), 129, marks=pytest.mark.slow),
    ],
)
def test_tensorboard_does_not_outlive_the_command(tmp_path, number, status):
    """Ctrl-C ends both with status 0 and without a traceback; a kill ends both too."""
    ended, port = view_until(number, tmp_path)
    assert ended == status
    patiently(lambda: cli._is_free("127.0.0.1", port))


@pytest.mark.parametrize("arguments", [["look"], ["show"], ["view"], ["view", ".", "--port", "x"]])
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    """Without a directory or a number for a port, and with an unknown command, the usage is printed: status 2."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: gc-hooks" in capsys.readouterr().err


def test_alone_it_says_what_it_can_do(capsys):
    """And it knows its version."""
    assert cli.main([]) == 0
    assert "print the checks of a log" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert (exit_.value.code, capsys.readouterr().out) == (0, f"gc-hooks {gc_hooks.__version__}\n")
    assert run_python("-m", "gc_hooks", "--version").stdout == f"gc-hooks {gc_hooks.__version__}\n"


@pytest.mark.parametrize("command", ["view", "show"])
def test_every_argument_has_a_help_text(command, capsys):
    """Each option is told in a sentence, and so is the directory."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    places = re.split(r"\n  (?=\S)", text)[1:]
    assert len(places) >= 4
    assert not [place for place in places if len(place.split()) < 4]


def test_an_empty_directory_is_told(started, tmp_path, capsys):
    """TensorBoard is started all the same: the first check may come later."""
    cli.main(["view", str(tmp_path)])
    assert f"{tmp_path} is empty" in capsys.readouterr().err
    (tmp_path / "gradcheck").mkdir()
    cli.main(["view", str(tmp_path)])
    assert capsys.readouterr().err == ""
    assert len(started) == 2


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_that_is_killed_takes_the_viewer_with_it(tmp_path):
    """The viewer is what make itself has started: no shell between them that would be ended in its place."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch()
    (tmp_path / "run.stamp").touch()
    viewer = tmp_path / "bin" / "gc-hooks"
    viewer.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000\n")
    viewer.chmod(0o755)
    command = ["make", "-C", str(ROOT), "view", f"VENV={tmp_path}", f"LOG_DIR={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as make:
        patiently((tmp_path / "pid").exists)
        number = int((tmp_path / "pid").read_text())
        make.terminate()
        assert make.wait(SAFETY_LIMIT) != 0
    try:
        patiently(lambda: not is_running(number))
    finally:
        if is_running(number):
            os.kill(number, signal.SIGKILL)


def is_running(number):
    """Whether there is such a process that has not ended."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


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
    monkeypatch.setattr(cli, "_is_free", lambda host, port: True)
    monkeypatch.setattr(cli, "_run", lambda command: 0 if done.wait(SAFETY_LIMIT) else 1)
    assert cli.main(["view", str(tmp_path), "--open"]) == 0
    assert opened == ["http://localhost:6006/#gradcheck"]
    answers[:] = [OSError("never")] * 2
    monkeypatch.setattr(threading, "Event", lambda: type("Event", (), {"wait": lambda self, seconds: None})())
    cli._open_when_ready("http://localhost:1", "http://localhost:1/#gradcheck", attempts=2)
    assert len(opened) == 1
