import dataclasses
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from simsiam.train.config import KnnConfig, PretrainConfig
from simsiam.train.learner import build_model
from simsiam.train.pretrain import pretrain
from simsiam.train.recipe import load_config, recipe_file
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint

TinyConfig = Callable[..., PretrainConfig]


def train(config: PretrainConfig) -> dict[str, Any]:
    assert config.run_dir is not None
    return pretrain(config, config.run_dir, Console(file=StringIO()))


def test_loss_that_is_no_number_ends_the_run_before_it_is_saved(tiny_config: TinyConfig, run_dir: Path) -> None:
    config = tiny_config(run_dir, "--optimizer.base-lr=1e30", "--checkpoint.every-steps=1", "--log.every-steps=12")
    with pytest.raises(RuntimeError, match=r"smaller optimizer\.base_lr"):
        train(config)
    for path in list_checkpoints(run_dir / "checkpoints"):
        values = load_checkpoint(path)["model"].items()
        assert [name for name, value in values if not value.isfinite().all()] == [], path
    assert "NaN" not in (run_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.path=None"], "No images were named"),
        (["--data.path=nowhere"], "There is no folder or file nowhere"),
        (["--knn.train=nowhere"], "There is no folder or file nowhere"),
        (["--batch-size=49"], "batch size 49 is larger than the 48 images"),
        (["--data.backend=ffcv"], "The ffcv backend reads .beton files alone"),
        (["--precision=tf32"], "precision tf32 is a GPU's"),
    ],
)
def test_settings_that_cannot_work_are_told_before_anything_is_written(
    tiny_config: TinyConfig, run_dir: Path, options: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(tiny_config(run_dir, *options))
    assert not run_dir.exists()


def test_monitor_refuses_unlabelled_images(tiny_config: TinyConfig, tiny_images: Path, run_dir: Path) -> None:
    unlabelled = tiny_images / "test" / "fine"
    with pytest.raises(ValueError, match=f"Not every image of {unlabelled} has a label"):
        train(tiny_config(run_dir, f"--knn.test={unlabelled}"))
    assert not run_dir.exists()


def test_broken_files_are_counted(tiny_config: TinyConfig, tiny_images: Path, run_dir: Path) -> None:
    images = run_dir.parent / "images"
    images.mkdir()
    for number, file in enumerate(sorted((tiny_images / "train").rglob("*.jpg"))[:9]):
        content = file.read_bytes()
        (images / file.name).write_bytes(content[: len(content) // 2] if number == 4 else content)
    screen = StringIO()
    config = tiny_config(run_dir, f"--data.path={images}", "--max-steps=1")
    pretrain(dataclasses.replace(config, knn=KnnConfig()), run_dir, Console(file=screen, width=200))
    assert f"Images: 8 in {images}, 1 broken" in screen.getvalue()


@pytest.mark.parametrize(
    ("name", "parameters"),
    # mmpretrain configs/simsiam/metafile.yml; CIFAR: 11,168,832 + 5,246,976 + 2,100,224 of the paper's appendix D.
    [("imagenet-resnet50", 38_199_360), ("cifar10-resnet18", 18_516_032)],
)
def test_recipe_builds_the_published_model(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(load_config(recipe_file(name)))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_seed_decides_the_weights(tiny_config: TinyConfig, run_dir: Path) -> None:
    first, again, other = (build_model(tiny_config(run_dir, f"--seed={seed}")).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])
