"""The ``gc-hooks`` command: look at the checks of a training, during it or after."""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import webbrowser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gc_hooks.errors import GradCheckError
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import listed, plural
from gc_hooks.report.verdict import Verdict
from gc_hooks.reporters.console import STYLES
from gc_hooks.reporters.log import read_log
from gc_hooks.tensorboard_tab.metadata import stock_address, tab_address
from gc_hooks.terminal import load_rich

PORT, PORTS = 6006, 20
"""TensorBoard's own port, and how many from there on are tried: few people have more than a handful open."""

ALL_GOOD, WRONG, UNCLEAR = 0, 1, 2
"""The exit statuses of ``show``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="gc-hooks", description="Gradient checks, during the training and after.")
    commands = parser.add_subparsers(dest="command", required=True)
    view = commands.add_parser("view", help="start TensorBoard on a log directory")
    view.add_argument("log_dir", type=Path)
    view.add_argument("--port", type=int, help=f"by default {PORT}, or the next one that is free")
    view.add_argument("--host", default="localhost")
    view.add_argument("--path-prefix", default="", help="as TensorBoard's --path_prefix")
    view.add_argument("--open", action="store_true", help="open it in the browser, too")
    show = commands.add_parser(
        "show",
        help="print the checks of a log",
        description="Exit status: 0 when all checks are GOOD, 1 when one is DOUBLE_CHECK or WORRY, 2 when one is "
        "INCONCLUSIVE or something cannot be read.",
    )
    show.add_argument("log_dir", type=Path, help="the hook's log_dir, or a file of JSON lines")
    show.add_argument("--json", action="store_true", help="a line of JSON for each check, with the name of its run")
    show.add_argument("--newest", action="store_true", help="the newest check of each run alone")
    chosen = parser.parse_args(arguments)
    if chosen.command == "show":
        return _show(chosen.log_dir, chosen.json, chosen.newest)
    return _view(chosen.log_dir, chosen.host, chosen.port, chosen.path_prefix, chosen.open)


def _view(log_dir: Path, host: str, port: int | None, prefix: str, open_browser: bool) -> int:
    """Start TensorBoard on a free port, and return its exit status once it has ended."""
    if not log_dir.is_dir():
        return _refuse(f"There is no directory {log_dir}. Try the log_dir that the hook was given.")
    if importlib.util.find_spec("tensorboard") is None:
        return _refuse("TensorBoard is not installed in this Python. Try pip install tensorboard.")
    # The address that is printed must not be another server's.
    candidates = [port] if port else range(PORT, PORT + PORTS)
    free = next(filter(partial(_is_free, host), candidates), None)
    if free is None:
        return _refuse(f"Port {port or PORT} of {host} is taken, perhaps by another TensorBoard. Try another --port.")
    server = f"http://{host}:{free}{prefix}"
    print(f"TensorBoard shows the gradient checks at {tab_address(server)} (Ctrl-C ends it),")
    print(f"and their differences as scalars at {stock_address(server)}", flush=True)
    if open_browser:
        threading.Thread(target=_open_when_ready, args=(server, tab_address(server)), daemon=True).start()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--host", host, "--port", str(free)]
    if prefix:
        command += ["--path_prefix", prefix]
    return _run(command)


def _is_free(host: str, port: int) -> bool:
    """Return whether no server listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) != 0


def _run(command: list[str]) -> int:
    """Run a command until it ends or this process is asked to end; it never outlives this process."""
    # Without a handler SIGTERM would end this process at once, and leave TensorBoard running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            process.terminate()


def _open_when_ready(server: str, address: str, attempts: int = 60) -> None:
    """Open the browser once TensorBoard answers; give up after half a minute, which its slowest start does not take."""
    pause = threading.Event()
    for _ in range(attempts):
        try:
            with urllib.request.urlopen(f"{server}/data/environment", timeout=1):
                webbrowser.open(address)
                return
        except OSError:  # not yet: TensorBoard starts slowly
            pause.wait(0.5)


def _show(log_dir: Path, as_json: bool, newest: bool) -> int:
    """Print the checks of a log, and return the exit status that the worst of them asks for."""
    try:
        log = read_log(log_dir)
    except GradCheckError as error:
        return _refuse(str(error))
    verdicts = []
    for run, reports in log.runs.items():
        if newest:
            reports = reports[-1:]
        verdicts += [report.verdict for report in reports]
        if not as_json:
            _print_table(run, reports)
            continue
        for report in reports:
            print(json.dumps({"run": run, **json.loads(report.to_json())}, ensure_ascii=False))
    for trouble in log.troubles:
        _refuse(trouble)
    if not verdicts and not log.files:
        _refuse(f"{log_dir} holds no event files. Try the log_dir that the hook was given, after its first check.")
    elif not verdicts and not log.troubles:
        _refuse(
            f"{log_dir} holds {log.files} event file(s) and no gradient checks. This usually means a training without "
            "GradCheckHook(log_dir=...), or an older gc_hooks. Try TensorBoard's own dashboards: gc-hooks view."
        )
    worst = max(verdicts, default=Verdict.INCONCLUSIVE)
    if worst >= Verdict.DOUBLE_CHECK:
        return WRONG
    return UNCLEAR if log.troubles or worst is Verdict.INCONCLUSIVE else ALL_GOOD


def _print_table(run: str, reports: list[CheckReport]) -> None:
    """Print a line for each check, and the findings of the first and of the newest one that are not good."""
    rich = load_rich()
    table = rich.table.Table("step", "verdict", "difference", "not good", "named", box=rich.box.SIMPLE, pad_edge=False)
    for report in reports:
        not_good = listed(report.failing, most=4)
        if 1 < len(report.failing) == len(report.parameters):
            not_good = f"all {len(report.failing)} parameters"
        codes = ", ".join(dict.fromkeys(diagnosis.code for diagnosis in report.diagnoses))  # each once
        cells = (str(report.step), str(report.verdict), report.stated, not_good, codes)
        table.add_row(*map(partial(rich.text.Text, style=STYLES[report.verdict]), cells))
    console = rich.console.Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"{run}: {plural(len(reports), 'check')}", style="bold")
    console.print(table)
    # The first one shows when it began, the newest whether it is still there; those between say the same.
    failing = [report for report in reports if not report.ok]
    for report in failing[:1] + failing[1:][-1:]:
        for sentence in report.findings or report.notes:
            console.print(f"  step {report.step}, {sentence}")


def _refuse(message: str) -> int:
    print(f"gc-hooks: {message}", file=sys.stderr)
    return UNCLEAR
