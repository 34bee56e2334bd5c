"""Opening a set of images to load crops from: a folder of images, or a `.beton` file."""

import itertools
from pathlib import Path

from simsiam.pipeline.errors import ForeignFileError, UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.file_kind import describe_other, file_kind
from simsiam.pipeline.sources.file_pattern import expand, is_pattern
from simsiam.pipeline.sources.missing_path import refuse_address, refuse_missing


def open_source(path: str | Path, *, progress: Progress | None = None) -> Source:
    """Open an image folder or a `.beton` file.

    `progress` is called with (done, total) images while a folder is scanned.

    Raises UsageError, in one sentence that says what would help, when `path` is neither or has no image; it is a
    ForeignFileError when converting it to a `.beton` may help.
    """
    # Imported here, so that one kind doesn't need the other's packages.
    refuse_address(path)
    path = expand_home(path)
    if path.is_dir():
        from simsiam.pipeline.sources.image_folder import ImageFolder

        return ImageFolder(path, progress=progress)
    if path.is_file():
        return _open_beton(path)
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive or (is_pattern(path) and any(itertools.chain.from_iterable(expand(path)))):
        raise ForeignFileError(f"{path} is not one file or folder; convert it to a .beton file first.")
    refuse_missing(path, "give a folder of images or a .beton file")


def _open_beton(file: Path) -> Source:
    from simsiam.pipeline.beton.reader import Beton

    try:
        return Beton(file)
    except ForeignFileError:
        if (kind := file_kind(file)) != "other":
            raise ForeignFileError(f"{file} is a {kind} file; convert it to a .beton file first.") from None
        if what := describe_other(file):
            raise UsageError(f"{file} {what}.") from None
        raise
