import dataclasses
import json
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train import demo
from simsiam.train.config import PretrainConfig
from simsiam.train.demo import run_demo
from simsiam.train.demo_images import CLASSES
from simsiam.train.recipe import load_config, recipe_file
from simsiam.train.run.metrics import read_metrics


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """The demo's own recipe, but 32 images, 20 to test on, and two epochs of two steps."""
    monkeypatch.setattr(demo, "TRAIN_IMAGES", 32)
    monkeypatch.setattr(demo, "TEST_IMAGES", 20)
    recipe = load_config(recipe_file("demo"))
    optimizer = dataclasses.replace(recipe.optimizer, warmup_epochs=1)
    return dataclasses.replace(recipe, epochs=2, batch_size=16, device="cpu", optimizer=optimizer)


def test_everything_is_made_in_the_folder(config: PretrainConfig, run_dir: Path) -> None:
    screen = StringIO()
    summary = run_demo(config, run_dir, Console(file=screen, width=200))
    for split, count in (("train", 32), ("test", 20)):
        beton = open_source(run_dir / f"{split}.beton")
        assert len(beton) == len(list((run_dir / "images" / split).rglob("*.jpg"))) == count
        assert sorted(beton.classes) == sorted(CLASSES)
    run = run_dir / "run"
    assert json.loads((run / "summary.json").read_text()) == summary
    assert {"knn", "knn_random", "loss"} <= summary.keys() and summary["step"] == 4
    assert [record["step"] for record in read_metrics(run) if "knn" in record] == [0, 4]
    for sheet in ("curves.png", "views.png"):
        with Image.open(run / "plots" / sheet) as image:
            assert image.format == "PNG"
    assert f"32 + 20 images of {len(CLASSES)} classes in {run_dir}" in screen.getvalue()


def test_train_and_test_images_differ(config: PretrainConfig, run_dir: Path) -> None:
    run_demo(dataclasses.replace(config, max_steps=1), run_dir, Console(file=StringIO()))
    train, test = (
        {file.read_bytes() for file in (run_dir / "images" / split).rglob("*.jpg")} for split in ("train", "test")
    )
    assert (len(train), len(test)) == (32, 20)
    assert not train & test


def test_folder_that_is_not_empty_is_left_alone(config: PretrainConfig, run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / "mine.txt").touch()
    with pytest.raises(UsageError, match=f"{run_dir} is not an empty folder; remove it, or choose another"):
        run_demo(config, run_dir, Console(file=StringIO()))
    assert [path.name for path in run_dir.iterdir()] == ["mine.txt"]
