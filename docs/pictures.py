"""The pictures of this folder: two runs of the digits example in TensorBoard, one with a mistake that shows late.

Run it with ``python docs/pictures.py``; it needs Chromium and the extra ``browser``.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests"))
from servers import fetch, patiently, tensorboard  # noqa: E402 - the tests' own TensorBoard

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VIEWS = {"tab-light.png": (1900, 1240, False), "tab-dark.png": (1900, 1240, True)}
NARROW = {"tab-narrow-light.png": (1000, 1500, False), "tab-narrow-dark.png": (1000, 1500, True)}
LATE = "capped-logits"


def main():
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "runs"
        train(logs / "clean")
        train(logs / LATE, "--bug", LATE)
        with tensorboard(logs, "true", Path(folder) / "output") as address, sync_playwright() as started:
            patiently(lambda: len(fetch(address, "plugin/gradcheck/runs") or ()) == 2)
            path = next(filter(None, map(shutil.which, BROWSERS)), None)
            browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            for name, view in {**VIEWS, **NARROW}.items():
                take(browser, address, name, *view)
            take(browser, address, "tab-two-runs.png", 1900, 1100, False, beside="clean/gradcheck")


def train(log_dir, *options):
    command = [sys.executable, "-W", "ignore", ROOT / "examples" / "02_train_digits.py", "--every", "50"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([*command, *options, "--log-dir", log_dir], check=True, stdout=subprocess.DEVNULL, env=environment)


def take(browser, address, name, width, height, dark, beside=None):
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(f"{address}/{'?darkMode=true' if dark else ''}#gradcheck")
    frame = page.frame_locator('iframe[src*="name=gradcheck"]')
    frame.get_by_test_id("detail").wait_for()
    if beside:
        frame.get_by_test_id("beside").select_option(beside)
        frame.get_by_test_id("detail").nth(1).wait_for()
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(256).save(HERE / name, optimize=True)
    page.close()


if __name__ == "__main__":
    main()
