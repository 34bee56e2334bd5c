import numpy as np
import pytest

from simsiam.pipeline.order import epoch_order, step_indices, steps_per_epoch


def test_an_epoch_holds_every_sample_once() -> None:
    assert sorted(epoch_order(1000, seed=3, epoch=5).tolist()) == list(range(1000))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    order = epoch_order(100, seed=1, epoch=0)
    np.testing.assert_array_equal(order, epoch_order(100, seed=1, epoch=0))
    assert (order != epoch_order(100, seed=2, epoch=0)).any()
    assert (order != epoch_order(100, seed=1, epoch=1)).any()


def test_every_sample_comes_equally_often_at_every_place() -> None:
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
    assert steps_per_epoch(1_281_167, 256) == 5004  # as the reference counts ImageNet
    assert steps_per_epoch(255, 256) == 0
