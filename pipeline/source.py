"""A set of images on disk, whatever its layout: sizes, labels and classes, encoded bytes, decoded pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError


class Source(Protocol):
    """What every loader reads from: numbered images of known size.

    A source is picklable and safe to read from several processes; it opens its files on first use in each.
    """

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of every image in pixels as stored, shape (n, 2)."""
        ...

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
        """What was left out when the source was opened, as (name, reason); these have no number."""
        ...

    @property
    def place(self) -> str:
        """What every name begins with that says where the set lies, not what it holds; a manifest leaves it out."""
        ...

    def __len__(self) -> int:
        """Number of readable images."""
        ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message: its path, or its place in the file."""
        ...

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index`, as stored."""
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
        from simsiam.pipeline.image_folder import ImageFolder

        return ImageFolder(path, progress=progress)
    if path.is_file():
        from simsiam.pipeline.beton import Beton

        return Beton(path)
    raise UsageError(f"There is no folder or file {path}; give a folder of images or a .beton file.")
