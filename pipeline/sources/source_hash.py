"""Hashes of a source: of its files, from their sizes and dates, and of its images, from sizes, labels and names."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.source import Source

_NAMES = 1000  # evenly spread: hashing each of a million names would take seconds


def hash_files(files: Iterable[Path]) -> str:
    """Return the hash of the sizes and dates of files, in this order. Raises OSError when one doesn't exist."""
    status = [file.stat() for file in files]
    return hash_file_stats(np.array([one.st_size for one in status]), np.array([one.st_mtime_ns for one in status]))


def hash_file_stats(file_bytes: npt.NDArray[np.int64], modified_ns: npt.NDArray[np.int64]) -> str:
    """Return the hash of files with these sizes in bytes and modification times in nanoseconds, both (n,)."""
    return hashlib.sha256(np.stack([file_bytes, modified_ns]).astype("<i8").tobytes()).hexdigest()


def hash_images(source: Source) -> str:
    """Return a hash of the images' sizes, labels and classes, and of the file names of up to 1,000 of them.

    Their folder doesn't matter, so the images may be moved. A change of pixels alone isn't noticed; the hash takes
    20 ms for a million images.
    """
    count = len(source)
    some = np.unique(np.linspace(0, count - 1, min(count, _NAMES)).astype(np.int64)).tolist()
    names = [source.name(index).rpartition("/")[2] for index in some]
    digest = hashlib.sha256()
    for part in (
        np.ascontiguousarray(source.sizes, dtype="<i4").tobytes(),
        np.ascontiguousarray(source.labels, dtype="<i8").tobytes(),
        "\0".join([*source.classes, "", *names]).encode(errors="surrogateescape"),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
