"""A source of images that don't exist, for the synthetic loader, which needs only their number and size."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import RunError


class SyntheticSource:
    """A `Source` of unlabelled images of 375 × 500 pixels, ImageNet's usual size, which can't be read."""

    classes: Sequence[str] = ()
    broken: Sequence[tuple[str, str]] = ()
    name_prefix = ""
    files_hash = ""

    def __init__(self, count: int) -> None:
        self.sizes: npt.NDArray[np.int32] = np.tile(np.array([375, 500], np.int32), (count, 1))
        """Height and width in pixels, (n, 2)."""
        self.labels: npt.NDArray[np.int64] = np.full(count, -1, np.int64)
        """-1 for each image, (n,)."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the name of image `index`."""
        return f"synthetic image {index}"

    def read(self, index: int) -> bytes:
        """Raise RunError: there is nothing to read."""
        raise RunError(f"{self.name(index)} has no file.")

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Raise RunError, likewise."""
        raise RunError(f"{self.name(index)} has no pixels.")

    def read_ahead(self, index: npt.NDArray[np.int64]) -> None:
        """Do nothing: there is nothing to read."""
