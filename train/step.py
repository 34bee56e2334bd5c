"""One training step: crops → one update of the weights.

Nothing in it waits for the device, except the reference augmentation, which reads from it which images an operation
applies to.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from simsiam.kernels.augment import augment_views
from simsiam.pipeline.crops import Crops
from simsiam.train.loss import StepOutput
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.precision import Arithmetic

Color = tuple[float, float, float]
Mark = Callable[[str], None]
"""Called with the name of a stage that the host has just finished."""
STAGES = ("augment", "forward", "backward", "optimizer")
"""The stages of a step, in order."""


def train_step(
    crops: Crops,
    objective: Callable[[Tensor], StepOutput],
    optimizer: torch.optim.Optimizer,
    guard: NonfiniteGuard,
    arithmetic: Arithmetic,
    mean: Color,
    std: Color,
    mark: Mark = lambda stage: None,
) -> StepOutput:
    """Augment, predict, compare, and update the weights once; `mark` is called after each stage.

    `guard` must be the guard of `optimizer`.
    """
    views = augment_views(
        crops.pixels,
        crops.draws,
        mean=mean,
        std=std,
        dtype=arithmetic.dtype,
    )
    mark("augment")
    with arithmetic.autocast():
        loss, spread = objective(views)
    mark("forward")
    arithmetic.scaler.scale(loss).backward()
    mark("backward")
    guard.step(arithmetic.scaler)  # skips the update if a gradient is not finite
    optimizer.zero_grad(set_to_none=True)
    mark("optimizer")
    return StepOutput(loss.detach(), spread)
