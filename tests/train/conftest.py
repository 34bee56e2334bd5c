"""A tiny image set and one finished tiny run on it, shared by the tests of the package."""

import shutil
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from simsiam.train.config import PretrainConfig
from simsiam.train.pretrain import pretrain
from simsiam.train.terminal.arguments import parse

TinyConfig = Callable[..., PretrainConfig]

# 48 images in steps of 8: 6 steps an epoch, 12 in all. A line every 5 steps falls inside the epochs, and so do the
# checkpoints that the tests add; the ImageNet stem is the quicker one.
_OPTIONS = (
    *("--device=cpu", "--epochs=2", "--batch-size=8", "--seed=3"),
    *("--data.size=16", "--data.workers=0", "--log.every-steps=5", "--knn.every-epochs=1", "--knn.k=5"),
    *("--model.arch=resnet18", "--model.projector-layers=2", "--model.projection-dim=32"),
    "--model.prediction-hidden=8",
)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train`, 48 JPEGs, and `test`, 16; all of 24 × 24 pixels, in the classes `fine` and `coarse`."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 48), ("test", 16)):
        for number in range(count):
            name, cell = (("fine", 2), ("coarse", 6))[number % 2]
            cells = rng.integers(0, 256, (24 // cell, 24 // cell, 3), dtype=np.uint8)
            file = root / split / name / f"{number:02d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cells.repeat(cell, axis=0).repeat(cell, axis=1)).save(file, quality=95)
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_images: Path) -> TinyConfig:
    """Call it with a run folder and further options; it gives the configuration of a run of some two seconds."""

    def config(run_dir: Path, *options: str) -> PretrainConfig:
        paths = [
            f"--run-dir={run_dir}",
            f"--data.path={tiny_images / 'train'}",
            f"--knn.train={tiny_images / 'train'}",
            f"--knn.test={tiny_images / 'test'}",
        ]
        return parse(PretrainConfig(), [*_OPTIONS, *paths, "--log.no-tensorboard", *options], prog="test")

    return config


@pytest.fixture(scope="session")
def tiny_run(tiny_config: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished run; to be read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    pretrain(tiny_config(run_dir, "--log.tensorboard"), run_dir, Console(file=StringIO()))
    yield run_dir
    shutil.rmtree(run_dir)


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a run may go. It is removed afterwards: a checkpoint takes 90 MB, and pytest keeps folders for a while."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
