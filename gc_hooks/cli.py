"""The ``gc-hooks`` command."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PORT = 6006
QUERY = "?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries"
"""Where TensorBoard shows the difference values: as logarithms, for it has no logarithmic axis by default, and without
smoothing, which would turn a jump into a ramp."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gc-hooks", description="Gradient checks, after the training.")
    commands = parser.add_subparsers(dest="command", required=True)
    view = commands.add_parser("view", help="start TensorBoard on a log directory")
    view.add_argument("log_dir", type=Path)
    view.add_argument("--port", type=int, default=PORT)
    view.add_argument("--host", default="localhost")
    chosen = parser.parse_args(arguments)
    return _view(chosen.log_dir, chosen.host, chosen.port)


def address(host: str = "localhost", port: int = PORT) -> str:
    """Where TensorBoard shows the difference values.

    Examples
    --------
    >>> address()
    'http://localhost:6006/?smoothing=0&tagFilter=gradcheck%2Flog10#timeseries'
    """
    return f"http://{host}:{port}/{QUERY}"


def _view(log_dir: Path, host: str, port: int) -> int:
    if not log_dir.is_dir():
        print(f"gc-hooks: there is no directory {log_dir}. Try the log_dir that the hook was given.", file=sys.stderr)
        return 2
    if importlib.util.find_spec("tensorboard") is None:
        print("gc-hooks: TensorBoard is not installed here. Try pip install tensorboard.", file=sys.stderr)
        return 2
    print(f"TensorBoard shows the gradient checks at {address(host, port)} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--host", host, "--port", str(port)]
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 0
