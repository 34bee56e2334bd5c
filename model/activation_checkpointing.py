"""Activation checkpointing for ResNet: keep each block's input, recompute the block in the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simsiam.model.resnet import ResNet


class RecomputedStage(nn.Sequential):
    """Residual blocks of which only the inputs are kept for the backward pass; its state has the same names.

    Each block then runs a second time in the backward pass, so that what lies in memory at once is one block's inside
    (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174). Outputs, gradients and running
    statistics are what they are without: bit for bit where the same operation gives the same bits twice.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Run the blocks one after the other."""
        if not torch.is_grad_enabled():
            return super().forward(input)
        for block in self:
            # Nothing in a block is random, so there is no generator to be put back.
            contexts = partial(_first_and_second_time, block)
            output = checkpoint(block, input, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
            assert isinstance(output, Tensor)
            input = output
        return input


def recompute_blocks(encoder: ResNet) -> None:
    """Have the four stages of `encoder` keep only what goes into their blocks, from now on.

    In training by several processes (see `share_statistics`) each block's batch norms then talk twice forward, in all
    processes alike.
    """
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        stage.__class__ = RecomputedStage


def is_recomputed(model: nn.Module) -> bool:
    """Whether any part of `model` has been through `recompute_blocks`."""
    return any(isinstance(module, RecomputedStage) for module in model.modules())


def _first_and_second_time(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _with_copied_buffers(block)


@contextmanager
def _with_copied_buffers(block: nn.Module) -> Iterator[None]:
    """Let `block` change copies of its running statistics: the first pass has updated them for this batch.

    Copies, since a batch norm without any keeps other tensors for its backward pass, which have to be the same ones.
    """
    buffers = [
        (module, name, buffer) for module in block.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, name, buffer in buffers:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
