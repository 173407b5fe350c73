"""The examples do what they say, the digits example on a network that was made smaller."""

from __future__ import annotations

import importlib.util
import re
import runpy
import warnings
from pathlib import Path

import pytest

from gc_hooks import GradCheckWarning, Verdict, nn
from hunts import some
from servers import run_python

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SUSPECT = re.compile("WORRY|DOUBLE_CHECK")
TEXTBOOK_DIGITS = 1e-9
"""How far processors may differ, relative: the last bit of a loss of about 1 (1e-16), divided by twice the textbook's
step of 1e-7. The linear algebra of each rounds in its own way; 1.6e-11 has been seen."""


@pytest.fixture(scope="module")
def first_check():
    """What the first example prints, split at its headings."""
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words: lines.append(" ".join(map(str, words))))
        runpy.run_path(str(EXAMPLES / "01_first_check.py"), run_name="__main__")
    return re.split("^--- ", "\n".join(lines), flags=re.MULTILINE)


def test_the_textbook_on_one_parameter(first_check):
    """J = 8, dtheta = 2, and the textbook's difference to its last digit."""
    assert "J = 8, dtheta = 2" in first_check[0]
    assert "2.919335883291695e-10" in first_check[0]


def test_the_planted_bugs_are_found_where_they_are(first_check):
    """With both bugs the textbook's difference is the known one, and gc_hooks accuses W2 and b1 alone."""
    (difference,) = re.findall(r"difference (\S+), there is a mistake", first_check[1])
    assert float(difference) == pytest.approx(0.2850931567761624, rel=TEXTBOOK_DIGITS)
    assert sorted(re.findall(r"^(\S+) +\d+x\d+ +WORRY", first_check[1], re.MULTILINE)) == ["W2", "b1"]
    assert len(re.findall(r"^\S+ +\d+x\d+ +GOOD", first_check[1], re.MULTILINE)) == 4


def test_the_repaired_gradient_is_good_where_the_textbook_errs(first_check):
    """The textbook still says that there is a mistake; the default check says GOOD, at about 1e-14."""
    (difference,) = re.findall(r"difference (\S+), there is a mistake", first_check[2])
    assert float(difference) == pytest.approx(1.189e-07, rel=0.05)  # at 1e-7 two digits are left
    assert not SUSPECT.search(first_check[2])
    (difference,) = re.findall(r"GOOD, difference (\S+)", first_check[2])
    assert float(difference) < 1e-13


def test_training_in_float32_raises_no_alarm(first_check):
    """Trained until its loss is below 1e-3 the float32 network is not accused, as a function or as buffers."""
    (loss,) = re.findall(r"trained in float32 for 1,500 steps: loss (\S+)", first_check[3])
    assert 0 < float(loss) < 1e-3
    assert not SUSPECT.search(first_check[3])
    assert re.search("gradient function.*: GOOD", first_check[3])
    assert "plain float32 buffers" in first_check[3]


@pytest.fixture
def digits(monkeypatch):
    """The digits example with at most twelve units to a layer, twelve pixels and ten batches."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("train_digits", EXAMPLES / "02_train_digits.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    wide, load = nn.Dense.__init__, example.load_digits

    def narrow(self, inputs, outputs, **options):
        wide(self, min(inputs, 12), min(outputs, 12), **options)

    def load_few(*arguments):
        inputs, labels, test_inputs, test_labels = load(*arguments)
        pixels = inputs.var(axis=0).argsort()[-12:]
        return inputs[:320, pixels], labels[:320], test_inputs[:, pixels], test_labels

    monkeypatch.setattr(nn.Dense, "__init__", narrow)
    monkeypatch.setattr(example, "load_digits", load_few)
    return example


def run(example, log_dir, bug):
    """The reports of a run that checks at 0, 1 and 5, and how often it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reports = example.main(["--bug", bug, "--epochs", "1", "--after", "5", "--log-dir", str(log_dir)])
    assert {warning.category for warning in caught} <= {GradCheckWarning}
    return reports, len(caught)


def test_the_digits_example_is_good_at_every_check(digits, tmp_path, capsys):
    """Without a bug: GOOD at 0, 1 and N, the log is written, and how to look at it is printed."""
    reports, warned = run(digits, tmp_path / "runs", "none")
    assert [(report.step, report.verdict) for report in reports] == [(step, Verdict.GOOD) for step in (0, 1, 5)]
    assert warned == 0
    assert list((tmp_path / "runs" / "gradcheck").glob("*.tfevents.*"))
    printed = capsys.readouterr().out
    assert re.search(r"10 steps in .* s, test accuracy \d", printed)
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in printed
    assert "http://localhost:6006/#gradcheck" in printed


RIGHT_AT_FIRST = ("penalty-on-biases", "never-zeroed")
BUGS = ("doubled", "averaged-bias", "relu-mask", "no-penalty", *RIGHT_AT_FIRST)


@pytest.mark.parametrize("bug", some(BUGS, ["doubled", "never-zeroed"]))
def test_a_planted_bug_is_found_where_it_is(digits, tmp_path, bug, capsys):
    """WORRY or DOUBLE_CHECK on exactly the parameters that are wrong, GOOD on the others, from the step it shows at."""
    planted = digits.digit_bugs.BUGS[bug]
    reports, warned = run(digits, tmp_path, bug)
    assert planted.wrong
    assert [report.step for report in reports] == [0, 1, 5]
    for report in reports:
        expected = set() if bug in RIGHT_AT_FIRST and report.step == 0 else set(planted.wrong)
        verdicts = {name: comparison.verdict for name, comparison in report.parameters.items()}
        assert {name for name, verdict in verdicts.items() if verdict >= Verdict.DOUBLE_CHECK} == expected
        assert {name for name, verdict in verdicts.items() if verdict is Verdict.GOOD} == verdicts.keys() - expected
    in_full = [report.step for report in reports if not report.ok and report.as_at is None]
    assert warned == len(in_full)
    if bug != "penalty-on-biases":  # which grows with the biases, more than tenfold in the first steps
        assert in_full == [1 if bug in RIGHT_AT_FIRST else 0]
    assert f"planted: {planted.story}" in capsys.readouterr().out


LATE = "capped-logits"


@pytest.mark.slow
def test_a_bug_that_appears_late_is_found_when_it_does(digits, tmp_path, monkeypatch):
    """GOOD as long as the logits are small; once they reach the cap every parameter is accused, and the loss named."""
    monkeypatch.setattr(digits.digit_bugs.CappedLogits, "CAP", 4.0)  # the small network's do not grow as far
    arguments = ["--bug", LATE, "--epochs", "20", "--after", "190", "--log-dir", str(tmp_path)]
    with pytest.warns(GradCheckWarning, match="step 190: WORRY"):
        before, after, late = digits.main(arguments)
    assert before.ok
    assert after.ok
    assert {name for name, c in late.parameters.items() if c.verdict is Verdict.WORRY} == set(late.parameters)
    assert any("CappedLogits" in diagnosis.message for diagnosis in late.diagnoses)


def test_every_planted_bug_is_tried(digits):
    """No bug of the example goes untested."""
    assert {"none", LATE, *BUGS} == set(digits.digit_bugs.BUGS)


def test_the_example_starts_from_anywhere(tmp_path):
    """The script finds its parts from another directory, and tells its options."""
    told = run_python("-W", "error", EXAMPLES / "02_train_digits.py", "--help", cwd=tmp_path)
    assert all(option in told.stdout for option in ("--bug", "--epochs", "--after", "--seed", "--log-dir"))


def test_ten_bugs_are_found_and_named():
    """A sentence each, with the right name, and none for the right gradient."""
    example = runpy.run_path(str(EXAMPLES / "03_find_the_bug.py"))
    codes = [[told.partition(":")[0] for told in example["find"](bug)] for bug in example["BUGS"]]
    expected = "scaled scaled sign l2_missing transposed swapped summed_over_wrong_axis gradient_lost rows wrong_below"
    assert codes == [[code] for code in expected.split()]
    assert example["find"]("") == []


def run_script(name, *arguments, missing=(), **options):
    """A script as a user starts it, with one thread for each library; packages that are missing cannot be imported."""
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({missing!r})); sys.argv = {[name, *arguments]!r}\n"
    code += f"runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    command = ["-c", code] if missing else [EXAMPLES / name, *arguments]
    return run_python(*command, environment={"OMP_NUM_THREADS": "1", "COLUMNS": "200"}, **options)


@pytest.mark.parametrize("bug", some([False, True], [True]))
def test_the_pytorch_example_names_the_bug_in_the_training_s_own_log(tmp_path, bug):
    """Beside the training's loss stand the checks; the slope's gradient is accused, with the batch size, or nothing."""
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = run_script("06_pytorch.py", "--log-dir", str(tmp_path / "log"), *(["--bug"] if bug else []))
    assert re.findall(r"step (\d+): (GOOD|WORRY)", told.stdout) == [
        (step, "WORRY" if bug else "GOOD") for step in ("0", "1", "200")
    ]
    assert ("for input 1 (slope) it is exactly 1/64 (1 / batch size) of what it should be" in told.stdout) == bug
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert len(events.Scalars("loss")) == 300
    assert [event.value for event in events.Scalars("gradcheck/verdict")] == [3.0 if bug else 0.0] * 3
    (difference,) = {event.value > 0.9 for event in events.Scalars("gradcheck/difference/1.slope")}
    assert difference == bug


@pytest.mark.parametrize("bug", some([False, True], [True]))
def test_the_cluster_example_finds_one_entry_of_1500(bug):
    """Over a Dask cluster on this machine every entry is measured, and the wrong one is told."""
    pytest.importorskip("distributed")
    told = run_script("08_on_a_cluster.py", *(["--bug"] if bug else []))
    assert ("step 0: DOUBLE_CHECK" if bug else "step 0: GOOD") in told.stdout
    assert ("single_entries: dW1 is wrong in entry [3, 4] only." in told.stdout) == bug
    assert re.search(r"1[6-9]\d\d evaluations over LocalCluster", told.stdout)


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [("06_pytorch.py", ("torch",), "torch"), ("08_on_a_cluster.py", ("dask", "distributed"), "distributed")],
)
def test_an_example_says_which_extra_it_needs(tmp_path, name, missing, extra):
    """Without the package there is one line that says what to install, and no traceback."""
    told = run_script(name, missing=missing, cwd=tmp_path, status=1)
    assert f"pip install gc_hooks[{extra}]" in told.stderr
    assert "Traceback" not in told.stderr


def example(name):
    return runpy.run_path(str(EXAMPLES / name))


def test_a_loop_of_ones_own(capsys):
    """GOOD at every check, WORRY with the mistake, and trained to the same bits with the hook and without."""
    right, wrong = example("04_your_own_loop.py")["main"]()
    assert [report.verdict for report in right.reports] == [Verdict.GOOD] * 3
    assert [report.verdict for report in wrong.reports] == [Verdict.WORRY] * 3
    printed = capsys.readouterr().out
    assert printed.count("without the hook: True") == 2
    assert "db1 is exactly 1/64 of the measured slope" in printed


def test_dropout_and_l2():
    """Refused when left on, good when off or frozen; a mask's mistake shows frozen only, a convention's by its name."""
    said = example("05_dropout_and_l2.py")["main"]()
    told = [lines[-1] if len(lines) > 1 else lines[0] for lines in said]
    starts = ["refused: The loss gave", "GOOD", "GOOD", "dropout_scale", "GOOD", "GOOD", "l2_missing", "l2_factor"]
    assert [line.startswith(start) for line, start in zip(told, starts, strict=True)] == [True] * 8
    assert "draws from Net.rng" in told[0]


def test_layers_and_lists():
    """Tied weights are one parameter in every shape, and a list that is too short is a finding."""
    layers, lists, short, recovered = example("07_layers_and_lists.py")["main"]()
    assert [report.verdict for report in (layers, lists, short, recovered)] == [
        Verdict.GOOD,
        Verdict.GOOD,
        Verdict.WORRY,
        Verdict.GOOD,
    ]
    assert list(layers.parameters) == ["encoder.0.W", "encoder.0.b", "decoder.b"]
    assert "3 gradients for 4 parameters" in short.notes[0]


@pytest.mark.slow
def test_the_convolutional_example_is_good_at_every_check(tmp_path, capsys):
    """With a quarter of the channels and of the epochs: GOOD at 0, 1 and N, and most of the digits are read."""
    example = runpy.run_path(str(EXAMPLES / "09_convolutional_digits.py"))
    arguments = ["--epochs", "3", "--channels", "4", "--after", "60", "--log-dir", str(tmp_path)]
    reports, accuracy = example["main"](arguments)
    assert [(report.step, report.verdict) for report in reports] == [(step, Verdict.GOOD) for step in (0, 1, 60)]
    assert accuracy > 0.8
    assert list((tmp_path / "gradcheck").glob("*.tfevents.*"))
    assert re.search(r"180 steps, test accuracy \d", capsys.readouterr().out)


def test_the_character_model_learns_while_its_checks_are_good(capsys):
    """A small LSTM for two epochs: the loss falls, GOOD at 0, 1 and N with a word on the truncation, and it writes."""
    example = runpy.run_path(str(EXAMPLES / "10_character_model.py"))
    reports, history = example["main"](["--epochs", "2", "--units", "16", "--after", "60"])
    assert [(report.step, report.verdict) for report in reports] == [(step, Verdict.GOOD) for step in (0, 1, 60)]
    assert all(any("truncates" in note for note in report.notes) for report in reports)
    assert history["loss"][1] < 0.9 * history["loss"][0]
    sample = capsys.readouterr().out.splitlines()[-1]
    assert sample.startswith("Alice ")
    assert len(sample) == 206


def test_scipy_sees_nothing_in_an_adjoint_that_is_off_by_one(capsys):
    """Its number is as large for the right gradient as for the wrong one; the hook's verdicts are not."""
    pytest.importorskip("scipy")
    right, wrong = runpy.run_path(str(EXAMPLES / "11_heat_by_adjoint.py"))["main"]()
    assert [report.verdict for report in right.reports] == [Verdict.GOOD] * 3
    assert [report.verdict for report in wrong.reports] == [Verdict.WORRY] * 3
    of_right, of_wrong = map(float, re.findall(r"check_grad says (\S+)", capsys.readouterr().out))
    assert of_wrong < 5 * of_right


def test_jacobians_of_a_fit_a_system_products_and_a_hessian():
    """Each bug is named where it is, and the right one is good for four evaluations."""
    pytest.importorskip("scipy")
    reports = runpy.run_path(str(EXAMPLES / "12_jacobians.py"))["main"]()
    verdicts = [report.verdict for report in reports.values()]
    assert verdicts == [Verdict.WORRY, Verdict.GOOD, Verdict.WORRY, Verdict.WORRY, Verdict.WORRY]
    assert "theta[2]" in reports["a fit"].diagnoses[0].message
    assert reports["sparse"].evaluations == 4
    assert "output 701 by theta[700]" in reports["sparse, one neighbour forgotten"].diagnoses[0].evidence
    assert reports["products"].diagnoses[0].code == "not_adjoint"


@pytest.mark.parametrize(
    "name", sorted(path.name for path in [*EXAMPLES.glob("[01][04-9]_*.py"), *EXAMPLES.glob("1[12]_*.py")])
)
def test_an_example_is_short(name):
    """It can be read at one go: under 80 lines."""
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 80
