from pathlib import Path

import numpy as np
import pytest
import torch

from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import open_source
from simsiam.train.distributed import World, join_world


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_are_disjoint_and_make_up_the_batch_of_one_process(world_size: int, tiny_images: Path) -> None:
    source = open_source(tiny_images / "train")
    whole = CropPlan(source, Augmentation(), 16, 16, seed=3)
    shares = [
        CropPlan(source, Augmentation(), 16, 16, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for epoch, step in ((0, 0), (0, 2), (7, 1)):
        indices = [share.indices(epoch, step) for share in shares]
        assert len(set(np.concatenate(indices).tolist())) == 16
        assert np.array_equal(np.concatenate(indices), whole.indices(epoch, step))


def test_a_process_alone_agrees_with_itself_at_once() -> None:
    world = World()
    assert [world.agree(number) for number in (0, 15, 0)] == [0, 15, 0]
    assert world.from_first(lambda: "made") == "made"
    network = torch.nn.Linear(2, 2)
    assert world.replicate(network, torch.device("cpu")) is network
    assert torch.equal(world.average_(torch.tensor([3.0])), torch.tensor([3.0]))


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.first, world.local_size) == (0, 1, True, 1)
    assert not torch.distributed.is_initialized()
