"""Baseline of FFCV: its own loader and its own writer, used as its documentation says."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import PipelineSpec
from ffcv.transforms import ToDevice, ToTensor
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

from simsiam.pipeline.augmentation import Augmentation


def ffcv_two_view_loader(
    beton: Path, images: int, batch_size: int, size: int, threads: int, steps: int, device: torch.device
) -> Loader:
    """Return a loader of `steps` batches (first crops, second crops), each uint8 (batch_size, size, size, 3).

    Each view is a pipeline of its own, which is how FFCV 1.0.2 makes two: it decodes the record twice. The `images`
    records of the file come in random order, repeated until there are enough for the steps.
    """
    to_tensor = [ToTensor(), *([ToDevice(device, non_blocking=True)] if device.type == "cuda" else [])]

    def view() -> PipelineSpec:
        crop: Any = RandomResizedCropRGBImageDecoder((size, size), Augmentation.crop_scale, Augmentation.crop_ratio)
        return PipelineSpec("image", decoder=crop, transforms=list(to_tensor))

    return Loader(
        str(beton),
        batch_size,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.resize(np.arange(images, dtype=np.uint64), steps * batch_size),  # pyright: ignore[reportArgumentType]
        drop_last=True,
        pipelines={"image": None, "label": None, "first": view(), "second": view()},  # pyright: ignore[reportArgumentType]
    )


def write_with_ffcv(folder: Path, out: Path, max_side: int, quality: int, workers: int) -> int:
    """Write the images of a folder of classes to `out` as FFCV's ImageNet script does, all as JPEG; return how many.

    Images whose longer side exceeds `max_side` pixels are reduced to it.
    """
    images = ImageFolder(folder)
    fields = {"image": RGBImageField("jpg", max_resolution=max_side, jpeg_quality=quality), "label": IntField()}
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        DatasetWriter(str(out), fields, num_workers=workers).from_indexed_dataset(images)
    return len(images)
