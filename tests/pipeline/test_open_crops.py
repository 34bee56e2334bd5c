import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.open_crops import open_crops
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.image_folder import ImageFolder


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_crops_of_a_folder_and_of_a_beton_are_the_plans(kind: str, pictures: ImageFolder, beton: Beton) -> None:
    source = pictures if kind == "folder" else beton
    path = pictures.root if kind == "folder" else beton.path
    plan = CropPlan(source, Augmentation(hue=0.2), crop_size=24, batch_size=5, seed=3)
    with open_crops(path, 24, 5, augmentation=Augmentation(hue=0.2), seed=3, device="cpu", workers=0) as loader:
        steps = list(loader.epoch(1))
        assert len(steps) == len(loader) == 2
        for number, crops in enumerate(steps):
            index, draws = plan.step(1, number)
            assert (crops.pixels.shape, crops.pixels.dtype) == ((5, 2, 24, 24, 3), torch.uint8)
            assert crops.index.tolist() == index.tolist()
            assert crops.label.tolist() == source.labels[index].tolist()
            for ours, planned in zip(crops.draws, draws, strict=True):
                assert ours.tolist() == planned.tolist()
        (resumed,) = loader.epoch(1, first_step=1)
        assert torch.equal(resumed.pixels, steps[1].pixels)
    with pytest.raises(UsageError, match="closed"):
        next(loader.epoch(0))


def test_the_images_that_an_epoch_skips_come_in_another(pictures: ImageFolder) -> None:
    with open_crops(pictures.root, 8, 5, device="cpu") as loader:
        epochs = [torch.cat([crops.index for crops in loader.epoch(epoch)]).tolist() for epoch in range(9)]
    assert {len(set(indices)) for indices in epochs} == {10}
    assert {index for indices in epochs for index in indices} == set(range(11))


def test_by_default_it_is_the_papers_setting_on_the_device_that_there_is(pictures: ImageFolder) -> None:
    defaults = {name: value.default for name, value in inspect.signature(open_crops).parameters.items()}
    assert (defaults["size"], defaults["batch_size"], defaults["on_broken"]) == (224, 256, "error")
    with open_crops(pictures.root, size=32, batch_size=11) as loader:
        (crops,) = loader.epoch(0)
    assert crops.pixels.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    expected = CropPlan(pictures, Augmentation(), 32, 11).step(0, 0)[1]
    assert all(np.array_equal(ours.cpu(), planned) for ours, planned in zip(crops.draws, expected, strict=True))


def test_progress_is_told_while_a_folder_is_scanned_and_read_into_memory(pictures: ImageFolder) -> None:
    calls: list[tuple[int, int]] = []
    open_crops(
        pictures.root, 8, 4, backend="resident", device="cpu", progress=lambda done, total: calls.append((done, total))
    ).close()
    assert calls == [(11, 11), *((done, 11) for done in range(1, 12))]


def break_image(pictures: ImageFolder, index: int) -> str:
    path = Path(pictures.name(index))
    data = path.read_bytes()
    path.write_bytes(data[:-60] + b"\xf7" * 58 + data[-2:])
    return path.name


@pytest.mark.parametrize("backend", ["torch", "resident"])
def test_a_broken_image_is_named_or_replaced_and_counted(backend, pictures: ImageFolder) -> None:
    name = break_image(pictures, 3)
    with (
        pytest.raises(ImageError, match=name),
        open_crops(pictures.root, 8, 11, backend=backend, device="cpu", workers=0) as loader,
    ):
        next(loader.epoch(0))
    with open_crops(pictures.root, 8, 11, backend=backend, device="cpu", workers=0, on_broken="replace") as loader:
        (crops,) = loader.epoch(0)
        assert (3 in crops.index.tolist(), loader.replaced) == (False, 1)


def test_what_cannot_be_opened_is_refused_in_one_sentence(pictures: ImageFolder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.beton").write_text("no images")
    options: dict[str, Any]
    for path, options, words in (
        (tmp_path / "nowhere", {}, "no folder or file"),
        (tmp_path / "empty", {}, "no image"),
        (tmp_path / "text.beton", {}, r"no \.beton file"),
        (pictures.root, {"batch_size": 12}, "11 images"),
        (pictures.root, {"size": 0}, "between 1 and"),
        (pictures.root, {"workers": -1}, "workers is -1"),
        (pictures.root, {"backend": "fast"}, "no loader backend 'fast'"),
    ):
        settings: dict[str, Any] = {"size": 8, "batch_size": 4, "device": "cpu"} | options
        with pytest.raises(UsageError, match=words) as caught:
            open_crops(path, **settings)
        assert "\n" not in str(caught.value)
