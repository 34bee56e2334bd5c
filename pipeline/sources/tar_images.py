"""Images in one or many tars, read in place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.sources.file_ranges import FileRanges
from simsiam.pipeline.sources.source_hash import hash_files


class TarImages:
    """Images in tars, each a range of bytes of one tar; `Records`."""

    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    broken: Sequence[tuple[str, str]]
    name_prefix = ""

    def __init__(
        self,
        tars: Sequence[Path],
        tar_of: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        names: PathList,
        labels: npt.NDArray[np.int64],
        classes: Sequence[str],
        broken: Sequence[tuple[str, str]],
    ) -> None:
        """Take the index in `tars`, offset, length, name and label of every image, all (n,)."""
        self._tars, self._tar_of, self._offsets, self._lengths, self._names = tars, tar_of, offsets, lengths, names
        self.labels, self.classes, self.broken = labels, classes, broken
        self._ranges = FileRanges(tars)

    @property
    def files_hash(self) -> str:
        """Hash of the files' sizes and dates."""
        return hash_files(dict.fromkeys(self._tars))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of image `index` in its tar, printable."""
        return printable_path(self._names[index])

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`. Raises ImageError naming it when they can't be read."""
        tar = int(self._tar_of[index])
        try:
            return self._ranges.read(tar, int(self._lengths[index]), int(self._offsets[index]))
        except OSError as error:
            raise ImageError(f"{self.name(index)}: {error.strerror or error}") from None
        except EOFError:
            raise ImageError(f"{self.name(index)}: {self._tars[tar]} has become shorter") from None

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB (height, width, 3). Raises ImageError naming it."""
        return decode_image(self.read(index), self.name(index))
