import inspect
import os
import pickle
import random
import sys
from pathlib import Path

import pytest

from simsiam.pipeline.paths import PathList
from simsiam.pipeline.sources.folder_walk import walk_folder


def fill(root: Path, *paths: str | bytes) -> None:
    for path in paths:
        file = root / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def walked(root: Path) -> list[bytes]:
    return list(walk_folder(root).paths)


def test_path_list_behaves_like_a_list():
    paths = [b"a/1.jpg", b"", b"b c.png", b"\xff\n"]
    kept = PathList(paths)
    assert list(kept) == [kept[i] for i in range(4)] == paths
    assert [kept[i] for i in range(-4, 0)] == paths
    assert list(pickle.loads(pickle.dumps(kept))) == paths
    assert list(PathList(joined=kept.joined)) == paths
    with pytest.raises(IndexError):
        kept[4]


def test_order_is_that_of_the_whole_relative_path_as_bytes(tmp_path: Path):
    names = ["a/x.jpg", "a-b/x.jpg", "a.jpg", "a/b/x.jpg", "a/b.jpg", "a/b-c.jpg", "B/x.jpg", "é/x.jpg", "a b/x.jpg"]
    random.Random(0).shuffle(names)
    fill(tmp_path, *names)
    assert walked(tmp_path) == sorted(name.encode() for name in names)


def test_order_is_the_same_on_any_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["a/2.jpg", "a/1.jpg", "b.jpg", "c/d/1.jpg"]
    fill(tmp_path, *names)
    expected = walked(tmp_path)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            self.entries = list(scandir(path))

        def __enter__(self):
            return iter(sorted(self.entries, key=lambda entry: entry.name, reverse=True))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert walked(tmp_path) == expected


def test_only_visible_files_with_an_image_ending_count(tmp_path: Path):
    kept = ["a.jpg", "b.JPEG", "c.Png", "d.bmp", "e.webp", "f.tif", "g.TIFF", "h.gif", "i.ppm", "j.pgm", "k.Jfif"]
    fill(tmp_path, *kept, "k.txt", "l.TXT", "jpg", "l.jpg.part", "m", ".hidden.jpg", ".git/n.jpg", "x/._o.jpg", ".note")
    listing = walk_folder(tmp_path)
    assert list(listing.paths) == [name.encode() for name in kept]
    assert listing.other_endings == {".txt": 2, "": 2, ".part": 1}
    assert listing.hidden == 3


def test_odd_names_are_listed(tmp_path: Path):
    names = [b"a b/c'd\".jpg", b"new\nline.jpg", "日本.jpg".encode(), b"latin-\xe9/\xff.jpg", b"-rf.jpg"]
    fill(tmp_path, *names)
    assert walked(tmp_path) == sorted(names)


def test_length_and_time_belong_to_their_path(tmp_path: Path):
    for index, name in enumerate(["c.jpg", "a.jpg", "b.jpg"]):
        (tmp_path / name).write_bytes(b"x" * (index + 1))
        os.utime(tmp_path / name, ns=(0, 1_700_000_000_000_000_001 + index))
    listing = walk_folder(tmp_path)
    assert list(listing.paths) == [b"a.jpg", b"b.jpg", b"c.jpg"]
    assert listing.file_bytes.tolist() == [2, 3, 1]
    assert [time - 1_700_000_000_000_000_001 for time in listing.modified_ns.tolist()] == [1, 2, 0]


def test_links_are_followed_and_loops_are_not(tmp_path: Path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    fill(root, "a/1.jpg", "b/2.jpg")
    fill(elsewhere, "3.jpg")
    (root / "a" / "out").symlink_to(elsewhere)
    (root / "b" / "out").symlink_to(elsewhere)
    (root / "b" / "file.jpg").symlink_to(elsewhere / "3.jpg")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "itself").symlink_to(root / "a")
    (elsewhere / "back").symlink_to(root)
    assert walked(root) == [b"a/1.jpg", b"a/out/3.jpg", b"b/2.jpg", b"b/file.jpg", b"b/out/3.jpg"]


def test_folders_that_link_to_each_other_are_walked_once(tmp_path: Path):
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    assert walked(tmp_path) == [b"a/1.jpg", b"a/other/2.jpg", b"b/2.jpg", b"b/other/1.jpg"]


def test_other_things_than_regular_files_are_reported_and_not_opened(tmp_path: Path):
    fill(tmp_path, "good.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    listing = walk_folder(tmp_path)
    assert list(listing.paths) == [b"good.jpg"]
    assert listing.unreachable == [
        (b"dangling.jpg", "No such file or directory"),
        (b"loop.jpg", "Too many levels of symbolic links"),
        (b"pipe.jpg", "not a regular file"),
    ]


def test_a_folder_may_have_an_image_ending(tmp_path: Path):
    fill(tmp_path, "class.jpg/1.png")
    assert walked(tmp_path) == [b"class.jpg/1.png"]


def test_depth_is_not_limited_by_recursion(tmp_path: Path):
    deep = "d/" * 200 + "x.jpg"
    fill(tmp_path, deep)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert walked(tmp_path) == [deep.encode()]
    finally:
        sys.setrecursionlimit(limit)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path, "closed/1.jpg", "open/2.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fsencode(path).endswith(b"closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = walk_folder(tmp_path)
    assert list(listing.paths) == [b"open/2.jpg"]
    assert listing.unreachable == [(b"closed", "Permission denied")]
