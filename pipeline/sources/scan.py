"""The files of a folder → height and width of each, or why it can't be read; opens only what a cache doesn't know."""

import contextlib
import os
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from simsiam.pipeline.decode import rgb_pixels
from simsiam.pipeline.paths import printable_path
from simsiam.pipeline.sources.folder_walk import FolderListing
from simsiam.pipeline.sources.scan_cache import load_sizes, save_sizes
from simsiam.pipeline.worker_pool import ordered_map

Progress = Callable[[int, int], None]
"""Called with the number of files done and the number of all files."""

_CHUNK = 64
"""Files that a worker looks at for one message."""
_WORTH_A_WORKER = 500
"""Files below which another process costs more than it saves: about 0.05 s of work."""
_MAX_WORKERS = 16
"""Processes at most where no number is asked for; each opens thousands of files per second, so a disk has enough."""

# The last bytes of a complete file, where the format has such: end-of-image marker, IEND chunk with checksum, trailer.
_END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82", "GIF": b";"}


def scan(
    root: Path, listing: FolderListing, workers: int | None, cache: bool, progress: Progress | None
) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
    """Return height and width in pixels as stored, int32 (n, 2), and for each broken file, of size 0, the reason.

    Reads headers only, save for files whose end looks cut off or whose format has no end marker: those are decoded.
    `workers` processes do it, None: as many as there are cores; a few files are looked at in this process.
    With `cache`, sizes are kept from one scan to the next, what was done before an interruption included. Broken
    files are looked at in every scan, since what was wrong need not have been the file (a permission, a limit).
    """
    paths = listing.paths
    sizes = load_sizes(root, listing) if cache else np.zeros((len(paths), 2), np.int32)
    reasons: dict[int, str] = {}
    unknown = np.flatnonzero(sizes[:, 0] == 0)
    done = len(paths) - len(unknown)
    try:
        with contextlib.closing(_inspect(root, listing, unknown, workers)) as results:
            for start, found in enumerate(results):
                for index, size in zip(unknown[start * _CHUNK :], found, strict=False):
                    if isinstance(size, str):
                        reasons[int(index)] = size
                    else:
                        sizes[index] = size
                done += len(found)
                if progress is not None:
                    progress(done, len(paths))
    finally:
        if cache and len(reasons) < len(unknown):
            save_sizes(root, listing, sizes)
    if progress is not None and not len(unknown):
        progress(done, len(paths))
    return sizes, reasons


def _inspect(
    root: Path, listing: FolderListing, unknown: npt.NDArray[np.intp], workers: int | None
) -> Generator[list[tuple[int, int] | str], None, None]:
    """Yield size or reason of the files `unknown`, chunk by chunk."""

    def chunk_paths(chunk: int) -> list[bytes]:
        return [listing.paths[int(index)] for index in unknown[chunk * _CHUNK : (chunk + 1) * _CHUNK]]

    def inspect_chunk(chunk: int) -> list[tuple[int, int] | str]:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of half the bomb limit; we ask only whether the image can be read.
            warnings.simplefilter("ignore")
            return [_size_or_reason(root / os.fsdecode(path)) for path in chunk_paths(chunk)]

    def name(chunk: int) -> str:
        paths = chunk_paths(chunk)
        return f"{printable_path(paths[0])} … {printable_path(paths[-1])}"

    chunks = -(-len(unknown) // _CHUNK)
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
    workers = min(workers, len(unknown) // _WORTH_A_WORKER)
    if workers > 1:
        yield from ordered_map(inspect_chunk, chunks, workers, name)
    else:
        yield from map(inspect_chunk, range(chunks))


def _size_or_reason(path: Path) -> tuple[int, int] | str:
    try:
        with path.open("rb") as file:
            return _checked_size(file)
    except Image.UnidentifiedImageError:
        return "not an image in any format Pillow reads"
    # Pillow's format plugins raise nearly anything on damaged input: OSError, SyntaxError, struct.error, …
    except Exception as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _checked_size(file: BinaryIO) -> tuple[int, int] | str:
    length = os.fstat(file.fileno()).st_size
    if length == 0:
        return "the file is empty"
    with Image.open(file) as image:
        width, height = image.size
        end = _END.get(image.format or "")
        if width < 1 or height < 1:
            return f"the image is {width} × {height} pixels"
        if end is not None:
            file.seek(-min(len(end), length), os.SEEK_END)
            if file.read() == end:
                return height, width
    file.seek(0)
    with Image.open(file) as image:
        return rgb_pixels(image).shape[:2]
