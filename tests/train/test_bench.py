import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from simsiam.train.bench import bench_loaders, print_results, write_results


@pytest.fixture(scope="module")
def results(tiny_images: Path) -> list[dict]:
    return bench_loaders(
        tiny_images / "train", ("torch", "resident"), batch_size=8, size=16, workers=0, seconds=0.1, device="cpu"
    )


def test_every_backend_is_measured_and_the_ceiling_last(results: list[dict]) -> None:
    assert [result["name"] for result in results] == ["torch", "resident", "synthetic"]
    for result in results:
        assert result["steps"] > 0 and result["images_per_second"] > 0
        assert result["views_per_second"] == pytest.approx(2 * result["images_per_second"], rel=1e-3, abs=0.2)
        low, high = result["images_per_second_20_80"]
        assert low <= result["images_per_second_median_step"] <= high
        assert (result["batch_size"], result["size"], result["workers"]) == (8, 16, 0)


def test_each_result_stands_beside_the_ceiling(results: list[dict]) -> None:
    ceiling = results[-1]["images_per_second"]
    for result in results:
        share = 100 * result["images_per_second"] / ceiling
        assert result["percent_of_synthetic"] == pytest.approx(share, abs=0.01)
    assert results[-1]["percent_of_synthetic"] == 100


def test_auto_and_repeated_names_are_measured_once(tiny_images: Path) -> None:
    measured = bench_loaders(
        tiny_images / "train",
        ("auto", "auto", "synthetic"),
        batch_size=8,
        size=16,
        workers=0,
        seconds=0.01,
        device="cpu",
    )
    assert [result["name"] for result in measured] == ["resident", "synthetic"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seconds": 0.0}, "seconds is 0.0; give a positive number"),
        ({"batch_size": 49}, "batch size 49 is larger than the 48 images"),
    ],
)
def test_wrong_settings_are_refused(tiny_images: Path, settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bench_loaders(tiny_images / "train", ("torch",), size=16, device="cpu", **settings)


def test_gpu_that_is_not_there_is_refused(tiny_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda was asked for"):
        bench_loaders(tiny_images / "train", ("torch",), device="cuda")


def test_table_and_file(results: list[dict], tmp_path: Path) -> None:
    screen = StringIO()
    print_results(results, Console(file=screen, width=120))
    table = screen.getvalue()
    assert "resident" in table and "views/s" in table and "100.00 %" in table
    write_results(results, tmp_path / "new" / "bench.json")
    written = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert written["results"] == results
    assert "packages" in written["environment"]
