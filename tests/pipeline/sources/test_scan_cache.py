import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsiam.pipeline.sources.folder_walk import FolderListing, walk_folder
from simsiam.pipeline.sources.scan_cache import load_sizes, save_sizes, scan_cache_file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12345")
        os.utime(root / name, ns=(0, 10**18))
    return root


SIZES = np.array([[1, 2], [3, 4], [5, 6]], np.int32)


def saved(root: Path) -> FolderListing:
    listing = walk_folder(root)
    save_sizes(root, listing, SIZES)
    return listing


def known(root: Path) -> list[list[int]]:
    return load_sizes(root, walk_folder(root)).tolist()


def test_saved_sizes_are_loaded(images: Path):
    saved(images)
    assert known(images) == SIZES.tolist()


def test_nothing_is_known_before_the_first_scan(images: Path):
    assert known(images) == [[0, 0]] * 3


@pytest.mark.parametrize("change", ["length", "time by 1 ns", "earlier time"])
def test_a_changed_file_is_unknown_and_the_others_stay_known(images: Path, change: str):
    saved(images)
    file = images / "a" / "2.jpg"
    if change == "length":
        file.write_bytes(b"123456")
    os.utime(file, ns=(0, 10**18 + {"length": 0, "time by 1 ns": 1, "earlier time": -1}[change]))
    assert known(images) == [[1, 2], [0, 0], [5, 6]]


def test_new_and_removed_files_do_not_shift_the_others(images: Path):
    saved(images)
    (images / "a" / "1.jpg").unlink()
    (images / "a" / "11.jpg").write_bytes(b"12345")
    assert known(images) == [[0, 0], [3, 4], [5, 6]]


def test_sizes_of_zero_stay_unknown(images: Path):
    listing = walk_folder(images)
    save_sizes(images, listing, np.array([[0, 0], [3, 4], [0, 0]], np.int32))
    assert known(images) == [[0, 0], [3, 4], [0, 0]]
    save_sizes(images, listing, np.zeros((3, 2), np.int32))
    assert known(images) == [[0, 0]] * 3


def test_all_names_of_a_folder_share_its_cache(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(images)
    (tmp_path / "link").symlink_to(images)
    assert known(tmp_path / "link") == SIZES.tolist()
    monkeypatch.chdir(tmp_path)
    assert known(Path("images")) == SIZES.tolist()


def test_two_folders_have_two_caches(images: Path, tmp_path: Path):
    saved(images)
    images.rename(tmp_path / "moved")
    assert known(tmp_path / "moved") == [[0, 0]] * 3


def test_a_damaged_cache_is_ignored_and_rewritten(images: Path):
    saved(images)
    file = scan_cache_file(images)
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    flipped = bytearray(good)
    flipped[good.index(b"a/1.jpg")] ^= 1
    damaged = [b"", b"text", good[: len(good) // 2], good[:-1], bytes(flipped), rng.bytes(len(good)), b"\x93NUMPY"]
    for content in damaged:
        file.write_bytes(content)
        assert known(images) == [[0, 0]] * 3
    saved(images)
    assert known(images) == SIZES.tolist()


def test_any_flipped_byte_gives_right_sizes_or_none(images: Path):
    saved(images)
    file = scan_cache_file(images)
    good = file.read_bytes()
    for position in range(0, len(good), 7):
        flipped = bytearray(good)
        flipped[position] ^= 0x10
        file.write_bytes(flipped)
        assert known(images) in (SIZES.tolist(), [[0, 0]] * 3), position


@pytest.mark.parametrize(
    "change", [{"format": np.array("other")}, {"root": np.zeros(3, np.uint8)}, {"sizes": SIZES[:2]}, {"marks": SIZES}]
)
def test_a_foreign_cache_is_ignored(images: Path, change: dict[str, np.ndarray]):
    saved(images)
    file = scan_cache_file(images)
    with np.load(file) as cache:
        arrays: dict[str, Any] = dict(cache) | change
    np.savez(file, **arrays)
    assert known(images) == [[0, 0]] * 3


def test_a_pickle_in_the_cache_is_not_executed(images: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    saved(images)
    np.savez(scan_cache_file(images), format=np.array([Trap()], dtype=object))  # pyright: ignore[reportArgumentType]
    assert known(images) == [[0, 0]] * 3
    assert not (tmp_path / "executed").exists()


def test_an_impossible_cache_folder_is_no_error(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    saved(images)
    assert known(images) == [[0, 0]] * 3


def test_a_full_disk_keeps_the_old_cache_and_leaves_no_temporary_file(images: Path, monkeypatch: pytest.MonkeyPatch):
    saved(images)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    saved(images)
    assert [file.suffix for file in scan_cache_file(images).parent.iterdir()] == [".npz"]
    assert known(images) == SIZES.tolist()


def test_the_cache_is_replaced_in_one_step(images: Path, monkeypatch: pytest.MonkeyPatch):
    saved(images)
    seen = []
    replace = Path.replace

    def look_then_replace(part: Path, target: Path):
        seen.append(known(images))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", look_then_replace)
    save_sizes(images, walk_folder(images), SIZES + 1)
    assert seen == [SIZES.tolist()]
    assert known(images) == (SIZES + 1).tolist()


def test_folder_of_the_cache(tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch):
    assert scan_cache_file(tmp_path).parent == cache_home / "simsiam" / "scans"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert scan_cache_file(tmp_path).parent == tmp_path / ".cache" / "simsiam" / "scans"
