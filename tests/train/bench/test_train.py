from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.sources.open_records import open_records
from simsiam.train.bench.train import bench_train
from tests.train.bench.conftest import STEP_CONFIG, SameProcessRows


def test_training_is_compared_with_its_ceiling(same_process: SameProcessRows, tiny_images: Path) -> None:
    config = replace(STEP_CONFIG, data=replace(STEP_CONFIG.data, path=tiny_images / "train", backend="auto"))
    results = bench_train(config, ("ours", "baseline"), seconds=0.02, rounds=1, product_side=16, start_row=same_process)
    assert [result["name"] for result in results] == ["ours", "baseline", "synthetic"]
    assert [result["loader"] for result in results] == ["resident", "imagefolder-pil", "synthetic"]
    ours, baseline, synthetic = results
    assert 0 < ours["wait_percent"] < 100 and 0 < baseline["wait_percent"] < 100
    assert 0 <= synthetic["wait_percent"] < 100
    assert synthetic["percent_of_synthetic"] == 100 and baseline["times_baseline"] == 1
    assert all(result["workers"] == 0 for result in results)


def test_unknown_rows_are_refused(same_process: SameProcessRows, tiny_images: Path) -> None:
    config = replace(STEP_CONFIG, data=replace(STEP_CONFIG.data, path=tiny_images / "train"))
    names: Any = ("ours", "theirs")
    with pytest.raises(ValueError, match="no row theirs; choose from ours, synthetic"):
        bench_train(config, names, seconds=1.0, rounds=1, start_row=same_process)
    assert same_process.asked == []


def test_baseline_without_a_folder_is_refused(same_process: SameProcessRows, tmp_path: Path, tiny_images: Path) -> None:
    convert(open_records(tiny_images / "train"), tmp_path / "tiny.beton", workers=1)
    config = replace(STEP_CONFIG, data=replace(STEP_CONFIG.data, path=tmp_path / "tiny.beton"))
    with pytest.raises(ValueError, match="The row baseline reads a folder of images"):
        bench_train(config, ("baseline",), seconds=1.0, rounds=1, start_row=same_process)
    assert same_process.asked == []
