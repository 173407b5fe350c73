"""Child processes and a real TensorBoard, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAFETY_LIMIT = 20 * 60
"""Seconds after which a child process that hangs is given up. It ends a run that is broken anyway: no test's outcome
depends on it, and half or double of it would do as well."""


def run_python(*arguments, status=0, environment=(), **options):
    """Run Python with these arguments, where this package can be imported, until it ends, with this status if any."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(environment)}
    command = [sys.executable, *map(str, arguments)]
    options = {"env": environment, "capture_output": True, "text": True, "timeout": SAFETY_LIMIT, **options}
    finished = subprocess.run(command, check=False, **options)
    assert status in (None, finished.returncode), finished.stdout + finished.stderr
    return finished


WITHOUT_THE_TAB = """
import sys
sys.modules["gc_hooks.tensorboard_tab.plugin"] = None
from tensorboard.main import run_main
sys.argv[0] = "tensorboard"
run_main()
"""
"""TensorBoard where the tab's server side cannot be imported."""


@contextlib.contextmanager
def a_process(*arguments, **options):
    """A child process that is killed in the end, whatever happens."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def tensorboard(log_dir, load_fast, output, *more, program=("-m", "tensorboard.main")):
    """TensorBoard on a free port; its address, once it has told it."""
    arguments = ["--logdir", log_dir, "--load_fast", load_fast, "--host", "127.0.0.1", "--port", "0", *more]
    with output.open("w") as file:
        options = {"stdout": file, "stderr": subprocess.STDOUT}
        with a_process(*program, *map(str, arguments), "--reload_interval", "1", **options) as process:
            yield patiently(lambda: told_address(process, output))


def told_address(process, output):
    assert process.poll() is None, output.read_text()
    address = re.search(r"http://127\.0\.0\.1:\d+", output.read_text())
    return address and address.group()


def patiently(ask):
    """The first answer that is not empty."""
    limit = time.monotonic() + SAFETY_LIMIT
    while not (answer := ask()):
        assert time.monotonic() < limit, "no answer"
        time.sleep(0.1)
    return answer


def fetch(address, route, **query):
    """JSON from TensorBoard, None as long as it has not loaded it."""
    try:
        url = f"{address}/data/{route}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=SAFETY_LIMIT) as answer:
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError):
        return None
