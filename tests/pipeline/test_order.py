import numpy as np
import pytest

from simsiam.pipeline.order import (
    BLOCK_IMAGES,
    WINDOW_BLOCKS,
    epoch_order,
    reading_order,
    step_indices,
    steps_per_epoch,
    window_images,
)


def test_an_epoch_contains_every_sample_once() -> None:
    assert sorted(epoch_order(1000, seed=3, epoch=5).tolist()) == list(range(1000))


def test_order_depends_on_seed_and_epoch() -> None:
    order = epoch_order(100, seed=1, epoch=0)
    np.testing.assert_array_equal(order, epoch_order(100, seed=1, epoch=0))
    assert (order != epoch_order(100, seed=2, epoch=0)).any()
    assert (order != epoch_order(100, seed=1, epoch=1)).any()


def test_every_sample_is_equally_frequent_at_every_position() -> None:
    epochs = 2000
    first = np.array([epoch_order(10, seed=0, epoch=epoch)[0] for epoch in range(epochs)])
    counts = np.bincount(first, minlength=10)
    # Chi-square with 9 degrees of freedom is above 27.9 once in a thousand; the seed is fixed.
    assert ((counts - epochs / 10) ** 2 / (epochs / 10)).sum() < 27.9


@pytest.mark.parametrize("world_size", range(1, 9))
def test_shares_of_the_ranks_are_disjoint_and_make_the_same_global_batch(world_size: int) -> None:
    batch_size = 840  # a multiple of 1 … 8
    order = epoch_order(2000, seed=0, epoch=0)
    for step in range(steps_per_epoch(2000, batch_size)):
        shares = [step_indices(order, step, batch_size, rank, world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {batch_size // world_size}
        np.testing.assert_array_equal(np.concatenate(shares), order[step * batch_size : (step + 1) * batch_size])


def test_the_last_partial_batch_is_dropped() -> None:
    assert steps_per_epoch(1_281_167, 256) == 5004  # ImageNet, as in the reference
    assert steps_per_epoch(255, 256) == 0


def test_block_order_contains_every_sample_once_and_depends_on_seed_and_epoch() -> None:
    for count in (1, 63, 64, 65, 1000, 50_001):
        assert sorted(epoch_order(count, seed=3, epoch=5, order="block").tolist()) == list(range(count))
    orders = [epoch_order(1000, seed, epoch, "block") for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all((orders[0] != other).any() for other in orders[1:])
    np.testing.assert_array_equal(orders[0], epoch_order(1000, 0, 0, "block"))


def test_a_set_of_one_window_is_shuffled_uniformly_in_block_order() -> None:
    epochs = 1000
    positions = np.array([np.argsort(epoch_order(130, 0, epoch, "block"))[[0, 1, 129]] for epoch in range(epochs)])
    # A uniform position from 0 to 129 has the mean 64.5 and a standard deviation of 37.5: 1.19 for the mean of 1000.
    assert (np.abs(positions.mean(axis=0) - 64.5) < 4 * 1.19).all()
    # Neighbours in the file are neighbours in 2 of 130 epochs.
    assert 3 < (np.abs(positions[:, 0] - positions[:, 1]) == 1).sum() < 35


def test_block_order_reads_each_window_in_whole_blocks() -> None:
    count = 4 * 16_384
    order, window = epoch_order(count, seed=0, epoch=0, order="block"), window_images(count)
    assert window == 16_384
    for first in range(0, count, window):
        blocks = np.unique(order[first : first + window] // BLOCK_IMAGES)
        assert len(blocks) == WINDOW_BLOCKS == window / BLOCK_IMAGES
    jumps = (np.diff(reading_order(order, window)) != 1).sum()
    assert jumps <= count / BLOCK_IMAGES
    # Pages of 8 MiB hold about 140 such images: a batch of random order touches 1 of 2, one of block order 1 of 3.
    pages = [len(np.unique(epoch_order(count, 0, 0, kind)[:window] // 140)) for kind in ("random", "block")]
    assert pages[0] == 469 and pages[1] < 340


def test_block_order_mixes_far_apart_blocks() -> None:
    order = epoch_order(200_000, seed=0, epoch=0, order="block")
    batch = order[:256] // BLOCK_IMAGES
    assert 140 < len(np.unique(batch)) < 185
    # Of two samples that follow each other, 1 in 255 is of the same block; 1 in 3125 in random order.
    assert 0.003 < np.mean(order[1:] // BLOCK_IMAGES == order[:-1] // BLOCK_IMAGES) < 0.005


def test_the_last_window_is_as_large_as_the_others() -> None:
    assert window_images(1_281_167) == 16_218  # 79 windows
    assert window_images(100) == 100
