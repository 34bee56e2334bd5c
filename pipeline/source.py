"""A set of images on disk, whatever its layout: sizes, labels and classes, encoded bytes, decoded pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.records import Records


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

        Raises `simsiam.pipeline.decode.ImageError`, which names the image, when it can't be decoded.
        """
        ...


def open_source(path: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Source:
    """Open an image folder or a `.beton` file.

    `progress(done, total)` is called while a folder is scanned; a `.beton` opens at once.

    Raises UsageError, in one sentence with the way out, when `path` is neither or holds no image.
    """
    # Imported here so that reading one kind needs nothing of the other.
    path = Path(path).expanduser()
    if path.is_dir():
        from simsiam.pipeline.sources.image_folder import ImageFolder

        return ImageFolder(path, progress=progress)
    if path.is_file():
        from simsiam.pipeline.beton.reader import Beton

        return Beton(path)
    raise UsageError(f"There is no folder or file {path}; give a folder of images or a .beton file.")
