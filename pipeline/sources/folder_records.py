"""The images of a folder as they are listed, none of them opened; what is converted or verified of a folder."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.paths import printable_path
from simsiam.pipeline.sources.endings import warn_of_other_files
from simsiam.pipeline.sources.folder_walk import FolderListing
from simsiam.pipeline.sources.image_folder import classes_and_labels
from simsiam.pipeline.sources.source_hash import hash_file_stats
from simsiam.pipeline.sources.split_names import refuse_splits_as_classes


class FolderRecords:
    """The files of a folder listing, with the order, the classes and the warning of `ImageFolder`; `Records`.

    `ImageFolder` opens every file, since all sizes must be known before the first crop is drawn. To decode all images
    once, that isn't needed.
    """

    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    broken: Sequence[tuple[str, str]]
    name_prefix: str
    files_hash: str

    def __init__(self, root: Path, listing: FolderListing) -> None:
        self._root = os.fsencode(root) + b"/"
        self._paths = listing.paths
        self.name_prefix = printable_path(self._root)
        warn_of_other_files(listing.other_endings, printable_path(os.fsencode(root)), listing.hidden)
        self.files_hash = hash_file_stats(listing.file_bytes, listing.modified_ns)
        self.classes, self.labels = classes_and_labels(listing.paths)
        refuse_splits_as_classes(self.classes, printable_path(os.fsencode(root)))
        self.broken = [(printable_path(self._root + path), reason) for path, reason in listing.unreachable]

    def __len__(self) -> int:
        """Number of image files."""
        return len(self._paths)

    def name(self, index: int) -> str:
        """Return the path of file `index`, printable."""
        return printable_path(self._root + self._paths[index])

    def read(self, index: int) -> bytes:
        """Return the bytes of file `index`. Raises ImageError naming it when it can't be read."""
        try:
            with io.FileIO(self._root + self._paths[index]) as file:
                return file.readall()
        except OSError as error:
            raise ImageError(f"{self.name(index)}: {error.strerror or error}") from None

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of file `index`, uint8 RGB (height, width, 3). Raises ImageError naming it."""
        return decode_image(self.read(index), self.name(index))
