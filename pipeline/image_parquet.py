"""Parquet files of images, as Hugging Face's `datasets` writes them → encoded images with labels."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import ImageError
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.folder_walk import PathList
from simsiam.pipeline.scan import printable_path

_ROWS = 16
"""Rows of images in memory at once, besides the pages of the file that hold them."""


class _Columns(NamedTuple):
    image: str
    label: str | None
    classes: list[str]


class _Cursor:
    """A row group read from its start to its end."""

    def __init__(self, place: tuple[int, int, int], rows: Iterator[Any]) -> None:
        self.place, self._rows, self._next = place, rows, 0

    def row(self, number: int) -> Any:
        """Return a row of the group that hasn't been passed yet."""
        for _ in range(number - self._next):
            next(self._rows)
        self._next = number + 1
        return next(self._rows)

    def has_passed(self, number: int) -> bool:
        """Tell whether a row lies behind."""
        return number < self._next


class ImageParquet:
    """Images of parquet files with a column of `{bytes, path}` and, mostly, one of class numbers; `Records`.

    The columns and the classes' names are those of the schema's `huggingface` metadata; without it, the column is
    found by its type, the label by its name. Image bytes are read when they are asked for, row group by row group.

    Raises UsageError when pyarrow is missing, or a file is damaged or has no such column.
    """

    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    broken: Sequence[tuple[str, str]] = ()

    def __init__(self, files: Sequence[Path]) -> None:
        parquet = _pyarrow_parquet()
        self._files = files
        labels, names = [], []
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        self._columns = _Columns("", None, [])
        for place, path in enumerate(files):
            try:
                with parquet.ParquetFile(path) as file:
                    columns = _find_columns(file.schema_arrow, path)
                    if place and columns != self._columns:
                        raise UsageError(f"{path} has other columns or classes than {files[0]}; convert them apart.")
                    self._columns = columns
                    rows = file.metadata.num_rows
                    groups += [(place, g, file.metadata.row_group(g).num_rows) for g in range(file.num_row_groups)]
                    table = file.read([column for column in (columns.label, f"{columns.image}.path") if column])
            # pyarrow's errors are ValueError and OSError, besides its own.
            except (OSError, ValueError) as error:
                if isinstance(error, UsageError):
                    raise
                raise UsageError(f"Can't read {path}: {error}; download or copy it again.") from None
            labels.append(_labels(table, columns.label, rows))
            names += _names(table, columns.image, path, rows)
        self.labels = np.concatenate(labels)
        highest = int(self.labels.max(initial=-1))
        self.classes = self._columns.classes or [str(label) for label in range(highest + 1)]
        if not len(names) or self.labels.min() < -1 or highest >= len(self.classes) > 0:
            raise UsageError(f"{files[0]} holds no image, or labels beyond its {len(self.classes)} classes.")
        self._names = PathList(names)
        self._groups = groups
        self._ends = np.cumsum([rows for _, _, rows in groups])
        self._cursor: _Cursor | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the path the image had, or the file's name with the row."""
        return printable_path(self._names[index])

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`. Raises ImageError naming it when they can't be read."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        file, row_group, rows = self._groups[group]
        number = index - int(self._ends[group]) + rows
        place = (os.getpid(), file, row_group)
        try:
            if self._cursor is None or self._cursor.place != place or self._cursor.has_passed(number):
                self._cursor = _Cursor(place, self._rows(file, row_group))
            row = self._cursor.row(number)
        except (OSError, ValueError, StopIteration) as error:
            self._cursor = None
            raise ImageError(f"{self.name(index)}: {self._files[file]} can't be read: {error}") from None
        content = row.get("bytes") if isinstance(row, dict) else row
        if content is None:
            raise ImageError(f"{self.name(index)}: only its path is in {self._files[file]}, not its bytes")
        return content

    def _rows(self, file: int, row_group: int) -> Iterator[Any]:
        column = self._columns.image
        with _pyarrow_parquet().ParquetFile(self._files[file], buffer_size=1 << 20) as opened:
            for batch in opened.iter_batches(_ROWS, row_groups=[row_group], columns=[column], use_threads=False):
                for row in batch.column(0):
                    yield row.as_py()


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Reading parquet files needs pyarrow; install it with: pip install pyarrow.") from None
    return pyarrow.parquet


def _find_columns(schema: Any, path: Path) -> _Columns:
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    if not images:
        images = [field.name for field in schema if _holds_bytes(field.type)]
    if len(images) != 1:
        raise UsageError(f"{path} has {len(images)} columns of images among {', '.join(schema.names)}; one is needed.")
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if len(labels) != 1:
        labels = [name for name in ("label", "labels") if name in schema.names]
    label = labels[0] if labels else None
    return _Columns(images[0], label, list(features.get(label, {}).get("names") or []))


def _holds_bytes(kind: Any) -> bool:
    """Tell whether a column of this type may hold encoded images: a struct with `bytes`, or bytes."""
    names = [kind.field(i).name for i in range(kind.num_fields)]
    return "bytes" in names or str(kind) in ("binary", "large_binary")


def _labels(table: Any, label: str | None, rows: int) -> npt.NDArray[np.int64]:
    if label is None:
        return np.full(rows, -1, np.int64)
    return np.array([-1 if value is None else value for value in table.column(label).to_pylist()], np.int64)


def _names(table: Any, image: str, path: Path, rows: int) -> list[bytes]:
    given = table.column(image).to_pylist() if image in table.column_names else [None] * rows
    return [
        os.fsencode((row or {}).get("path") or f"{path.name}[{number}]").replace(b"\0", b"")
        for number, row in enumerate(given)
    ]
