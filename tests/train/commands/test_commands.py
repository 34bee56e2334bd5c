import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from simsiam.pipeline.sources.open_source import open_source
from simsiam.train import demo as demo_module
from simsiam.train import doctor
from simsiam.train.cli import run
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.doctor import Finding
from simsiam.train.recipe import load_config, recipe_file

Capture = pytest.CaptureFixture[str]
TinyConfig = Callable[..., PretrainConfig]


def test_convert_writes_a_file_and_says_what_it_skipped(tiny_images: Path, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "images"
    for file in (tiny_images / "test").rglob("*.jpg"):
        copy = source / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (source / "fine" / "[bad].jpg").write_text("no image")
    out = tmp_path / "new" / "images.beton"
    options = "--max-side 12 --quality 80 --workers 1"
    assert run(["convert", str(source), str(out), *options.split()]) == 0
    said = capsys.readouterr().out
    assert said.startswith("16 images, ") and f"→ {out}\n" in said
    assert f"skipped: {source}/fine/[bad].jpg: " in said
    beton = open_source(out)
    assert len(beton) == 16 and list(beton.classes) == ["coarse", "fine"]
    assert beton.sizes.tolist() == [[12, 12]] * 16


def test_converted_images_keep_their_size_when_asked(tiny_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "images.beton"
    assert run(["convert", str(tiny_images / "test"), str(out), "--max-side", "None", "--workers", "1"]) == 0
    assert open_source(out).sizes.tolist() == [[24, 24]] * 16
    assert run(["convert", str(tiny_images / "test"), str(out), "--workers", "1", "--overwrite"]) == 0


def test_preview_writes_the_sheet(tiny_images: Path, tmp_path: Path, capsys: Capture) -> None:
    sheets = []
    for name, blur in (("a", "0"), ("b", "1")):
        out = tmp_path / f"{name}.png"
        options = f"--size 16 --count 3 --seed 2 --out {out} --augmentation.blur-probability {blur}"
        assert run(["preview", str(tiny_images / "train"), *options.split()]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        with Image.open(out) as image:
            sheets.append(np.asarray(image))
    assert sheets[0].shape == sheets[1].shape
    assert not np.array_equal(*sheets)


def test_plot_writes_the_curves(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "curves.png"
    assert run(["plot", str(tiny_run), str(tiny_run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.stat().st_size > 0


def test_evaluate_knn_prints_the_accuracy(tiny_run: Path, tiny_images: Path, capsys: Capture) -> None:
    measured = json.loads((tiny_run / "summary.json").read_text())["knn"]
    paths = [str(tiny_run), "--train", str(tiny_images / "train"), "--test", str(tiny_images / "test")]
    assert run(["evaluate", "knn", *paths, *["--k", "5", "--workers", "0", "--device", "cpu"]]) == 0
    assert capsys.readouterr().out == f"kNN accuracy: {100 * measured:.2f} %  (k 5, temperature 0.1)\n"


def test_evaluate_knn_tells_what_it_skipped(tiny_run: Path, tiny_images: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(tiny_images / "test" / "fine", tmp_path / "test" / "fine")
    (tmp_path / "test" / "coarse").mkdir()
    (tmp_path / "test" / "fine" / "z.jpg").write_text("no image")
    paths = [str(tiny_run), "--train", str(tiny_images / "train"), "--test", str(tmp_path / "test")]
    out = tmp_path / "new" / "knn.json"
    assert run(["evaluate", "knn", *paths, "--workers=0", "--device=cpu", f"--json={out}"]) == 0
    said = capsys.readouterr()
    skipped = f"{tmp_path}/test/fine/z.jpg"
    assert f"skipped: 1 broken test image, the first {skipped}: not an image" in said.out
    assert "no image of 1 of the 2 classes" in said.err and ": coarse." in said.err
    found = json.loads(out.read_text())
    assert (found["test"]["images"], found["test"]["missing_classes"]) == (8, ["coarse"])
    assert [each["name"] for each in found["test"]["skipped"]] == [skipped]
    assert found["train"] == {"path": str(tiny_images / "train"), "images": 48, "skipped": []}
    assert f"{100 * found['accuracy']:.2f} %" in said.out


def test_pretrain_prints_where_everything_is(tiny_config: TinyConfig, run_dir: Path, capsys: Capture) -> None:
    file = run_dir.parent / "mine.yaml"
    file.write_text(yaml.safe_dump(to_tree(tiny_config(run_dir))))
    assert run(["pretrain", str(file), "--max-steps", "1"]) == 0
    *_, knn, sheet, curves, report, summary, checkpoints = capsys.readouterr().out.splitlines()
    assert knn.startswith("kNN accuracy: ") and "at random initialisation" in knn and knn.endswith("% trained")
    for line in (sheet, curves, report, summary, checkpoints):
        assert Path(line.partition(": ")[2]).exists()


def test_run_goes_into_runs_by_the_recipes_name(
    tiny_images: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.mkdir()
    monkeypatch.chdir(run_dir)
    options = "--batch-size 8 --data.size 16 --max-steps 1 --data.workers 0 --device cpu --log.no-tensorboard"
    assert run(["pretrain", "custom", "--data.path", str(tiny_images / "train"), *options.split()]) == 0
    assert (run_dir / "runs" / "custom" / "summary.json").exists()


def test_resolved_configuration_is_printed_as_a_file(tmp_path: Path, capsys: Capture) -> None:
    assert run(["pretrain", "cifar10-resnet18", "--batch-size", "256", "--print-config"]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    recipe = load_config(recipe_file("cifar10-resnet18"))
    assert to_tree(load_config(file)) == to_tree(recipe) | {"batch_size": 256}


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("missing", 0), ("problem", 1)])
def test_doctor_fails_on_a_problem_alone(state, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("ok", "all well"), Finding(state, "this", "do that")])
    assert run(["doctor"]) == code
    assert "this" in capsys.readouterr().out


def test_demo_does_the_whole_job(run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    batch = load_config(recipe_file("demo")).batch_size
    monkeypatch.setattr(demo_module, "TRAIN_IMAGES", batch)
    monkeypatch.setattr(demo_module, "TEST_IMAGES", 20)
    assert run(["demo", "--out", str(run_dir), "--epochs", "1"]) == 0
    summary = json.loads((run_dir / "run" / "summary.json").read_text())
    assert {"knn", "knn_random", "loss"} <= summary.keys()
    said = capsys.readouterr().out
    assert f"{100 * summary['knn_random']:.2f} % at random initialisation, {100 * summary['knn']:.2f} % trained" in said
    for name in ("train.beton", "test.beton", "run/plots/curves.png", "run/plots/views.png"):
        assert (run_dir / name).stat().st_size > 0


def test_bench_loader_writes_json(tiny_images: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "bench.json"
    options = f"--backend torch,resident --batch-size 8 --size 16 --workers 0 --seconds 0.05 --device cpu --json {out}"
    assert run(["bench", "loader", str(tiny_images / "train"), *options.split()]) == 0
    written = json.loads(out.read_text())
    assert [result["name"] for result in written["results"]] == ["torch", "resident", "synthetic"]
    assert written["environment"]["packages"]["torch"]
    assert "images/s" in capsys.readouterr().out


def test_bench_convert_writes_json(tiny_images: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "bench.json"
    options = f"--rows scan,re-encoded --workers 1 --rounds 1 --max-side 12 --folder {tmp_path} --json {out}"
    assert run(["bench", "convert", str(tiny_images / "test"), *options.split()]) == 0
    results = json.loads(out.read_text())["results"]
    assert [(result["name"], result["images"], result["max_side"]) for result in results] == [
        ("scan", 16, 12),
        ("re-encoded", 16, 12),
    ]
    assert "re-encoded" in capsys.readouterr().out and list(tmp_path.iterdir()) == [out]
