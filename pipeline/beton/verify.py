"""Verification: a set of images → every broken image, and every damaged page of a `.beton`, with the reason."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import ImageError, MissingError, UsageError
from simsiam.pipeline.one_colour import is_one_colour
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Records
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.worker_count import worker_count
from simsiam.pipeline.worker_pool import ordered_map

_BATCH = 16
"""Images per message between processes."""


@dataclass(frozen=True)
class Verification:
    """What was found."""

    path: Path
    images: int
    """Images of the set, broken ones included."""
    classes: int
    broken: list[tuple[str, str]]
    """Name and reason of every broken image, and of a file that can't be opened at all."""
    damaged: list[str]
    """A sentence for each page of a `.beton` that isn't as it was written: which bytes, and which images are there."""
    one_colour: list[str]
    """Name of every image all of whose pixels have one colour; it isn't broken."""
    checksums: bool | None
    """Whether every byte was compared with the manifest's checksums; None for a set other than a `.beton`."""
    seconds: float
    """Wall time."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken and not self.damaged

    @property
    def images_per_second(self) -> float:
        """Images per second of wall time, which includes comparing the checksums."""
        return self.images / self.seconds


def verify(
    path: str | Path,
    *,
    devkit: Path | None = None,
    workers: int | None = None,
    show: Callable[[str, str], AbstractContextManager[Progress | None]] = lambda _doing, _unit: nullcontext(),
) -> Verification:
    """Decode every image of a folder, a `.beton` or an archive, and compare a `.beton` with its manifest.

    An image is broken if the reference decoder refuses it (`simsiam.pipeline.decode`), or if it is a record of a
    `.beton` whose size isn't that in the file's index. A file that can't be opened at all counts as one broken image.

    Args:
        path: As for `open_records`.
        devkit: As for `open_records`.
        workers: Processes that decode, by default one for each core this program may use.
        show: Called with (doing, unit) for each stage; the context manager it returns gives the stage's progress
            callback.

    Raises:
        UsageError: There is nothing at `path`, or a package or a companion file is missing.
        DeadWorkerError: A process died; the message names the image it was working on.
    """
    started = time.perf_counter()
    path = expand_home(path)
    workers = worker_count(workers, at_least=1)
    try:
        with show("Listing", "tars") as progress:
            images = open_records(path, devkit=devkit, progress=progress)
    except UsageError as error:
        if isinstance(error, MissingError) or not path.is_file():
            raise
        return Verification(path, 0, 0, [(str(path), str(error))], [], [], None, time.perf_counter() - started)
    with show("Decoding", "images") as progress:
        found, one_colour = _decode_all(images, workers, progress)
    broken = [*images.broken, *found]
    checksums, damaged = None, []
    if isinstance(images, Beton):
        checksums = images.manifest is not None
        if checksums:
            with show("Comparing", "pages") as progress:
                damaged = images.damaged_pages(progress)
    seconds = time.perf_counter() - started
    return Verification(
        path, len(images) + len(images.broken), len(images.classes), broken, damaged, one_colour, checksums, seconds
    )


def _decode_all(images: Records, workers: int, progress: Progress | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Return name and reason of every broken image, and the names of those of one colour, in the order of the set."""
    broken, one_colour = [], []
    results = ordered_map(lambda index: _judge(images, index), len(images), workers, images.name, batch=_BATCH)
    with closing(results):
        for index, (reason, is_plain) in enumerate(results):
            if reason is not None:
                broken.append((images.name(index), reason))
            elif is_plain:
                one_colour.append(images.name(index))
            if progress:
                progress(index + 1, len(images))
    return broken, one_colour


def _judge(images: Records, index: int) -> tuple[str | None, bool]:
    """Return why an image is broken, or None if it isn't, and whether it has one colour."""
    try:
        return None, is_one_colour(images.decode(index))
    except ImageError as error:
        return str(error).removeprefix(f"{images.name(index)}: "), False
