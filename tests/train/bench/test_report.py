import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from simsiam.train.bench.convert import Turn
from simsiam.train.bench.convert import results_of as results_of_convert
from simsiam.train.bench.loader_results import results_of
from simsiam.train.bench.loader_row import FirstEpoch, Round
from simsiam.train.bench.report import print_convert_results, print_loader_results, write_results
from simsiam.train.bench.turns import Measurement
from simsiam.train.bench.windows import Window


def printed(print_results: Callable, results: list[dict]) -> str:
    screen = StringIO()
    print_results(results, Console(file=screen, width=80))
    return screen.getvalue()


def measured(name: str, images: int) -> Measurement:
    turn = Round([Window(images, 1.0)], 0.5)
    return Measurement(name, FirstEpoch(3.25, Window(70, 1.0)), [turn], peak_memory_bytes=5 * 2**20)


@pytest.mark.parametrize("baseline", [None, "imagefolder-pil-crops"])
def test_each_row_stands_next_to_ceiling_need_and_baseline(baseline: str | None) -> None:
    rows = [measured("imagefolder-pil-crops", 150), measured("ffcv", 600), measured("synthetic", 20000)]
    lines = printed(print_loader_results, results_of(rows, 2, baseline, needed_images_per_second=3000.0))
    speed, cost = (line.split() for line in lines.splitlines() if line.split()[:1] == ["ffcv"])
    assert speed == ["ffcv", "600", "600–600", "1,200", "3.0", "20.0", *(["4.00"] if baseline else [])]
    assert cost == ["ffcv", "3.2", "70", "0.83", "25", "5"]
    assert ("The baseline is imagefolder-pil-crops." in lines) == bool(baseline)
    assert "imagefolder-pil-crops" in lines and "…" not in lines


def test_each_way_to_convert_stands_next_to_the_writer_of_ffcv() -> None:
    turns = {"convert": [Turn(100, 0.5, 2**20), Turn(100, 0.25, 2**20)], "ffcv-writer": [Turn(100, 1, 2**20)] * 2}
    lines = printed(print_convert_results, results_of_convert(turns))
    assert [line.split() for line in lines.splitlines() if "convert" in line] == [
        ["convert", "300", "200,", "400", "1.0", "3.00"]
    ]
    alone = printed(print_convert_results, results_of_convert({"scan": [Turn(100, 0.5, 0)]}))
    assert ["scan", "200", "200", "0.0"] in [line.split() for line in alone.splitlines()]


def test_file_holds_results_and_environment(tmp_path: Path) -> None:
    write_results([{"name": "row"}], tmp_path / "new" / "bench.json")
    written = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert written["results"] == [{"name": "row"}]
    assert "packages" in written["environment"]
