import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.archive import open_records
from simsiam.pipeline.beton_format import HEADER, read_index
from simsiam.pipeline.beton_manifest import manifest_path
from simsiam.pipeline.convert import convert
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.verify import verify


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    return folder


@pytest.fixture
def beton(folder: Path, tmp_path: Path) -> Path:
    convert(open_records(folder), tmp_path / "o.beton", workers=1)
    return tmp_path / "o.beton"


def test_a_whole_set_has_nothing_broken(folder, beton):
    calls = []
    report = verify(folder, workers=2, progress=lambda *call: calls.append(call))
    assert (report.images, report.broken, report.checksums) == (6, [], False)
    assert calls == [(i, 6) for i in range(1, 7)]
    report = verify(beton, workers=1)
    assert (report.images, report.broken, report.checksums) == (6, [], True)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_broken_file_of_a_folder_is_listed_with_its_reason(folder, workers):
    good = jpeg(0)
    (folder / "a.jpg").write_bytes(b"")
    (folder / "b.jpg").write_text("text")
    (folder / "c.jpg").write_bytes(good[: len(good) // 2])
    (folder / "d.jpg").write_bytes(good[: len(good) // 2] + good[-2:])
    (folder / "e.jpg").symlink_to(folder / "none.jpg")
    reasons = {Path(name).name: reason for name, reason in verify(folder, workers=workers).broken}
    assert sorted(reasons) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert reasons["a.jpg"] == "the file is empty"
    assert reasons["b.jpg"] == "not an image in any format Pillow reads"
    assert "truncated" in reasons["c.jpg"]
    assert reasons["d.jpg"].startswith("some of its pixels are wrong: Corrupt JPEG data")
    assert "No such file" in reasons["e.jpg"]


def test_a_corrupt_record_is_found_by_its_pixels_and_by_its_checksum(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        file.seek(int(index.offsets[3] + index.lengths[3] // 2))
        file.write(b"\x55" * 200)
    report = verify(beton, workers=2)
    (image, reason), (file_name, damage) = report.broken
    assert image.endswith("3.jpg")
    assert "Corrupt JPEG data" in reason
    assert file_name == str(beton)
    assert "differ from what was written, images 0 to 5" in damage
    manifest_path(beton).unlink()
    report = verify(beton, workers=1)
    assert [name for name, _ in report.broken] == ["o.beton[3]"]
    assert not report.checksums


def test_a_byte_that_changes_no_pixel_is_found_by_the_checksum(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        place = int(index.offsets[2]) + 15  # the JFIF segment's density
        file.seek(place)
        file.write(b"\7")
    ((_, damage),) = verify(beton, workers=1).broken
    assert "differ from what was written" in damage


@pytest.mark.parametrize("kept", [0, 0.25, 0.5, 0.75, 0.999])
def test_a_beton_cut_short_is_one_broken_thing(beton, kept):
    data = beton.read_bytes()
    beton.write_bytes(data[: int(kept * len(data))])
    report = verify(beton)
    assert report.images == 0
    ((name, reason),) = report.broken
    assert name == str(beton)
    assert reason.endswith(".")


def test_a_record_of_another_size_than_promised_is_broken(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        file.seek(int(index.offsets[1]))
        other = io.BytesIO()
        Image.new("RGB", (10, 10)).save(other, "JPEG")
        file.write(other.getvalue())
    manifest_path(beton).unlink()
    assert verify(beton, workers=1).broken == [("o.beton[1]", "10×10 pixels where the file promises 64×80")]


def test_an_unfinished_file_is_broken(beton):
    with beton.open("r+b") as file:
        header = np.frombuffer(file.read(HEADER.itemsize), HEADER).copy()
        header["alloc_table_ptr"] = 0
        file.seek(0)
        file.write(header.tobytes())
    ((_, reason),) = verify(beton).broken
    assert "unfinished" in reason


def test_nothing_there_and_no_worker_are_refused(tmp_path, folder):
    with pytest.raises(UsageError, match="There is no"):
        verify(tmp_path / "none")
    with pytest.raises(UsageError, match="at least one worker"):
        verify(folder, workers=0)
