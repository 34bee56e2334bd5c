"""Contract of `augment_views`: the draws it executes, the codes of its jitter operations, the layout of its result.

A file of its own, since `augment.py` imports the implementations and they import this.
"""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Array = TypeVar("Array")

# The codes in `order`, which are also the indices in the last axis of `jitter`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class PhotometricDraws(NamedTuple, Generic[Array]):
    """The random numbers that `augment_views` executes, of n images in `views` views; all but where the crop was."""

    flip: Array
    """bool (n, views): mirror left to right."""
    jitter: Array
    """float32 (n, views, 4): brightness, contrast and saturation factor, and hue shift in turns; 1, 1, 1 and 0 leave an
    image as it is, exactly."""
    order: Array
    """uint8 (n, views, 4): which operation comes first, second, third and fourth, a permutation of 0 brightness,
    1 contrast, 2 saturation, 3 hue."""
    gray: Array
    """bool (n, views): reduce to grayscale, three equal channels."""
    sigma: Array
    """float32 (n, views): standard deviation of the Gaussian blur in pixels; 0 for no blur."""
    solarize: Array
    """bool (n, views): replace each value from 0.5 on by 1 − value."""


def empty_views(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised result for crops (n, views, size, size, 3): the layout that every implementation has."""
    count, views, size = pixels.shape[:3]
    shape = (views * count, 3, size, size)
    return torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
