import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.train.run.plots import plot_runs, tell_apart


def run_with(folder: Path, *losses: float, knn: bool = False) -> Path:
    folder.mkdir()
    records = [{"step": step, "epoch": step / 10, "loss": loss} for step, loss in enumerate(losses)]
    if knn:
        records += [{"step": 0, "epoch": 0.0, "knn": 0.1}, {"step": 9, "epoch": 0.9, "knn": 0.8}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_curves_of_a_finished_run(tiny_run: Path, tmp_path: Path) -> None:
    out = plot_runs([tiny_run], tmp_path / "new" / "curves.png")
    assert out == tmp_path / "new" / "curves.png"
    assert [path.name for path in out.parent.iterdir()] == ["curves.png"]
    drawn = pixels(out)
    assert min(drawn.shape[:2]) >= 500
    # Curves are coloured; an empty figure has only grey pixels.
    assert (drawn.max(axis=2) - drawn.min(axis=2) > 100).sum() > 1000


def test_each_run_has_its_curve(tmp_path: Path) -> None:
    first, second = run_with(tmp_path / "a", -0.1, -0.5), run_with(tmp_path / "b", -0.9, -0.2)
    one, two = plot_runs([first], tmp_path / "1.png"), plot_runs([first, second], tmp_path / "2.png")
    colors = [{tuple(color) for color in pixels(file).reshape(-1, 3)} for file in (one, two)]
    blue, orange = (31, 119, 180), (255, 127, 14)  # matplotlib's first two
    assert blue in colors[0] and orange not in colors[0]
    assert {blue, orange} <= colors[1]


def test_a_run_has_the_same_colour_in_every_panel(tmp_path: Path) -> None:
    first, second = run_with(tmp_path / "a", -0.1, -0.5), run_with(tmp_path / "b", -0.9, -0.2, knn=True)
    drawn = pixels(plot_runs([first, second], tmp_path / "curves.png"))
    knn = drawn[drawn.shape[0] // 2 : drawn.shape[0] * 9 // 10, drawn.shape[1] * 2 // 3 :]
    colors = {tuple(color) for color in knn.reshape(-1, 3)}
    assert (255, 127, 14) in colors and (31, 119, 180) not in colors  # that of the second run alone was measured


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("old/demo/run", "new/demo/run", "new/tiny/run", "cifar")]
    assert tell_apart(runs) == ["old/demo/run", "new/demo/run", "tiny/run", "cifar"]
    assert tell_apart([tmp_path / "." / "a"]) == ["a"]


def test_measured_knn_is_drawn(tmp_path: Path) -> None:
    without = plot_runs([run_with(tmp_path / "a", -0.1, -0.5)], tmp_path / "a.png")
    with_knn = plot_runs([run_with(tmp_path / "b", -0.1, -0.5, knn=True)], tmp_path / "b.png")
    assert not np.array_equal(pixels(without), pixels(with_knn))


@pytest.mark.parametrize("content", [b"model: [", b"5", b"model: 5", b"\xff"])
def test_a_damaged_configuration_costs_the_dashed_line_alone(content: bytes, tmp_path: Path) -> None:
    run = run_with(tmp_path / "a", -0.1, -0.5)
    without = pixels(plot_runs([run], tmp_path / "without.png"))
    (run / "config.yaml").write_bytes(content)
    assert np.array_equal(pixels(plot_runs([run], tmp_path / "damaged.png")), without)


def test_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    good, empty = run_with(tmp_path / "a", -0.1), run_with(tmp_path / "b")
    for bad in (empty, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"{bad} is no run folder"):
            plot_runs([good, bad], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
