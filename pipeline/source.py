"""A set of images on disk, whatever its layout: the protocols that everything reads through."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

MOST_CLASSES = 1 << 20
"""Labels from here on are refused: where class names are missing, they are made for every label up to the largest."""


class Records(Protocol):
    """Numbered images whose names and classes are known; what is converted or verified.

    They are read mostly in ascending order, by several processes forked from the one that opened the set. So files are
    opened on first use in each process.
    """

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of every image, shape (n,); -1 where there is none."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Class names by label; empty when the images are unlabelled."""
        ...

    @property
    def broken(self) -> Sequence[tuple[str, str]]:
        """Name and reason of what was found broken before any image was read; these have no number."""
        ...

    @property
    def name_prefix(self) -> str:
        """Start of every name that says where the set is stored, such as `/data/train/`; not part of a manifest."""
        ...

    @property
    def files_hash(self) -> str:
        """Hash of the sizes and dates of the files that hold the images: it changes when one of them does."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """Return the name of image `index` for messages: its path, or the name of its file and its number there."""
        ...

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index`, as stored.

        Raises `simsiam.pipeline.errors.ImageError`, which names the image, when they can't be read, and
        `simsiam.pipeline.errors.RawRecordError` when a `.beton` holds the image as pixels.
        """
        ...

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB of shape (height, width, 3), as stored (no rotation).

        Raises `simsiam.pipeline.errors.ImageError`, which names the image, when it can't be decoded.
        """
        ...


class Source(Records, Protocol):
    """Records whose sizes are known as well; what loaders read from.

    A source can be pickled, since the processes of a loader may be spawned.
    """

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of every image in pixels as stored, shape (n, 2)."""
        ...

    def read_ahead(self, index: npt.NDArray[np.int64]) -> None:
        """Ask the system to fetch images `index`, int64 (k,), into memory in this order; doesn't wait.

        A hint: a source whose images aren't in one file does nothing.
        """
        ...
