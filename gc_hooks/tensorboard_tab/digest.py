"""The checks of a run as the page asks for them: a table of all, and one check with its sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gc_hooks.errors import GradCheckError
from gc_hooks.report import CheckReport, encode, page_texts
from gc_hooks.report.text import parameter_facts
from gc_hooks.report.verdict import Verdict


@dataclass
class RunDigest:
    """The checks of a run in the order of their steps."""

    run: str
    # By the step under which each was logged, by which the page asks for it; without pictures.
    checks: dict[int, CheckReport] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)  # what could not be read, and why

    @classmethod
    def of(cls, run: str, texts: Mapping[int, str]) -> RunDigest:
        """Read reports in JSON, by the step under which they were logged."""
        digest = cls(run)
        for key, text in sorted(texts.items()):
            try:
                digest.checks[key] = read_check(text)
            except GradCheckError as error:
                digest.troubles.append(f"Step {key}: {error}")
        return digest

    def outline(self) -> dict[str, Any]:
        """Return the number of checks, the worst verdict and the first step that has it."""
        verdicts = {key: report.verdict for key, report in self.checks.items()}
        key = max(verdicts, key=verdicts.__getitem__, default=None)  # of equal ones the first
        verdict = Verdict.INCONCLUSIVE if key is None else verdicts[key]
        counts = {"checks": len(self.checks), "troubles": len(self.troubles)}
        return {"run": self.run, "verdict": verdict.name, "key": key, **counts}

    def table(self) -> dict[str, Any]:
        """Return all checks, each with a cell for every parameter of the run: None where it has no such parameter."""
        rows: dict[str, int] = {}
        parameters, checks = [], []
        for report in self.checks.values():
            for comparison in report.parameters.values():
                if comparison.name not in rows:
                    rows[comparison.name] = len(rows)
                    parameters.append({"name": comparison.name, "shape": comparison.shape})
        for key, report in self.checks.items():
            cells: list[dict[str, Any] | None] = [None] * len(rows)
            for comparison in report.parameters.values():
                cell = {"verdict": int(comparison.verdict), "difference": comparison.difference}
                cells[rows[comparison.name]] = {**cell, "is_bound": comparison.is_bound, "stated": comparison.stated}
            order = [rows[comparison.name] for comparison in report.worst_first]
            check = {"key": key, "step": report.step, "verdict": report.verdict.name, "bands": report.bands}
            checks.append({**check, "cells": cells, "worst_first": order})
        return {"run": self.run, "parameters": parameters, "checks": checks, "troubles": self.troubles}


MOST_READ = 20_000
"""Reports that are kept. TensorBoard itself takes more memory for each, because it keeps their pictures, too."""

_read: dict[int, CheckReport] = {}  # by the hash of the text: the texts are as large as the log


def read_check(text: str) -> CheckReport:
    """Return a report without its pictures, read once: the page asks for all again when TensorBoard has read more."""
    key = hash(text)
    report = _read.get(key)
    if report is None:
        report = CheckReport.from_json(text, pictures=False)
        if len(_read) >= MOST_READ:
            # The newest makes room: checks are always asked for in the same order, and the oldest one comes next.
            _read.popitem()
        _read[key] = report
    return report


def check_for_page(text: str) -> str:
    """Return a report's JSON as it was written, with the texts that the page places.

    They are made when a check is shown and not when it is logged, so that an old log gets the sentences of today.
    """
    # The text itself is read again, because the report is without the fields of a newer writer.
    report, document = CheckReport.from_json(text), json.loads(text)
    # What the page draws is what could be read: it does not look for itself whether a number is one.
    document.update(page_texts(report), verdict=report.verdict.name)
    document.update(pictures=report.pictures, curve=report.curve)
    for name, comparison in report.parameters.items():
        texts = {"stated": comparison.stated, "facts": parameter_facts(comparison)}
        document["parameters"][name].update(texts, is_bound=comparison.is_bound)
    return json.dumps(encode(document))
