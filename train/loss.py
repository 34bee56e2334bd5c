"""Loss: SimSiam and its negative cosine as one module, so that they are compiled and replicated together."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from simsiam.kernels.negative_cosine import negative_cosine
from simsiam.model.simsiam import SimSiam


class StepOutput(NamedTuple):
    """What a step reports, as scalars on the device."""

    loss: Tensor
    """float32: the symmetric negative cosine, −1 … 1."""
    output_std: Tensor
    """float32: see `output_std`."""


class Objective(nn.Module):
    """Views → the loss, with a gradient, and the spread of the projections, without.

    `torch.compile` makes one graph of it: everything in a step between the augmentation and the update, which are one
    fused kernel each. It has no parameters besides the model's.
    """

    def __init__(self, model: SimSiam) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Tensor) -> StepOutput:
        """Take views as `SimSiam` does, (2n, 3, height, width); the results are float32 under autocast, too."""
        p1, p2, z1, z2 = self.model(views)
        return StepOutput(negative_cosine(p1, p2, z1, z2), (output_std(z1) + output_std(z2)) / 2)


def output_std(z: Tensor) -> Tensor:
    """Return the standard deviation over the batch of each channel of z / ‖z‖, averaged over channels.

    z (n, d) → float32 scalar: about 1/√d for a healthy encoder, 0 for a collapsed one (arXiv 2011.10566, section 4.1).

    In several processes z is this process's share of the batch, and metrics.jsonl has their mean. With n images each it
    is lower than over the whole batch by about 1 in 4n, 1 % at n = 25.
    """
    return torch.nn.functional.normalize(z.float(), dim=1).std(dim=0).mean()
