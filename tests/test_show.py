"""gc-hooks show: the checks of a log in the terminal, and an exit status that a job script can act on."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess

import numpy as np
import pytest

import gc_hooks.reporters.log
from gc_hooks import CheckReport, GradCheckHook, JsonlReporter, Log, TensorBoardReporter, Verdict, cli, read_log
from gc_hooks.errors import GradCheckError
from gc_hooks.report.comparison import Basis, Comparison, EntryComparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.plots import ParameterPlot, StepCurve
from gc_hooks.reporters.events import EventFile
from gc_hooks.reporters.records import as_record, checksum, intact_records
from gc_hooks.tensorboard_tab.digest import RunDigest, check_for_page
from gc_hooks.tensorboard_tab.metadata import CHECKS
from servers import run_python


def a_report(step=0, verdict=Verdict.GOOD, **fields):
    comparison = Comparison("W", (2,), 0.5 if verdict > Verdict.INCONCLUSIVE else 1e-9, 1e-10, verdict)
    return CheckReport({"W": comparison}, difference=comparison.difference, error=1e-10, step=step, **fields)


def write(folder, *reports):
    reporter = TensorBoardReporter(folder)
    for report in reports:
        reporter.report(report)
    reporter.close()
    return next(reporter.path.iterdir())


def show(capsys, *arguments):
    status = cli.main(["show", *map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_a_log_is_read_back_whole(tmp_path):
    """What a hook reported is read from its log, pictures and all, by the name of the run."""
    with GradCheckHook(after=2, log_dir=tmp_path / "mine", batch_size=8) as hook:
        w = np.array([1.0, 2.0, 3.0])
        for step in range(4):
            hook.on_step(step, loss=lambda w: np.sum(np.sin(w)), params=w, grads=np.cos)
            w = w - 0.1 * np.cos(w)
    log = read_log(tmp_path)
    assert isinstance(log, Log)
    assert list(log.runs) == ["mine/gradcheck"]
    assert [r.to_json() for r in log.runs["mine/gradcheck"]] == [r.to_json() for r in hook.reports]
    assert log.runs["mine/gradcheck"][0].pictures["theta"].entries
    assert not log.troubles


def test_all_good_is_status_0(tmp_path, capsys):
    """Each check is a line with its step, verdict and difference."""
    write(tmp_path, a_report(0), a_report(500))
    status, out, err = show(capsys, tmp_path)
    assert (status, err) == (0, "")
    assert "gradcheck: 2 checks" in out
    assert [line.split()[:2] for line in out.splitlines() if " GOOD " in line] == [["0", "GOOD"], ["500", "GOOD"]]


@pytest.mark.parametrize("verdict", [Verdict.DOUBLE_CHECK, Verdict.WORRY])
def test_a_wrong_gradient_is_status_1(tmp_path, capsys, verdict):
    """Also beside an unclear one; the parameter, the code and the sentence are printed."""
    found = Diagnosis("scaled", ("W",), "dW is exactly 2 times the measured slope.")
    write(tmp_path, a_report(0, Verdict.INCONCLUSIVE), a_report(1, verdict, diagnoses=(found,)))
    status, out, _ = show(capsys, tmp_path)
    assert status == 1
    assert all(text in out for text in (str(verdict), " W ", "scaled", str(found)))


def test_an_unclear_one_is_status_2(tmp_path, capsys):
    """What could not be told is not taken for good."""
    write(tmp_path, a_report(0), a_report(1, Verdict.INCONCLUSIVE))
    assert show(capsys, tmp_path)[0] == 2


def test_the_newest_alone_can_be_asked_for(tmp_path, capsys):
    """A bug that is gone does not count any more."""
    write(tmp_path, a_report(0, Verdict.WORRY), a_report(1))
    assert show(capsys, tmp_path)[0] == 1
    status, out, _ = show(capsys, tmp_path, "--newest")
    assert (status, out.count(" GOOD "), out.count("WORRY")) == (0, 1, 0)


def test_json_lines_are_whole_reports(tmp_path, capsys):
    """A line for each check, with its run, in standard JSON that is a report again."""
    written = [a_report(0), a_report(1, Verdict.WORRY, loss=math.nan)]
    write(tmp_path / "a", *written)
    status, out, _ = show(capsys, tmp_path, "--json")
    documents = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert status == 1
    assert [document.pop("run") for document in documents] == ["a/gradcheck"] * 2
    assert [CheckReport.from_json(json.dumps(d)).to_json() for d in documents] == [r.to_json() for r in written]


def test_a_file_of_json_lines_is_shown_too(tmp_path, capsys):
    """What JsonlReporter wrote."""
    JsonlReporter(tmp_path / "checks.jsonl").report(a_report(3, Verdict.WORRY))
    status, out, _ = show(capsys, tmp_path / "checks.jsonl")
    assert (status, "WORRY" in out) == (1, True)


def test_names_are_no_markup(tmp_path, capsys):
    """What a name holds is printed as it is."""
    verdict = Verdict.WORRY
    names = ("[bold]W[/bold]", "b")
    verdicts = dict(zip(names, (verdict, Verdict.GOOD), strict=True))
    comparisons = {name: Comparison(name, (2,), 0.5, 0.1, verdicts[name]) for name in names}
    write(tmp_path, CheckReport(comparisons, difference=0.5, error=0.1))
    assert "[bold]W[/bold]" in show(capsys, tmp_path)[1]


def test_an_empty_directory_is_told(tmp_path, capsys):
    """No event files: status 2 and what to try."""
    status, out, err = show(capsys, tmp_path)
    assert (status, out) == (2, "")
    assert "holds no event files" in err
    assert "Try the log_dir" in err


def test_a_directory_that_is_not_there_is_told(tmp_path, capsys):
    """A wrong path is a sentence."""
    status, _, err = show(capsys, tmp_path / "nowhere")
    assert (status, "There is no directory" in err) == (2, True)
    with pytest.raises(GradCheckError, match="There is no directory"):
        read_log(tmp_path / "nowhere")


def test_a_foreign_log_is_told(tmp_path, capsys):
    """Events of others, and no checks among them."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", 1.0, 0)
    status, out, err = show(capsys, tmp_path)
    assert (status, out) == (2, "")
    assert "1 event file(s) and no gradient checks" in err
    assert "GradCheckHook(log_dir=...)" in err


def test_a_truncated_log_shows_what_is_whole(tmp_path, capsys):
    """Cut anywhere: the whole checks are shown, that the end is missing is said, and the status is no 0."""
    file = write(tmp_path, a_report(0), a_report(1))
    whole = file.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 3000, 200, 20, 5):
        file.write_bytes(whole[:kept])
        status, _, err = show(capsys, tmp_path)
        assert (status, "ends in the middle of a record" in err) == (2, True), kept
    file.write_bytes(whole[: len(whole) - 1])
    assert show(capsys, tmp_path)[1].count(" GOOD ") == 2


def test_a_wrong_gradient_in_a_truncated_log_is_still_status_1(tmp_path, capsys):
    """What was read is acted on."""
    file = write(tmp_path, a_report(0, Verdict.WORRY))
    file.write_bytes(file.read_bytes()[:-1])
    assert show(capsys, tmp_path)[0] == 1


def test_a_file_that_is_no_event_file_is_told(tmp_path, capsys):
    """A name alone makes no log."""
    (tmp_path / "events.out.tfevents.1").write_text("step,loss\n0,1\n" * 30)
    status, out, err = show(capsys, tmp_path)
    assert (status, out) == (2, "")
    assert "is not an event file" in err


def test_a_damaged_record_is_told_and_the_others_are_shown(tmp_path, capsys):
    """A flipped bit costs one check and not those behind it, and never a status of 0; nor does a damaged length."""
    file = write(tmp_path, *(a_report(step, Verdict.WORRY if step == 2 else Verdict.GOOD) for step in range(4)))
    whole = file.read_bytes()
    place = whole.index(b'"step": 1')
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    status, out, err = show(capsys, tmp_path)
    assert (status, out.count(" GOOD "), out.count(" WORRY ")) == (1, 2, 1)
    assert "1 of its records cannot be read" in err
    assert show(capsys, tmp_path, "--newest")[0] == 2
    start = whole.index(b"brain.Event:2") + len("brain.Event:2") + 4
    file.write_bytes(whole[:start] + b"\xff" + whole[start + 1 :])
    status, _, err = show(capsys, tmp_path)
    assert (status, "what follows cannot be read" in err) == (2, True)


def test_an_event_file_can_be_named_itself(tmp_path, capsys):
    """As the directory around it."""
    file = write(tmp_path, a_report(0, Verdict.WORRY))
    status, out, err = show(capsys, file)
    assert (status, "WORRY" in out, err) == (1, True, "")


def test_half_a_line_of_json_is_told(tmp_path, capsys):
    """What a killed process left is passed over, and the status says that something is missing."""
    reporter = JsonlReporter(tmp_path / "checks.jsonl")
    for step in range(2):
        reporter.report(a_report(step))
    data = (tmp_path / "checks.jsonl").read_bytes()
    (tmp_path / "checks.jsonl").write_bytes(data[:-30])
    status, out, err = show(capsys, tmp_path / "checks.jsonl")
    assert (status, out.count(" GOOD ")) == (2, 1)
    assert "ends in the middle of a line" in err


def test_a_newer_log_says_so(tmp_path, capsys):
    """A report of a newer version is told by its step's number and what to do; the others are shown."""
    sink = EventFile(tmp_path)
    sink.document(CHECKS, a_report(0).to_json(), 0)
    sink.document(CHECKS, json.dumps({"schema": 99}), 1)
    sink.close()
    status, out, err = show(capsys, tmp_path)
    assert (status, " GOOD " in out) == (2, True)
    assert "check 2: The report has schema 99" in err
    assert "upgrade gc_hooks" in err


def made(folder, act):
    """Something in a directory of its own that ``act`` makes there."""
    path = folder / "events.out.tfevents.1"
    folder.mkdir()
    act(path)
    return path


def an_endless_length(path, length=2**63):
    head = length.to_bytes(8, "little")
    path.write_bytes(head + checksum(head) + b"x" * 100)


def a_document(path, text):
    sink = EventFile(path.parent)
    sink.document(CHECKS, text, 0)
    sink.close()


UNREADABLE = {
    "a dangling link": (lambda path: path.symlink_to("/nowhere"), "cannot be read: No such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
    "a pipe": (os.mkfifo if hasattr(os, "mkfifo") else None, "no regular file"),
    "no message": (lambda path: path.write_bytes(as_record(b"\xff" * 9)), "1 of its records are no events"),
    "bad UTF-8": (lambda path: path.write_bytes(as_record(b"\x1a\x01\xff")), "1 of its records are no events"),
    "a length of 2^63": (an_endless_length, "in the middle of a record"),
    "a length of 2^33": (lambda path: an_endless_length(path, 2**33), "in the middle of a record"),
    "deep nesting": (lambda path: a_document(path, "[" * 100_000), "not the JSON"),
    "deep nesting in a report": (
        lambda path: a_document(path, '{"schema": 1, "notes": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "not the JSON",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_a_line_and_status_2(tmp_path, capsys, kind):
    """The other files' checks are shown; and where one of these is wrong, the status says so."""
    act, seen = UNREADABLE[kind]
    if act is None:
        pytest.skip("this system has no such thing")
    made(tmp_path / "a", act)
    write(tmp_path / "b", a_report(0))
    status, out, err = show(capsys, tmp_path)
    assert (status, " GOOD " in out) == (2, True)
    assert seen in err
    assert all(line.startswith("gc-hooks: ") for line in err.splitlines())
    write(tmp_path / "c", a_report(0, Verdict.WORRY))
    assert show(capsys, tmp_path)[0] == 1


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone"), MemoryError()]
)
@pytest.mark.parametrize("when", ["opened", "read"])
def test_a_file_that_fails_is_a_line_and_status_2(tmp_path, capsys, monkeypatch, error, when):
    """One that is somebody else's, or that has gone since it was listed, or goes while it is read."""
    bad = write(tmp_path / "a", a_report(0))
    write(tmp_path / "b", a_report(1))

    def fails(path, troubles, read=intact_records):
        if when == "read" or path != bad:
            yield from itertools.islice(read(path, troubles), 3 if path == bad else None)
        if path == bad:
            raise error

    monkeypatch.setattr(gc_hooks.reporters.log, "intact_records", fails)
    status, out, err = show(capsys, tmp_path)
    assert (status, out.count(" GOOD ")) == (2, 1 if when == "opened" else 2)
    assert str(bad) in err


def test_a_directory_that_cannot_be_listed_is_a_line_and_status_2(tmp_path, capsys, monkeypatch):
    """What was not looked at is never taken for good."""
    write(tmp_path / "a", a_report(0))
    write(tmp_path / "b", a_report(1))

    def refuse(path, scan=os.scandir):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, out, err = show(capsys, tmp_path)
    assert (status, out.count(" GOOD ")) == (2, 1)
    assert f"{tmp_path / 'b'} cannot be read: Permission denied." in err


def test_a_path_that_cannot_be_looked_at_is_a_line_and_status_2(tmp_path, capsys):
    """A name that is too long, in place of a directory."""
    status, _, err = show(capsys, tmp_path / ("x" * 300))
    assert status == 2
    assert err.count("\n") == 1


def test_a_directory_may_be_called_like_an_event_file(tmp_path, capsys):
    """It is looked into, as through a link, even one that leads back up; each check is shown once."""
    write(tmp_path / "tfevents" / "a", a_report(0))
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere", a_report(1))
    (tmp_path / "tfevents" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tfevents" / "up").symlink_to(tmp_path / "tfevents")
    status, out, err = show(capsys, tmp_path / "tfevents")
    assert (status, out.count(" GOOD "), err) == (0, 2, "")


def test_what_nobody_has_thought_of_is_a_line_and_status_2(tmp_path, capsys, monkeypatch):
    """Status 1 means a wrong gradient, and nothing else."""

    def broken(path):
        raise LookupError("planted")

    monkeypatch.setattr(cli, "read_log", broken)
    status, _, err = show(capsys, tmp_path)
    assert (status, err.startswith("gc-hooks: LookupError: planted.")) == (2, True)


def test_a_wrong_line_costs_that_line(tmp_path, capsys):
    """In a file of JSON lines the others are shown; a file without any check is no such file."""
    reporter = JsonlReporter(tmp_path / "lines")
    reporter.report(a_report(0))
    with (tmp_path / "lines").open("a") as file:
        file.write("nonsense\n")
    reporter.report(a_report(1))
    status, out, err = show(capsys, tmp_path / "lines")
    assert (status, out.count(" GOOD ")) == (2, 2)
    assert "line 2: This is not the JSON" in err
    (tmp_path / "lines").write_text("step,loss\n0,1\n")
    status, out, err = show(capsys, tmp_path / "lines")
    assert (status, out, err.count("\n")) == (2, "", 1)


WRONG_TYPES = [None, 5, -1.5, "x", "nan", True, [], [1], [[1]], {}, {"x": 1}, 10**400, 2**80, float("inf"), "\ud800"]


def leaves(tree, path=()):
    """The path of every part of a document."""
    yield path
    if isinstance(tree, (dict, list)):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(branch, (*path, key))


def test_a_part_of_another_type_is_refused_or_harmless():
    """Whatever stands in the place of any part of a document: it is no report, or all that reads it can show it."""
    entry = EntryComparison((0,), 1.0, 2.0, 0.1)
    compared = Comparison("W", (2,), 0.5, 0.1, Verdict.WORRY, worst=(entry,), basis=Basis.ESTIMATED, wrong=1)
    curve = StepCurve("", (1.0, 0.1), (0.5, 0.05), 0.0, 0.0, 1e-16)
    plot = ParameterPlot(((0.0, 1.0, 0.5, 0.1),), ((1.0, 0.5, 0.1),), (1, 2), 0.0, 1.0, curve)
    report = CheckReport(
        {"W": compared},
        (Diagnosis("scaled", ("W",), "twice", residual=1e-9),),
        notes=("a note",),
        pictures={"W": plot},
        curve=curve,
    )
    whole, refused, shown = report.to_json(), 0, 0
    for path in list(leaves(json.loads(whole))):
        for wrong in WRONG_TYPES:
            if path:
                document = json.loads(whole)
                place = document
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = wrong
            else:
                document = wrong
            text = json.dumps(document)
            try:
                read = CheckReport.from_json(text)
            except GradCheckError:
                refused += 1
                assert RunDigest.of("run", {0: text}).outline()["troubles"] in (0, 1)  # pictures are not read there
                continue
            shown += 1
            digest = RunDigest.of("run", {0: text})
            assert digest.outline()["checks"] == 1
            assert json.dumps(digest.table())
            assert json.loads(check_for_page(text), parse_constant=pytest.fail)
            for said in (str(read), read.to_markdown(), read._repr_html_(), read.to_json()):
                assert isinstance(said, str)
    assert min(refused, shown) > 100


def test_a_reader_that_goes_away_does_not_change_the_status(tmp_path):
    """``gc-hooks show runs | head -1`` in a script that looks at the status."""
    for verdict, status, options in ((Verdict.GOOD, 0, []), (Verdict.WORRY, 1, ["--json"])):
        write(tmp_path / verdict.name, a_report(0, verdict))
        reading, writing = os.pipe()
        os.close(reading)
        arguments = ("-m", "gc_hooks", "show", *options, tmp_path / verdict.name)
        done = run_python(*arguments, status=status, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert done.stderr == ""


def test_any_terminal_can_show_a_log(tmp_path):
    """Signs that its encoding lacks are spelt out, in a narrow window too."""
    comparison = Comparison("重み of a name that is too long for it", (2,), 0.5, 0.1, Verdict.WORRY)
    write(tmp_path, CheckReport({"W": comparison}, difference=0.5, error=0.1, notes=("half \udcff",)))
    for options in ([], ["--json"]):
        environment = {"PYTHONIOENCODING": "ascii", "COLUMNS": "20", "PYTHONUTF8": "0"}
        done = run_python("-m", "gc_hooks", "show", *options, tmp_path, status=1, environment=environment)
        assert done.stderr == ""
        assert "half \\udcff" in done.stdout


def test_the_status_is_the_process_s(tmp_path):
    """What a job script sees."""
    write(tmp_path, a_report(0, Verdict.WORRY))
    code = "import sys; from gc_hooks.cli import main; sys.exit(main(sys.argv[1:]))"
    run_python("-c", code, "show", tmp_path, status=1)
