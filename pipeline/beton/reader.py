"""A `.beton` file (FFCV 1.0) as a Source, read without FFCV."""

import os
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.beton.layout import RAW, Index, read_exactly, read_index
from simsiam.pipeline.beton.manifest import Manifest, read_manifest
from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError, RawRecordError, UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import MOST_CLASSES
from simsiam.pipeline.sources.source_hash import hash_files


class Beton:
    """The images of a `.beton` file, ours or FFCV's `DatasetWriter`'s in any write mode; a `Source`.

    The image field and the integer field with the labels are found by type; without an integer field the images are
    unlabelled. Class and image names come from the manifest `NAME.beton.json`. Without one, classes are called 0, 1, …
    and images `NAME.beton[17]`.

    Opening checks the file's structure, not its pixels, and takes 0.2 s for a million images. Raises UsageError when
    the file is missing, foreign, truncated or unfinished, or when its manifest is damaged or belongs to another file.
    """

    name_prefix = ""
    """Empty: names are those of the manifest, or numbers."""

    def __init__(self, path: str | Path) -> None:
        self.path = expand_home(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"Can't open {self.path}: {error.strerror}; give a .beton file you may read.") from None
        weakref.finalize(self, os.close, self._file)
        try:
            self._index = read_index(self._file, self.path)
        except (EOFError, OSError) as error:
            raise UsageError(f"Can't read {self.path}: {error}; copy or convert it again.") from None
        size = os.fstat(self._file).st_size
        self._manifest = read_manifest(self.path, len(self), size, self._index.checksum)
        self._classes = _class_names(self._index.labels, self._manifest, self.path)

    def __getstate__(self) -> tuple[Path, int]:
        return self.path.absolute(), self._index.checksum

    def __setstate__(self, state: tuple[Path, int]) -> None:
        path, checksum = state
        self.__init__(path)
        if self._index.checksum != checksum:
            raise UsageError(f"{path} was replaced by another file while it was in use; open it again.")

    @property
    def files_hash(self) -> str:
        """Hash of the file's size and date."""
        return hash_files([self.path])

    def __len__(self) -> int:
        """Number of images."""
        return len(self._index.labels)

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of every image in pixels, int32 (n, 2)."""
        return self._index.sizes

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of every image, int64 (n,); -1 where there is none."""
        return self._index.labels

    @property
    def classes(self) -> Sequence[str]:
        """Class names by label; empty when the images are unlabelled."""
        return self._classes

    @property
    def broken(self) -> Sequence[tuple[str, str]]:
        """Empty: images that can't be read were skipped when the file was written; the manifest lists them."""
        return ()

    @property
    def records(self) -> Index:
        """Offset, length and size of each image in the file, for a loader that reads it by itself."""
        return self._index

    @property
    def file(self) -> int:
        """Descriptor of the open file, for reads at an offset; valid as long as this object lives."""
        return self._file

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, if the file has one."""
        return self._manifest

    def name(self, index: int) -> str:
        """Return the image's name in the source it was converted from, or `NAME.beton[index]`."""
        return self._manifest.names[index] if self._manifest else f"{self.path.name}[{index}]"

    def read(self, index: int) -> bytes:
        """Return the JPEG bytes of an image.

        Raises RawRecordError when it is stored as pixels, and ImageError when it can't be read since the disk fails, or
        the file has become shorter since it was opened.
        """
        if self._index.modes[index] == RAW:
            raise RawRecordError(f"{self.name(index)} is stored as pixels and has no encoded bytes; decode it.")
        return self._record(index)

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of an image, uint8 RGB (height, width, 3).

        Raises ImageError when it can't be read, or its JPEG is damaged or isn't of the size in the file's index.
        """
        height, width = self._index.sizes[index].tolist()
        if self._index.modes[index] == RAW:
            # A bytearray makes the array writable, like that of any decoded image.
            return np.frombuffer(bytearray(self._record(index)), np.uint8).reshape(height, width, 3)
        encoded, name = self._record(index), self.name(index)
        try:
            pixels = decode_image(encoded, name)
        except ImageError as error:
            raise self._broken(index, str(error).removeprefix(f"{name}: ")) from None
        if pixels.shape != (height, width, 3):
            found = f"{pixels.shape[0]}×{pixels.shape[1]}"
            raise self._broken(index, f"{found} pixels, but {height}×{width} in the file's index")
        return pixels

    def read_ahead(self, index: npt.NDArray[np.int64]) -> None:
        """Ask the system to fetch images `index`, int64 (k,), into memory in this order; doesn't wait."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        # One call per record: the kernel truncates a request to the device's read-ahead size, 128 KiB on most.
        for offset, length in zip(
            self._index.offsets[index].tolist(), self._index.lengths[index].tolist(), strict=True
        ):
            os.posix_fadvise(self._file, offset, length, os.POSIX_FADV_WILLNEED)

    def damaged_pages(self, progress: Progress | None = None) -> list[str]:
        """Read the whole file and return a sentence for each page that differs from the manifest's checksum.

        `progress` is called with (done, total) pages. Raises UsageError when the file has no manifest.
        """
        if self._manifest is None:
            raise UsageError(f"{self.path} has no manifest with checksums; decode its images instead.")
        page_size, damaged = self._manifest.page_size, []
        for number, expected in enumerate(self._manifest.page_crc32):
            start = number * page_size
            end = min(start + page_size, self._manifest.file_bytes)
            try:
                whole = zlib.crc32(read_exactly(self._file, end - start, start)) == expected
                fault = "differ from what was written"
            except (EOFError, OSError) as error:
                whole, fault = False, f"can't be read ({error})"
            if not whole:
                first, last = np.searchsorted(self._index.offsets, [start, end])
                images = f", images {first} to {last - 1}" if last > first else ""
                damaged.append(f"{self.path}: bytes {start} to {end - 1} {fault}{images}")
            if progress:
                progress(number + 1, len(self._manifest.page_crc32))
        return damaged

    def _record(self, index: int) -> bytes:
        try:
            return read_exactly(self._file, int(self._index.lengths[index]), int(self._index.offsets[index]))
        except EOFError:
            raise self._broken(index, "the file has become shorter since it was opened") from None
        except OSError as error:  # a failing disk
            raise self._broken(index, f"it can't be read: {error.strerror or error}") from None

    def _broken(self, index: int, reason: str) -> ImageError:
        return ImageError(f"{self.name(index)}: {reason} (image {index} of {self.path})")


def _class_names(labels: npt.NDArray[np.int64], manifest: Manifest | None, path: Path) -> list[str]:
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < -1 or largest >= MOST_CLASSES:
        raise UsageError(f"The labels of {path} run from {smallest} to {largest}; classes are 0, 1, … (-1 for none).")
    if manifest is None:
        return [str(label) for label in range(largest + 1)]
    if largest >= len(manifest.classes):
        raise UsageError(f"{path} has a label {largest}, but its manifest names {len(manifest.classes)} classes.")
    return manifest.classes
