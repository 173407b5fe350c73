"""The tab's server side: a real TensorBoard, by either of its loaders, serves every check and no file but its own."""

from __future__ import annotations

import itertools
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import tensorboard_data_server

from gc_hooks import CheckReport, GradCheckHook, TensorBoardReporter, Verdict
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.reporters.events import EventFile
from gc_hooks.tensorboard_tab import digest
from gc_hooks.tensorboard_tab.digest import RunDigest, check_for_page
from gc_hooks.tensorboard_tab.metadata import CHECKS
from gc_hooks.tensorboard_tab.plugin import STATIC
from hunts import some
from servers import SAFETY_LIMIT, WITHOUT_THE_TAB, fetch, patiently, run_python, tensorboard

STATIC_FOLDER = files("gc_hooks.tensorboard_tab") / "static"
HOSTILE = "b3<img src=x onerror=alert(1)>"
MANY = 300


def a_report(step, difference=1e-9, names=("W", "b"), **fields):
    """A report whose verdict follows from the difference."""
    verdict = Verdict.WORRY if difference >= 1e-3 else Verdict.GOOD
    comparisons = {name: Comparison(name, (2, 3), difference, difference / 10, verdict) for name in names}
    return CheckReport(comparisons, difference=difference, error=difference / 10, step=step, **fields)


def write(folder, *reports):
    reporter = TensorBoardReporter(folder)
    for report in reports:
        reporter.report(report)
    reporter.close()


def hostile_documents():
    """A good report with half characters, and others that are none, one of them nested without an end."""
    whole = json.loads(a_report(0, names=("W\ud800",), notes=("half \udcff",)).to_json())
    wrong = {"parameters": {"W": {"name": 5}}}, {"parameters": {"W": {"verdict": []}}}, {"notes": 5}, {"bands": {}}
    return [json.dumps(whole), *(json.dumps({**whole, **part}) for part in wrong), "[" * 100_000]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A clean run, one that goes wrong late, one with many checks, one with hostile names, and one of the future."""
    folder = tmp_path_factory.mktemp("logs")
    write(folder / "clean", *(a_report(step, 2.0**-40) for step in (0, 1, 500)))
    doubled = Diagnosis("scaled", ("b",), "db is exactly 2 times the measured slope.", "With db / 2 it would be 2e-16.")
    write(folder / "late", a_report(0), a_report(100, 0.25, diagnoses=(doubled,)), a_report(200, 0.125))
    write(folder / "many", *(a_report(step, 1e-10 * (step + 1)) for step in range(MANY)))
    write(folder / f"x{HOSTILE[2:]}", a_report(0, 0.5, names=(HOSTILE, "__proto__", "a|b*")))
    (folder / "hostile").mkdir()
    sink = EventFile(folder / "hostile")
    for step, text in enumerate(hostile_documents()):
        sink.document(CHECKS, text, step)
    sink.close()
    sink = EventFile(folder)
    sink.document(CHECKS, json.dumps({"schema": 99, "parameters": {}}), 0)
    sink.document(CHECKS, "{not JSON", 1)
    sink.close()
    return folder


@pytest.fixture(scope="module", params=some(["true", "false"], ["false"]))
def server(request, logs, tmp_path_factory):
    """The address of a TensorBoard on these logs."""
    if request.param == "true" and tensorboard_data_server.server_binary() is None:
        pytest.skip("there is no fast loader for this machine")
    with tensorboard(logs, request.param, tmp_path_factory.mktemp("server") / "output") as address:
        patiently(lambda: len(fetch(address, "plugin/gradcheck/runs") or ()) == 6)
        yield address


def ask(address, route, **query):
    """The answer to a request: status, headers and text."""
    url = f"{address}/data/plugin/gradcheck/{route}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=SAFETY_LIMIT) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_tensorboard_knows_the_tab_and_that_it_has_something_to_show(server):
    """It is listed under its name, active, and loaded from its own module."""
    listed = patiently(lambda: (fetch(server, "plugins_listing") or {}).get("gradcheck"))
    assert listed["tab_name"] == "Gradient check"
    assert listed["enabled"]
    assert listed["loading_mechanism"]["module_path"].endswith("/gradcheck/index.js")


def test_the_worst_run_comes_first(server):
    """With its worst verdict and the first step that has it."""
    runs = fetch(server, "plugin/gradcheck/runs")
    assert {run["run"]: (run["verdict"], run["key"]) for run in runs[:2]} == {
        "late/gradcheck": ("WORRY", 100),
        f"x{HOSTILE[2:]}/gradcheck": ("WORRY", 0),
    }
    assert runs[-1]["run"] == "many/gradcheck"


def test_every_check_is_kept(server):
    """300 were written, 300 are served, the first and the last among them, with their figures."""
    table = patiently(
        lambda: (t := fetch(server, "plugin/gradcheck/checks", run="many/gradcheck")) and len(t["checks"]) == MANY and t
    )
    assert [check["step"] for check in table["checks"]] == list(range(MANY))
    assert [check["cells"][0]["difference"] for check in table["checks"]] == [
        1e-10 * (step + 1) for step in range(MANY)
    ]


def test_a_check_is_served_as_it_was_written(server):
    """The whole report, to the last digit, and as markdown with its diagnosis."""
    status, headers, text = ask(server, "check", run="late/gradcheck", step=100)
    report = CheckReport.from_json(text)
    assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert (report.step, report.difference, report.diagnoses[0].code) == (100, 0.25, "scaled")
    status, headers, text = ask(server, "markdown", run="late/gradcheck", step=100)
    assert (status, headers.get_content_type()) == (200, "text/plain")
    assert text == report.to_markdown()


def test_hostile_names_are_data(server):
    """Run and parameter names come back as they were, in JSON, with a type that no browser takes for a page."""
    status, headers, text = ask(server, "checks", run=f"x{HOSTILE[2:]}/gradcheck")
    assert (status, headers.get_content_type()) == (200, "application/json")
    assert [parameter["name"] for parameter in json.loads(text)["parameters"]] == [HOSTILE, "__proto__", "a|b*"]


def test_what_a_newer_version_wrote_is_said_and_not_shown(server):
    """A log of another schema, and one that is no JSON, are told with their step."""
    table = fetch(server, "plugin/gradcheck/checks", run=".")
    assert table["checks"] == []
    assert "Step 0: The report has schema 99" in table["troubles"][0]
    assert "upgrade gc_hooks" in table["troubles"][0]
    assert "Step 1: This is not the JSON of a gradient check" in table["troubles"][1]
    for step in (0, 1):
        status, _, text = ask(server, "check", run=".", step=step)
        assert (status, json.loads(text)["error"]) == (404, table["troubles"][step].removeprefix(f"Step {step}: "))


@pytest.mark.parametrize(
    ("route", "query"),
    [
        *((route, query) for route in ("check", "checks", "markdown") for query in ({}, {"run": "../../etc"})),
        *((route, {"run": "clean/gradcheck", "step": step}) for route in ("check", "markdown") for step in ("../1", 7)),
    ],
)
def test_what_is_not_in_the_log_is_not_served(server, route, query):
    """An unknown run or step is 404 with a sentence, and nothing else is looked for."""
    status, _, text = ask(server, route, **query)
    assert status == 404
    assert "The log has no check" in json.loads(text)["error"]


def test_the_page_is_served_from_a_fixed_list(server):
    """Each file with its type and nosniff; no other path below the tab's answers."""
    for name, kind in STATIC.items():
        status, headers, text = ask(server, name)
        assert (status, headers.get_content_type(), headers["X-Content-Type-Options"]) == (200, kind, "nosniff")
        assert text == (STATIC_FOLDER / name).read_text(encoding="utf-8")
    for path in ("plugin.py", "../plugin.py", "static/index.js", "%2e%2e/plugin.py", "index.js/.."):
        assert ask(server, path)[0] == 404, path


def test_every_file_of_the_page_is_on_the_list():
    """A new file that is not served would be a blank page."""
    assert {file.name for file in STATIC_FOLDER.iterdir()} == set(STATIC)


def test_the_page_writes_no_html_and_loads_nothing_from_elsewhere():
    """Whatever a log holds becomes text; there is no address of another host in the page."""
    for name in STATIC:
        source = (STATIC_FOLDER / name).read_text(encoding="utf-8")
        forbidden = (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "@import",
        )
        assert not [word for word in forbidden if word in source], name
        addresses = [word for word in source.split('"') if "://" in word]
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name


def test_a_tab_that_cannot_be_loaded_takes_nothing_down(logs, tmp_path):
    """Where a part of it cannot be imported TensorBoard starts all the same, and the tab says what is missing."""
    with tensorboard(logs, "false", tmp_path / "output", program=("-c", WITHOUT_THE_TAB)) as address:
        assert patiently(lambda: fetch(address, "plugins_listing"))["gradcheck"]["enabled"]
        status, headers, script = ask(address, "index.js")
        assert (status, headers.get_content_type()) == (200, "text/javascript")
        assert "gc_hooks.tensorboard_tab.plugin" in script
        assert "pip install --upgrade --force-reinstall gc_hooks" in script
        tag = "gradcheck/difference"
        assert patiently(lambda: fetch(address, "plugin/scalars/scalars", run="late/gradcheck", tag=tag))


def test_loading_the_tab_loads_no_engine_beyond_the_package():
    """What TensorBoard imports at its start is gc_hooks itself and its own base class; no server, no Rich, no torch."""
    code = (
        "import gc_hooks.tensorboard_tab.loader, sys; "
        "assert not {'rich', 'torch', 'tensorboardX', 'werkzeug'} & set(sys.modules)"
    )
    run_python("-c", code)


def test_a_hostile_check_costs_itself_alone(server):
    """The list of runs is served, the others of its run are shown, and the bad ones are named by their steps."""
    runs = {run["run"]: run for run in fetch(server, "plugin/gradcheck/runs")}
    assert (runs["hostile"]["checks"], runs["hostile"]["troubles"]) == (1, 5)
    status, _, text = ask(server, "checks", run="hostile")
    table = json.loads(text)
    assert (status, [check["key"] for check in table["checks"]]) == (200, [0])
    assert [trouble.partition(":")[0] for trouble in table["troubles"]] == [f"Step {step}" for step in range(1, 6)]
    for route, kind in (("check", "half \udcff"), ("markdown", "half \\udcff")):
        status, _, text = ask(server, route, run="hostile", step=0)
        assert status == 200
        assert kind in (text if route == "markdown" else str(json.loads(text)["notes"][0]))
        assert [ask(server, route, run="hostile", step=step)[0] for step in range(1, 6)] == [404] * 5


def test_checks_are_read_once(monkeypatch):
    """However many they are, and however often the page asks; beyond what is kept, most of them."""
    texts = {step: CheckReport({}, step=step, seed=7).to_json() for step in range(5000)}
    read = []
    whole = CheckReport.from_json
    monkeypatch.setattr(CheckReport, "from_json", lambda text, **options: read.append(text) or whole(text, **options))
    for _ in range(2):
        RunDigest.of("run", texts)
    assert len(read) == 5000
    monkeypatch.setattr(digest, "MOST_READ", 100)
    monkeypatch.setattr(digest, "_read", {})
    read.clear()
    for _ in range(2):
        RunDigest.of("run", dict(itertools.islice(texts.items(), 110)))
    assert len(read) <= 110 + 20
    assert len(digest._read) == 100


def test_a_digest_keeps_what_the_table_needs():
    """A cell for each parameter of any check, none where a check had not that one; bounds are marked."""
    early, late = a_report(0, names=("a", "b")), a_report(1, names=("b", "c"))
    table = RunDigest.of("run", {1: late.to_json(), 0: early.to_json()}).table()
    assert [parameter["name"] for parameter in table["parameters"]] == ["a", "b", "c"]
    assert [[cell is None for cell in check["cells"]] for check in table["checks"]] == [
        [False, False, True],
        [True, False, False],
    ]
    cell = {"verdict": 0, "difference": 1e-9, "is_bound": False, "stated": "1.0e-09 ± 1e-10"}
    assert table["checks"][0]["cells"][0] == cell


def test_a_digest_has_the_order_of_the_console():
    """The rows of a check, the worst first, are those of the table that is printed."""
    differences = {"a": 1e-9, "b": 0.5, "c": math.nan, "d": 0.5, "e": 0.75}
    compared = {name: a_report(0, d, names=(name,)).parameters[name] for name, d in differences.items()}
    compared["c"] = replace(compared["c"], verdict=Verdict.WORRY)
    report = CheckReport(compared)
    table = RunDigest.of("run", {0: a_report(0, names=("z", "a")).to_json(), 1: report.to_json()}).table()
    names = [table["parameters"][row]["name"] for row in table["checks"][1]["worst_first"]]
    assert names == ["c", "e", "b", "d", "a"] == [row[0] for row in report.rows()]


@pytest.mark.parametrize(
    ("basis", "at_least", "bound"), [("bounded", 0.0, True), ("bounded", 0.4, False), ("exact", 0.0, False)]
)
def test_what_is_a_bound_is_marked(basis, at_least, bound):
    """What another question has found (buffers that differ) is none, whatever the slopes rest on."""
    compared = Comparison("a", (2,), 0.5, 0.1, Verdict.WORRY, at_least=at_least, basis=Basis(basis))
    (cell,) = RunDigest.of("run", {0: CheckReport({"a": compared}).to_json()}).table()["checks"][0]["cells"]
    stated = "at most 6.0e-01" if bound else "5.0e-01 ± 1e-01"
    assert cell == {"verdict": 3, "difference": 0.5, "is_bound": bound, "stated": stated}


def test_a_digest_of_nonsense_is_a_sentence():
    """Whatever stands in the log, the page is served."""
    texts = ("", "[]", "3", "null", '{"schema": "x"}', '{"schema": 1, "parameters": []}')
    digest = RunDigest.of("run", dict(enumerate(texts)))
    assert not digest.checks
    for key, text in enumerate(texts):
        assert digest.troubles[key] == f"Step {key}: This is not the JSON of a gradient check's report: {text!r}."


A_BOUND = Comparison("bound", (2,), 1e-12, 1e-13, Verdict.GOOD, basis=Basis.BOUNDED)
A_WIDE_ESTIMATE = Comparison(
    "wide", (2,), 0.31, 0.3, Verdict.WORRY, at_least=0.1, basis=Basis.ESTIMATED, backprop_norm=1.0, measured_norm=1.0
)


@pytest.mark.parametrize("compared", [A_BOUND, A_WIDE_ESTIMATE, replace(A_BOUND, difference=0.0, error=0.0)])
def test_the_page_says_what_the_console_says(compared):
    """A difference is stated in the same words in the printed table, in the page's table and on a parameter's page; so
    is that of the report, and each remark."""
    report = CheckReport(
        {compared.name: compared},
        (Diagnosis("scaled", (compared.name,), "It is 2 times the slope.", "With dW / 2 it would be 2e-16."),),
        difference=compared.difference,
        error=compared.error,
        penalty_share=0.25,
        moved=0.5,
        asked=("same bits twice? yes",),
        unasked=("fresh backward: no function",),
        notes=("a note",),
    )
    printed = str(report)
    page = json.loads(check_for_page(report.to_json()))
    (cell,) = RunDigest.of("run", {0: report.to_json()}).table()["checks"][0]["cells"]
    stated = page["parameters"][compared.name]["stated"]
    assert stated == cell["stated"] == compared.stated
    assert f"  {stated}" in printed
    assert page["parameters"][compared.name]["facts"][0][1].startswith(f"{stated}, ")
    assert page["parameters"][compared.name]["is_bound"] == cell["is_bound"] == compared.is_bound
    assert f"difference {page['stated']}," in printed.splitlines()[0]
    assert f"difference {page['stated']}" in page["facts"]
    assert page["sentences"][:-1] == printed.splitlines()[3:]
    assert "Not asked: fresh backward: no function" in page["sentences"]


def test_a_log_of_an_older_version_gets_the_words_of_today():
    """Nothing of what the page places is read from the log, and everything that is in the log is passed on."""
    document = json.loads(CheckReport({"bound": A_BOUND}, difference=1e-12, error=1e-13).to_json())
    document["of_a_newer_writer"] = 1
    for field in ("pictures", "curve", "bands", "penalty_share"):
        del document[field]
    page = json.loads(check_for_page(json.dumps(document)))
    assert page["parameters"]["bound"]["stated"] == page["stated"] == "at most 1.1e-12"
    assert document.items() <= (page | {"parameters": document["parameters"]}).items()


@pytest.mark.parametrize("kind", ["tensorboardX", "plain"])
def test_a_writer_of_ones_own_feeds_the_tab_too(tmp_path, kind):
    """Through tensorboardX's writer the reports are there for the tab; one without a file of its own is used too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboardX import SummaryWriter

    class Plain:
        """Only what every writer has."""

        def __init__(self, writer):
            self.add_scalar, self.add_text, self.flush = writer.add_scalar, writer.add_text, writer.flush

    with SummaryWriter(str(tmp_path)) as writer:
        mine = writer if kind == "tensorboardX" else Plain(writer)
        hook = GradCheckHook(after=None, writer=mine)
        hook.on_step(0, loss=lambda w: np.sum(w**2), params=np.ones(3), grads=2 * np.ones(3))
        hook.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    assert events.Scalars("gradcheck/verdict")[0].value == 0.0
    assert (CHECKS in events.Tags()["tensors"]) == (kind == "tensorboardX")
