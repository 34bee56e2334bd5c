import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nvidia.dali", reason="DALI isn't installed")

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.writer import BetonWriter
from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError, RawRecordError, RunError, UsageError
from simsiam.pipeline.loaders.dali_loader import DaliLoader
from simsiam.pipeline.loaders.dali_pipeline import QUEUE, DaliPipeline
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.image_folder import ImageFolder
from tests.pipeline.images import photograph
from tests.pipeline.wait_until import wait_until

CPU = torch.device("cpu")


def open_plan(source, **options: Any) -> CropPlan:
    settings: dict[str, Any] = {"crop_size": 8, "batch_size": 3, "seed": 2} | options
    return CropPlan(source, Augmentation(), **settings)


@pytest.fixture
def photographs(tmp_path: Path) -> ImageFolder:
    root = tmp_path / "photographs"
    root.mkdir()
    for number, (height, width) in enumerate([(375, 500), (500, 333), (240, 180), (600, 900)]):
        photograph(height, width, number).save(root / f"{number}.jpg", quality=90)
    photograph(300, 300, 9).convert("L").save(root / "gray.jpg")
    return ImageFolder(root)


class StoredAsPixels(ImageFolder):
    """Images without encoded bytes, as the raw records of a `.beton` are."""

    def read(self, index: int) -> bytes:
        raise RawRecordError

    def decode(self, index: int) -> np.ndarray:
        return decode_image(Path(self.name(index)).read_bytes(), "")


def break_jpeg(path: Path) -> None:
    """Damage a Huffman table: size and end marker stay the same, so only the decoder notices."""
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xc4") + 5] = 255
    path.write_bytes(data)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def resident_mebibytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def pixels_of(loader) -> torch.Tensor:
    found = torch.stack([crops.pixels for epoch in (0, 1) for crops in loader.epoch(epoch)])
    loader.close()
    return found


def test_crops_of_photographs_are_the_references_up_to_rounding_and_the_border(photographs: ImageFolder) -> None:
    """Decoding is the same bit for bit, and the filters, triangles as wide as the reduction, differ in two things.

    Pillow rounds to whole levels after its first pass and DALI doesn't: 0 or 1 level, 0.16 on average. Where an image
    is reduced, the triangle reaches past the box: Pillow ignores that part, DALI repeats the outermost pixels, which
    changes the outermost pixel of a crop by up to 15 levels on 1,000 photographs of ImageNet.
    """
    plan = open_plan(photographs, crop_size=96, batch_size=5)
    dali, reference = (pixels_of(loader) for loader in (DaliLoader(plan, CPU, 2), TorchLoader(plan, CPU, 0)))
    difference = (dali.int() - reference.int()).abs()
    assert difference.float().mean() < 0.25
    assert difference.max() <= 32
    assert difference[..., 1:-1, 1:-1, :].max() <= 1


def test_pixels_are_the_same_for_any_number_of_threads(photographs: ImageFolder) -> None:
    found = [pixels_of(DaliLoader(open_plan(photographs), CPU, count)) for count in (0, 1, 4)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_crops_keep_their_pixels_while_later_ones_are_made(photographs: ImageFolder) -> None:
    loader = DaliLoader(open_plan(photographs, batch_size=1), CPU, 2)
    kept = [(crops, crops.pixels.clone()) for epoch in range(4) for crops in loader.epoch(epoch)]
    loader.close()
    assert len(kept) == 20
    assert all(torch.equal(crops.pixels, pixels) for crops, pixels in kept)


@pytest.mark.parametrize("jpegs", [0, 2])
def test_other_images_than_usual_jpegs_get_the_references_pixels(tmp_path: Path, jpegs: int) -> None:
    picture = photograph(60, 50, 0)
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "cmyk.jpg": (picture.convert("CMYK"), {}),
        "rgb.jpg": (picture, {"keep_rgb": True}),
        "gif.gif": (picture.quantize(16), {}),
        "palette.png": (picture.quantize(16), {"transparency": 3}),
        "alpha.png": (picture.convert("RGBA"), {}),
        "16-bit.png": (Image.fromarray(np.random.default_rng(0).integers(0, 65536, (60, 50), np.uint16)), {}),
        "tiff.tiff": (picture, {}),
    }
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
    for number in range(jpegs):
        picture.save(tmp_path / f"{number}.jpg")
    source = ImageFolder(tmp_path)
    plan = open_plan(source, batch_size=len(source))
    dali, reference = DaliLoader(plan, CPU, 2), TorchLoader(plan, CPU, 0)
    for ours, expected in zip(dali.epoch(0), reference.epoch(0), strict=True):
        for row, sample in enumerate(ours.index.tolist()):
            difference = (ours.pixels[row].int() - expected.pixels[row].int()).abs().max()
            assert difference <= (24 if source.name(sample)[-5].isdigit() else 0), source.name(sample)
    dali.close()


def test_records_of_pixels_get_the_references_crops(pictures: ImageFolder) -> None:
    plan = open_plan(StoredAsPixels(pictures.root))
    assert torch.equal(pixels_of(DaliLoader(plan, CPU, 2)), pixels_of(TorchLoader(plan, CPU, 0)))


def test_a_beton_of_the_same_files_gives_the_folders_pixels(photographs: ImageFolder, tmp_path: Path) -> None:
    path = tmp_path / "copied.beton"
    with BetonWriter(path, len(photographs)) as writer:
        for index in range(len(photographs)):
            height, width = photographs.sizes[index].tolist()
            writer.append(photographs.read(index), height, width, -1)
        writer.finish()
    from_folder, from_beton = (pixels_of(DaliLoader(open_plan(s), CPU, 2)) for s in (photographs, Beton(path)))
    assert torch.equal(from_folder, from_beton)


def test_a_broken_jpeg_that_dali_cannot_name_is_named_in_its_turn(pictures: ImageFolder) -> None:
    plan = open_plan(pictures)
    bad = int(plan.indices(0, 2)[1])
    path = Path(pictures.name(bad))
    whole = path.read_bytes()
    break_jpeg(path)
    loader = DaliLoader(plan, CPU, 2)
    good = []
    with pytest.raises(ImageError) as caught:
        good.extend(loader.epoch(0))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(good) == 2
    # A new pipeline has replaced the one that failed.
    path.write_bytes(whole)
    reference = TorchLoader(plan, CPU, 0)
    for ours, expected in zip(loader.epoch(0), reference.epoch(0), strict=True):
        assert (ours.pixels.int() - expected.pixels.int()).abs().float().mean() < 4
    loader.close()


def test_the_error_of_an_unreadable_file_comes_in_its_turn(pictures: ImageFolder) -> None:
    plan = open_plan(pictures)
    path = Path(pictures.name(int(plan.indices(0, 2)[0])))
    path.unlink()
    loader = DaliLoader(plan, CPU, 2)
    epoch = loader.epoch(0)
    next(epoch)
    next(epoch)
    with pytest.raises(ImageError, match=f"^{path}: No such file"):
        next(epoch)
    loader.close()


def test_a_decompression_bomb_never_reaches_dali(pictures: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DaliLoader(open_plan(pictures), CPU, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    monkeypatch.setattr(DaliPipeline, "feed", lambda *_: pytest.fail("DALI got it"))
    with pytest.raises(ImageError, match="exceeds limit of 40 pixels"):
        list(loader.epoch(0))
    loader.close()


def test_a_failure_of_dali_on_good_images_is_an_error_and_no_silent_change_of_backend(
    pictures: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DaliLoader(open_plan(pictures, on_broken="replace"), CPU, 1)

    def fail(*_: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(DaliPipeline, "feed", fail)
    with pytest.raises(RunError, match=r"step 0 of epoch 0 \(out of memory\)"):
        list(loader.epoch(0))
    loader.close()


def test_a_passing_failure_of_dali_is_tried_again(pictures: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pixels_of(DaliLoader(open_plan(pictures), CPU, 1))
    loader, take, calls = DaliLoader(open_plan(pictures), CPU, 1), DaliPipeline.take, []

    def fail_once(pipeline: DaliPipeline) -> list[torch.Tensor]:
        calls.append(pipeline)
        if len(calls) == 2:
            raise RuntimeError("a passing fault")
        return take(pipeline)

    monkeypatch.setattr(DaliPipeline, "take", fail_once)
    assert torch.equal(pixels_of(loader), expected)


def test_interleaved_and_abandoned_epochs_do_not_disturb_each_other(
    photographs: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DaliLoader(open_plan(photographs, batch_size=1), CPU, 2)
    expected = [[crops.pixels for crops in loader.epoch(epoch)] for epoch in range(3)]
    feed, take, ahead = DaliPipeline.feed, DaliPipeline.take, [0]
    monkeypatch.setattr(DaliPipeline, "feed", lambda *given: feed(*given) or ahead.append(ahead[-1] + 1))
    monkeypatch.setattr(DaliPipeline, "take", lambda *given: ahead.append(ahead[-1] - 1) or take(*given))
    next(loader.epoch(5))
    for step, found in enumerate(zip(*(loader.epoch(epoch) for epoch in range(3)), strict=True)):
        for epoch, crops in enumerate(found):
            assert torch.equal(crops.pixels, expected[epoch][step])
    assert max(ahead) == QUEUE
    loader.close()


def test_no_more_is_read_ahead_than_four_steps(pictures: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = ImageFolder.read, []
    monkeypatch.setattr(ImageFolder, "read", lambda self, index: seen.append(index) or read(self, index))
    loader = DaliLoader(open_plan(pictures, batch_size=1), CPU, 2)
    epoch = loader.epoch(0)
    next(epoch)
    wait_until(lambda: len(seen) == 4)
    next(epoch)
    wait_until(lambda: len(seen) == 5)
    loader.close()
    assert len(seen) == 5


def test_closing_ends_all_threads(pictures: ImageFolder) -> None:
    before = threads()
    loader = DaliLoader(open_plan(pictures), CPU, 3)
    epoch = loader.epoch(0)
    next(epoch)
    assert threads() > before
    loader.close()
    loader.close()
    assert threads() == before
    with pytest.raises(UsageError, match="closed"):
        next(epoch)


def test_early_stops_and_epochs_leave_no_threads_and_no_memory(pictures: ImageFolder) -> None:
    loader = DaliLoader(open_plan(pictures), CPU, 2)

    def work(epochs: int) -> None:
        for epoch in range(epochs):
            next(loader.epoch(epoch))
            assert len(list(loader.epoch(epoch))) == 3

    work(20)
    before, memory = threads(), resident_mebibytes()
    work(60)
    assert threads() == before
    assert resident_mebibytes() < memory + 8
    loader.close()


def test_twenty_loaders_one_after_the_other_leave_no_memory(pictures: ImageFolder) -> None:
    def work(count: int) -> None:
        for _ in range(count):
            loader = DaliLoader(open_plan(pictures), CPU, 2)
            next(loader.epoch(0))
            loader.close()

    work(5)
    before, memory = threads(), resident_mebibytes()
    work(20)
    assert threads() == before
    assert resident_mebibytes() < memory + 16
