"""Crops of one training step, and the protocol of the loaders that deliver them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.plan import CropPlan

if TYPE_CHECKING:  # the command line reads the backends' names from here, and must not pay for importing torch
    import torch

Backend = Literal["auto", "torch", "ffcv", "dali", "resident", "synthetic"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class Crops(NamedTuple):
    """One step's input: N images of this rank in V views, on the device."""

    pixels: torch.Tensor
    """uint8 (N, V, S, S, 3), RGB."""
    draws: Draws[torch.Tensor]
    """The random numbers; the crops are taken already, the photometric part is still to be executed."""
    index: torch.Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index, which nobody calls
    """int64 (N,): the sample's index in the source."""
    label: torch.Tensor
    """int64 (N,), -1 where there is none; for monitors only, never for the loss."""

    def to(self, device: torch.device) -> Crops:
        """Copy every tensor to `device`, without waiting where the memory is page-locked."""
        return Crops(
            self.pixels.to(device, non_blocking=True),
            Draws(*(part.to(device, non_blocking=True) for part in self.draws)),
            self.index.to(device, non_blocking=True),
            self.label.to(device, non_blocking=True),
        )


class CropLoader(Protocol):
    """Executes a plan. The same plan gives the same samples and the same boxes on every backend."""

    replaced: int
    """Broken images so far that another one stood in for, where the plan allows it."""

    @staticmethod
    def check(plan: CropPlan) -> None:
        """Raise UsageError when this backend can't read the plan's source."""
        ...

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on.

        Who goes on with it after another one was begun gets its own steps all the same, or UsageError.
        """
        ...

    def close(self) -> None:
        """Free workers, memory and file handles."""
        ...
