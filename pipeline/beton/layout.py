"""Layout of an FFCV 1.0 `.beton` file, and a checked index of the images in it.

A file is: header, field descriptors, one metadata row per sample, padding to a page, pages of records, allocation
table. All numbers are little-endian. The layout is that of `ffcv/types.py`, `ffcv/fields/*.py` and `ffcv/writer.py` in
FFCV 1.0.2.
"""

import os
import zlib
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import ForeignFileError, UsageError

VERSION = 2
"""Version number in the header of every FFCV 1.0 file."""
DEFAULT_PAGE_SIZE = 8 << 20
"""Bytes in a page as FFCV writes it; a record never crosses the boundary of a page."""
SMALLEST_PAGE_SIZE = 2 << 20
"""Bytes in the smallest page FFCV allows; a page is a power of two."""

HEADER: np.dtype[np.void] = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD_DESCRIPTOR: np.dtype[np.void] = np.dtype(
    [("type_id", "<u1"), ("name", "<u1", (16,)), ("arguments", "<u1", (1024,))], align=True
)
ALLOCATION: np.dtype[np.void] = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE: np.dtype[np.void] = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
LABEL = np.dtype("<i8")

INT_FIELD, IMAGE_FIELD = 1, 2
JPG, RAW = 0, 1
"""Values of `mode`: a JPEG, or height × width × 3 uint8 pixels."""

_SPAN: np.dtype[np.void] = np.dtype([("ptr", "<u8"), ("size", "<u8")])
# Metadata of each field type: float, int, image, bytes, array, JSON, tensor.
_FIELD_METADATA: dict[int, np.dtype] = {
    0: np.dtype("<f8"),
    1: LABEL,
    2: IMAGE,
    3: _SPAN,
    4: np.dtype("<u8"),
    5: _SPAN,
    6: np.dtype("<u8"),
}


class Index(NamedTuple):
    """Offset, length, size and label of the n images of a file, known without decoding."""

    sizes: npt.NDArray[np.int32]
    """Height and width in pixels, shape (n, 2)."""
    labels: npt.NDArray[np.int64]
    """Shape (n,); -1 if the file has no label field."""
    modes: npt.NDArray[np.uint8]
    """JPG or RAW, shape (n,)."""
    offsets: npt.NDArray[np.int64]
    """First byte of each record in the file, shape (n,)."""
    lengths: npt.NDArray[np.int64]
    """Bytes of each record, shape (n,)."""
    checksum: int
    """CRC-32 of header, field descriptors, metadata and allocation table together."""


def metadata_dtype(field_types: list[int]) -> np.dtype[np.void]:
    """Return the dtype of a metadata row in a file with these field types; its fields are called f0, f1 and so on."""
    return np.dtype([(f"f{i}", _FIELD_METADATA[kind]) for i, kind in enumerate(field_types)], align=True)


_ADVICE = "give a folder of images or a .beton file; tars and parquet files have to be converted to one"


def read_index(file: int, path: Path) -> Index:
    """Read and check the index of the `.beton` open as file descriptor `file`; `path` is for messages.

    No record is read: this takes 0.2 s for the 1.28 million images of ImageNet. Raises UsageError, in one sentence,
    when the file is no `.beton` of FFCV 1.0 (then ForeignFileError), is truncated, unfinished or damaged.
    """
    file_size = os.fstat(file).st_size
    if file_size < HEADER.itemsize:
        raise ForeignFileError(f"{path} is no .beton file: {file_size} bytes are less than a header; {_ADVICE}.")
    head = read_exactly(file, HEADER.itemsize, 0)
    header = np.frombuffer(head, HEADER)[0]
    fields, samples = int(header["num_fields"]), int(header["num_samples"])
    page_size, table_start = int(header["page_size"]), int(header["alloc_table_ptr"])
    if header["version"] != VERSION or not fields or page_size < SMALLEST_PAGE_SIZE or page_size & (page_size - 1):
        first = head[:8].hex(" ")
        raise ForeignFileError(f"{path} is no .beton file of FFCV 1.0 (its first bytes are {first}); {_ADVICE}.")
    if table_start == 0:
        _refuse(path, "was left unfinished by an interrupted conversion; convert again")
    if samples == 0:
        _refuse(path, "holds no images")

    described = fields * FIELD_DESCRIPTOR.itemsize
    if HEADER.itemsize + described > file_size:
        _refuse_truncated(path, file_size)
    head += read_exactly(file, described, HEADER.itemsize)
    descriptors = np.frombuffer(head, FIELD_DESCRIPTOR, offset=HEADER.itemsize)
    image_field, label_field = _choose_fields(descriptors, path)
    row = metadata_dtype(descriptors["type_id"].tolist())

    data_start = len(head) + samples * row.itemsize
    if table_start < data_start:
        _refuse(path, f"is damaged: the metadata of {samples} images overlaps the allocation table")
    table_size = file_size - table_start
    if table_size < samples * ALLOCATION.itemsize or table_size % ALLOCATION.itemsize:
        _refuse_truncated(path, file_size)
    head += read_exactly(file, samples * row.itemsize, len(head))
    table_bytes = read_exactly(file, table_size, table_start)

    metadata = np.frombuffer(head, row, offset=HEADER.itemsize + described)
    image = metadata[image_field]
    offsets, lengths = _records(image, np.frombuffer(table_bytes, ALLOCATION), data_start, table_start, path)
    labels = np.full(samples, -1, np.int64) if label_field is None else metadata[label_field].astype(np.int64)
    return Index(
        sizes=np.stack([image["height"], image["width"]], axis=1).astype(np.int32),
        labels=labels,
        modes=image["mode"].copy(),
        offsets=offsets,
        lengths=lengths,
        checksum=zlib.crc32(table_bytes, zlib.crc32(head)),
    )


def read_exactly(file: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset` of an open file, whose own position is neither used nor changed.

    Raises EOFError when the file ends before that.
    """
    parts = []
    while size:
        part = os.pread(file, size, offset)
        if not part:
            raise EOFError(f"{size} bytes are missing at {offset}")
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _choose_fields(descriptors: npt.NDArray[np.void], path: Path) -> tuple[str, str | None]:
    """Return the names in the metadata row of the image field and of the label field, if there is one."""
    types = descriptors["type_id"].tolist()
    names = [bytes(name).split(b"\0")[0].decode("ascii", "replace") for name in descriptors["name"]]
    for kind, name in zip(types, names, strict=True):
        if kind not in _FIELD_METADATA:
            _refuse(path, f"has a field '{name}' of a custom type {kind}, whose layout is unknown")
    images = [i for i, kind in enumerate(types) if kind == IMAGE_FIELD]
    if len(images) != 1:
        _refuse(path, f"has {len(images)} image fields among {', '.join(names)}; one is needed")
    integers = [i for i, kind in enumerate(types) if kind == INT_FIELD]
    if len(integers) > 1:
        integers = [i for i in integers if names[i] == "label"]
        if len(integers) != 1:
            _refuse(path, f"has several integer fields among {', '.join(names)}; call the one with classes 'label'")
    return f"f{images[0]}", f"f{integers[0]}" if integers else None


def _records(
    image: npt.NDArray[np.void], table: npt.NDArray[np.void], data_start: int, data_end: int, path: Path
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find each image's record in the allocation table; return offsets and lengths, both (n,)."""
    pointers = image["data_ptr"]
    starts, lengths = table["ptr"], table["size"]
    # Sums of uint64 from a foreign file could wrap around, so each value is compared before any are added.
    outside = (starts < data_start) | (starts > data_end) | (lengths > data_end)
    if outside.any() or (starts + lengths > data_end).any():
        _refuse(path, "is damaged: a record is outside the file's data; convert again")
    # Most files are in order; FFCV's parallel writers leave a few sorted runs, which a stable sort merges.
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        table, starts, lengths = table[order], starts[order], lengths[order]
    if (starts[:-1] + lengths[:-1] > starts[1:]).any():
        _refuse(path, "is damaged: two of its records overlap; convert again")
    row = np.searchsorted(starts, pointers)
    row[row == len(starts)] = 0
    missing = (starts[row] != pointers) | (table["sample_id"][row] != np.arange(len(image), dtype=np.uint64))
    if missing.any():
        _refuse(path, f"is damaged: image {int(missing.argmax())} has no record in the file; convert again")
    lengths = lengths[row]
    mode, area = image["mode"], image["height"].astype(np.uint64) * image["width"]
    wrong = (mode > RAW) | (area == 0) | (lengths == 0) | ((mode == RAW) & (lengths != 3 * area))
    if wrong.any():
        _refuse(path, f"is damaged: mode, size and length of image {int(wrong.argmax())} disagree; convert again")
    return pointers.astype(np.int64), lengths.astype(np.int64)


def _refuse_truncated(path: Path, size: int) -> NoReturn:
    _refuse(
        path,
        f"is truncated, or something was appended: its {size} bytes don't end with its table; copy or convert it again",
    )


def _refuse(path: Path, why: str) -> NoReturn:
    raise UsageError(f"{path} {why}.")
