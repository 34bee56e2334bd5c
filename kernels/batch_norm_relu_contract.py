"""Contract of `batch_norm_relu`'s kernels: the normalisation they are given, and the layout of what they return.

A file of its own, since `batch_norm_relu.py` imports the kernels and they import this.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """The normalisation of each view: (x − mean) / √(variance + eps) · weight + bias."""

    mean: Tensor
    """float32 (views, channels)."""
    variance: Tensor
    """The biased one, float32 (views, channels)."""
    weight: Tensor | None
    """float32 (channels,), or None for 1."""
    bias: Tensor | None
    """float32 (channels,), or None for 0."""
    eps: float


def empty_activations(x: Tensor) -> Tensor:
    """Return an uninitialised tensor of the shape, dtype and device of `x`, channels-last if it has images."""
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)
