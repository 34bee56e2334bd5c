"""Opening a set of images to load crops from: a folder of images, or a `.beton` file."""

from pathlib import Path

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Source


def open_source(path: str | Path, *, progress: Progress | None = None) -> Source:
    """Open an image folder or a `.beton` file.

    `progress` is called with (done, total) images while a folder is scanned.

    Raises UsageError, in one sentence that says what would help, when `path` is neither or has no image.
    """
    # Imported here, so that one kind doesn't need the other's packages.
    path = expand_home(path)
    if path.is_dir():
        from simsiam.pipeline.sources.image_folder import ImageFolder

        return ImageFolder(path, progress=progress)
    if path.is_file():
        from simsiam.pipeline.beton.reader import Beton

        return Beton(path)
    raise UsageError(f"There is no folder or file {path}; give a folder of images or a .beton file.")
