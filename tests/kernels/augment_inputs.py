"""Crops and draws for the tests of the augmentation, and a comparison that any processor's rounding passes."""

import torch
from torch import Tensor

from simsiam.kernels.augment_contract import PhotometricDraws

NEUTRAL_JITTER = torch.tensor([1.0, 1.0, 1.0, 0.0])


def neutral(count: int, views: int = 2) -> PhotometricDraws[Tensor]:
    """Return draws that leave every image as it is."""
    shape = (count, views)
    return PhotometricDraws(
        flip=torch.zeros(shape, dtype=torch.bool),
        jitter=NEUTRAL_JITTER.expand(*shape, 4).clone(),
        order=torch.arange(4, dtype=torch.uint8).expand(*shape, 4).clone(),
        gray=torch.zeros(shape, dtype=torch.bool),
        sigma=torch.zeros(shape),
        solarize=torch.zeros(shape, dtype=torch.bool),
    )


def drawn(count: int, views: int = 2, seed: int = 0) -> PhotometricDraws[Tensor]:
    """Draw so that every operation is on in some views and off in others, each coming first somewhere."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, views, *shape, generator=generator)

    jittered = (uniform(1) < 0.8) & (uniform(4) < 0.9)
    return PhotometricDraws(
        flip=uniform() < 0.5,
        jitter=torch.where(
            jittered, NEUTRAL_JITTER + (2 * uniform(4) - 1) * torch.tensor([0.8, 0.8, 0.8, 0.5]), NEUTRAL_JITTER
        ),
        order=uniform(4).argsort(-1).to(torch.uint8),
        gray=uniform() < 0.2,
        sigma=torch.where(uniform() < 0.6, 3 * uniform(), 0.0),
        solarize=uniform() < 0.3,
    )


def crops(count: int, views: int = 2, size: int = 32, seed: int = 1) -> Tensor:
    """Return saturated colours and grays, where hue and saturation are undefined, noise, and smooth ramps."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count * views, size, size, 3), generator=generator, dtype=torch.uint8)
    pixels[:, : size // 3] = pixels[:, : size // 3] // 128 * 255
    pixels[:, size // 3 : size // 2] = pixels[:, size // 3 : size // 2, :, :1]
    ramp = torch.linspace(0, 255, size).to(torch.uint8)
    pixels[1::3, size // 2 :, :, 0] = ramp
    pixels[1::3, size // 2 :, :, 1] = ramp[size // 2 :, None]
    return pixels.view(count, views, size, size, 3)


def moved(draws: PhotometricDraws[Tensor], device: torch.device) -> PhotometricDraws[Tensor]:
    """Return the draws on another device."""
    return PhotometricDraws(*(draw.to(device) for draw in draws))


def is_rounded(got: Tensor, full: Tensor) -> bool:
    """Whether `got` is the float32 tensor `full` rounded to the dtype of `got`, give or take 1e-6 before rounding.

    Code compiled for two dtypes may round differently in float32, depending on the processor.
    """
    low, high = ((full + offset).to(got.dtype) for offset in (-1e-6, 1e-6))
    return bool(((low <= got) & (got <= high)).all())
