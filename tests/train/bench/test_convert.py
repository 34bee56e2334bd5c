from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.sources.open_records import open_records
from simsiam.train.bench.convert import ConvertSettings, Turn, bench_convert, convert_once, results_of
from simsiam.train.bench.rows import ConvertRowName
from tests.train.bench.conftest import SameProcessRows


def test_ratios_to_ffcv_are_taken_within_a_round() -> None:
    ours = [Turn(100, 1.0, 3 * 2**20), Turn(100, 2.0, 3 * 2**20), Turn(100, 0.5, 3 * 2**20)]
    theirs = [Turn(100, 4.0, 2**20), Turn(100, 4.0, 2**20), Turn(100, 1.0, 2**20)]
    result = results_of({"convert": ours, "ffcv-writer": theirs})[0]
    assert result == {
        "name": "convert",
        "images": 100,
        "images_per_second": 100.0,
        "images_per_second_by_round": [100.0, 50.0, 200.0],
        "file_mib": 3.0,
        "times_ffcv_writer": 2.0,
        "times_ffcv_writer_range": [2.0, 4.0],
    }
    assert "times_ffcv_writer" not in results_of({"convert": ours})[0]


def test_rows_convert_the_folder_in_turns_and_leave_nothing(
    tiny_images: Path, tmp_path: Path, same_process: SameProcessRows
) -> None:
    names: tuple[ConvertRowName, ...] = ("scan", "convert", "bytes-copied", "re-encoded")
    results = bench_convert(
        tiny_images / "train",
        names,
        max_side=20,
        quality=80,
        workers=1,
        rounds=2,
        folder=tmp_path,
        start_row=same_process,
    )
    assert same_process.asked == [*names * 2, *(f"{name} closed" for name in reversed(names))]
    assert [result["name"] for result in results] == list(names)
    scan, *files = results
    assert scan["file_mib"] == 0 and all(result["file_mib"] > 0 for result in files)
    for result in results:
        assert result["images"] == 48 and len(result["images_per_second_by_round"]) == 2
        assert (result["max_side"], result["quality"], result["workers"], result["cores"]) == (20, 80, 1, 1)
        assert result["peak_memory_mib"] == 1.0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "max_side", "side", "copied"),
    [
        ("convert", 24, 24, True),
        ("convert", 20, 20, False),
        ("bytes-copied", 20, 24, True),
        ("re-encoded", 24, 24, False),
        ("re-encoded", 20, 20, False),
    ],
)
def test_each_row_converts_in_its_way(
    name: ConvertRowName, max_side: int, side: int, copied: bool, tiny_images: Path, tmp_path: Path
) -> None:
    folder, out = tiny_images / "train", tmp_path / "out.beton"
    settings = ConvertSettings(name, folder, out, max_side, quality=80, workers=1)
    assert convert_once(settings) == 48
    original, first = open_records(folder).read(0), Beton(out)
    assert first.sizes.tolist() == [[side, side]] * 48
    assert (first.read(0) == original) == copied
    if not copied:
        convert_once(replace(settings, out=tmp_path / "smaller.beton", quality=20))
        assert len(Beton(tmp_path / "smaller.beton").read(0)) < len(first.read(0))


def test_scan_writes_nothing(tiny_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    assert convert_once(ConvertSettings("scan", tiny_images / "train", out, 20, quality=80, workers=1)) == 48
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused(tiny_images: Path, missing_ffcv: None) -> None:
    settings: dict[str, Any] = {"max_side": 20, "quality": 90, "workers": 1}
    with pytest.raises(ValueError, match="rounds is 0; give 1 or more"):
        bench_convert(tiny_images, ("scan",), rounds=0, **settings)
    with pytest.raises(ValueError, match="There is no folder nowhere; give a folder of images"):
        bench_convert(Path("nowhere"), ("scan",), rounds=1, **settings)
    with pytest.raises(ValueError, match="There is no folder nowhere to write to"):
        bench_convert(tiny_images, ("scan",), rounds=1, folder=Path("nowhere"), **settings)
    with pytest.raises(ValueError, match="The row ffcv-writer needs the package ffcv"):
        bench_convert(tiny_images, ("ffcv-writer",), rounds=1, **settings)
