"""Kind of a file, by its first bytes, else by its ending."""

from pathlib import Path
from typing import Literal

from simsiam.pipeline.sources.endings import IMAGE_ENDINGS
from simsiam.pipeline.sources.tar_index import unpacker

Kind = Literal["parquet", "tar", "zip", "other"]

_HEAD = 512  # bytes: the first header of a tar
_LFS = b"version https://git-lfs.github.com/"
# What can't be read, with advice; the first that fits counts.
_UNREADABLE = (
    ((b"7z\xbc\xaf'\x1c",), (".7z",), "is a 7z archive; unpack it first"),
    ((b"Rar!",), (".rar",), "is a RAR archive; unpack it first"),
    ((b"ARROW1",), (".arrow", ".feather"), "is an Arrow file; save the set as parquet instead"),
    ((b"\x89HDF",), (".h5", ".hdf5"), "is an HDF5 file; write its images to a folder first"),
    ((b"\x93NUMPY",), (".npy",), "is a NumPy array; write its images to a folder first"),
    ((), (".tfrecord", ".tfrecords", ".lmdb", ".mdb", ".rec"), "holds records of another library; unpack it first"),
    (
        (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*"),
        tuple(f".{ending}" for ending in IMAGE_ENDINGS),
        "is a single image; give the folder it lies in",
    ),
)


def file_kind(file: Path) -> Kind:
    """Return what a file is. Raises OSError when it can't be read.

    A tar that is compressed counts as a tar, and is refused as such later; so does what is damaged and ends in `.tar`.
    """
    head = _head(file)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        return "zip"
    if head[257:262] == b"ustar" or unpacker(head) is not None:
        return "tar"
    endings: dict[str, Kind] = {".tar": "tar", ".zip": "zip", ".parquet": "parquet"}
    return "other" if not head or head.startswith(_LFS) else endings.get(file.suffix.lower(), "other")


def describe_other(file: Path) -> str | None:
    """Return what a file that is no archive and no `.beton` is instead, with advice; None where it isn't known."""
    head = _head(file)
    if not head:
        return "is empty; download or copy it again"
    if head.startswith(_LFS):
        return "is a pointer of Git LFS, not the file itself; fetch that with: git lfs pull"
    for starts, endings, words in _UNREADABLE:
        if head.startswith(starts) or file.name.lower().endswith(endings):
            return words
    return None


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_HEAD)
