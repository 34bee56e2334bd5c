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
Mark = Callable[[str], None]
"""What is told that a stage of a step has just been done, as far as the host goes, and which."""


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
    mark: Mark = lambda stage: None,
) -> StepOutput:
    """Augment, predict, compare, and update the weights once; `mark` is for those who time the stages."""
    views = augment_views(
        crops.pixels,
        *crops.draws.photometric,
        mean=mean,
        std=std,
        dtype=arithmetic.dtype,
    )
    mark("augment")
    with arithmetic.autocast():
        p1, p2, z1, z2 = model(views)
    loss = negative_cosine(p1, p2, z1, z2)
    mark("forward")
    scaler = arithmetic.scaler  # a fused optimizer's scaled step waits for nothing, either
    scaler.scale(loss).backward()
    mark("backward")
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    output = StepOutput(loss.detach(), (output_std(z1) + output_std(z2)) / 2)
    mark("optimizer")
    return output


def output_std(z: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation over the batch of each channel of z / ‖z‖, averaged over channels.

    z (N, d) → float32 scalar: about 1/√d for a healthy encoder, 0 for a collapsed one (arXiv 2011.10566, section 4.1).
    """
    return torch.nn.functional.normalize(z.float(), dim=1).std(dim=0).mean()
