"""Every rewrite of a model for speed or memory, in one place and in the order that they need.

| rewrite | where | changes |
|---|---|---|
| channels-last layout | everywhere | nothing but the order of the sums |
| `small_map_conv`: small maps by matrix products | CPU, uncompiled | rounding |
| `fused_batch_norm`: batch norm, sum and ReLU as one operation | CPU, uncompiled; elsewhere when asked for | rounding |
| `activation_checkpointing`: blocks recomputed in the backward pass | when asked for | nothing |
| `batch_norm.share_statistics`: statistics over all processes | several processes | the batch that statistics are of |

Training and evaluation both call `prepare`, so that a figure of the training comes out again in the evaluation.
"""

from typing import Literal, TypeVar

import torch

from simsiam.model.activation_checkpointing import recompute_blocks
from simsiam.model.batch_norm import share_statistics
from simsiam.model.fused_batch_norm import fuse_batch_norm
from simsiam.model.resnet import ResNet
from simsiam.model.simsiam import SimSiam
from simsiam.model.small_map_conv import speed_up_small_maps

Model = TypeVar("Model", SimSiam, ResNet)


def prepare(
    model: Model,
    device: torch.device,
    *,
    compiled: bool = False,
    fused_batch_norm: Literal["auto", "on", "off"] = "auto",
    recompute: bool = False,
    world_size: int = 1,
) -> Model:
    """Move a model to `device` and rewrite it in place for speed; returns it, with the names of its state unchanged.

    Args:
        model: SimSiam, or an encoder alone.
        device: Where it will run.
        compiled: Whether torch.compile will get it: a compiler fuses plain operations by itself, so they stay.
        fused_batch_norm: `auto` fuses on a CPU, uncompiled; see `fuse_batch_norm`.
        recompute: Keep only the inputs of the encoder's blocks for the backward pass; see `recompute_blocks`.
        world_size: Processes whose batches share the statistics of batch norm; see `share_statistics`.
    """
    model.to(device).to(memory_format=torch.channels_last)
    encoder = model.encoder if isinstance(model, SimSiam) else model
    eager_on_cpu = device.type == "cpu" and not compiled
    if eager_on_cpu:
        speed_up_small_maps(encoder)
    if fused_batch_norm == "on" or (fused_batch_norm == "auto" and eager_on_cpu):
        fuse_batch_norm(encoder)
    if recompute:
        recompute_blocks(encoder)
    share_statistics(model, world_size)
    return model
