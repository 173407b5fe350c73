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
from gc_hooks.terminal import let_go, load_rich, print_on, printable

PORT, PORTS = 6006, 20
"""TensorBoard's own port, and how many from there on are tried: few people have more than a handful open."""

ALL_GOOD, WRONG, UNCLEAR = 0, 1, 2
"""The exit statuses of ``show``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="gc-hooks", description="Gradient checks, during the training and after.")
    parser.add_argument("--version", action="version", version=f"gc-hooks {sys.modules['gc_hooks'].__version__}")
    commands = parser.add_subparsers(dest="command")
    view = commands.add_parser("view", help="start TensorBoard on a log directory")
    view.add_argument("log_dir", type=Path, help="the hook's log_dir, or a directory above several of them")
    view.add_argument("--port", type=int, help=f"by default {PORT}, or the next one that is free")
    view.add_argument("--host", default="localhost", help="where it listens: by default this machine alone can see it")
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
    try:
        if chosen.command == "show":
            return _show(chosen.log_dir, chosen.json, chosen.newest)
        if chosen.command == "view":
            return _view(chosen.log_dir, chosen.host, chosen.port, chosen.path_prefix, chosen.open)
    except OSError as error:
        return _refuse(f"{error}.")
    except Exception as error:  # a traceback would end with the status of a wrong gradient
        return _refuse(f"{type(error).__name__}: {error}. This usually means a defect of gc_hooks. Try to report it.")
    parser.print_help()
    return ALL_GOOD


def _view(log_dir: Path, host: str, port: int | None, prefix: str, open_browser: bool) -> int:
    """Start TensorBoard on a free port, and return its exit status once it has ended."""
    if not log_dir.is_dir():
        return _refuse(f"There is no directory {log_dir}. Try the log_dir that the hook was given.")
    if not any(log_dir.iterdir()):
        _note(f"{log_dir} is empty. TensorBoard shows checks as soon as a hook writes there: log_dir={str(log_dir)!r}.")
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
    # Without a handler these would end this process at once, and leave TensorBoard running.
    for name in ("SIGTERM", "SIGHUP"):  # the second is that of a terminal that is closed; Windows has none
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
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
    runs = {run: reports[-1:] if newest else reports for run, reports in log.runs.items()}
    verdicts = [report.verdict for reports in runs.values() for report in reports]
    try:
        for run, reports in runs.items():
            if as_json:
                _print_json(run, reports)
            elif reports:
                _print_table(run, reports)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: the status is that of the checks, whoever has read how many of them
        let_go(sys.stdout)
    for trouble in log.troubles:
        _note(trouble)
    if not verdicts and not log.files and not log.troubles:
        _note(f"{log_dir} holds no event files. Try the log_dir that the hook was given, after its first check.")
    elif not verdicts and not log.troubles:
        _note(
            f"{log_dir} holds {log.files} event file(s) and no gradient checks. This usually means a training without "
            "GradCheckHook(log_dir=...), or an older gc_hooks. Try TensorBoard's own dashboards: gc-hooks view."
        )
    worst = max(verdicts, default=Verdict.INCONCLUSIVE)
    if worst >= Verdict.DOUBLE_CHECK:
        return WRONG
    return UNCLEAR if log.troubles or worst is Verdict.INCONCLUSIVE else ALL_GOOD


def _print_json(run: str, reports: list[CheckReport]) -> None:
    for report in reports:
        # Standard JSON spells out what is not ASCII: every terminal shows it, and none obeys it.
        print(json.dumps({"run": run, **json.loads(report.to_json())}))


def _print_table(run: str, reports: list[CheckReport]) -> None:
    """Print a line for each check, and the findings of the first and of the newest one that are not good."""
    rich = load_rich()
    console = rich.console.Console(soft_wrap=True, markup=False, highlight=False)
    # What is too long is folded and not cut: an ellipsis is a sign that not every encoding has.
    columns = map(partial(rich.table.Column, overflow="fold"), ("step", "verdict", "difference", "not good", "named"))
    table = rich.table.Table(*columns, box=rich.box.SIMPLE, pad_edge=False)
    for report in reports:
        not_good = listed(report.failing, most=4)
        if 1 < len(report.failing) == len(report.parameters):
            not_good = f"all {len(report.failing)} parameters"
        codes = ", ".join(dict.fromkeys(diagnosis.code for diagnosis in report.diagnoses))  # each once
        cells = (str(report.step), str(report.verdict), report.stated, not_good, codes)
        shown = [printable(cell, console.encoding) for cell in cells]
        table.add_row(*map(partial(rich.text.Text, style=STYLES[report.verdict]), shown))
    print_on(console, printable(f"{run}: {plural(len(reports), 'check')}", console.encoding), style="bold")
    print_on(console, table)
    # The first one shows when it began, the newest whether it is still there; those between say the same.
    failing = [report for report in reports if not report.ok]
    for report in failing[:1] + failing[1:][-1:]:
        for sentence in report.findings or report.notes:
            print_on(console, printable(f"  step {report.step}, {sentence}", console.encoding))


def _note(message: str) -> None:
    print(printable(f"gc-hooks: {message}", sys.stderr.encoding or "utf-8"), file=sys.stderr)


def _refuse(message: str) -> int:
    _note(message)
    return UNCLEAR
