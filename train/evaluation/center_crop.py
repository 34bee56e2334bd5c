"""Centre crop of the evaluation: resize the shorter side, crop the centre, normalise."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image


class CenterCrop(NamedTuple):
    """The evaluation transform: shorter side to `short_side` pixels, bilinear, then the centre `size` × `size`."""

    size: int = 224
    short_side: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue on a scale of 0 to 1; by default ImageNet's, as in training."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue; by default ImageNet's."""


def default_short_side(size: int) -> int:
    """Return the shorter side to resize to before a centre crop of `size` pixels: 256 for 224, as is usual."""
    return round(size * 256 / 224)


def center_crop(pixels: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """Resize so that the shorter side is `short_side`, antialiased bilinear, and crop the centre.

    uint8 (height, width, 3) → uint8 (size, size, 3).
    """
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    # The longer side is rounded down, as in torchvision's Resize.
    resized = (
        (short_side, int(short_side * height / width))
        if width < height
        else (int(short_side * width / height), short_side)
    )
    image = Image.fromarray(pixels)
    if scale != 1:
        image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)))


def normalize(pixels: torch.Tensor, transform: CenterCrop, device: torch.device) -> torch.Tensor:
    """Return crops, uint8 (n, size, size, 3), as float32 (n, 3, size, size) in `torch.channels_last` on `device`."""
    mean, std = (torch.tensor(each, device=device).view(3, 1, 1) * 255 for each in (transform.mean, transform.std))
    images = (pixels.to(device).permute(0, 3, 1, 2).float() - mean) / std
    return images.contiguous(memory_format=torch.channels_last)
