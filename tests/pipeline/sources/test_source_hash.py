import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.sources.source_hash import hash_files, hash_images


def test_hash_of_files_changes_with_size_date_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"22")
    hashes = {hash_files([one, two]), hash_files([two, one]), hash_files([one])}
    assert hash_files([one, two]) in hashes
    one.write_bytes(b"111")
    hashes.add(hash_files([one, two]))
    os.utime(one, ns=(0, 1))
    hashes.add(hash_files([one, two]))
    assert len(hashes) == 5


def folder(pictures: ImageFolder, _: Path) -> tuple[Path, Path]:
    return pictures.root, Path(pictures.name(3))


def beton(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    convert(pictures, out / "p.beton", workers=1)
    return out / "p.beton", out / "p.beton"


def tar(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    with tarfile.open(out / "p.tar", "w") as archive:
        archive.add(pictures.root, "p")
    return out / "p.tar", out / "p.tar"


def zipped(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    with zipfile.ZipFile(out / "p.zip", "w") as archive:
        archive.writestr("0.jpg", pictures.read(0))
    return out / "p.zip", out / "p.zip"


def parquet(pictures: ImageFolder, out: Path) -> tuple[Path, Path]:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
    writer = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
    writer.write_table(arrow.table({"image": [{"bytes": pictures.read(0), "path": "0.jpg"}]}), out / "p.parquet")
    return out / "p.parquet", out / "p.parquet"


@pytest.mark.parametrize("make", [folder, beton, tar, zipped, parquet])
def test_a_changed_file_changes_the_hash_of_every_kind_of_set(
    make: Callable[[ImageFolder, Path], tuple[Path, Path]], pictures: ImageFolder, tmp_path: Path
) -> None:
    path, file = make(pictures, tmp_path)
    before = open_records(path).files_hash
    assert open_records(path).files_hash == before
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert open_records(path).files_hash != before


def test_a_scanned_folder_and_a_listed_one_have_the_same_hash(pictures: ImageFolder) -> None:
    assert pictures.files_hash == open_records(pictures.root).files_hash


class Images(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.labels)


def images(
    count: int = 3000,
    *,
    side: int = 32,
    label: int = 0,
    classes: Sequence[str] = ("a", "b"),
    name: Callable[[int], str] = lambda index: f"root/a/{index}.jpg",
) -> Images:
    """A source whose last image has the given height and label."""
    sizes, labels = np.full((count, 2), 32, np.int32), np.zeros(count, np.int64)
    sizes[-1, 0], labels[-1] = side, label
    return Images(sizes=sizes, labels=labels, classes=classes, name=name)


def of(**changes) -> str:
    return hash_images(images(**changes))  # type: ignore[arg-type]


def test_moved_images_have_the_same_hash(pictures: ImageFolder, tmp_path: Path) -> None:
    shutil.copytree(pictures.root, tmp_path / "moved")
    assert hash_images(pictures) == hash_images(ImageFolder(tmp_path / "moved"))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 2999},
        {"side": 33},
        {"label": 1},
        {"classes": ("a", "c")},
        {"classes": ("a",)},
        {"name": lambda index: f"root/a/{index}.jpg" if index else "root/a/other.jpg"},
        {"name": lambda index: f"root/a/{index}.jpg" if index < 2999 else "root/a/other.jpg"},
    ],
    ids=["count", "size", "label", "class", "classes", "first name", "last name"],
)
def test_other_images_have_another_hash(changes: dict) -> None:
    assert of(**changes) != of()


def test_types_of_the_arrays_do_not_matter() -> None:
    source = images()
    before = hash_images(source)  # type: ignore[arg-type]
    source.sizes, source.labels = source.sizes.astype(np.int64), source.labels.astype(np.int16)
    assert hash_images(source) == before  # type: ignore[arg-type]


def test_of_a_million_images_few_names_are_hashed() -> None:
    asked: list[int] = []
    of(count=1_000_000, name=lambda index: asked.append(index) or "x.jpg")
    assert len(asked) == 1000 and asked[0] == 0 and asked[-1] == 999_999
