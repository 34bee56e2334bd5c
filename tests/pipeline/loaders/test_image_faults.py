"""Faults of images on every backend: an error that names the file, or a counted replacement."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.layout import read_exactly
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.transcode import Transcoding
from simsiam.pipeline.beton.writer import BetonWriter
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.loaders.resident_loader import ResidentLoader
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.image_folder import ImageFolder
from tests.pipeline.images import encoded, with_orientation

CPU = torch.device("cpu")
# Crops are most of the image or all of it.
AUGMENTATION = Augmentation(crop_scale=(0.5, 1.0))


NEEDS = {"torch": "torch", "dali": "nvidia.dali", "ffcv": "simsiam.pipeline.loaders.ffcv_routines", "resident": "torch"}


@pytest.fixture(params=NEEDS)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(NEEDS[request.param], reason="the backend's package isn't installed", exc_type=ImportError)
    return request.param


@pytest.fixture
def source_of(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Source]:
    """A function from a folder of images to what the backend reads: the folder, or a `.beton` made from it."""

    def make(root: Path) -> Source:
        folder = ImageFolder(root, cache=False)
        if backend != "ffcv":
            return folder
        out = tmp_path_factory.mktemp("beton") / "images.beton"
        convert(folder, out, Transcoding(max_side=None, quality=98), workers=1)
        return Beton(out)

    return make


@pytest.fixture
def open_backend(backend: str) -> Iterator[Callable[..., Any]]:
    """A function from a source and the plan's settings to an open loader."""
    opened = []

    def make(source: Source, **settings: Any) -> Any:
        settings = {"crop_size": 16, "batch_size": len(source)} | settings
        plan = CropPlan(source, AUGMENTATION, **settings)
        if backend == "torch":
            loader = TorchLoader(plan, CPU, workers=0)
        elif backend == "dali":
            from simsiam.pipeline.loaders.dali_loader import DaliLoader

            loader = DaliLoader(plan, CPU, workers=2)
        elif backend == "resident":
            loader = ResidentLoader(plan, CPU)
        else:
            from simsiam.pipeline.loaders.ffcv_loader import FfcvLoader

            loader = FfcvLoader(plan, CPU, workers=2)
        opened.append(loader)
        return loader

    yield make
    for loader in opened:
        loader.close()


def picture(height: int = 48, width: int = 64) -> Image.Image:
    """Smooth, with the same colours at every size and different ones in every corner."""
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    return Image.fromarray(
        np.stack([40 + 170 * x + 0 * y, 30 + 150 * y + 0 * x, 200 - 80 * x * y], -1).astype(np.uint8)
    )


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    settings: dict[str, Any] = {"quality": 95, "subsampling": 0} | options
    return encoded(image or picture(), **settings)


def with_size(data: bytes, height: int, width: int) -> bytes:
    """Write another size into the frame header of a JPEG."""
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + height.to_bytes(2) + width.to_bytes(2) + data[frame + 4 :]


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def sixteen_bits() -> Image.Image:
    return Image.fromarray((np.asarray(picture().convert("L")).astype(np.uint16) << 8) + 77)


KINDS: dict[str, bytes] = {
    "gray.jpg": jpeg(picture().convert("L")),
    "cmyk.jpg": jpeg(picture().convert("CMYK")),
    "rgb-coded.jpg": jpeg(keep_rgb=True),
    "progressive.jpg": jpeg(progressive=True),
    "halved-chroma.jpg": jpeg(subsampling=2),
    "named-jpeg-but.png.jpg": encoded(picture(), "PNG"),
    "palette.png": encoded(picture().quantize(64), "PNG"),
    "palette-and-transparency.png": encoded(picture().quantize(64), "PNG", transparency=bytes(range(64))),
    "alpha.png": encoded(Image.merge("RGBA", [*picture().split(), picture().split()[1]]), "PNG"),
    "gray-and-alpha.png": encoded(picture().convert("LA"), "PNG"),
    "one-bit.png": encoded(picture().convert("1", dither=Image.Dither.NONE), "PNG"),
    "gif.gif": encoded(picture().quantize(64), "GIF"),
    "webp.webp": encoded(picture(), "WEBP", lossless=True),
    "one-pixel.jpg": jpeg(picture().resize((1, 1))),
    "one-column.jpg": jpeg(picture(3000, 1)),
    "one-row.jpg": jpeg(picture(1, 3000)),
    **{f"turned-{tag}.jpg": jpeg(exif=with_orientation(tag)) for tag in range(1, 9)},
    **{f"turned-{tag}.png": encoded(picture(), "PNG", exif=with_orientation(tag)) for tag in (6, 8)},
}


@pytest.mark.parametrize("high", [False, True])
def test_every_kind_of_image_gives_the_references_pixels(
    backend, high, source_of, open_backend, tmp_path: Path
) -> None:
    """Decoded pixels are the reference's on every backend.

    Crops differ by rounding between the passes of the filter, and by DALI's filter, which repeats the outermost pixels.

    The one high image comes alone: the resident backend keeps all images in the size of the widest and highest.
    """
    kinds = {name: content for name, content in KINDS.items() if (name == "one-column.jpg") == high}
    source = source_of(fill(tmp_path, kinds))
    folder = ImageFolder(tmp_path)
    assert len(source) == len(kinds)
    for index in range(len(source)):  # a .beton has encoded them; a lost palette or a wrong rotation makes 20 or more
        assert np.abs(source.decode(index).astype(int) - folder.decode(index)).mean() <= (backend == "ffcv") * 3
    reference = TorchLoader(CropPlan(source, AUGMENTATION, 16, len(kinds)), CPU, workers=0)
    bound = {"torch": 0, "dali": 1, "ffcv": 0.3, "resident": 0.3}[backend]
    for ours, expected in zip(open_backend(source).epoch(0), reference.epoch(0), strict=True):
        assert ours.index.tolist() == expected.index.tolist()
        difference = (ours.pixels.int() - expected.pixels.int()).abs().float().mean(dim=(1, 2, 3, 4))
        found = {source.name(i): value for i, value in zip(ours.index.tolist(), difference.tolist(), strict=True)}
        assert {name: value for name, value in found.items() if value > bound} == {}


def test_images_found_broken_in_the_scan_never_reach_a_backend(source_of, open_backend, tmp_path: Path) -> None:
    whole = jpeg()
    good = {f"good/{number}.jpg": jpeg(picture(20 + number, 30)) for number in range(4)}
    bad = {
        "bad/cut.jpg": whole[: len(whole) // 2],
        "bad/header.jpg": whole[:100],
        "bad/empty.jpg": b"",
        "bad/text.jpg": b"This is no image.",
        "bad/bomb.jpg": with_size(whole, 65500, 65500),
        "bad/without-end.jpg": whole[:-2],
        "bad/sixteen-bits.png": encoded(sixteen_bits(), "PNG"),
    }
    source = source_of(fill(tmp_path, good | bad))
    reasons = dict(ImageFolder(tmp_path).broken)
    assert len(reasons) == len(bad)
    assert "exceeds limit of 178956970 pixels" in reasons[f"{tmp_path}/bad/bomb.jpg"]
    steps = list(open_backend(source, batch_size=1).epoch(0))
    assert sorted(crops.index.item() for crops in steps) == [0, 1, 2, 3]
    assert {source.classes[crops.label.item()] for crops in steps} == {"good"}


# What may happen to a file after the scan, and what the error says then.
CHANGES: dict[str, tuple[Callable[[bytes], bytes] | None, str]] = {
    "deleted": (None, "No such file"),
    "cut": (lambda data: data[: len(data) * 2 // 3], "truncated"),
    "emptied": (lambda data: b"", "empty"),
    "text": (lambda data: b"text" + bytes(len(data)), "not an image"),
    "spoiled": (lambda data: data.replace(b"\xff\xc4\x00", b"\xff\xc4\xff", 1), "."),
    "scrambled": (lambda data: data[:-42] + b"\xf7" * 40 + data[-2:], "some of its pixels may be wrong: Corrupt JPEG"),
    "another size": (lambda data: jpeg(picture(32, 32)).ljust(len(data), b"\0"), "pixels"),
    "a bomb": (lambda data: with_size(data, 65500, 65500), "exceeds limit of 178956970"),
}


def change(source: Any, index: int, how: str) -> None:
    """Change image `index` of an open source: its file, or its record in a `.beton`."""
    make, _ = CHANGES[how]
    if isinstance(source, Beton):
        assert make is not None
        records = source.records
        with source.path.open("r+b") as file:
            file.seek(records.offsets[index])
            file.write(make(source.read(index))[: records.lengths[index]])
    elif make is None:
        Path(source.name(index)).unlink()
    else:
        Path(source.name(index)).write_bytes(make(source.read(index)))


@pytest.mark.parametrize("how", CHANGES)
def test_an_image_that_breaks_after_the_scan_is_named(backend, how, source_of, open_backend, tmp_path: Path) -> None:
    if backend == "ffcv" and how in ("deleted", "cut", "emptied"):
        pytest.skip("a record has a fixed length")
    source = source_of(fill(tmp_path, {f"{n}.jpg": jpeg(picture(40 + n, 50)) for n in range(6)}))
    change(source, 3, how)
    with pytest.raises(ImageError, match=CHANGES[how][1]) as caught:
        list(open_backend(source, batch_size=2).epoch(0))
    assert "3.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", CHANGES)
def test_an_image_that_breaks_after_the_scan_is_replaced_by_the_next_good_one(
    backend, how, source_of, open_backend, tmp_path: Path
) -> None:
    if backend == "ffcv" and how in ("deleted", "cut", "emptied"):
        pytest.skip("a record has a fixed length")
    source = source_of(fill(tmp_path, {f"{n}.jpg": jpeg(picture(40 + n, 50)) for n in range(6)}))
    whole = {
        crops.index[row].item(): crops.pixels[row]
        for crops in open_backend(source, batch_size=2).epoch(0)
        for row in range(2)
    }
    change(source, 3, how)
    loader = open_backend(source, batch_size=2, on_broken="replace")
    found = [(crops.index[row].item(), crops.pixels[row]) for crops in loader.epoch(0) for row in range(2)]
    assert sorted(index for index, _ in found) == [0, 1, 2, 4, 4, 5]
    assert loader.replaced == 1
    assert all(torch.equal(pixels, whole[index]) for index, pixels in found)


def test_an_image_that_breaks_between_two_epochs_is_named(backend, source_of, open_backend, tmp_path: Path) -> None:
    if backend == "resident":
        pytest.skip("it reads all images when it opens")
    source = source_of(fill(tmp_path, {f"{n}.jpg": jpeg(picture(40 + n, 50)) for n in range(6)}))
    loader = open_backend(source, batch_size=2)
    assert len(list(loader.epoch(0))) == 3
    change(source, 3, "scrambled")
    with pytest.raises(ImageError, match=CHANGES["scrambled"][1]):
        list(loader.epoch(1))


@pytest.mark.parametrize("on_broken", ["error", "replace"])
def test_an_image_of_a_beton_on_a_failing_disk_is_broken(
    backend, on_broken, pictures, tmp_path: Path, open_backend, monkeypatch
) -> None:
    convert(pictures, tmp_path / "p.beton", workers=1)
    source = Beton(tmp_path / "p.beton")
    failing = source.records.offsets[3]

    def fail(file: int, size: int, offset: int) -> bytes:
        if offset == failing:
            raise OSError(errno.EIO, "Input/output error")
        return read_exactly(file, size, offset)

    monkeypatch.setattr("simsiam.pipeline.beton.reader.read_exactly", fail)
    if backend == "ffcv":  # its own reads are compiled, and fail only at the end of a file
        monkeypatch.setattr(
            "simsiam.pipeline.loaders.ffcv_loader.crop_records", lambda _file, _records, rows, *_: rows < 0
        )
    if on_broken == "error":
        with pytest.raises(ImageError, match=rf"it can't be read: Input/output error \(image 3 of {source.path}\)"):
            list(open_backend(source, batch_size=11).epoch(0))
    else:
        loader = open_backend(source, batch_size=11, on_broken="replace")
        (crops,) = loader.epoch(0)
        assert (3 in crops.index.tolist(), loader.replaced) == (False, 1)


def test_a_decompression_bomb_in_a_beton_is_refused(backend, tmp_path: Path, open_backend, monkeypatch) -> None:
    with BetonWriter(tmp_path / "b.beton", 2) as writer:
        writer.append(jpeg(picture(40, 50)), 40, 50, 0)
        writer.append(jpeg(picture(60, 70)), 60, 70, 0)
        writer.finish()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    source = Beton(tmp_path / "b.beton")
    with pytest.raises(ImageError, match=r"4200 pixels\) exceeds limit of 4000"):
        list(open_backend(source).epoch(0))
    loader = open_backend(source, on_broken="replace")
    assert [crops.index.tolist() for crops in loader.epoch(0)] == [[0, 0]]


def test_a_file_that_lost_its_permissions_is_named(backend, source_of, open_backend) -> None:
    if backend == "ffcv":
        pytest.skip("an open .beton stays readable")
    # pytest's own folders are closed to others, and root may read everything.
    with tempfile.TemporaryDirectory() as root:
        fill(Path(root), {"1.jpg": jpeg(), "2.jpg": jpeg()})
        source = source_of(Path(root))
        was_root = os.geteuid() == 0
        Path(root).chmod(0o755)
        (Path(root) / "2.jpg").chmod(0)
        if was_root:
            os.seteuid(65534)
        try:
            with pytest.raises(ImageError, match=r"2\.jpg: Permission denied"):
                list(open_backend(source).epoch(0))
        finally:
            if was_root:
                os.seteuid(0)


@pytest.fixture(scope="module")
def sixty_megapixels() -> bytes:
    return jpeg(Image.new("RGB", (10000, 6000), (200, 120, 40)), subsampling=2)


def test_sixty_megapixels_are_cropped(
    backend, source_of, open_backend, sixty_megapixels: bytes, tmp_path: Path
) -> None:
    if backend == "resident":
        pytest.skip("its matrix products take 2 GB and 6 s: it is for small images")
    source = source_of(fill(tmp_path, {"large.jpg": sixty_megapixels}))
    (crops,) = open_backend(source, crop_size=8).epoch(0)
    assert source.sizes.tolist() == [[6000, 10000]]
    assert (crops.pixels.int() - torch.tensor([200, 120, 40])).abs().max() <= 2


def test_odd_names_looping_links_and_classes_that_differ_in_case(source_of, open_backend, tmp_path: Path) -> None:
    names = [b"Cat/1.jpg", b"caf\xe9/\xff.jpg", b"cat/1.jpg", b'it\'s "odd"/a b.jpg', "new\nline/é日本.jpg".encode()]
    classes = ["Cat", "caf\\xe9", "cat", 'it\'s "odd"', "new\nline"]
    fill(tmp_path, {os.fsdecode(name): jpeg(picture(30 + number, 40)) for number, name in enumerate(names)})
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "cat" / "self.jpg").symlink_to("self.jpg")
    source = source_of(tmp_path)
    assert len(source) == 5
    assert source.sizes[:, 0].tolist() == [30, 31, 32, 33, 34]
    seen = {crops.index.item(): crops.label.item() for crops in open_backend(source, batch_size=1).epoch(0)}
    assert [source.classes[seen[index]] for index in range(5)] == classes
