"""The contract that every backend keeps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.loader import BACKENDS, CropLoader, Crops, choose_backend, open_loader
from simsiam.pipeline.plan import CropPlan

CPU = torch.device("cpu")
REAL_BACKENDS = [backend for backend in BACKENDS if backend not in ("auto", "synthetic")]


@pytest.fixture
def plan(pictures) -> CropPlan:
    return CropPlan(pictures, Augmentation(), crop_size=8, batch_size=3, seed=5)


@pytest.fixture(params=[backend for backend in BACKENDS if backend != "auto"])
def loader(request: pytest.FixtureRequest, plan: CropPlan) -> Iterator[CropLoader]:
    opened = open_loader(request.param, plan, CPU, workers=0)
    yield opened
    opened.close()


class Sizes:
    """What `choose_backend` needs of a source."""

    def __init__(self, count: int, side: int) -> None:
        self.sizes = np.full((count, 2), side, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.sizes)


def flat(crops: Crops) -> list[torch.Tensor]:
    return [crops.pixels, *crops.draws, crops.index, crops.label]


def test_shapes_dtypes_and_device(loader: CropLoader) -> None:
    steps = list(loader.epoch(0))
    assert len(steps) == len(loader) == 3
    for crops in steps:
        assert [(tuple(part.shape), part.dtype) for part in flat(crops)] == [
            ((3, 2, 8, 8, 3), torch.uint8),
            ((3, 2, 4), torch.int32),
            ((3, 2), torch.bool),
            ((3, 2, 4), torch.float32),
            ((3, 2, 4), torch.uint8),
            ((3, 2), torch.bool),
            ((3, 2), torch.float32),
            ((3,), torch.int64),
            ((3,), torch.int64),
        ]
        assert all(part.device == CPU for part in flat(crops))
        assert (crops.pixels[:, 0] != crops.pixels[:, 1]).any()


def test_a_closed_loader_says_so(loader: CropLoader) -> None:
    loader.close()
    with pytest.raises(ValueError, match="closed; open a new one"):
        next(loader.epoch(0))


@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_samples_and_draws_are_the_plans(backend, plan: CropPlan) -> None:
    loader = open_loader(backend, plan, CPU, workers=0)
    for epoch in (0, 4):
        for step, crops in enumerate(loader.epoch(epoch)):
            index = plan.indices(epoch, step)
            assert crops.index.tolist() == index.tolist()
            assert crops.label.tolist() == plan.source.labels[index].tolist()
            for ours, planned in zip(crops.draws, plan.draws(epoch, index), strict=True):
                assert ours.tolist() == planned.tolist()
    loader.close()


@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_the_middle_of_an_epoch_is_what_it_would_have_been(backend, plan: CropPlan) -> None:
    loader = open_loader(backend, plan, CPU, workers=0)
    whole = list(loader.epoch(2))
    for first_step in (1, 2):
        tail = list(loader.epoch(2, first_step))
        assert len(tail) == 3 - first_step
        for before, after in zip(whole[first_step:], tail, strict=True):
            assert all(torch.equal(one, two) for one, two in zip(flat(before), flat(after), strict=True))
    loader.close()


def test_an_unknown_backend_is_refused_with_the_choices(plan: CropPlan) -> None:
    with pytest.raises(ValueError, match="no loader backend 'dalli'; choose one of auto, torch"):
        open_loader("dalli", plan, CPU, workers=0)  # pyright: ignore[reportArgumentType]


def test_auto_keeps_small_images_resident_and_large_ones_not(plan: CropPlan) -> None:
    assert choose_backend(plan, CPU)[0] == "resident"
    for count, side in ((10, 500), (400_000, 32)):
        sizes: Any = Sizes(count, side)
        assert choose_backend(CropPlan(sizes, Augmentation(), 8, 3), CPU)[0] == "torch"
