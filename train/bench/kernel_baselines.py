"""Baselines of `simsiam bench kernels`: the augmentation by other libraries."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from simsiam.kernels.augment_contract import PhotometricDraws
from simsiam.train.bench.kernels import Outputs


def by_torchvision(pixels: Tensor, draws: PhotometricDraws[Tensor], dtype: torch.dtype) -> Callable[[], Outputs]:
    """Return torchvision's functionals, one view after the other: they take one amount for a whole batch.

    Without solarize, which the cases do not draw.
    """
    from torchvision.transforms.v2 import functional

    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    drawn = (draws.flip, draws.jitter, draws.order, draws.gray, draws.sigma)
    listed = [draw.transpose(0, 1).flatten(0, 1).tolist() for draw in drawn]

    def run() -> Outputs:
        crops = pixels.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2)
        views = []
        for crop, flip, jitter, order, gray, sigma in zip(crops, *listed, strict=True):
            view = functional.to_dtype(crop, torch.float32, scale=True)
            for operation in order if jitter != [1, 1, 1, 0] else ():
                view = adjust[operation](view, jitter[operation])
            view = functional.rgb_to_grayscale(view, num_output_channels=3) if gray else view
            view = functional.gaussian_blur(view, [23, 23], [sigma]) if sigma else view
            view = functional.horizontal_flip(view) if flip else view
            views.append(functional.normalize(view, [0.0] * 3, [1.0] * 3).to(dtype))
        return [torch.stack(views).contiguous(memory_format=torch.channels_last)]

    return run


def by_kornia(pixels: Tensor, dtype: torch.dtype) -> Callable[[], Outputs]:
    """Return kornia's modules, which draw for themselves: by the same laws, except one order of the jitter a batch."""
    from kornia import augmentation  # pyright: ignore[reportMissingImports]

    pipeline = nn.Sequential(
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.RandomGaussianBlur((23, 23), (0.1, 2.0), p=0.5),
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.Normalize(torch.zeros(3), torch.ones(3)),
    ).to(pixels.device)

    def run() -> Outputs:
        views = pixels.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        return [pipeline(views).to(dtype=dtype, memory_format=torch.channels_last)]

    return run
