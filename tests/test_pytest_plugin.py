"""The fixture for people's own tests, in a run of pytest of its own."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from servers import run_python

TESTS = """
import numpy as np

W = np.array([0.5, -1.5])

def squares(w):
    return np.sum(w**2)

def test_right(gradcheck):
    report = gradcheck(squares, W, 2 * W)
    assert report.ok
    print("seed", report.seed)

def test_again(gradcheck):
    print("seed", gradcheck(squares, W, 2 * W).seed)

def test_its_own_seed(gradcheck):
    print("seed", gradcheck(squares, W, 2 * W, seed=7).seed)

def test_wrong(gradcheck):
    gradcheck(squares, W, 4 * W)  # the line that is shown

def test_not_told(gradcheck):
    gradcheck(squares, W, 2 * W, max_evaluations=1)

def test_no_problem(gradcheck):
    gradcheck(lambda w: None, W, 2 * W)

def test_loss_raises(gradcheck):
    gradcheck(lambda w: 1 // 0, W, 2 * W)
"""


def run_pytest(folder, *arguments):
    """Pytest as a user runs it, with no plugin but this one."""
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    plugins = ["-p", "_gc_hooks_pytestplugin", "-p", "no:cacheprovider"]
    return run_python("-m", "pytest", *plugins, *arguments, cwd=folder, environment=environment, status=None).stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a run with right and wrong gradients tells."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "test_users.py").write_text(TESTS)
    return run_pytest(folder, "-rA")


def section(told, name):
    """What is told of one test that failed."""
    return re.search(rf"_+ {name} _+\n(.*?)\n(?:_{{4,}}|={{4,}})", told, re.DOTALL)[1]


def test_a_right_gradient_passes_and_all_else_fails(told):
    """INCONCLUSIVE too: a test must not take what could not be told for a pass."""
    found = re.findall(r"^(PASSED|FAILED) test_users.py::(\w+)", told, re.MULTILINE)
    assert {name for outcome, name in found if outcome == "PASSED"} == {"test_right", "test_again", "test_its_own_seed"}
    assert len(found) == 7


def test_a_failure_is_the_report_and_the_line_of_the_test(told):
    """Verdict, parameter and bug are told, and no line of this package."""
    shown = section(told, "test_wrong")
    assert "# the line that is shown" in shown
    assert re.search(r"E +gc_hooks.errors.GradientMismatch: gradient check, step 0: WORRY", shown)
    assert "scaled: " in shown
    for name in ("test_wrong", "test_not_told", "test_no_problem"):
        assert not re.search(r"^\S*(gc_hooks|_gc_hooks_pytestplugin)\S*\.py:\d+", section(told, name), re.MULTILINE)


def test_what_a_loss_raises_is_shown_where_it_is_raised(told):
    """An error of the user's own is not shortened."""
    assert re.search(r"^test_users.py:\d+: ZeroDivisionError", section(told, "test_loss_raises"), re.MULTILINE)


def test_each_test_has_a_seed_of_its_own(told, tmp_path):
    """Two tests have two seeds, a test has the same one in every run, and seed= sets another."""
    seeds = re.findall(r"^seed (\d+)$", told, re.MULTILINE)
    assert len(set(seeds)) == 3
    assert "7" in seeds
    (tmp_path / "test_users.py").write_text(TESTS)
    again = run_pytest(tmp_path, "-rA", "-k", "test_again")
    assert re.findall(r"^seed (\d+)$", again, re.MULTILINE)[0] in seeds


def test_it_costs_nothing_where_it_is_not_used(tmp_path):
    """A run whose tests do not ask for the fixture loads neither gc_hooks nor NumPy; it is listed all the same."""
    (tmp_path / "test_plain.py").write_text(
        "import sys\ndef test_plain():\n    assert not {'gc_hooks', 'numpy', 'torch'} & set(sys.modules)\n"
    )
    assert "1 passed" in run_pytest(tmp_path)
    assert "gradcheck" in run_pytest(tmp_path, "--fixtures")


def test_the_package_registers_it():
    """Whoever installs the package has the fixture."""
    (entry,) = metadata.entry_points(group="pytest11", name="gc_hooks")
    assert entry.value == "_gc_hooks_pytestplugin"


def test_the_fixture_in_this_process(gradcheck):
    """It hands back the report."""
    assert gradcheck(lambda w: w**2, 3.0, 6.0).ok
    with pytest.raises(AssertionError, match="WORRY"):
        gradcheck(lambda w: w**2, 3.0, 7.0)
