import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from simsiam.pipeline.errors import RunError
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.config import CheckpointConfig, PretrainConfig
from simsiam.train.learner import Learner
from simsiam.train.loss import StepOutput
from simsiam.train.precision import Arithmetic
from simsiam.train.run import metrics, training_run
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.folder import RunFolder
from simsiam.train.run.training_run import SAVE, TrainingRun

TinyConfig = Callable[..., PretrainConfig]
FP32 = Arithmetic(torch.device("cpu"), "fp32")
FP16 = Arithmetic(torch.device("cpu"), "fp16")


@pytest.fixture
def make_run(tiny_config: TinyConfig, tiny_images: Path, tmp_path: Path) -> Callable[..., TrainingRun]:
    """A run of 3 epochs of 6 steps, with options; nothing is trained."""

    def make(
        checkpoint: CheckpointConfig | None = None,
        max_steps: int | None = None,
        arithmetic: Arithmetic = FP32,
        state: dict | None = None,
    ) -> TrainingRun:
        config = dataclasses.replace(
            tiny_config(tmp_path), epochs=3, max_steps=max_steps, checkpoint=checkpoint or CheckpointConfig()
        )
        plan = CropPlan(open_source(tiny_images / "train"), config.augmentation, 16, config.batch_size)
        return TrainingRun(config, plan, RunFolder(tmp_path, state, None, {}), Learner(config, arithmetic))

    return make


def steps_where(run: TrainingRun, due: Callable[[], bool]) -> Iterator[int]:
    while not run.done:
        run.step += 1
        if due():
            yield run.step


def test_epochs_are_counted_from_the_step(make_run) -> None:
    run = make_run()
    assert (run.steps_per_epoch, run.last_step, run.epoch, run.step_in_epoch) == (6, 18, 0, 0)
    run.step = 11
    assert (run.epoch, run.step_in_epoch, run.done) == (1, 5, False)
    run.step = 18
    assert (run.epoch, run.step_in_epoch, run.done) == (3, 0, True)


def test_max_steps_may_shorten_a_run_but_not_lengthen_it(make_run) -> None:
    assert make_run(max_steps=7).last_step == 7
    assert make_run(max_steps=99).last_step == 18


@pytest.mark.parametrize(
    ("checkpoint", "max_steps", "saved"),
    [
        (CheckpointConfig(), None, [6, 12, 18]),
        (CheckpointConfig(every_epochs=2), None, [12, 18]),
        (CheckpointConfig(every_epochs=2, every_steps=4), None, [4, 8, 12, 16, 18]),
        (CheckpointConfig(every_epochs=9), None, [18]),
        (CheckpointConfig(every_epochs=9), 8, [8]),
    ],
)
def test_checkpoints_are_due(checkpoint, max_steps: int | None, saved: list[int], make_run) -> None:
    run = make_run(checkpoint, max_steps)
    assert list(steps_where(run, run.due_to_save)) == saved


def test_checkpoint_is_asked_for_once_when_the_last_one_is_old(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(training_run.time, "monotonic", lambda: now)
    run, never = make_run(CheckpointConfig(every_minutes=2)), make_run(CheckpointConfig(every_minutes=0))
    asked = {}
    for seconds in (119, 120, 121, 239, 240):
        now = 1000.0 + seconds
        asked[seconds] = run.ask_to_save()
    assert asked == {119: 0, 120: SAVE, 121: 0, 239: 0, 240: SAVE}
    assert never.ask_to_save() == 0


def test_a_save_restarts_the_clock(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(training_run.time, "monotonic", lambda: now)
    with closing(make_run(CheckpointConfig(every_minutes=2))) as run:
        now = 1100.0
        run.save()
        now = 1130.0
        assert run.ask_to_save() == 0


def test_what_is_saved_is_the_state_at_that_moment(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, save = threading.Event(), threading.Event(), torch.save

    def slow_save(state, file) -> None:
        begun.set()
        assert go_on.wait(10)
        save(state, file)

    monkeypatch.setattr(torch, "save", slow_save)
    with closing(make_run()) as run:
        expected = {name: value.clone() for name, value in run.learner.model.state_dict().items()}
        run.save()
        assert begun.wait(10)
        with torch.no_grad():
            for value in run.learner.model.state_dict().values():
                value.zero_()
            run.window.sums.fill_(7.0)
        go_on.set()
    (path,) = list_checkpoints(run.folder.checkpoints)
    saved = load_checkpoint(path)
    assert all(torch.equal(saved["model"][name], value) for name, value in expected.items())
    assert saved["window"]["sums"].tolist() == [0, 0, 0]


def test_scale_of_the_loss_comes_back(make_run) -> None:
    saved, expected = make_run(arithmetic=FP16), {}
    with closing(saved):
        scaler = FP16.scaler
        scaler.scale(torch.ones(()))  # as a step does, after which there is a scale
        scaler.update(2.0**11)
        expected = scaler.state_dict()
        saved.save(wait=True)
        saved.window.add(StepOutput(torch.tensor(-0.5), torch.tensor(0.5)), wait_seconds=0.0)
        assert saved.record().loss_scale == 2.0**11
    (path,) = list_checkpoints(saved.folder.checkpoints)
    for name in ("fp16", "fp32"):  # which has none to take up
        arithmetic = Arithmetic(torch.device("cpu"), name)
        with closing(make_run(arithmetic=arithmetic, state=load_checkpoint(path))):
            assert arithmetic.scaler.state_dict() == (expected if name == "fp16" else {})


def test_last_save_that_fails_is_an_error(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with (
        closing(make_run()) as run,
        pytest.warns(UserWarning, match="Earlier checkpoints are kept"),
        pytest.raises(RunError, match=r"The checkpoint of step 0 could not be written: .*file write failed"),
    ):
        run.save(wait=True)


def test_lines_are_due_every_few_steps_and_at_the_end(make_run) -> None:
    run = make_run()
    assert list(steps_where(run, run.due_to_log)) == [5, 10, 15, 18]


@pytest.mark.parametrize(("every_epochs", "measured"), [(0, [18]), (1, [6, 12, 18]), (2, [12, 18]), (9, [18])])
def test_measurements_are_due_between_epochs(every_epochs: int, measured: list[int], make_run) -> None:
    run = make_run()
    assert run.due_to_measure(every_epochs)  # before the first step
    assert list(steps_where(run, lambda: run.due_to_measure(every_epochs))) == measured


def test_measurement_is_due_where_max_steps_stops_inside_an_epoch(make_run) -> None:
    run = make_run(max_steps=8)
    assert list(steps_where(run, lambda: run.due_to_measure(0))) == [8]


def test_a_line_has_the_means_since_the_line_before(make_run) -> None:
    run = make_run(max_steps=7)
    means = []
    for step in range(1, 8):
        run.step = step
        run.window.add(StepOutput(torch.tensor(float(step)), torch.tensor(0.5)), wait_seconds=0.0)
        if run.due_to_log():
            means.append(run.record().loss)
    assert means == [(1 + 2 + 3 + 4 + 5) / 5, (6 + 7) / 2]
    # A longer run would continue the sums where this one was stopped.
    run.step = 10
    run.window.add(StepOutput(torch.tensor(8.0), torch.tensor(0.5)), wait_seconds=0.0)
    assert run.record().loss == (6 + 7 + 8) / 3


def test_rates_count_each_image_of_the_global_batch_once(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    run = make_run()
    run.window.start_clock()
    for run.step in range(1, 6):
        run.window.add(StepOutput(torch.tensor(-0.5), torch.tensor(0.5)), wait_seconds=0.1)
        now[0] += 0.5
    record = run.record()  # 5 steps of 8 images in 2.5 s
    assert record is not None
    assert (record.images_per_second, record.views_per_second, record.wait_percent) == (16.0, 32.0, 20.0)


def test_loss_that_is_no_number_is_no_line(make_run) -> None:
    run = make_run()
    run.step = 5
    run.window.add(StepOutput(torch.tensor(float("nan")), torch.tensor(0.5)), wait_seconds=0.0)
    with pytest.raises(RunError, match=r"The loss is nan at step 5; .* smaller optimizer\.base_lr"):
        run.record()
