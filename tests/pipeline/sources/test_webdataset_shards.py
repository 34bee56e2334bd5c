import io
import tarfile
from pathlib import Path

import pytest

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.sources.open_records import open_records


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def labels(path: Path) -> dict[str, int]:
    records = open_records(path)
    return {records.name(index): int(label) for index, label in enumerate(records.labels)}


def test_members_with_the_same_name_up_to_the_first_dot_are_a_sample(tmp_path):
    files = {"x/a.jpg": b"1", "x/a.meta.cls": b"7", "x/a.cls": b"3\n", "y/a.left.webp": b"2", "y/a.cls": b"1"}
    assert labels(shard(tmp_path / "s.tar", files)) == {"x/a.jpg": 3, "y/a.left.webp": 1}


def test_a_dot_in_a_name_is_part_of_it_if_the_class_file_has_it_as_well(tmp_path):
    files = {"cat.1.jpg": b"1", "cat.1.cls": b"0", "cat.2.jpg": b"2", "cat.2.cls": b"5"}
    assert labels(shard(tmp_path / "s.tar", files)) == {"cat.1.jpg": 0, "cat.2.jpg": 5}


def test_a_mask_next_to_the_picture_is_skipped_and_listed(tmp_path):
    files = {"a.jpg": b"1", "a.mask.png": b"2", "a.cls": b"1", "b.jpg": b"3", "b.cls": b"0"}
    records = open_records(shard(tmp_path / "s.tar", files))
    assert [records.read(index) for index in range(len(records))] == [b"1", b"3"]
    assert records.labels.tolist() == [1, 0]
    assert records.broken == [("a.mask.png", "not the picture of its sample, a")]


def test_a_key_belongs_to_its_shard_and_an_image_without_a_class_is_unlabelled(tmp_path):
    shard(tmp_path / "0.tar", {"a.jpg": b"1", "a.cls": b"1", "b.jpg": b"2"})
    shard(tmp_path / "1.tar", {"b.cls": b"2", "b.jpg": b"3", "a.jpg": b"4"})
    shard(tmp_path / "2.tar", {"notes.txt": b""})
    shard(tmp_path / "3.tar", {"a.jpg": b"5", "a.cls": b"0"})
    records = open_records(tmp_path)
    assert [(records.read(i), int(label)) for i, label in enumerate(records.labels)] == [
        (b"1", 1),
        (b"2", -1),
        (b"3", 2),
        (b"4", -1),
        (b"5", 0),
    ]
    assert list(records.classes) == ["0", "1", "2"]


def test_shards_without_classes_are_unlabelled(tmp_path):
    shard(tmp_path / "0.tar", {"a.jpg": b"1", "a.json": b"{}"})
    records = open_records(tmp_path)
    assert (records.labels.tolist(), list(records.classes)) == ([-1], [])


def test_converting_two_shards_copies_the_bytes_in_order(tmp_path, pictures):
    images = [pictures.read(index) for index in range(len(pictures))]
    for number, half in enumerate((images[:5], images[5:])):
        files = {f"{i}.{kind}": content for i, jpeg in enumerate(half) for kind, content in (("jpg", jpeg),)}
        files |= {f"{i}.cls": str(i % 3).encode() for i in range(len(half))}
        shard(tmp_path / f"s-{number}.tar", files)
    convert(open_records(tmp_path / "s-{0..1}.tar"), tmp_path / "o.beton", workers=2)
    beton = Beton(tmp_path / "o.beton")
    assert [beton.read(index) for index in range(len(beton))] == images
    assert beton.labels.tolist() == [i % 3 for i in range(5)] + [i % 3 for i in range(len(images) - 5)]
    assert beton.name(5) == "0.jpg"


def test_a_class_other_than_a_number_is_a_warning_and_its_image_is_unlabelled(tmp_path):
    files = {"a.jpg": b"1", "a.cls": b"dog", "b.jpg": b"2", "b.cls": b"-1", "c.jpg": b"3", "c.cls": b"1"}
    shard(tmp_path / "0.tar", files)
    with pytest.warns(UserWarning, match=r"a\.cls holds b'dog' .*: 1\."):
        records = open_records(tmp_path / "0.tar")
    assert records.labels.tolist() == [-1, -1, 1]
    assert list(records.broken) == []
