"""Who is told of a check: the terminal, TensorBoard, and a file of JSON lines."""

from __future__ import annotations

import io
import math
import os
import re
import sys

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import gc_hooks
from gc_hooks import (
    CheckReport,
    Comparison,
    ConsoleReporter,
    Diagnosis,
    GradCheckError,
    GradCheckHook,
    GradCheckWarning,
    InvalidProblem,
    JsonlReporter,
    MissingDependency,
    Reporter,
    TensorBoardReporter,
    Verdict,
    read_jsonl,
)
from gc_hooks.report.comparison import EntryComparison
from gc_hooks.reporters.records import LONG, PART, checksum
from gc_hooks.reporters.tensorboard import unique_tags
from servers import run_python

HOSTILE = [
    "[bold]x[/bold]",
    "a|b*c_d`e",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "W\n# title",
    "../up",
]


def a_report(step=0, difference=1e-9, parameters=None, **fields):
    """A report of parameters that differ by that much; more than 1e-3 is WORRY."""
    compared = {
        name: Comparison(name, (2, 3), d, 1e-12, Verdict.WORRY if d > 1e-3 else Verdict.GOOD)
        for name, d in (parameters or {"W": difference}).items()
    }
    return CheckReport(compared, difference=difference, error=1e-12, step=step, evaluations=17, **fields)


# The terminal


def printed(*reports, width=200):
    out = io.StringIO()
    reporter = ConsoleReporter(Console(file=out, width=width))
    for report in reports:
        reporter.report(report)
    reporter.close()
    return out.getvalue()


def test_a_good_check_is_one_line():
    """When all is well there is one line, without a table and without escape codes in a file."""
    text = printed(a_report(step=7, asked=("Slopes.",), penalty_share=0.1), width=20)
    assert text == "gradient check, step 7: GOOD, difference 1.0e-09 ± 1e-12, 1 parameter, 17 evaluations, 0 s\n"


def test_a_failing_check_is_a_table_with_the_worst_first():
    """Otherwise every parameter has a row, the worst first, and the diagnosis follows."""
    found = Diagnosis("scaled", ("b",), "b is twice what it should be.")
    parameters = {"good": 1e-12, "bad": 0.2, "worse": 0.5}
    text = printed(a_report(3, 0.3, parameters, diagnoses=(found,), asked=("Slopes.",)))
    assert text.startswith("gradient check, step 3: WORRY, difference 3.0e-01")
    assert re.findall(r"^ *(good|bad|worse) +2x3 +(\w+)", text, re.MULTILINE) == [
        ("worse", "WORRY"),
        ("bad", "WORRY"),
        ("good", "GOOD"),
    ]
    assert "scaled: b is twice what it should be." in text
    assert "Slopes." in text


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\n" not in name])
def test_names_are_shown_as_they_are(name):
    """What a name or a remark holds is not read as Rich's markup."""
    text = printed(a_report(0, 0.3, {name: 0.3}, notes=(f"Not parameters, ignored: {name}.",)))
    assert text.count(name) == 3  # in the headline, in the table and in the note


def test_a_remark_is_told_once():
    """A note that was printed before is not printed again; a new one is."""
    text = printed(a_report(0, notes=("ignored: dZ",)), a_report(1, notes=("ignored: dZ", "moved")), a_report(2))
    assert (text.count("ignored: dZ"), text.count("moved"), text.count("GOOD")) == (1, 1, 3)


def test_a_check_that_failed_has_no_table():
    """There is nothing to put into it, in any form."""
    failed = CheckReport({}, notes=("The check failed.",))
    assert printed(failed) == "gradient check, step 0: INCONCLUSIVE\n  The check failed.\n"
    assert not any("parameter" in text for text in (str(failed), failed.to_markdown(), failed._repr_html_()))


def test_a_known_bug_is_one_line():
    """No table, no diagnosis and no note: when it was told, how large it is now, and what it is."""
    found = Diagnosis("other_loss", ("W",), "dW is wrong."), Diagnosis("layer", ("W",), "It is there.", layer="Capped")
    known = a_report(150, 0.56, diagnoses=found, as_at=100, notes=("Seen.",))
    assert printed(known, width=20) == (
        "gradient check, step 150: WORRY as at step 100, now 5.6e-01: other_loss, layer Capped\n"
    )
    assert "dW is wrong." in str(known)
    unknown = a_report(150, 1e-12, {"b": 1e-12}, diagnoses=(Diagnosis("missing_gradient", ("W",), "No."),), as_at=100)
    unknown.parameters["W"] = Comparison("W", (2, 3), verdict=Verdict.WORRY)
    assert printed(unknown) == "gradient check, step 150: WORRY as at step 100: missing_gradient in W\n"
    assert CheckReport.from_json(known.to_json()).as_at == 100


def test_the_worst_parameters_show_an_entry():
    """In a table of many wrong parameters it takes most of the room."""
    entry = EntryComparison((1, 2), 0.25, 0.5, 0.0)
    compared = {
        name: Comparison(name, (2, 3), 0.3, 0.0, Verdict.WORRY, worst=(entry,), wrong=1, measured=6, note="noted")
        for name in "abcde"
    }
    text = printed(CheckReport(compared))
    assert (text.count("backprop 0.25"), text.count("noted")) == (3, 5)


def test_a_diagnosis_is_told_at_every_check():
    """A table without its cause is a riddle: the second time in one sentence, with other figures in full."""
    found = Diagnosis("scaled", ("b",), "db is twice the slope.", "The difference is 0.3.", "Try half of it.")
    other = Diagnosis("scaled", ("b",), "db is twice the slope.", "The difference is 0.4.", "Try half of it.")
    lines = printed(*(a_report(step, 0.3, diagnoses=(d,)) for step, d in ((0, found), (1, found), (50, other))))
    assert [line.strip() for line in lines.splitlines() if "twice" in line] == [
        f"scaled: {found}",
        "as at step 0: scaled: db is twice the slope.",
        f"scaled: {other}",
    ]


def test_a_good_check_says_what_it_could_not_ask():
    """Once: GOOD is no more than what was asked."""
    text = printed(a_report(0, unasked=("do the buffers?",)), a_report(1, unasked=("do the buffers?",)), a_report(2))
    assert (text.count("  Not asked: do the buffers?\n"), text.count("GOOD")) == (1, 3)


def test_a_long_table_is_cut():
    """Of very many parameters the worst are shown, and how many more there are."""
    text = printed(a_report(0, 0.5, {f"p{k:02}": 0.5 if k == 44 else 1e-9 for k in range(45)}))
    assert "and 5 more parameters" in text
    assert len(re.findall(r"^ *p\d\d", text, re.MULTILINE)) == 40
    assert re.search(r"^ *p44 ", text, re.MULTILINE)


def test_the_default_console_is_the_one_that_everybody_shares(capsys):
    """Without a console of its own it prints on Rich's shared one, a single line each time it is told something."""
    reporter = ConsoleReporter()
    reporter.report(a_report())
    reporter.say("[i]3 checks[/i]")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:17] for line in lines] == ["gradient check, s", "[i]3 checks[/i]"]


# JSON lines


def test_checks_are_read_back(tmp_path):
    """Every report is read back as it was, from a file in folders that are made; checks are added to an old file."""
    path = tmp_path / "new" / "folder" / "checks.jsonl"
    reports = [
        a_report(step, d, {name: d}) for step, (d, name) in enumerate(zip([1e-9, 0.3, 0.0], HOSTILE, strict=False))
    ]
    for report in reports:  # each by a reporter of its own
        reporter = JsonlReporter(path)
        reporter.report(report)
        reporter.close()
    assert path.read_bytes().count(b"\n") == 3
    assert [report.to_json() for report in read_jsonl(path)] == [report.to_json() for report in reports]


def test_every_kind_of_line_break_in_a_name_is_read_back(tmp_path):
    """A parameter's name or an error message may hold a line separator."""
    report = a_report(0, parameters={"a\u2028b\x85c\nd": 1e-9}, notes=("one\rtwo\x0bthree",))
    JsonlReporter(tmp_path / "checks").report(report)
    (read,) = read_jsonl(tmp_path / "checks")
    assert (list(read.parameters), read.notes) == (list(report.parameters), report.notes)


def test_a_half_written_last_line_is_passed_over(tmp_path):
    """Wherever a kill cut the last line, in the middle of a letter too, the checks before are read back."""
    path = tmp_path / "checks.jsonl"
    reporter = JsonlReporter(path)
    reporter.report(a_report(1))
    length = path.stat().st_size
    reporter.report(a_report(2, parameters={"β": 1e-9}))
    whole = path.read_bytes()
    for cut in (*range(length, length + 14), *range(whole.index("β".encode()) - 2, len(whole) - 2)):
        path.write_bytes(whole[:cut])
        assert [report.step for report in read_jsonl(path)] == [1], cut


def test_a_file_with_a_half_written_line_is_added_to(tmp_path):
    """After a kill a resumed training goes on with the same file, and nothing but the half line is lost."""
    path = tmp_path / "checks.jsonl"
    JsonlReporter(path).report(a_report(1))
    with path.open("ab") as file:
        file.write(a_report(2).to_json().encode()[:50])
    for step in (3, 4):
        JsonlReporter(path).report(a_report(step))
    assert [report.step for report in read_jsonl(path)] == [1, 3, 4]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b'{"schema": 999, "parameters": {}}', "schema 999, this version.*upgrade gc_hooks"),
        (b'{"schema": 1}', "not the JSON of a gradient check"),
        (b"step,loss", "not the JSON of a gradient check"),
        (b"\xff\xfe", "not the JSON of a gradient check"),
    ],
)
def test_a_line_that_is_no_report_is_an_error(tmp_path, line, seen):
    """A report of a newer version and another kind of file are refused with what they are."""
    path = tmp_path / "checks.jsonl"
    path.write_bytes(a_report().to_json().encode() + b"\n" + line + b"\n")
    with pytest.raises(GradCheckError, match=seen):
        read_jsonl(path)


# TensorBoard


def events_of(folder):
    """What TensorBoard's own loader reads in a directory with one event file."""
    (file,) = folder.iterdir()
    assert ".tfevents." in file.name
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def scalars_of(folder, tag):
    return [(event.step, event.value) for event in events_of(folder).Scalars(f"gradcheck/{tag}")]


def texts_of(folder):
    tensors = events_of(folder).Tensors("gradcheck/report/text_summary")
    return [(event.step, make_ndarray(event.tensor_proto).item().decode()) for event in tensors]


def write(log_dir, *reports):
    reporter = TensorBoardReporter(log_dir)
    for report in reports:
        reporter.report(report)
    return reporter


def test_the_figures_of_a_check_are_read_back(tmp_path):
    """Differences and logarithms, over all and per parameter, verdict and evaluations, from a file still open."""
    reporter = write(tmp_path, a_report(0, 1e-9), a_report(5, 0.25, {"W": 0.0, "dense1.b": 0.5}))
    series = ("difference", "log10_difference")
    tags = [
        "verdict",
        "evaluations",
        "thresholds/good",
        "thresholds/worry",
        *series,
        *(f"{tag}/{name}" for tag in series for name in ("W", "dense1.b")),
    ]
    assert sorted(events_of(reporter.path).Tags()["scalars"]) == sorted(f"gradcheck/{tag}" for tag in tags)
    assert scalars_of(reporter.path, "difference") == [(0, pytest.approx(1e-9)), (5, 0.25)]
    assert scalars_of(reporter.path, "log10_difference") == [(0, -9.0), (5, pytest.approx(math.log10(0.25)))]
    assert scalars_of(reporter.path, "difference/W") == [(0, pytest.approx(1e-9)), (5, 0.0)]
    assert scalars_of(reporter.path, "log10_difference/W") == [(0, -9.0), (5, -17.0)]
    assert scalars_of(reporter.path, "difference/dense1.b") == [(5, 0.5)]
    assert scalars_of(reporter.path, "verdict") == [(0, 0.0), (5, 3.0)]
    assert scalars_of(reporter.path, "evaluations") == [(0, 17.0), (5, 17.0)]
    assert scalars_of(reporter.path, "thresholds/good") == [(0, -7.0), (5, -7.0)]
    assert scalars_of(reporter.path, "thresholds/worry") == [(0, -3.0), (5, -3.0)]
    reporter.close()


def test_steps_increase_strictly(tmp_path):
    """Steps that repeat or go back are moved on: TensorBoard would drop what a smaller step follows."""
    reporter = write(tmp_path, *(a_report(step, 2.0**-k) for k, step in enumerate([5, 5, 3, 100, 6])))
    expected = [(step, 2.0**-k) for k, step in enumerate([5, 6, 7, 100, 101])]
    assert scalars_of(reporter.path, "difference") == expected
    assert [step for step, _ in texts_of(reporter.path)] == [5, 6, 7, 100, 101]
    reporter.close()


def test_a_difference_that_is_no_number_is_left_out(tmp_path):
    """NaN is no point of a chart; the verdict and the report are written nevertheless."""
    reporter = write(tmp_path, a_report(0, math.nan, {"W": math.nan, "b": 0.5}), a_report(1, 0.5))
    assert scalars_of(reporter.path, "difference") == [(1, 0.5)]
    assert scalars_of(reporter.path, "difference/W") == [(1, 0.5)]
    assert scalars_of(reporter.path, "difference/b") == [(0, 0.5)]
    assert [step for step, _ in scalars_of(reporter.path, "verdict")] == [0, 1]
    reporter.close()


def test_the_report_is_a_text_that_no_name_can_break(tmp_path):
    """The whole report is there as markdown; names bring no HTML, no link, no emphasis, no row and no heading."""
    reporter = write(tmp_path, a_report(4, 0.3, dict.fromkeys(HOSTILE, 0.3), notes=tuple(HOSTILE)))
    ((step, text),) = texts_of(reporter.path)
    assert step == 4
    assert text.startswith("**step 4: WORRY, difference 3.0e-01")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [6] * (2 + len(HOSTILE))
    assert not re.search(r"<|`|\[|_|^#", text, re.MULTILINE)
    assert "&lt;script&gt;" in text
    assert text.count("*") == 4 + len([line for line in text.splitlines() if line.startswith("* ")])
    reporter.close()


def test_names_that_look_the_same_as_tags_stay_apart(tmp_path):
    """Two names that TensorBoard cannot tell apart get tags of their own."""
    parameters = {"W[1]": 0.25, "W(1)": 0.5, "/W 1 ": 0.125, "W_1_-2": 0.0625}
    reporter = write(tmp_path, a_report(0, 0.3, parameters))
    tags = unique_tags(parameters)
    assert len(set(tags.values())) == 4
    assert {name: scalars_of(reporter.path, f"difference/{tag}") for name, tag in tags.items()} == {
        name: [(0, difference)] for name, difference in parameters.items()
    }
    reporter.close()


def test_a_directory_that_holds_checks_is_left_as_it_is(tmp_path):
    """The next runs go to gradcheck-2 and -3, and say so; the first file keeps every byte."""
    hooks = []
    for run in range(3):
        with GradCheckHook(log_dir=tmp_path, after=0) as hook:
            hook.on_step(run, loss=lambda w: w**2, params=3.0, grads=6.0)
        hooks.append(hook)
        if run == 0:
            (first,) = (tmp_path / "gradcheck").iterdir()
            before = first.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradcheck", "gradcheck-2", "gradcheck-3"]
    assert first.read_bytes() == before
    assert [scalars_of(tmp_path / f"gradcheck{k}", "verdict") for k in ("", "-2")] == [[(0, 0.0)], [(1, 0.0)]]
    assert not hooks[0].reports[0].notes
    assert f"these checks go to {tmp_path / 'gradcheck-2'}." in hooks[1].reports[0].notes[-1]


def test_two_reporters_of_the_same_second_do_not_share_a_file(tmp_path):
    """Two reporters in one process and one log directory write to different directories and files."""
    reporters = [TensorBoardReporter(tmp_path) for _ in range(2)]
    for reporter, difference in zip(reporters, (0.25, 0.5), strict=True):
        reporter.report(a_report(0, difference))
    names = {next(reporter.path.iterdir()).name for reporter in reporters}
    assert len(names) == 2
    assert [scalars_of(r.path, "difference") for r in reporters] == [[(0, 0.25)], [(0, 0.5)]]
    for reporter in reporters:
        reporter.close()


def test_nothing_is_made_before_the_first_check(tmp_path):
    """A reporter that is never used leaves no directory behind, and can be closed."""
    reporter = TensorBoardReporter(tmp_path / "runs")
    reporter.close()
    assert not list(tmp_path.iterdir())


def test_a_reporter_that_is_forgotten_is_closed(tmp_path):
    """Dropping the last reference closes the file (an open one would be a ResourceWarning, an error here)."""
    path = write(tmp_path, a_report()).path
    assert len(scalars_of(path, "difference")) == 1


def test_a_writer_of_ones_own_is_used_and_not_closed(tmp_path):
    """A tensorboardX SummaryWriter gets the checks among its own figures, and stays its owner's to close."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", 1.0, 0)
        reporter = TensorBoardReporter(writer=writer)
        reporter.report(a_report(3, 0.25, {"W[1]": 0.5}))
        reporter.report(a_report(3, 0.25, {"W[1]": 0.5}))
        reporter.close()
        writer.add_scalar("loss", 0.5, 1)
    events = events_of(tmp_path)
    assert [event.step for event in events.Scalars("loss")] == [0, 1]
    assert scalars_of(tmp_path, "difference/W_1_") == [(3, 0.5), (4, 0.5)]
    assert "W&#91;1]" in texts_of(tmp_path)[0][1]
    assert reporter.path is None


@pytest.mark.parametrize("options", [{}, {"log_dir": "runs", "writer": object()}])
def test_one_place_to_write_to_is_needed(options):
    """Neither and both of log_dir and writer are refused."""
    with pytest.raises(InvalidProblem, match="Try one of the two"):
        TensorBoardReporter(**options)


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch):
    """A missing tensorboard is told as such, at the first check."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(MissingDependency, match="pip install tensorboard"):
        TensorBoardReporter(tmp_path).report(a_report())


@pytest.mark.parametrize("path", [b"runs", 5, ["runs"], object(), "s3://bucket/runs", "hdfs://host/runs"])
@pytest.mark.parametrize("make", [TensorBoardReporter, JsonlReporter, lambda path: GradCheckHook(log_dir=path)])
def test_what_is_no_path_is_refused(tmp_path, monkeypatch, path, make):
    """At once, with what to write instead; nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidProblem, match=r"is (no path|an address).*Try"):
        make(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 1, LONG - 1, LONG, LONG + PART, 50 * PART, 20_011])
def test_the_checksum_is_tensorboard_s(size):
    """For texts that are short, of whole parts, and of parts with a rest."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    data = np.random.default_rng(size).bytes(size)
    assert checksum(data) == masked_crc32c(data).to_bytes(4, "little")


UNNOTICED = """
import sys
import numpy as np
from gc_hooks import GradCheckHook

before = set(sys.modules)
hook = GradCheckHook(log_dir=sys.argv[1], reporters=[])
hook.on_step(0, loss=lambda w: np.sum(w * w) / 2, params=np.ones(3), grads=np.ones(3))
hook.close()
print(*{"torch", "tensorflow", "tensorboardX"} & (set(sys.modules) - before))
"""


def test_logging_loads_no_framework(tmp_path):
    """Torch, where it is installed, takes seconds, and adds filters to the warnings of a training that needs none."""
    assert run_python("-c", UNNOTICED, tmp_path).stdout.strip() == ""
    assert list((tmp_path / "gradcheck").iterdir())


def test_another_process_writes_nothing(tmp_path, monkeypatch):
    """Under another process id the reporter keeps its hands off the file."""
    reporter = write(tmp_path, a_report(0))
    (file,) = reporter.path.iterdir()
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        reporter.report(a_report(1))
    assert file.read_bytes() == before
    reporter.close()


FORK = """
import os, sys
from gc_hooks import CheckReport, TensorBoardReporter
reporter = TensorBoardReporter(sys.argv[1])
reporter.report(CheckReport({}, step=1))
child = os.fork()
if not child:
    reporter.report(CheckReport({}, step=2))
    reporter.close()
    sys.exit()  # with all that a normal exit does
assert os.waitpid(child, 0)[1] == 0
reporter.report(CheckReport({}, step=3))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_nothing(tmp_path):
    """A data loader's child that inherits the reporter, uses and closes it, leaves no trace in the file."""
    run_python("-c", FORK, tmp_path)
    assert [step for step, _ in scalars_of(tmp_path / "gradcheck", "verdict")] == [1, 3]


# Every reporter


def public_reporters():
    """Return the reporters that users can import, and whatever else inherits from the base class in the package."""
    named = [getattr(gc_hooks, name) for name in gc_hooks.__all__]
    kinds = {kind for kind in named if isinstance(kind, type) and issubclass(kind, Reporter)}
    waiting = [Reporter]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("gc_hooks.") and not kind.__name__.startswith("_"):
            kinds.add(kind)
    return sorted(kinds, key=lambda kind: kind.__name__)


def an_object_of(kind, folder):
    """Make a reporter that writes into the folder, if it writes: a new kind that needs more says so here."""
    needed = {ConsoleReporter: {}, JsonlReporter: {"path": folder / "checks.jsonl"}, Reporter: {}}
    try:
        return kind(**needed.get(kind, {"log_dir": folder}))
    except TypeError as error:
        pytest.fail(f"{error}: say in an_object_of, in {__file__}, what {kind.__name__} needs.")


each_reporter = pytest.mark.parametrize("kind", public_reporters())
CHECKS = [
    a_report(0),
    a_report(1, 0.5, diagnoses=(Diagnosis("scaled", ("W",), "dW is twice the slope."),)),
    a_report(1, math.nan, {"W": math.nan}, notes=("Not finite.",)),
    CheckReport({}, notes=("The check failed.",)),
]


def test_the_reporters_of_the_package_are_public():
    """Each can be imported from gc_hooks, and the three of today are among them."""
    kinds = public_reporters()
    assert {ConsoleReporter, JsonlReporter, TensorBoardReporter, Reporter} <= set(kinds)
    assert all(getattr(gc_hooks, kind.__name__, None) is kind for kind in kinds)


@each_reporter
def test_a_reporter_takes_every_report(kind, tmp_path):
    """GOOD, WORRY, NaN and a check that failed: nothing is raised, and nothing is returned."""
    reporter = an_object_of(kind, tmp_path)
    assert isinstance(reporter.open() or "", str)
    assert [reporter.report(report) for report in CHECKS] == [None] * len(CHECKS)
    assert isinstance(reporter.where() or "", str)
    reporter.close()


@pytest.mark.parametrize("kind", [kind for kind in public_reporters() if kind is not Reporter])
def test_a_reporter_writes_what_it_was_given(kind, tmp_path, capsys):
    """The name of a wrong parameter is found in its file, or in what it prints."""
    reporter = an_object_of(kind, tmp_path)
    reporter.report(a_report(1, 0.5, {"kernel of layer 7": 0.5}))
    reporter.close()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    written = b"".join(files).decode(errors="replace") + capsys.readouterr().out
    assert "kernel of layer 7" in written, f"{kind.__name__} wrote {written!r}."


@each_reporter
def test_a_reporter_may_be_closed_twice_and_used_again(kind, tmp_path):
    """Closing without a report, closing twice, and a report after that are all allowed."""
    reporter = an_object_of(kind, tmp_path)
    reporter.close()
    reporter.report(CHECKS[0])
    reporter.close()
    reporter.close()
    reporter.report(CHECKS[1])
    reporter.close()


@each_reporter
def test_a_reporter_says_whether_it_can_say_something(kind, tmp_path, capsys):
    """What is said is printed, or the answer is False, so that the hook warns instead."""
    reporter = an_object_of(kind, tmp_path)
    assert (reporter.say("3 checks") is not False) == ("3 checks" in capsys.readouterr().out)
    reporter.close()


@each_reporter
def test_a_hook_works_with_every_reporter(kind, tmp_path, recwarn):
    """Checks of a right gradient reach it without a warning, and it is closed with the hook."""
    with GradCheckHook(after=None, reporters=[an_object_of(kind, tmp_path)]) as hook:
        for step in range(2):
            hook.on_step(step, loss=lambda w: w**2, params=3.0, grads=6.0)
    assert [report.ok for report in hook.reports] == [True, True]
    assert not recwarn.list


def test_what_is_said_is_never_lost(monkeypatch):
    """A reporter of one's own that answers nothing counts as one that can say it; one that lacks `say` does not."""

    class Loud(Reporter):
        said = ()

        def say(self, text):
            self.said = (*self.said, text)

    monkeypatch.setenv("GC_HOOKS", "off")
    loud = Loud()
    GradCheckHook(reporters=[loud])
    assert len(loud.said) == 1
    with pytest.warns(GradCheckWarning, match="GC_HOOKS=off"):
        GradCheckHook(reporters=[Reporter()])


def test_an_object_with_a_method_report_is_a_reporter():
    """It need not inherit anything: what it has is called, and what draws gets the plot data."""

    class Mine:
        draws = True

        def __init__(self):
            self.heard = []

        def report(self, report):
            self.heard.append(bool(report.pictures))

        def close(self):
            self.heard.append("closed")

    mine = Mine()
    with GradCheckHook(after=None, reporters=[mine]) as hook:
        hook.on_step(0, loss=lambda w: w**2, params=3.0, grads=6.0)
    assert mine.heard == [True, "closed"]
