"""Scan of a folder: height and width of each file, or why it can't be read; opens only files that aren't cached."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.decode import decode_image, header_suffices
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.image_formats import open_image
from simsiam.pipeline.paths import printable_path
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.sources.folder_walk import FolderListing
from simsiam.pipeline.sources.scan_cache import load_sizes, save_sizes
from simsiam.pipeline.worker_count import available_cores
from simsiam.pipeline.worker_pool import ordered_map

_CHUNK = 64
"""Files per message between processes."""
_WORTH_A_WORKER = 500
"""Files that make another process worth its cost: about 0.05 s of work."""
_MAX_WORKERS = 16
"""Most processes by default; each opens thousands of files per second, so more would wait for the disk."""

# Last bytes of a complete file, if the format has such: end-of-image marker, IEND chunk with checksum, trailer.
_END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82", "GIF": b";"}


def scan(
    root: Path, listing: FolderListing, workers: int | None, cache: bool, progress: Progress | None
) -> tuple[npt.NDArray[np.int32], dict[int, str]]:
    """Return height and width in pixels as stored, int32 (n, 2), and for each broken file, of size 0, the reason.

    The price of reading headers alone is that damage in the middle of a file isn't seen: a loader or `verify` finds it.
    But whatever the header and the end of a file leave in doubt is decoded by the decoder that training uses, which
    alone calls a file broken: a missing end marker, a format without one, samples of more than 8 bits. `workers`
    processes do it, by default one for each core up to 16; a few files are scanned in this process. With `cache`, sizes
    are kept from one scan to the next, also if a scan is interrupted. Broken files are opened again in every scan,
    since the fault need not have been the file's (a permission, a limit). `progress` is called with (done, total)
    files.
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
    """Yield the size of each of the files `unknown`, or why it is broken, chunk by chunk."""

    def chunk_paths(chunk: int) -> list[bytes]:
        return [listing.paths[int(index)] for index in unknown[chunk * _CHUNK : (chunk + 1) * _CHUNK]]

    def inspect_chunk(chunk: int) -> list[tuple[int, int] | str]:
        return [_size_or_reason(root / os.fsdecode(path)) for path in chunk_paths(chunk)]

    def name(chunk: int) -> str:
        paths = chunk_paths(chunk)
        return f"{printable_path(paths[0])} … {printable_path(paths[-1])}"

    chunks = -(-len(unknown) // _CHUNK)
    if workers is None:
        workers = min(available_cores(), _MAX_WORKERS)
    workers = min(workers, len(unknown) // _WORTH_A_WORKER)
    if workers > 1:
        yield from ordered_map(inspect_chunk, chunks, workers, name)
    else:
        yield from map(inspect_chunk, range(chunks))


def _size_or_reason(path: Path) -> tuple[int, int] | str:
    try:
        with path.open("rb") as file:
            return _size_by_header(file) or decode_image(file.read(), "").shape[:2]
    except OSError as error:
        return error.strerror or str(error)
    except ImageError as error:
        return str(error).removeprefix(": ")


def _size_by_header(file: BinaryIO) -> tuple[int, int] | None:
    """Return the size of a file that looks whole; otherwise None, with the file at its start."""
    try:
        with open_image(file, ("JPEG", "PNG", "GIF")) as image:  # the others have no end marker
            width, height = image.size
            end = _END.get(image.format or "")
            if end is not None and width > 0 < height and header_suffices(image):
                file.seek(-len(end), os.SEEK_END)
                if file.read() == end:
                    return height, width
    # Pillow's plugins raise nearly anything on damaged input, and on good pixels with odd metadata.
    except Exception:
        pass
    file.seek(0)
    return None
