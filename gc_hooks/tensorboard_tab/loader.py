"""What TensorBoard loads at its start: it must not fail, or no dashboard would come up at all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from tensorboard.plugins import base_plugin

from gc_hooks.tensorboard_tab.metadata import PLUGIN, TAB_NAME

KEEP_ALL = 0


class GradCheckLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes the tab, or one that says why it cannot be shown."""

    def fix_flags(self, flags: argparse.Namespace) -> None:
        """Have TensorBoard keep every check instead of a sample of them, unless the user wants it otherwise."""
        if getattr(flags, "samples_per_plugin", None) is not None:
            flags.samples_per_plugin.setdefault(PLUGIN, KEEP_ALL)

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin:
        """The tab; whatever its parts lack is said there instead of raised here."""
        try:
            from gc_hooks.tensorboard_tab.plugin import GradCheckPlugin

            return GradCheckPlugin(context)
        except Exception as error:
            return BrokenPlugin(context, f"{type(error).__name__}: {error}")


class BrokenPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """A tab that says what is missing; it needs nothing but Python."""

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext, trouble: str) -> None:
        super().__init__(context)
        self._trouble = trouble

    def is_active(self) -> bool:
        """Shown among the active tabs: it has something to say."""
        return True

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Where the page is."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=TAB_NAME)

    def get_plugin_apps(self) -> dict[str, Callable[..., Iterable[bytes]]]:
        """The page's only file."""
        return {"/index.js": self._serve}

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        text = (
            f"The gradient checks of this log cannot be shown here: {self._trouble}. Everything else in TensorBoard "
            "works. Try to install gc_hooks anew in the environment that runs TensorBoard: pip install --upgrade "
            "--force-reinstall gc_hooks"
        )
        script = f"export function render() {{ document.body.textContent = {json.dumps(text)}; }}\n"
        headers = [("Content-Type", "text/javascript; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
        start_response("200 OK", headers)
        return [script.encode()]
