"""Crops → one update of the weights.

Nothing waits for the device but the plain augmentation, which looks up on it which images each operation concerns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from simsiam.kernels.augment import augment_views
from simsiam.kernels.negative_cosine import negative_cosine
from simsiam.pipeline.loader import Crops
from simsiam.train.precision import Arithmetic

Color = tuple[float, float, float]


class StepOutput(NamedTuple):
    """What a step reports, as scalars on the device."""

    loss: torch.Tensor
    """float32: the symmetric negative cosine, −1 … 1."""
    output_std: torch.Tensor
    """float32: see `output_std`."""


def train_step(
    crops: Crops,
    model: Callable,
    optimizer: torch.optim.Optimizer,
    arithmetic: Arithmetic,
    mean: Color,
    std: Color,
) -> StepOutput:
    """Augment, predict, compare, and update the weights once."""
    draws = crops.draws
    views = augment_views(
        crops.pixels,
        draws.flip,
        draws.jitter,
        draws.order,
        draws.gray,
        draws.sigma,
        draws.solarize,
        mean=mean,
        std=std,
        dtype=arithmetic.dtype,
    )
    with arithmetic.autocast():
        p1, p2, z1, z2 = model(views)
    loss = negative_cosine(p1, p2, z1, z2)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepOutput(loss.detach(), (output_std(z1) + output_std(z2)) / 2)


def output_std(z: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation over the batch of each channel of z / ‖z‖, averaged over channels.

    z (N, d) → float32 scalar: about 1/√d for a healthy encoder, 0 for a collapsed one (arXiv 2011.10566, section 4.1).
    """
    return torch.nn.functional.normalize(z.float(), dim=1).std(dim=0).mean()
