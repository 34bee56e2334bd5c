"""A row of `simsiam bench loader` → its batches, one after the other, without end."""

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from simsiam.kernels.augment import augment_views
from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Backend, Crops
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.train.bench.rows import LoaderRowName
from simsiam.train.config import DataConfig, DeviceName
from simsiam.train.precision import choose_arithmetic

_LONG_EPOCH = 5004
"""Steps of ImageNet in batches of 256."""


@dataclass(frozen=True)
class RowSettings:
    """What a row measures."""

    name: LoaderRowName
    source: Path
    images: Path | None
    """The folder of the rows that read one."""
    batch_size: int
    size: int
    workers: int
    device: DeviceName
    augment: bool
    """Whether our backends' crops are made into views, too."""
    seconds: float
    """Of a round; the first epoch takes no longer, either."""


class LongPlan(CropPlan):
    """A plan with the epochs of a small source strung together until there are 5,004 steps.

    A loader begins each epoch anew, with nothing made ahead. Training on ImageNet does so every 5,004 steps, and a
    row on a thousand images is to say what such a training gets.
    """

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
        return -(-_LONG_EPOCH // self.steps_of_source())


def batches_of(settings: RowSettings, plan: LongPlan, device: torch.device, cores: int) -> Generator[int]:
    """Open the row and yield the number of images in each batch once it is there; on a GPU, once it is on its way."""
    match name := settings.name:
        case "imagefolder-pil" | "imagefolder-pil-crops":
            views = _image_folder_views(settings, device)
        case "ffcv-loader":
            views = _ffcv_views(settings, plan, device, cores)
        case "copies":
            views = _copies(settings, device)
        case _:
            views = _our_views(name, settings, plan, device)
    with closing(views):
        for batch in views:
            yield len(batch)


def _our_views(
    backend: Backend, settings: RowSettings, plan: CropPlan, device: torch.device
) -> Generator[torch.Tensor]:
    dtype = choose_arithmetic(device, "auto").dtype
    with closing(open_loader(backend, plan, device, settings.workers)) as loader:
        for epoch in itertools.count():
            for crops in loader.epoch(epoch):
                if backend == "synthetic":
                    crops = _copy(crops)
                if settings.augment:
                    _augment(crops, dtype)
                yield crops.pixels


def _copy(crops: Crops) -> Crops:
    # The loader hands over the same crops each time, in no time; a batch of any other is memory written once at least.
    draws = Draws(*(part.clone() for part in crops.draws))
    return Crops(crops.pixels.clone(), draws, crops.index.clone(), crops.label.clone())


def _augment(crops: Crops, dtype: torch.dtype) -> torch.Tensor:
    return augment_views(
        crops.pixels,
        crops.draws,
        mean=DataConfig.mean,
        std=DataConfig.std,
        dtype=dtype,
    )


def _image_folder_views(settings: RowSettings, device: torch.device) -> Generator[torch.Tensor]:
    from simsiam.train.bench.baseline_image_folder import crop_transform, image_folder_loader, reference_transform

    assert settings.images is not None
    transform = reference_transform if settings.name == "imagefolder-pil" else crop_transform
    loader = image_folder_loader(
        settings.images,
        transform(settings.size),
        settings.batch_size,
        settings.workers,
        _LONG_EPOCH,
        pin_memory=device.type == "cuda",
    )
    while True:
        for (first, second), _ in loader:
            second.to(device, non_blocking=True)
            yield first.to(device, non_blocking=True)


def _ffcv_views(settings: RowSettings, plan: CropPlan, device: torch.device, cores: int) -> Generator[torch.Tensor]:
    from simsiam.train.bench.baseline_ffcv import ffcv_two_view_loader

    loader = ffcv_two_view_loader(
        settings.source, len(plan.source), settings.batch_size, settings.size, cores, _LONG_EPOCH, device
    )
    while True:
        for first, _ in loader:
            yield first


def _copies(settings: RowSettings, device: torch.device) -> Generator[torch.Tensor]:
    shape = (settings.batch_size, 2, settings.size, settings.size, 3)
    crops = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
    while True:
        yield crops.to(device, non_blocking=True)
