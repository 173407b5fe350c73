"""What a person sees who starts TensorBoard, and what is left of a training that was killed."""

from __future__ import annotations

import signal
import subprocess

import numpy as np
import pytest
import tensorboard_data_server
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gc_hooks import GradCheckHook, nn, read_jsonl
from hunts import some
from servers import SAFETY_LIMIT, a_process, fetch, patiently, tensorboard


def all_points(address, run, tag, count):
    """The points of a chart, once all of them have been loaded."""

    def points():
        served = fetch(address, "plugin/scalars/scalars", run=run, tag=tag) or []
        return served if len(served) >= count else None

    return patiently(points)


@pytest.fixture(scope="module")
def checked_run(tmp_path_factory):
    """A log directory and the reports that were written there, by a training that writes figures of its own."""
    from tensorboardX import SummaryWriter

    rng = np.random.default_rng(1)
    model = nn.Sequential([nn.Dense(3, 4), nn.Tanh(), nn.Dense(4, 2)])
    hook = GradCheckHook(after=8, log_dir=(log_dir := tmp_path_factory.mktemp("runs") / "digits"))
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.SGD(0.1), callbacks=[hook])
    with hook, SummaryWriter(str(log_dir)) as own:
        trainer.fit(rng.normal(size=(40, 3)), rng.integers(2, size=40), batch_size=4)
        for step, loss in enumerate(trainer.history.batch_loss):
            own.add_scalar("loss", loss, step)
    return log_dir, hook.reports


@pytest.mark.parametrize("load_fast", some(["true", "false"], ["false"]))
def test_tensorboard_shows_the_differences(checked_run, load_fast, tmp_path):
    """A real TensorBoard, by either of its loaders, serves every check's difference beside the user's own figures."""
    if load_fast == "true" and tensorboard_data_server.server_binary() is None:
        pytest.skip("there is no fast loader for this machine")
    log_dir, reports = checked_run
    assert len(reports) == 3
    name = "dense2.b"
    expected = {
        "gradcheck/difference": [report.difference for report in reports],
        f"gradcheck/difference/{name}": [report.parameters[name].difference for report in reports],
    }
    with tensorboard(log_dir, load_fast, tmp_path / "output") as address:
        for tag, differences in expected.items():
            served = all_points(address, "gradcheck", tag, 3)
            assert [step for _, step, _ in served] == [report.step for report in reports] == [0, 1, 8]
            assert [value for *_, value in served] == pytest.approx(differences, rel=1e-6)
        assert [step for _, step, _ in all_points(address, ".", "loss", 10)] == list(range(10))
        texts = patiently(
            lambda: fetch(address, "plugin/text/text", run="gradcheck", tag="gradcheck/report/text_summary")
        )
        assert "GOOD" in texts[-1]["text"]
        assert "<table>" in texts[-1]["text"]


ENDLESS = """
import itertools, sys
import numpy as np
from gc_hooks import GradCheckHook, JsonlReporter, TensorBoardReporter

class Speaker:
    def report(self, report):
        print(report.difference.hex(), flush=True)

reporters = [TensorBoardReporter(sys.argv[1]), JsonlReporter(sys.argv[2]), Speaker()]
hook = GradCheckHook(schedule=lambda calls: calls == 0, reporters=reporters)
w = np.array([1.0, 2.0, 3.0])
for step in itertools.count(7):
    hook.on_step(step, loss=lambda w: np.sum(np.sin(w)), params=w, grads=np.cos)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_training_loses_no_check_that_was_reported(tmp_path):
    """After SIGKILL the first check is read back from the event file and from the JSON lines, to the last digit."""
    with a_process("-c", ENDLESS, str(tmp_path), str(tmp_path / "checks"), stdout=subprocess.PIPE) as process:
        difference = float.fromhex(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        assert process.wait(SAFETY_LIMIT) == -signal.SIGKILL
    events = EventAccumulator(str(tmp_path / "gradcheck"))
    events.Reload()
    (event,) = events.Scalars("gradcheck/difference")
    assert (event.step, event.value) == (7, np.float32(difference))
    assert len(events.Tensors("gradcheck/report/text_summary")) == 1
    (report,) = read_jsonl(tmp_path / "checks")
    assert (report.step, report.difference, report.ok) == (7, difference, True)
