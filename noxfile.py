"""The tests on each Python that the package supports, and with the oldest and the newest of what it needs.

Run it with ``nox``, or one session with ``nox -s tests-3.12``. It is not part of ``make test``: each session makes an
environment of its own, and Pythons that this machine does not have are skipped. What follows ``--`` goes to pytest.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import nox

SETUP = Path(__file__).with_name("setup.cfg")


def requirements() -> list[str]:
    """Return what setup.cfg requires, such as ``numpy>=1.26``."""
    parser = configparser.ConfigParser()
    parser.read(SETUP, encoding="utf-8")
    return parser["options"]["install_requires"].split()


def run_tests(session: nox.Session) -> None:
    session.run("python", "-m", "pytest", "-m", "not slow", *session.posargs)


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the tests with what pip chooses today."""
    session.install("-e", ".[test]")
    run_tests(session)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """Run the tests on the oldest Python with the lowest versions that setup.cfg allows."""
    pinned = [requirement.partition(",")[0].replace(">=", "==") for requirement in requirements()]
    session.install("-e", ".[test]", *pinned)
    run_tests(session)


@nox.session(python="3.14")
def newest(session: nox.Session) -> None:
    """Run the tests on the newest Python with the newest versions, also those that are not yet released."""
    session.install("--pre", "--upgrade", "--upgrade-strategy", "eager", "-e", ".[test]")
    run_tests(session)
