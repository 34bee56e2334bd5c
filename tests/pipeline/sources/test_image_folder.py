import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.sources import image_folder
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from tests.pipeline.images import encoded, with_orientation


def png(width: int = 3, height: int = 2, value: int = 0) -> bytes:
    return encoded(Image.new("RGB", (width, height), (value, 1, 2)), "PNG")


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def relative(folder: ImageFolder) -> list[str]:
    return [str(Path(folder.name(index)).relative_to(folder.root)) for index in range(len(folder))]


def test_sizes_labels_names_and_pixels_belong_together(tmp_path: Path):
    fill(tmp_path, {"dog/1.png": png(4, 5, 10), "cat/2.png": png(6, 7, 20), "cat/1.png": png(8, 9, 30)})
    folder = ImageFolder(tmp_path)
    assert relative(folder) == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert folder.classes == ("cat", "dog")
    assert folder.sizes.tolist() == [[9, 8], [7, 6], [5, 4]]
    assert folder.labels.tolist() == [0, 0, 1]
    assert (folder.sizes.dtype, folder.labels.dtype) == (np.int32, np.int64)
    for index, value in enumerate((30, 20, 10)):
        pixels = folder.decode(index)
        assert pixels.shape == (*folder.sizes[index], 3)
        assert (pixels == [value, 1, 2]).all()
        assert folder.read(index) == Path(folder.name(index)).read_bytes()
    assert folder.broken == []


def test_a_flat_folder_is_unlabelled(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"b.png": png(), "a.png": png()}))
    assert relative(folder) == ["a.png", "b.png"]
    assert folder.classes == ()
    assert folder.labels.tolist() == [-1, -1]


def test_images_next_to_class_folders_are_unlabelled(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"b.png": png(), "a/1.png": png(), "c/1.png": png()}))
    assert relative(folder) == ["a/1.png", "b.png", "c/1.png"]
    assert folder.labels.tolist() == [0, -1, 1]


def test_classes_are_the_first_level_for_images_at_any_depth(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"a/x/y/1.png": png(), "a/2.png": png(), "b/x/1.png": png()}))
    assert folder.classes == ("a", "b")
    assert dict(zip(relative(folder), folder.labels.tolist(), strict=True)) == {
        "a/2.png": 0,
        "a/x/y/1.png": 0,
        "b/x/1.png": 1,
    }


def test_classes_are_sorted_by_name_even_if_paths_sort_differently(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"a/1.png": png(), "a-b/1.png": png(), "Z/1.png": png(), "é/1.png": png()}))
    assert folder.classes == ("Z", "a", "a-b", "é")
    assert relative(folder) == ["Z/1.png", "a-b/1.png", "a/1.png", "é/1.png"]
    assert folder.labels.tolist() == [0, 2, 1, 3]


def test_names_that_differ_in_case_are_two_classes(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"cat/1.png": png(), "Cat/1.png": png()}))
    assert folder.classes == ("Cat", "cat")


def test_a_folder_without_images_is_no_class_but_one_of_broken_images_is(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    fill(tmp_path, {"a/1.png": b"", "b/1.png": png(), "notes/read.txt": b"x"})
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("a", "b")
    assert folder.labels.tolist() == [1]


def test_broken_files_are_skipped_and_listed_by_path(tmp_path: Path):
    fill(tmp_path, {"a/1.png": png(4, 4), "a/2.png": b"", "b/1.jpg": b"text", "b/2.png": png(5, 5), "c/1.png": png()})
    os.mkfifo(tmp_path / "a" / "0.png")
    folder = ImageFolder(tmp_path)
    assert relative(folder) == ["a/1.png", "b/2.png", "c/1.png"]
    assert folder.sizes.tolist() == [[4, 4], [5, 5], [2, 3]]
    assert folder.labels.tolist() == [0, 1, 2]
    assert folder.decode(1).shape == (5, 5, 3)
    assert folder.broken == [
        (f"{tmp_path}/a/0.png", "not a regular file"),
        (f"{tmp_path}/a/2.png", "the file is empty"),
        (f"{tmp_path}/b/1.jpg", "not an image in any format Pillow reads"),
    ]


def test_odd_names_are_read_and_can_be_printed(tmp_path: Path):
    names = [b'cl ass/it\'s "1".png', b"cl ass/new\nline.png", "日本/ü.png".encode(), b"caf\xe9/\xff.png"]
    for index, name in enumerate(sorted(names)):
        fill(tmp_path, {os.fsdecode(name): png(value=index)})
    folder = ImageFolder(tmp_path)
    assert len(folder) == 4
    for index in range(4):
        assert folder.decode(index)[0, 0, 0] == index
        folder.name(index).encode("utf-8")
    assert folder.classes == ("caf\\xe9", "cl ass", "日本")
    assert folder.name(0) == f"{tmp_path}/caf\\xe9/\\xff.png"


def test_the_root_may_have_an_odd_name_and_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / os.fsdecode(b"my \xff images")
    fill(root, {"a/1.png": png()})
    monkeypatch.chdir(tmp_path)
    folder = ImageFolder(root.name)
    # A later change of directory must not matter.
    monkeypatch.chdir("/")
    assert folder.decode(0).shape == (2, 3, 3)
    assert folder.root == root


def test_a_copy_through_pickle_reads_the_same(tmp_path: Path):
    fill(tmp_path, {"a/1.png": png(4, 5), "b/2.png": png(6, 7), "b/3.png": b""})
    folder = ImageFolder(tmp_path, progress=lambda done, total: None)
    copy = pickle.loads(pickle.dumps(folder))
    assert len(copy) == 2
    assert copy.name(1) == folder.name(1)
    assert (copy.decode(1) == folder.decode(1)).all()
    assert copy.classes == folder.classes
    assert (copy.sizes == folder.sizes).all()
    assert copy.broken == folder.broken


def test_a_pickle_takes_little_more_than_the_paths(tmp_path: Path):
    fill(tmp_path, {f"a/{index:04d}.png": png() for index in range(300)})
    folder = ImageFolder(tmp_path)
    # Path 11 bytes, its end 8, size 8, label 8.
    assert len(pickle.dumps(folder)) < 300 * 36 + 1500


def test_pixels_are_those_stored_for_any_orientation_tag(tmp_path: Path):
    jpeg = encoded(Image.new("RGB", (30, 20)), exif=with_orientation(6))
    folder = ImageFolder(fill(tmp_path, {"a.jpg": jpeg}))
    assert folder.sizes.tolist() == [[20, 30]]
    assert folder.decode(0).shape == (20, 30, 3)


def test_a_file_deleted_after_the_scan_is_named(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"a/1.png": png(), "a/2.png": png()}))
    (tmp_path / "a" / "2.png").unlink()
    for access in (folder.read, folder.decode):
        with pytest.raises(ImageError, match=r"a/2\.png: No such file"):
            access(1)
    folder.decode(0)


def test_a_file_damaged_after_the_scan_is_named(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"a/1.png": png()}))
    (tmp_path / "a" / "1.png").write_bytes(b"not any more")
    with pytest.raises(ImageError, match=r"a/1\.png: not an image"):
        folder.decode(0)


def test_a_file_replaced_by_one_of_another_size_is_refused(tmp_path: Path):
    folder = ImageFolder(fill(tmp_path, {"a/1.png": png(3, 2)}))
    (tmp_path / "a" / "1.png").write_bytes(png(5, 7))
    with pytest.raises(ImageError, match=r"a/1\.png: 5 × 7 pixels, but 3 × 2 when"):
        folder.decode(0)


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder of this process without root's rights: pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        was_root = os.geteuid() == 0
        # Pillow loads its plugins on first use, which needs root's rights here.
        Image.init()
        if was_root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if was_root:
                os.seteuid(0)


def test_a_file_without_permission_is_broken_until_it_is_permitted(unprivileged_folder: Path):
    root = fill(unprivileged_folder, {"a/1.png": png(), "a/2.png": png(), "closed/3.png": png()})
    (root / "a" / "2.png").chmod(0)
    (root / "closed").chmod(0)
    folder = ImageFolder(root)
    assert relative(folder) == ["a/1.png"]
    assert folder.broken == [(f"{root}/a/2.png", "Permission denied"), (f"{root}/closed", "Permission denied")]
    # A change of permissions leaves length and time as they were.
    (root / "a" / "2.png").chmod(0o600)
    (root / "closed").chmod(0o700)
    folder = ImageFolder(root)
    assert relative(folder) == ["a/1.png", "a/2.png", "closed/3.png"]
    (root / "a" / "1.png").chmod(0)
    with pytest.raises(ImageError, match=r"a/1\.png: Permission denied"):
        folder.read(0)


def test_a_folder_without_permission_is_refused(unprivileged_folder: Path):
    (unprivileged_folder / "closed").mkdir(mode=0)
    with pytest.raises(ValueError, match="closed can't be listed \\(Permission denied\\); give"):
        ImageFolder(unprivileged_folder / "closed")


def test_the_arguments_reach_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path, {"1.png": png(), "2.png": png()})
    asked = []
    scan = image_folder.scan
    monkeypatch.setattr(image_folder, "scan", lambda *given: asked.append(given[2:]) or scan(*given))
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))

    ImageFolder(tmp_path, workers=3, cache=False, progress=progress)
    ImageFolder(tmp_path)
    assert asked == [(3, False, progress), (None, True, None)]
    assert calls == [(2, 2)]


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"There is no folder .*/nowhere; give"):
        ImageFolder(tmp_path / "nowhere")


def test_a_file_is_refused(tmp_path: Path):
    fill(tmp_path, {"a.png": png()})
    with pytest.raises(ValueError, match=r"a\.png is a file; give the folder"):
        ImageFolder(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.beton", "give that file"),
        ("a.tar", "convert or unpack it first"),
        ("a.tar.gz", "unpack it first"),
        ("a.parquet", "convert or unpack it first"),
        ("a.zip", "convert or unpack it first"),
        ("data/a.parquet", "convert or unpack it first"),
    ],
)
def test_the_archive_in_a_folder_without_images_is_named(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / f"{name}.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match=f"There is no image in .*, but {name}: {advice}"):
        ImageFolder(tmp_path)


def test_a_folder_without_images_is_refused_with_the_number_of_other_files(tmp_path: Path):
    fill(tmp_path, {"a/1.txt": b"x", "b.csv": b"x", ".hidden.png": png()})
    with pytest.raises(ValueError, match=r"no image in .*, only 2 other files; .* end in .*\.jpg, .*\.png, "):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("open_folder", [ImageFolder, open_records])
def test_every_ending_that_pillow_reads_counts_and_the_others_are_told(tmp_path: Path, open_folder):
    formats = {
        "jfif": "JPEG",
        "jpe": "JPEG",
        "jp2": "JPEG2000",
        "avif": "AVIF",
        "jpg": "JPEG",
        "mpo": "MPO",
        "tga": "TGA",
    }
    pixels = Image.new("RGB", (16, 16), (200, 20, 20))
    fill(tmp_path, {f"a/{ending}.{ending}": encoded(pixels, format) for ending, format in formats.items()})
    fill(tmp_path, {"a/1.txt": b"x", "b/2.txt": b"x", "list.csv": b"x", "LICENSE": b"x", ".git/3.jpg": b"x"})
    with pytest.warns(UserWarning, match=r"4 files .*: 2 \.txt, 1 without an ending, 1 \.csv; 1 hidden ") as caught:
        images = open_folder(tmp_path)
    assert (len(images), len(images.broken), len(caught)) == (len(formats), 0, 1)
    assert str(tmp_path) in str(caught[0].message)
    for index in range(len(images)):
        assert np.abs(images.decode(index).astype(int) - [200, 20, 20]).max() <= 6


@pytest.mark.parametrize("open_folder", [ImageFolder, open_records])
def test_a_folder_of_images_alone_gives_no_warning(tmp_path: Path, open_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_folder(fill(tmp_path, {"a/1.png": png(), ".DS_Store": b"x"}))


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no image in .*, which is empty"):
        ImageFolder(tmp_path)


def test_a_folder_of_broken_images_is_refused_with_the_first_reason(tmp_path: Path):
    fill(tmp_path, {"b.png": b"text", "a.png": b""})
    with pytest.raises(ValueError, match=r"None of the 2 images .*: the file is empty \(.*/a\.png\); repair"):
        ImageFolder(tmp_path)
