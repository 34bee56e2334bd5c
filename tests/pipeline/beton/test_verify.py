import errno
import io
import os
import tarfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.layout import (
    FIELD_DESCRIPTOR,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    metadata_dtype,
    read_exactly,
    read_index,
)
from simsiam.pipeline.beton.manifest import manifest_path
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.verify import verify
from simsiam.pipeline.errors import MissingError, UsageError
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from tests.pipeline.images import encoded, noise

RAW_PICTURES = [np.full((4, 6, 3), number, np.uint8) for number in range(3)]


def jpeg(seed: int) -> bytes:
    return encoded(noise(64, 80, 3, seed=seed), quality=90)


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
    (folder / "cats").mkdir()
    (folder / "cats" / "c.jpg").write_bytes(jpeg(9))
    report = verify(folder, workers=2)
    assert (report.images, report.classes, report.broken, report.damaged) == (7, 1, [], [])
    assert report.whole and report.checksums is None
    report = verify(beton, workers=1)
    assert (report.images, report.classes, report.broken, report.damaged) == (6, 0, [], [])
    assert report.whole and report.checksums is True


def test_every_stage_reports_its_progress(folder, beton):
    calls = []

    @contextmanager
    def show(doing, unit):
        yield lambda done, total: calls.append((doing, unit, done, total))

    verify(folder, workers=2, show=show)
    assert calls == [("Decoding", "images", i, 6) for i in range(1, 7)]
    verify(beton, workers=1, show=show)
    manifest = Beton(beton).manifest
    assert manifest is not None
    pages = len(manifest.page_crc32)
    assert calls[12:] == [("Comparing", "pages", i, pages) for i in range(1, pages + 1)]


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
    assert reasons["d.jpg"].startswith("some of its pixels may be wrong: Corrupt JPEG data")
    assert "No such file" in reasons["e.jpg"]


def test_a_file_that_changed_since_the_cached_scan_is_found(folder):
    ImageFolder(folder)
    file = folder / "2.jpg"
    data, times = bytearray(file.read_bytes()), file.stat()
    data[len(data) // 2 : len(data) // 2 + 200] = b"\x55" * 200
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ImageFolder(folder).broken == []
    assert [name for name, _ in verify(folder, workers=2).broken] == [str(file)]


def test_images_of_one_colour_are_listed_and_are_not_broken(folder, beton):
    assert verify(beton, workers=1).one_colour == []
    Image.new("RGB", (20, 20)).save(folder / "a.png")
    found = verify(folder, workers=2)
    assert (found.one_colour, found.broken, found.whole) == ([str(folder / "a.png")], [], True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_broken(folder):
    (folder / "2.jpg").chmod(0)
    assert verify(folder, workers=1).broken == [(str(folder / "2.jpg"), "Permission denied")]


def test_a_file_that_cannot_be_opened_counts_as_a_broken_image(folder):
    before = verify(folder, workers=1)
    (folder / "gone.jpg").symlink_to("nowhere")
    found = verify(folder, workers=1)
    assert (found.images, len(found.broken)) == (before.images + 1, len(before.broken) + 1)


def test_where_the_disk_fails_the_other_images_are_decoded(beton, monkeypatch):
    failing = Beton(beton).records.offsets[1]

    def fail(file, size, offset):
        if offset == failing:
            raise OSError(errno.EIO, "Input/output error")
        return read_exactly(file, size, offset)

    monkeypatch.setattr("simsiam.pipeline.beton.reader.read_exactly", fail)
    report = verify(beton, workers=2)
    assert [(Path(name).name, reason) for name, reason in report.broken] == [
        ("1.jpg", f"it can't be read: Input/output error (image 1 of {beton})")
    ]


def test_where_the_disk_fails_the_other_pages_are_compared(beton, monkeypatch):
    def fail(_file, _size, offset):
        raise OSError(errno.EIO, f"Input/output error at {offset}")

    opened = Beton(beton)
    assert opened.manifest is not None
    monkeypatch.setattr("simsiam.pipeline.beton.reader.read_exactly", fail)
    damaged = opened.damaged_pages()
    assert len(damaged) == len(opened.manifest.page_crc32)
    assert all("can't be read" in damage for damage in damaged)


def test_a_corrupt_record_is_found_by_its_pixels_and_by_its_checksum(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        file.seek(int(index.offsets[3] + index.lengths[3] // 2))
        file.write(b"\x55" * 200)
    report = verify(beton, workers=2)
    ((image, reason),) = report.broken
    assert image.endswith("3.jpg")
    assert "Corrupt JPEG data" in reason
    (damage,) = report.damaged
    assert damage.startswith(f"{beton}: bytes ")
    assert damage.endswith("differ from what was written, images 0 to 5")
    manifest_path(beton).unlink()
    report = verify(beton, workers=1)
    assert [name for name, _ in report.broken] == ["o.beton[3]"]
    assert (report.damaged, report.checksums) == ([], False)


def test_a_byte_that_changes_no_pixel_is_found_by_the_checksum(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        file.seek(int(index.offsets[2]) + 15)  # the JFIF segment's density
        file.write(b"\7")
    report = verify(beton, workers=1)
    assert report.broken == [] and not report.whole
    assert "differ from what was written" in report.damaged[0]


def test_a_byte_between_the_records_is_found_by_the_checksum(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        offset = int(index.offsets.min()) - 1
        file.seek(offset)
        assert file.read(1) == b"\0"  # padding before the first page of records
        file.seek(offset)
        file.write(b"\7")
    report = verify(beton, workers=1)
    assert report.broken == []
    (damage,) = report.damaged
    assert damage.endswith("differ from what was written")  # and no image is there


def test_raw_records_are_whole(tmp_path, pack):
    assert verify(pack(tmp_path / "raw.beton", RAW_PICTURES).path, workers=1).whole


def test_a_raw_record_of_another_length_than_its_size_needs_is_found(tmp_path, pack):
    path = pack(tmp_path / "raw.beton", RAW_PICTURES).path
    row, data = metadata_dtype([IMAGE_FIELD, INT_FIELD]), bytearray(path.read_bytes())
    metadata = np.frombuffer(data, row, 3, HEADER.itemsize + 2 * FIELD_DESCRIPTOR.itemsize)
    metadata["f0"]["height"][1] = 5
    path.write_bytes(data)
    ((name, reason),) = verify(path, workers=1).broken
    assert name == str(path)
    assert "mode, size and length of image 1 disagree" in reason


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("kept", [0, 0.25, 0.5, 0.75, 0.999])
def test_a_truncated_beton_counts_as_one_broken_image(beton, kept, with_manifest):
    data = beton.read_bytes()
    if not with_manifest:
        manifest_path(beton).unlink()
    beton.write_bytes(data[: int(kept * len(data))])
    report = verify(beton)
    assert report.images == 0
    ((name, reason),) = report.broken
    assert name == str(beton)
    assert reason.endswith(".") and "\n" not in reason
    assert not report.whole


def test_a_foreign_file_counts_as_one_broken_image(tmp_path):
    (tmp_path / "notes.beton").write_text("no .beton, but long enough for a header")
    ((_, reason),) = verify(tmp_path / "notes.beton").broken
    assert "no tar, zip, parquet or .beton" in reason


def test_a_record_of_another_size_than_in_the_index_is_broken(beton):
    with beton.open("r+b") as file:
        index = read_index(file.fileno(), beton)
        file.seek(int(index.offsets[1]))
        file.write(encoded(Image.new("RGB", (10, 10))))
    manifest_path(beton).unlink()
    ((name, reason),) = verify(beton, workers=1).broken
    assert name == "o.beton[1]"
    assert [part for part in ("10×10", "64×80", f"image 1 of {beton}") if part not in reason] == []


def test_an_unfinished_file_is_broken(beton):
    with beton.open("r+b") as file:
        header = np.frombuffer(file.read(HEADER.itemsize), HEADER).copy()
        header["alloc_table_ptr"] = 0
        file.seek(0)
        file.write(header.tobytes())
    ((_, reason),) = verify(beton).broken
    assert "unfinished" in reason


def test_a_missing_path_and_no_worker_are_refused(tmp_path, folder):
    with pytest.raises(UsageError, match="There is no"):
        verify(tmp_path / "none")
    with pytest.raises(UsageError, match="workers is 0"):
        verify(folder, workers=0)


def test_a_tar_whose_devkit_is_missing_is_not_broken(tmp_path):
    tar = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(tar, "w") as file:
        member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
        member.size = len(jpeg(0))
        file.addfile(member, io.BytesIO(jpeg(0)))
    with pytest.raises(MissingError, match="development kit") as caught:
        verify(tar)
    assert caught.value.argument == "devkit"


def test_a_truncated_tar_counts_as_one_broken_image(folder, tmp_path):
    tar = tmp_path / "set.tar"
    with tarfile.open(tar, "w") as file:
        file.add(folder, "set")
    assert verify(tar, workers=1).images == 6
    tar.write_bytes(tar.read_bytes()[:30000])
    assert [name for name, _ in verify(tar, workers=1).broken] == [str(tar)]
