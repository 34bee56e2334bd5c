import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.sources.tar_index import index_tar


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", pax: dict[str, str] | None = None) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = len(content), pax or {}
    tar.addfile(member, io.BytesIO(content))


def write(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    return path


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_offsets_of_every_format(tmp_path, kind):
    files = {"a.jpg": b"1" * 700, "ä b\n.jpg": b"", "d/" * 40 + "x" * 90 + ".jpg": b"3"}
    with tarfile.open(tmp_path / "t.tar", "w", format=kind) as tar:
        for name, content in files.items():
            add(tar, name, content)
    data = (tmp_path / "t.tar").read_bytes()
    index = index_tar(tmp_path / "t.tar")
    assert [name.decode() for name in index.names] == list(files)
    ranges = zip(index.offsets.tolist(), index.lengths.tolist(), strict=True)
    assert [data[start : start + length] for start, length in ranges] == list(files.values())


def test_joined_tars_are_refused_since_only_the_first_would_be_seen(tmp_path):
    one, two = write(tmp_path / "1.tar", a=b"1"), write(tmp_path / "2.tar", b=b"2")
    one.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(UsageError, match=r"behind its end mark, .* after file 1, a: .* one by one"):
        index_tar(one)


def test_zeros_behind_the_end_mark_are_ignored(tmp_path):
    tar = write(tmp_path / "t.tar", a=b"1")
    tar.write_bytes(tar.read_bytes() + bytes(3_000_000))
    assert list(index_tar(tar).names) == [b"a"]


def test_the_error_of_a_truncated_tar_names_the_last_complete_file(tmp_path):
    tar = write(tmp_path / "t.tar", a=b"1" * 512, b=b"2" * 512, c=b"3" * 512)
    data = tar.read_bytes()
    for length, last in ((2047, "after file 1, a"), (2048, "after file 2, b"), (2100, "after file 2, b")):
        tar.write_bytes(data[:length])
        with pytest.raises(UsageError, match=f"truncated.* {last}.* download or copy it again"):
            index_tar(tar)


def test_a_truncated_tar_within_a_tar_is_named(tmp_path):
    inner = write(tmp_path / "inner.tar", a=b"1" * 512).read_bytes()
    outer = write(tmp_path / "outer.tar", **{"n01.tar": inner, "n02.tar": inner[:1000]})
    with pytest.raises(UsageError, match=r"n02\.tar in .*outer\.tar .*truncated"):
        open_records(outer)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("size", ["-5", "-1024", "99999999999999999999999999", str(2**62)])
def test_an_impossible_size_is_refused(tmp_path, size):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "a.jpg", b"1")
        add(tar, "b.jpg", b"1", pax={"size": size})
        add(tar, "c.jpg", b"1")
    with pytest.raises(UsageError, match=r"b\.jpg isn't whole, after file 1, a\.jpg"):
        index_tar(tmp_path / "t.tar")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("size", [-1024, -512, 2**70])
def test_an_impossible_size_in_the_header_itself_is_refused(tmp_path, size):
    tar = write(tmp_path / "t.tar", a=b"1", b=b"2")
    header = bytearray(tar.read_bytes()[:512])
    header[124:136] = (256**12 + size if size < 0 else (0x80 << 88) + size).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar.write_bytes(tar.read_bytes()[:1024] + header + tar.read_bytes()[512:])
    with pytest.raises(UsageError, match="a isn't whole, after file 1, a"):
        index_tar(tar)


def test_a_name_with_a_zero_byte_is_refused_and_shifts_no_other_name(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "x", b"1", pax={"path": "cat\0dog/1.jpg"})
        add(tar, "2.jpg", b"2")
    index = index_tar(tmp_path / "t.tar")
    assert (list(index.names), len(index.offsets)) == ([b"2.jpg"], 1)
    assert index.refused == [(b"cat\0dog/1.jpg", "its name contains a zero byte")]


def test_a_very_long_name_is_not_read(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "n" * (2 << 20), b"1")
    with pytest.raises(UsageError, match="a name of 2097664 bytes"):
        index_tar(tmp_path / "t.tar")


@pytest.mark.parametrize("name", ["t.tar.gz", "t.tgz", "t.dat"])
def test_compressed_tars_are_recognised_by_content_and_their_program_is_named(tmp_path, name):
    data = write(tmp_path / "t.tar", a=b"1").read_bytes()
    for compress, program in ((gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")):
        (tmp_path / name).write_bytes(compress(data))
        with pytest.raises(UsageError, match=f"it is compressed: unpack it with {program} first"):
            open_records(tmp_path / name)


def test_the_index_is_compact(tmp_path):
    count = 3000
    with (tmp_path / "t.tar").open("wb") as file:
        for number in range(count):
            file.write(tarfile.TarInfo(f"n01440764/n01440764_{number}.JPEG").tobuf())
        file.write(bytes(1024))
    tracemalloc.start()
    try:
        records = open_records(tmp_path / "t.tar")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == count
    # A name of 30 bytes, its end, offset, length, label and tar; half a kilobyte while they are collected.
    assert kept < 100 * count
    assert peak < 550 * count
