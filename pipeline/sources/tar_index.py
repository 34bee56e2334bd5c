"""Index of a tar: offset and length of each regular file; nothing is unpacked, and no name is used as a path."""

import os
import tarfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.sources.member_names import is_hidden, refuse_name

_BLOCK = tarfile.BLOCKSIZE
_LARGEST_READ = 1 << 20  # bytes; a header needs 512, a long name a little more
_UNPACKERS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a file with holes",
}


class TarIndex(NamedTuple):
    """The members of a tar that are regular files, in its order."""

    names: PathList
    offsets: npt.NDArray[np.int64]
    """Offset of each member in the file that contains the tar, (n,)."""
    lengths: npt.NDArray[np.int64]
    """Length of each member in bytes, (n,)."""
    refused: list[tuple[bytes, str]]
    """Name and reason of members that aren't regular files, or whose name leads out of the tar."""


def unpacker(head: bytes) -> str | None:
    """Return the program that unpacks a compressed file with these first bytes; None if it isn't compressed."""
    return next((program for mark, program in _UNPACKERS.items() if head.startswith(mark)), None)


def index_tar(path: Path, start: int = 0, end: int | None = None, inner: str = "") -> TarIndex:
    """Read the headers of a tar: of a whole file, or of the tar `inner` in the bytes from `start` to `end`.

    Folders, and what is hidden, are skipped. Takes 0.05 ms per member of any size. Raises UsageError when the bytes are
    no tar, are compressed, damaged or truncated, even if only the end mark is missing, or are several tars joined, of
    which only the first would be seen.
    """
    where = f"{inner} in {path}" if inner else str(path)
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"Can't open {path}: {error.strerror}; give a file you may read.") from None
    try:
        end = os.fstat(file).st_size if end is None else end
        window = _Window(file, start, end)
        try:
            with tarfile.open(fileobj=window, mode="r:") as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
                index = _read_members(tar, start, end - start)
                stopped = tar.offset  # pyright: ignore[reportAttributeAccessIssue]
        except tarfile.ReadError as error:
            raise UsageError(f"{where} is no tar, or is truncated ({error}); {_advice(window)}.") from None
        # tarfile mistakes the end of the file, and damaged headers behind the first, for the end of the archive.
        window.seek(stopped)
        if window.read(_BLOCK) != bytes(_BLOCK):
            raise UsageError(
                f"{where} is damaged or truncated: {_after(index.names)}, and {stopped} bytes, there is neither a file"
                " nor the end mark; download or copy it again."
            )
        while part := window.read(_LARGEST_READ):
            if part.count(0) != len(part):
                raise UsageError(
                    f"{where} has data behind its end mark, which is {_after(index.names)}: if several tars were"
                    " joined, give them one by one."
                )
        return index
    finally:
        os.close(file)


def _read_members(tar: tarfile.TarFile, start: int, size: int) -> TarIndex:
    """Read all headers of a tar of `size` bytes at the offset `start`."""
    names, refused = [], []
    offsets, lengths = array("q"), array("q")
    try:
        while (member := tar.next()) is not None:
            # tarfile would keep every member, at 1 kB each.
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            name = os.fsencode(member.name.removeprefix("./"))
            if member.isdir() or is_hidden(name):
                continue
            reason = _refusal(member, name)
            if reason:
                refused.append((name, reason))
                continue
            if not 0 <= member.size <= size - member.offset_data:
                raise tarfile.ReadError(f"{printable_path(name)} isn't whole")
            names.append(name)
            offsets.append(start + member.offset_data)
            lengths.append(member.size)
    except tarfile.ReadError as error:
        raise tarfile.ReadError(f"{error}, {_after(names)}") from None
    return TarIndex(PathList(names), np.array(offsets, np.int64), np.array(lengths, np.int64), refused)


def _after(names: Sequence[bytes]) -> str:
    return f"after file {len(names)}, {printable_path(names[-1])}" if names else "before any file"


def _refusal(member: tarfile.TarInfo, name: bytes) -> str | None:
    if not member.isreg() or member.issparse():
        return f"{_KINDS.get(member.type, 'something else')}, not a regular file"
    return refuse_name(name)


def _advice(window: "_Window") -> str:
    window.seek(0)
    program = unpacker(window.read(_BLOCK))
    return f"it is compressed: unpack it with {program} first" if program else "download or copy it again"


class _Window:
    """Bytes `start` to `end` of an open file, as the file object that tarfile reads."""

    def __init__(self, file: int, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._position = start

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if size > _LARGEST_READ:
            raise tarfile.ReadError(f"a name of {size} bytes")
        left = self._end - self._position
        # A damaged header may lead anywhere, even further than a file can reach.
        part = os.pread(self._file, min(size, left), self._position) if left > 0 <= self._position else b""
        self._position += len(part)
        return part

    def seek(self, offset: int) -> None:
        """Go to an offset in the window."""
        self._position = self._start + offset

    def tell(self) -> int:
        """Return the offset in the window."""
        return self._position - self._start
