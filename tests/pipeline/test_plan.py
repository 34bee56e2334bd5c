import numpy as np
import pytest

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.plan import CropPlan


def plan(pictures, batch_size: int = 4, crop_size: int = 8, **settings) -> CropPlan:
    return CropPlan(pictures, Augmentation(), crop_size, batch_size, **settings)


def test_an_epoch_is_the_source_without_its_last_partial_batch(pictures) -> None:
    steps = [plan(pictures).indices(0, step) for step in range(len(plan(pictures)))]
    seen = np.concatenate(steps)
    assert len(seen) == len(pictures) // 4 * 4 == len(set(seen.tolist()))


def test_a_step_is_the_callers_own(pictures) -> None:
    index, draws = plan(pictures).step(1, 0)
    index += 1
    for part in draws:
        part[:] = 0
    again, fresh = plan(pictures).step(1, 0)
    assert again.tolist() == plan(pictures).indices(1, 0).tolist() == (index - 1).tolist()
    for part, expected in zip(fresh, plan(pictures).draws(1, again), strict=True):
        assert part.tolist() == expected.tolist()


def test_crops_fit_each_image(pictures) -> None:
    index = plan(pictures).indices(1, 0)
    crop = plan(pictures).draws(1, index).crop
    assert (crop[..., :2] + crop[..., 2:] <= pictures.sizes[index][:, None, :]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 12}, "12 is larger than the 11 images there are"),
        ({"batch_size": 4, "world_size": 3}, "can't be shared by 3 processes; give a multiple of 3"),
        ({"batch_size": 0}, "The batch size 0 must be at least 1"),
        ({"crop_size": 4097}, "The size of a crop, 4097, must lie between 1 and 4,096 pixels"),
    ],
)
def test_impossible_batches_are_refused(pictures, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(pictures, **settings)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batch_of_one_process(pictures, world_size: int) -> None:
    shares = [plan(pictures, rank=rank, world_size=world_size).indices(1, 1) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(shares), plan(pictures).indices(1, 1))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("first_step", [0, 3])
def test_in_block_order_every_sample_is_fetched_once_and_early_enough(world_size: int, first_step: int) -> None:
    ours = plan(range(44_000), batch_size=1000, order="block", rank=world_size - 1, world_size=world_size)
    fetched: list[int] = []
    for step in range(first_step, len(ours)):
        fetched += ours.read_ahead(2, first_step, step).tolist()
        assert set(ours.indices(2, step).tolist()) <= set(fetched)
    assert len(fetched) == len(set(fetched))


def test_in_random_order_nothing_is_fetched_ahead(pictures) -> None:
    assert len(plan(pictures).read_ahead(0, 0, 0)) == 0
