from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)
pytest.importorskip("nvidia.dali", reason="DALI isn't installed")

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import CropLoader
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.loaders.dali_loader import DaliLoader
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.image_folder import ImageFolder
from tests.pipeline.images import photograph, with_orientation

CPU = torch.device("cpu")
COUNT = 24


@pytest.fixture
def photographs(tmp_path: Path) -> ImageFolder:
    """JPEGs of every chroma subsampling, progressive, gray and rotated ones, and images that don't go to DALI."""
    root = tmp_path / "photographs"
    root.mkdir()
    for number in range(COUNT - 6):
        options: dict[str, Any] = {
            "subsampling": number % 3,
            "progressive": number % 5 == 0,
            "exif": with_orientation(number % 8 + 1),
        }
        photograph(250 + 37 * number, 700 - 23 * number, number).save(root / f"{number}.jpg", quality=95, **options)
    picture = photograph(300, 400, 99)
    picture.convert("L").save(root / "gray.jpg")
    picture.convert("CMYK").save(root / "cmyk.jpg")
    picture.save(root / "rgb.jpg", keep_rgb=True)
    picture.quantize(99).save(root / "palette.png")
    picture.quantize(99).save(root / "gif.gif")
    picture.resize((1, 1)).save(root / "pixel.jpg")
    return ImageFolder(root)


def open_plan(source, **options: Any) -> CropPlan:
    settings: dict[str, Any] = {"crop_size": 96, "batch_size": 8, "seed": 1} | options
    return CropPlan(source, Augmentation(), **settings)


@pytest.fixture
def loader(photographs: ImageFolder, device: torch.device) -> Iterator[DaliLoader]:
    opened = DaliLoader(open_plan(photographs), device, 4)
    yield opened
    opened.close()


def pixels_of(loader: CropLoader) -> torch.Tensor:
    return torch.stack([crops.pixels.cpu() for crops in loader.epoch(0)])


def break_jpeg(path: Path) -> None:
    """Damage a Huffman table: size and end marker stay the same, so only the decoder notices."""
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xc4") + 5] = 255
    path.write_bytes(data)


@pytest.mark.parametrize("hw_decoder_load", [0.0, 0.65, 1.0])
def test_crops_are_close_to_the_references(photographs: ImageFolder, device, hw_decoder_load: float) -> None:
    """NvJPEG's inverse transform and colour conversion round differently from libjpeg's: by a level or two."""
    plan = open_plan(photographs)
    loader = DaliLoader(plan, device, 4, hw_decoder_load=hw_decoder_load)
    difference = (pixels_of(loader).int() - pixels_of(TorchLoader(plan, CPU, 0)).int()).abs().float()
    loader.close()
    each = difference.flatten(0, 1).mean(dim=(1, 2, 3, 4))
    names = [photographs.name(int(i)) for step in range(len(plan)) for i in plan.indices(0, step)]
    found = {Path(name).name: value for name, value in zip(names, each.tolist(), strict=True)}
    assert {name: value for name, value in found.items() if value > 1} == {}
    for name in ("cmyk.jpg", "rgb.jpg", "palette.png", "gif.gif"):
        assert found[name] == 0


def test_everything_is_on_the_device_and_as_planned(loader: DaliLoader, photographs: ImageFolder, device) -> None:
    plan = open_plan(photographs)
    for step, crops in enumerate(loader.epoch(3)):
        index = plan.indices(3, step)
        assert all(part.device == device for part in (crops.pixels, *crops.draws, crops.index, crops.label))
        assert (crops.pixels.shape, crops.pixels.dtype) == ((8, 2, 96, 96, 3), torch.uint8)
        assert crops.index.tolist() == index.tolist()
        for ours, planned in zip(crops.draws, plan.draws(3, index), strict=True):
            assert ours.tolist() == planned.tolist()


def test_crops_keep_their_pixels_while_later_ones_are_made_and_the_device_is_busy(loader: DaliLoader, device) -> None:
    expected = pixels_of(loader)
    work = torch.randn(4096, 4096, device=device)
    kept = []
    for crops in loader.epoch(0):
        for _ in range(20):  # the copy from DALI's memory waits for this
            work = work @ work / 64
        kept.append(crops.pixels)
    for _ in range(3):
        list(loader.epoch(1))
    assert torch.equal(torch.stack([pixels.cpu() for pixels in kept]), expected)


def test_a_consumer_on_another_stream_gets_the_same_pixels(loader: DaliLoader, device) -> None:
    expected = pixels_of(loader)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        found = [crops.pixels.clone() for crops in loader.epoch(0)]
    stream.synchronize()
    assert torch.equal(torch.stack([pixels.cpu() for pixels in found]), expected)


def test_a_broken_jpeg_is_named_and_the_loader_still_works(loader: DaliLoader, photographs: ImageFolder) -> None:
    expected = pixels_of(loader)
    names = [Path(photographs.name(int(index))) for index in open_plan(photographs).indices(0, 1)]
    path = next(path for path in names if path.stem.isdigit())
    whole = path.read_bytes()
    for damage in (break_jpeg, lambda path: path.write_bytes(whole[: len(whole) // 2]), Path.unlink):
        path.write_bytes(whole)
        damage(path)
        with pytest.raises(ImageError, match=path.name):
            list(loader.epoch(0))
    path.write_bytes(whole)
    assert torch.equal(pixels_of(loader), expected)


def test_a_broken_jpeg_is_replaced(photographs: ImageFolder, device) -> None:
    plan = open_plan(photographs, on_broken="replace")
    bad = next(int(i) for i in plan.indices(0, 1) if Path(photographs.name(int(i))).stem.isdigit())
    break_jpeg(Path(photographs.name(bad)))
    loader = DaliLoader(plan, device, 4)
    seen = torch.cat([crops.index for crops in loader.epoch(0)]).tolist()
    assert loader.replaced == 1
    assert bad not in seen
    assert len(seen) == COUNT
    loader.close()


def test_early_stops_leave_the_devices_memory_flat(loader: DaliLoader, device) -> None:
    def work(count: int) -> None:
        for epoch in range(count):
            next(loader.epoch(epoch))
        torch.cuda.synchronize(device)

    work(20)
    free, _ = torch.cuda.mem_get_info(device)
    work(60)
    after, _ = torch.cuda.mem_get_info(device)
    assert free - after < 64 << 20


def test_loaders_one_after_the_other_leave_the_devices_memory_flat(photographs: ImageFolder, device) -> None:
    def work(count: int) -> None:
        for _ in range(count):
            loader = DaliLoader(open_plan(photographs), device, 4)
            next(loader.epoch(0))
            loader.close()

    work(3)
    free, _ = torch.cuda.mem_get_info(device)
    work(6)
    after, _ = torch.cuda.mem_get_info(device)
    assert free - after < 256 << 20
