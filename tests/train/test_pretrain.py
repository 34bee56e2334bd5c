import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from simsiam.pipeline.errors import ImageError, RunError, UsageError
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train import cli, learner
from simsiam.train import pretrain as job
from simsiam.train.config import KnnConfig, PretrainConfig, to_tree
from simsiam.train.evaluation.knn_monitor import KnnMonitor
from simsiam.train.interruption import Interrupted
from simsiam.train.pretrain import pretrain
from simsiam.train.recipe import load_config
from simsiam.train.run import metrics
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.metrics import read_metrics

TinyConfig = Callable[..., PretrainConfig]

TOO_SMALL = (1e-38, 1e-38, 1e-38)
"""A std of the images by which the first sums overflow: no gradient survives."""


def train(config: PretrainConfig) -> dict[str, Any]:
    assert config.run_dir is not None
    return pretrain(config, config.run_dir, Console(file=StringIO()))


def final_state(run: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run / "checkpoints")[0])


def test_run_folder_holds_what_the_design_says(tiny_run: Path) -> None:
    assert {path.name for path in tiny_run.iterdir()} == {
        ".lock",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "plots",
        "report.html",
        "tensorboard",
    }
    assert [path.name for path in list_checkpoints(tiny_run / "checkpoints")] == [
        "step-000000012.pt",
        "step-000000006.pt",
    ]
    assert "torch" in json.loads((tiny_run / "environment.json").read_text())["packages"]
    assert list((tiny_run / "tensorboard").glob("events.*"))
    with Image.open(tiny_run / "plots" / "curves.png") as image:
        assert image.format == "PNG"
    assert not list(tiny_run.rglob("*.part"))


def test_metrics_have_a_line_a_log_step_and_one_a_measurement(tiny_run: Path) -> None:
    records = read_metrics(tiny_run)
    assert [(record["step"], "knn" in record) for record in records] == [
        (0, True),
        (5, False),
        (6, True),
        (10, False),
        (12, False),
        (12, True),
    ]
    rates = {"images_per_second", "views_per_second", "wait_percent"}
    measured = {"step", "epoch", "loss", "output_std", "learning_rate", "predictor_learning_rate"}
    measured |= {"skipped_steps", "collapsed_steps"}
    rates |= {"augment_ms", "forward_ms", "backward_ms", "optimizer_ms"}
    for record in records:
        assert record["epoch"] == record["step"] / 6
        expected = {"step", "epoch", "knn"} if "knn" in record else measured | rates
        assert set(record) == expected
        if "loss" in record:
            assert -1 <= record["loss"] <= 1 and record["output_std"] > 0
            assert min(record[rate] for rate in rates if rate.endswith("_ms")) > 0
            assert record["views_per_second"] == pytest.approx(2 * record["images_per_second"], abs=0.2)


def test_neither_what_comes_first_nor_a_measurement_counts_for_the_speed(
    tiny_config: TinyConfig, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes a second, and opening and measuring an hour each."""
    now, train_step, open_loader, measure = [0.0], learner.train_step, job._open_loader, KnnMonitor.measure

    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            now[0] += seconds
            return function(*arguments)

        return call

    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(learner, "train_step", taking(1, train_step))
    monkeypatch.setattr(job, "_open_loader", taking(3600, open_loader))
    monkeypatch.setattr(KnnMonitor, "measure", taking(3600, measure))
    train(tiny_config(run_dir, "--max-steps=8", "--log.every-steps=4"))
    rates = [record["images_per_second"] for record in read_metrics(run_dir) if "loss" in record]
    assert rates == [8.0, 8.0]


def test_learning_rates_follow_the_schedule(tiny_run: Path) -> None:
    rates = {record["step"]: record for record in read_metrics(tiny_run) if "learning_rate" in record}
    initial = 0.05 * 8 / 256
    assert {record["predictor_learning_rate"] for record in rates.values()} == {initial}
    assert rates[5]["learning_rate"] == initial
    assert rates[10]["learning_rate"] == rates[12]["learning_rate"] == pytest.approx(initial / 2, rel=1e-12)


def test_summary_has_the_last_values_and_knn_before_and_after(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text())
    first, *_, last_step, last_knn = read_metrics(tiny_run)
    assert summary == {**last_step, "knn": last_knn["knn"], "knn_random": first["knn"]}


def test_start_is_announced(tiny_config: TinyConfig, run_dir: Path) -> None:
    screen = StringIO()
    pretrain(tiny_config(run_dir, "--max-steps=1"), run_dir, Console(file=screen, width=200))
    text = screen.getvalue()
    for words in (
        "Loader backend: resident, since",
        "Images: 48 in ",
        "Model: resnet18, imagenet stem, fp32 on cpu",
        "Learning rate: 0.0015625 = 0.05 × 8 / 256",
        f"Run folder: {run_dir}",
        "Steps: 0 done of 1",
        "kNN accuracy at random initialisation: ",
        "step 1/1  epoch 0.17",
    ):
        assert words in text


def test_monitor_and_repetition_leave_the_weights_alone(tiny_config: TinyConfig, run_dir: Path, tiny_run: Path) -> None:
    summary = train(dataclasses.replace(tiny_config(run_dir), knn=KnnConfig()))
    assert not summary.keys() & {"knn", "knn_random"}
    ours, theirs = final_state(run_dir)["model"], final_state(tiny_run)["model"]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_deterministic_mode_runs(tiny_config: TinyConfig, run_dir: Path) -> None:
    try:
        train(tiny_config(run_dir, "--deterministic", "--max-steps=1"))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_configuration_of_a_run_stands_for_its_recipe(
    tiny_run: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for named in (tiny_run / "config.yaml", tiny_run):
        assert cli.run(["pretrain", str(named), "--print-config"]) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        saved = to_tree(load_config(tiny_run / "config.yaml"))
        # A run folder is named to go on with it.
        assert printed == (saved if named.is_file() else saved | {"resume": "auto", "run_dir": str(tiny_run)})
    again = cli.run(["pretrain", str(tiny_run / "config.yaml"), "--run-dir", str(run_dir), "--max-steps", "1"])
    assert again == 0 and final_state(run_dir)["step"] == 1


def test_a_run_does_not_go_on_with_other_images(tiny_config: TinyConfig, run_dir: Path, tiny_images: Path) -> None:
    train(tiny_config(run_dir, "--max-steps=1"))
    other = tiny_config(run_dir, f"--data.path={tiny_images / 'test'}", "--resume=auto")
    settings = (run_dir / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"was started on 48 images, and .* has 16"):
        train(other)
    assert (run_dir / "config.yaml").read_bytes() == settings


def test_a_run_does_not_go_on_with_other_images_of_the_same_number(
    tiny_config: TinyConfig, run_dir: Path, tiny_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_images / "train", tmp_path / "moved")
    moved = f"--data.path={tmp_path / 'moved'}"
    train(tiny_config(run_dir, "--max-steps=1"))
    train(tiny_config(run_dir, moved, "--max-steps=2", "--resume=auto"))
    (tmp_path / "moved" / "fine" / "00.jpg").rename(tmp_path / "moved" / "fine" / "99.jpg")
    with pytest.raises(UsageError, match=r"started on 48 images, and .*moved has as many, but with other names"):
        train(tiny_config(run_dir, moved, "--resume=auto"))
    assert final_state(run_dir)["step"] == 2


HOLDS_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_second_process_in_a_run_folder_is_refused(tiny_config: TinyConfig, run_dir: Path) -> None:
    config = tiny_config(run_dir, "--max-steps=1", "--resume=auto")
    train(config)
    left = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != ".lock"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_LOCK, run_dir / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=rf"Another process is training in {run_dir}: wait"):
            train(config)
        # Before it is looked at what the folder holds, which the other process may be about to change.
        with pytest.raises(UsageError, match="Another process is training"):
            train(dataclasses.replace(config, resume="never"))
        assert {path: path.stat().st_mtime_ns for path in left} == left
        other.kill()
    train(config)


def test_step_with_a_gradient_that_is_not_finite_changes_nothing(
    tiny_config: TinyConfig, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step, steps, states = learner.train_step, iter(range(1, 99)), {}

    def step(crops, objective, optimizer, guard, arithmetic, mean, std, mark):
        number = next(steps)
        if number == 3:
            std = TOO_SMALL  # reaches the running statistics of batch norm, too
        output = train_step(crops, objective, optimizer, guard, arithmetic, mean, std, mark)
        if number in (2, 3):
            momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
            tensors = [value for value in objective.state_dict().values() if value.is_floating_point()]
            states[number] = [tensor.clone() for tensor in (*tensors, *momenta)]
        return output

    monkeypatch.setattr(learner, "train_step", step)
    config = tiny_config(run_dir, "--max-steps=5")
    with pytest.warns(UserWarning, match=r"skipped before step 5, since a gradient was not finite: 1 \(1 in all\)"):
        train(config)
    assert all(torch.equal(one, other) for one, other in zip(states[2], states[3], strict=True))
    record = read_metrics(run_dir)[-2]
    assert (record["step"], record["skipped_steps"]) == (5, 1) and -1 <= record["loss"] <= 1


def test_run_stops_at_a_gradient_that_is_not_finite_if_told_so(
    tiny_config: TinyConfig, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step, steps = learner.train_step, iter(range(1, 99))

    def step(crops, objective, optimizer, guard, arithmetic, mean, std, mark):
        std = TOO_SMALL if next(steps) == 8 else std
        return train_step(crops, objective, optimizer, guard, arithmetic, mean, std, mark)

    monkeypatch.setattr(learner, "train_step", step)
    config = tiny_config(run_dir, "--health.on-nonfinite=stop")
    with pytest.raises(RunError, match=r"not finite in one of the last steps before step 10; .* of this step"):
        train(config)
    assert final_state(run_dir)["step"] == 10
    assert (run_dir / "report.html").exists()
    train(dataclasses.replace(config, resume="auto"))
    assert read_metrics(run_dir)[-1]["step"] == 12


def test_lines_without_a_step_that_was_taken_are_left_out(
    tiny_config: TinyConfig, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step, steps = learner.train_step, iter(range(1, 99))

    def step(crops, objective, optimizer, guard, arithmetic, mean, std, mark):
        std = TOO_SMALL if 2 < next(steps) < 5 else std
        return train_step(crops, objective, optimizer, guard, arithmetic, mean, std, mark)

    monkeypatch.setattr(learner, "train_step", step)
    with pytest.warns(UserWarning, match="skipped before step 4"):
        train(tiny_config(run_dir, "--log.every-steps=1", "--max-steps=6"))
    records = read_metrics(run_dir)
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 5, 6]
    assert [record["skipped_steps"] for record in records if "loss" in record] == [0, 0, 2, 2]


def test_a_signal_ends_the_measurement_and_the_run_goes_on_where_it_was(
    tiny_config: TinyConfig, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = KnnMonitor.measure

    def stopped(self, encoder, sheet, progress=None):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, encoder, sheet, progress)

    with monkeypatch.context() as patch:
        patch.setattr(KnnMonitor, "measure", stopped)
        with pytest.raises(Interrupted):
            train(tiny_config(run_dir))
    assert final_state(run_dir)["step"] == 1
    assert not any("knn" in record for record in read_metrics(run_dir))


def test_replaced_images_are_counted_and_told(tiny_config: TinyConfig, run_dir: Path, tiny_images: Path) -> None:
    shutil.copytree(tiny_images / "train", run_dir / "images")
    config = tiny_config(run_dir / "run", f"--data.path={run_dir / 'images'}", "--data.on-broken=replace")
    config = dataclasses.replace(config, knn=KnnConfig(), epochs=2, max_steps=6)
    source = open_source(run_dir / "images")  # the scan is remembered, and what breaks afterwards is found when read
    broken = Path(source.name(5))
    stamp = broken.stat()
    broken.write_bytes(broken.read_bytes().replace(b"\xff\xc4\x00", b"\xff\xc4\xff", 1))  # no such Huffman table
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    screen = StringIO()
    with pytest.raises(ImageError):
        strict = dataclasses.replace(config, data=dataclasses.replace(config.data, on_broken="error"))
        pretrain(strict, run_dir, Console(file=screen))
    config = dataclasses.replace(config, resume="auto")
    pretrain(config, run_dir, Console(file=screen, width=200))
    assert read_metrics(run_dir / "run")[-1]["replaced_images"] == 1
    told = screen.getvalue()
    assert "broken images replaced: 1" in told and told.count("An image could not be decoded") == 1
    # Another epoch replaces one more, and the first is not forgotten.
    pretrain(dataclasses.replace(config, max_steps=None, resume="auto"), run_dir, Console(file=screen))
    assert read_metrics(run_dir / "run")[-1]["replaced_images"] == 2
