"""Index of a zip: where each regular file is; nothing is unpacked, and no name is used as a path."""

import itertools
import stat
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import PathList
from simsiam.pipeline.sources.member_names import is_hidden, refuse_name

LOCAL_HEADER = struct.Struct("<4s5HIIIHH")
"""Header before each file (APPNOTE.TXT of PKWARE, section 4.3.7); name and extra field follow, then the content."""
LARGEST = 1 << 30
"""Bytes that an encoded image may have; more is refused before it is unpacked."""

_ENCRYPTED = 0x1  # flag
_UTF8 = 0x800  # flag
_DOS, _UNIX = 0, 3  # systems that made a file
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}


class ZipIndex(NamedTuple):
    """The members of a zip that are regular files, in the order of their bytes."""

    names: PathList
    offsets: npt.NDArray[np.int64]
    """Offset of each member's local header, (n,)."""
    packed: npt.NDArray[np.int64]
    """Bytes of the content in the zip, (n,)."""
    lengths: npt.NDArray[np.int64]
    """Bytes of the content once it is unpacked, (n,)."""
    crc32: npt.NDArray[np.int64]
    """Checksum of the unpacked content, (n,)."""
    deflated: npt.NDArray[np.bool_]
    """Whether it is compressed, (n,)."""
    refused: list[tuple[bytes, str]]
    """Name and reason of members that can't be read safely."""


def index_zip(path: Path) -> ZipIndex:
    """Read the central directory of a zip.

    Folders and hidden files and folders are skipped. Raises UsageError when the file is no zip, or is truncated.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            members = sorted(opened.infolist(), key=lambda member: member.header_offset)
            end = opened.start_dir
    # zipfile raises several kinds on damaged input: BadZipFile, struct.error, UnicodeDecodeError, …
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, IndexError) as error:
        raise UsageError(f"{path} is no zip, or is truncated ({error}); download or copy it again.") from None
    except OSError as error:
        raise UsageError(f"Can't read {path}: {error.strerror or error}; give a file you may read.") from None
    names, taken, refused = [], [], []
    for member, following in itertools.zip_longest(members, members[1:]):
        limit = following.header_offset if following else end
        name = _name(member)
        if member.is_dir() or name.endswith(b"/") or is_hidden(name):
            continue
        needed = LOCAL_HEADER.size + len(name) + member.compress_size
        reason = refuse_name(name) or _refusal(member, limit - member.header_offset - needed)
        if reason:
            refused.append((name.replace(b"\0", b"\\0"), reason))
        else:
            names.append(name)
            taken.append(member)
    return ZipIndex(
        PathList(names),
        np.array([member.header_offset for member in taken], np.int64),
        np.array([member.compress_size for member in taken], np.int64),
        np.array([member.file_size for member in taken], np.int64),
        np.array([member.CRC for member in taken], np.int64),
        np.array([member.compress_type == zipfile.ZIP_DEFLATED for member in taken], np.bool_),
        refused,
    )


def _name(member: zipfile.ZipInfo) -> bytes:
    """Return the name as stored; with slashes where a DOS program wrote its backslashes."""
    # zipfile decodes by the flag; these are the bytes before it did, which are mostly UTF-8 whatever the flag says.
    name = member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437")
    if member.create_system == _DOS:
        name = name.replace(b"\\", b"/")
    return name.removeprefix(b"./")


def _refusal(member: zipfile.ZipInfo, spare: int) -> str | None:
    """Return why a member can't be read; `spare` bytes are left between it and what follows."""
    kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
    if kind not in (0, stat.S_IFREG):
        return f"{'a symbolic link' if stat.S_ISLNK(kind) else 'something else'}, not a regular file"
    if member.flag_bits & _ENCRYPTED:
        return "it is encrypted; unpack the zip with its password first"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        return f"it is compressed by {method}; unpack the zip first"
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        return f"it announces {member.file_size:,} bytes and has {member.compress_size:,}"
    if member.file_size > LARGEST:
        return f"it unpacks to {member.file_size:,} bytes, more than an image may have"
    if spare < 0:
        return "its bytes overlap what follows in the zip"
    return None
