import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from simsiam.train.bench.loader import bench_loaders
from tests.train.bench.conftest import SameProcessRows

Bench = Callable[..., list[dict]]


@pytest.fixture
def bench(tiny_images: Path, same_process: SameProcessRows) -> Iterator[Bench]:
    settings: dict[str, Any] = {"batch_size": 8, "size": 16, "workers": 0, "seconds": 0.02, "rounds": 2}
    settings |= {"device": "cpu", "needed_images_per_second": 100.0, "start_row": same_process}
    yield lambda *names, **others: bench_loaders(tiny_images / "train", names, **(settings | others))


def test_rows_take_turns_the_baseline_first_and_the_ceiling_last(bench: Bench, same_process: SameProcessRows) -> None:
    said = []
    results = bench("synthetic", "torch", "torch", baseline="imagefolder-pil-crops", say=said.append)
    names = ["imagefolder-pil-crops", "torch", "synthetic"]
    assert same_process.asked == [*names * 3, *(f"{name} closed" for name in reversed(names))]
    assert said == [*(f"First epoch: {name}" for name in names), "Round 1 of 2", "Round 2 of 2"]
    assert [result["name"] for result in results] == names
    for result in results:
        assert result["images_per_second"] > 0 and len(result["images_per_second_by_round"]) == 2
        assert result["views_per_second"] == pytest.approx(2 * result["images_per_second"], abs=0.2)  # rounded
        assert (result["batch_size"], result["size"], result["workers"], result["cores"]) == (8, 16, 0, 1)
        assert (result["device"], result["augment"], result["peak_memory_mib"]) == ("cpu", False, 1.0)
        assert result["baseline"] == "imagefolder-pil-crops"
    assert results[0]["times_baseline"] == 1 and results[-1]["percent_of_synthetic"] == 100


def test_auto_is_the_backend_it_stands_for(bench: Bench, same_process: SameProcessRows) -> None:
    results = bench("auto", baseline="auto")
    assert [result["name"] for result in results] == ["resident", "synthetic"]
    assert results[1]["baseline"] == "resident"


def test_rows_are_closed_when_one_fails(bench: Bench, same_process: SameProcessRows) -> None:
    def interrupt(text: str) -> None:
        if text == "Round 1 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench("torch", say=interrupt)
    assert same_process.asked == ["torch", "synthetic", "synthetic closed", "torch closed"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seconds": 0.0}, "seconds is 0.0; give a positive number"),
        ({"seconds": math.inf}, "seconds is inf; give a positive number"),
        ({"rounds": 0}, "rounds is 0; give a positive number"),
        ({"needed_images_per_second": 0.0}, "needed_images_per_second is 0.0; give a positive number"),
        ({"workers": -1}, "workers is -1"),
        ({"batch_size": 49}, "batch size 49 is larger than the 48 images"),
        ({"baseline": "copies"}, "The row copies measures the copies to a GPU"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    settings: dict, said: str, bench: Bench, same_process: SameProcessRows
) -> None:
    with pytest.raises(ValueError, match=said):
        bench("torch", **settings)
    assert same_process.asked == []


def test_gpu_that_is_not_there_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="cuda"):
        bench("torch", device="cuda")
