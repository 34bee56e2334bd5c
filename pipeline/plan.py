"""Crop plan: which samples and random numbers make up each step; every backend executes it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.augmentation import Augmentation, Draws, draw
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.order import Order, epoch_order, reading_order, step_indices, steps_per_epoch, window_images
from simsiam.pipeline.source import Source

# Every step asks for its epoch's order; ImageNet's has 10 MB.
_cached_epoch_order = lru_cache(maxsize=2)(epoch_order)

OnBroken = Literal["error", "replace"]


LARGEST_CROP = 4096
"""Largest side of a crop in pixels, four times what is trained on: a mistyped number shouldn't exhaust the memory."""


@dataclass(frozen=True)
class CropPlan:
    """The samples and random numbers of every step, as a pure function of epoch and step.

    Raises UsageError when a value is out of range, or the global batch is larger than the source or can't be divided
    by the number of ranks.
    """

    source: Source
    augmentation: Augmentation
    crop_size: int
    """Height and width of a crop in pixels."""
    batch_size: int
    """Images in a global batch, over all ranks."""
    seed: int = 0
    views: int = 2
    rank: int = 0
    world_size: int = 1
    order: Order = "random"
    """How the samples of an epoch are shuffled; see `simsiam.pipeline.order.epoch_order`."""
    on_broken: OnBroken = "error"
    """What to do with an image that can't be decoded: raise ImageError (`error`), or take the next good one
    (`replace`); see `simsiam.pipeline.loaders.replace_broken`."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"The batch size {self.batch_size} must be at least 1.")
        if not 1 <= self.crop_size <= LARGEST_CROP:
            raise UsageError(f"The size of a crop, {self.crop_size}, must lie between 1 and {LARGEST_CROP:,} pixels.")
        if self.batch_size > len(self.source):
            raise UsageError(
                f"The batch size {self.batch_size} is larger than the {len(self.source)} images there are;"
                f" give more images, or a batch size of at most {len(self.source)}."
            )
        if self.batch_size % self.world_size:
            raise UsageError(
                f"The global batch size {self.batch_size} can't be shared by {self.world_size} processes;"
                f" give a multiple of {self.world_size}."
            )

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return steps_per_epoch(len(self.source), self.batch_size)

    def step(self, epoch: int, step: int) -> tuple[npt.NDArray[np.int64], Draws[np.ndarray]]:
        """Return the samples of this rank in one step, int64 (batch_size / world_size,), and their random numbers.

        Both are the caller's own: replacing a broken image changes them in place.
        """
        index = self.indices(epoch, step).copy()
        return index, self.draws(epoch, index)

    def indices(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Return the samples of this rank in one step, int64 (batch_size / world_size,): a view of the cached order."""
        order = _cached_epoch_order(len(self.source), self.seed, epoch, self.order)
        return step_indices(order, step, self.batch_size, self.rank, self.world_size)

    def read_ahead(self, epoch: int, first_step: int, step: int) -> npt.NDArray[np.int64]:
        """Return the samples to fetch into memory at a step of an epoch started at `first_step`, int64 (k,).

        In block order each step fetches its share of the next window, in file order, so that the disk reads whole
        blocks; the first step also fetches its own window. In random order there is nothing to gain, and k is 0.
        """
        if self.order == "random":
            return np.empty(0, np.int64)
        share = self.batch_size // self.world_size
        window = max(1, window_images(len(self.source)) // self.world_size)
        ahead = _read_ahead(len(self.source), self.seed, epoch, self.batch_size, self.rank, self.world_size, window)
        start = share * step + window if step > first_step else share * step // window * window
        return ahead[start : share * (step + 1) + window]

    def draws(self, epoch: int, index: npt.NDArray[np.int64]) -> Draws[np.ndarray]:
        """Return the random numbers of the samples `index`, int64 (N,), in one epoch."""
        return draw(self.augmentation, self.seed, epoch, index, self.source.sizes[index], self.views)


@lru_cache(maxsize=2)
def _read_ahead(
    count: int, seed: int, epoch: int, batch_size: int, rank: int, world_size: int, window: int
) -> npt.NDArray[np.int64]:
    """Return the samples of one rank in block order, each window in file order, int64."""
    order = _cached_epoch_order(count, seed, epoch, "block")
    whole = order[: steps_per_epoch(count, batch_size) * batch_size]
    own = whole.reshape(-1, world_size, batch_size // world_size)[:, rank].ravel()
    return reading_order(own, window)
