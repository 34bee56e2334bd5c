import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton import convert as convert_module
from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.manifest import manifest_path
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.transcode import CLIPPED, SCALED, Transcoding
from simsiam.pipeline.beton.writer import BetonWriter
from simsiam.pipeline.errors import RawRecordError, UsageError
from simsiam.pipeline.one_colour import ONE_COLOUR
from tests.pipeline.beton.memory_records import MemoryRecords
from tests.pipeline.images import encoded, noise, raw_tiff, with_orientation

ORIENTATION = 0x0112


def png(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "PNG")


def orientation_of(jpeg: bytes) -> int:
    return Image.open(io.BytesIO(jpeg)).getexif().get(ORIENTATION, 1)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Four large patches of colour, which survive reducing and JPEG."""
    return np.array(Image.fromarray(noise(2, 2, 3, seed=seed)).resize((width, height), Image.Resampling.NEAREST))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def source(count: int = 8, **options) -> MemoryRecords:
    return MemoryRecords([png(picture(60 + i, 80, i)) for i in range(count)], **options)


def test_images_labels_classes_and_names_arrive_in_order(tmp_path):
    images = source(labels=[0, 1, 2, 0, 1, 2, 0, 1], classes=["ant", "bee", "cat"])
    report = convert(images, tmp_path / "out.beton", workers=2)
    beton = Beton(tmp_path / "out.beton")
    assert (report.path, report.count, report.skipped) == (tmp_path / "out.beton", 8, [])
    assert report.bytes_written == report.path.stat().st_size
    assert report.seconds > 0
    assert beton.labels.tolist() == images.labels.tolist()
    assert list(beton.classes) == ["ant", "bee", "cat"]
    assert [beton.name(i) for i in range(8)] == [f"dir/{i}.png" for i in range(8)]
    assert beton.sizes.tolist() == [[60 + i, 80] for i in range(8)]
    for i in range(8):
        assert np.abs(beton.decode(i).astype(int) - images.decode(i)).mean() < 4
    assert beton.damaged_pages() == []
    assert names(tmp_path) == ["out.beton", "out.beton.json"]


def test_unlabelled_images_stay_unlabelled(tmp_path):
    convert(source(2), tmp_path / "out.beton", workers=1)
    beton = Beton(tmp_path / "out.beton")
    assert beton.labels.tolist() == [-1, -1]
    assert list(beton.classes) == []


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    images = source(40)
    images.images[11] = b"broken"
    for workers in (1, 2, 5):
        convert(images, tmp_path / f"{workers}" / "out.beton", workers=workers)
    for name in ("out.beton", "out.beton.json"):
        assert len({(tmp_path / f"{workers}" / name).read_bytes() for workers in (1, 2, 5)}) == 1


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((1200, 800), 500, (500, 333)),
        ((300, 700), 350, (150, 350)),
        ((500, 500), 500, (500, 500)),
        ((1000, 2), 100, (100, 1)),
        ((1200, 800), None, (1200, 800)),
    ],
)
def test_the_longer_side_is_reduced_and_the_aspect_kept(tmp_path, size, max_side, expected):
    convert(MemoryRecords([png(picture(*size, seed=0))]), tmp_path / "out.beton", Transcoding(max_side), workers=1)
    assert tuple(Beton(tmp_path / "out.beton").sizes[0]) == expected


def test_reducing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    convert(MemoryRecords([png(stripes)]), tmp_path / "out.beton", Transcoding(75), workers=1)
    # Sampling every eighth column would give all black or all white.
    assert np.abs(Beton(tmp_path / "out.beton").decode(0)[:, 4:-4].astype(int) - 127).max() <= 8


def test_the_jpeg_has_the_quality(tmp_path):
    for quality in (40, 90):
        convert(
            MemoryRecords([png(noise(64, 64, 3))]), tmp_path / f"{quality}", Transcoding(quality=quality), workers=1
        )
    tables = [Image.open(io.BytesIO(Beton(tmp_path / f"{q}").read(0))).quantization for q in (40, 90)]  # pyright: ignore[reportAttributeAccessIssue]
    # ITU-T T.81 table K.1 starts with 16; libjpeg scales it by 5000/q below quality 50 and by 200 - 2q percent above.
    assert [table[0][0] for table in tables] == [20, 3]


def test_broken_images_are_skipped_and_reported(tmp_path):
    images = source(6, labels=list(range(6)), classes=list("abcdef"))
    images.images[2] = images.images[2][:100]
    images.images[4] = b""
    images.broken = [("dir/scan.png", "not an image")]
    report = convert(images, tmp_path / "out.beton", workers=2)
    assert [name for name, _ in report.skipped] == ["dir/scan.png", "dir/2.png", "dir/4.png"]
    assert report.skipped[2][1] == "the file is empty"
    assert report.count == 4
    beton = Beton(tmp_path / "out.beton")
    assert beton.labels.tolist() == [0, 1, 3, 5]
    assert beton.name(2) == "dir/3.png"
    assert beton.manifest is not None
    assert beton.manifest.left_out == report.skipped


def test_the_manifest_contains_the_settings(tmp_path):
    convert(source(2), tmp_path / "out.beton", Transcoding(max_side=50, quality=80), workers=1)
    manifest = json.loads(manifest_path(tmp_path / "out.beton").read_text())
    assert manifest["settings"] == {
        "max_side": 50,
        "quality": 80,
        "apply_orientation": False,
        "reencode": False,
        "check": "markers",
        "intensity": None,
    }
    assert manifest["format_version"] == 2
    assert manifest["images"] == 2


def deep_set() -> MemoryRecords:
    """An 8-bit image, one of 12 bits in 16, one of floats, and one of one colour."""
    ramp = np.linspace(0, 4095, 1200).reshape(30, 40, 1)
    images = [raw_tiff(ramp.astype(np.uint16)), raw_tiff(ramp.astype(np.float32) + 1)]
    return MemoryRecords([png(picture(30, 40, 0)), *images, png(np.full((20, 20, 3), 9, np.uint8))])


def test_what_was_scaled_clipped_or_of_one_colour_is_in_the_report_and_the_manifest(tmp_path):
    report = convert(deep_set(), tmp_path / "o", Transcoding(intensity=(0, 4095)), workers=2)
    assert report.skipped == []
    names = [("dir/1.png", SCALED), ("dir/2.png", SCALED), ("dir/2.png", CLIPPED), ("dir/3.png", ONE_COLOUR)]
    assert report.remarks == names
    manifest = Beton(tmp_path / "o").manifest
    assert manifest is not None
    assert (manifest.remarks, manifest.remarked(SCALED)) == (names, 2)
    assert manifest.settings["intensity"] == [0, 4095]
    for index in (1, 2):
        expected = np.linspace(0, 255, 1200).reshape(30, 40, 1)
        assert np.abs(Beton(tmp_path / "o").decode(index).astype(int) - expected).mean() < 2


def test_without_a_range_deep_images_are_skipped_and_alone_they_name_the_argument(tmp_path):
    report = convert(deep_set(), tmp_path / "o", workers=1)
    assert [name for name, _ in report.skipped] == ["dir/1.png", "dir/2.png"]
    assert "values 0 to 4095" in report.skipped[0][1] and "values 1 to 4096" in report.skipped[1][1]
    with pytest.raises(UsageError) as caught:
        convert(MemoryRecords(deep_set().images[1:3]), tmp_path / "p", workers=1)
    assert caught.value.argument == "intensity"


def test_an_image_larger_than_a_page_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "BetonWriter", lambda *a, **k: BetonWriter(*a, page_size=2 << 20, **k))
    images = MemoryRecords([encoded(noise(1500, 1500, 3), "BMP"), png(picture(20, 20, 0))])
    report = convert(images, tmp_path / "out.beton", Transcoding(max_side=None, quality=100), workers=1)
    assert report.count == 1
    ((name, reason),) = report.skipped
    assert name == "dir/0.png"
    assert "larger than a page" in reason


def test_an_image_too_long_for_a_jpeg_is_skipped(tmp_path):
    images = MemoryRecords([png(np.zeros((1, 65_501, 3), np.uint8)), png(picture(20, 20, 0))])
    report = convert(images, tmp_path / "o", Transcoding(max_side=None), workers=1)
    assert [name for name, _ in report.skipped] == ["dir/0.png"]


def test_pixels_are_kept_as_stored_unless_orientation_is_applied(tmp_path):
    pixels = picture(40, 60, 1)
    images = MemoryRecords([encoded(pixels, quality=95, exif=with_orientation(tag)) for tag in (1, 6, 3)])
    convert(images, tmp_path / "stored", workers=1)
    convert(images, tmp_path / "turned", Transcoding(apply_orientation=True), workers=1)
    stored, turned = Beton(tmp_path / "stored"), Beton(tmp_path / "turned")
    assert stored.sizes.tolist() == [[40, 60]] * 3
    assert turned.sizes.tolist() == [[40, 60], [60, 40], [40, 60]]
    # Tag 6 asks for a quarter turn clockwise, tag 3 for half a turn.
    for i, turns in enumerate([0, -1, 2]):
        assert np.abs(turned.decode(i).astype(int) - np.rot90(pixels, turns)).mean() < 6
        assert np.abs(stored.decode(i).astype(int) - pixels).mean() < 6
    # What is copied keeps its tag; what was turned must not be turned again.
    assert [orientation_of(stored.read(i)) for i in range(3)] == [1, 6, 3]
    assert [orientation_of(turned.read(i)) for i in range(3)] == [1, 1, 1]


def test_a_beton_can_be_converted_again(tmp_path):
    convert(source(3), tmp_path / "large", workers=1)
    convert(Beton(tmp_path / "large"), tmp_path / "small", Transcoding(max_side=40, apply_orientation=True), workers=1)
    assert Beton(tmp_path / "small").sizes.max() == 40


class Pixels(MemoryRecords):
    """Has no encoded bytes."""

    def read(self, index: int) -> bytes:
        raise RawRecordError


def test_images_stored_as_pixels_have_no_orientation(tmp_path):
    convert(Pixels(source(2).images), tmp_path / "o", Transcoding(apply_orientation=True), workers=1)
    assert Beton(tmp_path / "o").sizes.tolist() == [[60, 80], [61, 80]]


def test_progress_counts_every_image(tmp_path):
    calls = []
    convert(source(5), tmp_path / "o", workers=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    convert(source(3), tmp_path / "o", workers=1)
    with pytest.raises(ValueError, match="exists"):
        convert(source(2), tmp_path / "o", workers=1)
    assert len(Beton(tmp_path / "o")) == 3
    convert(source(2), tmp_path / "o", workers=1, overwrite=True)
    assert len(Beton(tmp_path / "o")) == 2


def test_without_a_readable_image_there_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"None of the 2 images can be read; the first is dir/0\.png: "):
        convert(MemoryRecords([b"x", b"y"]), tmp_path / "o", workers=2)
    with pytest.raises(ValueError, match="no readable image"):
        convert(MemoryRecords([]), tmp_path / "o")
    assert names(tmp_path) == []


def test_refuses_to_work_without_workers(tmp_path):
    with pytest.raises(ValueError, match="workers is 0"):
        convert(source(1), tmp_path / "o", workers=0)


def test_missing_folders_are_created_or_the_error_is_clear(tmp_path):
    convert(source(1), tmp_path / "a" / "b" / "o", workers=1)
    assert len(Beton(tmp_path / "a" / "b" / "o")) == 1
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Can't create the folder"):
        convert(source(1), tmp_path / "file" / "o", workers=1)
