"""A folder of images as a Source: classes by first folder level, sizes from a cached scan, broken files skipped."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ForeignFileError, ImageError, UsageError
from simsiam.pipeline.paths import PathList, expand_home, printable_path
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.sources.archive_files import find_archives, is_compressed
from simsiam.pipeline.sources.endings import IMAGE_ENDINGS, warn_of_other_files
from simsiam.pipeline.sources.folder_walk import FolderListing, walk_folder
from simsiam.pipeline.sources.scan import scan
from simsiam.pipeline.sources.source_hash import hash_file_stats
from simsiam.pipeline.sources.split_names import refuse_splits_as_classes


class ImageFolder:
    """The images below a folder, sorted by relative path as bytes; a `Source`.

    Every folder of the first level that contains an image, at any depth, is a class; classes are sorted by name as
    bytes. Images in the folder itself are unlabelled (-1). A warning counts hidden files and folders and files with
    another ending, which aren't read; symbolic links are followed. Broken files have no index; `broken` lists them.

    Names of images and classes have `\\xNN` for bytes that aren't UTF-8, so that they can always be printed.
    """

    root: Path
    """The folder, as an absolute path."""
    sizes: npt.NDArray[np.int32]
    """Height and width of every image in pixels as stored, (n, 2)."""
    labels: npt.NDArray[np.int64]
    """Class of every image, (n,); -1 where there is none."""
    classes: tuple[str, ...]
    """Class names by label; empty when there are no class folders."""
    name_prefix: str
    """The folder with a slash, printable: the start of every name."""
    files_hash: str
    """Hash of the files' sizes and dates."""
    broken: Sequence[tuple[str, str]]
    """Path and reason of each file and folder that can't be read."""

    def __init__(
        self,
        path: str | Path,
        *,
        workers: int | None = None,
        cache: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Scan the folder; for `workers`, `cache` and `progress` see `scan`.

        Raises UsageError when there is no such folder, no readable image in it, or its class folders are splits.
        """
        self.root = expand_home(path).absolute()
        self.name_prefix = printable_path(bytes(self.root)) + "/"
        listing = self._walk()
        self.classes, labels = classes_and_labels(listing.paths)
        refuse_splits_as_classes(self.classes, self._printable(b""))
        self.files_hash = hash_file_stats(listing.file_bytes, listing.modified_ns)
        sizes, reasons = scan(self.root, listing, workers, cache, progress)
        readable = np.flatnonzero(sizes[:, 0])
        self.broken = [(self._printable(path), reason) for path, reason in listing.unreachable]
        self.broken += [(self._printable(listing.paths[index]), reason) for index, reason in reasons.items()]
        self.broken.sort()
        if not len(readable):
            self._refuse(listing)
        warn_of_other_files(listing.other_endings, self._printable(b""), listing.hidden)
        self.sizes = sizes[readable]
        self.labels = labels[readable]
        self._paths = PathList(listing.paths[int(i)] for i in readable) if reasons else listing.paths

    def __len__(self) -> int:
        """Number of readable images."""
        return len(self._paths)

    def name(self, index: int) -> str:
        """Return the path of image `index`, printable."""
        return self._printable(self._paths[index])

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of image `index`, as stored.

        Raises ImageError naming the file when it can't be read.
        """
        try:
            return (self.root / os.fsdecode(self._paths[index])).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name(index)}: {error.strerror or error}") from None

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of image `index`, uint8 RGB of shape (height, width, 3), as stored (no rotation).

        Raises ImageError naming the file when it can't be decoded, or isn't of the size that was scanned.
        """
        pixels = decode_image(self.read(index), self.name(index))
        height, width = self.sizes[index]
        # Crop boxes are drawn for the scanned size, and would silently reach past a smaller image.
        if pixels.shape[:2] != (height, width):
            raise ImageError(
                f"{self.name(index)}: {pixels.shape[1]} × {pixels.shape[0]} pixels, but {width} × {height} when the"
                " folder was scanned; leave the folder unchanged while it is in use"
            )
        return pixels

    def read_ahead(self, index: npt.NDArray[np.int64]) -> None:
        """Do nothing: the images are in separate files."""

    def _walk(self) -> FolderListing:
        try:
            return walk_folder(self.root)
        except FileNotFoundError:
            raise UsageError(f"There is no folder {self._printable(b'')}; give the folder of your images.") from None
        except NotADirectoryError:
            raise UsageError(f"{self._printable(b'')} is a file; give the folder of your images.") from None
        except OSError as error:
            raise UsageError(
                f"The folder {self._printable(b'')} can't be listed ({error.strerror}); give one that you may read."
            ) from None

    def _refuse(self, listing: FolderListing) -> None:
        root = self._printable(b"")
        if self.broken:
            name, reason = self.broken[0]
            raise UsageError(
                f"None of the {len(self.broken)} images in {root} can be read, the first because: {reason} ({name});"
                " repair them or give another folder."
            )
        for name in sorted(path.name for path in self.root.iterdir()):
            if name.endswith(".beton"):
                raise UsageError(f"There is no image in {root}, but {name}: give that file.")
        for archive in itertools.chain.from_iterable(find_archives(self.root).values()):
            name, way = archive.relative_to(self.root), "unpack" if is_compressed(archive) else "convert or unpack"
            raise ForeignFileError(f"There is no image in {root}, but {name}: {way} it first.")
        others = listing.other_endings.total()
        found = f"only {others} other files" if others else "which is empty"
        endings = ", ".join(f".{ending}" for ending in IMAGE_ENDINGS)
        raise UsageError(f"There is no image in {root}, {found}; images are the files that end in {endings}.")

    def _printable(self, path: bytes) -> str:
        return printable_path(bytes(self.root / os.fsdecode(path)))


def classes_and_labels(paths: PathList) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return class names and labels: the names of the first folder level, sorted as bytes, and each path's index.

    The label of a path without a folder is -1.
    """
    # The folder name with its slash, or nothing for a file in the root.
    folders = [path[: path.find(b"/") + 1] for path in paths]
    names = sorted({folder.removesuffix(b"/") for folder in folders if folder})
    label = {name + b"/": index for index, name in enumerate(names)}
    label[b""] = -1
    labels = np.fromiter((label[folder] for folder in folders), np.int64, len(folders))
    return tuple(printable_path(name) for name in names), labels
