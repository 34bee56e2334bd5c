"""A set of images → every broken image, and every damaged piece of a `.beton`, with the reason."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from simsiam.pipeline.archive import open_records
from simsiam.pipeline.beton import Beton, RawRecordError
from simsiam.pipeline.decode import ImageError
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.records import Records
from simsiam.pipeline.strict_decode import check_image
from simsiam.pipeline.worker_pool import ordered_map

_BATCH = 16
"""Images for one message between processes."""


@dataclass(frozen=True)
class Verification:
    """What a look at every image has found."""

    path: Path
    images: int
    """Images decoded, or tried to."""
    broken: list[tuple[str, str]]
    """Name and reason of every broken image, and of every other thing that is wrong."""
    checksums: bool
    """Whether there was a manifest whose checksums every byte of the file was compared with."""
    seconds: float
    """Wall time."""


def verify(
    path: str | Path,
    *,
    devkit: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Decode every image of a folder, a `.beton` or an archive, and compare a `.beton` with its manifest.

    Broken is what the reference decoder can't decode, what it decodes although the JPEG's data makes no sense at some
    place, and a record of a `.beton` of another size than promised. A `.beton` that can't be opened at all is one
    broken thing. `workers` processes do the work, by default one a CPU this process may use.

    Raises UsageError when there is nothing at `path`; RunError naming the image in hand when a process dies.
    """
    started = time.perf_counter()
    path = Path(path).expanduser()
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise UsageError(f"Verifying needs at least one worker process, not {workers}.")
    try:
        images = open_records(path, devkit=devkit, progress=progress)
    except UsageError as error:
        if not path.is_file():
            raise
        return Verification(path, 0, [(str(path), str(error))], False, time.perf_counter() - started)
    broken = list(images.broken)
    results = ordered_map(lambda index: _reason(images, index), len(images), workers, images.name, batch=_BATCH)
    with closing(results):
        for index, reason in enumerate(results):
            if reason is not None:
                broken.append((images.name(index), reason))
            if progress:
                progress(index + 1, len(images))
    checksums = isinstance(images, Beton) and images.manifest is not None
    if isinstance(images, Beton) and checksums:
        broken += [(str(path), damage.removeprefix(f"{images.path}: ")) for damage in images.damaged_pages()]
    return Verification(path, len(images), broken, checksums, time.perf_counter() - started)


def _reason(images: Records, index: int) -> str | None:
    """Return why an image is broken, None when it isn't."""
    name = images.name(index)
    try:
        size = check_image(images.read(index), name)
        if isinstance(images, Beton) and size != tuple(images.sizes[index].tolist()):
            promised = "×".join(str(side) for side in images.sizes[index].tolist())
            return f"{size[0]}×{size[1]} pixels where the file promises {promised}"
    except RawRecordError:
        return None  # pixels are what they are; the checksums tell whether they changed
    except ImageError as error:
        return str(error).removeprefix(f"{name}: ")
    return None
