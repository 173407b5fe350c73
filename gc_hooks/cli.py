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
from pathlib import Path
from typing import TYPE_CHECKING

from gc_hooks.errors import GradCheckError
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import listed
from gc_hooks.report.verdict import Verdict
from gc_hooks.reporters.log import Log, read_log
from gc_hooks.tensorboard_tab.metadata import stock_address, tab_address

if TYPE_CHECKING:
    from rich.table import Table

PORT, PORTS = 6006, 20
ALL_GOOD, WRONG, UNCLEAR = 0, 1, 2
"""Exit statuses of ``show``."""
COLUMNS = ("step", "verdict", "difference", "not good", "named")
MOST_NAMES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "show":
        return _show(chosen.log_dir, chosen.json, chosen.newest)
    return _view(chosen.log_dir, chosen.host, chosen.port, chosen.path_prefix, chosen.open)


def _parser() -> argparse.ArgumentParser:
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
        description="Print the checks of a log. Exit status: 0 when all are GOOD, 1 when one is DOUBLE_CHECK or WORRY, "
        "2 when one is INCONCLUSIVE or something cannot be read.",
    )
    show.add_argument("log_dir", type=Path, help="the hook's log_dir, or a file of JSON lines")
    show.add_argument("--json", action="store_true", help="a line of JSON for each check, with the name of its run")
    show.add_argument("--newest", action="store_true", help="the newest check of each run alone")
    return parser


def _view(log_dir: Path, host: str, port: int | None, prefix: str, open_browser: bool) -> int:
    if not log_dir.is_dir():
        return _refuse(f"There is no directory {log_dir}. Try the log_dir that the hook was given.")
    if importlib.util.find_spec("tensorboard") is None:
        return _refuse("TensorBoard is not installed here. Try pip install tensorboard.")
    free = next((p for p in ([port] if port else range(PORT, PORT + PORTS)) if _is_free(host, p)), None)
    if free is None:
        return _refuse(f"Port {port or PORT} of {host} is taken, perhaps by another TensorBoard. Try another --port.")
    server = f"http://{host}:{free}{prefix}"
    print(f"TensorBoard shows the gradient checks at {tab_address(server)} (Ctrl-C ends it),", flush=True)
    print(f"and their differences as scalars at {stock_address(server)}", flush=True)
    if open_browser:
        threading.Thread(target=_open_when_ready, args=(server, tab_address(server)), daemon=True).start()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--host", host, "--port", str(free)]
    return _run([*command, "--path_prefix", prefix] if prefix else command)


def _is_free(host: str, port: int) -> bool:
    """Whether nobody listens there: the address that is printed must not be somebody else's."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) != 0


def _run(command: list[str]) -> int:
    """TensorBoard, until it ends or we are told to: it does not outlive us."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            process.terminate()


def _open_when_ready(server: str, address: str, attempts: int = 60) -> None:
    """Open the browser once TensorBoard answers; half a minute is long enough to wait for it."""
    pause = threading.Event()
    for _ in range(attempts):
        try:
            with urllib.request.urlopen(f"{server}/data/environment", timeout=1):
                webbrowser.open(address)
                return
        except OSError:
            pause.wait(0.5)


def _show(log_dir: Path, as_json: bool, newest: bool) -> int:
    try:
        log = read_log(log_dir)
    except GradCheckError as error:
        return _refuse(str(error))
    runs = {run: reports[-1:] if newest else reports for run, reports in log.runs.items()}
    for run, reports in runs.items():
        if as_json:
            _print_lines(run, reports)
        else:
            _print_table(run, reports)
    for trouble in log.troubles:
        _refuse(trouble)
    if not any(runs.values()):
        return _refuse(_why_nothing(log, log_dir))
    return _status([report.verdict for reports in runs.values() for report in reports], bool(log.troubles))


def _status(verdicts: Sequence[Verdict], troubled: bool) -> int:
    if max(verdicts) >= Verdict.DOUBLE_CHECK:
        return WRONG
    return UNCLEAR if troubled or max(verdicts) is Verdict.INCONCLUSIVE else ALL_GOOD


def _why_nothing(log: Log, log_dir: Path) -> str:
    if not log.files:
        return f"{log_dir} holds no event files. Try the log_dir that the hook was given, once a check has been made."
    if log.troubles:
        return f"No check of {log_dir} could be read."
    return (
        f"{log_dir} holds {log.files} event file(s) and no gradient checks. This usually means a training without "
        "GradCheckHook(log_dir=...), or a log of an older gc_hooks, which TensorBoard's own dashboards show."
    )


def _print_lines(run: str, reports: list[CheckReport]) -> None:
    for report in reports:
        print(json.dumps({"run": run, **json.loads(report.to_json())}, ensure_ascii=False))


def _print_table(run: str, reports: list[CheckReport]) -> None:
    """The checks of a run, and what is known of the first and of the newest one that are not good."""
    from rich.console import Console

    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"{run}: {len(reports)} check{'' if len(reports) == 1 else 's'}", style="bold")
    console.print(_table(reports))
    failing = [report for report in reports if not report.ok]
    for report in failing[:1] + failing[1:][-1:]:
        for told in report.findings or report.notes:
            console.print(f"  step {report.step}, {told}")


def _table(reports: list[CheckReport]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gc_hooks.reporters.console import STYLES

    table = Table(*COLUMNS, box=box.SIMPLE, pad_edge=False)
    for report in reports:
        table.add_row(*(Text(cell, style=STYLES[report.verdict]) for cell in _row(report)))
    return table


def _row(report: CheckReport) -> tuple[str, ...]:
    failing = [comparison.name for comparison in report.worst_first if comparison.verdict > Verdict.GOOD]
    return (
        str(report.step),
        str(report.verdict),
        report.stated,
        f"all {len(failing)} parameters" if 1 < len(failing) == len(report.parameters) else listed(failing, MOST_NAMES),
        ", ".join(dict.fromkeys(diagnosis.code for diagnosis in report.diagnoses)),
    )


def _refuse(message: str) -> int:
    print(f"gc-hooks: {message}", file=sys.stderr)
    return UNCLEAR
