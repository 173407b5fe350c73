"""Sentences are for people alone: with an "x" in the place of each, every check decides what it decided before."""

from __future__ import annotations

import sys
from enum import EnumMeta
from types import BuiltinMethodType, FunctionType

import numpy as np
import pytest

import gc_hooks.rules
from bug_zoo import BUGS, OTHER_BUGS
from gc_hooks import CheckReport, Comparison, Diagnosis, check_gradients
from gc_hooks.arrays.gradients import GradientIssue
from gc_hooks.report import notes
from gc_hooks.report.diagnosis import Code, Repair
from gc_hooks.rules import RULES
from gc_hooks.rules.unusable import not_finite
from gc_hooks.slopes.probes import automatic

TEXTS = {
    Diagnosis: ("message", "evidence", "advice"),
    GradientIssue: ("text",),
    Comparison: ("note",),
    CheckReport: ("notes", "asked", "unasked"),
}
"""The fields that hold sentences."""

W = np.array([1.0, -2.0, 0.5])
SITUATIONS = {
    "a kink here": {"loss": lambda w: np.sum(np.maximum(w, 0)), "params": 0 * W, "grads": np.ones(3)},
    "a loss of absolute values": {
        "loss": lambda w: np.sum(np.abs(w) ** 3),
        "params": W,
        "grads": lambda w: 3 * w * abs(w),
    },
    "a loss that is not finite": {"loss": lambda w: np.log(-np.sum(w * w)), "params": W, "grads": W},
    "a loss that is not finite nearby": {"loss": lambda w: np.sum(np.sqrt(w)), "params": 0 * W, "grads": np.ones(3)},
    "a loss that never changes": {"loss": lambda w: 1.0, "params": W, "grads": W},
    "a budget that is spent": {
        "loss": lambda w: np.sum(w * w),
        "params": np.arange(1.0, 99.0),
        "grads": 2 * np.arange(1.0, 99.0),
        "max_evaluations": 3,
    },
    "a parameter without entries": {"loss": lambda p: p[0], "params": [1.0, np.ones(0)], "grads": [1.0, np.ones(0)]},
    "a parameter without a gradient": {
        "loss": lambda p: p["a"] ** 2,
        "params": {"a": 3.0, "b": 2.0},
        "grads": {"a": 6.0, "b": 0.0},
    },
}
"""Checks that end in a sentence which is not a diagnosis."""

PART = [*list(BUGS)[::5], "L2 missing", "NaN", "missing", "wrong shape", "text"]
"""Every fifth bug of the perceptron, and those whose gradient cannot be used."""
ELSEWHERE = ["a buffer inside backward", "a penalty inside a layer", "buffers never set to zero"]
CASES = [*SITUATIONS, *PART, *ELSEWHERE]


def reports_of(name):
    """Return the reports of a case."""
    if name in SITUATIONS:
        return by_reference_and_by_slopes(**SITUATIONS[name])
    if name in OTHER_BUGS:
        return OTHER_BUGS[name].reports(True)
    loss, params, gradient, options = BUGS[name].case("tanh", 6)
    return by_reference_and_by_slopes(loss, params, gradient, **options)


def by_reference_and_by_slopes(*args, **options):
    return [check_gradients(*args, **options, probes=probes) for probes in (None, automatic)]


def outcomes(cases):
    """Return by the name of each case what its checks decided: verdicts, reasons, codes and repairs."""
    decided = {}
    for name in cases:
        decided[name] = []
        for report in reports_of(name):
            for compared in report.parameters.values():
                decided[name].append((compared.name, compared.verdict, compared.reason, compared.basis))
            for found in report.diagnoses:
                decided[name].append((found.code, found.parameters, found.repair))
    return decided


def outcomes_without_words(cases):
    """Return the outcomes where every sentence is an "x", in every module that has imported it."""
    with pytest.MonkeyPatch.context() as patch:
        replaced = {}
        for thing in vars(notes).values():
            if isinstance(thing, EnumMeta) and thing.__module__ == notes.__name__:
                for member in thing:
                    patch.setattr(member, "_value_", "x")
            elif isinstance(thing, BuiltinMethodType) or getattr(thing, "__module__", None) == notes.__name__:
                replaced[id(thing)] = lambda *values: "x"
            elif isinstance(thing, str) and " " in thing and thing != notes.__doc__:
                replaced[id(thing)] = "x"
        assert len(replaced) > 15
        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "gc_hooks"]:
            for name, thing in list(vars(module).items()):
                if id(thing) in replaced and isinstance(thing, (str, BuiltinMethodType, FunctionType)):
                    patch.setattr(module, name, replaced[id(thing)])
        for kind, fields in TEXTS.items():
            patch.setattr(kind, "__init__", without_words(kind.__init__, fields))
        return outcomes(cases)


def without_words(init, fields):
    """Return the initialiser of a class that puts an "x" for each sentence in these fields."""

    def initialise(self, *args, **options):
        init(self, *args, **options)
        for field in fields:
            text = getattr(self, field)
            words = ("x",) * len(text) if isinstance(text, tuple) else "x" * bool(text)
            object.__setattr__(self, field, words)

    return initialise


@pytest.fixture(scope="module")
def spoken():
    return outcomes(CASES)


def test_no_decision_depends_on_a_sentence(spoken):
    """Neither a verdict, a reason, a code nor a repair."""
    assert outcomes_without_words(CASES) == spoken


def test_the_cases_are_representative(spoken):
    """They end in many ways: most reasons, codes and repairs."""
    decided = [fact for facts in spoken.values() for fact in facts]
    reasons = {fact[2] for fact in decided if len(fact) == 4}
    codes = {fact[0] for fact in decided if len(fact) == 3}
    assert len(reasons) >= 9
    assert len(codes) >= 14
    assert {fact[2] for fact in decided if len(fact) == 3} == {"", *Repair}


def test_a_decision_by_text_is_caught(monkeypatch):
    """A rule that looks for words in a note names nothing any more where the words are gone."""

    def by_text(context):
        names = [name for name in context.names if "not finite" in context.comparison(name).note]
        if names:
            yield Diagnosis(Code.NOT_FINITE, tuple(names), "Seen by its note.")

    monkeypatch.setattr(gc_hooks.rules, "RULES", tuple(by_text if rule is not_finite else rule for rule in RULES))
    before, after = outcomes(["NaN", "W2 twice"]), outcomes_without_words(["NaN", "W2 twice"])
    assert before["NaN"][-1] == ("not_finite", ("W2",), "")
    assert {name for name in before if before[name] != after[name]} == {"NaN"}
