"""Files → a short text that changes when one of them does, from their sizes and dates, without reading any."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt


def stamp_files(files: Iterable[Path]) -> str:
    """Return the stamp of files in this order. Raises OSError when one of them is gone."""
    status = [file.stat() for file in files]
    return stamp(np.array([one.st_size for one in status]), np.array([one.st_mtime_ns for one in status]))


def stamp(file_bytes: npt.NDArray[np.int64], modified_ns: npt.NDArray[np.int64]) -> str:
    """Return the stamp of files of which sizes in bytes and modification times in nanoseconds are known, both (n,)."""
    return hashlib.sha256(np.stack([file_bytes, modified_ns]).astype("<i8").tobytes()).hexdigest()
