import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.sources.source_hash import stamp_files


def test_stamp_changes_with_size_date_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    stamps = {stamp_files([one, two]), stamp_files([two, one]), stamp_files([one])}
    assert stamp_files([one, two]) in stamps
    one.write_bytes(b"111")
    stamps.add(stamp_files([one, two]))
    os.utime(one, ns=(0, 1))
    stamps.add(stamp_files([one, two]))
    assert len(stamps) == 5


def folder(pictures: ImageFolder, _: Path) -> tuple[Path, Path]:
    return pictures.root, Path(pictures.name(3))


def beton(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    convert(pictures, out / "p.beton", workers=1)
    return out / "p.beton", out / "p.beton"


def tar(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    with tarfile.open(out / "p.tar", "w") as archive:
        archive.add(pictures.root, "p")
    return out / "p.tar", out / "p.tar"


def parquet(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
    writer = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
    writer.write_table(arrow.table({"image": [{"bytes": pictures.read(0), "path": "0.jpg"}]}), out / "p.parquet")
    return out / "p.parquet", out / "p.parquet"


@pytest.mark.parametrize("make", [folder, beton, tar, parquet])
def test_every_kind_of_set_notices_that_a_file_of_it_has_changed(
    make: Callable[[ImageFolder, Path], tuple[Path, Path]], pictures: ImageFolder, tmp_path: Path
) -> None:
    path, file = make(pictures, tmp_path)
    before = open_records(path).stamp
    assert open_records(path).stamp == before
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert open_records(path).stamp != before


def test_a_scanned_folder_and_a_listed_one_have_the_same_stamp(pictures: ImageFolder) -> None:
    assert pictures.stamp == open_records(pictures.root).stamp
