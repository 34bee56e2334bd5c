import os
from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.sources.open_source import open_source


@pytest.mark.parametrize("opened", [open_source, open_records])
@pytest.mark.parametrize(
    "address", ["s3://b/images", "gs://b/x.tar", "http://h/x.zip", "https://h/x.zip", "hf://datasets/a/b", "S3://b/x"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_told_as_such(opened, address: str, kind) -> None:
    with pytest.raises(UsageError, match=rf"{address} is an address; copy it to this machine first"):
        opened(kind(address))


@pytest.mark.parametrize("opened", [open_source, open_records])
def test_an_address_of_this_machine_is_told_with_its_path(opened, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"address; give the path alone: {tmp_path}/x\."):
        opened(f"file://{tmp_path}/x")


def test_a_folder_may_have_the_name_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    with pytest.raises(UsageError, match="There is no image in"):
        open_source("s3:/")


@pytest.mark.parametrize("opened", [open_source, open_records])
def test_causes_are_told_apart(opened, tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, cause in (("gone", "a link to nowhere"), ("pipe", "nor a regular file"), ("none", "no folder or file")):
        with pytest.raises(UsageError, match=cause):
            opened(tmp_path / name)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("opened", [open_source, open_records])
@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.tar", b"", "is empty"),
        ("train.parquet", LFS, "git lfs pull"),
        ("a.7z", b"7z\xbc\xaf'\x1c1", "7z archive; unpack"),
        ("a.rar", b"Rar!1", "RAR archive; unpack"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "single image; give the folder"),
        ("data.arrow", b"\xff\xff\xff\xff", "Arrow file"),
        ("a.tfrecord", b"\1\2", "another library"),
        ("notes.txt", b"words", r"no .*\.beton file"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_kind(opened, name: str, content: bytes, cause: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=cause) as caught:
        opened(tmp_path / name)
    assert name in str(caught.value)
