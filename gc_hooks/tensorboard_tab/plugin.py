"""Serve the tab: the checks of a log as JSON, and the files of the page from a fixed list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.data import provider
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from gc_hooks.errors import GradCheckError
from gc_hooks.report.text import spelt_out
from gc_hooks.report.verdict import Verdict
from gc_hooks.tensorboard_tab.digest import RunDigest, check_for_page, read_check
from gc_hooks.tensorboard_tab.metadata import CHECKS, PLUGIN, TAB_NAME

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

SCRIPTS = ("charts", "data", "detail", "dom", "format", "host", "index", "maps", "panel", "table")
STATIC = {"style.css": "text/css", **{f"{name}.js": "text/javascript" for name in SCRIPTS}}
"""Every file that is served: no part of a request ever becomes a path."""

EVERY_CHECK = 10**6
"""How many checks of a run are asked of TensorBoard, which wants a number: more than any training makes."""

JSON, TEXT = "application/json", "text/plain"


class NotThere(GradCheckError):
    """The log has no such run or check."""


class GradCheckPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Serve the checks that TensorBoard has read."""

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._data = context.data_provider
        folder = files("gc_hooks.tensorboard_tab") / "static"
        self._static = {name: (folder / name).read_bytes() for name in STATIC}

    def is_active(self) -> bool:
        """Return False: TensorBoard finds out itself, by the data."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return the name of the tab and the address of its page."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=TAB_NAME)

    def get_plugin_apps(self) -> dict[str, WSGIApplication]:
        """Return what answers at each address below the plugin's."""
        apps = {
            "/runs": _app(self._runs, JSON),
            "/checks": _app(self._checks, JSON),
            "/check": _app(lambda request: check_for_page(self._text(request)), JSON),
            "/markdown": _app(lambda request: spelt_out(read_check(self._text(request)).to_markdown()), TEXT),
        }
        for name, kind in STATIC.items():
            apps[f"/{name}"] = _app(partial(lambda content, request: content, self._static[name]), kind)
        return apps

    def _runs(self, request: Request) -> list[dict[str, Any]]:
        """Return each run with its worst check, the worst run first."""
        outlines = [RunDigest.of(run, texts).outline() for run, texts in self._read(request).items()]
        return sorted(outlines, key=lambda outline: (-Verdict[outline["verdict"]], outline["run"]))

    def _checks(self, request: Request) -> dict[str, Any]:
        """Return all checks of a run, as the table and the chart over the steps need them."""
        return RunDigest.of(request.args.get("run", ""), self._texts(request)).table()

    def _text(self, request: Request) -> str:
        step, run = request.args.get("step", ""), request.args.get("run", "")
        for key, text in self._texts(request).items():
            if str(key) == step:
                return text
        raise NotThere(f"The log has no check at step {step!r} of run {run!r}.")

    def _texts(self, request: Request) -> dict[int, str]:
        """Return the reports in JSON of the run that is asked for, by their steps."""
        run = request.args.get("run", "")
        texts = self._read(request, [run]).get(run)
        if texts is None:
            raise NotThere(f"The log has no checks of a run {run!r}.")
        return texts

    def _read(self, request: Request, runs: list[str] | None = None) -> dict[str, dict[int, str]]:
        """Return the reports in JSON that TensorBoard has of these runs, or of all, by their steps."""
        tensors = self._data.read_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=PLUGIN,
            downsample=EVERY_CHECK,
            run_tag_filter=provider.RunTagFilter(runs=runs, tags=[CHECKS]),
        )
        found: dict[str, dict[int, str]] = {}
        for run, tags in tensors.items():
            for datum in tags.get(CHECKS, ()):
                value = datum.numpy.item() if datum.numpy.size == 1 else b""
                text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                found.setdefault(run, {})[datum.step] = text
        return found


def _app(answer: Callable[[Request], Any], kind: str) -> WSGIApplication:
    """Return an application that responds with what a function returns, or with 404 and a sentence where it raises."""

    @Request.application
    def respond(request: Request) -> Response:
        try:
            # Responses are compressed, never cached, and have X-Content-Type-Options: nosniff.
            response: Response = http_util.Respond(request, answer(request), kind)
        except GradCheckError as error:
            response = http_util.Respond(request, {"error": str(error)}, JSON, 404)
        return response

    return respond
