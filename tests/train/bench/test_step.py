from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from simsiam.train.bench.step import bench_steps
from simsiam.train.bench.step_contenders import StepRow
from simsiam.train.bench.step_row import rounds_of
from simsiam.train.bench.step_stages import Products
from simsiam.train.bench.train import bench_train
from simsiam.train.config import DataConfig, ModelConfig, PretrainConfig
from tests.train.bench.conftest import SameProcessRows

CONFIG = PretrainConfig(
    batch_size=8,
    device="cpu",
    model=ModelConfig("resnet18", projector_layers=2, projection_dim=32, prediction_hidden=8),
    data=DataConfig(size=16, workers=0),
)


def test_rows_of_steps_take_turns_and_are_compared_with_the_baseline(
    same_process: SameProcessRows, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    names = ("ours", "ours-bf16", "baseline", "baseline-amp")
    results = bench_steps(CONFIG, names, seconds=0.02, rounds=2, trace=trace, product_side=16, start_row=same_process)
    assert same_process.asked == [*names * 3, *(f"{name} closed" for name in reversed(names))]
    assert [result["name"] for result in results] == list(names)
    assert [result["precision"] for result in results] == ["fp32", "bf16", "fp32", "AMP (bf16)"]
    for result in results:
        ours = result["name"].startswith("ours")
        stages = ["augment", "forward", "backward", "optimizer"]
        assert list(result["stage_milliseconds"]) == stages[0 if ours else 1 :]
        assert min(result["stage_milliseconds"].values()) > 0
        assert result["images_per_second"] > 0 and len(result["images_per_second_by_round"]) == 2
        assert (result["arch"], result["size"], result["batch_size"], result["compile"]) == ("resnet18", 16, 8, "off")
        assert (result["loader"], result["device"], result["baseline"]) == ("synthetic", "cpu", "baseline")
    # The same work, but that ours in float32 does not multiply what lies outside of a small map.
    ours, *others = [result["tflop_per_step"] for result in results]
    assert 0 < ours < others[0] and len(set(others)) == 1
    assert results[2]["times_baseline"] == 1
    assert "convolution_backward" in trace.read_text()


def test_training_is_compared_with_its_ceiling(same_process: SameProcessRows, tiny_images: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, path=tiny_images / "train", backend="auto"))
    results = bench_train(config, ("ours", "baseline"), seconds=0.02, rounds=1, product_side=16, start_row=same_process)
    assert [result["name"] for result in results] == ["ours", "baseline", "synthetic"]
    assert [result["loader"] for result in results] == ["resident", "imagefolder-pil", "synthetic"]
    ours, baseline, synthetic = results
    assert 0 < ours["wait_percent"] < 100 and 0 < baseline["wait_percent"] < 100
    assert 0 <= synthetic["wait_percent"] < 100
    assert synthetic["percent_of_synthetic"] == 100 and baseline["times_baseline"] == 1
    assert all(result["workers"] == 0 for result in results)


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({}, {"seconds": 0.0}, "seconds is 0.0; give a positive number"),
        ({}, {"rounds": 0}, "rounds is 0; give a positive number"),
        ({"precision": "tf32"}, {}, "tf32"),
        ({"device": "cuda"}, {}, "cuda"),
        ({"cuda_graph": True}, {}, "cuda.graph"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    change: dict, settings: dict, said: str, same_process: SameProcessRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        bench_steps(
            replace(CONFIG, **change), ("ours",), **{"seconds": 1.0, "rounds": 1} | settings, start_row=same_process
        )
    assert same_process.asked == []


def test_a_round_counts_what_was_waited_for_in_its_windows_alone() -> None:
    now = [0.0]

    def taking(seconds: float) -> None:
        now[0] += seconds

    def loaded() -> Generator[int]:
        for number in range(99):
            taking(9.0 if number < 2 else 0.25)  # the first two warm up
            yield number

    products = Products(torch.float32)
    row = StepRow(loaded(), lambda batch, mark: taking(1.0), torch.nn.Linear(1, 1), "ffcv", "fp32", products)
    rounds = rounds_of(row, torch.device("cpu"), batch_size=8, seconds=5.0, warm_up_steps=2, clock=lambda: now[0])
    for _ in range(2):
        turn = next(rounds)
        assert (sum(window.images for window in turn.windows), turn.device_memory_bytes) == (32, None)
        assert (sum(window.seconds for window in turn.windows), turn.wait_seconds) == (5.0, 1.0)


def test_no_rows_and_unknown_rows_are_refused(same_process: SameProcessRows, tiny_images: Path) -> None:
    names: Any = ("ours", "theirs")
    trained = replace(CONFIG, data=replace(CONFIG.data, path=tiny_images / "train"))
    with pytest.raises(ValueError, match=r"No row was named; choose from ours, .*baseline-amp"):
        bench_steps(CONFIG, (), seconds=1.0, rounds=1, start_row=same_process)
    with pytest.raises(ValueError, match=r"no row theirs; choose from ours, .*baseline-amp"):
        bench_steps(CONFIG, names, seconds=1.0, rounds=1, start_row=same_process)
    with pytest.raises(ValueError, match="no row theirs; choose from ours, synthetic"):
        bench_train(trained, names, seconds=1.0, rounds=1, start_row=same_process)
    assert same_process.asked == []


def test_baseline_without_a_folder_is_refused(same_process: SameProcessRows, tmp_path: Path, tiny_images: Path) -> None:
    from simsiam.pipeline.beton.convert import convert
    from simsiam.pipeline.sources.open_records import open_records

    convert(open_records(tiny_images / "train"), tmp_path / "tiny.beton", workers=1)
    config = replace(CONFIG, data=replace(CONFIG.data, path=tmp_path / "tiny.beton"))
    with pytest.raises(ValueError, match="The row baseline reads a folder of images"):
        bench_train(config, ("baseline",), seconds=1.0, rounds=1, start_row=same_process)
    assert same_process.asked == []
