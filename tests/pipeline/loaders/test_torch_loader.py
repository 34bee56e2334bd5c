import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import InterpolationMode, resized_crop

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.image_folder import ImageFolder

CPU = torch.device("cpu")


def open_plan(source) -> CropPlan:
    return CropPlan(source, Augmentation(), crop_size=8, batch_size=3)


def children() -> list:
    return multiprocessing.active_children()


class DeadlyFolder:
    """An image folder with one picture that kills the process that decodes it."""

    def __init__(self, folder: ImageFolder, deadly: int) -> None:
        self._folder, self._deadly = folder, deadly
        self.sizes, self.labels = folder.sizes, folder.labels

    def __len__(self) -> int:
        return len(self._folder)

    def name(self, index: int) -> str:
        return self._folder.name(index)

    def decode(self, index: int) -> np.ndarray:
        if index == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._folder.decode(index)


def test_pixels_are_the_same_for_any_number_of_workers(pictures: ImageFolder) -> None:
    found = []
    for workers in (0, 1, 4):
        loader = TorchLoader(open_plan(pictures), CPU, workers)
        found.append(torch.stack([crops.pixels for epoch in (0, 1) for crops in loader.epoch(epoch)]))
        loader.close()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert children() == []


def test_a_crop_is_what_torchvision_makes_of_the_pillow_image(pictures: ImageFolder) -> None:
    loader = TorchLoader(open_plan(pictures), CPU, workers=0)
    for crops in loader.epoch(0):
        for row, index in enumerate(crops.index.tolist()):
            image: Any = Image.open(pictures.name(index)).convert("RGB")
            for view in range(2):
                top, left, height, width = crops.draws.crop[row, view].tolist()
                expected = resized_crop(
                    image, top, left, height, width, [8, 8], InterpolationMode.BILINEAR, antialias=True
                )
                np.testing.assert_array_equal(crops.pixels[row, view].numpy(), np.asarray(expected))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(pictures: ImageFolder, workers: int) -> None:
    with Path(pictures.name(4)).open("r+b") as file:
        file.truncate(100)
    loader = TorchLoader(open_plan(pictures), CPU, workers)
    with pytest.raises(ImageError) as caught:
        for epoch in range(4):
            list(loader.epoch(epoch))
    assert str(caught.value).startswith(pictures.name(4))
    assert "\n" not in str(caught.value)
    loader.close()


def test_the_image_that_killed_a_worker_is_named(pictures: ImageFolder) -> None:
    loader = TorchLoader(open_plan(DeadlyFolder(pictures, deadly=6)), CPU, workers=1)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="died") as caught:
        for epoch in range(4):
            list(loader.epoch(epoch))
    assert pictures.name(6) in str(caught.value)
    assert time.monotonic() - started < 60
    loader.close()
    assert children() == []


def test_an_epoch_left_early_does_not_disturb_the_next(pictures: ImageFolder) -> None:
    loader = TorchLoader(open_plan(pictures), CPU, workers=1)
    next(loader.epoch(0))
    indices = torch.cat([crops.index for crops in loader.epoch(1)])
    assert indices.tolist() == np.concatenate([open_plan(pictures).indices(1, step) for step in range(3)]).tolist()
    loader.close()
    assert children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_ignore_a_signal_to_the_process_group(pictures: ImageFolder, number: signal.Signals) -> None:
    with TorchLoader(open_plan(pictures), CPU, workers=1) as loader:
        next(loader.epoch(0))
        (worker,) = children()
        os.kill(worker.pid, number)
        assert len(list(loader.epoch(1))) == 3  # made after the signal
        assert children() == [worker]


NEVER_CLOSED = """
import sys
from simsiam.pipeline.open_crops import open_crops
loader = open_crops(sys.argv[1], 8, 3, backend="torch", device="cpu", workers=1)
steps = loader.epoch(0)
next(steps)
raise ValueError("a mistake")
"""


def test_a_loader_that_is_never_closed_does_not_keep_the_program_from_ending(pictures: ImageFolder) -> None:
    command = [sys.executable, "-c", NEVER_CLOSED, str(pictures.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "ValueError: a mistake")
