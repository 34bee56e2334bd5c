"""Open images to train on: a folder of images, or a `.beton` file."""

from collections.abc import Callable
from pathlib import Path

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.source import Source


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
