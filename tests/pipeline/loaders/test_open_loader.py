"""The contract that every backend fulfils."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import BACKENDS, CropLoader, Crops
from simsiam.pipeline.errors import ImageError, MissingError, UsageError
from simsiam.pipeline.loaders.open_loader import check_backend, choose_backend, open_loader
from simsiam.pipeline.plan import CropPlan

CPU = torch.device("cpu")
PACKAGES = {"ffcv": "ffcv", "dali": "nvidia.dali"}


def installed(package: str) -> bool:
    return all(find_spec(package.rsplit(".", rest)[0]) for rest in range(package.count("."), -1, -1))


EVERY_BACKEND = [
    pytest.param(
        backend,
        marks=pytest.mark.skipif(not installed(PACKAGES.get(backend, "torch")), reason="its package is missing"),
    )
    for backend in BACKENDS
    if backend != "auto"
]
REAL_BACKENDS = [backend for backend in EVERY_BACKEND if backend.values != ("synthetic",)]


@pytest.fixture
def plan(beton) -> CropPlan:
    return CropPlan(beton, Augmentation(), crop_size=8, batch_size=3, seed=5)


@pytest.fixture(params=EVERY_BACKEND)
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
            ((3, 2), torch.bool),
            ((3,), torch.int64),
            ((3,), torch.int64),
        ]
        assert all(part.device == CPU for part in flat(crops))
        assert (crops.pixels[:, 0] != crops.pixels[:, 1]).any()


def test_a_closed_loader_says_so(loader: CropLoader) -> None:
    loader.close()
    with pytest.raises(ValueError, match="closed"):
        next(loader.epoch(0))


def test_a_with_block_closes_the_loader(loader: CropLoader) -> None:
    with loader as entered:
        assert entered is loader
        next(loader.epoch(0))
    with pytest.raises(UsageError, match="closed"):
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
def test_a_resumed_epoch_yields_the_same_steps(backend, plan: CropPlan) -> None:
    loader = open_loader(backend, plan, CPU, workers=0)
    whole = list(loader.epoch(2))
    for first_step in (1, 2):
        tail = list(loader.epoch(2, first_step))
        assert len(tail) == 3 - first_step
        for before, after in zip(whole[first_step:], tail, strict=True):
            assert all(torch.equal(one, two) for one, two in zip(flat(before), flat(after), strict=True))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_of_two_interleaved_epochs_each_gets_its_own_steps(backend, workers, plan: CropPlan) -> None:
    loader = open_loader(backend, plan, CPU, workers=workers)
    first, second = loader.epoch(0), loader.epoch(1)
    seen = {0: [next(first)], 1: [next(second)]}
    try:
        seen[0] += first
    except UsageError as error:
        assert "newer epoch" in str(error)
    seen[1] += second
    assert len(seen[1]) == 3
    for epoch, steps in seen.items():
        for step, crops in enumerate(steps):
            assert crops.index.tolist() == plan.indices(epoch, step).tolist()
    loader.close()


def test_an_unknown_backend_is_refused_with_the_choices(plan: CropPlan) -> None:
    with pytest.raises(ValueError, match=r"'dalli'; .* auto, torch"):
        open_loader("dalli", plan, CPU, workers=0)  # pyright: ignore[reportArgumentType]


def memory_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("backend", REAL_BACKENDS)
@pytest.mark.parametrize("order", ["random", "block"])
def test_ranks_share_the_batch_of_one_process(backend, order, plan: CropPlan) -> None:
    plan = replace(plan, batch_size=4, order=order)
    found = []
    for world_size in (1, 2):
        shares = []
        for rank in range(world_size):
            loader = open_loader(backend, replace(plan, rank=rank, world_size=world_size), CPU, workers=0)
            shares.append([crops.index for crops in loader.epoch(3)])
            loader.close()
        found.append([torch.cat(step).tolist() for step in zip(*shares, strict=True)])
    assert found[0] == found[1]
    assert len({index for step in found[0] for index in step}) == 8


@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_crops_are_the_same_for_any_number_of_workers(backend, plan: CropPlan) -> None:
    found = []
    for workers in (1, 2):
        loader = open_loader(backend, plan, CPU, workers)
        found.append([part for crops in loader.epoch(1) for part in flat(crops)])
        loader.close()
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_crops_keep_their_pixels_while_later_ones_are_made(backend, plan: CropPlan) -> None:
    loader = open_loader(backend, plan, CPU, workers=0)
    kept = [(crops.pixels, crops.pixels.clone()) for epoch in range(3) for crops in loader.epoch(epoch)]
    assert all(torch.equal(pixels, copy) for pixels, copy in kept)
    loader.close()


@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_epochs_and_early_stops_leave_no_threads_files_or_memory(backend, plan: CropPlan) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts, no paths
    loader = open_loader(backend, plan, CPU, workers=0)
    for epoch in range(10):
        list(loader.epoch(epoch))
        next(loader.epoch(epoch))
    before, running = memory_bytes(), threading.active_count()
    for epoch in range(50):
        list(loader.epoch(epoch))
    for epoch in range(60):
        next(loader.epoch(epoch))
    assert memory_bytes() - before < 8 * 2**20
    assert threading.active_count() == running
    loader.close()
    del loader
    gc.collect()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= files  # noqa: PTH208


@pytest.mark.parametrize("backend", REAL_BACKENDS)
def test_a_broken_image_is_an_error_or_the_next_good_one(backend, plan: CropPlan, pictures, pack, tmp_path) -> None:
    images = [pictures.read(index) for index in range(len(pictures))]
    for broken in (4, 5, 10):
        images[broken] = images[broken][:-200]
    damaged = replace(plan, source=pack(tmp_path / "damaged.beton", images))
    with pytest.raises(ImageError, match=r"damaged\.beton\[(4|5|10)\]"):
        loader = open_loader(backend, damaged, CPU, workers=0)
        list(loader.epoch(0))
    loader = open_loader(backend, replace(damaged, on_broken="replace"), CPU, workers=0)
    steps = list(loader.epoch(0))
    for step, crops in enumerate(steps):
        stand_ins = np.array([{4: 6, 5: 6, 10: 0}.get(int(index), int(index)) for index in damaged.indices(0, step)])
        assert crops.index.tolist() == stand_ins.tolist()
        for ours, planned in zip(crops.draws, damaged.draws(0, stand_ins), strict=True):
            assert ours.tolist() == planned.tolist()
        whole = open_loader(backend, plan, CPU, workers=0)
        good = {int(i): p for c in whole.epoch(0) for i, p in zip(c.index, c.pixels, strict=True)}
        whole.close()
        for index, pixels in zip(crops.index.tolist(), crops.pixels, strict=True):
            assert index not in good or torch.equal(pixels, good[index])
    planned = {int(index) for step in range(3) for index in damaged.indices(0, step)}
    assert loader.replaced == len(planned & {4, 5, 10}) > 0
    loader.close()


@pytest.mark.parametrize("package, backend", [("ffcv", "ffcv"), ("nvidia.dali", "dali")])
def test_a_missing_package_is_named(package, backend, plan: CropPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{backend}_loader", "ffcv_routines", "dali_pipeline"):
        monkeypatch.delitem(sys.modules, f"simsiam.pipeline.loaders.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for refuse in (lambda: open_loader(backend, plan, CPU, workers=0), lambda: check_backend(backend, plan)):
        with pytest.raises(MissingError, match=f"{backend} backend needs the package .*pip install"):
            refuse()


def test_an_option_goes_to_its_own_backend_alone(plan: CropPlan) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI isn't installed")
    with open_loader("dali", plan, CPU, workers=1, hw_decoder_load=0.5) as loader:
        next(loader.epoch(0))
    with pytest.raises(TypeError, match="hw_decoder_load"):
        open_loader("torch", plan, CPU, workers=1, hw_decoder_load=0.5)


def test_auto_keeps_only_small_images_resident(plan: CropPlan) -> None:
    assert choose_backend(plan, CPU)[0] == "resident"
    for count, side in ((10, 500), (400_000, 32)):
        sizes: Any = Sizes(count, side)
        assert choose_backend(CropPlan(sizes, Augmentation(), 8, 3), CPU)[0] == "torch"


def fake_loader_module(name: str) -> Any:
    return SimpleNamespace(FfcvLoader=CropLoader, DaliLoader=CropLoader)


@pytest.mark.parametrize(
    ("there", "device", "packed", "chosen"),
    [
        ({"ffcv", "nvidia", "nvidia.dali"}, "cuda", True, "ffcv"),
        ({"ffcv"}, "cpu", True, "ffcv"),
        ({"nvidia", "nvidia.dali"}, "cuda", True, "torch"),
        ({"ffcv", "nvidia", "nvidia.dali"}, "cuda", False, "dali"),
        ({"ffcv", "nvidia", "nvidia.dali"}, "cpu", False, "torch"),
        ({"nvidia"}, "cuda", False, "torch"),
        (set(), "cpu", True, "torch"),
    ],
)
def test_auto_depends_on_device_source_and_packages(
    there, device, packed, chosen, pack, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsiam.pipeline.loaders.open_loader.find_spec", lambda name: name in there or None)
    monkeypatch.setattr("simsiam.pipeline.loaders.open_loader.importlib.import_module", fake_loader_module)
    large: Any = pack(tmp_path / "large.beton", [np.zeros((200, 200, 3), np.uint8)] * 3) if packed else Sizes(3, 200)
    backend, reason = choose_backend(CropPlan(large, Augmentation(), 8, 3), torch.device(device))
    assert backend == chosen and reason


def test_auto_answers_a_package_that_cannot_be_loaded_by_torch(
    pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> Any:
        raise OSError("libopencv_imgproc.so.406: cannot open shared object file")

    monkeypatch.setattr("simsiam.pipeline.loaders.open_loader.find_spec", lambda name: True)
    monkeypatch.setattr("simsiam.pipeline.loaders.open_loader.importlib.import_module", fail)
    large = pack(tmp_path / "large.beton", [np.zeros((200, 200, 3), np.uint8)] * 3)
    backend, reason = choose_backend(CropPlan(large, Augmentation(), 8, 3), CPU)
    assert backend == "torch" and "libopencv_imgproc" in reason
