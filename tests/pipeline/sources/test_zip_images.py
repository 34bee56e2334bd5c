import gc
import os
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.verify import verify
from simsiam.pipeline.errors import ImageError, MissingError, UsageError
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.worker_pool import ordered_map
from tests.pipeline.images import encoded

Files = dict[str, bytes]


def jpeg(number: int) -> bytes:
    return encoded(Image.new("RGB", (20 + number, 30), (number * 9 % 256, 40, 90)))


def zip_of(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED, system: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.create_system = system
            archive.writestr(member, content, method)
    return path


def contents(records) -> list[tuple[str, int, bytes]]:
    return [(records.name(i), int(records.labels[i]), records.read(i)) for i in range(len(records))]


def with_directory(path: Path, name: str, at: int, layout: str, *values: int) -> None:
    """Change fields of a file's entry in the central directory, `at` bytes from its start."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    struct.pack_into(layout, data, entry + at, *values)
    path.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "photos/", "a/b/"])
def test_folders_are_classes_below_what_all_share(tmp_path: Path, method: int, top: str) -> None:
    files = {f"{top}dogs/1.jpg": jpeg(1), f"{top}cats/x/2.JPG": jpeg(2), f"{top}dogs/3.jpg": jpeg(3)}
    records = open_records(zip_of(tmp_path / "p.zip", files, method))
    assert list(records.classes) == ["cats", "dogs"]
    assert contents(records) == [(name, int("dogs" in name), content) for name, content in files.items()]
    assert list(records.broken) == []


def test_a_zip_is_converted_and_verified_like_the_folder_in_it(pictures: ImageFolder, tmp_path: Path) -> None:
    files = {f"set/{pictures.name(i).removeprefix(pictures.name_prefix)}": pictures.read(i) for i in range(11)}
    (tmp_path / "new").mkdir()
    for path in (zip_of(tmp_path / "new" / "p.zip", files), tmp_path / "new"):
        report = convert(open_records(path), tmp_path / "o.beton", workers=2, overwrite=True)
        assert (report.count, report.skipped) == (11, [])
        beton = Beton(tmp_path / "o.beton")
        assert [beton.read(i) for i in range(11)] == [pictures.read(i) for i in range(11)]
        assert (beton.labels.tolist(), tuple(beton.classes)) == (pictures.labels.tolist(), pictures.classes)
    assert verify(tmp_path / "new", workers=1).whole


def test_processes_read_at_the_same_time(tmp_path: Path) -> None:
    for number in range(2):
        zip_of(tmp_path / f"{number}.zip", {f"{i}.jpg": jpeg(10 * number + i) for i in range(10)})
    records = open_records(tmp_path / "{0,1}.zip")
    records.read(0)
    read = list(ordered_map(records.read, 20, 3, records.name))
    assert read == [jpeg(i) for i in range(20)]


def test_images_are_in_the_order_of_their_bytes_whatever_the_directory(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "p.zip", {"b.jpg": jpeg(1), "a.jpg": jpeg(2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist.reverse()
        archive.comment = b"written anew"
    assert [name for name, *_ in contents(open_records(path))] == ["b.jpg", "a.jpg"]


def test_what_leads_out_or_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/soft.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = zip_of(tmp_path / "evil.zip", {"a/good.jpg": jpeg(1), "../o.jpg": jpeg(2), "/abs.jpg": jpeg(3)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a/../../o.jpg", jpeg(2))
        archive.writestr("C:/x.jpg", jpeg(2))
    records = open_records(path)
    assert contents(records) == [("a/good.jpg", -1, jpeg(1))]
    assert list(records.broken) == [
        ("../o.jpg", "its name leads out of the archive"),
        ("/abs.jpg", "its name is an absolute path"),
        ("a/soft.jpg", "a symbolic link, not a regular file"),
        ("a/../../o.jpg", "its name leads out of the archive"),
        ("C:/x.jpg", "its name is an absolute path"),
    ]
    assert sorted(tmp_path.iterdir()) == [path]


def test_backslashes_of_a_dos_program_separate_folders(tmp_path: Path) -> None:
    files = {"cats\\1.jpg": jpeg(1), "dogs\\2.jpg": jpeg(2), "..\\3.jpg": jpeg(3)}
    records = open_records(zip_of(tmp_path / "p.zip", files, system=0))
    assert list(records.classes) == ["cats", "dogs"]
    assert [reason for _, reason in records.broken] == ["its name leads out of the archive"]


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    files = {"set/a/1.jpg": jpeg(1), "set/b/2.jpg": jpeg(2), "__MACOSX/set/a/._1.jpg": b"x", ".trash/3.jpg": jpeg(3)}
    assert list(open_records(zip_of(tmp_path / "p.zip", files)).classes) == ["a", "b"]


FLAGS, METHOD, CRC, PACKED, LENGTH, OFFSET = 8, 10, 16, 20, 24, 42  # in an entry of the central directory


@pytest.mark.parametrize(
    ("at", "layout", "value", "reason"),
    [
        (FLAGS, "<H", 1, "encrypted"),
        (METHOD, "<H", 9, "compressed by Deflate64"),
        (METHOD, "<H", 77, "compressed by method 77"),
        (LENGTH, "<I", (1 << 30) + 1, r"unpacks to 1,073,741,825 bytes"),
        (PACKED, "<I", 1 << 20, "overlap what follows"),
        (METHOD, "<H", 0, "announces .* bytes and has"),
    ],
)
def test_what_the_directory_says_can_refuse_an_image(tmp_path: Path, at: int, layout: str, value: int, reason: str):
    path = zip_of(tmp_path / "p.zip", {"1.jpg": jpeg(1), "2.jpg": jpeg(2)})
    with_directory(path, "1.jpg", at, layout, value)
    records = open_records(path)
    assert contents(records) == [("2.jpg", -1, jpeg(2))]
    ((name, why),) = records.broken
    assert name == "1.jpg"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why)


@pytest.mark.parametrize(
    ("at", "layout", "value", "reason"),
    [
        (LENGTH, "<I", 10, "unpacks to more than the 10 bytes"),
        (LENGTH, "<I", 1 << 20, "unpacks to fewer than the 1,048,576 bytes"),
        (CRC, "<I", 1, "differ from their checksum"),
        (METHOD, "<H", 0, "differ from their checksum"),
    ],
)
def test_an_image_that_is_not_what_the_directory_says_is_an_error(tmp_path: Path, at, layout, value, reason: str):
    path = zip_of(tmp_path / "p.zip", {"0.jpg": jpeg(0), "1.jpg": jpeg(1)})
    if at == METHOD:  # stored, as long as what is packed
        with zipfile.ZipFile(path) as archive:
            with_directory(path, "0.jpg", LENGTH, "<I", archive.infolist()[0].compress_size)
    with_directory(path, "0.jpg", at, layout, value)
    records = open_records(path)
    (index,) = (index for index in range(2) if records.name(index) == "0.jpg")
    with pytest.raises(ImageError, match=rf"^0\.jpg: .*{reason}"):
        records.read(index)
    assert records.read(1 - index) == jpeg(1)


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "p.zip", {"0.jpg": jpeg(0)})
    records = open_records(path)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(ImageError, match=r"0\.jpg: its header in .*p\.zip is damaged"):
        records.read(0)


def test_no_more_is_unpacked_than_announced(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"1.jpg": bytes(64 << 20)})
    with_directory(path, "1.jpg", LENGTH, "<I", 1000)
    records = open_records(path)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="more than the 1,000 bytes"):
            records.read(0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_images_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"1.jpg": jpeg(1), "2.jpg": jpeg(2), "3.jpg": jpeg(3)})
    with_directory(path, "2.jpg", OFFSET, "<I", 0)
    records = open_records(path)
    assert [reason for _, reason in records.broken] == ["its bytes overlap what follows in the zip"]


def test_of_two_files_with_one_name_the_last_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for number in (1, 2):
            archive.writestr("a/1.jpg", jpeg(number))
            archive.writestr(f"b/{number}.jpg", jpeg(number))
    records = open_records(tmp_path / "p.zip")
    assert contents(records) == [("b/1.jpg", 1, jpeg(1)), ("a/1.jpg", 0, jpeg(2)), ("b/2.jpg", 1, jpeg(2))]
    assert list(records.broken) == [("a/1.jpg", "another file of the same name follows")]


def test_a_truncated_or_foreign_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "p.zip", {"1.jpg": jpeg(1), "2.jpg": jpeg(2)})
    data = path.read_bytes()
    for length in range(1, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError, match=r"p\.zip is no zip, or is truncated .*; download or copy it again"):
            open_records(path)


def test_a_zip_without_an_image_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no image in .*p\.zip, only 3 other files \(2 \.txt, 1 \.tar\)"):
        open_records(zip_of(tmp_path / "p.zip", {"a.txt": b"", "b.txt": b"", "c.tar": b""}))
    with pytest.raises(UsageError, match="no file at all"):
        open_records(zip_of(tmp_path / "e.zip", {}))
    path = zip_of(tmp_path / "x.zip", {"1.jpg": jpeg(1)})
    with_directory(path, "1.jpg", FLAGS, "<H", 1)
    with pytest.raises(UsageError, match=r"None of the 1 images in .*1\.jpg: it is encrypted"):
        open_records(path)


def test_other_files_are_counted_by_ending(tmp_path: Path) -> None:
    files = {"a/1.jpg": jpeg(1), "README": b"", "x.txt": b"", "y.TXT": b"", ".hidden": b""}
    with pytest.warns(UserWarning, match=r"p\.zip: .*2 \.txt"):
        open_records(zip_of(tmp_path / "p.zip", files))


def test_a_folder_of_a_zip_is_given_behind_its_name(tmp_path: Path) -> None:
    files = {f"top/{split}/{name}/{i}.jpg": jpeg(i) for split in ("train", "val") for i, name in enumerate("ab")}
    path = zip_of(tmp_path / "p.zip", {**files, "top/notes.txt": b""})
    with pytest.raises(UsageError, match="splits") as caught, pytest.warns(UserWarning):
        open_records(path)
    assert f"{path}/top/train, {path}/top/val." in str(caught.value)
    records = open_records(path / "top" / "val")
    assert contents(records) == [(f"top/val/{name}/{i}.jpg", i, jpeg(i)) for i, name in enumerate("ab")]
    assert list(records.classes) == ["a", "b"]
    with pytest.raises(UsageError, match=r"no image in the folder none of .*p\.zip, no file at all"):
        open_records(path / "none")
    assert len(open_records(tmp_path / "*.zip" / "top" / "val")) == 2


def test_imagenets_validation_images_need_the_devkit(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "p.zip", {"val/ILSVRC2012_val_00000001.JPEG": jpeg(1)})
    with pytest.raises(MissingError, match="devkit"):
        open_records(path)


def test_names_are_their_bytes_whatever_the_flag_says(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("ä/1.jpg", jpeg(1))
        archive.writestr("b/2.jpg", jpeg(2))
    data = (tmp_path / "p.zip").read_bytes()
    assert open_records(tmp_path / "p.zip").name(0) == "ä/1.jpg"
    # Without the flag, as many programs write it.
    for sign, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        start = data.index(sign) + at
        data = data[:start] + bytes(2) + data[start + 2 :]
    (tmp_path / "p.zip").write_bytes(data)
    assert open_records(tmp_path / "p.zip").name(0) == "ä/1.jpg"


def test_the_index_of_a_zip_is_compact(tmp_path: Path) -> None:
    count = 2000
    path = zip_of(tmp_path / "p.zip", {f"n01440764/n01440764_{i}.JPEG": b"" for i in range(count)}, zipfile.ZIP_STORED)
    open_records(path)  # and import what it needs
    gc.collect()
    tracemalloc.start()
    try:
        records = open_records(path)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == count
    assert kept < 200 * count  # a ZipInfo alone takes more


def test_what_is_read_after_the_zip_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "p.zip", {"1.jpg": jpeg(1)})
    records = open_records(path)
    os.truncate(path, 40)
    with pytest.raises(ImageError, match=r"1\.jpg: .*p\.zip has become shorter"):
        records.read(0)
