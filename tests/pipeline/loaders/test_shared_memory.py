import warnings

import pytest
import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.errors import RunError
from simsiam.pipeline.loaders import shared_memory
from simsiam.pipeline.loaders.shared_memory import shared_bytes, workers_that_fit
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.image_folder import ImageFolder

CPU = torch.device("cpu")


def needed(plan: CropPlan, workers: int) -> int:
    return shared_bytes(workers, plan.batch_size, plan.crop_size)


@pytest.fixture
def plan(pictures: ImageFolder) -> CropPlan:
    return CropPlan(pictures, Augmentation(), crop_size=8, batch_size=3)


def test_bytes_are_those_of_the_crops_in_flight(plan: CropPlan) -> None:
    _, draws = plan.step(0, 0)
    bytes_a_step = 3 * 2 * 8 * 8 * 3 + sum(part.nbytes for part in draws) + 3 * (8 + 8)  # pixels, draws, index, label
    assert [needed(plan, workers) for workers in (0, 1, 3)] == [0, 4 * bytes_a_step, 8 * bytes_a_step]


def test_free_space_is_known_or_there_is_no_such_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    free = shared_memory.free_shared_memory()
    assert free is None or free >= 0
    monkeypatch.setattr(shared_memory.Path, "is_dir", lambda path: False)
    assert shared_memory.free_shared_memory() is None


def test_workers_are_as_many_as_fit(plan: CropPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, fitting in ((needed(plan, 3), 3), (needed(plan, 3) - 1, 2), (100, 0), (None, 8)):
        monkeypatch.setattr(shared_memory, "free_shared_memory", lambda free=free: free)
        assert workers_that_fit(plan, 8) == fitting
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: needed(plan, 4))
    assert workers_that_fit(plan, 8, processes=2) == 1


@pytest.mark.parametrize(("room_for", "said"), [(1, "1 is started"), (0, "in this process")])
def test_too_little_shared_memory_is_told_and_fewer_workers_give_the_same_crops(
    room_for: int, said: str, plan: CropPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TorchLoader(plan, CPU) as loader:
        expected = [crops.pixels for crops in loader.epoch(0)]
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: needed(plan, room_for))
    with pytest.warns(UserWarning, match=f"3 loader processes.*--shm-size=1g.*{said}"):
        loader = TorchLoader(plan, CPU, workers=3)
    with loader:
        assert torch.equal(torch.stack([crops.pixels for crops in loader.epoch(0)]), torch.stack(expected))


def test_enough_shared_memory_is_no_warning(plan: CropPlan) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchLoader(plan, CPU, workers=1).close()


def test_shared_memory_used_up_in_a_worker_is_an_error_here(plan: CropPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to resize file: No space left on device (28)")

    with TorchLoader(plan, CPU, workers=1) as loader:
        monkeypatch.setattr(torch.Tensor, "share_memory_", fail)  # before the worker is forked
        with pytest.raises(RunError, match=r"No space left on device.*--shm-size"):
            next(loader.epoch(0))
