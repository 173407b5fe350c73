"""Making a check whatever happens."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest

from gc_hooks import (
    CheckReport,
    GradCheckHook,
    GradCheckWarning,
    InvalidProblem,
    Reporter,
    TensorBoardReporter,
    Verdict,
)
from gc_hooks.hooks import recorder as recorder_module
from gc_hooks.hooks.recorder import CheckRecorder, print_warning
from gc_hooks.report.comparison import Comparison, Reason
from gc_hooks.reporters import choose_reporters


class Listener(Reporter):
    """A reporter that writes down what it is told, and fails at one verb."""

    def __init__(self, fails_at="", opening=""):
        self.heard, self.fails_at, self.opening = [], fails_at, opening

    def _hear(self, verb, argument=None):
        self.heard.append((verb, argument))
        if verb == self.fails_at:
            raise OSError(28, "No space left on device")

    def open(self):
        self._hear("open")
        return self.opening

    def report(self, report):
        self._hear("report", report.step)

    def say(self, text):
        self._hear("say", text)

    def close(self):
        self._hear("close")


def checked(recorder, step, params, ask):
    """Make a check with a recorder, as a hook does."""
    with recorder.record(step) as check:
        check.protect(params, ask)
        check.report = ask(check.seed)
    return check.report


def seeded_report(seed):
    return CheckReport({}, seed=seed)


def failing(error):
    def ask(seed):
        raise error

    return ask


def test_a_check_is_kept_and_handed_on():
    """A report goes to every reporter, opened before, and into the list."""
    listeners = Listener(), Listener()
    recorder = CheckRecorder(listeners, 0)
    report = checked(recorder, 3, np.ones(2), lambda seed: CheckReport({}, step=3))
    assert recorder.reports == [report]
    assert [listener.heard for listener in listeners] == [[("open", None), ("report", 3)]] * 2
    assert recorder.seconds > 0


def test_what_a_reporter_says_on_opening_is_a_note_of_the_report():
    """Where the checks go is told with the first of them."""
    report = checked(CheckRecorder([Listener(opening="They go elsewhere."), Listener()], 0), 0, 1.0, seeded_report)
    assert report.notes == ("They go elsewhere.",)


def test_each_check_has_a_seed_of_its_own_and_a_run_can_be_repeated():
    """Seeds differ from check to check, depend on the hook's seed, and are the same in the next run."""
    runs = []
    for seed in (0, 0, 1):
        recorder = CheckRecorder([], seed)
        runs.append([checked(recorder, step, 1.0, seeded_report).seed for step in range(3)])
    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == 6


def test_a_check_that_fails_is_one_warning_and_an_inconclusive_report():
    """An exception of the loss is told once, recorded with its reason, and handed on."""
    listener = Listener()
    recorder = CheckRecorder([listener], 0)
    with pytest.warns(GradCheckWarning, match="Nothing was checked.*step 5.*ZeroDivisionError: by hand") as caught:
        report = checked(recorder, 5, 1.0, failing(ZeroDivisionError("by hand")))
    assert len(caught) == 1
    assert (report.verdict, report.step, report.ok) == (Verdict.INCONCLUSIVE, 5, False)
    assert "ZeroDivisionError: by hand" in report.notes[0]
    assert recorder.reports == [report]
    assert listener.heard == [("open", None), ("report", 5)]


def of_nothing(seed):
    return np.linalg.solve(np.zeros((2, 2)), np.ones(2)).sum()


@pytest.mark.parametrize(("ask", "where"), [(of_nothing, True), (failing(InvalidProblem("Try this.")), False)])
def test_what_the_users_code_raised_is_found_in_it(ask, where):
    """File, line and function, past the library in which it came up; a message of our own needs no address."""
    line = of_nothing.__code__.co_firstlineno + 1
    with pytest.warns(GradCheckWarning, match=r"\. The training goes on") as caught:
        checked(CheckRecorder([], 0), 0, 1.0, ask)
    (text,) = (str(each.message) for each in caught)
    assert (f"It was raised in of_nothing (test_recorder.py:{line})." in text) == where
    assert "Try" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_not_held_back(error):
    """Ctrl-C and an exit leave the recorder, without a record, and the time is counted nevertheless."""
    recorder = CheckRecorder([], 0)
    with pytest.raises(error):
        checked(recorder, 0, 1.0, failing(error()))
    assert recorder.reports == []
    assert recorder.seconds > 0


@pytest.mark.parametrize("verb", ["open", "report", "say", "close"])
def test_a_reporter_that_fails_is_left_out_from_then_on(verb):
    """A full disk is told once; the other reporter, the report and the checks that follow are not touched by it."""
    broken, sound = Listener(fails_at=verb), Listener()
    recorder = CheckRecorder([broken, sound], 0)

    def make_checks():
        for step in range(3):
            checked(recorder, step, 1.0, lambda seed, step=step: CheckReport({}, step=step))
            recorder.say("so far")
        recorder.close()
        recorder.close()

    with pytest.warns(GradCheckWarning, match="Listener failed with OSError.*No space left.*not used") as caught:
        make_checks()
    assert len(caught) == 1
    assert [argument for heard, argument in sound.heard if heard == "report"] == [0, 1, 2]
    assert [heard for heard, _ in broken.heard].count(verb) == 1
    assert len(recorder.reports) == 3


def test_a_reporter_need_not_have_every_verb():
    """Reporters without `open` and `say` are told the rest."""

    class Plain:
        heard = 0

        def report(self, report):
            self.heard += 1

    plain = Plain()
    recorder = CheckRecorder(choose_reporters([plain], None, None), 0)
    checked(recorder, 0, 1.0, seeded_report)
    recorder.say("so far")
    recorder.close()
    assert plain.heard == 1


def test_movement_is_measured_from_the_first_check():
    """The distance from the first check's weights, in units of their norm, whatever the structure of the parameters."""
    recorder = CheckRecorder([], 0)
    points = [{"a": np.array([3.0, 0.0]), "b": [4.0]}, {"a": np.array([3.0, 1.0]), "b": [4.0]}]
    assert [checked(recorder, 0, point, seeded_report).moved for point in points] == [0.0, 0.2]
    assert checked(recorder, 0, points[0], seeded_report).moved == 0.0


def test_movement_from_zero_is_infinite():
    """From weights that are all zero, no movement is zero and any movement is more than can be said."""
    recorder = CheckRecorder([], 0)
    moved = [checked(recorder, 0, np.array(value), seeded_report).moved for value in (0.0, 0.0, 1.0)]
    assert moved == [0.0, 0.0, math.inf]


def test_the_weights_are_remembered_as_they_were():
    """An update in place does not move the point from which movement is measured."""
    recorder, w = CheckRecorder([], 0), np.array([1.0, 0.0], dtype=np.float32)
    checked(recorder, 0, w, seeded_report)
    w *= 2
    assert checked(recorder, 1, w, seeded_report).moved == 1.0


@pytest.mark.parametrize(("shift", "noted"), [(0.0, True), (1e-9, True), (1e-3, False), (math.nan, False)])
def test_a_check_that_sees_nothing_new_says_so(shift, noted):
    """A second check at the same weights says that it has nothing new to see; at other weights, or NaN, it does not."""
    recorder = CheckRecorder([], 0)
    first = checked(recorder, 0, 1.0, seeded_report)
    second = checked(recorder, 1, 1.0 + shift, seeded_report)
    assert not any("nothing new" in note for note in first.notes)
    assert any("nothing new" in note for note in second.notes) == noted


def test_the_global_random_state_is_put_back():
    """What the loss draws from NumPy's and Python's global generators is put back, also when it raises."""

    def draw(seed):
        np.random.rand(3)
        random.random()
        raise ValueError("drawn")

    before = np.random.get_state()[1].copy(), random.getstate()
    with pytest.warns(GradCheckWarning, match="drawn"):
        checked(CheckRecorder([], 0), 0, 1.0, draw)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


def test_the_global_random_state_may_be_of_another_kind():
    """A global generator that the user replaced by a PCG64 is put back too, without a warning."""
    original = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        before = np.random.get_state(legacy=False)
        checked(CheckRecorder([], 0), 0, 1.0, lambda seed: CheckReport({}, loss=np.random.rand()))
        assert np.random.get_state(legacy=False) == before
    finally:
        np.random.set_bit_generator(original)


def test_how_to_look_at_the_checks_is_said_once(tmp_path):
    """After the first check, by every reporter that can say something: the command and the addresses."""
    said = []

    class Speaker:
        def report(self, report):
            said.append(report.step)

        def say(self, text):
            said.append(text)

    reporters = [TensorBoardReporter(tmp_path), Speaker()]
    hook = GradCheckHook(after=None, reporters=reporters)
    for step in range(2):
        hook.on_step(step, loss=lambda w: w**2, params=3.0, grads=6.0)
    assert [text for text in said if isinstance(text, int)] == [0, 1]
    (where,) = (text for text in said if isinstance(text, str))
    assert said.index(where) == 1
    assert where.startswith(f"gc-hooks view {tmp_path} ")
    assert "http://localhost:6006/#gradcheck" in where
    assert "smoothing=0" in where
    hook.close()


def test_each_parameter_is_told_how_far_it_has_moved():
    """Size and way of every parameter, from where the first check saw it."""
    hook = GradCheckHook(after=None, reporters=[])
    for step, scale in enumerate((1.0, 1.5)):
        params = {"still": np.ones(2), "moving": scale * np.array([3.0, 4.0])}
        hook.on_step(step, loss=lambda p: sum(np.sum(a**2) for a in p.values()), params=params, grads=doubled)
    first, second = (report.parameters for report in hook.reports)
    assert [(c.weight_norm, c.moved) for c in first.values()] == [(np.sqrt(2), 0.0), (5.0, 0.0)]
    assert [(c.weight_norm, c.moved) for c in second.values()] == [(np.sqrt(2), 0.0), (7.5, 0.5)]


def doubled(params):
    return {name: 2 * array for name, array in params.items()}


class Unprintable(Exception):
    def __str__(self):
        return 1 / 0


class UnprintableReporter(Listener):
    __str__ = Unprintable.__str__


def test_what_cannot_be_printed_is_told_by_its_class():
    """An exception whose text raises, and a reporter whose name does, are told and do not end the training."""
    with pytest.warns(GradCheckWarning, match="step 0 failed with Unprintable: a Unprintable that cannot be printed"):
        report = checked(CheckRecorder([], 0), 0, 1.0, failing(Unprintable()))
    assert "Unprintable" in report.notes[0]
    with pytest.warns(GradCheckWarning, match="a UnprintableReporter that cannot be printed failed with OSError"):
        checked(CheckRecorder([UnprintableReporter("report")], 0), 0, 1.0, seeded_report)


def test_a_mistake_in_what_was_handed_in_is_told_once():
    """It will not heal, whatever the numbers in its text; another mistake, and an error of another kind, are told."""
    recorder = CheckRecorder([], 0)
    mistakes = [InvalidProblem(f"W1 is of shape {k}, {k}e-7. Try this.") for k in range(3)]
    for step, error in enumerate([*mistakes, InvalidProblem("Another."), *map(ValueError, "aaa")]):
        with pytest.warns(GradCheckWarning) if step not in (1, 2) else warnings.catch_warnings():
            checked(recorder, step, 1.0, failing(error))
    reports = recorder.reports
    assert [report.verdict for report in reports] == [Verdict.INCONCLUSIVE] * 7
    assert "shape 0" in reports[0].notes[0]
    assert reports[1].notes == reports[2].notes == ("Nothing was checked, for the reason that was told at step 0.",)
    assert "Another" in reports[3].notes[0]


@pytest.mark.parametrize("error", [ValueError("by hand"), InvalidProblem("Try this.")])
def test_a_warning_never_ends_a_training(error, monkeypatch, capsys):
    """Where a filter makes errors of warnings it is printed, and the check is on record."""
    monkeypatch.setattr(recorder_module, "print_warning", print_warning)
    recorder = CheckRecorder([], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked(recorder, 0, 1.0, failing(error))
    assert len(recorder.reports) == 1
    assert str(error) in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr", None)  # as in a program without a terminal
    print_warning("nobody reads this")


def test_a_warning_points_at_the_users_line():
    """Not into the package, and not at the library in between."""
    hook = GradCheckHook(reporters=[])
    with pytest.warns(GradCheckWarning, match="looks wrong") as caught:
        hook.on_step(0, loss=lambda w: w**2, params=3.0, grads=5.0)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("shape", "reason", "noted"),
    [
        ((4, 5), Reason.NO_GRADIENT, True),
        ((4, 5), Reason.DIFFERENCE, False),
        ((5,), Reason.NO_GRADIENT, False),
        ((1, 5), Reason.NO_GRADIENT, False),
    ],
)
def test_a_matrix_without_a_gradient_is_told_from_the_third_check_on(shape, reason, noted):
    """One batch of zeros is no news, and a vector in front of a norm never has one; a check with a gradient ends it."""
    recorder = CheckRecorder([], 0)

    def ask(reason):
        comparison = Comparison("W1", shape, verdict=Verdict.GOOD, reason=reason)
        report = checked(recorder, len(recorder.reports), np.ones(shape), lambda seed: CheckReport({"W1": comparison}))
        return [note for note in report.notes if "had no gradient in" in note]

    found = [ask(reason) for _ in range(4)]
    assert [len(notes) for notes in found] == ([0, 0, 1, 1] if noted else [0] * 4)
    if noted:
        assert found[3][0].startswith("W1 has had no gradient in 4 checks, ")
        assert ask(Reason.DIFFERENCE) == ask(reason) == []
