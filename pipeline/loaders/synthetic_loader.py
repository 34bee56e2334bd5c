"""The synthetic backend: random crops that are on the device already, the upper bound for every other backend."""

from collections.abc import Iterator

import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress


class SyntheticLoader(CropLoader):
    """Yields the same crops of random pixels, with the draws of the plan's first step, at every step."""

    def __init__(
        self, plan: CropPlan, device: torch.device, workers: int = 0, progress: Progress | None = None
    ) -> None:
        self._plan = plan
        index, draws = plan.step(0, 0)
        generator = torch.Generator(device).manual_seed(plan.seed % 2**63)
        self._crops: Crops | None = Crops(
            torch.randint(
                256,
                (len(index), plan.views, plan.crop_size, plan.crop_size, 3),
                dtype=torch.uint8,
                device=device,
                generator=generator,
            ),
            Draws(*(torch.from_numpy(part).to(device) for part in draws)),
            torch.from_numpy(index).to(device),
            torch.from_numpy(plan.source.labels[index]).to(device),
        )

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return len(self._plan)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield one epoch's number of steps from `first_step` on."""
        if self._crops is None:
            raise UsageError("This loader is closed; open a new one.")
        for _ in range(first_step, len(self)):
            yield self._crops

    def close(self) -> None:
        """Free the crops."""
        self._crops = None
