"""The tab's server side: the checks of a log as JSON, and the files of the page from a fixed list."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.data import provider
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from gc_hooks.errors import GradCheckError
from gc_hooks.report import CheckReport
from gc_hooks.tensorboard_tab.digest import RunDigest, ordinal
from gc_hooks.tensorboard_tab.metadata import CHECKS, PLUGIN, TAB_NAME

STATIC = {
    "charts.js": "text/javascript",
    "data.js": "text/javascript",
    "detail.js": "text/javascript",
    "dom.js": "text/javascript",
    "format.js": "text/javascript",
    "host.js": "text/javascript",
    "index.js": "text/javascript",
    "maps.js": "text/javascript",
    "panel.js": "text/javascript",
    "style.css": "text/css",
    "table.js": "text/javascript",
}
"""Every file that is served; nothing of a request becomes a path."""

EVERY_CHECK = 10**6

App = Callable[[Request], Response]


class NotThere(Exception):
    """No such run or check in the log."""


class GradCheckPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Serves the checks that TensorBoard has read."""

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._data = context.data_provider
        folder = files("gc_hooks.tensorboard_tab") / "static"
        self._static = {name: (folder / name).read_bytes() for name in STATIC}

    def is_active(self) -> bool:
        """TensorBoard finds out itself, by the data."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Where the page is."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=TAB_NAME)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Every address below the plugin's."""
        answers: dict[str, App] = {
            "/runs": self._runs,
            "/checks": self._checks,
            "/check": self._check,
            "/markdown": self._markdown,
        }
        pages = {f"/{name}": _file(content, STATIC[name]) for name, content in self._static.items()}
        return {path: Request.application(app) for path, app in (pages | answers).items()}

    def _runs(self, request: Request) -> Response:
        """Each run with its worst check, the worst run first."""
        found = [RunDigest.of(run, texts) for run, texts in self._read(request).items()]
        outlines = [digest.outline() for digest in found]
        outlines.sort(key=lambda outline: (-ordinal(outline["verdict"]), outline["run"]))
        return _respond(request, outlines)

    def _checks(self, request: Request) -> Response:
        """All checks of a run, with what the table and the chart need."""
        return self._answer(request, lambda run: RunDigest.of(run, self._texts(request, run)).table())

    def _check(self, request: Request) -> Response:
        """One check as it was written."""
        return self._answer(request, lambda run: self._text(request, run))

    def _markdown(self, request: Request) -> Response:
        """One check for a bug report."""
        return self._answer(request, lambda run: self._as_markdown(request, run), "text/plain")

    def _answer(self, request: Request, answer: Callable[[str], Any], kind: str = "application/json") -> Response:
        try:
            return _respond(request, answer(request.args.get("run", "")), kind)
        except NotThere as error:
            return _respond(request, {"error": str(error)}, code=404)

    def _as_markdown(self, request: Request, run: str) -> str:
        try:
            return CheckReport.from_json(self._text(request, run)).to_markdown()
        except GradCheckError as error:
            raise NotThere(str(error)) from error

    def _text(self, request: Request, run: str) -> str:
        step = request.args.get("step", "")
        for key, text in self._texts(request, run).items():
            if str(key) == step:
                return text
        raise NotThere(f"The log has no check at step {step!r} of run {run!r}.")

    def _texts(self, request: Request, run: str) -> dict[int, str]:
        texts = self._read(request, [run]).get(run)
        if texts is None:
            raise NotThere(f"The log has no checks of a run {run!r}.")
        return texts

    def _read(self, request: Request, runs: list[str] | None = None) -> dict[str, dict[int, str]]:
        """What TensorBoard has of each run: the text at each step."""
        tensors = self._data.read_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=PLUGIN,
            downsample=EVERY_CHECK,
            run_tag_filter=provider.RunTagFilter(runs=runs, tags=[CHECKS]),
        )
        return {
            run: {d.step: _as_text(d.numpy) for d in tags[CHECKS]} for run, tags in tensors.items() if CHECKS in tags
        }


def _as_text(tensor: Any) -> str:
    value = tensor.item() if tensor.size == 1 else b""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _file(content: bytes, kind: str) -> App:
    return lambda request: _respond(request, content, kind)


def _respond(request: Request, content: Any, kind: str = "application/json", code: int = 200) -> Response:
    """Compressed, never cached, and with ``X-Content-Type-Options: nosniff``."""
    response: Response = http_util.Respond(request, content, kind, code)
    return response
