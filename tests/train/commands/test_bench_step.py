import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simsiam.train.bench import step as bench_step
from simsiam.train.bench import train as bench_train
from simsiam.train.bench.report import print_step_and_train_results
from simsiam.train.cli import run
from simsiam.train.config import PretrainConfig

RESULT = {
    "name": "ours",
    "images_per_second": 1234.5,
    "images_per_second_20_80": [1200.0, 1300.0],
    "views_per_second": 2469.0,
    "milliseconds_per_step": 51.84,
    "wait_percent": 3.2,
    "stage_milliseconds": {"copy": 0.5, "augment": 1.25, "forward": 16.0, "backward": 32.0, "optimizer": 2.0},
    "tflops_per_second": 61.5,
    "percent_of_products": 12.3,
    "peak_memory_mib": 2048.0,
    "baseline": "baseline",
    "times_baseline": 2.5,
    "times_baseline_range": [2.25, 2.75],
}
GPU = {"percent_of_memory_bound": 45.6, "peak_device_memory_mib": 23456.7}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked: dict[str, Any] = {}

    def steps(config: PretrainConfig, names: tuple, **settings: Any) -> list[dict]:
        asked.update(config=config, names=names, **settings)
        return [RESULT]

    def train(config: PretrainConfig, names: tuple, **settings: Any) -> list[dict]:
        return [result | {"percent_of_synthetic": 97.5} | GPU for result in steps(config, names, **settings)]

    monkeypatch.setattr(bench_step, "bench_steps", steps)
    monkeypatch.setattr(bench_train, "bench_train", train)
    return asked


def test_options_of_bench_step_reach_the_rows_and_results_the_screen_and_the_file(
    asked: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, trace = tmp_path / "new" / "step.json", tmp_path / "trace.json"
    options = (
        f"--arch resnet18 --stem cifar --size 32 --batch-size 128 --rows ours,baseline --precision bf16 --json {file}"
    )
    assert run(["bench", "step", *options.split(), "--compile", "default", "--profile", str(trace)]) == 0
    config = asked["config"]
    assert (config.model.arch, config.model.stem, config.data.size) == ("resnet18", "cifar", 32)
    assert (config.batch_size, config.precision, config.compile) == (128, "bf16", "default")
    assert (asked["names"], asked["trace"]) == (("ours", "baseline"), trace)
    screen = capsys.readouterr().out
    rows = [line.split() for line in screen.splitlines() if line.split()[:1] == ["ours"] and "times" not in line]
    assert rows == [
        ["ours", "1,234", "1,200–1,300", "2,469", "51.8", "3.2", "2.50"],
        ["ours", "0.5", "1.2", "16.0", "32.0", "2.0", "61.50", "12", "2,048"],
    ]
    assert "ours takes 2.50 times as many images a second as baseline, between 2.25" in " ".join(screen.split())
    written = json.loads(file.read_text())
    assert written["results"] == [RESULT] and "packages" in written["environment"]


def test_the_closing_sentence_is_about_the_first_row_that_is_not_the_baseline(capsys: pytest.CaptureFixture) -> None:
    print_step_and_train_results([RESULT | {"name": "baseline", "times_baseline": 1.0}, RESULT], Console(width=200))
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith("ours takes 2.50 times as many images a second as baseline")
    )


def test_bench_train_shows_the_ceiling_and_a_gpus_memory_bound(
    asked: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = f"{tmp_path} --backend torch --workers 3 --rows ours,baseline-amp --images {tmp_path}"
    assert run(["bench", "train", *options.split()]) == 0
    data = asked["config"].data
    assert (data.path, data.backend, data.workers, asked["images"]) == (tmp_path, "torch", 3, tmp_path)
    screen = capsys.readouterr().out
    assert "97.5" in screen and "% of" in screen and screen.splitlines()[-1].strip()
    assert any(line.split()[-2:] == ["46", "23,457"] for line in screen.splitlines())


def test_a_profile_under_another_name_is_refused_before_anything_is_measured(
    asked: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(["bench", "step", "--profile", str(tmp_path / "trace.txt")]) == 2
    assert "ends in .json" in capsys.readouterr().err and not asked


@pytest.mark.parametrize("command", ["step", "train"])
def test_help_teaches_the_rows(command: str, capsys: pytest.CaptureFixture) -> None:
    assert run(["bench", command, "--help"]) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "baseline-amp" in screen and "take turns" in screen
