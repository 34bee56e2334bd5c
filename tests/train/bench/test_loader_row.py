from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.bench.loader_batches import LongPlan, RowSettings, batches_of
from simsiam.train.bench.loader_row import FirstEpoch, Round, measure_row
from simsiam.train.bench.rows import LoaderRowName

CPU = torch.device("cpu")


@pytest.fixture
def plan(tiny_images: Path) -> LongPlan:
    return LongPlan(open_source(tiny_images / "train"), Augmentation(), crop_size=16, batch_size=10)


def settings(tiny_images: Path, name: LoaderRowName, augment: bool = False) -> RowSettings:
    folder = tiny_images / "train"
    return RowSettings(name, folder, folder, 10, 16, workers=0, device="cpu", augment=augment, seconds=0.05)


def test_long_epoch_is_whole_passes_each_in_an_order_of_its_own(plan: LongPlan) -> None:
    assert (plan.steps_of_source(), len(plan)) == (4, 5004)
    passes = [np.concatenate([plan.indices(0, 4 * number + step) for step in range(4)]) for number in range(3)]
    for each in passes:
        assert len(set(each.tolist())) == 40
    assert passes[0].tolist() != passes[1].tolist() != passes[2].tolist()
    # The second epoch continues where the first one ended.
    assert plan.indices(1, 0).tolist() == CropPlan.indices(plan, len(plan) // 4, 0).tolist()


@pytest.mark.parametrize("name", ["torch", "resident", "synthetic", "imagefolder-pil", "imagefolder-pil-crops"])
def test_rows_yield_whole_batches_endlessly(name: LoaderRowName, tiny_images: Path) -> None:
    source = open_source(tiny_images / "train")
    plan = LongPlan(source, Augmentation(), crop_size=16, batch_size=10, least_steps=4)
    with closing(batches_of(settings(tiny_images, name), plan, CPU, cores=1)) as batches:
        assert [next(batches).images for _ in range(10)] == [10] * 10


def test_synthetic_row_writes_each_batch_to_new_memory(tiny_images: Path, plan: LongPlan) -> None:
    with closing(batches_of(settings(tiny_images, "synthetic"), plan, CPU, cores=1)) as batches:
        first, second = next(batches), next(batches)
    assert first.images == second.images == 10
    assert torch.equal(first.result, second.result) and first.result.data_ptr() != second.result.data_ptr()


@pytest.mark.parametrize("augment", [False, True])
def test_augmentation_is_done_when_asked_for(augment: bool, tiny_images: Path, plan: LongPlan) -> None:
    with closing(batches_of(settings(tiny_images, "torch", augment), plan, CPU, cores=1)) as batches:
        result = next(batches).result
    assert (result.shape, result.dtype) == (
        ((20, 3, 16, 16), torch.float32) if augment else ((10, 2, 16, 16, 3), torch.uint8)
    )


def test_first_epoch_is_measured_once_then_as_many_rounds_as_are_asked_for(tiny_images: Path) -> None:
    with closing(measure_row(settings(tiny_images, "torch"))) as row:
        first, second, third = next(row), next(row), next(row)
    assert isinstance(first, FirstEpoch) and first.opening_seconds > 0
    assert first.window.images <= 30  # the first of the four steps belongs to the opening
    for each in (second, third):
        assert isinstance(each, Round) and each.cpu_seconds > 0
        assert sum(window.seconds for window in each.windows) >= 0.05
