"""Random numbers of the augmentation: a pure function of seed, epoch, sample index and view, as arrays.

They depend on nothing else: not on the batch, the worker, the rank or the backend. So every backend executes the same
crops, and a run resumed in mid-epoch sees what the uninterrupted run would have seen.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.philox import philox, uniform

Array = TypeVar("Array")


class Draws(NamedTuple, Generic[Array]):
    """The random numbers of N images in V views; NumPy arrays on the host, tensors of the same names on the device."""

    crop: Array
    """int32 (N, V, 4): top, left, height, width in pixels of the image as stored."""
    flip: Array
    """bool (N, V): mirrored left to right."""
    jitter: Array
    """float32 (N, V, 4): brightness, contrast and saturation factor, hue shift in turns; 1, 1, 1, 0 where none."""
    order: Array
    """uint8 (N, V, 4): which jitter operation comes first, second, …; 0 brightness … 3 hue."""
    gray: Array
    """bool (N, V): reduced to grayscale."""
    sigma: Array
    """float32 (N, V): standard deviation of the Gaussian blur in output pixels; 0 where none."""
    solarize: Array
    """bool (N, V): values from 0.5 (128 of 255) on inverted."""


@dataclass(frozen=True)
class Augmentation:
    """Distributions that the views are drawn from; the defaults are SimSiam's (arXiv 2011.10566, appendix A).

    Raises UsageError for a value out of range.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest area of a crop, as a share of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a crop."""
    flip_probability: float = 0.5
    """Probability that a view is mirrored."""
    jitter_probability: float = 0.8
    """Probability that brightness, contrast, saturation and hue are changed, all four together."""
    brightness: float = 0.4
    """Brightness factor within 1 ± this."""
    contrast: float = 0.4
    """Contrast factor within 1 ± this."""
    saturation: float = 0.4
    """Saturation factor within 1 ± this."""
    hue: float = 0.1
    """Hue shift within ± this, in turns of the colour circle."""
    gray_probability: float = 0.2
    """Probability that a view is reduced to grayscale."""
    blur_probability: float = 0.5
    """Probability that a view is blurred."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the Gaussian blur, in output pixels."""
    solarize_probability: float = 0.0
    """Probability that values from 0.5 on are inverted, after the blur (as in BYOL, arXiv 2006.07733)."""

    def __post_init__(self) -> None:
        for name in (
            "flip_probability",
            "jitter_probability",
            "gray_probability",
            "blur_probability",
            "solarize_probability",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augmentation.{name} is {getattr(self, name)}; give a probability from 0 to 1.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augmentation.{name} is {getattr(self, name)}; give a number from 0 to 1.")
        if not 0 <= self.hue <= 0.5:
            raise UsageError(f"augmentation.hue is {self.hue}; give a number from 0 to 0.5 turns.")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise UsageError(
                    f"augmentation.{name} is {low}, {high}; give two positive, finite numbers, the smaller one first."
                )
        if self.crop_scale[1] > 1:
            raise UsageError(f"augmentation.crop_scale is {self.crop_scale}; a crop is at most the whole image, 1.")


# Blocks of the counter, of four words each; each block serves one purpose.
_SWITCHES, _JITTER, _ORDER_SIGMA_SOLARIZE, _CROP = 0, 1, 2, 3
_CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop tries ten times, then takes the centre

_ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.uint8)  # (24, 4)


def draw(
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    index: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int32],
    views: int = 2,
) -> Draws[np.ndarray]:
    """Draw the augmentation of the samples `index`, int64 (N,), whose heights and widths are `sizes`, int32 (N, 2).

    Each number has the distribution of torchvision's transform (RandomResizedCrop, RandomApply(ColorJitter),
    RandomGrayscale, RandomApply(GaussianBlur), RandomSolarize, RandomHorizontalFlip).
    """
    # (N, V) counters: sample, epoch and view fill three words, the block is the fourth.
    counter = (index[:, None], epoch, np.arange(views)[None, :])

    def block(number: int) -> tuple[npt.NDArray[np.float64], ...]:
        return tuple(uniform(words) for words in philox(seed, *counter, number))

    jittered, flipped, grayed, blurred = block(_SWITCHES)
    order, sigma, solarized, _ = block(_ORDER_SIGMA_SOLARIZE)
    spread = np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
    center = np.array([1.0, 1.0, 1.0, 0.0])
    jitter = center + spread * (2 * np.stack(block(_JITTER), axis=-1) - 1)
    low, high = augmentation.blur_sigma
    has_jitter = (jittered < augmentation.jitter_probability)[..., None]
    return Draws(
        crop=_draw_crop(augmentation, block, sizes, views),
        flip=flipped < augmentation.flip_probability,
        jitter=np.where(has_jitter, jitter, center).astype(np.float32),
        order=_ORDERS[(order * len(_ORDERS)).astype(np.intp)],
        gray=grayed < augmentation.gray_probability,
        sigma=np.where(blurred < augmentation.blur_probability, low + (high - low) * sigma, 0).astype(np.float32),
        solarize=solarized < augmentation.solarize_probability,
    )


def _draw_crop(augmentation: Augmentation, block, sizes: npt.NDArray[np.int32], views: int) -> npt.NDArray[np.int32]:
    """Draw as RandomResizedCrop: area uniform, ratio log-uniform, position uniform; the centre after ten misfits."""
    shape = (len(sizes), views)
    image_height, image_width = (np.broadcast_to(side[:, None], shape).astype(np.int64) for side in sizes.T)
    height, width, top, left = _center_crop(augmentation, image_height, image_width)
    pending = np.ones(shape, dtype=bool)
    log_ratio = np.log(augmentation.crop_ratio)
    for attempt in range(_CROP_ATTEMPTS):
        area, ratio, row, column = block(_CROP + attempt)
        area = (
            image_height
            * image_width
            * (augmentation.crop_scale[0] + (augmentation.crop_scale[1] - augmentation.crop_scale[0]) * area)
        )
        ratio = np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * ratio)
        tried_width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        tried_height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (tried_width > 0) & (tried_width <= image_width) & (tried_height > 0) & (tried_height <= image_height)
        taken = pending & fits
        height = np.where(taken, tried_height, height)
        width = np.where(taken, tried_width, width)
        top = np.where(taken, (row * (image_height - tried_height + 1)).astype(np.int64), top)
        left = np.where(taken, (column * (image_width - tried_width + 1)).astype(np.int64), left)
        pending &= ~fits
        if not pending.any():
            break
    return np.stack([top, left, height, width], axis=-1).astype(np.int32)


def _center_crop(augmentation: Augmentation, image_height, image_width):
    """Return height, width, top and left of the largest centred crop whose ratio is allowed."""
    low, high = augmentation.crop_ratio
    ratio = image_width / image_height
    height = np.where(ratio < low, np.rint(image_width / low).astype(np.int64), image_height)
    width = np.where(ratio > high, np.rint(image_height * high).astype(np.int64), image_width)
    return height, width, (image_height - height) // 2, (image_width - width) // 2
