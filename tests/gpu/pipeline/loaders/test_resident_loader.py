"""The resident backend on a GPU: the crops of the CPU, made without waiting for the device."""

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.resident_loader import ResidentLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.synthetic_source import SyntheticSource

SIDE, COUNT = 32, 96


class Patches(SyntheticSource):
    """Small images of random patches."""

    def __init__(self) -> None:
        super().__init__(COUNT)
        self.sizes[:] = SIDE

    def decode(self, index: int) -> np.ndarray:
        patches = np.random.default_rng(index).integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        return patches.repeat(4, axis=0).repeat(4, axis=1)


def test_crops_are_those_of_the_cpu(device: torch.device) -> None:
    plan = CropPlan(Patches(), Augmentation(), crop_size=SIDE, batch_size=32)
    cpu = ResidentLoader(plan, torch.device("cpu"))
    for ours, expected in zip(ResidentLoader(plan, device).epoch(1, first_step=1), cpu.epoch(1, 1), strict=True):
        assert ours.pixels.device == ours.draws.crop.device == ours.index.device == ours.label.device == device
        assert torch.equal(ours.index.cpu(), expected.index)
        assert torch.equal(ours.draws.crop.cpu(), expected.draws.crop)
        # Sums in another order may round to the next grey level.
        difference = (ours.pixels.cpu().int() - expected.pixels.int()).abs()
        assert difference.max() <= 1 and difference.float().mean() < 0.01


def test_crops_wait_for_nothing(device: torch.device) -> None:
    loader = ResidentLoader(CropPlan(Patches(), Augmentation(), crop_size=SIDE, batch_size=32), device)
    steps = loader.epoch(0)
    next(steps)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
