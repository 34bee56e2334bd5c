"""Baseline of the loader: torchvision's ImageFolder and transforms make two views an image, as in most trainings."""

import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.errors import UsageError
from simsiam.train.config import DataConfig


def reference_transform(size: int) -> transforms.Compose:
    """Return the augmentation of one view by Pillow: image → float32 (3, size, size), normalised.

    Operations, order and numbers are those of SimSiam and MoCo v2 (arXiv 2011.10566, app. A).
    """
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([GaussianBlur(0.1, 2.0)], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(DataConfig.mean, DataConfig.std),
        ]
    )


def crop_transform(size: int) -> transforms.Compose:
    """Return the transform of our own backends, without augmentation: image → one crop, uint8 (3, size, size)."""
    return transforms.Compose(
        [transforms.RandomResizedCrop(size, scale=Augmentation.crop_scale), transforms.PILToTensor()]
    )


class GaussianBlur:
    """Blurs an image by Pillow's approximation of a Gaussian, its radius drawn between `low` and `high` pixels."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(random.uniform(self._low, self._high)))


class TwoViews:
    """Applies a transform twice to the decoded image, each time with new random numbers."""

    def __init__(self, transform: transforms.Compose) -> None:
        self._transform = transform

    def __call__(self, image: Image.Image) -> tuple[Any, Any]:
        """Return the two views."""
        return self._transform(image), self._transform(image)


def image_folder_loader(
    folder: Path, transform: transforms.Compose, batch_size: int, workers: int, steps: int, pin_memory: bool = False
) -> DataLoader:
    """Return a loader of `steps` batches ((first views, second views), labels), in `workers` processes.

    The images come from one pass over the folder after the other, each in a new random order.

    Raises UsageError if the folder doesn't hold class folders.
    """
    try:
        images = ImageFolder(folder, TwoViews(transform))
    except FileNotFoundError as error:
        raise UsageError(f"torchvision's ImageFolder can't read {folder}: {error}; give a folder of classes.") from None
    return DataLoader(
        images,
        batch_size,
        sampler=RandomSampler(images, num_samples=steps * batch_size),
        num_workers=workers,
        pin_memory=pin_memory,
        drop_last=True,
    )
