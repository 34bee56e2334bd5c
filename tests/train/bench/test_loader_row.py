from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.bench import loader_batches as bench_batches
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
    # The second epoch goes on where the first one ended.
    assert plan.indices(1, 0).tolist() == CropPlan.indices(plan, len(plan) // 4, 0).tolist()


@pytest.mark.parametrize("name", ["torch", "resident", "synthetic", "imagefolder-pil", "imagefolder-pil-crops"])
def test_rows_hand_over_whole_batches_without_end(
    name: LoaderRowName, tiny_images: Path, plan: LongPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_batches, "_LONG_EPOCH", 4)
    with closing(batches_of(settings(tiny_images, name), plan, CPU, cores=1)) as batches:
        assert [next(batches) for _ in range(10)] == [10] * 10


def test_synthetic_row_writes_each_batch_to_new_memory(
    tiny_images: Path, plan: LongPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmented = []
    monkeypatch.setattr(bench_batches, "_augment", lambda crops, dtype: augmented.append((crops, dtype)))
    with closing(batches_of(settings(tiny_images, "synthetic", augment=True), plan, CPU, cores=1)) as batches:
        assert next(batches) == next(batches) == 10
    (first, dtype), (second, _) = augmented
    assert torch.equal(first.pixels, second.pixels) and first.pixels.data_ptr() != second.pixels.data_ptr()
    assert dtype == torch.float32


@pytest.mark.parametrize("augment", [False, True])
def test_augmentation_is_done_when_asked_for(
    augment: bool, tiny_images: Path, plan: LongPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    augment_views = bench_batches.augment_views
    monkeypatch.setattr(bench_batches, "augment_views", lambda *a, **k: made.append(augment_views(*a, **k)))
    with closing(batches_of(settings(tiny_images, "torch", augment), plan, CPU, cores=1)) as batches:
        next(batches)
    assert [views.shape for views in made] == ([(20, 3, 16, 16)] if augment else [])


def test_first_epoch_comes_apart_then_as_many_rounds_as_are_asked_for(tiny_images: Path) -> None:
    with closing(measure_row(settings(tiny_images, "torch"))) as row:
        first, second, third = next(row), next(row), next(row)
    assert isinstance(first, FirstEpoch) and first.opening_seconds > 0
    assert first.window.images <= 30  # the first of the four steps belongs to the opening
    for each in (second, third):
        assert isinstance(each, Round) and each.cpu_seconds > 0
        assert sum(window.seconds for window in each.windows) >= 0.05
