"""Batches of a row of `simsiam bench loader`, endlessly: of one of our backends, or of what others use."""

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simsiam.kernels.augment import augment_views
from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Backend, Crops
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.train.bench.rows import LoaderRowName
from simsiam.train.config import DataConfig, DeviceName
from simsiam.train.precision import choose_arithmetic


@dataclass(frozen=True)
class RowSettings:
    """What a row measures."""

    name: LoaderRowName
    source: Path
    images: Path | None
    """Folder for the rows that read one."""
    batch_size: int
    size: int
    workers: int
    device: DeviceName
    augment: bool
    """Whether views are made of our backends' crops."""
    seconds: float
    """Length of a round; the first epoch takes no longer, either."""


@dataclass(frozen=True)
class LongPlan(CropPlan):
    """A plan whose epochs are as long as ImageNet's: passes over a small source follow each other in one epoch.

    A loader starts each epoch with nothing prepared. A row that reads a thousand images is to say what a training on
    ImageNet gets, where that happens rarely.
    """

    least_steps: int = 5004
    """Steps in an epoch, rounded up to whole passes; by default those of ImageNet in batches of 256."""

    def steps_of_source(self) -> int:
        """Return the steps of one pass over the source."""
        return super().__len__()

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps_of_source() * self._passes()

    def indices(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Return the samples of this rank in one step, int64 (batch_size / world_size,)."""
        number, step = divmod(step, self.steps_of_source())
        return super().indices(epoch * self._passes() + number, step)

    def _passes(self) -> int:
        return -(-self.least_steps // self.steps_of_source())


class Batch(NamedTuple):
    """A batch on the device; on a GPU perhaps still on its way."""

    images: int
    result: Tensor
    """What the row made last of these images: their crops, or views where those are made; one view of two tensors."""


def batches_of(settings: RowSettings, plan: LongPlan, device: torch.device, cores: int) -> Generator[Batch]:
    """Open the row and yield its batches."""
    match name := settings.name:
        case "imagefolder-pil" | "imagefolder-pil-crops":
            return _image_folder_batches(settings, plan, device)
        case "ffcv-loader":
            return _ffcv_batches(settings, plan, device, cores)
        case "copies":
            return _copied_batches(settings, device)
        case _:
            return _our_batches(name, settings, plan, device)


def _our_batches(backend: Backend, settings: RowSettings, plan: CropPlan, device: torch.device) -> Generator[Batch]:
    dtype = choose_arithmetic(device, "auto").dtype
    with closing(open_loader(backend, plan, device, settings.workers)) as loader:
        for epoch in itertools.count():
            for crops in loader.epoch(epoch):
                if backend == "synthetic":
                    crops = _copy(crops)
                result = crops.pixels
                if settings.augment:
                    result = augment_views(result, crops.draws, mean=DataConfig.mean, std=DataConfig.std, dtype=dtype)
                yield Batch(len(crops.pixels), result)


def _copy(crops: Crops) -> Crops:
    # This loader returns the same crops each time, in no time; any other writes the memory of a batch at least once.
    draws = Draws(*(part.clone() for part in crops.draws))
    return Crops(crops.pixels.clone(), draws, crops.index.clone(), crops.label.clone())


def _image_folder_batches(settings: RowSettings, plan: LongPlan, device: torch.device) -> Generator[Batch]:
    from simsiam.train.bench.baseline_image_folder import crop_transform, image_folder_loader, reference_transform

    assert settings.images is not None
    transform = reference_transform if settings.name == "imagefolder-pil" else crop_transform
    loader = image_folder_loader(
        settings.images,
        transform(settings.size),
        settings.batch_size,
        settings.workers,
        plan.least_steps,
        pin_memory=device.type == "cuda",
    )
    while True:
        for (first, second), _ in loader:
            second.to(device, non_blocking=True)
            yield Batch(len(first), first.to(device, non_blocking=True))


def _ffcv_batches(settings: RowSettings, plan: LongPlan, device: torch.device, cores: int) -> Generator[Batch]:
    from simsiam.train.bench.baseline_ffcv import ffcv_two_view_loader

    loader = ffcv_two_view_loader(
        settings.source, len(plan.source), settings.batch_size, settings.size, cores, plan.least_steps, device
    )
    while True:
        for first, _ in loader:
            yield Batch(len(first), first)


def _copied_batches(settings: RowSettings, device: torch.device) -> Generator[Batch]:
    shape = (settings.batch_size, 2, settings.size, settings.size, 3)
    crops = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
    while True:
        yield Batch(settings.batch_size, crops.to(device, non_blocking=True))
