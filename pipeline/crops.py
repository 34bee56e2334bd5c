"""Crops of one training step, and the protocol of the loaders that deliver them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self, get_args

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress

if TYPE_CHECKING:  # `simsiam --help` reads the backends' names from here, and must not wait for torch
    import numpy as np
    import numpy.typing as npt
    import torch

Backend = Literal["auto", "torch", "ffcv", "dali", "resident", "synthetic"]
"""What decodes and crops: `name` is the class `NameLoader` of `loaders/name_loader.py`; `auto` is one of them."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class Crops(NamedTuple):
    """One step's input: N images of this rank in V views, on the device."""

    pixels: torch.Tensor
    """uint8 (N, V, S, S, 3), RGB."""
    draws: Draws[torch.Tensor]
    """The random numbers; the crop has been executed, the photometric part has not."""
    index: torch.Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index, which nobody calls
    """int64 (N,): the sample's index in the source."""
    label: torch.Tensor
    """int64 (N,), -1 if unlabelled; for monitors only, never for the loss."""

    @staticmethod
    def on_host(
        pixels: torch.Tensor, draws: Draws[np.ndarray], index: npt.NDArray[np.int64], label: npt.NDArray[np.int64]
    ) -> Crops:
        """Make crops of tensors that share the arrays' memory."""
        import torch

        on_host = Draws(*(torch.from_numpy(part) for part in draws))
        return Crops(pixels, on_host, torch.from_numpy(index), torch.from_numpy(label))

    def to(self, device: torch.device) -> Crops:
        """Copy every tensor to `device`, without waiting where the memory is page-locked."""
        return Crops(
            self.pixels.to(device, non_blocking=True),
            Draws(*(part.to(device, non_blocking=True) for part in self.draws)),
            self.index.to(device, non_blocking=True),
            self.label.to(device, non_blocking=True),
        )


class CropLoader(Protocol):
    """Executes a plan: the same plan gives the same samples and the same boxes on every backend.

    A context manager that closes itself. Backends name this class as their base, and so inherit what has a body here.
    """

    replaced: int = 0
    """Broken images so far that were replaced by another one, where the plan allows it."""

    def __init__(
        self, plan: CropPlan, device: torch.device, workers: int = 0, progress: Progress | None = None
    ) -> None:
        """Open the backend for `plan`; what it has no use for, it ignores.

        Args:
            plan: What to load.
            device: Where the crops go.
            workers: Processes or threads that decode, in addition to the caller's.
            progress: Called with (done, total) images if they are all read before the first step.
        """
        ...

    @staticmethod
    def check(plan: CropPlan) -> None:
        """Raise UsageError when this backend can't read the plan's source; by default it reads any."""

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on.

        If a newer epoch was started, the older iterator yields its own remaining steps or raises UsageError.
        """
        ...

    def close(self) -> None:
        """Free workers, memory and file handles."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
