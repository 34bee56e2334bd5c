from pathlib import Path
from typing import Any

import pytest

from simsiam.train.bench import convert as module
from simsiam.train.bench import rows as bench_row_name
from simsiam.train.bench.convert import Turn, bench_convert, results_of
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


def test_each_row_does_the_folder_in_its_way(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_process: SameProcessRows
) -> None:
    converted = []
    convert = module.convert
    monkeypatch.setattr(module, "convert", lambda *a, **k: converted.append(k) or convert(*a, **k))
    results = bench_convert(
        tiny_images / "train",
        ("scan", "convert", "bytes-copied", "re-encoded"),
        max_side=20,
        quality=80,
        workers=1,
        rounds=2,
        folder=tmp_path,
        start_row=same_process,
    )
    assert [result["name"] for result in results] == ["scan", "convert", "bytes-copied", "re-encoded"]
    scan, *files = results
    assert scan["file_mib"] == 0 and all(result["file_mib"] > 0 for result in files)
    for result in results:
        assert result["images"] == 48 and len(result["images_per_second_by_round"]) == 2
        assert (result["max_side"], result["quality"], result["workers"], result["cores"]) == (20, 80, 1, 1)
    ways = [(each["max_side"], each["reencode"], each["quality"]) for each in converted]
    assert ways == [(20, False, 80), (None, False, 80), (20, True, 80)] * 2
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused(tiny_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_row_name, "find_spec", lambda name: None)
    settings: dict[str, Any] = {"max_side": 20, "quality": 90, "workers": 1}
    with pytest.raises(ValueError, match="rounds is 0; give 1 or more"):
        bench_convert(tiny_images, ("scan",), rounds=0, **settings)
    with pytest.raises(ValueError, match="There is no folder nowhere; give a folder of images"):
        bench_convert(Path("nowhere"), ("scan",), rounds=1, **settings)
    with pytest.raises(ValueError, match="There is no folder nowhere to write to"):
        bench_convert(tiny_images, ("scan",), rounds=1, folder=Path("nowhere"), **settings)
    with pytest.raises(ValueError, match="The row ffcv-writer needs the package ffcv"):
        bench_convert(tiny_images, ("ffcv-writer",), rounds=1, **settings)
