"""Source, seed and augmentation → which crops make up each step: what every backend executes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.draw import Augmentation, Draws, draw
from simsiam.pipeline.order import epoch_order, step_indices, steps_per_epoch
from simsiam.pipeline.source import Source

# Ranks and loaders of one process ask for the same epoch again and again; ImageNet's order is 10 MB.
_cached_epoch_order = lru_cache(maxsize=2)(epoch_order)


@dataclass(frozen=True)
class CropPlan:
    """The samples and random numbers of every step, as a pure function of epoch and step.

    Raises ValueError when the global batch is larger than the source, or can't be shared by the ranks.
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

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.crop_size < 1:
            raise ValueError(f"The batch size {self.batch_size} and the crop size {self.crop_size} must be positive.")
        if self.batch_size > len(self.source):
            raise ValueError(
                f"The batch size {self.batch_size} is larger than the {len(self.source)} images there are;"
                f" give more images, or a batch size of at most {len(self.source)}."
            )
        if self.batch_size % self.world_size:
            raise ValueError(
                f"The global batch size {self.batch_size} can't be shared by {self.world_size} processes;"
                f" give a multiple of {self.world_size}."
            )

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return steps_per_epoch(len(self.source), self.batch_size)

    def indices(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Return the samples of this rank in one step, int64 (batch_size / world_size,)."""
        order = _cached_epoch_order(len(self.source), self.seed, epoch)
        return step_indices(order, step, self.batch_size, self.rank, self.world_size)

    def draws(self, epoch: int, index: npt.NDArray[np.int64]) -> Draws[np.ndarray]:
        """Return the random numbers of the samples `index` in one epoch."""
        return draw(self.augmentation, self.seed, epoch, index, self.source.sizes[index], self.views)
