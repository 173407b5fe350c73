"""The checks of a run, cut down to what a table of all of them needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gc_hooks.report import SCHEMA
from gc_hooks.report.comparison import Basis
from gc_hooks.report.verdict import Verdict

CELL = ("verdict", "difference", "error", "shape")


def ordinal(verdict: Any) -> int:
    """From good to bad; a word that is not known counts as one that tells nothing.

    Examples
    --------
    >>> ordinal("WORRY"), ordinal("<b>")
    (3, 1)
    """
    return int(Verdict.__members__.get(verdict, Verdict.INCONCLUSIVE))


@dataclass(frozen=True)
class RunDigest:
    """A run's checks in the order of their steps.

    Attributes
    ----------
    run : str
    checks : list of dict
        As `check_digest` makes them, with the ``key`` by which each is asked for.
    troubles : list of str
        What could not be read.
    """

    run: str
    checks: list[dict[str, Any]]
    troubles: list[str]

    @classmethod
    def of(cls, run: str, texts: Mapping[int, str]) -> RunDigest:
        """Of reports in JSON, by the step under which they were logged."""
        read = [(key, check_digest(text)) for key, text in sorted(texts.items())]
        checks = [{"key": key, **digest} for key, digest in read if isinstance(digest, dict)]
        return cls(run, checks, [f"Step {key}: {trouble}" for key, trouble in read if isinstance(trouble, str)])

    def outline(self) -> dict[str, Any]:
        """The run in one line: how many checks, the worst verdict and the first step that has it."""
        worst = max(self.checks, key=lambda check: ordinal(check["verdict"]), default=None)
        return {
            "run": self.run,
            "checks": len(self.checks),
            "verdict": worst["verdict"] if worst else "INCONCLUSIVE",
            "key": worst["key"] if worst else None,
            "troubles": len(self.troubles),
        }

    def table(self) -> dict[str, Any]:
        """All checks, with a cell for each parameter that any of them has."""
        shapes: dict[str, Any] = {}
        for check in self.checks:
            for name, cell in check["cells"].items():
                shapes.setdefault(name, cell["shape"])
        return {
            "run": self.run,
            "parameters": [{"name": name, "shape": shape} for name, shape in shapes.items()],
            "checks": [
                {**check, "cells": [_numbers(check["cells"].get(name)) for name in shapes]} for check in self.checks
            ],
            "troubles": self.troubles,
        }


def _numbers(cell: Mapping[str, Any] | None) -> list[Any] | None:
    return None if cell is None else [ordinal(cell["verdict"]), cell["difference"], cell["error"], cell["bound"]]


def _is_bound(parameter: Mapping[str, Any]) -> bool:
    return parameter.get("basis") == Basis.BOUNDED.value and parameter.get("at_least", 0.0) == 0


@lru_cache(maxsize=4096)
def check_digest(text: str) -> dict[str, Any] | str:
    """A report in JSON without what only its own page shows; or why it cannot be read.

    Examples
    --------
    >>> check_digest("{")
    'this is not the JSON of a gradient check.'
    >>> check_digest('{"schema": 99}')
    'written by a newer gc_hooks (schema 99, this one reads up to 1): try to upgrade gc_hooks here.'
    """
    try:
        report = json.loads(text)
        if report["schema"] > SCHEMA:
            return (
                f"written by a newer gc_hooks (schema {report['schema']}, this one reads up to {SCHEMA}): try to "
                "upgrade gc_hooks here."
            )
        return {
            "step": report["step"],
            "verdict": report["verdict"],
            "difference": report["difference"],
            "error": report["error"],
            "bands": report.get("bands", [1e-7, 1e-5, 1e-3]),
            "cells": {
                name: {**{key: p[key] for key in CELL}, "bound": _is_bound(p)}
                for name, p in report["parameters"].items()
            },
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return "this is not the JSON of a gradient check."
