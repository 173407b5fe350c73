"""Load the tab when TensorBoard starts: an error here would take down every dashboard, so none may escape."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from tensorboard.plugins import base_plugin

from gc_hooks.tensorboard_tab.metadata import PLUGIN, TAB_NAME

KEEP_ALL = 0
"""What TensorBoard takes for "every one" where it wants a number of samples."""


class GradCheckLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Make the tab, or one that says why it cannot be shown."""

    def fix_flags(self, flags: argparse.Namespace) -> None:
        """Have TensorBoard keep every check instead of a sample of them, unless the user has asked for a sample."""
        if getattr(flags, "samples_per_plugin", None) is not None:
            flags.samples_per_plugin.setdefault(PLUGIN, KEEP_ALL)

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin:
        """Return the tab; where a part of it cannot be loaded, one that says so."""
        try:  # werkzeug or a part of gc_hooks may be missing or broken, whatever the exception
            from gc_hooks.tensorboard_tab.plugin import GradCheckPlugin

            return GradCheckPlugin(context)
        except Exception as error:
            return BrokenPlugin(context, f"{type(error).__name__}: {error}")


class BrokenPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Say in place of the tab why it cannot be shown. Needs nothing but Python."""

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext, trouble: str) -> None:
        super().__init__(context)
        self._trouble = trouble

    def is_active(self) -> bool:
        """Return True: the tab has something to say."""
        return True

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return the name of the tab and the address of its page."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=TAB_NAME)

    def get_plugin_apps(self) -> dict[str, Callable[..., Iterable[bytes]]]:
        """Return what answers at the address of the page's only file."""
        return {"/index.js": self._serve}

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        text = (
            f"The gradient checks cannot be shown here: {self._trouble}. All else in TensorBoard works. Try, in its "
            "environment: pip install --upgrade --force-reinstall gc_hooks"
        )
        script = f"export function render() {{ document.body.textContent = {json.dumps(text)}; }}\n"
        headers = [("Content-Type", "text/javascript; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
        start_response("200 OK", headers)
        return [script.encode()]
