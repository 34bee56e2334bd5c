"""Images in one or many tars, read in place."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.paths import PathList, printable_path
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
        self._open: tuple[int, int, int] | None = None

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
        length = int(self._lengths[index])
        try:
            content = os.pread(self._file(int(self._tar_of[index])), length, int(self._offsets[index]))
        except OSError as error:
            raise ImageError(f"{self.name(index)}: {error.strerror or error}") from None
        if len(content) != length:
            raise ImageError(f"{self.name(index)}: {self._tars[self._tar_of[index]]} has become shorter")
        return content

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB (height, width, 3). Raises ImageError naming it."""
        return decode_image(self.read(index), self.name(index))

    def _file(self, tar: int) -> int:
        # One tar at a time, since there may be more shards than a process may open; each process opens its own.
        if self._open is None or self._open[:2] != (os.getpid(), tar):
            if self._open is not None:
                os.close(self._open[2])
                self._open = None
            self._open = os.getpid(), tar, os.open(self._tars[tar], os.O_RDONLY)
        return self._open[2]

    def __del__(self) -> None:
        if self._open is not None:
            os.close(self._open[2])
