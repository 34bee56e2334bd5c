"""Images in one or many zips, read in place."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.sources.archive_layout import find_classes, find_images
from simsiam.pipeline.sources.file_ranges import FileRanges
from simsiam.pipeline.sources.source_hash import hash_files
from simsiam.pipeline.sources.zip_index import LOCAL_HEADER, index_zip


class ZipImages:
    """Images in zips, stored or deflated, in the order of their bytes; `Records`.

    The classes are the folders of the first level, below those that all images share; ImageNet's validation images get
    theirs from `devkit`. Nothing is unpacked to the disk, and no more of an image than the zip's directory announces.

    With `folder`, only what lies in this folder of the zips is taken. `progress` is called with (done, total) zips.

    Raises UsageError when a zip is damaged, there is no image in them, or their folders are splits, and MissingError
    when the devkit is missing.
    """

    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    broken: Sequence[tuple[str, str]]
    name_prefix = ""

    def __init__(
        self, zips: Sequence[Path], devkit: Path | None = None, progress: Progress | None = None, folder: bytes = b""
    ) -> None:
        indices = []
        for path in zips:
            indices.append(index_zip(path))
            if progress:
                progress(len(indices), len(zips))
        zip_of = np.concatenate([np.full(len(index.names), zip, np.int32) for zip, index in enumerate(indices)])
        names = [name for index in indices for name in index.names]
        refused = [refusal for index in indices for refusal in index.refused]
        chosen, self.broken = find_images(zips, names, zip_of, refused, folder)
        names = [names[member] for member in chosen]
        self.classes, self.labels = find_classes(names, zips, devkit)
        self._zips, self._ranges, self._names, self._zip_of = zips, FileRanges(zips), PathList(names), zip_of[chosen]
        self._offsets, self._packed, self._lengths, self._crc32, self._deflated = (
            np.concatenate(parts)[chosen] for parts in zip(*(index[1:-1] for index in indices), strict=True)
        )

    @property
    def files_hash(self) -> str:
        """Hash of the files' sizes and dates."""
        return hash_files(self._zips)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of image `index` in its zip, printable."""
        return printable_path(self._names[index])

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`. Raises ImageError naming it when they can't be read or are damaged."""
        packed = self._read_packed(index)
        length = int(self._lengths[index])
        if self._deflated[index]:
            unpack = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                # One byte more shows that there are more than announced.
                content = unpack.decompress(packed, length + 1)
            except zlib.error as error:
                raise ImageError(f"{self.name(index)}: it can't be unpacked ({error})") from None
            if len(content) != length or not unpack.eof:
                than = "more" if len(content) > length else "fewer"
                raise ImageError(f"{self.name(index)}: it unpacks to {than} than the {length:,} bytes it announces")
        else:
            content = packed
        if zlib.crc32(content) != self._crc32[index]:
            raise ImageError(f"{self.name(index)}: its bytes differ from their checksum in the zip")
        return content

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB (height, width, 3). Raises ImageError naming it."""
        return decode_image(self.read(index), self.name(index))

    def _read_packed(self, index: int) -> bytes:
        number, offset = int(self._zip_of[index]), int(self._offsets[index])
        try:
            header = LOCAL_HEADER.unpack(self._ranges.read(number, LOCAL_HEADER.size, offset))
            if header[0] != b"PK\3\4":
                raise ImageError(f"{self.name(index)}: its header in {self._zips[number]} is damaged")
            # Name and extra field may be longer here than in the zip's directory.
            start = offset + LOCAL_HEADER.size + header[-2] + header[-1]
            return self._ranges.read(number, int(self._packed[index]), start)
        except OSError as error:
            raise ImageError(f"{self.name(index)}: {error.strerror or error}") from None
        except EOFError:
            raise ImageError(f"{self.name(index)}: {self._zips[number]} has become shorter") from None
