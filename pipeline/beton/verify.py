"""A set of images → every broken image, and every damaged piece of a `.beton`, with the reason."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError, MissingError, UsageError
from simsiam.pipeline.source import Records
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.worker_pool import ordered_map

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""

_BATCH = 16
"""Images for one message between processes."""


@dataclass(frozen=True)
class Verification:
    """What a look at every image has found."""

    path: Path
    images: int
    """Images of the set: those decoded, or tried to, and those found unfit before."""
    classes: int
    broken: list[tuple[str, str]]
    """Name and reason of every broken image, and of a file that can't be opened at all."""
    damaged: list[str]
    """A sentence for each page of a `.beton` that isn't as it was written: which bytes, and which images lie there."""
    checksums: bool | None
    """Whether every byte was compared with a manifest's checksums; None for a set that has none, such as a folder."""
    seconds: float
    """Wall time."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken and not self.damaged

    @property
    def images_per_second(self) -> float:
        """Images by the wall time, in which a `.beton` is compared with its checksums, too."""
        return self.images / self.seconds


def verify(
    path: str | Path,
    *,
    devkit: Path | None = None,
    workers: int | None = None,
    show: Callable[[str, str], AbstractContextManager[Progress | None]] = lambda _doing, _unit: nullcontext(),
) -> Verification:
    """Decode every image of a folder, a `.beton` or an archive, and compare a `.beton` with its manifest.

    Broken is what the reference decoder can't decode, what it decodes although the JPEG's data makes no sense at some
    place, and a record of a `.beton` of another size than promised. A file that can't be opened at all is one
    broken thing. `workers` processes decode, by default one a CPU this process may use. `show(doing, unit)` is entered
    for each stage and gives what to call with the progress.

    Raises UsageError when there is nothing at `path`, or something else than the images is missing; RunError naming
    the image in hand when a process dies.
    """
    started = time.perf_counter()
    path = Path(path).expanduser()
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise UsageError(f"Verifying needs at least one worker process, not {workers}.")
    try:
        with show("Listing", "tars") as progress:
            images = open_records(path, devkit=devkit, progress=progress)
    except UsageError as error:
        if isinstance(error, MissingError) or not path.is_file():
            raise
        return Verification(path, 0, 0, [(str(path), str(error))], [], None, time.perf_counter() - started)
    with show("Decoding", "images") as progress:
        broken = [*images.broken, *_broken(images, workers, progress)]
    checksums, damaged = None, []
    if isinstance(images, Beton):
        checksums = images.manifest is not None
        if checksums:
            with show("Comparing", "pages") as progress:
                damaged = images.damaged_pages(progress)
    seconds = time.perf_counter() - started
    return Verification(
        path, len(images) + len(images.broken), len(images.classes), broken, damaged, checksums, seconds
    )


def _broken(images: Records, workers: int, progress: Progress | None) -> list[tuple[str, str]]:
    """Return name and reason of every image that is broken, in the order of the set."""
    broken = []
    results = ordered_map(lambda index: _reason(images, index), len(images), workers, images.name, batch=_BATCH)
    with closing(results):
        for index, reason in enumerate(results):
            if reason is not None:
                broken.append((images.name(index), reason))
            if progress:
                progress(index + 1, len(images))
    return broken


def _reason(images: Records, index: int) -> str | None:
    """Return why an image is broken, None when it isn't."""
    name = images.name(index)
    try:
        if isinstance(images, Beton):
            # It knows of records that are pixels, of which any byte is good and only their number can be wrong.
            images.decode(index)
        else:
            decode_image(images.read(index), name)
    except ImageError as error:
        return str(error).removeprefix(f"{name}: ")
    return None
