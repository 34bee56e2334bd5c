import json
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from simsiam.train.loss import StepOutput
from simsiam.train.run import metrics
from simsiam.train.run.metrics import MetricsLog, StepWindow, WindowMeans, read_metrics, summarize
from simsiam.train.run.record import Record

CPU = torch.device("cpu")


class Clock:
    """Takes the place of `time` in the module under test."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def output(loss: float, spread: float) -> StepOutput:
    return StepOutput(torch.tensor(loss), torch.tensor(spread))


def test_means_and_rates_of_a_window(clock: Clock) -> None:
    window = StepWindow(CPU)
    for loss, spread in ((-0.25, 0.5), (-0.75, 0.25)):
        window.add(output(loss, spread), wait_seconds=0.1)
        clock.now += 1.0
    assert window.means(images_per_step=32) == WindowMeans(
        loss=-0.5, output_std=0.375, images_per_second=32.0, views_per_second=64.0, wait_percent=10.0
    )


def test_restart_starts_a_new_window_and_means_do_not(clock: Clock) -> None:
    window = StepWindow(CPU)
    window.add(output(1.0, 1.0), wait_seconds=3.0)
    clock.now += 3.0
    assert window.means(8) == window.means(8)
    window.restart()
    window.add(output(-0.5, 0.25), wait_seconds=0.0)
    clock.now += 0.5
    means = window.means(8)
    assert (means.loss, means.output_std, means.wait_percent) == (-0.5, 0.25, 0.0)
    assert means.images_per_second == 16.0


def test_pause_does_not_count(clock: Clock) -> None:
    window = StepWindow(CPU)
    window.add(output(0, 0), wait_seconds=0.5)
    clock.now += 1.0
    with window.pause():
        clock.now += 60.0
    assert window.means(8).wait_percent == 50.0


def test_resumed_window_writes_the_very_same_means(clock: Clock) -> None:
    values = torch.rand(7, 2, generator=torch.Generator().manual_seed(0))
    steps = [output(loss, spread) for loss, spread in values.tolist()]
    whole, first, second = StepWindow(CPU), StepWindow(CPU), StepWindow(CPU)
    for step in steps:
        whole.add(step, 0.0)
    for step in steps[:3]:
        first.add(step, 0.0)
    state = first.state_dict()
    second.load_state_dict({"sums": state["sums"].clone()})
    for step in steps[3:]:
        second.add(step, 0.0)
    clock.now += 2.0
    resumed, uninterrupted = second.means(8), whole.means(8)
    assert resumed.loss.hex() == uninterrupted.loss.hex()
    assert resumed.output_std.hex() == uninterrupted.output_std.hex()
    # Speed is of the steps since resuming alone.
    assert resumed.images_per_second == 16.0


def test_step_that_is_not_finite_is_left_out_of_the_means(clock: Clock) -> None:
    window = StepWindow(CPU)
    for loss, spread in ((-0.5, 0.25), (float("nan"), 0.5), (-0.25, float("inf")), (-1.0, 0.75)):
        window.add(output(loss, spread), 0.0)
    clock.now += 1.0
    means = window.means(8)
    assert (means.loss, means.output_std, means.images_per_second) == (-0.75, 0.5, 32.0)


def record(step: int, **values: float) -> Record:
    return Record(step=step, epoch=0.0, **values)  # pyright: ignore[reportArgumentType]


def without_epoch(lines: list[Any]) -> list[Any]:
    return [{key: value for key, value in line.items() if key != "epoch"} for line in lines]


def lines(run: Path) -> list[Any]:
    return without_epoch([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def test_log_appends_lines_that_are_readable_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(record(step=0, knn=0.1))
    log.write(record(step=5, loss=-0.123456789012345678))
    assert (
        lines(tmp_path)
        == without_epoch(read_metrics(tmp_path))
        == [{"step": 0, "knn": 0.1}, {"step": 5, "loss": -0.12345678901234568}]
    )
    log.close()


def test_records_of_a_full_disk_are_written_when_there_is_room_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(record(step=0, knn=0.1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size + 5, hard))
    try:
        with pytest.warns(UserWarning, match=r"record of step 1 could not be written yet: .*File too large"):
            log.write(record(step=1, loss=-0.1))
        with pytest.warns(UserWarning, match="record of step 2 could not be written yet"):
            log.write(record(step=2, loss=-0.2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert without_epoch(read_metrics(tmp_path)) == [{"step": 0, "knn": 0.1}]
    log.write(record(step=3, loss=-0.3))
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3]
    log.close()


def test_tracker_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    class Shown:
        def __init__(self) -> None:
            self.records: list[Any] = []

        def show(self, record: dict[str, Any]) -> None:
            self.records.append(record)

        def show_picture(self, name: str, pixels: np.ndarray, step: int) -> None: ...

        def close(self) -> None:
            self.records.append("closed")

    class Failing(Shown):
        def show(self, record: dict[str, Any]) -> None:
            super().show(record)
            raise ConnectionError("the line is cut")

    failing, other = Failing(), Shown()
    log = MetricsLog(tmp_path, [failing, other])
    with pytest.warns(UserWarning, match="Failing failed and gets no more records of this run: the line is cut"):
        log.write(record(step=1))
    log.write(record(step=2))
    log.close()
    assert without_epoch(failing.records) == [{"step": 1}]
    assert without_epoch(other.records[:2]) == [{"step": 1}, {"step": 2}] and other.records[2:] == ["closed"]
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


def test_resumed_log_drops_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    before = [{"step": 0, "knn": 0.1}, {"step": 5, "loss": 1.0}, {"step": 6, "knn": 0.2}, {"step": 10, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in before))
    log = MetricsLog(tmp_path, after_step=6)
    log.write(record(step=10, loss=3.0))
    log.close()
    assert lines(tmp_path) == [*before[:3], {"step": 10, "loss": 3.0}]


def test_new_log_keeps_only_step_0(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "knn": 0.1}\n{"step": 5, "loss": 1.0}\n')
    MetricsLog(tmp_path).close()
    assert lines(tmp_path) == [{"step": 0, "knn": 0.1}]


def test_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "lo')
    assert read_metrics(tmp_path) == [{"step": 5, "loss": 1.0}]
    log = MetricsLog(tmp_path, after_step=50)
    log.write(record(step=10, loss=2.0))
    log.close()
    assert lines(tmp_path) == [{"step": 5, "loss": 1.0}, {"step": 10, "loss": 2.0}]


@pytest.mark.parametrize("line", [b"5", b'"step"', b'{"loss": 1}', b"\xff", b""])
def test_damaged_line_is_passed_over(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 5}\n' + line + b'\n{"step": 10}\n')
    assert read_metrics(tmp_path) == [{"step": 5}, {"step": 10}]


def test_run_that_has_not_started_has_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none") == []


def test_summary_is_the_last_of_everything_and_knn_at_the_start_apart() -> None:
    records = [
        {"step": 0, "epoch": 0.0, "knn": 0.1},
        {"step": 5, "epoch": 0.5, "loss": -0.1, "learning_rate": 0.2},
        {"step": 10, "epoch": 1.0, "loss": -0.2, "learning_rate": 0.1},
        {"step": 10, "epoch": 1.0, "knn": 0.4},
    ]
    last = {"step": 10, "epoch": 1.0, "loss": -0.2, "learning_rate": 0.1, "knn": 0.4}
    assert summarize(records) == {"knn_random": 0.1, **last}


def test_summary_without_a_trained_measurement_claims_none() -> None:
    assert summarize([{"step": 0, "epoch": 0.0, "knn": 0.1}]) == {"knn_random": 0.1}
    assert summarize([]) == {}
