"""A set of images on disk, whatever its layout: sizes, labels and classes, encoded bytes, decoded pixels."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Records(Protocol):
    """Numbered images of a folder, an archive or a `.beton`, of which nothing but name and class need be known.

    A `Source` is one of which the sizes are known, too. Images are mostly asked for in ascending order, by several
    processes forked from the one that opened the set, each of which opens its files on first use.
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
        """Name and reason of what was found unfit before any image was read; these have no number."""
        ...

    @property
    def place(self) -> str:
        """What every name begins with that says where the set lies, not what it holds; a manifest leaves it out."""
        ...

    @property
    def stamp(self) -> str:
        """A text that is another one when a file that holds the images has changed: a hash of sizes and dates."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message: its path, or its place in the file."""
        ...

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index`, as stored.

        Raises `simsiam.pipeline.errors.ImageError`, which names the image, when they can't be read, and
        `simsiam.pipeline.errors.RawRecordError` when a `.beton` holds the image as pixels.
        """
        ...


class Source(Records, Protocol):
    """What every loader reads from: numbered images of known size.

    A source is picklable and safe to read from several processes; it opens its files on first use in each.
    """

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of every image in pixels as stored, shape (n, 2)."""
        ...

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB of shape (height, width, 3), as stored (no rotation).

        Raises `simsiam.pipeline.errors.ImageError`, which names the image, when it can't be decoded.
        """
        ...

    def read_ahead(self, index: npt.NDArray[np.int64]) -> None:
        """Have these images, int64 (k,), fetched into memory in this order, without waiting; may do nothing."""
        ...
