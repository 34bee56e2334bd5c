from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train import distributed
from simsiam.train.distributed import World, join_world
from simsiam.train.launcher import Launch
from simsiam.train.rendezvous import Meeting


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


@pytest.mark.parametrize("ends_well", [True, False])
def test_group_is_taken_down_only_where_all_do_it_together(ends_well: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error the others may sit in a collective, and NCCL would wait for them."""
    happened: list[object] = []
    monkeypatch.setattr(distributed, "read_launch", lambda: Launch(rank=1, size=2, local_rank=1, local_size=2))
    monkeypatch.setattr(distributed, "_meet", lambda launch: Meeting(HashStore(), "job"))
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *_, **named: happened.append(named["rank"]))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: happened.append("destroyed"))
    monkeypatch.setattr(distributed.atexit, "register", happened.append)
    with nullcontext() if ends_well else pytest.raises(KeyError), join_world("cpu") as world:
        assert (world.rank, world.size, world.job) == (1, 2, "job")
        if not ends_well:
            raise KeyError
    assert happened == [1, "destroyed" if ends_well else distributed._end_at_once]
