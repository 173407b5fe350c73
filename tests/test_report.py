"""The report: what it says, how it is written down, and that nothing in it breaks a table."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from gc_hooks import (
    Basis,
    CheckReport,
    Comparison,
    Diagnosis,
    GradCheckError,
    Status,
    Verdict,
    central,
    check_gradients,
    complex_step,
)
from gc_hooks.arrays.tree import flatten, rebuild
from gc_hooks.report import page_texts
from gc_hooks.report.comparison import EntryComparison, Reason
from gc_hooks.report.plots import ParameterPlot, StepCurve
from gc_hooks.report.text import html_table, markdown_table, markdown_text, parameter_facts, text_table

GOOD, INCONCLUSIVE, DOUBLE_CHECK, WORRY = Verdict
HOSTILE = [
    "a|b",
    "x\ny",
    "<script>alert(1)</script>",
    "*bold*_`code`[link](x)",
    "&amp;",
    "[red]rich[/red]",
    "ü ± ∇",
    "",
]


def comparison(name="w", verdict=GOOD, difference=1e-10, **options):
    return Comparison(name, (2, 3), difference, 1e-12, verdict, **options)


def report_of(*comparisons, **options):
    return CheckReport({c.name: c for c in comparisons}, **options)


FULL = report_of(
    comparison("good", basis=Basis.EXACT, measured=6, sensitivity=2e-7, backprop_norm=1.0, measured_norm=1.0),
    comparison("nan", INCONCLUSIVE, math.nan, status=Status.NONFINITE, note="the loss is nan"),
    comparison(
        "bad",
        WORRY,
        0.5,
        wrong=2,
        sensitivity=math.inf,
        status=Status.KINK,
        worst=(EntryComparison((1, 2), math.inf, -math.inf, math.nan), EntryComparison((), 1.0, 2.0, 0.5)),
    ),
    diagnoses=(Diagnosis("sign", ("bad",), "The sign.", "ratio -1", "Try minus."),),
    difference=0.25,
    error=math.inf,
    loss=math.nan,
    step=7,
    method="central + complex_step",
    seed=3,
    evaluations=42,
    gradients=2,
    seconds=0.125,
    penalty_share=0.25,
    moved=math.nan,
    asked=("same bits twice? yes",),
    unasked=("fresh backward: no function",),
    notes=("a note",),
)


def same(first, second):
    """Equal in every field, NaN equal to NaN, types included."""
    return repr(first) == repr(second)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([], INCONCLUSIVE),
        ([GOOD], GOOD),
        ([GOOD, INCONCLUSIVE], INCONCLUSIVE),
        ([WORRY, GOOD], WORRY),
        ([INCONCLUSIVE, DOUBLE_CHECK], DOUBLE_CHECK),
    ],
)
def test_the_verdict_is_the_worst_of_the_parameters(verdicts, worst):
    """One bad parameter makes a bad report, and nothing looked at is nothing shown."""
    report = report_of(*(comparison(str(k), verdict) for k, verdict in enumerate(verdicts)))
    assert report.verdict is worst
    assert report.ok is (worst is GOOD)


@pytest.mark.parametrize("report", [FULL, CheckReport({})])
def test_a_report_is_neither_true_nor_false(report):
    """``if report:`` is refused, and the message says what to write instead."""
    with pytest.raises(TypeError, match=r"report\.ok"):
        bool(report)


def test_the_worst_parameters_come_first():
    """By verdict, then by difference; a difference that is NaN counts as the largest."""
    report = report_of(
        comparison("good"),
        comparison("small", WORRY, 0.1),
        comparison("nan", WORRY, math.nan),
        comparison("large", WORRY, 0.9),
        comparison("vague", INCONCLUSIVE, 0.99),
    )
    assert [c.name for c in report.worst_first] == ["nan", "large", "small", "vague", "good"]
    assert [row[0] for row in report.rows()] == ["nan", "large", "small", "vague", "good"]


def test_the_headline_of_a_good_check_is_short():
    """Verdict, difference with its bar, and what it cost."""
    report = report_of(comparison(), step=3, difference=2e-10, error=1e-11, evaluations=50, seconds=0.5)
    assert report.headline == "step 3: GOOD, difference 2.0e-10 ± 1e-11, 1 parameter, 50 evaluations, 0.5 s"


def test_a_bound_is_called_one():
    """A periodic check knows no more than how large a difference may be; what another question found is no bound."""
    bound = comparison(basis=Basis.BOUNDED, difference=1.3e-12)
    found = replace(bound, difference=0.5, at_least=0.5 - 1e-12, verdict=WORRY)
    report = report_of(bound, difference=1.3e-12, error=2e-24, seconds=1.0, evaluations=1)
    assert report.headline == "step 0: GOOD, difference at most 1.3e-12, 1 parameter, 1 evaluation, 1 s"
    assert report.rows()[0][3] == "at most 2.3e-12"  # the bar included
    assert report_of(found).rows()[0][3] == "5.0e-01 ± 1e-12"
    assert report_of(comparison(basis=Basis.BOUNDED, difference=0.0), difference=0.0, error=0.0).ok


def test_an_estimate_that_fails_says_what_is_certain():
    """Its bar reaches farther up than down: by 1.7e-01 ± 3e-01 alone WORRY could not be told."""
    sizes = {"backprop_norm": 1.0, "measured_norm": 1.0}
    wide = replace(comparison("w", WORRY, 0.17, basis=Basis.ESTIMATED, at_least=0.03, **sizes), error=0.3)
    small = replace(wide, name="small", difference=1e-12, at_least=0.0, verdict=GOOD, error=1e-12)
    report = report_of(wide, small, difference=0.12, error=0.2)
    assert report.rows()[0][3] == "1.7e-01 (at least 3e-02)"
    assert report.rows()[1][3] == "1.0e-12 ± 1e-12"
    assert report.headline == "step 0: WORRY, difference 1.2e-01 (at least 2e-02), 1 of 2 parameters: w"
    unclear = replace(wide, verdict=INCONCLUSIVE, at_least=0.0)
    assert report_of(unclear).rows()[0][3] == "1.7e-01 ± 3e-01"


def test_what_could_not_be_compared_has_no_difference():
    """Missing, misshapen or NaN: that of the others would look like its own."""
    nan = {"difference": math.nan, "verdict": WORRY}
    report = report_of(comparison("W", **nan), comparison("b", **nan), comparison("c"), difference=0.0, error=1e-14)
    assert report.headline == "step 0: WORRY, 2 parameters not comparable, 2 of 3 parameters: W and b"


def test_the_headline_of_an_empty_report_is_its_verdict():
    """Without parameters there is nothing to count, though a difference may be known."""
    assert CheckReport({}).headline == "step 0: INCONCLUSIVE"
    assert CheckReport({}, difference=0.5, error=0.1).headline == "step 0: INCONCLUSIVE, difference 5.0e-01 ± 1e-01"


def test_the_headline_of_a_bad_check_names_the_parameters():
    """At most four names, the worst first."""
    report = report_of(*(comparison(f"W{k}", WORRY, k / 10) for k in range(6)), comparison())
    assert report.headline == "step 0: WORRY, 6 of 7 parameters: W5, W4, W3, W2 and 2 more"


def test_the_page_gets_the_words_of_the_console():
    """The difference, the sentences and their order are those that are printed, and what the check cost is added."""
    texts = page_texts(FULL)
    assert texts["stated"] == FULL.stated == "2.5e-01 ± inf"
    assert texts["facts"] == ["step 7", "difference 2.5e-01 ± inf", "loss nan", "42 evaluations, 0.12 s"]
    assert texts["summary"] == "Not good: bad and nan."
    *sentences, cost = texts["sentences"]
    assert sentences == FULL.remarks
    assert all(sentence in str(FULL).splitlines() for sentence in sentences)
    assert cost == (
        "Measured by central + complex_step; seed 3; 42 evaluations of the loss, 0 of them complex, 2 of the gradient."
    )


@pytest.mark.parametrize(
    ("report", "summary"),
    [
        (report_of(comparison()), "Backprop's gradient is the slope of the loss, in 1 parameter."),
        (report_of(comparison("a"), comparison("b")), "Backprop's gradient is the slope of the loss, in 2 parameters."),
        (
            report_of(*(comparison(f"W{k}", WORRY, k / 10) for k in range(8))),
            "Not good: W7, W6, W5, W4, W3, W2 and 2 more.",
        ),
        (CheckReport({}), "Nothing was checked."),
        (CheckReport({}, notes=("The loss raised.", "b")), "The loss raised."),
    ],
)
def test_the_page_says_how_a_check_ended(report, summary):
    """In one sentence, which stands where a diagnosis would."""
    assert page_texts(report)["summary"] == summary


def test_the_page_says_what_is_known_of_a_parameter():
    """The difference as in the table, what it rests on, and whatever else is known and finite."""
    exact = comparison(basis=Basis.EXACT, sensitivity=2e-7, backprop_norm=1.0, measured_norm=2.0, note="a note")
    facts = dict(parameter_facts(replace(exact, penalty_share=0.25, weight_norm=3.0, moved=0.5)))
    assert facts == {
        "difference": "1.0e-10 ± 1e-12, all entries measured (6)",
        "sensitivity": "a relative error above 2e-07 would have been seen",
        "gradient": "norm 1 by backprop, 2 measured",
        "penalty": "0.25 of the gradient",
        "weights": "norm 3, moved by 0.5 of their norm since the first check",
        "noted": "a note",
    }
    assert dict(parameter_facts(comparison(difference=math.nan))) == {
        "difference": "nothing measured",
        "gradient": "norm nan by backprop",
    }
    at_first = replace(exact, weight_norm=3.0, moved=0.0)
    assert dict(parameter_facts(at_first))["weights"] == "norm 3, where the first check saw them"


@pytest.mark.parametrize("basis", Basis)
def test_the_page_says_what_every_difference_rests_on(basis):
    """No basis is without words."""
    (term, text), *_ = parameter_facts(comparison(basis=basis, directions=2, measured=3))
    assert term == "difference"
    assert len(text.partition(", ")[2]) > 10


def test_what_is_printed_holds_everything_that_was_found():
    """The table, the diagnoses, the penalty's share, questions and notes; a difference of NaN is left blank."""
    text = str(FULL)
    for said in (
        "step 7: WORRY",
        "bad",
        "2x3",
        "5.0e-01",
        "[1, 2] backprop inf, measured -inf",
        "sign: The sign. ratio -1 Try minus.",
        "penalty makes up 0.25 of the gradient",
        "same bits twice? yes",
        "Not asked: fresh backward: no function",
        "a note",
        "the loss is nan",
    ):
        assert said in text
    assert "nan ±" not in text


def test_how_far_the_weights_have_moved_is_said():
    """A hook's second check says how far from the first it was made; without a hook nothing is said."""
    assert "moved by 0.5 of their norm" in str(replace(FULL, moved=0.5))
    assert "moved" not in str(FULL)


def test_a_number_has_no_shape_to_print():
    """The shape of a single number is written as a word."""
    assert CheckReport({"theta": Comparison("theta", (), 0.0, 0.0, GOOD)}).rows()[0][1] == "number"


def test_notes_are_added_without_changing_the_report():
    """Reports are frozen; a note makes a new one."""
    assert FULL.noted("more", "and more").notes == ("a note", "more", "and more")
    assert FULL.notes == ("a note",)


@pytest.mark.parametrize("report", [FULL, CheckReport({})])
def test_json_round_trip(report):
    """Everything comes back, NaN and infinities and tuples too, from one line of standard JSON."""
    text = report.to_json()
    assert "\n" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not standard JSON"))
    assert same(CheckReport.from_json(text), report)


def test_json_round_trip_of_real_checks():
    """A report that a check made, good or bad, is read back as it was; the verdict stands in the JSON by name."""
    w = np.array([1.0, -2.0])
    for factor, verdict in ((1, "GOOD"), (2, "WORRY"), (np.nan, "WORRY")):
        report = check_gradients(lambda w: np.sum(w**2), w, factor * 2 * w, step=np.int64(5), seed=np.int64(2))
        assert str(CheckReport.from_json(report.to_json())) == str(report)
        assert json.loads(report.to_json())["verdict"] == verdict


@pytest.mark.parametrize("name", HOSTILE)
def test_json_keeps_any_name(name):
    """Names with quotes, line breaks and any letters survive."""
    report = report_of(comparison(name))
    assert list(CheckReport.from_json(report.to_json()).parameters) == [name]


def test_json_without_pictures():
    """Whoever shows no pictures need not read them; everything else comes back."""
    curve = StepCurve("w", (1.0, 0.5), (0.1, math.nan), 0.5, 1e-3, 1e-16)
    plot = ParameterPlot(((0, 1.0, math.nan, 1e-9),), ((1.0, 0.5, 0.25),), (1, 2), -1.0, 1.0, curve)
    report = replace(FULL, pictures={"bad": plot}, curve=curve)
    assert same(CheckReport.from_json(report.to_json()), report)
    assert same(CheckReport.from_json(report.to_json(), pictures=False), FULL)


def test_json_of_an_earlier_writer_is_read():
    """Fields that an older version did not know have the value that a report has without them."""
    document = json.loads(report_of(comparison("w", WORRY, 0.5)).to_json())
    early = {"name", "shape", "difference", "error", "verdict"}
    document["parameters"]["w"] = {key: item for key, item in document["parameters"]["w"].items() if key in early}
    for field in ("pictures", "curve", "bands", "diagnoses", "complex_evaluations", "penalty_share", "moved"):
        del document[field]
    assert same(CheckReport.from_json(json.dumps(document)), report_of(comparison("w", WORRY, 0.5)))


def test_json_of_a_later_writer_is_read():
    """Fields that a newer version of the same schema added are passed over, at every level."""
    document = json.loads(FULL.to_json())
    document["new"] = document["parameters"]["bad"]["new"] = document["diagnoses"][0]["new"] = 1
    document["parameters"]["bad"]["worst"][0]["new"] = 1
    assert same(CheckReport.from_json(json.dumps(document)), FULL)


def test_json_of_a_newer_schema_is_refused():
    """A schema from the future is an error that says to upgrade."""
    document = {**json.loads(FULL.to_json()), "schema": 2}
    with pytest.raises(GradCheckError, match=r"schema 2, this version of gc_hooks reads up to 1.*upgrade"):
        CheckReport.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "3",
        "null",
        '"text"',
        "{}",
        '{"schema": null}',
        '{"schema": "1"}',
        '{"schema": 1}',
        '{"schema": 1, "parameters": 3, "diagnoses": []}',
        '{"schema": 1, "parameters": {"w": {}}, "diagnoses": []}',
        FULL.to_json()[:-10],
        FULL.to_json().replace('"WORRY"', '"FINE"'),
    ],
)
def test_what_is_no_report_is_refused(text):
    """Anything else than a report is an error of this package that shows its beginning, not a KeyError."""
    with pytest.raises(GradCheckError, match="not the JSON of a gradient check"):
        CheckReport.from_json(text)


def test_every_field_is_documented():
    """The docstring's list of attributes is complete."""
    for kind in (CheckReport, Comparison):
        for field in fields(kind):
            assert field.name in kind.__doc__


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_no_table(name):
    """A name with a bar, a line break or markup stays one cell: as many lines and columns as without it."""
    bad = comparison(name, WORRY, 0.5, note=name)
    hostile = report_of(bad, notes=(name,), diagnoses=(Diagnosis("sign", (name,), name),))
    tame = report_of(comparison("x", WORRY, 0.5, note="x"), notes=("x",), diagnoses=(Diagnosis("s", ("x",), "x"),))
    assert hostile.to_markdown().count("\n") == tame.to_markdown().count("\n")
    assert hostile.to_markdown().count("|") == tame.to_markdown().count("|")
    assert "<" not in hostile.to_markdown()
    html = hostile._repr_html_()
    assert html.count("<") == tame._repr_html_().count("<")
    assert "<script" not in html
    table = text_table(("a", "b"), [(name, "x")])
    assert len(table.splitlines()) == 2


def test_html_has_rows_and_remarks():
    """A notebook shows the headline, one row a parameter and every remark."""
    html = FULL._repr_html_()
    assert html.count("<tr>") == 1 + len(FULL.parameters)
    assert html.count("<li>") == len(FULL.remarks)
    assert "step 7: WORRY" in html


def test_markdown_has_rows_and_remarks():
    """TensorBoard's text dashboard gets the headline in bold, a table and a list."""
    lines = FULL.to_markdown().splitlines()
    assert lines[0].startswith("**step 7: WORRY")
    assert sum(line.startswith("|") for line in lines) == 2 + len(FULL.parameters)
    assert sum(line.startswith("* ") for line in lines) == len(FULL.remarks)


def test_text_columns_are_aligned():
    """Each column begins where its header does, and no line ends in blanks."""
    table = text_table(["a", "long header", "c"], [["1", "2", "3"], ["wide cell", "", "x"], ["", "", "y"]])
    assert table.splitlines() == [
        "a          long header  c",
        "1          2            3",
        "wide cell               x",
        "                        y",
    ]


@pytest.mark.parametrize("make", [text_table, markdown_table, html_table])
def test_a_table_without_rows_is_its_header(make):
    """No rows are no error."""
    assert "parameter" in make(["parameter"], [])


@pytest.mark.parametrize(
    ("text", "plain"),
    [("a|b", "a&#124;b"), ("x\r\ny", "x y"), ("<b>", "&lt;b&gt;"), ("a_b*", "a&#95;b&#42;"), ("&lt;", "&amp;lt;")],
)
def test_markdown_shows_text_as_it_is(text, plain):
    """Every character that markdown gives a meaning is written as an entity, once."""
    assert markdown_text(text) == plain


def test_what_was_not_judged_is_told_in_one_line_and_is_never_good():
    """One array that was left out turns a GOOD report INCONCLUSIVE, in the text, in JSON and back."""
    good = check_gradients(lambda p: p["w"] ** 2, {"w": 3.0}, {"w": 6.0})
    assert good.ok
    assert good.coverage == ""
    partial = replace(good, unjudged=("1.W", "1.b"))
    assert partial.verdict is Verdict.INCONCLUSIVE
    assert not partial.ok
    assert "Judged: 1 of 3 arrays; not 1.W and 1.b." in str(partial).splitlines()
    again = CheckReport.from_json(partial.to_json())
    assert (again.unjudged, again.verdict) == (("1.W", "1.b"), Verdict.INCONCLUSIVE)


def test_an_adapter_names_what_looks_like_a_parameter_and_is_none():
    """The names reach the report through the mapping of parameters, read anew at each check."""

    class Model(dict):
        unjudged = ("layer3.W",)

    report = check_gradients(lambda p: p["w"] ** 2, Model(w=3.0), {"w": 6.0})
    assert report.unjudged == ("layer3.W",)


@pytest.mark.parametrize("method", [None, central, complex_step])
def test_what_the_loss_gives_no_gradient_was_not_tested(method):
    """Whole matrices behind a batch of zeros: GOOD, with what was judged in one line, and a note that says what to
    look at. With inputs that are no zeros the same gradient is wrong."""
    rng = np.random.default_rng(0)
    params = {"W1": rng.normal(size=(4, 5)), "b1": rng.normal(size=5), "w2": rng.normal(size=5)}
    inputs, targets = rng.normal(size=(8, 4)), rng.normal(size=8)

    def check(x):
        def loss(p):
            return 0.5 * np.sum((np.tanh(x @ p["W1"] + p["b1"]) @ p["w2"] - targets) ** 2)

        hidden = np.tanh(x @ params["W1"] + params["b1"])
        error = hidden @ params["w2"] - targets
        delta = np.outer(error, params["w2"]) * (1 - hidden**2)
        grads = {"W1": x.T @ np.outer(error, params["w2"]), "b1": delta.sum(0), "w2": hidden.T @ error}
        return check_gradients(loss, params, grads, method=method)

    report = check(0 * inputs)
    assert report.ok
    assert (report.untested, report.unjudged) == (("W1",), ())
    assert report.parameters["W1"].reason is Reason.NO_GRADIENT
    assert report.coverage == "Judged: 2 of 3 arrays; nothing was tested of W1."
    assert report.coverage in str(report).splitlines()
    (note,) = [note for note in report.notes if note.startswith("Nothing was tested of W1: the loss does not depend")]
    assert "This usually means inputs of zeros" in note
    assert "Try to look at the inputs" in note
    assert CheckReport.from_json(report.to_json()).coverage == report.coverage
    assert check(inputs).parameters["W1"].verdict is Verdict.WORRY
    both = replace(report, unjudged=("W3",))
    assert both.coverage == "Judged: 2 of 4 arrays; not W3; nothing was tested of W1."


def test_a_normalised_sum_tests_neither_inputs_nor_gamma():
    """The sum of what batch norm gives is constant, also where the rounding of both sides is the same by chance."""
    x = np.random.default_rng(0).normal(size=(16, 3))
    params = {"x": x, "gamma": np.ones(3), "beta": np.zeros(3)}

    def normalised(p):
        centred = p["x"] - p["x"].mean(0)
        return centred / np.sqrt((centred**2).mean(0) + 1e-5)

    def grads(p):
        return {"x": 0 * x, "gamma": normalised(p).sum(0), "beta": np.full(3, 16.0)}

    report = check_gradients(lambda p: np.sum(p["gamma"] * normalised(p) + p["beta"]), params, grads)
    assert report.ok
    assert report.coverage == "Judged: 1 of 3 arrays; nothing was tested of x and gamma."


def test_a_bias_without_gradient_is_no_news():
    """A bias in front of a normalisation has none, rightly; where nothing else is there, it is told."""
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(4, 3)), "b": rng.normal(size=(1, 3))}
    x, r = rng.normal(size=(8, 4)), rng.normal(size=(8, 3))

    def centred(p):
        z = x @ p["W"] + p["b"]
        return r * (z - z.mean(0))

    report = check_gradients(lambda p: np.sum(centred(p)), params, {"W": x.T @ (r - r.mean(0)), "b": np.zeros((1, 3))})
    assert (report.ok, report.untested, report.coverage, report.notes) == (True, (), "", ())
    alone = check_gradients(lambda b: np.sum(centred({**params, "b": b})), params["b"], np.zeros((1, 3)))
    assert (alone.ok, alone.coverage) == (True, "Judged: 0 of 1 array; nothing was tested of theta.")


LISTS = {"W": [np.ones((2, 3)), np.ones(3)], "b": [np.ones(2)]}


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ([np.ones(2), np.ones(3)], ["params[0]", "params[1]"]),
        ([[np.ones(2)], [np.ones(3)]], ["params[0][0]", "params[1][0]"]),
        (LISTS, ["W[0]", "W[1]", "b[0]"]),
    ],
)
@pytest.mark.parametrize("bug", ["half", "penalty", "missing", "square", "shape"])
def test_positions_in_lists_read_well_in_a_sentence(params, names, bug):
    """A bare number is never the name of a parameter in a sentence; in the report they are found by their paths. The
    sentences are those about arrays with names, with other names in them."""
    paths, arrays = list(flatten(params)), list(flatten(params).values())
    change = {
        "half": lambda g, a: g / 2,
        "penalty": lambda g, a: g - 0.1 * a,
        "missing": lambda g, a: None,
        "square": lambda g, a: g**2 + a,
        "shape": lambda g, a: np.ones(7),
    }[bug]

    def loss(p):
        return sum(np.sum(np.sin(a)) + 0.05 * np.sum(a**2) for a in flatten(p).values())

    def sentences_of(params):
        grads = {name: np.cos(a) + 0.1 * a for name, a in flatten(params).items()}
        first = next(iter(grads))
        grads[first] = change(grads[first], arrays[0])
        report = check_gradients(loss, params, rebuild(params, grads))
        notes = [comparison.note for comparison in report.parameters.values()]
        return list(report.parameters), "\n".join([report.headline.partition("difference")[0], *report.remarks, *notes])

    named, expected = sentences_of({f"layer{k}.x": array for k, array in enumerate(arrays)})
    for name, spoken in zip(named, names, strict=True):
        expected = expected.replace(name, spoken)
    assert sentences_of(params) == (paths, expected)
    assert names[0] in expected
