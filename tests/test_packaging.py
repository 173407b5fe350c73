"""What is shipped, and what a user who installs it relies on."""

from __future__ import annotations

import configparser
import hashlib
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import pytest

import gc_hooks

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "data"
HEAVY = ("tensorboard", "tensorboardX", "rich", "torch")


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    with np.load(DATA / "digits.npz", allow_pickle=False) as file:
        return dict(file)


def test_installed_version_is_the_version_that_the_package_reports() -> None:
    assert metadata.version("gc_hooks") == gc_hooks.__version__


def test_python_older_than_3_10_is_refused_by_the_installer(setup_cfg: configparser.ConfigParser) -> None:
    assert setup_cfg["options"]["python_requires"] == ">=3.10"
    assert metadata.metadata("gc_hooks")["Requires-Python"] == ">=3.10"


def test_type_annotations_are_announced_to_type_checkers(setup_cfg: configparser.ConfigParser) -> None:
    assert resources.files("gc_hooks").joinpath("py.typed").is_file()
    assert "py.typed" in setup_cfg["options.package_data"]["gc_hooks"].split()


def test_the_page_of_the_tab_is_shipped_and_tensorboard_finds_it(setup_cfg: configparser.ConfigParser) -> None:
    assert "tensorboard_tab/static/*" in setup_cfg["options.package_data"]["gc_hooks"].split()
    (found,) = metadata.entry_points(group="tensorboard_plugins", name="gradcheck")
    assert found.load().__name__ == "GradCheckLoader"


def test_import_loads_nothing_heavy() -> None:
    code = f"import gc_hooks, sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout.strip(), finished.stderr) == (0, "", "")


def test_everything_else_works_without_pytorch_and_dask() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["torch", "dask", "distributed"]))
import gc_hooks
assert gc_hooks.assert_gradients(lambda w: w**2, 3.0, 6.0).ok
try:
    gc_hooks.adapters.TorchGradCheckHook(None)
except gc_hooks.MissingDependency as error:
    print(error)
"""
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "pip install gc_hooks[torch]" in finished.stdout


@pytest.mark.parametrize("extra", ["torch", "distributed"])
def test_extras_that_messages_speak_of_exist(setup_cfg: configparser.ConfigParser, extra: str) -> None:
    assert extra in setup_cfg["options.extras_require"]


def test_command_is_installed_and_loads() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="gc-hooks")
    assert callable(command.load())


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "view", "clean", "help"])
def test_makefile_has_and_describes_its_targets(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \w", makefile, flags=re.MULTILINE)


def test_digits_are_small_enough_to_ship() -> None:
    assert (DATA / "digits.npz").stat().st_size <= 60_000


def test_digits_are_the_1797_images_of_the_test_set(digits: dict[str, np.ndarray]) -> None:
    images, labels = digits["images"], digits["labels"]
    assert (images.shape, images.dtype) == ((1797, 64), np.uint8)
    assert (labels.shape, labels.dtype) == ((1797,), np.uint8)
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("name", ["images", "labels"])
def test_digits_have_the_checksum_that_their_description_gives(digits: dict[str, np.ndarray], name: str) -> None:
    checksum = hashlib.sha256(digits[name].tobytes()).hexdigest()
    assert checksum in (DATA / "README.md").read_text(encoding="utf-8")
