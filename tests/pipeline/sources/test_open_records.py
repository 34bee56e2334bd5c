"""Archives of every layout, as `open_records` opens them."""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import MissingError, UsageError
from simsiam.pipeline.sources.open_records import open_records
from tests.pipeline.images import encoded

WNIDS = ["n01440764", "n01443537", "n02105855"]


def jpeg(number: int) -> bytes:
    return encoded(Image.new("RGB", (20 + number, 30), (number * 9 % 256, 40, 90)))


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    tar.addfile(member, io.BytesIO(content))


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    return path


def train_tar(folder: Path) -> Path:
    inner = {}
    for label, wnid in enumerate(WNIDS):
        images = {f"{wnid}_{i}.JPEG": jpeg(10 * label + i) for i in range(3)}
        inner[f"{wnid}.tar"] = tar_of(folder / "inner", images).read_bytes()
    (folder / "inner").unlink()
    return tar_of(folder / "ILSVRC2012_img_train.tar", inner)


def devkit(folder: Path, truth: list[int]) -> Path:
    io_module = pytest.importorskip("scipy.io", reason="SciPy isn't installed")
    # The kit has another order than that of the WordNet ids, and synsets that aren't classes.
    rows = [(1, WNIDS[2], 0), (2, WNIDS[0], 0), (3, WNIDS[1], 0), (4, "n00000001", 3)]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    mat = io.BytesIO()
    io_module.savemat(mat, {"synsets": np.array(rows, kind)[:, None]}, do_compression=True)
    kit = "ILSVRC2012_devkit_t12"
    with tarfile.open(folder / f"{kit}.tar.gz", "w:gz") as tar:
        add(tar, f"{kit}/readme.txt", b"")
        add(tar, f"{kit}/data/meta.mat", mat.getvalue())
        text = "".join(f"{number}\n" for number in truth)
        add(tar, f"{kit}/data/ILSVRC2012_validation_ground_truth.txt", text.encode())
    return folder / f"{kit}.tar.gz"


def contents(records) -> list[tuple[str, int, bytes]]:
    return [(records.name(i), int(records.labels[i]), records.read(i)) for i in range(len(records))]


def test_the_tar_of_class_tars(tmp_path):
    records = open_records(train_tar(tmp_path))
    assert list(records.classes) == WNIDS
    expected = [
        (f"{wnid}/{wnid}_{i}.JPEG", label, jpeg(10 * label + i)) for label, wnid in enumerate(WNIDS) for i in range(3)
    ]
    assert contents(records) == expected
    assert list(records.broken) == []


def test_the_validation_tar_has_the_training_sets_classes(tmp_path):
    images = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(i) for i in (1, 2, 3, 4)}
    tar = tar_of(tmp_path / "ILSVRC2012_img_val.tar", images)
    with pytest.raises(MissingError, match=r"ILSVRC2012_devkit_t12\.tar\.gz") as caught:
        open_records(tar)
    assert caught.value.argument == "devkit"
    kit = devkit(tmp_path, [3, 1, 1, 2])
    records = open_records(tar)
    assert list(records.classes) == WNIDS
    assert records.labels.tolist() == [1, 2, 2, 0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert open_records(tar, devkit=kit.rename(elsewhere / "kit.tar.gz")).labels.tolist() == [1, 2, 2, 0]


def test_a_damaged_devkit_and_one_too_short_are_refused(tmp_path):
    tar = tar_of(tmp_path / "val.tar", {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(i) for i in (1, 2)})
    kit = devkit(tmp_path, [1])
    with pytest.raises(UsageError, match=r"image 2, .* 1\."):
        open_records(tar)
    kit.write_bytes(kit.read_bytes()[:100])
    with pytest.raises(UsageError, match="Can't read the devkit"):
        open_records(tar)
    tar_of(kit, {"data/meta.mat": b"x"})
    with pytest.raises(UsageError, match="no data/ILSVRC2012_validation_ground_truth"):
        open_records(tar)
    tar_of(kit, {"data/meta.mat": b"x", "data/ILSVRC2012_validation_ground_truth.txt": b"1\n"})
    with pytest.raises(UsageError, match="is damaged"):
        open_records(tar)


def shards(folder: Path) -> list[Path]:
    return [
        tar_of(
            folder / f"train-{shard:04d}.tar",
            {
                name: content
                for i in range(2)
                for name, content in (
                    (f"{i:03d}.cls", f"{2 * shard + i}\n".encode()),
                    (f"{i:03d}.jpg", jpeg(2 * shard + i)),
                    (f"{i:03d}.json", b"{}"),
                )
            },
        )
        for shard in range(3)
    ]


@pytest.mark.parametrize("how", ["", "train-{0000..0002}.tar", "train-*.tar", "train-000{0,1,2}.tar"])
def test_webdataset_shards_by_folder_braces_or_stars(tmp_path, how):
    shards(tmp_path)
    records = open_records(tmp_path / how)
    # Keys repeat in each shard.
    assert [(label, content) for _, label, content in contents(records)] == [(i, jpeg(i)) for i in range(6)]
    assert list(records.classes) == list("012345")


def test_a_folder_in_a_tar_has_the_folders_classes(tmp_path):
    files = {
        "./set/dogs/1.jpg": jpeg(1),
        "./set/cats/x/2.PNG": jpeg(2),
        "./set/notes.txt": b"",
        "./set/dogs/.h.jpg": b"",
    }
    records = open_records(tar_of(tmp_path / "set.tar", files))
    assert list(records.classes) == ["cats", "dogs"]
    assert records.labels.tolist() == [1, 0]
    assert open_records(tar_of(tmp_path / "flat.tar", {"test/1.jpg": jpeg(1)})).labels.tolist() == [-1]


def test_nothing_outside_is_written_or_followed(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(99))
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        add(tar, "a/good.jpg", jpeg(1))
        add(tar, "../outside.jpg", jpeg(2))
        add(tar, "a/../../outside.jpg", jpeg(2))
        add(tar, str(tmp_path / "absolute.jpg"), jpeg(3))
        add(tar, "a/soft.jpg", kind=tarfile.SYMTYPE, link=str(secret))
        add(tar, "a/hard.jpg", kind=tarfile.LNKTYPE, link="../secret.jpg")
        add(tar, "a/zero.jpg", kind=tarfile.CHRTYPE)
        add(tar, "a/disk.jpg", kind=tarfile.BLKTYPE)
        add(tar, "a/pipe.jpg", kind=tarfile.FIFOTYPE)
    before = sorted(tmp_path.rglob("*"))
    records = open_records(tmp_path / "evil.tar")
    assert contents(records) == [("a/good.jpg", -1, jpeg(1))]
    assert [reason for _, reason in records.broken] == [
        "its name leads out of the archive",
        "its name leads out of the archive",
        "its name is an absolute path",
        "a symbolic link, not a regular file",
        "a hard link, not a regular file",
        "a device, not a regular file",
        "a device, not a regular file",
        "a named pipe, not a regular file",
    ]
    report = convert(records, tmp_path / "o.beton", workers=1)
    assert report.skipped == list(records.broken)
    assert sorted({*tmp_path.rglob("*")} - {*before}) == [tmp_path / "o.beton", tmp_path / "o.beton.json"]


@pytest.mark.parametrize("make", [train_tar, lambda folder: shards(folder)[0]], ids=["train", "shard"])
def test_a_tar_truncated_anywhere_is_refused(tmp_path, make):
    tar = make(tmp_path)
    data = tar.read_bytes()
    # tarfile pads the file to 10,240 bytes with zeros, of which the first block is the end mark.
    end = len(data.rstrip(b"\0"))
    for length in sorted({*np.linspace(1, end, 40).astype(int).tolist(), *range(512, end, 512)}):
        tar.write_bytes(data[:length])
        with pytest.raises(UsageError, match=r"truncated|no .*\.beton"):
            open_records(tar)


def test_a_damaged_header_and_compression_are_refused(tmp_path):
    tar = shards(tmp_path)[0]
    data = bytearray(tar.read_bytes())
    data[1024 : 1024 + 512] = b"\7" * 512
    tar.write_bytes(data)
    with pytest.raises(UsageError, match="damaged or truncated"):
        open_records(tar)
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as compressed:
        add(compressed, "a.jpg", jpeg(1))
    with pytest.raises(UsageError, match="unpack it with gunzip"):
        open_records(tmp_path / "s.tar.gz")


def test_a_tar_without_images_and_a_name_without_a_file_are_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no image in"):
        open_records(tar_of(tmp_path / "t.tar", {"a.txt": b""}))
    for name in ("none", "none-{0..2}.tar", "none-*.tar"):
        with pytest.raises(UsageError, match="none"):
            open_records(tmp_path / name)


def test_a_broken_image_in_a_tar_is_skipped(tmp_path):
    files = {"set/a/1.jpg": jpeg(1), "set/a/2.jpg": jpeg(2)[:300], "set/b/3.jpg": b""}
    report = convert(open_records(tar_of(tmp_path / "t.tar", files)), tmp_path / "o.beton", workers=2)
    assert [name for name, _ in report.skipped] == ["set/a/2.jpg", "set/b/3.jpg"]
    beton = Beton(tmp_path / "o.beton")
    assert (beton.read(0), beton.classes, beton.name(0)) == (jpeg(1), ["a", "b"], "set/a/1.jpg")


def test_folders_hidden_files_and_dangling_links_are_no_archives(tmp_path):
    (tmp_path / "c.tar").mkdir()
    (tmp_path / "c.tar" / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "._x.tar").write_bytes(b"of another system")
    (tmp_path / "gone.tar").symlink_to("nowhere")
    assert contents(open_records(tmp_path)) == [(f"{tmp_path}/c.tar/1.jpg", 0, jpeg(1))]


def test_a_dangling_link_among_shards_is_refused(tmp_path):
    shards(tmp_path)
    (tmp_path / "empty.tar").mkdir()
    assert len(open_records(tmp_path)) > 0
    (tmp_path / "gone.tar").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"There is no folder or file .*gone\.tar"):
        open_records(tmp_path)


def test_the_name_of_an_existing_folder_is_no_pattern(tmp_path):
    folder = tmp_path / "a{1,2}[b]"
    folder.mkdir()
    paths = shards(folder)
    (folder / ".hidden.tar").write_bytes(b"x")
    assert len(open_records(folder / "*.tar")) == len(open_records(folder)) > 0
    assert len(open_records(paths[0])) < len(open_records(folder))


@pytest.mark.parametrize("files", [["a.tar", "deep/in/b.jpg"], ["a.tar", "b.parquet"], ["a.parquet", "b.png"]])
def test_a_folder_of_two_kinds_is_refused_and_both_are_named(tmp_path, files):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tar_of(tmp_path / name, {"1.jpg": jpeg(1)})
    with pytest.raises(UsageError, match=r"only one kind .* '.*/\*\.(tar|parquet)'") as caught:
        open_records(tmp_path)
    assert all(name in str(caught.value) for name in files)


@pytest.mark.parametrize("how", ["", "*.tar", "[tv]*.tar"])
def test_splits_side_by_side_are_no_set_and_their_patterns_are_given(tmp_path, how):
    for number, name in enumerate(("train-0000.tar", "train-0001.tar", "val-0000.tar")):
        tar_of(tmp_path / name, {f"a/{number}.jpg": jpeg(number)})
    with pytest.raises(UsageError, match=rf"'{tmp_path}/train-\*\.tar', {tmp_path}/val-0000\.tar"):
        open_records(tmp_path / how)
    assert len(open_records(tmp_path / "train-*.tar")) == 2
    assert len(open_records(tmp_path / "{train,val}-*.tar")) == 3  # on purpose


def test_archives_are_found_one_and_two_folders_deeper(tmp_path):
    for number, name in enumerate(("data/0.tar", "data/1.tar", "data/.cache/2.tar", "a/b/c/3.tar")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tar_of(tmp_path / name, {f"{number}.jpg": jpeg(number)})
    assert [content for *_, content in contents(open_records(tmp_path))] == [jpeg(0), jpeg(1)]
    assert len(open_records(tmp_path / "a")) == 1


def test_archives_beside_a_picture_are_refused_and_one_among_images_is_a_file(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "logo.jpg").write_bytes(jpeg(0))
    (tmp_path / "assets" / "old.zip").touch()
    assert len(open_records(tmp_path)) == 1
    (tmp_path / "data").mkdir()
    tar_of(tmp_path / "data" / "0.tar", {"1.jpg": jpeg(1)})
    with pytest.raises(UsageError, match=rf"assets/logo\.jpg and data/0\.tar, .* '{tmp_path}/data/\*\.tar'"):
        open_records(tmp_path)


def test_files_of_several_kinds_and_several_betons_are_told_as_such(tmp_path):
    tar = tar_of(tmp_path / "a.tar", {"1.jpg": jpeg(1)})
    convert(open_records(tar), tmp_path / "a.beton", workers=1)
    convert(open_records(tar), tmp_path / "b.beton", workers=1)
    with pytest.raises(UsageError, match=r"one kind .*a\.tar and .*b\.beton differ"):
        open_records(tmp_path / "{a.tar,b.beton}")
    with pytest.raises(UsageError, match=r"a\.beton and 1 more are \.beton files"):
        open_records(tmp_path / "*.beton")
    with pytest.raises(UsageError, match="without folders"):
        open_records(tmp_path / "a.beton" / "train")


def test_the_devkit_is_no_archive_of_images_and_a_compressed_tar_is_told(tmp_path):
    tar_of(tmp_path / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000001.JPEG": jpeg(1)})
    devkit(tmp_path, [3])
    assert open_records(tmp_path).labels.tolist() == [1]
    (tmp_path / "more").mkdir()
    with tarfile.open(tmp_path / "more" / "s.tar.gz", "w:gz") as compressed:
        add(compressed, "a.jpg", jpeg(1))
    with pytest.raises(UsageError, match="unpack it with gunzip"):
        open_records(tmp_path / "more")


def test_splits_in_a_tar_are_no_classes_and_each_can_be_given(tmp_path):
    tar = tar_of(tmp_path / "s.tar", {f"s/{split}/cat/1.jpg": jpeg(n) for n, split in enumerate(("test", "train"))})
    with pytest.raises(UsageError, match=f"splits.* {tar}/s/test, {tar}/s/train"):
        open_records(tar)
    assert contents(open_records(tar / "s" / "train")) == [("s/train/cat/1.jpg", -1, jpeg(1))]


def test_of_two_members_with_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in (1, 2):
            add(tar, "a.jpg", jpeg(number))
    tar_of(tmp_path / "1.tar", {"a.jpg": jpeg(3)})  # another shard
    records = open_records(tmp_path)
    assert [content for *_, content in contents(records)] == [jpeg(2), jpeg(3)]
    assert list(records.broken) == [("a.jpg", "another file of the same name follows")]


def test_what_is_no_image_is_counted_and_what_is_hidden_is_not(tmp_path):
    files = {"a/1.jpg": jpeg(1), "a/.h/2.jpg": jpeg(2), "a/1.txt": b"", "notes": b"", "b.TXT": b""}
    with pytest.warns(UserWarning, match=r"t\.tar: 3 files .*: 2 \.txt, 1 without an ending$"):
        assert len(open_records(tar_of(tmp_path / "t.tar", files))) == 1
    outer = {"n01.tar": (tmp_path / "t.tar").read_bytes(), "readme.md": b"", "cover.jpg": jpeg(1)}
    with pytest.warns(UserWarning, match=r"4 files .*: 2 \.txt, 1 without an ending, 1 \.md$"):
        records = open_records(tar_of(tmp_path / "o.tar", outer))
    assert list(records.broken) == [("cover.jpg", "an image next to tars of classes has no class")]


def test_a_folder_is_listed_like_an_image_folder_without_opening_files(tmp_path):
    from simsiam.pipeline.sources.image_folder import ImageFolder

    for number, name in enumerate(("b/1.jpg", "a/2.jpg", "a/3.jpg")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(jpeg(number))
    records, folder = open_records(tmp_path / "set"), ImageFolder(tmp_path / "set")
    assert contents(records) == contents(folder)
    assert records.classes == folder.classes
    (tmp_path / "set" / "a" / "0.jpg").write_text("broken")
    assert len(open_records(tmp_path / "set")) == 4
    with pytest.raises(UsageError, match="There is no image in"):
        (tmp_path / "empty").mkdir()
        open_records(tmp_path / "empty")


def test_a_beton_is_recognised_by_its_content(tmp_path):
    convert(open_records(train_tar(tmp_path)), tmp_path / "o.beton", workers=1)
    assert contents(open_records(tmp_path / "o.beton"))[4][1:] == (1, jpeg(11))
    # Its name may contain that of the tar.
    convert(open_records(tmp_path / "ILSVRC2012_img_train.tar"), tmp_path / "o.tar.beton", workers=1)
    assert contents(open_records(tmp_path / "o.tar.beton"))[4][1:] == (1, jpeg(11))


def test_without_scipy_its_package_is_named(tmp_path, monkeypatch):
    tar = tar_of(tmp_path / "val.tar", {"ILSVRC2012_val_00000001.JPEG": jpeg(1)})
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UsageError, match="pip install scipy"):
        open_records(tar, devkit=tmp_path)
