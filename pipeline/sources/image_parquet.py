"""Parquet files of images, as Hugging Face's `datasets` writes them."""

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError, MissingError, UsageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.source import MOST_CLASSES
from simsiam.pipeline.sources.source_hash import hash_files

_ROWS = 16
"""Rows of images in memory at once, in addition to the pages of the file that contain them."""


class _Columns(NamedTuple):
    image: str
    label: str | None
    classes: list[str]
    candidates: list[str]
    """Columns that could be the label's."""


class _Cursor:
    """Reads a row group once, from start to end."""

    def __init__(self, key: tuple[int, int, int], rows: Iterator[Any]) -> None:
        self.key, self._rows, self._next = key, rows, 0

    def row(self, number: int) -> Any:
        """Return a row of the group that hasn't been passed yet, and pass it."""
        for _ in range(number - self._next):
            next(self._rows)
        self._next = number + 1
        return next(self._rows)

    def has_passed(self, number: int) -> bool:
        """Return whether a row can't be returned any more."""
        return number < self._next


class ImageParquet:
    """Images of parquet files with a column of `{bytes, path}` and mostly one of class numbers; `Records`.

    Columns and class names are those of the schema's `huggingface` metadata. Without it, the image column is found by
    its type, the label column by its name. Image bytes are read on demand, row group by row group.

    Raises UsageError when pyarrow is missing, or a file is damaged or has no such column.
    """

    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    broken: Sequence[tuple[str, str]] = ()
    name_prefix = ""

    def __init__(self, files: Sequence[Path]) -> None:
        parquet = _pyarrow_parquet()
        self._files = files
        labels, names = [], []
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        self._columns = _Columns("", None, [], [])
        for number, path in enumerate(files):
            try:
                with parquet.ParquetFile(path) as file:
                    columns = _find_columns(file.schema_arrow, path)
                    if number and columns != self._columns:
                        raise UsageError(f"{path} has other columns or classes than {files[0]}; convert them apart.")
                    if not number:
                        _tell_choice_of_labels(columns, path)
                    self._columns = columns
                    rows = file.metadata.num_rows
                    groups += [(number, g, file.metadata.row_group(g).num_rows) for g in range(file.num_row_groups)]
                    table = file.read([column for column in (columns.label, f"{columns.image}.path") if column])
                labels.append(_labels(table, columns, rows, path))
                names += _names(table, columns.image, path, rows)
            # pyarrow's own errors are ValueError or OSError.
            except (OSError, ValueError) as error:
                if isinstance(error, UsageError):
                    raise
                raise UsageError(f"Can't read {path}: {error}; download or copy it again.") from None
        self.labels = np.concatenate(labels)
        highest = int(self.labels.max(initial=-1))
        self.classes = self._columns.classes or [str(label) for label in range(highest + 1)]
        if not names:
            raise UsageError(f"{files[0]} has no row; give files with images.")
        self._names = PathList(names)
        self._groups = groups
        self._ends = np.cumsum([rows for _, _, rows in groups])
        self._cursor: _Cursor | None = None

    @property
    def files_hash(self) -> str:
        """Hash of the files' sizes and dates."""
        return hash_files(self._files)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the path that the image had, or the name of its file and its row."""
        return printable_path(self._names[index])

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`. Raises ImageError naming it when they can't be read."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        file, row_group, rows = self._groups[group]
        number = index - int(self._ends[group]) + rows
        key = (os.getpid(), file, row_group)
        try:
            if self._cursor is None or self._cursor.key != key or self._cursor.has_passed(number):
                self._cursor = _Cursor(key, self._rows(file, row_group))
            row = self._cursor.row(number)
        except (OSError, ValueError, StopIteration) as error:
            self._cursor = None
            raise ImageError(f"{self.name(index)}: {self._files[file]} can't be read: {error}") from None
        content = row.get("bytes") if isinstance(row, dict) else row
        if content is None:
            raise ImageError(f"{self.name(index)}: {self._files[file]} contains its path, but not its bytes")
        return content

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB (height, width, 3). Raises ImageError naming it."""
        return decode_image(self.read(index), self.name(index))

    def _rows(self, file: int, row_group: int) -> Iterator[Any]:
        column = self._columns.image
        # Checksums are compared if the file has them.
        options = {"buffer_size": 1 << 20, "page_checksum_verification": True}
        with _pyarrow_parquet().ParquetFile(self._files[file], **options) as opened:
            for batch in opened.iter_batches(_ROWS, row_groups=[row_group], columns=[column], use_threads=False):
                for row in batch.column(0):
                    yield row.as_py()


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingError("Reading parquet files needs pyarrow; install it with: pip install pyarrow.") from None
    return pyarrow.parquet


def _find_columns(schema: Any, path: Path) -> _Columns:
    features = _features(schema, path)
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    if not images:
        images = [field.name for field in schema if _holds_images(field.type)]
    if len(images) != 1:
        raise UsageError(f"{path} has {len(images)} columns of images among {', '.join(schema.names)}; one is needed.")
    candidates = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    labels = candidates
    if len(labels) != 1:
        labels = [name for name in ("label", "labels") if name in schema.names]
        candidates = list(dict.fromkeys(candidates + labels))
        labels = labels[:1]
    for name in (*images, *labels):
        if schema.names.count(name) != 1:
            raise UsageError(f"{path} has {schema.names.count(name)} columns {name}; one is needed.")
        kind = schema.field(name).type
        if name in images and not _holds_images(kind):
            raise UsageError(f"The column {name} of {path} has the type {kind}; a struct with the bytes is needed.")
        if name in labels and not re.fullmatch(r"u?int\d+", str(kind)):
            raise UsageError(f"The column {name} of {path} has the type {kind}; make it class numbers, or drop it.")
    if not labels:
        return _Columns(images[0], None, [], candidates)
    return _Columns(images[0], labels[0], list(features.get(labels[0], {}).get("names") or []), candidates)


def _tell_choice_of_labels(columns: _Columns, path: Path) -> None:
    if len(columns.candidates) > 1:
        chosen = f"{columns.label} is taken" if columns.label else "none is taken, and the images are unlabelled"
        warnings.warn(
            f"{path} has {len(columns.candidates)} columns of classes ({', '.join(columns.candidates)}): {chosen}; for"
            " another choice write the file with the one you want alone, called label.",
            stacklevel=3,
        )


def _features(schema: Any, path: Path) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's `datasets` wrote about the columns; nothing if another program wrote the file."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    try:
        features = metadata.get("info", {}).get("features", {}).items()
    except AttributeError:
        raise UsageError(
            f"Can't read {path}: its metadata called huggingface isn't what that library writes; download it again."
        ) from None
    # A list describes a column of lists.
    return {name: feature for name, feature in features if isinstance(feature, dict)}


def _holds_images(kind: Any) -> bool:
    """Return whether a column of this type may contain encoded images: a struct with `bytes`, or bytes."""
    inner = [kind.field(i).type for i in range(kind.num_fields) if kind.field(i).name == "bytes"]
    return str(inner[0] if inner else kind) in ("binary", "large_binary")


def _labels(table: Any, columns: _Columns, rows: int, path: Path) -> npt.NDArray[np.int64]:
    if columns.label is None:
        return np.full(rows, -1, np.int64)
    labels = [-1 if value is None else value for value in table.column(columns.label).to_pylist()]
    limit = len(columns.classes) or MOST_CLASSES
    wrong = [label for label in labels if not -1 <= label < limit]
    if wrong:
        raise UsageError(
            f"The column {columns.label} of {path} holds {wrong[0]}; classes are numbers below {limit}, or -1 for none."
        )
    return np.array(labels, np.int64)


def _names(table: Any, image: str, path: Path, rows: int) -> list[bytes]:
    given = table.column(image).to_pylist() if image in table.column_names else [None] * rows
    return [
        os.fsencode(str((row or {}).get("path") or f"{path.name}[{number}]")).replace(b"\0", b"")
        for number, row in enumerate(given)
    ]
