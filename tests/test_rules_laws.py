"""What a rule and a code need: an example in the bug zoo, a correct twin, and a row in the documentation.

Each law lists all offenders at once, and says what to add.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

import gc_hooks.rules
from bug_zoo import BUGS, OTHER_BUGS, OtherBug
from gc_hooks import Verdict, check_gradients
from gc_hooks.report.diagnosis import Code, Diagnosis, Repair
from gc_hooks.rules import RULES

ROOT = Path(__file__).parents[1]
RULE_MODULES = [path for path in (ROOT / "gc_hooks" / "rules").glob("*.py") if path.name != "context.py"]
ONLY_IN_CONTEXT = {"session", "comparisons", "problem", "measurements"}
"""Attributes of a check which rules reach through the methods of RuleContext alone."""


def checks(bug, wrong=True):
    """Run the checks of a bug of the zoo, or of its correct twin, and return their reports."""
    if isinstance(bug, OtherBug):
        return bug.reports(wrong)
    if not wrong:  # dropout is switched on by a fault, which is no bug by itself
        bug = replace(bug, faults=tuple({"dropout"} & set(bug.faults)), edit=None)
    loss, params, gradient, options = bug.case("tanh", 6)
    return [check_gradients(loss, params, gradient, **options)]


def census(rules, bugs):
    """Run all bugs with these rules; return the codes that each rule and each bug's reports gave, and the diagnoses."""
    by_rule = {rule.__name__: set() for rule in rules}
    by_bug, told = {}, []

    def listening(rule):
        def recorded(context):
            for diagnosis in rule(context):
                by_rule[rule.__name__].add(diagnosis.code)
                yield diagnosis

        return recorded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc_hooks.rules, "RULES", tuple(map(listening, rules)))
        for name, bug in bugs.items():
            found = [diagnosis for report in checks(bug) for diagnosis in report.diagnoses]
            by_bug[name] = {diagnosis.code for diagnosis in found}
            told += found
    return by_rule, by_bug, told


def documented_codes(root=ROOT):
    """Return the codes in the first column of the tables that begin with "| codes |", in README.md and in docs/."""
    codes = set()
    for path in [root / "README.md", *(root / "docs").rglob("*.md")]:
        inside = False
        for line in path.read_text(encoding="utf-8").splitlines():
            inside = line.startswith("| codes |") or (inside and line.startswith("|"))
            if inside:
                codes.update(re.findall(r"`(\w+)`", line.split("|")[1]))
    return codes


def complaints(codes, by_rule, by_bug, documented):
    """Return what is missing, a sentence for each offender."""
    planted = set().union(*by_bug.values())
    missing = []
    for code in sorted(set(codes) - planted):
        missing.append(f"No bug of the zoo is named {code}: add one to BUGS or OTHER_BUGS in tests/bug_zoo.py.")
    for code in sorted(set(codes) - documented):
        missing.append(f'The documentation does not explain {code}: add it to the table "| codes | the bug |".')
    for code in sorted(documented - set(codes)):
        missing.append(f"The documentation explains {code}, which is no member of Code in report/diagnosis.py.")
    for rule, given in by_rule.items():
        if not given:
            missing.append(
                f"The rule {rule} names no bug of the zoo: add one to BUGS or OTHER_BUGS in tests/bug_zoo.py."
            )
        for code in sorted(given - set(codes)):
            missing.append(f"The rule {rule} gives the code {code}: add it to Code in gc_hooks/report/diagnosis.py.")
    return missing


@pytest.fixture(scope="module")
def zoo():
    one_of_each = {bug.codes: name for name, bug in BUGS.items()}.values()  # test_bug_zoo.py has all of them
    return census(RULES, {**{name: BUGS[name] for name in one_of_each}, **OTHER_BUGS})


def test_every_code_and_every_rule_has_what_it_needs(zoo):
    """A bug in the zoo that it names, a row in the documentation, and a member of the enum."""
    assert not complaints(Code, *zoo[:2], documented_codes())


@pytest.mark.parametrize("name", OTHER_BUGS)
def test_a_bug_elsewhere_is_named_and_its_twin_is_good(name, zoo):
    """In other networks, layers and training loops; the bugs of the perceptron have test_bug_zoo.py."""
    assert zoo[1][name] == set(OTHER_BUGS[name].codes)
    for report in checks(OTHER_BUGS[name], wrong=False):
        assert (report.verdict, report.diagnoses) == (Verdict.GOOD, ())


def test_a_diagnosis_is_short(zoo):
    """No sentence is longer than 30 words, and the whole of one has at most 60."""
    for diagnosis in zoo[2]:
        sentences = re.split(r"[.?;] ", str(diagnosis))
        assert max(len(sentence.split()) for sentence in sentences) <= 30, diagnosis
        assert len(str(diagnosis).split()) <= 60, diagnosis


def test_a_rule_without_anything_is_told_what_it_needs():
    """The laws fail for a rule that is new, for a code that is new, and for a row whose code is gone."""

    def upside_down(context):
        for name in context.failing:
            if context.value(name).ndim == 2 and context.try_repair(name, context.gradient(name)[::-1, ::-1]):
                yield Diagnosis("upside_down", (name,), "The kernel is turned round.")

    def never(context):
        yield from ()

    by_rule, by_bug, _ = census(
        [*RULES, upside_down, never], {"a kernel turned round": OTHER_BUGS["a kernel turned round"]}
    )
    assert (by_rule["upside_down"], by_rule["never"]) == ({"upside_down"}, set())
    by_rule = {name: by_rule[name] for name in ("upside_down", "never")}
    assert complaints(["upside_down", "unheard_of"], by_rule, by_bug, {"upside_down", "gone"}) == [
        "No bug of the zoo is named unheard_of: add one to BUGS or OTHER_BUGS in tests/bug_zoo.py.",
        'The documentation does not explain unheard_of: add it to the table "| codes | the bug |".',
        "The documentation explains gone, which is no member of Code in report/diagnosis.py.",
        "The rule never names no bug of the zoo: add one to BUGS or OTHER_BUGS in tests/bug_zoo.py.",
    ]
    assert (
        "The rule upside_down gives the code upside_down: add it to Code in gc_hooks/report/diagnosis.py."
    ) in complaints(["unexplained"], by_rule, by_bug, {"unexplained"})


def test_the_twin_of_a_bug_is_that_bug_without_its_fault():
    """Without edit and faults; the dropout of an unscaled mask stays."""
    (wrong,), (twin,) = checks(BUGS["unscaled mask"]), checks(BUGS["unscaled mask"], wrong=False)
    assert (wrong.verdict, twin.verdict) == (Verdict.WORRY, Verdict.GOOD)


def private_reads(tree):
    """Return the attributes that only context.py may read."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return sorted(attributes & ONLY_IN_CONTEXT)


def test_rules_read_a_check_through_their_context_alone():
    """Session, problem, measurements and comparisons may change their shape without any rule."""
    offenders = {path.name: private_reads(ast.parse(path.read_text(encoding="utf-8"))) for path in RULE_MODULES}
    assert len(offenders) > 4
    assert not {name: found for name, found in offenders.items() if found}
    assert private_reads(ast.parse("context.session.problem.point[name]")) == ["problem", "session"]


def literal_codes(tree):
    """Return the texts that are written where a diagnosis or an issue takes its code."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            code = node.args[0]
            if node.func.id in {"Diagnosis", "GradientIssue"} and isinstance(code, ast.Constant):
                found.add(code.value)
    return found


def test_codes_that_are_written_as_text_are_members_of_the_enum():
    """Anywhere in the package; in rules/ they are members themselves."""
    written = {}
    for path in (ROOT / "gc_hooks").rglob("*.py"):
        found = literal_codes(ast.parse(path.read_text(encoding="utf-8")))
        unknown = found if path in RULE_MODULES else found - set(Code)
        if unknown:
            written[path.name] = unknown
    assert not written
    assert literal_codes(ast.parse("Diagnosis('flipped', names)\nGradientIssue('lost', '')")) == {"flipped", "lost"}


@pytest.mark.parametrize("member", [*Code, *Repair])
def test_a_code_is_its_text(member):
    """Printed, formatted, compared, sorted, hashed: on every version of Python."""
    text = member.value
    assert type(text) is str
    assert (str(member), f"{member}", f"{member:>30}", repr(member)) == (text, text, text.rjust(30), repr(text))
    assert (member, {member: 1}[text]) == (text, 1)
    assert text == member.name.lower()


def test_codes_in_a_report_are_read_back():
    """In JSON a code is its text; a repair and what remains with it come back, and logs of before have none."""
    (report,) = checks(BUGS["W2 twice"])
    (found,) = report.diagnoses
    assert (found.code, found.repair) == (Code.SCALED, Repair.SCALE)
    assert 0 <= found.residual < 1e-10
    text = report.to_json()
    assert '"code": "scaled"' in text
    assert '"repair": "scale"' in text
    assert type(report).from_json(text).diagnoses == (found,)
    before = re.sub(r', "repair": "scale", "residual": [^}]*', "", text)
    assert "repair" not in before
    assert type(report).from_json(before).diagnoses == (replace(found, repair="", residual=None),)


@pytest.mark.parametrize(
    ("bug", "repair"),
    [
        ("sign of b3", Repair.SCALE),
        ("L2 missing", Repair.PENALTY),
        ("W2 transposed", Repair.REORDER),
        ("W2 and W3 exchanged", Repair.MOVE),
        ("a row of W3", Repair.ENTRIES),
        ("nonsense", ""),
    ],
)
def test_a_repair_is_a_field(bug, repair):
    """Programs and the page read the repair off a field; its evidence begins with what was tried."""
    (found,) = checks(BUGS[bug])[0].diagnoses
    assert found.repair == repair
    assert (found.residual is not None) == found.evidence.startswith("With ") == bool(repair)
